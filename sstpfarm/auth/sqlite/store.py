"""The store's methods as statements."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from ipaddress import IPv4Address, ip_address
from typing import Any, Final

import msgspec

from sstpfarm.auth.accounting import AccountingRecord
from sstpfarm.auth.homes import Home, KeptHome
from sstpfarm.auth.leases import Holder, Purpose, Sticky
from sstpfarm.auth.sqlite.database import SESSION_COLUMNS
from sstpfarm.auth.store import Counters, SessionFacts, Spooled, StickyAddress, StoredSession, UnreadableSession
from sstpfarm.errors import SystemRefusal

HISTORY_COLUMNS: Final = (
    "session",
    "user",
    "authentic",
    "method",
    "interface",
    "address",
    "ipv6_networks",
    "caller_id",
    "called_id",
    "connect_info",
    "started_at",
    "seconds",
    "bytes_in",
    "bytes_out",
    "packets_in",
    "packets_out",
    "reason",
)
"""Columns of the table history; an AccountingRecord has them under the same names."""
_ADD_HISTORY: Final = (
    f"INSERT INTO history (ended_at, {', '.join(HISTORY_COLUMNS)}) "  # noqa: S608 - constants
    f"VALUES (?, {', '.join('?' * len(HISTORY_COLUMNS))})"
)
# how a transaction begins, how it is kept, and what undoes it
_ALONE: Final = ("BEGIN IMMEDIATE", "COMMIT", ("ROLLBACK",))
_IN_GROUP: Final = ("SAVEPOINT part", "RELEASE part", ("ROLLBACK TO part", "RELEASE part"))
MAX_ASIDE: Final = 1000  # rows that could not be read


class SqliteStore:
    """`store.Store` over an open database.

    Args:
        database: from `open_database`.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(SessionFacts).decode
        self._waiting: dict[str, int] = {}  # records of each queue; counted when first asked
        self._later: Callable[[Callable[[], None]], object] | None = None
        self._complain: Callable[[str], None] = lambda detail: None
        self._grouped = False  # the transaction of this turn is open
        self._acts: list[Callable[[bool], None]] = []  # what waits for its commit

    # -- transactions --------------------------------------------------------------------------------------------------

    def group(self, later: Callable[[Callable[[], None]], object], complain: Callable[[str], None]) -> None:
        """Commit once in a turn, as Store says."""
        self._later = later
        self._complain = complain

    def then(self, act: Callable[[bool], None]) -> None:
        """Act behind the commit, as Store says."""
        if self._grouped:
            self._acts.append(act)
        else:
            act(True)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Join what is written in the block, as Store says: a transaction, or a part of the turn's."""
        begin, keep, undo = _ALONE if self._later is None else _IN_GROUP
        self._begin()
        self._run(begin)
        try:
            yield
            self._run(keep)
        except BaseException as error:
            self._waiting.clear()
            for statement in undo:
                with suppress(sqlite3.Error):  # the failure before may have ended the whole transaction already
                    self._database.execute(statement)
            self._look_after(error)
            raise

    def close(self) -> None:
        """Commit and close the file."""
        self._commit()
        self._database.close()

    def _begin(self) -> None:
        """Begin the turn's transaction, if there is to be one."""
        if self._later is not None and not self._grouped:
            self._run("BEGIN IMMEDIATE")
            self._grouped = True
            self._later(self._commit)

    def _commit(self) -> None:
        if not self._grouped:
            return
        try:
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            self._lose_group(error)
            return
        self._grouped = False
        acts, self._acts = self._acts, []
        for act in acts:
            act(True)

    def _look_after(self, error: BaseException) -> None:
        """A grave failure ends the turn's transaction by itself (https://sqlite.org/lang_transaction.html, 3)."""
        if self._grouped and not self._database.in_transaction:
            self._lose_group(error)

    def _lose_group(self, error: BaseException) -> None:
        assert self._later is not None, "only then there is a group"
        self._grouped = False
        self._waiting.clear()
        acts, self._acts = self._acts, []
        self._complain(f"auth's store: {error}; nothing of that moment is kept")
        for act in acts:  # not from within of whatever has failed
            self._later(partial(act, False))

    # -- sessions ------------------------------------------------------------------------------------------------------

    def sessions(self) -> list[StoredSession | UnreadableSession]:
        """All sessions, as Store says."""
        rows = self._run(
            "SELECT worker, session, address, facts, started_at, interface, interface_id, "
            "seconds, bytes_in, bytes_out, packets_in, packets_out FROM session ORDER BY rowid"
        ).fetchall()
        return [self._session(Holder(worker, session), *rest) for worker, session, *rest in rows]

    def _session(
        self,
        holder: Holder,
        address: int,
        data: bytes,
        started: float,
        interface: str,
        identifier: bytes,
        *counters: int,
    ) -> StoredSession | UnreadableSession:
        try:
            facts = self._decode(data)
            if holder != (facts.grant.worker, facts.grant.session) or address != _address_of(facts):
                raise ValueError("its columns are another session's")
        except (msgspec.MsgspecError, ValueError) as error:
            return UnreadableSession(holder, str(IPv4Address(address)) if 0 <= address < 2**32 else None, str(error))
        return StoredSession(facts, started, interface, identifier, Counters(*counters))

    def put_aside(self, holder: Holder) -> None:
        """Move the row to the table of those; the oldest ones there make room."""
        columns = ", ".join(SESSION_COLUMNS)
        with self.transaction():
            self._change(
                f"INSERT INTO unreadable ({columns}) "  # noqa: S608 - constants
                f"SELECT {columns} FROM session WHERE worker = ? AND session = ?",
                holder,
            )
            self._change("DELETE FROM session WHERE worker = ? AND session = ?", holder)
            self._change(
                "DELETE FROM unreadable WHERE number <= (SELECT max(number) FROM unreadable) - ?", (MAX_ASIDE,)
            )

    def add_session(self, facts: SessionFacts) -> None:
        """Insert or replace a session."""
        grant = facts.grant
        self._change(
            "INSERT OR REPLACE INTO session (worker, session, address, user, granted_at, facts) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (
                grant.worker,
                grant.session,
                _address_of(facts),
                grant.user,
                facts.granted_at,
                self._encode(facts),
            ),
        )

    def start_session(self, holder: Holder, at: float, interface: str, interface_id: bytes) -> None:
        """Note the start."""
        self._change(
            "UPDATE session SET started_at = ?, interface = ?, interface_id = ? WHERE worker = ? AND session = ?",
            (at, interface, interface_id, *holder),
        )

    def count_session(self, holder: Holder, counters: Counters) -> None:
        """Note the counters."""
        self._change(
            "UPDATE session SET seconds = ?, bytes_in = ?, bytes_out = ?, packets_in = ?, packets_out = ? "
            "WHERE worker = ? AND session = ?",
            (*counters, *holder),
        )

    def change_session(self, facts: SessionFacts) -> None:
        """Replace the facts."""
        holder = (facts.grant.worker, facts.grant.session)
        self._change("UPDATE session SET facts = ? WHERE worker = ? AND session = ?", (self._encode(facts), *holder))

    def delete_sessions(self, holders: Sequence[Holder]) -> None:
        """Delete the rows."""
        for holder in holders:
            self._change("DELETE FROM session WHERE worker = ? AND session = ?", holder)

    # -- sticky addresses ----------------------------------------------------------------------------------------------

    def sticky(self) -> list[StickyAddress]:
        """All of them, in the order of their last use."""
        rows = self._run("SELECT pool, user, purpose, address FROM sticky ORDER BY used_at").fetchall()
        return [
            StickyAddress(Sticky(pool, user, Purpose(purpose)), int.from_bytes(address, "big"))
            for pool, user, purpose, address in rows
        ]

    def stick(self, found: StickyAddress, at: float) -> None:
        """Insert or replace one."""
        self._change(
            "INSERT OR REPLACE INTO sticky (pool, user, purpose, address, used_at) VALUES (?, ?, ?, ?, ?)",
            (*found.whose, ip_address(found.address).packed, at),
        )

    def unstick(self, whose: Sticky) -> None:
        """Delete one."""
        self._change("DELETE FROM sticky WHERE pool = ? AND user = ? AND purpose = ?", whose)

    # -- homes ---------------------------------------------------------------------------------------------------------

    def homes(self) -> list[KeptHome]:
        """All of them, in the order of their last use."""
        rows = self._run("SELECT user, network, used_at FROM home ORDER BY used_at").fetchall()
        return [KeptHome(Home(user, network), used_at) for user, network, used_at in rows]

    def keep_home(self, kept: KeptHome) -> None:
        """Insert or replace one."""
        self._change(
            "INSERT OR REPLACE INTO home (user, network, used_at) VALUES (?, ?, ?)", (*kept.home, kept.used_at)
        )

    def forget_home(self, home: Home) -> None:
        """Delete one."""
        self._change("DELETE FROM home WHERE user = ? AND network = ?", home)

    # -- history -------------------------------------------------------------------------------------------------------

    def add_history(self, record: AccountingRecord) -> None:
        """Insert a row."""
        self._change(_ADD_HISTORY, (record.at, *(getattr(record, name) for name in HISTORY_COLUMNS)))

    def prune_history(self, before: float, keep: int, step: int) -> int:
        """Delete a few of the oldest rows; their numbers are in sequence, so the newest tells how many there are."""
        old = self._change(
            "DELETE FROM history WHERE number IN "
            "(SELECT number FROM history WHERE ended_at < ? ORDER BY ended_at LIMIT ?)",
            (before, step),
        ).rowcount
        many = self._change(
            "DELETE FROM history WHERE number IN (SELECT number FROM history "
            "WHERE number <= (SELECT max(number) FROM history) - ? ORDER BY number LIMIT ?)",
            (keep, step - old),
        ).rowcount
        return old + many

    # -- spool ---------------------------------------------------------------------------------------------------------

    def spool(self, queue: str, data: bytes, keep: int) -> bool:
        """Insert a record, if the queue has room."""
        if self.count_spooled(queue) >= keep:
            return False
        self._change("INSERT INTO spool (queue, data) VALUES (?, ?)", (queue, data))
        self._waiting[queue] += 1
        return True

    def spooled(self, queue: str, limit: int, after: int = 0) -> list[Spooled]:
        """The first records of a queue."""
        rows = self._run(
            "SELECT number, data FROM spool WHERE queue = ? AND number > ? ORDER BY number LIMIT ?",
            (queue, after, limit),
        ).fetchall()
        return [Spooled(*row) for row in rows]

    def count_spooled(self, queue: str) -> int:
        """How many records a queue has."""
        if queue not in self._waiting:
            (self._waiting[queue],) = self._run("SELECT count(*) FROM spool WHERE queue = ?", (queue,)).fetchone()
        return self._waiting[queue]

    def unspool(self, numbers: Sequence[int]) -> None:
        """Delete the records."""
        if not numbers:
            return
        with self.transaction():
            for number in numbers:
                row = self._change("DELETE FROM spool WHERE number = ? RETURNING queue", (number,)).fetchone()
                if row is not None and row[0] in self._waiting:
                    self._waiting[row[0]] -= 1

    # -- statements ----------------------------------------------------------------------------------------------------

    def _change(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run a statement that writes."""
        self._begin()
        return self._run(statement, values)

    def _run(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        try:
            return self._database.execute(statement, values)
        except sqlite3.Error as error:
            self._look_after(error)
            raise SystemRefusal(f"auth's store: {error}") from error


def _address_of(facts: SessionFacts) -> int:
    return int(IPv4Address(facts.grant.terms.remote_address))
