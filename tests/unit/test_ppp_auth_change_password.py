"""The Change-Password packet of MS-CHAPv2 (RFC 2759 7) against its vector, and its refusals."""

from __future__ import annotations

import pytest

from sstpfarm.errors import PeerError
from sstpfarm.proto.ppp import mschap
from sstpfarm.proto.ppp.change_password import build, encrypt_old_hash, encrypt_password, open_packet, rc4
from tests.vectors.loader import load

(VECTOR,) = load("mschapv2-change-password")
OLD = VECTOR["old_password_utf8"].decode()
NEW = VECTOR["new_password_utf8"].decode()
NAME, CHALLENGE = VECTOR["user_name_hashed"], VECTOR["authenticator_challenge"]


@pytest.mark.parametrize(
    ("key", "plain", "cipher"),
    [
        ("Key", "Plaintext", "bbf316e8d940af0ad3"),
        ("Wiki", "pedia", "1021bf0420"),
        ("Secret", "Attack at dawn", "45a01f645fc35b383552544b9bf5"),
    ],
)
def test_rc4(key: str, plain: str, cipher: str) -> None:
    assert rc4(key.encode(), plain.encode()).hex() == cipher


def test_parts() -> None:
    old_hash, new_hash = mschap.nt_hash(OLD), mschap.nt_hash(NEW)
    hashed = mschap.challenge_hash(VECTOR["peer_challenge"], CHALLENGE, NAME)
    assert encrypt_password(NEW, old_hash, VECTOR["random_pad_used"]) == VECTOR["encrypted_password_516"]
    assert encrypt_old_hash(old_hash, new_hash) == VECTOR["encrypted_hash_16"]
    assert mschap.challenge_response(hashed, new_hash) == VECTOR["nt_response_new"]


def test_whole_packet_both_ways() -> None:
    identifier = VECTOR["identifier"][0]
    padding = VECTOR["random_pad_used"]
    packet = build(identifier, OLD, NEW, NAME, CHALLENGE, VECTOR["peer_challenge"], padding)
    assert packet == VECTOR["packet"]
    opened = open_packet(packet, OLD, NAME, CHALLENGE)
    assert (opened.identifier, opened.new_password) == (identifier, NEW)
    assert NEW not in repr(opened)


# not in the random padding (4 to 497): nothing protects it, and nothing has to
@pytest.mark.parametrize("offset", [0, 2, 3, 498, 515, 516, 519, 520, 535, 536, 560, 583])
def test_one_changed_byte_is_refused(offset: int) -> None:
    packet = bytearray(VECTOR["packet"])
    packet[offset] ^= 0x10
    with pytest.raises(PeerError):
        open_packet(bytes(packet), OLD, NAME, CHALLENGE)


@pytest.mark.parametrize("length", [0, 3, 4, 585, 587])
def test_wrong_length_is_refused(length: int) -> None:
    with pytest.raises(PeerError):
        open_packet(VECTOR["packet"].ljust(600, b"\0")[:length], OLD, NAME, CHALLENGE)


def test_wrong_old_password_and_wrong_challenge_are_refused() -> None:
    with pytest.raises(PeerError):
        open_packet(VECTOR["packet"], OLD + "x", NAME, CHALLENGE)
    with pytest.raises(PeerError):
        open_packet(VECTOR["packet"], OLD, NAME, bytes(16))
