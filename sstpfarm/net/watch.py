"""Whose interfaces others route over: what rtnetlink(7) tells of new routes and next hops that are not ours.

A filter in the kernel (BPF) passes on what nobody here did, so reading it costs a farm that is alone with its
interfaces one system call that finds nothing.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from contextlib import suppress
from typing import Final

from sstpfarm.net.netlink import SO_RCVBUFFORCE, attributes
from sstpfarm.net.rtnetlink import (
    MULTICAST,
    RT_TABLE_LOCAL,
    RTA_DST,
    RTA_OIF,
    RTM_NEWROUTE,
    RTPROT_KERNEL,
    RTPROT_SSTPFARM,
)

# linux/rtnetlink.h, linux/nexthop.h
RTM_NEWNEXTHOP: Final = 104
RTMGRP_IPV4_ROUTE: Final = 0x40
RTMGRP_IPV6_ROUTE: Final = 0x400
RTNLGRP_NEXTHOP: Final = 32
GROUPS: Final = RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE | 1 << (RTNLGRP_NEXTHOP - 1)
RTA_MULTIPATH: Final = 9
NHA_OIF: Final = 5
SO_ATTACH_FILTER: Final = 26  # asm-generic/socket.h
WAITING: Final = 1 << 20  # bytes of notices
MOST: Final = 1024  # notices that are read at once; more come of somebody who loads a full table
NOTICE: Final = 1 << 16  # bytes of one notice
_HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr
_ROUTE: Final = struct.Struct("=8BI")  # struct rtmsg: family, lengths, TOS, table, protocol, scope, type, flags
_NEXT_HOP: Final = 8  # bytes of struct nhmsg
_HOP: Final = struct.Struct("=HBBi")  # struct rtnexthop: length, flags, hops, index
_INDEX: Final = struct.Struct("=i")
_PROGRAM: Final = struct.Struct("HP")  # struct sock_fprog, with its padding
_INSTRUCTION: Final = struct.Struct("=HBBI")  # struct sock_filter: code, steps if true, steps if false, value
_HALF, _BYTE, _EQUAL, _RETURN = 0x28, 0x30, 0x15, 0x06  # linux/bpf_common.h: loads from the start, jump, return


def _filter() -> bytes:
    """The program: a notice of a new next hop passes, and of a new route that is neither ours nor of an IPv4 address.

    An IPv6 route of the kernel's own passes: it comes with an address, or from a router.
    """
    new_route, new_hop = (int.from_bytes(struct.pack("=H", kind), "big") for kind in (RTM_NEWROUTE, RTM_NEWNEXTHOP))
    lines = (
        (_HALF, 0, 0, 4),  # nlmsg_type, which a half-word load takes for big-endian
        (_EQUAL, 7, 0, new_hop),
        (_EQUAL, 0, 5, new_route),
        (_BYTE, 0, 0, 21),  # rtm_protocol
        (_EQUAL, 3, 0, RTPROT_SSTPFARM),
        (_EQUAL, 0, 3, RTPROT_KERNEL),
        (_BYTE, 0, 0, 16),  # rtm_family
        (_EQUAL, 0, 1, socket.AF_INET),
        (_RETURN, 0, 0, 0),
        (_RETURN, 0, 0, 0xFFFF_FFFF),
    )
    return b"".join(_INSTRUCTION.pack(*line) for line in lines)


class RouteWatch:
    """One netlink socket that hears of them. OSError when it cannot be opened.

    Attributes:
        multicast: indexes of interfaces that got nothing but the kernel's own ff00::/8, as the last `seen` heard.
    """

    def __init__(self) -> None:
        self._sock = _listen()
        self._notice = bytearray(NOTICE)
        self.multicast: set[int] = set()

    def close(self) -> None:
        """Hear nothing any more."""
        self._sock.close()

    def seen(self) -> set[int] | None:
        """Return the indexes of interfaces that got a route or a next hop of others since the last call.

        None when notices were lost, or there were too many: it may have been any interface. What was done before the
        call is in what it returns: the kernel tells of a route before it tells who asked for it.

        Raises:
            OSError: the socket cannot be opened anew.
        """
        found: set[int] = set()
        multicast: set[int] = set()
        self.multicast = set()
        for _ in range(MOST):
            try:
                length = self._sock.recv_into(self._notice)
                notice = bytes(self._notice[:length])
                (multicast if _is_multicast(notice) else found).update(_interfaces(notice))
            except BlockingIOError:
                self.multicast = multicast - found
                return found
            except OSError:  # ENOBUFS
                break
        self._sock.close()
        self._sock = _listen()
        return None


def _listen() -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    try:
        sock.setblocking(False)
        code = _filter()
        held = ctypes.create_string_buffer(code, len(code))
        program = _PROGRAM.pack(len(code) // _INSTRUCTION.size, ctypes.addressof(held))
        sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, WAITING)
        sock.bind((0, GROUPS))
    except BaseException:
        sock.close()
        raise
    return sock


def _is_multicast(notice: bytes) -> bool:
    """Whether it is of the route that the kernel gives to each interface once it is up and its carrier is seen."""
    if _HEADER.unpack_from(notice)[1] != RTM_NEWROUTE:
        return False
    family, length, _, _, table, protocol, *_ = _ROUTE.unpack_from(notice, _HEADER.size)
    if (family, length, table, protocol) != (socket.AF_INET6, 8, RT_TABLE_LOCAL, RTPROT_KERNEL):
        return False
    return attributes(notice[_HEADER.size + _ROUTE.size :]).get(RTA_DST) == MULTICAST


def _interfaces(notice: bytes) -> set[int]:
    """The interfaces that a notice names."""
    kind = _HEADER.unpack_from(notice)[1]
    facts = attributes(notice[_HEADER.size + (_ROUTE.size if kind == RTM_NEWROUTE else _NEXT_HOP) :])
    oif = facts.get(RTA_OIF if kind == RTM_NEWROUTE else NHA_OIF)
    found = {_INDEX.unpack(oif)[0]} if oif is not None else set()
    hops, at = facts.get(RTA_MULTIPATH, b"") if kind == RTM_NEWROUTE else b"", 0
    with suppress(struct.error):
        while at < len(hops):
            length, _, _, index = _HOP.unpack_from(hops, at)
            found.add(index)
            at += max(_HOP.size, length + 3 & ~3)
    return found
