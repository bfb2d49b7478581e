"""transport/poller.py: readiness, errors and ends, under asyncio and under uvloop."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest
import uvloop

from sstpfarm.transport.poller import STARTING_PER_TURN, Poller

RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: close sends a reset
LOOPS = (asyncio.new_event_loop, uvloop.new_event_loop)


@pytest.fixture(params=LOOPS, ids=("asyncio", "uvloop"))
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[Poller], Coroutine[Any, Any, None]]], None]:
    def runner(scenario: Callable[[Poller], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            poller = Poller(asyncio.get_running_loop())
            try:
                async with asyncio.timeout(60):
                    await scenario(poller)
            finally:
                poller.close()

        with asyncio.Runner(loop_factory=request.param) as loop:
            loop.run(main())

    return runner


Run = Callable[[Callable[[Poller], Coroutine[Any, Any, None]]], None]


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    for sock in (client, server):
        sock.setblocking(False)
    return client, server


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0.002)


def test_readers_and_writers_come_and_go(run: Run) -> None:
    async def scenario(poller: Poller) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            seen: list[str] = []
            fd = ours.fileno()
            poller.add_reader(fd, lambda: seen.append(ours.recv(10).decode()))
            await turns()
            assert seen == []
            theirs.send(b"one")
            await turns()
            assert seen == ["one"]

            def writable() -> None:
                seen.append("writable")
                poller.remove_writer(fd)

            poller.add_writer(fd, writable)
            await turns()
            assert seen == ["one", "writable"]
            poller.remove_reader(fd)
            poller.remove_reader(fd)
            theirs.send(b"two")
            await turns()
            assert seen == ["one", "writable"]
            poller.add_reader(fd, lambda: seen.append(ours.recv(10).decode()))
            await turns()
            assert seen == ["one", "writable", "two"]
            poller.remove_reader(fd)

    run(scenario)


def test_every_reset_is_noticed(run: Run) -> None:
    """Also one that comes while data of ours is unanswered: libuv alone loses these (uvloop issue 552)."""

    async def scenario(poller: Poller) -> None:
        noticed: set[int] = set()
        pairs = [tcp_pair() for _ in range(60)]

        def reader(sock: socket.socket) -> Callable[[], None]:
            def readable() -> None:
                try:
                    data = sock.recv(100)
                except ConnectionResetError:
                    data = b""
                if not data:
                    noticed.add(sock.fileno())
                    poller.remove_reader(sock.fileno())

            return readable

        for client, server in pairs:
            poller.add_reader(server.fileno(), reader(server))
            server.send(b"unanswered")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        await turns()
        for client, _ in pairs:
            client.close()
        await turns(20)
        assert noticed == {server.fileno() for _, server in pairs}
        for _, server in pairs:
            server.close()

    run(scenario)


def test_an_error_reaches_a_lone_writer(run: Run) -> None:
    async def scenario(poller: Poller) -> None:
        client, server = tcp_pair()
        with server:
            failures: list[str] = []

            def writable() -> None:
                try:
                    server.send(b"x" * 65536)
                except ConnectionError as error:
                    failures.append(type(error).__name__)
                    poller.remove_writer(server.fileno())

            poller.add_writer(server.fileno(), writable)
            await turns()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()
            await turns(20)
            assert len(failures) == 1

    run(scenario)


def test_a_callback_may_close_the_others(run: Run) -> None:
    async def scenario(poller: Poller) -> None:
        pairs = [socket.socketpair() for _ in range(10)]
        called: list[int] = []

        def close_all() -> None:
            called.append(1)
            for ours, _ in pairs:
                poller.remove_reader(ours.fileno())
                ours.close()

        for ours, theirs in pairs:
            poller.add_reader(ours.fileno(), close_all)
            theirs.send(b"x")
        await turns()
        assert called == [1]
        for _, theirs in pairs:
            theirs.close()

    run(scenario)


def test_a_paused_descriptor_with_an_error_costs_nothing(run: Run) -> None:
    async def scenario(poller: Poller) -> None:
        client, server = tcp_pair()
        poller.add_reader(server.fileno(), lambda: None)
        poller.remove_reader(server.fileno())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.close()
        wakes = 0
        turn = poller._turn

        def counting() -> None:
            nonlocal wakes
            wakes += 1
            turn()

        asyncio.get_running_loop().add_reader(poller._epoll.fileno(), counting)
        await turns()
        assert wakes == 0
        server.close()

    run(scenario)


class Pauses:
    """A moderation that wants these pauses, and then none; `turns` are the numbers of events."""

    def __init__(self, *pauses: float) -> None:
        self.pauses = list(pauses)
        self.turns: list[int] = []

    def pause(self, began: float, ended: float, events: int) -> float:
        assert began <= ended
        self.turns.append(events)
        return self.pauses.pop(0) if self.pauses else 0.0


@pytest.mark.parametrize("factory", LOOPS, ids=("asyncio", "uvloop"))
def test_between_turns_there_may_be_a_pause(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """What becomes ready meanwhile is found by the next turn, and after a turn without pause at once."""

    async def scenario() -> None:
        pauses = Pauses(0.2, 0.001)
        poller = Poller(asyncio.get_running_loop(), pauses)  # type: ignore[arg-type] # what a poller needs of one
        one, other = socket.socketpair()
        with one, other:
            for sock in (one, other):
                sock.setblocking(False)
            seen: list[bytes] = []
            poller.add_reader(one.fileno(), lambda: seen.append(one.recv(1)))
            other.send(b"a")
            await turns()
            other.send(b"bcd")
            await turns()
            assert (seen, pauses.turns) == ([b"a"], [1])
            await asyncio.sleep(0.4)
            assert seen == [b"a", b"b", b"c", b"d"]
            await turns()
            assert pauses.turns == [1, 1, 1, 1]  # nobody turns without cause
            poller.close()

    with asyncio.Runner(loop_factory=factory) as loop:
        loop.run(scenario())


@pytest.mark.parametrize("factory", LOOPS, ids=("asyncio", "uvloop"))
def test_a_poller_that_is_closed_in_a_pause_or_a_turn_is_quiet(
    factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def scenario(in_turn: bool) -> None:
        faults: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        pauses = Pauses(0.05)
        poller = Poller(asyncio.get_running_loop(), pauses)  # type: ignore[arg-type] # as above
        one, other = socket.socketpair()
        with one, other:
            poller.add_reader(one.fileno(), poller.close if in_turn else lambda: one.recv(1))
            other.send(b"a")
            await turns()
            if not in_turn:
                poller.close()
            await asyncio.sleep(0.1)
        assert (pauses.turns, faults) == ([1], [])

    for in_turn in (False, True):
        with asyncio.Runner(loop_factory=factory) as loop:
            loop.run(scenario(in_turn))


def test_what_is_for_later_comes_behind_the_readers_of_the_turn(run: Run) -> None:
    """In order, also when a reader fails; outside of a turn at once."""

    async def scenario(poller: Poller) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        seen: list[str] = []
        poller.later(lambda: seen.append("now"))
        pairs = [socket.socketpair() for _ in range(3)]
        for number, (one, other) in enumerate(pairs):

            def read(sock: socket.socket = one, number: int = number) -> None:
                sock.recv(1)
                seen.append(f"read {number}")
                poller.later(lambda: seen.append(f"later {number}"))
                if number == 2:
                    raise RuntimeError

            poller.add_reader(one.fileno(), read)
            other.send(b"x")
        await turns()
        assert seen == ["now", "read 0", "read 1", "read 2", "later 0", "later 1", "later 2"]
        for one, other in pairs:
            poller.remove_reader(one.fileno())
            one.close()
            other.close()

    run(scenario)


def test_who_starts_waits_for_the_others_of_a_turn(run: Run) -> None:
    """A turn has a few of those that start, behind all else of it; none is forgotten. Who has started does not wait."""

    async def scenario(poller: Poller) -> None:
        seen: list[str] = []
        pairs = [socket.socketpair() for _ in range(3 * STARTING_PER_TURN + 2)]
        (session, peer), (grown, grown_peer), *others = pairs
        busy = True

        def work() -> None:
            seen.append("session")
            if not busy:
                session.recv(1)
            poller.later(lambda: seen.append("later"))

        def read(sock: socket.socket, name: str) -> None:
            sock.recv(1)
            seen.append(name)

        for number, (sock, _) in enumerate(others):
            poller.add_reader(sock.fileno(), partial(read, sock, f"{number}"), starting=True)
        poller.add_reader(grown.fileno(), partial(read, grown, "grown"), starting=True)
        poller.started(grown.fileno())
        poller.started(grown.fileno())
        for _, other in [*others, (grown, grown_peer)]:
            other.send(b"x")
        poller.add_reader(session.fileno(), work)
        peer.send(b"x")
        while len(seen) < len(pairs) + 3:
            await turns(1)
        busy = False
        await turns()
        first = seen.index("later") + 1
        assert sorted(seen[:first]) == ["grown", "later", "session"]
        names = [str(number) for number in range(len(others))]
        for start in range(0, len(names), STARTING_PER_TURN):
            end = first + STARTING_PER_TURN
            assert seen[first:end] == names[start : start + STARTING_PER_TURN]
            assert seen[end : end + 2] == ["session", "later"]
            first = end + 2
        poller.remove_reader(session.fileno())
        for sock, _ in [*others, (grown, grown_peer)]:
            poller.remove_reader(sock.fileno())
        assert not poller._start_fds
        for one, other in pairs:
            one.close()
            other.close()

    run(scenario)


def test_who_starts_may_write_and_end(run: Run) -> None:
    async def scenario(poller: Poller) -> None:
        client, server = tcp_pair()
        with server:
            seen: list[str] = []

            def writable() -> None:
                seen.append("writable")
                poller.remove_writer(server.fileno())

            def readable() -> None:
                seen.append("readable")
                poller.remove_reader(server.fileno())

            poller.add_reader(server.fileno(), readable, starting=True)
            poller.add_writer(server.fileno(), writable)
            await turns()
            assert seen == ["writable"]
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()
            await turns()
            assert seen == ["writable", "readable"]
            assert not poller._start_fds

    run(scenario)
