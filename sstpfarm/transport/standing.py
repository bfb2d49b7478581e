"""When a queue only adds delay, and a packet of it is to be dropped: CoDel's control law (RFC 8289) without stamps.

Packets to a peer wait in the TUN's ring, and nobody can see since when. But a queue that is found empty now and then is
a good one, which takes bursts; one that was not empty for a whole interval only adds delay. So being found empty stands
in for "a packet waited less than the target". TCP inside of the tunnel answers a drop by sending less, and the ring can
stay long enough for bursts.
"""

from __future__ import annotations

from math import inf, sqrt
from typing import Final

INTERVAL: Final = 0.1  # seconds, RFC 8289 4.2: a little more than usual round trips
MEMORY: Final = 16 * INTERVAL  # a queue that stands again so soon is the same one, RFC 8289 5.4


class StandingQueue:
    """The queue of one session.

    Attributes:
        due: from when on a packet is to be dropped, on the caller's clock; inf while the queue is a good one.
    """

    __slots__ = ("_count", "_ended", "due")

    def __init__(self) -> None:
        self.due = inf
        self._count = 0  # packets dropped of the queue that stands
        self._ended = -inf  # when the last one was found empty

    def seen(self, now: float, *, empty: bool) -> None:
        """The queue was read, and one packet was dropped if that was due. Nothing is owed while empty and not due."""
        if empty:
            self.due, self._ended = inf, now
        elif self.due == inf:
            self._count = max(0, self._count - 2) if now - self._ended < MEMORY else 0
            self.due = now + INTERVAL
        elif self.due <= now:
            self._count += 1
            self.due = now + INTERVAL / sqrt(self._count)  # from now: a pause of the reader is not made up for
