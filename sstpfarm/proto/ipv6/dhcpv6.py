"""A DHCPv6 server without leases (RFC 8415): what the client gets is fixed for its session, and so is every answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv6Address, IPv6Network
from struct import Struct
from typing import Final, NamedTuple

from sstpfarm.errors import PeerError
from sstpfarm.proto.ipv6.offer import PREFERRED_LIFETIME, VALID_LIFETIME, Offer

ALL_SERVERS: Final = IPv6Address("ff02::1:2")  # All_DHCP_Relay_Agents_and_Servers, RFC 8415 7.1
CLIENT_PORT: Final = 546  # 7.2
SERVER_PORT: Final = 547
RENEW_AFTER: Final = PREFERRED_LIFETIME // 2  # T1, 21.4
REBIND_AFTER: Final = PREFERRED_LIFETIME * 4 // 5  # T2
MAX_OPTIONS: Final = 64  # of one message, and of one association; ours, as the next two
MAX_ASSOCIATIONS: Final = 8  # that are answered
MAX_STALE: Final = 8  # addresses and prefixes of one message that are answered with "no longer"
MIN_DUID: Final = 3  # 11.1: a type, and at least a byte
MAX_DUID: Final = 130
_ANY_SERVER_FIRST: Final = 255  # 21.8: the client does not wait for other servers
_UUID_TYPE: Final = b"\0\4"  # 11.5

_option = Struct("!HH")  # 21.1: code, length
_association = Struct("!4sII")  # 21.4, 21.21: IAID, T1, T2
_address = Struct("!16sII")  # 21.6: address, preferred and valid lifetime
_prefix = Struct("!IIB16s")  # 21.22: preferred and valid lifetime, prefix length, prefix


class MessageType(IntEnum):
    """RFC 8415 7.3."""

    SOLICIT = 1
    ADVERTISE = 2
    REQUEST = 3
    CONFIRM = 4
    RENEW = 5
    REBIND = 6
    REPLY = 7
    RELEASE = 8
    DECLINE = 9
    INFORMATION_REQUEST = 11


class OptionCode(IntEnum):
    """RFC 8415 21; DNS servers: RFC 3646 3."""

    CLIENT_ID = 1
    SERVER_ID = 2
    IA_NA = 3
    IA_ADDRESS = 5
    REQUESTED = 6
    PREFERENCE = 7
    STATUS = 13
    RAPID_COMMIT = 14
    DNS_SERVERS = 23
    IA_PD = 25
    IA_PREFIX = 26


class Status(IntEnum):
    """RFC 8415 21.13."""

    SUCCESS = 0
    NO_ADDRESSES = 2
    NO_BINDING = 3
    NOT_ON_LINK = 4
    USE_MULTICAST = 5
    NO_PREFIX = 6


class _Rule(NamedTuple):
    """Which identifiers a message must have (RFC 8415 16.2 to 16.12)."""

    client_id: bool
    server_id: bool | None  # ours; False: none at all; None: ours, if there is one


_RULES: Final = {
    MessageType.SOLICIT: _Rule(client_id=True, server_id=False),
    MessageType.REQUEST: _Rule(client_id=True, server_id=True),
    MessageType.CONFIRM: _Rule(client_id=True, server_id=False),
    MessageType.RENEW: _Rule(client_id=True, server_id=True),
    MessageType.REBIND: _Rule(client_id=True, server_id=False),
    MessageType.RELEASE: _Rule(client_id=True, server_id=True),
    MessageType.DECLINE: _Rule(client_id=True, server_id=True),
    MessageType.INFORMATION_REQUEST: _Rule(client_id=False, server_id=None),
}
_READ: Final = (OptionCode.CLIENT_ID, OptionCode.SERVER_ID, OptionCode.REQUESTED, OptionCode.RAPID_COMMIT)
_GIVING: Final = (MessageType.SOLICIT, MessageType.REQUEST, MessageType.RENEW, MessageType.REBIND)


@dataclass(frozen=True, slots=True)
class Association:
    """An IA_NA or IA_PD: its identifier (4 bytes), and the addresses (as /128) or prefixes that the client names."""

    kind: OptionCode
    iaid: bytes
    named: tuple[IPv6Network, ...]


@dataclass(frozen=True, slots=True)
class Query:
    """What a client sent; `requested` holds option codes, None when it does not say which it wants."""

    kind: MessageType
    transaction: bytes
    client_id: bytes | None
    server_id: bytes | None
    associations: tuple[Association, ...]
    requested: frozenset[int] | None
    rapid_commit: bool


# -- in --------------------------------------------------------------------------------------------------------------


def decode_query(data: bytes) -> Query:
    """Return what a client's message says.

    Raises:
        PeerError: a length is wrong, an option is there twice, or it is no client's message.
    """
    if len(data) < 4 or data[0] not in tuple(_RULES):
        raise PeerError("DHCPv6: message type", spec="RFC 8415 7.3")
    single: dict[int, bytes] = {}
    associations: list[Association] = []
    for code, value in _options(data[4:]):
        if code in (OptionCode.IA_NA, OptionCode.IA_PD):
            if len(associations) < MAX_ASSOCIATIONS:
                associations.append(_decode_association(OptionCode(code), value))
        elif code not in _READ:
            continue
        elif code in single:
            raise PeerError("DHCPv6: an option twice", spec="RFC 8415 21.1")
        else:
            single[code] = value
    for code in (OptionCode.CLIENT_ID, OptionCode.SERVER_ID):
        if code in single and not MIN_DUID <= len(single[code]) <= MAX_DUID:
            raise PeerError("DHCPv6: length of a DUID", spec="RFC 8415 11.1")
    requested = single.get(OptionCode.REQUESTED)
    if requested is not None and len(requested) % 2:
        raise PeerError("DHCPv6: length of the Option Request", spec="RFC 8415 21.7")
    if single.get(OptionCode.RAPID_COMMIT):
        raise PeerError("DHCPv6: length of Rapid Commit", spec="RFC 8415 21.14")
    return Query(
        MessageType(data[0]),
        data[1:4],
        single.get(OptionCode.CLIENT_ID),
        single.get(OptionCode.SERVER_ID),
        tuple(associations),
        None
        if requested is None
        else frozenset(int.from_bytes(requested[at : at + 2], "big") for at in range(0, len(requested), 2)),
        OptionCode.RAPID_COMMIT in single,
    )


def _options(data: bytes) -> Iterator[tuple[int, bytes]]:
    place = count = 0
    while place < len(data):
        if len(data) - place < _option.size:
            raise PeerError("DHCPv6: half an option", spec="RFC 8415 21.1")
        code, length = _option.unpack_from(data, place)
        place += _option.size
        count += 1
        if length > len(data) - place or count > MAX_OPTIONS:
            raise PeerError("DHCPv6: length or number of options", spec="RFC 8415 21.1")
        yield code, data[place : place + length]
        place += length


def _decode_association(kind: OptionCode, value: bytes) -> Association:
    if len(value) < _association.size:
        raise PeerError("DHCPv6: length of an IA", spec="RFC 8415 21.4")
    iaid, _, _ = _association.unpack_from(value)
    inner = OptionCode.IA_ADDRESS if kind is OptionCode.IA_NA else OptionCode.IA_PREFIX
    layout = _address if kind is OptionCode.IA_NA else _prefix
    named = []
    for code, item in _options(value[_association.size :]):
        if code != inner:
            continue
        if len(item) < layout.size:
            raise PeerError("DHCPv6: length of an address or prefix", spec="RFC 8415 21.6")
        if kind is OptionCode.IA_NA:
            named.append(IPv6Network(item[:16]))
        else:
            _, _, length, prefix = _prefix.unpack_from(item)
            if length > 128:
                raise PeerError("DHCPv6: prefix length", spec="RFC 8415 21.22")
            named.append(IPv6Network((prefix, length), strict=False))
    return Association(kind, iaid, tuple(named))


# -- out -------------------------------------------------------------------------------------------------------------


def server_identifier(seed: bytes) -> bytes:
    """Return a DUID-UUID (RFC 8415 11.5) with these 16 bytes as a version 8 UUID (RFC 9562 5.8)."""
    value = bytearray(seed[:16])
    value[6] = value[6] & 0x0F | 0x80
    value[8] = value[8] & 0x3F | 0x80
    return _UUID_TYPE + bytes(value)


def answer(query: Query, offer: Offer, server_id: bytes, *, unicast: bool) -> bytes | None:
    """Return the message that answers the query, None for no answer (RFC 8415 16, 18.3).

    Args:
        server_id: our DUID.
        unicast: the query came to our own address; we never invite to that (18.4, Server Unicast).
    """
    rule = _RULES[query.kind]
    if rule.client_id and query.client_id is None:
        return None
    if rule.server_id is False and query.server_id is not None:
        return None
    if query.server_id != server_id and (rule.server_id or query.server_id is not None):
        return None
    if unicast:
        body = _encode_status(Status.USE_MULTICAST) if rule.server_id else None
    elif query.kind in _GIVING:
        body = _give(query, offer)
    elif query.kind is MessageType.CONFIRM:
        body = _confirm(query, offer)
    elif query.kind is MessageType.INFORMATION_REQUEST:
        body = None if query.associations else _dns_servers(query, offer)  # 16.12
    else:
        body = _give_up(query, offer)
    if body is None:
        return None
    rapid = query.kind is MessageType.SOLICIT and query.rapid_commit
    kind = MessageType.ADVERTISE if query.kind is MessageType.SOLICIT and not rapid else MessageType.REPLY
    head = bytes([kind]) + query.transaction
    if query.client_id is not None:
        head += _encode(OptionCode.CLIENT_ID, query.client_id)
    head += _encode(OptionCode.SERVER_ID, server_id)
    if rapid:
        head += _encode(OptionCode.RAPID_COMMIT, b"")
    if kind is MessageType.ADVERTISE:
        head += _encode(OptionCode.PREFERENCE, bytes([_ANY_SERVER_FIRST]))
    return head + body


def _give(query: Query, offer: Offer) -> bytes:
    """Addresses and prefixes, or why there are none (18.3.1, 18.3.2, 18.3.4, 18.3.5, 18.3.9)."""
    body = b""
    room = MAX_STALE
    renews = query.kind in (MessageType.RENEW, MessageType.REBIND)
    for association in query.associations:
        if query.kind is MessageType.REQUEST and not _on_link(association, offer):  # 18.3.2: the client asks anew
            inside = _encode_status(Status.NOT_ON_LINK)
            body += _encode_association(association, inside, lasts=False)
            continue
        ours = _share(query, association, offer)
        inside = b"".join(_encode_lease(association.kind, network, lasts=True) for network in ours)
        stale: tuple[IPv6Network, ...] = ()
        if renews and (ours or query.kind is MessageType.REBIND):
            stale = tuple(network for network in association.named if network not in ours)[:room]
            room -= len(stale)
            inside += b"".join(_encode_lease(association.kind, network, lasts=False) for network in stale)
        if not ours and not stale:
            none = Status.NO_ADDRESSES if association.kind is OptionCode.IA_NA else Status.NO_PREFIX
            inside = _encode_status(Status.NO_BINDING if renews else none)
        body += _encode_association(association, inside, lasts=bool(ours))
    return body + _dns_servers(query, offer)


def _share(query: Query, association: Association, offer: Offer) -> tuple[IPv6Network, ...]:
    """Of what there is of that kind, one association gets all: the one that names it, else the first."""
    ours = _networks(association.kind, offer)
    rivals = [
        one
        for one in query.associations
        if one.kind is association.kind and (query.kind is not MessageType.REQUEST or _on_link(one, offer))
    ]
    chosen = next((one for one in rivals if any(network in ours for network in one.named)), rivals[0])
    return ours if association is chosen else ()


def _networks(kind: OptionCode, offer: Offer) -> tuple[IPv6Network, ...]:
    if kind is OptionCode.IA_PD:
        return offer.delegated
    return () if offer.address is None else (IPv6Network(offer.address),)


def _confirm(query: Query, offer: Offer) -> bytes | None:
    """Whether the client's addresses belong here; without any there is nothing to say (18.3.3)."""
    naming = [one for one in query.associations if one.kind is OptionCode.IA_NA and one.named]
    if not naming:
        return None
    fits = all(_on_link(association, offer) for association in naming)
    return _encode_status(Status.SUCCESS if fits else Status.NOT_ON_LINK)


