"""The RADIUS client against a server that does as it is told: repetitions, failover, and replies that do not count."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Literal

import msgspec
import pytest

from sstpfarm.auth.radius import client as under_test
from sstpfarm.auth.radius.client import Answer, RadiusClient, Service
from sstpfarm.auth.radius.endpoint import IDENTIFIERS, MAX_PORTS
from sstpfarm.auth.radius.packet import Code
from sstpfarm.config.fields import Password
from sstpfarm.config.radius import Radius, RadiusServer
from sstpfarm.errors import PeerError
from tests.radius_double import RadiusDouble, Received, attribute, local

ACCEPT = 2


def accept(request: Received) -> Iterable[bytes]:
    yield request.reply(ACCEPT, attribute(18, b"in"))


def silent(request: Received) -> Iterable[bytes]:
    return ()


class Told:
    """The log events, and the client under test."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def emit(self, name: str, **keys: Any) -> None:
        self.events.append((name, keys))

    def names(self) -> list[str]:
        return [name for name, _ in self.events]


@asynccontextmanager
async def asking(
    *doubles: RadiusDouble,
    wait: float = 0.1,
    retries: int = 1,
    dead_time: float = 60.0,
    deadline: float = 10.0,
    status_server: bool = False,
    signature: Literal["require", "auto", "off"] = "auto",
) -> AsyncIterator[tuple[RadiusClient, Told]]:
    told = Told()
    servers = tuple(
        RadiusServer(
            address="127.0.0.1",
            auth_port=double.port,
            secret=Password("testing123"),
            timeout_s=wait,
            retries=retries,
            dead_time_s=dead_time,
            message_authenticator=signature,
            status_server=status_server,
        )
        for double in doubles
    )
    client = RadiusClient(Radius(server=servers, deadline_s=deadline), os.urandom, told.emit)
    try:
        yield client, told
    finally:
        client.close()


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not reached():  # noqa: ASYNC110  # the client has no event for it
            await asyncio.sleep(0.01)


async def login(client: RadiusClient) -> Answer | None:
    return await client.ask(
        Service.AUTHENTICATION, Code.ACCESS_REQUEST, lambda secret, authenticator: [("User-Name", "alice")]
    )


def test_a_repetition_is_the_same_bytes() -> None:
    async def main() -> None:
        async with asking(double) as (client, _):
            answer = await login(client)
            assert answer is not None
            assert answer.reply.texts("Reply-Message") == ["in"]

    with RadiusDouble(local()) as double:
        double.script = lambda request: accept(request) if len(double.received) == 2 else ()
        asyncio.run(main())
        first, second = double.received
        assert first == second
        assert first.data[20] == 80


def test_a_server_that_does_not_answer_is_left_alone() -> None:
    async def main() -> None:
        async with asking(dead, alive) as (client, told):
            assert await login(client) is not None
            assert len(dead.received) == 2
            assert await login(client) is not None
            assert len(dead.received) == 2
            assert told.names() == ["radius.server_dead"]
            assert not client.endpoints(Service.AUTHENTICATION)[0].alive
            counts = [(one.unanswered, sum(one.buckets)) for one in client.endpoints(Service.AUTHENTICATION)]
            assert counts == [(1, 0), (0, 2)]
            assert client.endpoints(Service.AUTHENTICATION)[1].seconds > 0

    with RadiusDouble(local(), silent) as dead, RadiusDouble(local(), accept) as alive:
        asyncio.run(main())


def test_a_request_that_no_packet_can_carry_condemns_nobody() -> None:
    """A server says nothing to more than 4096 bytes (RFC 2865 3): a peer's large EAP Response must not be sent."""

    async def main() -> None:
        async with asking(double) as (client, told):
            with pytest.raises(PeerError, match="4096 bytes at most"):
                await client.ask(
                    Service.AUTHENTICATION, Code.ACCESS_REQUEST, lambda *_: [("EAP-Message", bytes(253))] * 16
                )
            assert await login(client) is not None
            assert told.names() == []

    with RadiusDouble(local(), accept) as double:
        asyncio.run(main())
        assert len(double.received) == 1


def test_all_servers_dead() -> None:
    async def main() -> None:
        async with asking(one, other) as (client, _):
            assert await login(client) is None
            assert (len(one.received), len(other.received)) == (2, 2)
            assert await login(client) is None  # at once: nobody is asked
            assert (len(one.received), len(other.received)) == (2, 2)

    with RadiusDouble(local(), silent) as one, RadiusDouble(local(), silent) as other:
        asyncio.run(main())


