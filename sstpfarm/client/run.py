"""One run of one tunnel, in the client's privileged half: names, the device, routes, and the child that dials.

Nothing that the server sends is parsed here but what the child reports in typed messages. Who runs it (`foreground`,
`interface`) owns device, routes and the host's settings, which can outlive a run.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, Protocol

import msgspec

from sstpfarm.client.device import Device
from sstpfarm.client.host import HostSettings
from sstpfarm.client.routes import TunnelRoutes
from sstpfarm.client.settings import ClientSettings, Wishes
from sstpfarm.dataplane.interface import Cell
from sstpfarm.dataplane.select import Dataplane
from sstpfarm.errors import SystemRefusal, place_of
from sstpfarm.ipc import client_messages as c
from sstpfarm.ipc import messages as m
from sstpfarm.ipc.channel import VIOLATION, Channel, channel_pair
from sstpfarm.ipc.permissions import Party, may_send
from sstpfarm.ipc.process import child_environment, python_module, seal_memfd
from sstpfarm.net.bridge import bridge_mtu
from sstpfarm.proto.events import Phase
from sstpfarm.reasons import Reason
from sstpfarm.telemetry.stats import Stats

MAX_ADDRESSES: Final = 16  # of one name, what c.Dial takes
MAX_DNS_SERVERS: Final = 2  # RFC 1877 1.1, 1.3
COUNTER_INTERVAL: Final = 1.0
CHILD_PATIENCE: Final = 12.0  # seconds for an orderly end: terminate 2 s, Call Disconnect 5 s, flush and linger
MILLISECONDS: Final = 1000
REASONS: Final = frozenset(reason.value for reason in Reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Up:
    """The tunnel as it came up."""

    interface: str
    local_address: str | None
    remote_address: str | None
    dns: tuple[str, ...]
    mtu: int
    ipv6_local: str | None
    bridge: str
    method: str
    cipher: str
    tls_version: str
    server_address: str
    certificate_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What has passed through the tunnel, since when, and how long ago the last packet was."""

    seconds: float
    idle_seconds: float
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

    def trouble(self, text: str) -> None:
        """Something failed that the tunnel lives without."""

    def closed(self, reason: Reason, detail: str) -> None:
        """The tunnel has ended."""