def _on_link(association: Association, offer: Offer) -> bool:
    """Whether all addresses that it names belong here; a prefix for the networks behind the client may be any."""
    if association.kind is not OptionCode.IA_NA:
        return True
    here = (*offer.prefixes, *_networks(OptionCode.IA_NA, offer))
    return all(any(network.subnet_of(place) for place in here) for network in association.named)


def _give_up(query: Query, offer: Offer) -> bytes:
    """Take note that the client does not use it; nobody else gets it while the session lasts (18.3.7, 18.3.8)."""
    body = _encode_status(Status.SUCCESS)
    for association in query.associations:
        ours = _networks(association.kind, offer)
        if not ours or any(network not in ours for network in association.named):
            body += _encode_association(association, _encode_status(Status.NO_BINDING), lasts=False)
    return body


def _dns_servers(query: Query, offer: Offer) -> bytes:
    wanted = query.requested is None or OptionCode.DNS_SERVERS in query.requested
    if not wanted or not offer.dns_servers:
        return b""
    return _encode(OptionCode.DNS_SERVERS, b"".join(server.packed for server in offer.dns_servers))


def _encode(code: OptionCode, value: bytes) -> bytes:
    return _option.pack(code, len(value)) + value


def _encode_status(status: Status) -> bytes:
    return _encode(OptionCode.STATUS, status.to_bytes(2, "big"))


def _encode_association(association: Association, inside: bytes, *, lasts: bool) -> bytes:
    times = (RENEW_AFTER, REBIND_AFTER) if lasts else (0, 0)
    return _encode(association.kind, _association.pack(association.iaid, *times) + inside)


def _encode_lease(kind: OptionCode, network: IPv6Network, *, lasts: bool) -> bytes:
    preferred, valid = (PREFERRED_LIFETIME, VALID_LIFETIME) if lasts else (0, 0)
    address = network.network_address.packed
    if kind is OptionCode.IA_NA:
        return _encode(OptionCode.IA_ADDRESS, _address.pack(address, preferred, valid))
    return _encode(OptionCode.IA_PREFIX, _prefix.pack(preferred, valid, network.prefixlen, address))
