"""The books: every session that was granted, its Start, its Interims and exactly one Stop, in the store and the sinks.

A session is in the store before anybody hears of its grant, and leaves it in the transaction that keeps its Stop.
However this process or the whole farm ends, the next one finds there what is still owed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

import msgspec

from sstpfarm.auth.accounting import AccountingRecord, Kind, Sink
from sstpfarm.auth.authorization import Authorization
from sstpfarm.auth.leases import Holder, Leases, Sticky
from sstpfarm.auth.networks import networks_of, own_networks, owns_address
from sstpfarm.auth.sessions import Agenda, Session, Sessions
from sstpfarm.auth.store import Counters, SessionFacts, StickyAddress, Store, UnreadableSession
from sstpfarm.errors import SystemRefusal
from sstpfarm.reasons import Reason

JITTER: Final = 0.1  # of the interim interval, so that sessions of one moment do not report in one moment
MAX_READS: Final = 1024  # sessions that ReadCounters names
CLOSE_STEP: Final = 500  # sessions that are closed in one transaction
PRUNE_STEP: Final = 500  # rows of the history that are deleted at once
DAY: Final = 86_400.0
SLOT_BITS: Final = 20  # of NAS-Port; a slot is below 2**20


class Ledger:
    """Keep the books of one farm.

    Args:
        sinks: who is told, in this order; the local history is one of them.
        leases: end with their sessions.
        interim_interval: seconds between a session's Interims where its authorization says nothing; 0 for none.
        wall: seconds since the epoch.
        clock: seconds on a clock that never jumps.
        random: 0 to 1, for the jitter.
        complain: tells the operator what the store refused; the session goes on, and its row is dealt with at the
            next start.
    """

    def __init__(
        self,
        store: Store,
        sessions: Sessions,
        leases: Leases,
        sinks: Sequence[Sink],
        *,
        interim_interval: int,
        wall: Callable[[], float],
        clock: Callable[[], float],
        random: Callable[[], float],
        complain: Callable[[str], None],
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._leases = leases
        self._sinks = sinks
        self._interim_interval = interim_interval
        self._wall = wall
        self._clock = clock
        self._random = random
        self._complain = complain
        self._agenda = Agenda(sessions, lambda session: session.interim_due)
        self._strays: set[Holder] = set()  # sessions of before that could not be read; they may live
        for stored in store.sessions():
            if isinstance(stored, UnreadableSession):
                self._put_aside(stored)
                continue
            session = Session(
                stored.facts, stored.started_at, stored.interface, stored.interface_id, stored.counters, inherited=True
            )
            self._sessions.add(session)
            address, had = stored.facts.grant.terms.remote_address, stored.facts.authorization
            owned = (*own_networks(had), *[f"{address}/32"] * owns_address(had))
            self._leases.restore(session.holder, address, had.user, networks_of(had), owned)
            self._plan(session, first=True)

    def group(self, later: Callable[[Callable[[], None]], object]) -> None:
        """Write the books once in a turn of the event loop; `later` calls a function in the next turn."""
        self._store.group(later, self._complain)

    def then(self, act: Callable[[bool], None]) -> None:
        """Act once what stands in the books by now outlives this process; False tells that it does not."""
        self._store.then(act)

    def granted(self, facts: SessionFacts) -> Session:
        """Take a session in, before anybody hears of it.

        Raises:
            SystemRefusal: the store refuses it.
        """
        session = Session(facts)
        self._store.add_session(facts)
        self._sessions.add(session)
        return session

    def started(self, holder: Holder, interface: str, interface_id: bytes) -> None:
        """The session carries packets; what was told already is ignored."""
        session = self._sessions.get(holder)
        if session is None or session.started_at:
            return
        self._sessions.started(session, self._wall(), interface, interface_id)
        self._keep(
            lambda: self._store.start_session(holder, session.started_at, interface, interface_id),
            self._record(Kind.START, session, session.started_at),
        )
        self._plan(session)

    def change(self, session: Session, authorization: Authorization) -> None:
        """The session has other terms from now on; a new interim interval counts from now."""
        before = session.facts.authorization
        if authorization == before:
            return
        session.facts = msgspec.structs.replace(session.facts, authorization=authorization, changed=True)
        self._keep(lambda: self._store.change_session(session.facts))
        if authorization.interim_interval != before.interim_interval:
            self._plan(session)

    def counted(self, holder: Holder, counters: Counters) -> None:
        """An open session has carried so much. One whose start was never told (this process was away) starts now."""
        session = self._sessions.get(holder)
        if session is None:
            return
        if not session.started_at:
            self.started(holder, "", b"")
            return
        session.counters = counters
        self._keep(
            lambda: self._store.count_session(holder, counters), self._record(Kind.INTERIM, session, self._wall())
        )

    def released(self, holder: Holder, counters: Counters, reason: Reason, *, opened: bool) -> None:
        """The session is gone, and its address free; one that is not in the books is ignored.

        Args:
            opened: it has carried packets, whether we were told so or not.
        """
        session = self._sessions.get(holder)
        if session is None:
            self._forget_strays({holder})
        else:
            session.counters = counters
            if opened and not session.started_at:
                self.started(holder, "", b"")
            self._close([(session, reason, self._wall())])

    def reconcile(self, live: Collection[str]) -> int:
        """Close the sessions of before this process's start that live no more; return how many.

        Nobody knows when they ended: their Stop has the counters and the time of their last Interim.
        """
        stale = [session for session in self._sessions if session.inherited and session.facts.grant.session not in live]
        ends = [(session, Reason.WORKER_LOST, session.started_at + session.counters.seconds) for session in stale]
        for start in range(0, len(ends), CLOSE_STEP):
            self._close(ends[start : start + CLOSE_STEP])
        self._forget_strays({holder for holder in self._strays if holder.session not in live})
        return len(stale)

    def strays(self) -> list[Holder]:
        """The sessions of before this process's start that nobody can read, and that have not ended as far as we know.

        They have their addresses still, but no account and no limit: they are to be ended.
        """
        return list(self._strays)

    def unannounced(self) -> list[Holder]:
        """The sessions of before this process's start that may have started while it was not there."""
        return [session.holder for session in self._sessions if session.inherited and not session.started_at]

    def changed(self) -> list[Session]:
        """The sessions of before this process's start of whose last change the master may not have heard."""
        return [session for session in self._sessions if session.inherited and session.facts.changed]

    def due(self) -> list[Holder]:
        """The sessions whose counters are to be read now, at most MAX_READS; each is planned again."""
        now = self._clock()
        found: list[Holder] = []
        while len(found) < MAX_READS and (session := self._agenda.next(now)) is not None:
            found.append(session.holder)
            self._plan(session)
        return found

    def announce(self, kind: Kind) -> None:
        """Tell that the farm starts (ON) or ends (OFF)."""
        self._keep(lambda: None, AccountingRecord(kind=kind, at=self._wall()))

    def prune(self, retention_days: int, retention_records: int) -> bool:
        """Delete a few rows of the history that are too old or too many; whether there may be more."""
        try:
            deleted = self._store.prune_history(self._wall() - retention_days * DAY, retention_records, PRUNE_STEP)
        except SystemRefusal as error:
            self._complain(str(error))
            return False
        return deleted >= PRUNE_STEP

    def _put_aside(self, found: UnreadableSession) -> None:
        holder = found.holder
        self._complain(
            f"session {holder.session} of worker {holder.worker} cannot be read and is put aside: {found.why}"
        )
        try:
            self._store.put_aside(holder)
        except SystemRefusal as error:
            self._complain(str(error))
        self._strays.add(holder)
        if found.address is not None:
            self._leases.restore(holder, found.address, own=(f"{found.address}/32",))

    def _forget_strays(self, gone: set[Holder]) -> None:
        for holder in gone & self._strays:
            self._leases.release(holder)
        self._strays -= gone

    def _close(self, ends: Sequence[tuple[Session, Reason, float]]) -> None:
        """The one way out: sessions with the reason and the time of their end."""
        holders = [session.holder for session, _, _ in ends]
        stops = [self._record(Kind.STOP, session, at, reason) for session, reason, at in ends if session.started_at]
        self._keep(lambda: self._store.delete_sessions(holders), *stops)
        for holder in holders:
            self._leases.release(holder)
            self._sessions.remove(holder)

    def _keep(self, change: Callable[[], None], *records: AccountingRecord) -> None:
        """Change the store and tell the sinks, both or none."""
        try:
            with self._store.transaction():
                change()
                for record in records:
                    for sink in self._sinks:
                        sink.record(record)
        except SystemRefusal as error:
            self._complain(str(error))

    def _plan(self, session: Session, *, first: bool = False) -> None:
        """Set the time of the next Interim."""
        interval = session.facts.authorization.interim_interval or self._interim_interval
        if session.started_at and interval:
            # those of before this process's start all begin now: spread over the whole interval, once
            share = self._random() if first else 1 - JITTER + 2 * JITTER * self._random()
            session.interim_due = self._clock() + interval * share
            self._agenda.plan(session)

    def _record(self, kind: Kind, session: Session, at: float, reason: Reason | None = None) -> AccountingRecord:
        facts, counters = session.facts, session.counters
        grant = facts.grant
        return AccountingRecord(
            kind=kind,
            at=at,
            session=grant.session,
            user=facts.authorization.user,
            authentic=facts.authorization.authentic,
            method=grant.method,
            nas_port=grant.worker << SLOT_BITS | grant.slot,
            interface=session.interface,
            address=grant.terms.remote_address,
            interface_id=session.interface_id,
            framed_prefixes=facts.authorization.framed_prefixes,
            delegated_prefixes=facts.authorization.delegated_prefixes,
            ipv6_addresses=facts.authorization.ipv6_addresses,
            caller_id=grant.caller_id,
            called_id=facts.called_id,
            connect_info=facts.connect_info,
            class_=facts.authorization.class_,
            started_at=session.started_at,
            seconds=counters.seconds,
            bytes_in=counters.bytes_in,
            bytes_out=counters.bytes_out,
            packets_in=counters.packets_in,
            packets_out=counters.packets_out,
            reason=reason.value if reason is not None else "",
        )


class History:
    """The sink that is always there: each Stop becomes a row of the local history."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def record(self, record: AccountingRecord) -> None:
        """Keep a Stop."""
        if record.kind is Kind.STOP:
            self._store.add_history(record)


class StickyMemory:
    """Remembers sticky addresses in the store; what it refuses is forgotten."""

    def __init__(self, store: Store, wall: Callable[[], float], complain: Callable[[str], None]) -> None:
        self._store = store
        self._wall = wall
        self._complain = complain

    def stick(self, whose: Sticky, address: int) -> None:
        """Remember an address."""
        try:
            self._store.stick(StickyAddress(whose, address), self._wall())
        except SystemRefusal as error:
            self._complain(str(error))

    def unstick(self, whose: Sticky) -> None:
        """Forget one."""
        try:
            self._store.unstick(whose)
        except SystemRefusal as error:
            self._complain(str(error))
