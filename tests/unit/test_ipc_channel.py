"""ipc/channel.py: typed messages and descriptors, and every way to break the rules."""

from __future__ import annotations

import array
import asyncio
import errno
import fcntl
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from sstpfarm.errors import LocalError
from sstpfarm.ipc import client_messages as c
from sstpfarm.ipc import messages as m
from sstpfarm.ipc.channel import MAX_MESSAGE, SECONDS_PER_EVENT, VIOLATION, Channel, channel_pair
from sstpfarm.ipc.permissions import DESCRIPTORS, MAY_SEND, Party, may_send
from tests.unit.descriptors import descriptors_closed

SESSION = "0123456789abcdef"


@dataclass
class End:
    """What one end saw."""

    channel: Channel
    messages: list[tuple[Any, list[int]]] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)


def end(sock: socket.socket, sender: Party, receiver: Party) -> End:
    seen: End

    def on_message(message: Any, fds: list[int]) -> None:
        seen.messages.append((message, fds))

    seen = End(Channel(sock, may_send(sender, receiver), on_message, lambda why: seen.closed.append(why)))
    return seen


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@asynccontextmanager
async def worker_and_master() -> AsyncIterator[tuple[End, socket.socket]]:
    ours, theirs = channel_pair()
    master = end(ours, Party.WORKER, Party.MASTER)
    master.channel.start(asyncio.get_running_loop())
    try:
        yield master, theirs
    finally:
        master.channel.close()
        theirs.close()


def with_master(data: bytes, fds: list[int] | None = None) -> End:
    """Send one raw datagram to a master's channel and return what it made of it."""

    async def scenario() -> End:
        async with worker_and_master() as (master, raw):
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            raw.sendmsg([data], ancillary)
            await settle()
            return master

    return asyncio.run(scenario())


def test_message_with_descriptor_arrives_and_the_copy_belongs_to_the_receiver() -> None:
    async def scenario() -> None:
        ours, theirs = channel_pair()
        master = end(ours, Party.WORKER, Party.MASTER)
        worker = end(theirs, Party.MASTER, Party.WORKER)
        for side in (master, worker):
            side.channel.start(asyncio.get_running_loop())
        reader, writer = os.pipe()
        master.channel.send(m.InterfaceReady(session=SESSION, name="sstp0"), [writer])
        os.close(writer)
        await settle()
        [(message, [copy])] = worker.messages
        assert message == m.InterfaceReady(session=SESSION, name="sstp0")
        os.write(copy, b"through")
        assert os.read(reader, 16) == b"through"
        assert not os.get_inheritable(copy)
        os.close(copy)
        os.close(reader)
        master.channel.close()
        await settle()
        assert worker.closed == ["closed by the other end"]

    asyncio.run(scenario())


def test_a_slow_reader_gets_everything_in_order_with_its_descriptors() -> None:
    async def scenario() -> None:
        ours, theirs = channel_pair()
        master = end(ours, Party.WORKER, Party.MASTER)
        worker = end(theirs, Party.MASTER, Party.WORKER)
        master.channel.start(asyncio.get_running_loop())
        for number in range(5000):
            master.channel.send(m.Ping(number=number))
        reader, writer = os.pipe()
        master.channel.send(m.InterfaceReady(session=SESSION, name="last"), [writer])
        os.close(writer)
        worker.channel.start(asyncio.get_running_loop())
        for _ in range(500):
            await asyncio.sleep(0)
        assert [message.number for message, _ in worker.messages[:-1]] == list(range(5000))
        message, [copy] = worker.messages[-1]
        assert message.name == "last"
        os.close(copy)
        os.close(reader)
        worker.channel.close()
        master.channel.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 40,
        msgspec.msgpack.encode({"t": "no-such-message"}),
        msgspec.msgpack.encode(m.Ping(number=1)),  # the master's own message
        msgspec.msgpack.encode({"t": "session-closed", "session": "../../etc", "reason": "x"}),
        msgspec.msgpack.encode({"t": "session-closed", "session": SESSION, "reason": "x" * 257}),
        msgspec.msgpack.encode({"t": "session-closed", "session": SESSION}),
        msgspec.msgpack.encode(m.Pong(number=1)) + b"\x00",
    ],
)
def test_whatever_a_worker_may_not_say_closes_the_channel(data: bytes) -> None:
    master = with_master(data)
    assert master.messages == []
    assert len(master.closed) == 1
    assert data == b"" or master.closed[0].startswith(VIOLATION)


@pytest.mark.parametrize("text", ["192.0.2.1\nsearch example.com", "192.0.2.1\n", "--interface=lo", "fe80::1%a/b"])
def test_an_address_is_nothing_but_an_address(text: str) -> None:
    """The client's unprivileged half must not write lines into resolv.conf, nor options of a program."""
    decode = msgspec.msgpack.Decoder(may_send(Party.CLIENT_PEER, Party.CLIENT)).decode
    good = c.InterfaceWanted(mtu=1400, dns_servers=("192.0.2.1", "2001:db8::1", "fe80::1%eth0", "::ffff:192.0.2.1"))
    assert decode(msgspec.msgpack.encode(good)) == good
    with pytest.raises(msgspec.ValidationError):
        decode(msgspec.msgpack.encode(c.InterfaceWanted(mtu=1400, dns_servers=(text,))))
    with pytest.raises(msgspec.ValidationError):
        decode(msgspec.msgpack.encode(c.InterfaceWanted(mtu=1400, dns_servers=("192.0.2.1",) * 5)))


