"""The life of sessions: auth grants one, it gets an interface, its worker opens and closes it, all is released once.

Whatever happens, a session leaves the table through `_release`, and only after its interface is gone.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from sstpfarm.dataplane.interface import Offload
from sstpfarm.errors import IpcViolation, SystemRefusal
from sstpfarm.ipc import messages as m
from sstpfarm.master.permissions import SessionPhase, check_session
from sstpfarm.master.sessions import INTERFACE_PREFIX, Numbers, Session, SessionTable, Traffic
from sstpfarm.net.groups import worker_group
from sstpfarm.net.links import LinkPlan, Links
from sstpfarm.net.tun import InterfaceExists, make_tun
from sstpfarm.reasons import Reason
from sstpfarm.telemetry.log import Log
from sstpfarm.telemetry.stats import Stats

FOREIGN_NAMES: Final = 64  # interfaces named like ours that somebody else made, which one session may step over
DELETE_RETRY: Final = (0.1, 1.0, 10.0)  # seconds; the last one for ever: an address must not be used twice

SendWorker = Callable[[int, m.Message, Sequence[int]], None]
SendAuth = Callable[[m.Message], None]


class SessionKeeper:
    """The master's sessions.

    Args:
        links: the netlink socket.
        stats_of: statistics page of a worker that serves; None when it does not.
        to_worker, to_auth: send a message; nothing happens when the process is not there.
        offload: of the devices; the workers' packet paths are made for it.
    """

    def __init__(
        self,
        links: Links,
        log: Log,
        *,
        stats_of: Callable[[int], Stats | None],
        to_worker: SendWorker,
        to_auth: SendAuth,
        offload: Offload = Offload.NONE,
    ) -> None:
        self.table = SessionTable()
        self.closed_to_new = False
        self._links = links
        self._log = log
        self._stats_of = stats_of
        self._to_worker = to_worker
        self._to_auth = to_auth
        self._offload = offload
        self._numbers = Numbers()
        self._tasks: set[asyncio.Task[None]] = set()

    # -- what auth and workers say ---------------------------------------------------------------------------------

    def grant(self, grant: m.Grant) -> None:
        """Take a grant and begin to make the interface.

        Raises:
            IpcViolation: the worker that asked for the session broke a rule (auth passes on what it said).
        """
        stats = self._stats_of(grant.worker)
        if stats is None or self.closed_to_new:
            self._refuse(grant, "the server is shutting down" if self.closed_to_new else "the worker is gone")
            return
        if grant.slot >= stats.slots:
            raise IpcViolation(f"statistics slot {grant.slot} of {stats.slots}")
        known = self.table.get(grant.worker, grant.session)
        if known is not None and known.grant == grant and known.phase is not SessionPhase.CLOSING:
            return  # auth was restarted between its grant and its answer, and was asked again
        if len(self.table.of_worker(grant.worker)) >= stats.slots:
            self._refuse(grant, "too many sessions")
            return
        self.run(self._prepare(self.table.add(grant, _now())))

    def opened(self, worker: int, message: m.SessionOpened) -> None:
        """Note that the session carries packets.

        Raises:
            IpcViolation: not now, or not that worker's session.
        """
        session = self._permitted(worker, message)
        session.phase = SessionPhase.OPENED
        session.opened = _now()
        session.cipher = message.cipher
        session.tls_version = message.tls_version

    def closed(self, worker: int, message: m.SessionClosed) -> None:
        """Begin to delete the interface of a session whose worker has closed the descriptor.

        Raises:
            IpcViolation: not now, not that worker's session, or no reason of the table.
        """
        if message.reason not in set(Reason):
            raise IpcViolation("SessionClosed with a reason that is not in the table")
        session = self._permitted(worker, message)
        session.traffic = self.traffic(session)
        session.phase = SessionPhase.CLOSING
        session.reason = message.reason
        self.run(self._dismantle(session))

    def worker_lost(self, worker: int, stats: Stats, reason: Reason) -> Coroutine[Any, Any, None]:
        """End all sessions of a dead worker; what is returned, when awaited, deletes their interfaces.

        The statistics page is read (and the lost sessions counted in it) before this returns.
        """
        ended = []
        for session in self.table.of_worker(worker):
            if session.phase is SessionPhase.PREPARING:
                session.lost = True  # `_prepare` sees it
            elif session.phase is not SessionPhase.CLOSING:
                session.traffic = Traffic.of(stats.slot(session.grant.slot))
                if session.phase is SessionPhase.OPENED:
                    stats.inc("sstpfarm_session_ends_total", reason)
                session.phase = SessionPhase.CLOSING
                session.reason = reason
                session.lost = True
                ended.append(session)
        return self._bury(worker, ended)

    def kick(self, text: str, by: str) -> list[str]:
        """Have the worker end the sessions of that identifier or interface; return their identifiers."""
        kicked = []
        for session in self.table.find(text):
            if session.phase is not SessionPhase.CLOSING:
                identifier = session.grant.session
                reset = m.EndSession(session=identifier, reason=Reason.ADMIN_RESET)
                self._to_worker(session.grant.worker, reset, ())
                self._log.emit("session.kicked", session=identifier, by=by)
                kicked.append(identifier)
        return kicked

    # -- what lists show ---------------------------------------------------------------------------------------------

    def listing(self) -> list[dict[str, Any]]:
        """Return the facts of all sessions."""
        now = _now()
        return [session.facts(now, self.traffic(session)) for session in self.table]

    def traffic(self, session: Session) -> Traffic:
        """Return what the session has carried up to now."""
        if session.traffic is not None:
            return session.traffic
        stats = self._stats_of(session.grant.worker)
        return Traffic.of(stats.slot(session.grant.slot)) if stats is not None else Traffic()

    async def drain(self) -> None:
        """Wait until nothing is being made or deleted."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    # -- interfaces ----------------------------------------------------------------------------------------------------

    async def _prepare(self, session: Session) -> None:
        identifier = session.grant.session
        try:
            tun = await self._make_interface(session)
        except (SystemRefusal, OSError, ValueError) as error:
            detail = str(error)[:256]
            self._log.emit("interface.failed", session=identifier, detail=detail)
            if not session.lost:
                self._to_worker(session.grant.worker, m.InterfaceRefused(session=identifier, detail=detail), ())
            session.reason = Reason.INTERFACE_FAILED
            self._release(session)
            return
        try:
            if not session.lost:
                session.phase = SessionPhase.HANDED
                ready = m.InterfaceReady(session=identifier, name=session.name)
                self._to_worker(session.grant.worker, ready, (tun,))
        finally:
            os.close(tun)
        if session.lost:
            session.phase = SessionPhase.CLOSING
            session.reason = Reason.WORKER_LOST
            await self._dismantle(session)

    async def _make_interface(self, session: Session) -> int:
        """Return the descriptor of the session's interface, addressed and up; nothing is left when it fails."""
        terms = session.grant.terms
        plan = LinkPlan(
            mtu=session.grant.mtu,
            local=ipaddress.IPv4Address(terms.local_address),
            remote=ipaddress.IPv4Address(terms.remote_address),
            ipv6_local=terms.ipv6_local,
            group=worker_group(session.grant.worker),
        )
        tun, number = self._make_tun()
        session.number = number
        try:
            session.index = socket.if_nametoindex(session.name)
            await self._links.configure(session.index, plan)
        except BaseException:
            os.close(tun)
            if session.index:
                await self._links.delete(session.index)
            raise
        return tun

    def _make_tun(self) -> tuple[int, int]:
        for _ in range(FOREIGN_NAMES):
            number = self._numbers.take()
            try:
                return make_tun(f"{INTERFACE_PREFIX}{number}", offload=self._offload), number
            except InterfaceExists:
                continue  # somebody else's: that number stays taken
            except SystemRefusal:
                self._numbers.give(number)
                raise
        raise SystemRefusal(f"{FOREIGN_NAMES} interfaces with names of ours belong to somebody else")

    async def _dismantle(self, session: Session) -> None:
        for attempt in range(1_000_000):
            try:
                await self._links.delete(session.index)
                break
            except OSError as error:
                self._log.emit("interface.failed", session=session.grant.session, detail=str(error))
                await asyncio.sleep(DELETE_RETRY[min(attempt, len(DELETE_RETRY) - 1)])
        self._release(session)

    async def _bury(self, worker: int, ended: list[Session]) -> None:
        try:
            await self._links.delete_group(worker_group(worker))
        except OSError as error:
            self._log.emit("internal.error", detail=f"interfaces of worker {worker}: {error}")
            await asyncio.gather(*map(self._dismantle, ended))
            return
        for session in ended:
            self._release(session)

    # -- ends ----------------------------------------------------------------------------------------------------------

    def _permitted(self, worker: int, message: m.SessionOpened | m.SessionClosed) -> Session:
        session = self.table.get(worker, message.session)
        check_session(session.phase if session is not None else None, message)
        assert session is not None
        return session

    def _refuse(self, grant: m.Grant, detail: str) -> None:
        self._to_worker(grant.worker, m.InterfaceRefused(session=grant.session, detail=detail), ())
        self._to_auth(
            m.SessionReleased(worker=grant.worker, session=grant.session, reason=Reason.INTERFACE_FAILED.value)
        )

    def _release(self, session: Session) -> None:
        """The one way out: interface, addresses and routes are gone."""
        grant = session.grant
        traffic = session.traffic or Traffic()
        seconds = int(session.seconds(_now()))
        self.table.remove(session)
        if session.number >= 0:
            self._numbers.give(session.number)
        self._to_auth(
            m.SessionReleased(
                worker=grant.worker,
                session=grant.session,
                reason=session.reason,
                seconds=seconds,
                bytes_in=traffic.bytes_in,
                bytes_out=traffic.bytes_out,
            )
        )
        if session.lost and session.opened is not None:  # else its worker has said it
            self._log.emit(
                "session.closed",
                session=grant.session,
                user=grant.user,
                peer=grant.caller_id,
                reason=session.reason,
                seconds=seconds,
                bytes_in=traffic.bytes_in,
                bytes_out=traffic.bytes_out,
            )

    def run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start work that `drain` waits for."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _now() -> float:
    return asyncio.get_running_loop().time()
