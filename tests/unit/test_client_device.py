"""client/device.py: the device of one tunnel."""

from __future__ import annotations

import asyncio
import ipaddress
import os
from dataclasses import replace

import pytest

from sstpfarm.client import device as module
from sstpfarm.client.device import Device
from sstpfarm.dataplane.interface import Offload
from sstpfarm.dataplane.select import Dataplane, choose
from sstpfarm.errors import SystemRefusal
from sstpfarm.net.autoconf import learned_addresses
from sstpfarm.net.links import LinkPlan, Links
from sstpfarm.proto.ipv6.neighbor import ALL_NODES, encode_advertisement
from sstpfarm.proto.ipv6.offer import Offer
from sstpfarm.proto.ipv6.packet import checksum, decode_packet, encode_packet, link_local
from tests.e2e.netns import until
from tests.unit.inside import Namespace, inside, namespace, needs_root


@needs_root
def test_a_device_whose_vrf_comes_later_is_not_used_outside_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    joined: list[int] = []
    there = False

    def join(name: str, index: int) -> None:
        if not there:
            raise SystemRefusal(f"there is no VRF {name}")
        joined.append(index)

    monkeypatch.setattr(module, "join_vrf", join)

    async def scenario(place: Namespace) -> None:
        nonlocal there
        async with Links() as links:
            device = Device(links, choose(), "tunnel0", vrf="blue")
            for _ in range(2):
                with pytest.raises(SystemRefusal, match="no VRF blue"):
                    device.make()
                assert device.fd == -1
                assert [link["ifname"] for link in place.ip("link")] == ["lo"]
            there = True
            device.make()
            assert joined == [device.index]
            device.close()

    with namespace("device") as place:
        inside(place, lambda: asyncio.run(scenario(place)))


@needs_root
def test_what_a_router_says_holds_for_its_session() -> None:
    """An address of the prefix, made of our identifier; a default route only when it is wished; nothing of it stays."""
    ours, others, router = bytes(7) + b"\1", bytes(7) + b"\2", bytes(7) + b"\3"
    local, remote = ipaddress.IPv4Address("10.0.0.2"), ipaddress.IPv4Address("10.0.0.1")
    prefix = ipaddress.IPv6Network("fd42:6::/64")
    advertisement = encode_advertisement(link_local(router), ALL_NODES, Offer(prefixes=(prefix,)), 1400)

    async def scenario(place: Namespace) -> None:
        def learned() -> list[tuple[bytes, int]]:
            os.write(device.fd, advertisement)
            return learned_addresses(device.index)

        def default() -> list[str]:
            os.write(device.fd, advertisement)
            return place.run("ip", "-6", "route", "show", "default").stdout.splitlines()

        async with Links() as links:
            device = Device(links, Dataplane("pure", Offload.NONE), "tunnel0")
            device.make()
            device.configure(LinkPlan(mtu=1400, local=local, remote=remote, ipv6_local=ours))
            assert until(learned, "an address") == [(prefix.network_address.packed[:8] + ours, 64)]
            assert default() == []
            device.configure(LinkPlan(mtu=1400, local=local, remote=remote, ipv6_local=others))
            assert learned_addresses(device.index) == []
            assert until(learned, "another one") == [(prefix.network_address.packed[:8] + others, 64)]
            device.follow_router(7)
            (route,) = until(default, "a default route")
            assert "dev tunnel0" in route
            assert "metric 7 " in route
            device.configure(LinkPlan(mtu=1400, local=local, remote=remote, ipv6_local=ours))
            until(learned, "an address in the next session")
            assert default() == []
            device.follow_router(0)
            (route,) = until(default, "a default route again")
            assert "metric 1 " in route
            device.rest()
            assert learned_addresses(device.index) == []
            device.configure(LinkPlan(mtu=1400, local=local, remote=remote, ipv6_local=ours))
            until(learned, "an address once more")
            assert default() == []
            device.close()

    with namespace("device") as place:
        place.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")  # even where this host is a router itself
        inside(place, lambda: asyncio.run(scenario(place)))


@needs_root
def test_a_prefix_on_the_link_goes_with_its_session() -> None:
    """RouterOS says so of the prefixes that it advertises (L, RFC 4861 4.6.2); our server does not."""
    ours, others, router = bytes(7) + b"\1", bytes(7) + b"\2", bytes(7) + b"\3"
    local, remote = ipaddress.IPv4Address("10.0.0.2"), ipaddress.IPv4Address("10.0.0.1")
    offer = Offer(prefixes=(ipaddress.IPv6Network("fd42:6::/64"),))
    silent = decode_packet(encode_advertisement(link_local(router), ALL_NODES, offer, 1400))
    at = silent.payload.index(bytes.fromhex("0304 40 40")) + 3
    body = silent.payload[:2] + b"\0\0" + silent.payload[4:at] + b"\xc0" + silent.payload[at + 1 :]
    found = checksum(silent.source, silent.destination, silent.next_header, body).to_bytes(2, "big")
    advertisement = encode_packet(replace(silent, payload=body[:2] + found + body[4:]))

    async def scenario(place: Namespace) -> None:
        def routes() -> str:
            return place.run("ip", "-6", "route", "show", "fd42:6::/64", "dev", "tunnel0").stdout

        def told() -> str:
            os.write(device.fd, advertisement)
            return routes()

        async with Links() as links:
            device = Device(links, Dataplane("pure", Offload.NONE), "tunnel0")
            device.make()
            device.configure(LinkPlan(mtu=1400, local=local, remote=remote, ipv6_local=ours))
            until(told, "a route to the prefix")
            device.configure(LinkPlan(mtu=1400, local=local, remote=remote, ipv6_local=others))
            assert routes() == ""
            device.close()

    with namespace("device") as place:
        inside(place, lambda: asyncio.run(scenario(place)))
