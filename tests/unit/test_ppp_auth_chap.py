"""CHAP with MD5, MS-CHAPv1 and MS-CHAPv2, both ends: packets of the vectors, repetitions, mutual proof, drops."""

from __future__ import annotations

from itertools import count

import pytest

from sstpfarm.proto.events import AuthRequest, AuthSucceeded
from sstpfarm.proto.ppp import chap, mschap
from sstpfarm.proto.ppp.authentication import Authentication, AuthFailed, make_authentication
from sstpfarm.proto.ppp.constants import PppProtocol
from sstpfarm.proto.ppp.packet import Packet, encode_packet
from sstpfarm.proto.ppp.verify import failure_message, verify
from sstpfarm.proto.roles import AuthAccept, AuthMethod, AuthReject, ChapProof, Entropy, Role
from sstpfarm.reasons import Reason
from tests.vectors.loader import Vector, borrow, load

WIRE = {v.id: v["ppp_frame"][4:] for v in load("ppp-chap-*")}
CHALLENGE, RESPONSE = WIRE["ppp-chap-challenge-v2"], WIRE["ppp-chap-response-v2"]
SUCCESS, FAILURE = WIRE["ppp-chap-success-v2"], WIRE["ppp-chap-failure-v2"]
RFC_2759 = borrow("mschapv2-rfc2759")
HLAK = RFC_2759["hlak"]
CHAPS = [AuthMethod.CHAP, AuthMethod.MSCHAP1, AuthMethod.MSCHAP2]


def build_packet(code: int, identifier: int, data: bytes) -> bytes:
    return encode_packet(Packet(code, identifier, data))


def replay(*values: bytes) -> Entropy:
    """Entropy that gives these values in this order and checks their lengths."""
    left = list(values)

    def entropy(length: int) -> bytes:
        value = left.pop(0)
        assert len(value) == length
        return value

    return entropy


def counting() -> Entropy:
    """Entropy that never repeats itself."""
    numbers = count(1)
    return lambda length: bytes((next(numbers) * 37 + i) & 0xFF for i in range(length))


def client(
    method: AuthMethod = AuthMethod.MSCHAP2, user: bytes = b"User", password: str = "clientPass"
) -> chap.ChapPeer:
    entropy = replay(RFC_2759["peer_challenge"]) if method is AuthMethod.MSCHAP2 else counting()
    return chap.ChapPeer(method, user, password, entropy)


def server() -> chap.ChapAuthenticator:
    entropy = replay(b"\x17", RFC_2759["authenticator_challenge"])
    return chap.ChapAuthenticator(AuthMethod.MSCHAP2, b"sstp", entropy)


def pair(method: AuthMethod, user: bytes, password: str) -> tuple[Authentication, Authentication]:
    entropy = counting()
    return (
        make_authentication(Role.CLIENT, method, entropy=entropy, name=b"", user=user, password=password),
        make_authentication(Role.SERVER, method, entropy=entropy, name=b"vpn"),
    )


def test_the_vectors_frames_carry_chap_in_their_sstp_packets() -> None:
    for vector in load("ppp-chap-*"):
        frame = vector["ppp_frame"]
        assert frame[:4] == b"\xff\x03" + PppProtocol.CHAP.to_bytes(2, "big")
        assert vector["sstp_data_packet"] == b"\x10\x00" + (len(frame) + 4).to_bytes(2, "big") + frame


@pytest.mark.parametrize("vector", load("chap-md5"), ids=str)
def test_md5_response(vector: Vector) -> None:
    identifier = vector["identifier"][0]
    assert chap.md5_response(identifier, vector["secret"], vector["challenge"]) == vector["response"]
    peer = chap.ChapPeer(AuthMethod.CHAP, b"User", vector["secret"].decode(), counting())
    peer.receive(build_packet(chap.CHALLENGE, identifier, chap.build_value(vector["challenge"], b"sstp")), 0.0)
    (packet,) = peer.packets_to_send()
    assert packet == build_packet(chap.RESPONSE, identifier, b"\x10" + vector["response"] + b"User")
    if "response_packet_name_User" in vector.expected:
        assert packet == vector["response_packet_name_User"]


def test_server_packets_are_those_of_the_vectors() -> None:
    authenticator = server()
    authenticator.start(0.0)
    assert authenticator.packets_to_send() == [CHALLENGE]
    authenticator.receive(RESPONSE, 0.1)
    proof = ChapProof(0x17, RFC_2759["authenticator_challenge"], RFC_2759["response_value_49"])
    assert authenticator.events() == [AuthRequest(AuthMethod.MSCHAP2, b"User", proof)]
    assert authenticator.next_deadline() is None
    accept = verify(AuthMethod.MSCHAP2, b"User", proof, "clientPass")
    assert accept is not None
    assert accept.message.startswith(SUCCESS[4:46])
    authenticator.result(AuthAccept(accept.hlak, SUCCESS[4:]), 0.2)
    assert authenticator.packets_to_send() == [SUCCESS]
    assert authenticator.events() == [AuthSucceeded(AuthMethod.MSCHAP2, b"User", HLAK)]


