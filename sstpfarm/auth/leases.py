"""The leases: which session has which addresses and prefixes. They are kept with the sessions (`store.Store`).

A user gets what he had last while it is free. Which one that was is remembered over restarts, for the last MAX_STICKY.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Network
from typing import Final, NamedTuple, Protocol

from sstpfarm.auth.claims import Claim, Claims
from sstpfarm.auth.pools import AddressBook
from sstpfarm.config.addresses import AddressRange, parse_span
from sstpfarm.config.pools import NETWORKS, OF_IPV4, PREFIXES, SINGLES, step_of, without
from sstpfarm.config.views import PoolView
from sstpfarm.errors import LocalError
from sstpfarm.ipc.messages import PoolState

MAX_STICKY: Final = 100_000
MOST: Final = 2**63 - 1  # what a message can say of a pool's size


class Holder(NamedTuple):
    """Who holds a lease: a session is named by the process that it came from and its own number."""

    worker: int
    session: str


class Purpose(StrEnum):
    """What a lease is for. A user may have several of one pool, and each comes back to its place."""

    ADDRESS = "address"  # of IPv4
    PREFIX = "prefix"  # the client makes addresses from it
    DELEGATED = "delegated"  # for networks behind the client
    IPV6_ADDRESS = "ipv6-address"


LENGTHS: Final = {
    Purpose.ADDRESS: OF_IPV4,
    Purpose.PREFIX: PREFIXES,
    Purpose.DELEGATED: NETWORKS,
    Purpose.IPV6_ADDRESS: SINGLES,
}
"""Of which pools; a reload may have changed the pool since it was named."""


class Sticky(NamedTuple):
    """What is remembered: whose, from which pool."""

    pool: str
    user: str
    purpose: Purpose


class Memory(Protocol):
    """Where sticky addresses are remembered; it never fails, at worst it forgets."""

    def stick(self, whose: Sticky, address: int) -> None:
        """Remember an address, or the first of a prefix."""

    def unstick(self, whose: Sticky) -> None:
        """Forget one."""


class _Lease(NamedTuple):
    """What a session has.

    Attributes:
        pooled: the book counts it, so that no pool hands it out.
    """

    addresses: AddressRange
    pooled: bool
    claim: Claim


class Leases:
    """The leases of one farm.

    Fixed networks (`hold`) are noted so that no pool hands out a part of one; two sessions of one user may have the
    same.

    Args:
        pools: the ranges of each pool and the pool that follows it.
        reserved: addresses that no pool hands out.
        memory: of sticky addresses.
        sticky: whose, and the address; the one that was used longest ago first.
    """

    def __init__(
        self,
        pools: Mapping[str, PoolView],
        reserved: Iterable[int],
        memory: Memory,
        sticky: Iterable[tuple[Sticky, int]] = (),
    ) -> None:
        self._held: dict[Holder, list[_Lease]] = {}
        self._memory = memory
        self._sticky: OrderedDict[Sticky, int] = OrderedDict(sticky)
        self._claims = Claims()
        self._holes: frozenset[AddressRange] = frozenset()  # what sessions have and is cut out of the pools
        self._returned = False  # such a session is gone: its pool could have that again
        self.configure(pools, reserved)

    def __len__(self) -> int:
        return len(self._held)

    def configure(self, pools: Mapping[str, PoolView], reserved: Iterable[int]) -> None:
        """Hand out addresses of other pools from now on; leases stay, whatever pool they are from."""
        self._pools, self._reserved = pools, frozenset(reserved)
        self._chains = {name: _chain(pools, name) for name in pools}
        self._rebuild()

    def acquire(
        self, holder: Holder, user: str, *, pool: str = "", address: str = "", own: bool = True
    ) -> IPv4Address | None:
        """Lease an address of `pool` or of those that follow it, or the fixed `address`; None when none is free.

        A fixed one is not free either when it is in a network of another user whose session began before a reload.

        Args:
            own: it is this user's alone.

        Raises:
            LocalError: the holder has a lease already.
        """
        if holder in self._held:
            raise LocalError(f"session {holder.session} of worker {holder.worker} has a lease")
        claim = Claim(user, own)
        if address:
            number = int(IPv4Address(address))
            behind_another = self._claims.collides(AddressRange(number, number), claim)
            found = number if not behind_another and self._book.take(number) else None
        else:
            found = self._of_pool(Sticky(pool, user, Purpose.ADDRESS))
        if found is None:
            return None
        self._held[holder] = []
        self._note(holder, AddressRange(found, found), claim, pooled=True)
        return IPv4Address(found)

    def acquire_ipv6(self, holder: Holder, user: str, purpose: Purpose, pool: str) -> IPv6Network | None:
        """Lease another one, a prefix or address of IPv6, to who has a lease; None when none is free."""
        found = self._of_pool(Sticky(pool, user, purpose))
        if found is None:
            return None
        length = self._pools[pool].prefix_length  # pools that follow each other have one length
        self._note(holder, AddressRange(found, found + step_of(length) - 1), Claim(user, own=True), pooled=True)
        return IPv6Network((found, length))

    def hold(self, holder: Holder, user: str, networks: Sequence[str], own: Iterable[str] = ()) -> str:
        """Note fixed networks of who has a lease; return why not, and nothing is noted, or nothing.

        A pool has them, or a session of another user that began before a reload.

        Args:
            own: those of them that the configuration gives to this user alone.
        """
        owned = frozenset(map(parse_span, own))
        claims = [(span, Claim(user, span in owned)) for span in map(parse_span, networks)]
        for network, (span, claim) in zip(networks, claims, strict=True):
            if self._book.touches(span):
                return f"{network} is in a pool"
            if self._claims.collides(span, claim):
                return f"{network} is still another user's, whose session goes on"
        for span, claim in claims:
            self._note(holder, span, claim, pooled=False)
        return ""

    def restore(
        self, holder: Holder, address: str, user: str = "", networks: Iterable[str] = (), own: Iterable[str] = ()
    ) -> bool:
        """Give a session of before this process's start what it had; False when another has its address."""
        number = int(IPv4Address(address))
        if holder in self._held or not self._book.take(number):
            return False
        owned = frozenset(map(parse_span, own))
        self._held[holder] = []
        single = AddressRange(number, number)
        self._note(holder, single, Claim(user, single in owned), pooled=True)
        for span in map(parse_span, networks):
            pooled = self._book.hands_out(span) and self._book.take(span.first)
            self._note(holder, span, Claim(user, pooled or span in owned), pooled=pooled)
            self._stale |= not pooled and self._book.touches(span)  # the pools were others when it was granted
        return True

    def release(self, holder: Holder) -> None:
        """End the holder's leases; one that does not exist is ignored."""
        for lease in self._held.pop(holder, ()):
            if lease.pooled:
                self._book.give_back(lease.addresses.first)
            self._claims.remove(lease.addresses, lease.claim)
            self._returned |= lease.addresses in self._holes

    def _note(self, holder: Holder, addresses: AddressRange, claim: Claim, *, pooled: bool) -> None:
        self._held[holder].append(_Lease(addresses, pooled, claim))
        self._claims.add(addresses, claim)

    def use(self) -> tuple[PoolState, ...]:
        """How much of each pool is used."""
        if self._returned:
            self._rebuild()
        self._refresh()
        return tuple(PoolState(name, pool.used, min(pool.size, MOST)) for name, pool in self._book.pools.items())

    def _refresh(self) -> None:
        """Cut out what was restored and is no pool's any more: at once for all sessions, before something is leased."""
        if self._stale:
            self._rebuild()

    def _rebuild(self) -> None:
        """Make the book anew. Networks that sessions have and no pool counts as one are cut out of the pools."""
        steps = {name: step_of(pool.prefix_length) for name, pool in self._pools.items()}
        ranges: dict[str, Sequence[AddressRange]] = {name: pool.spans() for name, pool in self._pools.items()}
        book = AddressBook(ranges, self._reserved, steps=steps)
        holes = [
            addresses
            for leases in self._held.values()
            for addresses, pooled, _ in leases[1:]
            if book.touches(addresses) and not (pooled and book.hands_out(addresses))
        ]
        if holes:
            ranges = {name: without(found, holes, steps[name]) for name, found in ranges.items()}
            book = AddressBook(ranges, self._reserved, steps=steps)
        for leases in self._held.values():
            for at, (addresses, pooled, claim) in enumerate(leases):
                counted = pooled and (at == 0 or book.hands_out(addresses)) and book.take(addresses.first)
                leases[at] = _Lease(addresses, counted, claim)
        self._book, self._holes = book, frozenset(holes)
        self._stale = self._returned = False

    def _of_pool(self, whose: Sticky) -> int | None:
        self._refresh()
        if whose.pool not in self._pools or self._pools[whose.pool].prefix_length not in LENGTHS[whose.purpose]:
            return None
        found = self._take(whose)
        if found is None and self._returned:  # not sooner: it goes over all sessions
            self._rebuild()
            found = self._take(whose)
        if found is not None:
            self._remember(whose, found)  # of one that was his before too: its time counts, over a restart too
        return found

    def _take(self, whose: Sticky) -> int | None:
        chain = self._chains[whose.pool]
        before = self._sticky.get(whose)
        if before is not None and any(self._book.is_free(before, name) for name in chain):
            self._book.take(before)
            return before
        for name in chain:
            found = self._book.take_from(name)
            if found is not None:
                return found
        return None

    def _remember(self, whose: Sticky, address: int) -> None:
        self._sticky[whose] = address
        self._sticky.move_to_end(whose)
        self._memory.stick(whose, address)
        if len(self._sticky) > MAX_STICKY:
            forgotten, _ = self._sticky.popitem(last=False)
            self._memory.unstick(forgotten)


def _chain(pools: Mapping[str, PoolView], name: str) -> Sequence[str]:
    """A pool and those that follow it, each once."""
    chain: list[str] = []
    while name in pools and name not in chain:
        chain.append(name)
        name = pools[name].next_pool
    return chain
