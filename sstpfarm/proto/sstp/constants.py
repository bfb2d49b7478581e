"""Numbers and names of MS-SSTP section 2.2."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, IntFlag
from types import MappingProxyType
from typing import Final

VERSION: Final = 0x10  # major 1, minor 0: MS-SSTP 2.2.1
CONTROL_BIT: Final = 0x01  # of the second byte: MS-SSTP 2.2.1
LENGTH_MASK: Final = 0x0FFF  # the upper four bits are reserved: MS-SSTP 2.2.1 and 2.2.4
MAX_PACKET: Final = LENGTH_MASK
HEADER_LENGTH: Final = 4  # MS-SSTP 2.2.1
CONTROL_HEADER_LENGTH: Final = 8  # header, message type, number of attributes: MS-SSTP 2.2.2
ATTRIBUTE_HEADER_LENGTH: Final = 4  # MS-SSTP 2.2.4

ENCAPSULATED_PROTOCOL_PPP: Final = 0x0001  # MS-SSTP 2.2.5
NONCE_LENGTH: Final = 32  # MS-SSTP 2.2.6
HLAK_LENGTH: Final = 32  # higher-layer authentication key, MS-SSTP 3.2.5.2
STATUS_VALUE_LIMIT: Final = 64  # bytes of a refused attribute that a Status Info repeats: MS-SSTP 2.2.8
NAK_RETRIES: Final = 3  # Call Connect Naks before the call is aborted; Windows allows as many


class MessageType(IntEnum):
    """Control messages (MS-SSTP 2.2.2)."""

    CALL_CONNECT_REQUEST = 0x0001
    CALL_CONNECT_ACK = 0x0002
    CALL_CONNECT_NAK = 0x0003
    CALL_CONNECTED = 0x0004
    CALL_ABORT = 0x0005
    CALL_DISCONNECT = 0x0006
    CALL_DISCONNECT_ACK = 0x0007
    ECHO_REQUEST = 0x0008
    ECHO_RESPONSE = 0x0009


class AttributeId(IntEnum):
    """Attributes of control messages (MS-SSTP 2.2.4)."""

    NO_ERROR = 0x00  # only as the AttribID of a Status Info that is about no attribute
    ENCAPSULATED_PROTOCOL_ID = 0x01
    STATUS_INFO = 0x02
    CRYPTO_BINDING = 0x03
    CRYPTO_BINDING_REQ = 0x04


ATTRIBUTE_LENGTHS: Final[Mapping[int, int]] = MappingProxyType(
    {
        AttributeId.ENCAPSULATED_PROTOCOL_ID: 6,  # MS-SSTP 2.2.5
        AttributeId.STATUS_INFO: 12,  # and the refused value, MS-SSTP 2.2.8
        AttributeId.CRYPTO_BINDING: 104,  # MS-SSTP 2.2.7
        AttributeId.CRYPTO_BINDING_REQ: 40,  # MS-SSTP 2.2.6
    }
)
"""Length of each attribute, its header included; of a Status Info the least."""


class Status(IntEnum):
    """Status codes of a Status Info (MS-SSTP 2.2.8)."""

    NO_ERROR = 0x00
    DUPLICATE_ATTRIBUTE = 0x01
    UNRECOGNIZED_ATTRIBUTE = 0x02
    INVALID_ATTRIB_VALUE_LENGTH = 0x03
    VALUE_NOT_SUPPORTED = 0x04
    UNACCEPTED_FRAME_RECEIVED = 0x05
    RETRY_COUNT_EXCEEDED = 0x06
    INVALID_FRAME_RECEIVED = 0x07
    NEGOTIATION_TIMEOUT = 0x08
    ATTRIB_NOT_SUPPORTED_IN_MSG = 0x09
    REQUIRED_ATTRIBUTE_MISSING = 0x0A
    STATUS_INFO_NOT_SUPPORTED_IN_MSG = 0x0B


class HashProtocol(IntFlag):
    """Hash of the crypto binding: one bit in Call Connected, a mask in Call Connect Ack (MS-SSTP 2.2.6, 2.2.7)."""

    SHA1 = 0x01
    SHA256 = 0x02
