"""rtnetlink(7) requests of the session path, laid out by struct for `netlink`.

What is rare, or has to be read out of answers, is left to pyroute2 (`links`).
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from typing import Final

from sstpfarm.net.netlink import (
    NLA_F_NESTED,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Request,
    attribute,
    attributes,
    number,
)

# linux/rtnetlink.h
RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTM_SETLINK: Final = 19
RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTM_GETQDISC: Final = 38
RTA_DST: Final = 1
RTA_OIF: Final = 4
RTA_TABLE: Final = 15
RTPROT_KERNEL: Final = 2  # of routes that come with addresses, or to networks that a router says are on the link
RTPROT_RA: Final = 9  # of routes that the kernel makes as a router advertises
RT_TABLE_MAIN: Final = 254
RT_TABLE_LOCAL: Final = 255
RTPROT_SSTPFARM: Final = 115  # ours; rt_protos of iproute2 has no other use of it
RTN_UNICAST: Final = 1
RTN_LOCAL: Final = 2
RT_SCOPE_HOST: Final = 254
# linux/if_link.h, linux/if_addr.h
IFLA_ADDRESS: Final = 1
IFLA_IFNAME: Final = 3
IFLA_MTU: Final = 4
IFLA_TXQLEN: Final = 13
IFLA_LINKINFO: Final = 18
IFLA_IFALIAS: Final = 20
IFLA_AF_SPEC: Final = 26
IFLA_GROUP: Final = 27
IFLA_EXT_MASK: Final = 29
IFLA_INFO_KIND: Final = 1
IFLA_INFO_DATA: Final = 2
IFLA_BR_VLAN_FILTERING: Final = 7
IFLA_BR_VLAN_DEFAULT_PVID: Final = 39
IFLA_INET6_ADDR_GEN_MODE: Final = 8
IN6_ADDR_GEN_MODE_NONE: Final = 1
IFA_ADDRESS: Final = 1
IFA_LOCAL: Final = 2
IFA_FLAGS: Final = 8
IFA_F_NODAD: Final = 0x02
IFA_F_NOPREFIXROUTE: Final = 0x200
IFF_UP: Final = 0x1  # linux/if.h
IFF_LOWER_UP: Final = 0x10000
RTEXT_FILTER_SKIP_STATS: Final = 8
AF_BRIDGE: Final = 7  # linux/socket.h
TC_H_ROOT: Final = 0xFFFF_FFFF  # linux/pkt_sched.h
TCA_STATS2: Final = 7
TCA_STATS_QUEUE: Final = 3  # linux/gen_stats.h

# linux/if_bridge.h
IFLA_BRIDGE_VLAN_INFO: Final = 2
BRIDGE_VLAN_INFO_PVID: Final = 0x02  # frames that come without a tag belong to it
BRIDGE_VLAN_INFO_UNTAGGED: Final = 0x04  # its frames leave without a tag

_LINK: Final = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
LINK_HEADER: Final = _LINK.size
_ADDRESS: Final = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix length, flags, scope, index
_ROUTE: Final = struct.Struct("=8BI")  # struct rtmsg: family, prefix lengths, tos, table, protocol, scope, type, flags
_VLAN: Final = struct.Struct("=HH")  # struct bridge_vlan_info: flags, VLAN
_QDISC: Final = struct.Struct("=BxxxiIII")  # struct tcmsg: family, index, handle, parent, info
_QUEUE: Final = struct.Struct("=II")  # struct gnet_stats_queue: packets, bytes, and more
MULTICAST: Final = b"\xff" + bytes(15)  # ff00::/8, RFC 4291 2.7

NO_ADDRESS: Final = errno.EADDRNOTAVAIL  # of `delete_any_ipv4`


def change_link(index: int, *, up: bool | None = None, attributes: bytes = b"") -> Request:
    """Return the request that sets attributes of a link, then takes it up or down."""
    flags, mask = (0, 0) if up is None else (IFF_UP if up else 0, IFF_UP)
    return RTM_NEWLINK, 0, _LINK.pack(socket.AF_UNSPEC, 0, index, flags, mask) + attributes


def delete_link(index: int) -> Request:
    """Return the request that deletes a link."""
    return RTM_DELLINK, 0, _LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0)


def delete_group(group: int) -> Request:
    """Return the request that deletes all links of a group; ENODEV when there is none."""
    return RTM_DELLINK, 0, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + number(IFLA_GROUP, group)


def list_bridges() -> Request:
    """Return the request, for `Netlink.dump`, that lists the bridges and no other links."""
    kind = attribute(NLA_F_NESTED | IFLA_LINKINFO, attribute(IFLA_INFO_KIND, b"bridge\0"))
    return RTM_GETLINK, 0, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + kind


def get_link(index: int) -> Request:
    """Return the request, for `Netlink.ask`, for a link without its counters."""
    body = _LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0) + number(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    return RTM_GETLINK, 0, body


def link_state(answer: bytes) -> tuple[bool, dict[int, int]]:
    """Return whether a link is up and has its carrier, and its attributes that are 32-bit numbers."""
    flags = _LINK.unpack_from(answer)[3]
    both = IFF_UP | IFF_LOWER_UP
    numbers = {
        kind: int.from_bytes(value, sys.byteorder)
        for kind, value in attributes(answer[_LINK.size :]).items()
        if len(value) == 4
    }
    return flags & both == both, numbers


def get_qdisc(index: int) -> Request:
    """Return the request, for `Netlink.ask`, for what a link's outermost queueing discipline (tc(8)) is and holds."""
    return RTM_GETQDISC, 0, _QDISC.pack(socket.AF_UNSPEC, index, 0, TC_H_ROOT, 0)


