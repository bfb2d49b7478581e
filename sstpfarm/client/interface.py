"""One interface of the client, held up for as long as its owner wants it: the table of `lifecycle`, carried out.

What happens is told to `advance`, which moves the state at once; what follows of it is done by one task, in order.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from contextlib import suppress
from time import time
from typing import Any, Final

import msgspec

from sstpfarm.client.backoff import Backoff
from sstpfarm.client.device import Device
from sstpfarm.client.host import HostSettings
from sstpfarm.client.identities import interface_id
from sstpfarm.client.lifecycle import Action, Input, State, follow
from sstpfarm.client.plan import Plan
from sstpfarm.client.routes import TunnelRoutes, outer_way
from sstpfarm.client.run import Counters, Tunnel, Up, resolve
from sstpfarm.client.settings import Wishes
from sstpfarm.config.addresses import Endpoint
from sstpfarm.dataplane.select import Dataplane
from sstpfarm.errors import SystemRefusal, place_of
from sstpfarm.net.links import IpAddress, Links
from sstpfarm.net.ways import RTPROT_CLIENT, Way
from sstpfarm.proto.events import Phase
from sstpfarm.reasons import OUTCOMES, ExitCode, Reason
from sstpfarm.telemetry.log import Log

ANYWHERE: Final = (ipaddress.IPv4Address("192.0.2.1"), ipaddress.IPv6Address("2001:db8::1"))
"""What stands for a server whose address was never found out: addresses that only a default route leads to."""
ENDING: Final = frozenset({State.HANGING_UP, State.DISABLING, State.REDIALING})
DISCARD: Final = 9  # a port (RFC 863); nothing is sent there
HANG_UP_REASONS: Final = {Input.NETWORK: Reason.NETWORK_CHANGED}  # of every other input the user's request


class Interface:
    """One configured tunnel. It is an `Observer` of its own runs.

    Args:
        slot: a number that no other interface of this process has; gives its user and its placeholder address.
    """

    def __init__(self, plan: Plan, slot: int, links: Links, dataplane: Dataplane, log: Log) -> None:
        self.plan = plan
        self.slot = slot
        self.state = State.DISABLED
        self._dataplane = dataplane
        self._log = log.bind(interface=plan.name)
        self._device = Device(
            links,
            dataplane,
            plan.name,
            description=plan.wishes.description,
            number=slot,
            vrf=plan.wishes.vrf,
            bridge=plan.wishes.bridge,
            quiet=plan.wishes.dial_on_demand,
        )
        self._host = HostSettings(plan.wishes, self.trouble)
        self._routes = TunnelRoutes(links, plan.wishes, RTPROT_CLIENT, metric=slot + 1)
        self._backoff = Backoff(plan.delays)
        self._loop = asyncio.get_running_loop()
        self._disabled = asyncio.Event()
        self._disabled.set()
        self._jobs: asyncio.Queue[tuple[Action, Input]] = asyncio.Queue()
        self._worker = self._loop.create_task(self._work())
        self._tunnel: Tunnel | None = None
        self._run: asyncio.Task[None] | None = None
        self._standby: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._known: list[str] = []  # addresses of the server, where its name cannot be looked up at the dial
        self._server = _literal(plan.settings.first_stop[0])  # the other end of the last connection
        self._source = ""  # our end of it
        self._way: tuple[Way | None, ...] = ()
        self._phase = ""
        self._up: Up | None = None
        self._since = 0.0
        self._last: tuple[Reason, str] | None = None
        self._lasted = 0.0

    # -- what its owner does -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Make the device; go on as the plan says. A device that cannot be made now is tried again at each dial."""
        try:
            self._device.make()
        except (OSError, SystemRefusal) as error:
            self._log.emit("tunnel.refused", detail=str(error))
        if not self.plan.disabled:
            self.advance(self._ready())

    async def stop(self) -> None:
        """End the session in order, if there is one; remove the device and all that belongs to it."""
        self.advance(Input.STOP)
        await self._disabled.wait()
        await self._jobs.join()
        self._worker.cancel()
        await self._host.remove()
        await self._routes.remove()
        self._device.close()

    async def change(self, plan: Plan) -> bool:
        """Take a changed plan; return whether the session ends for it.

        What the server or the login depends on is dialled anew; all else is changed while the session lasts, or counts
        from the next dial on.
        """
        old, self.plan = self.plan, plan
        self._backoff.delays = plan.delays
        if plan.settings.first_stop != old.settings.first_stop:
            self._known = []
        if self._tunnel is not None:
            self._tunnel.change(plan.wishes)
        for step in (self._change_alias, self._change_host, self._change_routes):
            try:
                await step(plan.wishes)
            except (OSError, SystemRefusal) as error:  # the others are changed all the same
                self._log.emit("tunnel.refused", detail=str(error))
        if plan.disabled:
            self.advance(Input.STOP)
            return not old.disabled
        if old.disabled or (self.state is State.WAITING and plan != old):  # another server has another way to it
            self.advance(self._ready())
            return False
        if needs_redial(old, plan):
            redials = self.state in (State.DIALING, State.UP)
            self._backoff.forget()
            self.advance(Input.REDIAL)
            return redials
        return False

    async def _change_alias(self, wishes: Wishes) -> None:
        self._device.describe(wishes.description)

    async def _change_host(self, wishes: Wishes) -> None:
        await self._host.change(wishes, self.plan.name, self._up.mtu if self._up is not None else None)

    async def _change_routes(self, wishes: Wishes) -> None:
        await self._routes.change(wishes, self._device.index)
        if self._tunnel is not None and self.state is State.UP and self._server is not None:
            await self._routes.lead([self._server], self._device.index)

    def advance(self, happened: Input) -> None:
        """Move on; what follows is done soon."""
        self.state, actions = follow(self.state, happened)
        if self.state is State.DISABLED:
            self._disabled.set()
        else:
            self._disabled.clear()
        for action in actions:
            self._jobs.put_nowait((action, happened))

    def retry_now(self) -> None:
        """An operator asks for a session."""
        self._backoff.forget()
        self.advance(Input.CONNECT)

    async def look_at_network(self) -> None:
        """Addresses or routes of this machine changed: find out whether that matters here."""
        if self.state is State.UP and self._server is not None:
            before, now = (self._way or (None,))[0], outer_way(self._server, self._device.index)
            if not _is_ours(self._source) or not await self._routes.follow(self._server, before, now):
                self._log.emit("network.changed")
                self.advance(Input.NETWORK)
            elif now is not None:
                self._way = (now,)
        elif self.state is State.BACKOFF:
            now_ways = self._ways()
            if now_ways != self._way and any(now_ways):
                self._way = now_ways
                self._backoff.forget()
                self._log.emit("network.changed")
                self.advance(Input.STANDBY if self.plan.wishes.dial_on_demand else Input.NETWORK)

    def facts(self) -> dict[str, Any]:
        """What there is to show, as JSON knows it."""
        up, counters = self._up, self._tunnel.counters if self._tunnel is not None else None
        return {
            "name": self.plan.name,
            "state": self.state.value,
            "phase": self._phase if self.state is State.DIALING else "",
            "disabled": self.plan.disabled,
            "running": self.state is State.UP,
            "user": self.plan.settings.user,
            "connect_to": str(Endpoint(self.plan.settings.host, self.plan.settings.port)),
            "description": self.plan.wishes.description,
            "uptime_s": counters.seconds if counters is not None and self.state is State.UP else None,
            "idle_s": counters.idle_seconds if counters is not None and self.state is State.UP else None,
            "bytes_in": counters.bytes_in if counters is not None else 0,
            "bytes_out": counters.bytes_out if counters is not None else 0,
            "packets_in": counters.packets_in if counters is not None else 0,
            "packets_out": counters.packets_out if counters is not None else 0,
            "last_reason": self._last[0].value if self._last is not None else None,
            "last_detail": self._last[1] if self._last is not None else None,
            "retry_s": max(0.0, self._timer.when() - self._loop.time()) if self._timer is not None else None,
            "session": msgspec.to_builtins(up) if up is not None else None,
        }

    # -- what follows ------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            action, cause = await self._jobs.get()
            try:
                await self._do(action, cause)
            except (OSError, SystemRefusal) as error:
                self._log.emit("tunnel.refused", detail=str(error))
            except Exception as error:
                self._log.emit("internal.error", detail=place_of(error))
            finally:
                self._jobs.task_done()

    async def _do(self, action: Action, cause: Input) -> None:
        match action:
            case Action.DIAL:
                await self._end_standby()
                await self._routes.refresh(self._known, self._device.index)
                self._run = self._loop.create_task(self._dial())
            case Action.HANG_UP:
                if self._tunnel is not None:
                    self._tunnel.hang_up(HANG_UP_REASONS.get(cause, Reason.USER_REQUEST))
            case Action.ARM:
                await self._pause()
            case Action.DISARM:
                self._disarm()
            case Action.WAIT:
                await self._end_standby()
                self._standby = self._loop.create_task(self._stand_by())
            case Action.REST:
                await self._end_standby()
                await self._routes.remove()
                await self._host.remove()
                self._device.rest()

    async def _dial(self) -> None:
        plan = self.plan
        self._up = None
        self._phase, self._lasted = "", 0.0
        self._log.emit("tunnel.dialing", server=str(Endpoint(plan.settings.host, plan.settings.port)))
        reason, detail = Reason.INTERNAL_ERROR, ""
        try:
            self._device.make()
            self._tunnel = Tunnel(
                plan.settings,
                plan.wishes,
                self,
                device=self._device,
                routes=self._routes,
                host=self._host,
                dataplane=self._dataplane,
                user=interface_id(self.slot),
            )
            if self.state in ENDING:  # before there was what to hang up
                self._tunnel.hang_up(Reason.USER_REQUEST)
            reason, detail = await self._tunnel.run(self._known)
        except (OSError, SystemRefusal) as error:
            reason, detail = Reason.INTERFACE_FAILED, str(error)
        except Exception as error:
            detail = place_of(error)
        self._over(reason, detail)

    def _over(self, reason: Reason, detail: str) -> None:
        counters = self._tunnel.counters if self._tunnel is not None else None
        was_up = self._up is not None
        self._lasted = counters.seconds if counters is not None else 0.0
        self._last = reason, detail
        if reason is Reason.NETWORK_UNREACHABLE:
            self._known = []  # the name may have other addresses by now
        if was_up and counters is not None:
            self._log.emit(
                "tunnel.closed",
                reason=reason.value,
                detail=detail,
                seconds=round(counters.seconds, 1),
                bytes_in=counters.bytes_in,
                bytes_out=counters.bytes_out,
            )
        else:
            self._log.emit("tunnel.failed", reason=reason.value, detail=detail, phase=self._phase)
        self._tunnel = None
        self._up = None
        in_order = was_up and OUTCOMES[reason].exit_code is ExitCode.OK
        self.advance(Input.IDLE if in_order and self.plan.wishes.dial_on_demand else Input.ENDED)

    async def _pause(self) -> None:
        assert self._last is not None
        if not self.plan.wishes.dial_on_demand:
            await self._routes.remove()
            try:
                self._device.rest()
            except OSError as error:  # it is dialled again all the same
                self.trouble(f"device: {error.strerror}")
        try:
            self._way = self._ways()
        except (OSError, ValueError) as error:  # then a change of the network is not noticed; the time passes still
            self._way = ()
            self.trouble(f"routes: {error}")
        wait = self._backoff.after(self._last[0], self._lasted)
        self._log.emit("tunnel.postponed", seconds=round(wait, 2), reason=self._last[0].value)
        self._timer = self._loop.call_later(wait, self._time_is_over)

    def _time_is_over(self) -> None:
        self._timer = None
        self.advance(self._ready())

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ready(self) -> Input:
        return Input.STANDBY if self.plan.wishes.dial_on_demand else Input.GO

    def _ways(self) -> tuple[Way | None, ...]:
        return tuple(
            outer_way(server, self._device.index)
            for server in ((self._server,) if self._server is not None else ANYWHERE)
        )

    # -- waiting for a packet ----------------------------------------------------------------------------------------

    async def _stand_by(self) -> None:
        """Put the device in its place and wait for a packet on it.

        Where routes lead into it, a name can be looked up before they do only: the question would wait in the device
        for the answer to itself.
        """
        plan = self.plan
        try:
            while (plan.wishes.default_route or plan.wishes.routes) and not self._known:
                await self._routes.remove_into()
                try:
                    self._known = await resolve(*plan.settings.first_stop)
                except OSError as error:
                    wait = self._backoff.after(Reason.NETWORK_UNREACHABLE, 0.0)
                    self._log.emit("tunnel.refused", detail=f"{plan.settings.first_stop[0]}: {error.strerror}")
                    await asyncio.sleep(wait)
            self._device.make()
            await self._host.apply(plan.name, plan.settings.max_mtu)  # for the packet that dials too
            self._device.hold_place(plan.settings.max_mtu)
            with suppress(OSError):  # no way to the server now: it is looked for again at the dial
                await self._routes.lead([ipaddress.ip_address(text) for text in self._known], self._device.index)
            self._log.emit("tunnel.stood_by")
            self._loop.add_reader(self._device.fd, self._packet)
        except (OSError, SystemRefusal) as error:
            self._log.emit("tunnel.refused", detail=str(error))
            await asyncio.sleep(self._backoff.after(Reason.INTERFACE_FAILED, 0.0))
            self.advance(Input.STANDBY)

    def _packet(self) -> None:
        self._loop.remove_reader(self._device.fd)  # it stays there until the tunnel takes it
        self.advance(Input.PACKET)

    async def _end_standby(self) -> None:
        if self._standby is not None:
            self._standby.cancel()
            await asyncio.wait([self._standby])
            self._standby = None
        if self._device.fd >= 0:
            self._loop.remove_reader(self._device.fd)

    # -- from the run ------------------------------------------------------------------------------------------------

    def phase(self, name: str, seconds: float, detail: str) -> None:
        """A phase of the login is done."""
        self._phase = name
        if name == Phase.TCP:
            with suppress(ValueError):
                self._server = ipaddress.ip_address(detail)
                self._way = (outer_way(self._server, self._device.index),)
                self._source = _source_to(self._server)

    def up(self, up: Up) -> None:
        """The tunnel carries packets."""
        first = self._up is None
        self._up, self._since = up, time()
        if first:
            self._log.emit(
                "tunnel.opened",
                user=self.plan.settings.user,
                server=up.server_address,
                address=up.local_address or up.ipv6_local,
                mtu=up.mtu,
                method=up.method,
                cipher=up.cipher,
            )
            self.advance(Input.OPENED)

    def trouble(self, text: str) -> None:
        """Something that the tunnel can live without failed."""
        self._log.emit("tunnel.troubled", detail=text)

    def counters(self, counters: Counters) -> None:
        """Once a second; `facts` asks for them when somebody wants to know."""

    def closed(self, reason: Reason, detail: str) -> None:
        """What `run` returns says it."""


