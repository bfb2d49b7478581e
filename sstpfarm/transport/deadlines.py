"""One timer for all connections of a process: a heap of the moments at which somebody wants to be looked at.

A connection's deadline moves forward with every packet; moving it costs nothing here. An entry that comes up too
early is asked for its real deadline and put back.
"""

from __future__ import annotations

import asyncio
import heapq
from itertools import count
from math import inf
from time import monotonic
from typing import Final, Protocol

DUE_PER_TURN: Final = 32  # when thousands end at once, each close of a TUN device can wait milliseconds for the kernel


class Timed(Protocol):
    """What the heap keeps: an object that knows its own next deadline."""

    scheduled: float
    """The earliest entry in the heap, in seconds of the monotonic clock; the heap's own note, inf for none."""

    def next_deadline(self) -> float | None:
        """When `tick` has something to do, in seconds of the monotonic clock; None for never."""

    def tick(self, now: float) -> None:
        """Do what is due at `now`."""


class Deadlines:
    """Call `tick` of each watched object when its deadline has come."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._heap: list[tuple[float, int, Timed]] = []
        self._order = count()
        self._forgotten = 0  # entries at most that nobody waits for
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = inf

    def watch(self, timed: Timed) -> None:
        """Look at the object's deadline again: to be called whenever it may have moved to an earlier moment."""
        deadline = timed.next_deadline()
        if deadline is None or deadline >= timed.scheduled:
            return
        self._left(timed)
        timed.scheduled = deadline
        heapq.heappush(self._heap, (deadline, next(self._order), timed))
        self._arm()

    def forget(self, timed: Timed) -> None:
        """Look at it no more, until it is watched again. The heap lets go of it before half of it is such entries."""
        self._left(timed)

    def _left(self, timed: Timed) -> None:
        """Its entry, if it has one, counts no more."""
        if timed.scheduled == inf:
            return
        timed.scheduled = inf
        self._forgotten += 1
        if 2 * self._forgotten > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[0] == entry[2].scheduled]
            heapq.heapify(self._heap)
            self._forgotten = 0

    def _arm(self) -> None:
        if not self._heap:
            return
        first = self._heap[0][0]
        if first >= self._armed_for:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = first
        self._timer = self._loop.call_later(max(0.0, first - monotonic()), self._fire)

    def _fire(self) -> None:
        self._timer, self._armed_for = None, inf
        now = monotonic()
        due: list[tuple[float, int, Timed]] = []
        while self._heap and self._heap[0][0] <= now and len(due) < DUE_PER_TURN:
            due.append(heapq.heappop(self._heap))
        due.reverse()
        try:
            while due:  # one that stays due comes up again, but not before the loop has turned
                entry, _, timed = due.pop()
                if entry != timed.scheduled:
                    continue  # an earlier entry has taken its place
                timed.scheduled = inf
                deadline = timed.next_deadline()
                if deadline is not None and deadline <= now:
                    timed.tick(now)
                self.watch(timed)
        finally:
            for rest in due:  # one of them raised
                heapq.heappush(self._heap, rest)
            self._arm()
