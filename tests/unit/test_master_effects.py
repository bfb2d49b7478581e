"""Effects of sessions: what is refused, what is only logged, what is undone; in a namespace of the test's own."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import cast

import msgspec
import pytest

from sstpfarm.config.ppp import Profile
from sstpfarm.config.schema import Config
from sstpfarm.errors import SystemRefusal
from sstpfarm.ipc import messages as m
from sstpfarm.master.devices import Device
from sstpfarm.master.effects import SessionEffects
from sstpfarm.master.sessions import Session, Traffic
from sstpfarm.net import nft
from sstpfarm.net.links import LinkPlan, Links
from sstpfarm.net.tun import make_tun
from sstpfarm.telemetry.log import Log
from tests.unit.descriptors import descriptors_closed
from tests.unit.inside import Namespace, inside, namespace
from tests.unit.test_master_scripts import Recorder
from tests.unit.test_net_neighbours import proxies
from tests.unit.test_net_sets import NEEDS, members

pytestmark = NEEDS
ADDRESS = "10.20.0.2"
SHOW_IPV6 = (
    "/bin/sh", "-c", 'echo "$SSTPFARM_IPV6_PREFIXES|$SSTPFARM_IPV6_DELEGATED_PREFIXES|${SSTPFARM_IPV6_ADDRESS-unset}"'
)  # fmt: skip
UP = ("/bin/sh", "-c", "echo $SSTPFARM_EVENT $SSTPFARM_USER $SSTPFARM_REASON")


@dataclass
class Bench:
    place: Namespace
    effects: SessionEffects
    log: Recorder

    def session(self, effects: m.Effects, *, ipv6: bool = True, opened: bool = True, bridged: bool = False) -> Session:
        """A session whose interface is sstp0."""
        identifier = bytes(8) if ipv6 else None
        terms = m.Terms(local_address="10.20.0.1", remote_address=ADDRESS, ipv6_local=identifier, bridged=bridged)
        grant = m.Grant(
            worker=0,
            session="0" * 16,
            user="alice",
            caller_id="10.99.0.7:5000",
            method="mschap2",
            mtu=1400,
            slot=0,
            terms=terms,
            effects=effects,
        )
        made = Session(grant, 0.0, effects)
        made.device = Device("sstp0", socket.if_nametoindex("sstp0"), 1400)
        made.opened = 1.0 if opened else None
        made.reason = "peer-disconnect"
        return made

    def failures(self) -> list[tuple[str, str]]:
        return [(keys["effect"], keys["detail"]) for keys in self.log.of("effect.failed")]


def run(scenario: Callable[[Bench], Awaitable[None]], proxy_arp: tuple[str, ...] = ()) -> None:
    async def main() -> None:
        place.run("ip", "link", "add", "lan0", "type", "veth", "peer", "name", "lan1")
        nft.install(forwarding=False, client_to_client=False, masquerade="", lists=("staff",))
        log = Recorder()
        with descriptors_closed():
            effects = SessionEffects(
                cast(Log, log),
                lists=("staff",),
                proxy_arp=proxy_arp,
                programs=frozenset({UP, SHOW_IPV6, ("/nowhere",)}),
            )
            async with Links() as links:
                fd = make_tun("sstp0")
                plan = LinkPlan(
                    mtu=1400, local=IPv4Address("10.20.0.1"), remote=IPv4Address(ADDRESS), ipv6_local=bytes(8)
                )
                links.configure(socket.if_nametoindex("sstp0"), plan)
                await scenario(Bench(place, effects, log))
                os.close(fd)
            await effects.close()

    with namespace("effects") as place:
        inside(place, lambda: asyncio.run(main()))


def test_without_effects_nothing_is_done() -> None:
    async def scenario(bench: Bench) -> None:
        session = bench.session(m.Effects())
        bench.effects.enter(session)
        bench.effects.begin(session)
        bench.effects.ipv6_opened(session)
        bench.effects.opened(session)
        assert session.applied is None
        bench.effects.withdraw(session)
        bench.effects.end(session, 1, Traffic())
        assert bench.log.events == []

    run(scenario)


def test_lists_are_all_or_the_session_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(bench: Bench) -> None:
        for lists, why in (
            (("staff", "sstpfarm-x"), "address list 'sstpfarm-x' is no name of a set"),
            (("staff", 'x" }'), "address list"),
        ):
            session = bench.session(m.Effects(address_lists=lists))
            with pytest.raises(SystemRefusal, match=why):
                bench.effects.enter(session)
            assert members(bench.place, "staff") == set()
            assert session.applied is None
        monkeypatch.setattr(bench.effects, "_most", 2)
        session = bench.session(m.Effects(address_lists=("staff", "new", "staff")))
        bench.effects.enter(session)
        assert members(bench.place, "staff") == members(bench.place, "new") == {ADDRESS}
        with pytest.raises(SystemRefusal, match="there are 1024 more than in the configuration"):
            bench.effects.enter(bench.session(m.Effects(address_lists=("third",))))
        bench.effects.end(session, 0, Traffic())
        assert members(bench.place, "staff") == members(bench.place, "new") == set()
        bench.effects.end(session, 0, Traffic())
        bench.place.run("nft", "flush", "ruleset")
        with pytest.raises(SystemRefusal, match="address list staff: No such file"):
            bench.effects.enter(bench.session(m.Effects(address_lists=("staff",))))

    run(scenario)


def test_lists_can_change() -> None:
    async def scenario(bench: Bench) -> None:
        session = bench.session(m.Effects(address_lists=("staff",)))
        bench.effects.enter(session)
        bench.effects.change_lists(session, ("guests", "more"))
        assert members(bench.place, "staff") == set()
        assert members(bench.place, "guests") == members(bench.place, "more") == {ADDRESS}
        bench.effects.change_lists(session, ("staff", "no name"))  # refused as a whole
        assert bench.failures() == [("address-list", "address list 'no name' is no name of a set")]
        assert members(bench.place, "guests") == {ADDRESS}
        bench.effects.change_lists(session, ())
        assert members(bench.place, "guests") == set()
        late = bench.session(m.Effects())  # one that had none
        bench.effects.change_lists(late, ("staff",))
        assert members(bench.place, "staff") == {ADDRESS}
        bench.effects.end(late, 0, Traffic())
        assert members(bench.place, "staff") == set()

    run(scenario)


def test_a_table_that_was_flushed_gets_its_members_back() -> None:
    """Also those of sets that only RADIUS names, be it with a word of nft's own language."""

    async def scenario(bench: Bench) -> None:
        session = bench.session(m.Effects(address_lists=("staff", "guests", "all")))
        bench.effects.enter(session)
        bench.place.run("nft", "flush", "ruleset")
        nft.install(forwarding=False, client_to_client=False, masquerade="", lists=bench.effects.lists)
        bench.effects.restore([bench.session(m.Effects()), session])
        for name in ("staff", "guests", "all"):
            assert members(bench.place, name) == {ADDRESS}
        bench.effects.end(session, 0, Traffic())
        for name in ("staff", "guests", "all"):
            assert members(bench.place, name) == set()
        assert bench.log.events == []

    run(scenario)