def packets_in_qdisc(answer: bytes) -> int:
    """Return how many packets wait in it and below it; KeyError when the kernel does not say."""
    found = attributes(attributes(answer[_QDISC.size :])[TCA_STATS2])
    packets: int = _QUEUE.unpack_from(found[TCA_STATS_QUEUE])[0]
    return packets


def add_port_vlan(index: int, vid: int) -> Request:
    """Return the request that makes a VLAN that of a port's untagged frames, both ways."""
    return RTM_SETLINK, 0, _port_vlan(index, BRIDGE_VLAN_INFO_PVID | BRIDGE_VLAN_INFO_UNTAGGED, vid)


def delete_port_vlan(index: int, vid: int) -> Request:
    """Return the request that takes a port out of a VLAN; ENOENT when it is not in it."""
    return RTM_DELLINK, 0, _port_vlan(index, 0, vid)


def _port_vlan(index: int, flags: int, vid: int) -> bytes:
    info = attribute(IFLA_BRIDGE_VLAN_INFO, _VLAN.pack(flags, vid))
    return _LINK.pack(AF_BRIDGE, 0, index, 0, 0) + attribute(NLA_F_NESTED | IFLA_AF_SPEC, info)


def add_ipv4(index: int, local: bytes, remote: bytes) -> Request:
    """Return the request that gives a link its address and the peer's, with the route to the peer."""
    body = _ADDRESS.pack(socket.AF_INET, 32, 0, 0, index) + attribute(IFA_LOCAL, local)
    return RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body + attribute(IFA_ADDRESS, remote)


def local_route(kind: int, index: int, address: bytes, protocol: int = RTPROT_SSTPFARM) -> Request:
    """Return the request that adds (RTM_NEWROUTE) or deletes (RTM_DELROUTE) the entry of a link that makes an IPv4
    address one of this machine; of RTPROT_KERNEL is the one that the kernel adds with each address of a link.
    """
    body = _ROUTE.pack(socket.AF_INET, 32, 0, 0, RT_TABLE_LOCAL, protocol, RT_SCOPE_HOST, RTN_LOCAL, 0)
    return kind, NLM_F_CREATE if kind == RTM_NEWROUTE else 0, body + _on_link(index, address)


