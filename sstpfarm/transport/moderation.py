"""How long a busy process lets events come together before it looks again: what network cards call moderation.

Where many sessions have a packet or two each, most of the cost is that of each event: its system calls, and the
doorbell or interrupt of each segment that is sent. Events that came together cost less. So a process that is busy for
more than a part of the time waits a little behind each turn, for as long as keeps it busy for that part. One that has
time to spare waits for nothing, and neither do a few sessions, or those that move much at once: there it would only
cost throughput (ADR 0015).
"""

from __future__ import annotations

from collections.abc import Callable
from time import thread_time
from typing import Final

BUSY: Final = 2 / 3  # of the time: above it, longer pauses; below it, shorter ones
LONGEST: Final = 0.002  # seconds: a packet that passes both ways may wait twice
STEP: Final = 0.001  # seconds: what the loop's timers know; shorter pauses are made now and then
LOOK: Final = 0.02  # seconds in which it is measured how busy the process is
GAIN: Final = 0.002  # seconds that are added for each LOOK in which it was busy for 1 more than BUSY
MANY: Final = 4  # events in a turn
LIGHT: Final = 64e-6  # seconds of an event: it is mostly overhead


class Moderation:
    """The pauses between the turns of one process.

    Args:
        cpu_time: how long this thread was busy, in seconds.
    """

    def __init__(self, cpu_time: Callable[[], float] = thread_time) -> None:
        self._cpu_time = cpu_time
        self._since = self._busy = 0.0
        self._pause = 0.0  # what a pause should be, in seconds
        self._owed = 0.0  # pauses that were too short to be made

    def pause(self, began: float, ended: float, events: int) -> float:
        """Return how many seconds to wait behind a turn: 0 or some STEPs.

        Args:
            began, ended: of the turn, seconds on a monotonic clock.
            events: that it had.
        """
        if ended - self._since >= LOOK:
            self._measure(ended)
        if not self._pause or events < MANY or ended - began > events * LIGHT:
            return 0.0
        self._owed += self._pause
        steps = int(self._owed / STEP)
        self._owed -= steps * STEP
        return steps * STEP

    def _measure(self, now: float) -> None:
        busy = self._cpu_time()
        share = (busy - self._busy) / (now - self._since)
        self._pause = min(max(self._pause + GAIN * (share - BUSY), 0.0), LONGEST)
        self._since, self._busy = now, busy
