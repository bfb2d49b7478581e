"""Static interfaces when something is in their way: foreign interfaces, deletions, holders, leftovers."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import pytest

from sstpfarm.config.ppp import Interface
from sstpfarm.dataplane.interface import Offload
from sstpfarm.errors import SystemRefusal
from sstpfarm.master.devices import Device
from sstpfarm.master.static import StaticInterfaces
from sstpfarm.net.groups import POOL_GROUP, worker_group
from sstpfarm.net.links import LinkPlan, Links
from sstpfarm.net.tun import Kind, keep_tun, make_tun
from tests.unit.inside import Namespace, inside, namespace, needs_root

PLAN = LinkPlan(
    mtu=1400, local=IPv4Address("10.20.0.1"), remote=IPv4Address("10.20.0.2"), group=worker_group(0)
)  # fmt: skip


@dataclass
class Bench:
    place: Namespace
    links: Links
    static: StaticInterfaces
    failures: list[str] = field(default_factory=list)

    def take(self, user: str = "alice", name: str = "", plan: LinkPlan = PLAN) -> tuple[Device, int]:
        found = self.static.take(user, name, plan)
        assert found is not None
        return found


def run(scenario: Callable[[Bench], Awaitable[None]], **entries: Interface) -> None:
    async def main(place: Namespace) -> None:
        async with Links() as links:
            failures: list[str] = []
            static = StaticInterfaces(links, Offload.NONE, entries, failures.append)
            bench = Bench(place, links, static, failures)
            await scenario(bench)
            await static.close()
            assert not place.links() & set(entries)

    with namespace("static") as place:
        inside(place, lambda: asyncio.run(main(place)))


@needs_root
def test_a_user_has_several_and_no_one_else_has_any() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.static.prepare({})
        taken = [bench.take() for _ in range(2)]
        assert [device.name for device, _ in taken] == ["one", "two"]
        assert bench.static.take("alice", "", PLAN) is None
        assert bench.static.take("bob", "", PLAN) is None
        assert bench.static.take("bob", "one", PLAN) is None  # named, but somebody has it
        assert bench.static.take("carol", "shut", PLAN) is None  # disabled
        for device, tun in taken:
            os.close(tun)
            assert bench.static.give_back(device, "peer-disconnect")
        device, tun = bench.take("bob", "two")  # named by RADIUS, say
        assert device.name == "two"
        os.close(tun)
        assert bench.static.give_back(device, "quota")
        assert [one.last_reason for one in bench.static] == ["peer-disconnect", "quota", ""]
        assert bench.static.take("alice", "", LinkPlan(mtu=1400, bridge="br0")) is None
        assert bench.failures == []

    alice = Interface(user="alice")
    run(scenario, one=alice, two=alice, shut=Interface(user="carol", disabled=True))


@needs_root
def test_an_interface_of_somebody_else_is_left_alone() -> None:
    async def scenario(bench: Bench) -> None:
        foreign = make_tun("office")
        keep_tun(foreign)
        with pytest.raises(SystemRefusal, match=r"^\[interface\.office\]: interface office exists already, and is none of ours$"):  # fmt: skip # noqa: E501 - the message
            await bench.static.prepare({})
        os.close(foreign)
        await bench.static.close()
        assert "office" in bench.place.links()
        bench.place.run("ip", "link", "delete", "office")

    run(scenario, office=Interface(user="alice"))


@needs_root
def test_one_that_was_deleted_is_made_again() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.static.prepare({})
        before = socket.if_nametoindex("office")
        bench.place.run("ip", "link", "delete", "office")
        device, tun = bench.take()
        assert device.index == socket.if_nametoindex("office") != before
        (shown,) = bench.place.ip("-details", "link", "show", "dev", "office")
        assert (shown["ifalias"], shown["mtu"], "UP" in shown["flags"]) == ("upstairs", 1400, True)
        bench.place.run("ip", "link", "delete", "office")  # under a session
        os.close(tun)
        assert not bench.static.give_back(device, "peer-disconnect")
        await bench.static.discard(device)
        device, tun = bench.take()
        os.close(tun)
        assert bench.static.give_back(device, "peer-disconnect")
        assert len(bench.failures) == 1

    run(scenario, office=Interface(user="alice", comment="upstairs"))


@needs_root
def test_one_that_a_worker_still_holds_is_not_handed_on() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.static.prepare({})
        device, held = bench.take()
        assert bench.static.give_back(device, "peer-disconnect")  # the worker has lied
        assert bench.static.take("alice", "", PLAN) is None
        assert bench.failures == ["static interface office: TUN device office is still held"]
        os.close(held)
        device, tun = bench.take()
        os.close(tun)
        assert bench.static.give_back(device, "peer-disconnect")

    run(scenario, office=Interface(user="alice"))


@needs_root
def test_a_killed_master_leaves_none_outside_of_the_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next start finds what is left by its group: a device must not outlive the master before it is in one."""

    async def scenario(bench: Bench) -> None:
        monkeypatch.setattr(bench.links, "park", lambda *_: killed())
        with pytest.raises(OSError, match="killed"):
            await bench.static.prepare({})
        assert bench.place.links() == {"lo"}
        monkeypatch.undo()
        device, tun = bench.take()
        os.close(tun)
        assert bench.place.links() == {"lo", "office"}
        assert bench.static.give_back(device, "peer-disconnect")

    def killed() -> None:
        raise OSError("killed")

    run(scenario, office=Interface(user="alice"))


