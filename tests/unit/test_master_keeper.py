"""Sessions from grant to release, with real interfaces in a namespace of the test's own and recorded messages."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence

import pytest
from msgspec import msgpack, structs

from sstpfarm.config.ppp import Interface
from sstpfarm.dataplane.interface import Cell
from sstpfarm.errors import IpcViolation
from sstpfarm.ipc import messages as m
from sstpfarm.master import effects
from sstpfarm.master.keeper import MAX_IPV6_PEERS
from sstpfarm.master.permissions import SessionPhase
from sstpfarm.net.links import Links
from sstpfarm.net.tun import keep_tun, make_tun
from sstpfarm.reasons import Reason
from tests.unit.inside import needs_root
from tests.unit.keeper_bench import Bench, closed, grant, identifier, opened, run


@needs_root
def test_a_life() -> None:
    async def scenario(bench: Bench) -> None:
        keeper = bench.keeper
        keeper.grant(grant(1))
        assert bench.workers == [(0, m.InterfaceReady(session=identifier(1), name="sstp0"))]
        assert bench.phase(1) is SessionPhase.HANDED
        assert bench.place.routes()[0].startswith("10.20.1.1 dev sstp0")
        with pytest.raises(IpcViolation, match="not there"):
            keeper.opened(1, opened(1))  # the other worker cannot name it
        keeper.opened(0, opened(1))
        with pytest.raises(IpcViolation, match="opened"):
            keeper.opened(0, opened(1))
        cells = bench.stats[0].slot(1)
        cells[Cell.BYTES_IN], cells[Cell.BYTES_OUT] = 111, 222
        (shown,) = keeper.listing()
        assert (shown["interface"], shown["state"], shown["bytes_in"], shown["bytes_out"]) == ("sstp0", "opened", 111, 222)  # fmt: skip # noqa: E501 - one row
        assert shown["address"] == "10.20.1.1"
        with pytest.raises(IpcViolation, match="reason"):
            keeper.closed(0, closed(1, "because"))
        os.close(bench.tuns.pop(identifier(1)))
        keeper.closed(0, closed(1))
        cells[Cell.BYTES_IN] = 0  # the worker uses the slot for the next session
        with pytest.raises(IpcViolation, match="not there"):
            keeper.closed(0, closed(1))
        assert bench.place.routes() == []  # before auth hears that the address is free
        (released,) = bench.auth
        assert (released.session, released.reason) == (identifier(1), "peer-disconnect")
        assert (released.bytes_in, released.bytes_out) == (111, 222)
        assert bench.up() == set()
        assert len(keeper.table) == 0
        cells.release()
        keeper.grant(grant(1))  # the address serves again at once; the interface rests
        assert bench.workers[-1] == (0, m.InterfaceReady(session=identifier(1), name="sstp1"))

    run(scenario)


@needs_root
def test_what_an_ended_session_had_done_to_its_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays up, but not behind a program of the operator's, or with a route that could not be deleted."""

    async def scenario(bench: Bench) -> None:
        def end(number: int, granted: m.Effects) -> bool:
            bench.keeper.grant(structs.replace(grant(number), effects=granted))
            ready = bench.workers[-1][1]
            assert isinstance(ready, m.InterfaceReady)
            os.close(bench.tuns.pop(identifier(number)))
            bench.keeper.closed(0, closed(number))
            (shown,) = bench.place.ip("link", "show", "dev", ready.name)
            return "UP" in shown["flags"]

        routed = m.Effects(routes=(m.FramedRoute("10.77.1.0/24"),))
        assert end(1, m.Effects())
        assert end(2, routed)
        assert not end(3, m.Effects(on_up=("/bin/true",)))
        assert not end(4, m.Effects(on_down=("/bin/true",)))

        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, "no")

        monkeypatch.setattr(effects, "delete_routes", refuse)
        assert not end(5, routed)
        assert bench.place.routes() == []

    run(scenario)


