"""Links, addresses and routes: what the kernel shows after each request, in namespaces of the test's own."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest

from sstpfarm.errors import SystemRefusal
from sstpfarm.net import sysctl
from sstpfarm.net.groups import GRAVEYARD_GROUP, POOL_GROUP, is_session_group, worker_group
from sstpfarm.net.links import LinkFacts, LinkPlan, Links, Route
from sstpfarm.net.tun import Kind, keep_tun, make_tun
from tests.unit.inside import Namespace, inside, namespace, needs_root

IDENTIFIER = bytes.fromhex("0200000000000001")
PLAN = LinkPlan(
    mtu=1400,
    local=IPv4Address("10.20.0.1"),
    remote=IPv4Address("10.20.0.2"),
    ipv6_local=IDENTIFIER,
    group=worker_group(3),
)


def run(scenario: Callable[[Namespace, Links], Awaitable[None]]) -> None:
    with namespace("links") as place:

        async def main() -> None:
            async with Links() as links:
                await scenario(place, links)

        inside(place, lambda: asyncio.run(main()))


def make(name: str) -> tuple[int, int]:
    fd = make_tun(name)
    keep_tun(fd)
    return fd, socket.if_nametoindex(name)


def test_groups() -> None:
    assert is_session_group(worker_group(0))
    assert is_session_group(worker_group(1023))
    assert is_session_group(GRAVEYARD_GROUP)
    assert is_session_group(POOL_GROUP)
    assert not is_session_group(0)
    assert len({worker_group(1023), GRAVEYARD_GROUP, POOL_GROUP}) == 3


@needs_root
def test_configured_link() -> None:
    async def scenario(place: Namespace, links: Links) -> None:
        fd, index = make("sstp0")
        links.configure(index, PLAN)
        (shown,) = place.ip("-details", "addr", "show", "dev", "sstp0")
        assert shown["mtu"] == 1400
        assert shown["txqlen"] == 500
        assert shown["group"] == str(worker_group(3))
        assert "UP" in shown["flags"]
        v4, v6 = shown["addr_info"]  # and no address that the kernel made by itself
        assert (v4["local"], v4["address"], v4["prefixlen"]) == ("10.20.0.1", "10.20.0.2", 32)
        assert (v6["local"], v6["prefixlen"], v6["scope"]) == ("fe80::200:0:0:1", 64, "link")
        assert "tentative" not in v6
        assert place.routes() == ["10.20.0.2 dev sstp0 proto kernel scope link src 10.20.0.1", "fe80::/64 dev sstp0 proto kernel metric 256 pref medium"]  # fmt: skip # noqa: E501 - what ip prints
        assert await links.session_links() == [LinkFacts(index, "sstp0", worker_group(3), in_use=True)]
        os.close(fd)
        assert await links.session_links() == [LinkFacts(index, "sstp0", worker_group(3), in_use=False)]

    run(scenario)


@needs_root
def test_small_mtu_has_no_ipv6() -> None:
    async def scenario(place: Namespace, links: Links) -> None:
        fd, index = make("sstp0")
        links.configure(index, LinkPlan(mtu=1279, local=PLAN.local, remote=PLAN.remote, ipv6_local=IDENTIFIER))
        (shown,) = place.ip("addr", "show", "dev", "sstp0")
        assert [address["family"] for address in shown["addr_info"]] == ["inet"]
        os.close(fd)

    run(scenario)


@needs_root
def test_ipv6_that_comes_later() -> None:
    async def scenario(place: Namespace, links: Links) -> None:
        fd, index = make("sstp0")
        links.configure(index, LinkPlan(mtu=1400, local=PLAN.local, remote=PLAN.remote))
        shown = place.run("ip", "-6", "route", "show", "table", "all").stdout
        assert "sstp0" not in shown  # else each link would cost each other one: the kernel walks all of them
        before = None
        for last in (7, 7, 8):  # IPV6CP may open once more, for another identifier
            peer = bytes(7) + bytes((last,))
            links.open_ipv6(index, IDENTIFIER, peer, before)
            before = peer
            (link,) = place.ip("-6", "address", "show", "dev", "sstp0")
            (v6,) = link["addr_info"]
            assert (v6["local"], v6["prefixlen"], v6["scope"]) == ("fe80::200:0:0:1", 128, "link")
            assert "tentative" not in v6
            routes = place.run("ip", "-6", "route").stdout.splitlines()
            assert [line.split()[:3] for line in routes if "sstp0" in line] == [[f"fe80::{last}", "dev", "sstp0"]]
        links.park(index)
        assert "sstp0" not in place.run("ip", "-6", "route", "show", "table", "all").stdout
        links.configure(index, LinkPlan(mtu=1279, local=PLAN.local, remote=PLAN.remote))
        with pytest.raises(OSError, match="Invalid"):
            links.open_ipv6(index, IDENTIFIER, bytes(8))
        os.close(fd)

    run(scenario)


@needs_root
def test_a_link_that_rests() -> None:
    plan = LinkPlan(mtu=1400, local=PLAN.local, remote=PLAN.remote, group=worker_group(3))

    async def scenario(place: Namespace, links: Links) -> None:
        fd, index = make("sstp0")
        links.configure(index, plan)
        place.run("ip", "address", "add", "10.77.0.1/24", "dev", "sstp0")
        links.rest(index)
        (shown,) = place.ip("-details", "address", "show", "dev", "sstp0")
        assert (shown["addr_info"], "UP" in shown["flags"], shown.get("txqlen", 0)) == ([], True, 0)
        assert place.routes() == []
        place.run("ip", "address", "add", "10.77.0.1/24", "dev", "sstp0")
        with pytest.raises(OSError, match="has an address"):
            links.wake(index, plan)
        links.rest(index)
        shape = "replace dev sstp0 root tbf rate 8kbit burst 1540 latency 10s"
        place.run("tc", "qdisc", *shape.split())
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as sender:
            for _ in range(4):
                sender.sendto(b"\x45" + bytes(999), ("sstp0", 0x0800))  # ETH_P_IP
        with pytest.raises(OSError, match="packets wait"):
            links.wake(index, plan)
        place.run("tc", "qdisc", "delete", "dev", "sstp0", "root")
        links.wake(index, plan)
        (shown,) = place.ip("-details", "address", "show", "dev", "sstp0")
        assert [one["address"] for one in shown["addr_info"]] == ["10.20.0.2"]
        assert shown["txqlen"] == plan.queue
        os.close(fd)
        await links.delete(index)
        with pytest.raises(OSError, match="No such device"):
            links.wake(index, plan)

    run(scenario)


@needs_root
def test_two_peers_with_the_same_identifier() -> None:
    """A client that dials again after a loss keeps its identifier, and its session before is still there."""

    async def scenario(place: Namespace, links: Links) -> None:
        peer = bytes(7) + b"\7"
        made = [make(name) for name in ("sstp0", "sstp1")]
        for _, index in made:
            links.configure(index, LinkPlan(mtu=1400, local=PLAN.local, remote=PLAN.remote))
            links.open_ipv6(index, IDENTIFIER, peer)
        for name in ("sstp0", "sstp1"):
            assert f"dev {name}" in place.run("ip", "-6", "route", "get", "fe80::7", "oif", name).stdout
        links.park(made[0][1])
        assert place.run("ip", "-6", "route").stdout.splitlines()[0].startswith("fe80::7 dev sstp1")
        for fd, _ in made:
            os.close(fd)

    run(scenario)


@needs_root
def test_ipv4_works_where_ipv6_is_switched_off() -> None:
    async def scenario(place: Namespace, links: Links) -> None:
        sysctl.write("net/ipv6/conf/default/disable_ipv6", "1")
        fd, index = make("sstp0")
        links.configure(index, PLAN)
        (shown,) = place.ip("addr", "show", "dev", "sstp0")
        assert [address["family"] for address in shown["addr_info"]] == ["inet"]
        assert "UP" in shown["flags"]
        os.close(fd)

    run(scenario)


@needs_root
def test_a_port_of_a_bridge() -> None:
    async def scenario(place: Namespace, links: Links) -> None:
        place.run("ip", "link", "add", "br0", "mtu", "1400", "type", "bridge")
        place.run("ip", "link", "add", "uplink", "mtu", "1400", "type", "veth", "peer", "name", "far")
        place.run("ip", "link", "set", "uplink", "master", "br0")
        (before,) = place.ip("link", "show", "dev", "br0")
        fd = make_tun("sstp0", kind=Kind.TAP)
        index = socket.if_nametoindex("sstp0")
        links.configure(index, LinkPlan(mtu=1280, group=worker_group(0), bridge="br0"))
        (shown,) = place.ip("-details", "addr", "show", "dev", "sstp0")
        assert (shown["master"], shown["mtu"], shown["group"]) == ("br0", 1400, str(worker_group(0)))
        assert "UP" in shown["flags"]
        assert shown["addr_info"] == []
        assert place.ip("link", "show", "dev", "br0") == [before]  # neither its MTU nor its address has changed
        os.close(fd)
        await links.delete(index)
        assert place.links() == {"lo", "br0", "uplink", "far"}
        assert place.ip("link", "show", "dev", "br0") == [before]

    run(scenario)


@needs_root
@pytest.mark.parametrize(
    ("bridge", "why"),
    [("br0", "bridge br0: there is no such interface"), ("bond0", "bridge bond0: it is no bridge")],
)
def test_what_is_no_bridge(bridge: str, why: str) -> None:
    async def scenario(place: Namespace, links: Links) -> None:
        place.run("ip", "link", "add", "bond0", "type", "veth")
        fd = make_tun("sstp0", kind=Kind.TAP)
        with pytest.raises(SystemRefusal, match=f"^{why}$"):
            links.configure(socket.if_nametoindex("sstp0"), LinkPlan(mtu=1400, bridge=bridge))
        (shown,) = place.ip("link", "show", "dev", "sstp0")
        assert "UP" not in shown["flags"]
        os.close(fd)

    run(scenario)


@needs_root
def test_first_error_is_raised_and_the_socket_goes_on() -> None:
    async def scenario(place: Namespace, links: Links) -> None:
        fd, index = make("sstp0")
        links.configure(index, PLAN)
        with pytest.raises(FileExistsError):
            links.configure(index, PLAN)
        with pytest.raises(OSError, match="No such device") as caught:
            links.configure(9999, PLAN)
        assert caught.value.errno == errno.ENODEV
        assert len(await links.session_links()) == 1
        os.close(fd)

    run(scenario)


@needs_root
def test_deletions_share_their_cost_and_free_everything_at_once() -> None:
    async def scenario(place: Namespace, links: Links) -> None:
        made = [make(f"sstp{number}") for number in range(40)]
        for number, (_, index) in enumerate(made):
            links.configure(
                index,
                LinkPlan(mtu=1400, local=PLAN.local, remote=IPv4Address("10.20.1.0") + number, group=worker_group(0)),
            )
        keeper, kept = make("keeper")
        started = asyncio.get_running_loop().time()
        await asyncio.gather(*(links.delete(index) for _, index in made), links.delete(made[0][1]))
        assert asyncio.get_running_loop().time() - started < 0.6  # one at a time would be 40 x 20 ms
        assert place.links() == {"lo", "keeper"}
        for fd, _ in made:  # descriptors that a process still holds are dead
            with pytest.raises(OSError, match="bad state"):
                os.read(fd, 100)
            os.close(fd)
        fd, index = make("sstp0")  # name and address can be used again at once
        links.configure(index, PLAN)
        os.close(fd)
        await links.delete(index)
        await links.delete(index)  # gone already: no error
        await links.delete(9999)
        os.close(keeper)
        await links.delete(kept)
        assert place.links() == {"lo"}

    run(scenario)


@needs_root
def test_a_link_that_cannot_be_deleted_spoils_no_other_deletion() -> None:
    """The loopback interface stands for it: the kernel refuses it, alone and with its group."""

    async def scenario(place: Namespace, links: Links) -> None:
        for number in range(2):  # also when a refused one stays in the graveyard
            fd, index = make(f"sstp{number}")
            os.close(fd)
            done = await asyncio.gather(
                links.delete(1), links.delete(index), links.delete(9999), return_exceptions=True
            )
            assert isinstance(done[0], OSError)
            assert str(done[0]) == f"[Errno {errno.EOPNOTSUPP}] link 1: {os.strerror(errno.EOPNOTSUPP)}"
            assert (done[1], done[2]) == (None, None)
            assert place.links() == {"lo"}

    run(scenario)


@needs_root
def test_group_deletion_spares_other_groups() -> None:
    async def scenario(place: Namespace, links: Links) -> None:
        fds = []
        for number in range(6):
            fd, index = make(f"sstp{number}")
            fds.append(fd)
            links.configure(index, LinkPlan(mtu=1400, group=worker_group(number % 2)))
        links.delete_group(worker_group(0))
        assert place.links() == {"lo", "sstp1", "sstp3", "sstp5"}
        links.delete_group(worker_group(0))
        links.delete_group(worker_group(1))
        assert place.links() == {"lo"}
        for fd in fds:
            os.close(fd)

    run(scenario)


@needs_root
def test_routes() -> None:
    async def scenario(place: Namespace, links: Links) -> None:
        place.run("ip", "link", "add", "uplink", "type", "veth", "peer", "name", "far")
        for command in ("address add 10.99.0.2/24 dev uplink", "address add fd99::2/64 dev uplink nodad"):
            place.run("ip", *command.split())
        for end in ("uplink", "far"):
            place.run("ip", "link", "set", end, "up")
        place.run("ip", "route", "add", "default", "via", "10.99.0.1")
        place.run("ip", "route", "add", "default", "via", "fd99::1")
        before = place.routes()

        server = await links.route_to(IPv4Address("192.0.2.7"))
        assert (str(server.destination), str(server.gateway)) == ("192.0.2.7/32", "10.99.0.1")
        neighbour = await links.route_to(IPv4Address("10.99.0.77"))
        assert neighbour.gateway is None
        server6 = await links.route_to(IPv6Address("2001:db8::7"))
        assert (str(server6.destination), str(server6.gateway)) == ("2001:db8::7/128", "fd99::1")

        fd, index = make("sstp0")
        links.configure(index, PLAN)
        default = Route(ip_network("0.0.0.0/0"), index, metric=0)
        await links.add_route(server)
        with pytest.raises(FileExistsError):
            await links.add_route(server)
        await links.add_route(Route(ip_network("0.0.0.0/1"), index, metric=5))
        await links.add_route(server6)
        assert "192.0.2.7 via 10.99.0.1 dev uplink" in " ".join(place.routes())
        found = await links.route_to(IPv4Address("8.8.8.8"))
        assert found.index == index
        assert found.gateway is None
        assert (await links.route_to(IPv4Address("192.0.2.7"))).gateway == ipaddress.ip_address("10.99.0.1")

        await links.delete_leftover(IPv4Address("192.0.2.7"))
        assert "192.0.2.7" not in " ".join(place.routes())
        place.run("ip", "route", "add", "192.0.2.7", "via", "10.99.0.1")  # somebody else's
        await links.delete_leftover(IPv4Address("192.0.2.7"))
        assert "192.0.2.7" in " ".join(place.routes())
        place.run("ip", "route", "del", "192.0.2.7")

        await links.add_route(server)
        await links.delete_route(server)
        await links.delete_route(server)  # gone already: no error
        await links.delete_route(server6)
        await links.delete(index)  # takes its route along
        await links.delete_route(Route(ip_network("0.0.0.0/1"), index, metric=5))
        assert place.routes() == before
        with pytest.raises(OSError, match="No such"):
            await links.add_route(default)
        os.close(fd)

    run(scenario)


@needs_root
def test_no_route() -> None:
    async def scenario(place: Namespace, links: Links) -> None:
        with pytest.raises(OSError, match="unreachable") as caught:
            await links.route_to(IPv4Address("192.0.2.7"))
        assert caught.value.errno == errno.ENETUNREACH

    run(scenario)
