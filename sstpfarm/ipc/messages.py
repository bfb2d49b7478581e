"""The messages between master, auth, workers and the client's two halves: typed, tagged, length-checked by msgspec.

Addresses travel as text, binary values as bytes. A session is named by `session`: 16 hexadecimal digits that the
worker draws; the receiver pairs it with the process that the message came from, so no worker can name a session
of another.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Method = Literal["mschap2", "mschap1", "chap", "pap"]
SessionId = Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]
Short = Annotated[str, Meta(max_length=256)]
Address = Annotated[str, Meta(max_length=45)]
InterfaceName = Annotated[str, Meta(min_length=1, max_length=15)]
Mtu = Annotated[int, Meta(ge=68, le=4087)]
Slot = Annotated[int, Meta(ge=0, le=1_048_575)]
Key32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
Identifier8 = Annotated[bytes, Meta(min_length=8, max_length=8)]


class Message(msgspec.Struct, frozen=True, tag_field="t", omit_defaults=True):
    """Base of every message; its repr holds no field but the session, because some fields are secrets."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({getattr(self, 'session', '')})"


# -- worker > auth ---------------------------------------------------------------------------------------------------


class AccessRequest(Message, frozen=True, tag="access-request"):
    """A peer's proof, for auth to judge. PAP fills `password`; the CHAP family the three other fields."""

    session: SessionId
    user: Annotated[bytes, Meta(max_length=255)]
    method: Method
    caller_id: Short  # "address:port" of the peer
    mtu: Mtu  # what LCP agreed for packets towards the peer
    slot: Slot  # the session's slot in the worker's statistics
    password: Annotated[bytes, Meta(max_length=255)] = b""
    identifier: Annotated[int, Meta(ge=0, le=255)] = 0
    challenge: Annotated[bytes, Meta(max_length=255)] = b""
    value: Annotated[bytes, Meta(max_length=255)] = b""


# -- auth > worker ---------------------------------------------------------------------------------------------------


class Terms(msgspec.Struct, frozen=True):
    """What a granted session gets: the part of the grant that the worker needs for the NCPs."""

    local_address: Address
    remote_address: Address
    dns_servers: tuple[Address, ...] = ()
    wins_servers: tuple[Address, ...] = ()
    ipv6_local: Identifier8 | None = None  # our interface identifier; None switches IPV6CP off


class AccessAccept(Message, frozen=True, tag="access-accept"):
    """The peer may come in."""

    session: SessionId
    user: Short  # as it is shown in lists and logs
    terms: Terms
    hlak: Key32
    message: Annotated[bytes, Meta(max_length=1024)] = b""


class AccessReject(Message, frozen=True, tag="access-reject"):
    """The peer stays out; `reason` is a slug of the reasons table."""

    session: SessionId
    reason: Short
    message: Annotated[bytes, Meta(max_length=1024)] = b""


# -- auth > master ---------------------------------------------------------------------------------------------------


class AuthReady(Message, frozen=True, tag="auth-ready"):
    """Auth has loaded its backends and dropped its privileges."""


class Grant(Message, frozen=True, tag="grant"):
    """Auth granted a session of that worker: the master prepares the interface and sends it its descriptor."""

    worker: Annotated[int, Meta(ge=0, le=1023)]
    session: SessionId
    user: Short
    caller_id: Short
    method: Method
    mtu: Mtu
    slot: Slot
    terms: Terms


class WorkerViolated(Message, frozen=True, tag="worker-violated"):
    """That worker broke the rules of its channel to auth: the master kills it."""

    worker: Annotated[int, Meta(ge=0, le=1023)]
    detail: Short


# -- master > auth ---------------------------------------------------------------------------------------------------


class SessionReleased(Message, frozen=True, tag="session-released"):
    """Interface, addresses and routes of the session are gone: its lease is free."""

    worker: Annotated[int, Meta(ge=0, le=1023)]
    session: SessionId
    reason: Short
    seconds: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


class WorkerAttached(Message, frozen=True, tag="worker-attached"):
    """One descriptor comes along: auth's end of the channel to that (new) worker."""

    worker: Annotated[int, Meta(ge=0, le=1023)]


class LiveSessions(Message, frozen=True, tag="live-sessions"):
    """First to each auth process: all sessions that exist; leases of others are free."""

    sessions: tuple[SessionId, ...]
    more: bool = False  # another part follows; the leases of others are free after the last one


# -- master > worker -------------------------------------------------------------------------------------------------


class InterfaceReady(Message, frozen=True, tag="interface-ready"):
    """One descriptor comes along: the TUN device of the session, addressed and up."""

    session: SessionId
    name: InterfaceName


class InterfaceRefused(Message, frozen=True, tag="interface-refused"):
    """The master could not make the interface."""

    session: SessionId
    detail: Short


class EndSession(Message, frozen=True, tag="end-session"):
    """End that session for that reason (kick)."""

    session: SessionId
    reason: Short


class LendListener(Message, frozen=True, tag="lend-listener"):
    """One descriptor comes along: serve this listener too until it is taken back."""

    listener: int


class TakeBackListener(Message, frozen=True, tag="take-back-listener"):
    """Stop serving the lent listener and close the descriptor."""

    listener: int


class AuthAttached(Message, frozen=True, tag="auth-attached"):
    """One descriptor comes along: the worker's end of the channel to the new auth process."""


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
    cipher: Short
    tls_version: Short


class SessionClosed(Message, frozen=True, tag="session-closed"):
    """The worker has closed the session's descriptor."""

    session: SessionId
    reason: Short


# -- client: privileged half > unprivileged half -----------------------------------------------------------------------


class Dial(Message, frozen=True, tag="dial"):
    """Dial these addresses, in this order, until one answers."""

    addresses: Annotated[tuple[Address, ...], Meta(min_length=1, max_length=16)]
    port: Annotated[int, Meta(ge=1, le=65535)]


# -- client: unprivileged half > privileged half -----------------------------------------------------------------------


class PhaseReached(Message, frozen=True, tag="phase-reached"):
    """A phase of the login is done; seconds since the dial began."""

    phase: Short
    seconds: float
    detail: Short = ""


class InterfaceWanted(Message, frozen=True, tag="interface-wanted"):
    """The NCPs that matter are open: make the interface and send its descriptor."""

    mtu: Mtu
    local_address: Address | None = None
    remote_address: Address | None = None
    dns_servers: tuple[Address, ...] = ()
    ipv6_local: Identifier8 | None = None


class TunnelFacts(Message, frozen=True, tag="tunnel-facts"):
    """What was negotiated, for the display."""

    method: Method | Literal["none"]
    cipher: Short
    tls_version: Short
    server_address: Address
    certificate_sha256: Short


class TunnelClosed(Message, frozen=True, tag="tunnel-closed"):
    """The tunnel has ended; nothing more follows."""

    reason: Short
    detail: Short = ""
