"""PAP, both ends: the packets of the vectors, repetitions, and what is dropped."""

from __future__ import annotations

import pytest

from sstpfarm.errors import ConfigError
from sstpfarm.proto.events import AuthRequest, AuthSucceeded
from sstpfarm.proto.ppp import pap
from sstpfarm.proto.ppp.authentication import AuthFailed, check_credentials, make_authentication
from sstpfarm.proto.ppp.constants import PppProtocol
from sstpfarm.proto.ppp.packet import Packet, encode_packet
from sstpfarm.proto.roles import AuthAccept, AuthMethod, AuthReject, PapProof, Role
from sstpfarm.reasons import Reason
from tests.vectors.loader import load

REQUEST, ACK = (v["ppp_frame"][4:] for v in load("ppp-pap-request", "ppp-pap-ack"))
SENT = AuthRequest(AuthMethod.PAP, b"User", PapProof(b"clientPass"))
ACCEPT = AuthAccept(bytes(32), b"Login ok")


def build_packet(code: int, identifier: int, data: bytes) -> bytes:
    return encode_packet(Packet(code, identifier, data))


def client(user: bytes = b"User", password: str = "clientPass") -> pap.PapPeer:
    return pap.PapPeer(user, password, identifier=1)


def server() -> pap.PapAuthenticator:
    authenticator = pap.PapAuthenticator()
    authenticator.start(0.0)
    return authenticator


def test_the_vectors_frames_carry_pap_in_their_sstp_packets() -> None:
    for vector in load("ppp-pap-request", "ppp-pap-ack"):
        frame = vector["ppp_frame"]
        assert frame[:4] == b"\xff\x03" + PppProtocol.PAP.to_bytes(2, "big")
        assert vector["sstp_data_packet"] == b"\x10\x00" + (len(frame) + 4).to_bytes(2, "big") + frame


def test_client_sends_the_request_and_takes_the_ack() -> None:
    peer = client()
    assert peer.packets_to_send() == []
    peer.start(0.0)
    assert peer.packets_to_send() == [REQUEST]
    peer.receive(ACK, 0.1)
    assert peer.events() == [AuthSucceeded(AuthMethod.PAP, b"User", bytes(32))]
    assert peer.next_deadline() is None
    peer.receive(ACK, 0.2)
    assert peer.events() == []


def test_server_asks_and_answers() -> None:
    authenticator = server()
    assert authenticator.packets_to_send() == []
    assert authenticator.next_deadline() is None
    authenticator.receive(REQUEST, 0.0)
    assert authenticator.events() == [SENT]
    assert authenticator.packets_to_send() == []
    authenticator.result(ACCEPT, 0.0)
    assert authenticator.packets_to_send() == [ACK]
    assert authenticator.events() == [AuthSucceeded(AuthMethod.PAP, b"User", bytes(32))]


def test_server_gives_a_repeated_request_the_same_answer() -> None:
    authenticator = server()
    authenticator.receive(REQUEST, 0.0)
    authenticator.receive(REQUEST, 3.0)
    assert authenticator.events() == [SENT]
    authenticator.result(ACCEPT, 4.0)
    authenticator.receive(REQUEST, 6.0)
    assert authenticator.packets_to_send() == [ACK, ACK]
    authenticator.receive(b"\x01\x09" + REQUEST[2:], 9.0)
    assert authenticator.packets_to_send() == [b"\x02\x09" + ACK[2:]]
    assert len(authenticator.events()) == 1


def test_server_answers_the_latest_identifier_of_a_request_repeated_under_a_new_one() -> None:
    authenticator = server()
    authenticator.receive(REQUEST, 0.0)
    authenticator.receive(b"\x01\x02" + REQUEST[2:], 3.0)
    authenticator.result(ACCEPT, 4.0)
    assert authenticator.packets_to_send() == [b"\x02\x02" + ACK[2:]]


def test_server_ignores_another_request_while_the_first_is_judged() -> None:
    authenticator = server()
    authenticator.receive(REQUEST, 0.0)
    authenticator.receive(build_packet(pap.REQUEST, 2, pap.build_request(b"root", b"guess")), 0.1)
    assert authenticator.events() == [SENT]
    authenticator.result(AuthReject(b"no"), 0.2)
    assert authenticator.packets_to_send() == [bytes.fromhex("03010007026e6f")]


def test_refusal_is_repeated_too_and_never_becomes_an_acceptance() -> None:
    authenticator = server()
    authenticator.receive(REQUEST, 0.0)
    authenticator.result(AuthReject(b"wrong\x1b[31m name"), 0.0)
    assert authenticator.events()[1:] == [AuthFailed(Reason.AUTH_REFUSED, "wrong?[31m name")]
    authenticator.result(ACCEPT, 1.0)
    authenticator.receive(REQUEST, 3.0)
    assert [packet[0] for packet in authenticator.packets_to_send()] == [pap.NAK, pap.NAK]
    assert authenticator.events() == []


