"""What auth keeps over its own end: sessions with their leases, sticky addresses, homes, history, spooled records.

Memory decides, the store remembers. No other module of auth knows how; the one behind it now is `auth.sqlite`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import msgspec

from sstpfarm.auth.accounting import AccountingRecord
from sstpfarm.auth.authorization import Authorization
from sstpfarm.auth.homes import Home, KeptHome
from sstpfarm.auth.leases import Holder, Sticky
from sstpfarm.ipc.messages import Grant


class SessionFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a session since its grant.

    Attributes:
        authorization: as it is now; `grant` stays what it was.
        granted_at: seconds since the epoch.
        changed: it has had another authorization than now.
    """

    grant: Grant
    authorization: Authorization
    called_id: str = ""
    connect_info: str = ""
    granted_at: float = 0.0
    changed: bool = False


class Counters(NamedTuple):
    """What a session has carried; seconds since it was opened."""

    seconds: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    packets_in: int = 0
    packets_out: int = 0


class StoredSession(NamedTuple):
    """A session as the store knows it.

    Attributes:
        started_at: seconds since the epoch at which it began to carry packets; 0 before.
        interface, interface_id: known since then; the identifier is the peer's.
    """

    facts: SessionFacts
    started_at: float
    interface: str
    interface_id: bytes
    counters: Counters


class UnreadableSession(NamedTuple):
    """A session that is there, and that this program cannot read.

    Attributes:
        address: that it has; None when it can have none.
        why: for the operator.
    """

    holder: Holder
    address: str | None
    why: str


class StickyAddress(NamedTuple):
    """The address, or the first one of the prefix, that a user had last from a pool."""

    whose: Sticky
    address: int


class Spooled(NamedTuple):
    """A record that waits in a queue; numbers rise."""

    number: int
    data: bytes


class Store(Protocol):
    """One node's store. Methods raise SystemRefusal when it cannot be read or written."""

    def transaction(self) -> AbstractContextManager[None]:
        """What is written in the block is kept as a whole, or not at all when an exception leaves it; no nesting."""

    def group(self, later: Callable[[Callable[[], None]], object], complain: Callable[[str], None]) -> None:
        """Keep together from now on what is written within one turn of the event loop; it costs less.

        Args:
            later: calls a function in the next turn.
            complain: tells the operator why what was written in a turn is not kept.
        """

    def then(self, act: Callable[[bool], None]) -> None:
        """Act once all that was written so far outlives this process, at once if it does; False tells that it does not.

        Acts are called in their order.
        """

    def close(self) -> None:
        """End; what was written stays."""

    # sessions and leases: the address of a session is leased as long as the session is there

    def sessions(self) -> list[StoredSession | UnreadableSession]:
        """All that are there, in the order of their grants."""

    def put_aside(self, holder: Holder) -> None:
        """Keep what is there of a session that cannot be read for the operator, and have it no more."""

    def add_session(self, facts: SessionFacts) -> None:
        """Keep a session; one that has the same address or holder is replaced: its deletion failed."""

    def start_session(self, holder: Holder, at: float, interface: str, interface_id: bytes) -> None:
        """Note that it carries packets."""

    def count_session(self, holder: Holder, counters: Counters) -> None:
        """Note what it has carried."""

    def change_session(self, facts: SessionFacts) -> None:
        """Keep other facts of a session that is there."""

    def delete_sessions(self, holders: Sequence[Holder]) -> None:
        """Forget them; those that are not there are ignored."""

    # sticky addresses

    def sticky(self) -> Iterable[StickyAddress]:
        """All, the one that was used longest ago first."""

    def stick(self, found: StickyAddress, at: float) -> None:
        """Remember that one."""

    def unstick(self, whose: Sticky) -> None:
        """Forget that one."""

    # networks that users have logged in from

    def homes(self) -> Iterable[KeptHome]:
        """All, the one that was used longest ago first."""

    def keep_home(self, kept: KeptHome) -> None:
        """Remember that one, or its new time."""

    def forget_home(self, home: Home) -> None:
        """Forget that one."""

    # history

    def add_history(self, record: AccountingRecord) -> None:
        """Keep the STOP of a session."""

    def prune_history(self, before: float, keep: int, step: int) -> int:
        """Delete up to `step` rows that ended before that time or are more than `keep`; return how many."""

    # records that wait to be sent

    def spool(self, queue: str, data: bytes, keep: int) -> bool:
        """Put a record at the end of that queue; False, and nothing is put, when `keep` records wait there."""

    def spooled(self, queue: str, limit: int, after: int = 0) -> list[Spooled]:
        """The records at the head of that queue whose number is above `after`, at most `limit`."""

    def count_spooled(self, queue: str) -> int:
        """Return how many records a queue has."""

    def unspool(self, numbers: Sequence[int]) -> None:
        """Forget these records."""