@needs_root
def test_a_deletion_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.static.prepare({})
        device, tun = bench.take()
        os.close(tun)
        delete, tries = bench.links.delete, 0

        async def fails_twice(index: int) -> None:
            nonlocal tries
            tries += 1
            assert bench.static.take("alice", "", PLAN) is None, "nobody gets it meanwhile"
            if tries < 3:
                raise OSError("busy")
            await delete(index)

        monkeypatch.setattr(bench.links, "delete", fails_twice)
        monkeypatch.setattr("sstpfarm.master.devices.DELETE_RETRY", (0.01,))
        await bench.static.discard(device)
        monkeypatch.undo()
        assert bench.failures == ["static interface office: busy"] * 2
        again, tun = bench.take()
        os.close(tun)
        assert again.index != device.index
        assert bench.static.give_back(again, "peer-disconnect")

    run(scenario, office=Interface(user="alice"))


@needs_root
def test_what_cannot_be_addressed_leaves_it_as_it_was() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.static.prepare({})
        assert bench.static.take("alice", "", LinkPlan(mtu=67)) is None  # RFC 791 3.2: 68 is the least
        assert len(bench.failures) == 1
        device, tun = bench.take()
        os.close(tun)
        assert bench.static.give_back(device, "peer-disconnect")

    run(scenario, office=Interface(user="alice"))


@needs_root
@pytest.mark.parametrize("kind", Kind)
def test_leftovers(kind: Kind) -> None:
    """What a killed farm left is taken over, addresses removed; a device of another kind is replaced."""

    async def scenario(bench: Bench) -> None:
        left = make_tun("office", kind=kind)
        keep_tun(left)
        os.close(left)
        index = socket.if_nametoindex("office")
        if kind is Kind.TUN:
            bench.links.configure(index, PLAN)
        await bench.static.prepare({"office": index})
        (shown,) = bench.place.ip("-details", "address", "show", "dev", "office")
        assert (shown["ifindex"] == index) == (kind is Kind.TUN)
        assert (shown["group"], shown["addr_info"], "UP" in shown["flags"]) == (str(POOL_GROUP), [], False)
        device, tun = bench.take()
        os.close(tun)
        assert bench.static.give_back(device, "peer-disconnect")

    run(scenario, office=Interface(user="alice"))
