"""cli/sessions.py: who may not ask is told so; what is shown is what there is."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.table import Table

from sstpfarm.cli.app import main
from sstpfarm.cli.sessions import console
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
    table = Table(box=None)
    table.add_row("[fd42:a::1]:443", "[bold]alice[/]")
    console().print(table)
    assert capsys.readouterr().out.split() == ["[fd42:a::1]:443", "[bold]alice[/]"]
