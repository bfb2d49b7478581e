"""A packet path of either make, with a socket pair in the place of its TUN device."""

from __future__ import annotations

import socket
from array import array
from collections.abc import Callable
from typing import Final

from sstpfarm.dataplane._fast import FastPath
from sstpfarm.dataplane.interface import CELLS, Cell, Gate, Offload, PacketPath
from sstpfarm.dataplane.pure import PurePath
from tests.twin.packets import CLIENT4, CLIENT6
from tests.twin.supers import expand
from tests.unit.pure_bench import feed_all

MESSAGE: Final = 1 << 17
ALL32, ALL128 = (1 << 32) - 1, (1 << 128) - 1
Make = Callable[[memoryview, memoryview], PacketPath]


def native(offload: Offload) -> Make:
    return lambda totals, slot: FastPath(totals, slot, offload)


class Bench:
    """One path, open for both families; `messages` and `send` are the kernel's side."""

    def __init__(self, make: Make = PurePath) -> None:
        self.totals = memoryview(array("Q", bytes(8 * CELLS)))
        self.slot = memoryview(array("Q", bytes(8 * CELLS)))
        self.path = make(self.totals, self.slot)
        self.tun, self.kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self.tun, self.kernel):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.path.attach(self.tun.fileno())
        self.path.set_gates(Gate.IPV4 | Gate.IPV6)
        self.path.set_sources(((int(CLIENT4), ALL32),), ((int(CLIENT6), ALL128),))

    def messages(self) -> list[bytes]:
        """What was written to the TUN."""
        found: list[bytes] = []
        while True:
            try:
                message = self.kernel.recv(MESSAGE)
            except BlockingIOError:
                return found
            if not message:
                return found
            found.append(message)

    def feed(self, data: bytes) -> list[bytes]:
        """Feed all of it; the control frames."""
        return feed_all(self.path, data)

    def drain(self, room: int = 1 << 18, calls: int = 10_000) -> bytes:
        """All that comes out, through a buffer of that size."""
        found = b""
        buffer = bytearray(room)
        for _ in range(calls):
            filled, more = self.path.drain(memoryview(buffer))
            found += buffer[:filled]
            if not more:
                return found
        raise AssertionError("drain() has no end")

    def counted(self) -> dict[Cell, int]:
        """The cells that are not zero; slot and totals agree."""
        assert list(self.slot)[: Cell.ACTIVE] == list(self.totals)[: Cell.ACTIVE]
        assert not self.totals[Cell.ACTIVE]
        return {cell: self.slot[cell] for cell in Cell if self.slot[cell] and cell is not Cell.ACTIVE}

    def close(self) -> None:
        self.path.detach()
        self.kernel.close()
        self.tun.close()


def packets_of(messages: list[bytes], offload: Offload) -> list[bytes]:
    """The packets in the messages of a device of that offload."""
    if offload is Offload.NONE:
        return messages
    return [packet for message in messages for packet in expand(message)]
