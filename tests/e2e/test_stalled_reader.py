"""Sessions stop to read while the net behind floods them: each costs little, and the others notice nothing.

+-- client -----------------------+            +-- server -------------------------------+
| some sessions stop to read      |<==tunnels==| 10.20.0.1 <- UDP flood to those         |
| the others send echo requests   |==tunnels==>| 10.20.0.1   answers echo requests       |
| uplink                          |----veth----| downlink    one worker serves them all  |
+---------------------------------+            +-----------------------------------------+
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from socket import SOCK_DGRAM
from typing import Any, Final

import pytest

from .farm import PASSWORD, PORT, ROOT, environment, running, users
from .netns import Namespace, Wire, until

pytestmark = pytest.mark.alone

COUNT: Final = 200
ROUNDS: Final = 3
LATEST: Final = 400.0  # milliseconds until every echo request is answered
BURST: Final = 30  # datagrams of the flood
PAUSE: Final = (
    0.01  # seconds after each burst: 31 Mbit/s, thrice what the server's buffers for one session hold a second
)
STALLED: Final = 24  # at once, for what they cost together
MAY_WAIT: Final = 256  # KiB for each of them, ARCHITECTURE 5
# KiB that the worker needs once, however many stall (seen: 200 to 500): while answers join those that wait, these are
# there twice
ONCE: Final = 1024
# LCP echoes of 1,408 bytes, whose answers wait; a session may ask for 500 before they count as a flood
STEP: Final = 16
STEPS: Final = 500 // STEP
TOO_MANY: Final = 320


@contextmanager
def crowd(place: Namespace, host: str, count: int, stalling: int) -> Iterator[subprocess.Popen[bytes]]:
    """The process with all clients; the first of them will stall."""
    numbers = (str(PORT), str(count), str(stalling))
    command = [sys.executable, "-m", "tests.e2e.stalling_crowd", host, *numbers, PASSWORD]
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
def flood(place: Namespace, addresses: Sequence[str]) -> Iterator[None]:
    """Send datagrams to those addresses in turn for as long as the block runs."""
    targets = cycle(addresses)
    over = threading.Event()

    def run() -> None:
        with place.open_socket(kind=SOCK_DGRAM) as sock:
            while not over.wait(PAUSE):
                for _ in range(BURST):
                    sock.sendto(bytes(1300), (next(targets), 9))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def memory(pid: int, field: str) -> int:
    """KiB that a process holds now (VmRSS), or held at most (VmHWM)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def forget_peak(pid: int) -> None:
    """Let VmHWM begin at what the process holds now (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def processor_time(pid: int) -> float:
    """Milliseconds that a process has run."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e6


def queued(place: Namespace, whose: str, column: int) -> int:
    """How many of these sockets have bytes in that queue: 1 to be read, 2 to be taken by the peer (ss(8))."""
    lines = place.run("ss", "-Htn", whose, f"= :{PORT}").stdout.splitlines()
    return sum(int(line.split()[column]) > 0 for line in lines)


def stuck(place: Namespace) -> int:
    """How many of the server's sockets have bytes that their peers do not take."""
    return queued(place, "sport", 2)


def test_nobody_notices_one_stalled_reader_among_200_sessions(wire: Wire) -> None:
    server = {"workers": 1, "max-starting": 200}
    with (
        running(wire.server, server=server, secrets=users(COUNT)) as farm,
        crowd(wire.client, wire.SERVER4, COUNT, 1) as clients,
    ):
        addresses = say(clients, "go")
        worker = farm.worker_pids()[0]
        windows: dict[str, list[dict[str, float]]] = {"read": [], "stall": []}
        with flood(wire.server, addresses):
            say(clients, "read")  # all buffers reach their size
            for word in ("read", "stall") * ROUNDS:
                began = processor_time(worker)
                windows[word].append(say(clients, word))
                windows[word][-1]["cpu"] = processor_time(worker) - began
            assert farm.metric("sstpfarm_sessions") == COUNT
            assert stuck(wire.server) > 0, "the flood does not fill the way to the stalled session"
        enough = 0.8 * max(window["sent"] for window in windows["read"])
        for window in (*windows["read"], *windows["stall"]):
            assert window["received"] == window["sent"] > enough, windows

        def best(figure: str) -> list[float]:
            """Of several: what other programs do at the time makes windows worse, a fault makes all of them so."""
            return [min(window[figure] for window in windows[word]) for word in windows]

        assert max(best("worst")) < LATEST, windows
        for figure, slack in (("p50", 3.0), ("p95", 15.0), ("cpu", 50.0)):
            before, after = best(figure)
            assert after <= 1.25 * before + slack, f"{figure}: {before} ms became {after} ms"


def test_what_waits_for_stalled_readers_has_a_bound(wire: Wire) -> None:
    """The first to stall shows what the worker needs once: buffers, and code that it has not run before."""
    count = 1 + STALLED + 2
    with (
        running(wire.server, server={"workers": 1}, secrets=users(count)) as farm,
        crowd(wire.client, wire.SERVER4, count, 1 + STALLED) as clients,
    ):
        addresses = say(clients, "go")
        worker = farm.worker_pids()[0]
        with flood(wire.server, addresses):
            say(clients, "read")
            say(clients, "stall")
            until(lambda: stuck(wire.server) == 1 + STALLED, "the way to each of them is full")
        say(clients, f"ask 1 1 {TOO_MANY}")
        farm.wait_event("session.closed", user="user1", reason="peer-dead")
        before = memory(worker, "VmRSS")
        forget_peak(worker)
        for _ in range(STEPS):  # all of them come near to the bound before the first one passes it
            say(clients, f"ask 2 {1 + STALLED} {STEP}")
            until(lambda: not queued(wire.client, "dport", 2), "the requests have arrived")
            until(lambda: not queued(wire.server, "sport", 1), "the worker has read them")
            if len(farm.log.find("session.closed", reason="peer-dead")) > 1:
                break
        else:
            raise AssertionError("what waits has no bound")
        cost = memory(worker, "VmHWM") - before
        assert STALLED * MAY_WAIT / 2 <= cost <= STALLED * MAY_WAIT + ONCE  # less would mean that it measures no queues
