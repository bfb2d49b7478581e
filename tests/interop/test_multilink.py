"""Multilink with pppd and the kernel's PPP, which put every packet into a fragment and split by rules of their own."""

from __future__ import annotations

import pytest

from tests.e2e.farm import GATEWAY, Farm

from .conftest import MRRU, PASSWORD, TRANSFER_PORT
from .machine import Machine
from .sstpc import dialled
from .test_sstpc import assert_nothing_left

TRANSFER_BYTES = 2_000_000


@pytest.mark.parity("ros-server/mrru")
@pytest.mark.parametrize("options", ["multilink mrru 1600", "multilink mrru 1600 mpshortseq"], ids=["long", "short"])
def test_packets_beyond_the_mru_pass_whole(machine: Machine, farm: Farm, options: str) -> None:
    with dialled(machine, "ann", PASSWORD, options=options) as (client, address):
        [session] = farm.sessions()
        assert session["mtu"] == MRRU
        assert farm.place.ip("link", "show", session["interface"])[0]["mtu"] == MRRU
        assert f"mtu {MRRU} " in machine.run(f"ip link show {client.interface}").output
        for size in (MRRU, 1401, 1400, 100):
            assert " 0% packet loss" in machine.run(f"ping -n -c 2 -W 10 -M do -s {size - 28} {GATEWAY}").output
            assert farm.place.ping(address, "-M", "do", "-s", str(size - 28))
        for direction in ("upload", "download"):
            assert client.transfer(direction, GATEWAY, TRANSFER_PORT, TRANSFER_BYTES)["bytes"] == TRANSFER_BYTES
        assert farm.metric("sstpfarm_drops_total", reason="fragment") == 0
    assert_nothing_left(farm)
