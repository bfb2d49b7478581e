"""Which addresses are free: the farm's pools in memory, without a list of all their addresses.

A prefix of IPv6 is named by its first address, like an address by itself.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import accumulate
from types import MappingProxyType
from typing import Final

from sstpfarm.config.addresses import AddressRange

REST: Final = 1024  # released addresses that rest before the longest rested one is handed out again


class Pool:
    """The addresses (or prefixes) of one pool, counted from 0 over all of its ranges.

    Addresses below `_next` have been looked at before; those of them that are free wait in `_released`, the longest
    rested one first. So memory grows with the sessions that there ever were at once (and REST), not with the size of
    the pool.

    Cost: constant time for each method, apart from stepping once over each reserved or restored address.

    Args:
        step: from one address to the next: how many are in a prefix.

    Attributes:
        used: addresses that sessions have.
        size: addresses that can be handed out, used or not.
    """

    def __init__(self, ranges: Sequence[AddressRange], reserved: Collection[int], step: int = 1) -> None:
        self._ranges = sorted(ranges)
        self._reserved = reserved
        self._begins = [0, *accumulate((found.last - found.first + 1) // step for found in self._ranges)]
        self._next = 0
        self._released: dict[int, None] = {}
        self.step = step
        self.used = 0
        self.size = self._begins[-1]

    def take(self, in_use: Collection[int]) -> int | None:
        """Return a free address, as a number, which is used from now on; None when there is none.

        A fresh address is preferred until REST released ones wait: late packets for the user before find nobody, and
        who comes back finds the address that he had.
        """
        found = None
        if len(self._released) <= REST:
            found = self._fresh(in_use)
        if found is None and self._released:
            found = next(iter(self._released))
            del self._released[found]
        self.used += found is not None
        return found

    def claim(self, address: int) -> None:
        """Note that this one of its free addresses is used from now on."""
        self._released.pop(address, None)
        self.used += 1

    def give_back(self, address: int) -> None:
        """Take back one of its addresses that nobody uses any more."""
        self.used -= 1
        if self._index(address) < self._next:
            self._released[address] = None

    def _fresh(self, in_use: Collection[int]) -> int | None:
        while self._next < self._begins[-1]:
            address = self._address(self._next)
            self._next += 1
            if address not in in_use and address not in self._reserved:
                return address
        return None

    def _address(self, index: int) -> int:
        at = bisect_right(self._begins, index) - 1
        return self._ranges[at].first + (index - self._begins[at]) * self.step

    def _index(self, address: int) -> int:
        at = bisect_right(self._ranges, address, key=lambda found: found.first) - 1
        return self._begins[at] + (address - self._ranges[at].first) // self.step


class AddressBook:
    """All pools, the addresses in use and the reserved ones.

    Invariant: an address is in use at most once, whether it came from a pool or was asked for.

    Args:
        pools: the ranges of each pool; no address is in two of them.
        reserved: addresses that no pool hands out.
        in_use: addresses that are in use from the start.
        steps: how many addresses are in a prefix of each pool, 1 where it is not named. Their ranges hold whole ones.
    """

    def __init__(
        self,
        pools: Mapping[str, Sequence[AddressRange]],
        reserved: Iterable[int] = (),
        in_use: Iterable[int] = (),
        steps: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._reserved = frozenset(reserved)
        self._pools = {name: Pool(ranges, self._reserved, steps.get(name, 1)) for name, ranges in pools.items()}
        self._ranges = sorted((found, name) for name, ranges in pools.items() for found in ranges)
        self._in_use: set[int] = set()
        for address in self._reserved:
            owner = self._owner(address)
            if owner is not None:
                owner.size -= 1
        for address in in_use:
            self.take(address)

    def __len__(self) -> int:
        return len(self._in_use)

    @property
    def pools(self) -> Mapping[str, Pool]:
        """The pools by their names."""
        return self._pools

    def take_from(self, pool: str) -> int | None:
        """Return an address of that pool, now in use; None when the pool is empty or does not exist."""
        found = self._pools[pool].take(self._in_use) if pool in self._pools else None
        if found is not None:
            self._in_use.add(found)
        return found

    def take(self, address: int) -> bool:
        """Put that address in use; False when it is in use already."""
        if address in self._in_use:
            return False
        self._in_use.add(address)
        pool = self._handed_out_by(address)
        if pool is not None:
            pool.claim(address)
        return True

    def is_free(self, address: int, pool: str) -> bool:
        """Whether that pool could hand out that address now."""
        owner = self._handed_out_by(address)
        return owner is not None and owner is self._pools.get(pool) and address not in self._in_use

    def hands_out(self, addresses: AddressRange) -> bool:
        """Whether just these are what a pool gives one session."""
        pool = self._handed_out_by(addresses.first)
        return pool is not None and pool.step == addresses.last - addresses.first + 1

    def touches(self, addresses: AddressRange) -> bool:
        """Whether some of these are a pool's."""
        at = bisect_right(self._ranges, addresses.last, key=lambda found: found[0].first) - 1
        return at >= 0 and self._ranges[at][0].last >= addresses.first

    def give_back(self, address: int) -> None:
        """End the use of an address; one that is not in use is ignored."""
        if address not in self._in_use:
            return
        self._in_use.remove(address)
        pool = self._handed_out_by(address)
        if pool is not None:
            pool.give_back(address)

    def _handed_out_by(self, address: int) -> Pool | None:
        return None if address in self._reserved else self._owner(address)

    def _owner(self, address: int) -> Pool | None:
        """The pool that has that address, or the prefix that begins with it."""
        at = bisect_right(self._ranges, address, key=lambda found: found[0].first) - 1
        if at < 0 or address > self._ranges[at][0].last:
            return None
        pool = self._pools[self._ranges[at][1]]
        return pool if (address - self._ranges[at][0].first) % pool.step == 0 else None
