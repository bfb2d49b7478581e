"""Which addresses are free: the farm's pools in memory, without a list of all their addresses."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Address
from itertools import accumulate
from typing import Final

from sstpfarm.config.addresses import AddressRange
from sstpfarm.errors import LocalError

REST: Final = 1024  # released addresses that rest before the longest rested one is handed out again


class Pool:
    """The addresses of one pool, counted from 0 over all of its ranges.

    Addresses below `_next` have been looked at before; those of them that are free wait in `_released`, each once.
    So memory grows with the sessions that there ever were at once (and REST), not with the size of the pool.

    Cost: constant time for `take` and `give_back`, apart from stepping once over each reserved or restored address.
    """

    def __init__(self, ranges: Sequence[AddressRange], reserved: Collection[int]) -> None:
        self._ranges = sorted(ranges)
        self._reserved = reserved
        self._begins = [0, *accumulate(found.last - found.first + 1 for found in self._ranges)]
        self._next = 0
        self._released: deque[int] = deque()

    @property
    def size(self) -> int:
        """How many addresses the ranges hold."""
        return self._begins[-1]

    def take(self, in_use: Collection[int]) -> int | None:
        """Return a free address, as a number; None when there is none.

        A fresh address is preferred until REST released ones wait: late packets for the user before find nobody.
        """
        if len(self._released) <= REST:
            while self._next < self.size:
                address = self._address(self._next)
                self._next += 1
                if address not in in_use and address not in self._reserved:
                    return address
        return self._released.popleft() if self._released else None

    def give_back(self, address: int) -> None:
        """Take back an address that nobody uses any more and that is not reserved; one of another pool is ignored."""
        index = self._index(address)
        if index is not None and index < self._next:
            self._released.append(address)

    def _address(self, index: int) -> int:
        at = bisect_right(self._begins, index) - 1
        return self._ranges[at].first + index - self._begins[at]

    def _index(self, address: int) -> int | None:
        at = bisect_right(self._ranges, address, key=lambda found: found.first) - 1
        if at < 0 or address > self._ranges[at].last:
            return None
        return self._begins[at] + address - self._ranges[at].first


class AddressBook:
    """All pools, the addresses in use and the reserved ones.

    Invariant: an address is in use at most once, whether it came from a pool or is a fixed one.

    Args:
        pools: the ranges of each pool.
        reserved: addresses that no pool hands out.
        in_use: addresses that are in use from the start.
    """

    def __init__(
        self, pools: Mapping[str, Sequence[AddressRange]], reserved: Iterable[int] = (), in_use: Iterable[int] = ()
    ) -> None:
        self._reserved = frozenset(reserved)
        self._pools = {name: Pool(ranges, self._reserved) for name, ranges in pools.items()}
        self._in_use = set(in_use)

    def __len__(self) -> int:
        return len(self._in_use)

    def take_from(self, pool: str) -> int | None:
        """Return an address of that pool, now in use; None when the pool is empty or does not exist."""
        found = self._pools[pool].take(self._in_use) if pool in self._pools else None
        if found is not None:
            self._in_use.add(found)
        return found

    def take_fixed(self, address: int) -> bool:
        """Put a fixed address in use; False when it is in use already.

        Raises:
            LocalError: it is not reserved, so that a pool may hand it out too.
        """
        if address not in self._reserved:
            raise LocalError(f"{IPv4Address(address)} is not reserved")
        if address in self._in_use:
            return False
        self._in_use.add(address)
        return True

    def give_back(self, address: int) -> None:
        """End the use of an address; one that is not in use is ignored."""
        if address not in self._in_use:
            return
        self._in_use.remove(address)
        if address not in self._reserved:
            for pool in self._pools.values():
                pool.give_back(address)
