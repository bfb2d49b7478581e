"""The asyncio glue of one SSTP connection: socket, TLS pump, tunnel core, packet path, TUN descriptor.

It owns the socket and drives everything from readiness callbacks; it never awaits. Each connection ends exactly once,
with one reason, and tells its delegate then. What a server and a client do differently lies in their delegates.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from dataclasses import dataclass
from enum import Enum, auto
from time import monotonic
from typing import Final, Protocol

from sstpfarm.dataplane.interface import FramingError, Gate, PacketPath
from sstpfarm.errors import PeerError, place_of
from sstpfarm.proto.events import AuthRequest, AuthSucceeded, Ipv4Opened, Ipv6Opened, LcpOpened, NetworkClosed, Phase
from sstpfarm.proto.roles import AuthAccept, AuthReject, Ipv4Terms, Ipv6Terms
from sstpfarm.proto.tunnel import GatesChanged, PhaseDone, Tunnel, TunnelEnded, TunnelEvent
from sstpfarm.reasons import Reason
from sstpfarm.transport.deadlines import Deadlines
from sstpfarm.transport.tls import SharedBuffers, TlsPump

NOTSENT_LOWAT: Final = 16 * 1024  # bytes the kernel may hold unsent before the socket counts as full
MAX_PENDING: Final = 256 * 1024  # bytes that wait for the socket; reached only by control frames nobody reads
LINGER: Final = 1.0  # seconds to wait for the peer's close, so that our last bytes are not lost to a reset
FLUSH: Final = 3.0  # seconds that the last bytes may take to leave
TCP_NOTSENT_LOWAT: Final = 25  # linux/tcp.h


class Delegate(Protocol):
    """What a role does with a connection; every call comes from the connection's own callbacks."""

    def open_tunnel(self, connection: Connection, certificate: bytes) -> tuple[Tunnel, PacketPath]:
        """TLS is up (the peer's leaf certificate, DER, or empty): make the protocol core and the packet path.

        Raises:
            PeerError: the connection ends with its reason.
        """

    def phase_done(self, connection: Connection, phase: Phase, detail: str) -> None:
        """A phase of the login is done."""

    def authenticate(self, connection: Connection, request: AuthRequest) -> None:
        """Server: have the proof judged; `connection.auth_result` takes the answer."""

    def authenticated(self, connection: Connection, event: AuthSucceeded) -> None:
        """Authentication is over; the role calls `connection.configure` when it is ready for network protocols."""

    def network_opened(self, connection: Connection, event: Ipv4Opened | Ipv6Opened) -> None:
        """A network protocol is open."""

    def gates_changed(self, connection: Connection, gates: Gate) -> None:
        """Packets of exactly these families may pass now."""

    def closed(self, connection: Connection, reason: Reason, detail: str) -> None:
        """The connection has ended; its descriptors are closed. Called exactly once."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all connections of a process share."""

    loop: asyncio.AbstractEventLoop
    buffers: SharedBuffers
    deadlines: Deadlines


class Stage(Enum):
    """The connection's own stages; the tunnel has its own inside of OPEN."""

    HANDSHAKE = auto()
    OPEN = auto()
    FLUSHING = auto()  # the tunnel has ended, bytes still wait for the socket
    LINGERING = auto()  # all is sent, the peer's close is awaited
    CLOSED = auto()


