"""Which connections a worker takes while their peers have not logged in, so that one host cannot keep out all others.

There are `max-starting` places for them. A source, which is an IPv4 address or a /64 of IPv6, holds at most
`max-starting-per-source` of them. When two thirds are taken, connections are dropped at random before all are (the
idea of OpenSSH's MaxStartups), and not of everybody alike: a source that holds n places while `free` are left is
dropped with the probability (4 n / `free`)^2. So a source gets no more than a quarter of what is free, one that holds a
few loses hardly anything, and one that holds none is let in as long as there is a place. There are some: k sources
that take all they get leave 4 / (k + 4) of the places.

Why an address and no wider network of IPv4: a connection is here only after TCP's handshake, so its source is not
forged; addresses of IPv4 are scarce; and neighbours in a /24 are often customers of one carrier, who have nothing to
do with each other. A host of IPv6 has a whole /64 to draw addresses from (RFC 4291 2.5.1), and a site up to a /48 of
such networks (RFC 6177): whoever has that could hold one place with each, so the early drop counts what the /48 holds.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sstpfarm.reasons import Reason

REPORT_INTERVAL: Final = 60.0  # seconds between two reports of one rule
_MAPPED: Final = "::ffff:"  # RFC 4291 2.5.5.2

Source = tuple[str, ...]
"""Who is held to the limit, then what the early drop counts, if that is wider."""


@dataclass(frozen=True, slots=True)
class Report:
    """Connections that one rule has dropped since its last report.

    Attributes:
        reason: of the rule.
        count: of the connections.
        starting: places that are taken now.
        source: the address or network that holds most of them, "" for none.
        source_starting: how many it holds.
    """

    reason: Reason
    count: int
    starting: int
    source: str
    source_starting: int


class Admission:
    """The places of one worker for connections whose peers have not logged in.

    Args:
        most: places.
        most_per_source: places of one source; None: sources are not told apart, and nobody is dropped early.
        draw: a number from 0 to 1, below 1, at random.

    Cost: 0.4 to 2.5 us for one connection, `source_of` included (the most for IPv6 while places are scarce). The tables
    have at most two entries for each place that is taken.
    """

    def __init__(self, most: int, most_per_source: int | None, draw: Callable[[], float]) -> None:
        self._most = most
        self._most_per_source = most_per_source
        self._draw = draw
        self._early = most * 2 // 3  # room for two sources at the default bound, an office and an attacker
        self._sources: dict[str, Source] = {}  # of each connection that holds a place
        self._held: dict[str, int] = {}  # places of each address or network that has any
        self._dropped: dict[Reason, int] = {}  # since the last report
        self._next_report: dict[Reason, float] = {}

    def __len__(self) -> int:
        return len(self._sources)

    def refusal(self, source: Source) -> Reason | None:
        """Return why a connection from there must be dropped, None if it has a place; `enter` takes that.

        Args:
            source: as `source_of` returns it.
        """
        free = self._most - len(self._sources)
        if self._most_per_source is not None and self._held.get(source[0], 0) >= self._most_per_source:
            return self.drop(Reason.SOURCE_LIMIT)
        if free <= 0:
            return self.drop(Reason.STARTING_LIMIT)
        if self._most_per_source is not None and self._most - free >= self._early:
            held = self._held.get(source[-1], 0)
            if held and self._draw() < (4 * held / free) ** 2:
                return self.drop(Reason.EARLY_DROP)
        return None

    def enter(self, connection: str, source: Source) -> None:
        """Take a place for the connection from there; its name is for `leave`."""
        self._sources[connection] = source
        for network in source:
            self._held[network] = self._held.get(network, 0) + 1

    def leave(self, connection: str) -> None:
        """Free the connection's place: its peer has logged in, or is gone. Idempotent."""
        for network in self._sources.pop(connection, ()):
            if self._held[network] > 1:
                self._held[network] -= 1
            else:
                del self._held[network]

    def drop(self, reason: Reason) -> Reason:
        """Note for the next report that a connection is dropped for that reason, and return it."""
        self._dropped[reason] = self._dropped.get(reason, 0) + 1
        return reason

    def reports(self, now: float) -> Sequence[Report]:
        """Return what is due to be told: each rule at most once a minute.

        Args:
            now: seconds of the monotonic clock.
        """
        due = [reason for reason in self._dropped if now >= self._next_report.get(reason, 0.0)]
        if not due:
            return ()
        self._next_report.update(dict.fromkeys(due, now + REPORT_INTERVAL))
        source = max(self._held, key=self._held.__getitem__, default="")
        held = self._held.get(source, 0)
        return [Report(reason, self._dropped.pop(reason), len(self), source, held) for reason in due]


def source_of(host: str) -> Source:
    """Return the source that a peer's address belongs to: itself for IPv4, its /64 and its /48 for IPv6.

    Args:
        host: as a socket of AF_INET or AF_INET6 gives it; a mapped IPv4 address is one of IPv4.
    """
    if ":" not in host:
        return (host,)
    if host.startswith(_MAPPED) and "." in host:
        return (host.removeprefix(_MAPPED),)
    address = socket.inet_pton(socket.AF_INET6, host)
    subnet = socket.inet_ntop(socket.AF_INET6, address[:8] + bytes(8))
    site = socket.inet_ntop(socket.AF_INET6, address[:6] + bytes(10))
    return f"{subnet}/64", f"{site}/48"
