"""What sessions have used up of what they were granted: time, idle time and bytes; and whether workers obey.

The counters are those of the statistics page, so nobody needs to be asked. Sessions without a limit cost nothing. No
input or output; the clock is handed in, in seconds of CLOCK_MONOTONIC, as the page has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Final

from sstpfarm.dataplane.interface import Cell
from sstpfarm.ipc.messages import Effects
from sstpfarm.master.sessions import Session
from sstpfarm.reasons import Reason

TICK: Final = 1.0  # seconds between two looks
ASKED_PER_TICK: Final = 100  # sessions that are to log in again; auth and RADIUS servers can take more than that
OBEDIENCE: Final = 30.0  # seconds for a worker to end a session: MS-SSTP 3.1.2 takes 5 of them, and the TLS close 4
_NO_BYTES: Final = 2**64  # more than a counter can hold


class _Entry:
    """The limits of one session, in the form that is quick to compare."""

    __slots__ = ("asked", "asks", "cells", "ends", "idle", "inward", "outward", "session", "since", "total")

    def __init__(self, session: Session, cells: memoryview, now: float) -> None:
        self.session = session
        self.cells = cells
        self.since = now * 1000
        self.asks = self.ends = self.idle = inf
        self.asked = False
        self.inward = self.outward = self.total = _NO_BYTES

    def limit(self, effects: Effects) -> None:
        """Let these limits hold; the time counts from the session's beginning, or from its last authentication."""
        session = self.session
        begin = self.since if session.renewed is None else session.renewed * 1000
        over = begin + effects.session_timeout * 1000 if effects.session_timeout else inf
        can_be_asked = effects.reauthenticate and session.opened is not None
        self.asks, self.ends = (over, inf) if can_be_asked else (inf, over)
        self.idle = effects.idle_timeout * 1000 if effects.idle_timeout else inf
        self.inward = effects.limit_bytes_in or _NO_BYTES
        self.outward = effects.limit_bytes_out or _NO_BYTES
        self.total = effects.limit_bytes_total or _NO_BYTES


class Ledger:
    """The sessions that have limits, and those that were told to end. Every session is known by its own object.

    Args:
        proof_patience: seconds for a session to be authenticated once more, from the moment in which it is asked to.
    """

    def __init__(self, proof_patience: float = 90.0) -> None:
        self._proof_patience = proof_patience
        self._entries: dict[int, _Entry] = {}
        self._ending: dict[int, tuple[float, Session]] = {}  # when the worker's patience is over

    def __len__(self) -> int:
        return len(self._entries)

    def enter(self, session: Session, cells: memoryview, now: float) -> None:
        """Begin, or begin again, to count the session's time; its limits are in `session.effects`.

        Args:
            cells: its slot of the statistics page.
        """
        if limited(session.effects) and id(session) not in self._ending:
            entry = _Entry(session, cells, now)
            entry.limit(session.effects)
            self._entries[id(session)] = entry

    def change(self, session: Session, cells: memoryview, now: float) -> None:
        """Let the session's limits of now hold; what it has used up already counts.

        While its peer is asked for its proof, what is said of its time counts for later.
        """
        before = self._entries.pop(id(session), None)
        self.enter(session, cells, session.opened if session.opened is not None else now)
        entry = self._entries.get(id(session))
        if entry is not None and before is not None and before.asked:
            entry.asks, entry.ends, entry.asked = before.asks, before.ends, True

    def renew(self, session: Session, cells: memoryview, now: float) -> None:
        """The session was authenticated once more: its time begins anew."""
        session.renewed = now
        self._entries.pop(id(session), None)
        self.enter(session, cells, session.opened if session.opened is not None else now)

    def end(self, session: Session, now: float) -> None:
        """The session's worker was told to end it: its limits do not matter any more, but its end does."""
        self._entries.pop(id(session), None)
        self._ending.setdefault(id(session), (now + OBEDIENCE, session))

    def leave(self, session: Session) -> None:
        """The session is over. Idempotent."""
        self._entries.pop(id(session), None)
        self._ending.pop(id(session), None)

    def used_up(self, now: float) -> list[tuple[Session, Reason | None]]:
        """Return the sessions that must end now, and why; without a reason those that are to log in again.

        The latter are named once, and not more than ASKED_PER_TICK at a time, those first that have limits for longest:
        sessions of one moment would have auth judge them all in one.
        """
        return list(self._judge(now * 1000))

    def disobeyed(self, now: float) -> list[Session]:
        """Return, once, the sessions that their workers should have ended long ago."""
        late = [session for deadline, session in self._ending.values() if deadline <= now]
        for session in late:
            del self._ending[id(session)]
        return late

    def _judge(self, now: float) -> Iterator[tuple[Session, Reason | None]]:
        left = ASKED_PER_TICK
        bytes_in, bytes_out, active = int(Cell.BYTES_IN), int(Cell.BYTES_OUT), int(Cell.ACTIVE)
        for entry in self._entries.values():
            cells = entry.cells
            inward, outward = cells[bytes_in], cells[bytes_out]
            if now >= entry.ends:  # a worker ends an authentication that takes too long itself, and earlier
                yield entry.session, Reason.AUTH_TIMEOUT if entry.asked else Reason.SESSION_TIMEOUT
            elif inward >= entry.inward or outward >= entry.outward or inward + outward >= entry.total:
                yield entry.session, Reason.QUOTA
            elif now >= max(cells[active], entry.since) + entry.idle:
                yield entry.session, Reason.IDLE_TIMEOUT
            elif now >= entry.asks and left:
                left -= 1
                entry.asks, entry.ends, entry.asked = inf, now + self._proof_patience * 1000, True
                yield entry.session, None


def limited(effects: Effects) -> bool:
    """Whether there is anything to look at."""
    return bool(
        effects.session_timeout
        or effects.idle_timeout
        or effects.limit_bytes_in
        or effects.limit_bytes_out
        or effects.limit_bytes_total
    )