class Connection:
    """One TCP connection and everything above it.

    Args:
        sock: connected, non-blocking; owned from now on.
        pump: its TLS.
        tls_deadline: seconds for the handshake.
        login_deadline: seconds until the first network protocol must be open.
    """

    __slots__ = (
        "_around",
        "_deadline",
        "_delegate",
        "_fd",
        "_login_deadline",
        "_path",
        "_pending",
        "_pump",
        "_sock",
        "_stage",
        "_tun",
        "_tun_armed",
        "_tunnel",
        "_writer_armed",
        "ending",
        "mtu",
        "peer",
        "scheduled",
    )

    def __init__(
        self,
        around: Surroundings,
        delegate: Delegate,
        sock: socket.socket,
        pump: TlsPump,
        *,
        peer: str,
        tls_deadline: float,
        login_deadline: float,
    ) -> None:
        now = monotonic()
        self._around = around
        self._delegate = delegate
        self._sock = sock
        self._fd = sock.fileno()
        self._pump = pump
        self._stage = Stage.HANDSHAKE
        self._deadline: float | None = now + tls_deadline
        self._login_deadline: float | None = now + login_deadline
        self._tunnel: Tunnel | None = None
        self._path: PacketPath | None = None
        self._tun = -1
        self._tun_armed = self._writer_armed = False
        self._pending = memoryview(b"")
        self.ending: tuple[Reason, str] | None = None
        self.mtu = 0
        self.peer = peer
        self.scheduled = float("inf")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, NOTSENT_LOWAT)

    def start(self, *, client: bool = False) -> None:
        """Begin: wait for the peer's bytes, at a client say ClientHello first."""
        self._around.loop.add_reader(self._fd, self._readable)
        if client:
            self._pump.start()
        self._settle()

    # -- what the delegate calls -------------------------------------------------------------------------------------

    def auth_result(self, result: AuthAccept | AuthReject) -> None:
        """Server: hand the decision to the PPP link."""
        if self._tunnel is not None:
            self._tunnel.auth_result(result, monotonic())
            self._settle()

    def configure(self, ipv4: Ipv4Terms | None, ipv6: Ipv6Terms | None) -> None:
        """Let the network protocols begin."""
        if self._tunnel is not None:
            self._tunnel.configure(ipv4, ipv6, monotonic())
            self._settle()

    def attach(self, tun: int) -> None:
        """Take that TUN descriptor; it is closed with the connection."""
        if self._path is None or self._stage is not Stage.OPEN or self._tun >= 0:
            os.close(tun)
            return
        self._tun = tun
        self._path.attach(tun)
        self._arm_tun(not self._pending)

    def close(self, reason: Reason, detail: str = "") -> None:
        """End the connection for that reason, in the way that the reason asks for. Idempotent."""
        if self._stage is Stage.HANDSHAKE:
            self._finish(reason, detail, drop=True)
        elif self._stage is Stage.OPEN and self._tunnel is not None:
            self._tunnel.close(reason, monotonic(), detail)
            self._settle()

    @property
    def cipher(self) -> str:
        """TLS cipher suite."""
        return self._pump.cipher

    @property
    def tls_version(self) -> str:
        """TLS version."""
        return self._pump.version

    @property
    def correlation_id(self) -> str:
        """The SSTPCORRELATIONID of the HTTP request."""
        return self._tunnel.correlation_id if self._tunnel is not None else ""

    # -- time --------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """The earliest of the connection's and the tunnel's deadlines."""
        tunnel = self._tunnel.next_deadline() if self._tunnel is not None and self._stage is Stage.OPEN else None
        candidates = (self._deadline, self._login_deadline, tunnel)
        return min((at for at in candidates if at is not None), default=None)

    def tick(self, now: float) -> None:
        """Do what is due."""
        try:
            self._tick(now)
        except Exception as error:  # as in _readable
            self._bug(error)

    def _tick(self, now: float) -> None:
        if self._deadline is not None and now >= self._deadline:
            self._deadline = None
            if self._stage is Stage.HANDSHAKE:
                self._finish(Reason.TLS_TIMEOUT, "", drop=True)
            else:
                self._close_now()
            return
        if self._stage is Stage.OPEN:
            self._receive()  # after a stall of this process: what waits in the socket counts before the clock does
        if self._stage is not Stage.OPEN or self._tunnel is None:
            return
        if self._login_deadline is not None and now >= self._login_deadline:
            self._login_deadline = None
            self._tunnel.close(Reason.LOGIN_DEADLINE, now)
        self._tunnel.tick(now)
        self._settle()

    # -- socket ------------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        try:
            self._receive()
        except Exception as error:  # a bug must end this session, and only this one
            self._bug(error)

    def _receive(self) -> None:
        received = self._around.buffers.received
        try:
            count = self._sock.recv_into(received)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lost(error.strerror or "receive failed")
            return
        if not count:
            self._lost("closed by the peer")
            return
        if self._stage is Stage.LINGERING or self._stage is Stage.FLUSHING:
            return  # the peer still talks; nothing of it matters any more
        try:
            plain = self._pump.receive(received[:count])
        except PeerError as error:
            self._finish(error.reason, str(error), drop=error.reason is Reason.TLS_NOT_TLS)
            return
        if self._stage is Stage.HANDSHAKE and self._pump.handshaken and not self._open():
            return
        if self._stage is Stage.OPEN:
            self._feed(plain)
            if self._pump.peer_closed and self._tunnel is not None:
                self._tunnel.broken(Reason.TRANSPORT_LOST, "TLS closed by the peer")
        self._settle()

    def _open(self) -> bool:
        try:
            tunnel, path = self._delegate.open_tunnel(self, self._pump.peer_certificate)
        except PeerError as error:
            self._finish(error.reason, str(error), drop=False)
            return False
        self._tunnel, self._path = tunnel, path
        self._stage, self._deadline = Stage.OPEN, None
        self._delegate.phase_done(self, Phase.TLS, f"{self._pump.version} {self._pump.cipher}")
        tunnel.start(monotonic())
        return True

    def _feed(self, plain: memoryview) -> None:
        tunnel, path = self._tunnel, self._path
        if not plain or tunnel is None or path is None:
            return
        now = monotonic()
        tunnel.heard(now)
        if tunnel.wants_head:
            plain = memoryview(tunnel.receive_head(plain, now))
            self._dispatch()
        try:
            while plain and not tunnel.ended:
                consumed, frame = path.feed(plain)
                if frame is None:
                    break
                plain = plain[consumed:]
                tunnel.receive_frame(frame, now)
                self._dispatch()  # a gate that this frame opens or closes holds for the very next byte
        except FramingError as error:
            tunnel.broken(Reason.BAD_FRAMING, str(error))

    def _lost(self, why: str) -> None:
        if self._stage is Stage.OPEN and self._tunnel is not None and not self._tunnel.ended:
            reason = self._tunnel.reason
            self._tunnel.broken(reason or Reason.TRANSPORT_LOST, why)
            self._settle()
        elif self._stage is Stage.HANDSHAKE:
            self._finish(Reason.TRANSPORT_LOST, why, drop=True)
        self._close_now()

    # -- from the core to the world ----------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Hand out events, send what there is to send, look at the clock."""
        if self._stage is Stage.OPEN:
            self._dispatch()
        if self._stage is not Stage.CLOSED:
            self._flush()
        if self._stage is not Stage.CLOSED:
            self._around.deadlines.watch(self)

    def _dispatch(self) -> None:
        tunnel = self._tunnel
        if tunnel is None:
            return
        while True:
            data = tunnel.data_to_send()
            if data:
                self._encrypt(data)
            events = tunnel.events()
            if not events:
                return
            for event in events:
                self._on(event)

    def _on(self, event: TunnelEvent) -> None:
        match event:
            case PhaseDone(phase, detail):
                self._delegate.phase_done(self, phase, detail)
            case LcpOpened(send_limit, receive_limit, _):
                self.mtu = send_limit
                if self._path is not None:
                    self._path.set_limits(receive=receive_limit, send=send_limit)
            case AuthRequest():
                self._delegate.authenticate(self, event)
            case AuthSucceeded():
                self._delegate.authenticated(self, event)
            case Ipv4Opened() | Ipv6Opened():
                self._delegate.network_opened(self, event)
            case GatesChanged(ipv4, ipv6):
                gates = (Gate.IPV4 if ipv4 else Gate.NONE) | (Gate.IPV6 if ipv6 else Gate.NONE)
                if gates:
                    self._login_deadline = None
                if self._path is not None:
                    self._path.set_gates(gates)
                self._delegate.gates_changed(self, gates)
            case TunnelEnded(reason, detail, drop):
                self._finish(reason, detail, drop=drop)
            case NetworkClosed():
                pass  # the gates follow

    def _encrypt(self, data: bytes | memoryview) -> None:
        try:
            self._pump.send(data)
        except (ssl.SSLError, OSError) as error:
            self._finish(Reason.TRANSPORT_LOST, f"TLS: {error}", drop=True)

    # -- towards the peer --------------------------------------------------------------------------------------------

    def _tun_readable(self) -> None:
        out = self._around.buffers.outbound
        if self._path is None:
            return
        try:
            filled, _ = self._path.drain(out)
            if filled:
                self._encrypt(out[:filled])
                self._flush()
        except OSError as error:  # the device is gone
            self._close_tun()
            self.close(Reason.INTERFACE_FAILED, error.strerror or "read failed")
        except Exception as error:  # as in _readable
            self._bug(error)

    def _flush(self) -> None:
        data = self._pump.to_send()
        if data:
            self._pending = memoryview(bytes(self._pending) + data) if self._pending else memoryview(data)
        if self._pending:
            try:
                self._pending = self._pending[self._sock.send(self._pending) :]
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self._pending = memoryview(b"")
                self._lost(error.strerror or "send failed")
                return
        blocked = bool(self._pending)
        if blocked and len(self._pending) > MAX_PENDING:
            self._finish(Reason.PEER_DEAD, "the peer does not read", drop=True)
            return
        if blocked != self._writer_armed:
            self._writer_armed = blocked
            if blocked:
                self._around.loop.add_writer(self._fd, self._flush)
            else:
                self._around.loop.remove_writer(self._fd)
            self._arm_tun(not blocked)
        if not blocked and self._stage is Stage.FLUSHING:
            self._linger()

    def _arm_tun(self, on: bool) -> None:
        """Read the TUN only while the socket takes what comes out of it; the kernel drops in its ring meanwhile."""
        on = on and self._tun >= 0
        if on != self._tun_armed:
            self._tun_armed = on
            if on:
                self._around.loop.add_reader(self._tun, self._tun_readable)
            else:
                self._around.loop.remove_reader(self._tun)

    # -- the end -----------------------------------------------------------------------------------------------------

    def _finish(self, reason: Reason, detail: str, *, drop: bool) -> None:
        """Begin the end: from here on only bytes that are already made leave. Idempotent."""
        if self._stage in (Stage.FLUSHING, Stage.LINGERING, Stage.CLOSED):
            return
        self.ending = (reason, detail)
        self._close_tun()
        self._login_deadline = None
        self._stage = Stage.FLUSHING
        if drop:
            self._close_now()
            return
        self._pump.close()
        self._deadline = monotonic() + FLUSH
        self._flush()
        if self._stage is not Stage.CLOSED:
            self._around.deadlines.watch(self)

    def _bug(self, error: Exception) -> None:
        self._finish(Reason.INTERNAL_ERROR, place_of(error), drop=True)
        self._close_now()

    def _linger(self) -> None:
        self._stage, self._deadline = Stage.LINGERING, monotonic() + LINGER
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close_now()

    def _close_tun(self) -> None:
        if self._tun >= 0:
            self._arm_tun(False)
            if self._path is not None:
                self._path.detach()
            os.close(self._tun)
            self._tun = -1

    def _close_now(self) -> None:
        if self._stage is Stage.CLOSED:
            return
        if self.ending is None:
            self.ending = (Reason.TRANSPORT_LOST, "")
        self._close_tun()
        self._stage = Stage.CLOSED
        self._deadline = self._login_deadline = None
        self._around.loop.remove_reader(self._fd)
        self._around.loop.remove_writer(self._fd)
        self._sock.close()
        self._delegate.closed(self, *self.ending)
