"""transport/moderation.py: how long pauses are, in a model of a process whose events cost less together than alone."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from sstpfarm.transport.moderation import BUSY, LIGHT, LONGEST, MANY, STEP, Moderation

TURN = 40e-6  # seconds that each turn costs by itself


@dataclass
class Process:
    """A process to which events come at a rate; each costs `event` seconds, each turn TURN besides."""

    rate: float
    event: float = 15e-6
    now: float = 50.0
    busy: float = 0.0
    waiting: float = 0.0
    most: float = 0.0  # seconds that the longest pause had

    def __post_init__(self) -> None:
        self.moderation = Moderation(lambda: self.busy)

    def run(self, seconds: float) -> float:
        """Return the share of the time in which it was busy."""
        began, busy = self.now, self.busy
        while self.now < began + seconds:
            if self.waiting < 1:
                self._pass((1 - self.waiting) / self.rate)
            events, start = int(self.waiting), self.now
            self.waiting -= events
            cost = TURN + events * self.event
            self.busy += cost
            self._pass(cost)
            pause = self.moderation.pause(start, self.now, events)
            self.most = max(self.most, pause)
            self._pass(pause)
        return (self.busy - busy) / (self.now - began)

    def _pass(self, seconds: float) -> None:
        self.now += seconds
        self.waiting += self.rate * seconds


def test_a_process_with_time_to_spare_does_not_pause() -> None:
    process = Process(rate=8_000)
    assert process.run(2) < BUSY
    assert process.most == 0


def test_a_busy_process_pauses_until_it_is_busy_for_its_part_of_the_time() -> None:
    process = Process(rate=40_000)  # without pauses busy all the time, in turns of eight events
    process.run(0.5)
    assert process.run(2) == pytest.approx(BUSY, abs=0.03)
    assert process.most == STEP


def test_who_cannot_be_less_busy_pauses_no_longer_than_allowed_and_loses_nothing() -> None:
    process = Process(rate=60_000)  # 0.9 of the time for the events alone
    process.run(1)
    assert BUSY < process.run(2) < 1
    assert process.most <= LONGEST + STEP
    assert process.waiting < 60_000 * 0.05


def test_it_stops_when_the_rush_is_over() -> None:
    process = Process(rate=50_000)
    process.run(1)
    process.rate, process.most = 2_000, 0.0
    process.run(0.05)
    process.most = 0.0
    process.run(1)
    assert process.most == 0


@pytest.mark.parametrize(("events", "seconds"), [(MANY - 1, 100e-6), (MANY, MANY * LIGHT * 1.01), (100, 0.01)])
def test_neither_few_events_nor_heavy_ones_wait(events: int, seconds: float) -> None:
    """Nothing would be gained, and throughput lost."""
    busy = 0.0
    moderation = Moderation(lambda: busy)
    now = 10.0
    for _ in range(10_000):
        now += seconds
        busy += seconds
        assert moderation.pause(now - seconds, now, events) == 0
    assert moderation.pause(now, now + MANY * LIGHT / 2, MANY) > 0  # it was busy enough


def test_what_is_too_short_for_a_pause_is_not_forgotten() -> None:
    busy, now, total = 0.0, 10.0, 0.0
    moderation = Moderation(lambda: busy)
    moderation.pause(now, now, 0)
    now += 0.025
    busy += 0.025
    for _ in range(1_000):  # within one LOOK: (1 - BUSY) * GAIN is 2/3 ms each
        total += moderation.pause(now, now, MANY)
    assert total == pytest.approx(1_000 * 0.002 / 3, abs=STEP)
