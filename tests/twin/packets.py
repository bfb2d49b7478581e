"""IP packets of every make, with checksums of their own, for both directions."""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from random import Random
from typing import Final

CLIENT4: Final = IPv4Address("10.20.0.7")
CLIENT6: Final = IPv6Address("fe80::7")
FAR4: Final = IPv4Address("192.0.2.9")
FAR6: Final = IPv6Address("2001:db8::9")
TCP: Final = 6
UDP: Final = 17
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
DONT_FRAGMENT: Final = 0x4000


def ones_sum(data: bytes) -> int:
    """The one's complement sum of big-endian 16-bit words (RFC 1071)."""
    words = array("H", data + b"\0" * (len(data) % 2))
    words.byteswap()  # to the order of the wire (this machine, like every one that runs these tests, is little-endian)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def checksum(data: bytes) -> int:
    return ones_sum(data) ^ 0xFFFF


def network_length(packet: bytes) -> int:
    """Bytes of the IP header, without extension headers."""
    return (packet[0] & 0x0F) * 4 if packet[0] >> 4 == 4 else 40


def protocol_of(packet: bytes) -> int:
    return packet[9] if packet[0] >> 4 == 4 else packet[6]


def pseudo_header(packet: bytes, length: int, protocol: int) -> bytes:
    addresses = packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]
    return addresses + struct.pack("!II", length, protocol)


def with_checksums(packet: bytes) -> bytes:
    """The packet with right checksums of IPv4, TCP and UDP (an absent one of UDP stays absent)."""
    made = bytearray(packet)
    start = network_length(packet)
    if made[0] >> 4 == 4:
        made[10:12] = b"\0\0"
        made[10:12] = checksum(bytes(made[:start])).to_bytes(2, "big")
    protocol = protocol_of(packet)
    place = start + (16 if protocol == TCP else 6)
    if protocol not in (TCP, UDP) or len(made) < place + 2:
        return bytes(made)
    if protocol == UDP and made[place : place + 2] == b"\0\0":
        return bytes(made)
    made[place : place + 2] = b"\0\0"
    found = checksum(pseudo_header(packet, len(made) - start, protocol) + bytes(made[start:]))
    if protocol == UDP and not found:
        found = 0xFFFF
    made[place : place + 2] = found.to_bytes(2, "big")
    return bytes(made)


def are_sound(packet: bytes) -> bool:
    """Whether the checksums of a TCP or UDP packet without extension headers hold."""
    start = network_length(packet)
    if packet[0] >> 4 == 4 and ones_sum(packet[:start]) != 0xFFFF:
        return False
    protocol = protocol_of(packet)
    if protocol == UDP and packet[start + 6 : start + 8] == b"\0\0":
        return True
    return ones_sum(pseudo_header(packet, len(packet) - start, protocol) + packet[start:]) == 0xFFFF


def ip_packet(
    version: int,
    protocol: int,
    transport: bytes,
    *,
    identification: int = 0,
    fragment: int = DONT_FRAGMENT,
    ttl: int = 64,
    tos: int = 0,
    flow_label: int = 0,
    options: bytes = b"",
    from_client: bool = True,
    to: str = "",
) -> bytes:
    """An IP packet around a transport header whose checksum field holds anything but a UDP zero.

    `to` is another IPv6 destination than the one that belongs to the direction.
    """
    if version == 4:
        source, target = (CLIENT4, FAR4) if from_client else (FAR4, CLIENT4)
        header = 20 + len(options)
        packet = struct.pack(
            "!BBHHHBBH4s4s", 0x40 | header // 4, tos, header + len(transport), identification, fragment, ttl, protocol,
            0, source.packed, target.packed,
        )  # fmt: skip
    else:
        source6, target6 = (CLIENT6, FAR6) if from_client else (FAR6, CLIENT6)
        target6 = IPv6Address(to) if to else target6
        first = 6 << 28 | tos << 20 | flow_label
        packet = struct.pack("!IHBB", first, len(options) + len(transport), protocol, ttl)
        packet += source6.packed + target6.packed
    return with_checksums(packet + options + transport)


@dataclass
class Flow:
    """One TCP connection or UDP flow; `next` gives its packets in order."""

    version: int = 4
    protocol: int = TCP
    ports: tuple[int, int] = (40000, 443)
    sequence: int = 1000
    acknowledgement: int = 77
    window: int = 500
    options: bytes = b""
    identification: int = 5
    fragment: int = DONT_FRAGMENT
    tos: int = 0
    ttl: int = 64
    flow_label: int = 0x12345
    from_client: bool = True
    random: Random = field(default_factory=lambda: Random(1))

    def next(self, size: int, flags: int = ACK, payload: bytes | None = None) -> bytes:
        """The next packet, with `size` bytes of payload."""
        data = self.random.randbytes(size) if payload is None else payload
        if self.protocol == TCP:
            words = 5 + len(self.options) // 4
            transport = struct.pack(
                "!HHIIHHHH", *self.ports, self.sequence, self.acknowledgement, words << 12 | flags, self.window, 0, 0
            ) + self.options  # fmt: skip
            self.sequence = (self.sequence + len(data)) & 0xFFFFFFFF
        else:
            transport = struct.pack("!HHHH", *self.ports, 8 + len(data), 1)
        packet = ip_packet(
            self.version,
            self.protocol,
            transport + data,
            identification=self.identification,
            fragment=self.fragment,
            ttl=self.ttl,
            tos=self.tos,
            flow_label=self.flow_label,
            from_client=self.from_client,
        )
        self.identification = (self.identification + 1) & 0xFFFF
        return packet

    @property
    def headers(self) -> int:
        """Bytes in front of the payload."""
        return (20 if self.version == 4 else 40) + (20 + len(self.options) if self.protocol == TCP else 8)
