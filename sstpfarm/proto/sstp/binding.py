"""Crypto binding: ties the TLS connection and the PPP authentication together (MS-SSTP 3.2.5.2 and 3.3.5.2).

Without it a man in the middle who holds a TLS connection to each side could relay a login of a user elsewhere.
Nothing here stands in a log or an exception but which check failed.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from sstpfarm.errors import LocalError, PeerError
from sstpfarm.proto.sstp.constants import HLAK_LENGTH, NONCE_LENGTH, AttributeId, HashProtocol, MessageType
from sstpfarm.proto.sstp.packets import Attribute, ControlMessage
from sstpfarm.reasons import Reason

CMK_SEED: Final = b"SSTP inner method derived CMK"  # 29 bytes, no NUL: MS-SSTP 3.2.5.2

# offsets in the Call Connected message, MS-SSTP 2.2.11
MESSAGE_LENGTH: Final = 112
HASH_PROTOCOL_AT: Final = 15
NONCE_AT: Final = 16
CERTIFICATE_HASH_AT: Final = 48
MAC_AT: Final = 80
_FIELD: Final = 32  # of certificate hash and MAC; a SHA-1 value is padded with zeros at its end

_NAMES: Final = {HashProtocol.SHA1: "sha1", HashProtocol.SHA256: "sha256"}
_DIGEST_LENGTHS: Final = {HashProtocol.SHA1: 20, HashProtocol.SHA256: 32}


@dataclass(frozen=True, slots=True)
class CertificateHash:
    """Both hashes of the DER encoding of a server's leaf certificate (MS-SSTP 2.2.7)."""

    sha1: bytes
    sha256: bytes

    def __post_init__(self) -> None:
        if len(self.sha1) != 20 or len(self.sha256) != 32:
            raise LocalError("a certificate hash has a wrong length")

    @classmethod
    def of(cls, certificate: bytes) -> CertificateHash:
        """Return the hashes of a certificate in DER."""
        sha1 = hashlib.sha1(certificate, usedforsecurity=False)  # the wire format names it; SHA-256 is preferred
        return cls(sha1.digest(), hashlib.sha256(certificate).digest())

    def under(self, hash_protocol: HashProtocol) -> bytes:
        """Return the one that belongs to a hash protocol."""
        return self.sha1 if hash_protocol is HashProtocol.SHA1 else self.sha256


def choose_hash(offered: int, allowed: int) -> HashProtocol:
    """Return the strongest hash that the server's Ack offers and we allow (client).

    Raises:
        PeerError: BINDING_HASH_PROTOCOL, there is none.
    """
    for hash_protocol in (HashProtocol.SHA256, HashProtocol.SHA1):
        if offered & allowed & hash_protocol:
            return hash_protocol
    raise PeerError(
        f"no common hash protocol in mask {offered}", reason=Reason.BINDING_HASH_PROTOCOL, spec="MS-SSTP 2.2.6"
    )


def compound_mac_key(hlak: bytes, hash_protocol: HashProtocol) -> bytes:
    """Return the CMK: 20 bytes for SHA-1, 32 for SHA-256 (MS-SSTP 3.2.5.2).

    PRF+ needs one block only, since the key is as long as the hash. The length is little-endian, unlike all else.
    """
    if len(hlak) != HLAK_LENGTH:
        raise LocalError("an HLAK has 32 bytes")
    length = _DIGEST_LENGTHS[hash_protocol].to_bytes(2, "little")
    return hmac.digest(hlak, CMK_SEED + length + b"\x01", _NAMES[hash_protocol])


def compound_mac(cmk: bytes, message: bytes, hash_protocol: HashProtocol) -> bytes:
    """Return the MAC of a 112-byte Call Connected, whatever its MAC field holds (MS-SSTP 3.2.5.2)."""
    return hmac.digest(cmk, message[:MAC_AT] + bytes(MESSAGE_LENGTH - MAC_AT), _NAMES[hash_protocol])


def build_call_connected(
    *, hash_protocol: HashProtocol, nonce: bytes, certificate: CertificateHash, hlak: bytes
) -> bytes:
    """Return the client's Call Connected, 112 bytes, with its MAC (MS-SSTP 2.2.11)."""
    if len(nonce) != NONCE_LENGTH:
        raise LocalError("a nonce has 32 bytes")
    certificate_hash = certificate.under(hash_protocol).ljust(_FIELD, b"\0")
    value = bytes((0, 0, 0, hash_protocol)) + nonce + certificate_hash + bytes(_FIELD)
    message = ControlMessage(MessageType.CALL_CONNECTED, (Attribute(AttributeId.CRYPTO_BINDING, value),)).encode()
    mac = compound_mac(compound_mac_key(hlak, hash_protocol), message, hash_protocol)
    return message[:MAC_AT] + mac.ljust(_FIELD, b"\0")


def check_presented(
    packet: bytes, *, nonce: bytes, hash_mask: int, certificates: tuple[CertificateHash, ...]
) -> HashProtocol:
    """Check all of a Call Connected but its MAC: length, hash protocol, nonce, certificate hash, in this order.

    Args:
        packet: as received; its attributes were found good (`packets.complaints`).
        nonce, hash_mask: of our Call Connect Ack.
        certificates: any of which may have been presented on this connection.

    Returns:
        The hash protocol that the client chose.

    Raises:
        PeerError: MALFORMED_MESSAGE, BINDING_HASH_PROTOCOL, BINDING_NONCE or BINDING_CERTIFICATE.
    """
    if len(packet) != MESSAGE_LENGTH:
        raise PeerError(f"Call Connected has {len(packet)} bytes, not 112", spec="MS-SSTP 2.2.11")
    number = packet[HASH_PROTOCOL_AT]
    if number not in (HashProtocol.SHA1, HashProtocol.SHA256) or not number & hash_mask:
        raise PeerError(
            f"hash protocol {number} was not offered", reason=Reason.BINDING_HASH_PROTOCOL, spec="MS-SSTP 2.2.7"
        )
    hash_protocol = HashProtocol(number)
    if not hmac.compare_digest(packet[NONCE_AT:CERTIFICATE_HASH_AT], nonce):
        raise PeerError("the nonce is not that of this connection", reason=Reason.BINDING_NONCE, spec="MS-SSTP 3.3.5.2")
    presented = packet[CERTIFICATE_HASH_AT : CERTIFICATE_HASH_AT + _DIGEST_LENGTHS[hash_protocol]]
    if not any(hmac.compare_digest(presented, known.under(hash_protocol)) for known in certificates):
        raise PeerError("the certificate hash is not ours", reason=Reason.BINDING_CERTIFICATE, spec="MS-SSTP 3.3.5.2")
    return hash_protocol


def check_mac(packet: bytes, hlak: bytes) -> None:
    """Check the compound MAC of a Call Connected that passed `check_presented`, over the bytes as received.

    Raises:
        PeerError: BINDING_MAC.
    """
    hash_protocol = HashProtocol(packet[HASH_PROTOCOL_AT])
    expected = compound_mac(compound_mac_key(hlak, hash_protocol), packet, hash_protocol)
    if not hmac.compare_digest(packet[MAC_AT : MAC_AT + len(expected)], expected):
        raise PeerError("the compound MAC does not fit", reason=Reason.BINDING_MAC, spec="MS-SSTP 3.3.5.2")
