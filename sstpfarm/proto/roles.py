"""Facts that the SSTP core and the PPP core share: roles, methods, and what is proven and granted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address

from sstpfarm.reasons import Reason

Entropy = Callable[[int], bytes]
"""Returns that many random bytes; handed in, so that the cores can be replayed."""


class Role(StrEnum):
    """Which end of the tunnel this is; the same classes serve both."""

    SERVER = "server"
    CLIENT = "client"


class AuthMethod(StrEnum):
    """PPP authentication methods, strongest first, under their RouterOS names."""

    EAP = "eap"
    MSCHAP2 = "mschap2"
    MSCHAP1 = "mschap1"
    CHAP = "chap"
    PAP = "pap"


@dataclass(frozen=True, slots=True)
class PapProof:
    """What a PAP peer presented (RFC 1334 2.2.1)."""

    password: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ChapProof:
    """What a CHAP peer presented: MD5 (RFC 1994), MS-CHAPv1 (RFC 2433) or MS-CHAPv2 (RFC 2759).

    Attributes:
        identifier: of the Challenge and the Response.
        challenge: as we sent it (MD5 and v2: 16 bytes, v1: 8 bytes).
        value: the Response's value field (MD5: 16 bytes, v1 and v2: 49 bytes).
    """

    identifier: int
    challenge: bytes = field(repr=False)
    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class EapProof:
    """A Response of an EAP peer, whole (RFC 3748 4.1); the first one is its identity."""

    packet: bytes = field(repr=False)


Proof = PapProof | ChapProof | EapProof


@dataclass(frozen=True, slots=True)
class AuthAccept:
    """The decision that lets a peer in.

    Attributes:
        hlak: 32 bytes, the higher-layer authentication key (PROTOCOL 5.1); zeros for PAP and CHAP.
        message: the text of Authenticate-Ack or Success; for MS-CHAPv2 it begins with ``S=``; EAP has none.
    """

    hlak: bytes = field(repr=False)
    message: bytes = b""


@dataclass(frozen=True, slots=True)
class AuthChallenge:
    """No decision yet: the peer must answer another EAP Request, `message` (RFC 3748 4.1)."""

    message: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class AuthReject:
    """The decision that keeps a peer out; `message` is the whole text of the Nak or Failure (``E=691 ...``)."""

    message: bytes = b""
    reason: Reason = Reason.AUTH_REFUSED


@dataclass(frozen=True, slots=True)
class AuthUnavailable:
    """Nobody can decide: the link ends, and without a word about the peer's name or password, which may be good."""


AuthDecision = AuthAccept | AuthChallenge | AuthReject | AuthUnavailable


@dataclass(frozen=True, slots=True)
class Ipv4Terms:
    """What IPCP negotiates (RFC 1332, RFC 1877).

    Attributes:
        local: our address; the client's wish, or None to be given one.
        peer: the address that the server assigns; None at a client, which accepts what the server says.
        dns, wins: at a server what is offered, at most two each.
        request_dns: at a client, whether to ask for DNS servers.
    """

    local: IPv4Address | None = None
    peer: IPv4Address | None = None
    dns: tuple[IPv4Address, ...] = ()
    wins: tuple[IPv4Address, ...] = ()
    request_dns: bool = True


@dataclass(frozen=True, slots=True)
class Ipv6Terms:
    """What IPV6CP negotiates (RFC 5072): 8-byte interface identifiers.

    Attributes:
        local: ours; never zero.
        peer: the one to insist on, or None to let the peer choose.
    """

    local: bytes
    peer: bytes | None = None
