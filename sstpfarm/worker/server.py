"""The worker's server: listeners, sessions, the channels to master and auth, and the statistics that all share."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from email.utils import formatdate
from random import SystemRandom
from time import monotonic
from typing import Final

from sstpfarm.config.views import WorkerView
from sstpfarm.dataplane.interface import CELLS, PacketPath
from sstpfarm.dataplane.select import Dataplane
from sstpfarm.errors import ConfigError
from sstpfarm.ipc import messages as m
from sstpfarm.ipc.channel import Channel
from sstpfarm.ipc.permissions import Party, may_send
from sstpfarm.proto.events import Ipv6Opened
from sstpfarm.proto.ppp.constants import IPV6_MINIMUM_MTU
from sstpfarm.proto.ppp.link import PppSettings
from sstpfarm.proto.roles import AuthMethod, Role
from sstpfarm.proto.sstp.call import SstpSettings
from sstpfarm.proto.tunnel import Tunnel, TunnelSettings
from sstpfarm.reasons import Reason
from sstpfarm.telemetry.log import Log
from sstpfarm.telemetry.stats import Stats
from sstpfarm.transport.connection import Connection
from sstpfarm.transport.deadlines import Deadlines
from sstpfarm.transport.poller import Poller
from sstpfarm.transport.surroundings import Surroundings
from sstpfarm.transport.tls import SharedBuffers, TlsPump
from sstpfarm.transport.tls_context import ServerIdentity
from sstpfarm.worker.admission import Admission, source_of
from sstpfarm.worker.identity import read_identity, read_view
from sstpfarm.worker.router import Router, machine_server_id, offer_of
from sstpfarm.worker.session import Session

ACCEPTS_PER_EVENT: Final = 32
ACCEPT_PAUSE: Final = 0.2  # seconds without accepting after the process ran out of descriptors
SPARE: Final = 256  # descriptors for all that is no session: listeners, also lent ones, channels, the certificate
SLOT_QUARANTINE: Final = 5.0  # seconds in which the master still reads a slot whose session has ended
AUTH_PATIENCE: Final = 5.0  # seconds that logins wait for an auth process that was lost
NO_OFFER: Final = m.Ipv6Offer()
LAG_INTERVAL: Final = 0.5
LAST_WORDS: Final = 60.0  # seconds for what the master has not taken yet; its patience ends earlier
SHUTDOWN_DEADLINE: Final = 8.0  # terminate 2 s, Call Disconnect 5 s (MS-SSTP 3.1.2), and a little


class WorkerServer:
    """Serve SSTP on the listeners of one worker process."""

    def __init__(
        self,
        number: int,
        config: WorkerView,
        identity: ServerIdentity,
        stats: Stats,
        log: Log,
        *,
        master: socket.socket,
        auth: socket.socket,
        dataplane: Dataplane,
    ) -> None:
        self._number = number
        self._dataplane = dataplane
        self._config = config.server
        self.stats = stats
        self.log = log
        self._loop = asyncio.get_running_loop()
        self._around = Surroundings(self._loop, Poller(self._loop), SharedBuffers(), Deadlines(self._loop))
        self._sessions: dict[str, Session] = {}
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        # two descriptors each: for want of the second one the channel would break in which the master sends it
        self._most = max(limit - SPARE, limit // 2) // 2
        per_source = self._config.max_starting_per_source
        self._admission = Admission(
            self._config.max_starting, None if per_source == "disabled" else per_source, SystemRandom().random
        )
        self._opened = 0
        self._free_slots = list(range(stats.slots))
        self._resting_slots: deque[tuple[float, int]] = deque()
        self._listeners: dict[int, socket.socket] = {}
        self._own = 0
        self._done = asyncio.Event()
        self._stopping = False
        self._lag_at = 0.0
        self._present(identity)
        self._server_id = machine_server_id()
        self._master = Channel(master, may_send(Party.MASTER, Party.WORKER), self._from_master, self._master_lost)
        self._auth: Channel | None = self._auth_channel(auth)

    # -- life --------------------------------------------------------------------------------------------------------

    async def run(self, listeners: Sequence[socket.socket]) -> None:
        """Serve until the master says Shutdown and all sessions have ended."""
        self._master.start(self._loop)
        if self._auth is not None:
            self._auth.start(self._loop)
        for listener in listeners:
            self._own -= 1  # own listeners have negative numbers; lent ones keep the master's
            self._serve(self._own, listener)
        self._lag_at = monotonic()
        self._loop.call_later(LAG_INTERVAL, self._measure_lag)
        self._master.send(m.WorkerReady())
        await self._done.wait()
        await self._master.drain(LAST_WORDS)  # which sessions have closed: else the master takes them for lost
        self._master.close()
        if self._auth is not None:
            self._auth.close()

    def _shutdown(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        for number in list(self._listeners):
            self._stop_serving(number)
        self._loop.call_later(SHUTDOWN_DEADLINE, self._done.set)
        for session in list(self._sessions.values()):
            if session.connection is not None:
                session.connection.close(Reason.SHUTDOWN)
        self._check_done()

    def _check_done(self) -> None:
        if self._stopping and not self._sessions:
            self._done.set()

    def _measure_lag(self) -> None:
        now = monotonic()
        lag = max(0.0, now - self._lag_at - LAG_INTERVAL)
        self.stats.observe("sstpfarm_loop_lag_seconds", "", lag)
        self._lag_at = now
        for report in self._admission.reports(now):
            self.log.emit("connections.dropped", **asdict(report))
        self._loop.call_later(LAG_INTERVAL, self._measure_lag)

    # -- listeners ---------------------------------------------------------------------------------------------------

    def _serve(self, number: int, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._listeners[number] = listener
        try:
            self._loop.add_reader(listener.fileno(), self._accept, number)
        except OSError as error:
            self._pause_accepting(error)

    def _stop_serving(self, number: int) -> None:
        listener = self._listeners.pop(number, None)
        if listener is not None:
            self._loop.remove_reader(listener.fileno())
            listener.close()

    def _accept(self, number: int) -> None:
        listener = self._listeners[number]
        for _ in range(ACCEPTS_PER_EVENT):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._pause_accepting(error)
                    return
                continue
            sock.setblocking(False)
            self._admit(sock, address)

    def _pause_accepting(self, error: OSError) -> None:
        self.log.emit("accept.paused", error=error.strerror)
        for listener in self._listeners.values():
            self._loop.remove_reader(listener.fileno())
        self._loop.call_later(ACCEPT_PAUSE, self._resume_accepting)

    def _resume_accepting(self) -> None:
        try:
            for number, listener in self._listeners.items():
                self._loop.add_reader(listener.fileno(), self._accept, number)
        except OSError as error:
            self._pause_accepting(error)

    def _admit(self, sock: socket.socket, address: tuple[str, int]) -> None:
        source = source_of(address[0])
        if len(self._sessions) >= self._most:
            refusal: Reason | None = self._admission.drop(Reason.SESSION_LIMIT)
        else:
            refusal = self._admission.refusal(source)
        if refusal is not None:
            sock.close()
            self.stats.inc("sstpfarm_connections_total", refusal)
            return
        session = Session(self, os.urandom(8).hex(), endpoint(sock.getsockname()), self._settings)
        pump = TlsPump(self._identity.context, self._around.buffers, server_side=True)
        session.connection = Connection(
            self._around,
            session,
            sock,
            pump,
            peer=endpoint(address),
            tls_deadline=self._config.tls_deadline_s,
            login_deadline=self._config.login_deadline_s,
        )
        self._sessions[session.id] = session
        self._admission.enter(session.id, source)
        session.connection.start()

    # -- what sessions use -------------------------------------------------------------------------------------------

    def take_slot(self) -> int:
        """Return a statistics slot that nobody reads any more, or -1 when no session more is taken.

        There are slots for all sessions and for all connections that have not logged in: these cannot keep out others.
        """
        now = monotonic()
        while self._resting_slots and self._resting_slots[0][0] <= now:
            self._free_slots.append(self._resting_slots.popleft()[1])
        if self._opened >= self._config.max_sessions or not self._free_slots:
            return -1
        slot = self._free_slots.pop()
        self.stats.clear_slot(slot)
        return slot

    def make_path(self, slot: int) -> PacketPath:
        """Return a packet path that counts in that slot; without one it counts in the totals only."""
        cells = self.stats.slot(slot) if slot >= 0 else memoryview(array("Q", bytes(8 * CELLS)))
        return self._dataplane.make_path(self.stats.totals, cells)

    def make_tunnel(self, settings: Mapping[bool, TunnelSettings], *, available: bool) -> Tunnel:
        """Return the protocol core of a connection; `settings` are those of the identity that it was admitted with."""
        return Tunnel(settings[available and not self._stopping], os.urandom)

    def make_router(
        self, connection: Connection, path: PacketPath, terms: m.Terms, opened: Ipv6Opened
    ) -> Router | None:
        """Return the router of a session's link; None when there is nothing to tell, or IPv6 does not fit."""
        mtu = min(connection.mtu, terms.mtu or connection.mtu)
        if terms.ipv6_offer == NO_OFFER or mtu < IPV6_MINIMUM_MTU:
            return None
        return Router(
            offer_of(terms.ipv6_offer),
            local=opened.local,
            peer=opened.peer,
            mtu=mtu,
            server_id=self._server_id,
            stats=self.stats,
            deadlines=self._around.deadlines,
            path=path,
            send=connection.send_ipv6,
        )

    def ask_auth(self, request: m.AccessRequest) -> None:
        """Send the request to auth, now or when there is an auth process again."""
        if self._auth is not None:
            self._auth.send(request)

    def cancel_auth(self, session: str) -> None:
        """Tell auth that nobody waits for its decision over that session any more."""
        if self._auth is not None:
            self._auth.send(m.AccessCancelled(session=session))

    def session_opened(self, session: str, connection: Connection) -> None:
        """The session carries packets."""
        self._admission.leave(session)
        self.stats.inc("sstpfarm_connections_total", "opened")
        self._master.send(
            m.SessionOpened(session=session, cipher=connection.cipher, tls_version=connection.tls_version)
        )
        self._count_sessions(+1)

    def ipv6_opened(self, session: str, peer: bytes) -> None:
        """IPV6CP is open; `peer` is the peer's interface identifier."""
        self._master.send(m.Ipv6Opened(session=session, peer=peer))

    def session_gone(self, session: str, slot: int, *, named: bool, opened: bool, handed: bool, reason: Reason) -> None:
        """Forget the session; its descriptor is closed. `named`: its slot was named to auth, and so to the master."""
        if self._sessions.pop(session, None) is None:
            return
        if slot >= 0 and named:
            self._resting_slots.append((monotonic() + SLOT_QUARANTINE, slot))
        elif slot >= 0:
            self._free_slots.append(slot)
        if opened:
            self._count_sessions(-1)
        else:
            self._admission.leave(session)
        if handed:
            self._master.send(m.SessionClosed(session=session, reason=reason.value))
        self._check_done()

    def _count_sessions(self, change: int) -> None:
        self._opened += change
        self.stats.set("sstpfarm_sessions", self._opened)

    def _present(self, identity: ServerIdentity) -> None:
        """Present that identity to whoever connects from now on."""
        self._identity = identity
        self._settings = self._tunnel_settings(identity)

    def _renew(self, view: int, chain: int, key: int) -> None:
        try:
            self._present(read_identity(read_view(view), chain, key))
        except ConfigError as error:  # the master has looked at them: the one before goes on
            self.log.emit("internal.error", detail=str(error))

    def _tunnel_settings(self, identity: ServerIdentity) -> Mapping[bool, TunnelSettings]:
        server = self._config
        sstp = SstpSettings(
            role=Role.SERVER,
            certificates=identity.certificates,
            keepalive=None if server.keepalive_timeout == "disabled" else float(server.keepalive_timeout),
            connect_request_timeout=server.connect_request_deadline_s,
            negotiation_timeout=server.negotiation_deadline_s,
        )
        chosen = {AuthMethod(name) for name in server.authentication}
        ppp = PppSettings(
            role=Role.SERVER,
            methods=tuple(method for method in AuthMethod if method in chosen),  # strongest first
            mru=server.max_mru,
            mtu=server.max_mtu,
            mrru=None if server.mrru == "disabled" else server.mrru,
            ipv6=server.ipv6,
            authentication_timeout=server.authentication_deadline_s,
        )
        return {
            available: TunnelSettings(
                sstp=sstp,
                ppp=ppp,
                available=available,
                http_timeout=server.http_deadline_s,
                date=lambda: formatdate(usegmt=True),
            )
            for available in (True, False)
        }

    # -- master ------------------------------------------------------------------------------------------------------

    def _from_master(self, message: m.Message, fds: list[int]) -> None:
        match message:
            case m.InterfaceReady(session=session_id):
                session = self._sessions.get(session_id)
                if session is None:
                    os.close(fds[0])
                    self._master.send(m.SessionClosed(session=session_id, reason=Reason.TRANSPORT_LOST.value))
                else:
                    session.interface_ready(message, fds[0])
            case m.InterfaceRefused(session=session_id, detail=detail):
                self._close(session_id, Reason.INTERFACE_FAILED, detail)
            case m.ChangeRate(session=session_id, rate_limit=rate_limit):
                if (session := self._sessions.get(session_id)) is not None:
                    session.change_rate(rate_limit)
            case m.Reauthenticate(session=session_id):
                if (session := self._sessions.get(session_id)) is not None:
                    session.reauthenticate()
            case m.EndSession(session=session_id, reason=reason):
                self._close(session_id, Reason(reason), "")
            case m.LendListener(listener=number):
                listener = socket.socket(fileno=fds[0])
                if self._stopping or number in self._listeners:
                    listener.close()
                else:
                    self._serve(number, listener)
            case m.TakeBackListener(listener=number):
                self._stop_serving(number)
            case m.AuthAttached():
                self._attach_auth(socket.socket(fileno=fds[0]))
            case m.CertificateRenewed():
                self._renew(*fds)
            case m.Ping(number=number):
                self._master.send(m.Pong(number=number))
            case m.Shutdown():
                self._shutdown()

    def _close(self, session_id: str, reason: Reason, detail: str) -> None:
        session = self._sessions.get(session_id)
        if session is not None and session.connection is not None:
            session.connection.close(reason, detail)

    def _master_lost(self, why: str) -> None:
        os._exit(1)  # without a master nothing here may go on: its interfaces, its listeners, its limits are gone

    # -- auth --------------------------------------------------------------------------------------------------------

    def _auth_channel(self, sock: socket.socket) -> Channel:
        return Channel(sock, may_send(Party.AUTH, Party.WORKER), self._from_auth, self._auth_lost)

    def _attach_auth(self, sock: socket.socket) -> None:
        if self._auth is not None:
            self._auth.close()
        self._auth = self._auth_channel(sock)
        self._auth.start(self._loop)
        for session in list(self._sessions.values()):
            if session.unanswered is not None:
                self._auth.send(session.unanswered)

    def _auth_lost(self, why: str) -> None:
        self._auth = None
        self._loop.call_later(AUTH_PATIENCE, self._fail_unanswered)

    def _fail_unanswered(self) -> None:
        if self._auth is None:
            for session in list(self._sessions.values()):
                if session.unanswered is not None:
                    self._close(session.id, Reason.AUTH_UNAVAILABLE, "")

    def _from_auth(self, message: m.Message, fds: list[int]) -> None:
        match message:
            case m.AccessAccept(session=session_id):
                if (session := self._sessions.get(session_id)) is not None:
                    session.accepted(message)
            case m.AccessReject(session=session_id):
                if (session := self._sessions.get(session_id)) is not None:
                    session.rejected(message)
            case m.AccessChallenge(session=session_id):
                if (session := self._sessions.get(session_id)) is not None:
                    session.challenged(message)


def endpoint(address: tuple[object, ...]) -> str:
    """Format a socket address as ``address:port``, an IPv6 one in brackets; a mapped IPv4 one as IPv4."""
    host, port = str(address[0]), address[1]
    if host.startswith("::ffff:") and "." in host:
        host = host.removeprefix("::ffff:")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