class Tunnel:
    """One run of one tunnel, from the name look-up to the end of the child.

    Args:
        links: an open netlink socket.
        device: made here if it is not made yet.
        user: user and group of the child.
    """

    def __init__(
        self,
        settings: ClientSettings,
        wishes: Wishes,
        observer: Observer,
        *,
        device: Device,
        routes: TunnelRoutes,
        host: HostSettings,
        dataplane: Dataplane,
        user: int,
    ) -> None:
        self._settings = settings
        self._wishes = wishes
        self._observer = observer
        self._device = device
        self._routes = routes
        self._host = host
        self._dataplane = dataplane
        self._user = user
        self._stats = Stats.create(1)
        self._dialled: frozenset[str] = frozenset()
        self._final: Counters | None = None
        self._channel: Channel | None = None
        self._child: asyncio.subprocess.Process | None = None
        self._hung_up = False
        self._facts: c.TunnelFacts | None = None
        self._wanted: asyncio.Queue[c.InterfaceWanted] = asyncio.Queue(maxsize=8)
        self._attached = asyncio.Event()
        self._addressed = self._told = False
        self._began = 0.0
        self._ended: asyncio.Future[tuple[Reason, str]] = asyncio.get_running_loop().create_future()

    async def run(self, addresses: Sequence[str] = ()) -> tuple[Reason, str]:
        """Run until the tunnel has ended; return why. Call it once.

        Args:
            addresses: of the server; without any its name is looked up.
        """
        try:
            found = list(addresses) or await self._resolve()
            return self._ended.result() if self._ended.done() else await self._dial(found)
        except socket.gaierror as error:
            return Reason.NETWORK_UNREACHABLE, f"{self._settings.first_stop[0]}: {error.strerror or error}"
        finally:
            self._final = self.counters
            self._stats.close()

    async def _dial(self, found: Sequence[str]) -> tuple[Reason, str]:
        await self._routes.clear_way(found)
        child = self._child = await self._spawn()
        try:
            assert self._channel is not None
            if not self._ended.done():
                dial = c.Dial(addresses=tuple(found[:MAX_ADDRESSES]), port=self._settings.first_stop[1])
                self._dialled = frozenset(dial.addresses)
                self._channel.send(dial)
            worker = asyncio.create_task(self._serve_interface())
            worker.add_done_callback(self._interface_done)
            try:
                return await self._ended
            finally:
                worker.cancel()
                await asyncio.wait([worker])
        finally:
            await self._host.unregister()
            if not self._wishes.dial_on_demand:
                await self._routes.remove()
                await self._host.remove()
            if self._channel is not None:
                self._channel.close()
            await _reap(child)

    def hang_up(self, reason: Reason) -> None:
        """End it for that reason: in order where the reason allows, and not for ever. Only the first reason counts."""
        if self._hung_up:
            return
        self._hung_up = True
        if self._channel is None:
            self._end(reason, "")
            return
        self._channel.send(c.HangUp(reason=reason.value))
        asyncio.get_running_loop().call_later(CHILD_PATIENCE, self._end, reason, "")

    def change(self, wishes: Wishes) -> None:
        """Take other wishes for the rest of the run: the timeouts count from now on."""
        self._wishes = wishes

    @property
    def counters(self) -> Counters:
        """What has passed so far, or in all."""
        if self._final is not None:
            return self._final
        cells = self._stats.slot(0)
        now = monotonic()
        active = max(self._began, cells[Cell.ACTIVE] / MILLISECONDS) if self._told else now
        return Counters(
            seconds=now - self._began if self._told else 0.0,
            idle_seconds=max(0.0, now - active),
            bytes_in=cells[Cell.BYTES_IN],
            bytes_out=cells[Cell.BYTES_OUT],
            packets_in=cells[Cell.PACKETS_IN],
            packets_out=cells[Cell.PACKETS_OUT],
        )

    # -- the child ---------------------------------------------------------------------------------------------------

    async def _resolve(self) -> list[str]:
        """Return the addresses of the server, or of its proxy; nothing when the user would not wait for them."""
        looking = asyncio.ensure_future(resolve(*self._settings.first_stop))
        either: list[asyncio.Future[Any]] = [looking, self._ended]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if looking.done():
            return looking.result()
        looking.cancel()
        return []

    async def _spawn(self) -> asyncio.subprocess.Process:
        ours, theirs = channel_pair()
        settings = seal_memfd("sstpfarm-client", msgspec.msgpack.encode(self._settings))
        loop = asyncio.get_running_loop()
        self._channel = Channel(ours, may_send(Party.CLIENT_PEER, Party.CLIENT), self._from_child, self._child_lost)
        self._channel.start(loop)
        inherited = {"parent": theirs.fileno(), "settings": settings, "stats": self._stats.fd}
        arguments = [f"--fd-{name}={fd}" for name, fd in inherited.items()]
        arguments += [f"--uid={self._user}", f"--gid={self._user}", f"--dataplane={self._dataplane}"]
        try:
            return await asyncio.create_subprocess_exec(
                *python_module("sstpfarm.client.process"),
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=tuple(inherited.values()),
                env=child_environment(),
                cwd="/",
                process_group=0,  # a Ctrl-C is for us, who end it in order
            )
        finally:
            theirs.close()
            os.close(settings)

    def _from_child(self, message: m.Message, fds: list[int]) -> None:
        match message:
            case c.PhaseReached(phase=Phase.TCP, detail=address) | c.TunnelFacts(server_address=address) if (
                address not in self._dialled
            ):  # routes past the tunnel are made for it
                self._child_lost(f"{VIOLATION}it was not to dial that address")
            case c.PhaseReached(phase=phase, seconds=seconds, detail=detail):
                self._observer.phase(phase, seconds, detail)
                if phase == Phase.INTERFACE:
                    self._attached.set()
            case c.TunnelFacts():
                self._facts = message
            case c.InterfaceWanted(dns_servers=servers) if not _are_addresses(servers):
                self._child_lost(f"{VIOLATION}no DNS servers")
            case c.InterfaceWanted():
                with suppress(asyncio.QueueFull):
                    self._wanted.put_nowait(message)
            case c.TunnelClosed(reason=reason, detail=detail):
                if reason in REASONS:
                    self._end(Reason(reason), detail)
                else:
                    self._child_lost(f"{VIOLATION}no reason: {reason}")

    def _child_lost(self, why: str) -> None:
        if why.startswith(VIOLATION) and self._child is not None:
            with suppress(ProcessLookupError):
                self._child.kill()
        self._end(Reason.WORKER_LOST, why)

    def _end(self, reason: Reason, detail: str) -> None:
        if not self._ended.done():
            self._ended.set_result((reason, detail))

    def _interface_done(self, worker: asyncio.Task[None]) -> None:
        """Without what `worker` does the tunnel would hang: a bug in it ends the tunnel."""
        error = None if worker.cancelled() else worker.exception()
        if error is not None:
            self._end(Reason.INTERNAL_ERROR, place_of(error))

    # -- the interface -----------------------------------------------------------------------------------------------

    async def _serve_interface(self) -> None:
        wanted = await self._wanted.get()
        try:
            await self._make_interface(wanted)
            await self._attached.wait()
            self._began = monotonic()
            self._told = True
            await self._host.register(self._device.name, wanted.dns_servers)
            self._observer.up(self._describe(wanted))
            while True:
                try:
                    async with asyncio.timeout(COUNTER_INTERVAL):
                        more = await self._wanted.get()
                except TimeoutError:
                    self._tick()
                    continue
                if await self._apply(more):
                    await self._host.register(self._device.name, more.dns_servers)
                    self._observer.up(self._describe(more))
        except (OSError, SystemRefusal) as error:
            assert self._channel is not None
            self._channel.send(c.DeviceRefused(detail=str(error)[:256]))

    async def _make_interface(self, wanted: c.InterfaceWanted) -> None:
        assert self._channel is not None
        self._device.make()
        before = self._device.local if self._wishes.dial_on_demand else None
        await self._apply(wanted)
        ready = c.DeviceReady(
            name=self._device.name,
            local_address=wanted.local_address,
            queued_from=str(before) if before is not None else None,
        )
        self._channel.send(ready, [self._device.fd])

    async def _apply(self, wanted: c.InterfaceWanted) -> bool:
        """Configure the interface; return whether this gave it its IPv4 address, with which the routes come."""
        assert self._facts is not None
        newly = wanted.local_address is not None and not self._addressed
        server = ipaddress.ip_address(self._facts.server_address)
        await self._host.apply(self._device.name, wanted.mtu)
        await self._routes.pass_by([server], self._device.index)
        self._device.configure_for(wanted)
        if newly:
            self._addressed = True
            await self._routes.lead([server], self._device.index)
        if self._addressed and self._wishes.default_route:  # not before: now the way to the server is there
            self._device.follow_router(self._wishes.default_route_distance)
        return newly

    def _tick(self) -> None:
        """Once a second: tell what passed, and end what has no traffic or no time left."""
        counters = self.counters
        self._observer.counters(counters)
        wishes = self._wishes
        if wishes.session_timeout and counters.seconds >= wishes.session_timeout:
            self.hang_up(Reason.SESSION_TIMEOUT)
        elif wishes.idle_timeout and counters.idle_seconds >= wishes.idle_timeout:
            self.hang_up(Reason.IDLE_TIMEOUT)

    # -- what the user sees ------------------------------------------------------------------------------------------

    def _describe(self, wanted: c.InterfaceWanted) -> Up:
        facts = self._facts
        assert facts is not None
        ipv6 = ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + wanted.ipv6_local) if wanted.ipv6_local else None
        return Up(
            interface=self._device.name,
            local_address=wanted.local_address,
            remote_address=wanted.remote_address,
            dns=wanted.dns_servers,
            mtu=bridge_mtu(self._wishes.bridge) if self._wishes.bridge else wanted.mtu,
            ipv6_local=str(ipv6) if ipv6 else None,
            bridge=self._wishes.bridge,
            method=facts.method,
            cipher=facts.cipher,
            tls_version=facts.tls_version,
            server_address=facts.server_address,
            certificate_sha256=facts.certificate_sha256,
        )


async def resolve(host: str, port: int) -> list[str]:
    """Return the server's addresses in the resolver's order; a link-local one with the number of its interface.

    The resolver takes half a minute and more when no name server answers, and cannot be interrupted. asyncio would
    wait for its own threads at the end, so this is one that nobody waits for.

    Raises:
        OSError: there are none.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[str]] = loop.create_future()

    def deliver(addresses: list[str] | OSError) -> None:
        if found.done():
            return
        if isinstance(addresses, OSError):
            found.set_exception(addresses)
        else:
            found.set_result(addresses)

    def look_up() -> None:
        addresses = _addresses(host, port)
        with suppress(RuntimeError):  # the loop is closed: the user did not wait
            loop.call_soon_threadsafe(deliver, addresses)

    threading.Thread(target=look_up, name="resolver", daemon=True).start()
    return await found


def _are_addresses(servers: Sequence[str]) -> bool:
    """Whether those are DNS servers as IPCP brings them; they become lines of a file, and arguments of a program."""
    try:
        return len([ipaddress.IPv4Address(server) for server in servers]) <= MAX_DNS_SERVERS
    except ValueError:
        return False


def _addresses(host: str, port: int) -> list[str] | OSError:
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
