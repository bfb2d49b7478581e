"""The auth process at work: requests come from the workers, grants go to the master, answers to the workers."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from sstpfarm.auth.decide import Granted, Judge, Refused
from sstpfarm.auth.leases import Holder, LeaseStore
from sstpfarm.errors import LocalError, SystemRefusal
from sstpfarm.ipc.channel import VIOLATION, Channel
from sstpfarm.ipc.messages import (
    AccessReject,
    AccessRequest,
    AuthReady,
    LiveSessions,
    Ping,
    Pong,
    SessionCounters,
    SessionReleased,
    SessionStarted,
    Shutdown,
    WorkerAttached,
    WorkerViolated,
)
from sstpfarm.ipc.permissions import Party, may_send
from sstpfarm.proto.ppp.exchange import readable

FROM_MASTER: Final = may_send(Party.MASTER, Party.AUTH)
FROM_WORKER: Final = may_send(Party.WORKER, Party.AUTH)

Emit = Callable[..., None]
"""Logs an event of the catalogue: the name, then its keys."""


class _Waiting(NamedTuple):
    """A refusal that is held back."""

    due: float
    worker: _Worker
    answer: AccessReject


class _Worker:
    """One worker's channel, and how many refusals wait for it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.waiting = 0
        self.channel: Channel | None = None


class AuthService:
    """Serve the master and the workers on one event loop.

    Args:
        judge: decides.
        leases: whose ends the master reports.
        failure_delay: seconds for which a refusal is held back, so that guessing is slow; other requests go on.
        max_waiting: refusals that may be held back for one worker. It cannot have more unauthenticated connections
            than that; what comes beyond is refused at once and unjudged.
        emit: logs an event.
        on_end: called once, with a text, when the master is gone or wants auth to end.
    """

    def __init__(
        self,
        judge: Judge,
        leases: LeaseStore,
        *,
        failure_delay: float,
        max_waiting: int,
        emit: Emit,
        on_end: Callable[[str], None],
    ) -> None:
        self._judge = judge
        self._leases = leases
        self._failure_delay = failure_delay
        self._max_waiting = max_waiting
        self._emit = emit
        self._on_end = on_end
        self._workers: dict[int, _Worker] = {}
        self._live: set[str] = set()  # of a list of live sessions, the parts that came
        self._waiting: deque[_Waiting] = deque()  # in the order of `due`: the delay is the same for all
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop
        self._master: Channel

    def start(self, loop: asyncio.AbstractEventLoop, master: socket.socket) -> None:
        """Begin to serve, and tell the master so."""
        self._loop = loop
        self._master = Channel(master, FROM_MASTER, self._from_master, self._on_end)
        self._master.start(loop)
        self._master.send(AuthReady())
        self._emit("auth.ready")

    def close(self) -> None:
        """Close all channels; refusals that wait are dropped."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waiting.clear()
        for worker in self._workers.values():
            if worker.channel is not None:
                worker.channel.close()
        self._workers.clear()
        self._master.close()

    # -- the master ------------------------------------------------------------------------------------------------

    def _from_master(self, message: Any, fds: list[int]) -> None:
        match message:
            case WorkerAttached(worker=number):
                self._attach(number, socket.socket(fileno=fds[0]))
            case SessionReleased(worker=number, session=session):
                self._with_leases(lambda: self._leases.release(Holder(number, session)))
            case LiveSessions(sessions=sessions, more=more):
                self._live.update(sessions)
                if not more:
                    live, self._live = frozenset(self._live), set()
                    self._with_leases(lambda: self._leases.reconcile(live))
            case SessionStarted() | SessionCounters():
                pass
            case Ping(number=number):
                self._master.send(Pong(number=number))
            case Shutdown():
                self._on_end("shutdown")
            case _:
                raise LocalError(f"{type(message).__name__} stands in the permissions and is not handled")

    def _with_leases(self, change: Callable[[], object]) -> None:
        """Change the leases; a file that cannot be written ends no session and no process."""
        try:
            change()
        except SystemRefusal as error:
            self._emit("internal.error", detail=str(error))

    # -- the workers -----------------------------------------------------------------------------------------------

    def _attach(self, number: int, end: socket.socket) -> None:
        """Serve a new worker; it takes the place of an older one of that number, which is dead."""
        before = self._workers.pop(number, None)
        if before is not None and before.channel is not None:
            before.channel.close()
        worker = _Worker(number)
        worker.channel = Channel(
            end,
            FROM_WORKER,
            lambda message, _: self._from_worker(worker, message),
            lambda why: self._detached(worker, why),
        )
        self._workers[number] = worker
        worker.channel.start(self._loop)

    def _detached(self, worker: _Worker, why: str) -> None:
        """A worker is gone or broke the rules. Its leases end when the master has released its sessions."""
        if self._workers.get(worker.number) is not worker:
            return  # another process has its place already
        del self._workers[worker.number]
        if why.startswith(VIOLATION):  # the master logs it, counts it and kills the worker
            self._master.send(WorkerViolated(worker=worker.number, detail=why.removeprefix(VIOLATION)[:256]))

    def _from_worker(self, worker: _Worker, request: AccessRequest) -> None:
        if worker.waiting >= self._max_waiting:
            refused = self._judge.refuse_unjudged(request, "too many refusals wait")
            self._explain(request, refused)
            self._answer(worker, refused.answer)
            return
        try:
            decision = self._judge.judge(worker.number, request)
        except LocalError as error:  # a second login in a session that was granted
            if worker.channel is not None:
                worker.channel.close()
            self._detached(worker, f"{VIOLATION}{error}")
            return
        match decision:
            case Granted(grant=grant, answer=answer):
                self._master.send(grant)
                self._answer(worker, answer)
            case Refused(answer=answer):
                self._explain(request, decision)
                worker.waiting += 1
                self._waiting.append(_Waiting(self._loop.time() + self._failure_delay, worker, answer))
                if self._timer is None:
                    self._arm()

    def _explain(self, request: AccessRequest, refused: Refused) -> None:
        """Tell the operator what neither the peer nor the worker may know; the worker logs every login's outcome."""
        self._emit(
            "login.denied",
            session=request.session,
            user=readable(request.user),
            peer=request.caller_id,
            method=request.method,
            detail=refused.detail,
        )

    def _answer(self, worker: _Worker, answer: Any) -> None:
        if worker.channel is not None:
            worker.channel.send(answer)

    # -- refusals that are held back ---------------------------------------------------------------------------------

    def _arm(self) -> None:
        self._timer = self._loop.call_at(self._waiting[0].due, self._deliver) if self._waiting else None

    def _deliver(self) -> None:
        now = self._loop.time()
        while self._waiting and self._waiting[0].due <= now:
            _, worker, answer = self._waiting.popleft()
            worker.waiting -= 1
            self._answer(worker, answer)
        self._arm()
