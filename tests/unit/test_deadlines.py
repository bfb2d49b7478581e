"""transport/deadlines.py: objects are looked at when their deadline has come, however often it moved."""

from __future__ import annotations

import asyncio
import weakref
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


def test_what_is_forgotten_is_not_looked_at_and_not_kept() -> None:
    async def scenario() -> None:
        deadlines = Deadlines(asyncio.get_running_loop())
        soon, far = monotonic() + 0.02, monotonic() + 600
        lasting, forgotten, again = Thing(soon), Thing(soon), Thing(soon)
        gone = [Thing(far) for _ in range(1000)]
        for thing in (lasting, forgotten, again, *gone):
            deadlines.watch(thing)
        for thing in (forgotten, forgotten, again, *gone):
            deadlines.forget(thing)
        deadlines.watch(again)
        known = [weakref.ref(thing) for thing in gone]
        del gone, thing
        assert sum(reference() is not None for reference in known) <= 4  # half of the heap at most
        assert len(deadlines._heap) <= 6
        await asyncio.sleep(0.06)
        assert [len(thing.ticks) for thing in (lasting, forgotten, again)] == [1, 0, 1]

    asyncio.run(scenario())


def test_a_thing_that_stays_due_does_not_stop_the_loop() -> None:
    async def scenario() -> None:
        deadlines = Deadlines(asyncio.get_running_loop())

        class Stubborn(Thing):
            def tick(self, now: float) -> None:
                self.ticks.append(now)

        stubborn, other = Stubborn(monotonic()), Thing(monotonic() + 0.02)
        deadlines.watch(stubborn)
        deadlines.watch(other)
        await asyncio.sleep(0.05)
        assert len(other.ticks) == 1
        assert len(stubborn.ticks) > 1
        stubborn.deadline = None
        await asyncio.sleep(0.01)
        assert deadlines._heap == []

    asyncio.run(scenario())


def test_thousands_that_are_due_at_once_leave_the_loop_its_turns() -> None:
    """A worker whose sessions all end at once must still answer the master's watchdog."""

    async def scenario() -> None:
        deadlines = Deadlines(asyncio.get_running_loop())
        now = monotonic()
        things = [Thing(now) for _ in range(1000)]
        for thing in things:
            deadlines.watch(thing)
        most, before = 0, 0
        while any(not thing.ticks for thing in things):
            await asyncio.sleep(0)
            done = sum(len(thing.ticks) for thing in things)
            most, before = max(most, done - before), done
        assert 0 < most <= 32
        assert all(len(thing.ticks) == 1 for thing in things)

    asyncio.run(scenario())


def test_a_thing_that_fails_does_not_stop_the_others() -> None:
    async def scenario() -> None:
        errors: list[object] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: errors.append(context["exception"]))
        deadlines = Deadlines(loop)

        class Faulty(Thing):
            def tick(self, now: float) -> None:
                raise ZeroDivisionError

        now = monotonic()
        things = [Thing(now + 0.01), Faulty(now + 0.01), Thing(now + 0.01), Thing(now + 0.03)]
        for thing in things:
            deadlines.watch(thing)
        await asyncio.sleep(0.1)
        assert [len(thing.ticks) for thing in things] == [1, 0, 1, 1]
        assert [type(error) for error in errors] == [ZeroDivisionError]

    asyncio.run(scenario())
