"""Events that the protocol cores hand to their driver; plain facts, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address

from sstpfarm.proto.ppp.identification import UNIDENTIFIED, Identification
from sstpfarm.proto.ppp.multilink import Multilink
from sstpfarm.proto.roles import AuthMethod, Proof
from sstpfarm.reasons import Reason


class Phase(StrEnum):
    """The phases of a login in their order; the names are those of logs, metrics and the client's display."""

    TCP = "tcp"
    TLS = "tls"
    HTTP = "http"
    SSTP = "sstp"
    LCP = "lcp"
    AUTHENTICATION = "authentication"
    BINDING = "binding"
    IPCP = "ipcp"
    INTERFACE = "interface"


# -- SSTP call -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CallAccepted:
    """Call Connect Ack was sent (server) or received (client): PPP starts now."""


@dataclass(frozen=True, slots=True)
class CallConnected:
    """Call Connected was verified (server) or sent (client): network data may pass."""


@dataclass(frozen=True, slots=True)
class CallEnding:
    """The call is being taken down: network data stops at once; more control messages may still follow."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class CallEnded:
    """Nothing more will be sent on this call: flush, close.

    Attributes:
        drop: close TCP without TLS close_notify, as for broken framing and a dead peer.
    """

    reason: Reason
    detail: str = ""
    drop: bool = False


SstpEvent = CallAccepted | CallConnected | CallEnding | CallEnded

# -- PPP link --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LcpOpened:
    """LCP reached Opened.

    Attributes:
        send_limit: largest PPP information field, in bytes, that we may send: min(peer MRU, our max-mtu).
        receive_limit: the MRU that the peer acknowledged for us, in bytes.
        method: agreed authentication, None when there is none.
        multilink: what larger packets may be sent and received in fragments, None for none.
    """

    send_limit: int
    receive_limit: int
    method: AuthMethod | None
    multilink: Multilink | None = None

    @property
    def mtu(self) -> int:
        """The largest packet, in bytes, that can be sent, in one piece or in fragments."""
        return max(self.send_limit, self.multilink.send_mrru) if self.multilink is not None else self.send_limit


@dataclass(frozen=True, slots=True)
class AuthRequest:
    """A peer presented a proof; the driver answers with `auth_result` (server only).

    Attributes:
        identification: what the peer has said of itself before (RFC 1570 2.1).
    """

    method: AuthMethod
    user: bytes
    proof: Proof = field(repr=False)
    identification: Identification = UNIDENTIFIED


@dataclass(frozen=True, slots=True)
class AuthSucceeded:
    """Authentication finished well, and at a client the server's own proof was verified."""

    method: AuthMethod | None
    user: bytes
    hlak: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Ipv4Opened:
    """IPCP reached Opened: addresses as agreed; `dns` and `wins` as received (client) or given (server)."""

    local: IPv4Address
    peer: IPv4Address | None
    dns: tuple[IPv4Address, ...] = ()
    wins: tuple[IPv4Address, ...] = ()


@dataclass(frozen=True, slots=True)
class Ipv6Opened:
    """IPV6CP reached Opened: 8-byte interface identifiers."""

    local: bytes
    peer: bytes


@dataclass(frozen=True, slots=True)
class BridgeOpened:
    """BCP reached Opened: Ethernet frames may pass; with an IEEE 802.1Q tag towards the peer only when `tagged`."""

    tagged: bool


class Network(StrEnum):
    """What a network control protocol opens."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"
    BRIDGE = "bridge"


@dataclass(frozen=True, slots=True)
class NetworkClosed:
    """A network protocol left Opened: its gate closes."""

    network: Network


@dataclass(frozen=True, slots=True)
class LinkClosed:
    """LCP finished: nothing more will be sent or accepted on this PPP link.

    Attributes:
        reason: ours when `terminate` was called or a negotiation failed, PEER_TERMINATED when the peer asked.
        text: what the peer said in its Terminate-Request or Failure, cleaned for a log (at most 200 characters).
    """

    reason: Reason
    text: str = ""


PppEvent = LcpOpened | AuthRequest | AuthSucceeded | Ipv4Opened | Ipv6Opened | BridgeOpened | NetworkClosed | LinkClosed
