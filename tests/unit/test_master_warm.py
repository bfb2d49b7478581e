"""Free TUN devices that stay up: no event of a link while sessions come and go, and nothing reaches the next one."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_network
from time import monotonic

import pytest

from sstpfarm.dataplane.interface import Offload
from sstpfarm.master import devices, warm
from sstpfarm.master.devices import Device, Devices
from sstpfarm.net.groups import POOL_GROUP, worker_group
from sstpfarm.net.links import LinkPlan, Links
from sstpfarm.net.netlink import Netlink
from sstpfarm.net.routes import add_route, delete_routes
from sstpfarm.net.tun import keep_tun
from tests.unit.connection_bench import until
from tests.unit.descriptors import descriptors_closed
from tests.unit.inside import Namespace, inside, namespace, needs_root
from tests.unit.test_master_devices import packets
from tests.unit.test_net_watch import routes_batch

READY = 20
RTMGRP_LINK = 1
UP_WITH_CARRIER = 0x1 | 0x10000  # IFF_UP, IFF_LOWER_UP
ETH_P_IP = 0x0800


def plan(number: int, *, mtu: int = 1400, worker: int = 0, clamped: bool = True) -> LinkPlan:
    return LinkPlan(
        mtu=mtu,
        local=IPv4Address("10.20.0.1"),
        remote=IPv4Address("10.20.1.0") + number,
        group=worker_group(worker, clamped=clamped),
    )


@dataclass
class Bench:
    place: Namespace
    devices: Devices
    failures: list[str] = field(default_factory=list)

    def session(self, wanted: LinkPlan) -> Device:
        """Take a device, as a session does whose worker closes its descriptor at once."""
        device, tun = self.devices.take(wanted)
        os.close(tun)
        return device

    def is_up(self, device: Device) -> bool:
        """Whether it is up; one that is down has to be in the pool's group, and no free one has any address."""
        (shown,) = self.place.ip("-details", "address", "show", "dev", device.name)
        up = "UP" in shown["flags"]
        assert up == ("LOWER_UP" in shown["flags"]) == (shown["group"] != str(POOL_GROUP))
        assert shown["addr_info"] == []
        return up


def tuns(place: Namespace) -> set[str]:
    return {link["ifname"] for link in place.ip("link", "show") if link.get("ifname", "").startswith("sstp")}


def run(
    scenario: Callable[[Bench], Awaitable[None]],
    *,
    max_free: int = 256,
    rest: float = 0.0,
    ready: int = 0,
    workers: int = 1,
) -> None:
    async def main(place: Namespace) -> None:
        async with Links() as links:
            with descriptors_closed():
                failures: list[str] = []
                made = Devices(
                    links, Offload.NONE, failures.append, max_free=max_free, rest=rest, ready=ready, workers=workers
                )
                await scenario(Bench(place, made, failures))
                await made.close()
            assert failures == []

    with namespace("warm") as place:
        inside(place, lambda: asyncio.run(main(place)))


@needs_root
def test_sessions_come_and_go_while_the_link_stays_up() -> None:
    """The kernel tells of the queue; what it tells of the flags is that they are as they were."""

    async def scenario(bench: Bench) -> None:
        device = bench.session(plan(1))
        routes = Netlink(socket.NETLINK_ROUTE)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE) as heard:
            await asyncio.sleep(0.1)  # the kernel tells of the carrier of a new one a little later
            heard.bind((0, RTMGRP_LINK))
            for number in range(2, 5):
                network = ip_network(f"fd77:{number}::/64")
                assert add_route(routes, device.index, network, None, 0)
                delete_routes(routes, device.index, [(network, None, 0)])
                assert bench.devices.give_back(device)
                assert bench.is_up(device)
                assert bench.place.routes() == []
                assert bench.place.run("ip", "route", "show", "table", "local", "dev", device.name).stdout == ""
                again = bench.session(plan(number))
                assert again.index == device.index
                (shown,) = bench.place.ip("-details", "-4", "address", "show", "dev", again.name)
                (v4,) = shown["addr_info"]
                assert (v4["local"], v4["address"]) == ("10.20.0.1", f"10.20.1.{number}")
                assert (shown["mtu"], shown["txqlen"], shown["group"]) == (1400, 500, str(worker_group(0)))
            await asyncio.sleep(0.1)
            told = 0
            with suppress(BlockingIOError):
                while True:
                    flags = struct.unpack_from("=I", heard.recv(8192), 24)[0]  # struct nlmsghdr, struct ifinfomsg
                    assert flags & UP_WITH_CARRIER == UP_WITH_CARRIER
                    told += 1
            assert told == 6
        routes.close()

    run(scenario)


