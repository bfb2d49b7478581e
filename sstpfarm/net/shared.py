"""The gateway addresses that sessions share, as local addresses of the machine whatever interfaces have them.

The kernel keeps a list of all local routes to an address, one of each interface that has it, and looks through it when
one comes or goes. So an address that sessions have is routed to one interface of ours, through which nothing is sent;
the sessions' interfaces have the address, but no local route to it (`LinkPlan.shared`; docs/adr/0016).

It is no interface that others take down, as `lo` at times is: an address that goes from an interface, and is no local
one by then, takes along all routes that have it as their source, which are the ways to all peers.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from typing import Final

from sstpfarm.net.groups import GATEWAY_GROUP
from sstpfarm.net.links import IPV6_MIN_MTU
from sstpfarm.net.netlink import Netlink, check, number
from sstpfarm.net.rtnetlink import (
    IFLA_GROUP,
    IFLA_MTU,
    IFLA_TXQLEN,
    RTM_DELROUTE,
    RTM_NEWROUTE,
    change_link,
    local_route,
)
from sstpfarm.net.tun import make_tun

NAME: Final = "sstpgw"
MTU: Final = IPV6_MIN_MTU - 1  # no IPv6


class SharedAddresses:
    """One interface that goes with this process.

    Raises:
        SystemRefusal: there is an interface of that name, or no TUN device is to be had.
        OSError: the kernel refused.
    """

    def __init__(self) -> None:
        self._sessions: dict[ipaddress.IPv4Address, int] = {}  # how many have that address
        self._netlink = Netlink(socket.NETLINK_ROUTE)
        try:
            self._tun = make_tun(NAME)
        except BaseException:
            self._netlink.close()
            raise
        try:
            self._index = socket.if_nametoindex(NAME)
            # Nothing is sent through it; what a program tries to send is dropped, since no packet may wait.
            attributes = number(IFLA_MTU, MTU) + number(IFLA_TXQLEN, 0) + number(IFLA_GROUP, GATEWAY_GROUP)
            check(self._netlink.send([change_link(self._index, up=True, attributes=attributes)]))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Delete it; no interface may have one of the addresses any more."""
        self._netlink.close()
        os.close(self._tun)

    def enter(self, address: ipaddress.IPv4Address) -> bool:
        """Before an interface gets that address; False when the kernel refuses, and the interface needs a route."""
        if address not in self._sessions:
            route = local_route(RTM_NEWROUTE, self._index, address.packed)
            if self._netlink.send([route]).get(0, 0) not in (0, errno.EEXIST):
                return False
            self._sessions[address] = 0
        self._sessions[address] += 1
        return True

    def leave(self, address: ipaddress.IPv4Address) -> None:
        """An interface that had it has it no more: once for each `enter` that returned True."""
        self._sessions[address] -= 1
        if not self._sessions[address]:
            del self._sessions[address]
            self._netlink.send([local_route(RTM_DELROUTE, self._index, address.packed)])
