"""A kernel that watches no more descriptors (epoll: ENOSPC, ENOMEM): what wanted a watch ends, nothing stays open."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket

import pytest

from sstpfarm.dataplane.interface import Cell
from sstpfarm.dataplane.rates import RateLimit
from sstpfarm.reasons import Reason
from sstpfarm.transport.connection import Connection
from sstpfarm.transport.outlet import Outlet
from sstpfarm.transport.poller import Poller
from sstpfarm.transport.tls_context import ServerIdentity
from sstpfarm.transport.tun_source import TunSource
from tests.unit.connection_bench import ADDRESS, GATEWAY, Pair, packet, pair, until


class Full:
    """An epoll of a poller, that takes no new descriptor while it is full."""

    def __init__(self, poller: Poller, name: str = "_epoll") -> None:
        self.full = False
        self._epoll: select.epoll = getattr(poller, name)
        setattr(poller, name, self)  # it has what a poller needs of one
        self.fileno, self.poll, self.close = self._epoll.fileno, self._epoll.poll, self._epoll.close
        self.modify, self.unregister = self._epoll.modify, self._epoll.unregister

    def register(self, fd: int, mask: int) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._epoll.register(fd, mask)


def test_the_next_descriptor_of_that_number_is_watched() -> None:
    async def scenario() -> None:
        poller = Poller(asyncio.get_running_loop())
        epoll = Full(poller)
        ours, theirs = socket.socketpair()
        seen: list[str] = []
        with ours, theirs:
            epoll.full = True
            with pytest.raises(OSError, match="No space"):
                poller.add_reader(ours.fileno(), lambda: seen.append("early"))
            epoll.full = False
            poller.add_reader(ours.fileno(), lambda: seen.append(ours.recv(9).decode()))
            theirs.send(b"heard")
            await until(lambda: bool(seen))
            poller.remove_reader(ours.fileno())
        poller.close()
        assert seen == ["heard"]

    asyncio.run(scenario())


def test_a_connection_that_cannot_be_watched_ends(identity: ServerIdentity) -> None:
    async def scenario() -> None:
        both = Pair(identity)
        Full(both.poller, "_starting").full = True
        for connection, end in ((both.server, both.server_end), (both.client, both.client_end)):
            connection.start(client=end is both.client_end)
            assert end.ended == [(Reason.TRANSPORT_LOST, "No space left on device")]
            end.tun.close()
        assert both.server_sock.fileno() == both.client_sock.fileno() == -1

    asyncio.run(scenario())


def test_a_connection_that_has_to_stay_among_those_that_start_works(identity: ServerIdentity) -> None:
    async def scenario() -> None:
        async with pair(identity) as both:
            epoll = Full(both.poller)
            started = both.poller.started

            def started_in_vain(fd: int) -> None:
                epoll.full = True
                started(fd)
                epoll.full = False

            both.poller.started = started_in_vain  # type: ignore[method-assign] # the kernel is full for so long
            await both.open()
            assert both.poller._start_fds == {both.server_sock.fileno(), both.client_sock.fileno()}
            both.client_end.tun.send(packet(ADDRESS, GATEWAY, b"x"))
            await until(lambda: both.server_end.cells[Cell.PACKETS_IN] == 1)
        assert not both.poller._start_fds

    asyncio.run(scenario())


@pytest.mark.parametrize("queued", [False, True])
def test_a_device_that_cannot_be_watched_ends_the_session(
    identity: ServerIdentity, monkeypatch: pytest.MonkeyPatch, queued: bool
) -> None:
    async def scenario() -> None:
        async with pair(identity) as both:
            epoll = Full(both.poller)
            attach, devices = Connection.attach, list[int]()

            def attach_in_vain(connection: Connection, tun: int, *_: object, **__: object) -> bool:
                if connection is not both.server:
                    return attach(connection, tun)
                devices.append(tun)
                epoll.full = True
                took = attach(connection, tun, [packet(GATEWAY, ADDRESS, b"")] if queued else ())
                epoll.full = False
                return took

            monkeypatch.setattr(Connection, "attach", attach_in_vain)
            both.start()
            await until(lambda: bool(devices))
            with pytest.raises(OSError, match="Bad file"):
                os.fstat(devices[0])
            await both.over()
            assert both.server_end.ended == [(Reason.INTERFACE_FAILED, "No space left on device")]

    asyncio.run(scenario())


def test_a_device_whose_queue_has_no_descriptor_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def scenario() -> None:
        poller = Poller(asyncio.get_running_loop())
        ours, theirs = socket.socketpair()
        outlet = Outlet(poller, ours, lambda: None, lambda: None)
        source = TunSource(None, outlet, lambda _: [])  # type: ignore[arg-type] # it does not come to packets
        tun = os.open("/dev/null", os.O_RDONLY)
        monkeypatch.setattr(socket, "socketpair", refuse)
        with pytest.raises(OSError, match="Too many"):
            source.attach(tun, [b"packet"])
        monkeypatch.undo()
        source.close()
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(tun)
        outlet.close()
        poller.close()
        ours.close()
        theirs.close()

    asyncio.run(scenario())


def test_a_limited_peer_is_read_again_when_there_is_a_watch(identity: ServerIdentity) -> None:
    async def scenario() -> None:
        async with pair(identity) as both:
            await both.open()
            both.server.set_rate(RateLimit(rx=80_000))
            epoll = Full(both.poller)
            uplink = both.server._uplink
            assert uplink is not None
            for _ in range(10):  # each in a read of its own
                both.client_end.tun.send(packet(ADDRESS, GATEWAY, bytes(1000)))
                await asyncio.sleep(0.005)
            await until(lambda: uplink._paused)
            epoll.full = True
            await asyncio.sleep(0.3)
            assert uplink._paused
            epoll.full = False
            await until(lambda: both.server_end.cells[Cell.PACKETS_IN] == 10)
            assert both.server_end.ended == []

    asyncio.run(scenario())
