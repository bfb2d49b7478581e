"""The TUN descriptor of one connection, and what is read from it: SSTP data packets, in order; and what is shed."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf

from sstpfarm.dataplane.interface import PacketPath
from sstpfarm.transport.outlet import Outlet
from sstpfarm.transport.standing import StandingQueue


class TunSource:
    """Owns the descriptor.

    Args:
        path: makes SSTP data packets of what is read.
        outlet: watches the descriptor.
        fragment: makes SSTP data packets of a packet that only fits in fragments.
    """

    __slots__ = ("_behind", "_bridged", "_fragment", "_outlet", "_path", "_queue", "_tun")

    def __init__(self, path: PacketPath, outlet: Outlet, fragment: Callable[[bytes], list[bytes]]) -> None:
        self._fragment = fragment
        self._path = path
        self._outlet = outlet
        self._queue = StandingQueue()
        self._tun = -1
        self._bridged = False
        self._behind = -1  # the TUN, as long as a socket in its place holds what is sent before

    @property
    def attached(self) -> bool:
        """Whether there is a TUN."""
        return self._tun >= 0

    def attach(self, tun: int, queued: Sequence[bytes] = (), *, bridged: bool = False) -> None:
        """Take that TUN descriptor and watch it; it is closed by `close`.

        Args:
            queued: packets as they were read from it, which go first: the path reads them from a socket.
            bridged: it is that of a TAP device.

        Raises:
            OSError: no descriptor or no watch is left; it is still closed by `close`.
        """
        self._bridged = bridged
        if queued:
            self._behind = tun
            before, feeder = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            before.setblocking(False)
            feeder.setblocking(False)
            with feeder, suppress(BlockingIOError):  # the buffer is full: as in a TUN's ring, the last ones are lost
                for packet in queued:
                    feeder.send(packet)
            tun = before.detach()
        self._watch(tun)

    def _watch(self, tun: int) -> None:
        self._tun = tun
        self._path.attach(tun, bridged=self._bridged)
        self._outlet.set_tun(tun)

    def _turn_to_tun(self) -> None:
        """What was queued is sent: from now on the TUN is read."""
        self._outlet.set_tun(-1)
        os.close(self._tun)
        tun, self._behind = self._behind, -1
        self._watch(tun)

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        if self._tun >= 0:
            self._outlet.set_tun(-1)
            self._path.detach()
            os.close(self._tun)
            self._tun = -1
        if self._behind >= 0:
            os.close(self._behind)
            self._behind = -1

    def read(self, out: memoryview, now: float, *, waiting: bool = False) -> tuple[int, bool]:
        """Put a batch of packets into `out`, as `PacketPath.drain` does; a queue that only adds delay loses one.

        Args:
            waiting: packets that were read before wait still: the queue is not empty.

        Returns:
            (filled, more): more is True when the TUN was not read to its end; `large` is to be called before that.

        Raises:
            OSError: the device is gone.
        """
        queue = self._queue
        filled, more = self._path.drain(out, queue.due <= now)
        stands = more or waiting
        if stands or queue.due < inf:
            queue.seen(now, empty=not stands)
        if not more and self._behind >= 0:
            self._turn_to_tun()
        return filled, more

    def large(self) -> list[bytes]:
        """Return what belongs behind the batch that was read: a packet in fragments, or nothing."""
        large = self._path.large()
        return self._fragment(large) if large is not None else []

    def discard(self) -> bool:
        """Drop packets, as `PacketPath.discard` does."""
        return self._path.discard()
