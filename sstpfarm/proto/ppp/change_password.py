"""The Change-Password packet of MS-CHAPv2 (RFC 2759 7): how it is built, and how it is opened.

No exchange offers it (a Failure with E=648 ends the login); it is here for the backend that will.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import Final

from sstpfarm.errors import PeerError
from sstpfarm.proto.ppp import mschap
from sstpfarm.proto.ppp.passwords import MAX_CHARACTERS, as_utf16

CODE: Final = 7
LENGTH: Final = 586
_BUFFER: Final = 2 * MAX_CHARACTERS  # bytes for the password in UTF-16
_PACKET: Final = struct.Struct(">BBH516s16s16s8s24sH")
_SPEC: Final = "RFC 2759 7"


def rc4(key: bytes, data: bytes) -> bytes:
    """Encrypt or decrypt with RC4 from a fresh key."""
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


def encrypt_password(new_password: str, old_hash: bytes, padding: bytes) -> bytes:
    """Return the 516 bytes of NewPasswordEncryptedWithOldNtPasswordHash (RFC 2759 8.9).

    Args:
        padding: 512 random bytes; the password takes the place of the last ones.
    """
    password = as_utf16(new_password)
    return rc4(old_hash, padding[: _BUFFER - len(password)] + password + struct.pack("<I", len(password)))


def encrypt_old_hash(old_hash: bytes, new_hash: bytes) -> bytes:
    """Return the 16 bytes of OldNtPasswordHashEncryptedWithNewNtPasswordHash (RFC 2759 8.12)."""
    return mschap.des_encrypt(new_hash[:7], old_hash[:8]) + mschap.des_encrypt(new_hash[7:14], old_hash[8:])


def build(
    identifier: int,
    old_password: str,
    new_password: str,
    name: bytes,
    challenge: bytes,
    peer_challenge: bytes,
    padding: bytes,
) -> bytes:
    """Return the whole Change-Password packet (code 7).

    Args:
        name: the user name without its domain.
        challenge: 16 bytes, from the Failure.
        peer_challenge: 16 random bytes.
        padding: 512 random bytes.
    """
    old_hash, new_hash = mschap.nt_hash(old_password), mschap.nt_hash(new_password)
    return _PACKET.pack(
        CODE,
        identifier,
        LENGTH,
        encrypt_password(new_password, old_hash, padding),
        encrypt_old_hash(old_hash, new_hash),
        peer_challenge,
        bytes(8),
        mschap.challenge_response(mschap.challenge_hash(peer_challenge, challenge, name), new_hash),
        0,
    )


@dataclass(frozen=True, slots=True)
class PasswordChange:
    """What an opened Change-Password packet asks for."""

    identifier: int
    new_password: str = field(repr=False)


def open_packet(packet: bytes, old_password: str, name: bytes, challenge: bytes) -> PasswordChange:
    """Decrypt a Change-Password packet and check both proofs in it: of the old password and of the new one.

    Raises:
        PeerError: the packet is malformed or made without the old password.
    """
    if len(packet) != LENGTH or packet[0] != CODE or struct.unpack_from(">H", packet, 2)[0] != LENGTH:
        raise PeerError("not a Change-Password packet", spec=_SPEC)
    _, identifier, _, sealed, sealed_hash, peer_challenge, _, nt_response, _ = _PACKET.unpack(packet)
    old_hash = mschap.nt_hash(old_password)
    plain = rc4(old_hash, sealed)
    (length,) = struct.unpack_from("<I", plain, _BUFFER)
    if length > _BUFFER or length % 2:
        raise PeerError("the new password cannot be opened", spec=_SPEC)
    try:
        new_password = plain[_BUFFER - length : _BUFFER].decode("utf-16-le")
    except UnicodeDecodeError:
        raise PeerError("the new password cannot be opened", spec=_SPEC) from None
    new_hash = mschap.nt_hash(new_password)
    hashed_challenge = mschap.challenge_hash(peer_challenge, challenge, name)
    proofs = encrypt_old_hash(old_hash, new_hash) + mschap.challenge_response(hashed_challenge, new_hash)
    if not compare_digest(proofs, sealed_hash + nt_response):
        raise PeerError("the proofs of the passwords do not match", spec=_SPEC)
    return PasswordChange(identifier, new_password)
