"""What is counted and timed: counters, gauges and histograms that add up over processes and over time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import msgspec

STEPS: Final = 32  # buckets for each doubling: a quantile is off by at most 1.6 %
MICROSECONDS: Final = 1_000_000


class Histogram(msgspec.Struct):
    """Durations in buckets that grow with the value; memory does not grow with the number of observations.

    Attributes:
        buckets: observations by bucket number (`STEPS` for each power of two of microseconds).
        total, largest: in seconds.
    """

    buckets: dict[int, int] = {}
    total: float = 0.0
    largest: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count a duration; what is below a microsecond counts as one."""
        mantissa, exponent = math.frexp(max(1.0, seconds * MICROSECONDS))
        bucket = exponent * STEPS + int((mantissa - 0.5) * 2 * STEPS)
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1
        self.total += seconds
        self.largest = max(self.largest, seconds)

    def absorb(self, other: Histogram) -> None:
        """Add what another histogram holds."""
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count
        self.total += other.total
        self.largest = max(self.largest, other.largest)

    @property
    def count(self) -> int:
        """How many durations were observed."""
        return sum(self.buckets.values())

    def quantile(self, share: float) -> float | None:
        """The duration in seconds below which that share of all lies, to the middle of its bucket; None when empty."""
        count = self.count
        rank, seen = max(1, math.ceil(share * count)), 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= rank:
                exponent, step = divmod(bucket, STEPS)
                middle = math.ldexp(0.5 + (step + 0.5) / (2 * STEPS), exponent) / MICROSECONDS
                return min(middle, self.largest)
        return None

    def summary(self) -> dict[str, float | int]:
        """Count, mean, quantiles and maximum, in milliseconds; only the count when it is empty."""
        count = self.count
        if not count:
            return {"count": 0}
        found: dict[str, float | int] = {"count": count, "mean": round(1000 * self.total / count, 3)}
        for name, share in (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999)):
            found[name] = round(1000 * (self.quantile(share) or 0.0), 3)
        return {**found, "max": round(1000 * self.largest, 3)}


class Tally(msgspec.Struct):
    """Counters since the last report, gauges as they are now, histograms since the last report."""

    counts: dict[str, int] = {}
    gauges: dict[str, int] = {}
    durations: dict[str, Histogram] = {}

    def add(self, name: str, number: int = 1) -> None:
        """Raise a counter."""
        self.counts[name] = self.counts.get(name, 0) + number

    def observe(self, name: str, seconds: float) -> None:
        """Count a duration."""
        found = self.durations.get(name)
        if found is None:
            found = self.durations[name] = Histogram()
        found.observe(seconds)

    def absorb(self, other: Tally) -> None:
        """Add the counters and histograms of another tally; the gauges stay."""
        for name, number in other.counts.items():
            self.add(name, number)
        for name, histogram in other.durations.items():
            self.durations.setdefault(name, Histogram()).absorb(histogram)

    def take(self) -> Tally:
        """Return what was counted since the last time, and begin again; gauges stay."""
        taken = Tally(self.counts, dict(self.gauges), self.durations)
        self.counts, self.durations = {}, {}
        return taken


def sum_gauges(tallies: Iterable[Tally]) -> dict[str, int]:
    """The gauges of several processes, added up."""
    gauges: dict[str, int] = {}
    for tally in tallies:
        for name, value in tally.gauges.items():
            gauges[name] = gauges.get(name, 0) + value
    return gauges
