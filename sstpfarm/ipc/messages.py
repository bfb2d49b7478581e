"""The messages between master, auth and workers: typed, tagged, length-checked by msgspec.

Addresses travel as text, binary values as bytes. A session is named by `session`: 16 hexadecimal digits that the
worker draws; the receiver pairs it with the process that the message came from, so no worker can name a session
of another.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from sstpfarm.dataplane.rates import RateLimit

Method = Literal["eap", "mschap2", "mschap1", "chap", "pap"]
SessionId = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
Short = Annotated[str, Meta(max_length=256)]
Line = Annotated[str, Meta(max_length=256, pattern=r"^[^\x00-\x1f\x7f-\x9f]*\Z")]  # shown on an operator's terminal
# nothing but what addresses are made of, and perhaps a zone: some end up in files and in the arguments of programs
Address = Annotated[str, Meta(max_length=64, pattern=r"^[0-9A-Fa-f.:]*(%[A-Za-z0-9._@+-]{1,15})?\Z")]
Addresses = Annotated[tuple[Address, ...], Meta(max_length=4)]
ClientText = Annotated[str, Meta(max_length=32, pattern=r"^[!-~]*\Z")]  # printable ASCII
InterfaceName = Annotated[str, Meta(min_length=1, max_length=15)]
Mtu = Annotated[int, Meta(ge=68, le=16384)]  # up to the largest MRRU
Slot = Annotated[int, Meta(ge=0, le=1_048_575)]
Network = Annotated[str, Meta(max_length=49)]  # ADDRESS/LENGTH
MAX_ROUTES: Final = 131  # 128 that a grant names, and what is leased of IPv6
Worker = Annotated[int, Meta(ge=0, le=1023)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Strings = Annotated[tuple[Annotated[str, Meta(max_length=4096)], ...], Meta(max_length=64)]
Key32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
Identifier8 = Annotated[bytes, Meta(min_length=8, max_length=8)]


class Message(msgspec.Struct, frozen=True, tag_field="t", omit_defaults=True):
    """Base of every message; its repr holds no field but the session, because some fields are secrets."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({getattr(self, 'session', '')})"


# -- worker > auth ---------------------------------------------------------------------------------------------------


class AccessRequest(Message, frozen=True, tag="access-request"):
    """A peer's proof, for auth to judge. PAP fills `password`; the CHAP family the three fields behind it.

    EAP fills `eap` with the peer's Response; `user` is the identity that it told first. With `again` it is the proof
    of a session that goes on meanwhile (Reauthenticate).
    """

    session: SessionId
    user: Annotated[bytes, Meta(max_length=255)]
    method: Method
    caller_id: Line  # "address:port" of the peer
    mtu: Mtu  # what LCP agreed for packets towards the peer, in one frame or in fragments
    slot: Slot  # the session's slot in the worker's statistics
    password: Annotated[bytes, Meta(max_length=255)] = b""
    identifier: Annotated[int, Meta(ge=0, le=255)] = 0
    challenge: Annotated[bytes, Meta(max_length=255)] = b""
    value: Annotated[bytes, Meta(max_length=255)] = b""
    eap: Annotated[bytes, Meta(max_length=4096)] = b""
    called_id: Line = ""  # "address:port" that the peer connected to
    connect_info: Line = ""  # TLS version and cipher suite
    certificate_names: Annotated[tuple[Short, ...], Meta(max_length=16)] = ()  # of the peer's verified certificate
    frame: Annotated[int, Meta(ge=0, le=4087)] = 0  # the part of `mtu` that one frame holds, 0 for all of it
    client_name: ClientText = ""  # what the peer said of itself in LCP Identification, as Windows does
    client_version: ClientText = ""
    again: bool = False


class AccessCancelled(Message, frozen=True, tag="access-cancelled"):
    """That session ended before auth had decided: nobody waits for an answer any more."""

    session: SessionId


# -- auth > worker ---------------------------------------------------------------------------------------------------


