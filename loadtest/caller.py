"""One client of the harness: socket, TLS pump and tunnel core, without an interface and without a task of its own.

Leaner than `sstpfarm.transport.Connection`: a client that ends is not worth a lingering wait beyond the server's close,
and packets come from and go to the scenario instead of a TUN.
"""

from __future__ import annotations

import os
import socket
import ssl
from dataclasses import dataclass
from enum import Enum, auto
from time import monotonic
from typing import Final, Protocol

from loadtest.flow import Flow
from sstpfarm.dataplane.interface import HEADROOM, SSTP_HEADER
from sstpfarm.errors import PeerError
from sstpfarm.proto.events import AuthSucceeded, Ipv4Opened, LcpOpened, Phase
from sstpfarm.proto.roles import Ipv4Terms, Ipv6Terms
from sstpfarm.proto.tunnel import GatesChanged, PhaseDone, Tunnel, TunnelEnded, TunnelSettings
from sstpfarm.reasons import Reason
from sstpfarm.transport.deadlines import Deadlines
from sstpfarm.transport.poller import Poller
from sstpfarm.transport.tls import SharedBuffers, TlsPump

LINGER: Final = 2.0  # seconds to wait for the server's close
VERSION: Final = 0x10  # MS-SSTP 2.2.1
DATA_HEAD: Final = b"\xff\x03\x00\x21"  # RFC 1662 3.1, RFC 1332 2: IPv4
BARE_IPV4: Final = b"\x00\x21"  # without address and control field


class Stage(Enum):
    """How far the connection is."""

    CONNECTING = auto()
    HANDSHAKE = auto()
    OPEN = auto()
    LINGERING = auto()  # the tunnel has ended: what is left is sent, then the server's close is awaited
    CLOSED = auto()


@dataclass(frozen=True, slots=True)
class Around:
    """What all clients of a process share."""

    poller: Poller
    buffers: SharedBuffers
    deadlines: Deadlines


class Owner(Protocol):
    """What a caller tells."""

    def tunnel_settings(self, caller: Caller, certificate: bytes) -> TunnelSettings:
        """TLS is up: how the tunnel is to be; PeerError ends the caller."""

    def ipv6_terms(self) -> Ipv6Terms | None:
        """What IPV6CP asks for, None to leave it closed."""

    def phase_done(self, caller: Caller, phase: Phase, seconds: float) -> None:
        """A phase took so long."""

    def up(self, caller: Caller) -> None:
        """IPv4 packets may pass."""

    def packet(self, caller: Caller, packet: memoryview) -> None:
        """An IPv4 packet came; the view ends with the call."""

    def writable(self, caller: Caller) -> None:
        """The connection takes packets again."""

    def ended(self, caller: Caller, reason: Reason, detail: str) -> None:
        """The caller is gone; called exactly once."""


