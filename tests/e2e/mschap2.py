"""The arithmetic of MS-CHAPv2 for the common password (RFC 2759 8, RFC 3079 3), by the tests alone."""

from __future__ import annotations

import hashlib
from typing import Final

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from .farm import NT_HASH, NT_HASH_HASH

MAGIC: Final = "On the client side, this is the {} key; on the server side, it is the {} key."


def des(block: bytes, key: bytes) -> bytes:
    """DES of one block with a 7-byte key (RFC 2759 8.6), as 3DES with three equal keys."""
    bits = int.from_bytes(key, "big")
    spread = bytes((bits >> (49 - 7 * at) & 0x7F) << 1 for at in range(8))
    return Cipher(TripleDES(spread * 3), modes.ECB()).encryptor().update(block)


def nt_response(challenge: bytes, peer_challenge: bytes, user: str) -> bytes:
    """The NT-Response to the server's challenge (RFC 2759 8.1)."""
    short = hashlib.sha1(peer_challenge + challenge + user.encode()).digest()[:8]
    return b"".join(des(short, NT_HASH.ljust(21, b"\0")[at : at + 7]) for at in (0, 7, 14))


def hlak(response: bytes) -> bytes:
    """The keys of both directions that follow from a response, as SSTP takes them (MS-SSTP 3.2.5.2.3)."""
    master = hashlib.sha1(NT_HASH_HASH + response + b"This is the MPPE Master Key").digest()[:16]
    keys = []
    for first, second in (("send", "receive"), ("receive", "send")):
        magic = MAGIC.format(first, second).encode()
        keys.append(hashlib.sha1(master + bytes(40) + magic + b"\xf2" * 40).digest()[:16])
    return b"".join(keys)
