"""The arithmetic of MS-CHAPv1 and MS-CHAPv2 against the vectors: RFC 2433, RFC 2759 9.2, RFC 3079 3.5, and others."""

from __future__ import annotations

import hashlib

import pytest

from sstpfarm.errors import ConfigError
from sstpfarm.proto.ppp import mschap
from sstpfarm.proto.ppp.passwords import as_utf8, as_utf16
from tests.vectors.loader import Vector, load


def session_key(start_key: bytes) -> bytes:
    """GetNewKeyFromSHA of RFC 3079 7.3 for 128 bits, with the start key as the first session key."""
    return hashlib.sha1(start_key + bytes(40) + start_key + b"\xf2" * 40).digest()[:16]


def rc4(key: bytes, data: bytes) -> bytes:
    """What MPPE encrypts with; nothing of ours does."""
    box = list(range(256))
    j = 0
    for i in range(256):
        j = (j + box[i] + key[i % len(key)]) & 0xFF
        box[i], box[j] = box[j], box[i]
    out = bytearray()
    i = j = 0
    for byte in data:
        i = (i + 1) & 0xFF
        j = (j + box[i]) & 0xFF
        box[i], box[j] = box[j], box[i]
        out.append(byte ^ box[(box[i] + box[j]) & 0xFF])
    return bytes(out)


def lm_hash(password: str) -> bytes:
    """LmPasswordHash of RFC 2433 A.2: two halves of 7 characters, each the key of a fixed text."""
    padded = password.upper().encode("ascii")[:14].ljust(14, b"\0")
    return mschap.des_encrypt(padded[:7], b"KGS!@#$%") + mschap.des_encrypt(padded[7:], b"KGS!@#$%")


@pytest.mark.parametrize("vector", load("nt-hash"), ids=str)
def test_nt_hash(vector: Vector) -> None:
    password = vector["password_utf8"].decode()
    assert as_utf16(password) == vector["password_utf16le"]
    assert as_utf8(password) == vector["password_utf8"]
    assert mschap.nt_hash(password) == vector["nt_hash"]
    assert mschap.nt_hash_hash(mschap.nt_hash(password)) == vector["nt_hash_hash"]


@pytest.mark.parametrize("vector", load("des"), ids=str)
def test_des(vector: Vector) -> None:
    assert mschap.expand_des_key(vector["key7"]) == vector["key8_odd_parity"]
    assert mschap.des_encrypt(vector["key7"], vector["block"]) == vector["ciphertext"]


@pytest.mark.parametrize("vector", load("mschapv1"), ids=str)
def test_mschapv1(vector: Vector) -> None:
    password, challenge = vector["password_utf8"].decode(), vector["challenge"]
    password_hash = mschap.nt_hash(password)
    nt_response = mschap.challenge_response(challenge, password_hash)
    lm_response = mschap.challenge_response(challenge, lm_hash(password))
    assert password_hash == vector["nt_hash"]
    assert mschap.nt_hash_hash(password_hash) == vector["nt_hash_hash"]
    assert nt_response == vector["nt_response"]
    assert mschap.response_value_v1(nt_response) == vector["response_value_nt_only"]
    assert lm_hash(password) == vector["lm_hash"]
    assert lm_response == vector["lm_response"]
    assert lm_response + nt_response + b"\x01" == vector["response_value_with_lm"]
    assert mschap.start_key_v1(password_hash, challenge) == vector["start_key_128"]
    assert mschap.hlak_v1(password_hash, challenge) == vector["hlak_accel_ppp_and_sstpc"]
    assert session_key(mschap.start_key_v1(password_hash, challenge)) == vector["session_key_128"]


@pytest.mark.parametrize(
    "vector", load("mschapv2-rfc2759", "mschapv2-domain-user", "mschapv2-domain-user-unstripped"), ids=str
)
def test_mschapv2(vector: Vector) -> None:
    password_hash = mschap.nt_hash(vector["password_utf8"].decode())
    peer_challenge = vector["peer_challenge"]
    hashed = mschap.challenge_hash(peer_challenge, vector["authenticator_challenge"], vector["user_name_hashed"])
    nt_response = mschap.challenge_response(hashed, password_hash)
    proof = mschap.authenticator_response(password_hash, nt_response, hashed)
    master = mschap.master_key(password_hash, nt_response)
    assert hashed == vector["challenge_hash"]
    assert password_hash == vector["nt_hash"]
    assert mschap.nt_hash_hash(password_hash) == vector["nt_hash_hash"]
    assert nt_response == vector["nt_response"]
    assert mschap.response_value_v2(peer_challenge, nt_response) == vector["response_value_49"]
    assert proof == b"S=" + vector["authenticator_response"].hex().upper().encode()
    assert proof.decode() == vector.text("success_message_ascii_prefix")
    assert master == vector["master_key"]
    assert mschap.client_send_key(master) == vector["client_MasterSendKey"] == vector["server_MasterReceiveKey"]
    assert mschap.client_receive_key(master) == vector["client_MasterReceiveKey"] == vector["server_MasterSendKey"]
    assert mschap.hlak_v2(password_hash, nt_response) == vector["hlak"]
    assert mschap.hlak_v2(password_hash, nt_response) + bytes(32) == vector["eap_mschapv2_msk"]


@pytest.mark.parametrize("vector", load("mppe"), ids=str)
def test_rfc_3079_session_key(vector: Vector) -> None:
    key = session_key(vector["send_start_key_128"])
    assert key == vector["send_session_key_128"]
    assert rc4(key, vector["plaintext"]) == vector["rc4"]


@pytest.mark.parametrize(
    ("name", "hashed"),
    [
        (b"User", b"User"),
        (b"CORP\\User", b"User"),
        (b"\\User", b"User"),
        (b"A\\B\\User", b"User"),
        (b"user@realm", b"user@realm"),
        (b"D\\", b""),
        (b"\xff\xfe\\\xe9", b"\xe9"),
    ],
)
def test_name_without_domain(name: bytes, hashed: bytes) -> None:
    assert mschap.name_without_domain(name) == hashed


def test_characters_beyond_the_basic_plane_are_surrogate_pairs() -> None:
    assert as_utf16("\U0001f511") == bytes.fromhex("3dd811dd")


def test_passwords_are_not_normalised() -> None:
    assert mschap.nt_hash("\u00e9") != mschap.nt_hash("e\u0301")


def test_longest_password() -> None:
    assert len(as_utf16("x" * 256)) == 512
    assert len(as_utf16("\U0001f511" * 128)) == 512


@pytest.mark.parametrize("encode", [as_utf16, as_utf8, mschap.nt_hash])
@pytest.mark.parametrize("password", ["s3cret" * 43, "\U0001f511" * 129, "s3cret\udc80"], ids=["257", "pairs", "lone"])
def test_unusable_password_is_refused_without_being_shown(encode: object, password: str) -> None:
    assert callable(encode)
    with pytest.raises(ConfigError) as caught:
        encode(password)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
