"""The pool of TUN devices: what a parked device is, and that nothing of one session reaches the next."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import pytest

from sstpfarm.dataplane.interface import Offload
from sstpfarm.master.devices import Device, Devices, Numbers
from sstpfarm.net import sysctl
from sstpfarm.net.groups import POOL_GROUP, worker_group
from sstpfarm.net.links import SESSION_QUEUE, LinkPlan, Links
from sstpfarm.net.tun import make_tun
from tests.unit.descriptors import descriptors_closed
from tests.unit.inside import Namespace, inside, namespace, needs_root


def plan(number: int, mtu: int = 1400) -> LinkPlan:
    return LinkPlan(
        mtu=mtu,
        local=IPv4Address("10.20.0.1"),
        remote=IPv4Address("10.20.1.0") + number,
        group=worker_group(0),
    )


@dataclass
class Bench:
    place: Namespace
    links: Links
    devices: Devices
    failures: list[str] = field(default_factory=list)

    def session(self, number: int, mtu: int = 1400) -> Device:
        """Take a device, as a session does whose worker closes its descriptor at once."""
        device, tun = self.devices.take(plan(number, mtu))
        os.close(tun)
        return device

    def park(self, device: Device) -> bool:
        """Give a device back that is to go down; one that stays up is the matter of test_master_warm."""
        return self.devices.give_back(device, stay_up=False)


def packets(tun: int) -> list[bytes]:
    """Read all that is queued for a descriptor; the kernel's own ICMPv6 is left out."""
    found = []
    with suppress(BlockingIOError):
        while True:
            found.append(os.read(tun, 2000))
    return [packet for packet in found if packet[0] >> 4 == 4]


def run(scenario: Callable[[Bench], Awaitable[None]], *, max_free: int = 256) -> None:
    async def main(place: Namespace) -> None:
        async with Links() as links:
            failures: list[str] = []
            with descriptors_closed():
                devices = Devices(links, Offload.NONE, failures.append, max_free=max_free, trim_interval=0.05)
                await scenario(Bench(place, links, devices, failures))
                await devices.close()
            assert not [name for name in place.links() if name.startswith("sstp")]

    with namespace("devices") as place:
        inside(place, lambda: asyncio.run(main(place)))


def test_numbers() -> None:
    numbers = Numbers()
    assert [numbers.take() for _ in range(4)] == [0, 1, 2, 3]
    numbers.give(2)
    numbers.give(0)
    assert [numbers.take() for _ in range(3)] == [0, 2, 4]


@needs_root
def test_a_parked_device_has_nothing_of_its_session() -> None:
    async def scenario(bench: Bench) -> None:
        place = bench.place
        device, tun = bench.devices.take(plan(1))
        place.run("ip", "address", "add", "10.77.0.1/24", "dev", device.name)  # an operator's
        place.run("ip", "route", "add", "10.78.0.0/16", "dev", device.name)
        place.run("ip", "-6", "route", "add", "fd77::/64", "dev", device.name)
        bench.links.open_ipv6(device.index, b"\x02" + bytes(7), b"\x06" + bytes(7))
        os.close(tun)
        assert bench.park(device)
        (shown,) = place.ip("-details", "addr", "show", "dev", device.name)
        assert "UP" not in shown["flags"]
        assert shown["addr_info"] == []
        assert shown["group"] == str(POOL_GROUP)
        assert place.routes() == []
        assert place.run("ip", "route", "show", "table", "local", "dev", device.name).stdout == ""
        place.run("ip", "link", "set", device.name, "up")
        assert place.routes() == []  # nothing comes back with it

    run(scenario)


@needs_root
def test_the_next_session_gets_the_same_device() -> None:
    async def scenario(bench: Bench) -> None:
        first = bench.session(1)
        assert bench.park(first)
        second, tun = bench.devices.take(plan(2, mtu=1300))
        assert (second.name, second.index) == (first.name, first.index)
        (shown,) = bench.place.ip("-details", "addr", "show", "dev", second.name)
        assert shown["mtu"] == 1300
        assert shown["group"] == str(worker_group(0))
        assert "UP" in shown["flags"]
        (v4,) = shown["addr_info"]
        assert (v4["local"], v4["address"]) == ("10.20.0.1", "10.20.1.2")
        assert bench.failures == []
        os.close(tun)
        assert bench.park(second)

    run(scenario)


@needs_root
def test_no_packet_of_the_old_session_reaches_the_new_one() -> None:
    async def scenario(bench: Bench) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:

            def send(text: bytes, address: str, count: int) -> None:
                for _ in range(count):
                    sender.sendto(text, (address, 9))

            watched, tun = bench.devices.take(plan(1))
            send(b"old", "10.20.1.1", 2000)  # four times what the queue holds
            assert SESSION_QUEUE - 10 < len(packets(tun)) <= SESSION_QUEUE  # full: the kernel's own are few
            send(b"old", "10.20.1.1", 2000)
            os.close(tun)
            send(b"late", "10.20.1.1", 10)  # its worker has closed it, the master does not know yet
            assert bench.park(watched)
            again, tun = bench.devices.take(plan(2))
            assert again.index == watched.index
            assert packets(tun) == []
            send(b"new", "10.20.1.2", 1)
            (packet,) = packets(tun)
            assert packet.endswith(b"new")
            os.close(tun)
            assert bench.park(again)

    run(scenario)


