"""rtnetlink(7) requests of the session path: laid out by struct, several to a datagram, answered when `send` returns.

The kernel carries a route request out in the context of the sender, so its acknowledgement waits in the socket as soon
as the datagram was sent: nothing is awaited here, and nothing else can come in between. What is rare, or has to be
read out of answers, is left to pyroute2 (`links`).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Final

# linux/netlink.h
NLMSG_ERROR: Final = 2
NLM_F_REQUEST: Final = 0x1
NLM_F_ACK: Final = 0x4
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
NLA_F_NESTED: Final = 0x8000
SOL_NETLINK: Final = 270
NETLINK_CAP_ACK: Final = 10  # an error does not bring the request back
# linux/rtnetlink.h
RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
# linux/if_link.h, linux/if_addr.h
IFLA_ADDRESS: Final = 1
IFLA_MTU: Final = 4
IFLA_TXQLEN: Final = 13
IFLA_AF_SPEC: Final = 26
IFLA_GROUP: Final = 27
IFLA_INET6_ADDR_GEN_MODE: Final = 8
IN6_ADDR_GEN_MODE_NONE: Final = 1
IFA_ADDRESS: Final = 1
IFA_LOCAL: Final = 2
IFA_FLAGS: Final = 8
IFA_F_NODAD: Final = 0x02
IFF_UP: Final = 0x1  # linux/if.h

SO_RCVBUFFORCE: Final = 33  # asm-generic/socket.h
ANSWERS: Final = 1 << 20  # bytes for the errors of one datagram: about 1 KiB each with the kernel's own
ANSWER: Final = 4096  # bytes that one acknowledgement may have; it has 36
PATIENCE_S: Final = 5  # for an acknowledgement that is there already; a kernel that owes one is broken
_HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_ERROR: Final = struct.Struct("=i")  # struct nlmsgerr
_LINK: Final = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
_ADDRESS: Final = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix length, flags, scope, index
_ATTRIBUTE: Final = struct.Struct("=HH")  # struct nlattr
_NUMBER_ATTRIBUTE: Final = struct.Struct("=HHI")
_TIMEVAL: Final = struct.Struct("ll")

NO_ADDRESS: Final = errno.EADDRNOTAVAIL  # of `delete_any_ipv4`

Request = tuple[int, int, bytes]
"""Type, flags beside NLM_F_REQUEST, and body of one message."""


class Rtnetlink:
    """A NETLINK_ROUTE socket."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._sock.bind((0, 0))
        self._sock.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        self._sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ANSWERS)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(PATIENCE_S, 0))
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def send(self, requests: Sequence[Request]) -> dict[int, int]:
        """Have the requests carried out, in order, in one datagram; one that fails does not stop those behind it.

        Returns:
            The errno of each request that failed, by its position.

        Raises:
            OSError: the datagram was refused, or the acknowledgement does not come.
        """
        first = self._sequence + 1
        self._sequence += len(requests)
        last = self._sequence
        datagram = bytearray()
        for sequence, (kind, flags, body) in enumerate(requests, first):
            asked = NLM_F_REQUEST | flags | (NLM_F_ACK if sequence == last else 0)  # an error is always told
            datagram += _HEADER.pack(_HEADER.size + len(body), kind, asked, sequence & 0xFFFFFFFF, 0) + body
        self._sock.send(datagram)
        failed: dict[int, int] = {}
        while True:
            answer = self._sock.recv(ANSWER)
            _, kind, _, sequence, _ = _HEADER.unpack_from(answer)
            position = sequence - (first & 0xFFFFFFFF) & 0xFFFFFFFF
            if kind != NLMSG_ERROR or position >= len(requests):
                continue  # of a datagram whose answer nobody waited for
            (code,) = _ERROR.unpack_from(answer, _HEADER.size)
            if code:
                failed[position] = -code
            if position == len(requests) - 1:
                return failed


def check(failed: Mapping[int, int], *, ignore: int = 0) -> None:
    """Raise OSError of the first request that failed, except with errno `ignore`."""
    for position in sorted(failed):
        if failed[position] != ignore:
            raise OSError(failed[position], os.strerror(failed[position]))


def change_link(index: int, *, up: bool | None = None, attributes: bytes = b"") -> Request:
    """Return the request that sets attributes of a link, then takes it up or down."""
    flags, mask = (0, 0) if up is None else (IFF_UP if up else 0, IFF_UP)
    return RTM_NEWLINK, 0, _LINK.pack(socket.AF_UNSPEC, 0, index, flags, mask) + attributes


def delete_group(group: int) -> Request:
    """Return the request that deletes all links of a group; ENODEV when there is none."""
    return RTM_DELLINK, 0, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + number(IFLA_GROUP, group)


def add_ipv4(index: int, local: bytes, remote: bytes) -> Request:
    """Return the request that gives a link its address and the peer's, with the route to the peer."""
    body = _ADDRESS.pack(socket.AF_INET, 32, 0, 0, index) + attribute(IFA_LOCAL, local)
    return RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body + attribute(IFA_ADDRESS, remote)


def add_ipv6(index: int, address: bytes, prefix: int) -> Request:
    """Return the request that gives a link an IPv6 address, without duplicate detection (which would delay it)."""
    body = _ADDRESS.pack(socket.AF_INET6, prefix, 0, 0, index) + attribute(IFA_ADDRESS, address)
    return RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body + number(IFA_FLAGS, IFA_F_NODAD)


def delete_any_ipv4(index: int) -> Request:
    """Return the request that deletes the link's first IPv4 address, whatever it is; NO_ADDRESS without any."""
    return RTM_DELADDR, 0, _ADDRESS.pack(socket.AF_INET, 0, 0, 0, index)


def attribute(kind: int, value: bytes) -> bytes:
    """Return one attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def number(kind: int, value: int) -> bytes:
    """Return one attribute that is a 32-bit number."""
    return _NUMBER_ATTRIBUTE.pack(_NUMBER_ATTRIBUTE.size, kind, value)


QUIET_IPV6: Final = attribute(
    NLA_F_NESTED | IFLA_AF_SPEC,
    attribute(NLA_F_NESTED | socket.AF_INET6, attribute(IFLA_INET6_ADDR_GEN_MODE, bytes((IN6_ADDR_GEN_MODE_NONE,)))),
)
"""The attribute with which the kernel makes no IPv6 address of its own."""
