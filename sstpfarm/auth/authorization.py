"""What a backend decides over one login: the verdicts, and what an accepted user is granted.

A backend knows users; it knows no lease, no other session and no other backend. The chain asks one after another: an
`Unknown` user or an `Unavailable` backend lets the next one decide, every other verdict is final.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import msgspec

from sstpfarm.auth.leases import Holder
from sstpfarm.dataplane.rates import RateLimit
from sstpfarm.ipc.messages import AccessRequest, FramedRoute
from sstpfarm.reasons import Reason

OnlyOne = Literal["no", "replace", "deny"]
Authentic = Literal["local", "radius"]


class Authorization(msgspec.Struct, frozen=True, kw_only=True):
    """What a user is granted, whichever backend says so; texts and numbers that were checked already.

    Attributes:
        user: the name for lists, logs and accounting.
        local_address: ours, "" for the default profile's.
        remote_address, pool: a fixed address, or the pool that it comes from.
        interface_id: 8 bytes that the client's IPv6 interface identifier must be; empty when it may choose.
        framed_prefixes, delegated_prefixes: those of the routes that accounting tells, as ``NETWORK/LENGTH`` (RADIUS
            Framed-IPv6-Prefix, RFC 3162 2.3; Delegated-IPv6-Prefix, RFC 4818).
        ipv6_addresses: of the client, routes too; it is told of the first (Framed-IPv6-Address, RFC 6911 3.1).
        ipv6_prefix_pool, delegated_pool, ipv6_address_pool: where a prefix, a delegated one and an address are to come
            from; once they are leased they stand among the routes and in the fields above.
        leased: networks of IPv6 that came from these pools.
        ipv6_dns_servers: addresses (DNS-Server-IPv6-Address, RFC 6911 3.2).
        mtu: bytes of an IP packet at most, 0 for no bound of its own.
        bridge_port_vid: the VLAN of the session's untagged frames in `bridge`, 0 for the bridge's own choice.
        session_timeout, idle_timeout, interim_interval: seconds, 0 for none.
        reauthenticate: at the end of `session_timeout` the user is to be authenticated once more, and the session goes
            on under the new grant (RADIUS Termination-Action, RFC 2865 5.29).
        state: what the RADIUS server wants to be told then (State, RFC 2865 5.24).
        port_limit: sessions of this user at once, 0 for no limit.
        limit_bytes_in, limit_bytes_out, limit_bytes_total: of this session; in is from the client; 0 for none.
        expires_at: seconds since the epoch at which the account expires, 0 for never.
        class_: opaque values that accounting repeats (RADIUS Class, RFC 2865 5.25).
    """

    user: str
    authentic: Authentic = "local"
    local_address: str = ""
    remote_address: str = ""
    pool: str = ""
    dns_servers: tuple[str, ...] = ()
    wins_servers: tuple[str, ...] = ()
    ipv6: bool = True
    interface_id: bytes = b""
    routes: tuple[FramedRoute, ...] = ()
    framed_prefixes: tuple[str, ...] = ()
    delegated_prefixes: tuple[str, ...] = ()
    ipv6_addresses: tuple[str, ...] = ()
    ipv6_prefix_pool: str = ""
    delegated_pool: str = ""
    ipv6_address_pool: str = ""
    leased: tuple[str, ...] = ()
    ipv6_dns_servers: tuple[str, ...] = ()
    mtu: int = 0
    rate_limit: RateLimit | None = None
    session_timeout: int = 0
    idle_timeout: int = 0
    reauthenticate: bool = False
    state: bytes = b""
    interim_interval: int = 0
    only_one: OnlyOne = "no"
    port_limit: int = 0
    limit_bytes_in: int = 0
    limit_bytes_out: int = 0
    limit_bytes_total: int = 0
    address_lists: tuple[str, ...] = ()
    clamp_mss: bool = True
    bridge: str = ""
    bridge_port_vid: int = 0
    interface: str = ""
    on_up: tuple[str, ...] = ()
    on_down: tuple[str, ...] = ()
    expires_at: float = 0.0
    class_: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Accepted:
    """The proof is good; `hlak` is 32 bytes (PROTOCOL 5.1), `message` goes to the peer (an EAP packet for EAP)."""

    authorization: Authorization
    hlak: bytes = field(repr=False)
    message: bytes = b""


@dataclass(frozen=True, slots=True)
class Challenged:
    """The backend wants another answer: `message` is the EAP packet, or the CHAP family's text, for the peer.

    Attributes:
        failed: the message tells that the password was wrong: whatever the peer answers, the login has failed.
    """

    message: bytes
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Denied:
    """The peer stays out.

    Attributes:
        detail: for the operator's log only.
        error: MS-CHAP error code (RFC 2759 6) for the text that the peer gets.
        told: the peer may read `detail`: it has proven that it knows the password.
        message: the whole text for the peer, where the backend has one (RADIUS); else it is made from the others.
        counts: the throttle counts it: not what a challenge before has told (`Challenged.failed`), nor a good proof.
    """

    detail: str
    error: int = 691
    told: bool = False
    message: bytes | None = None
    reason: Reason = Reason.AUTH_REFUSED
    counts: bool = True


@dataclass(frozen=True, slots=True)
class Unknown:
    """No such user here."""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The backend cannot decide now."""

    detail: str


Verdict = Accepted | Challenged | Denied | Unknown | Unavailable


class Backend(Protocol):
    """One source of users."""

    async def authenticate(self, holder: Holder, request: AccessRequest) -> Verdict:
        """Decide over a request; a conversation (EAP, a challenge) is continued under the same holder."""

    def forget(self, holder: Holder) -> None:
        """The session is gone: end its conversation, if there is one. Idempotent."""
