"""loadtest.packets: what is sent is right, and nothing that changed on its way is taken for good."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest import packets
from loadtest.packets import Bad, Kind, Stamp

CLIENT, SERVER = 0x0A400002, 0x0A400001
HEADERS = packets.IPV4_HEADER + packets.UDP_HEADER


def words_checksum(data: bytes) -> int:
    """RFC 1071 1, word by word."""
    data += b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def reply(size: int = 200, sequence: int = 5) -> bytearray:
    """The echo reply that a host sends to our request: addresses swapped, type 0, checksums made anew."""
    data = packets.payload(Kind.ECHO, 0, sequence, 77, size - HEADERS)
    packet = bytearray(packets.echo_request(CLIENT, SERVER, 9, sequence, data))
    packet[12:16], packet[16:20] = packet[16:20], packet[12:16]
    packet[20] = packets.ICMP_ECHO_REPLY
    packet[22:24] = b"\0\0"
    packet[22:24] = words_checksum(bytes(packet[20:])).to_bytes(2, "big")
    return packet


@given(st.binary(max_size=100) | st.sampled_from([b"", b"\0", b"\0\0", b"\xff\xff", b"\xff" * 8]))
@settings(max_examples=300, deadline=None)
def test_checksum_is_that_of_rfc_1071(data: bytes) -> None:
    assert packets.checksum(data) == words_checksum(data)


@pytest.mark.parametrize("size", [packets.MIN_PACKET, 65, 576, 1400, packets.MAX_PACKET])
def test_requests_have_their_size_and_good_checksums(size: int) -> None:
    data = packets.payload(Kind.ECHO, 0, 1, 2, size - HEADERS)
    for packet in (
        packets.echo_request(CLIENT, SERVER, 1, 1, data),
        packets.datagram(CLIENT, SERVER, 9009, 1, data),
    ):
        assert len(packet) == size == int.from_bytes(packet[2:4], "big")
        assert words_checksum(packet[:20]) == 0
    assert words_checksum(packets.echo_request(CLIENT, SERVER, 1, 1, data)[20:]) == 0
    datagram = packets.datagram(CLIENT, SERVER, 9009, 1, data)
    pseudo = datagram[12:20] + bytes([0, 17]) + datagram[24:26]
    assert words_checksum(pseudo + datagram[20:]) == 0


def test_reply_is_read() -> None:
    assert packets.read_packet(memoryview(reply()), CLIENT) == Stamp(Kind.ECHO, 0, 5, 77)


def test_every_changed_byte_is_found() -> None:
    good = reply(120)
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 0x5A
        with pytest.raises(Bad):
            packets.read_packet(memoryview(bad), CLIENT)


def test_a_payload_that_changed_under_a_repaired_checksum_is_found() -> None:
    """What a coalescing path must never do: carry corruption and make a fitting checksum for it."""
    packet = reply(200)
    packet[150] ^= 1
    packet[22:24] = b"\0\0"
    packet[22:24] = words_checksum(bytes(packet[20:])).to_bytes(2, "big")
    with pytest.raises(Bad, match="corrupt"):
        packets.read_packet(memoryview(packet), CLIENT)


@pytest.mark.parametrize("size", [0, 1, 19, 27, 40])
def test_truncated_packets_are_refused(size: int) -> None:
    with pytest.raises(Bad):
        packets.read_packet(memoryview(reply())[:size], CLIENT)


def test_somebody_elses_packet_is_refused() -> None:
    with pytest.raises(Bad, match="wrong address"):
        packets.read_packet(memoryview(reply()), CLIENT + 1)


@given(st.binary(max_size=80))
@settings(max_examples=300, deadline=None)
def test_garbage_is_refused_in_order(data: bytes) -> None:
    with pytest.raises(Bad):
        packets.read_packet(memoryview(data), CLIENT)
