"""The way of packets from a TUN descriptor to the peer: who drives, and how much passes for one event."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Final

from sstpfarm.dataplane.bucket import Bucket
from sstpfarm.dataplane.interface import MAX_FRAME
from sstpfarm.transport.outlet import Outlet
from sstpfarm.transport.shaper import Shaper
from sstpfarm.transport.surroundings import Surroundings
from sstpfarm.transport.tls import OUTBOUND
from sstpfarm.transport.tun_source import TunSource

DRAINS: Final = 2  # batches read from the TUN for one event, so that no session waits long for another's transfer
BATCHES: Final = 8  # the same for a limited session; each is a packet, or what passes in a tick
# While the socket is the bottleneck a batch is what it takes in about that time, for whatever is sent behind it waits.
WHILE: Final = 0.02  # seconds
LEAST: Final = MAX_FRAME  # bytes: `PacketPath.drain` takes no less
LOOK: Final = 0.1  # seconds, at least, over which the way's rate is measured: it may open in bursts
CALM: Final = 1.0  # seconds in which the socket took everything: it is no bottleneck any more
SMALL: Final = 16 * 1024  # bytes of a batch that is sent when the other sessions of the turn have read theirs
LARGE_PACKETS: Final = 32  # that one batch may hold: each is written by itself


class Downlink:
    """Carries packets from a TUN descriptor to one connection.

    Args:
        source: of the packets.
        outlet: watches the descriptor, and the socket; `pending` there stops us.
        encrypt: takes SSTP data packets.
        flush: sends what was encrypted; False when nothing more is to be sent now. It may be called when the connection
            is not open any more.
        gone: called when the device is gone and the descriptor is closed.
        again: called when it is time to call `drain` again, although no descriptor is ready.
    """

    __slots__ = (
        "_again",
        "_around",
        "_carried",
        "_encrypt",
        "_flush",
        "_gone",
        "_outlet",
        "_shaper",
        "_since",
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
        self._stopped = -inf  # when the socket did not take all of a batch, last
        self._since = inf  # when the measurement of the way's rate began; inf: there is none
        self._carried = 0  # bytes since then

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
        now = monotonic()
        if now - self._since >= LOOK:
            self._measure(now)
        for _ in range(DRAINS):
            sent, more = self._carry_batch(out if self._size == OUTBOUND else out[: self._size], now)
            self._carried += sent
            if 0 < sent <= SMALL and not more:
                self._outlet.drive_by_socket(False)
                self._around.poller.later(self._depart)
                return
            if sent and not self._flush():
                self._stop()
                return
            if not more:
                self._since = inf
                self._outlet.drive_by_socket(False)
                return
            if self._size < OUTBOUND and monotonic() - self._stopped > CALM:
                self._fit(2 * self._size)
        self._outlet.drive_by_socket(True)  # it goes on when the other sessions have had their turn

    def _depart(self) -> None:
        if self._flush():
            self._since = inf
        else:
            self._stop()

    def _stop(self) -> None:
        """The socket did not take all: it is the bottleneck."""
        self._stopped = monotonic()
        if self._since == inf:
            self._since, self._carried = self._stopped, len(self._outlet.pending)

    def _measure(self, now: float) -> None:
        """While the socket is the bottleneck, make a batch what it takes in a while."""
        self._fit(int(self._carried / (now - self._since) * WHILE))
        self._since, self._carried = now, 0

    def _fit(self, size: int) -> None:
        self._size = max(LEAST, min(size, OUTBOUND))
        self._outlet.hold(self._size)

    def _carry_batch(self, out: memoryview, now: float) -> tuple[int, bool]:
        """Encrypt a batch; returns how many bytes there were, and whether the TUN was not read to its end."""
        sent = 0
        for _ in range(LARGE_PACKETS):
            filled, more = self.source.read(out, now)
            if filled:
                self._encrypt(out[:filled])
                sent += filled
            large = self.source.large() if more else ()
            if not large:
                return sent, more
            for fragment in large:  # in a TLS record each: sstpc 1.0.18 lets the rest of a record lie until more comes
                self._encrypt(fragment)
                sent += len(fragment)
        return sent, True

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
