"""client/run.py: the privileged half without a server: names, late addresses, its own bugs."""

from __future__ import annotations

import asyncio
import socket
import threading
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest

from sstpfarm.client.run import Counters, Tunnel, Up, resolve
from sstpfarm.client.settings import ClientSettings, Wishes
from sstpfarm.dataplane.select import choose
from sstpfarm.ipc import client_messages as c
from sstpfarm.ipc import messages as m
from sstpfarm.reasons import Reason


class Watcher:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.ups: list[Up] = []

    def phase(self, name: str, seconds: float, detail: str) -> None: ...

    def up(self, up: Up) -> None:
        self.ups.append(up)

    def counters(self, counters: Counters) -> None: ...

    def trouble(self, text: str) -> None: ...

    def closed(self, reason: Reason, detail: str) -> None: ...


class Done:
    """Device, routes and host's settings that only note what they are asked for."""

    name, index, fd, local = "lo", 1, 0, None

    def __init__(self) -> None:
        self.done: list[str] = []

    def make(self) -> None: ...

    def configure_for(self, wanted: c.InterfaceWanted) -> None:
        self.done.append(f"address {wanted.local_address}" if wanted.local_address else "link")

    def follow_router(self, metric: int) -> None:
        self.done.append(f"default route of IPv6, metric {metric}")

    async def pass_by(self, servers: list[Any], index: int) -> None:
        self.done += [f"way to {server}" for server in servers]

    async def lead(self, servers: list[Any], index: int) -> None:
        self.done += [f"routes past {server}" for server in servers]

    async def clear_way(self, servers: list[str]) -> None: ...

    async def remove(self) -> None: ...

    async def apply(self, interface: str, mtu: int) -> None: ...

    async def register(self, interface: str, servers: tuple[str, ...]) -> None: ...

    async def unregister(self) -> None: ...


def tunnel(host: str = "vpn.example", done: Done | None = None) -> Tunnel:
    settings = ClientSettings(host=host, port=443, user="u", password="p")
    double: Any = done or Done()
    return Tunnel(
        settings, Wishes(), Watcher(), device=double, routes=double, host=double, dataplane=choose(), user=60_799
    )


def test_nobody_waits_for_a_resolver_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while no name server answers: neither the tunnel nor the end of its loop waits."""
    release = threading.Event()

    def hang(*_: object, **__: object) -> list[Any]:
        release.wait(60)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)

    async def dial() -> tuple[Reason, str]:
        made = tunnel()
        asyncio.get_running_loop().call_later(0.05, made.hang_up, Reason.USER_REQUEST)
        return await made.run()

    try:
        assert asyncio.run(asyncio.wait_for(dial(), 60)) == (Reason.USER_REQUEST, "")
    finally:
        release.set()


def test_a_name_without_addresses_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)

    async def dial() -> tuple[Reason, str]:
        return await tunnel().run()

    assert asyncio.run(dial()) == (Reason.NETWORK_UNREACHABLE, "vpn.example: Name or service not known")


def test_a_link_local_server_keeps_its_zone() -> None:
    assert asyncio.run(resolve("fe80::1%lo", 443)) == [f"fe80::1%{socket.if_nametoindex('lo')}"]


def attached() -> tuple[Tunnel, Done]:
    """A tunnel whose child has attached its device."""
    done = Done()
    made = tunnel(done=done)
    made._channel = SimpleNamespace(send=lambda *_: None)  # type: ignore[assignment]  # the part of it that is used
    made._facts = c.TunnelFacts("mschap2", "c", "TLSv1.3", "192.0.2.1", "ab")
    made._attached.set()
    return made, done


def test_ipv4_that_opens_after_ipv6_still_gets_the_default_route() -> None:
    """On a slow line IPCP takes more rounds than IPV6CP: all traffic must go into the tunnel all the same."""

    async def serve() -> tuple[Tunnel, Done]:
        made, done = attached()
        worker = asyncio.create_task(made._serve_interface())
        made._wanted.put_nowait(c.InterfaceWanted(mtu=1400, ipv6_local=b"\1" * 8))
        made._wanted.put_nowait(c.InterfaceWanted(mtu=1400, local_address="10.0.0.2", ipv6_local=b"\1" * 8))
        await asyncio.sleep(0.05)
        worker.cancel()
        return made, done

    made, done = asyncio.run(serve())
    assert done.done == [
        "way to 192.0.2.1",  # before anything of IPv6 can be learned
        "link",
        "way to 192.0.2.1",
        "address 10.0.0.2",
        "routes past 192.0.2.1",
        "default route of IPv6, metric 0",
    ]
    assert isinstance(made._observer, Watcher)
    assert [up.local_address for up in made._observer.ups] == [None, "10.0.0.2"]


def test_a_bug_beside_the_interface_ends_the_tunnel() -> None:
    async def serve() -> tuple[Reason, str]:
        made, _ = attached()
        made._facts = None
        worker = asyncio.create_task(made._serve_interface())
        worker.add_done_callback(made._interface_done)
        made._wanted.put_nowait(c.InterfaceWanted(mtu=1400, local_address="no address"))
        return await asyncio.wait_for(made._ended, 30)

    reason, detail = asyncio.run(serve())
    assert reason is Reason.INTERNAL_ERROR
    assert "no address" not in detail


@pytest.mark.parametrize(
    "message",
    [
        c.InterfaceWanted(mtu=1400, local_address="10.0.0.2", dns_servers=("10.0.0.1\noptions inet6",)),
        c.InterfaceWanted(mtu=1400, local_address="10.0.0.2", dns_servers=("--interface=eth0",)),
        c.InterfaceWanted(mtu=1400, local_address="10.0.0.2", dns_servers=("10.0.0.1",) * 3),
        c.TunnelFacts("mschap2", "c", "TLSv1.3", "192.0.2.99", "ab"),
        c.PhaseReached(phase="tcp", seconds=0.0, detail="192.0.2.99"),
    ],
)
def test_a_child_that_was_taken_over_names_no_servers_of_its_own(message: m.Message) -> None:
    """Neither in the resolver's files nor as the address that routes lead to past the tunnel."""

    async def take() -> tuple[Reason, str]:
        made, _ = attached()
        made._dialled = frozenset({"192.0.2.1"})
        made._from_child(c.PhaseReached(phase="tcp", seconds=0.0, detail="192.0.2.1"), [])
        made._from_child(c.InterfaceWanted(mtu=1400, dns_servers=("10.0.0.1", "10.0.0.2")), [])
        assert not made._ended.done()
        assert made._wanted.qsize() == 1
        made._from_child(message, [])
        assert made._wanted.qsize() == 1
        return await asyncio.wait_for(made._ended, 30)

    reason, detail = asyncio.run(take())
    assert reason is Reason.WORKER_LOST
    assert detail.startswith("violation: ")


def test_time_and_traffic_are_looked_at_each_second() -> None:
    """An idle tunnel ends for that reason, one whose time is over for that."""
    said: list[c.HangUp] = []

    async def tick(wishes: Wishes) -> None:
        made, _ = attached()
        made._wishes = wishes
        made._told, made._began = True, monotonic() - 10
        made._channel = SimpleNamespace(send=said.append)  # type: ignore[assignment]  # as above
        made._tick()

    asyncio.run(tick(Wishes(idle_timeout=10)))
    asyncio.run(tick(Wishes(session_timeout=10)))
    asyncio.run(tick(Wishes(idle_timeout=11, session_timeout=11)))
    assert [hang_up.reason for hang_up in said] == ["idle-timeout", "session-timeout"]
