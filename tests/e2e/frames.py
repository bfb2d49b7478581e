"""SSTP packets and the PPP frames in them, made and read by the tests alone: they share no code with the product.

Formats are those of MS-SSTP 2.2 and RFC 1661.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

SSTP_PATH: Final = "/sra_{BA195980-CD49-458b-9E23-C84EE0ADCD75}/"
REQUEST: Final = (
    f"SSTP_DUPLEX_POST {SSTP_PATH} HTTP/1.1\r\nHost: farm.test\r\nContent-Length: 18446744073709551615\r\n"
    "SSTPCORRELATIONID: {5BE5A7D9-6A0B-4BCE-9B6B-4B6AFAE72A67}\r\n\r\n"
).encode()

# MS-SSTP 2.2.2: message types
CONNECT_REQUEST, CONNECT_ACK, CONNECT_NAK, CONNECTED, ABORT, DISCONNECT, DISCONNECT_ACK = 1, 2, 3, 4, 5, 6, 7
ECHO_REQUEST, ECHO_RESPONSE = 8, 9
# PPP protocol numbers and codes (RFC 1661)
IPV4, IPCP, IPV6CP, LCP, PAP, CHAP, EAP = 0x0021, 0x8021, 0x8057, 0xC021, 0xC023, 0xC223, 0xC227
REQ, ACK, NAK, REJ, TERM_REQ, TERM_ACK = 1, 2, 3, 4, 5, 6
PROTO_REJ, LCP_ECHO_REQ, LCP_ECHO_REPLY, DISCARD_REQUEST = 8, 9, 10, 11
AUTH_OPTIONS: Final = {
    "pap": b"\x03\x04\xc0\x23",
    "chap": b"\x03\x05\xc2\x23\x05",
    "mschap1": b"\x03\x05\xc2\x23\x80",
    "mschap2": b"\x03\x05\xc2\x23\x81",
    "eap": b"\x03\x04\xc2\x27",
}


def packet(control: int, body: bytes, *, version: int = 0x10, length: int | None = None) -> bytes:
    """One SSTP packet (MS-SSTP 2.2.1)."""
    return struct.pack(">BBH", version, control, 4 + len(body) if length is None else length) + body


def message(kind: int, *attributes: bytes, count: int | None = None) -> bytes:
    """One SSTP control packet (MS-SSTP 2.2.2)."""
    number = len(attributes) if count is None else count
    return packet(1, struct.pack(">HH", kind, number) + b"".join(attributes))


def attribute(identifier: int, value: bytes, *, length: int | None = None) -> bytes:
    """One attribute (MS-SSTP 2.2.4)."""
    return struct.pack(">BBH", 0, identifier, 4 + len(value) if length is None else length) + value


GOOD_REQUEST: Final = message(CONNECT_REQUEST, attribute(1, b"\x00\x01"))


def data(protocol: int, information: bytes) -> bytes:
    """One SSTP data packet with a PPP frame."""
    return packet(0, b"\xff\x03" + struct.pack(">H", protocol) + information)


def ppp(protocol: int, code: int, identifier: int, body: bytes = b"") -> bytes:
    """One SSTP data packet with a PPP control packet (RFC 1661 5)."""
    return data(protocol, struct.pack(">BBH", code, identifier, 4 + len(body)) + body)


@dataclass(frozen=True)
class Packet:
    """One SSTP packet that came: `kind` is the message type of a control packet, 0 for data."""

    kind: int
    body: bytes

    @property
    def status(self) -> int:
        """The status of the first Status Info attribute (MS-SSTP 2.2.7); -1 when there is none."""
        attributes = self.body[4:]
        if len(attributes) >= 12 and attributes[1] == 2:
            return int.from_bytes(attributes[8:12], "big")
        return -1

    @property
    def complaint(self) -> tuple[int, int, bytes]:
        """(attribute complained about, status, value) of the first Status Info."""
        attributes = self.body[4:]
        length = int.from_bytes(attributes[2:4], "big") & 0x0FFF
        return attributes[7], self.status, attributes[12:length]

    @property
    def protocol(self) -> int:
        """PPP protocol of a data packet."""
        return int.from_bytes(self.body[2:4], "big") if self.kind == 0 else -1

    @property
    def information(self) -> bytes:
        """PPP information field of a data packet."""
        return self.body[4:]

    @property
    def code(self) -> int:
        """Code of a PPP control packet."""
        return self.body[4]

    @property
    def identifier(self) -> int:
        """Identifier of a PPP control packet."""
        return self.body[5]

    @property
    def options(self) -> bytes:
        """What follows code, identifier and length in a PPP control packet."""
        return self.body[8 : 4 + int.from_bytes(self.body[6:8], "big")]


def options(data: bytes) -> dict[int, bytes]:
    """PPP configuration options by type (RFC 1661 6)."""
    found = {}
    while len(data) >= 2 and 2 <= data[1] <= len(data):
        found[data[0]] = data[2 : data[1]]
        data = data[data[1] :]
    return found
