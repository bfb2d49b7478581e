"""transport/deadlines.py: objects are looked at when their deadline has come, however often it moved."""

from __future__ import annotations

import asyncio
from time import monotonic

from sstpfarm.transport.deadlines import Deadlines


class Thing:
    """A thing with a deadline that the test moves."""

    def __init__(self, deadline: float | None) -> None:
        self.deadline = deadline
        self.scheduled = float("inf")
        self.ticks: list[float] = []

    def next_deadline(self) -> float | None:
        return self.deadline

    def tick(self, now: float) -> None:
        self.ticks.append(now)
        self.deadline = None


def test_ticks_come_in_time_and_once() -> None:
    async def scenario() -> None:
        deadlines = Deadlines(asyncio.get_running_loop())
        start = monotonic()
        early, late, never, moved, nearer = (Thing(start + delay) for delay in (0.02, 0.06, 0, 0.02, 5))
        never.deadline = None
        for thing in (late, early, never, moved, nearer):
            deadlines.watch(thing)
        moved.deadline = start + 0.08  # moving forward tells nobody
        nearer.deadline = start + 0.03  # moving nearer does
        deadlines.watch(nearer)
        await asyncio.sleep(0.15)
        assert [len(thing.ticks) for thing in (early, late, never, moved, nearer)] == [1, 1, 0, 1, 1]
        assert early.ticks[0] >= start + 0.02
        assert moved.ticks[0] >= start + 0.08
        assert nearer.ticks[0] < late.ticks[0] < moved.ticks[0]

    asyncio.run(scenario())


def test_a_thousand_moves_leave_one_entry() -> None:
    async def scenario() -> None:
        deadlines = Deadlines(asyncio.get_running_loop())
        thing = Thing(monotonic() + 60)
        for step in range(1000):
            thing.deadline = monotonic() + 60 + step
            deadlines.watch(thing)
        assert len(deadlines._heap) == 1

    asyncio.run(scenario())