class Ipv6Offer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The IPv6 addresses that the client is told of, besides its link-local one. All are among `Terms.networks` too.

    Attributes:
        prefixes: /64s that the client makes its addresses from, told by router advertisements (RFC 4862).
        address: the one that it gets by DHCPv6 (IA_NA, RFC 8415), "" for none.
        delegated: prefixes that it gets by DHCPv6 for networks of its own (IA_PD).
        dns_servers: told by router advertisements (RFC 8106) and by DHCPv6 (RFC 3646).
    """

    prefixes: Annotated[tuple[Network, ...], Meta(max_length=16)] = ()
    address: Address = ""
    delegated: Annotated[tuple[Network, ...], Meta(max_length=16)] = ()
    dns_servers: Addresses = ()


class Terms(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a granted session gets: the part of the grant that the worker needs too.

    Attributes:
        ipv6_local: our interface identifier; None switches IPV6CP off.
        ipv6_peer: the one that the client must have; None lets it choose.
        networks: behind the client, IPv4 and IPv6: packets may come from there too (the destinations of its routes).
        mtu: bytes of an IP packet towards the peer at most (Framed-MTU), 0 for no bound of its own.
        bridged: Ethernet frames are carried too (BCP); the interface is a TAP device.
    """

    local_address: Address
    remote_address: Address
    dns_servers: Addresses = ()
    wins_servers: Addresses = ()
    ipv6_local: Identifier8 | None = None
    ipv6_peer: Identifier8 | None = None
    networks: Annotated[tuple[Network, ...], Meta(max_length=MAX_ROUTES)] = ()
    mtu: Annotated[int, Meta(ge=0, le=4087)] = 0
    bridged: bool = False
    rate_limit: RateLimit | None = None
    ipv6_offer: Ipv6Offer = Ipv6Offer()


class FramedRoute(msgspec.Struct, frozen=True, array_like=True):
    """A network behind the client; an empty gateway means the client itself."""

    destination: Network
    gateway: Address = ""
    metric: Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)] = 0


class Effects(msgspec.Struct, frozen=True, omit_defaults=True):
    """The part of a grant that only the master needs: what a session changes in the kernel, and when it must end.

    Attributes:
        interface: the name of its own that the user's static interface has, "" for any.
        bridge: the bridge that its TAP device joins.
        bridge_port_vid: the VLAN of its untagged frames there, 0 for the bridge's own choice.
        address_lists: nftables sets of the farm's table that its address is in while it lasts.
        clamp_mss: bound the MSS of TCP through it to its MTU.
        on_up, on_down: a program and its arguments.
        session_timeout, idle_timeout: seconds, 0 for none.
        reauthenticate: at the end of `session_timeout` its peer must prove once more who it is, and then goes on.
        limit_bytes_in, limit_bytes_out, limit_bytes_total: of this session; in is from the client; 0 for none.
    """

    routes: Annotated[tuple[FramedRoute, ...], Meta(max_length=MAX_ROUTES)] = ()
    interface: Annotated[str, Meta(max_length=15)] = ""
    bridge: Annotated[str, Meta(max_length=15)] = ""
    bridge_port_vid: Annotated[int, Meta(ge=0, le=4094)] = 0
    address_lists: Annotated[tuple[Short, ...], Meta(max_length=32)] = ()
    clamp_mss: bool = True
    on_up: Strings = ()
    on_down: Strings = ()
    session_timeout: Count = 0
    idle_timeout: Count = 0
    reauthenticate: bool = False
    limit_bytes_in: Count = 0
    limit_bytes_out: Count = 0
    limit_bytes_total: Count = 0


class AccessAccept(Message, frozen=True, tag="access-accept"):
    """The peer may come in, or go on; then only `message` and `moved` have a meaning.

    Attributes:
        moved: the proof is good, but the session cannot follow its new grant: the master has been told to end it.
    """

    session: SessionId
    user: Short  # as it is shown in lists and logs
    terms: Terms
    hlak: Key32
    message: Annotated[bytes, Meta(max_length=1024)] = b""
    moved: bool = False


class AccessReject(Message, frozen=True, tag="access-reject"):
    """The peer stays out; `reason` is a slug of the reasons table.

    Attributes:
        message: what the peer is told; empty with `auth-unavailable`, where nobody has judged it.
    """

    session: SessionId
    reason: Short
    message: Annotated[bytes, Meta(max_length=1024)] = b""


