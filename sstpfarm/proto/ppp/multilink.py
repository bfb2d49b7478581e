"""Multilink over one link: a packet that is larger than the MRU travels in fragments (RFC 1990 3).

Here a packet is its protocol field and its information, without FF 03; a fragment is what stands in the information
field of a frame with protocol 003d. The stream under SSTP keeps the order, so a fragment that is not the next one is
a peer's fault: nothing is waited for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BEGINNING: Final = 0x80  # B: the first fragment of a packet
ENDING: Final = 0x40  # E: the last one
LONG_HEADER: Final = 4  # B, E, six zero bits, 24 bits of sequence number
SHORT_HEADER: Final = 2  # B, E, two zero bits, 12 bits (RFC 1990 3, figure 2)
_BEFORE_INFORMATION: Final = 4  # FF 03 and two bytes of protocol, which the MRRU does not count


@dataclass(frozen=True, slots=True)
class Multilink:
    """What both ends acknowledged; sizes in bytes of a whole packet's information field.

    Attributes:
        receive_mrru: the largest packet that we put together.
        send_mrru: the largest one that we may send in fragments.
        receive_short, send_short: whether sequence numbers have 12 bits in that direction (RFC 1990 5.1.2).
    """

    receive_mrru: int
    send_mrru: int
    receive_short: bool = False
    send_short: bool = False

    @property
    def receive_header(self) -> int:
        """Bytes of the header of the peer's fragments."""
        return SHORT_HEADER if self.receive_short else LONG_HEADER


class Reassembler:
    """Puts the peer's fragments together.

    Attributes:
        dropped: fragments that followed nothing, and packets that stayed unfinished or grew beyond the MRRU.
    """

    def __init__(self, terms: Multilink) -> None:
        self._header = terms.receive_header
        self._sequences = _sequences(terms.receive_short)
        self._limit = _BEFORE_INFORMATION + terms.receive_mrru
        self._partial = bytearray()  # at most `_limit` bytes
        self._next: int | None = None  # sequence number that continues `_partial`; None when there is none
        self.dropped = 0

    def take(self, fragment: bytes) -> bytes | None:
        """Return the packet that this fragment completes, else None."""
        if len(fragment) < self._header:
            self._drop()
            return None
        flags = fragment[0]
        sequence = int.from_bytes(fragment[: self._header], "big") % self._sequences
        if flags & BEGINNING:
            if self._next is not None:
                self._drop()
        elif sequence != self._next:
            self._drop()
            return None
        if len(self._partial) + len(fragment) - self._header > self._limit:
            self._drop()
            return None
        self._partial += memoryview(fragment)[self._header :]
        if not flags & ENDING:
            self._next = (sequence + 1) % self._sequences
            return None
        packet = bytes(self._partial)
        self._forget()
        return packet

    def _drop(self) -> None:
        self.dropped += 1
        self._forget()

    def _forget(self) -> None:
        self._partial.clear()
        self._next = None


class Fragmenter:
    """Takes packets apart.

    Args:
        limit: bytes of one fragment with its header: the peer's MRU, or less.
    """

    def __init__(self, terms: Multilink, limit: int) -> None:
        self._header = SHORT_HEADER if terms.send_short else LONG_HEADER
        self._sequences = _sequences(terms.send_short)
        self._chunk = limit - self._header
        self._sequence = 0

    def split(self, packet: bytes) -> list[bytes]:
        """Return the fragments of a packet, in order; its information field is at most `send_mrru` bytes."""
        fragments = []
        for start in range(0, len(packet), self._chunk):
            end = start + self._chunk
            flags = (BEGINNING if start == 0 else 0) | (ENDING if end >= len(packet) else 0)
            header = (flags << 8 * (self._header - 1) | self._sequence).to_bytes(self._header, "big")
            fragments.append(header + packet[start:end])
            self._sequence = (self._sequence + 1) % self._sequences
        return fragments


def _sequences(short: bool) -> int:
    return 1 << (12 if short else 24)