def test_after_its_dead_time_one_login_tries_a_server_and_the_others_go_on() -> None:
    async def main() -> None:
        async with asking(dead, alive, dead_time=0.1, wait=0.2, retries=0) as (client, told):
            await login(client)
            before = len(dead.received)
            await asyncio.sleep(0.11)
            await asyncio.gather(*(login(client) for _ in range(20)))
            assert len(dead.received) == before + 1
            dead.script = accept
            await asyncio.sleep(0.11)
            await login(client)
            assert told.names()[-1] == "radius.server_alive"

    with RadiusDouble(local(), silent) as dead, RadiusDouble(local(), accept) as alive:
        asyncio.run(main())


def test_status_server_brings_a_dead_server_back() -> None:
    def status(request: Received) -> Iterable[bytes]:
        if request.code == Code.STATUS_SERVER:
            assert request.values(80)
            yield request.reply(ACCEPT)

    async def main() -> None:
        async with asking(double, dead_time=0.1, retries=0, status_server=True) as (client, told):
            assert await login(client) is None
            endpoint = client.endpoints(Service.AUTHENTICATION)[0]
            await until(lambda: endpoint.alive)
            assert told.names() == ["radius.server_dead", "radius.server_alive"]

    with RadiusDouble(local(), status) as double:
        asyncio.run(asyncio.wait_for(main(), 60))


def test_the_deadline_ends_a_login_and_condemns_nobody() -> None:
    async def main() -> None:
        async with asking(double, wait=30, deadline=0.2) as (client, told):
            assert await login(client) is None
            assert told.names() == ["radius.server_dead"] or client.endpoints(Service.AUTHENTICATION)[0].alive

    with RadiusDouble(local(), silent) as double:
        asyncio.run(main())


def test_a_slow_server_that_answers_others_is_not_dead() -> None:
    def script(request: Received) -> Iterable[bytes]:
        return () if request.values(1) == [b"slow"] else accept(request)

    async def main() -> None:
        async with asking(double, wait=0.2, retries=0) as (client, told):
            slow = asyncio.ensure_future(
                client.ask(Service.AUTHENTICATION, Code.ACCESS_REQUEST, lambda *_: [("User-Name", "slow")])
            )
            await asyncio.sleep(0)
            assert await login(client) is not None
            assert await slow is None
            assert told.names() == []

    with RadiusDouble(local(), script) as double:
        asyncio.run(main())


def test_wrong_replies_are_ignored_and_the_right_one_counts() -> None:
    def script(request: Received) -> Iterable[bytes]:
        good = request.reply(ACCEPT, attribute(18, b"in"))
        yield b""
        yield b"garbage"
        yield os.urandom(4096)
        yield good[:1] + bytes((good[1] ^ 0x55,)) + good[2:]  # another identifier
        yield request.reply(ACCEPT, secret=b"wrong")
        yield request.reply(5)  # accounting's
        yield good[:-1] + b"!"
        yield good
        yield good  # a late duplicate

    async def main() -> None:
        async with asking(double) as (client, told):
            answer = await login(client)
            assert answer is not None
            assert answer.reply.texts("Reply-Message") == ["in"]
            assert len(double.received) == 1
            endpoint = client.endpoints(Service.AUTHENTICATION)[0]
            await until(lambda: endpoint.ignored.total() >= 8)
            assert endpoint.ignored.total() == 8
            assert [name for name in told.names() if name == "radius.ignored"] == ["radius.ignored"]  # one line

    with RadiusDouble(local(), script) as double:
        asyncio.run(asyncio.wait_for(main(), 60))


def test_a_reply_from_another_port_does_not_count() -> None:
    def script(request: Received) -> Iterable[bytes]:
        with local() as other:
            source = sources.pop()
            other.sendto(request.reply(ACCEPT), source)
        return ()

    sources: list[Any] = []

    async def main() -> None:
        async with asking(double, retries=0) as (client, _):
            assert await login(client) is None
            assert client.endpoints(Service.AUTHENTICATION)[0].ignored == {"from another address or port": 1}

    sock = local()
    receive = sock.recvfrom

    class Socket:
        """Remembers who asked."""

        def recvfrom(self, size: int) -> Any:
            data, source = receive(size)
            sources.append(source)
            return data, source

        def __getattr__(self, name: str) -> Any:
            return getattr(sock, name)

    with RadiusDouble(Socket(), script) as double:  # type: ignore[arg-type]  # a socket but for one method
        asyncio.run(main())
        assert len(double.received) == 1


