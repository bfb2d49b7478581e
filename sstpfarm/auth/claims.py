"""Whose networks are whose: what a reload gives one user may still be another's, whose session goes on."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from sstpfarm.config.addresses import AddressRange


class Claim(NamedTuple):
    """A network that a session has.

    Attributes:
        own: it came from a pool or is fixed for the user by the configuration, as his address of IPv4 is; else it is a
            route, or the concern of the RADIUS server that named it.
    """

    user: str
    own: bool


class Claims:
    """What sessions have now. Networks contain each other or have nothing in common, for they are prefixes.

    Cost: a few look-ups for each question, and a step for each network of a session within the one in question.
    """

    def __init__(self) -> None:
        self._claims: dict[AddressRange, list[Claim]] = {}
        self._order: list[AddressRange] = []  # the keys, sorted
        self._sizes: Counter[int] = Counter()  # of the keys

    def add(self, network: AddressRange, claim: Claim) -> None:
        """A session has it from now on."""
        if network not in self._claims:
            self._claims[network] = []
            insort(self._order, network)
            self._sizes[_size(network)] += 1
        self._claims[network].append(claim)

    def remove(self, network: AddressRange, claim: Claim) -> None:
        """The session has it no more."""
        claims = self._claims[network]
        claims.remove(claim)
        if not claims:
            del self._claims[network]
            del self._order[bisect_left(self._order, network)]
            self._sizes[_size(network)] -= 1
            if not self._sizes[_size(network)]:
                del self._sizes[_size(network)]

    def collides(self, network: AddressRange, claim: Claim) -> bool:
        """Whether a part of it is another user's, and is that user's own or would be this one's own."""
        return any(other.user != claim.user and (other.own or claim.own) for other in self._touching(network))

    def _touching(self, network: AddressRange) -> Iterator[Claim]:
        for size in self._sizes:
            if size > _size(network):
                first = network.first - network.first % size
                yield from self._claims.get(AddressRange(first, first + size - 1), ())
        at = bisect_left(self._order, AddressRange(network.first, 0))
        while at < len(self._order) and self._order[at].first <= network.last:
            if self._order[at].last <= network.last:
                yield from self._claims[self._order[at]]
            at += 1


def _size(network: AddressRange) -> int:
    return network.last - network.first + 1
