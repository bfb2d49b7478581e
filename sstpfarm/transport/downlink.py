"""The way of packets from a TUN descriptor to the peer: who drives, and how much passes for one event."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Final

from sstpfarm.dataplane.bucket import Bucket
from sstpfarm.transport.outlet import Outlet
from sstpfarm.transport.shaper import Shaper
from sstpfarm.transport.surroundings import Surroundings
from sstpfarm.transport.tls import OUTBOUND
from sstpfarm.transport.tun_source import TunSource

DRAINS: Final = 2  # batches read from the TUN for one event, so that no session waits long for another's transfer
BATCHES: Final = 8  # the same for a limited session; each is a packet, or what passes in a tick
# While the socket is the bottleneck a batch is what it takes in about that time, for whatever is sent behind it waits.
WHILE: Final = 0.02  # seconds
LEAST: Final = 8 * 1024  # bytes
LARGE_PACKETS: Final = 32  # that one batch may hold: each is written by itself


class Downlink:
    """Carries packets from a TUN descriptor to one connection.

    Args:
        source: of the packets.
        outlet: watches the descriptor, and the socket; `pending` there stops us.
        encrypt: takes SSTP data packets.
        flush: sends what was encrypted; False when nothing more is to be sent now.
        gone: called when the device is gone and the descriptor is closed.
        again: called when it is time to call `drain` again, although no descriptor is ready.
    """

    __slots__ = (
        "_again",
        "_around",
        "_encrypt",
        "_flush",
        "_gone",
        "_outlet",
        "_shaper",
        "_size",
        "_stopped",
        "source",
    )

    def __init__(
        self,
        around: Surroundings,
        source: TunSource,
        outlet: Outlet,
        encrypt: Callable[[memoryview | bytes], None],
        flush: Callable[[], bool],
        gone: Callable[[str], None],
        again: Callable[[], None],
    ) -> None:
        self._around = around
        self.source = source
        self._outlet = outlet
        self._encrypt = encrypt
        self._flush = flush
        self._gone = gone
        self._again = again
        self._shaper: Shaper | None = None
        self._size = OUTBOUND
        self._stopped = inf  # when the socket did not take all of a batch

    def limit(self, bucket: Bucket | None) -> None:
        """Let that bucket decide how fast it goes, None for as fast as the socket takes it."""
        if self._shaper is None and bucket is not None:
            self._shaper = Shaper(self.source)
        if self._shaper is not None:
            self._shaper.limit(bucket)
            if not self._outlet.pending:  # else the socket drives
                self._again()

    def drain(self) -> None:
        """Carry packets, while the socket takes them and the bound of one event is not met."""
        if not self.source.attached:
            self._outlet.drive_by_socket(False)
            return
        try:
            if self._shaper is None:
                self._carry(self._around.buffers.outbound)
            else:
                self._carry_shaped(self._shaper, self._around.buffers.outbound)
        except OSError as error:
            self.source.close()
            self._gone(error.strerror or "read failed")

    def _carry(self, out: memoryview) -> None:
        if self._stopped < inf:
            took = monotonic() - self._stopped
            self._stopped = inf
            if took > WHILE:
                self._size = max(LEAST, self._size // 2)
            elif took < WHILE / 4:
                self._size = min(2 * self._size, OUTBOUND)
        for _ in range(DRAINS):
            sent, more = self._carry_batch(out[: self._size])
            if sent and not self._flush():
                self._stopped = monotonic()
                return
            if not more:
                self._outlet.drive_by_socket(False)
                return
            if self._size < OUTBOUND:
                self._size = min(2 * self._size, OUTBOUND)
        self._outlet.drive_by_socket(True)  # it goes on when the other sessions have had their turn

    def _carry_batch(self, out: memoryview) -> tuple[bool, bool]:
        """Encrypt a batch; returns whether there was any, and whether the TUN was not read to its end."""
        sent, now = False, monotonic()
        for _ in range(LARGE_PACKETS):
            filled, more = self.source.read(out, now)
            if filled:
                self._encrypt(out[:filled])
            large = self.source.large()
            if not large:
                return sent or filled > 0, more
            for fragment in large:  # in a TLS record each: sstpc 1.0.18 lets the rest of a record lie until more comes
                self._encrypt(fragment)
            sent = True
        return True, True

    def _carry_shaped(self, shaper: Shaper, out: memoryview) -> None:
        now = monotonic()
        for _ in range(BATCHES):
            batch = shaper.next(out, now)
            if not batch:
                break
            self._encrypt(batch)
            if not self._flush():
                return
        else:
            self._outlet.drive_by_socket(True)
            return
        if not shaper.may_pass(now):
            shaper.fill(out, now)
            self._outlet.rest()
            if not shaper.waits:
                shaper.waits = True
                self._around.pacer.wait(self._go_on)
            return
        if shaper.idle:
            self._shaper = None
        self._outlet.drive_by_socket(False)

    def _go_on(self) -> None:
        """There may be tokens again."""
        if self._shaper is not None:
            self._shaper.waits = False
            if self.source.attached and not self._outlet.pending:
                self._again()