class Caller:
    """A client. Memory counts: there are thousands in a process.

    Attributes:
        number: of the session, unique over all generators.
        address, gateway: IPv4 addresses of the two ends of the tunnel, as numbers; 0 until IPCP is open.
        mtu: bytes of the largest packet to send.
        flow: the scenario's account of the packets, if it keeps one.
        wanted_end: it ends because of `hang_up`, and for no other reason.
    """

    __slots__ = (
        "_around", "_deadline", "_fd", "_login_deadline", "_out", "_owner", "_partial", "_phase_at", "_pump", "_reason",
        "_sock", "_stage", "_tunnel", "_writing",
        "address", "began", "flow", "gateway", "is_up", "mtu", "number", "scheduled", "wanted_end",
    )  # fmt: skip

    def __init__(self, around: Around, owner: Owner, number: int, login_seconds: float) -> None:
        self._around = around
        self._owner = owner
        self.number = number
        self.began = self._phase_at = monotonic()
        self._deadline: float | None = None
        self._login_deadline: float | None = self.began + login_seconds
        self._sock: socket.socket | None = None
        self._fd = -1
        self._pump: TlsPump | None = None
        self._tunnel: Tunnel | None = None
        self._stage = Stage.CONNECTING
        self._out = self._partial = b""
        self._writing = False
        self._reason: tuple[Reason, str] | None = None
        self.address = self.gateway = self.mtu = 0
        self.flow: Flow | None = None
        self.is_up = self.wanted_end = False
        self.scheduled = float("inf")

    # -- what the scenario calls -------------------------------------------------------------------------------------

    def dial(self, address: str, port: int, context: ssl.SSLContext, name: str) -> None:
        """Begin; every failure is told through `Owner.ended`, also those of the first moment."""
        try:
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        except OSError as error:
            self._end(Reason.NETWORK_UNREACHABLE, error.strerror or "socket")
            return
        sock.setblocking(False)
        self._sock, self._fd = sock, sock.fileno()
        self._pump = TlsPump(context, self._around.buffers, server_side=False, server_name=name)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect((address, port))
        except BlockingIOError:
            pass
        except OSError as error:
            self._end(Reason.NETWORK_UNREACHABLE, error.strerror or "connect")
            return
        self._around.poller.add_writer(self._fd, self._connected)
        self._around.deadlines.watch(self)

    @property
    def blocked(self) -> bool:
        """Whether bytes wait for the socket: send nothing now."""
        return bool(self._out)

    def send(self, packets: list[bytes]) -> bool:
        """Send IPv4 packets in one batch; False when there is no open session that takes them now."""
        if not self.is_up or self._stage is not Stage.OPEN or self._out or self._pump is None:
            return False
        parts = []
        for packet in packets:
            parts.append((VERSION << 24 | HEADROOM + len(packet)).to_bytes(4, "big"))
            parts.append(DATA_HEAD)
            parts.append(packet)
        self._pump.send(b"".join(parts))
        self._flush()
        return True

    def hang_up(self) -> None:
        """End the session in order; one that is ending already ends for its own reason."""
        if self._stage is Stage.OPEN and self._tunnel is not None:
            self.wanted_end = self._tunnel.reason is None
            self._tunnel.close(Reason.USER_REQUEST, monotonic())
            self._settle()
        elif self._stage in (Stage.CONNECTING, Stage.HANDSHAKE):
            self.wanted_end = True
            self._end(Reason.USER_REQUEST, "")

    # -- time --------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """The earliest of our own and the tunnel's deadlines."""
        tunnel = self._tunnel.next_deadline() if self._stage is Stage.OPEN and self._tunnel is not None else None
        candidates = (self._deadline, self._login_deadline, tunnel)
        return min((at for at in candidates if at is not None), default=None)

    def tick(self, now: float) -> None:
        """Do what is due."""
        if self._deadline is not None and now >= self._deadline:
            self._close()
            return
        if self._stage is Stage.OPEN:
            self._readable()  # what waits in the socket counts before the clock does
        if self._login_deadline is not None and now >= self._login_deadline:
            self._end(Reason.LOGIN_DEADLINE, f"in {self._stage.name.lower()}")
            return
        if self._stage is Stage.OPEN and self._tunnel is not None:
            self._tunnel.tick(now)
            self._settle()

    # -- socket ------------------------------------------------------------------------------------------------------

    def _connected(self) -> None:
        assert self._sock is not None
        assert self._pump is not None
        error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._end(Reason.NETWORK_UNREACHABLE, os.strerror(error))
            return
        try:
            self._sock.getpeername()
        except OSError:  # called without cause (see Poller): not connected yet
            return
        self._around.poller.remove_writer(self._fd)
        self._phase(Phase.TCP)
        self._stage = Stage.HANDSHAKE
        self._around.poller.add_reader(self._fd, self._readable)
        self._pump.start()
        self._settle()

    def _readable(self) -> None:
        pump = self._pump
        if self._sock is None or pump is None:
            return
        received = self._around.buffers.received
        try:
            count = self._sock.recv_into(received)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lost(error.strerror or "receive failed")
            return
        if not count:
            self._lost("closed by the server")
            return
        if self._stage is Stage.LINGERING:
            return
        try:
            plain = pump.receive(received[:count])
            if self._stage is Stage.HANDSHAKE and pump.handshaken:
                self._open(pump.peer_certificate)
        except PeerError as error:
            self._end(error.reason, str(error))
            return
        if self._stage is Stage.OPEN:
            self._feed(plain)
            if pump.peer_closed and self._tunnel is not None:
                self._tunnel.broken(Reason.TRANSPORT_LOST, "TLS closed by the server")
        self._settle()

    def _open(self, certificate: bytes) -> None:
        self._phase(Phase.TLS)
        self._tunnel = Tunnel(self._owner.tunnel_settings(self, certificate), os.urandom)
        self._stage = Stage.OPEN
        self._tunnel.start(monotonic())

    def _lost(self, why: str) -> None:
        if self._stage is Stage.OPEN and self._tunnel is not None:
            self._tunnel.broken(self._tunnel.reason or Reason.TRANSPORT_LOST, why)
            self._dispatch(self._tunnel)
        elif self._stage is not Stage.LINGERING:
            self._end(Reason.TRANSPORT_LOST, why)
            return
        self._close()

    # -- frames ------------------------------------------------------------------------------------------------------

    def _feed(self, plain: memoryview) -> None:
        tunnel = self._tunnel
        if not plain or tunnel is None:
            return
        now = monotonic()
        tunnel.heard(now)
        if tunnel.wants_head:
            plain = memoryview(tunnel.receive_head(plain, now))
            self._dispatch(tunnel)
        if self._partial:
            plain = memoryview(self._partial + plain)
        position, size = 0, len(plain)
        while size - position >= SSTP_HEADER and self._stage is Stage.OPEN:
            length = (plain[position + 2] & 0x0F) << 8 | plain[position + 3]
            if plain[position] != VERSION or length < SSTP_HEADER:
                tunnel.broken(Reason.BAD_FRAMING, "")
                break
            if position + length > size:
                break
            frame = plain[position : position + length]
            position += length
            packet = ipv4_of(frame)
            if packet is None:
                tunnel.receive_frame(bytes(frame), now)
                self._dispatch(tunnel)
            elif self.is_up:
                self._owner.packet(self, packet)
        self._partial = bytes(plain[position:]) if position < size else b""

    # -- out ---------------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        if self._stage is Stage.OPEN and self._tunnel is not None:
            self._dispatch(self._tunnel)
        if self._stage is not Stage.CLOSED:
            self._flush()
        if self._stage is not Stage.CLOSED:
            self._around.deadlines.watch(self)

    def _dispatch(self, tunnel: Tunnel) -> None:
        while self._stage is Stage.OPEN and self._pump is not None:
            data = tunnel.data_to_send()
            if data:
                self._pump.send(data)
            events = tunnel.events()
            if not events:
                return
            for event in events:
                match event:
                    case PhaseDone(phase):
                        self._phase(phase)
                    case LcpOpened(send_limit):
                        self.mtu = send_limit
                    case AuthSucceeded():
                        tunnel.configure(Ipv4Terms(), self._owner.ipv6_terms(), monotonic())
                    case Ipv4Opened(local, peer):
                        self.address, self.gateway = int(local), int(peer or 0)
                    case GatesChanged(is_open):
                        self._gate(is_open)
                    case TunnelEnded(reason, detail, drop):
                        self._finish(reason, detail, drop=drop)
                    case _:
                        pass

    def _gate(self, is_open: bool) -> None:
        self.is_up = is_open
        if is_open and self._login_deadline is not None:
            self._login_deadline = None
            self._owner.up(self)

    def _phase(self, phase: Phase) -> None:
        now = monotonic()
        self._owner.phase_done(self, phase, now - self._phase_at)
        self._phase_at = now

    def _flush(self) -> None:
        if self._pump is None or self._sock is None or self._stage is Stage.CONNECTING:
            return
        data = self._pump.to_send()
        if data:
            self._out = self._out + data if self._out else data
        if self._out:
            try:
                sent = self._sock.send(self._out)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._out = b""
                self._lost(error.strerror or "send failed")
                return
            self._out = self._out[sent:]
        if bool(self._out) != self._writing:
            self._writing = not self._writing
            if self._writing:
                self._around.poller.add_writer(self._fd, self._on_writable)
            else:
                self._around.poller.remove_writer(self._fd)
        if self._stage is Stage.LINGERING and not self._out:
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError:
                self._close()

    def _on_writable(self) -> None:
        self._flush()
        if not self._out and self._stage is Stage.OPEN and self.is_up:
            self._owner.writable(self)

    # -- the end -----------------------------------------------------------------------------------------------------

    def _finish(self, reason: Reason, detail: str, *, drop: bool) -> None:
        """The tunnel has ended: let what is left leave, then close."""
        if self._stage is not Stage.OPEN or self._pump is None:
            return
        self._reason = (reason, detail)
        self.is_up = False
        if drop:
            self._close()
            return
        self._stage, self._deadline, self._login_deadline = Stage.LINGERING, monotonic() + LINGER, None
        self._pump.close()
        self._flush()
        if self._stage is not Stage.CLOSED:
            self._around.deadlines.watch(self)

    def _end(self, reason: Reason, detail: str) -> None:
        self._reason = self._reason or (reason, detail)
        self._close()

    def _close(self) -> None:
        if self._stage is Stage.CLOSED:
            return
        self._stage = Stage.CLOSED
        self._deadline = self._login_deadline = None
        self.is_up = False
        self._out = self._partial = b""
        if self._sock is not None:
            self._around.poller.remove_reader(self._fd)
            self._around.poller.remove_writer(self._fd)
            self._sock.close()
        self._sock = self._pump = self._tunnel = None
        reason, detail = self._reason or (Reason.TRANSPORT_LOST, "")
        self._owner.ended(self, reason, detail)


def ipv4_of(frame: memoryview) -> memoryview | None:
    """The IPv4 packet in an SSTP frame, None for every other frame (MS-SSTP 2.2.1, RFC 1661 6.5 and 6.6)."""
    if frame[1] & 1:
        return None
    head = bytes(frame[SSTP_HEADER : SSTP_HEADER + 4])
    if head == DATA_HEAD:
        return frame[HEADROOM:]
    if head[:2] == BARE_IPV4:
        return frame[SSTP_HEADER + 2 :]
    if head[:1] == b"\x21":
        return frame[SSTP_HEADER + 1 :]
    return frame[SSTP_HEADER + 3 :] if head[:3] == b"\xff\x03\x21" else None
