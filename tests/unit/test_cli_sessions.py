"""cli/sessions.py: who may not ask is told so; what is shown is what there is."""

from __future__ import annotations

from pathlib import Path
from time import process_time

import pytest

from sstpfarm.cli import sessions as module
from sstpfarm.cli.app import main
from sstpfarm.cli.sessions import COLUMNS
from sstpfarm.cli.table import print_table
from sstpfarm.reasons import ExitCode


def test_an_ordinary_user_is_told_that_only_root_may_ask(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """/etc/sstpfarm has mode 0700: even to look whether the file is there is refused."""

    def refused(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refused)
    assert main(["show", "sessions"]) == ExitCode.SYSTEM
    assert "only root may ask" in capsys.readouterr().err


def test_tables_show_texts_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """An address such as fd42:a::1 holds the name of an emoji, a user's name may hold what rich takes for markup."""
    print_table(("PEER", "USER"), [("[fd42:a::1]:443", "[bold]alice[/]"), ("\x1b[2J", "東京")])
    assert capsys.readouterr().out.splitlines() == [
        "PEER             USER",
        "[fd42:a::1]:443  [bold]alice[/]",
        "?[2J             東京",
    ]


def test_a_large_table_takes_no_time(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """6,000 sessions took rich 4.6 s of CPU."""
    facts = {"mtu": 1400, "uptime_s": 3725.0, "bytes_in": 1_234_567, "bytes_out": 0}
    found = [{key: facts.get(key, f"{key}{number}") for key in COLUMNS} for number in range(6000)]
    monkeypatch.setattr(module, "control_request", lambda *_, **__: {"ok": True, "sessions": found})
    before = process_time()
    assert main(["show", "sessions"]) == ExitCode.OK
    assert process_time() - before < 1.5
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6001
    assert lines[0].split() == [*COLUMNS.values()]
    assert lines[6000].index("user5999") == lines[0].index("USER")
    assert {"1:02:05", "1,234,567"} <= set(lines[6000].split())
