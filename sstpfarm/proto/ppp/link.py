"""The PPP link of one tunnel: LCP, then authentication, then the network protocols (RFC 1661 3).

It is fed with whole frames and with the time, and drained of frames and events after each call. IP packets do not
come here: a link that is handed one drops it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from sstpfarm.errors import LocalError, PeerError
from sstpfarm.proto.events import (
    AuthRequest,
    AuthSucceeded,
    BridgeOpened,
    Ipv4Opened,
    Ipv6Opened,
    LcpOpened,
    LinkClosed,
    Network,
    NetworkClosed,
    PppEvent,
)
from sstpfarm.proto.ppp.authentication import Authentication, AuthFailed, check_credentials, make_authentication
from sstpfarm.proto.ppp.automaton import Action, State
from sstpfarm.proto.ppp.bcp import Bcp
from sstpfarm.proto.ppp.constants import IPV6_MINIMUM_MTU, MAXIMUM_MRU, NETWORK_DATA, Code, PppProtocol
from sstpfarm.proto.ppp.control import Limits
from sstpfarm.proto.ppp.exchange import readable
from sstpfarm.proto.ppp.frame import decode_frame, encode_frame
from sstpfarm.proto.ppp.ipcp import Ipcp
from sstpfarm.proto.ppp.ipv6cp import Ipv6cp
from sstpfarm.proto.ppp.lcp import Lcp
from sstpfarm.proto.ppp.mschap import ZERO_HLAK
from sstpfarm.proto.ppp.multilink import Fragmenter, Reassembler
from sstpfarm.proto.roles import AuthDecision, AuthMethod, Entropy, Ipv4Terms, Ipv6Terms, Role
from sstpfarm.reasons import OUTCOMES, Reason

_NETWORKS: Final = {
    PppProtocol.IPCP: Network.IPV4,
    PppProtocol.IPV6CP: Network.IPV6,
    PppProtocol.BCP: Network.BRIDGE,
}
_NCPS: Final[dict[int, PppProtocol]] = {  # by the protocols that a peer who has no use for one may reject
    PppProtocol.IPCP: PppProtocol.IPCP,
    PppProtocol.IPV4: PppProtocol.IPCP,
    PppProtocol.IPV6CP: PppProtocol.IPV6CP,
    PppProtocol.IPV6: PppProtocol.IPV6CP,
    PppProtocol.BCP: PppProtocol.BCP,
    PppProtocol.BRIDGED: PppProtocol.BCP,
}
_HELD_CODES: Final = range(Code.CONFIGURE_REQUEST, Code.CODE_REJECT + 1)  # what is held of an NCP before `configure`
_NEVER_IN_FRAGMENTS: Final = range(Code.CONFIGURE_REQUEST, Code.TERMINATE_ACK + 1)  # of LCP, RFC 1990 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PppSettings:
    """How a link behaves; times in seconds, sizes in bytes of the PPP information field.

    Attributes:
        methods: a server offers them, strongest first, and none means no authentication; a client allows them, and
            a client that allows any insists on one.
        mru: our receive limit, which LCP asks for.
        mtu: upper bound of what we send in one piece, whatever the peer takes.
        mrru: the largest packet that we take, and send, in fragments (RFC 1990 5.1.1); None for no multilink.
        name: ours in CHAP challenges.
        user, password: a client's.
        ipv4, ipv6, bridge: networks that are served at all.
        authentication_timeout: from LCP Opened to the end of authentication, and for each one after that.
    """

    role: Role
    methods: tuple[AuthMethod, ...]
    mru: int = 1500
    mtu: int = 1500
    mrru: int | None = None
    name: bytes = b"sstpfarm"
    user: bytes = b""
    password: str = field(repr=False, default="")
    ipv4: bool = True
    ipv6: bool = True
    bridge: bool = True
    restart_timer: float = 3.0
    max_configure: int = 10
    max_terminate: int = 2
    max_failure: int = 5
    authentication_timeout: float = 60.0


class LinkPhase(StrEnum):
    """Phases of RFC 1661 3.2; Closed is Dead again, and for good."""

    DEAD = "dead"
    ESTABLISH = "establish"
    AUTHENTICATE = "authenticate"
    NETWORK = "network"
    TERMINATE = "terminate"
    CLOSED = "closed"


_AUTHENTICATES: Final = frozenset({LinkPhase.AUTHENTICATE, LinkPhase.NETWORK})  # where a decision has a meaning


class PppLink:
    """The PPP link. No method raises for what a peer sent; a closed link takes every call and does nothing.

    Raises:
        ConfigError: at a client, when an allowed method cannot carry the user or the password.
    """

    def __init__(self, settings: PppSettings, entropy: Entropy) -> None:
        if settings.role is Role.CLIENT:
            for method in settings.methods:
                check_credentials(method, settings.user, settings.password)
        self._settings = settings
        self._entropy = entropy
        self._limits = Limits(
            settings.restart_timer, settings.max_configure, settings.max_terminate, settings.max_failure
        )
        self._lcp = Lcp(
            self._limits,
            role=settings.role,
            methods=settings.methods,
            mru=settings.mru,
            mrru=settings.mrru,
            entropy=entropy,
        )
        self._phase = LinkPhase.DEAD
        self._authentication: Authentication | None = None
        self._authentication_deadline: float | None = None
        self._served = {
            PppProtocol.IPCP: settings.ipv4,
            PppProtocol.IPV6CP: settings.ipv6,
            PppProtocol.BCP: settings.bridge,
        }
        self._ncps: dict[PppProtocol, Ipcp | Ipv6cp | Bcp] = {}
        self._reassembler: Reassembler | None = None  # with multilink, as long as LCP is Opened; so is the next
        self._fragmenter: Fragmenter | None = None
        self._configured = False
        self._held: dict[tuple[PppProtocol, int], bytes] = {}  # the latest packet of each NCP and code, in order
        self._reason: Reason | None = None
        self._text = ""
        self._frames: list[bytes] = []
        self._events: list[PppEvent] = []
        self.fragments_lost = 0  # what reassembly dropped; the owner sets it back

    # -- in ------------------------------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """SSTP accepted the call: both sides send their Configure-Request at once."""
        if self._phase is not LinkPhase.DEAD:
            return
        self._phase = LinkPhase.ESTABLISH
        self._lcp.open(now)
        self._lcp.up(now)
        self._settle_lcp(now)

    def receive(self, frame: bytes, now: float, *, reassembled: bool = False) -> None:
        """Take one PPP frame, with or without FF 03; what is malformed or out of place is dropped.

        So is what is longer than a frame with all headers can carry: fragments, or compressed headers, bring more than
        an answer in one frame holds, or a message to auth.
        """
        if self._phase in (LinkPhase.DEAD, LinkPhase.CLOSED):
            return
        try:
            protocol, information = decode_frame(frame)
        except PeerError:
            return
        if len(information) > MAXIMUM_MRU:
            return
        if reassembled and (
            protocol == PppProtocol.MULTILINK
            or (protocol == PppProtocol.LCP and information[:1] and information[0] in _NEVER_IN_FRAGMENTS)
        ):
            return
        if protocol == PppProtocol.LCP:
            self._lcp.receive(information, now)
            self._settle_lcp(now)
        elif self._authentication is not None and protocol == self._authentication.protocol:
            self._authentication.receive(information, now)
            self._settle_authentication(now)
        elif self._phase is LinkPhase.NETWORK:
            self._receive_network(protocol, information, now)

    def auth_result(self, result: AuthDecision, now: float) -> None:
        """Server: the answer to AuthRequest; too late an answer is ignored."""
        if self._phase in _AUTHENTICATES and self._authentication is not None:
            self._authentication.result(result, now)
            self._settle_authentication(now)

    def reauthenticate(self, now: float) -> None:
        """Server: have the peer of an open link prove once more who it is; network packets pass meanwhile.

        AuthRequest follows. What is accepted changes nothing here; a refusal, or no proof in the time that
        authentication may take, ends the link. So does, with SESSION_TIMEOUT, that nothing can be asked: PAP is begun
        by the peer (RFC 1334 2).
        """
        if self._phase is not LinkPhase.NETWORK:
            return
        if self._authentication is None or not self._authentication.again(now):
            self._end(Reason.SESSION_TIMEOUT, now)
            return
        if self._authentication_deadline is None:
            self._authentication_deadline = now + self._settings.authentication_timeout
        self._settle_authentication(now)

    def fragment(self, frame: bytes) -> bytes | None:
        """Return what `reassemble` is to take, when that frame is a fragment and multilink is agreed; else None."""
        if self._reassembler is None or self._phase is not LinkPhase.NETWORK:
            return None
        try:
            protocol, information = decode_frame(frame)
        except PeerError:
            return None
        return information if protocol == PppProtocol.MULTILINK else None

    def reassemble(self, fragment: bytes) -> bytes | None:
        """Return the packet (protocol and information) that this fragment completes."""
        if self._reassembler is None:
            return None
        before = self._reassembler.dropped
        packet = self._reassembler.take(fragment)
        self.fragments_lost += self._reassembler.dropped - before
        return packet

    def fragments(self, packet: bytes) -> list[bytes]:
        """Return the frames that carry a packet (protocol and information) in fragments; none without multilink."""
        if self._fragmenter is None:
            return []
        return [encode_frame(PppProtocol.MULTILINK, fragment) for fragment in self._fragmenter.split(packet)]

    def configure(self, ipv4: Ipv4Terms | None, ipv6: Ipv6Terms | None, now: float, *, bridge: bool = False) -> None:
        """Start the network protocols, once, after AuthSucceeded; None leaves that family off.

        IPv6 also stays off where its smallest packet does not fit (RFC 8200 5).

        Raises:
            LocalError: authentication is not done, or the terms are not those of this role.
        """
        if self._phase in (LinkPhase.TERMINATE, LinkPhase.CLOSED):
            return
        if self._phase is not LinkPhase.NETWORK or self._configured:
            raise LocalError("configure() belongs once behind AuthSucceeded")
        self._configured = True
        role = self._settings.role
        multilink = self._lcp.multilink
        sends, receives = self._send_limit, self._lcp.receive_limit
        if multilink is not None:
            sends, receives = max(sends, multilink.send_mrru), max(receives, multilink.receive_mrru)
        fits_ipv6 = min(sends, receives) >= IPV6_MINIMUM_MTU
        if ipv4 is not None and self._served[PppProtocol.IPCP]:
            self._ncps[PppProtocol.IPCP] = Ipcp(self._limits, role=role, terms=ipv4)
        if ipv6 is not None and self._served[PppProtocol.IPV6CP] and fits_ipv6:
            self._ncps[PppProtocol.IPV6CP] = Ipv6cp(self._limits, role=role, terms=ipv6, entropy=self._entropy)
        if bridge and self._served[PppProtocol.BCP]:
            self._ncps[PppProtocol.BCP] = Bcp(self._limits, entropy=self._entropy)
        self._served = {protocol: protocol in self._ncps for protocol in _NETWORKS}
        if not self._ncps:
            self._end(Reason.NCP_FAILED, now)
        for protocol, ncp in list(self._ncps.items()):
            ncp.send_limit = self._send_limit
            ncp.open(now)
            ncp.up(now)
            self._settle_ncp(protocol, now)
        held, self._held = self._held, {}
        for (protocol, _), information in held.items():
            if self._phase is LinkPhase.NETWORK:
                self._receive_network(protocol, information, now)

    def terminate(self, reason: Reason, now: float) -> None:
        """Send LCP Terminate-Request with the reason's text; LinkClosed follows when it is answered, or not in time."""
        self._end(reason, now)

    def tick(self, now: float) -> None:
        """Do what is due."""
        if self._phase in (LinkPhase.DEAD, LinkPhase.CLOSED):
            return
        self._lcp.tick(now)
        self._settle_lcp(now)
        if self._authentication_deadline is not None and now >= self._authentication_deadline:
            self._end(Reason.AUTH_TIMEOUT, now)
        if self._authentication is not None:
            self._authentication.tick(now)
            self._settle_authentication(now)
        for protocol, ncp in list(self._ncps.items()):
            ncp.tick(now)
            self._settle_ncp(protocol, now)

    # -- out -----------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """Return when `tick` has something to do; None for never."""
        if self._phase in (LinkPhase.DEAD, LinkPhase.CLOSED):
            return None
        candidates = [self._lcp.next_deadline(), self._authentication_deadline]
        if self._authentication is not None:
            candidates.append(self._authentication.next_deadline())
        candidates += [ncp.next_deadline() for ncp in self._ncps.values()]
        return min((at for at in candidates if at is not None), default=None)

    def frames_to_send(self) -> list[bytes]:
        """Return and forget the frames for the peer, each with FF 03 and a 2-byte protocol."""
        frames, self._frames = self._frames, []
        return frames

    def events(self) -> list[PppEvent]:
        """Return and forget what happened."""
        events, self._events = self._events, []
        return events

    @property
    def ending(self) -> tuple[Reason, str] | None:
        """Why the link ends or has ended, and the peer's words, once it does."""
        return (self._reason, self._text) if self._reason is not None else None

    # -- LCP -----------------------------------------------------------------------------------------------------------

    @property
    def _send_limit(self) -> int:
        return min(self._lcp.send_limit, self._settings.mtu)

    def _settle_lcp(self, now: float) -> None:
        """Carry on what a call of LCP brought."""
        lcp = self._lcp
        self._take_packets(PppProtocol.LCP, lcp.packets)
        if lcp.failure is not None:
            self._ending(lcp.failure)
        elif lcp.peer_text is not None:
            reason = Reason.AUTH_NO_COMMON_METHOD if lcp.disputed_method else Reason.PEER_TERMINATED
            self._ending(reason, readable(lcp.peer_text))
        signals, lcp.signals = lcp.signals, []
        for signal in signals:
            match signal:
                case Action.TLU:
                    self._lcp_up(now)
                case Action.TLD:
                    self._lcp_down(now)
                case Action.TLF:
                    self._close()
        rejected, lcp.rejected_protocols = lcp.rejected_protocols, []
        for protocol in rejected:
            self._protocol_rejected(protocol, now)
        if lcp.peer_text is not None and lcp.state in (State.REQ_SENT, State.ACK_RCVD, State.ACK_SENT):
            # the automaton would go on asking; a peer that terminated has nothing to negotiate any more
            self._end(Reason.PEER_TERMINATED, now)

    def _lcp_up(self, now: float) -> None:
        method, multilink = self._lcp.method, self._lcp.multilink
        if multilink is not None:
            self._reassembler, self._fragmenter = Reassembler(multilink), Fragmenter(multilink, self._send_limit)
        self._events.append(LcpOpened(self._send_limit, self._lcp.receive_limit, method, multilink))
        self._phase = LinkPhase.AUTHENTICATE
        if method is None:
            self._authenticated(AuthSucceeded(None, self._settings.user, ZERO_HLAK))
            return
        if self._authentication_deadline is None:  # not afresh after a renegotiation
            self._authentication_deadline = now + self._settings.authentication_timeout
        self._authentication = make_authentication(
            self._settings.role,
            method,
            entropy=self._entropy,
            name=self._settings.name,
            user=self._settings.user,
            password=self._settings.password,
        )
        self._authentication.start(now)
        self._settle_authentication(now)

    def _lcp_down(self, now: float) -> None:
        """RFC 1661 3.4: authentication and the network protocols do not outlive LCP's Opened state."""
        self._authentication = self._reassembler = self._fragmenter = None
        self._held.clear()
        for protocol, ncp in self._ncps.items():
            ncp.down(now)
            self._announce(protocol, ncp)
        self._ncps.clear()
        if self._reason is None:
            self._phase = LinkPhase.ESTABLISH

    def _protocol_rejected(self, protocol: int, now: float) -> None:
        if self._authentication is not None and protocol == self._authentication.protocol:
            if self._phase is LinkPhase.AUTHENTICATE:
                self._end(Reason.AUTH_NO_COMMON_METHOD, now)
            return
        ncp_protocol = _NCPS.get(protocol)
        if ncp_protocol is not None and ncp_protocol in self._ncps:
            self._ncps[ncp_protocol].rejected(now)
            self._settle_ncp(ncp_protocol, now)

    # -- authentication ------------------------------------------------------------------------------------------------

    def _settle_authentication(self, now: float) -> None:
        authentication = self._authentication
        if authentication is None:
            return
        self._take_packets(authentication.protocol, authentication.packets_to_send())
        for event in authentication.events():
            match event:
                case AuthRequest():
                    self._lcp.locked = True  # else the answer could meet another exchange than the one it is for
                    self._events.append(replace(event, identification=self._lcp.identification))
                case AuthSucceeded():
                    self._authenticated(event)
                case AuthFailed(reason, text):
                    self._end(reason, now, text)

    def _authenticated(self, event: AuthSucceeded) -> None:
        """Go on to the network phase; there, a peer has proven itself once more.

        The key of that other proof is not used: Call Connected binds the SSTP call to the first one, once (MS-SSTP
        3.2.5.2, 3.3.5.2), and nothing can bind it again.
        """
        self._authentication_deadline = None
        if self._phase is LinkPhase.AUTHENTICATE:
            self._phase = LinkPhase.NETWORK
            self._lcp.locked = True
            self._events.append(event)

    # -- network protocols ---------------------------------------------------------------------------------------------

    def _receive_network(self, protocol: int, information: bytes, now: float) -> None:
        if protocol in NETWORK_DATA:
            return
        for ncp_protocol in _NETWORKS:
            if protocol == ncp_protocol and self._served[ncp_protocol]:
                if not self._configured:
                    self._hold(ncp_protocol, information)
                elif ncp_protocol in self._ncps:
                    self._ncps[ncp_protocol].receive(information, now)
                    self._settle_ncp(ncp_protocol, now)
                return
        self._lcp.reject_protocol(protocol, information, now)
        self._settle_lcp(now)

    def _hold(self, protocol: PppProtocol, information: bytes) -> None:
        if information[:1] and information[0] in _HELD_CODES:
            self._held.pop((protocol, information[0]), None)  # only the latest: a waiting peer repeats itself
            self._held[protocol, information[0]] = information

    def _settle_ncp(self, protocol: PppProtocol, now: float) -> None:
        ncp = self._ncps.get(protocol)
        if ncp is None:
            return
        self._take_packets(protocol, ncp.packets)
        self._announce(protocol, ncp)
        if all(other.state in (State.CLOSED, State.STOPPED) for other in self._ncps.values()):
            self._end(Reason.NCP_FAILED, now)

    def _announce(self, protocol: PppProtocol, ncp: Ipcp | Ipv6cp | Bcp) -> None:
        signals, ncp.signals = ncp.signals, []
        for signal in signals:
            if signal is Action.TLD:
                self._events.append(NetworkClosed(_NETWORKS[protocol]))
            elif signal is Action.TLU and isinstance(ncp, Ipcp):
                self._events.append(Ipv4Opened(ncp.local, ncp.peer, ncp.dns, ncp.wins))
            elif signal is Action.TLU and isinstance(ncp, Ipv6cp):
                self._events.append(Ipv6Opened(ncp.local, ncp.peer))
            elif signal is Action.TLU and isinstance(ncp, Bcp):
                self._events.append(BridgeOpened(ncp.tagged))

    # -- the end -------------------------------------------------------------------------------------------------------

    def _ending(self, reason: Reason, text: str = "") -> None:
        """The link will end, and for this reason unless there was one before."""
        if self._phase is LinkPhase.CLOSED:
            return
        if self._reason is None:
            self._reason, self._text = reason, text
        self._phase = LinkPhase.TERMINATE
        self._authentication_deadline = None

    def _end(self, reason: Reason, now: float, text: str = "") -> None:
        if self._phase is LinkPhase.CLOSED:
            return
        started = self._phase is not LinkPhase.DEAD
        self._ending(reason, text)
        if not started:
            self._close()
        elif self._lcp.state not in (State.CLOSING, State.CLOSED):
            self._lcp.close(now, OUTCOMES[reason].text)
            self._settle_lcp(now)

    def _close(self) -> None:
        """Emit LinkClosed, once; without a reason of its own LCP simply did not converge."""
        if self._phase is not LinkPhase.CLOSED:
            self._phase = LinkPhase.CLOSED
            self._events.append(LinkClosed(self._reason or Reason.LCP_FAILED, self._text))

    def _take_packets(self, protocol: int, packets: list[bytes]) -> None:
        self._frames += [encode_frame(protocol, packet) for packet in packets]
        packets.clear()
