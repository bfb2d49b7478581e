"""Slows down who guesses passwords: failures of a user and of a network are counted, and too many shut the door.

Five failures in a minute (`failures-per-minute`) are free. With each one beyond, the door stays shut for twice as long:
12 s, 24 s ... up to five minutes; the count sinks by five a minute. What comes before the shut door is refused
with the words of a wrong password, and no backend is asked. A user is known by the name that was sent, whether there
is one or not, so the door tells nobody which users there are.

Nobody can shut a user out from afar, and no forgotten device a whole office: for a user who has logged in from a
network before (`homes`), only the failures of this user from this network count there.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache
from ipaddress import IPv4Address, ip_network
from typing import Final

from sstpfarm.auth.homes import Home, Homes
from sstpfarm.config.addresses import caller_address

MAX_ENTRIES: Final = 65_536
MAX_SHUT: Final = 300.0  # seconds
MINUTE: Final = 60.0
PREFIXES: Final = {4: 24, 6: 64}

Key = tuple[bytes, bytes]
"""A user, a network or both; what is not meant is empty."""


class _Entry:
    """The failures of one user or network: their count at a time, and until when the door is shut."""

    __slots__ = ("at", "count", "shut_until")

    def __init__(self) -> None:
        self.count = 0.0
        self.at = 0.0
        self.shut_until = 0.0


class Throttle:
    """Counts failures by user and by network.

    Args:
        failures_per_minute: how many are free, and how many are forgotten in a minute; 0 switches it off.
        homes: the networks that users have logged in from.
    """

    def __init__(self, failures_per_minute: int, homes: Homes) -> None:
        self.failures_per_minute = failures_per_minute
        self._entries: OrderedDict[tuple[bytes, bytes], _Entry] = OrderedDict()  # of a user, a network or both
        self._homes = homes

    def __len__(self) -> int:
        return len(self._entries)

    def keys(self, user: bytes, caller_id: str) -> tuple[Key, ...]:
        """Return where a failure is counted; nowhere when the throttle is switched off."""
        if not self.failures_per_minute:
            return ()
        who, where = _user_key(user), _network_key(caller_id)
        return ((who, b""), (b"", where), (who, where)) if where else ((who, b""),)

    def doors(self, user: bytes, caller_id: str) -> tuple[Key, ...]:
        """Return those of the keys that keep this user out of there."""
        if not self.failures_per_minute:
            return ()
        who, where = _user_key(user), _network_key(caller_id)
        if Home(who, where) in self._homes:
            return ((who, where),)
        return ((who, b""), (b"", where)) if where else ((who, b""),)

    def shut(self, user: bytes, caller_id: str, now: float) -> float:
        """Return for how many seconds more this user or this network is refused unjudged; 0 when the door is open."""
        entries = (self._entries.get(key) for key in self.doors(user, caller_id))
        return max(0.0, 0.0, *(entry.shut_until - now for entry in entries if entry is not None))

    def is_full(self, key: Key, judged: int, now: float) -> bool:
        """Whether a door that is open would be shut by one more failure behind those that are being judged."""
        entry = self._entries.get(key)
        if entry is None:
            return judged > self.failures_per_minute
        return judged > 0 and entry.shut_until <= now and self._count(entry, now) + judged > self.failures_per_minute

    def failed(self, keys: tuple[Key, ...], now: float) -> None:
        """Count a wrong password or an unknown user there."""
        free = self.failures_per_minute
        for key in keys:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            entry.count = self._count(entry, now) + 1
            entry.at = now
            if entry.count > free:
                doubled = 2.0 ** min(entry.count - free - 1, 16.0)
                entry.shut_until = now + min(MAX_SHUT, MINUTE / free * doubled)
        while len(self._entries) > MAX_ENTRIES:
            self._entries.popitem(last=False)

    def succeeded(self, user: bytes, caller_id: str) -> None:
        """Forget the failures of a user who has proven to be one; those of the network stay."""
        who, where = _user_key(user), _network_key(caller_id)
        self._entries.pop((who, b""), None)
        if where:
            self._entries.pop((who, where), None)
            if self.failures_per_minute:
                self._homes.used(Home(who, where))

    def _count(self, entry: _Entry, now: float) -> float:
        """What is left of an entry's failures."""
        return max(0.0, entry.count - (now - entry.at) * self.failures_per_minute / MINUTE)


@lru_cache(maxsize=1024)  # it is asked for several times in each login
def _network_key(caller_id: str) -> bytes:
    """Return what stands for the network of a peer, 18 bytes at most; empty when it has no address."""
    address = caller_address(caller_id)
    if address is None:
        return b""
    network = ip_network((address, PREFIXES[4 if isinstance(address, IPv4Address) else 6]), strict=False)
    return b"\0n" + network.network_address.packed


def _user_key(user: bytes) -> bytes:
    """Without a domain: it is free to choose, and names the same account."""
    return b"u" + user.rpartition(b"\\")[2]