def add_ipv6(index: int, address: bytes, prefix: int) -> Request:
    """Return the request that gives a link an IPv6 address, without duplicate detection (which would delay it)."""
    body = _ADDRESS.pack(socket.AF_INET6, prefix, 0, 0, index) + attribute(IFA_ADDRESS, address)
    return RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body + number(IFA_FLAGS, IFA_F_NODAD)


def add_ipv6_host(index: int, address: bytes) -> Request:
    """Return the request that gives a link an IPv6 address and no route; where it has it already, nothing changes."""
    body = _ADDRESS.pack(socket.AF_INET6, 128, 0, 0, index) + attribute(IFA_ADDRESS, address)
    return RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body + number(IFA_FLAGS, IFA_F_NODAD | IFA_F_NOPREFIXROUTE)


def host_route(kind: int, index: int, address: bytes) -> Request:
    """Return the request that adds (RTM_NEWROUTE) or deletes (RTM_DELROUTE) the route to an IPv6 address on a link.

    Each link may have one to the same address: clients choose their identifiers, and one that dials again after a loss
    may be there twice. So it is appended; NLM_F_EXCL would look at the address alone.
    """
    body = _ROUTE.pack(socket.AF_INET6, 128, 0, 0, RT_TABLE_MAIN, RTPROT_SSTPFARM, 0, RTN_UNICAST, 0)
    return kind, NLM_F_CREATE | NLM_F_APPEND if kind == RTM_NEWROUTE else 0, body + _on_link(index, address)


def delete_advertised_default(index: int, table: int) -> Request:
    """Return the request that deletes the default route to a router on the link that advertised itself; or ESRCH."""
    body = _ROUTE.pack(socket.AF_INET6, 0, 0, 0, 0, RTPROT_RA, 0, 0, 0)
    return RTM_DELROUTE, 0, body + number(RTA_OIF, index) + number(RTA_TABLE, table)


def delete_on_link(index: int, address: bytes, prefix: int, table: int) -> Request:
    """Return the request that deletes the kernel's own route to the network of an IPv6 address on a link; or ESRCH."""
    body = _ROUTE.pack(socket.AF_INET6, prefix, 0, 0, 0, RTPROT_KERNEL, 0, 0, 0)
    return RTM_DELROUTE, 0, body + _on_link(index, address) + number(RTA_TABLE, table)


def delete_multicast(index: int) -> Request:
    """Return the request that deletes the link's route to all IPv6 multicast; ESRCH when it has none."""
    body = _ROUTE.pack(socket.AF_INET6, 8, 0, 0, RT_TABLE_LOCAL, 0, 0, 0, 0)
    return RTM_DELROUTE, 0, body + _on_link(index, MULTICAST)


def _on_link(index: int, destination: bytes) -> bytes:
    return attribute(RTA_DST, destination) + number(RTA_OIF, index)


def delete_any_ipv4(index: int) -> Request:
    """Return the request that deletes the link's first IPv4 address, whatever it is; NO_ADDRESS without any."""
    return RTM_DELADDR, 0, _ADDRESS.pack(socket.AF_INET, 0, 0, 0, index)


def delete_ipv4(index: int, local: bytes, remote: bytes) -> Request:
    """Return the request that undoes `add_ipv4`; NO_ADDRESS when it is not there."""
    body = _ADDRESS.pack(socket.AF_INET, 32, 0, 0, index) + attribute(IFA_LOCAL, local)
    return RTM_DELADDR, 0, body + attribute(IFA_ADDRESS, remote)


def delete_ipv6(index: int, address: bytes, prefix: int) -> Request:
    """Return the request that undoes `add_ipv6`; NO_ADDRESS when it is not there."""
    return RTM_DELADDR, 0, _ADDRESS.pack(socket.AF_INET6, prefix, 0, 0, index) + attribute(IFA_ADDRESS, address)


QUIET_IPV6: Final = attribute(
    NLA_F_NESTED | IFLA_AF_SPEC,
    attribute(NLA_F_NESTED | socket.AF_INET6, attribute(IFLA_INET6_ADDR_GEN_MODE, bytes((IN6_ADDR_GEN_MODE_NONE,)))),
)
"""The attribute with which the kernel makes no IPv6 address of its own."""
