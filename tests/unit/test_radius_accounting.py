"""Accounting to RADIUS: what a record says, and the spool: nothing lost, in order, over restarts."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sstpfarm.auth.accounting import AccountingRecord, Kind
from sstpfarm.auth.radius import accounting as under_test
from sstpfarm.auth.radius.accounting import RadiusAccounting, accounting_attributes
from sstpfarm.auth.radius.client import RadiusClient
from sstpfarm.auth.sqlite.database import open_database
from sstpfarm.auth.sqlite.store import SqliteStore
from sstpfarm.config.fields import Password
from sstpfarm.config.radius import Radius, RadiusServer
from sstpfarm.errors import SystemRefusal
from tests.radius_double import RadiusDouble, Received, accounting, local

STATUS, SESSION, DELAY = 40, 44, 41
RADIUS = Radius(server=(RadiusServer(address="127.0.0.1", secret=Password("x")),), nas_ip_address="192.0.2.1")


def session_record(number: int, kind: Kind = Kind.START, **keys: Any) -> AccountingRecord:
    return AccountingRecord(
        kind=kind, at=1000.5, session=f"{number:016x}", user="alice", caller_id="198.51.100.7:50000", **keys
    )


def told(double: RadiusDouble) -> list[tuple[int, int]]:
    """Session and status of each different request that came, in order."""
    requests = dict.fromkeys(double.received)
    return [(int(r.values(SESSION)[0], 16), r.values(STATUS)[0][3]) for r in requests if r.code == 4]


@asynccontextmanager
async def sending(
    directory: Path, double: RadiusDouble, events: list[str] | None = None, *, status_server: bool = False
) -> AsyncIterator[tuple[RadiusAccounting, SqliteStore]]:
    names = [] if events is None else events
    server = RadiusServer(
        address="127.0.0.1",
        acct_port=double.port,
        secret=Password("testing123"),
        timeout_s=0.1,
        retries=0,
        dead_time_s=0.1,
        status_server=status_server,
    )
    radius = Radius(server=(server,))
    store = SqliteStore(open_database(directory, os.getuid(), os.getgid()))

    def emit(name: str, **keys: Any) -> None:
        names.append(name)

    client = RadiusClient(radius, os.urandom, emit)
    sink = RadiusAccounting(client, radius, store, wall=time.time, emit=emit)
    try:
        yield sink, store
    finally:
        await sink.close(0.0)
        client.close()
        store.close()


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not reached():  # noqa: ASYNC110  # a thread answers
            await asyncio.sleep(0.01)


def test_what_a_stop_says() -> None:
    record = session_record(
        7,
        Kind.STOP,
        authentic="radius",
        nas_port=3 << 20 | 5,
        interface="sstp4",
        address="10.20.0.9",
        interface_id=bytes(range(8)),
        framed_prefixes=("fd42:3::/64",),
        delegated_prefixes=("fd42:2::/56",),
        ipv6_addresses=("fd42::9",),
        called_id="192.0.2.1:443",
        connect_info="SSTP TLSv1.3",
        class_=(b"a", b"b"),
        seconds=60,
        bytes_in=(3 << 32) + 10,
        bytes_out=20,
        packets_in=(1 << 32) + 1,
        packets_out=2,
        reason="idle-timeout",
    )
    pairs = accounting_attributes(RADIUS, record, 1010.9)
    assert [value for name, value in pairs if name == "Class"] == [b"a", b"b"]
    assert {name: value for name, value in pairs if name != "Class"} == {
        "Acct-Status-Type": 2,
        "Acct-Session-Id": "0000000000000007",
        "NAS-Identifier": "sstpfarm",
        "NAS-IP-Address": "192.0.2.1",
        "Event-Timestamp": 1000,
        "Acct-Delay-Time": 10,
        "User-Name": b"alice",
        "NAS-Port": 3145733,
        "NAS-Port-Type": 5,
        "Service-Type": 2,
        "Framed-Protocol": 1,
        "Acct-Authentic": 1,
        "Calling-Station-Id": "198.51.100.7",
        "Called-Station-Id": "192.0.2.1:443",
        "Connect-Info": "SSTP TLSv1.3",
        "NAS-Port-Id": "sstp4",
        "Framed-IP-Address": "10.20.0.9",
        "Framed-Interface-Id": bytes(range(8)),
        "Framed-IPv6-Prefix": b"\0\x40\xfd\x42\0\3\0\0\0\0",
        "Delegated-IPv6-Prefix": b"\0\x38\xfd\x42\0\2\0\0\0",
        "Framed-IPv6-Address": b"\xfd\x42" + bytes(13) + b"\x09",
        "Acct-Session-Time": 60,
        "Acct-Input-Octets": 10,
        "Acct-Output-Octets": 20,
        "Acct-Input-Gigawords": 3,
        "Acct-Output-Gigawords": 0,
        "Acct-Input-Packets": 1,
        "Acct-Output-Packets": 2,
        "Acct-Terminate-Cause": 4,
    }


def test_a_clock_that_was_set_back_makes_no_delay_below_zero() -> None:
    assert ("Acct-Delay-Time", 0) in accounting_attributes(RADIUS, session_record(1), 900.0)


def test_records_go_out_in_the_order_of_each_session(tmp_path: Path) -> None:
    async def main() -> None:
        async with sending(tmp_path, double) as (sink, store):
            sink.start()
            for kind in (Kind.START, Kind.INTERIM, Kind.STOP):
                for number in range(20):
                    sink.record(session_record(number, kind, reason="shutdown" if kind is Kind.STOP else ""))
            await until(lambda: store.spooled("radius", 1) == [])

    with RadiusDouble(local(), accounting) as double:
        asyncio.run(main())
        found = told(double)
        assert len(found) == 60
        for number in range(20):
            assert [status for session, status in found if session == number] == [1, 3, 2]


def test_on_and_off_wait_for_all_before_them(tmp_path: Path) -> None:
    async def main() -> None:
        async with sending(tmp_path, double) as (sink, store):
            sink.record(AccountingRecord(kind=Kind.ON, at=1.0))
            sink.record(session_record(1))
            sink.record(session_record(2))
            sink.record(AccountingRecord(kind=Kind.OFF, at=2.0))
            sink.start()
            await until(lambda: store.spooled("radius", 1) == [])

    with RadiusDouble(local(), accounting) as double:
        asyncio.run(main())
        statuses = [status for _, status in told(double)]
        assert statuses == [7, 1, 1, 8]


@pytest.mark.parametrize("status_server", [True, False])
def test_a_server_that_ignores_on_and_off_gets_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status_server: bool
) -> None:
    monkeypatch.setattr(under_test, "RETRY_INTERVAL", 0.01)
    events: list[str] = []

    def script(request: Received) -> Iterable[bytes]:
        if request.code == 12 and status_server:
            yield request.reply(5)
        if request.code == 4 and request.values(STATUS)[0][3] in (1, 2):
            yield request.reply(5, signed=False)

    async def main() -> None:
        async with sending(tmp_path, double, events, status_server=status_server) as (sink, store):
            for kind in (Kind.OFF, Kind.ON):  # of the farm before, and of this one
                sink.record(AccountingRecord(kind=kind, at=1.0))
            sink.record(session_record(1))
            sink.record(session_record(2))
            sink.start()
            await until(lambda: store.spooled("radius", 1) == [])

    with RadiusDouble(local(), script) as double:
        asyncio.run(main())
        statuses = [status for _, status in told(double)]
        assert statuses.index(8) < statuses.index(1) < statuses.index(7, statuses.index(1))
        assert {session for session, status in told(double) if status == 1} == {1, 2}
        assert "radius.records_lost" in events


def test_on_is_not_given_up_because_a_server_was_away_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a session's Start stand before it: On ends all sessions that the server knows."""
    monkeypatch.setattr(under_test, "RETRY_INTERVAL", 0.001)
    acknowledged: list[int] = []

    def back(request: Received) -> Iterable[bytes]:
        if request.code == 4:
            acknowledged.append(request.values(STATUS)[0][3])
            yield request.reply(5, signed=False)

    async def main() -> None:
        async with sending(tmp_path, double) as (sink, store):
            while first != {7, 1}:  # both, On and the record behind it, must be the first to find it back
                double.script = lambda _: ()
                acknowledged.clear()
                sink.record(AccountingRecord(kind=Kind.ON, at=1.0))
                sink.record(session_record(1))
                if sink._sender is None:
                    sink.start()
                await until(lambda: max(sink._passed_over.values(), default=0) > under_test.MAX_PASSED_OVER + 3)
                double.script = back
                await until(lambda: store.spooled("radius", 1) == [])
                assert 7 in acknowledged
                assert acknowledged.index(1, acknowledged.index(7)) == len(acknowledged) - 1
                first.add(acknowledged[0])

    first: set[int] = set()
    with RadiusDouble(local()) as double:
        asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize("error", [SystemRefusal("auth's store: disk I/O error"), RuntimeError("a bug")])
