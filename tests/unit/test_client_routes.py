"""client/routes.py: the way to the server beside the tunnel, where the kernel refuses another one."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from collections.abc import Awaitable, Callable, Sequence

import pytest

from sstpfarm.client.routes import TunnelRoutes, outer_way
from sstpfarm.client.settings import Wishes
from sstpfarm.net.links import Links
from sstpfarm.net.tun import make_tun
from sstpfarm.net.ways import RTPROT_CLIENT, Way
from tests.unit.inside import Namespace, inside, namespace, needs_root

SERVER = ipaddress.IPv4Address("198.51.100.1")


def run(scenario: Callable[[Namespace, TunnelRoutes, Way], Awaitable[None]]) -> None:
    async def main(place: Namespace) -> None:
        place.run("ip", "link", "add", "lan0", "type", "veth", "peer", "name", "lan1")
        for name in ("lan0", "lan1"):
            place.run("ip", "link", "set", name, "up")
        place.run("ip", "address", "add", "192.0.2.9/24", "dev", "lan0")
        place.run("ip", "route", "add", "default", "via", "192.0.2.1")
        tun = make_tun("tunnel0")
        place.run("ip", "link", "set", "tunnel0", "up")
        async with Links() as links:
            routes = TunnelRoutes(links, Wishes(interface="tunnel0", default_route=True), RTPROT_CLIENT)
            before = outer_way(SERVER, socket.if_nametoindex("tunnel0"))
            assert before is not None
            await routes.lead([SERVER], socket.if_nametoindex("tunnel0"))
            assert past(place) == ["192.0.2.1"]
            place.run("ip", "route", "delete", "default", "via", "192.0.2.1")  # DHCP took it away
            await scenario(place, routes, before)
            await routes.remove()
            assert past(place) == []
        os.close(tun)

    with namespace("routes") as place:
        inside(place, lambda: asyncio.run(main(place)))


def past(place: Namespace) -> list[str]:
    """The gateways of the routes to the server."""
    found = [route.split() for route in place.routes() if route.startswith(f"{SERVER} ")]
    return [route[route.index("via") + 1] for route in found]


def through(way: Way, gateway: str) -> Way:
    return Way(way.destination, way.index, ipaddress.IPv4Address(gateway), way.metric, way.source, way.protocol)


@needs_root
def test_the_route_to_the_server_moves_with_its_gateway() -> None:
    async def scenario(place: Namespace, routes: TunnelRoutes, before: Way) -> None:
        assert await routes.follow(SERVER, before, through(before, "192.0.2.2"))
        assert past(place) == ["192.0.2.2"]

    run(scenario)


@needs_root
def test_the_route_to_the_server_stays_where_the_kernel_refuses_the_new_gateway() -> None:
    """Without it the tunnel's own packets would be led into the tunnel."""

    async def scenario(place: Namespace, routes: TunnelRoutes, before: Way) -> None:
        with pytest.raises(OSError, match="unreachable"):
            await routes.follow(SERVER, before, through(before, "203.0.113.1"))  # nobody knows where that is
        assert past(place) == ["192.0.2.1"]
        assert await routes.follow(SERVER, before, through(before, "192.0.2.2"))
        assert past(place) == ["192.0.2.2"]

    run(scenario)


@needs_root
def test_the_next_change_brings_a_route_back_that_was_lost() -> None:
    async def scenario(place: Namespace, routes: TunnelRoutes, before: Way) -> None:
        place.run("ip", "link", "set", "lan0", "down")
        with pytest.raises(OSError, match=r"unreachable|down"):
            await routes.follow(SERVER, before, through(before, "192.0.2.2"))
        assert past(place) == []
        place.run("ip", "link", "set", "lan0", "up")
        assert await routes.follow(SERVER, before, through(before, "192.0.2.2"))
        assert past(place) == ["192.0.2.2"]

    run(scenario)


SERVER6 = ipaddress.IPv6Address("2001:db8:1::1")


@needs_root
@pytest.mark.parametrize("metric", [None, 3], ids=["connect", "client"])
@pytest.mark.parametrize("known", [[], [str(SERVER6)]], ids=["looked up later", "known"])
def test_no_network_that_a_server_advertises_draws_the_tunnel_into_itself(
    metric: int | None, known: Sequence[str]
) -> None:
    """Whatever is wished of the routes. The kernel makes such routes of advertisements with a metric of 256."""

    async def main(place: Namespace) -> None:
        uplink(place)
        tun = make_tun("tunnel0")
        place.run("ip", "link", "set", "tunnel0", "up")
        index = socket.if_nametoindex("tunnel0")

        def device() -> str:
            words = place.run("ip", "-6", "route", "get", str(SERVER6)).stdout.split()
            return words[words.index("dev") + 1]

        async with Links() as links:
            routes = TunnelRoutes(links, Wishes(interface="tunnel0", default_route=False), RTPROT_CLIENT, metric=metric)
            await routes.pass_by([SERVER6], index)
            for network in (f"{SERVER6}/128", "2001:db8:1::/64", "2000::/3"):
                place.run("ip", "-6", "route", "add", network, "dev", "tunnel0", "metric", "256")
                assert device() == "lan0"
            place.run("ip", "-6", "route", "replace", "default", "via", "2001:db8::3", "dev", "lan0")
            await routes.refresh(known, index)
            assert "via 2001:db8::3 " in place.run("ip", "-6", "route", "get", str(SERVER6)).stdout
            await routes.remove()
            assert device() == "tunnel0"
        os.close(tun)

    with namespace("routes") as place:
        inside(place, lambda: asyncio.run(main(place)))


@needs_root
@pytest.mark.parametrize("wishes", [Wishes(bridge="br0"), Wishes(vrf="blue")])
def test_where_nothing_of_the_tunnel_is_in_the_main_table_there_is_no_route_past_it(wishes: Wishes) -> None:
    async def main(place: Namespace) -> None:
        uplink(place)
        before = place.routes()
        async with Links() as links:
            await TunnelRoutes(links, wishes, RTPROT_CLIENT, metric=1).pass_by([SERVER6, SERVER], 1)
        assert place.routes() == before

    with namespace("routes") as place:
        inside(place, lambda: asyncio.run(main(place)))


def uplink(place: Namespace) -> None:
    """An interface with a default route of IPv6."""
    place.run("ip", "link", "add", "lan0", "type", "veth", "peer", "name", "lan1")
    for name in ("lan0", "lan1"):
        place.run("ip", "link", "set", name, "up")
    place.run("ip", "address", "add", "2001:db8::9/64", "dev", "lan0", "nodad")
    place.run("ip", "-6", "route", "add", "default", "via", "2001:db8::1")
