"""The leases: which session has which address. They are kept with the sessions (`store.Store`), decided here.

A user gets the address that he had last while it is free. Which one that was is remembered over restarts, for the
MAX_STICKY users that came last.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address
from typing import Final, NamedTuple, Protocol

from sstpfarm.auth.pools import AddressBook
from sstpfarm.config.views import PoolView
from sstpfarm.errors import LocalError
from sstpfarm.ipc.messages import PoolState

MAX_STICKY: Final = 100_000


class Holder(NamedTuple):
    """Who holds a lease: a session is named by the process that it came from and its own number."""

    worker: int
    session: str


class Memory(Protocol):
    """Where sticky addresses are remembered; it never fails, at worst it forgets."""

    def stick(self, pool: str, user: str, address: int) -> None:
        """Remember an address."""

    def unstick(self, pool: str, user: str) -> None:
        """Forget one."""


class Leases:
    """The leases of one farm.

    Args:
        pools: the ranges of each pool and the pool that follows it.
        reserved: addresses that no pool hands out.
        memory: of sticky addresses.
        sticky: pool, user and address, the one that was used longest ago first.
    """

    def __init__(
        self,
        pools: Mapping[str, PoolView],
        reserved: Iterable[int],
        memory: Memory,
        sticky: Iterable[tuple[str, str, int]] = (),
    ) -> None:
        self._held: dict[Holder, int] = {}
        self._memory = memory
        self._sticky: OrderedDict[tuple[str, str], int] = OrderedDict()
        for pool, user, address in sticky:
            self._sticky[pool, user] = address
        self.configure(pools, reserved)

    def __len__(self) -> int:
        return len(self._held)

    def configure(self, pools: Mapping[str, PoolView], reserved: Iterable[int]) -> None:
        """Hand out addresses of other pools from now on; leases stay, whatever pool they are from."""
        self._chains = {name: _chain(pools, name) for name in pools}
        self._book = AddressBook(
            {name: pool.ranges for name, pool in pools.items()}, reserved, in_use=self._held.values()
        )

    def acquire(self, holder: Holder, user: str, *, pool: str = "", address: str = "") -> IPv4Address | None:
        """Lease an address of `pool` or of those that follow it, or the fixed `address`; None when none is free.

        Raises:
            LocalError: the holder has a lease already.
        """
        if holder in self._held:
            raise LocalError(f"session {holder.session} of worker {holder.worker} has a lease")
        if address:
            number = int(IPv4Address(address))
            found = number if self._book.take(number) else None
        else:
            found = self._of_pool(pool, user)
        if found is None:
            return None
        self._held[holder] = found
        return IPv4Address(found)

    def restore(self, holder: Holder, address: str) -> bool:
        """Give a session of before this process's start its address; False when another has it."""
        number = int(IPv4Address(address))
        if holder in self._held or not self._book.take(number):
            return False
        self._held[holder] = number
        return True

    def release(self, holder: Holder) -> None:
        """End the holder's lease; one that does not exist is ignored."""
        number = self._held.pop(holder, None)
        if number is not None:
            self._book.give_back(number)

    def use(self) -> tuple[PoolState, ...]:
        """How much of each pool is used."""
        return tuple(PoolState(name, pool.used, pool.size) for name, pool in self._book.pools.items())

    def _of_pool(self, pool: str, user: str) -> int | None:
        chain = self._chains.get(pool, ())
        before = self._sticky.get((pool, user))
        if before is not None and any(self._book.is_free(before, name) for name in chain):
            self._book.take(before)
            self._remember(pool, user, before)  # its time counts, over a restart too
            return before
        for name in chain:
            found = self._book.take_from(name)
            if found is not None:
                self._remember(pool, user, found)
                return found
        return None

    def _remember(self, pool: str, user: str, address: int) -> None:
        self._sticky[pool, user] = address
        self._sticky.move_to_end((pool, user))
        self._memory.stick(pool, user, address)
        if len(self._sticky) > MAX_STICKY:
            forgotten, _ = self._sticky.popitem(last=False)
            self._memory.unstick(*forgotten)


def _chain(pools: Mapping[str, PoolView], name: str) -> Sequence[str]:
    """A pool and those that follow it, each once."""
    chain: list[str] = []
    while name in pools and name not in chain:
        chain.append(name)
        name = pools[name].next_pool
    return chain
