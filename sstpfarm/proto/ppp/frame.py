"""The PPP frame inside an SSTP data packet: no flags, no escapes, no FCS (MS-SSTP 2.2.3, RFC 1661 2)."""

from __future__ import annotations

from typing import Final

from sstpfarm.errors import PeerError

ADDRESS_CONTROL: Final = b"\xff\x03"  # RFC 1662 3.1: all stations, unnumbered information


def encode_frame(protocol: int, information: bytes) -> bytes:
    """Return the frame with FF 03 and a 2-byte protocol: some peers understand no other form."""
    return ADDRESS_CONTROL + protocol.to_bytes(2, "big") + information


def decode_frame(frame: bytes) -> tuple[int, bytes]:
    """Return (protocol, information) of a frame; both fields may be compressed (RFC 1661 6.5, 6.6), negotiated or not.

    Raises:
        PeerError: the frame ends inside its protocol field.
    """
    start = 2 if frame.startswith(ADDRESS_CONTROL) else 0
    if len(frame) <= start:
        raise PeerError("PPP frame without a protocol field", spec="RFC 1661 2")
    if frame[start] & 1:  # only the last byte of a protocol number is odd
        return frame[start], bytes(frame[start + 1 :])
    if len(frame) < start + 2:
        raise PeerError("PPP frame with half a protocol field", spec="RFC 1661 2")
    return int.from_bytes(frame[start : start + 2], "big"), bytes(frame[start + 2 :])