def test_a_result_without_a_request_is_ignored() -> None:
    authenticator = server()
    authenticator.result(ACCEPT, 0.0)
    assert authenticator.packets_to_send() == []
    assert authenticator.events() == []


def test_long_message_is_cut_to_its_one_byte_length() -> None:
    authenticator = server()
    authenticator.receive(REQUEST, 0.0)
    authenticator.result(AuthAccept(bytes(32), b"x" * 400), 0.0)
    (packet,) = authenticator.packets_to_send()
    assert packet == build_packet(pap.ACK, 1, b"\xff" + b"x" * 255)


def test_client_repeats_every_three_seconds_as_long_as_the_link_lets_it() -> None:
    """The retry counter of RFC 1334 2.2.1 is optional; behind the server a human may be asked."""
    peer = client()
    peer.start(100.0)
    sent = [(100.0, packet) for packet in peer.packets_to_send()]
    for _ in range(40):
        deadline = peer.next_deadline()
        assert deadline is not None
        peer.tick(deadline - 0.001)
        assert peer.packets_to_send() == []
        peer.tick(deadline)
        sent += [(deadline, packet) for packet in peer.packets_to_send()]
    assert sent == [(100.0 + 3.0 * i, REQUEST) for i in range(41)]
    assert peer.events() == []
    peer.receive(ACK, 221.0)
    assert [type(event) for event in peer.events()] == [AuthSucceeded]
    assert peer.next_deadline() is None


@pytest.mark.parametrize(
    ("nak", "text"),
    [
        ("0301000a054c6f67206f", "Log o"),
        ("03010004", "no reason was given"),
        ("0301000500", "no reason was given"),
        ("03010007ff4e6f", "No"),
        ("03010007021b0a", "??"),
        ("0301000602e9", "\u00e9"),
    ],
    ids=["text", "absent", "empty", "length-too-large", "control", "latin-1"],
)
def test_client_reports_a_refusal(nak: str, text: str) -> None:
    peer = client()
    peer.start(0.0)
    peer.receive(bytes.fromhex(nak), 0.1)
    assert peer.events() == [AuthFailed(Reason.AUTH_REFUSED, text)]
    assert peer.next_deadline() is None


@pytest.mark.parametrize("ack", ["02010004", "0201000500", "020100040a0b"], ids=["absent", "empty", "padding"])
def test_client_accepts_an_ack_without_a_message(ack: str) -> None:
    peer = client()
    peer.start(0.0)
    peer.receive(bytes.fromhex(ack), 0.1)
    assert isinstance(peer.events()[0], AuthSucceeded)


@pytest.mark.parametrize(
    "packet",
    ["", "02", "020100", "02010003", "02010005", "02020004", "01010004", "04010004", "ff010004"],
    ids=["empty", "code", "header", "length-3", "length-5", "identifier", "request", "code-4", "code-255"],
)
def test_client_drops_what_does_not_answer_its_request(packet: str) -> None:
    peer = client()
    peer.start(0.0)
    peer.receive(bytes.fromhex(packet), 0.1)
    assert peer.events() == []
    assert peer.next_deadline() == 3.0


@pytest.mark.parametrize(
    "data",
    [b"", b"\x04", b"\x04User", b"\x05User", b"\x04User\x0b0123456789", b"\xff"],
    ids=["empty", "name-missing", "no-password", "name-too-long", "password-too-long", "255"],
)
def test_server_drops_malformed_requests(data: bytes) -> None:
    authenticator = server()
    authenticator.receive(build_packet(pap.REQUEST, 1, data), 0.0)
    assert authenticator.events() == []


def test_empty_name_and_password_are_the_drivers_to_judge() -> None:
    authenticator = server()
    authenticator.receive(build_packet(pap.REQUEST, 1, b"\0\0"), 0.0)
    assert authenticator.events() == [AuthRequest(AuthMethod.PAP, b"", PapProof(b""))]


def test_nothing_secret_is_shown() -> None:
    authenticator = server()
    authenticator.receive(REQUEST, 0.0)
    shown = repr([authenticator, authenticator.events(), authenticator._claim, client()])
    assert "clientPass" not in shown


def test_what_pap_cannot_carry_is_refused_before() -> None:
    check_credentials(AuthMethod.PAP, b"u" * 255, "p" * 255)
    check_credentials(AuthMethod.MSCHAP2, b"u", "\u20ac" * 256)
    with pytest.raises(ConfigError, match="PAP"):
        check_credentials(AuthMethod.PAP, b"u", "\u20ac" * 86)
    with pytest.raises(ConfigError, match="user name"):
        make_authentication(Role.CLIENT, AuthMethod.CHAP, entropy=bytes, name=b"", user=b"u" * 256)
