"""EAP: what repeats itself, what is dropped, what a client says to types that it does not speak."""

from __future__ import annotations

import pytest

from sstpfarm.errors import LocalError, PeerError
from sstpfarm.proto.events import AuthRequest
from sstpfarm.proto.ppp.eap import REQUEST, RESPONSE, EapAuthenticator, identity_of
from sstpfarm.proto.ppp.eap_mschapv2 import MschapConversation, Verdict, decode_mschap
from sstpfarm.proto.ppp.eap_peer import EapPeer
from sstpfarm.proto.ppp.packet import Packet, encode_packet
from sstpfarm.proto.ppp.pap import PapAuthenticator
from sstpfarm.proto.roles import AuthAccept, AuthChallenge, ChapProof, EapProof
from tests.vectors.loader import borrow

RFC_2759 = borrow("mschapv2-rfc2759")


def packet(code: int, identifier: int, data: bytes = b"") -> bytes:
    return encode_packet(Packet(code, identifier, data))


def client() -> EapPeer:
    return EapPeer(b"User", "clientPass", lambda length: RFC_2759["peer_challenge"][:length])


def answers(peer: EapPeer, data: bytes) -> list[bytes]:
    peer.receive(data, 0.0)
    return peer.packets_to_send()


def test_the_server_asks_for_the_identity_and_hands_over_what_comes() -> None:
    server = EapAuthenticator(lambda length: b"\x07" * length)
    server.start(0.0)
    assert server.packets_to_send() == [packet(REQUEST, 7, b"\x01")]
    assert server.next_deadline() is None
    server.tick(1e6)
    assert server.packets_to_send() == []
    said = packet(RESPONSE, 7, b"\x01CORP\\User")
    server.receive(said + b"padding", 4.0)
    (event,) = server.events()
    assert isinstance(event, AuthRequest)
    assert (event.user, event.proof) == (b"CORP\\User", EapProof(said))
    server.receive(said, 4.1)  # while the driver decides
    assert (server.events(), server.packets_to_send()) == ([], [])


def test_a_challenge_goes_out_once_and_its_answer_may_take_long() -> None:
    """RFC 3748 4.3: the lower layer is reliable, and a human may look for a token."""
    server = EapAuthenticator(lambda length: b"\x07" * length)
    server.start(0.0)
    server.receive(packet(RESPONSE, 7, b"\x01User"), 0.0)
    server.packets_to_send()
    server.events()
    challenge = packet(REQUEST, 200, b"\x1a" + bytes(1000))
    server.result(AuthChallenge(challenge), 1.0)
    assert server.packets_to_send() == [challenge]
    assert server.next_deadline() is None
    server.tick(3000.0)
    assert server.packets_to_send() == []
    server.receive(packet(RESPONSE, 7, b"\x01User"), 3000.0)  # late, to the request before
    assert server.events() == []
    server.receive(packet(RESPONSE, 200, b"\x03\x1a"), 3000.0)
    (event,) = server.events()
    assert isinstance(event, AuthRequest)
    assert (event.user, event.proof) == (b"User", EapProof(packet(RESPONSE, 200, b"\x03\x1a")))


@pytest.mark.parametrize(
    "data",
    [
        packet(RESPONSE, 8, b"\x01User"),
        packet(RESPONSE, 7, b""),
        packet(RESPONSE, 7, b"\x03\x1a"),  # a Nak to the identity
        packet(RESPONSE, 7, b"\x01" + b"x" * 256),
        packet(REQUEST, 7, b"\x01"),
        packet(RESPONSE, 7, b"\x01User")[:-1],
        b"\x02\x07\x00",
    ],
)
def test_what_the_server_drops(data: bytes) -> None:
    server = EapAuthenticator(lambda length: b"\x07" * length)
    server.start(0.0)
    server.receive(data, 0.0)
    assert server.events() == []


@pytest.mark.parametrize("message", [b"", b"\x01\x02\x00\x09", packet(RESPONSE, 1, b"\x1a"), packet(3, 1)])
def test_a_driver_that_challenges_with_nonsense(message: bytes) -> None:
    server = EapAuthenticator(lambda length: b"\x07" * length)
    server.start(0.0)
    server.receive(packet(RESPONSE, 7, b"\x01User"), 0.0)
    with pytest.raises(LocalError):
        server.result(AuthChallenge(message), 0.0)


