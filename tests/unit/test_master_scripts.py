"""Programs of on-up and on-down: what runs, in which order, what is told, what is killed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from sstpfarm.master import scripts as module
from sstpfarm.master.scripts import MOST_AT_ONCE, Scripts
from sstpfarm.telemetry.log import Log
from tests.unit.children import children
from tests.unit.descriptors import descriptors_closed


class Recorder:
    """A log that keeps its events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def emit(self, name: str, **keys: Any) -> None:
        self.events.append((name, keys))

    def of(self, name: str) -> list[dict[str, Any]]:
        return [keys for found, keys in self.events if found == name]


def run(scenario: Callable[[Scripts, Recorder], Awaitable[None]], timeout: float = 20) -> None:
    async def main() -> None:
        log = Recorder()
        with descriptors_closed():
            scripts = Scripts(cast(Log, log), timeout)
            await scenario(scripts, log)
            await scripts.close()

    asyncio.run(main())


def shell(text: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", text)


def test_environment_arguments_and_output() -> None:
    async def scenario(scripts: Scripts, log: Recorder) -> None:
        os.environ["SECRET_OF_OURS"] = "hidden"
        command = ("/bin/sh", "-c", 'echo "$1 $SSTPFARM_USER"; pwd; env; cat', "-", "$(id); `id`")
        scripts.run(1, "s1", command, {"SSTPFARM_USER": "a;b $(id)"})
        await scripts.close()
        del os.environ["SECRET_OF_OURS"]
        (said,) = log.of("script.output")
        first, where, *environment = said["text"].splitlines()
        assert (first, where) == ("$(id); `id` a;b $(id)", "/")  # no shell of ours has looked at either
        names = {line.partition("=")[0] for line in environment}
        assert names - {"PWD", "_", "SHLVL", "OLDPWD"} == {"PATH", "LANG", "SSTPFARM_USER"}
        assert (said["session"], said["program"]) == ("s1", "/bin/sh")

    run(scenario)


def test_order_of_one_session_while_others_pass(tmp_path: Path) -> None:
    """Down comes after up, however long that takes; another session's program does not wait for it."""

    async def scenario(scripts: Scripts, log: Recorder) -> None:
        gate, trace = tmp_path / "gate", tmp_path / "trace"
        os.mkfifo(gate)
        scripts.run(1, "s1", shell(f"cat {gate}; echo up >> {trace}"), {})
        scripts.run(1, "s1", shell(f"echo down >> {trace}"), {})
        scripts.run(2, "s2", shell(f"echo other >> {trace}; echo > {gate}"), {})
        await scripts.close()
        assert trace.read_text().split() == ["other", "up", "down"]
        assert log.of("script.failed") == []

    run(scenario)


def test_failures_are_told() -> None:
    async def scenario(scripts: Scripts, log: Recorder) -> None:
        scripts.run(1, "s1", shell("echo why >&2; exit 3"), {})
        scripts.run(1, "s1", ("/nowhere/program",), {})
        scripts.run(1, "s1", shell("true"), {"SSTPFARM_USER": "a\0b"})
        scripts.run(1, "s1", shell("kill -TERM $$"), {})
        await scripts.close()
        assert [failed["detail"] for failed in log.of("script.failed")] == [
            "status 3",
            "cannot be run: [Errno 2] No such file or directory: '/nowhere/program'",
            "cannot be run: embedded null byte",
            "signal 15",
        ]
        assert log.of("script.output")[0]["text"] == "why"

    run(scenario)


def test_a_slow_one_is_killed_with_its_children(tmp_path: Path) -> None:
    async def scenario(scripts: Scripts, log: Recorder) -> None:
        scripts.run(1, "s1", shell(f"sleep 600 & echo $! > {pid}; wait"), {})
        scripts.run(1, "s1", shell("echo after"), {})
        await scripts.close()
        assert log.of("script.output")[0]["text"] == "after"
        assert [failed["detail"] for failed in log.of("script.failed")] == ["killed after 0.3 s"]

    pid = tmp_path / "pid"
    run(scenario, timeout=0.3)
    state = Path(f"/proc/{pid.read_text().strip()}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"  # nobody here waits for orphans


def test_output_is_bounded_and_does_not_block() -> None:
    async def scenario(scripts: Scripts, log: Recorder) -> None:
        scripts.run(1, "s1", shell("yes | head -c 1000000; echo done >&2"), {})
        scripts.run(2, "s2", shell("exec >&- 2>&-; exit 4"), {})
        await scripts.close()
        (said,) = log.of("script.output")
        assert len(said["text"]) <= module.MOST_OUTPUT
        assert [failed["detail"] for failed in log.of("script.failed")] == ["status 4"]

    run(scenario)


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scripts: Scripts, log: Recorder) -> None:
        gate, count = tmp_path / "gate", tmp_path / "count"
        os.mkfifo(gate)
        count.touch()
        monkeypatch.setattr(module, "MOST_WAITING", 4)
        for number in range(MOST_AT_ONCE):
            scripts.run(number, "s", shell(f"echo >> {count}; read line < {gate}"), {})
        for number in range(6):
            scripts.run(100 + number, "s", shell(f"echo >> {count}"), {})
        assert [failed["detail"] for failed in log.of("script.failed")] == ["too many programs wait"] * 2
        async with asyncio.timeout(60):
            while len(count.read_text()) < MOST_AT_ONCE:  # noqa: ASYNC110 - other processes write it
                await asyncio.sleep(0.01)
        assert len(count.read_text()) == MOST_AT_ONCE
        holder = os.open(gate, os.O_RDWR)
        os.write(holder, b"\n" * MOST_AT_ONCE)
        await scripts.close()
        os.close(holder)
        assert len(count.read_text()) == MOST_AT_ONCE + 4

    run(scenario)


@pytest.mark.parametrize("wait", [True, False])
def test_the_end_of_the_farm_does_not_wait_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait: bool
) -> None:
    monkeypatch.setattr(module, "CLOSE_PATIENCE_S", 0.2)

    async def scenario(scripts: Scripts, log: Recorder) -> None:
        for number in range(MOST_AT_ONCE + 3):
            scripts.run(number, "s", shell("sleep 600"), {})
        scripts.run(0, "s", shell(f"touch {tmp_path}/never"), {})
        await scripts.close(wait=wait)
        assert not (tmp_path / "never").exists()
        assert log.of("scripts.abandoned") == [{"count": 4}]

    run(scenario)


@pytest.mark.parametrize("call", ["os.pidfd_open", "asyncio.selector_events.BaseSelectorEventLoop.add_reader"])
def test_what_cannot_be_watched_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """The descriptors are used up, say: it would run unbounded, and stay a zombie with its pipe."""

    def refuse(*_: object) -> int:
        raise OSError(24, "Too many open files")

    async def scenario(scripts: Scripts, log: Recorder) -> None:
        monkeypatch.setattr(call, refuse)
        scripts.run(1, "s1", shell(f"echo $$ > {tmp_path}/pid; sleep 5; echo late > {tmp_path}/late"), {})
        monkeypatch.undo()
        (failed,) = log.of("script.failed")
        assert "Too many open files" in failed["detail"]
        scripts.run(1, "s1", shell("echo next"), {})
        await scripts.close()
        assert [said["text"] for said in log.of("script.output")] == ["next"]

    before = children()
    run(scenario)
    assert children() <= before  # neither running nor a zombie
