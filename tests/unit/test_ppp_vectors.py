"""The PPP vectors of LCP, the NCPs and framing: read, written again byte for byte, and answered as they say."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from sstpfarm.proto.events import LinkClosed
from sstpfarm.proto.ppp.constants import Code, PppProtocol
from sstpfarm.proto.ppp.frame import decode_frame, encode_frame
from sstpfarm.proto.ppp.link import PppLink, PppSettings
from sstpfarm.proto.ppp.packet import Option, decode_options, decode_packet, encode_options, encode_packet
from sstpfarm.proto.roles import AuthMethod, Entropy, Ipv4Terms, Ipv6Terms, Role
from sstpfarm.reasons import Reason
from tests.unit.ppp_bench import ACK, IPCP, LCP, NAK, OPEN_CLIENT, OPEN_SERVER, SERVER, SERVER_IPV4, Script, options_of
from tests.vectors.loader import Vector, borrow, load

CONFIGURE = (Code.CONFIGURE_REQUEST, ACK, NAK, Code.CONFIGURE_REJECT)


def frame_of(vector_id: str) -> bytes:
    return borrow(vector_id)["ppp_frame"]


def fixed_magic(magic: str) -> Entropy:
    return lambda count: bytes.fromhex(magic)[:count]


def frames(script: Script) -> list[bytes]:
    return script.link.frames_to_send()


@pytest.mark.parametrize(
    "vector",
    load("ppp-lcp-*", "ppp-ipcp-*", "ppp-ipv6cp-*", "ppp-ccp-*", "ppp-ipv4-plain"),
    ids=str,
)
def test_frame_is_read_and_written_again(vector: Vector) -> None:
    frame = vector["ppp_frame"]
    protocol, information = decode_frame(frame)
    assert PppProtocol(protocol)
    assert encode_frame(protocol, information) == frame
    assert vector["sstp_data_packet"][4:] == frame
    if protocol >= 0x8000:
        packet = decode_packet(information)
        assert encode_packet(packet) == information
        if packet.code in CONFIGURE:
            assert encode_options(decode_options(packet.data)) == packet.data


def test_windows_lcp_request_gets_the_reject_of_the_vector() -> None:
    script = Script(SERVER)
    frames(script)
    script.link.receive(frame_of("ppp-lcp-confreq-windows"), script.now)
    assert frames(script) == [frame_of("ppp-lcp-confrej-windows")]


def test_server_sends_the_request_of_the_vector() -> None:
    link = PppLink(replace(SERVER, mru=1400), fixed_magic("01020304"))
    link.start(0.0)
    assert link.frames_to_send() == [frame_of("ppp-lcp-confreq-server-mschapv2")]


def test_multilink_options_are_rejected() -> None:
    script = Script(SERVER)
    script.sent()
    script.link.receive(frame_of("ppp-lcp-confreq-mrru"), script.now)
    ((_, answer),) = script.sent()
    assert answer.code == Code.CONFIGURE_REJECT
    assert list(options_of(answer)) == [17, 18, 19]


def test_nak_of_the_vector_leads_to_pap_or_to_the_end() -> None:
    nak = frame_of("ppp-lcp-nak-auth")  # with identifier 1, as our first request
    for methods, expected in (
        ((AuthMethod.MSCHAP2, AuthMethod.PAP), Code.CONFIGURE_REQUEST),
        ((AuthMethod.MSCHAP2,), Code.TERMINATE_REQUEST),
    ):
        script = Script(replace(SERVER, methods=methods))
        script.sent()
        script.link.receive(nak, script.now)
        ((_, answer),) = script.sent()
        assert answer.code == expected
        if expected is Code.CONFIGURE_REQUEST:
            assert options_of(answer)[3] == bytes.fromhex("c023")


def opened(settings: PppSettings) -> Script:
    """A link with LCP open whose magic number is that of the vectors."""
    script = Script(settings)
    script.link = PppLink(settings, fixed_magic("01020304"))
    script.link.start(script.now)
    script.open_lcp(Option(5, bytes.fromhex("6a1b2c3d")))
    return script


def test_ccp_gets_the_protocol_reject_of_the_vector() -> None:
    script = opened(OPEN_SERVER)
    expected = frame_of("ppp-lcp-protocol-reject")
    for _ in range(20):  # the vector's identifier is 9
        script.link.receive(frame_of("ppp-ccp-mppe-request"), script.now)
        (frame,) = frames(script)
        if frame[5] == expected[5]:
            break
    assert frame == expected


def test_identification_and_plain_ipv4_ask_for_no_answer() -> None:
    script = opened(OPEN_SERVER)
    for vector in ("ppp-lcp-identification", "ppp-ipv4-plain"):
        script.link.receive(frame_of(vector), script.now)
        assert frames(script) == []


def test_echo_request_is_answered_with_our_magic_number() -> None:
    script = Script(OPEN_CLIENT)
    (ours,) = script.sent_by(LCP)
    script.say(LCP, replace(ours, code=ACK))
    script.link.receive(frame_of("ppp-lcp-confreq-windows"), script.now)
    script.sent()
    script.link.receive(encode_frame(LCP, bytes.fromhex("01010004")), script.now)
    script.sent()
    script.link.receive(frame_of("ppp-lcp-echo-request"), script.now)
    assert frames(script) == [encode_frame(LCP, bytes.fromhex("0a030008") + options_of(ours)[5])]


def test_terminate_request_is_acknowledged_and_its_text_is_told() -> None:
    script = opened(OPEN_SERVER)
    script.link.receive(frame_of("ppp-lcp-terminate"), script.now)
    assert frames(script) == [bytes.fromhex("ff03c02106040004")]
    assert script.closed() is None
    script.wait(3)
    assert script.closed() == LinkClosed(Reason.PEER_TERMINATED, "Session timeout")


def test_ipcp_with_windows_is_that_of_the_vectors() -> None:
    dns = (IPv4Address("10.9.0.1"), IPv4Address("9.9.9.9"))
    script = Script(OPEN_SERVER)
    script.open_lcp()
    script.link.configure(Ipv4Terms(local=IPv4Address("10.9.0.1"), peer=IPv4Address("10.9.0.5"), dns=dns), None, 0.0)
    assert frames(script) == [frame_of("ppp-ipcp-confreq-server")]
    script.link.receive(frame_of("ppp-ipcp-confreq-windows"), script.now)
    assert frames(script) == [frame_of("ppp-ipcp-confrej-nbns")]
    second = bytes.fromhex("01060016030600000000810600000000830600000000")
    script.link.receive(encode_frame(IPCP, second), script.now)
    assert frames(script) == [frame_of("ppp-ipcp-confnak")]


def test_ipv6cp_sends_the_request_of_the_vector() -> None:
    script = Script(replace(OPEN_SERVER, role=Role.CLIENT))
    script.open_lcp()
    script.link.configure(None, Ipv6Terms(local=bytes.fromhex("0200005efffe000a")), script.now)
    assert frames(script) == [frame_of("ppp-ipv6cp-confreq")]


def test_compressed_forms_of_the_vectors_are_understood() -> None:
    script = Script(OPEN_SERVER)
    script.open_network(SERVER_IPV4, None)
    script.link.receive(frame_of("ppp-ipcp-confreq-windows")[2:], script.now)
    assert frames(script) == [frame_of("ppp-ipcp-confrej-nbns")]
