"""Rate limits on a connection: what is held back, what is not, and how a limit goes away again."""

from __future__ import annotations

import asyncio
import socket

import pytest

from sstpfarm.dataplane.interface import Cell
from sstpfarm.dataplane.rates import UNLIMITED, RateLimit
from sstpfarm.reasons import Reason
from sstpfarm.transport.pacer import CALLS_PER_TURN, Pacer
from sstpfarm.transport.tls_context import ServerIdentity
from sstpfarm.transport.uplink import LEAST_WINDOW, SO_BUF_LOCK
from tests.unit.connection_bench import ADDRESS, GATEWAY, packet, pair, until

SLOW = 8_000  # bit/s: a packet of 1,000 bytes each second


def test_packets_to_the_peer_wait_until_the_limit_goes(identity: ServerIdentity) -> None:
    async def scenario() -> None:
        async with pair(identity) as both:
            await both.open()
            both.server.set_rate(RateLimit(tx=SLOW))
            for _ in range(5):
                both.server_end.tun.send(packet(GATEWAY, ADDRESS, bytes(1000)))
            await until(lambda: bool(both.client_end.received()))  # the first overdraws
            await asyncio.sleep(0.03)
            assert both.client_end.received() == []
            both.server_end.tun.send(packet(GATEWAY, ADDRESS, b"last"))
            both.server.set_rate(UNLIMITED)
            await until(lambda: any(one.endswith(b"last") for one in both.client_end.received()))
            assert both.server._downlink is not None
            assert both.server._downlink._shaper is None

    asyncio.run(scenario())


def test_a_limited_peer_is_not_read_until_the_limit_goes(identity: ServerIdentity) -> None:
    async def scenario() -> None:
        async with pair(identity) as both:
            await both.open()
            both.server.set_rate(RateLimit(rx=SLOW))
            for _ in range(5):
                both.client_end.tun.send(packet(ADDRESS, GATEWAY, bytes(1000)))
                await asyncio.sleep(0.01)
            await until(lambda: both.server_end.cells[Cell.PACKETS_IN] > 0)
            carried = both.server_end.cells[Cell.PACKETS_IN]
            assert carried < 5
            await asyncio.sleep(0.03)
            assert both.server_end.cells[Cell.PACKETS_IN] == carried
            both.server.set_rate(UNLIMITED)
            await until(lambda: both.server_end.cells[Cell.PACKETS_IN] == 5)

    asyncio.run(scenario())


def test_a_paused_peer_is_not_taken_for_dead(identity: ServerIdentity, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that wait because we do not read are a sign of life; silence is none."""

    async def scenario() -> None:
        async with pair(identity) as both:
            await both.open()
            both.server.set_rate(RateLimit(rx=1000))
            uplink = both.server._uplink
            assert uplink is not None
            for _ in range(6):
                both.client_end.tun.send(packet(ADDRESS, GATEWAY, bytes(1000)))
                await asyncio.sleep(0.01)
            await until(uplink.unread)
            heard: list[float] = []
            tunnel = both.server._tunnel
            assert tunnel is not None
            monkeypatch.setattr(tunnel, "heard", heard.append)
            both.server.tick(1.0)
            assert heard == [1.0]
            both.server.set_rate(UNLIMITED)
            await until(lambda: both.server_end.cells[Cell.PACKETS_IN] == 6)
            heard.clear()
            assert not uplink.unread()
            both.server.tick(2.0)
            assert heard == []

    asyncio.run(scenario())


@pytest.mark.parametrize("paused", [False, True])
def test_a_limited_connection_ends_in_order(identity: ServerIdentity, paused: bool) -> None:
    async def scenario() -> None:
        async with pair(identity) as both:
            await both.open()
            both.server.set_rate(RateLimit(rx=SLOW, tx=SLOW))
            for _ in range(3 if paused else 1):
                both.server_end.tun.send(packet(GATEWAY, ADDRESS, bytes(1000)))
                both.client_end.tun.send(packet(ADDRESS, GATEWAY, bytes(1000)))
                await asyncio.sleep(0.02)
            both.server.close(Reason.QUOTA)
            await both.over()
            assert both.server_end.ended[0][0] is Reason.QUOTA

    asyncio.run(scenario())


def test_the_pacer_calls_each_once_in_order_and_leaves_others_a_turn() -> None:
    async def scenario() -> None:
        pacer = Pacer(asyncio.get_running_loop())
        called: list[int] = []
        turns: list[int] = []

        def note(number: int) -> None:
            called.append(number)
            if number == 0:
                asyncio.get_running_loop().call_soon(lambda: turns.append(len(called)))
                pacer.wait(lambda: called.append(-1))  # who waits again is not called in the same turn

        for number in range(CALLS_PER_TURN * 2):
            pacer.wait(lambda number=number: note(number))  # type: ignore[misc] # bound now, not when it is called
        await until(lambda: called[-1:] == [-1])
        assert called == [*range(CALLS_PER_TURN * 2), -1]
        assert turns[0] <= CALLS_PER_TURN

    asyncio.run(scenario())


def test_a_callback_that_raises_stops_no_other() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        faults: list[object] = []
        loop.set_exception_handler(lambda _, context: faults.append(context["exception"]))
        pacer = Pacer(loop)
        called: list[str] = []

        def fail() -> None:
            raise ValueError("on purpose")

        pacer.wait(fail)
        pacer.wait(lambda: called.append("second"))
        await until(lambda: called == ["second"])
        assert len(faults) == 1

    asyncio.run(scenario())


def test_a_slow_peer_may_have_little_on_the_way_and_a_fast_one_what_it_needs(identity: ServerIdentity) -> None:
    async def scenario() -> None:
        async with pair(identity) as both:
            await both.open()
            size = both.server_sock.getsockopt
            before = size(socket.SOL_SOCKET, socket.SO_RCVBUF)
            both.server.set_rate(RateLimit(rx=1_000_000_000))
            assert size(socket.SOL_SOCKET, socket.SO_RCVBUF) == before
            both.server.set_rate(RateLimit(rx=64_000))
            assert size(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * LEAST_WINDOW
            both.server.set_rate(UNLIMITED)
            assert size(socket.SOL_SOCKET, SO_BUF_LOCK) == 0  # TCP may let it grow again

    asyncio.run(scenario())
