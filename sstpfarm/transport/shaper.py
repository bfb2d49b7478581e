"""The packets of a session with a rate limit, on their way to the peer: a short queue in front of a token bucket.

The TUN's own ring holds hundreds of packets, which at 1 Mbit/s are seconds. So it is emptied each tick into a queue
that is bounded in bytes, hence in time. TCP is told early, by a packet dropped now and then; what does not listen, and
stands in the ring for longer than a burst, is dropped there. Batches are what the packet path makes of some packets:
nothing here is done for each packet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from sstpfarm.dataplane.bucket import Bucket
from sstpfarm.dataplane.interface import HEADROOM, MAX_FRAME
from sstpfarm.transport.pacer import TICK
from sstpfarm.transport.tun_source import TunSource

QUEUE: Final = 0.04  # seconds at the present rate that may wait
MOST_QUEUE: Final = 1 << 20  # bytes: those of 200 Mbit/s; what is faster has the TUN's ring behind it, which is short
LEAST_QUEUE: Final = 4 * (1500 + HEADROOM)  # bytes: four packets of any usual size, however slow
BURST: Final = 0.2  # seconds for which the ring may hold what is beyond: TCP is told after half of that
READS: Final = 16  # calls for one event that fill the queue
DISCARDS: Final = 8  # calls for one event: all that a TUN's ring of 500 packets holds


class Shaper:
    """What waits for one session's tokens.

    Args:
        source: of the packets; it sheds one now and then while packets stand.
    """

    __slots__ = ("_batches", "_bucket", "_bytes", "_fitted", "_source", "waits")

    def __init__(self, source: TunSource) -> None:
        self._source = source
        self._bucket: Bucket | None = None
        self._batches: deque[bytes] = deque()
        self._bytes = 0
        self._fitted = 0.0  # when all that the TUN held fitted into the queue
        self.waits = False  # for a call of the pacer

    def limit(self, bucket: Bucket | None) -> None:
        """Let that bucket decide from now on; without one, what waits may pass."""
        self._bucket = bucket

    @property
    def idle(self) -> bool:
        """Whether it has no more use: nothing waits, and nothing would have to."""
        return self._bucket is None and not self._batches

    def may_pass(self, now: float) -> bool:
        """Whether packets may pass now."""
        return self._bucket is None or self._bucket.available(now) > 0

    def next(self, out: memoryview, now: float) -> bytes | memoryview:
        """Return the batch that is to be sent now, nothing if there is none or it must wait; it may be in `out`.

        Raises:
            OSError: the device is gone.
        """
        bucket = self._bucket
        if bucket is None:
            return self._pop()
        if bucket.available(now) <= 0:
            return b""
        batch: bytes | memoryview = self._pop() if self._batches else self._fresh(out, bucket, now)
        bucket.spend(len(batch))
        return batch

    def fill(self, out: memoryview, now: float) -> None:
        """Take from the TUN what may wait, and drop what has been beyond for too long.

        Raises:
            OSError: the device is gone.
        """
        bucket = self._bucket
        if bucket is None:
            return
        wanted = max(LEAST_QUEUE, int(bucket.rate * QUEUE))
        room = min(wanted, MOST_QUEUE)
        more = True
        for _ in range(READS):
            if not more or self._bytes >= room:
                break
            batches, more = self._read(out, bucket, now)
            self._queue(batches)
        if not more or now - self._fitted > 2 * BURST:  # or nobody has looked for long
            self._fitted = now
        elif now - self._fitted > BURST and room == wanted:
            self._fitted = now
            for _ in range(DISCARDS):
                if not self._source.discard():
                    break

    def _pop(self) -> bytes:
        if not self._batches:
            return b""
        batch = self._batches.popleft()
        self._bytes -= len(batch)
        return batch

    def _fresh(self, out: memoryview, bucket: Bucket, now: float) -> bytes | memoryview:
        """A batch that did not wait."""
        batches, more = self._read(out, bucket, now)
        if more and not batches:  # its only packet was shed: the rest of a super-packet makes no descriptor readable
            batches, more = self._read(out, bucket, now)
        if not batches:
            return b""
        self._queue(batches[1:])
        return batches[0]

    def _queue(self, batches: Sequence[bytes | memoryview]) -> None:
        for batch in batches:
            self._batches.append(bytes(batch))
            self._bytes += len(batch)

    def _read(self, out: memoryview, bucket: Bucket, now: float) -> tuple[list[bytes | memoryview], bool]:
        """Read as much as a tick's tokens are, and not less than a packet; each fragment is a batch of its own."""
        size = max(MAX_FRAME, int(bucket.rate * TICK))
        filled, more = self._source.read(out[:size], now, waiting=bool(self._batches))
        batches: list[bytes | memoryview] = [out[:filled]] if filled else []
        batches += self._source.large()
        return batches, more