def test_what_goes_wrong_does_not_end_the_accounting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(under_test, "RETRY_INTERVAL", 0.02)
    events: list[str] = []
    asked = 0

    async def main() -> None:
        async with sending(tmp_path, double, events) as (sink, store):
            read = store.spooled

            def spooled(queue: str, limit: int, after: int = 0) -> Any:
                nonlocal asked
                asked += 1
                if asked in (1, 2, 4):  # the first ones, and one with nothing sent before
                    raise error
                return read(queue, limit, after)

            monkeypatch.setattr(store, "spooled", spooled)
            sink.start()
            await until(lambda: asked == 3)
            began = time.monotonic()
            sink.record(session_record(1))
            await until(lambda: read("radius", 1) == [])
            assert time.monotonic() - began >= 0.02  # it does not try without a pause

    with RadiusDouble(local(), accounting) as double:
        asyncio.run(main())
        assert told(double) == [(1, 1)]
        assert events == ["internal.error"] * 3


class Failing:
    """A database whose commit of that number fails, as on a full disk."""

    def __init__(self, database: sqlite3.Connection, number: int) -> None:
        self._database = database
        self._left = number

    def execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        self._left -= statement == "COMMIT"
        if statement == "COMMIT" and not self._left:
            raise sqlite3.OperationalError("disk I/O error")
        return self._database.execute(statement, values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


@pytest.mark.parametrize("failing", [1, 2, 3, 4])
def test_what_a_failed_commit_undoes_is_not_sent_and_unspools_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """The next record gets the number of one that was undone: it must not leave the spool for it."""
    monkeypatch.setattr(under_test, "RETRY_INTERVAL", 0.01)
    last = threading.Event()  # it is in the spool

    def slow(request: Received) -> Iterable[bytes]:
        last.wait(30)
        yield from accounting(request)

    async def main() -> None:
        async with sending(tmp_path, double) as (sink, store):
            database: Any = Failing(store._database, failing)
            store._database = database
            store.group(asyncio.get_running_loop().call_soon, print)
            sink.start()
            for number in range(1, 5):  # each in a turn of its own; meanwhile the sender wakes up and reads
                await asyncio.sleep(0)
                sink.record(session_record(number))
            await asyncio.sleep(0.05)  # what it has read is on its way
            sink.record(session_record(5))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            last.set()
            await until(lambda: store.spooled("radius", 1) == [])

    with RadiusDouble(local(), slow) as double:
        asyncio.run(main())
        assert {session for session, _ in told(double)} == {1, 2, 3, 4, 5} - {failing}


def test_what_stands_behind_on_does_not_wait_longer_than_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "RETRY_INTERVAL", 60.0)

    async def main() -> None:
        async with sending(tmp_path, double) as (sink, store):
            sink.record(AccountingRecord(kind=Kind.ON, at=1.0))
            sink.record(session_record(1))
            sink.start()
            await until(lambda: store.spooled("radius", 1) == [])

    with RadiusDouble(local(), accounting) as double:
        asyncio.run(main())
        assert [status for _, status in told(double)] == [7, 1]