@needs_root
def test_a_page_full_of_ones_stops_neither_auth_nor_us() -> None:
    """A worker that was taken over writes into its page what it likes.

    Auth would take a larger number for a violation of ours, and the loss of the worker would be half handled.
    """

    async def scenario(bench: Bench) -> None:
        for number in (1, 2):
            bench.keeper.grant(grant(number))
            bench.keeper.opened(0, opened(number))
        with memoryview(bench.stats[0]._map).cast("Q") as page:
            for at in range(len(page)):
                page[at] = 2**64 - 1
        os.close(bench.tuns.pop(identifier(1)))
        bench.keeper.closed(0, closed(1))
        os.close(bench.tuns.pop(identifier(2)))
        bench.keeper.worker_lost(0, bench.stats[0], Reason.WORKER_LOST)
        await bench.keeper.drain()
        for released in bench.auth:
            assert msgpack.decode(msgpack.encode(released), type=m.SessionReleased) == released
        assert len(bench.auth) == 2

    run(scenario)


@needs_root
def test_ipv6_comes_with_ipv6cp() -> None:
    """A static interface gets the link-local address; any other gets the session's routes and nothing else."""

    async def scenario(bench: Bench) -> None:
        def addresses(interface: str) -> list[str]:
            (shown,) = bench.place.ip("-6", "address", "show", "dev", interface) or [{"addr_info": []}]
            return [address["local"] for address in shown.get("addr_info", [])]

        def routes(interface: str) -> list[str]:
            shown = bench.place.run("ip", "-6", "route", "show", "table", "all", "dev", interface).stdout
            found = [" ".join(line.split()[:2]).removesuffix(" proto") for line in shown.splitlines()]
            # the kernel adds it when it sees the carrier of a device that had none, in its own time
            return [route for route in found if route != "multicast ff00::/8"]

        keeper = bench.keeper
        await keeper.prepare({})
        for number, interface in ((1, "office"), (3, "sstp0")):
            one = grant(number)
            terms = structs.replace(one.terms, ipv6_local=bytes(7) + b"\1")
            effects = structs.replace(one.effects, routes=(m.FramedRoute("fd00:1::/64"),))
            keeper.grant(structs.replace(one, terms=terms, effects=effects))
            assert bench.workers[-1] == (0, m.InterfaceReady(session=identifier(number), name=interface))
            assert addresses(interface) == routes(interface) == []
            keeper.ipv6_opened(0, m.Ipv6Opened(session=identifier(number), peer=bytes(7) + b"\2"))
            if interface == "office":
                assert addresses(interface) == ["fe80::1"]
                assert sorted(routes(interface)) == ["fd00:1::/64", "fe80::2", "local fe80::1"]
            else:
                assert addresses(interface) == []
                assert routes(interface) == ["fd00:1::/64"]
            keeper.opened(0, opened(number))
            assert bench.started[-1].ipv6_peer == bytes(7) + b"\2"
            keeper.ipv6_opened(0, m.Ipv6Opened(session=identifier(number), peer=bytes(7) + b"\3"))
            assert "fe80::2" not in routes(interface)
            os.close(bench.tuns.pop(identifier(number)))
            keeper.closed(0, closed(number))
            assert routes(interface) == []
        one = grant(1)
        keeper.grant(structs.replace(one, terms=structs.replace(one.terms, ipv6_local=bytes(7) + b"\1")))
        keeper.grant(grant(2))
        with pytest.raises(IpcViolation, match="without IPv6"):
            keeper.ipv6_opened(0, m.Ipv6Opened(session=identifier(2), peer=bytes(8)))
        with pytest.raises(IpcViolation, match="not there"):
            keeper.ipv6_opened(1, m.Ipv6Opened(session=identifier(1), peer=bytes(8)))

    run(scenario, office=Interface(user="user1"))


@needs_root
@pytest.mark.parametrize("works", [True, False])
def test_ipv6cp_over_and_over_is_little_work(monkeypatch: pytest.MonkeyPatch, works: bool) -> None:
    """The same identifier changes nothing; a peer that goes through many of them is ended. So where IPv6 is off."""

    async def scenario(bench: Bench) -> None:
        asked: list[bytes] = []

        def open_ipv6(_: Links, index: int, local: bytes, remote: bytes, before: bytes | None = None) -> None:
            asked.append(remote)
            if not works:
                raise OSError(errno.EACCES, "no")

        monkeypatch.setattr(Links, "open_ipv6", open_ipv6)
        keeper = bench.keeper
        await keeper.prepare({})
        one = grant(1)
        keeper.grant(structs.replace(one, terms=structs.replace(one.terms, ipv6_local=bytes(7) + b"\xff")))
        keeper.opened(0, opened(1))
        peers = [bytes([0, 0, 0, 0, 0, 0, 1, number]) for number in range(MAX_IPV6_PEERS)]
        said = len(bench.workers)
        for peer in peers:
            for _ in range(50):
                keeper.ipv6_opened(0, m.Ipv6Opened(session=identifier(1), peer=peer))
        assert asked == peers
        assert len(bench.workers) == said
        keeper.ipv6_opened(0, m.Ipv6Opened(session=identifier(1), peer=peers[0]))
        assert asked == peers
        assert bench.workers[said:] == [(0, m.EndSession(session=identifier(1), reason="control-flood"))]

    run(scenario, office=Interface(user="user1"))


