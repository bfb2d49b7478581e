"""What is written within one turn of the event loop is committed at once, and nobody hears of a grant before."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sstpfarm.auth.accounting import AccountingRecord, Kind
from sstpfarm.auth.radius.accounting import RadiusAccounting
from sstpfarm.auth.radius.client import RadiusClient
from sstpfarm.auth.sqlite.database import FILE_NAME, open_database
from sstpfarm.auth.sqlite.store import SqliteStore
from sstpfarm.config.fields import Password
from sstpfarm.config.radius import Radius, RadiusServer
from sstpfarm.config.views import PoolView
from sstpfarm.errors import SystemRefusal
from sstpfarm.ipc.messages import AccessAccept, AccessReject, Grant, LiveSessions, Revoke
from tests.radius_double import RadiusDouble, accounting, local
from tests.unit.auth_bench import Bench, run
from tests.unit.logins import request, secret, view

COUNT = 20
SETTINGS = msgspec.structs.replace(
    view(delay=0.0),
    max_starting=200,
    secrets={**view().secrets, "one": secret("x", only_one="replace")},
    pools={"main": PoolView(("10.20.0.2-10.20.0.200",))},
)


class Faulty:
    """A database in which a statement fails.

    Attributes:
        faults: beginnings of statements, with what is done instead of each.
        seen: all statements.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self.database = database
        self.faults: dict[str, Callable[[], None]] = {}
        self.seen: list[str] = []

    def execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        self.seen.append(statement)
        for beginning, act in self.faults.items():
            if statement.startswith(beginning):
                act()
                raise sqlite3.OperationalError("disk I/O error")
        return self.database.execute(statement, values)

    @property
    def in_transaction(self) -> bool:
        return self.database.in_transaction

    def close(self) -> None:
        self.database.close()


def faulty(store: SqliteStore) -> Faulty:
    made = Faulty(store._database)
    store._database = made  # type: ignore[assignment]  # it has what the store uses
    return made


def rows(directory: Path) -> int:
    """How many sessions others see in the file."""
    with closing(sqlite3.connect(directory / FILE_NAME)) as database:
        (found,) = database.execute("SELECT count(*) FROM session").fetchone()
    return int(found)


def ask_many(made: Bench, count: int = COUNT) -> Any:
    worker = made.worker(0)
    for number in range(count):
        worker.channel.send(request(b"alice", "wonderland", session=number))
    return worker


