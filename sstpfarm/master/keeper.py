"""The life of sessions: auth grants one, it gets an interface, its worker opens and closes it, all is released once.

Whatever happens, a session leaves the table through `_release`, and only after its interface is gone or parked: then
its addresses and routes are no more.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from sstpfarm.config.ppp import Interface
from sstpfarm.dataplane.interface import Offload
from sstpfarm.errors import IpcViolation, SystemRefusal
from sstpfarm.ipc import messages as m
from sstpfarm.master.devices import Device, Devices
from sstpfarm.master.display import session_facts, static_facts
from sstpfarm.master.effects import SessionEffects
from sstpfarm.master.ledger import OBEDIENCE, Ledger
from sstpfarm.master.permissions import SessionPhase, check_session
from sstpfarm.master.sessions import Session, SessionTable, Traffic
from sstpfarm.master.static import StaticInterface, StaticInterfaces
from sstpfarm.net.bridge import bridge_mtu
from sstpfarm.net.groups import worker_group
from sstpfarm.net.links import FIRST_MTU, LinkPlan, Links
from sstpfarm.net.shared import SharedAddresses
from sstpfarm.reasons import OUTCOMES, Reason
from sstpfarm.telemetry.log import Log
from sstpfarm.telemetry.stats import Stats

CHANGEABLE: Final = (
    "session_timeout",
    "idle_timeout",
    "reauthenticate",
    "limit_bytes_in",
    "limit_bytes_out",
    "limit_bytes_total",
)
"""What a ChangeSession can change of a session's effects."""

MAX_IPV6_PEERS: Final = 16  # interface identifiers of one peer, one after the other: each is work for the kernel

SendWorker = Callable[[int, m.Message, Sequence[int]], None]
SendAuth = Callable[[m.Message], None]


