"""IP packets made and judged by the test alone: addresses, transport payloads and Internet checksums (RFC 1071)."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Final

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
ETH_P_IP: Final = 0x0800  # linux/if_ether.h
ETH_P_IPV6: Final = 0x86DD
ACK: Final = 0x10


def checksum(data: bytes) -> int:
    """The Internet checksum of `data`: 0 when it covers a right checksum."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


@dataclass(frozen=True)
class Packet:
    """One IP packet, taken apart."""

    version: int
    protocol: int
    source: bytes
    destination: bytes
    transport: bytes  # from the first byte of the TCP or UDP header to the end
    header_ok: bool  # IPv4: its header's checksum is right

    @property
    def ports(self) -> tuple[int, int]:
        """Source and destination port."""
        source, destination = struct.unpack_from("!HH", self.transport)
        return source, destination

    @property
    def payload(self) -> bytes:
        """What TCP or UDP carries."""
        return self.transport[(self.transport[12] >> 4) * 4 if self.protocol == TCP else 8 :]

    @property
    def transport_ok(self) -> bool:
        """Whether the TCP or UDP checksum is right; UDP over IPv4 may go without (RFC 768)."""
        if self.protocol == UDP and self.version == 4 and self.transport[6:8] == b"\0\0":
            return True
        return checksum(_pseudo_header(self.source, self.destination, self.protocol, self.transport)) == 0


def parse(data: bytes) -> Packet | None:
    """Take an unfragmented TCP or UDP packet apart; None for anything else."""
    version = data[0] >> 4
    if version == 4:
        header, total = (data[0] & 15) * 4, struct.unpack_from("!H", data, 2)[0]
        if data[9] not in (TCP, UDP) or struct.unpack_from("!H", data, 6)[0] & 0x3FFF:
            return None
        ok = checksum(data[:header]) == 0
        return Packet(4, data[9], data[12:16], data[16:20], data[header:total], ok)
    if version == 6 and data[6] in (TCP, UDP):
        total = 40 + struct.unpack_from("!H", data, 4)[0]
        return Packet(6, data[6], data[8:24], data[24:40], data[40:total], True)
    return None


def build(protocol: int, source: str, destination: str, transport: bytes, number: int = 0) -> bytes:
    """An IP packet around a transport header and payload whose checksum field is filled in already."""
    src, dst = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    if src.version == 6:
        return struct.pack("!IHBB", 6 << 28, len(transport), protocol, 64) + src.packed + dst.packed + transport
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(transport), number & 0xFFFF, 0x4000, 64, protocol, 0)
    header += src.packed + dst.packed
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + transport


def tcp_segment(source: str, destination: str, ports: tuple[int, int], sequence: int, payload: bytes) -> bytes:
    """A TCP segment with ACK set and a right checksum, without its IP header."""
    return _filled(
        TCP, 16, source, destination, struct.pack("!HHIIBBHHH", *ports, sequence, 1, 0x50, ACK, 500, 0, 0), payload
    )


def udp_datagram(source: str, destination: str, ports: tuple[int, int], payload: bytes) -> bytes:
    """A UDP datagram with a right checksum, without its IP header."""
    return _filled(UDP, 6, source, destination, struct.pack("!HHHH", *ports, 8 + len(payload), 0), payload)


def _filled(protocol: int, field: int, source: str, destination: str, header: bytes, payload: bytes) -> bytes:
    whole = header + payload
    src, dst = ipaddress.ip_address(source).packed, ipaddress.ip_address(destination).packed
    value = checksum(_pseudo_header(src, dst, protocol, whole)) or 0xFFFF
    return whole[:field] + struct.pack("!H", value) + whole[field + 2 :]


def _pseudo_header(source: bytes, destination: bytes, protocol: int, transport: bytes) -> bytes:
    """RFC 9293 3.1 and RFC 8200 8.1: what the checksum covers beside the packet itself."""
    if len(source) == 4:
        return source + destination + struct.pack("!BBH", 0, protocol, len(transport)) + transport
    return source + destination + struct.pack("!II", len(transport), protocol) + transport


def icmp_echo(source: str, destination: str, number: int) -> bytes:
    """An ICMP echo request in IPv4 (RFC 792)."""
    body = struct.pack("!HH", 0x5354, number) + b"sstpfarm"
    echo = struct.pack("!BBH", 8, 0, checksum(b"\x08\0\0\0" + body)) + body
    return build(ICMP, source, destination, echo, number)


def udp(source: str, destination: str, port: int, payload: bytes) -> bytes:
    """A UDP datagram in IPv4, from that port to the same (RFC 768)."""
    return build(UDP, source, destination, udp_datagram(source, destination, (port, port), payload))
