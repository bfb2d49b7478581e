"""Starts auth and the workers, keeps them alive, joins them by channels, ends them in order."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Final

import msgspec

from sstpfarm.config.schema import Config
from sstpfarm.config.views import for_auth, for_worker
from sstpfarm.dataplane.select import Dataplane
from sstpfarm.errors import IpcViolation, SystemRefusal
from sstpfarm.ipc import messages as m
from sstpfarm.ipc.channel import channel_pair
from sstpfarm.ipc.permissions import Party
from sstpfarm.ipc.process import seal_memfd
from sstpfarm.master.certificate import Certificate
from sstpfarm.master.child import PING_INTERVAL, Backoff, Child
from sstpfarm.master.effects import SessionEffects
from sstpfarm.master.identities import AUTH_ID, worker_id
from sstpfarm.master.keeper import SessionKeeper
from sstpfarm.master.ledger import TICK
from sstpfarm.master.listeners import Listener, close_listeners
from sstpfarm.master.permissions import ProcessPhase
from sstpfarm.master.places import Lending, Place
from sstpfarm.net.links import Links
from sstpfarm.reasons import Reason
from sstpfarm.telemetry.collector import FarmCollector
from sstpfarm.telemetry.log import Log
from sstpfarm.telemetry.stats import Stats

START_DEADLINE: Final = 30.0  # seconds from exec to ready; it takes half a second
STOP_DEADLINE: Final = 10.0  # seconds in which the workers end their sessions
STOP_SESSION: Final = 0.002  # and for each session; ending one costs half of that on an idle machine
RELEASE_DEADLINE: Final = 15.0  # for the interfaces to be gone (5,000 take that long); the next start removes the rest
AUTH_STOP_DEADLINE: Final = 3.0
RESTART_RETRY: Final = 5.0
MAX_TOLD: Final = 8192  # starts and ends of sessions that an auth process is told again: half of a channel's queue
LIVE_SESSIONS_PART: Final = 3000  # identifiers of 17 bytes: below the channel's 64 KiB a message


class Supervisor:
    """The farm's processes. Violations and losses are logged and counted here."""

    def __init__(
        self,
        config: Config,
        certificate: Certificate,
        listeners: Sequence[Listener],
        links: Links,
        collector: FarmCollector,
        log: Log,
        cpus: Sequence[int],
        dataplane: Dataplane,
    ) -> None:
        self._config = config
        self._dataplane = dataplane
        self.certificate = certificate
        self._collector = collector
        collector.certificate_expiry = certificate.expiry
        self._log = log
        self._places = [
            Place(number, cpu, [listener for listener in listeners if listener.worker == number])
            for number, cpu in enumerate(cpus)
        ]
        self._lending = Lending(self._places, self._to_worker, log)
        self._auth: Child | None = None
        self._auth_backoff = Backoff()
        self._pools: tuple[m.PoolState, ...] = ()
        self._pool_parts: tuple[m.PoolState, ...] = ()  # of a list of pools, the parts that came
        self._told: deque[m.Message] = deque(maxlen=MAX_TOLD)
        self._up = False  # the start has succeeded
        self._stopping = False
        self._changed = asyncio.Event()  # a process became ready, or is gone
        self._failure: str | None = None  # why the start failed
        self._tasks: set[asyncio.Task[None]] = set()
        self.keeper = SessionKeeper(
            links,
            log,
            stats_of=self._stats_of,
            to_worker=self._to_worker,
            to_auth=self._to_auth,
            accuse=lambda worker, detail: self._accuse(worker, self._places[worker].generation, detail),
            offload=dataplane.offload,
            effects=SessionEffects.of(config, log),
            static=config.interface,
            authentication_deadline=config.server.authentication_deadline_s,
            ready=(-(-config.server.ready_interfaces // len(cpus)), len(cpus), config.server.max_mtu),
        )

    @property
    def workers_up(self) -> int:
        """How many workers serve."""
        return sum(place.ready for place in self._places)

    def status(self) -> list[dict[str, Any]]:
        """Return the facts of each process."""
        auth = self._auth
        facts = [{"role": "auth", "worker": None, "pid": auth.pid if auth else None, "state": _state(auth)}]
        for place in self._places:
            pid = place.child.pid if place.child else None
            facts.append({"role": "worker", "worker": place.number, "pid": pid, "state": _state(place.child)})
        return facts

    def pools(self) -> list[dict[str, Any]]:
        """Return how much of each pool is used, as auth told last."""
        return [
            {"pool": state.pool, "used": state.used, "free": state.size - state.used, "size": state.size}
            for state in self._pools
        ]

    def reload(self, config: Config, renewed: Certificate | None) -> None:
        """Give auth the users, profiles, pools and [radius] of that configuration; all else of it stays.

        All that the system must have for it is taken first, so that no process is told without the others.

        Args:
            renewed: what workers present from now on to whoever connects; sessions stay as they are.

        Raises:
            SystemRefusal, OSError: there is no memory or no descriptor for all that; nothing has changed.
        """
        server = msgspec.structs.replace(self._config.server, default_profile=config.server.default_profile)
        taken = msgspec.structs.replace(
            self._config,
            server=server,
            secret=config.secret,
            profile=config.profile,
            pool=config.pool,
            radius=config.radius,
        )
        with ExitStack() as held, ExitStack() as copied:
            view = _memfd(held, "sstpfarm-users", msgspec.msgpack.encode(for_auth(taken)))
            told: list[tuple[Child, m.Message, Sequence[int]]] = []
            if self._auth is not None:
                told.append((self._auth, m.ReloadUsers(), _copies(copied, (view,))))
            if renewed is not None:
                files = _worker_files(held, taken, renewed)
                children = [place.child for place in self._places if place.child is not None]
                told += [(child, m.CertificateRenewed(), _copies(copied, files)) for child in children]
            copied.pop_all()  # the channels close them
        self._config = taken
        self.keeper.effects.reload(config)
        if renewed is not None:
            self.certificate = renewed
            self._collector.certificate_expiry = renewed.expiry
        for child, message, fds in told:
            child.give(message, fds)

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start auth, then the workers; return when all are ready.

        Raises:
            SystemRefusal: one ended before it was ready, or took too long.
        """
        self._start_auth()
        await self._until(lambda: self._auth is not None and self._auth.phase is ProcessPhase.READY, "auth")
        for place in self._places:
            self._start_worker(place)
        await self._until(lambda: self.workers_up == len(self._places), "the workers")
        self._up = True
        self._spawn(self._watch())
        self._spawn(self._enforce())

    async def stop(self) -> None:
        """End all sessions and processes in order; what does not end by itself is killed."""
        self._stopping = self.keeper.closed_to_new = True
        for task in list(self._tasks):
            task.cancel()
        for place in self._places:
            if place.child is not None:
                place.child.send(m.Shutdown())
            close_listeners(place.listeners)  # who comes now is refused, and does not wait in a queue of ours
        patience = STOP_DEADLINE + STOP_SESSION * len(self.keeper.table)
        await self._gone(lambda: all(place.child is None for place in self._places), patience)
        with suppress(TimeoutError):
            async with asyncio.timeout(RELEASE_DEADLINE):
                await self.keeper.close()
        if self._auth is not None:
            self._auth.send(m.Shutdown())
        await self._gone(lambda: self._auth is None, AUTH_STOP_DEADLINE)

    async def _until(self, met: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(START_DEADLINE):
                while not met():
                    if self._failure is not None:
                        raise SystemRefusal(self._failure)
                    await self._changed.wait()
                    self._changed.clear()
        except TimeoutError:
            raise SystemRefusal(f"{what} did not become ready in {START_DEADLINE:.0f} s") from None
        if self._failure is not None:
            raise SystemRefusal(self._failure)

    async def _gone(self, met: Callable[[], bool], deadline: float) -> None:
        """Wait for processes to exit; kill what is left at the deadline, and wait for that."""
        try:
            async with asyncio.timeout(deadline):
                while not met():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            for child in self._children():
                child.kill()
            while not met():
                self._changed.clear()
                await self._changed.wait()

    def _children(self) -> list[Child]:
        """The workers; auth when it is the last."""
        workers = [place.child for place in self._places if place.child is not None]
        return workers or ([self._auth] if self._auth is not None else [])

    async def _watch(self) -> None:
        """Ask every process for a sign of life, for ever."""
        while True:
            await asyncio.sleep(PING_INTERVAL)
            for place in self._places:
                child = place.child
                if child is None or (child.ping() if place.ready else child.age < START_DEADLINE):
                    continue
                self._log.emit("worker.unresponsive", worker=place.number, pid=child.pid)
                child.kill()
            auth = self._auth
            if auth is not None:
                alive = auth.ping() if auth.phase is ProcessPhase.READY else auth.age < START_DEADLINE
                if not alive:
                    self._log.emit("internal.error", detail=f"auth (process {auth.pid}) does not answer")
                    auth.kill()

    async def _enforce(self) -> None:
        """Look at the sessions' limits, for ever."""
        while True:
            await asyncio.sleep(TICK)
            self.keeper.enforce()

    # -- auth --------------------------------------------------------------------------------------------------------

    def _start_auth(self) -> None:
        ours, theirs = channel_pair()
        with ExitStack() as held:
            held.callback(theirs.close)
            config = _memfd(held, "sstpfarm-config", msgspec.msgpack.encode(for_auth(self._config)))
            child = Child(
                Party.AUTH,
                "sstpfarm.auth.process",
                {"uid": AUTH_ID, "gid": AUTH_ID},
                {"fd-master": (theirs.fileno(),), "fd-config": (config,)},
                ours,
                on_message=self._from_auth,
                on_gone=self._auth_gone,
                on_violation=lambda detail: self._violation("auth", detail),
            )
        self._auth = child
        self._pool_parts = ()
        self._log.emit("auth.started", pid=child.pid)
        for message in self._told:  # the process before may not have read all of it; what is known is ignored
            child.send(message)
        for part in live_sessions([session.grant.session for session in self.keeper.table], first=not self._up):
            child.send(part)
        try:
            for place in self._places:
                if place.child is not None:
                    worker_end, auth_end = channel_pair()
                    with worker_end, auth_end:
                        place.child.send(m.AuthAttached(), (worker_end.fileno(),))
                        child.send(m.WorkerAttached(place.number, place.generation), (auth_end.fileno(),))
        except OSError as error:
            self._useless(child, error)

    def _from_auth(self, message: Any) -> None:
        match message:
            case m.AuthReady():  # it says so in the log itself
                self._changed.set()
            case m.Grant(worker=worker, generation=generation):
                try:
                    self.keeper.grant(message)
                except IpcViolation as error:
                    self._accuse(worker, generation, str(error))
            case m.Revoke(worker=worker, session=session, reason=reason):
                self.keeper.revoke(worker, session, Reason(reason))
            case m.ChangeSession():
                self.keeper.change(message)
            case m.ReadCounters(sessions=sessions):
                for worker, session in sessions:
                    self.keeper.report(worker, session)
            case m.PoolUse(pools=pools, more=more):
                self._pool_parts += pools
                if not more:
                    self._pools, self._pool_parts = self._pool_parts, ()
                    self._collector.pools_used({state.pool: (state.used, state.size) for state in self._pools})
            case m.RadiusUse(servers=servers, spooled=spooled, oldest=oldest):
                self._collector.radius_used(servers, spooled, oldest)
            case m.WorkerViolated(worker=worker, generation=generation, detail=detail):
                self._accuse(worker, generation, detail)

    def _auth_gone(self) -> None:
        child, self._auth = self._auth, None
        assert child is not None
        self._changed.set()
        if self._stopping and child.status == 0:
            return
        self._log.emit("auth.lost", pid=child.pid, status=child.status)
        if not self._up:
            self._failure = f"auth ended before it was ready, with status {child.status}"
        elif not self._stopping:
            self._spawn(self._restart_auth(self._auth_backoff.lost(child.age)))

    async def _restart_auth(self, delay: float) -> None:
        await self._start_again(self._start_auth, delay)

    async def _start_again(self, start: Callable[[], None], delay: float) -> None:
        """Start a process after that delay; again and again where the system has no room for it now."""
        while True:
            await asyncio.sleep(delay)
            try:
                start()
            except (SystemRefusal, OSError) as error:
                self._log.emit("internal.error", detail=f"restart: {error}")
                delay = RESTART_RETRY
            else:
                return

    def _useless(self, child: Child, error: OSError) -> None:
        """A process that cannot be joined to the others: once it is gone, another one takes its place."""
        self._log.emit("internal.error", detail=f"{child.party} (process {child.pid}): {error.strerror}")
        child.kill()

    # -- workers -----------------------------------------------------------------------------------------------------

    def _start_worker(self, place: Place) -> None:
        server = self._config.server
        # for sessions, for connections that have not logged in, and for slots that rest behind a churn of logins
        stats = Stats.create(server.max_sessions + 2 * server.max_starting)
        user = worker_id(place.number)
        place.generation += 1
        try:
            ours, theirs = channel_pair()
            worker_end, auth_end = channel_pair()
            with theirs, worker_end, auth_end, ExitStack() as held:
                config, chain, key = _worker_files(held, self._config, self.certificate)
                child = Child(
                    Party.WORKER,
                    "sstpfarm.worker.process",
                    {
                        "worker": place.number,
                        "uid": user,
                        "gid": user,
                        "cpu": place.cpu,
                        "dataplane": str(self._dataplane),
                    },
                    {
                        "fd-master": (theirs.fileno(),),
                        "fd-auth": (worker_end.fileno(),),
                        "fd-config": (config,),
                        "fd-stats": (stats.fd,),
                        "fd-chain": (chain,),
                        "fd-key": (key,),
                        "listeners": [listener.sock.fileno() for listener in place.listeners],
                    },
                    ours,
                    on_message=lambda message: self._from_worker(place, message),
                    on_gone=lambda: self._worker_gone(place),
                    on_violation=lambda detail: self._violation(f"worker {place.number}", detail),
                )
                place.child, place.stats = child, stats
                self._collector.attach(place.number, stats)
                self._log.emit("worker.started", worker=place.number, pid=child.pid)
                if self._auth is not None:  # else it gets another channel when auth is there again
                    try:
                        self._auth.send(m.WorkerAttached(place.number, place.generation), (auth_end.fileno(),))
                    except OSError as error:
                        self._useless(child, error)
        except BaseException:
            if place.stats is not stats:
                stats.close()
            raise

    def _from_worker(self, place: Place, message: Any) -> None:
        match message:
            case m.WorkerReady():
                self._log.emit("worker.ready", worker=place.number)
                self.keeper.worker_ready(place.number)
                self._changed.set()
                if self._up and not self._stopping:
                    self._lending.share(self.keeper.table.count)
            case m.SessionOpened():
                self.keeper.opened(place.number, message)
            case m.Ipv6Opened():
                self.keeper.ipv6_opened(place.number, message)
            case m.SessionClosed():
                self.keeper.closed(place.number, message)

    def _worker_gone(self, place: Place) -> None:
        child, stats = place.child, place.stats
        assert child is not None
        assert stats is not None
        number = place.number
        in_order = self._stopping and child.status == 0
        if in_order:
            self._log.emit("worker.stopped", worker=number)
        else:
            sessions = self.keeper.table.count(number)
            self._log.emit("worker.lost", worker=number, pid=child.pid, status=child.status, sessions=sessions)
        reason = Reason.SHUTDOWN if in_order else Reason.WORKER_LOST
        self.keeper.worker_lost(number, stats, reason)
        self._collector.retire(number)
        stats.close()
        place.child = place.stats = None
        self._lending.lost(number)
        self._changed.set()
        if not self._up and not self._stopping:
            self._failure = f"worker {number} ended before it was ready, with status {child.status}"
        if self._up and not self._stopping:
            self._lending.share(self.keeper.table.count)
            self._spawn(self._restart_worker(place, place.backoff.lost(child.age)))

    async def _restart_worker(self, place: Place, delay: float) -> None:
        await self._start_again(lambda: self._start_worker(place), delay)
        self._collector.worker_restarted()

    # -- joints ------------------------------------------------------------------------------------------------------

    def _stats_of(self, worker: int) -> Stats | None:
        if not 0 <= worker < len(self._places):
            return None
        place = self._places[worker]
        return place.stats if place.ready else None

    def _to_worker(self, worker: int, message: m.Message, fds: Sequence[int]) -> None:
        child = self._places[worker].child if 0 <= worker < len(self._places) else None
        if child is not None:
            child.send(message, fds)

    def _to_auth(self, message: m.Message) -> None:
        if isinstance(message, m.SessionStarted | m.SessionReleased):
            self._told.append(message)
        if self._auth is not None:
            self._auth.send(message)

    def _accuse(self, worker: int, generation: int, detail: str) -> None:
        """A worker broke a rule in what it said to auth, or had auth say. One that is dead leaves its successor be."""
        self._violation(f"worker {worker}", detail)
        place = self._places[worker] if worker < len(self._places) else None
        if place is not None and place.generation == generation and place.child is not None:
            place.child.kill()

    def _violation(self, sender: str, detail: str) -> None:
        self._collector.ipc_violation()
        self._log.emit("ipc.violation", sender=sender, detail=detail)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def live_sessions(identifiers: Sequence[str], *, first: bool = False) -> list[m.LiveSessions]:
    """Return the messages that tell a new auth process which sessions there are; at least one."""
    starts = range(0, max(1, len(identifiers)), LIVE_SESSIONS_PART)
    return [
        m.LiveSessions(sessions=tuple(identifiers[at : at + LIVE_SESSIONS_PART]), more=at != starts[-1], first=first)
        for at in starts
    ]


def _worker_files(held: ExitStack, config: Config, certificate: Certificate) -> tuple[int, int, int]:
    """Descriptors of a worker's view, of the chain and of the key."""
    view = msgspec.msgpack.encode(for_worker(config, certificate.client_authorities))
    contents = {"config": view, "chain": certificate.chain, "key": certificate.key}
    view_fd, chain, key = (_memfd(held, f"sstpfarm-{name}", data) for name, data in contents.items())
    return view_fd, chain, key


def _memfd(held: ExitStack, name: str, data: bytes) -> int:
    fd = seal_memfd(name, data)
    held.callback(os.close, fd)
    return fd


def _copies(held: ExitStack, fds: Sequence[int]) -> list[int]:
    """Copies of descriptors, for one process; OSError when none is left."""
    copies = []
    for fd in fds:
        copies.append(os.dup(fd))
        held.callback(os.close, copies[-1])
    return copies


def _state(child: Child | None) -> str:
    return "down" if child is None else str(child.phase)