def test_server_refusal_is_that_of_the_vector() -> None:
    challenge = bytes.fromhex("5b5d7c7d7b3f2f3e3c2c602132262628")
    message = failure_message(AuthMethod.MSCHAP2, 691, replay(challenge), "Access denied")
    assert message == FAILURE[4:]
    authenticator = server()
    authenticator.start(0.0)
    authenticator.receive(RESPONSE, 0.1)
    authenticator.result(AuthReject(message), 0.2)
    assert authenticator.packets_to_send()[1:] == [FAILURE]
    text = "E=691: wrong user name or password (the server says: Access denied)"
    assert authenticator.events()[1:] == [AuthFailed(Reason.AUTH_REFUSED, text)]


def test_client_packets_are_those_of_the_vectors() -> None:
    peer = client()
    peer.start(0.0)
    assert peer.packets_to_send() == []
    peer.receive(CHALLENGE, 0.0)
    assert peer.packets_to_send() == [RESPONSE]
    peer.receive(SUCCESS, 0.1)
    assert peer.events() == [AuthSucceeded(AuthMethod.MSCHAP2, b"User", HLAK)]


def test_client_reports_the_refusal_of_the_vector_and_does_not_retry() -> None:
    peer = client()
    peer.receive(CHALLENGE, 0.0)
    peer.packets_to_send()
    peer.receive(FAILURE, 0.1)
    text = "E=691: wrong user name or password (the server says: Access denied)"
    assert peer.events() == [AuthFailed(Reason.AUTH_REFUSED, text)]
    peer.receive(CHALLENGE, 0.2)
    peer.receive(SUCCESS, 0.3)
    assert peer.packets_to_send() == []
    assert peer.events() == []


@pytest.mark.parametrize("method", [*CHAPS, AuthMethod.PAP])
@pytest.mark.parametrize("password", ["clientPass", "p\u00e4ssw\u00f6rd\u20ac\U0001f511", ""])
def test_both_ends_agree(method: AuthMethod, password: str) -> None:
    peer, authenticator = pair(method, b"CORP\\J\xe9", password)
    assert peer.protocol == authenticator.protocol
    for end in (peer, authenticator):
        end.start(0.0)
    for packet in peer.packets_to_send():
        authenticator.receive(packet, 0.0)
    for packet in authenticator.packets_to_send():
        peer.receive(packet, 0.0)
    for packet in peer.packets_to_send():
        authenticator.receive(packet, 0.0)
    (request,) = authenticator.events()
    assert isinstance(request, AuthRequest)
    assert verify(method, request.user, request.proof, password + "x") is None
    accept = verify(method, request.user, request.proof, password)
    assert accept is not None
    authenticator.result(accept, 0.0)
    for packet in authenticator.packets_to_send():
        peer.receive(packet, 0.0)
    assert peer.events() == authenticator.events() == [AuthSucceeded(method, b"CORP\\J\xe9", accept.hlak)]


def test_server_repeats_the_challenge_every_three_seconds_ten_times_then_gives_up() -> None:
    authenticator = server()
    authenticator.start(50.0)
    sent = [(50.0, packet) for packet in authenticator.packets_to_send()]
    while (deadline := authenticator.next_deadline()) is not None:
        authenticator.tick(deadline - 0.001)
        assert authenticator.packets_to_send() == []
        authenticator.tick(deadline)
        sent += [(deadline, packet) for packet in authenticator.packets_to_send()]
    assert sent == [(50.0 + 3.0 * i, CHALLENGE) for i in range(10)]
    assert authenticator.events() == [AuthFailed(Reason.AUTH_TIMEOUT, "no answer after 10 challenges")]
    authenticator.receive(RESPONSE, 90.0)
    assert authenticator.events() == []


def test_server_stops_repeating_while_the_driver_decides_and_asks_once() -> None:
    authenticator = server()
    authenticator.start(0.0)
    authenticator.receive(RESPONSE, 1.0)
    authenticator.receive(RESPONSE, 2.0)
    authenticator.receive(RESPONSE[:30] + b"\0" * 16 + RESPONSE[46:], 2.5)
    authenticator.tick(100.0)
    assert authenticator.packets_to_send() == [CHALLENGE]
    assert len(authenticator.events()) == 1


