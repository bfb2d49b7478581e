"""PPP frames, packets and options: encoding and decoding are inverse, and only PeerError is raised."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from sstpfarm.errors import PeerError
from sstpfarm.proto.ppp.frame import decode_frame, encode_frame
from sstpfarm.proto.ppp.packet import Option, Packet, decode_options, decode_packet, encode_options, encode_packet

octets = st.integers(0, 255)
# RFC 1661 2: the first byte of a 2-byte protocol number is even
protocols = st.builds(lambda high, low: (high & 0xFE) << 8 | low, octets, octets)
packets = st.builds(Packet, octets, octets, st.binary(max_size=300))
options = st.lists(st.builds(Option, octets, st.binary(max_size=253)), max_size=8)


@given(protocols, st.binary(max_size=100))
def test_frames(protocol: int, information: bytes) -> None:
    assert decode_frame(encode_frame(protocol, information)) == (protocol, information)


@given(packets, st.binary(max_size=20))
def test_packets_with_any_padding(packet: Packet, padding: bytes) -> None:
    assert decode_packet(encode_packet(packet) + padding) == packet


@given(options)
def test_options(wanted: list[Option]) -> None:
    assert decode_options(encode_options(wanted)) == tuple(wanted)


@given(st.binary(max_size=60))
def test_arbitrary_bytes_raise_nothing_but_peer_error(data: bytes) -> None:
    for decode in (decode_frame, decode_packet):
        with suppress(PeerError):
            decode(data)
    with suppress(PeerError):
        assert encode_options(decode_options(data)) == data
