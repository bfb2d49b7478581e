"""Numbers of PPP: protocols, codes, options and the sizes that bound them (IANA ppp-numbers)."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from sstpfarm.proto.roles import AuthMethod


class PppProtocol(IntEnum):
    """Protocol field numbers (RFC 1661 2) that this project knows by name."""

    IPV4 = 0x0021
    BRIDGED = 0x0031
    MULTILINK = 0x003D
    IPV6 = 0x0057
    IPCP = 0x8021
    BCP = 0x8031
    IPV6CP = 0x8057
    CCP = 0x80FD
    LCP = 0xC021
    PAP = 0xC023
    CHAP = 0xC223
    EAP = 0xC227


class Code(IntEnum):
    """Codes of LCP; the NCPs use 1 to 7 (RFC 1661 5, RFC 1570 2)."""

    CONFIGURE_REQUEST = 1
    CONFIGURE_ACK = 2
    CONFIGURE_NAK = 3
    CONFIGURE_REJECT = 4
    TERMINATE_REQUEST = 5
    TERMINATE_ACK = 6
    CODE_REJECT = 7
    PROTOCOL_REJECT = 8
    ECHO_REQUEST = 9
    ECHO_REPLY = 10
    DISCARD_REQUEST = 11
    IDENTIFICATION = 12
    TIME_REMAINING = 13


class LcpOption(IntEnum):
    """LCP options that are not simply rejected (RFC 1661 6, RFC 1662 7.1, RFC 1990 5.1)."""

    MRU = 1
    ACCM = 2
    AUTHENTICATION = 3
    MAGIC = 5
    PFC = 7
    ACFC = 8
    MRRU = 17
    SHORT_SEQUENCE = 18
    ENDPOINT_DISCRIMINATOR = 19


class IpcpOption(IntEnum):
    """IPCP options that are not simply rejected (RFC 1332 3.3, RFC 1877 1)."""

    ADDRESS = 3
    PRIMARY_DNS = 129
    PRIMARY_NBNS = 130
    SECONDARY_DNS = 131
    SECONDARY_NBNS = 132


class BcpOption(IntEnum):
    """BCP options that are not simply rejected (RFC 3518 5)."""

    MAC_SUPPORT = 3
    TINYGRAM = 4
    MAC_ADDRESS = 6
    TAGGED_FRAMES = 8
    MANAGEMENT_INLINE = 9
    CONTROL_INDICATOR = 10


class Ipv6cpOption(IntEnum):
    """IPV6CP options that are not simply rejected (RFC 5072 4.1)."""

    INTERFACE_IDENTIFIER = 1


NETWORK_DATA: Final = (PppProtocol.IPV4, PppProtocol.IPV6, PppProtocol.BRIDGED)

AUTHENTICATION_VALUES: Final[dict[AuthMethod, bytes]] = {
    AuthMethod.EAP: bytes.fromhex("c227"),  # RFC 3748 2.1, RFC 2284 2.1
    AuthMethod.MSCHAP2: bytes.fromhex("c22381"),  # RFC 2759 2
    AuthMethod.MSCHAP1: bytes.fromhex("c22380"),  # RFC 2433 2
    AuthMethod.CHAP: bytes.fromhex("c22305"),  # RFC 1994 3, MD5
    AuthMethod.PAP: bytes.fromhex("c023"),  # RFC 1334 2.1
}
"""Value of LCP option 3 for each method."""

METHODS_BY_VALUE: Final[dict[bytes, AuthMethod]] = {value: method for method, value in AUTHENTICATION_VALUES.items()}

DEFAULT_MRU: Final = 1500  # RFC 1661 6.1, when the option is not negotiated
MINIMUM_MRU: Final = 576  # what every IPv4 host must be able to receive, RFC 791 3.1
MAXIMUM_MRU: Final = 4087  # 4095 of an SSTP packet less its header, FF 03 and the protocol, MS-SSTP 2.2.1
MINIMUM_MRRU: Final = 1500  # what every system with multilink must be able to put together, RFC 1990 5.1.1
MAXIMUM_MRRU: Final = 16384  # ours: what is put together waits in memory
IPV6_MINIMUM_MTU: Final = 1280  # RFC 8200 5
