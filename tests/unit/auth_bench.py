"""A whole auth service in the test's process: over a store in a directory, between a master and workers of the test."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sstpfarm.auth.assembly import Assembly
from sstpfarm.auth.sqlite.database import open_database
from sstpfarm.auth.sqlite.store import SqliteStore
from sstpfarm.config.views import AuthView
from sstpfarm.ipc.channel import Channel, channel_pair
from sstpfarm.ipc.messages import (
    AccessRequest,
    AuthReady,
    Grant,
    Message,
    Ping,
    Pong,
    Revoke,
    SessionReleased,
    SessionStarted,
    WorkerAttached,
    WorkerViolated,
)
from sstpfarm.ipc.permissions import Party, may_send
from tests.unit.logins import view

Story = Callable[["Bench"], Awaitable[None]]


class End:
    """The other end of one of auth's channels."""

    def __init__(self, sock: socket.socket, receiver: Party, journal: list[tuple[Party, Message]]) -> None:
        self.journal = journal
        self.inbox: asyncio.Queue[Any] = asyncio.Queue()
        self.ended = asyncio.Event()

        def on_message(message: Message, fds: list[int]) -> None:
            assert fds == []
            journal.append((receiver, message))
            self.inbox.put_nowait(message)

        self.channel = Channel(sock, may_send(Party.AUTH, receiver), on_message, lambda _: self.ended.set())
        self.channel.start(asyncio.get_running_loop())

    async def next(self) -> Any:
        return await asyncio.wait_for(self.inbox.get(), 30)


class Bench:
    """A service, its master, and workers as they are wanted.

    Attributes:
        now: the wall clock that auth sees.
    """

    def __init__(self, directory: Path, settings: AuthView) -> None:
        self.journal: list[tuple[Party, Message]] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.ends: list[str] = []
        self.now = time.time()
        self.store = SqliteStore(open_database(directory, os.getuid(), os.getgid()))
        self.auth = Assembly(
            settings,
            self.store,
            entropy=os.urandom,
            wall=lambda: self.now,
            clock=asyncio.get_running_loop().time,
            random=random.random,
            emit=lambda name, **keys: self.events.append((name, keys)),
            on_end=self.ends.append,
        )
        ours, theirs = channel_pair()
        self.auth.service.start(asyncio.get_running_loop(), theirs)
        self.master = End(ours, Party.MASTER, self.journal)
        self.workers: list[End] = []

    def worker(self, number: int, generation: int = 1) -> End:
        ours, theirs = channel_pair()
        self.master.channel.send(WorkerAttached(number, generation), [theirs.fileno()])
        theirs.close()
        end = End(ours, Party.WORKER, self.journal)
        self.workers.append(end)
        return end

    async def settled(self) -> None:
        """Wait until auth has handled all that the master sent before."""
        self.master.channel.send(Ping(number=1))
        while not isinstance(await self.master.next(), Pong):
            pass

    async def ask(self, worker: End, request: AccessRequest) -> Any:
        """The answer to one request."""
        worker.channel.send(request)
        return await worker.next()

    def start(self, number: int, worker: int = 0, interface: str = "sstp0") -> None:
        """The master says that a session carries packets."""
        self.master.channel.send(
            SessionStarted(worker=worker, session=f"{number:016x}", interface=interface, ipv6_peer=b"12345678")
        )

    def release(
        self, number: int, worker: int = 0, reason: str = "peer-disconnect", *, opened: bool = False, **counters: int
    ) -> None:
        """The master says that a session is gone."""
        self.master.channel.send(
            SessionReleased(worker=worker, session=f"{number:016x}", reason=reason, opened=opened, **counters)
        )

    def violations(self) -> list[WorkerViolated]:
        """What auth told the master about workers."""
        return [message for _, message in self.journal if isinstance(message, WorkerViolated)]

    def grants(self) -> list[Grant]:
        """What auth granted."""
        return [message for _, message in self.journal if isinstance(message, Grant)]

    def revoked(self) -> list[tuple[str, str]]:
        """The sessions that auth had the master end, with the reason."""
        return [(message.session, message.reason) for _, message in self.journal if isinstance(message, Revoke)]

    def named(self, name: str) -> list[dict[str, Any]]:
        return [keys for event, keys in self.events if event == name]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what auth does by itself."""
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110  # the conditions are about plain lists
                await asyncio.sleep(0.005)


@asynccontextmanager
async def bench(directory: Path, settings: AuthView | None = None) -> AsyncIterator[Bench]:
    """A bench; its end is that of a killed process: nothing is told, the store stays as it is."""
    made = Bench(directory, settings or view())
    try:
        assert isinstance(await made.master.next(), AuthReady)
        yield made
    finally:
        await made.auth.close()
        for end in (made.master, *made.workers):
            end.channel.close()
        made.store.close()


def run(directory: Path, story: Story, settings: AuthView | None = None) -> None:
    """Play a story on a bench."""

    async def main() -> None:
        async with bench(directory, settings) as made:
            await story(made)

    asyncio.run(main())
