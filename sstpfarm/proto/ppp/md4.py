"""MD4 (RFC 1320): OpenSSL 3 no longer offers it without its legacy provider, and MS-CHAP needs it.

For the NT password hash only; MD4 is broken for every other purpose.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, NamedTuple

_MASK: Final = 0xFFFF_FFFF
_INITIAL: Final = (0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476)  # RFC 1320 3.3
_BLOCK: Final = 64


class _Round(NamedTuple):
    """One round of RFC 1320 3.4: its function, its constant, the order of the words and the four rotations."""

    function: Callable[[int, int, int], int]
    constant: int
    words: tuple[int, ...]
    shifts: tuple[int, int, int, int]


_ROUNDS: Final = (
    _Round(lambda x, y, z: (x & y) | (~x & z), 0, tuple(range(16)), (3, 7, 11, 19)),
    _Round(
        lambda x, y, z: (x & y) | (x & z) | (y & z),
        0x5A82_7999,
        (0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15),
        (3, 5, 9, 13),
    ),
    _Round(
        lambda x, y, z: x ^ y ^ z,
        0x6ED9_EBA1,
        (0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15),
        (3, 9, 11, 15),
    ),
)


def md4(message: bytes) -> bytes:
    """Return the 16-byte MD4 digest of the message (RFC 1320 3)."""
    zeros = (55 - len(message)) % _BLOCK  # 3.1: the padded length is 56 modulo 64; 3.2: then the length in bits
    padded = message + b"\x80" + bytes(zeros) + struct.pack("<Q", len(message) * 8 & 0xFFFF_FFFF_FFFF_FFFF)
    state = _INITIAL
    for words in struct.iter_unpack("<16I", padded):
        state = _compress(state, words)
    return struct.pack("<4I", *state)


def _compress(state: tuple[int, int, int, int], block: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Mix one block of 16 words into the state (RFC 1320 3.4)."""
    a, b, c, d = state
    for function, constant, words, shifts in _ROUNDS:
        for step, word in enumerate(words):
            total = (a + function(b, c, d) + block[word] + constant) & _MASK
            shift = shifts[step % 4]
            a, b, c, d = d, (total << shift | total >> (32 - shift)) & _MASK, b, c
    return (state[0] + a) & _MASK, (state[1] + b) & _MASK, (state[2] + c) & _MASK, (state[3] + d) & _MASK
