"""Child processes: phases, last words, violations, missed pings; each child is a small script (`child_double`)."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import Any

import pytest

from sstpfarm.errors import IpcViolation, SystemRefusal
from sstpfarm.ipc import messages as m
from sstpfarm.ipc.channel import channel_pair
from sstpfarm.ipc.permissions import Party
from sstpfarm.master.child import MISSED_PINGS, Child
from sstpfarm.master.permissions import ProcessPhase
from tests.unit.children import children
from tests.unit.descriptors import descriptors_closed


@dataclass
class Watched:
    child: Child
    messages: list[Any] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    spoke: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def ended(self) -> None:
        async with asyncio.timeout(60):
            await self.gone.wait()

    async def ready(self) -> None:
        async with asyncio.timeout(60):
            await self.spoke.wait()
        assert self.child.phase is ProcessPhase.READY


def play(script: str, scenario: Callable[[Watched], Awaitable[None]], refuse: str = "") -> Watched:
    async def main() -> Watched:
        ours, theirs = channel_pair()

        def on_message(message: Any) -> None:
            if refuse:
                raise IpcViolation(refuse)
            watched.messages.append(message)
            watched.spoke.set()

        with theirs:
            child = Child(
                Party.WORKER,
                "tests.unit.child_double",
                {"script": script},
                {"fd-master": (theirs.fileno(),)},
                ours,
                on_message=on_message,
                on_gone=lambda: watched.gone.set(),
                on_violation=lambda detail: watched.violations.append(detail),
            )
        watched = Watched(child)
        try:
            await scenario(watched)
            await watched.ended()
        finally:
            child.kill()
        return watched

    with descriptors_closed():
        return asyncio.run(main())


async def nothing(watched: Watched) -> None:
    """Only watch."""


def test_last_words_are_heard_before_the_end() -> None:
    watched = play("r" + "c" * 100 + "e", nothing)
    assert watched.child.status == 3
    assert len(watched.messages) == 101
    assert watched.violations == []


@pytest.mark.parametrize(
    ("script", "detail"),
    [
        ("cs", "SessionClosed while starting"),
        ("rrs", "WorkerReady while ready"),
        ("rPs", "Pong that was not asked for"),
        ("gs", "msgpack|malformed|Expected|expected|Invalid"),
        ("as", "auth-ready"),
    ],
)
def test_violations_kill(script: str, detail: str) -> None:
    watched = play(script, nothing)
    assert watched.child.status == -signal.SIGKILL
    assert len(watched.violations) == 1
    assert any(part in watched.violations[0] for part in detail.split("|")), watched.violations


def test_violation_of_the_session_tables() -> None:
    watched = play("rcs", nothing, refuse="not yours")
    assert watched.violations == ["not yours"]
    assert watched.child.status == -signal.SIGKILL


def test_pings() -> None:
    async def scenario(watched: Watched) -> None:
        await watched.ready()
        assert [watched.child.ping() for _ in range(MISSED_PINGS)] == [True] * MISSED_PINGS
        async with asyncio.timeout(60):
            while not watched.child.ping():  # noqa: ASYNC110 - a Pong wakes nobody; the answer to the first makes room for one more
                await asyncio.sleep(0.01)
        assert not watched.child.ping()
        watched.child.kill()

    watched = play("rps", scenario)
    assert watched.violations == []
    assert watched.child.status == -signal.SIGKILL


def test_stopped_process_can_be_killed() -> None:
    async def scenario(watched: Watched) -> None:
        await watched.ready()
        os.kill(watched.child.pid, signal.SIGSTOP)
        for _ in range(MISSED_PINGS):
            watched.child.ping()
        assert not watched.child.ping()
        watched.child.kill()

    assert play("rw", scenario).child.status == -signal.SIGKILL


def test_told_to_go() -> None:
    async def scenario(watched: Watched) -> None:
        await watched.ready()
        watched.child.send(m.Shutdown())

    assert play("rw", scenario).child.status == 0


def test_environment_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "hush")

    async def scenario(watched: Watched) -> None:
        await watched.ready()
        with open(f"/proc/{watched.child.pid}/environ", "rb") as file:  # noqa: ASYNC230, PTH123 - a line of /proc
            assert b"hush" not in file.read()
        watched.child.send(m.Shutdown())

    play("rw", scenario)


WATCH = "asyncio.selector_events.BaseSelectorEventLoop.add_reader"


@pytest.mark.parametrize(
    ("call", "there"), [("os.pidfd_open", 0), (WATCH, 0), (WATCH, 1)], ids=["pidfd", "its end", "its channel"]
)
def test_what_cannot_be_watched_does_not_run(monkeypatch: pytest.MonkeyPatch, call: str, there: int) -> None:
    module, _, name = call.rpartition(".")
    real = getattr(resolve_name(module), name)
    calls: list[object] = []

    def refuse(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) > there:
            raise OSError(24, "Too many open files")
        return real(*arguments)

    before = children()
    monkeypatch.setattr(call, refuse)
    with pytest.raises(SystemRefusal, match="worker cannot be watched: Too many open files"):
        play("s", nothing)
    assert children() <= before  # neither running nor a zombie