@pytest.mark.parametrize(("signature", "first", "second"), [("auto", True, False), ("off", True, True)])
def test_unsigned_replies_after_a_signed_one(signature: Literal["auto", "off"], first: bool, second: bool) -> None:
    """`auto`: once a server has signed, it always must."""

    async def main() -> None:
        async with asking(double, retries=0, signature=signature) as (client, told):
            double.script = lambda request: [request.reply(ACCEPT, signed=False)]
            assert (await login(client) is not None) is first
            assert await login(client) is not None
            assert told.names() == (["radius.unsigned"] if signature == "auto" else [])  # one warning
            double.script = accept
            assert await login(client) is not None
            double.script = lambda request: [request.reply(ACCEPT, signed=False)]
            assert (await login(client) is not None) is second

    with RadiusDouble(local()) as double:
        asyncio.run(main())


WRONG_REPLIES = int(os.environ.get("SSTPFARM_WRONG_REPLIES", "20000"))  # SECURITY 39 has a million: a minute or two


def test_of_many_wrong_replies_none_is_taken(record_property: Callable[[str, object], None]) -> None:
    """SECURITY 39: unsigned, or with a wrong identifier, secret or seal; then comes the right one."""

    def script(request: Received) -> Iterable[bytes]:
        unsigned = request.reply(ACCEPT, signed=False)
        forged = request.reply(ACCEPT, secret=b"wrong")
        seal = bytearray(request.reply(ACCEPT))
        seal[25] ^= 1
        stray = bytearray(request.reply(ACCEPT))
        stray[1] ^= 0x80
        for _ in range(WRONG_REPLIES // 40):
            for _ in range(10):
                yield from (unsigned, forged, bytes(seal), bytes(stray))
            time.sleep(0.001)  # else they would be lost in the socket's buffer, and nothing be tested
        yield request.reply(ACCEPT)

    async def main() -> None:
        async with asking(double, wait=600, signature="require", deadline=600) as (client, _):
            answer = await login(client)
            assert answer is not None
            assert answer.reply.signed
            ignored = client.endpoints(Service.AUTHENTICATION)[0].ignored
            for why, count in ignored.items():
                record_property(why, count)
            assert ignored.total() > WRONG_REPLIES // 2  # the kernel may lose some
            assert min(ignored.values()) > WRONG_REPLIES // 20

    with RadiusDouble(local(), script) as double:
        asyncio.run(main())


def test_more_requests_than_one_source_port_has_identifiers() -> None:
    async def main() -> None:
        async with asking(double, wait=0.3, retries=20) as (client, _):
            held: list[Received] = []
            double.script = lambda request: held.append(request) or ()  # type: ignore[func-returns-value]
            tasks = [asyncio.ensure_future(login(client)) for _ in range(IDENTIFIERS * 2)]
            await until(lambda: len({request.data for request in held}) == len(tasks))
            assert len({request.data[1] for request in held}) == IDENTIFIERS
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            double.script = accept
            assert await login(client) is not None

    with RadiusDouble(local()) as double:
        asyncio.run(asyncio.wait_for(main(), 60))


def test_the_number_of_requests_is_bounded() -> None:
    async def main() -> None:
        async with asking(double, wait=5) as (client, _):
            tasks = [asyncio.ensure_future(login(client)) for _ in range(IDENTIFIERS * MAX_PORTS)]
            await asyncio.sleep(0)
            assert await login(client) is None  # at once
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    with RadiusDouble(local(), silent) as double:
        asyncio.run(asyncio.wait_for(main(), 60))


def servers(*doubles: RadiusDouble, password: str = "testing123", **keys: Any) -> Radius:
    server = {"timeout_s": 5.0, "retries": 0, "dead_time_s": 60.0, "status_server": False, **keys}
    return Radius(
        server=tuple(
            RadiusServer(address="127.0.0.1", auth_port=double.port, secret=Password(password), **server)
            for double in doubles
        )
    )


def test_a_reload_brings_other_servers_and_what_is_under_way_ends_where_it_began() -> None:
    async def main() -> None:
        async with asking(old, wait=5) as (client, _):
            (retired,) = client.endpoints(Service.AUTHENTICATION)
            waiting = asyncio.ensure_future(login(client))
            await until(lambda: len(old.received) == 1)
            client.reload(servers(new))
            answer = await login(client)
            assert answer is not None
            assert answer.endpoint.settings.port == new.port
            old.sock.sendto(old.received[0].reply(ACCEPT), ("127.0.0.1", port_of(retired)))
            answer = await waiting
            assert answer is not None
            assert answer.endpoint is retired
            old.script = accept  # a conversation goes on there
            talk = await client.ask(Service.AUTHENTICATION, Code.ACCESS_REQUEST, lambda *_: (), at=retired)
            assert talk is not None
            assert len(new.received) == 1

    def port_of(endpoint: Any) -> int:
        port: int = endpoint._ports[0]._sock.getsockname()[1]
        return port

    with RadiusDouble(local(), silent) as old, RadiusDouble(local(), accept) as new:
        asyncio.run(main())


def test_a_login_that_waits_for_a_silent_server_goes_on_to_the_one_that_a_reload_brings() -> None:
    async def main() -> None:
        async with asking(old, wait=0.3, retries=0) as (client, told):
            waiting = asyncio.ensure_future(login(client))
            await until(lambda: len(old.received) == 1)
            client.reload(servers(new))
            answer = await waiting
            assert answer is not None
            assert answer.endpoint.settings.port == new.port
            assert told.names() == []  # nobody cares whether the one that is gone is dead

    with RadiusDouble(local(), silent) as old, RadiusDouble(local(), accept) as new:
        asyncio.run(main())


def test_a_reload_keeps_what_is_known_of_a_server_and_takes_its_times() -> None:
    async def main() -> None:
        async with asking(dead, alive, wait=0.05, retries=0, dead_time=3000) as (client, told):
            assert await login(client) is not None
            before = client.endpoints(Service.AUTHENTICATION)
            client.reload(servers(alive, dead, dead_time_s=0.1))
            assert list(client.endpoints(Service.AUTHENTICATION)) == [before[1], before[0]]
            assert [endpoint.settings.timeout for endpoint in before] == [5.0, 5.0]
            assert not before[0].alive
            assert told.names() == ["radius.server_dead"]
            await until(before[0].usable)  # of 3,000 s of dead time no more than 0.1 s are left

    with RadiusDouble(local(), silent) as dead, RadiusDouble(local(), accept) as alive:
        asyncio.run(main())


def test_a_server_for_which_no_socket_can_be_had_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without IPv6 knows no such sockets; servers with IPv4 serve all the same."""

    class Socket(socket.socket):
        def __init__(self, family: int = -1, *rest: Any, **keys: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
            super().__init__(family, *rest, **keys)

    async def main() -> None:
        async with asking(there) as (client, told):
            (other,) = servers(there).server
            client.reload(Radius(server=(msgspec.structs.replace(other, address="::1"), other)))
            answer = await login(client)
            assert answer is not None
            assert answer.endpoint.settings.address == "127.0.0.1"
            assert told.names() == ["radius.ignored"]

    with RadiusDouble(local(), accept) as there:
        monkeypatch.setattr(socket, "socket", Socket)
        asyncio.run(main())


def test_a_reload_brings_another_secret() -> None:
    def script(request: Received) -> Iterable[bytes]:
        yield request.reply(ACCEPT, secret=b"another")

    async def main() -> None:
        async with asking(double, wait=0.2, retries=0) as (client, told):
            assert await login(client) is None
            client.reload(servers(double, password="another"))
            assert await login(client) is not None
            assert told.names() == ["radius.ignored", "radius.server_dead"]

    with RadiusDouble(local(), script) as double:
        asyncio.run(main())


def test_servers_that_are_gone_are_closed_in_time_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "RETIREMENT", 0.2)
    monkeypatch.setattr(under_test, "MAX_RETIRED", 3)

    async def main() -> None:
        async with asking(double, wait=5) as (client, _):
            waiting = asyncio.ensure_future(login(client))
            await until(lambda: len(double.received) == 1)
            client.reload(servers(double, password="0", timeout_s=0.1))
            assert len(client._retired) == 2
            client.reload(servers(double, password="1", timeout_s=0.1))
            assert len(client._retired) == 3  # the first one had to go
            assert await asyncio.wait_for(waiting, 1) is None
            await until(lambda: not client._retired)

    with RadiusDouble(local(), silent) as double:
        asyncio.run(main())
