"""Codec of SSTP packets: bytes to typed messages and back, and what is wrong with a message's attributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from sstpfarm.errors import LocalError, PeerError
from sstpfarm.proto.sstp.constants import (
    ATTRIBUTE_HEADER_LENGTH,
    ATTRIBUTE_LENGTHS,
    CONTROL_BIT,
    CONTROL_HEADER_LENGTH,
    ENCAPSULATED_PROTOCOL_PPP,
    HEADER_LENGTH,
    LENGTH_MASK,
    MAX_PACKET,
    NONCE_LENGTH,
    STATUS_VALUE_LIMIT,
    VERSION,
    AttributeId,
    MessageType,
    Status,
)
from sstpfarm.reasons import Reason

ATTRIBUTES_LIMIT: Final = 64  # of one message, ours: what real peers send has one, or a few Status Infos
COMPLAINTS_LIMIT: Final = 8  # Status Infos in one answer: keeps a Nak of ours small, whatever the request holds

REQUIRED: Final[Mapping[MessageType, AttributeId | None]] = MappingProxyType(
    {
        MessageType.CALL_CONNECT_REQUEST: AttributeId.ENCAPSULATED_PROTOCOL_ID,
        MessageType.CALL_CONNECT_ACK: AttributeId.CRYPTO_BINDING_REQ,
        MessageType.CALL_CONNECTED: AttributeId.CRYPTO_BINDING,
        MessageType.CALL_DISCONNECT_ACK: None,
        MessageType.ECHO_REQUEST: None,
        MessageType.ECHO_RESPONSE: None,
    }
)
"""The one attribute of each message whose attributes are checked (MS-SSTP 2.2.9 to 2.2.17)."""

TOLERANT: Final = frozenset({MessageType.CALL_CONNECT_NAK, MessageType.CALL_ABORT, MessageType.CALL_DISCONNECT})
"""Messages that only tell why. They hold whatever their attributes look like: SoftEther and sstpc send none, and
accel-ppp's Nak has an inner length that is two short."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute: its id and its value, without the 4-byte header (MS-SSTP 2.2.4)."""

    id: int
    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ControlMessage:
    """One control packet, whatever its type (MS-SSTP 2.2.2)."""

    type: int
    attributes: tuple[Attribute, ...] = ()

    def encode(self) -> bytes:
        """Return the whole packet, header included.

        Raises:
            LocalError: a number or the packet is too large for its field.
        """
        body = bytearray()
        for attribute in self.attributes:
            length = ATTRIBUTE_HEADER_LENGTH + len(attribute.value)
            if length > LENGTH_MASK or not 0 <= attribute.id <= 0xFF:
                raise LocalError("an SSTP attribute does not fit its fields")
            body += bytes((0, attribute.id)) + length.to_bytes(2, "big") + attribute.value
        if not 0 <= self.type <= 0xFFFF:
            raise LocalError("an SSTP message type does not fit its field")
        head = self.type.to_bytes(2, "big") + len(self.attributes).to_bytes(2, "big")
        return _header(CONTROL_BIT, len(head) + len(body)) + head + body

    def find(self, attribute_id: int) -> Attribute | None:
        """Return the first attribute with that id."""
        return next((attribute for attribute in self.attributes if attribute.id == attribute_id), None)


@dataclass(frozen=True, slots=True)
class StatusInfo:
    """A Status Info attribute: which attribute it is about (0: none), the status, the refused value (MS-SSTP 2.2.8)."""

    attribute: int
    status: int
    value: bytes = field(default=b"", repr=False)

    def encode(self) -> Attribute:
        """Return the attribute; of the refused value at most 64 bytes."""
        head = bytes((0, 0, 0, self.attribute)) + self.status.to_bytes(4, "big")
        return Attribute(AttributeId.STATUS_INFO, head + self.value[:STATUS_VALUE_LIMIT])

    def __str__(self) -> str:
        """Return it for a log: numbers with their names, no value."""
        text = f"status {self.status} ({_name(Status, self.status)})"
        return (
            f"{text} for attribute {self.attribute} ({_name(AttributeId, self.attribute)})" if self.attribute else text
        )


