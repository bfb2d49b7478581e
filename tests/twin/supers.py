"""Super-packets: an independent segmenter, written from the definition of virtio_net_hdr and not from the code."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from tests.twin.packets import (
    CWR,
    FIN,
    PSH,
    TCP,
    UDP,
    network_length,
    ones_sum,
    protocol_of,
    pseudo_header,
    with_checksums,
)

HEADER: Final = struct.Struct("=BBHHHH")  # struct virtio_net_hdr, linux/virtio_net.h
NEEDS_CSUM: Final = 1
TCPV4, TCPV6, UDP_L4 = 1, 4, 5
PLAIN: Final = bytes(10)


@dataclass(frozen=True)
class Virtio:
    """struct virtio_net_hdr."""

    flags: int = 0
    gso_type: int = 0
    hdr_len: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0

    def pack(self) -> bytes:
        return HEADER.pack(
            self.flags, self.gso_type, self.hdr_len, self.gso_size, self.csum_start, self.csum_offset
        )  # fmt: skip

    @classmethod
    def unpack(cls, message: bytes) -> Virtio:
        return cls(*HEADER.unpack_from(message))


def transport_length(packet: bytes, start: int) -> int:
    return (packet[start + 12] >> 4) * 4 if protocol_of(packet) == TCP else 8


def expand(message: bytes) -> list[bytes]:
    """The packets in one message of a TUN device with headers, as the kernel would send them on.

    AssertionError when the header contradicts the packet.
    """
    virtio, packet = Virtio.unpack(message), message[HEADER.size :]
    if not virtio.flags:
        assert virtio == Virtio()
        return [packet]
    start, protocol = network_length(packet), protocol_of(packet)
    assert virtio.flags == NEEDS_CSUM
    assert virtio.csum_start == start
    assert protocol in (TCP, UDP)
    assert virtio.csum_offset == (16 if protocol == TCP else 6)
    place = start + virtio.csum_offset
    # A checksum that is still to be made: the folded sum of the pseudo header, not complemented.
    unfinished = ones_sum(pseudo_header(packet, len(packet) - start, protocol))
    assert int.from_bytes(packet[place : place + 2], "big") == unfinished
    if not virtio.gso_type:
        return [with_checksums(packet)]
    version = packet[0] >> 4
    assert virtio.gso_type == (UDP_L4 if protocol == UDP else TCPV4 if version == 4 else TCPV6)
    headers = start + transport_length(packet, start)
    assert virtio.hdr_len == headers
    if version == 4:
        assert ones_sum(packet[:20]) == 0xFFFF
        assert int.from_bytes(packet[2:4], "big") == len(packet) <= 65535
    else:
        assert int.from_bytes(packet[4:6], "big") == len(packet) - 40
    if protocol == UDP:
        assert int.from_bytes(packet[start + 4 : start + 6], "big") == len(packet) - start
    return segments(packet, headers, virtio.gso_size)


def segments(packet: bytes, headers: int, unit: int) -> list[bytes]:
    """Take a super-packet apart."""
    start, payload, made = network_length(packet), packet[headers:], []
    assert payload
    for number, place in enumerate(range(0, len(payload), unit)):
        chunk = payload[place : place + unit]
        head = bytearray(packet[:headers])
        if packet[0] >> 4 == 4:
            struct.pack_into("!H", head, 2, headers + len(chunk))
            struct.pack_into("!H", head, 4, (int.from_bytes(packet[4:6], "big") + number) & 0xFFFF)
        else:
            struct.pack_into("!H", head, 4, headers - 40 + len(chunk))
        if protocol_of(packet) == TCP:
            sequence = int.from_bytes(packet[start + 4 : start + 8], "big") + place
            struct.pack_into("!I", head, start + 4, sequence & 0xFFFFFFFF)
            if place + len(chunk) < len(payload):
                head[start + 13] &= ~(FIN | PSH)
            if number:
                head[start + 13] &= ~CWR
        else:
            struct.pack_into("!HH", head, start + 4, 8 + len(chunk), 1)  # not 0, which would mean none
        made.append(with_checksums(bytes(head) + chunk))
    return made


def super_packet(packet: bytes, unit: int) -> bytes:
    """The message that a TUN device hands out for this TCP or UDP packet, whose segments carry `unit` bytes."""
    start, protocol = network_length(packet), protocol_of(packet)
    offset = 16 if protocol == TCP else 6
    made = bytearray(packet)
    struct.pack_into("!H", made, start + offset, ones_sum(pseudo_header(packet, len(packet) - start, protocol)))
    headers = start + transport_length(packet, start)
    kind = 0
    if len(packet) - headers > unit:
        kind = UDP_L4 if protocol == UDP else TCPV4 if packet[0] >> 4 == 4 else TCPV6
    virtio = Virtio(NEEDS_CSUM, kind, headers if kind else 0, unit if kind else 0, start, offset)
    return virtio.pack() + bytes(made)
