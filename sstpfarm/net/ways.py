"""The main routing tables as the kernel lists them, and the way that an address would go without our own routes.

The kernel answers only how a packet would go now. A tunnel's own routes hide the way to its server, which has to be
watched: so the routes are listed, and the longest match is looked for here.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import dataclass
from typing import Final

from sstpfarm.net.links import IpAddress, IpNetwork
from sstpfarm.net.netlink import Netlink, attributes
from sstpfarm.net.rtnetlink import RT_TABLE_MAIN, RTN_UNICAST

RTM_GETROUTE: Final = 26  # linux/rtnetlink.h
RTPROT_CLIENT: Final = 116  # ours: routes of `sstpfarm client`; rt_protos of iproute2 has no other use of it
# linux/rtnetlink.h, enum rtattr_type_t
RTA_DST: Final = 1
RTA_OIF: Final = 4
RTA_GATEWAY: Final = 5
RTA_PRIORITY: Final = 6
RTA_PREFSRC: Final = 7
RTA_MULTIPATH: Final = 9
RTA_TABLE: Final = 15
_ROUTE: Final = struct.Struct("=BBBBBBBBI")  # struct rtmsg
_NEXT_HOP: Final = struct.Struct("=HBBi")  # struct rtnexthop


@dataclass(frozen=True, slots=True)
class Way:
    """A route as the kernel lists it."""

    destination: IpNetwork
    index: int
    gateway: IpAddress | None
    metric: int
    source: IpAddress | None
    protocol: int


def list_ways(version: int) -> list[Way]:
    """Return the unicast routes of the main table of IPv4 or IPv6.

    Raises:
        OSError: the kernel refuses.
    """
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    netlink = Netlink(socket.NETLINK_ROUTE)
    try:
        bodies = netlink.dump((RTM_GETROUTE, 0, _ROUTE.pack(family, 0, 0, 0, RT_TABLE_MAIN, 0, 0, 0, 0)))
    finally:
        netlink.close()
    return [way for body in bodies if (way := _way(body, version)) is not None]


def way_to(address: IpAddress, ways: list[Way], *, without: frozenset[int]) -> Way | None:
    """Return the route that an address would take: the longest prefix, then the lowest metric.

    Args:
        without: protocols of routes that do not count.
    """
    fitting = [way for way in ways if way.protocol not in without and address in way.destination]
    return min(fitting, key=lambda way: (-way.destination.prefixlen, way.metric), default=None)


def _way(body: bytes, version: int) -> Way | None:
    if len(body) < _ROUTE.size:
        return None
    _, length, _, _, table, protocol, _, kind, _ = _ROUTE.unpack_from(body)
    found = attributes(body[_ROUTE.size :])
    if RTA_TABLE in found:
        (table,) = struct.unpack("=I", found[RTA_TABLE])
    if kind != RTN_UNICAST or table != RT_TABLE_MAIN:
        return None
    if RTA_OIF in found:
        index, gateway = struct.unpack("=i", found[RTA_OIF])[0], found.get(RTA_GATEWAY)
    elif RTA_MULTIPATH in found:  # the first of several ways stands for all
        size, _, _, index = _NEXT_HOP.unpack_from(found[RTA_MULTIPATH])
        gateway = attributes(found[RTA_MULTIPATH][_NEXT_HOP.size : size]).get(RTA_GATEWAY)
    else:
        return None
    width = 4 if version == 4 else 16
    destination = ipaddress.ip_address(found.get(RTA_DST, bytes(width)))
    return Way(
        ipaddress.ip_network(f"{destination}/{length}"),
        index,
        ipaddress.ip_address(gateway) if gateway else None,
        struct.unpack("=I", found[RTA_PRIORITY])[0] if RTA_PRIORITY in found else 0,
        ipaddress.ip_address(found[RTA_PREFSRC]) if RTA_PREFSRC in found else None,
        protocol,
    )