# -- decode ----------------------------------------------------------------------------------------------------------


def decode_control(packet: bytes) -> ControlMessage:
    """Return the control message in `packet`, which is one whole SSTP packet. Bytes behind the last attribute and
    reserved bits are ignored.

    Raises:
        PeerError: BAD_FRAMING when version, C bit or length are wrong (MS-SSTP 2.2.1: drop the connection);
            MALFORMED_MESSAGE when the attributes do not fit into the packet, or are more than 64; of a tolerant message
            the first ones are returned.
    """
    _check_header(packet, CONTROL_BIT, CONTROL_HEADER_LENGTH)
    message_type = int.from_bytes(packet[4:6], "big")
    count = int.from_bytes(packet[6:8], "big")
    attributes: list[Attribute] = []
    position = CONTROL_HEADER_LENGTH
    if count > ATTRIBUTES_LIMIT and message_type not in TOLERANT:
        raise PeerError(f"a message with {count} attributes", spec="MS-SSTP 2.2.2")
    for _ in range(min(count, ATTRIBUTES_LIMIT)):
        value_at = position + ATTRIBUTE_HEADER_LENGTH
        end = position + (int.from_bytes(packet[position + 2 : value_at], "big") & LENGTH_MASK)
        # each round either takes at least the attribute's header or ends the loop
        if not value_at <= end <= len(packet):
            if message_type in TOLERANT:
                break
            raise PeerError(f"attribute {len(attributes) + 1} of {count} has a wrong length", spec="MS-SSTP 2.2.4")
        attributes.append(Attribute(packet[position + 1], packet[value_at:end]))
        position = end
    return ControlMessage(message_type, tuple(attributes))


def decode_data(packet: bytes) -> bytes:
    """Return the PPP frame of a data packet (MS-SSTP 2.2.3).

    Raises:
        PeerError: BAD_FRAMING.
    """
    _check_header(packet, 0, HEADER_LENGTH)
    return packet[HEADER_LENGTH:]


def status_of(message: ControlMessage) -> StatusInfo | None:
    """Return what the first Status Info of a message says, if there is a readable one."""
    attribute = message.find(AttributeId.STATUS_INFO)
    if attribute is None or len(attribute.value) < ATTRIBUTE_LENGTHS[AttributeId.STATUS_INFO] - ATTRIBUTE_HEADER_LENGTH:
        return None
    return StatusInfo(attribute.value[3], int.from_bytes(attribute.value[4:8], "big"), attribute.value[8:])


def complaints(message: ControlMessage) -> tuple[StatusInfo, ...]:
    """Return what is wrong with the attributes of a message, in their order, at most 8; () when all is well.

    A message whose type is unknown or tolerant has nothing to complain about.

    Spec: MS-SSTP 2.2.8 for the status codes, 3.3.1.1.1 for what makes a Call Connect Request acceptable.
    """
    if message.type in TOLERANT or message.type not in REQUIRED:
        return ()
    required = REQUIRED[MessageType(message.type)]
    found: list[StatusInfo] = []
    seen: set[int] = set()
    for attribute in message.attributes:
        status = _judge(attribute, required, seen)
        seen.add(attribute.id)
        if status is not Status.NO_ERROR:
            found.append(StatusInfo(attribute.id, status, attribute.value))
        if len(found) == COMPLAINTS_LIMIT:
            return tuple(found)
    if required is not None and required not in seen:
        found.append(StatusInfo(required, Status.REQUIRED_ATTRIBUTE_MISSING))
    return tuple(found)


def _judge(attribute: Attribute, required: AttributeId | None, seen: set[int]) -> Status:
    length = ATTRIBUTE_LENGTHS.get(attribute.id)
    if length is None:
        return Status.UNRECOGNIZED_ATTRIBUTE
    if attribute.id in seen:
        return Status.DUPLICATE_ATTRIBUTE
    actual = ATTRIBUTE_HEADER_LENGTH + len(attribute.value)
    if attribute.id == AttributeId.STATUS_INFO:
        if actual < length:
            return Status.INVALID_ATTRIB_VALUE_LENGTH
        # a Status Info that reports no error is harmless in any message
        return Status.STATUS_INFO_NOT_SUPPORTED_IN_MSG if any(attribute.value[4:8]) else Status.NO_ERROR
    if attribute.id != required:
        return Status.ATTRIB_NOT_SUPPORTED_IN_MSG
    if actual != length:
        return Status.INVALID_ATTRIB_VALUE_LENGTH
    if required == AttributeId.ENCAPSULATED_PROTOCOL_ID and attribute.value != _PPP:
        return Status.VALUE_NOT_SUPPORTED
    return Status.NO_ERROR


