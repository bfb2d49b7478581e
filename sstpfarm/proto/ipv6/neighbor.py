"""Router solicitations and advertisements (RFC 4861): how the client learns its prefixes and its router."""

from __future__ import annotations

from ipaddress import IPv6Address
from struct import Struct
from typing import Final

from sstpfarm.errors import PeerError
from sstpfarm.proto.ipv6.offer import PREFERRED_LIFETIME, VALID_LIFETIME, Offer
from sstpfarm.proto.ipv6.packet import ICMPV6, Ipv6Packet, checksum, encode_packet

ALL_NODES: Final = IPv6Address("ff02::1")  # RFC 4291 2.7.1
ALL_ROUTERS: Final = IPv6Address("ff02::2")
ROUTER_SOLICITATION: Final = 133  # RFC 4861 4.1
ROUTER_ADVERTISEMENT: Final = 134  # 4.2
MAX_INTERVAL: Final = 600.0  # seconds, MaxRtrAdvInterval of 6.2.1
MIN_INTERVAL: Final = 200.0  # MinRtrAdvInterval
INITIAL_INTERVAL: Final = 16.0  # MAX_INITIAL_RTR_ADVERT_INTERVAL of 10
INITIAL_ADVERTISEMENTS: Final = 3  # MAX_INITIAL_RTR_ADVERTISEMENTS
ROUTER_LIFETIME: Final = int(3 * MAX_INTERVAL)  # AdvDefaultLifetime; also that of a DNS server (RFC 8106 5.1)

_HOP_LIMIT: Final = 255  # proof that no router forwarded it
_ADVISED_HOP_LIMIT: Final = 64
_MANAGED: Final = 0x80  # M: an address comes by DHCPv6
_OTHER: Final = 0x40  # O: other things do
_AUTONOMOUS: Final = 0x40  # A without L: addresses are made of the prefix, but nobody else of it is on this link
_PREFIX_INFORMATION: Final = 3  # options of 4.6
_MTU: Final = 5
_RDNSS: Final = 25  # RFC 8106 5.1
_SOURCE_LINK_LAYER: Final = 1
_UNIT: Final = 8  # bytes that an option's length counts

_icmp = Struct("!BBH")  # type, code, checksum
_advertisement = Struct("!BBHII")  # hop limit, flags, router lifetime, reachable time, retransmission timer
_prefix = Struct("!BBBBIII16s")  # type, length, prefix length, flags, valid and preferred lifetime, reserved, prefix
_mtu = Struct("!BBHI")
_rdnss = Struct("!BBHI")


def check_solicitation(packet: Ipv6Packet) -> None:
    """Check a router solicitation as RFC 4861 6.1.1 says.

    Raises:
        PeerError: it must not be answered.
    """
    payload = packet.payload
    if packet.hop_limit != _HOP_LIMIT or len(payload) < _UNIT:
        raise PeerError("router solicitation: hop limit or length", spec="RFC 4861 6.1.1")
    kind, code, _ = _icmp.unpack_from(payload)
    if kind != ROUTER_SOLICITATION or code or checksum(packet.source, packet.destination, ICMPV6, payload):
        raise PeerError("router solicitation: type, code or checksum", spec="RFC 4861 6.1.1")
    place = _UNIT
    while place < len(payload):
        length = payload[place + 1] * _UNIT if place + 1 < len(payload) else 0
        if not length or length > len(payload) - place:
            raise PeerError("router solicitation: length of an option", spec="RFC 4861 6.1.1")
        if payload[place] == _SOURCE_LINK_LAYER and packet.source.is_unspecified:
            raise PeerError("router solicitation: link-layer address of nobody", spec="RFC 4861 6.1.1")
        place += length


def encode_advertisement(source: IPv6Address, destination: IPv6Address, offer: Offer, mtu: int) -> bytes:
    """Return the packet that tells of the offer (RFC 4861 4.2).

    Args:
        source: our link-local address.
        destination: ff02::1, or that of the one who asked.
        mtu: bytes of the largest packet towards the client, at least 1280.
    """
    flags = (_MANAGED if offer.address is not None else 0) | (_OTHER if offer.dns_servers or offer.delegated else 0)
    # who gets DNS servers alone has nothing to send from here: a default route would lead all that he says to nowhere
    lifetime = ROUTER_LIFETIME if offer.prefixes or offer.address or offer.delegated else 0
    body = _advertisement.pack(_ADVISED_HOP_LIMIT, flags, lifetime, 0, 0) + _mtu.pack(_MTU, 1, 0, mtu)
    for prefix in offer.prefixes:
        body += _prefix.pack(
            _PREFIX_INFORMATION,
            _prefix.size // _UNIT,
            prefix.prefixlen,
            _AUTONOMOUS,
            VALID_LIFETIME,
            PREFERRED_LIFETIME,
            0,
            prefix.network_address.packed,
        )
    if offer.dns_servers:
        addresses = b"".join(server.packed for server in offer.dns_servers)
        body += _rdnss.pack(_RDNSS, 1 + len(addresses) // _UNIT, 0, ROUTER_LIFETIME) + addresses
    found = checksum(source, destination, ICMPV6, _icmp.pack(ROUTER_ADVERTISEMENT, 0, 0) + body)
    payload = _icmp.pack(ROUTER_ADVERTISEMENT, 0, found) + body
    return encode_packet(Ipv6Packet(source, destination, ICMPV6, _HOP_LIMIT, payload))
