"""loadtest.measures: quantiles are near enough, and adding up loses nothing."""

from __future__ import annotations

import math

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.measures import STEPS, Histogram, Tally, sum_gauges

DURATIONS = st.lists(st.floats(min_value=1e-6, max_value=3600.0), min_size=1, max_size=60)


def filled(values: list[float]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    return histogram


@given(DURATIONS, st.sampled_from([0.5, 0.9, 0.99, 1.0]))
@settings(max_examples=150, deadline=None)
def test_quantile_is_within_half_a_bucket(values: list[float], share: float) -> None:
    exact = sorted(values)[max(1, math.ceil(share * len(values))) - 1]
    found = filled(values).quantile(share)
    assert found is not None
    assert abs(found / exact - 1) <= 1 / STEPS


@given(DURATIONS, DURATIONS)
@settings(max_examples=50, deadline=None)
def test_absorbing_is_observing_both(left: list[float], right: list[float]) -> None:
    both, together = filled(left), filled(left + right)
    both.absorb(filled(right))
    assert both.buckets == together.buckets
    assert both.count == len(left) + len(right)
    assert both.largest == max(left + right)
    assert math.isclose(both.total, together.total)


def test_empty_histogram_has_no_quantile() -> None:
    assert Histogram().quantile(0.5) is None
    assert Histogram().summary() == {"count": 0}


def test_summary_is_in_milliseconds() -> None:
    summary = filled([0.001, 0.002, 0.003, 0.1]).summary()
    assert (summary["count"], summary["max"]) == (4, 100.0)
    assert abs(summary["p50"] - 2.0) < 0.05
    assert summary["mean"] == 26.5


def test_take_gives_what_came_since_and_keeps_gauges() -> None:
    tally = Tally()
    tally.add("logins", 2)
    tally.observe("login", 0.5)
    tally.gauges["up"] = 7
    taken = tally.take()
    assert (taken.counts, taken.gauges, taken.durations["login"].count) == ({"logins": 2}, {"up": 7}, 1)
    again = tally.take()
    assert (again.counts, again.gauges, again.durations) == ({}, {"up": 7}, {})


def test_a_tally_survives_the_pipe() -> None:
    tally = Tally()
    tally.add("logins")
    tally.observe("login", 0.25)
    assert msgspec.json.decode(msgspec.json.encode(tally), type=Tally) == tally


def test_gauges_add_up_and_absorbing_leaves_them() -> None:
    left, right = Tally(gauges={"up": 2}), Tally(gauges={"up": 3, "starting": 1})
    assert sum_gauges([left, right]) == {"up": 5, "starting": 1}
    left.absorb(right)
    assert left.gauges == {"up": 2}