@pytest.mark.parametrize("field", ["session", "cipher", "tls_version"])
def test_a_worker_says_nothing_that_drives_the_operators_terminal(field: str) -> None:
    good = {"t": "session-opened", "session": SESSION, "cipher": "x", "tls_version": "y"}
    assert len(with_master(msgspec.msgpack.encode(good)).messages) == 1
    for tail in ("\n", "\x1b[2J", "\x9b2J"):
        (why,) = with_master(msgspec.msgpack.encode({**good, field: good[field] + tail})).closed
        assert why.startswith(VIOLATION)


def test_drain_waits_for_a_slow_reader_but_not_for_ever() -> None:
    async def scenario() -> None:
        ours, theirs = channel_pair()
        channel = Channel(ours, may_send(Party.MASTER, Party.WORKER), lambda *_: None, lambda why: None)
        loop = asyncio.get_running_loop()
        channel.start(loop)
        await channel.drain(60)
        for number in range(2000):  # far more than the socket holds
            channel.send(m.Pong(number=number))
        await channel.drain(0.01)
        seen: list[int] = []
        theirs.setblocking(False)
        loop.add_reader(theirs, lambda: seen.append(msgspec.msgpack.decode(theirs.recv(100), type=m.Pong).number))
        await channel.drain(60)
        channel.close()
        await channel.drain(60)
        while len(seen) < 2000:  # noqa: ASYNC110 - what the socket holds
            await asyncio.sleep(0.001)
        assert seen == list(range(2000))
        loop.remove_reader(theirs)
        theirs.close()

    asyncio.run(scenario())


def test_messages_that_cost_much_let_others_work_in_between() -> None:
    async def scenario() -> None:
        ours, theirs = channel_pair()
        order: list[str] = []

        def on_message(message: m.Pong, _: list[int]) -> None:
            order.append(f"message {message.number}")
            time.sleep(2 * SECONDS_PER_EVENT)  # what it waits for in the kernel
            loop.call_soon(order.append, f"somebody else {message.number}")

        loop = asyncio.get_running_loop()
        master = Channel(ours, may_send(Party.WORKER, Party.MASTER), on_message, lambda why: None)
        for number in (1, 2):
            theirs.send(msgspec.msgpack.encode(m.Pong(number=number)))
        master.start(loop)
        while len(order) < 4:  # noqa: ASYNC110 - a turn of the loop is what is watched
            await asyncio.sleep(0)
        assert order == ["message 1", "somebody else 1", "message 2", "somebody else 2"]
        master.close()
        theirs.close()

    asyncio.run(scenario())


def test_where_a_copy_fails_those_before_it_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def scarce(fd: int, there: list[int] = [1, 1]) -> int:  # noqa: B006 - two, then no more
        if not there:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, there.pop())

    async def scenario() -> None:
        async with worker_and_master() as (master, raw):
            sent = 0
            while not master.channel._queue:
                master.channel.send(m.Ping(number=sent))
                sent += 1
            with raw.dup() as held, monkeypatch.context() as patch:
                fds = [held.fileno()] * 3
                with descriptors_closed():
                    patch.setattr(os, "dup", scarce)
                    with pytest.raises(OSError, match="Too many open files"):
                        master.channel.send(m.CertificateRenewed(), fds)
            assert not master.channel.closed
            assert len(master.channel._queue) == 1

    asyncio.run(scenario())


def test_oversize_message_is_a_violation() -> None:
    data = msgspec.msgpack.encode({"t": "pong", "number": 1, "pad": b"x" * MAX_MESSAGE})
    assert with_master(data).closed == [VIOLATION + "message or descriptors truncated"]


def test_surplus_descriptor_is_a_violation_and_is_closed() -> None:
    with descriptors_closed():
        reader, writer = os.pipe()
        master = with_master(msgspec.msgpack.encode(m.Pong(number=1)), [writer])
        os.close(reader)
        os.close(writer)
        assert master.closed == [VIOLATION + "Pong with 1 descriptors"]


def test_sending_too_much_or_a_wrong_number_of_descriptors_is_our_bug() -> None:
    ours, theirs = channel_pair()
    channel = Channel(ours, may_send(Party.WORKER, Party.MASTER), lambda *_: None, lambda _: None)
    with pytest.raises(LocalError):
        channel.send(m.InterfaceReady(session=SESSION, name="sstp0"))
    with pytest.raises(LocalError):
        channel.send(m.LiveSessions(sessions=(SESSION,) * 5000))
    channel.close()
    theirs.close()


def test_every_message_stands_in_the_table_exactly_where_it_is_used() -> None:
    declared = {
        kind
        for kind in (*vars(m).values(), *vars(c).values())
        if isinstance(kind, type) and issubclass(kind, m.Message)
    }
    listed = {kind for kinds in MAY_SEND.values() for kind in kinds}
    assert listed == declared - {m.Message}
    assert set(DESCRIPTORS) <= listed
