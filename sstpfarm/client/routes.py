"""The routes of one tunnel: into it, and past it to its own server.

A route into the tunnel that covers the server's address would swallow the tunnel itself. So the server has a host route
the way that it is reached now, and that route is moved when the way changes. One of IPv6 has it in any case: the kernel
makes a route of each network that an advertisement in the tunnel says to be on the link (RFC 4861 6.3.4).
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from sstpfarm.client.settings import Wishes
from sstpfarm.net.links import IpAddress, IpNetwork, Links, Route
from sstpfarm.net.rtnetlink import RT_TABLE_MAIN, RTPROT_SSTPFARM
from sstpfarm.net.vrf import find_vrf
from sstpfarm.net.ways import RTPROT_CLIENT, Way, list_ways, way_to

DEFAULT: Final = ipaddress.IPv4Network("0.0.0.0/0")
LOWEST_IPV6: Final = 1  # a metric; without one IPv6 has 1024, and an advertised network of one address 256
OURS: Final = frozenset({RTPROT_CLIENT, RTPROT_SSTPFARM})


class TunnelRoutes:
    """The routes of one tunnel.

    Args:
        protocol: the number that marks them (`net.ways`).
        metric: of the routes past the tunnel: tunnels to one server have different ones, and each its own route.
    """

    def __init__(self, links: Links, wishes: Wishes, protocol: int, *, metric: int | None = None) -> None:
        self._links = links
        self._wishes = wishes
        self._protocol = protocol
        self._metric = metric
        self._turn = asyncio.Lock()  # a changed file and the tunnel's own course both come here
        self._past: dict[IpAddress, Route] = {}  # host routes to servers
        self._into: list[Route] = []

    async def clear_way(self, servers: Sequence[str]) -> None:
        """Remove what `sstpfarm connect`, killed, left on the way to these servers: it may lead nowhere by now."""
        if self._protocol == RTPROT_SSTPFARM:
            for server in servers:
                with suppress(OSError):
                    await self._links.delete_leftover(ipaddress.ip_address(server))

    async def pass_by(self, servers: Sequence[IpAddress], index: int) -> None:
        """Lead the way to these servers past the link of that index, before it has addresses. Idempotent.

        Raises:
            OSError: the kernel refuses.
        """
        async with self._turn:
            for server in servers:
                await self._pass_by(server, index)

    async def lead(self, servers: Sequence[IpAddress], index: int) -> None:
        """Lead what is wished for into the link of that index, and the way to these servers past it. Idempotent.

        Raises:
            OSError: the kernel refuses.
        """
        async with self._turn:
            await self._lead(servers, index)

    async def _lead(self, servers: Sequence[IpAddress], index: int) -> None:
        for server in servers:
            await self._pass_by(server, index)
        if self._into:
            return
        table = find_vrf(self._wishes.vrf).table if self._wishes.vrf else RT_TABLE_MAIN
        for wished in self._wishes.routes:
            route = Route(
                ipaddress.ip_network(wished.destination),
                index,
                ipaddress.ip_address(wished.gateway) if wished.gateway else None,
                wished.metric or None,
                protocol=self._protocol,
                table=table,
            )
            await self._add(route)
        if self._wishes.default_route:
            metric = self._wishes.default_route_distance
            await self._add(Route(DEFAULT, index, metric=metric, protocol=self._protocol, table=table), first=True)

    async def _add(self, route: Route, *, first: bool = False) -> None:
        with suppress(FileExistsError):  # somebody else's: it serves us, and stays
            await self._links.add_route(route, first=first)
            self._into.append(route)

    async def _pass_by(self, server: IpAddress, index: int) -> None:
        if server in self._past or server.is_loopback or not self._covers(server):
            return
        present = await self._links.route_to(server)
        if present.index == index:  # our own routes are there already, as in dial-on-demand
            way = outer_way(server, index)
            if way is None:
                raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))
            await self._add_past(server, way.index, way.gateway)
            return
        await self._add_past(server, present.index, present.gateway)

    async def _add_past(self, server: IpAddress, index: int, gateway: IpAddress | None) -> None:
        metric = self._metric or (LOWEST_IPV6 if server.version == 6 else None)
        route = Route(ipaddress.ip_network(server), index, gateway, metric, protocol=self._protocol)
        with suppress(FileExistsError):
            await self._links.add_route(route)
            self._past[server] = route

    async def refresh(self, servers: Sequence[str], index: int) -> None:
        """Find the way to these servers anew, before they are dialled while there are routes of the session before.

        Without any, to those of before: the server's name is looked up later.
        """
        async with self._turn:
            if self._into or self._past:
                before = list(self._past)
                await self._remove_past()
                for server in [ipaddress.ip_address(text) for text in servers] or before:
                    with suppress(OSError):
                        await self._pass_by(server, index)

    def _covers(self, server: IpAddress) -> bool:
        if self._wishes.vrf or self._wishes.bridge:
            return False  # the tunnel's own packets are routed outside of the VRF; no route leads to a port of a bridge
        if server.version == 6 and not server.is_link_local:  # each link has a way of its own there
            return True
        wished: list[IpNetwork] = [ipaddress.ip_network(route.destination) for route in self._wishes.routes]
        if self._wishes.default_route:
            wished.append(DEFAULT)
        return any(server in network for network in wished)

    async def follow(self, server: IpAddress, before: Way | None, now: Way | None) -> bool:
        """Take note that the way to a server may have changed; return whether a connection over it can live on.

        Raises:
            OSError: the kernel refuses.
        """
        if now is None or before is None or _same(before, now):
            return True  # without a way there is nothing to gain by a new connection
        if before in list_ways(server.version):
            return True  # a better one came, and the old one still works
        if before.index != now.index:
            return False
        async with self._turn:
            old = self._past.get(server)
            if old is not None:
                await self._links.delete_route(old)
                await self._move_past(server, old, now)
        return True

    async def _move_past(self, server: IpAddress, old: Route, now: Way) -> None:
        """Make the route to a server anew, as it was if the kernel refuses: without one the tunnel swallows itself."""
        del self._past[server]
        try:
            await self._add_past(server, now.index, now.gateway)
        except OSError:
            self._past[server] = old
            with suppress(OSError):
                await self._links.add_route(old)
            raise

    async def change(self, wishes: Wishes, index: int) -> None:
        """Take other wishes; routes that are there are made anew, others come with the next session.

        Raises:
            OSError, SystemRefusal: one cannot be made; those before it are there.
        """
        names = ("routes", "default_route", "default_route_distance")
        async with self._turn:
            old, self._wishes = self._wishes, wishes
            if self._into and any(getattr(old, name) != getattr(wishes, name) for name in names):
                servers = list(self._past)
                await self._remove_into()
                await self._remove_past()
                await self._lead(servers, index)

    async def remove_into(self) -> None:
        """Lead nothing into the tunnel any more."""
        async with self._turn:
            await self._remove_into()

    async def remove(self) -> None:
        """Remove all of them. Idempotent, never fails: routes of a link that is gone are gone."""
        async with self._turn:
            await self._remove_into()
            await self._remove_past()

    async def _remove_into(self) -> None:
        for route in reversed(self._into):
            with suppress(OSError):
                await self._links.delete_route(route)
        self._into.clear()

    async def _remove_past(self) -> None:
        for route in self._past.values():
            with suppress(OSError):
                await self._links.delete_route(route)
        self._past.clear()


def outer_way(server: IpAddress, index: int) -> Way | None:
    """Return how a server is reached beside all routes of ours and the link of that index; None when it is not."""
    try:
        return way_to(server, [way for way in list_ways(server.version) if way.index != index], without=OURS)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.EAFNOSUPPORT):  # no IPv6
            return None
        raise


async def remove_leftovers(links: Links) -> int:
    """Remove the routes that a client left behind when it was killed; return how many."""
    found = 0
    for version in (4, 6):
        with suppress(OSError):
            for way in list_ways(version):
                if way.protocol == RTPROT_CLIENT:
                    route = Route(way.destination, way.index, way.gateway, way.metric or None, protocol=RTPROT_CLIENT)
                    await links.delete_route(route)
                    found += 1
    return found


def _same(one: Way, other: Way) -> bool:
    return (one.index, one.gateway) == (other.index, other.gateway)
