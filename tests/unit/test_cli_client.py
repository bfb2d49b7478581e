"""cli/client.py: what the command line answers when nothing runs, or the file is faulty."""

from __future__ import annotations

from pathlib import Path

import pytest

from sstpfarm.cli.app import main
from sstpfarm.reasons import ExitCode

GOOD = '[client]\nrun-directory = "run"\n[interface.sstpc0]\nserver = "vpn.example"\nuser = "u"\npassword = "p"\n'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration that is good."""
    file = tmp_path / "client.toml"
    file.write_text(GOOD)
    return file


def test_check_says_that_a_file_is_good(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["client", "--check", "--config", str(config)]) == ExitCode.OK
    assert capsys.readouterr().out == f"{config}: good; interfaces sstpc0\n"


@pytest.mark.parametrize("check", [["--check"], []])
def test_a_faulty_file_is_refused(config: Path, check: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(GOOD + "port = 0\n")
    assert main(["client", *check, "--config", str(config)]) == ExitCode.CONFIG
    assert capsys.readouterr().err.startswith(f"{config}:7: interface.sstpc0.port: 0 is not allowed")


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["client", "--config", str(tmp_path / "none")]) == ExitCode.CONFIG
    assert capsys.readouterr().err == f"{tmp_path}/none: cannot be read: No such file or directory\n"


@pytest.mark.parametrize("command", ["connect-interface", "disconnect-interface"])
def test_nobody_to_ask(config: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--config", str(config), "sstpc0"]) == ExitCode.SYSTEM
    assert capsys.readouterr().err == f"sstpfarm: no client runs in {config.parent}/run\n"
    assert main([command]) == ExitCode.USAGE
