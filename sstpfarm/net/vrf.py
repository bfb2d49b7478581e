"""VRF devices (Documentation/networking/vrf.rst): the addresses and routes of an interface in one are in its table."""

from __future__ import annotations

import os
import socket
import struct
from typing import Final, NamedTuple

from sstpfarm.errors import SystemRefusal
from sstpfarm.net.netlink import Netlink, attributes, check, number
from sstpfarm.net.rtnetlink import change_link

# linux/rtnetlink.h, linux/if_link.h
RTM_GETLINK: Final = 18
IFLA_IFNAME: Final = 3
IFLA_MASTER: Final = 10
IFLA_LINKINFO: Final = 18
IFLA_INFO_KIND: Final = 1
IFLA_INFO_DATA: Final = 2
IFLA_VRF_TABLE: Final = 1
_LINK: Final = struct.Struct("=BxHiII")  # struct ifinfomsg
_NUMBER: Final = struct.Struct("=I")


class Vrf(NamedTuple):
    """A VRF device: the number of its link, and that of its routing table."""

    link: int
    table: int


def find_vrf(name: str) -> Vrf:
    """Return the VRF of that name.

    Raises:
        SystemRefusal: there is none.
    """
    netlink = Netlink(socket.NETLINK_ROUTE)
    try:
        links = netlink.dump((RTM_GETLINK, 0, _LINK.pack(0, 0, 0, 0, 0)))
    except OSError as error:
        raise SystemRefusal(f"vrf {name}: {error.strerror}") from error
    finally:
        netlink.close()
    for body in links:
        found = parse_vrf(body, name)
        if found is not None:
            return found
    raise SystemRefusal(f"there is no VRF {name}; make it first: ip link add {name} type vrf table NUMBER")


def parse_vrf(body: bytes, name: str) -> Vrf | None:
    """Return what one link of the kernel's list is, if it is the VRF of that name."""
    if len(body) < _LINK.size:
        return None
    found = attributes(body[_LINK.size :])
    if found.get(IFLA_IFNAME, b"").rstrip(b"\0") != name.encode():
        return None
    info = attributes(found.get(IFLA_LINKINFO, b""))
    table = attributes(info.get(IFLA_INFO_DATA, b"")).get(IFLA_VRF_TABLE, b"")
    if info.get(IFLA_INFO_KIND, b"").rstrip(b"\0") != b"vrf" or len(table) != _NUMBER.size:
        return None
    return Vrf(_LINK.unpack_from(body)[2], _NUMBER.unpack(table)[0])


def join_vrf(name: str, index: int) -> None:
    """Put the interface of that index into the VRF; do it before it has addresses.

    Raises:
        SystemRefusal: there is no such VRF, or it does not take the interface.
    """
    vrf = find_vrf(name)
    netlink = Netlink(socket.NETLINK_ROUTE)
    try:
        check(netlink.send([change_link(index, attributes=number(IFLA_MASTER, vrf.link))]))
    except OSError as error:
        raise SystemRefusal(f"vrf {name}: {os.strerror(error.errno or 0)}") from error
    finally:
        netlink.close()