@needs_root
def test_a_device_that_is_still_held_is_deleted() -> None:
    async def scenario(bench: Bench) -> None:
        device, held = bench.devices.take(plan(1))
        assert bench.park(device)  # the worker has lied
        other, tun = bench.devices.take(plan(2))
        assert other.index != device.index
        assert len(bench.failures) == 1
        os.close(tun)
        assert bench.park(other)
        await bench.devices.close()
        with pytest.raises(OSError, match="bad state"):
            os.read(held, 2000)
        os.close(held)

    run(scenario)


@needs_root
def test_a_device_that_somebody_deleted_or_replaced() -> None:
    async def scenario(bench: Bench) -> None:
        first, second = bench.session(1), bench.session(2)
        for device in (first, second):
            assert bench.park(device)
            bench.place.run("ip", "link", "delete", device.name)
        foreign = make_tun(second.name)
        third, tun = bench.devices.take(plan(3))
        assert third.index not in (first.index, second.index)
        assert third.name not in (second.name,)
        assert second.name in bench.place.links()  # the foreign one is left alone
        os.close(tun)
        assert bench.park(third)
        bench.place.run("ip", "link", "delete", second.name)
        os.close(foreign)

    run(scenario)


@needs_root
def test_a_small_mtu_is_not_passed_on() -> None:
    """Below 1280 the kernel takes IPv6 off an interface; the next session has it all the same, and as quiet."""

    async def scenario(bench: Bench) -> None:
        first = bench.session(1, mtu=1279)
        assert bench.park(first)
        second = bench.session(2, mtu=1280)
        assert second.index == first.index
        assert bench.place.ip("-6", "address", "show", "dev", second.name) in (
            [],
            [{}],
        )  # no address of the kernel's own
        bench.links.open_ipv6(second.index, bytes(7) + b"\1", bytes(7) + b"\2")
        (shown,) = bench.place.ip("-6", "address", "show", "dev", second.name)
        assert [address["local"] for address in shown["addr_info"]] == ["fe80::1"]
        assert bench.park(second)

    run(scenario)


@needs_root
def test_surplus_devices_are_deleted() -> None:
    async def scenario(bench: Bench) -> None:
        taken = [bench.session(number) for number in range(6)]
        assert all(bench.park(device) for device in taken)
        assert bench.devices.free == 6  # who comes back at once finds them
        assert bench.place.routes() == []
        back = [bench.session(number) for number in range(5)]
        assert len({device.index for device in [*taken, *back]}) == 6
        assert all(bench.park(device) for device in back)
        while len(bench.place.links()) > 4:  # noqa: ASYNC110 - the kernel does not tell
            await asyncio.sleep(0.01)
        assert bench.devices.free == 3
        names = [bench.session(number).name for number in range(6)]
        assert len(set(names)) == 6
        for name in names:
            bench.place.run("ip", "link", "delete", name)

    run(scenario, max_free=3)


@needs_root
def test_what_cannot_be_addressed_leaves_nothing() -> None:
    async def scenario(bench: Bench) -> None:
        for device in [bench.session(1), bench.session(2), bench.session(3)]:
            assert bench.park(device)
        with pytest.raises(OSError, match="Invalid"):
            bench.devices.take(plan(2, mtu=67))  # RFC 791 3.2: 68 is the least, and the kernel's
        assert bench.devices.free == 2  # not all of them are spent on it
        await bench.devices.close()
        assert bench.place.links() == {"lo"}
        assert bench.session(3).name == "sstp0"
        bench.place.run("ip", "link", "delete", "sstp0")

    run(scenario)


@needs_root
def test_a_killed_master_leaves_none_outside_of_the_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next start finds what is left by its group: a device must not outlive the master before it is in one."""

    def persists(bench: Bench) -> bool:
        (shown,) = bench.place.ip("-details", "link", "show", "dev", "sstp0")
        return bool(shown["linkinfo"]["info_data"]["persist"])

    async def scenario(bench: Bench) -> None:
        configure, before = bench.links.configure, list[bool]()

        def spied(index: int, plan: LinkPlan) -> int:
            before.append(persists(bench))
            return configure(index, plan)

        monkeypatch.setattr(bench.links, "configure", spied)
        device, tun = bench.devices.take(plan(1))
        assert (before, persists(bench)) == ([False], True)
        os.close(tun)
        assert bench.park(device)

    run(scenario)


@needs_root
def test_ipv6_that_is_switched_off_later() -> None:
    async def scenario(bench: Bench) -> None:
        assert bench.park(bench.session(1))
        sysctl.write("net/ipv6/conf/sstp0/disable_ipv6", "1")
        device = bench.session(2)
        with pytest.raises(PermissionError):
            bench.links.open_ipv6(device.index, bytes(8), bytes(8))
        (shown,) = bench.place.ip("addr", "show", "dev", device.name)
        assert [address["family"] for address in shown["addr_info"]] == ["inet"]
        assert bench.park(device)

    run(scenario)