@needs_root
def test_a_static_interface_outlives_its_session_and_its_worker() -> None:
    async def scenario(bench: Bench) -> None:
        keeper, place = bench.keeper, bench.place
        await keeper.prepare({})
        index = socket.if_nametoindex("office")
        for end in ("closed", "lost", "stop"):
            keeper.closed_to_new = False
            keeper.grant(grant(1))
            assert bench.workers[-1] == (0, m.InterfaceReady(session=identifier(1), name="office"))
            facts = keeper.interface("office")
            assert facts is not None
            assert (facts["flags"], facts["status"], facts["uptime_s"]) == ("", "connecting", None)
            os.close(bench.tuns.pop(identifier(1)))
            if end == "lost":
                keeper.worker_lost(0, bench.stats[0], Reason.WORKER_LOST)
            else:
                keeper.closed_to_new = end == "stop"
                keeper.closed(0, closed(1))
            await keeper.drain()
            assert socket.if_nametoindex("office") == index
            assert bench.up() == set()
            assert place.routes() == []
        assert [one.reason for one in bench.auth] == ["peer-disconnect", "worker-lost", "peer-disconnect"]
        facts = keeper.interface("office")
        assert facts is not None
        assert (facts["status"], facts["last_reason"]) == ("not connected", "peer-disconnect")

    run(scenario, office=Interface(user="user1"))


@needs_root
def test_worker_lost_in_every_phase() -> None:
    async def scenario(bench: Bench) -> None:
        keeper = bench.keeper
        for number in (1, 2, 3):
            keeper.grant(grant(number))
        keeper.grant(grant(4, worker=1))
        keeper.opened(0, opened(2))
        keeper.closed(0, closed(3))
        ends = bench.stats[0].snapshot().counter("sstpfarm_session_ends_total", "worker-lost")
        keeper.worker_lost(0, bench.stats[0], Reason.WORKER_LOST)
        assert bench.stats[0].snapshot().counter("sstpfarm_session_ends_total", "worker-lost") == ends + 1
        assert [one.session[-1] for one in bench.auth] == ["3"]  # the others' interfaces are still there
        await keeper.drain()
        assert sorted((one.session[-1], one.reason) for one in bench.auth) == [
            ("1", "worker-lost"),
            ("2", "worker-lost"),
            ("3", "peer-disconnect"),
        ]
        assert bench.up() == {"sstp3"}  # the other worker's
        assert bench.place.links() == {"lo", "sstp3"}  # nor one that waited for that worker's next session
        assert len(keeper.table) == 1

    run(scenario)


@needs_root
def test_refusals() -> None:
    async def scenario(bench: Bench) -> None:
        keeper = bench.keeper
        with pytest.raises(IpcViolation, match="slot 8 of 8"):
            keeper.grant(grant(1, slot=8))
        assert [one.session for one in bench.auth] == [identifier(1)]  # its lease ends
        keeper.grant(grant(1, worker=7))  # no such worker: released, nothing made
        assert [one.session for one in bench.auth] == [identifier(1)] * 2
        keeper.grant(grant(2))
        keeper.grant(grant(2))  # auth was restarted and asked again
        with pytest.raises(IpcViolation, match="twice"):
            keeper.grant(grant(2, remote="10.20.9.9"))
        keeper.grant(grant(3, remote="not an address"))
        assert isinstance(bench.workers[-1][1], m.InterfaceRefused)
        assert bench.auth[-1].reason == "interface-failed"
        assert bench.place.links() == {"lo", "sstp0"}
        keeper.closed_to_new = True
        keeper.grant(grant(4))
        assert bench.workers[-1] == (0, m.InterfaceRefused(session=identifier(4), detail="the server is shutting down"))
        assert len(keeper.table) == 1

    run(scenario)


