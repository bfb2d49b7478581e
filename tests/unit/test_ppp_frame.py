"""PPP framing and the packet and option codec."""

from __future__ import annotations

import pytest

from sstpfarm.errors import PeerError
from sstpfarm.proto.ppp.frame import decode_frame, encode_frame
from sstpfarm.proto.ppp.packet import Option, Packet, decode_options, decode_packet, encode_options, encode_packet


@pytest.mark.parametrize(
    ("frame", "protocol"),
    [
        ("ff03c021010100040000", 0xC021),
        ("c021010100040000", 0xC021),  # address and control compressed
        ("ff030021010100040000", 0x0021),
        ("ff0321010100040000", 0x0021),  # protocol compressed
        ("21010100040000", 0x0021),  # both
        ("fd010100040000", 0x00FD),
    ],
)
def test_every_compression_is_understood(frame: str, protocol: int) -> None:
    assert decode_frame(bytes.fromhex(frame)) == (protocol, bytes.fromhex("010100040000"))


@pytest.mark.parametrize("frame", ["", "ff03", "ff03c0", "c0"])
def test_frame_without_a_whole_protocol_is_refused(frame: str) -> None:
    with pytest.raises(PeerError):
        decode_frame(bytes.fromhex(frame))


def test_frames_are_sent_uncompressed() -> None:
    assert encode_frame(0x0021, b"xyz") == bytes.fromhex("ff030021") + b"xyz"


def test_packet_without_information_is_a_frame() -> None:
    assert decode_frame(bytes.fromhex("ff03c021")) == (0xC021, b"")


def test_padding_behind_the_length_is_ignored() -> None:
    assert decode_packet(bytes.fromhex("0907000800000000ffff")) == Packet(9, 7, bytes(4))


@pytest.mark.parametrize("information", ["", "010100", "01010003", "01010005", "0101ffff00"])
def test_packet_with_a_wrong_length_is_refused(information: str) -> None:
    with pytest.raises(PeerError):
        decode_packet(bytes.fromhex(information))


@pytest.mark.parametrize("data", ["01", "0100", "0101", "010405", "0104057803", "010405780300"])
def test_option_with_a_wrong_length_spoils_the_packet(data: str) -> None:
    with pytest.raises(PeerError):
        decode_options(bytes.fromhex(data))


def test_options_keep_their_order() -> None:
    options = (Option(7), Option(1, b"\x05\xdc"), Option(7))
    assert encode_options(options) == bytes.fromhex("0702010405dc0702")
    assert decode_options(encode_options(options)) == options


def test_longest_option_fits() -> None:
    option = Option(255, bytes(253))
    assert decode_options(encode_options([option])) == (option,)
    assert len(encode_packet(Packet(1, 255, encode_options([option])))) == 259
