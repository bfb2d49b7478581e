"""`sstpfarm client`: many interfaces, a configuration that may change, until a signal."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from contextlib import AsyncExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from sstpfarm.client.control import ClientControl
from sstpfarm.client.foreground import usable_dataplane
from sstpfarm.client.host import sweep
from sstpfarm.client.interface import Interface, needs_remake
from sstpfarm.client.plan import Plan, plans
from sstpfarm.client.routes import remove_leftovers
from sstpfarm.config.client import MAX_INTERFACES, ClientConfig
from sstpfarm.config.client_load import load_client
from sstpfarm.dataplane.select import Dataplane, shortfall
from sstpfarm.errors import ConfigError, SystemRefusal, place_of
from sstpfarm.ipc.process import reduce_capabilities
from sstpfarm.ipc.run_directory import hold_lock
from sstpfarm.net.changes import Changes
from sstpfarm.net.links import Links
from sstpfarm.net.sysctl import Sysctl
from sstpfarm.reasons import ExitCode
from sstpfarm.telemetry.log import Log, configure, get_log
from sstpfarm.telemetry.notify import Notifier

DYNAMIC_ADDRESSES: Final = "net/ipv4/ip_dynaddr"  # Documentation/networking/ip-sysctl.rst; pppd sets it too
CAPABILITIES: Final = {
    "NET_ADMIN",  # devices, addresses, routes, kernel settings
    "NET_RAW",  # a VRF, for a socket
    "SETUID",  # children become users of their own
    "SETGID",
    "SETPCAP",  # they empty their bounding set
    "KILL",  # processes of those users
    "DAC_OVERRIDE",  # files of the operator, read again at a reload
}


def run_client(path: Path) -> int:
    """Run the client of that configuration until SIGTERM or SIGINT; return the exit code.

    Raises:
        ConfigError: the configuration is faulty.
        SystemRefusal: something that the client needs is not to be had.
    """
    config = load_client(path)
    dataplane = usable_dataplane()
    os.umask(0o077)
    configure(config.client.log_format, role="client")
    return asyncio.run(_Daemon(path, config, dataplane, get_log()).run())


class _Daemon:
    """One run of the client."""

    def __init__(self, path: Path, config: ClientConfig, dataplane: Dataplane, log: Log) -> None:
        self._path = path
        self._config = config
        self._plans = plans(config)
        self._dataplane = dataplane
        self._log = log
        self._interfaces: dict[str, Interface] = {}
        self._links: Links | None = None
        self._notifier = Notifier()
        self._signals: asyncio.Queue[str] = asyncio.Queue()
        self._network = asyncio.Event()
        self._settings = Sysctl()

    async def run(self) -> int:
        """Start, serve, stop; what was begun is undone in the opposite order, also when the start fails."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_exception)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._signals.put_nowait, number.name)
        async with AsyncExitStack() as stack:
            await self._start(stack)
            self._notifier.send("READY=1", f"STATUS={len(self._interfaces)} interfaces")
            self._log.emit("client.ready", interfaces=sorted(self._interfaces))
            while (name := await self._signals.get()) == "SIGHUP":
                await self._reload()
            self._notifier.send("STOPPING=1")
            self._log.emit("client.stopping", signal=name)
        self._log.emit("client.stopped")
        return ExitCode.OK

    async def _start(self, stack: AsyncExitStack) -> None:
        self._log.emit("client.starting", version=version("sstpfarm"), interfaces=len(self._plans))
        if why := shortfall():
            self._log.emit("dataplane.degraded", why=why)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        run = Path(self._config.client.run_directory)
        _make_directory(run)
        stack.enter_context(hold_lock(run, "client"))
        self._links = await stack.enter_async_context(Links())
        await sweep()
        removed = await remove_leftovers(self._links)
        if removed:
            self._log.emit("client.leftovers_removed", routes=removed)
        self._settings = Sysctl(run / "sysctl.json")
        self._settings.recover()
        stack.callback(self._settings.restore)
        reduce_capabilities(CAPABILITIES)
        control = ClientControl(run, self._interfaces)
        await control.start()
        stack.push_async_callback(control.stop)
        stack.push_async_callback(self._stop_all)
        for plan in self._plans.values():
            self._add(plan)
        changes = Changes(self._network.set)
        stack.callback(changes.close)
        watcher = asyncio.create_task(self._watch_network())
        stack.callback(watcher.cancel)

    def _add(self, plan: Plan) -> None:
        assert self._links is not None
        taken = {interface.slot for interface in self._interfaces.values()}
        slot = next(number for number in range(MAX_INTERFACES) if number not in taken)
        interface = Interface(plan, slot, self._links, self._dataplane, self._log)
        self._interfaces[plan.name] = interface
        if plan.wishes.dial_on_demand:  # a connection that begins before the address is known takes the new one
            try:
                self._settings.set(DYNAMIC_ADDRESSES, "1")
            except SystemRefusal as error:  # the others are not to suffer for it
                self._log.emit("tunnel.refused", interface=plan.name, detail=str(error))
        interface.start()

    async def _stop_all(self) -> None:
        await asyncio.gather(*(interface.stop() for interface in self._interfaces.values()))
        self._interfaces.clear()

    async def _watch_network(self) -> None:
        while True:
            await self._network.wait()
            self._network.clear()
            for interface in list(self._interfaces.values()):
                try:
                    await interface.look_at_network()
                except OSError as error:
                    self._log.emit("tunnel.refused", interface=interface.plan.name, detail=str(error))

    async def _reload(self) -> None:
        """Take a changed file; a faulty one changes nothing."""
        self._notifier.send("RELOADING=1")
        try:
            wanted = plans(load_client(self._path))
        except ConfigError as error:
            self._log.emit("client.reload_refused", detail=str(error))
            self._notifier.send("READY=1")
            return
        removed = sorted(set(self._plans) - set(wanted))
        remade = [
            name for name, plan in wanted.items() if name in self._plans and needs_remake(self._plans[name], plan)
        ]
        gone = [self._interfaces.pop(name) for name in (*removed, *remade) if name in self._interfaces]
        await asyncio.gather(*(interface.stop() for interface in gone))
        changed, redialed = [], []
        for name, plan in wanted.items():
            if name in self._interfaces and plan != self._plans.get(name):
                changed.append(name)
                if await self._interfaces[name].change(plan):
                    redialed.append(name)
        added = sorted(set(wanted) - set(self._interfaces))
        for name in added:
            self._add(wanted[name])
        self._plans = wanted
        self._log.emit("client.reloaded", added=added, removed=removed, changed=changed, redialed=redialed)
        self._notifier.send("READY=1", f"STATUS={len(self._interfaces)} interfaces")

    def _on_exception(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        detail = place_of(error) if isinstance(error, BaseException) else str(context.get("message"))
        self._log.emit("internal.error", detail=detail)


def _make_directory(run: Path) -> None:
    try:
        run.mkdir(parents=True, mode=0o700, exist_ok=True)
    except OSError as error:
        raise SystemRefusal(f"{run}: {error.strerror}") from error
