"""The arithmetic of MS-CHAPv1 (RFC 2433), MS-CHAPv2 (RFC 2759) and of their keys (RFC 3079): values in, values out.

Nothing here keeps state or decides anything. All results that depend on a password are secrets.
"""

from __future__ import annotations

import hashlib
from typing import Final

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.modes import ECB

from sstpfarm.proto.ppp.md4 import md4
from sstpfarm.proto.ppp.passwords import as_utf16

CHALLENGE_V1: Final = 8  # bytes, RFC 2433 3
CHALLENGE_V2: Final = 16  # bytes, RFC 2759 3
RESPONSE_LENGTH: Final = 49  # bytes of the Response value of both versions, RFC 2433 4, RFC 2759 4
NT_RESPONSE: Final = slice(24, 48)  # of the Response value of both versions
USE_NT_FLAG: Final = 48  # v1: 1 = the NT response counts, 0 = the LM response
PEER_CHALLENGE: Final = slice(0, 16)  # v2
HLAK_LENGTH: Final = 32  # MS-SSTP 3.2.5.2
ZERO_HLAK: Final = bytes(HLAK_LENGTH)  # of methods that make no key

_SIGNING_MAGIC: Final = b"Magic server to client signing constant"  # RFC 2759 8.7
_PAD_MAGIC: Final = b"Pad to make it do more than one iteration"
_MASTER_MAGIC: Final = b"This is the MPPE Master Key"  # RFC 3079 3.4
_CLIENT_SEND_MAGIC: Final = b"On the client side, this is the send key; on the server side, it is the receive key."
_CLIENT_RECEIVE_MAGIC: Final = b"On the client side, this is the receive key; on the server side, it is the send key."
_SEPTETS: Final = tuple(range(49, -1, -7))  # where the 8 septets of 56 bits begin
_WITH_PARITY: Final = bytes(septet << 1 | (septet.bit_count() + 1) & 1 for septet in range(128))
_SHS_PAD_1: Final = bytes(40)
_SHS_PAD_2: Final = b"\xf2" * 40


def _sha1(*parts: bytes) -> bytes:
    return hashlib.sha1(b"".join(parts), usedforsecurity=False).digest()


def nt_hash(password: str) -> bytes:
    """Return NtPasswordHash, 16 bytes (RFC 2759 8.3); raises ConfigError as `passwords.as_utf16` does."""
    return md4(as_utf16(password))


def nt_hash_hash(password_hash: bytes) -> bytes:
    """Return HashNtPasswordHash, 16 bytes (RFC 2759 8.4)."""
    return md4(password_hash)


def expand_des_key(key: bytes) -> bytes:
    """Return the 8-byte DES key with odd parity that carries these 7 bytes (RFC 2759 8.6)."""
    bits = int.from_bytes(key, "big")
    return bytes([_WITH_PARITY[bits >> shift & 0x7F] for shift in _SEPTETS])


def des_encrypt(key: bytes, block: bytes) -> bytes:
    """Encrypt one 8-byte block with a 7-byte DES key (RFC 2759 8.6)."""
    # three equal keys make triple DES what DES is
    encryptor = Cipher(TripleDES(expand_des_key(key) * 3), ECB()).encryptor()  # noqa: S305  # one block: DES itself
    return encryptor.update(block) + encryptor.finalize()


def challenge_response(challenge: bytes, password_hash: bytes) -> bytes:
    """Return ChallengeResponse, 24 bytes: the 8-byte challenge under three DES keys (RFC 2759 8.5, and MS-CHAPv1)."""
    keys = password_hash.ljust(21, b"\0")
    return b"".join(des_encrypt(keys[start : start + 7], challenge) for start in (0, 7, 14))


def name_without_domain(name: bytes) -> bytes:
    """Return the user name as MS-CHAPv2 hashes it: what follows the last backslash of ``DOMAIN\\user`` (RFC 2759 4)."""
    return name.rpartition(b"\\")[2]


def challenge_hash(peer_challenge: bytes, challenge: bytes, name: bytes) -> bytes:
    """Return ChallengeHash, 8 bytes; the name goes in exactly as given (RFC 2759 8.2)."""
    return _sha1(peer_challenge, challenge, name)[:8]