def test_routes_that_cannot_be_are_logged() -> None:
    async def scenario(bench: Bench) -> None:
        routes = (
            m.FramedRoute("10.9.0.0/24", ADDRESS, 3),
            m.FramedRoute("0.0.0.0/0"),  # whatever auth says: not our own traffic
            m.FramedRoute("10.99.0.0/16"),  # the client itself comes from there
            m.FramedRoute("10.8.0.0/24", "10.20.0.1"),  # our own address
            m.FramedRoute("fd00::/64"),
        )
        session = bench.session(m.Effects(routes=routes), ipv6=False)
        bench.effects.begin(session)
        assert [detail for _, detail in bench.failures()] == [
            "0.0.0.0/0: is a default route: it would take the server's own traffic along",
            "10.99.0.0/16: the client connects from there (10.99.0.7)",
            "10.8.0.0/24: [Errno 22] Invalid argument",
            "fd00::/64: the session has no IPv6",
        ]
        shown = [line for line in bench.place.routes() if "proto 115" in line]
        assert shown == [f"10.9.0.0/24 via {ADDRESS} dev sstp0 proto 115 metric 3 onlink"]
        bench.effects.withdraw(session)
        bench.effects.withdraw(session)
        assert not [line for line in bench.place.routes() if "proto 115" in line]

    run(scenario)