class AccessChallenge(Message, frozen=True, tag="access-challenge"):
    """Auth wants another answer of the peer: its next AccessRequest of the same session carries it.

    `message` is what the peer gets: the EAP packet, or the text of a challenge of the CHAP family.
    """

    session: SessionId
    message: Annotated[bytes, Meta(max_length=4096)]


# -- auth > master ---------------------------------------------------------------------------------------------------


class AuthReady(Message, frozen=True, tag="auth-ready"):
    """Auth has loaded its backends and dropped its privileges."""


class Grant(Message, frozen=True, tag="grant"):
    """Auth granted a session of that worker: the master prepares the interface and sends it its descriptor."""

    worker: Worker
    session: SessionId
    user: Short
    caller_id: Short
    method: Method
    mtu: Mtu
    slot: Slot
    terms: Terms
    effects: Effects = Effects()
    generation: Count = 0  # of the worker, as in WorkerAttached


class Revoke(Message, frozen=True, tag="revoke"):
    """End that session for that reason; one that is gone already is ignored."""

    worker: Worker
    session: SessionId
    reason: Short


class ChangeSession(Message, frozen=True, tag="change-session", kw_only=True):
    """Change a running session (CoA): what is None stays as it is.

    Attributes:
        renewed: its peer has proven once more who it is: `session_timeout` counts from now.
    """

    worker: Worker
    session: SessionId
    rate_limit: RateLimit | None = None
    session_timeout: Count | None = None
    idle_timeout: Count | None = None
    reauthenticate: bool | None = None
    limit_bytes_in: Count | None = None
    limit_bytes_out: Count | None = None
    limit_bytes_total: Count | None = None
    address_lists: Annotated[tuple[Short, ...], Meta(max_length=32)] | None = None
    renewed: bool = False


class ReadCounters(Message, frozen=True, tag="read-counters"):
    """Answer with one SessionCounters for each of these sessions that is open."""

    sessions: Annotated[tuple[tuple[Worker, SessionId], ...], Meta(max_length=1024)]


class PoolState(msgspec.Struct, frozen=True, array_like=True):
    """How many addresses of a pool are used, and how many there are to hand out."""

    pool: Annotated[str, Meta(max_length=64)]
    used: Count
    size: Count


class PoolUse(Message, frozen=True, tag="pool-use"):
    """The use of the pools, for lists and metrics; auth sends it when it has changed."""

    pools: Annotated[tuple[PoolState, ...], Meta(max_length=128)]
    more: bool = False  # another part follows; the parts together are all pools


class RadiusServerState(msgspec.Struct, frozen=True, array_like=True):
    """How a RADIUS server has answered since this auth process was started.

    Attributes:
        server: its place in the configuration, from 1 on.
        buckets: how many replies took as long as each bucket of the metric holds, the last one beyond all.
        seconds: that all replies took.
    """

    service: Literal["authentication", "accounting"]
    server: Annotated[int, Meta(ge=1, le=16)]
    up: bool
    unanswered: Count
    buckets: Annotated[tuple[Count, ...], Meta(max_length=32)]
    seconds: Annotated[float, Meta(ge=0)]


class RadiusUse(Message, frozen=True, tag="radius-use"):
    """The RADIUS servers, and the accounting records that wait for them, for metrics; sent when it has changed.

    Attributes:
        oldest: when the first of these records was made, in seconds since the epoch; 0 where none waits.
    """

    servers: Annotated[tuple[RadiusServerState, ...], Meta(max_length=32)]
    spooled: Count = 0
    oldest: Annotated[float, Meta(ge=0)] = 0.0


class WorkerViolated(Message, frozen=True, tag="worker-violated"):
    """That worker broke the rules of its channel to auth: the master kills it, unless it is another one by now."""

    worker: Worker
    generation: Count
    detail: Short


# -- master > auth ---------------------------------------------------------------------------------------------------


class SessionStarted(Message, frozen=True, tag="session-started"):
    """The session carries packets: its address is known and Call Connected has passed."""

    worker: Worker
    session: SessionId
    interface: Annotated[str, Meta(max_length=15)]
    ipv6_peer: Identifier8 | None = None


