"""What the supervisor tells its processes, without processes."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime

import msgspec
import pytest

from sstpfarm.config.addresses import Endpoint
from sstpfarm.config.fields import Password
from sstpfarm.config.ppp import Secret
from sstpfarm.config.schema import Config
from sstpfarm.dataplane.interface import Offload
from sstpfarm.dataplane.select import Dataplane
from sstpfarm.errors import SystemRefusal
from sstpfarm.ipc import messages as m
from sstpfarm.ipc.channel import MAX_MESSAGE, Channel, channel_pair
from sstpfarm.ipc.permissions import Party, may_send
from sstpfarm.master import supervisor as module
from sstpfarm.master.certificate import Certificate
from sstpfarm.master.child import Child
from sstpfarm.master.listeners import Listener
from sstpfarm.master.permissions import ProcessPhase
from sstpfarm.master.supervisor import LIVE_SESSIONS_PART, Supervisor, live_sessions
from sstpfarm.net.links import Links
from sstpfarm.telemetry.collector import FarmCollector
from sstpfarm.telemetry.log import get_log
from sstpfarm.telemetry.stats import Stats

from .descriptors import descriptors_closed, open_descriptors


@pytest.mark.parametrize(
    ("count", "parts"),
    [
        (0, [0]),
        (1, [1]),
        (LIVE_SESSIONS_PART, [LIVE_SESSIONS_PART]),
        (LIVE_SESSIONS_PART + 1, [LIVE_SESSIONS_PART, 1]),
        (2 * LIVE_SESSIONS_PART, [LIVE_SESSIONS_PART] * 2),
        (2 * LIVE_SESSIONS_PART + 7, [LIVE_SESSIONS_PART, LIVE_SESSIONS_PART, 7]),
    ],
)
def test_live_sessions_in_parts(count: int, parts: list[int]) -> None:
    identifiers = [f"{number:016x}" for number in range(count)]
    messages = live_sessions(identifiers)
    assert [len(message.sessions) for message in messages] == parts
    assert [session for message in messages for session in message.sessions] == identifiers
    assert [message.more for message in messages] == [True] * (len(parts) - 1) + [False]
    assert all(len(msgspec.msgpack.encode(message)) <= MAX_MESSAGE for message in messages)


class Killable(Child):
    """Stands for a process that serves."""

    def __init__(self) -> None:
        self.phase, self.status, self.killed = ProcessPhase.READY, None, False

    def kill(self) -> None:
        self.killed = True

    def send(self, message: m.Message, fds: Sequence[int] = ()) -> None:
        """What it is told does not matter."""


class Told(Child):
    """Stands for a process that is told something by a real channel, and has not said yet that it serves.

    Args:
        slow: it does not read now, and so much waits for it that its channel takes no more.
    """

    def __init__(self, party: Party, *, slow: bool) -> None:
        self.phase, self.status = ProcessPhase.STARTING, None
        ours, self.end = channel_pair()
        self.channel = Channel(ours, may_send(party, Party.MASTER), lambda *_: None, lambda _: None)
        self._sent = 0
        while slow and not self.channel._queue:
            self.channel.send(m.Ping(number=self._sent))
            self._sent += 1

    def read(self) -> list[str]:
        """What it was told, but for the pings; each with descriptors of files that have content."""
        self.channel._loop = None
        found = []
        with suppress(BlockingIOError):
            while True:
                data, fds, _, _ = socket.recv_fds(self.end, MAX_MESSAGE, 4)
                assert all(os.fstat(fd).st_size for fd in fds)
                for fd in fds:
                    os.close(fd)
                found.append(msgspec.msgpack.decode(data)["t"])
                self.channel._writable()
        return [name for name in found if name != "ping"]

    def close(self) -> None:
        self.channel.close()
        self.end.close()


@contextmanager
def scarce(left: int) -> Iterator[None]:
    """So many descriptors can be had."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(open_descriptors()) + 32, before[1]))
    taken: list[int] = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for _ in range(left):
            os.close(taken.pop())
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("left", range(13))
def test_a_reload_for_which_there_are_not_enough_descriptors_changes_nothing(left: int, slow: bool) -> None:
    """It takes eleven: four memory files, and copies for auth and for two workers, which may be slow to read theirs.

    One that starts in this moment is told too.
    """
    before, renewed = (Certificate(b"chain", b"key", name, datetime.now(UTC)) for name in ("before", "renewed"))
    users = {"alice": Secret(password=Password("wonderland"), on_up=("/bin/true",))}
    done = left >= 11

    async def scenario() -> None:
        async with Links() as links:
            collector = FarmCollector(version="0", dataplane="pure", workers_up=lambda: 1)
            dataplane = Dataplane("pure", Offload.NONE)
            supervisor = Supervisor(Config(), before, [], links, collector, get_log(), [0, 1], dataplane)
            auth, *workers = (Told(party, slow=slow) for party in (Party.AUTH, Party.WORKER, Party.WORKER))
            supervisor._auth = auth
            for place, child in zip(supervisor._places, workers, strict=True):
                place.child = child
            with descriptors_closed():
                refused = pytest.raises((SystemRefusal, OSError), match="Too many open files")
                with scarce(left), nullcontext() if done else refused:
                    supervisor.reload(Config(secret=users), renewed)
                assert auth.read() == ["reload-users"] * done
                assert [worker.read() for worker in workers] == [["certificate-renewed"] * done] * 2
            assert supervisor.certificate is (renewed if done else before)
            assert supervisor._config.secret == (users if done else {})
            assert supervisor.keeper.effects._programs == ({("/bin/true",)} if done else set())
            supervisor.reload(Config(secret=users), renewed)
            for child in (auth, *workers):
                assert len(child.read()) == 1
                child.close()
            await supervisor.keeper.close()

    asyncio.run(scenario())