def test_what_a_process_leaves_the_next_one_sends(tmp_path: Path) -> None:
    """While the server is silent nothing is lost; the delay is told; nothing is sent once it was acknowledged."""

    async def first() -> None:
        async with sending(tmp_path, double) as (sink, _):
            assert sink.waiting() == (0, 0.0)
            sink.start()
            for number in range(100):
                sink.record(session_record(number))
            assert sink.waiting() == (100, 1000.5)
            await until(lambda: len(double.received) > 0)

    async def second() -> None:
        async with sending(tmp_path, double) as (sink, store):
            sink.start()
            await until(lambda: store.spooled("radius", 1) == [])

    with RadiusDouble(local()) as double:
        asyncio.run(first())
    with RadiusDouble(local(), accounting) as double:
        asyncio.run(second())
        assert [session for session, _ in told(double)] == list(range(100))
        assert all(int.from_bytes(r.values(DELAY)[0], "big") > 1_000_000 for r in double.received)
        asyncio.run(second())
        assert len(told(double)) == 100


def test_what_is_spooled_goes_to_the_server_that_a_reload_brings(tmp_path: Path) -> None:
    async def main() -> None:
        async with sending(tmp_path, old) as (sink, store):
            sink.start()
            for number in range(100):
                sink.record(session_record(number))
            await until(lambda: len(old.received) > 0)
            server = RadiusServer(address="127.0.0.1", acct_port=new.port, secret=Password("testing123"))
            radius = Radius(server=(server,), nas_identifier="vpn2")
            sink._client.reload(radius)
            sink.reload(radius)
            sink.record(session_record(100))
            await until(lambda: store.spooled("radius", 1) == [])

    with RadiusDouble(local()) as old, RadiusDouble(local(), accounting) as new:
        asyncio.run(main())
        assert sorted(session for session, _ in told(new)) == list(range(101))
        assert {value for request in new.received for value in request.values(32)} == {b"vpn2"}


