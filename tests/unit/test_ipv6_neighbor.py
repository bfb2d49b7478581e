"""Router advertisements and solicitations: bytes made by hand, checksums summed up word by word."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

import pytest

from sstpfarm.errors import PeerError
from sstpfarm.proto.ipv6.neighbor import ALL_NODES, check_solicitation, encode_advertisement
from sstpfarm.proto.ipv6.offer import Offer
from sstpfarm.proto.ipv6.packet import Ipv6Packet, decode_packet, decode_udp, encode_packet, encode_udp, link_local
from tests.twin.packets import ones_sum

ROUTER = IPv6Address("fe80::200:5eff:fe00:1")
CLIENT = IPv6Address("fe80::7")
ROUTERS = IPv6Address("ff02::2")
PREFIX = IPv6Network("2001:db8:5::/64")
DNS = (IPv6Address("2001:db8::53"), IPv6Address("2001:db8::54"))


def is_sound(packet: bytes) -> bool:
    """Whether pseudo-header and payload add up (RFC 8200 8.1)."""
    return (
        ones_sum(packet[8:40] + (len(packet) - 40).to_bytes(4, "big") + bytes(3) + packet[6:7] + packet[40:]) == 0xFFFF
    )


def with_checksum(packet: Ipv6Packet, place: int) -> Ipv6Packet:
    """The packet with a right checksum there."""
    raw = encode_packet(packet)
    pseudo = raw[8:40] + len(packet.payload).to_bytes(4, "big") + bytes(3) + raw[6:7]
    blank = packet.payload[:place] + b"\0\0" + packet.payload[place + 2 :]
    found = (ones_sum(pseudo + blank) ^ 0xFFFF).to_bytes(2, "big")
    payload = blank[:place] + found + blank[place + 2 :]
    return Ipv6Packet(packet.source, packet.destination, packet.next_header, packet.hop_limit, payload)


def test_an_advertisement_to_all_nodes() -> None:
    packet = encode_advertisement(ROUTER, ALL_NODES, Offer(prefixes=(PREFIX,), dns_servers=DNS), 1400)
    assert is_sound(packet)
    assert packet[:40] == bytes.fromhex("60000000 0060 3a ff") + ROUTER.packed + bytes.fromhex(
        "ff020000000000000000000000000001"
    )
    assert packet[40:42] == b"\x86\x00"
    assert packet[44:] == bytes.fromhex(
        "40 40 0708 00000000 00000000"  # hop limit 64, O, 1800 s
        "05 01 0000 00000578"  # MTU 1400
        "03 04 40 40 00001518 00000a8c 00000000 20010db8000500000000000000000000"  # A without L, 5400 s, 2700 s
        "19 05 0000 00000708 20010db8000000000000000000000053 20010db8000000000000000000000054"
    )


@pytest.mark.parametrize(
    ("offer", "flags", "lifetime"),
    [
        (Offer(prefixes=(PREFIX,)), 0x00, 1800),
        (Offer(address=IPv6Address("2001:db8:5::9")), 0x80, 1800),
        (Offer(delegated=(IPv6Network("2001:db8:8000::/48"),)), 0x40, 1800),
        (Offer(dns_servers=DNS), 0x40, 0),  # no default route for who has nothing to send from
        (Offer(address=IPv6Address("2001:db8:5::9"), dns_servers=DNS), 0xC0, 1800),
    ],
)
def test_flags_send_the_client_to_dhcpv6(offer: Offer, flags: int, lifetime: int) -> None:
    packet = encode_advertisement(ROUTER, CLIENT, offer, 1280)
    assert is_sound(packet)
    assert packet[24:40] == CLIENT.packed
    assert packet[45] == flags
    assert int.from_bytes(packet[46:48], "big") == lifetime
    assert (b"\x03\x04\x40" in packet[56:]) == bool(offer.prefixes)


def test_the_largest_advertisement_fits_into_the_smallest_link() -> None:
    prefixes = tuple(IPv6Network((0x20010DB8 << 96 | number << 64, 64)) for number in range(16))
    packet = encode_advertisement(ROUTER, ALL_NODES, Offer(prefixes=prefixes, dns_servers=DNS * 2), 1280)
    assert len(packet) <= 1280
    assert is_sound(packet)


def solicitation(payload: bytes = bytes.fromhex("8500000000000000"), **changed: object) -> Ipv6Packet:
    fields = {"source": CLIENT, "destination": ROUTERS, "next_header": 58, "hop_limit": 255} | changed
    return with_checksum(Ipv6Packet(payload=payload, **fields), 2)  # type: ignore[arg-type]  # a test names them all


@pytest.mark.parametrize(
    "packet",
    [
        solicitation(),
        solicitation(bytes.fromhex("8500000000000000 0101020304050607")),  # a link-layer address
        solicitation(bytes.fromhex("8500000012345678 0e020000000000000000000000000000")),  # reserved bits, a nonce
        solicitation(destination=ROUTER),
        solicitation(source=IPv6Address("::")),
    ],
)
def test_good_solicitations(packet: Ipv6Packet) -> None:
    check_solicitation(packet)


@pytest.mark.parametrize(
    "packet",
    [
        solicitation(hop_limit=254),
        solicitation(bytes.fromhex("8501000000000000")),  # code
        solicitation(bytes.fromhex("8600000000000000")),
        solicitation(bytes.fromhex("85000000000000")),
        solicitation(bytes.fromhex("8500000000000000 0100020304050607")),  # an option without length
        solicitation(bytes.fromhex("8500000000000000 0102020304050607")),  # an option that is cut
        solicitation(bytes.fromhex("8500000000000000 01")),
        solicitation(bytes.fromhex("8500000000000000 0101020304050607"), source=IPv6Address("::")),
        Ipv6Packet(CLIENT, ROUTERS, 58, 255, bytes.fromhex("8500123400000000")),  # checksum
        Ipv6Packet(CLIENT, ROUTERS, 58, 255, b""),
    ],
)
def test_solicitations_that_must_not_be_answered(packet: Ipv6Packet) -> None:
    with pytest.raises(PeerError, match=r"RFC 4861 6\.1\.1"):
        check_solicitation(packet)


def test_packets_are_read_without_their_padding() -> None:
    raw = encode_packet(solicitation())
    assert decode_packet(raw + b"padding") == solicitation()
    for bad in (raw[:39], raw[:-1], b"\x40" + raw[1:], b""):
        with pytest.raises(PeerError):
            decode_packet(bad)


def test_udp_both_ways() -> None:
    raw = encode_udp((ROUTER, 547), (CLIENT, 546), b"odd")
    assert is_sound(raw)
    assert raw[40:46] == bytes.fromhex("0223 0222 000b")
    assert decode_udp(decode_packet(raw)) == (547, 546, b"odd")
    for payload in (raw[40:47], raw[40:44] + b"\0\x07" + raw[46:], raw[40:44] + b"\0\x0c" + raw[46:]):
        with pytest.raises(PeerError, match="UDP"):
            decode_udp(Ipv6Packet(ROUTER, CLIENT, 17, 64, payload))
    for wrong in (b"\0\0", bytes([raw[46] ^ 1]) + raw[47:48]):
        with pytest.raises(PeerError, match="checksum"):
            decode_udp(Ipv6Packet(ROUTER, CLIENT, 17, 64, raw[40:46] + wrong + raw[48:]))


def test_a_checksum_of_zero_is_sent_as_ones() -> None:
    """RFC 8200 8.1: in UDP zero means none, which IPv6 forbids."""
    found = set()
    for number in range(0x10000):
        raw = encode_udp((ROUTER, 547), (CLIENT, 546), number.to_bytes(2, "big"))
        found.add(raw[46:48])
        if raw[46:48] == b"\xff\xff":
            assert is_sound(raw)
            assert decode_udp(decode_packet(raw))[2] == number.to_bytes(2, "big")
    assert b"\xff\xff" in found
    assert b"\0\0" not in found


def test_the_link_local_address_of_an_identifier() -> None:
    assert link_local(bytes.fromhex("02005efffe000001")) == ROUTER
