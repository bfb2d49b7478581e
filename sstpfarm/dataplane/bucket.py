"""A token bucket for one direction of a session, with RouterOS's bursts. The clock is the caller's."""

from __future__ import annotations

from math import inf
from typing import Final

DEPTH: Final = 0.05  # seconds at the present rate that may be saved up
PERIODS: Final = 16  # into which RouterOS divides burst-time for the average


def bucket_of(rate: int, burst: int, threshold: int, seconds: int, now: float) -> Bucket | None:
    """Return the bucket of one direction of a `RateLimit`, None where that has no limit."""
    return Bucket(rate, burst, threshold, seconds, now) if rate else None


class Bucket:
    """Says how many bytes may pass now. Whoever may pass at all may overdraw: the debt is paid with time.

    With bursts the rate is the burst's as long as the average over the burst time is below the threshold.

    Args:
        rate: bit/s, more than 0.
        burst: bit/s while a burst lasts, 0 for none; `threshold` (bit/s) and `seconds` belong to it.
        now: seconds.
    """

    __slots__ = ("_at", "_burst", "_next_period", "_period", "_periods", "_rate", "_threshold", "_tokens", "_usual")

    def __init__(self, rate: int, burst: int, threshold: int, seconds: int, now: float) -> None:
        self._usual = rate / 8
        self._burst = burst / 8
        self._threshold = threshold / 8 * seconds  # bytes in the whole of the burst time
        self._period = seconds / PERIODS
        self._periods = [0] * PERIODS if burst else []  # bytes that passed, the newest last
        self._next_period = now + self._period if burst else inf
        self._rate = self._burst or self._usual  # bytes a second
        self._tokens = self._rate * DEPTH
        self._at = now

    @property
    def rate(self) -> float:
        """Bytes a second at present."""
        return self._rate

    def available(self, now: float) -> float:
        """Bytes that may pass; 0 or less: none."""
        if now >= self._next_period:
            self._turn(now)
        if now > self._at:
            self._tokens = min(self._tokens + (now - self._at) * self._rate, self._rate * DEPTH)
            self._at = now
        return self._tokens

    def spend(self, size: int) -> None:
        """That many bytes have passed."""
        self._tokens -= size
        if self._periods:
            self._periods[-1] += size

    def _turn(self, now: float) -> None:
        """Begin new periods; the average decides over the rate of the next one."""
        passed = int((now - self._next_period) // self._period) + 1
        self._tokens = min(self._tokens + (self._next_period - self._at) * self._rate, self._rate * DEPTH)
        self._at = self._next_period
        self._next_period += passed * self._period
        self._periods = (self._periods + [0] * min(passed, PERIODS))[-PERIODS:]
        self._rate = self._burst if sum(self._periods) < self._threshold else self._usual