def bad_grant(generation: int) -> m.Grant:
    terms = m.Terms(local_address="10.0.0.1", remote_address="10.0.0.2")
    slot = 65535  # there is none of that number
    return m.Grant(0, "0" * 16, "u", "c", "pap", mtu=1400, slot=slot, terms=terms, generation=generation)


@pytest.mark.parametrize("generation", [1, 2])
@pytest.mark.parametrize(
    "told",
    [lambda generation: m.WorkerViolated(0, generation, "it lied"), bad_grant],
    ids=["to auth", "in a grant"],
)
def test_a_worker_does_not_answer_for_the_one_before(generation: int, told: object) -> None:
    async def scenario() -> None:
        async with Links() as links:
            certificate = Certificate(b"", b"", "", datetime.now(UTC))
            collector = FarmCollector(version="0", dataplane="pure", workers_up=lambda: 1)
            dataplane = Dataplane("pure", Offload.NONE)
            made = Supervisor(Config(), certificate, [], links, collector, get_log(), [0], dataplane)
            (place,) = made._places
            worker, stats = Killable(), Stats.create(8)
            place.child, place.stats, place.generation = worker, stats, 2
            assert callable(told)
            made._from_auth(told(generation))
            assert worker.killed is (generation == 2)
            stats.close()
            await made.keeper.close()

    asyncio.run(scenario())


class Forked(Killable):
    """Stands for a process that was just started, and that cannot be told of another one."""

    party, pid = Party.AUTH, 4711

    def __init__(self, *arguments: object, **_: object) -> None:
        super().__init__()
        for argument in arguments:
            if isinstance(argument, socket.socket):  # the end of its channel
                argument.close()

    def send(self, message: m.Message, fds: Sequence[int] = ()) -> None:
        if fds:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.mark.parametrize("restarted", ["auth", "worker"])
def test_a_process_that_cannot_be_joined_to_the_others_is_no_orphan(
    restarted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is known, and ends; `_auth_gone` and `_worker_gone` start another one then."""

    async def scenario() -> None:
        async with Links() as links:
            certificate = Certificate(b"chain", b"key", "", datetime.now(UTC))
            collector = FarmCollector(version="0", dataplane="pure", workers_up=lambda: 1)
            dataplane = Dataplane("pure", Offload.NONE)
            made = Supervisor(Config(), certificate, [], links, collector, get_log(), [0], dataplane)
            (place,) = made._places
            monkeypatch.setattr(module, "Child", Forked)
            if restarted == "auth":
                place.child = Killable()
                made._start_auth()
                assert isinstance(made._auth, Forked)
                assert made._auth.killed
            else:
                made._auth = Forked()
                made._start_worker(place)
                assert isinstance(place.child, Forked)
                assert place.child.killed
                assert not made._auth.killed
                made._worker_gone(place)
                assert (place.stats, *made._children()) == (None, made._auth)
            await made.keeper.close()

    asyncio.run(scenario())


def test_a_listener_that_cannot_be_lent_keeps_no_worker_from_being_started_again() -> None:
    """And it counts as lent to nobody: the next worker that is ready gets it, or its owner serves it itself."""

    async def scenario() -> None:
        async with Links() as links:
            certificate = Certificate(b"chain", b"key", "", datetime.now(UTC))
            collector = FarmCollector(version="0", dataplane="pure", workers_up=lambda: 1)
            dataplane = Dataplane("pure", Offload.NONE)
            with socket.create_server(("127.0.0.1", 0)) as sock:
                listeners = [Listener(0, 0, Endpoint("127.0.0.1", sock.getsockname()[1]), sock)]
                made = Supervisor(Config(), certificate, listeners, links, collector, get_log(), [0, 1], dataplane)
                lost, other = made._places
                made._up = True
                for place in (lost, other):
                    place.child, place.stats = Forked(), Stats.create(8)
                    place.child._started, place.child._loop = 0.0, asyncio.get_running_loop()
                    collector.attach(place.number, place.stats)
                    place.child.status = -9 if place is lost else None
                made._worker_gone(lost)
                assert lost.child is None
                assert len(made._tasks) == 1
                assert made._lending._lent == {}
                other.child = Killable()
                made._lending.share(made.keeper.table.count)
                assert made._lending._lent == {0: 1}
                for task in list(made._tasks):
                    task.cancel()
                await made.keeper.close()

    asyncio.run(scenario())
