"""The store in SQLite: what was written is there after any end, what was refused costs nothing."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from sstpfarm.auth import leases
from sstpfarm.auth.accounting import AccountingRecord, Kind
from sstpfarm.auth.authorization import Authorization
from sstpfarm.auth.leases import Holder, Leases, Purpose, Sticky
from sstpfarm.auth.ledger import StickyMemory
from sstpfarm.auth.sqlite import store as sqlite_store
from sstpfarm.auth.sqlite.database import FILE_NAME, open_database
from sstpfarm.auth.sqlite.store import SqliteStore
from sstpfarm.auth.store import Counters, SessionFacts, StickyAddress, StoredSession, UnreadableSession
from sstpfarm.config.addresses import parse_range
from sstpfarm.config.views import PoolView
from sstpfarm.errors import SystemRefusal
from sstpfarm.ipc.messages import Grant, Terms


def facts(number: int, user: str = "alice") -> SessionFacts:
    grant = Grant(
        worker=0,
        session=f"{number:016x}",
        user=user,
        caller_id="192.0.2.1:1",
        method="mschap2",
        mtu=1400,
        slot=number % 100,
        terms=Terms(local_address="10.0.0.1", remote_address=f"10.1.{number // 250 % 250}.{number % 250}"),
    )
    return SessionFacts(grant=grant, authorization=Authorization(user=user, class_=(b"\xff\0",)), granted_at=5.0)


def holder(number: int) -> Holder:
    return Holder(0, f"{number:016x}")


def opened(directory: Path) -> SqliteStore:
    return SqliteStore(open_database(directory, directory.stat().st_uid, directory.stat().st_gid))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    made = opened(tmp_path)
    yield made
    made.close()


def test_sessions_come_back_as_they_were(store: SqliteStore, tmp_path: Path) -> None:
    for number in (2, 1, 3):
        store.add_session(facts(number))
    store.start_session(holder(1), 7.0, "sstp4", b"12345678")
    store.count_session(holder(1), Counters(60, 2**40, 2, 3, 4))
    store.delete_sessions([holder(2), holder(99)])
    store.close()
    again = opened(tmp_path)
    first, second = again.sessions()
    assert first == (facts(1), 7.0, "sstp4", b"12345678", Counters(60, 2**40, 2, 3, 4))
    assert second == (facts(3), 0.0, "", b"", Counters())
    again.close()


def test_a_row_that_was_left_over_is_replaced(store: SqliteStore) -> None:
    store.add_session(facts(1, "alice"))
    store.add_session(facts(1 + 250 * 250, "bob"))  # the same address
    (found,) = store.sessions()
    assert isinstance(found, StoredSession)
    assert found.facts.grant.user == "bob"


def test_a_transaction_is_kept_as_a_whole_or_not_at_all(store: SqliteStore) -> None:
    def half() -> None:
        with store.transaction():
            store.add_session(facts(1))
            assert store.spool("radius", b"record", 10)
            raise KeyError

    with pytest.raises(KeyError):
        half()
    assert store.sessions() == []
    assert store.spooled("radius", 10) == []
    with store.transaction():
        store.add_session(facts(1))
        store.spool("radius", b"record", 10)
    assert len(store.sessions()) == len(store.spooled("radius", 10)) == 1


def test_queues_keep_their_order_and_their_bound(store: SqliteStore, tmp_path: Path) -> None:
    assert [store.spool("a", b"%d" % number, 3) for number in range(4)] == [True, True, True, False]
    assert store.spool("b", b"other", 3)
    first, second, third = store.spooled("a", 10)
    assert [record.data for record in (first, second, third)] == [b"0", b"1", b"2"]
    assert store.spooled("a", 1, after=first.number) == [second]
    assert (store.count_spooled("a"), store.count_spooled("none")) == (3, 0)
    store.unspool([first.number, 999])
    assert store.spool("a", b"4", 3)
    assert not store.spool("a", b"5", 3)
    store.close()
    again = opened(tmp_path)
    assert [record.data for record in again.spooled("a", 10)] == [b"1", b"2", b"4"]
    assert not again.spool("a", b"5", 3)
    again.close()


def test_sticky_addresses_come_in_the_order_of_their_use(store: SqliteStore) -> None:
    alice, bob, carol = (Sticky("main", user, Purpose.ADDRESS) for user in ("alice", "bob", "carol"))
    prefix = alice._replace(purpose=Purpose.PREFIX)
    store.stick(StickyAddress(alice, 1), 5.0)
    store.stick(StickyAddress(bob, 2**32 - 1), 3.0)
    store.stick(StickyAddress(alice, 3), 6.0)
    store.stick(StickyAddress(carol, 4), 7.0)
    store.stick(StickyAddress(prefix, 2**128 - 1), 8.0)
    store.unstick(carol)
    assert list(store.sticky()) == [(bob, 2**32 - 1), (alice, 3), (prefix, 2**128 - 1)]


def test_who_came_longest_ago_is_forgotten_over_restarts_too(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not who had a new address longest ago."""
    monkeypatch.setattr(leases, "MAX_STICKY", 2)
    now = 0.0

    def login(user: str) -> str:
        nonlocal now
        now += 1.0
        memory = StickyMemory(store, lambda: now, pytest.fail)
        pools = {"main": PoolView.of([parse_range("10.1.0.0/24")])}
        after_restart = Leases(pools, (), memory, store.sticky())
        for at, other in enumerate(taken):
            assert after_restart.restore(holder(100 + at), other)
        return str(after_restart.acquire(holder(1), user, pool="main"))

    taken = ["10.1.0.0", "10.1.0.1"]  # so that no new user gets alice's by chance
    alice = login("alice")
    taken = [alice]
    bob = login("bob")
    taken = []
    assert login("alice") == alice
    taken = [alice, bob]
    login("carol")  # one too many
    taken = []
    assert login("alice") == alice


