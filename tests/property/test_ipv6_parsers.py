"""Parsers of router solicitations and DHCPv6 under any bytes: an answer, or PeerError, and nothing else."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv6Address, IPv6Network

from hypothesis import given, settings
from hypothesis import strategies as st

from sstpfarm.errors import PeerError
from sstpfarm.proto.ipv6.dhcpv6 import answer, decode_query, server_identifier
from sstpfarm.proto.ipv6.neighbor import check_solicitation
from sstpfarm.proto.ipv6.offer import Offer
from sstpfarm.proto.ipv6.packet import Ipv6Packet, checksum, decode_packet, decode_udp, encode_packet

SERVER = server_identifier(bytes(16))
SITES = tuple(IPv6Network((0x20010DB8 << 96 | number << 72, 56)) for number in range(3))
OFFER = Offer(address=IPv6Address("2001:db8::9"), delegated=SITES, dns_servers=(IPv6Address("2001:db8::53"),))


def option(code: int, value: bytes) -> bytes:
    return code.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value


LEASES = st.one_of(
    st.builds(lambda a: option(5, a + bytes(8)), st.binary(min_size=16, max_size=16)),
    st.builds(
        lambda n, a: option(26, bytes(8) + bytes([n]) + a), st.integers(0, 129), st.binary(min_size=16, max_size=17)
    ),
    st.builds(option, st.integers(0, 30), st.binary(max_size=30)),
)
OPTIONS = st.one_of(
    st.just(option(1, b"\0\1\2\3")),
    st.just(option(2, SERVER)),
    st.builds(
        lambda code, inside: option(code, bytes(12) + b"".join(inside)),
        st.sampled_from([3, 25]),
        st.lists(LEASES, max_size=6),
    ),
    st.builds(option, st.integers(0, 30), st.binary(max_size=140)),
)
MESSAGES = st.builds(
    lambda kind, options, tail: bytes([kind, 1, 2, 3]) + b"".join(options) + tail,
    st.integers(0, 14),
    st.lists(OPTIONS, max_size=12),
    st.binary(max_size=4),
)


@settings(max_examples=600, deadline=None)
@given(data=st.one_of(MESSAGES, st.binary(max_size=100)), unicast=st.booleans(), empty=st.booleans())
def test_dhcpv6(data: bytes, unicast: bool, empty: bool) -> None:
    try:
        query = decode_query(data)
    except PeerError:
        return
    given = answer(query, Offer() if empty else OFFER, SERVER, unicast=unicast)
    if given is not None:
        assert given[0] in (2, 7)
        assert given[1:4] == data[1:4]
        assert len(given) <= 1280 - 48
        place = 4
        while place < len(given):  # whole options to the end
            place += 4 + int.from_bytes(given[place + 2 : place + 4], "big")
        assert place == len(given)


@settings(max_examples=600, deadline=None)
@given(
    kind=st.sampled_from([133, 133, 133, 134]),
    options=st.binary(max_size=40),
    hop_limit=st.sampled_from([255, 255, 64]),
    sound=st.booleans(),
)
def test_router_solicitations(kind: int, options: bytes, hop_limit: int, sound: bool) -> None:
    source, destination = IPv6Address("fe80::7"), IPv6Address("ff02::2")
    body = bytes([kind, 0, 0, 0, 0, 0, 0, 0]) + options
    found = checksum(source, destination, 58, body) if sound else 0
    body = body[:2] + found.to_bytes(2, "big") + body[4:]
    with suppress(PeerError):
        check_solicitation(Ipv6Packet(source, destination, 58, hop_limit, body))
        assert (kind, hop_limit) == (133, 255)
        assert checksum(source, destination, 58, body) == 0
        assert len(body) % 8 == 0


@settings(max_examples=600, deadline=None)
@given(payload=st.binary(max_size=60), behind=st.binary(max_size=4), cut=st.integers(0, 110), length=st.integers(0, 70))
def test_packets(payload: bytes, behind: bytes, cut: int, length: int) -> None:
    head = b"\x60\0\0\0" + length.to_bytes(2, "big") + b"\x11\xff" + bytes(15) + b"\1" + bytes(15) + b"\2"
    data = (head + payload + behind)[:cut]
    try:
        packet = decode_packet(data)
    except PeerError:
        assert cut < 40 or len(data) < 40 + length
        return
    assert encode_packet(packet) == data[: 40 + length]
    with suppress(PeerError):
        _, _, datagram = decode_udp(packet)
        assert len(datagram) <= length - 8
