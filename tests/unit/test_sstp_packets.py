"""The SSTP codec against the wire vectors, and every complaint about attributes."""

from __future__ import annotations

import pytest

from sstpfarm.errors import LocalError, PeerError
from sstpfarm.proto.sstp import packets
from sstpfarm.proto.sstp.constants import HashProtocol, MessageType, Status
from sstpfarm.proto.sstp.packets import Attribute, ControlMessage, StatusInfo
from sstpfarm.reasons import Reason
from tests.vectors.loader import load

WIRE = {vector.id: vector["packet"] for vector in load("sstp-wire")}

NONCE_4_7 = bytes.fromhex("412b489aebd7ecc7d08966f26be7cd72b231a0e9210d7c91b308862b0344c435")
NONCE_CB = bytes.fromhex("c500112233445566778899aabbccddeeff102030405060708090a0b0c0d0e0f0")

MESSAGES = {
    "sstp-call-connect-request": packets.CALL_CONNECT_REQUEST,
    "sstp-call-connect-ack": packets.call_connect_ack(HashProtocol.SHA256, NONCE_4_7),
    "sstp-call-connect-ack-both": packets.call_connect_ack(3, NONCE_CB),
    "sstp-call-connect-nak": packets.call_connect_nak((StatusInfo(1, Status.VALUE_NOT_SUPPORTED, b"\x00\x02"),)),
    "sstp-call-abort": packets.call_abort(Status.INVALID_FRAME_RECEIVED),
    "sstp-call-abort-bare": ControlMessage(MessageType.CALL_ABORT),
    "sstp-call-disconnect": packets.call_disconnect(Status.NO_ERROR),
    "sstp-call-disconnect-bare": ControlMessage(MessageType.CALL_DISCONNECT),
    "sstp-call-disconnect-ack": packets.CALL_DISCONNECT_ACK,
    "sstp-echo-request": packets.ECHO_REQUEST,
    "sstp-echo-response": packets.ECHO_RESPONSE,
}


def control(message_type: int, attributes: bytes, count: int) -> bytes:
    """A control packet with hand-made attribute bytes."""
    return (
        bytes((0x10, 1)) + (8 + len(attributes)).to_bytes(2) + message_type.to_bytes(2) + count.to_bytes(2) + attributes
    )


def request(*attributes: Attribute) -> ControlMessage:
    return ControlMessage(MessageType.CALL_CONNECT_REQUEST, attributes)


PPP = Attribute(1, b"\x00\x01")


def test_every_wire_vector_is_covered() -> None:
    assert set(WIRE) == {*MESSAGES, "sstp-data"}


@pytest.mark.parametrize("name", MESSAGES)
def test_wire_vector_both_ways(name: str) -> None:
    assert MESSAGES[name].encode() == WIRE[name]
    assert packets.decode_control(WIRE[name]) == MESSAGES[name]
    assert packets.complaints(MESSAGES[name]) == ()


def test_data_vector_both_ways() -> None:
    frame = bytes.fromhex("ff03c0210901000811223344")
    assert packets.encode_data(frame) == WIRE["sstp-data"]
    assert packets.decode_data(WIRE["sstp-data"]) == frame


def test_largest_data_packet() -> None:
    assert packets.encode_data(bytes(4091))[:4] == bytes.fromhex("10000fff")
    assert packets.decode_data(packets.encode_data(bytes(4091))) == bytes(4091)
    with pytest.raises(LocalError):
        packets.encode_data(bytes(4092))


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        bytes.fromhex("100100"),
        bytes.fromhex("10010008000800"),  # shorter than a control header
        bytes.fromhex("1101000800080000"),  # version 1.1
        bytes.fromhex("2001000800080000"),  # version 2.0
        bytes.fromhex("1000000800080000"),  # C bit clear
        bytes.fromhex("1001000700080000"),  # length field too small
        bytes.fromhex("1001000900080000"),  # length field too large
        bytes.fromhex("1001000000080000"),
    ],
)
def test_bad_framing(packet: bytes) -> None:
    with pytest.raises(PeerError) as caught:
        packets.decode_control(packet)
    assert caught.value.reason is Reason.BAD_FRAMING


def test_bad_framing_of_data() -> None:
    for packet in (b"\x10\x00\x00", bytes.fromhex("10010004"), bytes.fromhex("10000005"), bytes.fromhex("11000004")):
        with pytest.raises(PeerError) as caught:
            packets.decode_data(packet)
        assert caught.value.reason is Reason.BAD_FRAMING
    assert packets.decode_data(bytes.fromhex("10000004")) == b""


def test_reserved_bits_are_ignored() -> None:
    assert packets.decode_control(bytes.fromhex("10fff00800080000")) == packets.ECHO_REQUEST
    packet = bytes.fromhex("1001000e00010001" + "ff01f0060001")
    assert packets.decode_control(packet) == packets.CALL_CONNECT_REQUEST
    assert packets.decode_data(bytes.fromhex("10fef005aa")) == b"\xaa"


@pytest.mark.parametrize("length", [0, 1, 2, 3, 7, 0xFFF])
def test_wrong_attribute_length_is_malformed_and_ends(length: int) -> None:
    with pytest.raises(PeerError) as caught:
        packets.decode_control(control(1, b"\x00\x01" + length.to_bytes(2) + b"\x00\x01", 1))
    assert caught.value.reason is Reason.MALFORMED_MESSAGE