def test_a_record_that_a_server_never_takes_does_not_hold_up_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "RETRY_INTERVAL", 0.0)
    events: list[str] = []

    def script(request: Received) -> Iterable[bytes]:
        return () if request.values(SESSION) == [b"%016x" % 0] else accounting(request)

    async def main() -> None:
        async with sending(tmp_path, double, events) as (sink, store):
            sink.start()
            for number in range(64 * 12):
                sink.record(session_record(number))
            await until(lambda: store.spooled("radius", 1) == [])

    with RadiusDouble(local(), script) as double:
        asyncio.run(main())
        assert len({session for session, _ in told(double)}) == 64 * 12
        assert "radius.records_lost" in events


def test_a_record_that_a_server_never_takes_and_that_stood_alone_does_not_hold_up_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "RETRY_INTERVAL", 0.01)

    def script(request: Received) -> Iterable[bytes]:
        return () if request.values(SESSION) == [b"%016x" % 0] else accounting(request)

    async def main() -> None:
        async with sending(tmp_path, double) as (sink, store):
            sink.start()
            sink.record(session_record(0))
            await until(lambda: len(double.received) >= 2)  # the server seems to be dead
            for number in range(1, 4):
                sink.record(session_record(number))
            await until(lambda: len(store.spooled("radius", 9)) <= 1)

    with RadiusDouble(local(), script) as double:
        asyncio.run(main())
        assert {session for session, _ in told(double)} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    "keys",
    [
        {"class_": (bytes(253),) * 16},  # RADIUS packets have 4096 bytes at most
        {"called_id": "\N{SNOWMAN}" * 256},  # attributes have 253
    ],
)
def test_a_record_that_no_packet_can_carry_is_lost_and_no_other(tmp_path: Path, keys: dict[str, Any]) -> None:
    events: list[str] = []

    async def main() -> None:
        async with sending(tmp_path, double, events) as (sink, store):
            sink.start()
            sink.record(session_record(0, **keys))
            sink.record(session_record(1))
            await until(lambda: store.spooled("radius", 1) == [])

    with RadiusDouble(local(), accounting) as double:
        asyncio.run(main())
        assert [session for session, _ in told(double)] == [1]
        assert events == ["radius.records_lost"]


def test_records_that_nobody_can_read_are_lost_and_no_other(tmp_path: Path) -> None:
    events: list[str] = []

    async def main() -> None:
        async with sending(tmp_path, double, events) as (sink, store):
            for _ in range(100):  # more than go out at once
                store.spool("radius", b"\xc1", 1000)
            sink.record(session_record(1))
            sink.start()
            await until(lambda: store.spooled("radius", 1) == [])

    with RadiusDouble(local(), accounting) as double:
        asyncio.run(main())
        assert [session for session, _ in told(double)] == [1]
        assert events == ["radius.records_lost"]


def test_the_spool_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interims have half of it: a Stop still finds its place."""
    monkeypatch.setattr(under_test, "MAX_SPOOLED", 10)
    monkeypatch.setattr(under_test, "MAX_INTERIMS", 5)
    events: list[str] = []

    async def main() -> None:
        async with sending(tmp_path, double, events) as (sink, store):
            for number in range(20):
                sink.record(session_record(number, Kind.INTERIM))
            for number in range(20):
                sink.record(session_record(number, Kind.STOP, reason="shutdown"))
            assert len(store.spooled("radius", 100)) == 10
            assert events == ["radius.records_lost"]  # one line

    with RadiusDouble(local()) as double:
        asyncio.run(main())
