"""The unprivileged half's work: dial, log in, and carry packets until one side ends the tunnel."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import ssl
from collections.abc import Sequence
from time import monotonic
from typing import Final

from sstpfarm.client.outer import OuterPath
from sstpfarm.client.queued import waiting_packets
from sstpfarm.client.settings import ClientSettings
from sstpfarm.dataplane.interface import Gate, PacketPath
from sstpfarm.dataplane.select import Dataplane
from sstpfarm.errors import PeerError, place_of
from sstpfarm.ipc import client_messages as c
from sstpfarm.ipc import messages as m
from sstpfarm.ipc.channel import Channel
from sstpfarm.ipc.permissions import Party, may_send
from sstpfarm.proto.events import AuthRequest, AuthSucceeded, BridgeOpened, Ipv4Opened, Ipv6Opened, Phase
from sstpfarm.proto.ppp.ipv6cp import IDENTIFIER_SIZE, interface_identifier
from sstpfarm.proto.ppp.link import PppSettings
from sstpfarm.proto.roles import AuthMethod, Ipv4Terms, Ipv6Terms, Role
from sstpfarm.proto.sstp.binding import CertificateHash
from sstpfarm.proto.sstp.call import SstpSettings
from sstpfarm.proto.tunnel import Tunnel, TunnelSettings
from sstpfarm.reasons import Reason
from sstpfarm.telemetry.stats import Stats
from sstpfarm.transport.connection import Connection
from sstpfarm.transport.deadlines import Deadlines
from sstpfarm.transport.poller import Poller
from sstpfarm.transport.surroundings import Surroundings
from sstpfarm.transport.tls import SharedBuffers, TlsPump
from sstpfarm.transport.tls_context import NO_CERTIFICATE

ANY_SOURCE: Final = ((0, 0),)
IPV4_PATIENCE: Final = 1.0  # seconds that IPV6CP waits for IPCP, so that the interface is made once


class Dialer:
    """The delegate of the client's one connection.

    Args:
        settings: what the user wants; the outer path is made here, before the rights are dropped.
        stats: shared memory whose slot 0 is the session's.
        parent: the channel's socket to the privileged half.
        dataplane: what the privileged half makes the interface for.
    """

    def __init__(self, settings: ClientSettings, stats: Stats, parent: socket.socket, dataplane: Dataplane) -> None:
        self._settings = settings
        self._stats = stats
        self._dataplane = dataplane
        self._outer = OuterPath(settings)
        self._parent = Channel(parent, may_send(Party.CLIENT, Party.CLIENT_PEER), self._from_parent, self._orphaned)
        self._began = monotonic()
        self._connection: Connection | None = None
        self._path: PacketPath | None = None
        self._method: m.Method | None = None
        self._certificate = b""
        self._address = ""
        self._ipv4: Ipv4Opened | None = None
        self._ipv6: Ipv6Opened | None = None
        self._wanted = False
        self._stopped = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.done = asyncio.Event()

    def start(self) -> None:
        """Wait for the parent's Dial."""
        self._parent.start(asyncio.get_running_loop())

    # -- parent ------------------------------------------------------------------------------------------------------

    def _from_parent(self, message: m.Message, fds: list[int]) -> None:
        match message:
            case c.Dial(addresses=addresses, port=port):
                task = asyncio.get_running_loop().create_task(self._dial(addresses, port))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case c.DeviceReady():
                self._attach(message, fds[0])
            case c.DeviceRefused(detail=detail):
                self._close(Reason.INTERFACE_FAILED, detail)
            case c.HangUp(reason=reason):
                self._close(Reason(reason), "")

    def _attach(self, ready: c.DeviceReady, tun: int) -> None:
        if self._connection is None:
            os.close(tun)
            return
        bridged = self._settings.bridging
        queued = () if bridged else waiting_packets(tun, ready, self._dataplane.offload)
        if self._connection.attach(tun, queued, bridged=bridged):  # else it is ending, and tells so itself
            self._phase(Phase.INTERFACE, ready.name)

    def _orphaned(self, why: str) -> None:
        os._exit(1)  # the interface and its routes went with the parent

    def _close(self, reason: Reason, detail: str) -> None:
        self._stopped = True
        if self._connection is not None:
            self._connection.close(reason, detail)
        else:
            self._finished(reason, detail)

    def _finished(self, reason: Reason, detail: str) -> None:
        if not self.done.is_set():
            self._parent.send(c.TunnelClosed(reason=reason.value, detail=_line(detail)))
            self.done.set()

    def _phase(self, phase: Phase, detail: str) -> None:
        seconds = monotonic() - self._began
        self._parent.send(c.PhaseReached(phase=phase.value, seconds=seconds, detail=_line(detail)))

    # -- TCP ---------------------------------------------------------------------------------------------------------

    async def _dial(self, addresses: Sequence[str], port: int) -> None:
        self._began = monotonic()
        try:
            reached = await self._outer.reach(addresses, port)
        except PeerError as error:
            self._finished(error.reason, str(error))
            return
        except Exception as error:  # a bug: nobody else would say that nothing comes of it
            self._finished(Reason.INTERNAL_ERROR, place_of(error))
            return
        self._address = reached.address
        try:
            self._begin(reached.sock)
        except Exception as error:
            reached.sock.close()
            self._finished(Reason.INTERNAL_ERROR, place_of(error))

    def _begin(self, sock: socket.socket) -> None:
        if self._stopped:
            sock.close()
            return
        loop = asyncio.get_running_loop()
        around = Surroundings(loop, Poller(loop), SharedBuffers(), Deadlines(loop))
        self._phase(Phase.TCP, self._address)
        name = self._outer.server_name
        try:
            pump = TlsPump(self._outer.context, around.buffers, server_side=False, server_name=name)
        except (ValueError, ssl.SSLError) as error:  # it is too long, or a part of it is
            sock.close()
            self._finished(Reason.TLS_FAILED, f"{name[:64]!r} is no server's name: {error}")
            return
        self._connection = Connection(
            around,
            self,
            sock,
            pump,
            peer=self._address,
            tls_deadline=self._settings.connect_timeout_s,
            login_deadline=self._settings.login_deadline_s,
        )
        self._connection.start(client=True)

    # -- from the connection -----------------------------------------------------------------------------------------

    def open_tunnel(self, connection: Connection, certificate: bytes) -> tuple[Tunnel, PacketPath]:
        """Check the pin; make the protocol core."""
        settings = self._settings
        self._certificate = certificate
        digest = hashlib.sha256(certificate).hexdigest()
        if settings.pin is not None and digest != settings.pin:
            raise PeerError(f"its SHA-256 is {digest}, not the pinned one", reason=Reason.CERTIFICATE_UNTRUSTED)
        name = settings.host.split("%", 1)[0]
        host = f"[{name}]" if ":" in name else name
        shown = CertificateHash.of(certificate) if certificate else NO_CERTIFICATE
        sstp = SstpSettings(role=Role.CLIENT, certificates=(shown,), keepalive=settings.keepalive_timeout)
        allowed = set(settings.authentication)
        ppp = PppSettings(
            role=Role.CLIENT,
            methods=tuple(method for method in AuthMethod if method.value in allowed),  # strongest first
            mru=settings.max_mru,
            mtu=settings.max_mtu,
            mrru=settings.mrru,
            user=settings.user.encode(),
            password=settings.password,
            ipv6=settings.ipv6,
        )
        tunnel = Tunnel(
            TunnelSettings(sstp=sstp, ppp=ppp, host=host if settings.port == 443 else f"{host}:{settings.port}"),
            os.urandom,
        )
        self._path = self._dataplane.make_path(self._stats.totals, self._stats.slot(0))
        self._path.set_sources(ANY_SOURCE, ANY_SOURCE)
        return tunnel, self._path

    def phase_done(self, connection: Connection, phase: Phase, detail: str) -> None:
        """Tell the parent."""
        self._phase(phase, detail)

    def authenticate(self, connection: Connection, request: AuthRequest) -> None:
        """A client judges nobody; its PPP core never asks."""

    def authenticated(self, connection: Connection, event: AuthSucceeded) -> None:
        """Begin the network protocols."""
        self._method = event.method.value if event.method is not None else None
        self._parent.send(
            c.TunnelFacts(
                method=self._method or "none",
                cipher=connection.cipher,
                tls_version=connection.tls_version,
                server_address=self._address,
                certificate_sha256=hashlib.sha256(self._certificate).hexdigest(),
            )
        )
        if self._settings.bridging:  # IP goes inside of the frames
            connection.configure(None, None, bridge=True)
            return
        ipv6 = Ipv6Terms(local=interface_identifier(os.urandom(IDENTIFIER_SIZE))) if self._settings.ipv6 else None
        connection.configure(Ipv4Terms(request_dns=self._settings.peer_dns), ipv6)

    def network_opened(self, connection: Connection, event: Ipv4Opened | Ipv6Opened | BridgeOpened) -> None:
        """Ask the parent for the interface, or for another address on it."""
        if isinstance(event, BridgeOpened):
            self._want(connection)
        elif isinstance(event, Ipv4Opened):
            self._ipv4 = event
            self._want(connection)
        else:
            self._ipv6 = event
            if self._wanted:
                self._want(connection)
            else:
                asyncio.get_running_loop().call_later(IPV4_PATIENCE, self._want_late, connection)

    def _want_late(self, connection: Connection) -> None:
        if not self._wanted and not self.done.is_set():
            self._want(connection)

    def _want(self, connection: Connection) -> None:
        self._wanted = True
        ipv4, ipv6 = self._ipv4, self._ipv6
        self._parent.send(
            c.InterfaceWanted(
                mtu=connection.mtu,
                local_address=str(ipv4.local) if ipv4 else None,
                remote_address=str(ipv4.peer) if ipv4 and ipv4.peer and not ipv4.peer.is_unspecified else None,
                dns_servers=tuple(map(str, ipv4.dns)) if ipv4 else (),
                ipv6_local=ipv6.local if ipv6 else None,
            )
        )

    def gates_changed(self, connection: Connection, gates: Gate) -> None:
        """The packet path was told already."""

    def router_asked(self, connection: Connection, frame: bytes) -> None:
        """Never: this end is no router."""

    def closed(self, connection: Connection, reason: Reason, detail: str) -> None:
        """Tell the parent; the process ends."""
        self._finished(reason, detail)


def _line(text: str) -> str:
    """What a message may hold: one line, in which nothing that a server said does more than be read."""
    return "".join(c if c.isprintable() else "?" for c in text[:256])
