"""Results as files: one JSON file for each group of figures, and their table in docs/performance.md."""

from __future__ import annotations

import os
import platform
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec

from bench import cpu
from bench.capacity import capacity_table, costs_of
from bench.figure import Figure
from bench.targets import TARGETS, Target, Verdict

FIGURES: Final = "figures"
CAPACITY: Final = "capacity"


class Group(msgspec.Struct, frozen=True):
    """What one group of measurements found; one file.

    Attributes:
        date: UTC, when it began.
        load: load averages before and behind it, for who judges the figures.
    """

    name: str
    date: str
    machine: dict[str, Any]
    dataplane: str
    load: tuple[str, str]
    figures: list[Figure]


def machine() -> dict[str, Any]:
    """What the figures depend on: kernel, processor, versions."""
    return {
        "kernel": platform.release(),
        "cpu": cpu.model(),
        "cores": os.cpu_count(),
        "memory_gib": round(cpu.memory_gib(), 1),
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "uvloop": version("uvloop"),
        "sstpfarm": version("sstpfarm"),
    }


def now() -> str:
    """The date as results carry it."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())


def save(group: Group, folder: Path) -> None:
    """Write a group's file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{group.name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(group), indent=2) + b"\n")


def load(folder: Path, names: Iterable[str]) -> list[Group]:
    """Read the groups of those names that are there."""
    paths = [folder / f"{name}.json" for name in names]
    return [msgspec.json.decode(path.read_bytes(), type=Group) for path in paths if path.exists()]


def latest(groups: Iterable[Group]) -> dict[str, Figure]:
    """The figures of all groups by their key."""
    return {figure.key: figure for group in groups for figure in group.figures}


def missed(figures: Mapping[str, Figure]) -> list[str]:
    """A line for each target that is missed or was not measured."""
    lines = []
    for target in TARGETS:
        if target.reach is None:
            continue
        figure = figures.get(target.key)
        verdict = target.verdict(figure.value if figure else None)
        if verdict in (Verdict.MISSED, Verdict.UNKNOWN):
            reached = f"{_number(figure.value, target)} {target.unit}".strip() if figure else "-"
            lines.append(f"{target.title}: {reached}, to reach: {_number(target.reach, target)} ({verdict})")
    return lines


def table(figures: Mapping[str, Figure]) -> list[str]:
    """The table, in Markdown; what is only reported and was not measured is left out."""
    lines = ["| figure | unit | to reach | stretch | measured | | remarks |", "|---|---|---:|---:|---:|---|---|"]
    for target in TARGETS:
        figure = figures.get(target.key)
        if figure is None and target.reach is None:
            continue
        measured = _number(figure.value, target) if figure else "-"
        bounds = [_number(bound, target) if bound is not None else "" for bound in (target.reach, target.stretch)]
        cells = [target.title, target.unit, *bounds, measured, target.verdict(figure.value if figure else None)]
        lines.append(f"| {' | '.join(cells)} | {figure.note if figure else ''} |")
    return lines


def update_page(page: Path, groups: Sequence[Group]) -> None:
    """Put the figures' table and the capacity model's between their markers in the page."""
    figures = latest(groups)
    facts = groups[-1].machine
    dates = sorted(group.date for group in groups)
    head = (
        f"Measured {dates[0]} to {dates[-1]}: Linux {facts['kernel']}, {facts['cores']} cores of {facts['cpu']}, "
        f"{facts['memory_gib']} GiB, Python {facts['python']}, {facts['openssl']}, uvloop {facts['uvloop']}."
    )
    text = page.read_text()
    text = between(text, FIGURES, [head, "", *table(figures)])
    page.write_text(between(text, CAPACITY, capacity_table(costs_of(figures))))


def between(text: str, name: str, lines: Sequence[str]) -> str:
    """Replace what stands between the markers of that name; ValueError when they are not there."""
    begin, end = f"<!-- {name}: begin, made by make bench -->", f"<!-- {name}: end -->"
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"the page has no markers {begin} and {end}")
    return "\n".join([before + begin, "", *lines, "", end + after])


def _number(value: float, target: Target) -> str:
    return f"{value:,.{target.digits}f}"
