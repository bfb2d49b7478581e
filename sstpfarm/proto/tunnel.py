"""One SSTP tunnel above TLS: the HTTP exchange, the SSTP call and the PPP link as one sans-IO object for both roles.

Bytes come in three ways: `receive_head` until the HTTP exchange is done, then `receive_frame` with each control frame
that the packet path hands out, and `heard` when anything came at all. Network packets never come here, but for those
that ask the router of the link.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sstpfarm.errors import PeerError
from sstpfarm.proto.events import (
    AuthRequest,
    AuthSucceeded,
    BridgeOpened,
    CallAccepted,
    CallConnected,
    CallEnded,
    CallEnding,
    Ipv4Opened,
    Ipv6Opened,
    LcpOpened,
    LinkClosed,
    Network,
    NetworkClosed,
    Phase,
    PppEvent,
    SstpEvent,
)
from sstpfarm.proto.ppp.constants import NETWORK_DATA, PppProtocol
from sstpfarm.proto.ppp.frame import ADDRESS_CONTROL, decode_frame, encode_frame
from sstpfarm.proto.ppp.link import PppLink, PppSettings
from sstpfarm.proto.roles import AuthDecision, Entropy, Ipv4Terms, Ipv6Terms, Role
from sstpfarm.proto.sstp import http
from sstpfarm.proto.sstp.call import SstpCall, SstpSettings
from sstpfarm.proto.sstp.packets import encode_data
from sstpfarm.reasons import OUTCOMES, Reason, Teardown

CONTROL_RATE: Final = 50.0  # control frames a second that a peer may send for long (a login needs about 30 in all)
CONTROL_BURST: Final = 500.0  # before the end is begun, and as many again before it is no longer waited for
SMALLEST_FRAGMENT: Final = 256  # bytes of one that is not a packet's last; a sender makes them as long as our MRU
PEER_ENDS: Final = frozenset({Reason.PEER_DISCONNECT, Reason.PEER_TERMINATED})
SSTP_HEADER: Final = 4  # MS-SSTP 2.2.1
UNAVAILABLE: Final = 503  # RFC 9110 15.6.4: worth another try later, as no other refusal is


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelSettings:
    """How a tunnel behaves; times in seconds.

    Attributes:
        host: at a client, what goes into the Host header.
        available: at a server, False answers every request with 503.
        http_timeout: for the head of the other side, from the start.
        terminate_wait: how long the PPP link may take to terminate before the call is disconnected all the same.
        date: at a server, gives the Date header's value.
    """

    sstp: SstpSettings
    ppp: PppSettings
    host: str = ""
    available: bool = True
    http_timeout: float = 60.0
    terminate_wait: float = 2.0
    date: Callable[[], str] = lambda: ""


@dataclass(frozen=True, slots=True)
class PhaseDone:
    """A phase of the login is done."""

    phase: Phase
    detail: str = ""


@dataclass(frozen=True, slots=True)
class GatesChanged:
    """What may pass now, both ways; `tagged` only towards the peer."""

    ipv4: bool
    ipv6: bool
    bridge: bool = False
    tagged: bool = False


@dataclass(frozen=True, slots=True)
class RouterAsked:
    """The packet path handed out an IPv6 packet that asks the router of the link; `frame` is its PPP frame."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class TunnelEnded:
    """The one end of the tunnel: send what is left, then close; with `drop` without TLS close_notify."""

    reason: Reason
    detail: str
    drop: bool


TunnelEvent = (
    PhaseDone
    | LcpOpened
    | AuthRequest
    | AuthSucceeded
    | Ipv4Opened
    | Ipv6Opened
    | BridgeOpened
    | NetworkClosed
    | GatesChanged
    | RouterAsked
    | TunnelEnded
)


