"""IPv6 packets of ICMPv6 and UDP, without extension headers (RFC 8200, RFC 768)."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address
from struct import Struct
from typing import Final

from sstpfarm.errors import PeerError

UDP: Final = 17  # next headers
ICMPV6: Final = 58
IPV6_HEADER: Final = 40  # RFC 8200 3
UDP_HEADER: Final = 8  # RFC 768

_header = Struct("!IHBB16s16s")  # version, class and flow label; payload length; next header; hop limit; addresses
_pseudo_header = Struct("!16s16sII")  # RFC 8200 8.1: addresses, length, next header
_udp = Struct("!HHHH")  # ports, length, checksum
_VERSION: Final = 6


@dataclass(frozen=True, slots=True)
class Ipv6Packet:
    """One packet; `payload` is what is directly behind the fixed header."""

    source: IPv6Address
    destination: IPv6Address
    next_header: int
    hop_limit: int
    payload: bytes


def decode_packet(data: bytes) -> Ipv6Packet:
    """Return the packet in `data`, without the padding that may follow it.

    Raises:
        PeerError: it is cut, or no IPv6.
    """
    if len(data) < IPV6_HEADER:
        raise PeerError("IPv6 packet without a whole header", spec="RFC 8200 3")
    first, length, next_header, hop_limit, source, destination = _header.unpack_from(data)
    if first >> 28 != _VERSION or IPV6_HEADER + length > len(data):
        raise PeerError("IPv6 version or payload length", spec="RFC 8200 3")
    payload = bytes(data[IPV6_HEADER : IPV6_HEADER + length])
    return Ipv6Packet(IPv6Address(source), IPv6Address(destination), next_header, hop_limit, payload)


def encode_packet(packet: Ipv6Packet) -> bytes:
    """Return the bytes of a packet, with class and flow label zero."""
    head = _header.pack(
        _VERSION << 28,
        len(packet.payload),
        packet.next_header,
        packet.hop_limit,
        packet.source.packed,
        packet.destination.packed,
    )
    return head + packet.payload


def checksum(source: IPv6Address, destination: IPv6Address, next_header: int, payload: bytes) -> int:
    """Return the checksum over pseudo-header and payload (RFC 8200 8.1); 0 over a payload whose own one is right."""
    covered = _pseudo_header.pack(source.packed, destination.packed, len(payload), next_header) + payload
    # the one's complement sum of 16-bit words is the number modulo 0xFFFF; zero is written as 0xFFFF (RFC 1071)
    total = int.from_bytes(covered + b"\0" * (len(covered) % 2), "big") % 0xFFFF
    return 0xFFFF - (total or 0xFFFF)


def decode_udp(packet: Ipv6Packet) -> tuple[int, int, bytes]:
    """Return (source port, destination port, data) of a UDP datagram.

    Raises:
        PeerError: it is cut, or its checksum is wrong or missing.
    """
    if len(packet.payload) < UDP_HEADER:
        raise PeerError("UDP datagram without a whole header", spec="RFC 768")
    source_port, port, length, found = _udp.unpack_from(packet.payload)
    if not UDP_HEADER <= length <= len(packet.payload):
        raise PeerError("UDP length", spec="RFC 768")
    datagram = packet.payload[:length]
    if not found or checksum(packet.source, packet.destination, UDP, datagram):
        raise PeerError("UDP checksum", spec="RFC 8200 8.1")
    return source_port, port, datagram[UDP_HEADER:]


def encode_udp(source: tuple[IPv6Address, int], destination: tuple[IPv6Address, int], data: bytes) -> bytes:
    """Return the packet of a UDP datagram between these (address, port)."""
    length = UDP_HEADER + len(data)
    found = checksum(source[0], destination[0], UDP, _udp.pack(source[1], destination[1], length, 0) + data)
    payload = _udp.pack(source[1], destination[1], length, found or 0xFFFF) + data
    return encode_packet(Ipv6Packet(source[0], destination[0], UDP, 64, payload))


def link_local(identifier: bytes) -> IPv6Address:
    """Return the link-local address of an 8-byte interface identifier (RFC 5072 5)."""
    return IPv6Address(b"\xfe\x80" + bytes(6) + identifier)
