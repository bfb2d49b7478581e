"""worker/server.py: a listener that is not watched at once is served later; how many connections are taken."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
from asyncio.selector_events import BaseSelectorEventLoop
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from sstpfarm.config.schema import Config
from sstpfarm.config.views import for_worker
from sstpfarm.dataplane.interface import Offload
from sstpfarm.dataplane.select import Dataplane
from sstpfarm.ipc.channel import channel_pair
from sstpfarm.telemetry.log import get_log
from sstpfarm.telemetry.stats import Stats
from sstpfarm.transport.tls_context import ServerIdentity
from sstpfarm.worker import server as module
from sstpfarm.worker.server import WorkerServer
from tests.unit.connection_bench import until


@pytest.mark.parametrize("refusals", [1, 3])
def test_a_listener_that_is_not_watched_is_tried_again(
    identity: ServerIdentity, monkeypatch: pytest.MonkeyPatch, refusals: int
) -> None:
    monkeypatch.setattr(module, "ACCEPT_PAUSE", 0.01)
    watch, refused = BaseSelectorEventLoop.add_reader, list[int]()

    async def scenario() -> None:
        master, auth = channel_pair(), channel_pair()
        server = WorkerServer(
            0, for_worker(Config(), ""), identity, Stats.create(8), get_log(),
            master=master[0], auth=auth[0], dataplane=Dataplane("pure", Offload.NONE),
        )  # fmt: skip
        listener = socket.create_server(("127.0.0.1", 0))
        address = listener.getsockname()

        def add_reader(loop: BaseSelectorEventLoop, fd: int, callback: Callable[..., Any], *arguments: Any) -> None:
            if fd == listener.fileno() and len(refused) < refusals:
                refused.append(fd)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            watch(loop, fd, callback, *arguments)

        monkeypatch.setattr(BaseSelectorEventLoop, "add_reader", add_reader)
        running = asyncio.create_task(server.run([listener]))
        with socket.create_connection(address):
            await until(lambda: bool(server._sessions))
            assert len(refused) == refusals
            server._shutdown()
            await running
        for end in (master[1], auth[1]):
            end.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(("limit", "most"), [(8, 2), (520, 132)])
def test_a_connection_is_taken_only_with_a_descriptor_for_its_interface(
    identity: ServerIdentity, monkeypatch: pytest.MonkeyPatch, limit: int, most: int
) -> None:
    """The channel from the master would break where one does not arrive, and all sessions of the worker with it."""

    async def scenario() -> None:
        master, auth = channel_pair(), channel_pair()
        with monkeypatch.context() as patch:
            patch.setattr(resource, "getrlimit", lambda _: (limit, limit))
            server = WorkerServer(
                0, for_worker(Config(), ""), identity, Stats.create(8), get_log(),
                master=master[0], auth=auth[0], dataplane=Dataplane("pure", Offload.NONE),
            )  # fmt: skip
        listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        address = listener.getsockname()
        running = asyncio.create_task(server.run([listener]))
        with ExitStack() as held:
            for _ in range(most):
                held.enter_context(socket.create_connection(address))
            await until(lambda: len(server._sessions) == most)
            reader, writer = await asyncio.open_connection(*address)
            assert await asyncio.wait_for(reader.read(), 30) == b""
            writer.close()
            assert len(server._sessions) == most
            server._shutdown()
            await running
        for end in (master[1], auth[1]):
            end.close()

    asyncio.run(scenario())