@needs_root
def test_a_session_that_is_ending_and_is_granted_once_more() -> None:
    """Auth was restarted and asked again, and the peer hung up before its answer: no worker has broken a rule."""

    async def scenario(bench: Bench) -> None:
        keeper = bench.keeper
        bench.place.run("ip", "link", "add", "br0", "type", "bridge")
        one = grant(1)  # a TAP device is deleted behind its session: that takes a while
        bridged = structs.replace(one, terms=structs.replace(one.terms, bridged=True), effects=m.Effects(bridge="br0"))
        keeper.grant(bridged)
        os.close(bench.tuns.pop(identifier(1)))
        keeper.closed(0, closed(1))
        assert bench.phase(1) is SessionPhase.CLOSING
        keeper.grant(bridged)
        await keeper.drain()
        assert [released.session for released in bench.auth] == [identifier(1)]
        assert len(keeper.table) == 0

    run(scenario)


@needs_root
def test_a_bridged_session() -> None:
    async def scenario(bench: Bench) -> None:
        def bridged(number: int, bridge: str, vid: int = 0) -> m.Grant:
            one = grant(number)
            terms = structs.replace(one.terms, bridged=True)
            return structs.replace(one, terms=terms, effects=m.Effects(bridge=bridge, bridge_port_vid=vid))

        keeper, place = bench.keeper, bench.place
        place.run("ip", "link", "add", "br0", "type", "bridge")
        keeper.grant(bridged(1, "br0"))
        assert bench.workers == [(0, m.InterfaceReady(session=identifier(1), name="sstp0", bridged=True))]
        (shown,) = place.ip("-details", "address", "show", "dev", "sstp0")
        assert (shown["linkinfo"]["info_data"]["type"], shown["master"], shown["addr_info"]) == ("tap", "br0", [])
        assert place.routes() == []
        os.close(bench.tuns.pop(identifier(1)))
        keeper.closed(0, closed(1))
        await keeper.drain()
        assert place.links() == {"lo", "br0"}
        assert [one.session for one in bench.auth] == [identifier(1)]
        for bridge, vid, detail in (
            ("br7", 0, "bridge br7: there is no such interface"),
            ("lo", 0, "bridge lo: it is no bridge"),
            ("lo", 100, "bridge lo: it is no bridge"),
            ("", 0, "the session is bridged, but no bridge is named"),
            ("br0", 100, "bridge br0: it does not filter VLANs (vlan_filtering)"),
        ):
            keeper.grant(bridged(2, bridge, vid))
            assert bench.workers[-1] == (0, m.InterfaceRefused(session=identifier(2), detail=detail))
            assert bench.auth[-1].reason == "interface-failed"

    run(scenario)


@needs_root
def test_foreign_interfaces_are_stepped_over() -> None:
    async def scenario(bench: Bench) -> None:
        foreign = make_tun("sstp0")
        keep_tun(foreign)
        bench.keeper.grant(grant(1))
        assert bench.workers[-1][1] == m.InterfaceReady(session=identifier(1), name="sstp1")
        os.close(foreign)
        socket.if_nametoindex("sstp0")

    run(scenario)


@needs_root
def test_a_descriptor_that_does_not_leave_ends_the_session() -> None:
    """The worker would wait for it, and the address stay leased."""

    async def scenario(bench: Bench) -> None:
        real = bench.keeper._to_worker

        def scarce(worker: int, message: m.Message, fds: Sequence[int]) -> None:
            if fds:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            real(worker, message, fds)

        bench.keeper._to_worker = scarce
        bench.keeper.grant(grant(1))
        detail = "Too many open files"
        assert bench.workers == [(0, m.InterfaceRefused(session=identifier(1), detail=detail))]
        await bench.keeper.drain()
        assert bench.phase(1) is None
        assert [(released.session, released.reason) for released in bench.auth] == [(identifier(1), "interface-failed")]
        assert bench.up() == set()
        bench.keeper._to_worker = real
        bench.keeper.grant(grant(1))
        assert bench.phase(1) is SessionPhase.HANDED

    run(scenario)
