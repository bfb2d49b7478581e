"""client/run.py: the privileged half without a server: names, late addresses, its own bugs."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from sstpfarm.client.run import Counters, Tunnel, Up
from sstpfarm.client.settings import ClientSettings, Wishes
from sstpfarm.ipc import client_messages as c
from sstpfarm.reasons import Reason


class Watcher:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.ups: list[Up] = []

    def phase(self, name: str, seconds: float, detail: str) -> None: ...

    def up(self, up: Up) -> None:
        self.ups.append(up)

    def counters(self, counters: Counters) -> None: ...

    def closed(self, reason: Reason, detail: str) -> None: ...


class Completed:
    """What an awaitable of a done thing is."""

    def __await__(self) -> Iterator[Any]:
        return iter(())


class Links:
    """A netlink socket that only notes what it is asked for."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def configure(self, index: int, plan: Any) -> Completed:
        self.done.append(f"address {plan.local}" if plan.local else "link")
        return Completed()

    async def route_to(self, server: Any) -> Any:
        return SimpleNamespace(destination=server, index=1, gateway=None)

    async def add_route(self, route: Any, *, first: bool) -> None:
        self.done.append(f"route {route.destination}")


def tunnel(host: str = "vpn.example") -> Tunnel:
    settings = ClientSettings(host=host, port=443, user="u", password="p")
    return Tunnel(settings, Wishes(), Watcher())


def test_nobody_waits_for_a_resolver_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while no name server answers: neither the tunnel nor the end of its loop waits."""
    release = threading.Event()

    def hang(*_: object, **__: object) -> list[Any]:
        release.wait(30)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)

    async def dial() -> tuple[Reason, str]:
        made = tunnel()
        made._ended = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.05, made._stop)
        return await made._dial_and_wait()

    try:
        assert asyncio.run(asyncio.wait_for(dial(), 10)) == (Reason.USER_REQUEST, "")
    finally:
        release.set()


def test_a_name_without_addresses_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)

    async def dial() -> tuple[Reason, str]:
        made = tunnel()
        made._ended = asyncio.get_running_loop().create_future()
        return await made._dial_and_wait()

    assert asyncio.run(dial()) == (Reason.NETWORK_UNREACHABLE, "vpn.example: Name or service not known")


def test_a_link_local_server_keeps_its_zone() -> None:
    async def resolve() -> list[str]:
        made = tunnel("fe80::1%lo")
        made._ended = asyncio.get_running_loop().create_future()
        return await made._resolve()

    assert asyncio.run(resolve()) == [f"fe80::1%{socket.if_nametoindex('lo')}"]


@pytest.fixture
def attached(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Tunnel, Links]]:
    """A tunnel whose child has attached its interface, which is a pipe here, called lo."""
    made, links = tunnel(), Links()
    read, write = os.pipe()
    made._links = links  # type: ignore[assignment]  # the part of it that is used
    made._channel = SimpleNamespace(send=lambda *_: None)  # type: ignore[assignment]  # as above
    made._interface = "lo"
    made._facts = c.TunnelFacts("mschap2", "c", "TLSv1.3", "192.0.2.1", "ab")
    made._attached.set()
    monkeypatch.setattr(made, "_make_tun", lambda: read)
    yield made, links
    os.close(write)


def test_ipv4_that_opens_after_ipv6_still_gets_the_default_route(attached: tuple[Tunnel, Links]) -> None:
    """On a slow line IPCP takes more rounds than IPV6CP: all traffic must go into the tunnel all the same."""
    made, links = attached

    async def serve() -> None:
        worker = asyncio.create_task(made._serve_interface())
        made._wanted.put_nowait(c.InterfaceWanted(mtu=1400, ipv6_local=b"\1" * 8))
        made._wanted.put_nowait(c.InterfaceWanted(mtu=1400, local_address="10.0.0.2", ipv6_local=b"\1" * 8))
        await asyncio.sleep(0.05)
        worker.cancel()

    asyncio.run(serve())
    assert links.done == ["link", "address 10.0.0.2", "route 192.0.2.1", "route 0.0.0.0/0"]
    assert isinstance(made._observer, Watcher)
    assert [up.local_address for up in made._observer.ups] == [None, "10.0.0.2"]


def test_a_bug_beside_the_interface_ends_the_tunnel(attached: tuple[Tunnel, Links]) -> None:
    made, _ = attached

    async def serve() -> tuple[Reason, str]:
        made._ended = asyncio.get_running_loop().create_future()
        worker = asyncio.create_task(made._serve_interface())
        worker.add_done_callback(made._interface_done)
        made._wanted.put_nowait(c.InterfaceWanted(mtu=1400, local_address="no address"))
        return await asyncio.wait_for(made._ended, 5)

    reason, detail = asyncio.run(serve())
    assert reason is Reason.INTERNAL_ERROR
    assert "no address" not in detail
