"""What is heard of routes that others put on interfaces, and what is not."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, ip_network
from time import sleep

import pytest

from sstpfarm.net import rtnetlink, watch
from sstpfarm.net.netlink import Netlink, check
from sstpfarm.net.routes import add_route
from sstpfarm.net.watch import RouteWatch
from tests.unit.descriptors import descriptors_closed
from tests.unit.inside import Namespace, inside, namespace, needs_root

LOCAL, REMOTE = (IPv4Address(text).packed for text in ("10.20.0.1", "10.20.0.2"))


@contextmanager
def pair(place: Namespace) -> Iterator[tuple[int, int]]:
    """The indexes of two interfaces that are up."""
    place.run("ip", "link", "add", "name", "veth0", "type", "veth", "peer", "name", "veth1")
    for name in ("veth0", "veth1"):
        place.run("ip", "link", "set", name, "addrgenmode", "none", "up")
    sleep(0.2)  # the kernel tells of the carrier a little later, and adds its own routes then
    yield socket.if_nametoindex("veth0"), socket.if_nametoindex("veth1")


def routes_batch(place: Namespace, name: str, count: int) -> None:
    """Add that many IPv6 routes to an interface, as one who loads a table does."""
    with tempfile.NamedTemporaryFile("w") as lines:
        lines.writelines(f"route add fd77:{number:x}::/64 dev {name}\n" for number in range(count))
        lines.flush()
        place.run("ip", "-6", "-batch", lines.name)


@needs_root
@pytest.mark.parametrize(
    ("words", "on"),
    [
        ("-6 route add fd77::/64 dev veth0", "a"),
        ("-6 route add fd77::/64 dev veth0 table 7", "a"),
        ("-6 address add fd77::1/64 dev veth0 nodad", "a"),
        ("-6 address add fd77::1/128 dev veth0 nodad noprefixroute", "a"),
        ("-6 route add fd77::/64 nexthop via fe80::1 dev veth0 nexthop via fe80::2 dev veth1", "ab"),
        ("-4 route add 10.77.0.0/16 dev veth1", "b"),
        ("-4 route add 10.77.0.0/16 nexthop dev veth1 nexthop dev veth0", "ab"),
        ("nexthop add id 7 dev veth1", "b"),
        ("nexthop add id 7 via fe80::7 dev veth1", "b"),
        ("route add unreachable 10.77.0.0/16", ""),
    ],
)
def test_others_are_heard_of(words: str, on: str) -> None:
    def scenario(place: Namespace) -> None:
        with pair(place) as (a, b):
            heard = RouteWatch()
            place.run("ip", *words.split())
            found = heard.seen()
            assert found is not None
            assert found & {a, b} == {{"a": a, "b": b}[name] for name in on}
            assert heard.seen() == set()
            heard.close()

    with namespace("watch") as place:
        inside(place, lambda: scenario(place))


@needs_root
def test_our_own_are_not() -> None:
    def scenario(place: Namespace) -> None:
        with pair(place) as (a, _):
            netlink, heard = Netlink(socket.NETLINK_ROUTE), RouteWatch()
            check(netlink.send([rtnetlink.add_ipv4(a, LOCAL, REMOTE)]))
            for text in ("10.77.0.0/16", "fd77::/64"):
                assert add_route(netlink, a, ip_network(text), None, 0)
            check(netlink.send([rtnetlink.host_route(rtnetlink.RTM_NEWROUTE, a, b"\xfe\x80" + bytes(13) + b"\2")]))
            check(netlink.send([rtnetlink.delete_any_ipv4(a)]))
            place.run("ip", "-6", "route", "del", "fd77::/64", "dev", "veth0")  # others take nothing on
            assert heard.seen() == set()
            heard.close()
            netlink.close()

    with namespace("watch") as place:
        inside(place, lambda: scenario(place))


@needs_root
def test_the_kernel_s_own_route_is_told_apart() -> None:
    """Of an interface that has got nothing else; who puts an address there gets that route too."""

    def scenario(place: Namespace) -> None:
        with pair(place) as (a, b):
            netlink, heard = Netlink(socket.NETLINK_ROUTE), RouteWatch()
            for name, batch in (("veth0", ["down", "up"]), ("veth1", ["down", "up"])):
                for word in batch:
                    place.run("ip", "link", "set", name, word)
            sleep(0.3)
            assert heard.seen() == set()
            assert heard.multicast == {a, b}
            check(netlink.send([rtnetlink.delete_multicast(index) for index in (a, b)]))
            assert heard.seen() == set()
            assert heard.multicast == set()
            place.run("ip", "-6", "address", "add", "fd77::1/64", "dev", "veth0", "nodad")
            place.run("ip", "-6", "route", "add", "multicast", "ff00::/8", "dev", "veth1", "table", "local")
            sleep(0.1)
            assert heard.seen() == {a, b}
            assert heard.multicast == set()
            heard.close()
            netlink.close()

    with namespace("watch") as place:
        inside(place, lambda: scenario(place))


@needs_root
@pytest.mark.parametrize("waiting", [1 << 20, 4096])
def test_too_many(waiting: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than are read at once, and more than the socket holds."""
    monkeypatch.setattr(watch, "WAITING", waiting)
    monkeypatch.setattr(watch, "MOST", 100)

    def scenario(place: Namespace) -> None:
        with pair(place) as (a, _):
            heard = RouteWatch()
            routes_batch(place, "veth0", 120)
            assert heard.seen() is None
            assert heard.seen() == set()
            place.run("ip", "-6", "route", "add", "fd78::/64", "dev", "veth0")
            assert heard.seen() == {a}
            heard.close()

    with descriptors_closed(), namespace("watch") as place:
        inside(place, lambda: scenario(place))