def test_the_history_is_pruned_by_age_and_by_number_in_small_steps(store: SqliteStore, tmp_path: Path) -> None:
    for number in range(20):
        store.add_history(
            AccountingRecord(kind=Kind.STOP, at=float(number), session=f"{number:016x}", user="u", reason="shutdown")
        )
    assert store.prune_history(before=3.0, keep=100, step=2) == 2
    assert store.prune_history(before=3.0, keep=100, step=2) == 1
    assert store.prune_history(before=3.0, keep=10, step=5) == 5
    assert store.prune_history(before=3.0, keep=10, step=5) == 2
    assert store.prune_history(before=3.0, keep=10, step=5) == 0
    reader = sqlite3.connect(tmp_path / FILE_NAME)
    assert reader.execute("SELECT min(ended_at), count(*) FROM history").fetchall() == [(10.0, 10)]
    reader.close()


def test_what_the_file_refuses_is_told(tmp_path: Path) -> None:
    database = open_database(tmp_path, os.getuid(), os.getgid())
    store = SqliteStore(database)
    database.execute("PRAGMA query_only = ON")
    with pytest.raises(SystemRefusal, match="auth's store: attempt to write a readonly database"):
        store.add_session(facts(1))
    with pytest.raises(SystemRefusal, match="readonly"), store.transaction():
        store.add_session(facts(1))
    database.execute("PRAGMA query_only = OFF")
    store.add_session(facts(1))
    store.close()


KILLED = """
import sys
from pathlib import Path
from sstpfarm.auth.leases import Holder
from tests.unit.test_auth_sqlite import facts, opened
store = opened(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    with store.transaction():
        store.add_session(facts(number))
        store.spool("q", b"%d" % number, 10**9)
        store.delete_sessions([Holder(0, f"{number - 3:016x}")])
    print(number, flush=True)
"""


KILLED_IN_TURNS = """
import asyncio
import sys
from pathlib import Path
from sstpfarm.auth.leases import Holder
from tests.unit.test_auth_sqlite import facts, opened

async def main():
    store = opened(Path(sys.argv[1]))
    store.group(asyncio.get_running_loop().call_soon, print)
    number = 0
    while True:
        for _ in range(7):
            number += 1
            with store.transaction():
                store.add_session(facts(number))
                store.spool("q", b"%d" % number, 10**9)
                store.delete_sessions([Holder(0, f"{number - 3:016x}")])
            store.then(lambda kept, number=number: print(number, flush=True))
        await asyncio.sleep(0)

asyncio.run(main())
"""


