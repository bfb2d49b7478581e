"""The auth process at work: requests come from the workers, grants go to the master, answers to the workers.

Each login is a task of its own: a backend that takes its time holds up nobody else.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec

from sstpfarm.auth.accounting import Kind
from sstpfarm.auth.admission import Admission, Granted, Renewed
from sstpfarm.auth.authorization import Accepted, Challenged, Denied
from sstpfarm.auth.chain import Chain
from sstpfarm.auth.changes import change_message, in_force
from sstpfarm.auth.guesses import Guess, Guesses
from sstpfarm.auth.leases import Holder, Leases
from sstpfarm.auth.ledger import Ledger
from sstpfarm.auth.sessions import Session
from sstpfarm.auth.store import Counters
from sstpfarm.config.views import AuthView
from sstpfarm.errors import LocalError, place_of
from sstpfarm.ipc.channel import VIOLATION, Channel
from sstpfarm.ipc.messages import (
    AccessCancelled,
    AccessChallenge,
    AccessReject,
    AccessRequest,
    AuthReady,
    ChangeSession,
    LiveSessions,
    Ping,
    Pong,
    PoolState,
    PoolUse,
    RadiusUse,
    ReadCounters,
    ReloadUsers,
    Revoke,
    SessionCounters,
    SessionReleased,
    SessionStarted,
    Shutdown,
    WorkerAttached,
    WorkerViolated,
)
from sstpfarm.ipc.permissions import Party, may_send
from sstpfarm.ipc.process import read_memfd
from sstpfarm.proto.ppp.eap import identity_of
from sstpfarm.proto.ppp.eap_tls import holds_no_proof
from sstpfarm.proto.ppp.exchange import readable
from sstpfarm.proto.ppp.verify import failure_message
from sstpfarm.proto.roles import AuthMethod, Entropy
from sstpfarm.reasons import OUTCOMES, Reason

FROM_MASTER: Final = may_send(Party.MASTER, Party.AUTH)
FROM_WORKER: Final = may_send(Party.WORKER, Party.AUTH)
TICK: Final = 0.5  # seconds; an account that has expired is noticed within that time
POOLS_PART: Final = 128  # pools in one message: with names of 64 characters it stays below the channel's 64 KiB
POOL_USE_TICKS: Final = 4  # the use of the pools is told that often, when it has changed
PRUNE_TICKS: Final = 120  # the history is looked at that often; at each tick while there is more to delete

Emit = Callable[..., None]
"""Logs an event of the catalogue: the name, then its keys."""
Reload = Callable[[AuthView], None]
"""Gives a new view to the backends."""


class _Login:
    """One that is being decided.

    Attributes:
        guess: what counts for it; that of the challenge which it answers at first.
    """

    __slots__ = ("guess", "task")

    def __init__(self, guess: Guess | None) -> None:
        self.guess = guess
        self.task: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        """End it without a decision."""
        if self.task is not None:
            self.task.cancel()
        if self.guess is not None:  # here, because a task that has not begun ends without a word
            self.guess.give_back()


class _Worker:
    """One worker's channel, and its logins.

    Attributes:
        logins: those that are being decided, by session.
        talking: sessions that were challenged and have not answered, with the guess of those whose failure would
            still have to be counted.
        proving: of both, the sessions that there are, whose peers are to prove once more who they are.
        held: how many refusals are held back.
    """

    def __init__(self, number: int, generation: int) -> None:
        self.number = number
        self.generation = generation
        self.logins: dict[str, _Login] = {}
        self.talking: dict[str, Guess | None] = {}
        self.proving: set[str] = set()
        self.held = 0
        self.channel: Channel | None = None

    @property
    def pending(self) -> int:
        """How many strangers wait for an answer of ours, or we for one of theirs."""
        return len(self.logins) + len(self.talking) - len(self.proving) + self.held


class AuthService:
    """Serve the master and the workers on one event loop.

    A refusal is held back until `view.failure_delay_s` after its request: so guessing is slow, and how long the
    decision took does not tell why. A worker cannot have more logins pending than `view.max_starting`, the
    unauthenticated connections that it may have; what comes beyond is refused at once and unjudged. Sessions that are
    to log in again are not among them: strangers who fill all places must not end these, nor do these, when the time
    of many is over in one moment, keep anybody out.

    Args:
        radius_use: tells how RADIUS does, for metrics; None without it.
        reload: called with a new view, after admission and leases have it.
        emit: logs an event.
        on_end: called once, with a text, when the master is gone or wants auth to end.
    """

    def __init__(
        self,
        view: AuthView,
        *,
        chain: Chain,
        admission: Admission,
        ledger: Ledger,
        leases: Leases,
        guesses: Guesses,
        reload: Reload,
        radius_use: Callable[[], RadiusUse] | None,
        entropy: Entropy,
        emit: Emit,
        on_end: Callable[[str], None],
    ) -> None:
        self._view = view
        self._chain = chain
        self._admission = admission
        self._ledger = ledger
        self._leases = leases
        self._guesses = guesses
        self._reload = reload
        self._radius_use = radius_use
        self._entropy = entropy
        self._emit = emit
        self._on_end = on_end
        self._workers: dict[int, _Worker] = {}
        self._live: set[str] = set()  # of a list of live sessions, the parts that came
        self._held: set[asyncio.TimerHandle] = set()
        self._pool_use: tuple[PoolState, ...] = ()
        self._radius_told: RadiusUse | None = None
        self._ticks = 0
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop
        self._master: Channel

    def start(self, loop: asyncio.AbstractEventLoop, master: socket.socket) -> None:
        """Begin to serve, and tell the master so."""
        self._loop = loop
        self._ledger.group(loop.call_soon)
        self._master = Channel(master, FROM_MASTER, self._from_master, self._on_end)
        self._master.start(loop)
        self._master.send(AuthReady())
        self._timer = loop.call_later(TICK, self._tick)
        self._emit("auth.ready")

    def close(self) -> None:
        """Close all channels; logins that are being decided and refusals that are held back are dropped."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for handle in self._held:
            handle.cancel()
        self._held.clear()
        for worker in list(self._workers.values()):
            self._drop(worker)
        self._workers.clear()
        self._master.close()

    def revoke(self, session: Session, reason: Reason) -> None:
        """Have the master end a session."""
        self._end(session.holder, reason)

    def change(self, change: ChangeSession) -> None:
        """Have the master change a session."""
        self._tell(change)

    def _end(self, holder: Holder, reason: Reason) -> None:
        self._tell(Revoke(worker=holder.worker, session=holder.session, reason=reason.value))

    def _tell(self, order: Revoke | ChangeSession) -> None:
        """Tell the master something about a session, behind its grant, which may wait for the books."""
        self._ledger.then(lambda _: self._master.send(order))

    # -- the master ------------------------------------------------------------------------------------------------

    def _from_master(self, message: Any, fds: list[int]) -> None:
        match message:
            case WorkerAttached(worker=number, generation=generation):
                self._attach(number, generation, socket.socket(fileno=fds[0]))
            case SessionStarted(worker=number, session=session, interface=interface, ipv6_peer=identifier):
                self._ledger.started(Holder(number, session), interface, identifier or b"")
            case SessionCounters(worker=number, session=session):
                self._ledger.counted(Holder(number, session), _counters(message))
            case SessionReleased(worker=number, session=session, reason=reason, opened=opened):
                self._ledger.released(Holder(number, session), _counters(message), Reason(reason), opened=opened)
            case LiveSessions():
                self._take_live(message)
            case ReloadUsers():
                self._take_view(msgspec.msgpack.decode(read_memfd(fds[0]), type=AuthView))
            case Ping(number=number):
                self._master.send(Pong(number=number))
            case Shutdown():
                self._ledger.announce(Kind.OFF)
                self._on_end("shutdown")
            case _:
                raise LocalError(f"{type(message).__name__} stands in the permissions and is not handled")

    def _take_live(self, message: LiveSessions) -> None:
        """Close what lives no more, once all parts of the list are there."""
        self._live.update(message.sessions)
        if message.more:
            return
        live, self._live = frozenset(self._live), set()
        self._ledger.reconcile(live)
        for holder in self._ledger.strays():
            self._end(holder, Reason.INTERNAL_ERROR)
        for changed in self._ledger.changed():  # the books are written before the master is told
            self.change(change_message(changed, in_force(changed.facts.authorization)))
        self._admission.end_gone()  # a reload may have come while no auth process was there
        if message.first:
            self._ledger.announce(Kind.ON)
        self._read_counters(self._ledger.unannounced())

    def _take_view(self, view: AuthView) -> None:
        self._view = view
        self._reload(view)
        self._admission.reload(view)
        self._emit("users.reloaded", users=len(view.secrets))

    def _read_counters(self, holders: list[Holder]) -> None:
        for start in range(0, len(holders), 1024):
            part = holders[start : start + 1024]
            self._master.send(ReadCounters(sessions=tuple((worker, session) for worker, session in part)))

    def _tick(self) -> None:
        self._timer = self._loop.call_later(TICK, self._tick)
        self._ticks += 1
        self._admission.expire()
        self._read_counters(self._ledger.due())
        if self._ticks % POOL_USE_TICKS == 0 and (use := self._leases.use()) != self._pool_use:
            self._pool_use = use
            for start in range(0, max(1, len(use)), POOLS_PART):
                part = use[start : start + POOLS_PART]
                self._master.send(PoolUse(pools=part, more=start + POOLS_PART < len(use)))
        if self._radius_use and self._ticks % POOL_USE_TICKS == 0 and (told := self._radius_use()) != self._radius_told:
            self._radius_told = told
            self._master.send(told)
        if self._ticks % PRUNE_TICKS == 0:
            keep = self._view.accounting
            if self._ledger.prune(keep.retention_days, keep.retention_records):
                self._ticks -= 1  # again at the next tick

    # -- the workers -----------------------------------------------------------------------------------------------

    def _attach(self, number: int, generation: int, end: socket.socket) -> None:
        """Serve a new worker; it takes the place of an older one of that number, which is dead."""
        before = self._workers.pop(number, None)
        if before is not None:
            self._drop(before)
        worker = _Worker(number, generation)
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
        self._drop(worker)
        if why.startswith(VIOLATION):  # the master logs it, counts it and kills the worker
            detail = why.removeprefix(VIOLATION)[:256]
            self._master.send(WorkerViolated(worker=worker.number, generation=worker.generation, detail=detail))

    def _drop(self, worker: _Worker) -> None:
        """Forget all that a worker's peers wait for."""
        for session in [*worker.logins, *worker.talking]:
            self._cancel(worker, session)
        if worker.channel is not None:
            worker.channel.close()

    def _cancel(self, worker: _Worker, session: str) -> None:
        """Nobody waits for the decision over that session any more."""
        login = worker.logins.pop(session, None)
        worker.proving.discard(session)
        if login is not None:
            login.cancel()
        if login is not None or session in worker.talking:
            guess = worker.talking.pop(session, None)
            if guess is not None:
                guess.give_back()
            self._chain.forget(Holder(worker.number, session))

    def _from_worker(self, worker: _Worker, message: AccessRequest | AccessCancelled) -> None:
        session = message.session
        if isinstance(message, AccessCancelled):
            login = worker.logins.get(session)
            guess = worker.talking.get(session) if login is None else login.guess
            if guess is not None:
                guess.abandon()
            self._cancel(worker, session)
            return
        if session in worker.logins:
            self._accuse(worker, f"session {session} asks while its login is being decided")
            return
        login = _Login(worker.talking.pop(session, None))
        worker.proving.discard(session)
        again = message.again and self._admission.lives(Holder(worker.number, session))  # the master paces these
        if worker.pending >= self._view.max_starting and not again:
            login.cancel()
            self._chain.forget(Holder(worker.number, session))
            self._refuse(worker, message, Denied("too many logins wait", reason=Reason.AUTH_UNAVAILABLE), delay=0.0)
            return
        if again:
            worker.proving.add(session)
        worker.logins[session] = login
        login.task = self._loop.create_task(self._login(worker, login, message))

    def _accuse(self, worker: _Worker, detail: str) -> None:
        self._detached(worker, f"{VIOLATION}{detail}")

    # -- logins ------------------------------------------------------------------------------------------------------

    async def _login(self, worker: _Worker, login: _Login, request: AccessRequest) -> None:
        """Decide over one request and answer it."""
        holder = Holder(worker.number, request.session)
        arrived = self._loop.time()
        decision: Granted | Renewed | Challenged | Denied | None = None
        try:
            decision = await self._decide(holder, login, request)
        except LocalError as error:  # a second login in a session that was granted
            worker.logins.pop(request.session, None)
            self._accuse(worker, str(error))
            return
        except Exception as error:  # a bug costs this login only, and its peer need not wait for a deadline
            self._emit("internal.error", detail=place_of(error))
            decision = Denied("an internal error", reason=Reason.AUTH_UNAVAILABLE)
        finally:
            if worker.logins.get(request.session) is login:
                del worker.logins[request.session]
                if not isinstance(decision, Challenged):
                    worker.proving.discard(request.session)
            if login.guess is not None and isinstance(decision, Denied):
                login.guess.abandon()
            elif login.guess is not None and not isinstance(decision, Challenged):
                login.guess.give_back()
        match decision:
            case Granted():
                self._ledger.then(partial(self._deliver, worker, request, decision))
            case Renewed(answer=answer):
                self._ledger.then(lambda _: self._answer(worker, answer))  # behind what the master was told
            case Challenged(message=text, failed=failed):
                worker.talking[request.session] = None if failed else login.guess
                self._answer(worker, AccessChallenge(session=request.session, message=text))
            case Denied() if request.again and self._admission.ends(holder):
                pass  # the master was told why it ends: a refusal could overtake that, and be the reason
            case Denied():
                elapsed = self._loop.time() - arrived
                self._refuse(worker, request, decision, delay=self._view.failure_delay_s - elapsed)

    async def _decide(
        self, holder: Holder, login: _Login, request: AccessRequest
    ) -> Granted | Renewed | Challenged | Denied:
        """Ask the backends, then the policy."""
        if request.again and not self._admission.lives(holder):
            self._chain.forget(holder)
            return Denied("the session is over")
        if request.method not in self._view.methods:
            self._chain.forget(holder)
            return Denied(f"method {request.method} is not allowed")
        begins = identity_of(request.eap) is not None
        guess = login.guess
        # a name proves nothing, nor do the first packets of TLS, as long as nothing that could went before
        unproven = begins or (guess is not None and not guess.told and holds_no_proof(request.eap))
        if guess is not None and guess.judged and (begins or guess.user != request.user):
            guess.failed()  # it begins again: the challenge before may have told that the password was wrong
        if guess is None or not guess.judged:
            try:
                guess = login.guess = await self._guesses.enter(request.user, request.caller_id)
            except TimeoutError:
                self._chain.forget(holder)
                return Denied("too many logins of this user or network are judged", reason=Reason.AUTH_UNAVAILABLE)
        if guess is None:
            self._chain.forget(holder)
            shut = self._guesses.shut(request.user, request.caller_id)
            return Denied(f"too many failures: refused for {shut:.0f} s more")
        verdict = await self._chain.authenticate(holder, request)
        match verdict:
            case Accepted():
                guess.succeeded()
                return await self._admission.admit(holder, request, verdict)
            case Challenged(failed=False):
                if unproven:  # nothing is told yet, and a peer that says no more keeps nobody out
                    guess.give_back()
                guess.told = not unproven
                return verdict
            case Challenged() | Denied(told=False, counts=True, reason=Reason.AUTH_REFUSED):
                guess.failed()
                return verdict
            case Denied():
                return verdict
        raise LocalError(f"a chain's verdict is {type(verdict).__name__}")

    def _deliver(self, worker: _Worker, request: AccessRequest, granted: Granted, kept: bool) -> None:
        """Tell of a grant that stands in the books; one that does not is none."""
        detail = "the books could not be written"
        if self._workers.get(worker.number) is not worker:
            detail = "its worker is gone"  # the master would take the session for one of the next worker's
        elif kept:
            try:
                self._master.send(msgspec.structs.replace(granted.grant, generation=worker.generation))
            except LocalError as error:  # larger than a message may be: programs with very long arguments
                self._emit("internal.error", detail=str(error))
                detail = "the grant is too large"
            else:
                self._answer(worker, granted.answer)
                return
        self._ledger.released(Holder(worker.number, request.session), Counters(), Reason.INTERNAL_ERROR, opened=False)
        denied = Denied(detail, reason=Reason.AUTH_UNAVAILABLE)
        self._refuse(worker, request, denied, delay=0.0)

    def _refuse(self, worker: _Worker, request: AccessRequest, denied: Denied, *, delay: float) -> None:
        """Answer, after that delay. The operator is told what neither the peer nor the worker may know."""
        self._emit(
            "login.denied",
            session=request.session,
            user=readable(request.user),
            peer=request.caller_id,
            method=request.method,
            detail=denied.detail,
        )
        answer = self.rejection(request, denied)
        if delay <= 0:
            self._answer(worker, answer)
            return
        worker.held += 1

        def deliver() -> None:
            self._held.discard(handle)
            worker.held -= 1
            self._answer(worker, answer)

        handle = self._loop.call_later(delay, deliver)
        self._held.add(handle)

    def rejection(self, request: AccessRequest, denied: Denied) -> AccessReject:
        """Return what the peer is told: nothing about user or password, unless it has proven that it knows both.

        Where no judgement could be had it is told nothing at all: every error code of the authentication protocols
        says that the user or the password is at fault, and clients ask for another one or stay away for long.
        """
        message = b"" if denied.reason is Reason.AUTH_UNAVAILABLE else denied.message
        if message is None:
            text = denied.detail if denied.told else OUTCOMES[denied.reason].text
            message = failure_message(AuthMethod(request.method), denied.error, self._entropy, text)
        return AccessReject(session=request.session, reason=denied.reason, message=message)

    def _answer(self, worker: _Worker, answer: Any) -> None:
        if worker.channel is not None:
            worker.channel.send(answer)


def _counters(message: SessionCounters | SessionReleased) -> Counters:
    return Counters(message.seconds, message.bytes_in, message.bytes_out, message.packets_in, message.packets_out)
