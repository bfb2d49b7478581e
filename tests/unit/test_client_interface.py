"""client/interface.py: one interface, where the kernel refuses."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec
import pytest

from sstpfarm.client import interface as module
from sstpfarm.client.interface import Interface
from sstpfarm.client.lifecycle import Input, State
from sstpfarm.client.plan import Delays, Plan
from sstpfarm.client.settings import ClientSettings, Wishes
from sstpfarm.dataplane.select import choose
from sstpfarm.net import sysctl
from sstpfarm.net.links import Links
from sstpfarm.reasons import Reason
from sstpfarm.telemetry.log import Log
from tests.unit.inside import inside, namespace, needs_root

PLAN = Plan(
    "tunnel0",
    ClientSettings(host="192.0.2.1", port=443, user="u", password="p"),
    Wishes(interface="tunnel0", default_route=False),
    Delays(first=1.0, longest=60.0, refused_first=1.0, refused_longest=60.0),
    disabled=True,
)


class Recorder:
    """A log that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []

    def bind(self, **_: object) -> Recorder:
        return self

    def emit(self, event: str, **keys: Any) -> None:
        self.said.append((event, keys))


def run(scenario: Callable[[Interface, Recorder], Awaitable[None]], plan: Plan = PLAN, taken: str = "") -> None:
    async def main() -> None:
        log = Recorder()
        if taken:
            place.run("ip", "link", "add", taken, "type", "veth", "peer", "name", "other")
        async with Links() as links:
            interface = Interface(plan, 0, links, choose(), cast(Log, log))
            interface.start()
            await scenario(interface, log)
            await interface.stop()

    with namespace("interface") as place:
        inside(place, lambda: asyncio.run(main()))


@needs_root
def test_a_route_that_a_changed_file_wants_in_vain_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that nobody knows, say: it is logged, all else is changed, and the other tunnels go on."""

    async def scenario(interface: Interface, log: Recorder) -> None:
        async def refuse(*_: object) -> None:
            raise OSError(101, "Network is unreachable")

        monkeypatch.setattr(interface._routes, "change", refuse)
        changed = Wishes(interface="tunnel0", default_route=False, description="changed", adjust_mss=1200)
        await interface.change(msgspec.structs.replace(PLAN, wishes=changed))
        assert [keys["detail"] for event, keys in log.said if event == "tunnel.refused"] == [
            "[Errno 101] Network is unreachable"
        ]
        assert interface._host._wishes is changed

    run(scenario)


@needs_root
def test_it_dials_again_even_if_the_routes_cannot_be_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(105, "No buffer space available")

    async def scenario(interface: Interface, log: Recorder) -> None:
        monkeypatch.setattr(module, "outer_way", refuse)
        interface._last = Reason.TRANSPORT_LOST, ""
        interface.state = State.DIALING
        interface.advance(Input.ENDED)
        await interface._jobs.join()
        assert interface.facts()["retry_s"] is not None

    run(scenario)


@needs_root
def test_a_name_that_becomes_free_is_stood_by_with_all_settings() -> None:
    """The settings of an interface cannot be made before it is: that used to be tried again and again."""
    wishes = Wishes(interface="tunnel0", default_route=False, dial_on_demand=True, disable_forwarding=True)
    delays = Delays(first=0.05, longest=0.1, refused_first=1.0, refused_longest=1.0)

    def release() -> None:
        subprocess.run(["ip", "link", "delete", "tunnel0"], check=True)

    async def scenario(interface: Interface, log: Recorder) -> None:
        assert log.said[0][0] == "tunnel.refused"
        release()
        for _ in range(250):
            if "tunnel.stood_by" in [event for event, _ in log.said]:
                break
            await asyncio.sleep(0.02)
        assert sysctl.read("net/ipv4/conf/tunnel0/forwarding") == "0"

    run(scenario, msgspec.structs.replace(PLAN, wishes=wishes, delays=delays, disabled=False), taken="tunnel0")


@needs_root
def test_another_server_is_found_before_a_packet_dials_it() -> None:
    """Routes lead into the tunnel while it waits: without a new look its first dial would go into itself."""
    wishes = Wishes(interface="tunnel0", default_route=True, dial_on_demand=True)
    waiting = msgspec.structs.replace(PLAN, wishes=wishes, disabled=False)

    async def scenario(interface: Interface, log: Recorder) -> None:
        async def stood_by(times: int) -> None:
            for _ in range(250):
                if [event for event, _ in log.said].count("tunnel.stood_by") == times:
                    return
                await asyncio.sleep(0.02)

        await stood_by(1)
        assert interface._known == ["192.0.2.1"]
        settings = msgspec.structs.replace(PLAN.settings, host="192.0.2.2")
        await interface.change(msgspec.structs.replace(waiting, settings=settings))
        await stood_by(2)
        assert (interface.state, interface._known) == (State.WAITING, ["192.0.2.2"])

    run(scenario, waiting)
