"""Child processes of the demonstration: they are followed, and none outlives it."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from sstpfarm.cli import stage


def child(stack: ExitStack, directory: Path, program: str) -> tuple[Path, subprocess.Popen[bytes]]:
    """A Python child with its standard output in a file."""
    output = directory / "output"
    return output, stage.start(stack, [sys.executable, "-u", "-c", program], output, directory / "log")


def test_follow_yields_whole_lines_until_the_child_ends(tmp_path: Path) -> None:
    program = "import time; print('one'); print('tw', end=''); time.sleep(0.1); print('o'); print('no newline', end='')"
    with ExitStack() as stack:
        output, process = child(stack, tmp_path, program)
        assert list(stage.follow(output, process, 10)) == ["one", "two"]


def test_follow_gives_up_when_the_time_is_over(tmp_path: Path) -> None:
    with ExitStack() as stack:
        output, process = child(stack, tmp_path, "import time; print('one'); time.sleep(60)")
        lines = stage.follow(output, process, 0.5)
        assert next(lines) == "one"
        with pytest.raises(stage.StageError, match="no answer within"):
            next(lines)
    assert process.returncode == -signal.SIGTERM


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "STOP_PATIENCE", 0.1)
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready'); time.sleep(60)"
    with ExitStack() as stack:
        output, process = child(stack, tmp_path, program)
        assert next(stage.follow(output, process, 10)) == "ready"
    assert process.returncode == -signal.SIGKILL


def test_run_says_what_the_program_said() -> None:
    with pytest.raises(stage.StageError, match="out of cheese"):
        stage.run(sys.executable, "-c", "import sys; sys.exit('out of cheese')")


def test_run_gives_up_when_the_time_is_over() -> None:
    with pytest.raises(stage.StageError, match="no end within"):
        stage.run(sys.executable, "-c", "import time; time.sleep(60)", patience=0.1)


def test_a_namespace_that_ctrl_c_meets_half_made_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes while `ip netns add` runs; it takes effect when the note to remove the namespace is there."""
    called: list[str] = []

    def run(*command: str, patience: float = 0) -> str:
        called.append(command[2])
        if command[2] == "add":
            signal.raise_signal(signal.SIGINT)
        return ""

    monkeypatch.setattr(stage, "run", run)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt), ExitStack() as stack:
            stage.make_namespaces(stack, "x", ("192.0.2.1/24", "192.0.2.2/24"))
    finally:
        signal.signal(signal.SIGINT, before)
    assert called == ["add", "delete"]
