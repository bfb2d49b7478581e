"""One session of 200 stops to read while the net behind floods it: it costs little, and the others notice nothing.

+-- client -----------------------+            +-- server -------------------------------+
| user1    reads, or does not     |<==tunnels==| 10.20.0.1 <- UDP flood to user1         |
| user2 ... user200   echo        |==tunnels==>| 10.20.0.1   answers echo requests       |
| uplink                          |----veth----| downlink    one worker serves them all  |
+---------------------------------+            +-----------------------------------------+
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import SOCK_DGRAM
from typing import Any, Final

from .farm import PASSWORD, PORT, ROOT, environment, running, users
from .netns import Namespace, Wire

COUNT: Final = 200
ROUNDS: Final = 3
BURST: Final = 30  # datagrams of the flood
PAUSE: Final = (
    0.01  # seconds after each burst: 31 Mbit/s, thrice what the server's buffers for one session hold a second
)
MAY_WAIT: Final = 256  # KiB, ARCHITECTURE 5
NOISE: Final = 1024 + 256  # KiB by which a worker's memory may change on its own: one arena of CPython, and a little


@contextmanager
def crowd(place: Namespace, host: str) -> Iterator[subprocess.Popen[bytes]]:
    """The process with all clients."""
    command = [sys.executable, "-m", "tests.e2e.stalling_crowd", host, str(PORT), str(COUNT), PASSWORD]
    process = place.popen(*command, stdin=subprocess.PIPE, cwd=ROOT, env=environment(ROOT))
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def say(process: subprocess.Popen[bytes], word: str) -> Any:
    """Give it a word; its answer."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write(f"{word}\n".encode())
    process.stdin.flush()
    line = process.stdout.readline()
    assert line, process.stderr.read().decode()
    return json.loads(line)


@contextmanager
def flood(place: Namespace, address: str) -> Iterator[None]:
    """Send datagrams to that address for as long as the block runs."""
    over = threading.Event()

    def run() -> None:
        with place.open_socket(kind=SOCK_DGRAM) as sock:
            while not over.wait(PAUSE):
                for _ in range(BURST):
                    sock.sendto(bytes(1300), (address, 9))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def resident(pid: int) -> int:
    """KiB of memory that a process holds."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def processor_time(pid: int) -> float:
    """Milliseconds that a process has run."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e6


def waiting(place: Namespace) -> int:
    """Bytes that wait in the server's sockets."""
    lines = place.run("ss", "-Htn", "sport", f"= :{PORT}").stdout.splitlines()
    return sum(int(line.split()[2]) for line in lines)


def test_one_stalled_reader_among_200_sessions(wire: Wire) -> None:
    server = {"workers": 1, "max-starting": 200}
    with running(wire.server, server=server, secrets=users(COUNT)) as farm, crowd(wire.client, wire.SERVER4) as clients:
        address = say(clients, "go")
        worker = farm.worker_pids()[0]
        windows: dict[str, list[dict[str, float]]] = {"read": [], "stall": []}
        memory = []
        with flood(wire.server, address):
            say(clients, "read")  # all buffers reach their size
            for word in ("read", "stall") * ROUNDS:
                began = processor_time(worker)
                windows[word].append(say(clients, word))
                windows[word][-1]["cpu"] = processor_time(worker) - began
                memory.append(resident(worker))
            assert farm.metric("sstpfarm_sessions") == COUNT
            assert waiting(wire.server) > 0, "the flood does not fill the way to the stalled session"
            say(clients, "flood")
            farm.wait_event("session.closed", user="user1", reason="peer-dead")
            memory.append(resident(worker))
        enough = 0.8 * max(window["sent"] for window in windows["read"])
        for window in (*windows["read"], *windows["stall"]):
            assert window["received"] == window["sent"] > enough, windows
        for figure, slack in (("p50", 3.0), ("p95", 15.0), ("cpu", 50.0)):
            # the best of several: what other programs do at the time makes windows worse, a fault makes all of them so
            before, after = (min(window[figure] for window in windows[word]) for word in windows)
            assert after <= 1.25 * before + slack, f"{figure}: {before} ms became {after} ms"
        assert max(memory) - memory[0] <= MAY_WAIT + NOISE, memory
