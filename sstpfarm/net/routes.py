"""Routes on a session's interface."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

from sstpfarm.net.netlink import NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, Netlink, Request, attribute, check, number

# linux/rtnetlink.h
RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTA_DST: Final = 1
RTA_OIF: Final = 4
RTA_GATEWAY: Final = 5
RTA_PRIORITY: Final = 6
RT_TABLE_MAIN: Final = 254
RTPROT_SSTPFARM: Final = 115  # ours, as in `links`
RT_SCOPE_UNIVERSE: Final = 0
RT_SCOPE_LINK: Final = 253
RTN_UNICAST: Final = 1
RTNH_F_ONLINK: Final = 4  # the gateway is on the link, whatever the addresses say
_ROUTE: Final = struct.Struct("=BBBBBBBBI")  # struct rtmsg: family, lengths, TOS, table, protocol, scope, type, flags

Network = IPv4Network | IPv6Network
Gateway = IPv4Address | IPv6Address


def add_route(
    netlink: Netlink, index: int, network: Network, gateway: Gateway | None, metric: int, *, first: bool = False
) -> bool:
    """Add a route to the main table; False when one of that network and metric was there already.

    Then ours waits behind the others and serves when they are gone, or before them with `first`; IPv6 knows no such
    thing, there it waits. The interface must be up. A gateway needs no address on it.

    Raises:
        OSError: the kernel refuses.
    """
    body = _body(index, network, gateway, metric)
    code = _send(netlink, (RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body))
    alone = code != errno.EEXIST
    if not alone:
        code = _send(netlink, (RTM_NEWROUTE, NLM_F_CREATE | (0 if first else NLM_F_APPEND), body))
    if code:
        raise OSError(code, os.strerror(code))
    return alone


def delete_routes(netlink: Netlink, index: int, routes: Sequence[tuple[Network, Gateway | None, int]]) -> None:
    """Delete routes of an interface; one that is gone already is no error.

    They would go with the interface, but then the kernel looks for them among all routes, of all sessions.

    Raises:
        OSError: the kernel refuses one.
    """
    requests = [(RTM_DELROUTE, 0, _body(index, *route)) for route in routes]
    check(netlink.send(requests), ignore=errno.ESRCH)


def _send(netlink: Netlink, request: Request) -> int:
    return netlink.send([request]).get(0, 0)


def _body(index: int, network: Network, gateway: Gateway | None, metric: int) -> bytes:
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    scope, flags = (RT_SCOPE_LINK, 0) if gateway is None else (RT_SCOPE_UNIVERSE, RTNH_F_ONLINK)
    head = _ROUTE.pack(family, network.prefixlen, 0, 0, RT_TABLE_MAIN, RTPROT_SSTPFARM, scope, RTN_UNICAST, flags)
    body = head + attribute(RTA_DST, network.network_address.packed) + number(RTA_OIF, index)
    if gateway is not None:
        body += attribute(RTA_GATEWAY, gateway.packed)
    return body + number(RTA_PRIORITY, metric)