def _literal(host: str) -> IpAddress | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def needs_redial(old: Plan, new: Plan) -> bool:
    """Whether a session that the old plan made is not the one that the new plan wants.

    As VyOS does it: the server, what proves who we are and who it is, the DNS servers and the default route.
    """
    live = ("max_mtu", "max_mru", "mrru", "keepalive_timeout", "connect_timeout_s", "login_deadline_s")
    same = {name: getattr(old.settings, name) for name in live}
    if msgspec.structs.replace(new.settings, **same) != old.settings:
        return True
    return any(getattr(old.wishes, name) != getattr(new.wishes, name) for name in ("default_route", "register_dns"))


def needs_remake(old: Plan, new: Plan) -> bool:
    """Whether the device that the old plan made is not the one that the new plan wants."""
    names = ("vrf", "bridge", "dial_on_demand")
    return any(getattr(old.wishes, name) != getattr(new.wishes, name) for name in names)


def _source_to(server: IpAddress) -> str:
    """The address from which this machine speaks to a server; "" when it cannot."""
    return _probe(server, lambda sock: sock.connect(_endpoint(server, DISCARD)))


def _is_ours(source: str) -> bool:
    """Whether this machine still has that address; "" counts as one that it has."""
    if not source:
        return True
    address = ipaddress.ip_address(source)
    return bool(_probe(address, lambda sock: sock.bind(_endpoint(address, 0))))


def _probe(address: IpAddress, action: Callable[[socket.socket], None]) -> str:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:  # UDP: nothing is sent
            action(sock)
            name, *_, scope = sock.getsockname() if address.version == 6 else (*sock.getsockname(), 0)
            return f"{name}%{scope}" if scope and "%" not in name else str(name)
    except OSError:
        return ""


def _endpoint(address: IpAddress, port: int) -> tuple[Any, ...]:
    if address.version == 4:
        return str(address), port
    plain, _, scope = str(address).partition("%")
    return plain, port, 0, int(scope or 0)
