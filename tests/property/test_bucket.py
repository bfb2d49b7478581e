"""dataplane/bucket.py against its definition: no window takes more than the rate, and greed gets all of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sstpfarm.dataplane.bucket import DEPTH, PERIODS, Bucket

Passed = list[tuple[float, int]]


def plain(rate: int) -> Bucket:
    return Bucket(rate, 0, 0, 0, 0.0)


def carry(bucket: Bucket, steps: list[tuple[float, int]]) -> Passed:
    """After each pause a chunk wants to pass; those that did, with their times."""
    now, passed = 0.0, []
    for pause, size in steps:
        now += pause
        if bucket.available(now) > 0:
            bucket.spend(size)
            passed.append((now, size))
    return passed


def greedy(bucket: Bucket, seconds: float, *, tick: float = 0.01, size: int = 1400) -> Passed:
    """As much as the bucket lets pass, looked at each tick."""
    passed = []
    for number in range(1, round(seconds / tick) + 1):
        while bucket.available(number * tick) > 0:
            bucket.spend(size)
            passed.append((number * tick, size))
    return passed


def rate_of(passed: Passed, begin: float, end: float) -> float:
    """Bit/s in that time."""
    return sum(size for at, size in passed if begin < at <= end) * 8 / (end - begin)


STEPS = st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 4000)), max_size=120)


@given(rate=st.integers(1_000, 10**9), steps=STEPS)
def test_no_window_takes_more_than_rate_and_depth_and_one_chunk(rate: int, steps: list[tuple[float, int]]) -> None:
    passed = carry(plain(rate), steps)
    for first, (begin, _) in enumerate(passed):
        total = 0
        for at, size in passed[first:]:
            allowed = rate / 8 * (at - begin + DEPTH)
            assert total <= allowed + 1e-6 * max(1.0, allowed)  # so the last chunk began with tokens left
            total += size


@given(rate=st.integers(200_000, 10**8), tick=st.floats(0.001, 0.04))
def test_greed_gets_the_whole_rate(rate: int, tick: float) -> None:
    passed = greedy(plain(rate), 20, tick=tick, size=max(200, rate // 8 // 500))
    assert 0.98 <= rate_of(passed, 1, 20) / rate <= 1.02


@given(steps=STEPS, rate=st.integers(10_000, 10**7), ratio=st.integers(1, 8), seconds=st.integers(1, 20))
def test_a_burst_is_never_faster_than_the_burst_rate(
    steps: list[tuple[float, int]], rate: int, ratio: int, seconds: int
) -> None:
    burst = rate * ratio
    passed = carry(Bucket(rate, burst, rate, seconds, 0.0), steps)
    for first, (begin, _) in enumerate(passed):
        total = 0
        for at, size in passed[first:]:
            allowed = burst / 8 * (at - begin + DEPTH)
            assert total <= allowed + 1e-6 * max(1.0, allowed)
            total += size


def test_a_burst_lasts_as_long_as_the_documentation_computes() -> None:
    """RouterOS, "Burst": longest burst = burst-threshold * burst-time / burst-limit; here 2 s, then the limit."""
    passed = greedy(Bucket(1_000_000, 4_000_000, 1_000_000, 8, 0.0), 12)
    assert rate_of(passed, 0, 2) == pytest.approx(4_000_000, rel=0.06)  # with what was saved up before
    assert rate_of(passed, 2 + 8 / PERIODS, 8) == pytest.approx(1_000_000, rel=0.06)


def test_a_pause_lets_the_next_burst_begin() -> None:
    bucket = Bucket(1_000_000, 4_000_000, 1_000_000, 4, 0.0)
    assert rate_of(greedy(bucket, 4), 0, 0.9) > 3_500_000
    bucket.available(100.0)
    assert bucket.rate == 4_000_000 / 8
    assert bucket.available(100.0) == pytest.approx(4_000_000 / 8 * DEPTH)  # no more than the depth was saved


def test_an_average_above_the_threshold_allows_no_burst() -> None:
    """Who always sends at the limit stays there, when the threshold is below it."""
    passed = greedy(Bucket(1_000_000, 8_000_000, 500_000, 1, 0.0), 10)
    assert rate_of(passed, 2, 10) < 2_500_000
    assert rate_of(passed, 2, 10) > 980_000


def test_debt_is_paid_before_anything_passes() -> None:
    bucket = plain(80_000)  # 10,000 bytes a second
    bucket.spend(5_000 + round(10_000 * DEPTH))
    assert bucket.available(0.4) < 0
    assert bucket.available(0.51) > 0


def test_a_clock_that_stands_gives_nothing() -> None:
    bucket = plain(8_000)
    bucket.spend(round(1_000 * DEPTH))
    assert bucket.available(0.0) == bucket.available(0.0) == 0