@pytest.mark.parametrize("answer", [AuthAccept(HLAK, b"S=text"), AuthReject(b"E=691 R=0")], ids=["accept", "reject"])
def test_server_gives_a_repeated_response_the_same_answer(answer: AuthAccept | AuthReject) -> None:
    authenticator = server()
    authenticator.start(0.0)
    authenticator.receive(RESPONSE, 0.0)
    authenticator.result(answer, 0.1)
    authenticator.receive(RESPONSE, 3.0)
    authenticator.receive(b"\x02\x18" + RESPONSE[2:], 3.1)
    _, first, second = authenticator.packets_to_send()
    assert first == second
    assert len(authenticator.events()) == 2


def test_a_late_or_second_result_is_ignored() -> None:
    authenticator = server()
    authenticator.start(0.0)
    authenticator.result(AuthAccept(HLAK), 0.0)
    assert authenticator.packets_to_send() == [CHALLENGE]
    authenticator.receive(RESPONSE, 0.0)
    authenticator.result(AuthReject(b"E=691 R=0"), 0.1)
    authenticator.result(AuthAccept(HLAK), 0.2)
    assert [packet[0] for packet in authenticator.packets_to_send()] == [chap.FAILURE]


@pytest.mark.parametrize(
    "response",
    [
        "",
        "02170003",
        "02170004",
        "0217000500",
        "0217000531",
        RESPONSE[:53].hex(),
        (b"\x02\x18" + RESPONSE[2:]).hex(),
        (b"\x01\x17" + RESPONSE[2:]).hex(),
        build_packet(2, 0x17, chap.build_value(bytes(16), b"User")).hex(),
        build_packet(2, 0x17, chap.build_value(bytes(48), b"User")).hex(),
        build_packet(2, 0x17, chap.build_value(bytes(50), b"User")).hex(),
        build_packet(2, 0x17, chap.build_value(bytes(49), b"u" * 256)).hex(),
    ],
    ids=["empty", "length-3", "no-data", "size-0", "no-value", "cut", "id", "code", "16", "48", "50", "long-name"],
)
def test_server_drops_responses_that_are_malformed_or_not_to_its_challenge(response: str) -> None:
    authenticator = server()
    authenticator.start(0.0)
    authenticator.receive(bytes.fromhex(response), 0.1)
    assert authenticator.events() == []
    assert authenticator.next_deadline() == 3.0


@pytest.mark.parametrize(
    ("method", "length"),
    [(AuthMethod.MSCHAP2, 15), (AuthMethod.MSCHAP2, 17), (AuthMethod.MSCHAP1, 16), (AuthMethod.CHAP, 0)],
)
def test_client_drops_challenges_of_the_wrong_size(method: AuthMethod, length: int) -> None:
    peer = client(method)
    peer.receive(build_packet(chap.CHALLENGE, 1, chap.build_value(bytes(length), b"sstp")), 0.0)
    assert peer.packets_to_send() == []


def test_client_repeats_its_response_to_a_repeated_challenge() -> None:
    peer = client()
    for _ in range(3):
        peer.receive(CHALLENGE, 0.0)
    assert peer.packets_to_send() == [RESPONSE] * 3


@pytest.mark.parametrize("method", CHAPS)
def test_client_answers_a_new_challenge_and_then_only_its_success_counts(method: AuthMethod) -> None:
    peer, _ = pair(method, b"User", "clientPass")
    size = chap.CHALLENGE_LENGTHS[method]
    challenges = [build_packet(chap.CHALLENGE, i, chap.build_value(bytes((i,)) * size, b"sstp")) for i in (1, 2)]
    for challenge in challenges:
        peer.receive(challenge, 0.0)
    first, second = peer.packets_to_send()
    assert (first[1], second[1]) == (1, 2)
    assert first[5:] != second[5:]
    proof = ChapProof(2, bytes((2,)) * size, second[5 : 5 + second[4]])
    accept = verify(method, b"User", proof, "clientPass")
    assert accept is not None
    peer.receive(build_packet(chap.SUCCESS, 1, accept.message), 0.1)
    assert peer.events() == []
    peer.receive(build_packet(chap.SUCCESS, 2, accept.message), 0.2)
    assert peer.events() == [AuthSucceeded(method, b"User", accept.hlak)]


def test_client_answers_a_challenge_during_the_session_and_leaves_when_it_is_false() -> None:
    entropy = replay(RFC_2759["peer_challenge"], bytes(16), bytes(16))
    peer = chap.ChapPeer(AuthMethod.MSCHAP2, b"User", "clientPass", entropy)
    peer.receive(CHALLENGE, 0.0)
    peer.receive(SUCCESS, 0.0)
    peer.events()
    for identifier in (0x18, 0x19):
        peer.receive(build_packet(chap.CHALLENGE, identifier, chap.build_value(bytes((identifier,)) * 16, b"")), 60.0)
        *_, response = peer.packets_to_send()
        proof = ChapProof(identifier, bytes((identifier,)) * 16, response[5:54])
        accept = verify(AuthMethod.MSCHAP2, b"User", proof, "clientPass")
        assert accept is not None
        if identifier == 0x18:
            peer.receive(build_packet(chap.SUCCESS, identifier, accept.message), 60.1)
            assert peer.events() == []
            assert peer.state is chap.PeerState.SUCCEEDED
    peer.receive(build_packet(chap.SUCCESS, 0x19, b"S=" + b"0" * 40), 60.1)
    assert [e.reason for e in peer.events() if isinstance(e, AuthFailed)] == [Reason.SERVER_NOT_AUTHENTIC]


