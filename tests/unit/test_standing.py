"""transport/standing.py: bursts are taken whole; a queue that stands loses packets, more and more often."""

from __future__ import annotations

from itertools import pairwise
from math import inf

from sstpfarm.transport.standing import INTERVAL, MEMORY, StandingQueue


def drops(queue: StandingQueue, began: float, seconds: float, *, step: float = 0.001) -> list[float]:
    """Read a queue that is never empty each `step`; when packets were dropped."""
    found = []
    for number in range(round(seconds / step)):
        now = began + number * step
        if queue.due <= now:
            found.append(now - began)
        queue.seen(now, empty=False)
    return found


def test_a_queue_that_is_emptied_loses_nothing() -> None:
    queue = StandingQueue()
    for number in range(10_000):  # a burst each 99 ms, which takes 98 ms to carry away
        now = number * 0.001
        assert queue.due > now
        queue.seen(now, empty=number % 99 == 98)


def test_a_queue_that_stands_loses_packets_at_a_growing_rate() -> None:
    found = drops(StandingQueue(), 7.0, 3.0)
    assert abs(found[0] - INTERVAL) < 0.002
    gaps = [after - before for before, after in pairwise(found)]
    for number, gap in enumerate(gaps, start=1):
        assert abs(gap - INTERVAL / number**0.5) < 0.002  # RFC 8289 5.3
    assert len(found) > 150


def test_a_good_queue_is_forgiven_but_not_forgotten_at_once() -> None:
    queue = StandingQueue()
    first = drops(queue, 0.0, 1.0)
    queue.seen(1.0, empty=True)
    assert queue.due == inf
    assert len(drops(queue, 1.1, 1.0)) > len(first)
    queue.seen(2.1, empty=True)
    assert drops(queue, 2.1 + MEMORY, 1.0) == drops(StandingQueue(), 2.1 + MEMORY, 1.0)


def test_a_reader_that_paused_makes_no_burst_of_drops() -> None:
    queue = StandingQueue()
    drops(queue, 0.0, 0.5)
    assert len(drops(queue, 60.0, 0.02, step=0.0001)) == 1
