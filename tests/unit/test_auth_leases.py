"""Leases: an address serves one session at a time, and a user finds the one that was his before."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from sstpfarm.auth import leases as leases_module
from sstpfarm.auth.leases import Holder, Leases
from sstpfarm.config.addresses import parse_range
from sstpfarm.config.ppp import Pool
from sstpfarm.config.views import PoolView, assignable
from sstpfarm.errors import LocalError

POOLS = {"main": PoolView((parse_range("10.20.0.2-10.20.15.254"),))}  # 4,093 addresses
RESERVED = (int(IPv4Address("10.20.0.1")), int(IPv4Address("10.20.0.77")))


class Memory(dict[tuple[str, str], int]):
    """Sticky addresses that are kept."""

    def stick(self, pool: str, user: str, address: int) -> None:
        self[pool, user] = address

    def unstick(self, pool: str, user: str) -> None:
        del self[pool, user]


def holder(number: int, worker: int = 0) -> Holder:
    return Holder(worker, f"{number:016x}")


@pytest.fixture
def leases() -> Leases:
    return Leases(POOLS, RESERVED, Memory())


def test_each_session_gets_an_address_of_its_own(leases: Leases) -> None:
    assert leases.acquire(holder(1), "alice", pool="main") == IPv4Address("10.20.0.2")
    assert leases.acquire(holder(2), "alice", pool="main") == IPv4Address("10.20.0.3")


def test_one_number_in_two_workers_is_two_sessions(leases: Leases) -> None:
    assert leases.acquire(holder(1, worker=0), "alice", pool="main") == IPv4Address("10.20.0.2")
    assert leases.acquire(holder(1, worker=1), "bob", pool="main") == IPv4Address("10.20.0.3")
    leases.release(holder(1, worker=0))
    assert len(leases) == 1


def test_a_session_gets_one_address_only(leases: Leases) -> None:
    leases.acquire(holder(1), "alice", pool="main")
    with pytest.raises(LocalError, match="has a lease"):
        leases.acquire(holder(1), "alice", pool="main")


def test_a_fixed_address_serves_one_session_at_a_time(leases: Leases) -> None:
    fixed = IPv4Address("10.20.0.77")
    assert leases.acquire(holder(1), "bob", address=str(fixed)) == fixed
    assert leases.acquire(holder(2), "bob", address=str(fixed)) is None
    leases.release(holder(1))
    assert leases.acquire(holder(2), "bob", address=str(fixed)) == fixed


def test_the_whole_pool_is_handed_out_without_reserved_addresses_and_then_no_more(leases: Leases) -> None:
    taken = []
    for number in range(5000):
        address = leases.acquire(holder(number), "alice", pool="main")
        if address is None:
            break
        taken.append(address)
    assert len(taken) == len(set(taken)) == 4093 - 1
    assert IPv4Address("10.20.0.77") not in taken


def test_an_address_of_before_is_not_handed_out_again(leases: Leases) -> None:
    assert leases.restore(holder(1), "10.20.0.2")
    assert not leases.restore(holder(2), "10.20.0.2")
    assert leases.acquire(holder(3), "alice", pool="main") == IPv4Address("10.20.0.3")
    leases.release(holder(1))
    assert leases.acquire(holder(4), "bob", address="10.20.0.2") == IPv4Address("10.20.0.2")


def test_a_user_gets_the_same_address_while_it_is_free(leases: Leases) -> None:
    """The other one, who was there in between, has his own."""
    mine = leases.acquire(holder(1), "alice", pool="main")
    leases.release(holder(1))
    theirs = leases.acquire(holder(2), "bob", pool="main")
    assert theirs != mine
    assert leases.acquire(holder(3), "alice", pool="main") == mine
    second = leases.acquire(holder(4), "alice", pool="main")
    assert second not in (mine, theirs, None)


def test_a_sticky_address_goes_to_another_user_when_there_is_no_other() -> None:
    leases = Leases({"tiny": PoolView((parse_range("10.0.0.1-10.0.0.2"),))}, (), Memory())
    mine = leases.acquire(holder(1), "alice", pool="tiny")
    leases.release(holder(1))
    assert leases.acquire(holder(2), "bob", pool="tiny") != mine
    assert leases.acquire(holder(3), "carol", pool="tiny") == mine
    assert leases.acquire(holder(4), "alice", pool="tiny") is None


def test_sticky_addresses_are_remembered_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases_module, "MAX_STICKY", 3)
    memory = Memory()
    before = Leases(POOLS, RESERVED, memory)
    for number in range(5):
        before.acquire(holder(number), f"user{number}", pool="main")
        before.release(holder(number))
    assert [user for _, user in memory] == ["user2", "user3", "user4"]
    after = Leases(POOLS, RESERVED, Memory(), [(pool, user, address) for (pool, user), address in memory.items()])
    assert int(after.acquire(holder(9), "user3", pool="main") or 0) == memory["main", "user3"]


def test_a_full_pool_is_followed_by_the_next_one_and_loops_end() -> None:
    leases = Leases(
        {
            "a": PoolView((parse_range("10.0.0.1"),), next_pool="b"),
            "b": PoolView((parse_range("10.0.1.1"),), next_pool="a"),
        },
        (),
        Memory(),
    )
    assert [str(leases.acquire(holder(n), f"u{n}", pool="b")) for n in range(3)] == ["10.0.1.1", "10.0.0.1", "None"]
    assert leases.acquire(holder(9), "x", pool="nowhere") is None
    leases.release(holder(1))
    # what alice had of the next pool is hers again, though she asks for the first
    assert str(leases.acquire(holder(4), "u1", pool="b")) == "10.0.0.1"


def test_what_a_pool_excludes_is_not_handed_out() -> None:
    pool = Pool(
        ranges=("10.0.0.1-10.0.0.9", "10.0.1.0/30"),
        exclude=("10.0.0.3-10.0.0.5", "10.0.0.9", "10.0.1.1", "192.0.2.1"),
    )
    leases = Leases({"main": PoolView(assignable(pool))}, (), Memory())
    taken = [str(leases.acquire(holder(number), f"u{number}", pool="main")) for number in range(7)]
    assert taken == ["10.0.0.1", "10.0.0.2", "10.0.0.6", "10.0.0.7", "10.0.0.8", "10.0.1.2", "None"]


def test_other_pools_hold_from_a_reload_on_and_leases_stay(leases: Leases) -> None:
    kept = leases.acquire(holder(1), "alice", pool="main")
    leases.configure({"main": PoolView((parse_range("10.20.0.2-10.20.0.3"),))}, RESERVED)
    assert leases.acquire(holder(2), "bob", pool="main") not in (kept, None)
    assert leases.acquire(holder(3), "carol", pool="main") is None
    leases.release(holder(1))
    assert leases.acquire(holder(3), "carol", pool="main") == kept


def test_the_use_of_each_pool_is_told(leases: Leases) -> None:
    leases.acquire(holder(1), "alice", pool="main")
    leases.acquire(holder(2), "bob", address="10.20.0.77")
    (state,) = leases.use()
    assert (state.pool, state.used, state.size) == ("main", 1, 4092)


def test_100000_churned_logins_share_no_address() -> None:
    """SECURITY 16: from two pools of few addresses, with users who come back and addresses that are asked for."""
    leases = Leases(
        {
            "a": PoolView((parse_range("10.0.0.1-10.0.0.200"),), next_pool="b"),
            "b": PoolView((parse_range("10.0.1.1-10.0.1.200"), parse_range("10.0.3.1-10.0.3.99"))),
        },
        (int(IPv4Address("10.0.9.9")),),
        Memory(),
    )
    live: dict[IPv4Address, int] = {}
    order: list[IPv4Address] = []
    refused = 0
    for number in range(100_000):
        user = f"user{number * 7919 % 700}"
        if number % 50 == 0:  # a RADIUS server names an address of a pool
            address = leases.acquire(holder(number), user, address=f"10.0.1.{number // 50 % 200 + 1}")
        else:
            address = leases.acquire(holder(number), user, pool="a" if number % 3 else "b")
        if address is None:
            refused += 1
        else:
            assert address not in live, address
            live[address] = number
            order.append(address)
        while len(order) > 300 + number % 250 or (address is None and order):
            gone = order.pop(number % len(order))
            leases.release(holder(live.pop(gone)))
            address = gone
    assert len(leases) == len(live)
    assert 0 < refused < 20_000  # both pools were full at times, and mostly not
