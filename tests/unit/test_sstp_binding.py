"""Crypto binding against the vectors: the specification's own example, all hashes, every single wrong thing."""

from __future__ import annotations

import pytest

from sstpfarm.errors import LocalError, PeerError
from sstpfarm.proto.sstp import binding
from sstpfarm.proto.sstp.binding import CertificateHash, build_call_connected, check_mac, check_presented
from sstpfarm.proto.sstp.constants import HashProtocol
from sstpfarm.reasons import Reason
from tests.vectors.loader import load

BY_ID = {vector.id: vector for vector in load("crypto-binding", "crypto-binding-negative")}
GOOD = sorted(vector.id for vector in BY_ID.values() if "nonce" in vector.inputs)


class Example:
    """The fields of one vector in the types of the API."""

    def __init__(self, name: str) -> None:
        vector = BY_ID[name]
        self.hash_protocol = HashProtocol(vector.number("hash_protocol"))
        self.nonce = vector["nonce"]
        self.hlak = vector["hlak"]
        known = vector["cert_hash"]
        sha1 = self.hash_protocol is HashProtocol.SHA1
        self.certificate = CertificateHash(known if sha1 else bytes(20), bytes(32) if sha1 else known)
        self.cmk = vector["cmk"]
        self.zeroed = vector["message_with_zeroed_mac_112"]
        self.mac = vector["compound_mac"]
        self.packet = vector["call_connected_112"]

    def check(self, packet: bytes, hash_mask: int = 3) -> None:
        check_presented(packet, nonce=self.nonce, hash_mask=hash_mask, certificates=(self.certificate,))
        check_mac(packet, self.hlak)

    def refusal(self, packet: bytes, hash_mask: int = 3) -> Reason:
        with pytest.raises(PeerError) as caught:
            self.check(packet, hash_mask)
        return caught.value.reason


def flipped(packet: bytes, bit: int) -> bytes:
    changed = bytearray(packet)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_every_vector_of_the_group_is_covered() -> None:
    assert set(BY_ID) == {*GOOD, "cert-hash", "cb-mschapv2-sha256-WRONG-ORDER"}
    assert len(GOOD) == 4


@pytest.mark.parametrize("name", GOOD)
def test_vector(name: str) -> None:
    example = Example(name)
    assert binding.compound_mac_key(example.hlak, example.hash_protocol) == example.cmk
    assert binding.compound_mac(example.cmk, example.zeroed, example.hash_protocol) == example.mac
    assert binding.compound_mac(example.cmk, example.packet, example.hash_protocol) == example.mac
    built = build_call_connected(
        hash_protocol=example.hash_protocol,
        nonce=example.nonce,
        certificate=example.certificate,
        hlak=example.hlak,
    )
    assert built == example.packet
    example.check(built)


def test_certificate_hash_vector() -> None:
    vector = BY_ID["cert-hash"]
    known = CertificateHash.of(vector["certificate_der"])
    assert known.sha1 == vector["sha1"]
    assert known.sha256 == vector["sha256"]
    packet = build_call_connected(hash_protocol=HashProtocol.SHA1, nonce=bytes(32), certificate=known, hlak=bytes(32))
    assert packet[48:80] == vector["sha1_field_32"]


def test_swapped_halves_of_the_key_are_refused() -> None:
    example = Example("cb-mschapv2-sha256")
    vector = BY_ID["cb-mschapv2-sha256-WRONG-ORDER"]
    wrong = vector["compound_mac_to_reject"]
    zeroed = vector["message_with_zeroed_mac_112"]
    key = binding.compound_mac_key(vector["hlak_wrong"], HashProtocol.SHA256)
    assert binding.compound_mac(key, zeroed, HashProtocol.SHA256) == wrong
    assert example.refusal(zeroed[:80] + wrong) is Reason.BINDING_MAC


