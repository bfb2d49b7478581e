"""Instructions that the native packet path takes for each packet, counted by valgrind's callgrind.

Time moves with whoever shares the machine; a count does not. So this shows what a change of the packet path costs, and
how much of the other figures is not its own. Each work is counted twice, with and without its rounds; the difference
belongs to the rounds.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from bench.figure import Figure, Setup
from bench.peers import ROOT
from sstpfarm.cli.stage import StageError
from sstpfarm.dataplane.interface import Offload
from tests.twin.bench import MESSAGE, Bench, native
from tests.twin.packets import TCP, UDP, Flow
from tests.twin.streams import PPP4
from tests.twin.supers import PLAIN, super_packet

ROUNDS: Final = 300
MTU: Final = 1400
SEGMENT: Final = MTU - 40  # bytes of TCP in a packet
RECORD: Final = 16384  # bytes that one TLS record holds
SUPER: Final = 45  # segments of a super-packet: nearly 64 KiB
PATIENCE: Final = 300.0  # seconds; valgrind makes a program some 50 times slower
OURS: Final = "_fast"
COPIES: Final = "libc"


class Work(NamedTuple):
    """What one round does, and how many packets that are."""

    packets: int
    round: Callable[[], None]


def _frames(flow: Flow, size: int) -> tuple[int, bytes]:
    """A record's worth of packets of one flow, in their SSTP frames, and how many they are."""
    count = RECORD // (size + 60)
    packets = [PPP4[0] + flow.next(size) for _ in range(count)]
    return count, b"".join(b"\x10\x00" + (4 + len(one)).to_bytes(2, "big") + one for one in packets)


def _inbound(flow: Flow, size: int) -> Work:
    bench = Bench(native(Offload.USO))
    count, record = _frames(flow, size)
    view, room = memoryview(record), bytearray(MESSAGE)

    def once() -> None:
        bench.path.feed(view)
        with suppress(BlockingIOError):
            while True:
                bench.kernel.recv_into(room)

    return Work(count, once)


def _outbound(messages: list[bytes], packets: int) -> Work:
    bench = Bench(native(Offload.USO))
    bench.path.set_limits(receive=MTU, send=MTU)

    room = memoryview(bytearray(MESSAGE))

    def once() -> None:
        for message in messages:
            bench.kernel.send(message)
        while bench.path.drain(room)[1]:
            pass

    return Work(packets, once)


def _tcp_out() -> Work:
    whole = Flow(protocol=TCP, from_client=False).next(SUPER * SEGMENT)
    return _outbound([super_packet(whole, SEGMENT)], SUPER)


def _udp_out() -> Work:
    flow = Flow(protocol=UDP, from_client=False)
    return _outbound([PLAIN + flow.next(MTU - 28) for _ in range(11)], 11)


WORKS: Final[dict[str, Callable[[], Work]]] = {
    "instructions-tcp-in": lambda: _inbound(Flow(protocol=TCP), SEGMENT),
    "instructions-tcp-out": _tcp_out,
    "instructions-udp-in": lambda: _inbound(Flow(protocol=UDP), 172),
    "instructions-udp-out": _udp_out,
}


def instructions(setup: Setup) -> list[Figure]:
    """Count each work."""
    found = []
    for key, make in WORKS.items():
        rounds = ROUNDS // 10 if setup.quick else ROUNDS
        spent = _count(setup, key, rounds)
        spent.subtract(_count(setup, key, 0))
        packets = make().packets * rounds
        shares = {name: count / packets for name, count in spent.items() if count / packets >= 1}
        note = f"and {shares.get(COPIES, 0):.0f} in libc"
        found.append(setup.single(key, shares[OURS], note=note, instructions=shares))
    return found


def _count(setup: Setup, key: str, rounds: int) -> Counter[str]:
    """Instructions of a process that does that many rounds, by the library that they belong to."""
    output = setup.fresh("callgrind")
    program = (sys.executable, "-m", "bench.instructions", key, str(rounds))
    valgrind = ("valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={output}", *program)
    done = subprocess.run(  # noqa: S603 - our own program
        valgrind, capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT, check=False,
        env={**os.environ, "PYTHONHASHSEED": "0"},  # or the start-up is another one each time
    )  # fmt: skip
    if done.returncode:
        raise StageError(f"valgrind: {done.stderr[-2000:]}")
    return by_library(output.read_text())


def by_library(profile: str) -> Counter[str]:
    """Add up a callgrind profile's own costs (callgrind's format: a call's costs stand on the line behind `calls=`)."""
    names: dict[str, str] = {}
    spent: Counter[str] = Counter()
    library, of_call = "", False
    for line in profile.splitlines():
        if named := re.match(r"c?ob=\((\d+)\)(?: (.+))?", line):
            number, path = named.groups()
            if path:
                names[number] = Path(path).name.split(".")[0]
            if line.startswith("ob="):
                library = names[number]
        elif line.startswith("calls="):
            of_call = True
        elif cost := re.match(r"[+\-*\d]\S* (\d+)$", line):
            if not of_call:
                spent[library] += int(cost[1])
            of_call = False
    return spent


def main() -> None:
    """Do the rounds of one work: the process that is counted."""
    work = WORKS[sys.argv[1]]()
    for _ in range(int(sys.argv[2])):
        work.round()


if __name__ == "__main__":
    main()
