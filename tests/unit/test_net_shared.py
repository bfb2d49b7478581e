"""Addresses that many interfaces share: one local route to each, and what happens to the routes of those that stay."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from sstpfarm.net.groups import worker_group
from sstpfarm.net.links import LinkPlan, Links
from sstpfarm.net.shared import NAME, SharedAddresses
from sstpfarm.net.tun import InterfaceExists, keep_tun, make_tun
from tests.unit.inside import Namespace, inside, namespace, needs_root

GATEWAY = IPv4Address("10.20.0.1")
FIRST_PEER = IPv4Address("10.20.1.0")
MANY = 20

Scenario = Callable[[Namespace, Links, SharedAddresses], Awaitable[None]]


def run(scenario: Scenario) -> None:
    with namespace("shared") as place:

        async def main() -> None:
            async with Links() as links:
                shared = SharedAddresses()
                await scenario(place, links, shared)
                shared.close()
                assert NAME not in place.run("ip", "link").stdout

        inside(place, lambda: asyncio.run(main()))


def plan(number: int) -> LinkPlan:
    return LinkPlan(mtu=1400, local=GATEWAY, remote=FIRST_PEER + number, group=worker_group(0), shared=True)


def make(number: int) -> int:
    os_name = f"sstp{number}"
    fd = make_tun(os_name)
    keep_tun(fd)
    os.close(fd)
    return socket.if_nametoindex(os_name)


def local_routes(place: Namespace) -> list[str]:
    """The interfaces that have a local route to the gateway's address."""
    lines = place.run("ip", "route", "show", "table", "local").stdout.splitlines()
    return [line.split()[3] for line in lines if line.startswith(f"local {GATEWAY} ")]


def peers(place: Namespace) -> int:
    """How many peers are routed to, with the gateway's address as the source."""
    return sum(f"src {GATEWAY}" in route for route in place.routes())


def reachable(place: Namespace) -> bool:
    return place.run("ip", "route", "get", str(GATEWAY)).stdout.startswith(f"local {GATEWAY} ")


@needs_root
def test_one_local_route_for_many_interfaces() -> None:
    async def scenario(place: Namespace, links: Links, shared: SharedAddresses) -> None:
        indexes = [make(number) for number in range(MANY)]
        for number, index in enumerate(indexes):
            assert shared.enter(GATEWAY)
            links.configure(index, plan(number))
        assert local_routes(place) == [NAME]
        assert reachable(place)
        assert peers(place) == MANY
        (shown,) = place.ip("-4", "address", "show", "dev", "sstp3")
        (address,) = shown["addr_info"]  # as anybody expects it
        assert (address["local"], address["address"]) == (str(GATEWAY), str(FIRST_PEER + 3))
        for gone, index in enumerate(
            indexes, 1
        ):  # resting, down and deleted in turn: none takes the others' routes along
            if gone % 3 == 0:
                links.rest(index)
            elif gone % 3 == 1:
                links.park(index)
            else:
                await links.delete(index)
            shared.leave(GATEWAY)
            assert peers(place) == MANY - gone
        assert local_routes(place) == []

    run(scenario)


@needs_root
def test_one_that_rested_gets_no_local_route_either() -> None:
    async def scenario(place: Namespace, links: Links, shared: SharedAddresses) -> None:
        fd = make_tun("sstp0")
        index = socket.if_nametoindex("sstp0")
        assert shared.enter(GATEWAY)
        links.configure(index, plan(0))
        links.rest(index)
        links.wake(index, plan(1))
        assert local_routes(place) == [NAME]
        assert peers(place) == 1
        os.close(fd)

    run(scenario)


@needs_root
def test_an_interface_that_shares_nothing_keeps_its_own() -> None:
    async def scenario(place: Namespace, links: Links, shared: SharedAddresses) -> None:
        assert shared.enter(GATEWAY)
        links.configure(make(0), plan(0))
        links.configure(make(1), replace(plan(1), shared=False))
        assert sorted(local_routes(place)) == ["sstp1", NAME]

    run(scenario)


@needs_root
def test_what_somebody_did_to_the_routes_is_no_error() -> None:
    async def scenario(place: Namespace, links: Links, shared: SharedAddresses) -> None:
        place.run("ip", "route", "add", "local", str(GATEWAY), "dev", NAME, "table", "local", "proto", "115")
        assert shared.enter(GATEWAY)  # it is there already
        links.configure(make(0), plan(0))
        place.run("ip", "route", "delete", "local", str(GATEWAY), "dev", NAME, "table", "local")
        shared.leave(GATEWAY)
        place.run("ip", "link", "delete", NAME)
        assert not shared.enter(GATEWAY)  # the interface is to have a route of its own then

    run(scenario)


@needs_root
def test_a_name_that_is_taken() -> None:
    async def scenario(place: Namespace, links: Links, shared: SharedAddresses) -> None:
        with pytest.raises(InterfaceExists, match=f"{NAME} exists"):
            SharedAddresses()

    run(scenario)


@needs_root
def test_the_interface_carries_nothing() -> None:
    async def scenario(place: Namespace, links: Links, shared: SharedAddresses) -> None:
        (shown,) = place.ip("-details", "address", "show", "dev", NAME)
        assert shown["addr_info"] == []
        assert "txqlen" not in shown  # ip leaves out zeros
        assert "UP" in shown["flags"]
        assert NAME not in place.run("ip", "-6", "route", "show", "table", "all").stdout

    run(scenario)
