"""The networks that each user has logged in from: there, only the user's own failures keep the user out.

They outlive this process. One from which the user has not logged in for 90 days is none any more; of one user, and in
all, there are only so many, and the one that was used longest ago goes first. So one account that wanders about cannot
make the farm forget the homes of all others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, Protocol

from sstpfarm.errors import SystemRefusal

MAX_HOMES: Final = 65_536
MAX_OF_USER: Final = 64
DAY: Final = 86_400.0
AGE: Final = 90 * DAY


class Home(NamedTuple):
    """A user and a network, as the throttle writes them."""

    user: bytes
    network: bytes


class KeptHome(NamedTuple):
    """A home and when it was used last, in seconds since the epoch, to a day."""

    home: Home
    used_at: float


class HomeStore(Protocol):
    """Where they are kept; its methods raise SystemRefusal when it cannot be written."""

    def homes(self) -> Iterable[KeptHome]:
        """All, the one that was used longest ago first."""

    def keep_home(self, kept: KeptHome) -> None:
        """Keep that one, or its new time."""

    def forget_home(self, home: Home) -> None:
        """Forget that one."""


class Homes:
    """The table; what the store refuses is known to this process alone.

    Args:
        wall: seconds since the epoch.
        complain: tells the operator what the store refused.
    """

    def __init__(self, store: HomeStore, wall: Callable[[], float], complain: Callable[[str], None]) -> None:
        self._store = store
        self._wall = wall
        self._complain = complain
        self._used: OrderedDict[Home, float] = OrderedDict()  # in the order of their times
        self._users: dict[bytes, OrderedDict[bytes, None]] = {}
        for home, used_at in store.homes():
            self._take(home, used_at)
        self._shrink()

    def __len__(self) -> int:
        return len(self._used)

    def __contains__(self, home: Home) -> bool:
        used_at = self._used.get(home)
        return used_at is not None and self._wall() - used_at < AGE

    def used(self, home: Home) -> None:
        """The user has logged in from there; that is written once a day."""
        now = self._wall()
        if abs(now - self._used.get(home, 0.0)) < DAY:
            return
        self._take(home, now)
        self._try(lambda: self._store.keep_home(KeptHome(home, now)))
        networks = self._users[home.user]
        if len(networks) > MAX_OF_USER:
            self._forget(Home(home.user, next(iter(networks))))
        self._shrink()

    def _take(self, home: Home, used_at: float) -> None:
        self._used[home] = used_at
        self._used.move_to_end(home)
        networks = self._users.setdefault(home.user, OrderedDict())
        networks[home.network] = None
        networks.move_to_end(home.network)

    def _shrink(self) -> None:
        """Forget what is too old or too much."""
        now = self._wall()
        while self._used:
            home, used_at = next(iter(self._used.items()))
            if len(self._used) <= MAX_HOMES and now - used_at < AGE:
                return
            self._forget(home)

    def _forget(self, home: Home) -> None:
        del self._used[home]
        networks = self._users[home.user]
        del networks[home.network]
        if not networks:
            del self._users[home.user]
        self._try(lambda: self._store.forget_home(home))

    def _try(self, change: Callable[[], None]) -> None:
        try:
            change()
        except SystemRefusal as error:
            self._complain(str(error))
