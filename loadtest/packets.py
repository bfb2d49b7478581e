"""The IP packets of the harness: ICMP echo and UDP over IPv4, each with a stamp that tells what became of it.

Every payload begins with a STAMP and goes on with a fixed pattern, so that a byte that changed on its way is found.
"""

from __future__ import annotations

import random
from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple

IPV4_HEADER: Final = 20  # RFC 791 3.1, without options
ICMP_HEADER: Final = 8  # RFC 792
UDP_HEADER: Final = 8  # RFC 768
ICMP_ECHO_REPLY: Final = 0  # RFC 792
ICMP_ECHO: Final = 8
PROTOCOL_ICMP: Final = 1  # RFC 790
PROTOCOL_UDP: Final = 17
TTL: Final = 64
SINK_PORT: Final = 9009
SOURCE_PORT: Final = 40009  # of every session: the address tells them apart

STAMP: Final = Struct("!4sBxHIQ")  # magic, kind, number (of a burst), sequence, nanoseconds of the sender's clock
MAGIC: Final = b"SFLT"
MIN_PACKET: Final = IPV4_HEADER + UDP_HEADER + STAMP.size
MAX_PACKET: Final = 4087  # the largest PPP information field that fits a frame, MS-SSTP 2.2.1
PATTERN: Final = random.Random(0x5354).randbytes(MAX_PACKET)  # noqa: S311 - a fixed pattern, not a secret

_IPV4: Final = Struct("!BBHHHBBHII")
_UDP: Final = Struct("!HHHH")
_ICMP: Final = Struct("!BBHHH")
_PSEUDO: Final = Struct("!IIBBH")


class Kind(IntEnum):
    """What a payload is for; the reflector acts on it."""

    ECHO = 1  # send it back as it is
    DATA = 2  # count it
    QUERY = 3  # answer with REPORT
    REPORT = 4  # sequence: packets counted; nanoseconds: bytes counted
    BURST = 5  # send `number` packets of the request's own size
    SOURCE = 6  # one of a burst


class Stamp(NamedTuple):
    """The stamp of a packet that came back."""

    kind: int
    number: int
    sequence: int
    nanoseconds: int


class Bad(ValueError):  # noqa: N818 - the packet is bad, not the program
    """The packet is not one of ours, or not as it was sent; the text is one of a few fixed ones."""


def checksum(data: bytes | memoryview) -> int:
    """The Internet checksum (RFC 1071): the sum of all 16-bit words is the number modulo 65535, in one's complement."""
    value = int.from_bytes(data, "big")
    if len(data) & 1:
        value <<= 8
    rest = value % 0xFFFF
    return 0 if rest == 0 and value else 0xFFFF - rest


def payload(kind: Kind, number: int, sequence: int, nanoseconds: int, size: int) -> bytes:
    """A stamp and as much of the pattern as makes `size` bytes."""
    return STAMP.pack(MAGIC, kind, number, sequence, nanoseconds) + PATTERN[STAMP.size : size]


def read_payload(data: memoryview) -> Stamp:
    """The stamp of a payload whose pattern is whole.

    Raises:
        Bad: it is not.
    """
    if len(data) < STAMP.size:
        raise Bad("short")
    magic, kind, number, sequence, nanoseconds = STAMP.unpack_from(data)
    if magic != MAGIC:
        raise Bad("foreign")
    if data[STAMP.size :] != PATTERN[STAMP.size : len(data)]:
        raise Bad("corrupt")
    return Stamp(kind, number, sequence, nanoseconds)


def ipv4(protocol: int, source: int, destination: int, identification: int, body: bytes) -> bytes:
    """An IPv4 packet around that body."""
    fields = [0x45, 0, IPV4_HEADER + len(body), identification & 0xFFFF, 0x4000, TTL, protocol, 0, source, destination]
    fields[7] = checksum(_IPV4.pack(*fields))
    return _IPV4.pack(*fields) + body


def echo_request(source: int, destination: int, identifier: int, sequence: int, data: bytes) -> bytes:
    """An ICMP echo request (RFC 792)."""
    head = _ICMP.pack(ICMP_ECHO, 0, 0, identifier & 0xFFFF, sequence & 0xFFFF)
    body = _ICMP.pack(ICMP_ECHO, 0, checksum(head + data), identifier & 0xFFFF, sequence & 0xFFFF) + data
    return ipv4(PROTOCOL_ICMP, source, destination, sequence, body)


def datagram(source: int, destination: int, port: int, sequence: int, data: bytes) -> bytes:
    """A UDP datagram to that port (RFC 768)."""
    length = UDP_HEADER + len(data)
    pseudo = _PSEUDO.pack(source, destination, 0, PROTOCOL_UDP, length)
    found = checksum(pseudo + _UDP.pack(SOURCE_PORT, port, length, 0) + data) or 0xFFFF  # 0 means none
    return ipv4(PROTOCOL_UDP, source, destination, sequence, _UDP.pack(SOURCE_PORT, port, length, found) + data)


def read_packet(packet: memoryview, address: int) -> Stamp:
    """The stamp of an IPv4 packet to `address` that is an echo reply or a datagram, with good checksums throughout.

    Raises:
        Bad: what is wrong with it.
    """
    if len(packet) < IPV4_HEADER + UDP_HEADER or packet[0] >> 4 != 4:
        raise Bad("foreign")
    header = (packet[0] & 0x0F) * 4
    total = int.from_bytes(packet[2:4], "big")
    if header < IPV4_HEADER or not header + UDP_HEADER <= total <= len(packet):
        raise Bad("short")
    if checksum(packet[:header]):
        raise Bad("header checksum")
    if int.from_bytes(packet[16:20], "big") != address:
        raise Bad("wrong address")
    body = packet[header:total]
    if packet[9] == PROTOCOL_ICMP:
        if body[0] != ICMP_ECHO_REPLY:
            raise Bad("foreign")
        if checksum(body):
            raise Bad("checksum")
    elif packet[9] == PROTOCOL_UDP:
        pseudo = bytes(packet[12:20]) + bytes((0, PROTOCOL_UDP)) + bytes(body[4:6])
        if (body[6] or body[7]) and checksum(pseudo + bytes(body)):
            raise Bad("checksum")
    else:
        raise Bad("foreign")
    return read_payload(body[UDP_HEADER:])
