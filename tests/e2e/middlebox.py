"""A middle box in user space: a router with bad manners between two namespaces, and an independent judge of checksums.

    +-- left ------------+        +-- this process --------+        +-- right -----------+
    | mid0  left/24      |--TUN-->| loses, delays, damages |--TUN-->| mid1  right/24     |
    +--------------------+        +------------------------+        +--------------------+

Its TUN devices take no super-packets and no unfinished checksums: what it reads from one is what a wire would carry.
"""

from __future__ import annotations

import os
import random
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from sstpfarm.net.tun import make_tun
from tests.unit.inside import inside

from .netns import Namespace
from .packets import TCP, parse

MTU: Final = 9000
LEFT4, RIGHT4 = "172.31.9.1", "172.31.9.2"
DELAYED: Final = 4  # packets that overtake one that is held back
PATIENCE_MS: Final = 5  # a packet that nothing overtakes goes on after that time


@dataclass
class Manners:
    """What happens to packets, as shares of one."""

    loss: float = 0.0
    reorder: float = 0.0
    damage: float = 0.0


@dataclass
class Way:
    """One direction, and what was seen on it."""

    source: int
    sink: int
    held: list[bytes] = field(default_factory=list)
    overtaken: int = 0
    packets: int = 0
    wrong: list[bytes] = field(default_factory=list)  # came with a wrong checksum
    lost: int = 0
    reordered: int = 0
    damaged_tcp: int = 0


class MiddleBox:
    """Forwards packets both ways until it is closed."""

    def __init__(self, left: int, right: int, manners: Manners, seed: int = 443) -> None:
        self.manners = manners
        self.rightward, self.leftward = Way(left, right), Way(right, left)
        self._random = random.Random(seed)
        self._stop, self._stopped = os.pipe()
        self._thread = threading.Thread(target=self._run, name="middle box")
        self._thread.start()

    def close(self) -> None:
        """End it."""
        os.write(self._stopped, b"x")
        self._thread.join(60)
        assert not self._thread.is_alive()
        for fd in (self._stop, self._stopped, self.rightward.source, self.leftward.source):
            os.close(fd)

    def _run(self) -> None:
        ways = {way.source: way for way in (self.rightward, self.leftward)}
        while True:
            ready, _, _ = select.select([*ways, self._stop], [], [], PATIENCE_MS / 1000)
            if self._stop in ready:
                return
            for way in ways.values():
                if way.source in ready:
                    self._carry(way)
                elif way.held:
                    self._release(way)

    def _carry(self, way: Way) -> None:
        for _ in range(64):
            try:
                packet = os.read(way.source, MTU + 100)
            except BlockingIOError:
                return
            self._pass(way, packet)

    def _pass(self, way: Way, packet: bytes) -> None:
        way.packets += 1
        found = parse(packet)
        if found is not None and not (found.header_ok and found.transport_ok):
            way.wrong.append(packet)
        manners = self.manners
        fate = self._random.random()
        if fate < manners.loss:
            way.lost += 1
            return
        fate -= manners.loss
        if fate < manners.reorder and not way.held:
            way.held.append(packet)
            way.reordered += 1
            return
        if 0 <= fate - manners.reorder < manners.damage and found is not None and found.payload:
            packet = packet[:-1] + bytes([packet[-1] ^ 0x20])
            way.damaged_tcp += found.protocol == TCP
        _write(way.sink, packet)
        if way.held:
            way.overtaken += 1
            if way.overtaken >= DELAYED:
                self._release(way)

    def _release(self, way: Way) -> None:
        _write(way.sink, way.held.pop())
        way.overtaken = 0


def _write(sink: int, packet: bytes) -> None:
    with suppress(BlockingIOError):  # a full queue loses packets, as a wire does
        os.write(sink, packet)


@contextmanager
def middle_box(left: Namespace, right: Namespace, back_to: str, manners: Manners) -> Iterator[MiddleBox]:
    """A middle box between two namespaces; `right` sends to the network `back_to` through it."""
    left_end = inside(left, lambda: make_tun("mid0"))
    right_end = inside(right, lambda: make_tun("mid1"))
    for place, name, address in ((left, "mid0", LEFT4), (right, "mid1", RIGHT4)):
        place.run("ip", "link", "set", name, "mtu", str(MTU), "txqueuelen", "2000", "up")
        place.run("ip", "address", "add", f"{address}/24", "dev", name)
    right.run("ip", "route", "add", back_to, "via", LEFT4)
    box = MiddleBox(left_end, right_end, manners)
    try:
        yield box
    finally:
        box.close()