def test_other_protocols_have_no_challenges() -> None:
    server = PapAuthenticator()
    server.start(0.0)
    server.receive(packet(1, 1, b"\x01u\x01p"), 0.0)
    with pytest.raises(LocalError, match="no further challenges"):
        server.result(AuthChallenge(packet(REQUEST, 1, b"\x1a")), 0.0)


def test_the_client_answers_a_repeated_request_with_the_same_bytes() -> None:
    peer = client()
    identity = packet(REQUEST, 3, b"\x01")
    assert answers(peer, identity) == answers(peer, identity) == [packet(RESPONSE, 3, b"\x01User")]
    assert answers(peer, packet(REQUEST, 4, b"\x02Hello")) == [packet(RESPONSE, 4, b"\x02")]
    for kind in (4, 13, 25, 254):  # MD5, TLS, PEAP, expanded
        assert answers(peer, packet(REQUEST, kind, bytes((kind, 0)))) == [packet(RESPONSE, kind, b"\x03\x1a")]
    assert answers(peer, packet(REQUEST, 9, b"\x03\x1a")) == []
    assert answers(peer, packet(REQUEST, 9, b"\x1a\x01\x09\x00\x50short")) == []
    assert answers(peer, packet(4, 77)) == []  # a Failure to something else
    assert peer.events() == []


def test_the_arithmetic_is_that_of_mschapv2() -> None:
    """RFC 2759 9.2 inside of EAP: the response, the proof, the key."""
    peer = client()
    challenge = b"\x10" + RFC_2759["authenticator_challenge"] + b"vpn"
    request = b"\x1a\x01\x55" + (4 + len(challenge)).to_bytes(2, "big") + challenge
    (answer,) = answers(peer, packet(REQUEST, 5, request))
    body = RFC_2759["response_value_49"]
    assert answer == packet(
        RESPONSE, 5, b"\x1a\x02\x55" + (4 + 1 + 49 + 4).to_bytes(2, "big") + b"\x31" + body + b"User"
    )
    proof = RFC_2759.text("success_message_ascii_prefix").encode()
    success = b"\x1a\x03\x55" + (4 + len(proof)).to_bytes(2, "big") + proof
    assert answers(peer, packet(REQUEST, 6, success)) == [packet(RESPONSE, 6, b"\x1a\x03")]
    peer.receive(packet(3, 6), 0.0)
    (event,) = peer.events()
    assert getattr(event, "hlak", None) == RFC_2759["hlak"]


def test_a_conversation_with_a_peer_that_wants_another_type() -> None:
    conversation = MschapConversation(7, b"vpn", lambda length: bytes(length))
    assert conversation.begin()[:6] == bytes((1, 8)) + b"\x00\x1d\x1a\x01"
    judge = refusing
    assert conversation.receive(packet(RESPONSE, 8, b"\x03\x19"), judge).verdict is Verdict.REFUSED
    assert conversation.receive(packet(RESPONSE, 8, b"\x1a\x03"), judge).verdict is Verdict.REFUSED  # it is over


def test_a_conversation_cannot_be_begun_at_its_end() -> None:
    conversation = MschapConversation(7, b"vpn", lambda length: bytes(length))
    conversation.begin()
    assert conversation.receive(packet(RESPONSE, 8, b"\x1a\x03"), refusing).verdict is Verdict.REFUSED


def refusing(name: bytes, proof: ChapProof) -> AuthAccept | bytes:
    return b"E=691 R=0"


@pytest.mark.parametrize(
    "data", [b"", b"\x1a", b"\x04\x01", b"\x1a\x01\x02\x00", b"\x1a\x01\x02\x00\x03", b"\x1a\x01\x02\x00\x09ab"]
)
def test_malformed_packets_of_the_type(data: bytes) -> None:
    with pytest.raises(PeerError):
        decode_mschap(data)


def test_identities() -> None:
    assert identity_of(packet(RESPONSE, 1, b"\x01User")) == b"User"
    assert identity_of(packet(RESPONSE, 1, b"\x01")) == b""
    assert identity_of(packet(RESPONSE, 1, b"\x1aUser")) is None
    assert identity_of(packet(REQUEST, 1, b"\x01User")) is None
    assert identity_of(b"junk") is None