@needs_root
def test_only_a_session_of_the_same_worker_and_of_the_same_kind_gets_it() -> None:
    async def scenario(bench: Bench) -> None:
        first = bench.session(plan(1))
        assert bench.devices.give_back(first)
        others = [plan(2, worker=1), plan(3, mtu=1300), plan(4, clamped=False)]
        assert first.index not in [bench.session(other).index for other in others]
        assert bench.is_up(first)
        assert bench.session(plan(5)).index == first.index

    run(scenario)


@needs_root
def test_it_rests() -> None:
    async def scenario(bench: Bench) -> None:
        first = bench.session(plan(1))
        assert bench.devices.give_back(first)
        second = bench.session(plan(2))
        assert second.index != first.index
        await asyncio.sleep(0.3)
        assert bench.session(plan(3)).index == first.index

    run(scenario, rest=0.3)


@needs_root
def test_no_packet_of_the_old_session_while_others_send_to_it() -> None:
    """A thread sends to whoever had the device last, without a pause, while it goes from hand to hand."""
    target, stop = ["10.20.1.1"], threading.Event()
    sent = [0]

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while not stop.is_set():
                address = target[0]
                try:
                    sender.sendto(address.encode(), (address, 9))
                    sent[0] += 1
                except OSError:  # no route: between two sessions, or behind the last one
                    pass

    async def scenario(bench: Bench) -> None:
        device, tun = bench.devices.take(plan(1))
        thread = threading.Thread(target=inside, args=(bench.place, send))
        thread.start()
        try:
            for number in range(2, 60):
                before, deadline = sent[0], monotonic() + 30
                while sent[0] < before + 10:
                    assert monotonic() < deadline
                    await asyncio.sleep(0.001)
                os.close(tun)  # the ring is full of what nobody reads
                assert bench.devices.give_back(device)
                device, tun = bench.devices.take(plan(number))
                assert bench.devices.free == 0  # it is the same one
                await asyncio.sleep(0.002)
                assert packets(tun) == []
                target[0] = f"10.20.1.{number}"
        finally:
            stop.set()
            thread.join()
        os.close(tun)

    run(scenario)
    assert sent[0] > 1000


@needs_root
def test_what_a_shaper_holds_back_does_not_come_out_later() -> None:
    async def scenario(bench: Bench) -> None:
        first = bench.session(plan(1))
        shape = "replace dev sstp0 root tbf rate 100kbit burst 1540 latency 10s"
        bench.place.run("tc", "qdisc", *shape.split())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(50):
                sender.sendto(b"old" * 100, ("10.20.1.1", 9))
        assert bench.devices.give_back(first)
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as sender:  # to the free device itself
            for _ in range(50):
                sender.sendto(b"\x45" + b"old" * 100, (first.name, ETH_P_IP))
        device, tun = bench.devices.take(plan(2))
        assert device.index == first.index
        await asyncio.sleep(0.3)  # some 12 of them could pass
        assert packets(tun) == []
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"new", ("10.20.1.2", 9))
        await asyncio.sleep(0.1)
        assert [packet[-3:] for packet in packets(tun)] == [b"new"]
        os.close(tun)

    run(scenario)


@needs_root
@pytest.mark.parametrize("length", [100, 500, 700])
def test_what_is_sent_to_a_free_one_that_got_a_queue_does_not_come_out_later(length: int) -> None:
    """A script of an operator's gives each interface that it finds a longer queue."""

    async def scenario(bench: Bench) -> None:
        first = bench.session(plan(1))
        assert bench.devices.give_back(first)
        bench.place.run("ip", "link", "set", first.name, "txqueuelen", str(length))
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as sender:
            for _ in range(5):
                sender.sendto(b"\x45" + b"old" * 100, (first.name, ETH_P_IP))
        device, tun = bench.devices.take(plan(2))
        assert device.index == first.index
        assert packets(tun) == []
        os.close(tun)

    run(scenario)


FOREIGN = [
    "-6 route add fd77::/64 dev sstp0",
    "-6 route add fd77::/64 via fe80::7 dev sstp0 table 7",
    "-6 address add fd77::1/64 dev sstp0 nodad",
    "nexthop add id 77 dev sstp0",
    "-4 route add 10.77.0.0/16 dev sstp0",
    "-4 address add 10.77.0.1/24 dev sstp0",
]