@pytest.mark.parametrize("name", GOOD)
def test_each_flipped_bit_is_refused_with_the_reason_of_its_field(name: str) -> None:
    example = Example(name)
    digest = len(example.mac)
    for bit in range(16 * 8, 48 * 8):
        assert example.refusal(flipped(example.packet, bit)) is Reason.BINDING_NONCE
    for bit in range(48 * 8, (48 + digest) * 8):
        assert example.refusal(flipped(example.packet, bit)) is Reason.BINDING_CERTIFICATE
    for bit in range(80 * 8, (80 + digest) * 8):
        assert example.refusal(flipped(example.packet, bit)) is Reason.BINDING_MAC


def test_padding_and_reserved_bytes() -> None:
    example = Example("cb-mschapv2-sha1")
    example.check(flipped(example.packet, 111 * 8))  # behind the MAC: ignored
    # behind the certificate hash and in the reserved bytes: not compared, but the MAC covers them as received
    for bit in (79 * 8, 13 * 8):
        changed = flipped(example.packet, bit)
        assert example.refusal(changed) is Reason.BINDING_MAC
        mac = binding.compound_mac(example.cmk, changed, HashProtocol.SHA1)
        example.check(changed[:80] + mac + bytes(12))


@pytest.mark.parametrize("number", [0, 3, 4, 0x82, 255])
def test_hash_protocol_must_be_one_bit(number: int) -> None:
    example = Example("cb-mschapv2-sha256")
    packet = example.packet[:15] + bytes((number,)) + example.packet[16:]
    assert example.refusal(packet) is Reason.BINDING_HASH_PROTOCOL


def test_hash_protocol_must_have_been_offered() -> None:
    assert Example("cb-mschapv2-sha1").refusal(Example("cb-mschapv2-sha1").packet, 2) is Reason.BINDING_HASH_PROTOCOL
    assert (
        Example("cb-mschapv2-sha256").refusal(Example("cb-mschapv2-sha256").packet, 1) is Reason.BINDING_HASH_PROTOCOL
    )
    Example("cb-mschapv2-sha1").check(Example("cb-mschapv2-sha1").packet, 1)
    Example("cb-mschapv2-sha256").check(Example("cb-mschapv2-sha256").packet, 2)


def test_length_must_be_112() -> None:
    example = Example("cb-mschapv2-sha256")
    assert example.refusal(example.packet[:111]) is Reason.MALFORMED_MESSAGE
    assert example.refusal(example.packet + b"\0") is Reason.MALFORMED_MESSAGE


def test_any_presented_certificate_will_do() -> None:
    example = Example("cb-mschapv2-sha256")
    other = CertificateHash(b"o" * 20, b"o" * 32)
    for certificates in ((other, example.certificate), (example.certificate, other)):
        check_presented(example.packet, nonce=example.nonce, hash_mask=3, certificates=certificates)
    with pytest.raises(PeerError) as caught:
        check_presented(example.packet, nonce=example.nonce, hash_mask=3, certificates=(other,))
    assert caught.value.reason is Reason.BINDING_CERTIFICATE


@pytest.mark.parametrize(
    ("offered", "allowed", "chosen"),
    [(3, 3, 2), (2, 3, 2), (1, 3, 1), (3, 1, 1), (3, 2, 2), (0xFF, 3, 2)],
)
def test_choice_of_the_hash(offered: int, allowed: int, chosen: int) -> None:
    assert binding.choose_hash(offered, allowed) == chosen


@pytest.mark.parametrize(("offered", "allowed"), [(0, 3), (1, 2), (2, 1), (0xFC, 3)])
def test_no_common_hash(offered: int, allowed: int) -> None:
    with pytest.raises(PeerError) as caught:
        binding.choose_hash(offered, allowed)
    assert caught.value.reason is Reason.BINDING_HASH_PROTOCOL


def test_wrong_sizes_are_our_own_bug() -> None:
    with pytest.raises(LocalError):
        CertificateHash(bytes(19), bytes(32))
    with pytest.raises(LocalError):
        CertificateHash(bytes(20), bytes(31))
    with pytest.raises(LocalError):
        binding.compound_mac_key(bytes(16), HashProtocol.SHA256)
    with pytest.raises(LocalError):
        build_call_connected(
            hash_protocol=HashProtocol.SHA1,
            nonce=bytes(16),
            certificate=CertificateHash(bytes(20), bytes(32)),
            hlak=bytes(32),
        )
