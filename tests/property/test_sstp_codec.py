"""Properties of the SSTP codec and of the HTTP head reader: inverse, total, independent of chunking."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from sstpfarm.errors import PeerError
from sstpfarm.proto.sstp import packets
from sstpfarm.proto.sstp.binding import CertificateHash, build_call_connected, check_mac, check_presented
from sstpfarm.proto.sstp.constants import HashProtocol
from sstpfarm.proto.sstp.http import HeadReader, Request, encode_request, parse_request, parse_response
from sstpfarm.proto.sstp.packets import Attribute, ControlMessage, StatusInfo
from sstpfarm.reasons import Reason

BOUNDED = settings(max_examples=300, derandomize=True, deadline=None)

attributes = st.builds(Attribute, st.integers(0, 255), st.binary(max_size=120))
messages = st.builds(ControlMessage, st.integers(0, 0xFFFF), st.lists(attributes, max_size=12).map(tuple))
printable = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=60)


Parsed = TypeVar("Parsed")


def parsed(parse: Callable[[bytes], Parsed], data: bytes) -> Parsed | Reason:
    """What a parser returns, or the reason of its PeerError; any other exception fails the test."""
    try:
        return parse(data)
    except PeerError as error:
        return error.reason


@BOUNDED
@given(messages)
def test_control_messages_come_back(message: ControlMessage) -> None:
    assert packets.decode_control(message.encode()) == message


@BOUNDED
@given(st.binary(max_size=4091))
def test_data_packets_come_back(frame: bytes) -> None:
    assert packets.decode_data(packets.encode_data(frame)) == frame


@BOUNDED
@given(st.integers(0, 255), st.integers(0, 0xFFFFFFFF), st.binary(max_size=100))
def test_statuses_come_back(attribute: int, status: int, value: bytes) -> None:
    message = packets.decode_control(packets.call_connect_nak((StatusInfo(attribute, status, value),)).encode())
    assert packets.status_of(message) == StatusInfo(attribute, status, value[:64])


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A good packet with a few bytes changed, cut or added, mostly with its length field mended."""
    packet = bytearray(draw(messages).encode())
    for _ in range(draw(st.integers(1, 4))):
        packet[draw(st.integers(0, len(packet) - 1))] = draw(st.integers(0, 255))
    packet = packet[: draw(st.integers(len(packet) // 2, len(packet)))] + draw(st.binary(max_size=8))
    if draw(st.integers(0, 3)) and len(packet) >= 4:
        packet[0], packet[1], packet[2:4] = 0x10, 1, len(packet).to_bytes(2)
    return bytes(packet)


@BOUNDED
@given(st.binary(max_size=200) | mutated())
def test_any_bytes_give_a_message_or_a_peer_error(packet: bytes) -> None:
    message = parsed(packets.decode_control, packet)
    if isinstance(message, Reason):
        assert message in (Reason.BAD_FRAMING, Reason.MALFORMED_MESSAGE)
        return
    assert 8 + sum(4 + len(attribute.value) for attribute in message.attributes) <= len(packet)
    complaints = packets.complaints(message)
    assert len(packets.call_connect_nak(complaints).encode()) <= 8 + 8 * 76
    assert str(packets.status_of(message))


@BOUNDED
@given(
    st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: b"\x10\x00" + (4 + len(tail)).to_bytes(2) + tail)
)
def test_any_bytes_give_a_frame_or_a_peer_error(packet: bytes) -> None:
    assert parsed(packets.decode_data, packet) in (packet[4:], Reason.BAD_FRAMING)


@BOUNDED
@given(
    st.sampled_from(list(HashProtocol)),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=1, max_size=40),
)
def test_what_the_client_builds_the_server_accepts(
    hash_protocol: HashProtocol, nonce: bytes, hlak: bytes, certificate: bytes
) -> None:
    known = CertificateHash.of(certificate)
    packet = build_call_connected(hash_protocol=hash_protocol, nonce=nonce, certificate=known, hlak=hlak)
    assert check_presented(packet, nonce=nonce, hash_mask=3, certificates=(known,)) is hash_protocol
    check_mac(packet, hlak)


def outcome(stream: bytes, cuts: list[int], limit: int) -> tuple[bytes, bytes] | Reason | None:
    """Feed a stream in pieces; head and all bytes behind it, or why it was refused, or None: more is needed."""
    reader = HeadReader(limit)
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    for index, (start, end) in enumerate(pairwise(places)):
        try:
            found = reader.feed(memoryview(stream)[start:end])
        except PeerError as error:
            return error.reason
        if found:
            return found[0], found[1] + stream[places[index + 1] :]
    return None


streams = st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"\r\n\r\n", b"GET / ", b"x" * 20]), max_size=20).map(
    b"".join
)


@BOUNDED
@given(streams, st.lists(st.integers(0, 1000), max_size=8), st.sampled_from([8, 30, 16384]))
def test_any_chunking_gives_the_same_head(stream: bytes, cuts: list[int], limit: int) -> None:
    end = stream.find(b"\r\n\r\n") + 4
    if 4 <= end <= limit:
        expected: tuple[bytes, bytes] | Reason | None = (stream[:end], stream[end:])
    else:
        expected = Reason.HTTP_HEAD_TOO_LARGE if len(stream) >= limit else None
    assert outcome(stream, cuts, limit) == expected


@BOUNDED
@given(printable, printable)
def test_requests_come_back(host: str, correlation_id: str) -> None:
    request = parse_request(encode_request(host, correlation_id))
    assert (request.host, request.correlation_id) == (host, correlation_id)


HTTP_REASONS = {Reason.HTTP_BAD_REQUEST, Reason.HTTP_WRONG_PATH, Reason.HTTP_WRONG_METHOD}
GOOD_HEAD = encode_request("vpn.example.test", "{id}")


@BOUNDED
@given(
    st.binary(max_size=100)
    | st.tuples(st.integers(0, len(GOOD_HEAD) - 1), st.binary(max_size=3)).map(
        lambda change: GOOD_HEAD[: change[0]] + change[1] + GOOD_HEAD[change[0] + 1 :]
    )
)
def test_any_head_is_parsed_or_refused(head: bytes) -> None:
    request, response = parsed(parse_request, head), parsed(parse_response, head)
    assert isinstance(request, Request) or request in HTTP_REASONS
    assert isinstance(response, int) or response is Reason.HTTP_BAD_REQUEST
