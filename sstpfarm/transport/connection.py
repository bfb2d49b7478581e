"""The asyncio glue of one SSTP connection: socket, TLS pump, tunnel core, packet path, TUN descriptor.

It owns the socket and drives everything from readiness callbacks; it never awaits. Each connection ends exactly once,
with one reason, and tells its delegate then. What a server and a client do differently lies in their delegates.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Final

from sstpfarm.dataplane.bucket import bucket_of
from sstpfarm.dataplane.interface import FramingError, PacketPath
from sstpfarm.dataplane.rates import RateLimit
from sstpfarm.errors import PeerError, place_of
from sstpfarm.proto.events import (
    AuthRequest,
    AuthSucceeded,
    BridgeOpened,
    Ipv4Opened,
    Ipv6Opened,
    LcpOpened,
    NetworkClosed,
    Phase,
)
from sstpfarm.proto.roles import AuthDecision, Ipv4Terms, Ipv6Terms
from sstpfarm.proto.tunnel import GatesChanged, PhaseDone, RouterAsked, Tunnel, TunnelEnded, TunnelEvent
from sstpfarm.reasons import Reason
from sstpfarm.transport.delegate import Delegate
from sstpfarm.transport.downlink import Downlink
from sstpfarm.transport.farewell import Farewell
from sstpfarm.transport.outlet import Outlet, Overflow
from sstpfarm.transport.path_settings import gates_of, set_limits
from sstpfarm.transport.stage import Stage
from sstpfarm.transport.surroundings import Surroundings
from sstpfarm.transport.tls import TlsPump
from sstpfarm.transport.tun_source import TunSource
from sstpfarm.transport.uplink import Uplink

ANSWERS: Final = 64 * 1024  # bytes of answers that are made before the socket is tried: a flood grows nothing


class Connection:
    """One TCP connection and everything above it.

    Args:
        sock: connected, non-blocking; owned from now on.
        pump: its TLS.
        tls_deadline: seconds for the handshake.
        login_deadline: seconds until the first network protocol must be open.
    """

    __slots__ = (
        "_around", "_broken", "_deadline", "_delegate", "_dispatching", "_downlink", "_farewell", "_fd",
        "_login_deadline", "_outlet", "_path", "_pump", "_sock", "_stage", "_tunnel", "_uplink", "ending",
        "frame_limit", "mtu", "peer", "scheduled",
    )  # fmt: skip

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
        self._around, self._delegate, self._pump = around, delegate, pump
        self._sock, self._fd = sock, sock.fileno()
        self._stage = Stage.HANDSHAKE
        self._deadline: float | None = now + tls_deadline
        self._login_deadline: float | None = now + login_deadline
        self._tunnel: Tunnel | None = None
        self._path: PacketPath | None = None
        self._downlink: Downlink | None = None
        self._farewell: Farewell | None = None
        self._uplink: Uplink | None = None
        self._dispatching = self._broken = False
        self._outlet = Outlet(around.poller, sock, self._writable, self._tun_readable)
        self.ending: tuple[Reason, str] | None = None
        self.mtu = self.frame_limit = 0
        self.peer, self.scheduled = peer, float("inf")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def start(self, *, client: bool = False) -> None:
        """Begin: wait for the peer's bytes, at a client say ClientHello first."""
        try:
            self._around.poller.add_reader(self._fd, self._readable, starting=True)
        except OSError as error:
            self._finish(Reason.TRANSPORT_LOST, error.strerror or "cannot be watched", drop=True)
            return
        if client:
            self._pump.start()
        self._settle()

    # -- what the delegate calls -------------------------------------------------------------------------------------

    def auth_result(self, result: AuthDecision) -> None:
        """Server: hand the decision to the PPP link."""
        self._step(Tunnel.auth_result, result, monotonic())

    def reauthenticate(self) -> None:
        """Server: have the peer prove once more who it is."""
        self._step(Tunnel.reauthenticate, monotonic())

    def configure(self, ipv4: Ipv4Terms | None, ipv6: Ipv6Terms | None, *, bridge: bool = False) -> None:
        """Let the network protocols begin."""
        self._step(Tunnel.configure, ipv4, ipv6, monotonic(), bridge)

    def attach(self, tun: int, queued: Sequence[bytes] = (), *, bridged: bool = False) -> bool:
        """Take that TUN descriptor; it is closed with the connection, or now if there is no use for it any more.

        Args:
            queued: packets as they were read from it, to be sent before what is read from now on.
            bridged: it is that of a TAP device.

        Returns:
            Whether it was taken.
        """
        if self._downlink is None or self._stage is not Stage.OPEN or self._downlink.source.attached:
            os.close(tun)
            return False
        try:
            self._downlink.source.attach(tun, queued, bridged=bridged)
        except OSError as error:
            self._downlink.source.close()
            self.close(Reason.INTERFACE_FAILED, error.strerror or "")
            return False
        return True

    def send_ipv6(self, packet: bytes) -> None:
        """Send the peer a packet of our own, if IPv6 may pass now; it is not counted as the kernel's packets are."""
        self._step(Tunnel.send_ipv6, packet)

    def set_rate(self, limit: RateLimit) -> None:
        """Hold the peer to that limit from now on; rx is what it sends, tx what it is sent."""
        if self._downlink is None or self._stage is not Stage.OPEN:
            return
        now = monotonic()
        up = bucket_of(limit.rx, limit.rx_burst, limit.rx_threshold, limit.rx_time, now)
        if self._uplink is None and up is not None:
            self._uplink = Uplink(self._around, self._sock, self._readable)
        if self._uplink is not None:
            self._uplink.limit(up)
        self._downlink.limit(bucket_of(limit.tx, limit.tx_burst, limit.tx_threshold, limit.tx_time, now))

    def close(self, reason: Reason, detail: str = "") -> None:
        """End the connection for that reason, in the way that the reason asks for. Idempotent."""
        if self._stage is Stage.HANDSHAKE:
            self._finish(reason, detail, drop=True)
        else:
            self._step(Tunnel.close, reason, monotonic(), detail)

    def _step(self, step: Callable[..., None], *arguments: object) -> None:
        """Let the tunnel, if it is open, do that, and what follows; a bug must end this session, and only this one."""
        if self._tunnel is None or self._stage is not Stage.OPEN:
            return
        try:
            step(self._tunnel, *arguments)
            self._settle()
        except Exception as error:
            self._bug(error)

    @property
    def lasts(self) -> bool:
        """Whether no end was ordered or noticed yet."""
        return self._stage is Stage.OPEN and self._tunnel is not None and self._tunnel.reason is None

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

    def next_deadline(self) -> float | None:
        """The earliest of the connection's and the tunnel's deadlines."""
        tunnel = self._tunnel.next_deadline() if self._tunnel is not None and self._stage is Stage.OPEN else None
        candidates = (self._deadline, self._login_deadline, tunnel)
        return min((at for at in candidates if at is not None), default=None)

    def tick(self, now: float) -> None:
        """Do what is due."""
        try:
            self._tick(now)
        except Exception as error:  # as in _step
            self._bug(error)

    def _tick(self, now: float) -> None:
        if self._deadline is not None and now >= self._deadline:
            self._finish(Reason.TLS_TIMEOUT, "", drop=True)
            return
        if self._stage is Stage.OPEN:
            self._receive()  # after a stall of this process: what waits in the socket counts before the clock does
            if self._uplink is not None and self._tunnel is not None and self._uplink.unread():
                self._tunnel.heard(now)
        if self._stage is not Stage.OPEN or self._tunnel is None:
            return
        if self._login_deadline is not None and now >= self._login_deadline:
            self._login_deadline = None
            self._tunnel.close(Reason.LOGIN_DEADLINE, now)
        self._tunnel.tick(now)
        self._settle()

    # -- from the peer -----------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        try:
            self._receive()
        except Exception as error:  # as in _step
            self._bug(error)

    def _receive(self) -> None:
        received = self._around.buffers.received
        if self._uplink is not None:
            received = self._uplink.part(received)
            if not received:
                return
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
        try:
            plain = self._pump.receive(received[:count])
        except PeerError as error:
            self._finish(error.reason, str(error), drop=error.reason is Reason.TLS_NOT_TLS)
            return
        if self._stage is Stage.HANDSHAKE and not (self._pump.handshaken and self._open()):
            if self._stage is Stage.HANDSHAKE:
                self._flush()
            return
        if plain:
            if self._uplink is not None:
                self._uplink.spend(len(plain))
            self._feed(plain)
        if self._stage is not Stage.OPEN or self._tunnel is None:
            return
        if self._pump.peer_closed:
            self._tunnel.broken(Reason.TRANSPORT_LOST, "TLS closed by the peer")
            self._settle()
        elif self._pump.waiting:
            self._flush()  # the end of our handshake, the answer to a KeyUpdate

    def _open(self) -> bool:
        try:
            tunnel, path = self._delegate.open_tunnel(self, self._pump.peer_certificate)
        except PeerError as error:
            self._finish(error.reason, str(error), drop=False)
            return False
        if self._stage is not Stage.HANDSHAKE:
            return False
        self._tunnel, self._path = tunnel, path
        source = TunSource(path, self._outlet, tunnel.fragments)
        around, gone = self._around, partial(self.close, Reason.INTERFACE_FAILED)
        self._downlink = Downlink(around, source, self._outlet, self._encrypt, self._send, gone, self._tun_readable)
        self._stage, self._deadline = Stage.OPEN, None
        around.poller.started(self._fd)
        tunnel.start(monotonic())
        self._delegate.phase_done(self, Phase.TLS, f"{self._pump.version} {self._pump.cipher}")
        self._settle()
        return True

    def _feed(self, plain: memoryview) -> None:
        tunnel, path = self._tunnel, self._path
        if tunnel is None or path is None:
            return
        now = monotonic()
        tunnel.heard(now)
        told = False  # whether the tunnel was told anything, so that it may want something
        if tunnel.wants_head:
            plain, told = memoryview(tunnel.receive_head(plain, now)), True
            self._dispatch()
        try:
            while plain and self._stage is Stage.OPEN:
                consumed, frame = path.feed(plain)
                if frame is None:
                    break
                plain, told = plain[consumed:], True
                tunnel.receive_frame(frame, now)
                self._dispatch()  # a gate that this frame opens or closes holds for the very next byte
                for packet in tunnel.packets():
                    if path.deliver(packet):
                        self._delegate.router_asked(self, packet)
        except FramingError as error:
            tunnel.broken(Reason.BAD_FRAMING, str(error))
            told = True
        if told:
            if lost := tunnel.fragments_lost():
                path.lose(lost)
            self._settle()

    def _lost(self, why: str) -> None:
        if self._stage is Stage.OPEN and self._tunnel is not None and not self._tunnel.ended:
            self._tunnel.broken(self._tunnel.reason or Reason.TRANSPORT_LOST, why)
            self._settle()
        elif self._stage is Stage.HANDSHAKE:
            self._finish(Reason.TRANSPORT_LOST, why, drop=True)
        self._close_now()

    # -- from the core to the world ----------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Hand out events, send what there is to send, look at the clock."""
        self._dispatch()
        self._flush()
        if self._stage is not Stage.CLOSED:
            self._around.deadlines.watch(self)

    def _dispatch(self) -> None:
        """Encrypt what the tunnel says and hand out its events, in order.

        What a delegate does meanwhile may make more of both: that is left to the call that is already at it.
        """
        tunnel = self._tunnel
        if self._dispatching or tunnel is None:
            return
        self._dispatching = True
        try:
            while self._stage is Stage.OPEN:
                data = tunnel.data_to_send()
                if data:
                    self._encrypt(data)
                    if self._stage is Stage.OPEN and self._pump.waiting > ANSWERS:
                        self._flush()
                events = tunnel.events()
                if not events:
                    return
                for event in events:
                    if self._stage is Stage.OPEN:
                        self._on(event)
        finally:
            self._dispatching = False

    def _on(self, event: TunnelEvent) -> None:
        match event:
            case PhaseDone(phase, detail):
                self._delegate.phase_done(self, phase, detail)
            case LcpOpened():
                self.mtu, self.frame_limit = event.mtu, event.send_limit
                if self._path is not None:
                    set_limits(self._path, event)
            case AuthRequest():
                self._delegate.authenticate(self, event)
            case AuthSucceeded():
                self._delegate.authenticated(self, event)
            case Ipv4Opened() | Ipv6Opened() | BridgeOpened():
                self._delegate.network_opened(self, event)
            case GatesChanged():
                gates = gates_of(event)
                if gates:
                    self._login_deadline = None
                if self._path is not None:
                    self._path.set_gates(gates)
                self._delegate.gates_changed(self, gates)
            case RouterAsked(frame):
                self._delegate.router_asked(self, frame)
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
        try:
            if self._downlink is not None:
                self._downlink.drain()
        except Exception as error:  # as in _step
            self._bug(error)

    def _writable(self) -> None:
        try:
            self._transmit(b"")
            if self._downlink is not None and self._stage is Stage.OPEN and not self._outlet.pending:
                self._downlink.drain()
        except Exception as error:  # as in _step
            self._bug(error)

    def _send(self) -> bool:
        """Send what was encrypted; False when the socket is full, or all is over."""
        try:
            self._flush()
        except Exception as error:  # as in _step
            self._bug(error)
        return self._stage is Stage.OPEN and not self._outlet.pending

    def _flush(self) -> None:
        """Send what was encrypted."""
        if self._stage in (Stage.HANDSHAKE, Stage.OPEN) and self._pump.waiting:
            self._transmit(self._pump.to_send())

    def _transmit(self, data: bytes) -> None:
        try:
            if data:
                self._outlet.put(data)
            else:
                self._outlet.offer()
        except Overflow:
            self._finish(Reason.PEER_DEAD, "the peer does not read", drop=True)
        except OSError as error:
            self._refused(error.strerror or "send failed")

    def _refused(self, why: str) -> None:
        """The socket takes nothing any more. What the peer said last may tell why: that is looked at before the end."""
        self._close_tun()
        self._outlet.close()
        if self._stage is not Stage.OPEN:
            self._lost(why)
        elif not self._broken:
            self._broken = True
            self._around.loop.call_soon(self._hear_out, why)

    def _hear_out(self, why: str) -> None:
        if self._stage is Stage.OPEN:
            self._readable()
        self._lost(why)

    # -- the end -----------------------------------------------------------------------------------------------------

    def _finish(self, reason: Reason, detail: str, *, drop: bool) -> None:
        """Begin the end: from here on only bytes that are already made leave. Idempotent."""
        if self._stage is Stage.ENDING or self._stage is Stage.CLOSED:
            return
        self.ending = (reason, detail)
        self._close_tun()
        self._deadline = self._login_deadline = None
        self._stage = Stage.ENDING
        if drop:
            self._close_now()
            return
        self._pump.close()
        waiting = self._outlet.pending
        self._outlet.close()
        self._farewell = Farewell(self._around, self._sock, self._closed)
        self._farewell.say(waiting, self._pump.to_send())

    def _bug(self, error: Exception) -> None:
        self._finish(Reason.INTERNAL_ERROR, place_of(error), drop=True)
        self._close_now()

    def _close_tun(self) -> None:
        if self._downlink is not None:
            self._downlink.source.close()
        if self._uplink is not None:
            self._uplink.close()

    def _close_now(self) -> None:
        if self._stage is Stage.CLOSED:
            return
        if self._farewell is not None:
            self._farewell.close()
            return
        if self.ending is None:
            self.ending = (Reason.TRANSPORT_LOST, "")
        self._close_tun()
        self._outlet.close()
        self._around.poller.remove_reader(self._fd)
        self._sock.close()
        self._closed()

    def _closed(self) -> None:
        """All descriptors are closed."""
        assert self.ending is not None
        self._stage = Stage.CLOSED
        self._deadline = self._login_deadline = None
        delegate = self._delegate
        # The timers' heap may know us for a while, and a delegate for ever: neither keeps TLS state in memory.
        del self._delegate, self._outlet, self._pump
        self._tunnel = self._path = self._downlink = self._uplink = self._farewell = None
        self._around.deadlines.forget(self)
        delegate.closed(self, *self.ending)
