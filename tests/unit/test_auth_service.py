"""The auth service between a master and workers, over real channels."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sstpfarm.auth.decide import Judge
from sstpfarm.auth.leases import Holder, SqliteLeases, open_database
from sstpfarm.auth.service import AuthService
from sstpfarm.ipc.channel import Channel, channel_pair
from sstpfarm.ipc.messages import (
    AccessAccept,
    AccessReject,
    AuthReady,
    Grant,
    LiveSessions,
    Message,
    Ping,
    Pong,
    SessionReleased,
    Shutdown,
    WorkerAttached,
    WorkerViolated,
)
from sstpfarm.ipc.permissions import Party, may_send
from tests.unit.logins import request, view

DELAY = 0.2


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
        return await asyncio.wait_for(self.inbox.get(), 5)


class Bench:
    """A service, its master, and workers as they are wanted."""

    def __init__(self, directory: Path) -> None:
        settings = view(delay=DELAY)
        self.journal: list[tuple[Party, Message]] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.ends: list[str] = []
        self.leases = SqliteLeases(
            open_database(directory, os.getuid(), os.getgid()), settings.pools, settings.reserved, lambda: 0.0
        )
        self.service = AuthService(
            Judge(settings, self.leases, os.urandom),
            self.leases,
            failure_delay=DELAY,
            max_waiting=settings.max_starting,
            emit=lambda name, **keys: self.events.append((name, keys)),
            on_end=self.ends.append,
        )
        ours, theirs = channel_pair()
        self.service.start(asyncio.get_running_loop(), theirs)
        self.master = End(ours, Party.MASTER, self.journal)
        self.workers: list[End] = []

    def worker(self, number: int) -> End:
        ours, theirs = channel_pair()
        self.master.channel.send(WorkerAttached(worker=number), [theirs.fileno()])
        theirs.close()
        end = End(ours, Party.WORKER, self.journal)
        self.workers.append(end)
        return end

    async def settled(self) -> None:
        """Wait until auth has handled all that the master sent before."""
        self.master.channel.send(Ping(number=1))
        while not isinstance(await self.master.next(), Pong):
            pass

    def violations(self) -> list[WorkerViolated]:
        """What auth told the master about workers."""
        return [message for _, message in self.journal if isinstance(message, WorkerViolated)]

    def named(self, name: str) -> list[dict[str, Any]]:
        return [keys for event, keys in self.events if event == name]


@asynccontextmanager
async def bench(directory: Path) -> AsyncIterator[Bench]:
    made = Bench(directory)
    try:
        assert isinstance(await made.master.next(), AuthReady)
        yield made
    finally:
        made.service.close()
        for end in (made.master, *made.workers):
            end.channel.close()
        made.leases.close()


def run(directory: Path, story: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        async with bench(directory) as made:
            await story(made)

    asyncio.run(main())


def test_the_master_gets_the_grant_before_the_worker_gets_the_answer(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        worker = made.worker(3)
        worker.channel.send(request(b"alice", "wonderland"))
        grant, answer = await made.master.next(), await worker.next()
        assert isinstance(grant, Grant)
        assert isinstance(answer, AccessAccept)
        assert (grant.worker, grant.session, grant.terms) == (3, answer.session, answer.terms)
        assert [party for party, _ in made.journal] == [Party.MASTER, Party.MASTER, Party.WORKER]

    run(tmp_path, story)


def test_a_refusal_waits_and_holds_up_nobody(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        clock = asyncio.get_running_loop().time
        worker, other = made.worker(0), made.worker(1)
        began = clock()
        worker.channel.send(request(b"alice", "wrong", session=1))
        worker.channel.send(request(b"mallory", "wrong", session=2))
        worker.channel.send(request(b"alice", "wonderland", session=3))
        other.channel.send(request(b"fixed", "nailed", session=4))
        assert isinstance(await worker.next(), AccessAccept)
        assert isinstance(await other.next(), AccessAccept)
        assert worker.inbox.empty()  # the refusals, asked for before, still wait
        for session in (1, 2):
            answer = await worker.next()
            assert isinstance(answer, AccessReject)
            assert (answer.session, answer.reason) == (f"{session:016x}", "auth-refused")
        assert clock() - began >= DELAY
        assert [event["detail"] for event in made.named("login.denied")] == ["wrong password", "unknown user"]

    run(tmp_path, story)


def test_refusals_that_wait_are_bounded_for_each_worker(tmp_path: Path) -> None:
    """What comes beyond is not judged, so a right password and a wrong one look the same."""

    async def story(made: Bench) -> None:
        worker, other = made.worker(0), made.worker(1)
        for session in range(4):
            worker.channel.send(request(b"alice", "wrong", session=session))
        worker.channel.send(request(b"alice", "wonderland", session=8))
        worker.channel.send(request(b"alice", "wrong", session=9))
        for session in (8, 9):
            answer = await worker.next()
            assert (answer.session, answer.reason) == (f"{session:016x}", "auth-unavailable")
        other.channel.send(request(b"alice", "wonderland"))
        assert isinstance(await other.next(), AccessAccept)
        for _ in range(4):
            assert (await worker.next()).reason == "auth-refused"
        worker.channel.send(request(b"alice", "wonderland", session=10))
        assert isinstance(await worker.next(), AccessAccept)

    run(tmp_path, story)


def test_a_released_session_gives_its_address_back(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        worker = made.worker(0)
        worker.channel.send(request(b"fixed", "nailed", session=1))
        assert isinstance(await worker.next(), AccessAccept)
        worker.channel.send(request(b"fixed", "nailed", session=2))
        assert (await worker.next()).reason == "no-address"
        made.master.channel.send(SessionReleased(worker=0, session=f"{1:016x}", reason="peer-disconnect"))
        await made.settled()
        worker.channel.send(request(b"fixed", "nailed", session=3))
        assert isinstance(await worker.next(), AccessAccept)

    run(tmp_path, story)


def test_a_worker_releases_nothing_by_going_away(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        worker = made.worker(0)
        worker.channel.send(request(b"alice", "wonderland"))
        await worker.next()
        worker.channel.send(request(b"alice", "wrong", session=2))
        worker.channel.close()
        await asyncio.sleep(DELAY * 1.5)  # the refusal that waits meets a closed channel
        assert len(made.leases) == 1
        assert made.violations() == []

    run(tmp_path, story)


def test_after_a_restart_the_masters_list_frees_the_rest(tmp_path: Path) -> None:
    async def before(made: Bench) -> None:
        worker = made.worker(0)
        for session in (1, 2):
            worker.channel.send(request(b"alice", "wonderland", session=session))
            assert isinstance(await worker.next(), AccessAccept)

    async def after(made: Bench) -> None:
        assert len(made.leases) == 2
        made.master.channel.send(LiveSessions(sessions=(f"{2:016x}",)))
        await made.settled()
        assert len(made.leases) == 1
        made.leases.release(Holder(0, f"{2:016x}"))
        assert len(made.leases) == 0

    run(tmp_path, before)
    run(tmp_path, after)


def test_the_masters_list_may_come_in_parts(tmp_path: Path) -> None:
    async def before(made: Bench) -> None:
        worker = made.worker(0)
        for session in (1, 2):
            worker.channel.send(request(b"alice", "wonderland", session=session))
            assert isinstance(await worker.next(), AccessAccept)

    async def after(made: Bench) -> None:
        made.master.channel.send(LiveSessions(sessions=(f"{1:016x}",), more=True))
        made.master.channel.send(LiveSessions(sessions=("f" * 16,), more=True))
        await made.settled()
        assert len(made.leases) == 2  # nothing is freed before the last part
        made.master.channel.send(LiveSessions(sessions=(f"{2:016x}",)))
        await made.settled()
        assert len(made.leases) == 2

    run(tmp_path, before)
    run(tmp_path, after)


def test_a_new_worker_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        old = made.worker(0)
        new = made.worker(0)
        await asyncio.wait_for(old.ended.wait(), 5)
        new.channel.send(request(b"alice", "wonderland"))
        assert isinstance(await new.next(), AccessAccept)

    run(tmp_path, story)


def test_a_worker_that_sends_what_it_may_not_is_cut_off_alone(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        bad, good = made.worker(0), made.worker(1)
        bad.channel.send(Shutdown())
        await asyncio.wait_for(bad.ended.wait(), 5)
        await made.settled()
        assert [violated.worker for violated in made.violations()] == [0]
        good.channel.send(request(b"alice", "wonderland"))
        assert isinstance(await good.next(), AccessAccept)
        assert made.ends == []

    run(tmp_path, story)


def test_a_second_login_in_a_session_cuts_the_worker_off(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        worker = made.worker(7)
        worker.channel.send(request(b"alice", "wonderland"))
        worker.channel.send(request(b"fixed", "nailed"))
        await asyncio.wait_for(worker.ended.wait(), 5)
        await made.settled()
        (violated,) = made.violations()
        assert (violated.worker, violated.detail) == (7, f"session {1:016x} of worker 7 has a lease")
        assert len(made.leases) == 1

    run(tmp_path, story)


def test_it_ends_with_the_master(tmp_path: Path) -> None:
    async def gone(made: Bench) -> None:
        made.master.channel.close()
        while not made.ends:  # noqa: ASYNC110  # on_end is a plain callback here
            await asyncio.sleep(0.001)
        assert made.ends == ["closed by the other end"]

    async def told(made: Bench) -> None:
        made.master.channel.send(Shutdown())
        await made.settled()
        assert made.ends == ["shutdown"]

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    run(tmp_path / "a", gone)
    run(tmp_path / "b", told)


def test_no_event_holds_a_password_or_a_proof(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        worker = made.worker(0)
        worker.channel.send(request(b"alice", "guess-one", "pap", session=1))
        worker.channel.send(request(b"alice", "wonderland", "pap", session=2))
        assert isinstance(await worker.next(), AccessAccept)
        assert isinstance(await worker.next(), AccessReject)
        assert "guess-one" not in repr(made.events)
        assert "wonderland" not in repr(made.events)

    run(tmp_path, story)
