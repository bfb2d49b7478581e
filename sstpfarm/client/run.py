"""The client's privileged half: names, the interface, routes, and the child process that talks to the server.

Nothing that the server sends is parsed here but what the child reports in typed messages.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from sstpfarm.client.identities import CONNECT_ID
from sstpfarm.client.settings import ClientSettings, Wishes
from sstpfarm.dataplane.interface import Cell
from sstpfarm.dataplane.select import Dataplane, choose
from sstpfarm.errors import SystemRefusal, place_of
from sstpfarm.ipc import client_messages as c
from sstpfarm.ipc import messages as m
from sstpfarm.ipc.channel import Channel, channel_pair
from sstpfarm.ipc.permissions import Party, may_send
from sstpfarm.ipc.process import seal_memfd
from sstpfarm.net.links import LinkPlan, Links, Route
from sstpfarm.net.tun import InterfaceExists, make_tun, probe_offload
from sstpfarm.proto.events import Phase
from sstpfarm.reasons import OUTCOMES, ExitCode, Reason
from sstpfarm.telemetry.stats import Stats

MAX_ADDRESSES: Final = 16  # of one name, what c.Dial takes
COUNTER_INTERVAL: Final = 1.0
CHILD_PATIENCE: Final = 12.0  # seconds for an orderly end: terminate 2 s, Call Disconnect 5 s, flush and linger
DEFAULT: Final = ipaddress.IPv4Network("0.0.0.0/0")
INTERFACE_NAMES: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Up:
    """The tunnel as it came up."""

    interface: str
    local_address: str | None
    remote_address: str | None
    dns: tuple[str, ...]
    mtu: int
    ipv6_local: str | None
    method: str
    cipher: str
    tls_version: str
    server_address: str
    certificate_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What has passed through the tunnel."""

    seconds: float
    bytes_in: int
    bytes_out: int
    packets_in: int
    packets_out: int


class Observer(Protocol):
    """Who shows it to the user."""

    def phase(self, name: str, seconds: float, detail: str) -> None:
        """A phase of the login is done, that many seconds after the dial began."""

    def up(self, up: Up) -> None:
        """The tunnel carries packets."""

    def counters(self, counters: Counters) -> None:
        """Once a second."""

    def closed(self, reason: Reason, detail: str) -> None:
        """The tunnel has ended."""