def traces(place: Namespace) -> list[str]:
    """What is left of it on a device without a session, or on one that has only its own address."""
    found = place.run("ip", "-6", "route", "show", "table", "all", "dev", "sstp0").stdout.splitlines()
    found += place.run("ip", "-4", "route", "show", "table", "all").stdout.splitlines()
    found += place.run("ip", "nexthop", "show").stdout.splitlines()
    return [line for line in found if "77" in line]


@needs_root
@pytest.mark.parametrize("words", FOREIGN)
@pytest.mark.parametrize("free", [False, True])
def test_what_others_put_on_it_is_gone(words: str, free: bool) -> None:
    async def scenario(bench: Bench) -> None:
        device = bench.session(plan(1))
        if not free:
            bench.place.run("ip", *words.split())
        assert bench.devices.give_back(device)
        if free:
            assert bench.is_up(device)
            bench.place.run("ip", *words.split())
            assert traces(bench.place) != []
            device = bench.session(plan(2))
        assert traces(bench.place) == []
        if free:
            assert bench.devices.give_back(device)
        for number in (3, 4):  # and it can stay up again
            device = bench.session(plan(number))
            assert device.name == "sstp0"
            assert bench.devices.give_back(device)
            assert bench.is_up(device)

    run(scenario)


@needs_root
def test_what_others_put_on_a_new_one_at_once_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A routing daemon may be quicker than we: between the link's going up and its first look."""

    async def scenario(bench: Bench) -> None:
        def keep(tun: int) -> None:
            bench.place.run("ip", *FOREIGN[0].split())
            keep_tun(tun)

        with monkeypatch.context() as patch:
            patch.setattr(devices, "keep_tun", keep)
            device = bench.session(plan(1))
        assert traces(bench.place) != []
        assert bench.devices.give_back(device)
        assert not bench.is_up(device)
        assert traces(bench.place) == []

    run(scenario)


@needs_root
def test_one_that_was_down_stays_up_again() -> None:
    """The kernel sees its carrier a little later than we take it up, and gives it ff00::/8 only then."""

    def routes(place: Namespace) -> str:
        return place.run("ip", "-6", "route", "show", "table", "all", "dev", "sstp0").stdout

    async def scenario(bench: Bench) -> None:
        assert bench.devices.give_back(bench.session(plan(1)), stay_up=False)
        await asyncio.sleep(1.2)  # until the kernel has seen that it has none
        device = bench.session(plan(2))
        deadline = monotonic() + 1  # where the kernel was quick, it was there before, and is deleted by now
        while not routes(bench.place) and monotonic() < deadline:  # noqa: ASYNC110 - the kernel sets no asyncio.Event
            await asyncio.sleep(0.01)
        other = bench.session(plan(3))
        assert routes(bench.place) == ""
        assert bench.devices.give_back(device)
        assert [bench.is_up(device), other.index == device.index] == [True, False]

    run(scenario)


@needs_root
def test_notices_that_were_lost() -> None:
    async def scenario(bench: Bench) -> None:
        device = bench.session(plan(1))
        bench.place.run("ip", "link", "set", "lo", "up")
        routes_batch(bench.place, "lo", 1500)
        assert bench.devices.give_back(device)
        assert not bench.is_up(device)
        device = bench.session(plan(2))
        assert bench.devices.give_back(device)
        assert bench.is_up(device)

    run(scenario)


@needs_root
def test_a_program_has_had_to_do_with_it() -> None:
    async def scenario(bench: Bench) -> None:
        device = bench.session(plan(1))
        assert bench.devices.give_back(device, stay_up=False)
        assert not bench.is_up(device)

    run(scenario)


@needs_root
@pytest.mark.parametrize(
    "words",
    [
        "set sstp0 down",
        "set sstp0 mtu 1300",
        "set sstp0 mtu 1000",
        "set sstp0 txqueuelen 700",
        "set sstp0 group 5",
        "set sstp0 name other",
        "delete sstp0",
    ],
)
@pytest.mark.parametrize("free", [True, False])
def test_what_an_operator_does_to_one(words: str, free: bool) -> None:
    async def scenario(bench: Bench) -> None:
        first = bench.session(plan(1))
        if free:
            assert bench.devices.give_back(first)
        if words.endswith("other"):
            bench.place.run("ip", "link", "set", "sstp0", "down")
        bench.place.run("ip", "link", *words.split())
        if not free and not bench.devices.give_back(first):
            await bench.devices.discard(first)
        device, tun = bench.devices.take(plan(2))
        (shown,) = bench.place.ip("-details", "address", "show", "dev", device.name)
        assert (shown["mtu"], shown["txqlen"], "UP" in shown["flags"]) == (1400, 500, True)
        assert shown["group"] == str(worker_group(0))
        await asyncio.sleep(0.05)
        assert "inet6" not in bench.place.run("ip", "address", "show", "dev", device.name).stdout
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"new", ("10.20.1.2", 9))
        assert [packet[-3:] for packet in packets(tun)] == [b"new"]
        os.close(tun)

    run(scenario)


