"""Proxy ARP entries: an interface of a LAN answers for addresses that are reached through another interface (arp(7)).

The kernel answers only where it forwards, with a random delay of up to 0.8 s (net.ipv4.neigh.IF.proxy_delay).
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import Final

from sstpfarm.net.netlink import NLM_F_CREATE, Netlink, Request, attribute, attributes, check

# linux/rtnetlink.h, linux/neighbour.h
RTM_NEWNEIGH: Final = 28
RTM_DELNEIGH: Final = 29
RTM_GETNEIGH: Final = 30
NTF_PROXY: Final = 0x08
NUD_PERMANENT: Final = 0x80
NDA_DST: Final = 1
NDA_PROTOCOL: Final = 12  # who made it: since Linux 5.0
RTPROT_SSTPFARM: Final = 115  # ours, as in `links`
_NEIGHBOUR: Final = struct.Struct("=BxxxiHBB")  # struct ndmsg: family, index, state, flags, type


def add_proxies(netlink: Netlink, address: IPv4Address, interfaces: Sequence[int]) -> None:
    """Have these interfaces, given by index, answer ARP for an address.

    Raises:
        OSError: the kernel refuses one; the others answer.
    """
    body = attribute(NDA_DST, address.packed) + attribute(NDA_PROTOCOL, bytes((RTPROT_SSTPFARM,)))
    check(netlink.send([_request(RTM_NEWNEIGH, NLM_F_CREATE, index, body) for index in interfaces]))


def delete_proxies(netlink: Netlink, address: IPv4Address, interfaces: Sequence[int]) -> None:
    """Have them answer no more; an entry or an interface that is gone already is no error.

    Raises:
        OSError: the kernel refuses one.
    """
    body = attribute(NDA_DST, address.packed)
    failed = netlink.send([_request(RTM_DELNEIGH, 0, index, body) for index in interfaces])
    check({position: code for position, code in failed.items() if code not in (errno.ENOENT, errno.ENODEV)})


def delete_leftovers() -> int:
    """Delete all entries that a farm has made which was killed; return how many there were.

    Raises:
        OSError: the kernel refuses.
    """
    found = 0
    netlink = Netlink(socket.NETLINK_ROUTE)
    try:
        for message in netlink.dump(_request(RTM_GETNEIGH, 0, 0, b"")):
            family, index, _, flags, _ = _NEIGHBOUR.unpack_from(message)
            facts = attributes(message[_NEIGHBOUR.size :])
            if family == socket.AF_INET and flags & NTF_PROXY and facts.get(NDA_PROTOCOL) == bytes((RTPROT_SSTPFARM,)):
                delete_proxies(netlink, IPv4Address(facts[NDA_DST]), [index])
                found += 1
    finally:
        netlink.close()
    return found


def _request(action: int, flags: int, index: int, body: bytes) -> Request:
    return action, flags, _NEIGHBOUR.pack(socket.AF_INET, index, NUD_PERMANENT, NTF_PROXY, 0) + body