class Tunnel:
    """One run of one tunnel, from the name look-up to the last route removed."""

    def __init__(self, settings: ClientSettings, wishes: Wishes, observer: Observer) -> None:
        self._settings = settings
        self._wishes = wishes
        self._observer = observer
        self._stack = AsyncExitStack()
        self._links: Links | None = None
        self._dataplane = choose()
        self._stats = Stats.create(1)
        self._channel: Channel | None = None
        self._facts: c.TunnelFacts | None = None
        self._wanted: asyncio.Queue[c.InterfaceWanted] = asyncio.Queue(maxsize=8)
        self._attached = asyncio.Event()
        self._interface = ""
        self._index = 0
        self._addressed = False
        self._routes: list[Route] = []
        self._ended: asyncio.Future[tuple[Reason, str]] | None = None

    async def run(self) -> ExitCode:
        """Run until the tunnel has ended; return the exit code of its reason.

        Raises:
            SystemRefusal: this system cannot make a tunnel (not root, no TUN).
        """
        self._dataplane = Dataplane(self._dataplane.name, probe_offload(self._dataplane.offload))
        if os.geteuid() != 0:
            raise SystemRefusal(
                "the client must be started as root: it makes an interface, and gives up its rights itself"
            )
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        async with self._stack:
            self._links = await self._stack.enter_async_context(Links())
            reason, detail = await self._dial_and_wait()
        self._observer.closed(reason, detail)
        return OUTCOMES[reason].exit_code

    async def _dial_and_wait(self) -> tuple[Reason, str]:
        assert self._ended is not None
        try:
            addresses = await self._resolve()
        except OSError as error:
            return Reason.NETWORK_UNREACHABLE, f"{self._settings.first_stop[0]}: {error.strerror or error}"
        if self._ended.done():
            return self._ended.result()
        await self._remove_leftovers(addresses)
        child = await self._spawn()
        try:
            assert self._channel is not None
            if not self._ended.done():
                port = self._settings.first_stop[1]
                self._channel.send(c.Dial(addresses=tuple(addresses[:MAX_ADDRESSES]), port=port))
            worker = asyncio.create_task(self._serve_interface())
            worker.add_done_callback(self._interface_done)
            try:
                return await self._ended
            finally:
                worker.cancel()
                await asyncio.wait([worker])
        finally:
            await self._remove_routes()
            if self._channel is not None:
                self._channel.close()
            await _reap(child)

    # -- the child ---------------------------------------------------------------------------------------------------

    async def _resolve(self) -> list[str]:
        """Return the addresses of the server; nothing when the user would not wait for them.

        The resolver takes half a minute and more when no name server answers, and cannot be interrupted. asyncio would
        wait for its own threads at the end, so this is one that nobody waits for.
        """
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[str]] = loop.create_future()

        def deliver(addresses: list[str] | OSError) -> None:
            if found.cancelled():
                return
            if isinstance(addresses, OSError):
                found.set_exception(addresses)
            else:
                found.set_result(addresses)

        def look_up() -> None:
            addresses = _addresses(*self._settings.first_stop)
            with suppress(RuntimeError):  # the loop is closed: the user did not wait
                loop.call_soon_threadsafe(deliver, addresses)

        threading.Thread(target=look_up, name="resolver", daemon=True).start()
        assert self._ended is not None
        either: list[asyncio.Future[Any]] = [found, self._ended]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if found.done():
            return found.result()
        found.cancel()
        return []

    async def _spawn(self) -> asyncio.subprocess.Process:
        ours, theirs = channel_pair()
        settings = seal_memfd("sstpfarm-client", msgspec.msgpack.encode(self._settings))
        loop = asyncio.get_running_loop()
        self._channel = Channel(ours, may_send(Party.CLIENT_PEER, Party.CLIENT), self._from_child, self._child_lost)
        self._channel.start(loop)
        inherited = {"parent": theirs.fileno(), "settings": settings, "stats": self._stats.fd}
        arguments = [f"--fd-{name}={fd}" for name, fd in inherited.items()]
        arguments += [f"--uid={CONNECT_ID}", f"--gid={CONNECT_ID}", f"--dataplane={self._dataplane}"]
        try:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "sstpfarm.client.process",
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=tuple(inherited.values()),
            )
        finally:
            theirs.close()
            os.close(settings)

    def _from_child(self, message: m.Message, fds: list[int]) -> None:
        match message:
            case c.PhaseReached(phase=phase, seconds=seconds, detail=detail):
                self._observer.phase(phase, seconds, detail)
                if phase == Phase.INTERFACE:
                    self._attached.set()
            case c.TunnelFacts():
                self._facts = message
            case c.InterfaceWanted():
                with suppress(asyncio.QueueFull):
                    self._wanted.put_nowait(message)
            case c.TunnelClosed(reason=reason, detail=detail):
                self._end(Reason(reason), detail)

    def _child_lost(self, why: str) -> None:
        self._end(Reason.WORKER_LOST, why)

    def _end(self, reason: Reason, detail: str) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result((reason, detail))

    def _interface_done(self, worker: asyncio.Task[None]) -> None:
        """Without what `worker` does the tunnel would hang: a bug in it ends the tunnel."""
        error = None if worker.cancelled() else worker.exception()
        if error is not None:
            self._end(Reason.INTERNAL_ERROR, place_of(error))

    def _stop(self) -> None:
        """Ctrl-C or SIGTERM: ask the child for an orderly end, and do not wait for ever."""
        if self._channel is None:
            self._end(Reason.USER_REQUEST, "")
            return
        self._channel.send(m.Shutdown())
        asyncio.get_running_loop().call_later(CHILD_PATIENCE, self._end, Reason.USER_REQUEST, "")

    # -- the interface -----------------------------------------------------------------------------------------------

    async def _serve_interface(self) -> None:
        wanted = await self._wanted.get()
        try:
            await self._make_interface(wanted)
        except (OSError, SystemRefusal) as error:
            self._refuse(str(error))
            return
        await self._attached.wait()
        began = asyncio.get_running_loop().time()
        assert self._facts is not None
        self._observer.up(self._describe(wanted, self._facts))
        while True:
            try:
                async with asyncio.timeout(COUNTER_INTERVAL):
                    more = await self._wanted.get()
            except TimeoutError:
                self._count(asyncio.get_running_loop().time() - began)
                continue
            try:
                if await self._apply(more):
                    self._observer.up(self._describe(more, self._facts))
            except OSError as error:
                self._refuse(str(error))
                return

    def _refuse(self, detail: str) -> None:
        if self._channel is not None:
            self._channel.send(m.InterfaceRefused(session="0" * 16, detail=detail[:256]))

    async def _make_interface(self, wanted: c.InterfaceWanted) -> None:
        assert self._channel is not None
        tun = self._make_tun()
        try:
            self._index = socket.if_nametoindex(self._interface)
            await self._apply(wanted)
            self._channel.send(m.InterfaceReady(session="0" * 16, name=self._interface), [tun])
        finally:
            os.close(tun)  # the child's copy keeps the device; it goes when the child closes it

    def _make_tun(self) -> int:
        names: Sequence[str] = (
            [self._wishes.interface] if self._wishes.interface else [f"sstpc{i}" for i in range(INTERFACE_NAMES)]
        )
        for name in names:
            try:
                tun = make_tun(name, persistent=False, offload=self._dataplane.offload)
            except InterfaceExists:
                continue
            self._interface = name
            return tun
        raise SystemRefusal(f"interface {names[0]} exists already; choose another --interface")

    async def _apply(self, wanted: c.InterfaceWanted) -> bool:
        """Configure the interface; return whether this gave it its IPv4 address, with which the default route comes."""
        before = self._addressed
        self._configure(wanted)
        newly = self._addressed and not before
        if newly and self._wishes.default_route:
            await self._route_everything()
        return newly

    def _configure(self, wanted: c.InterfaceWanted) -> None:
        assert self._links is not None
        local = remote = None
        if wanted.local_address is not None and not self._addressed:  # a later message adds the other family
            local = ipaddress.IPv4Address(wanted.local_address)
            remote = ipaddress.IPv4Address(wanted.remote_address) if wanted.remote_address else local
            self._addressed = True
        plan = LinkPlan(mtu=wanted.mtu, local=local, remote=remote, ipv6_local=wanted.ipv6_local)
        self._links.configure(self._index, plan)

    async def _route_everything(self) -> None:
        """Send everything through the tunnel, and the tunnel's own packets as they go now."""
        assert self._links is not None
        assert self._facts is not None
        server = ipaddress.ip_address(self._facts.server_address)
        if server.version == 4 and not server.is_loopback:
            present = await self._links.route_to(server)
            await self._add_route(Route(present.destination, present.index, present.gateway))
        await self._add_route(Route(DEFAULT, self._index, metric=self._wishes.default_route_distance), first=True)

    async def _remove_leftovers(self, addresses: Sequence[str]) -> None:
        """A client that was killed leaves its route to the server, which may lead nowhere by now."""
        assert self._links is not None
        for text in addresses:
            address = ipaddress.ip_address(text)
            if address.version == 4 and self._wishes.default_route:
                with suppress(OSError):
                    await self._links.delete_leftover(address)

    async def _add_route(self, route: Route, *, first: bool = False) -> None:
        assert self._links is not None
        try:
            await self._links.add_route(route, first=first)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
            return  # somebody else's: it serves us, and stays
        self._routes.append(route)

    async def _remove_routes(self) -> None:
        if self._links is not None:
            for route in reversed(self._routes):
                with suppress(OSError):
                    await self._links.delete_route(route)
        self._routes.clear()

    # -- what the user sees ------------------------------------------------------------------------------------------

    def _describe(self, wanted: c.InterfaceWanted, facts: c.TunnelFacts) -> Up:
        ipv6 = ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + wanted.ipv6_local) if wanted.ipv6_local else None
        return Up(
            interface=self._interface,
            local_address=wanted.local_address,
            remote_address=wanted.remote_address,
            dns=wanted.dns_servers,
            mtu=wanted.mtu,
            ipv6_local=str(ipv6) if ipv6 else None,
            method=facts.method,
            cipher=facts.cipher,
            tls_version=facts.tls_version,
            server_address=facts.server_address,
            certificate_sha256=facts.certificate_sha256,
        )

    def _count(self, seconds: float) -> None:
        cells = self._stats.slot(0)
        self._observer.counters(
            Counters(
                seconds=seconds,
                bytes_in=cells[Cell.BYTES_IN],
                bytes_out=cells[Cell.BYTES_OUT],
                packets_in=cells[Cell.PACKETS_IN],
                packets_out=cells[Cell.PACKETS_OUT],
            )
        )


def _addresses(host: str, port: int) -> list[str] | OSError:
    """Return the server's addresses in the resolver's order; a link-local one with the number of its interface."""
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except OSError as error:
        return error
    found = []
    for *_, address in infos:
        zone = f"%{address[3]}" if len(address) == 4 and address[3] else ""
        found.append(f"{address[0]}{zone}")
    return list(dict.fromkeys(found))


async def _reap(child: asyncio.subprocess.Process) -> None:
    """Wait for the child, whose channel is closed; kill it when it does not end."""
    try:
        async with asyncio.timeout(CHILD_PATIENCE):
            await child.wait()
    except TimeoutError:
        child.kill()
        await child.wait()