def test_routes_of_ipv6_wait_for_it() -> None:
    async def scenario(bench: Bench) -> None:
        session = bench.session(m.Effects(routes=(m.FramedRoute("fd00:1::/64"), m.FramedRoute("10.9.0.0/24"))))
        bench.effects.begin(session)
        assert "fd00:1::" not in " ".join(bench.place.routes())
        bench.effects.ipv6_opened(session)
        assert "fd00:1::/64 dev sstp0" in " ".join(bench.place.routes())
        bench.effects.withdraw(session)
        assert not [line for line in bench.place.routes() if "proto 115" in line]
        assert bench.log.events == []

    run(scenario)


def test_a_bridged_session_has_no_address_to_do_anything_with() -> None:
    async def scenario(bench: Bench) -> None:
        session = bench.session(
            m.Effects(routes=(m.FramedRoute("10.9.0.0/24"),), address_lists=("staff",)), bridged=True
        )
        bench.effects.enter(session)
        bench.effects.begin(session)
        bench.effects.change_lists(session, ("staff",))
        assert bench.failures() == [("route", "10.9.0.0/24: the session is bridged")]
        assert members(bench.place, "staff") == set()
        assert proxies(bench.place) == []
        bench.effects.end(session, 0, Traffic())

    run(scenario, proxy_arp=("lan0",))


def test_an_interface_that_is_not_there_does_not_stop_the_others() -> None:
    async def scenario(bench: Bench) -> None:
        session = bench.session(m.Effects())
        bench.effects.begin(session)
        assert bench.failures() == [("proxy-arp", "there is no interface gone0")]
        assert proxies(bench.place) == [f"{ADDRESS} dev lan0"]
        bench.effects.end(session, 0, Traffic())
        assert proxies(bench.place) == []

    run(scenario, proxy_arp=("gone0", "lan0"))


def test_auth_cannot_have_just_anything_run(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        session = bench.session(m.Effects(on_up=("/bin/touch", f"{tmp_path}/bad"), on_down=UP))
        bench.effects.opened(session)
        bench.effects.end(session, 3, Traffic())
        never_open = bench.session(m.Effects(on_down=UP), opened=False)
        bench.effects.end(never_open, 0, Traffic())
        await bench.effects.close()
        assert bench.failures() == [("script", "/bin/touch with these arguments is not in the configuration")]
        assert [said["text"] for said in bench.log.of("script.output")] == ["down alice peer-disconnect"]

    run(scenario)
    assert list(tmp_path.iterdir()) == []


def test_programs_of_another_configuration() -> None:
    """After a reload its programs run; a session that is open still gets its own end."""

    async def scenario(bench: Bench) -> None:
        before = bench.session(m.Effects(on_down=UP))
        bench.effects.opened(before)
        other = ("/bin/echo", "other")
        bench.effects.reload(Config(profile={"default": Profile(on_up=other)}))
        bench.effects.end(before, 0, Traffic())
        bench.effects.opened(bench.session(m.Effects(on_up=other, on_down=UP)))
        await bench.effects.close()
        assert sorted(said["text"] for said in bench.log.of("script.output")) == ["down alice peer-disconnect", "other"]
        assert bench.failures() == [("script", "/bin/sh with these arguments is not in the configuration")]

    run(scenario)


@pytest.mark.parametrize(
    ("offer", "said"),
    [
        (m.Ipv6Offer(), "||"),
        (
            m.Ipv6Offer(("2001:db8::/64", "2001:db8:0:1::/64"), "2001:db8:2::9", ("2001:db8:1::/56",)),
            "2001:db8::/64 2001:db8:0:1::/64|2001:db8:1::/56|2001:db8:2::9",
        ),
    ],
)
def test_programs_are_told_what_the_client_gets_of_ipv6(offer: m.Ipv6Offer, said: str) -> None:
    async def scenario(bench: Bench) -> None:
        session = bench.session(m.Effects(on_up=SHOW_IPV6, on_down=SHOW_IPV6))
        terms = msgspec.structs.replace(session.grant.terms, ipv6_offer=offer)
        session.grant = msgspec.structs.replace(session.grant, terms=terms)
        bench.effects.begin(session)
        bench.effects.opened(session)
        bench.effects.end(session, 1, Traffic())
        await bench.effects.close()
        assert [keys["text"] for keys in bench.log.of("script.output")] == [said] * 2

    run(scenario)