@pytest.mark.parametrize(
    "message",
    [
        SUCCESS[4:46],
        SUCCESS[4:46].lower(),
        SUCCESS[4:46] + b" M=" + b"x" * 400,
        SUCCESS[4:46] + b"trailing \xff bytes",
    ],
    ids=["bare", "lower-case", "long", "free"],
)
def test_client_believes_any_form_of_the_right_proof(message: bytes) -> None:
    peer = client()
    peer.receive(CHALLENGE, 0.0)
    peer.receive(build_packet(chap.SUCCESS, 0x17, message), 0.1)
    assert peer.events() == [AuthSucceeded(AuthMethod.MSCHAP2, b"User", HLAK)]


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"S=",
        SUCCESS[4:45],
        b" " + SUCCESS[4:46],
        SUCCESS[4:45] + b"7",
        b"M=Access granted " + SUCCESS[4:46],
        b"S=" + b"0" * 40,
        b"\xff" * 60,
    ],
    ids=["empty", "no-digits", "41-bytes", "shifted", "last-digit", "elsewhere", "zeros", "binary"],
)
def test_client_refuses_a_server_without_the_right_proof(message: bytes) -> None:
    peer = client()
    peer.receive(CHALLENGE, 0.0)
    peer.receive(build_packet(chap.SUCCESS, 0x17, message), 0.1)
    text = "the server did not prove that it knows the password"
    assert peer.events() == [AuthFailed(Reason.SERVER_NOT_AUTHENTIC, text)]
    peer.receive(SUCCESS, 0.2)
    assert peer.events() == []


@pytest.mark.parametrize("method", CHAPS)
def test_success_before_any_challenge_means_nothing(method: AuthMethod) -> None:
    peer = client(method)
    for identifier in range(256):
        peer.receive(build_packet(chap.SUCCESS, identifier, SUCCESS[4:]), 0.0)
    assert peer.events() == []
    assert peer.state is chap.PeerState.WAITING


@pytest.mark.parametrize(
    "packet",
    ["", "0317", "03170003", "031700ff", "03180004", "04180004", "05170004", "02170004"],
    ids=["empty", "short", "length-3", "length-255", "success-id", "failure-id", "code-5", "response"],
)
def test_client_drops_what_does_not_answer_its_response(packet: str) -> None:
    peer = client(AuthMethod.CHAP)
    peer.receive(CHALLENGE, 0.0)
    peer.receive(bytes.fromhex(packet), 0.1)
    assert peer.events() == []
    assert peer.state is chap.PeerState.RESPONDED


def test_client_hashes_the_name_without_its_domain_and_sends_it_whole() -> None:
    vector = borrow("mschapv2-domain-user")
    peer = chap.ChapPeer(
        AuthMethod.MSCHAP2,
        vector["user_name_on_wire"],
        vector["password_utf8"].decode(),
        replay(vector["peer_challenge"]),
    )
    peer.receive(build_packet(1, 9, chap.build_value(vector["authenticator_challenge"], b"")), 0.0)
    assert peer.packets_to_send() == [
        build_packet(2, 9, chap.build_value(vector["response_value_49"], vector["user_name_on_wire"]))
    ]


def test_long_message_is_cut_to_what_fits_the_smallest_mru() -> None:
    authenticator = server()
    authenticator.start(0.0)
    authenticator.receive(RESPONSE, 0.0)
    authenticator.result(AuthAccept(HLAK, b"x" * 1024), 0.1)
    assert len(authenticator.packets_to_send()[1]) == 516


@pytest.mark.parametrize("method", CHAPS)
def test_nothing_secret_is_shown(method: AuthMethod) -> None:
    peer, authenticator = pair(method, b"User", "clientPass")
    authenticator.start(0.0)
    (challenge,) = authenticator.packets_to_send()
    peer.receive(challenge, 0.0)
    (response,) = peer.packets_to_send()
    authenticator.receive(response, 0.0)
    shown = repr([peer, vars(peer)["_response"], authenticator, vars(authenticator)["_claim"], authenticator.events()])
    value = response[5 : 5 + response[4]]
    for secret in (b"clientPass", mschap.nt_hash("clientPass"), value, challenge[5:13], value[24:48] or value):
        assert repr(secret)[2:-1] not in shown
        assert secret.hex() not in shown
