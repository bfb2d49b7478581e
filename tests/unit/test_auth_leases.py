"""Leases in SQLite: shared by nobody, remembered over a restart, reconciled with the sessions that live."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from sstpfarm.auth.leases import FILE_NAME, Holder, SqliteLeases, open_database
from sstpfarm.config.addresses import AddressRange, parse_range
from sstpfarm.errors import LocalError, SystemRefusal

POOLS = {"main": (parse_range("10.20.0.2-10.20.15.254"),)}  # 4,093 addresses
RESERVED = (int(IPv4Address("10.20.0.1")), int(IPv4Address("10.20.0.77")))


def holder(number: int, worker: int = 0) -> Holder:
    return Holder(worker, f"{number:016x}")


def opened(directory: Path, pools: dict[str, tuple[AddressRange, ...]] | None = None) -> SqliteLeases:
    return SqliteLeases(
        open_database(directory, os.getuid(), os.getgid()), POOLS if pools is None else pools, RESERVED, lambda: 1000.0
    )


@pytest.fixture
def leases(tmp_path: Path) -> Iterator[SqliteLeases]:
    store = opened(tmp_path)
    yield store
    store.close()


def test_each_session_gets_an_address_of_its_own(leases: SqliteLeases) -> None:
    assert leases.acquire(holder(1), "alice", pool="main") == IPv4Address("10.20.0.2")
    assert leases.acquire(holder(2), "alice", pool="main") == IPv4Address("10.20.0.3")


def test_one_number_in_two_workers_is_two_sessions(leases: SqliteLeases) -> None:
    assert leases.acquire(holder(1, worker=0), "alice", pool="main") == IPv4Address("10.20.0.2")
    assert leases.acquire(holder(1, worker=1), "bob", pool="main") == IPv4Address("10.20.0.3")
    leases.release(holder(1, worker=0))
    assert len(leases) == 1


def test_a_session_gets_one_address_only(leases: SqliteLeases) -> None:
    leases.acquire(holder(1), "alice", pool="main")
    with pytest.raises(LocalError, match="has a lease"):
        leases.acquire(holder(1), "alice", pool="main")


def test_a_fixed_address_serves_one_session_at_a_time(leases: SqliteLeases) -> None:
    fixed = IPv4Address("10.20.0.77")
    assert leases.acquire(holder(1), "bob", address=str(fixed)) == fixed
    assert leases.acquire(holder(2), "bob", address=str(fixed)) is None
    leases.release(holder(1))
    assert leases.acquire(holder(2), "bob", address=str(fixed)) == fixed


def test_the_whole_pool_is_handed_out_without_reserved_addresses_and_then_no_more(leases: SqliteLeases) -> None:
    taken = []
    for number in range(5000):
        address = leases.acquire(holder(number), "alice", pool="main")
        if address is None:
            break
        taken.append(address)
    assert len(taken) == len(set(taken)) == 4093 - 1
    assert IPv4Address("10.20.0.77") not in taken


def test_a_released_lease_is_gone_from_the_file(leases: SqliteLeases, tmp_path: Path) -> None:
    leases.acquire(holder(1), "alice", pool="main")
    leases.acquire(holder(2), "bob", pool="main")
    assert rows(tmp_path) == [(holder(1).session, "alice", 1000.0), (holder(2).session, "bob", 1000.0)]
    leases.release(holder(1))
    leases.release(holder(1))
    leases.release(holder(99))
    assert rows(tmp_path) == [(holder(2).session, "bob", 1000.0)]


def rows(directory: Path) -> list[tuple[str, str, float]]:
    """What someone reads who opens the file while it is in use."""
    reader = sqlite3.connect(directory / FILE_NAME)
    try:
        return reader.execute("SELECT session, user, since FROM lease ORDER BY address").fetchall()
    finally:
        reader.close()


def test_after_a_restart_live_sessions_keep_their_addresses_and_others_lose_them(tmp_path: Path) -> None:
    before = opened(tmp_path)
    kept = before.acquire(holder(1), "alice", pool="main")
    lost = before.acquire(holder(2), "bob", pool="main")
    before.close()

    after = opened(tmp_path, {"main": (parse_range("10.20.0.2-10.20.0.4"),)})
    third = after.acquire(holder(3), "carol", pool="main")
    assert third not in (kept, lost)
    assert after.acquire(holder(4), "dave", pool="main") is None
    # holder(3) is too young for the master's list: it stays all the same
    assert after.reconcile({holder(1).session}) == 1
    assert after.acquire(holder(4), "dave", pool="main") == lost
    assert after.acquire(holder(5), "eve", pool="main") is None
    assert after.reconcile(set()) == 0  # once reconciled, the master reports every end itself
    after.release(holder(1))
    assert after.acquire(holder(5), "eve", pool="main") == kept
    after.close()


def test_a_worker_that_asks_a_restarted_auth_again_gets_the_same_address_once(tmp_path: Path) -> None:
    """Auth can die between its grant and its answer; the worker then repeats its request."""
    before = opened(tmp_path)
    address = before.acquire(holder(1), "alice", pool="main")
    before.acquire(holder(2), "bob", pool="main")
    before.close()

    after = opened(tmp_path)
    assert after.reconcile({holder(1).session, holder(2).session}) == 0
    assert after.acquire(holder(1), "alice", pool="main") == address
    with pytest.raises(LocalError, match="has a lease"):
        after.acquire(holder(1), "alice", pool="main")
    with pytest.raises(LocalError, match="has a lease"):
        after.acquire(holder(2), "alice", pool="main")
    assert len(after) == 2
    after.close()


def test_a_file_that_cannot_be_written_costs_no_address(tmp_path: Path) -> None:
    database = open_database(tmp_path, os.getuid(), os.getgid())
    leases = SqliteLeases(database, {"main": (parse_range("10.0.0.1"),)}, (), lambda: 0.0)
    database.execute("PRAGMA query_only = ON")
    with pytest.raises(SystemRefusal, match="leases cannot be written"):
        leases.acquire(holder(1), "alice", pool="main")
    assert len(leases) == 0
    database.execute("PRAGMA query_only = OFF")
    assert leases.acquire(holder(1), "alice", pool="main") == IPv4Address("10.0.0.1")

    database.execute("PRAGMA query_only = ON")
    with pytest.raises(SystemRefusal, match="leases cannot be written"):
        leases.release(holder(1))
    database.execute("PRAGMA query_only = OFF")
    assert leases.acquire(holder(2), "bob", pool="main") == IPv4Address("10.0.0.1")  # replaces the row left over
    leases.close()


def test_a_file_of_another_program_version_is_refused(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / FILE_NAME)
    database.execute("PRAGMA user_version = 7")
    database.close()
    with pytest.raises(SystemRefusal, match="version 7, this program knows 1"):
        opened(tmp_path)


def test_a_broken_file_is_refused_with_advice(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"no database at all" * 300)
    with pytest.raises(SystemRefusal, match=r"leases\.sqlite3: .*move it away"):
        opened(tmp_path)


def test_a_directory_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemRefusal, match="cannot be opened"):
        opened(tmp_path / "missing")


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
from ipaddress import IPv4Address
from pathlib import Path
from sstpfarm.auth.leases import Holder, SqliteLeases, open_database
from sstpfarm.config.addresses import parse_range
directory = Path(sys.argv[1])
database = open_database(directory, 65534, 65534)
leases = SqliteLeases(database, {"main": (parse_range("10.0.0.0/24"),)}, (), lambda: 0.0)
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
try:
    (directory / "leases.sqlite3").stat()
except PermissionError:
    pass
else:
    sys.exit("the directory can be reached, so this proves nothing")
for number in range(3000):  # enough for checkpoints
    assert leases.acquire(Holder(0, f"{number:016x}"), "alice", pool="main") is not None
    leases.release(Holder(0, f"{number:016x}"))
leases.acquire(Holder(0, "f" * 16), "alice", pool="main")
leases.close()
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
    leases = SqliteLeases(open_database(directory, 65534, 65534), POOLS, (), lambda: 0.0)
    assert len(leases) == 1
    leases.close()