def authenticator_response(password_hash: bytes, nt_response: bytes, hashed_challenge: bytes) -> bytes:
    """Return ``S=`` and 40 upper-case hexadecimal digits: the server's proof that it knows the password (RFC 2759 8.7).

    Args:
        hashed_challenge: the ChallengeHash that the NT response was made from.
    """
    return authenticator_response_from(nt_hash_hash(password_hash), nt_response, hashed_challenge)


def authenticator_response_from(hash_hash: bytes, nt_response: bytes, hashed_challenge: bytes) -> bytes:
    """Return the same from HashNtPasswordHash."""
    digest = _sha1(hash_hash, nt_response, _SIGNING_MAGIC)
    return b"S=" + _sha1(digest, hashed_challenge, _PAD_MAGIC).hex().upper().encode("ascii")


def response_value_v1(nt_response: bytes) -> bytes:
    """Return the 49-byte Response value of MS-CHAPv1: no LM response, the NT response, its flag (RFC 2433 4)."""
    return bytes(24) + nt_response + b"\x01"


def response_value_v2(peer_challenge: bytes, nt_response: bytes) -> bytes:
    """Return the 49-byte Response value of MS-CHAPv2: the reserved bytes and the flags are zero (RFC 2759 4)."""
    return peer_challenge + bytes(8) + nt_response + b"\0"


def start_key_v1(password_hash: bytes, challenge: bytes) -> bytes:
    """Return the 128-bit start key of MS-CHAPv1, the same for both directions (RFC 3079 2.3)."""
    return start_key_v1_from(nt_hash_hash(password_hash), challenge)


def start_key_v1_from(hash_hash: bytes, challenge: bytes) -> bytes:
    """Return the same from HashNtPasswordHash, which RADIUS servers send (RFC 2548 2.4.1)."""
    return _sha1(hash_hash, hash_hash, challenge)[:16]


def hlak_v1(password_hash: bytes, challenge: bytes) -> bytes:
    """Return the HLAK after MS-CHAPv1: the start key twice. MS-SSTP leaves it open; accel-ppp and sstpc agree on it."""
    return hlak_v1_from(nt_hash_hash(password_hash), challenge)


def hlak_v1_from(hash_hash: bytes, challenge: bytes) -> bytes:
    """Return the same from HashNtPasswordHash."""
    return start_key_v1_from(hash_hash, challenge) * 2


def master_key(password_hash: bytes, nt_response: bytes) -> bytes:
    """Return the 16-byte MasterKey of MS-CHAPv2 (RFC 3079 3.4)."""
    return master_key_from(nt_hash_hash(password_hash), nt_response)


def master_key_from(hash_hash: bytes, nt_response: bytes) -> bytes:
    """Return the same from HashNtPasswordHash."""
    return _sha1(hash_hash, nt_response, _MASTER_MAGIC)[:16]


def client_send_key(master: bytes) -> bytes:
    """Return the 128-bit start key of the client's sending direction, the server's receiving one (RFC 3079 3.4)."""
    return _sha1(master, _SHS_PAD_1, _CLIENT_SEND_MAGIC, _SHS_PAD_2)[:16]


def client_receive_key(master: bytes) -> bytes:
    """Return the 128-bit start key of the client's receiving direction, the server's sending one (RFC 3079 3.4)."""
    return _sha1(master, _SHS_PAD_1, _CLIENT_RECEIVE_MAGIC, _SHS_PAD_2)[:16]


def hlak_v2(password_hash: bytes, nt_response: bytes) -> bytes:
    """Return the HLAK after MS-CHAPv2: client send key, then client receive key, at both ends (MS-SSTP 3.2.5.2)."""
    return hlak_v2_from(nt_hash_hash(password_hash), nt_response)


def hlak_v2_from(hash_hash: bytes, nt_response: bytes) -> bytes:
    """Return the same from HashNtPasswordHash."""
    master = master_key_from(hash_hash, nt_response)
    return client_send_key(master) + client_receive_key(master)