# -- encode ----------------------------------------------------------------------------------------------------------

_PPP: Final = ENCAPSULATED_PROTOCOL_PPP.to_bytes(2, "big")

CALL_CONNECT_REQUEST: Final = ControlMessage(
    MessageType.CALL_CONNECT_REQUEST, (Attribute(AttributeId.ENCAPSULATED_PROTOCOL_ID, _PPP),)
)
CALL_DISCONNECT_ACK: Final = ControlMessage(MessageType.CALL_DISCONNECT_ACK)
ECHO_REQUEST: Final = ControlMessage(MessageType.ECHO_REQUEST)
ECHO_RESPONSE: Final = ControlMessage(MessageType.ECHO_RESPONSE)


def call_connect_ack(hash_mask: int, nonce: bytes) -> ControlMessage:
    """Return a Call Connect Ack that offers the hashes of `hash_mask` (MS-SSTP 2.2.10)."""
    if len(nonce) != NONCE_LENGTH:
        raise LocalError("a nonce has 32 bytes")
    value = bytes((0, 0, 0, hash_mask)) + nonce
    return ControlMessage(MessageType.CALL_CONNECT_ACK, (Attribute(AttributeId.CRYPTO_BINDING_REQ, value),))


def call_connect_nak(statuses: tuple[StatusInfo, ...]) -> ControlMessage:
    """Return a Call Connect Nak with one Status Info for each refused attribute (MS-SSTP 2.2.12)."""
    return ControlMessage(MessageType.CALL_CONNECT_NAK, tuple(status.encode() for status in statuses))


def call_abort(status: int) -> ControlMessage:
    """Return a Call Abort; always with a Status Info, since sstpc ignores one without (MS-SSTP 2.2.13)."""
    return ControlMessage(MessageType.CALL_ABORT, (StatusInfo(AttributeId.NO_ERROR, status).encode(),))


def call_disconnect(status: int) -> ControlMessage:
    """Return a Call Disconnect; always with a Status Info, since sstpc ignores one without (MS-SSTP 2.2.14)."""
    return ControlMessage(MessageType.CALL_DISCONNECT, (StatusInfo(AttributeId.NO_ERROR, status).encode(),))


def encode_data(ppp_frame: bytes) -> bytes:
    """Return the data packet that carries one PPP frame of at most 4091 bytes (MS-SSTP 2.2.3).

    Raises:
        LocalError: the frame is longer.
    """
    return _header(0, len(ppp_frame)) + ppp_frame


def _header(control: int, payload_length: int) -> bytes:
    length = HEADER_LENGTH + payload_length
    if length > MAX_PACKET:
        raise LocalError(f"an SSTP packet of {length} bytes is too long")
    return bytes((VERSION, control)) + length.to_bytes(2, "big")


def _check_header(packet: bytes, control: int, least: int) -> None:
    if len(packet) < least:
        raise PeerError("a packet is shorter than its header", reason=Reason.BAD_FRAMING, spec="MS-SSTP 2.2.1")
    if packet[0] != VERSION or packet[1] & CONTROL_BIT != control:
        raise PeerError("a packet has a wrong version or C bit", reason=Reason.BAD_FRAMING, spec="MS-SSTP 2.2.1")
    if int.from_bytes(packet[2:4], "big") & LENGTH_MASK != len(packet):
        raise PeerError("a packet's length field is wrong", reason=Reason.BAD_FRAMING, spec="MS-SSTP 2.2.1")


def _name(names: type[Status] | type[AttributeId], number: int) -> str:
    return names(number).name if number in names.__members__.values() else "unknown"
