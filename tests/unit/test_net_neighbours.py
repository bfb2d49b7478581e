"""Proxy ARP entries and routes of sessions: what ip shows after each request, in namespaces of the test's own."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest

from sstpfarm.net.links import LinkPlan, Links
from sstpfarm.net.neighbours import add_proxies, delete_leftovers, delete_proxies
from sstpfarm.net.netlink import Netlink
from sstpfarm.net.routes import Gateway, Network, add_route, delete_routes
from sstpfarm.net.tun import make_tun
from tests.unit.inside import Namespace, inside, namespace, needs_root

pytestmark = needs_root
CLIENT = IPv4Address("10.20.0.2")


def run(scenario: Callable[[Namespace, Netlink, int, int], None]) -> None:
    """Call the scenario in a namespace with two interfaces, lan0 and lan1, given by index."""

    def main() -> None:
        place.run("ip", "link", "add", "lan0", "type", "veth", "peer", "name", "lan1")
        for name in ("lan0", "lan1"):
            place.run("ip", "link", "set", name, "up")
        netlink = Netlink(socket.NETLINK_ROUTE)
        try:
            scenario(place, netlink, socket.if_nametoindex("lan0"), socket.if_nametoindex("lan1"))
        finally:
            netlink.close()

    with namespace("proxy") as place:
        inside(place, main)


def proxies(place: Namespace) -> list[str]:
    return sorted(" ".join(line.split()[:3]) for line in place.run("ip", "neigh", "show", "proxy").stdout.splitlines())


def test_proxy_entries() -> None:
    def scenario(place: Namespace, netlink: Netlink, lan0: int, lan1: int) -> None:
        add_proxies(netlink, CLIENT, [lan0, lan1])
        add_proxies(netlink, CLIENT, [lan0])
        assert proxies(place) == ["10.20.0.2 dev lan0", "10.20.0.2 dev lan1"]
        delete_proxies(netlink, CLIENT, [lan0])
        delete_proxies(netlink, CLIENT, [lan0, lan1, 9999])  # gone already: no error
        assert proxies(place) == []
        with pytest.raises(OSError, match="No such device"):
            add_proxies(netlink, CLIENT, [9999, lan1])
        assert proxies(place) == ["10.20.0.2 dev lan1"]

    run(scenario)


def test_leftovers_are_ours_only() -> None:
    def scenario(place: Namespace, netlink: Netlink, lan0: int, lan1: int) -> None:
        place.run("ip", "neigh", "add", "proxy", "10.20.0.99", "dev", "lan0")  # the operator's
        place.run("ip", "neigh", "add", "proxy", "fd00::99", "dev", "lan0")
        for number in range(300):  # more than one datagram of a list
            add_proxies(netlink, IPv4Address("10.30.0.1") + number, [lan0, lan1])
        assert delete_leftovers() == 600
        assert proxies(place) == ["10.20.0.99 dev lan0", "fd00::99 dev lan0"]
        assert delete_leftovers() == 0

    run(scenario)


def test_routes() -> None:
    def scenario(place: Namespace, netlink: Netlink, _lan0: int, _lan1: int) -> None:
        asyncio.run(routes(place, netlink))

    run(scenario)


async def routes(place: Namespace, netlink: Netlink) -> None:
    async with Links() as links:
        made = []
        for number, name in enumerate(("sstp0", "sstp1")):
            fd = make_tun(name)
            index = socket.if_nametoindex(name)
            made.append((fd, index))
            plan = LinkPlan(
                mtu=1400, local=IPv4Address("10.20.0.1"), remote=CLIENT + number, ipv6_local=bytes(7) + b"1"
            )
            links.configure(index, plan)
        first, second = (index for _, index in made)
        site, site6 = ip_network("10.9.0.0/24"), ip_network("fd09::/64")
        assert add_route(netlink, first, site, CLIENT, 5)
        assert add_route(netlink, first, site6, None, 0)
        assert add_route(netlink, first, ip_network("10.8.0.0/16"), None, 0)
        assert add_route(netlink, first, ip_network("fd08::/64"), IPv6Address("fd09::1"), 7)
        shown = place.routes()
        for line in (
            "10.9.0.0/24 via 10.20.0.2 dev sstp0 proto 115 metric 5 onlink",
            "10.8.0.0/16 dev sstp0 proto 115 scope link",
            "fd09::/64 dev sstp0 proto 115 metric 1024 pref medium",
            "fd08::/64 via fd09::1 dev sstp0 proto 115 metric 7 onlink pref medium",
        ):
            assert line in shown
        # the second gateway of a site waits behind the first, or goes before it
        assert not add_route(netlink, second, site, CLIENT + 1, 5)
        assert not add_route(netlink, second, site6, None, 0, first=True)
        assert not add_route(netlink, second, ip_network("10.8.0.0/16"), None, 0, first=True)
        for address, name in (("10.9.0.9", "sstp0"), ("fd09::9", "sstp0"), ("10.8.0.9", "sstp1")):
            assert f"dev {name}" in place.run("ip", "route", "get", address).stdout
        mine: list[tuple[Network, Gateway | None, int]] = [
            (site, CLIENT, 5),
            (site6, None, 0),
            (ip_network("10.8.0.0/16"), None, 0),
        ]
        delete_routes(netlink, first, mine)
        delete_routes(netlink, first, mine)  # gone already: no error
        for address in ("10.9.0.9", "fd09::9", "10.8.0.9"):
            assert "dev sstp1" in place.run("ip", "route", "get", address).stdout
        links.park(first)
        links.park(second)  # takes its routes along
        assert not [line for line in place.routes() if "sstp" in line]
        with pytest.raises(OSError, match="down"):
            add_route(netlink, first, site, CLIENT, 5)
        for fd, _ in made:
            os.close(fd)


def test_a_gateway_of_our_own_is_refused() -> None:
    def scenario(place: Namespace, netlink: Netlink, lan0: int, _lan1: int) -> None:
        place.run("ip", "address", "add", "10.20.0.1/24", "dev", "lan0")
        with pytest.raises(OSError, match="Invalid"):
            add_route(netlink, lan0, ip_network("10.9.0.0/24"), IPv4Address("10.20.0.1"), 0)

    run(scenario)
