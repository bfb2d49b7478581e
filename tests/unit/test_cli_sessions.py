"""cli/sessions.py: who may not ask is told so."""

from __future__ import annotations

from pathlib import Path

import pytest

from sstpfarm.cli.app import main
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
