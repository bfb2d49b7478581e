"""net/ways.py: the way that an address would take without our own routes."""

from __future__ import annotations

import ipaddress
import socket
import struct

from sstpfarm.net.netlink import attribute
from sstpfarm.net.rtnetlink import RTPROT_SSTPFARM
from sstpfarm.net.ways import RTPROT_CLIENT, Way, _way, list_ways, way_to

STATIC = 4  # RTPROT_STATIC, linux/rtnetlink.h


def way(network: str, index: int, *, metric: int = 0, protocol: int = STATIC) -> Way:
    """A route on the link."""
    return Way(ipaddress.ip_network(network), index, None, metric, None, protocol)


def test_the_longest_prefix_then_the_lowest_metric_without_ours() -> None:
    ways = [
        way("0.0.0.0/0", 1, metric=100),
        way("0.0.0.0/0", 2, metric=50),
        way("10.0.0.0/8", 3, metric=1000),
        way("0.0.0.0/0", 8, protocol=RTPROT_CLIENT),
        way("10.0.0.1/32", 9, protocol=RTPROT_SSTPFARM),
    ]
    ours = frozenset({RTPROT_CLIENT, RTPROT_SSTPFARM})

    def index(address: str, without: frozenset[int] = ours) -> int | None:
        found = way_to(ipaddress.ip_address(address), ways, without=without)
        return found.index if found is not None else None

    assert index("192.0.2.1") == 2
    assert index("10.0.0.1") == 3
    assert index("10.0.0.1", frozenset()) == 9
    assert index("192.0.2.1", frozenset()) == 8
    assert index("2001:db8::1") is None


def test_the_kernel_lists_the_main_table_only() -> None:
    """The routes of the machine that runs this, whatever they are: none of the local table is among them."""
    for version in (4, 6):
        for found in list_ways(version):
            assert found.destination.version == version
            assert socket.if_indextoname(found.index)
            assert not found.destination.is_loopback or found.destination.prefixlen < 128


def test_of_several_next_hops_the_first_counts_alone() -> None:
    """The second one's flags (dead, onlink) have the number of RTA_GATEWAY: its header is no attribute."""
    gateway = attribute(5, bytes((192, 0, 2, 1)))
    hops = struct.pack("=HBBi", 8 + len(gateway), 0, 0, 3) + gateway
    gateway = attribute(5, bytes((192, 0, 2, 2)))
    hops += struct.pack("=HBBi", 8 + len(gateway), 1 | 4, 0, 4) + gateway
    body = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 254, STATIC, 0, 1, 0) + attribute(9, hops)
    found = _way(body, 4)
    assert found is not None
    assert (found.index, str(found.gateway)) == (3, "192.0.2.1")