@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_wrong_attribute_length_with_the_largest_count(length: int) -> None:
    with pytest.raises(PeerError):
        packets.decode_control(control(8, (b"\x00\x01" + length.to_bytes(2)) * 1000, 0xFFFF))


def test_count_must_match() -> None:
    attribute = bytes.fromhex("000100060001")
    with pytest.raises(PeerError):
        packets.decode_control(control(1, attribute, 2))
    assert packets.decode_control(control(1, attribute * 2, 1)) == packets.CALL_CONNECT_REQUEST  # leftover bytes


@pytest.mark.parametrize("message_type", [3, 5, 6])
def test_messages_that_only_tell_why_are_tolerated(message_type: int) -> None:
    for attributes in (b"", b"\x00", bytes.fromhex("00020000"), bytes.fromhex("0002ffff"), bytes(40)):
        message = packets.decode_control(control(message_type, attributes, 3))
        assert packets.status_of(message) is None
        assert packets.complaints(message) == ()


def test_nak_of_accel_ppp_is_understood() -> None:
    # its inner length is two short: 12 for 14 bytes
    packet = bytes.fromhex("10010016000300010002000c00000001000000040002")
    assert packets.status_of(packets.decode_control(packet)) == StatusInfo(1, Status.VALUE_NOT_SUPPORTED)


def test_status_in_words() -> None:
    assert str(StatusInfo(1, 4, b"secret")) == (
        "status 4 (VALUE_NOT_SUPPORTED) for attribute 1 (ENCAPSULATED_PROTOCOL_ID)"
    )
    assert str(StatusInfo(0, 7)) == "status 7 (INVALID_FRAME_RECEIVED)"
    assert str(StatusInfo(9, 0xFFFFFFFF)) == "status 4294967295 (unknown) for attribute 9 (unknown)"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (request(PPP), []),
        (request(), [(1, Status.REQUIRED_ATTRIBUTE_MISSING, b"")]),
        (request(PPP, PPP), [(1, Status.DUPLICATE_ATTRIBUTE, b"\x00\x01")]),
        (request(PPP, Attribute(0x55, b"x")), [(0x55, Status.UNRECOGNIZED_ATTRIBUTE, b"x")]),
        (request(PPP, Attribute(0, b"")), [(0, Status.UNRECOGNIZED_ATTRIBUTE, b"")]),
        (request(Attribute(1, b"\x01")), [(1, Status.INVALID_ATTRIB_VALUE_LENGTH, b"\x01")]),
        (request(Attribute(1, b"\x00\x02")), [(1, Status.VALUE_NOT_SUPPORTED, b"\x00\x02")]),
        (request(PPP, Attribute(3, bytes(100))), [(3, Status.ATTRIB_NOT_SUPPORTED_IN_MSG, bytes(100))]),
        (request(PPP, StatusInfo(0, 4).encode()), [(2, Status.STATUS_INFO_NOT_SUPPORTED_IN_MSG, bytes(7) + b"\x04")]),
        (request(PPP, StatusInfo(0, 0).encode()), []),
        (request(PPP, Attribute(2, bytes(7))), [(2, Status.INVALID_ATTRIB_VALUE_LENGTH, bytes(7))]),
        (
            request(Attribute(9, b""), Attribute(1, b"")),
            [(9, Status.UNRECOGNIZED_ATTRIBUTE, b""), (1, Status.INVALID_ATTRIB_VALUE_LENGTH, b"")],
        ),
        (ControlMessage(MessageType.CALL_CONNECT_ACK), [(4, Status.REQUIRED_ATTRIBUTE_MISSING, b"")]),
        (ControlMessage(MessageType.CALL_CONNECTED), [(3, Status.REQUIRED_ATTRIBUTE_MISSING, b"")]),
        (ControlMessage(MessageType.ECHO_REQUEST, (PPP,)), [(1, Status.ATTRIB_NOT_SUPPORTED_IN_MSG, b"\x00\x01")]),
        (ControlMessage(0x1234, (PPP, PPP)), []),
    ],
)
def test_complaints(message: ControlMessage, expected: list[tuple[int, Status, bytes]]) -> None:
    assert [(found.attribute, found.status, found.value) for found in packets.complaints(message)] == expected


def test_a_nak_stays_small_and_repeats_at_most_64_bytes() -> None:
    greedy = request(*(Attribute(0x77, bytes(100)) for _ in range(35)))
    packet = packets.call_connect_nak(packets.complaints(greedy)).encode()
    statuses = packets.decode_control(packet).attributes
    assert len(statuses) == 8
    assert all(len(status.value) == 8 + 64 for status in statuses)


def test_what_does_not_fit_is_our_own_bug() -> None:
    for message in (
        ControlMessage(0x10000),
        ControlMessage(1, (Attribute(256, b""),)),
        ControlMessage(1, (Attribute(1, bytes(4092)),)),
        ControlMessage(1, (Attribute(1, bytes(2044)), Attribute(1, bytes(2044)))),
    ):
        with pytest.raises(LocalError):
            message.encode()
    with pytest.raises(LocalError):
        packets.call_connect_ack(3, bytes(31))


def test_values_are_not_shown() -> None:
    assert "secret" not in repr(ControlMessage(1, (Attribute(1, b"secret"),)))
    assert "secret" not in repr(StatusInfo(1, 1, b"secret"))