def test_a_grant_is_in_the_file_before_anybody_hears_of_it_and_many_cost_one_commit(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        database = faulty(made.store)
        master = made.auth.service._master
        send, seen = master.send, []

        def spy(message: Any, fds: Sequence[int] = ()) -> None:
            if isinstance(message, Grant):
                seen.append(rows(tmp_path))
            send(message, fds)

        master.send = spy  # type: ignore[method-assign]  # what leaves is looked at in the moment in which it does
        worker = ask_many(made)
        for _ in range(COUNT):
            assert isinstance(await worker.next(), AccessAccept)
        assert len(seen) == COUNT
        assert all(found >= at for at, found in enumerate(seen, start=1))
        assert database.seen.count("COMMIT") <= COUNT // 2

    run(tmp_path, story, SETTINGS)


def test_when_the_commit_fails_there_was_no_login(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        database = faulty(made.store)
        database.faults = {"COMMIT": lambda: None}
        worker = ask_many(made)
        for _ in range(COUNT):
            answer = await worker.next()
            assert isinstance(answer, AccessReject)
            assert answer.reason == "auth-unavailable"
        await made.settled()
        assert made.grants() == []
        assert len(made.auth.sessions) == len(made.auth.leases) == 0
        assert made.named("internal.error")[0] == {
            "detail": "auth's store: disk I/O error; nothing of that moment is kept"
        }
        assert rows(tmp_path) == 0
        database.faults = {}
        assert isinstance(await made.ask(worker, request(b"alice", "wonderland", session=99)), AccessAccept)
        assert rows(tmp_path) == 1

    run(tmp_path, story, SETTINGS)


def test_a_failure_that_ends_the_transaction_costs_what_is_in_it_and_no_more(tmp_path: Path) -> None:
    """SQLite undoes all of a transaction when the disk is full or fails in its midst."""

    async def story(made: Bench) -> None:
        worker = ask_many(made, 1)
        assert isinstance(await worker.next(), AccessAccept)
        database = faulty(made.store)

        def roll_back() -> None:
            database.faults = {}
            database.database.execute("ROLLBACK")

        database.faults = {"DELETE FROM session": roll_back}
        worker.channel.send(request(b"fixed", "nailed", session=1))  # nobody gets alice's address here
        made.start(0)
        made.release(0, opened=True, seconds=3)
        answer = await worker.next()
        await made.settled()
        kept = 2 if isinstance(answer, AccessAccept) else 1  # in another turn, it was kept
        assert rows(tmp_path) == kept
        assert len(made.auth.sessions) == len(made.auth.leases) == kept - 1
        assert isinstance(await made.ask(worker, request(b"one", "x", session=2)), AccessAccept)
        assert rows(tmp_path) == kept + 1

    async def after(made: Bench) -> None:
        made.master.channel.send(LiveSessions(sessions=(), first=True))
        await made.settled()
        assert rows(tmp_path) == len(made.auth.leases) == 0

    run(tmp_path, story, SETTINGS)
    run(tmp_path, after, SETTINGS)


def test_a_session_that_is_replaced_in_the_moment_of_its_grant_is_granted_first_and_revoked_then(
    tmp_path: Path,
) -> None:
    async def story(made: Bench) -> None:
        worker = made.worker(0)
        for number in range(4):
            worker.channel.send(request(b"one", "x", session=number))
        for _ in range(4):
            assert isinstance(await worker.next(), AccessAccept)
        await made.settled()
        told = [(type(message), message.session) for _, message in made.journal if isinstance(message, Grant | Revoke)]
        for number in range(3):
            grant, revoke = (told.index((kind, f"{number:016x}")) for kind in (Grant, Revoke))
            assert grant < revoke
        assert (Revoke, f"{3:016x}") not in told

    run(tmp_path, story, SETTINGS)


def test_a_part_that_fails_takes_nothing_else_of_its_turn_along(tmp_path: Path) -> None:
    later: list[Callable[[], None]] = []
    kept: list[bool] = []
    store = SqliteStore(open_database(tmp_path, os.getuid(), os.getgid()))
    store.group(later.append, pytest.fail)

    def half() -> None:
        with store.transaction():
            assert store.spool("radius", b"half", 10)
            raise SystemRefusal("no")

    try:
        assert store.spool("radius", b"before", 10)
        with pytest.raises(SystemRefusal, match="no"):
            half()
        with store.transaction():
            assert store.spool("radius", b"behind", 10)
        store.then(kept.append)
        assert kept == []
        (commit,) = later
        commit()
        assert kept == [True]
        assert [data for _, data in store.spooled("radius", 9)] == [b"before", b"behind"]
        store.then(kept.append)
        assert kept == [True, True]  # nothing waits
        assert store.spool("radius", b"last", 10)
    finally:
        store.close()
    again = SqliteStore(open_database(tmp_path, os.getuid(), os.getgid()))
    assert len(again.spooled("radius", 9)) == 3  # an orderly end loses nothing
    again.close()


def test_no_server_is_told_what_is_not_committed(tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        store = SqliteStore(open_database(tmp_path, os.getuid(), os.getgid()))
        server = RadiusServer(address="127.0.0.1", acct_port=double.port, secret=Password("testing123"))
        radius = Radius(server=(server,))
        client = RadiusClient(radius, os.urandom, lambda name, **keys: None)
        sink = RadiusAccounting(client, radius, store, wall=lambda: 5.0, emit=lambda name, **keys: None)
        later: list[Callable[[], None]] = []
        store.group(later.append, pytest.fail)
        asked: list[bool] = []
        ask = client.ask

        async def spy(*words: Any, **keys: Any) -> Any:
            asked.append(store._grouped)
            return await ask(*words, **keys)

        client.ask = spy  # type: ignore[method-assign]  # the moment of sending is looked at
        sink.start()
        sink.record(AccountingRecord(kind=Kind.START, at=1.0, session=f"{1:016x}"))
        for _ in range(50):
            await asyncio.sleep(0)
        assert asked == []
        later.pop(0)()
        store.group(loop.call_soon, pytest.fail)
        async with asyncio.timeout(30):
            while store.spooled("radius", 1):  # noqa: ASYNC110  # a thread answers
                await asyncio.sleep(0.01)
        assert asked == [False]
        await sink.close(0.0)
        client.close()
        store.close()

    with RadiusDouble(local(), accounting) as double:
        asyncio.run(main())
