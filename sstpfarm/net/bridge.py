"""Bridges that the operator made: an interface joins one; it leaves when it is deleted.

Joining goes by ioctl(2), not netlink: interfaces of other kinds that take ports (a bond, a VRF) are refused that way.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import sys
from typing import Final

from sstpfarm.errors import SystemRefusal
from sstpfarm.net.netlink import Netlink, attributes
from sstpfarm.net.rtnetlink import (
    IFLA_BR_VLAN_DEFAULT_PVID,
    IFLA_BR_VLAN_FILTERING,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_LINKINFO,
    LINK_HEADER,
    list_bridges,
)

SIOCGIFMTU: Final = 0x8921  # linux/sockios.h
SIOCBRADDIF: Final = 0x89A2
SIOCBRDELIF: Final = 0x89A3
PORT_ADDRESS_FIRST: Final = 0xFE
_IFREQ: Final = struct.Struct("16si20x")  # struct ifreq: name, and a number in its union


def bridge_mtu(bridge: str) -> int:
    """Return the MTU of a bridge: bytes of a frame behind its Ethernet header.

    Raises:
        SystemRefusal: there is no such interface.
    """
    return _ask(SIOCGIFMTU, bridge, 0)


def join_bridge(bridge: str, index: int) -> None:
    """Make the interface of that index a port of the bridge.

    Raises:
        SystemRefusal: there is no such bridge, it is no bridge, or it does not take the interface.
    """
    _ask(SIOCBRADDIF, bridge, index)


def leave_bridge(bridge: str, index: int) -> None:
    """Let the interface of that index be no port of the bridge any more.

    Raises:
        SystemRefusal: there is no such bridge, or the interface is no port of it.
    """
    _ask(SIOCBRDELIF, bridge, index)


def default_vid(netlink: Netlink, bridge: str) -> int:
    """Return the VLAN in which a bridge puts the untagged frames of a new port; 0 for none.

    Raises:
        SystemRefusal: there is no such bridge, or it does not filter VLANs.
        OSError: the kernel refuses the list.
    """
    bridge_mtu(bridge)  # tells whether it is there
    wanted = bridge.encode("ascii") + b"\0"
    for link in netlink.dump(list_bridges()):
        found = attributes(link[LINK_HEADER:])
        if found.get(IFLA_IFNAME) != wanted:
            continue
        settings = attributes(attributes(found.get(IFLA_LINKINFO, b"")).get(IFLA_INFO_DATA, b""))
        if settings.get(IFLA_BR_VLAN_FILTERING, b"\0") == b"\0":  # left out by a kernel without the filter
            raise SystemRefusal(f"bridge {bridge}: it does not filter VLANs (vlan_filtering)")
        return int.from_bytes(settings.get(IFLA_BR_VLAN_DEFAULT_PVID, b""), sys.byteorder)
    raise SystemRefusal(f"bridge {bridge}: it is no bridge")


def port_address() -> bytes:
    """Return an Ethernet address for a port: locally administered, and so high that no bridge takes it for its own.

    A bridge whose address nobody set has the lowest one of its ports: a session must not change it.
    """
    return bytes((PORT_ADDRESS_FIRST, *os.urandom(5)))


def _ask(request: int, bridge: str, number: int) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            answer = fcntl.ioctl(sock, request, _IFREQ.pack(bridge.encode("ascii"), number))
        except OSError as error:
            why = {errno.ENODEV: "there is no such interface", errno.EOPNOTSUPP: "it is no bridge"}
            text = why.get(error.errno or 0, error.strerror)
            raise SystemRefusal(f"bridge {bridge}: {text}") from error
    return int(_IFREQ.unpack(answer)[1])