class SessionKeeper:
    """The master's sessions.

    Args:
        links: the netlink socket.
        stats_of: statistics page of a worker that serves; None when it does not.
        to_worker, to_auth: send a message; nothing happens when the process is not there.
        accuse: called with a worker that broke a rule, and what it did.
        offload: of the devices; the workers' packet paths are made for it.
        effects: what sessions change beside their interfaces; without it, what needs no configuration.
        static: the static interfaces of the configuration, by name.
        authentication_deadline: seconds that a worker gives an authentication.
        ready: free interfaces that are made for each of that many workers, and the MTU of their sessions.
    """

    def __init__(
        self,
        links: Links,
        log: Log,
        *,
        stats_of: Callable[[int], Stats | None],
        to_worker: SendWorker,
        to_auth: SendAuth,
        accuse: Callable[[int, str], None],
        offload: Offload = Offload.NONE,
        effects: SessionEffects | None = None,
        static: Mapping[str, Interface] | None = None,
        authentication_deadline: float = 60.0,
        ready: tuple[int, int, int] = (0, 1, FIRST_MTU),
    ) -> None:
        self.table = SessionTable()
        self.closed_to_new = False
        each, workers, self._ready_mtu = ready
        self._devices = Devices(links, offload, self._device_failed, ready=each, workers=workers)
        self._shared: SharedAddresses | None = None
        self._static = StaticInterfaces(links, offload, static or {}, self._device_failed)
        self.effects = effects or SessionEffects(log)
        self._links = links
        self._log = log
        self._stats_of = stats_of
        self._to_worker = to_worker
        self._to_auth = to_auth
        self._accuse = accuse
        self._ledger = Ledger(authentication_deadline + OBEDIENCE)
        self._tasks: set[asyncio.Task[None]] = set()

    async def prepare(self, leftovers: Mapping[str, int]) -> None:
        """Make the farm's own interfaces, or take over what a farm that was killed left of them: indexes by name.

        Raises:
            SystemRefusal, OSError: one cannot be made.
        """
        self._shared = SharedAddresses()
        await self._static.prepare(leftovers)

    # -- what auth and workers say ---------------------------------------------------------------------------------

    def grant(self, grant: m.Grant) -> None:
        """Take a grant, and hand the interface to the worker, addressed and up.

        Raises:
            IpcViolation: the worker that asked for the session broke a rule (auth passes on what it said).
        """
        stats = self._stats_of(grant.worker)
        if stats is None or self.closed_to_new:
            self._refuse(grant, "the server is shutting down" if self.closed_to_new else "the worker is gone")
            return
        if grant.slot >= stats.slots:
            detail = f"statistics slot {grant.slot} of {stats.slots}"
            self._refuse(grant, detail)  # auth has leased an address for it
            raise IpcViolation(detail)
        known = self.table.get(grant.worker, grant.session)
        if known is not None and known.grant == grant:
            return  # auth was restarted between its grant and its answer, and was asked again; it may be ending already
        if self.table.count(grant.worker) >= stats.slots:
            self._refuse(grant, "too many sessions")
            return
        session = self.table.add(grant, _now())
        try:
            self.effects.enter(session)
            session.device, tun = self._take(session)
        except (SystemRefusal, OSError, ValueError) as error:
            detail = str(error)[:256]
            self._log.emit("interface.failed", session=grant.session, detail=detail)
            self._to_worker(grant.worker, m.InterfaceRefused(session=grant.session, detail=detail), ())
            session.reason = Reason.INTERFACE_FAILED
            self._release(session)
            return
        try:
            self._ledger.enter(session, stats.slot(grant.slot), _now())  # also one that is never said to be open
            self.effects.begin(session)
            ready = m.InterfaceReady(session=grant.session, name=session.name, bridged=grant.terms.bridged)
            self._to_worker(grant.worker, ready, (tun,))
        except OSError as error:  # the descriptor did not leave, and the worker waits for it
            detail = error.strerror or ""
            self._log.emit("interface.failed", session=grant.session, detail=detail)
            self._to_worker(grant.worker, m.InterfaceRefused(session=grant.session, detail=detail), ())
            self._ledger.leave(session)
            session.phase, session.reason = SessionPhase.CLOSING, Reason.INTERFACE_FAILED
            self._run(self._dismantle(session))
        finally:
            os.close(tun)

    def opened(self, worker: int, message: m.SessionOpened) -> None:
        """Note that the session carries packets.

        Raises:
            IpcViolation: not now, or not that worker's session.
        """
        session = self._permitted(worker, message)
        session.phase = SessionPhase.OPENED
        session.opened = _now()
        if (cells := self._cells(session)) is not None:
            self._ledger.enter(session, cells, session.opened)
        session.cipher = message.cipher
        session.tls_version = message.tls_version
        self._to_auth(
            m.SessionStarted(
                worker=worker, session=message.session, interface=session.name, ipv6_peer=session.ipv6_peer
            )
        )
        self.effects.opened(session)

    def ipv6_opened(self, worker: int, message: m.Ipv6Opened) -> None:
        """Add the session's IPv6 routes; a static interface gets its link-local address too.

        Any other has none: each would be three routes for the kernel to walk whenever any interface comes or goes.

        Raises:
            IpcViolation: not now, not that worker's session, or auth did not grant it IPv6.
        """
        session = self._permitted(worker, message)
        local = session.grant.terms.ipv6_local
        if local is None:
            raise IpcViolation("Ipv6Opened for a session without IPv6")
        assert session.device is not None
        before, session.ipv6_peer = session.ipv6_peer, message.peer
        if session.grant.terms.bridged or message.peer == before:
            return
        if session.device.static:
            session.ipv6_peers += 1
            if session.ipv6_peers > MAX_IPV6_PEERS:
                self._end(session, Reason.CONTROL_FLOOD)
                return
            try:
                self._links.open_ipv6(session.device.index, local, message.peer, before)
            except OSError as error:  # IPv6 is off on this host, or the MTU is too small for it: IPv4 works
                self._log.emit("interface.incomplete", session=message.session, detail=str(error))
                return
        if before is None:
            self.effects.ipv6_opened(session)

    def closed(self, worker: int, message: m.SessionClosed) -> None:
        """Park the interface of a session whose worker has closed the descriptor, or begin to delete it.

        Raises:
            IpcViolation: not now, not that worker's session, or no reason of the table.
        """
        if message.reason not in OUTCOMES:
            raise IpcViolation("SessionClosed with a reason that is not in the table")
        session = self._permitted(worker, message)
        session.traffic = self.traffic(session)
        session.phase = SessionPhase.CLOSING
        self._ledger.leave(session)
        session.reason = message.reason
        assert session.device is not None
        withdrawn, effects = self.effects.withdraw(session), session.grant.effects
        if session.device.static:
            given = self._static.give_back(session.device, session.reason)
        else:  # a program of the operator's may have done what only the link's going down undoes
            stay_up = withdrawn and not (effects.on_up or effects.on_down)
            given = not self.closed_to_new and self._devices.give_back(session.device, stay_up=stay_up)
        if given:
            self._release(session)
        else:
            self._run(self._dismantle(session))

    def worker_ready(self, worker: int) -> None:
        """Make what the sessions of a worker that serves will need."""
        self._devices.worker_ready(worker, self._ready_mtu)

    def worker_lost(self, worker: int, stats: Stats, reason: Reason) -> None:
        """Begin to delete the interfaces of all sessions of a dead worker.

        The statistics page is read (and the lost sessions counted in it) before this returns.
        """
        for session in self.table.of_worker(worker):
            if session.phase is not SessionPhase.CLOSING:
                self._ledger.leave(session)
                session.traffic = Traffic.of(stats.slot(session.grant.slot))
                if session.phase is SessionPhase.OPENED:
                    stats.inc("sstpfarm_session_ends_total", reason)
                session.phase = SessionPhase.CLOSING
                session.reason = reason
                session.lost = True
                self._run(self._dismantle(session))
        self._devices.worker_lost(worker)

    def kick(self, text: str, by: str) -> list[str]:
        """Have the worker end the sessions of that identifier, interface or else user; return their identifiers."""
        kicked = []
        for session in self.table.find(text) or self.table.of_user(text):
            if session.phase is not SessionPhase.CLOSING:
                identifier = session.grant.session
                self._end(session, Reason.ADMIN_RESET)
                self._log.emit("session.kicked", session=identifier, by=by)
                kicked.append(identifier)
        return kicked

    def revoke(self, worker: int, identifier: str, reason: Reason) -> None:
        """Have the worker end that session for auth's reason; one that is ending already is left alone."""
        session = self.table.get(worker, identifier)
        if session is not None and session.phase is not SessionPhase.CLOSING:
            self._end(session, reason)

    def change(self, change: m.ChangeSession) -> None:
        """Let other limits hold for a running session, or begin its time anew; one that ends is left alone."""
        session = self.table.get(change.worker, change.session)
        if session is None or session.phase is SessionPhase.CLOSING:
            return
        limits = {name: value for name in CHANGEABLE if (value := getattr(change, name)) is not None}
        session.effects = msgspec.structs.replace(session.effects, **limits)
        cells = self._cells(session)
        if change.renewed and cells is not None:
            self._ledger.renew(session, cells, _now())
        elif limits and cells is not None:
            self._ledger.change(session, cells, _now())
        if change.address_lists is not None:
            self.effects.change_lists(session, change.address_lists)
        if change.rate_limit is not None:
            message = m.ChangeRate(session=change.session, rate_limit=change.rate_limit)
            self._to_worker(change.worker, message, ())

    def enforce(self) -> None:
        """Have sessions ended that have used up a limit, or authenticated once more; accuse workers that did not end
        theirs. Call each TICK.
        """
        now = _now()
        for session, reason in self._ledger.used_up(now):
            if reason is not None:
                self._end(session, reason)
            else:
                self._to_worker(session.grant.worker, m.Reauthenticate(session=session.grant.session), ())
        for session in self._ledger.disobeyed(now):
            self._accuse(session.grant.worker, f"it did not end a session within {OBEDIENCE:.0f} s")

    def report(self, worker: int, identifier: str) -> None:
        """Tell auth what an open session has carried."""
        session = self.table.get(worker, identifier)
        if session is None or session.phase is not SessionPhase.OPENED:
            return
        traffic = self.traffic(session)
        self._to_auth(
            m.SessionCounters(
                worker=worker,
                session=identifier,
                seconds=int(session.seconds(_now())),
                bytes_in=traffic.bytes_in,
                bytes_out=traffic.bytes_out,
                packets_in=traffic.packets_in,
                packets_out=traffic.packets_out,
            )
        )

    # -- what lists show ---------------------------------------------------------------------------------------------

    def listing(self) -> list[dict[str, Any]]:
        """Return the facts of all sessions."""
        now = _now()
        return [session.facts(now, self.traffic(session)) for session in self.table]

    def interfaces(self) -> list[dict[str, Any]]:
        """Return the facts of all interfaces: the static ones, then the others."""
        now = _now()
        static = {session.name: session for session in self.table if session.device and session.device.static}
        others = [session for session in self.table if session.device and not session.device.static]
        return [
            *(self._interface(one, static.get(one.name), now) for one in self._static),
            *(session_facts(session, None, self._cells(session), now) for session in others),
        ]

    def interface(self, name: str) -> dict[str, Any] | None:
        """Return the facts of the interface of that name, None when there is none."""
        session = next((found for found in self.table.find(name) if found.name == name), None)
        static = self._static.get(name)
        if static is not None:
            return self._interface(static, session, _now())
        return session_facts(session, None, self._cells(session), _now()) if session is not None else None

    def _interface(self, one: StaticInterface, session: Session | None, now: float) -> dict[str, Any]:
        if session is None:
            return static_facts(one)
        return session_facts(session, one, self._cells(session), now)

    def traffic(self, session: Session) -> Traffic:
        """Return what the session has carried up to now."""
        if session.traffic is not None:
            return session.traffic
        cells = self._cells(session)
        return Traffic.of(cells) if cells is not None else Traffic()

    async def drain(self) -> None:
        """Wait until no session's interface is being deleted."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    async def close(self) -> None:
        """Delete all interfaces that are left; there are no sessions any more, and none is taken."""
        try:
            await self.drain()
            await self._static.close()
            await self._devices.close()
        except asyncio.CancelledError:  # no time is left
            await self.effects.close(wait=False)
            raise
        finally:
            if self._shared is not None:
                self._shared.close()
        await self.effects.close()

    # -- devices ----------------------------------------------------------------------------------------------------

    def _take(self, session: Session) -> tuple[Device, int]:
        grant, plan = session.grant, _plan(session.grant)
        if self._shared is not None and plan.local is not None and self._shared.enter(plan.local):
            session.shared = plan.local
            plan = replace(plan, shared=True)
        return self._static.take(grant.user, grant.effects.interface, plan) or self._devices.take(plan)

    def _device_failed(self, detail: str) -> None:
        self._log.emit("internal.error", detail=detail)

    # -- ends ----------------------------------------------------------------------------------------------------------

    def _end(self, session: Session, reason: Reason) -> None:
        """Have the worker end it."""
        message = m.EndSession(session=session.grant.session, reason=reason.value)
        self._to_worker(session.grant.worker, message, ())
        self._ledger.end(session, _now())

    def _cells(self, session: Session) -> memoryview | None:
        """The counters of the session; None when its worker is gone."""
        stats = self._stats_of(session.grant.worker)
        return stats.slot(session.grant.slot) if stats is not None else None

    async def _dismantle(self, session: Session) -> None:
        assert session.device is not None
        self.effects.withdraw(session)
        device = session.device
        if not device.static:
            await self._devices.discard(device)
        elif not self._static.give_back(device, session.reason):
            await self._static.discard(device)
        self._release(session)

    def _permitted(self, worker: int, message: m.SessionOpened | m.Ipv6Opened | m.SessionClosed) -> Session:
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
        """The one way out: addresses and routes are gone, and all else goes."""
        grant = session.grant
        traffic = session.traffic or Traffic()
        seconds = int(session.seconds(_now()))
        self._ledger.leave(session)
        self.table.remove(session)
        if self._shared is not None and session.shared is not None:
            self._shared.leave(session.shared)
        self.effects.end(session, seconds, traffic)
        self._to_auth(
            m.SessionReleased(
                worker=grant.worker,
                session=grant.session,
                reason=session.reason,
                opened=session.opened is not None,
                seconds=seconds,
                bytes_in=traffic.bytes_in,
                bytes_out=traffic.bytes_out,
                packets_in=traffic.packets_in,
                packets_out=traffic.packets_out,
            )
        )
        if session.lost and session.opened is not None:  # else its worker has said it
            self._log.emit(
                "session.closed",
                session=grant.session,
                user=grant.user,
                peer=grant.caller_id,
                reason=session.reason,
                opened=session.opened is not None,
                seconds=seconds,
                bytes_in=traffic.bytes_in,
                bytes_out=traffic.bytes_out,
            )

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _plan(grant: m.Grant) -> LinkPlan:
    terms, group = grant.terms, worker_group(grant.worker, clamped=grant.effects.clamp_mss)
    if terms.bridged:
        if not grant.effects.bridge:
            raise SystemRefusal("the session is bridged, but no bridge is named")
        effects = grant.effects
        mtu = bridge_mtu(effects.bridge)
        return LinkPlan(mtu=mtu, group=group, bridge=effects.bridge, port_vid=effects.bridge_port_vid)
    return LinkPlan(
        mtu=grant.mtu,
        local=ipaddress.IPv4Address(terms.local_address),
        remote=ipaddress.IPv4Address(terms.remote_address),
        group=group,
    )


def _now() -> float:
    return asyncio.get_running_loop().time()
