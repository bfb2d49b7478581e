"""client/device.py: the device of one tunnel."""

from __future__ import annotations

import asyncio

import pytest

from sstpfarm.client import device as module
from sstpfarm.client.device import Device
from sstpfarm.dataplane.select import choose
from sstpfarm.errors import SystemRefusal
from sstpfarm.net.links import Links
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
