"""The benchmark's tables: verdicts, what is missed, and the page that carries them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.__main__ import GROUPS
from bench.figure import Figure, percentile
from bench.report import CAPACITY, FIGURES, Group, between, latest, load, missed, save, table, update_page
from bench.targets import BY_KEY, TARGETS, Target, Verdict

PAGE = Path(__file__).resolve().parents[2] / "docs/performance.md"
MACHINE = {"kernel": "6.1", "cores": 2, "cpu": "A", "memory_gib": 4, "python": "3.11", "openssl": "3", "uvloop": "0"}


def group(name: str, *figures: Figure) -> Group:
    return Group(
        name=name,
        date="2026-01-01 00:00 UTC",
        machine=MACHINE,
        dataplane="pure",
        load=("0", "0"),
        figures=list(figures),
    )


@pytest.mark.parametrize(
    ("value", "more", "verdict"),
    [
        (1.0, False, Verdict.STRETCH),
        (1.504, False, Verdict.STRETCH),  # judged as it is shown: 1.50
        (1.51, False, Verdict.PASS),
        (2.0, False, Verdict.PASS),
        (2.01, False, Verdict.MISSED),
        (3.0, True, Verdict.STRETCH),
        (1.0, True, Verdict.MISSED),
        (None, False, Verdict.UNKNOWN),
    ],
)
def test_verdict(value: float | None, more: bool, verdict: Verdict) -> None:
    bounds = (2.0, 3.0) if more else (2.0, 1.5)
    assert Target("key", "title", "s", *bounds, more=more).verdict(value) is verdict


def test_verdict_of_a_figure_without_target() -> None:
    assert Target("key", "title", "s").verdict(5.0) is Verdict.REPORTED


def test_bounds_of_the_targets_are_in_order() -> None:
    for target in TARGETS:
        assert (target.reach is None) == (target.stretch is None)
        if target.reach is not None and target.stretch is not None:
            assert target.stretch >= target.reach if target.more else target.stretch <= target.reach


def test_missed_names_what_is_missed_and_what_was_not_measured() -> None:
    figures = {"login-cpu": Figure(key="login-cpu", value=4.5), "login-rate": Figure(key="login-rate", value=200)}
    lines = missed(figures)
    assert any(line.startswith(BY_KEY["login-cpu"].title) and "4.50 ms" in line for line in lines)
    assert not any(line.startswith(BY_KEY["login-rate"].title) for line in lines)
    assert any(line.startswith(BY_KEY["sessions"].title) and Verdict.UNKNOWN in line for line in lines)
    assert len(lines) == sum(target.reach is not None for target in TARGETS) - 1


def test_table_row() -> None:
    [row] = [
        line for line in table({"login-rate": Figure(key="login-rate", value=1234.4, note="why")}) if "1,234" in line
    ]
    assert row == ("| logins a second on this machine, generator included | 1/s | 150 | 300 | 1,234 | stretch | why |")


def test_groups_survive_their_files(tmp_path: Path) -> None:
    older = group("one", Figure(key="udp-in", value=1.0, runs=(1.0, 2.0), detail={"rates": [1.0]}, note="n"))
    newer = group("two", Figure(key="udp-in", value=2.0), Figure(key="udp-out", value=3.0))
    for each in (older, newer):
        save(each, tmp_path)
    found = load(tmp_path, ["one", "absent", "two"])
    assert [each.name for each in found] == ["one", "two"]
    assert found[0].figures[0].detail == {"rates": [1.0]}
    assert {key: figure.value for key, figure in latest(found).items()} == {"udp-in": 2.0, "udp-out": 3.0}


def test_page_has_its_markers(tmp_path: Path) -> None:
    copy = tmp_path / "page.md"
    copy.write_text(PAGE.read_text())
    update_page(copy, [group("one", Figure(key="udp-in", value=0.5))])
    once = copy.read_text()
    assert "| 0.50 | pass |" in once
    update_page(copy, [group("one", Figure(key="udp-in", value=0.5))])
    assert copy.read_text() == once


@pytest.mark.parametrize("name", [FIGURES, CAPACITY])
def test_page_without_markers_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no markers"):
        between("nothing here", name, [])


def test_groups_are_documented_by_name() -> None:
    assert len(GROUPS) == len(set(GROUPS.values()))


def test_percentile() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile(list(map(float, range(100))), 0.95) == 95.0
    assert percentile([1.0], 0.95) == 1.0
