"""What the tests of the packet path share: packets, SSTP data packets, and a path with a socketpair for a TUN."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Final

import pytest

from sstpfarm.dataplane._fast import FastPath
from sstpfarm.dataplane.interface import CELLS, Cell, Gate, PacketPath
from sstpfarm.dataplane.pure import PurePath

Make = Callable[[memoryview, memoryview], PacketPath]
BOTH: Final = [pytest.param(PurePath, id="pure"), pytest.param(FastPath, id="fast")]  # one set of rules for both
CLIENT4 = IPv4Address("10.20.0.7")
CLIENT6 = IPv6Address("fe80::7")


def ipv4(size: int = 28, *, source: IPv4Address = CLIENT4, total: int | None = None, first: int = 0x45) -> bytes:
    """An IPv4 packet of `size` bytes; `total` and `first` lie about it."""
    total = size if total is None else total
    header = struct.pack("!BBHHHBBH", first, 0, total, 0, 0, 64, 17, 0) + source.packed + bytes([10, 20, 0, 1])
    return (header + bytes(max(size - 20, 0)))[:size]


def ipv6(size: int = 48, *, source: IPv6Address = CLIENT6, payload: int | None = None, first: int = 0x60) -> bytes:
    """An IPv6 packet of `size` bytes; `payload` and `first` lie about it."""
    payload = max(size - 40, 0) if payload is None else payload
    header = struct.pack("!BBHHBB", first, 0, 0, payload, 59, 64) + source.packed + IPv6Address("fe80::1").packed
    return (header + bytes(max(size - 40, 0)))[:size]


def data_packet(ppp: bytes) -> bytes:
    """An SSTP data packet (MS-SSTP 2.2.3)."""
    return struct.pack("!BBH", 0x10, 0, 4 + len(ppp)) + ppp


def feed_all(path: PacketPath, data: bytes) -> list[bytes]:
    """Feed all of `data`; returns the control frames."""
    controls: list[bytes] = []
    view = memoryview(data)
    while True:
        consumed, control = path.feed(view)
        view = view[consumed:]
        if control is None:
            assert not view
            return controls
        controls.append(control)


class Bench:
    """A path, its counters, and a socketpair in the place of the TUN."""

    def __init__(self, make: Make = PurePath) -> None:
        self.make = make
        self.totals = memoryview(bytearray(8 * CELLS)).cast("Q")
        self.slot = memoryview(bytearray(8 * CELLS)).cast("Q")
        self.kernel, self.tun = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.kernel.setblocking(False)
        self.tun.setblocking(False)
        self.path = make(self.totals, self.slot)
        self.path.attach(self.tun.fileno())
        self.path.set_gates(Gate.IPV4 | Gate.IPV6)
        self.path.set_limits(receive=1500, send=1500)
        self.path.set_sources(((int(CLIENT4), 0xFFFF_FFFF),), ((int(CLIENT6), (1 << 128) - 1),))

    def packets(self) -> list[bytes]:
        """What arrived at the kernel's side since the last call."""
        found: list[bytes] = []
        while True:
            try:
                packet = self.kernel.recv(65536)
            except BlockingIOError:
                return found
            if not packet:
                return found
            found.append(packet)

    def counted(self) -> dict[Cell, int]:
        """The cells that are not zero; slot and totals must agree."""
        assert list(self.slot)[: Cell.ACTIVE] == list(self.totals)[: Cell.ACTIVE]
        assert not self.totals[Cell.ACTIVE]
        return {cell: self.slot[cell] for cell in Cell if self.slot[cell] and cell is not Cell.ACTIVE}

    def feed(self, data: bytes) -> list[bytes]:
        """Feed all of `data`; returns the control frames."""
        return feed_all(self.path, data)

    def drain(self, size: int = 65536) -> tuple[bytes, bool]:
        """One drain() into a buffer of that size that holds rubbish."""
        buffer = bytearray(b"\xaa" * size)
        filled, more = self.path.drain(memoryview(buffer))
        return bytes(buffer[:filled]), more

    def close(self) -> None:
        self.kernel.close()
        self.tun.close()
