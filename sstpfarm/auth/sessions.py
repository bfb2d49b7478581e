"""The sessions that auth has granted and the master has not released, by holder and by user."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from sstpfarm.auth.leases import Holder
from sstpfarm.auth.store import Counters, SessionFacts
from sstpfarm.errors import LocalError

NOTHING: Final = Counters()
SLACK: Final = 1024  # entries of an agenda that may be left over, beside one for each session


@dataclass(slots=True)
class Session:
    """One of them.

    Attributes:
        started_at: seconds since the epoch at which it began to carry packets; 0 before.
        interface, interface_id: known since then.
        inherited: it was granted by an auth process before this one, and its worker may not have got the answer.
        revoked: the master was told to end it.
        interim_due: when its counters are read next, on the loop's clock.
    """

    facts: SessionFacts
    started_at: float = 0.0
    interface: str = ""
    interface_id: bytes = b""
    counters: Counters = NOTHING
    inherited: bool = False
    revoked: bool = False
    interim_due: float = 0.0

    @property
    def holder(self) -> Holder:
        """What names it."""
        return Holder(self.facts.grant.worker, self.facts.grant.session)

    @property
    def user(self) -> str:
        """Whose it is."""
        return self.facts.authorization.user


class Follower(Protocol):
    """Is told what becomes of the table."""

    def add(self, session: Session) -> None:
        """It is there, or more is known of it."""

    def remove(self, session: Session) -> None:
        """It is gone."""


class Sessions:
    """The table, and who waits for the end of some of them. Each call costs the same, whatever their number, but those
    that return or go over many.
    """

    def __init__(self) -> None:
        self._sessions: dict[Holder, Session] = {}
        self._users: dict[str, dict[Holder, Session]] = {}
        self._waiting: dict[Holder, list[asyncio.Future[None]]] = {}
        self._follower: Follower | None = None

    def follow(self, follower: Follower) -> None:
        """Tell that one from now on; there is one at most."""
        self._follower = follower

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def get(self, holder: Holder) -> Session | None:
        """Return that session, if it is there."""
        return self._sessions.get(holder)

    def count(self, user: str) -> int:
        """Return how many sessions a user has; an account may be that of thousands."""
        return len(self._users.get(user, ()))

    def of_user(self, user: str) -> list[Session]:
        """Return a user's sessions, the oldest first: a copy, so its cost grows with them."""
        return list(self._users.get(user, {}).values())

    def add(self, session: Session) -> None:
        """Take a session in.

        Raises:
            LocalError: its holder has one.
        """
        holder = session.holder
        if holder in self._sessions:
            raise LocalError(f"session {holder.session} of worker {holder.worker} was granted already")
        self._sessions[holder] = session
        self._users.setdefault(session.user, {})[holder] = session
        if self._follower is not None:
            self._follower.add(session)

    def started(self, session: Session, at: float, interface: str, interface_id: bytes) -> None:
        """Note when and as what a session began to carry packets."""
        session.started_at, session.interface, session.interface_id = at, interface, interface_id
        if self._follower is not None:
            self._follower.add(session)

    def remove(self, holder: Holder) -> Session | None:
        """Forget a session and return it; wake who waits for that."""
        session = self._sessions.pop(holder, None)
        if session is not None:
            others = self._users[session.user]
            del others[holder]
            if not others:
                del self._users[session.user]
            if self._follower is not None:
                self._follower.remove(session)
        for waiting in self._waiting.pop(holder, ()):
            if not waiting.done():
                waiting.set_result(None)
        return session

    async def gone(self, holders: Iterable[Holder]) -> None:
        """Wait until none of these sessions is there."""
        for holder in holders:
            if holder in self._sessions:
                waiting = asyncio.get_running_loop().create_future()
                all_waiting = self._waiting.setdefault(holder, [])
                all_waiting.append(waiting)
                try:
                    await waiting
                finally:
                    all_waiting.remove(waiting)


class Agenda:
    """When something is due for each session. What is left of sessions that ended, and of other plans, is bounded.

    Args:
        sessions: those that there are.
        due: when it is due for a session, as planned now.
    """

    def __init__(self, sessions: Sessions, due: Callable[[Session], float]) -> None:
        self._sessions = sessions
        self._due = due
        self._times: list[tuple[float, Holder]] = []

    def __len__(self) -> int:
        return len(self._times)

    def plan(self, session: Session) -> None:
        """Note when it is due."""
        heapq.heappush(self._times, (self._due(session), session.holder))
        if len(self._times) > 2 * len(self._sessions) + SLACK:
            self._times = list({entry for entry in self._times if self._is_good(entry)})
            heapq.heapify(self._times)

    def next(self, now: float) -> Session | None:
        """Return a session for which it is due, once; None when there is none."""
        while self._times and self._times[0][0] <= now:
            entry = heapq.heappop(self._times)
            if self._is_good(entry):
                return self._sessions.get(entry[1])
        return None

    def clear(self) -> None:
        """Forget all."""
        self._times.clear()

    def _is_good(self, entry: tuple[float, Holder]) -> bool:
        session = self._sessions.get(entry[1])
        return session is not None and self._due(session) == entry[0]
