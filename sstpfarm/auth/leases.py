"""The leases: which session has which address, kept in SQLite so that they outlive this process.

Memory decides, the file remembers. After a restart of auth alone the sessions go on, and their addresses must not be
handed out again: the master's list of live sessions then tells which of the remembered leases are still true.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from sstpfarm.auth.pools import AddressBook
from sstpfarm.config.addresses import AddressRange
from sstpfarm.errors import LocalError, SystemRefusal

FILE_NAME: Final = "leases.sqlite3"
VERSION: Final = 1  # PRAGMA user_version of the tables below
TABLES: Final = """
CREATE TABLE lease (
    address INTEGER PRIMARY KEY,
    worker INTEGER NOT NULL,
    session TEXT NOT NULL,
    user TEXT NOT NULL,
    since REAL NOT NULL,
    UNIQUE (worker, session)
) STRICT
"""


class Holder(NamedTuple):
    """Who holds a lease: a session is named by the process that it came from and its own number."""

    worker: int
    session: str


class LeaseStore(Protocol):
    """What auth needs of a store of leases; another one may serve several nodes later."""

    def acquire(self, holder: Holder, user: str, *, pool: str = "", address: str = "") -> IPv4Address | None:
        """Lease an address of `pool`, or the fixed `address`; None when none is free.

        A lease from before this process's start is given to its holder once more, for the same user: the process
        before may have died between its grant and its answer, and the worker asks again.

        Raises:
            LocalError: the holder has a lease already.
            SystemRefusal: the store cannot be written.
        """

    def release(self, holder: Holder) -> None:
        """End the holder's lease; one that does not exist is ignored."""

    def reconcile(self, live: Collection[str]) -> int:
        """End those leases from before this process's start whose session is not live; return how many."""


class SqliteLeases:
    """The leases of one farm in one file.

    Args:
        database: from `open_database`.
        pools: the ranges of each pool.
        reserved: addresses that no pool hands out.
        now: the wall clock, in seconds since the epoch; for people who look at the file.
    """

    def __init__(
        self,
        database: sqlite3.Connection,
        pools: Mapping[str, Sequence[AddressRange]],
        reserved: Iterable[int],
        now: Callable[[], float],
    ) -> None:
        self._database = database
        self._now = now
        rows = database.execute("SELECT worker, session, address, user FROM lease").fetchall()
        self._held: dict[Holder, int] = {Holder(worker, session): address for worker, session, address, _ in rows}
        self._inherited: dict[Holder, str] = {Holder(worker, session): user for worker, session, _, user in rows}
        self._unconfirmed = set(self._held)
        self._book = AddressBook(pools, reserved, in_use=self._held.values())

    def __len__(self) -> int:
        return len(self._held)

    def acquire(self, holder: Holder, user: str, *, pool: str = "", address: str = "") -> IPv4Address | None:
        """Lease an address, as LeaseStore says."""
        if holder in self._held:
            if self._inherited.pop(holder, None) == user:
                return IPv4Address(self._held[holder])
            raise LocalError(f"session {holder.session} of worker {holder.worker} has a lease")
        if address:
            number = int(IPv4Address(address))
            if not self._book.take_fixed(number):
                return None
        else:
            found = self._book.take_from(pool)
            if found is None:
                return None
            number = found
        try:
            # REPLACE: a row may be left over whose deletion failed
            self._database.execute(
                "INSERT OR REPLACE INTO lease (address, worker, session, user, since) VALUES (?, ?, ?, ?, ?)",
                (number, *holder, user, self._now()),
            )
        except sqlite3.Error as error:
            self._book.give_back(number)
            raise SystemRefusal(f"leases cannot be written: {error}") from error
        self._held[holder] = number
        return IPv4Address(number)

    def release(self, holder: Holder) -> None:
        """End the holder's lease. When the file cannot be written, its row is replaced or reconciled later.

        Raises:
            SystemRefusal: the file cannot be written; the lease has ended all the same.
        """
        number = self._forget(holder)
        if number is not None:
            self._delete([number])

    def reconcile(self, live: Collection[str]) -> int:
        """End stale leases, as LeaseStore says; those that this process made itself stay.

        Raises:
            SystemRefusal: the file cannot be written; the leases have ended all the same.
        """
        stale = [holder for holder in self._unconfirmed if holder.session not in live]
        numbers = [number for holder in stale if (number := self._forget(holder)) is not None]
        self._unconfirmed.clear()
        self._delete(numbers)
        return len(numbers)

    def close(self) -> None:
        """Close the file; the leases stay in it."""
        self._database.close()

    def _forget(self, holder: Holder) -> int | None:
        """End a lease in memory and return its address."""
        self._inherited.pop(holder, None)
        self._unconfirmed.discard(holder)
        number = self._held.pop(holder, None)
        if number is not None:
            self._book.give_back(number)
        return number

    def _delete(self, numbers: Sequence[int]) -> None:
        """Delete the rows of these addresses, in one transaction."""
        try:
            if len(numbers) == 1:  # a statement is a transaction
                self._database.execute("DELETE FROM lease WHERE address = ?", numbers)
                return
            with self._database:
                self._database.execute("BEGIN")
                self._database.executemany("DELETE FROM lease WHERE address = ?", ((number,) for number in numbers))
        except sqlite3.Error as error:
            raise SystemRefusal(f"leases cannot be written: {error}") from error


def open_database(directory: Path, uid: int, gid: int) -> sqlite3.Connection:
    """Open or make the file in auth's directory, as root, such that it can be used after root was given up.

    The file, its log and its index are opened here and stay open: the directory need not be reachable later.

    Raises:
        SystemRefusal: it cannot be opened, or is not a database of this version.
    """
    path = directory / FILE_NAME
    try:
        _own(path, uid, gid, create=True)
        for suffix in ("-wal", "-shm"):
            _own(Path(f"{path}{suffix}"), uid, gid, create=False)
        database = sqlite3.connect(path, timeout=1.0, isolation_level=None)
    except (OSError, sqlite3.Error) as error:
        raise SystemRefusal(f"{path} cannot be opened: {error}") from error
    try:
        _prepare(database)
    except sqlite3.Error as error:
        database.close()
        raise SystemRefusal(f"{path}: {error}; it only remembers live sessions: stop the farm, move it away") from error
    except SystemRefusal:
        database.close()
        raise
    return database


def _own(path: Path, uid: int, gid: int, *, create: bool) -> None:
    """Give a file to auth's user. It lies in that user's directory, so root follows no link here."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    try:
        fd = os.open(path, flags, 0o600)
    except FileNotFoundError:
        if create:
            raise
        return
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise SystemRefusal(f"{path} is not a plain file")
        if (status.st_uid, status.st_gid) != (uid, gid):
            os.fchown(fd, uid, gid)
    finally:
        os.close(fd)


def _prepare(database: sqlite3.Connection) -> None:
    """Set the journal, make the tables; a first transaction opens the log and the index."""
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")  # no fsync for each login; a crash of the machine ends all sessions
    database.execute("PRAGMA temp_store = MEMORY")
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version not in (0, VERSION):
        raise SystemRefusal(f"leases: the file has version {version}, this program knows {VERSION}")
    database.execute("BEGIN IMMEDIATE")
    if version == 0:
        database.execute(TABLES)
    database.execute(f"PRAGMA user_version = {VERSION}")
    database.execute("COMMIT")