class Tunnel:
    """The protocol state of one tunnel. No method raises for what a peer did."""

    def __init__(self, settings: TunnelSettings, entropy: Entropy) -> None:
        self._settings = settings
        self._role = settings.sstp.role
        self._entropy = entropy
        self._head: http.HeadReader | None = http.HeadReader()
        self._http_deadline: float | None = None
        self._terminate_deadline: float | None = None
        self._call = SstpCall(settings.sstp, entropy)
        self._link = PppLink(settings.ppp, entropy)
        self._out: list[bytes] = []
        self._events: list[TunnelEvent] = []
        self._networks: set[Network] = set()  # that are open
        self._tagged = self._link_started = self._addressed = self._opened = False
        self._packets: list[bytes] = []
        self._gates = GatesChanged(False, False)
        self._send_limit = 0
        self._reason: Reason | None = None
        self._detail = ""
        self._ended = False
        self._tokens, self._tokens_at = CONTROL_BURST, 0.0
        self.correlation_id = ""

    # -- in ----------------------------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """TLS is up: begin the HTTP exchange."""
        self._tokens_at = now
        self._http_deadline = now + self._settings.http_timeout
        if self._role is Role.CLIENT:
            self.correlation_id = _guid(self._entropy(16))
            self._out.append(http.encode_request(self._settings.host, self.correlation_id))

    @property
    def wants_head(self) -> bool:
        """Whether received bytes still belong to the HTTP exchange."""
        return self._head is not None

    def receive_head(self, data: bytes | memoryview, now: float) -> bytes:
        """Take bytes of the HTTP exchange; return those behind the head, which are SSTP's (PROTOCOL 11.1)."""
        if self._head is None or self._ended:
            return b""
        try:
            found = self._head.feed(data)
            if found is None:
                return b""
            head, rest = found
            self._head = self._http_deadline = None
            self._exchange(head)
        except PeerError as error:
            self._refuse(error.reason, str(error))
            return b""
        self._events.append(PhaseDone(Phase.HTTP, self.correlation_id))
        self._call.start(now)
        self._pump(now)
        return rest

    def _exchange(self, head: bytes) -> None:
        if self._role is Role.SERVER:
            self.correlation_id = http.parse_request(head).correlation_id
            if not self._settings.available:
                raise PeerError("no session is free", reason=Reason.HTTP_UNAVAILABLE)
            self._out.append(http.encode_response(self._settings.date()))
        elif (status := http.parse_response(head)) != 200:
            reason = Reason.HTTP_UNAVAILABLE if status == UNAVAILABLE else Reason.HTTP_REFUSED
            raise PeerError(f"the server answered with HTTP status {status}", reason=reason)

    def receive_frame(self, frame: bytes, now: float) -> None:
        """Take one control frame: a whole SSTP control packet, or a data packet with a PPP control frame in it."""
        if self._ended:
            return
        if frame[1] & 1:
            if not self._flooded(now):
                self._call.receive(frame, now)
        elif self._reason is None and (fragment := self._link.fragment(frame[SSTP_HEADER:])) is not None:
            self._reassemble(fragment, now)
            return
        elif self._opened and self._reason is not None and _protocol(frame[SSTP_HEADER:]) == PppProtocol.MULTILINK:
            return  # data that was under way: the packet path drops what is not in fragments
        elif _is_network_data(frame[SSTP_HEADER:]):
            self._events.append(RouterAsked(frame[SSTP_HEADER:]))
            return
        elif not self._flooded(now) and self._call.carries_control:
            self._link.receive(frame[SSTP_HEADER:], now)
        self._pump(now)

    def _reassemble(self, fragment: bytes, now: float) -> None:
        """Take what carries network data, mostly, and so does not count as a control frame, unless it is work for
        nothing: dropped, or a crumb that no sender needs to make.
        """
        lost = self._link.fragments_lost
        packet = self._link.reassemble(fragment)
        if packet is None:
            if self._link.fragments_lost != lost or len(fragment) < SMALLEST_FRAGMENT:
                self._flooded(now)
            return
        if _is_network_data(packet):
            self._packets.append(packet)
        elif not self._flooded(now) and self._call.carries_control:
            self._link.receive(packet, now, reassembled=True)
            self._pump(now)

    def heard(self, now: float) -> None:
        """Any bytes came: the peer lives."""
        self._call.heard(now)

    def auth_result(self, result: AuthDecision, now: float) -> None:
        """Server: what auth decided on the AuthRequest."""
        if not self._ended:
            self._link.auth_result(result, now)
            self._pump(now)

    def reauthenticate(self, now: float) -> None:
        """Server: have the peer of an open tunnel prove once more who it is, as `PppLink.reauthenticate` does."""
        if not self._ended and self._reason is None:
            self._link.reauthenticate(now)
            self._pump(now)

    def send_ipv6(self, packet: bytes) -> None:
        """Send a packet of our own, of at most the link's MTU, if IPv6 may pass now."""
        if not self._gates.ipv6:
            return
        frame = encode_frame(PppProtocol.IPV6, packet)
        if len(packet) <= self._send_limit:
            self._out.append(encode_data(frame))
        else:
            self._out.extend(self.fragments(frame[len(ADDRESS_CONTROL) :]))

    def configure(self, ipv4: Ipv4Terms | None, ipv6: Ipv6Terms | None, now: float, bridge: bool = False) -> None:
        """Start the network protocols; a server does so when the interface is there."""
        if not self._ended:
            self._link.configure(ipv4, ipv6, now, bridge=bridge)
            self._pump(now)

    def broken(self, reason: Reason, detail: str) -> None:
        """The stream ended or cannot be trusted any more: nothing can be sent."""
        self._end(reason, detail, drop=True)

    def close(self, reason: Reason, now: float, detail: str = "") -> None:
        """Take the tunnel down in the way of that reason. Only the first reason counts."""
        if self._ended or self._reason is not None:
            return
        self._reason, self._detail = reason, detail
        teardown = OUTCOMES[reason].teardown
        if self._head is not None or teardown is Teardown.DROP:
            self._end(reason, detail, drop=teardown is Teardown.DROP)
        elif teardown is Teardown.ABORT:
            self._call.abort(reason, now, detail)
        elif not self._link_started:
            self._call.disconnect(reason, now)
        else:
            self._terminate_deadline = now + self._settings.terminate_wait
            self._link.terminate(reason, now)
        self._pump(now)

    def tick(self, now: float) -> None:
        """Do what is due."""
        if self._ended:
            return
        if self._http_deadline is not None and now >= self._http_deadline:
            self._end(Reason.HTTP_TIMEOUT, "", drop=True)
            return
        if self._terminate_deadline is not None and now >= self._terminate_deadline and self._reason is not None:
            self._terminate_deadline = None
            self._call.disconnect(self._reason, now)
        self._call.tick(now)
        self._link.tick(now)
        self._pump(now)

    # -- out ---------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `tick` has something to do; None for never."""
        if self._ended:
            return None
        candidates = (
            self._http_deadline,
            self._terminate_deadline,
            self._call.next_deadline(),
            self._link.next_deadline(),
        )
        return min((at for at in candidates if at is not None), default=None)

    def data_to_send(self) -> bytes:
        """Return and forget the bytes for TLS."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def packets(self) -> list[bytes]:
        """Return and forget the network packets that came in fragments: protocol and information, as the peer has
        them; nothing of them was checked yet.
        """
        packets, self._packets = self._packets, []
        return packets

    def fragments_lost(self) -> int:
        """Return how many fragments, and packets that stayed unfinished, were dropped since the last call."""
        lost, self._link.fragments_lost = self._link.fragments_lost, 0
        return lost

    def fragments(self, packet: bytes) -> list[bytes]:
        """Return the SSTP packets that carry a packet (protocol and information) in fragments."""
        return [encode_data(frame) for frame in self._link.fragments(packet)]

    def events(self) -> list[TunnelEvent]:
        """Return and forget what happened."""
        events, self._events = self._events, []
        return events

    @property
    def ended(self) -> bool:
        """Whether TunnelEnded was given."""
        return self._ended

    @property
    def reason(self) -> Reason | None:
        """Why the tunnel ends or has ended, once it does."""
        return self._reason

    # -- inside ------------------------------------------------------------------------------------------------------

    def _pump(self, now: float) -> None:
        """Carry output and events between the layers until nothing moves."""
        while not self._ended:
            control = self._call.data_to_send()
            if control:
                self._out.append(control)
            sstp_events = self._call.events()
            for sstp_event in sstp_events:
                self._on_sstp(sstp_event, now)
            frames = self._link.frames_to_send()
            if self._call.carries_control:
                self._out.extend(encode_data(frame) for frame in frames)
            ppp_events = self._link.events()
            for ppp_event in ppp_events:
                self._on_ppp(ppp_event, now)
            if not (control or sstp_events or frames or ppp_events):
                break
        self._update_gates()

    def _on_sstp(self, event: SstpEvent, now: float) -> None:
        match event:
            case CallAccepted():
                self._events.append(PhaseDone(Phase.SSTP))
                self._link_started = True
                self._link.start(now)
            case CallConnected():
                self._events.append(PhaseDone(Phase.BINDING))
            case CallEnding(reason):
                if self._reason is None:
                    # a peer that terminates PPP first says there why it disconnects
                    told = self._link.ending if reason is Reason.PEER_DISCONNECT else None
                    self._reason, self._detail = told or (reason, "")
                self._terminate_deadline = None
            case CallEnded(reason, detail, drop):
                self._flush_call()
                self._end(reason, detail, drop=drop)

    def _on_ppp(self, event: PppEvent, now: float) -> None:
        match event:
            case LinkClosed(reason, text):
                if self._reason is None:
                    self._reason, self._detail = reason, text
                self._terminate_deadline = None
                if OUTCOMES[self._reason].teardown is Teardown.ABORT:
                    self._call.abort(self._reason, now, text)
                else:
                    self._call.disconnect(self._reason, now)
                return
            case LcpOpened(method=method):
                self._send_limit = event.send_limit
                self._events.append(PhaseDone(Phase.LCP, f"mtu {event.mtu}, {method or 'no authentication'}"))
            case AuthSucceeded(hlak=hlak):
                self._events.append(PhaseDone(Phase.AUTHENTICATION))
                self._call.authenticated(hlak, now)
            case Ipv4Opened():
                self._networks.add(Network.IPV4)
                if not self._addressed:  # a new negotiation is no phase of the login
                    self._addressed = True
                    self._events.append(PhaseDone(Phase.IPCP, str(event.peer if event.local is None else event.local)))
            case Ipv6Opened():
                self._networks.add(Network.IPV6)
            case BridgeOpened(tagged):
                self._networks.add(Network.BRIDGE)
                self._tagged = tagged
            case NetworkClosed(network):
                self._networks.discard(network)
            case AuthRequest():
                pass
        self._events.append(event)

    def _update_gates(self) -> None:
        carries = self._call.carries_data and self._reason is None and not self._ended
        bridge = carries and Network.BRIDGE in self._networks
        gates = GatesChanged(
            ipv4=carries and Network.IPV4 in self._networks,
            ipv6=carries and Network.IPV6 in self._networks,
            bridge=bridge,
            tagged=bridge and self._tagged,
        )
        if gates != self._gates:
            self._gates = gates
            self._opened = True
            self._events.append(gates)

    def _flooded(self, now: float) -> bool:
        self._tokens = min(CONTROL_BURST, self._tokens + (now - self._tokens_at) * CONTROL_RATE) - 1.0
        self._tokens_at = now
        if self._tokens >= 0:
            return False
        self.close(Reason.CONTROL_FLOOD, now)
        if self._tokens < -CONTROL_BURST:
            # an end in order, for whatever reason, would take its frames for seconds
            self._end(Reason.CONTROL_FLOOD, "", drop=True)
        return True

    def _refuse(self, reason: Reason, detail: str) -> None:
        if self._role is Role.SERVER:
            self._out.append(http.encode_refusal(reason))
        self._end(reason, detail, drop=False)

    def _flush_call(self) -> None:
        control = self._call.data_to_send()
        if control:
            self._out.append(control)

    def _end(self, reason: Reason, detail: str, *, drop: bool) -> None:
        if self._ended:
            return
        if self._reason is None:
            self._reason, self._detail = reason, detail
        if self._role is Role.CLIENT and not self._opened and self._reason in PEER_ENDS:
            self._reason = Reason.LOGIN_ENDED
        self._ended = True
        self._update_gates()
        self._events.append(TunnelEnded(self._reason, self._detail or detail, drop))


def _is_network_data(packet: bytes) -> bool:
    """Whether a packet is for the packet path, which also counts those that make no sense."""
    protocol = _protocol(packet)
    return protocol is None or protocol in NETWORK_DATA


def _protocol(packet: bytes) -> int | None:
    try:
        return decode_frame(packet)[0]
    except PeerError:
        return None


def _guid(random: bytes) -> str:
    """Format 16 random bytes as a version 4 GUID in braces (MS-SSTP 2.2.1, SSTPCORRELATIONID)."""
    value = bytearray(random)
    value[6] = value[6] & 0x0F | 0x40
    value[8] = value[8] & 0x3F | 0x80
    text = value.hex().upper()
    return f"{{{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}}}"
