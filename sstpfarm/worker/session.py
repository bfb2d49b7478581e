"""One session as a worker sees it: the server's side of a connection, between auth, the master and the packet path."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_network
from time import monotonic
from typing import TYPE_CHECKING, Final

from sstpfarm.dataplane.interface import Cell, Gate, PacketPath
from sstpfarm.dataplane.rates import RateLimit
from sstpfarm.ipc import messages as m
from sstpfarm.proto.events import AuthRequest, AuthSucceeded, BridgeOpened, Ipv4Opened, Ipv6Opened, Phase
from sstpfarm.proto.ppp.exchange import readable
from sstpfarm.proto.roles import (
    AuthAccept,
    AuthChallenge,
    AuthReject,
    AuthUnavailable,
    ChapProof,
    EapProof,
    Ipv4Terms,
    Ipv6Terms,
    PapProof,
)
from sstpfarm.proto.tunnel import Tunnel, TunnelSettings
from sstpfarm.reasons import Reason
from sstpfarm.telemetry.catalogue import REAUTHENTICATIONS
from sstpfarm.transport.certificate_names import names_of
from sstpfarm.transport.connection import Connection

if TYPE_CHECKING:
    from sstpfarm.worker.router import Router
    from sstpfarm.worker.server import WorkerServer

HOST_MASK: Final = 0xFFFFFFFF
LINK_LOCAL: Final = 0xFE80 << 112  # RFC 4291 2.5.6
LINK_LOCAL_MASK: Final = (1 << 128) - 1
UNDECIDED_LOGINS: Final = frozenset(
    {Reason.AUTH_NO_COMMON_METHOD, Reason.AUTH_TIMEOUT, Reason.AUTH_UNAVAILABLE, Reason.LCP_FAILED}
)
"""Reasons with which a login fails before auth could decide."""


class Login(StrEnum):
    """How far the login has come, as auth and the master have been told."""

    NONE = "none"
    ASKED = "asked"
    CHALLENGED = "challenged"  # auth wants another answer of the peer
    ACCEPTED = "accepted"
    REFUSED = "refused"


class Session:
    """The delegate of one server connection.

    Args:
        worker: the process's server, which owns channels, statistics and slots.
        session_id: 16 hexadecimal digits, drawn at accept.
        settings: of its tunnel, with the certificate that its TLS presents.
        called: "address:port" that the peer connected to.
    """

    __slots__ = (
        "_called",
        "_certificate",
        "_client_name",
        "_interface",
        "_ipv6",
        "_login",
        "_method",
        "_opened_at",
        "_path",
        "_phase",
        "_phase_at",
        "_ppp_authenticated",
        "_rate",
        "_request",
        "_router",
        "_settings",
        "_slot",
        "_terms",
        "_user",
        "_worker",
        "connection",
        "id",
    )

    def __init__(
        self, worker: WorkerServer, session_id: str, called: str, settings: Mapping[bool, TunnelSettings]
    ) -> None:
        self._worker = worker
        self._settings = settings
        self._called = called
        self._certificate = b""
        self.id = session_id
        self.connection: Connection | None = None
        self._slot = -1
        self._path: PacketPath | None = None
        self._phase, self._phase_at = Phase.TCP, monotonic()
        self._login = Login.NONE
        self._request: m.AccessRequest | None = None
        self._terms: m.Terms | None = None
        self._ppp_authenticated = False
        self._opened_at: float | None = None
        self._ipv6: tuple[tuple[int, int], ...] = ()
        self._router: Router | None = None
        self._interface = ""
        self._rate: RateLimit | None = None
        self._user = self._method = self._client_name = ""

    # -- from the connection -----------------------------------------------------------------------------------------

    def open_tunnel(self, connection: Connection, certificate: bytes) -> tuple[Tunnel, PacketPath]:
        """Take a statistics slot; without a free one the HTTP request is answered with 503."""
        self._certificate = certificate
        self._slot = self._worker.take_slot()
        self._path = self._worker.make_path(self._slot)
        return self._worker.make_tunnel(self._settings, available=self._slot >= 0), self._path

    def phase_done(self, connection: Connection, phase: Phase, detail: str) -> None:
        """Measure the phase."""
        now = monotonic()
        self._worker.stats.observe("sstpfarm_login_phase_seconds", phase, now - self._phase_at)
        self._phase, self._phase_at = phase, now

    def authenticate(self, connection: Connection, request: AuthRequest) -> None:
        """Send the proof to auth."""
        proof = request.proof
        chap = proof if isinstance(proof, ChapProof) else None
        again = self._terms is not None
        if not again:
            self._method = request.method.value
            self._user = readable(request.user)
            self._client_name = request.identification.name
        self._request = m.AccessRequest(
            session=self.id,
            user=request.user,
            method=request.method.value,
            caller_id=connection.peer,
            mtu=connection.mtu,
            frame=connection.frame_limit,
            slot=self._slot,
            password=proof.password if isinstance(proof, PapProof) else b"",
            identifier=chap.identifier if chap else 0,
            challenge=chap.challenge if chap else b"",
            value=chap.value if chap else b"",
            eap=proof.packet if isinstance(proof, EapProof) else b"",
            called_id=self._called,
            connect_info=f"SSTP {connection.tls_version} {connection.cipher}",
            certificate_names=names_of(self._certificate),
            client_name=request.identification.name,
            client_version=request.identification.version,
            again=again,
        )
        self._login = Login.ASKED
        self._worker.ask_auth(self._request)

    def authenticated(self, connection: Connection, event: AuthSucceeded) -> None:
        """PPP has told the peer; the network protocols wait for the interface."""
        self._ppp_authenticated = True
        self._configure()

    def network_opened(self, connection: Connection, event: Ipv4Opened | Ipv6Opened | BridgeOpened) -> None:
        """Bind the packet path to the addresses of the session; those behind a bridge are not known."""
        if self._terms is None or self._path is None or isinstance(event, BridgeOpened):
            return
        behind = [ip_network(text) for text in self._terms.networks]
        ipv4, ipv6 = ([_pair(network) for network in behind if network.version == version] for version in (4, 6))
        ipv4.insert(0, (int(IPv4Address(self._terms.remote_address)), HOST_MASK))
        if isinstance(event, Ipv6Opened):
            self._ipv6 = ((LINK_LOCAL | int.from_bytes(event.peer, "big"), LINK_LOCAL_MASK), *ipv6)
            self._worker.ipv6_opened(self.id, event.peer)
            self._stop_router()
            self._router = self._worker.make_router(connection, self._path, self._terms, event)
        self._path.set_sources(tuple(ipv4), self._ipv6)

    def router_asked(self, connection: Connection, frame: bytes) -> None:
        """The client solicits an advertisement, or speaks DHCPv6."""
        if self._router is not None:
            self._router.asked(frame, monotonic())

    def gates_changed(self, connection: Connection, gates: Gate) -> None:
        """With the first open gate the session counts as opened; with that of IPv6 the client is told of its offer."""
        if Gate.IPV6 not in gates:
            self._stop_router()
        elif self._router is not None:
            self._router.start(monotonic())
        if gates and self._opened_at is None and self._terms is not None:
            self._opened_at = monotonic()
            self._worker.session_opened(self.id, connection)
            self._worker.log.emit(
                "session.opened",
                session=self.id,
                user=self._user,
                peer=connection.peer,
                address=self._terms.remote_address,
                interface=self._interface,
                correlation_id=connection.correlation_id,
                client_name=self._client_name,
            )

    def closed(self, connection: Connection, reason: Reason, detail: str) -> None:
        """Count, log and tell the master."""
        worker = self._worker
        self._stop_router()
        if self._login in (Login.ASKED, Login.CHALLENGED):
            worker.cancel_auth(self.id)
        if self._login in (Login.NONE, Login.ASKED, Login.CHALLENGED) and reason in UNDECIDED_LOGINS:
            self._refused(reason, detail)
        if self._opened_at is not None:
            cells = worker.stats.slot(self._slot)
            worker.stats.inc("sstpfarm_session_ends_total", reason)
            worker.log.emit(
                "session.closed",
                session=self.id,
                user=self._user,
                peer=connection.peer,
                reason=reason.value,
                detail=detail,
                seconds=int(monotonic() - self._opened_at),
                bytes_in=cells[Cell.BYTES_IN],
                bytes_out=cells[Cell.BYTES_OUT],
            )
        else:
            worker.stats.inc("sstpfarm_connections_total", reason)
            worker.log.emit(
                "connection.refused",
                session=self.id,
                peer=connection.peer,
                reason=reason.value,
                phase=self._phase.value,
                detail=detail,
            )
        if reason is Reason.INTERNAL_ERROR:
            worker.log.emit("internal.error", session=self.id, detail=detail)
        worker.session_gone(
            self.id,
            self._slot,
            named=self._login is not Login.NONE,
            opened=self._opened_at is not None,
            handed=bool(self._interface),
            reason=reason,
        )

    # -- from auth and the master ------------------------------------------------------------------------------------

    @property
    def unanswered(self) -> m.AccessRequest | None:
        """The request that auth has not answered yet, and whose answer still matters."""
        lasts = self.connection is not None and self.connection.lasts
        return self._request if self._login is Login.ASKED and lasts else None

    def accepted(self, message: m.AccessAccept) -> None:
        """Auth lets the peer in. One whose end has begun meanwhile is not let in: `closed` says how it ended."""
        if self._login is not Login.ASKED or self.connection is None or not self.connection.lasts:
            return
        self._login, self._request = Login.ACCEPTED, None
        if self._terms is not None:
            self._go_on(self.connection, message)
            return
        self._terms, self._user = message.terms, message.user
        self._rate = self._rate or message.terms.rate_limit
        self._worker.stats.inc("sstpfarm_logins_total", "accepted")
        self._worker.log.emit(
            "login.accepted", session=self.id, user=self._user, peer=self.connection.peer, method=self._method
        )
        self.connection.auth_result(AuthAccept(message.hlak, message.message))
        self._configure()

    def challenged(self, message: m.AccessChallenge) -> None:
        """Auth wants another answer of the peer."""
        if self._login is not Login.ASKED or self.connection is None:
            return
        self._login, self._request = Login.CHALLENGED, None
        self.connection.auth_result(AuthChallenge(message.message))

    def rejected(self, message: m.AccessReject) -> None:
        """Auth keeps the peer out."""
        if self._login is not Login.ASKED or self.connection is None:
            return
        reason = Reason(message.reason)
        self._refused(reason, "")
        unjudged = reason is Reason.AUTH_UNAVAILABLE
        self.connection.auth_result(AuthUnavailable() if unjudged else AuthReject(message.message, reason))

    def reauthenticate(self) -> None:
        """The session's time is over: it goes on if its peer proves once more who it is."""
        if self._login is not Login.ACCEPTED or self.connection is None:
            return
        self._login = Login.CHALLENGED
        self._worker.stats.inc(REAUTHENTICATIONS, "asked")
        self.connection.reauthenticate()

    def change_rate(self, limit: RateLimit) -> None:
        """The master has another rate limit for the session; it may come before auth's answer."""
        self._rate = limit
        if self.connection is not None:
            self.connection.set_rate(limit)

    def interface_ready(self, message: m.InterfaceReady, tun: int) -> None:
        """The master sent the descriptor; it may come before auth's own answer."""
        self._interface = message.name
        if self.connection is None:
            os.close(tun)
            return
        self.connection.attach(tun, bridged=message.bridged)
        self._configure()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _configure(self) -> None:
        """Start the network protocols once PPP is authenticated and the interface is there."""
        terms = self._terms
        if terms is None or self.connection is None or not (self._interface and self._ppp_authenticated):
            return
        self._ppp_authenticated = False  # once
        if self._rate is not None:
            self.connection.set_rate(self._rate)
        if terms.bridged:  # IP goes inside of the frames
            self.connection.configure(None, None, bridge=True)
            return
        ipv4 = Ipv4Terms(
            local=IPv4Address(terms.local_address),
            peer=IPv4Address(terms.remote_address),
            dns=tuple(map(IPv4Address, terms.dns_servers)),
            wins=tuple(map(IPv4Address, terms.wins_servers)),
        )
        self.connection.configure(
            ipv4, Ipv6Terms(local=terms.ipv6_local, peer=terms.ipv6_peer) if terms.ipv6_local else None
        )

    def _go_on(self, connection: Connection, message: m.AccessAccept) -> None:
        """Auth lets a running session go on, and the master knows of its new limits; or it is about to end it."""
        if not message.moved:
            self._worker.stats.inc(REAUTHENTICATIONS, "accepted")
            self._worker.log.emit(
                "session.reauthenticated", session=self.id, user=self._user, peer=connection.peer, method=self._method
            )
        connection.auth_result(AuthAccept(message.hlak, message.message))

    def _stop_router(self) -> None:
        if self._router is not None:
            self._router.stop()
            self._router = None

    def _refused(self, reason: Reason, detail: str) -> None:
        self._login, self._request = Login.REFUSED, None
        if self._terms is not None:  # not of a login: `session.closed` tells it
            return
        self._worker.stats.inc("sstpfarm_logins_total", reason)
        self._worker.log.emit(
            "login.refused",
            session=self.id,
            user=self._user,
            peer=self.connection.peer if self.connection else "",
            method=self._method,
            reason=reason.value,
            detail=detail,
        )


def _pair(network: IPv4Network | IPv6Network) -> tuple[int, int]:
    """Return a network as the packet path takes it: address and mask."""
    return int(network.network_address), int(network.netmask)
