"""The master's life: everything that needs root first, then fewer rights, then the processes, until a signal."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec

from sstpfarm.config.difference import changed_keys, changed_tables
from sstpfarm.config.load import load
from sstpfarm.config.radius import reloaded_radius
from sstpfarm.config.schema import Config, Server
from sstpfarm.dataplane.select import Dataplane, choose, shortfall
from sstpfarm.errors import ConfigError, SystemRefusal, place_of
from sstpfarm.ipc.control import refusal
from sstpfarm.ipc.garbage import spare_old_objects
from sstpfarm.ipc.process import reduce_capabilities
from sstpfarm.ipc.run_directory import hold_lock
from sstpfarm.master.certificate import NO_CERTIFICATE, Certificate, obtain
from sstpfarm.master.control import ControlServer
from sstpfarm.master.effects import address_lists
from sstpfarm.master.identities import AUTH_ID
from sstpfarm.master.listeners import close_listeners, open_listeners, usable_endpoints
from sstpfarm.master.supervisor import Supervisor
from sstpfarm.master.table import FarmTable, masquerade_without_interface
from sstpfarm.net import nft, sysctl
from sstpfarm.net.links import LinkFacts, Links
from sstpfarm.net.neighbours import delete_leftovers
from sstpfarm.net.tun import probe_offload
from sstpfarm.reasons import ExitCode
from sstpfarm.telemetry.collector import FarmCollector, make_registry
from sstpfarm.telemetry.exposition import serve as serve_metrics
from sstpfarm.telemetry.log import Log, configure, get_log, lines_lost
from sstpfarm.telemetry.notify import Notifier

DESCRIPTORS: Final = 262_144  # RLIMIT_NOFILE, inherited by the workers: two for each session
LEFTOVERS_PATIENCE: Final = 5.0  # seconds for the workers of a master that died to be gone
MIGRATE: Final = "net/ipv4/tcp_migrate_req"  # a closed listener's queue moves on to the others
CAPABILITIES: Final = {
    "NET_ADMIN",  # interfaces, addresses, routes, nftables
    "NET_BIND_SERVICE",  # /metrics on a low port
    "SETUID",  # children become users of their own
    "SETGID",
    "SETPCAP",  # they empty their bounding set
    "KILL",  # processes of those users
    "CHOWN",  # auth gives its file to its user when it is started again
    "DAC_OVERRIDE",  # that file lies in its user's directory
}
NEED_RESTART: Final = ("farm", "server", "auth", "accounting")
"""Tables whose changes need a restart, as [interface.NAME] does; of [radius] most does not (`reloaded_radius`)."""
UNPROTECTED: Final = {
    "mschap1": "its hashes are broken: crypto binding does not keep out who sits in between",
    "chap": "it gives no key: crypto binding does not keep out who sits in between",
    "pap": "it gives no key: crypto binding does not keep out who sits in between; the server sees the password",
}


def serve(config: Config, path: Path) -> int:
    """Run the farm until SIGTERM or SIGINT; return the exit code. At SIGHUP `path` is read again.

    Raises:
        ConfigError: the certificate's files are not usable, or the packet path that was asked for is not there.
        SystemRefusal: something that the farm needs is not to be had.
    """
    if os.geteuid() != 0:
        raise SystemRefusal("the server must be started as root: it makes interfaces and gives up its rights itself")
    os.umask(0o077)
    configure(config.farm.log_format, role="master")
    spare_old_objects()
    return asyncio.run(_Farm(config, path, get_log()).run())


class _Farm:
    """One run of the farm, and what an operator can ask of it."""

    def __init__(self, config: Config, path: Path, log: Log) -> None:
        self._config = config
        self._path = path
        self._reloading = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = log
        self._notifier = Notifier()
        self._supervisor: Supervisor | None = None
        self._stop: asyncio.Future[str] | None = None

    async def run(self) -> int:
        """Start, serve, stop; what was begun is undone in the opposite order, also when the start fails."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_exception)
        self._stop = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number.name)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        async with AsyncExitStack() as stack:
            supervisor = await self._start(stack)
            await self._serve_until_signal(supervisor)
        self._log.emit("farm.stopped")
        return ExitCode.OK

    async def _start(self, stack: AsyncExitStack) -> Supervisor:
        config, server, log = self._config, self._config.server, self._log
        cpus = choose_cpus(server.workers, sorted(os.sched_getaffinity(0)))
        log.emit("farm.starting", version=version("sstpfarm"), workers=len(cpus))
        for method in server.methods():
            if method in UNPROTECTED:
                log.emit("method.unprotected", method=method, why=UNPROTECTED[method])
        dataplane = self._dataplane()
        raise_limits()
        run, state = Path(config.farm.run_directory), Path(config.farm.state_directory)
        prepare_directories(run, state)
        stack.enter_context(hold_lock(run, "farm"))
        certificate = obtain(config, log)
        links = await stack.enter_async_context(Links())
        leftovers = await self._reconcile(links)
        if not server.enabled:
            log.emit("farm.not_enabled", why="server.enabled = false: nothing listens")
        endpoints, skipped = usable_endpoints(server.endpoints())
        for endpoint in skipped:
            log.emit("listener.skipped", listener=str(endpoint), why="this kernel has no IPv6")
        listeners = open_listeners(endpoints, len(cpus), server.tls_deadline_s)
        stack.callback(close_listeners, listeners)
        table = FarmTable(config, log)
        table.install(address_lists(config))
        if why := masquerade_without_interface(server):
            log.emit("masquerade.suspended", why=why)
        stack.callback(self._quietly, nft.remove)
        settings = sysctl.Sysctl(state / "sysctl.json")
        settings.recover()
        stack.callback(settings.restore)
        with suppress(SystemRefusal):  # an older kernel has no such setting, and works without
            settings.set(MIGRATE, "1")
        if server.forwarding or server.client_to_client:
            settings.set(sysctl.IPV4_FORWARDING, "1")
        prepare_proxy_arp(server, settings)
        reduce_capabilities(CAPABILITIES)

        collector = FarmCollector(
            version=version("sstpfarm"),
            dataplane=dataplane.name,
            workers_up=lambda: self._supervisor.workers_up if self._supervisor is not None else 0,
            log_lines_lost=lines_lost,
        )
        if server.metrics:
            stack.callback(serve_metrics(server.metrics, make_registry(collector)))
        supervisor = self._supervisor = Supervisor(
            config, certificate, listeners, links, collector, log, cpus, dataplane
        )
        stack.push_async_callback(supervisor.stop)
        await supervisor.keeper.prepare(leftovers)
        control = ControlServer(run, self)
        await control.start()
        stack.push_async_callback(control.stop)
        await self._until_stop(supervisor.start())
        keeper = supervisor.keeper
        keeping = asyncio.create_task(table.keep(keeper.effects, lambda: keeper.table))
        stack.callback(keeping.cancel)
        return supervisor

    async def _serve_until_signal(self, supervisor: Supervisor) -> None:
        assert self._stop is not None
        if not self._stop.done():
            listen = self._listen()
            self._log.emit("farm.ready", listen=listen, workers=supervisor.workers_up)
            self._notifier.send("READY=1", f"STATUS={supervisor.workers_up} workers serve")
            if self._notifier.watchdog is not None:
                self._feed_watchdog(asyncio.get_running_loop(), self._notifier.watchdog)
        name = await self._stop
        self._notifier.send("STOPPING=1")
        self._log.emit("farm.stopping", signal=name)

    async def _until_stop(self, starting: Any) -> None:
        """Wait for the start, or for a signal that ends it."""
        assert self._stop is not None
        task = asyncio.ensure_future(starting)
        await asyncio.wait((task, self._stop), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
            return
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    def _feed_watchdog(self, loop: asyncio.AbstractEventLoop, interval: float) -> None:
        self._notifier.send("WATCHDOG=1")
        loop.call_later(interval, self._feed_watchdog, loop, interval)

    def _listen(self) -> list[str]:
        return [str(endpoint) for endpoint in self._config.server.endpoints()]

    def _dataplane(self) -> Dataplane:
        """Choose the packet path, and the most offload that this kernel grants; say so once."""
        wanted = choose()
        found = Dataplane(wanted.name, probe_offload(wanted.offload))
        self._log.emit("dataplane.chosen", dataplane=found.name, offload=found.offload.name.lower())
        if why := shortfall():
            self._log.emit("dataplane.degraded", why=why)
        return found

    async def _reconcile(self, links: Links) -> dict[str, int]:
        """Delete the interfaces and the proxy ARP entries that a farm left behind which was killed.

        Returns:
            The indexes of static interfaces that are there still, by name.

        Raises:
            SystemRefusal: processes still hold some: another farm serves in this network namespace.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LEFTOVERS_PATIENCE
        found = await links.session_links()
        while any(link.in_use for link in found):
            if loop.time() > deadline:
                raise SystemRefusal(f"another farm serves in this network namespace: it holds {_names(found)}")
            await asyncio.sleep(0.1)
            found = await links.session_links()
        kept = {link.name: link.index for link in found if link.name in self._config.interface}
        found = [link for link in found if link.name not in kept]
        proxies = delete_leftovers()
        if found or proxies:
            self._log.emit("farm.leftovers_removed", interfaces=[link.name for link in found], proxies=proxies)
            await asyncio.gather(*(links.delete(link.index) for link in found))
        return kept

    # -- what the control socket asks ----------------------------------------------------------------------------------

    def sessions(self) -> list[dict[str, Any]]:
        """List all sessions."""
        return self._supervisor.keeper.listing() if self._supervisor is not None else []

    def interfaces(self) -> list[dict[str, Any]]:
        """List all interfaces of sessions, and static ones without a session."""
        return self._supervisor.keeper.interfaces() if self._supervisor is not None else []

    def interface(self, name: str) -> dict[str, Any] | None:
        """Describe the interface of that name, None when there is none."""
        return self._supervisor.keeper.interface(name) if self._supervisor is not None else None

    def kick(self, text: str, by: str) -> list[str]:
        """End the sessions of that identifier, interface or else user; return their identifiers."""
        return self._supervisor.keeper.kick(text, by) if self._supervisor is not None else []

    def status(self) -> dict[str, Any]:
        """Describe the farm."""
        supervisor = self._supervisor
        return {
            "version": version("sstpfarm"),
            "listen": self._listen(),
            "sessions": len(supervisor.keeper.table) if supervisor is not None else 0,
            "processes": supervisor.status() if supervisor is not None else [],
        }

    def pools(self) -> list[dict[str, Any]]:
        """Tell how much of each pool is used."""
        return self._supervisor.pools() if self._supervisor is not None else []

    async def reload(self) -> dict[str, Any]:
        """Read users, profiles, pools, RADIUS servers and the certificate again.

        A certificate that cannot be used keeps nobody's account open: the one of before stays, all else is taken.

        Returns:
            How many users there are, what needs a restart, and why the certificate of before was kept, if it was.

        Raises:
            ConfigError: the files have faults; nothing has changed.
            SystemRefusal: there is no memory or descriptor for what they say; nothing has changed.
        """
        async with self._reloading:
            try:
                found = await asyncio.to_thread(load, self._path, certificates=False)
                known = msgspec.structs.replace(self._config, server=_reloaded(self._config.server, found.server))
                renewed, kept = self._renewed(known)
                radius, keys = reloaded_radius(self._config.radius, found.radius)
                if self._supervisor is not None:
                    self._supervisor.reload(msgspec.structs.replace(found, radius=radius), renewed)
            except (ConfigError, SystemRefusal, OSError) as error:
                self._log.emit("config.refused", faults=str(error).split("\n"))
                if isinstance(error, OSError):
                    raise SystemRefusal(str(error)) from error
                raise
            if kept is not None:
                self._log.emit("certificate.kept", why=str(kept))
            ignored = [
                *(
                    key
                    for name in NEED_RESTART
                    for key in changed_keys(name, getattr(known, name), getattr(found, name))
                ),
                *changed_tables("interface", known.interface, found.interface),
                *keys,
            ]
            self._log.emit("config.reloaded", users=len(found.secret), need_restart=ignored)
            told = refusal(kept) if kept is not None else None
            return {"users": len(found.secret), "need_restart": ignored, "certificate_kept": told}

    def _renewed(self, config: Config) -> tuple[Certificate | None, ConfigError | SystemRefusal | None]:
        """Return the certificate that the files hold now, or why it cannot be used.

        Both are None where it is the one of before, or there is none.
        """
        before = self._supervisor.certificate if self._supervisor is not None else NO_CERTIFICATE
        if before is NO_CERTIFICATE:
            return None, None
        try:
            found = obtain(config, self._log, before)
        except (ConfigError, SystemRefusal) as error:
            return None, error
        return None if found is before else found, None

    # -- signals and faults --------------------------------------------------------------------------------------------

    def _on_signal(self, name: str) -> None:
        if self._stop is not None and not self._stop.done():
            self._stop.set_result(name)

    def _on_hangup(self) -> None:
        async def reload() -> None:
            with suppress(ConfigError, SystemRefusal):  # it stands in the log
                await self.reload()

        task = asyncio.get_running_loop().create_task(reload())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _on_exception(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        detail = place_of(error) if isinstance(error, BaseException) else str(context.get("message"))
        self._log.emit("internal.error", detail=detail)

    def _quietly(self, undo: Callable[[], None]) -> None:
        try:
            undo()
        except SystemRefusal as error:
            self._log.emit("internal.error", detail=str(error))


def _reloaded(running: Server, found: Server) -> Server:
    """Return the server's table as it is after a reload; TLS without a certificate cannot come or go with one."""
    if running.anonymous or found.anonymous:
        return msgspec.structs.replace(running, default_profile=found.default_profile)
    return msgspec.structs.replace(
        running,
        default_profile=found.default_profile,
        certificate=found.certificate,
        certificate_names=found.certificate_names,
        client_ca=found.client_ca,
    )


def choose_cpus(workers: int | str, available: list[int]) -> list[int]:
    """Return the CPU of each worker, as many as are wanted; -1 leaves one to the scheduler."""
    count = len(available) if isinstance(workers, str) else workers
    return available[:count] if 1 < count <= len(available) else [-1] * count


def raise_limits() -> None:
    """Allow as many descriptors as the farm may need, or as many as this system lets us; no core file, ever."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(DESCRIPTORS, soft)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
    except (ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def prepare_proxy_arp(server: Server, settings: sysctl.Sysctl) -> None:
    """Look whether the interfaces of proxy-arp are there, and switch it on where it is the kernel's own.

    Raises:
        SystemRefusal: one is not there.
    """
    for name in server.proxy_arp:
        try:
            socket.if_nametoindex(name)
        except OSError:
            raise SystemRefusal(f"server.proxy-arp: there is no interface {name}") from None
        if server.proxy_arp_mode == "sysctl":
            settings.set(f"net/ipv4/conf/{name}/proxy_arp", "1")


def prepare_directories(run: Path, state: Path) -> None:
    """Make the farm's directories, and auth's own below the state directory.

    Raises:
        SystemRefusal: one cannot be made, or is something else.
    """
    try:
        for directory in (run, state):
            if not directory.is_dir():
                directory.mkdir(parents=True, mode=0o711)
                directory.chmod(0o711)
        own = state / "auth"
        if own.is_symlink():
            raise SystemRefusal(f"{own} is a symbolic link")
        own.mkdir(mode=0o700, exist_ok=True)
        os.chown(own, AUTH_ID, AUTH_ID, follow_symlinks=False)
        own.chmod(0o700)
    except OSError as error:
        raise SystemRefusal(f"{error.filename}: {error.strerror}") from error


def _names(links: list[LinkFacts]) -> str:
    return ", ".join(link.name for link in links[:5] if link.in_use) + (" ..." if len(links) > 5 else "")