@needs_root
def test_a_worker_that_is_gone() -> None:
    """What its processes may still hold is not passed on to its successor."""

    async def scenario(bench: Bench) -> None:
        wanted = [plan(1), plan(2, clamped=False), plan(3, worker=1)]
        taken = [bench.session(each) for each in wanted]
        assert all(bench.devices.give_back(device) for device in taken)
        bench.devices.worker_lost(0)
        assert bench.devices.free == 1
        while len(bench.place.links()) > 2:  # noqa: ASYNC110 - the kernel does not tell
            await asyncio.sleep(0.01)
        assert bench.is_up(taken[2])

    run(scenario)


@needs_root
def test_a_full_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(bench: Bench) -> None:
        old = [bench.session(plan(number, mtu=1300)) for number in (1, 2)]
        new = [bench.session(plan(number)) for number in (3, 4)]
        assert all(bench.devices.give_back(device) for device in [*old, new[0]])
        assert [bench.is_up(device) for device in [*old, new[0]]] == [True, True, False]
        monkeypatch.setattr(warm, "STALE", 0.0)  # nobody has wanted the old ones for long
        assert bench.devices.give_back(new[1])
        assert [bench.is_up(device) for device in [*old, *new]] == [False, True, False, True]

    run(scenario, max_free=2)


@needs_root
def test_few_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what the process may have is for this; the devices of other sessions go down."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2, 2))

    async def scenario(bench: Bench) -> None:
        taken = [bench.session(plan(number)) for number in (1, 2)]
        assert all(bench.devices.give_back(device) for device in taken)
        assert [bench.is_up(device) for device in taken] == [True, False]

    run(scenario)


@needs_root
def test_devices_that_are_ready_before_their_sessions() -> None:
    async def scenario(bench: Bench) -> None:
        bench.devices.worker_ready(0, 1400)
        await until(lambda: bench.devices.free == READY)
        assert len(tuns(bench.place)) == READY
        made = [bench.session(plan(number)) for number in range(READY)]
        assert {device.name for device in made} == {f"sstp{number}" for number in range(READY)}
        assert tuns(bench.place) == {device.name for device in made}  # and no other had to be made
        bench.devices.worker_ready(1, 1400)
        await until(lambda: bench.devices.free == READY)
        for device in made:  # as many as of two workers stay up
            assert bench.devices.give_back(device)
            assert bench.is_up(device)
        await asyncio.sleep(0.1)
        bench.session(plan(99)), bench.session(plan(99, worker=1))  # whose login sees to what the kernel did late
        assert "sstp" not in bench.place.run("ip", "-6", "route", "show", "table", "all").stdout
        bench.devices.worker_lost(1)
        await until(lambda: len(tuns(bench.place)) == READY + 1)  # of that worker the one of its session is left

    run(scenario, ready=READY, workers=2, max_free=0)


@needs_root
def test_a_worker_is_lost_while_its_devices_are_made() -> None:
    async def scenario(bench: Bench) -> None:
        bench.devices.worker_ready(0, 1400)
        await until(lambda: bench.devices.free > 0)
        bench.devices.worker_lost(0)
        await until(lambda: tuns(bench.place) == set())
        await asyncio.sleep(0.05)
        assert tuns(bench.place) == set()
        bench.devices.worker_ready(0, 1400)  # its successor gets its own
        await until(lambda: bench.devices.free == 200)

    run(scenario, ready=200)


@needs_root
def test_no_descriptor_is_left_for_devices_that_were_to_be_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(bench: Bench) -> None:
        attempts = []

        def refuse(fd: int) -> int:
            attempts.append(fd)
            raise OSError(errno.EMFILE, "too many")

        with monkeypatch.context() as patch:
            patch.setattr(os, "dup", refuse)
            bench.devices.worker_ready(0, 1400)
            await asyncio.sleep(0.3)
        assert len(attempts) == 1  # and not one for each
        await until(lambda: tuns(bench.place) == set())

    run(scenario, ready=READY)
