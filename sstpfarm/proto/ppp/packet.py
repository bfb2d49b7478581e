"""The packet that LCP, the NCPs and the authentication protocols share, and its options (RFC 1661 5 and 6)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sstpfarm.errors import PeerError

HEADER: Final = 4  # code, identifier, length (2)
OPTION_HEADER: Final = 2  # type, length
MAX_OPTIONS: Final = 64  # of one packet, ours: real peers send a dozen at most


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet: `code` and `identifier` are bytes, `data` is what follows the length field."""

    code: int
    identifier: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a Configure packet: `type` is a byte, `value` at most 253 bytes."""

    type: int
    value: bytes = b""


def encode_packet(packet: Packet) -> bytes:
    """Return the packet with its length field filled in; `data` fits 65531 bytes."""
    return bytes((packet.code, packet.identifier)) + (HEADER + len(packet.data)).to_bytes(2, "big") + packet.data


def decode_packet(information: bytes) -> Packet:
    """Return the packet at the start of a PPP information field; bytes behind its length are padding.

    Raises:
        PeerError: the length is below 4 or beyond the field; the packet is to be dropped silently.
    """
    if len(information) < HEADER:
        raise PeerError("PPP packet shorter than its header", spec="RFC 1661 5")
    length = int.from_bytes(information[2:4], "big")
    if not HEADER <= length <= len(information):
        raise PeerError("PPP packet with a wrong length", spec="RFC 1661 5")
    return Packet(information[0], information[1], information[HEADER:length])


def encode_options(options: Iterable[Option]) -> bytes:
    """Return the options back to back."""
    return b"".join(bytes((option.type, OPTION_HEADER + len(option.value))) + option.value for option in options)


def decode_options(data: bytes) -> tuple[Option, ...]:
    """Return the options of a Configure packet in their order.

    Raises:
        PeerError: an option's length is below 2 or runs past the packet, or there are more than 64 options; the whole
            packet is to be dropped silently.
    """
    options: list[Option] = []
    offset = 0
    while offset < len(data):
        length = data[offset + 1] if offset + 1 < len(data) else 0
        if length < OPTION_HEADER or offset + length > len(data):
            raise PeerError("PPP option with a wrong length", spec="RFC 1661 6")
        if len(options) == MAX_OPTIONS:
            raise PeerError("PPP packet with too many options", spec="RFC 1661 5")
        options.append(Option(data[offset], data[offset + OPTION_HEADER : offset + length]))
        offset += length
    return tuple(options)
