"""One measured figure, and the set-up that all measurements share."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.targets import BY_KEY


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure: the median of its runs, unless a measurement says otherwise.

    Attributes:
        key: of its row in `targets`.
        runs: the value of each run.
        detail: what else was seen, for the JSON file.
        note: what a reader of the table has to know.
        when: seconds since 1970.
    """

    key: str
    value: float
    runs: Sequence[float] = ()
    detail: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    when: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """How to measure.

    Attributes:
        directory: for files of one run of the benchmark; every user can reach it.
        runs: how often each figure is measured, after a first time that does not count.
        seconds: how long one run of traffic lasts.
        dataplane: "pure" or "fast" for all servers; "" leaves the choice to them.
        say: takes a line for who watches.
    """

    directory: Path
    quick: bool
    runs: int
    seconds: float
    dataplane: str
    say: Callable[[str], None]

    def fresh(self, label: str) -> Path:
        """A directory that is not there yet."""
        return self.directory / f"{label}-{time.monotonic_ns()}"

    def figure(self, key: str, runs: Sequence[float], note: str = "", **detail: Any) -> Figure:
        """The median of these runs as a figure; said aloud."""
        return self.single(key, statistics.median(runs), runs=runs, note=note, **detail)

    def single(self, key: str, value: float, *, runs: Sequence[float] = (), note: str = "", **detail: Any) -> Figure:
        """A value as a figure; said aloud."""
        target = BY_KEY[key]
        self.say(f"{target.title}: {value:.{target.digits}f} {target.unit} ({target.verdict(value)})")
        return Figure(key=key, value=value, runs=tuple(runs), detail=detail, note=note)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of the values lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