class SessionCounters(Message, frozen=True, tag="session-counters"):
    """What an open session has carried up to now; in is from the client."""

    worker: Worker
    session: SessionId
    seconds: Count = 0
    bytes_in: Count = 0
    bytes_out: Count = 0
    packets_in: Count = 0
    packets_out: Count = 0


class SessionReleased(Message, frozen=True, tag="session-released"):
    """Interface, addresses and routes of the session are gone: its lease is free."""

    worker: Worker
    session: SessionId
    reason: Short
    opened: bool = False  # it has carried packets: SessionStarted went before
    seconds: Count = 0
    bytes_in: Count = 0
    bytes_out: Count = 0
    packets_in: Count = 0
    packets_out: Count = 0


class WorkerAttached(Message, frozen=True, tag="worker-attached"):
    """One descriptor comes along: auth's end of the channel to that (new) worker.

    Attributes:
        generation: counts the processes that have had the worker's number: what is said of one is not its successor's.
    """

    worker: Worker
    generation: Count


class LiveSessions(Message, frozen=True, tag="live-sessions"):
    """First to each auth process: all sessions that exist; leases of others are free."""

    sessions: tuple[SessionId, ...]
    more: bool = False  # another part follows; the leases of others are free after the last one
    first: bool = False  # this is the first auth process of this farm: all sessions of before are gone


class ReloadUsers(Message, frozen=True, tag="reload-users"):
    """One descriptor comes along: a memory file with auth's new view; its users, profiles and pools hold from now."""


# -- master > worker -------------------------------------------------------------------------------------------------


class InterfaceReady(Message, frozen=True, tag="interface-ready"):
    """One descriptor comes along: the session's device, addressed and up: TUN, or TAP when `bridged`."""

    session: SessionId
    name: InterfaceName
    bridged: bool = False


class InterfaceRefused(Message, frozen=True, tag="interface-refused"):
    """The master could not make the interface."""

    session: SessionId
    detail: Short


class EndSession(Message, frozen=True, tag="end-session"):
    """End that session for that reason (kick)."""

    session: SessionId
    reason: Short


class ChangeRate(Message, frozen=True, tag="change-rate"):
    """That session has another rate limit from now on."""

    session: SessionId
    rate_limit: RateLimit


class Reauthenticate(Message, frozen=True, tag="reauthenticate"):
    """Have the peer of that session prove once more who it is; the session goes on meanwhile."""

    session: SessionId


class LendListener(Message, frozen=True, tag="lend-listener"):
    """One descriptor comes along: serve this listener too until it is taken back."""

    listener: int


class TakeBackListener(Message, frozen=True, tag="take-back-listener"):
    """Stop serving the lent listener and close the descriptor."""

    listener: int


class AuthAttached(Message, frozen=True, tag="auth-attached"):
    """One descriptor comes along: the worker's end of the channel to the new auth process."""


class CertificateRenewed(Message, frozen=True, tag="certificate-renewed"):
    """Three descriptors come along, of memory files: the worker's view, chain and key for connections from now on."""


class Shutdown(Message, frozen=True, tag="shutdown"):
    """End all sessions in order, then exit."""


class Ping(Message, frozen=True, tag="ping"):
    """The watchdog asks."""

    number: int


# -- worker > master -------------------------------------------------------------------------------------------------


class Pong(Message, frozen=True, tag="pong"):
    """The watchdog's answer."""

    number: int


class WorkerReady(Message, frozen=True, tag="worker-ready"):
    """The worker has dropped its privileges and serves its listeners."""


class SessionOpened(Message, frozen=True, tag="session-opened"):
    """SSTP and at least one NCP are open; the facts are for lists only."""

    session: SessionId
    cipher: Line
    tls_version: Line


class Ipv6Opened(Message, frozen=True, tag="ipv6-opened"):
    """IPV6CP is open: the interface gets its IPv6 routes, and a static one its link-local address."""

    session: SessionId
    peer: Identifier8


class SessionClosed(Message, frozen=True, tag="session-closed"):
    """The worker has closed the session's descriptor."""

    session: SessionId
    reason: Short