@pytest.mark.parametrize("script", [KILLED, KILLED_IN_TURNS], ids=["alone", "in-turns"])
def test_it_survives_kill_9_with_all_that_was_committed(tmp_path: Path, script: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 200:
            break
    process.send_signal(signal.SIGKILL)
    last = max(map(int, [line, *process.stdout.read().split()[:-1]] if line else ["0"]))
    process.wait(60)
    process.stdout.close()
    store = opened(tmp_path)
    numbers = [int(found.facts.grant.session, 16) for found in store.sessions() if isinstance(found, StoredSession)]
    records = [int(record.data) for record in store.spooled("q", 10**6)]
    assert numbers[-1] == records[-1] >= last
    assert numbers == [records[-1] - 2, records[-1] - 1, records[-1]]
    assert records == list(range(1, records[-1] + 1))
    store.close()


def test_a_file_of_another_program_version_is_refused(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / FILE_NAME)
    database.execute("PRAGMA user_version = 7")
    database.close()
    with pytest.raises(SystemRefusal, match="version 7, this program knows 3"):
        opened(tmp_path)


def spoil(directory: Path, number: int, column: str, value: object) -> None:
    """Write into a row what this program never wrote."""
    with closing(sqlite3.connect(directory / FILE_NAME)) as database, database:
        done = database.execute(f"UPDATE session SET {column} = ? WHERE session = ?", (value, holder(number).session))
        assert done.rowcount == 1


@pytest.mark.parametrize(
    ("column", "value", "address", "why"),
    [
        ("facts", b"", "10.1.0.2", "truncated"),
        ("facts", b"\x80", "10.1.0.2", "missing required field"),
        ("address", 5, "0.0.0.5", "its columns are another session's"),
        ("address", 2**40, None, "its columns are another session's"),
        ("worker", 9, "10.1.0.2", "its columns are another session's"),
        ("facts", None, "10.1.0.2", "of length <= 256"),  # a name that is longer than one may be
    ],
)
def test_a_session_that_cannot_be_read_is_put_aside_and_the_others_go_on(
    store: SqliteStore, tmp_path: Path, column: str, value: object, address: str | None, why: str
) -> None:
    for number in (1, 2, 3):
        store.add_session(facts(number))
    if value is None:
        long = msgspec.structs.replace(facts(2), grant=msgspec.structs.replace(facts(2).grant, user="x" * 257))
        value = msgspec.msgpack.encode(long)
    spoil(tmp_path, 2, column, value)
    first, bad, last = store.sessions()
    assert isinstance(first, StoredSession)
    assert isinstance(last, StoredSession)
    assert (first.facts, last.facts) == (facts(1), facts(3))
    assert isinstance(bad, UnreadableSession)
    assert (bad.holder.session, bad.address) == (holder(2).session, address)
    assert why in bad.why
    store.put_aside(bad.holder)
    assert store.sessions() == [first, last]
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as database:
        assert database.execute("SELECT session, address, user FROM unreadable").fetchall() == [
            (holder(2).session, value if column == "address" else 0x0A010002, "alice")
        ]


def test_rows_that_were_put_aside_are_bounded(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_store, "MAX_ASIDE", 3)
    for number in range(9):
        store.add_session(facts(number))
        store.put_aside(holder(number))
    rows = store._run("SELECT session FROM unreadable ORDER BY number").fetchall()
    assert [session for (session,) in rows] == [holder(number).session for number in (6, 7, 8)]


def test_a_broken_file_is_refused_with_advice(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"no database at all" * 300)
    with pytest.raises(SystemRefusal, match=r"auth\.sqlite3: .*move it away"):
        opened(tmp_path)


def test_a_directory_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemRefusal, match="cannot be opened"):
        open_database(tmp_path / "missing", 0, 0)


def test_no_link_is_followed(tmp_path: Path) -> None:
    """The directory belongs to auth's user, who must not make root open or give away another file."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    directory = tmp_path / "auth"
    directory.mkdir()
    (directory / FILE_NAME).symlink_to(victim)
    with pytest.raises(SystemRefusal, match="cannot be opened"):
        opened(directory)
    (directory / FILE_NAME).unlink()
    (directory / FILE_NAME).hardlink_to(victim)
    with pytest.raises(SystemRefusal, match="is not a plain file"):
        opened(directory)
    assert victim.read_text() == "precious"


UNREACHABLE = """
import os, sys
from pathlib import Path
from sstpfarm.auth.leases import Holder
from sstpfarm.auth.sqlite.database import open_database
from sstpfarm.auth.sqlite import store as sqlite_store
from sstpfarm.auth.sqlite.store import SqliteStore
from tests.unit.test_auth_sqlite import facts
directory = Path(sys.argv[1])
store = SqliteStore(open_database(directory, 65534, 65534))
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
try:
    (directory / "auth.sqlite3").stat()
except PermissionError:
    pass
else:
    sys.exit("the directory can be reached, so this proves nothing")
for number in range(3000):  # enough for checkpoints
    store.add_session(facts(number))
    store.delete_sessions([Holder(0, f"{number:016x}")])
store.add_session(facts(9))
store.close()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it gives up root")
def test_the_file_works_after_the_drop_in_a_directory_that_cannot_be_reached(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    directory = closed / "auth"
    directory.mkdir()
    os.chown(directory, 65534, 65534)
    done = subprocess.run(
        [sys.executable, "-c", UNREACHABLE, str(directory)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert {file.stat().st_uid for file in directory.iterdir()} == {65534}
    store = opened(directory)
    assert len(store.sessions()) == 1
    store.close()
