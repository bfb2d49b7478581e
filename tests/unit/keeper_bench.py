"""A keeper of sessions with real interfaces in a namespace of the test's own, and recorded messages."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from sstpfarm.config.ppp import Interface
from sstpfarm.ipc import messages as m
from sstpfarm.master.keeper import SessionKeeper
from sstpfarm.master.permissions import SessionPhase
from sstpfarm.net.links import Links
from sstpfarm.telemetry.log import get_log
from sstpfarm.telemetry.stats import Stats
from tests.unit.descriptors import descriptors_closed
from tests.unit.inside import Namespace, inside, namespace


def identifier(number: int) -> str:
    return f"{number:016x}"


def grant(number: int, worker: int = 0, remote: str = "", slot: int | None = None) -> m.Grant:
    terms = m.Terms(local_address="10.20.0.1", remote_address=remote or f"10.20.1.{number}")
    return m.Grant(
        worker=worker,
        session=identifier(number),
        user=f"user{number}",
        caller_id="192.0.2.1:5000",
        method="mschap2",
        mtu=1400,
        slot=number if slot is None else slot,
        terms=terms,
    )


def opened(number: int) -> m.SessionOpened:
    return m.SessionOpened(session=identifier(number), cipher="AES", tls_version="TLSv1.3")


def closed(number: int, reason: str = "peer-disconnect") -> m.SessionClosed:
    return m.SessionClosed(session=identifier(number), reason=reason)


@dataclass
class Bench:
    place: Namespace
    keeper: SessionKeeper
    stats: dict[int, Stats]
    workers: list[tuple[int, m.Message]] = field(default_factory=list)
    accused: list[tuple[int, str]] = field(default_factory=list)
    auth: list[m.SessionReleased] = field(default_factory=list)
    started: list[m.SessionStarted] = field(default_factory=list)
    tuns: dict[str, int] = field(default_factory=dict)

    def phase(self, number: int, worker: int = 0) -> SessionPhase | None:
        session = self.keeper.table.get(worker, identifier(number))
        return session.phase if session is not None else None

    def up(self) -> set[str]:
        """The interfaces of sessions: what is up and has an address, without the loopback."""
        found = self.place.ip("-4", "address", "show", "up")
        return {link["ifname"] for link in found if link and link["addr_info"]} - {"lo"}

    def close_tuns(self) -> None:
        for fd in self.tuns.values():
            os.close(fd)


def run(scenario: Callable[[Bench], Awaitable[None]], **static: Interface) -> None:
    async def main(place: Namespace) -> None:
        stats = {0: Stats.create(8), 1: Stats.create(8)}

        def to_worker(worker: int, message: m.Message, fds: Sequence[int]) -> None:
            bench.workers.append((worker, message))
            if isinstance(message, m.InterfaceReady):
                bench.tuns[message.session] = os.dup(fds[0])

        def to_auth(message: m.Message) -> None:
            if isinstance(message, m.SessionReleased):
                bench.auth.append(message)
            else:
                assert isinstance(message, m.SessionStarted)
                bench.started.append(message)

        async with Links() as links:
            with descriptors_closed():
                accused: list[tuple[int, str]] = []
                keeper = SessionKeeper(
                    links,
                    get_log(),
                    stats_of=stats.get,
                    to_worker=to_worker,
                    to_auth=to_auth,
                    accuse=lambda worker, detail: accused.append((worker, detail)),
                    static=static,
                )
                bench = Bench(place, keeper, stats, accused=accused)
                await scenario(bench)
                bench.close_tuns()
                await keeper.close()
        for page in stats.values():
            page.close()

    with namespace("keeper") as place:
        inside(place, lambda: asyncio.run(main(place)))
