"""Leases: an address serves one session at a time, and a user finds the one that was his before."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sstpfarm.auth import leases as leases_module
from sstpfarm.auth.leases import Holder, Leases, Purpose, Sticky
from sstpfarm.config.addresses import parse_ipv6_range, parse_range, parse_span
from sstpfarm.config.pools import assignable
from sstpfarm.config.ppp import Pool
from sstpfarm.config.views import PoolView
from sstpfarm.errors import LocalError
from sstpfarm.ipc.messages import PoolState

POOLS = {"main": PoolView.of([parse_range("10.20.0.2-10.20.15.254")])}  # 4,093 addresses
RESERVED = (int(IPv4Address("10.20.0.1")), int(IPv4Address("10.20.0.77")))


class Memory(dict[Sticky, int]):
    """Sticky addresses that are kept."""

    def stick(self, whose: Sticky, address: int) -> None:
        self[whose] = address

    def unstick(self, whose: Sticky) -> None:
        del self[whose]


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
    leases = Leases({"tiny": PoolView.of([parse_range("10.0.0.1-10.0.0.2")])}, (), Memory())
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
    assert [whose.user for whose in memory] == ["user2", "user3", "user4"]
    after = Leases(POOLS, RESERVED, Memory(), memory.items())
    found = after.acquire(holder(9), "user3", pool="main")
    assert int(found or 0) == memory[Sticky("main", "user3", Purpose.ADDRESS)]


def test_a_full_pool_is_followed_by_the_next_one_and_loops_end() -> None:
    leases = Leases(
        {
            "a": PoolView.of([parse_range("10.0.0.1")], next_pool="b"),
            "b": PoolView.of([parse_range("10.0.1.1")], next_pool="a"),
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
    leases = Leases({"main": PoolView.of(assignable(pool))}, (), Memory())
    taken = [str(leases.acquire(holder(number), f"u{number}", pool="main")) for number in range(7)]
    assert taken == ["10.0.0.1", "10.0.0.2", "10.0.0.6", "10.0.0.7", "10.0.0.8", "10.0.1.2", "None"]


def test_other_pools_hold_from_a_reload_on_and_leases_stay(leases: Leases) -> None:
    kept = leases.acquire(holder(1), "alice", pool="main")
    leases.configure({"main": PoolView.of([parse_range("10.20.0.2-10.20.0.3")])}, RESERVED)
    assert leases.acquire(holder(2), "bob", pool="main") not in (kept, None)
    assert leases.acquire(holder(3), "carol", pool="main") is None
    leases.release(holder(1))
    assert leases.acquire(holder(3), "carol", pool="main") == kept


def test_the_use_of_each_pool_is_told(leases: Leases) -> None:
    leases.acquire(holder(1), "alice", pool="main")
    leases.acquire(holder(2), "bob", address="10.20.0.77")
    (state,) = leases.use()
    assert (state.pool, state.used, state.size) == ("main", 1, 4092)


HOMES = PoolView.of([parse_span("2001:db8::/62")], prefix_length=64)  # four of them
SITES = PoolView.of([parse_span("2001:db8:1::/55")], prefix_length=56)
SINGLES = PoolView.of([parse_span("2001:db8:2::10-2001:db8:2::11")], prefix_length=128)
SIX = {**POOLS, "homes": HOMES, "sites": SITES, "singles": SINGLES}


def six(leases: Leases, number: int, user: str, purpose: Purpose, pool: str) -> str:
    return str(leases.acquire_ipv6(holder(number), user, purpose, pool))


def test_prefixes_and_addresses_of_ipv6_are_leased_with_the_session() -> None:
    leases = Leases(SIX, RESERVED, Memory())
    for number in (1, 2):
        leases.acquire(holder(number), f"user{number}", pool="main")
    assert six(leases, 1, "user1", Purpose.PREFIX, "homes") == "2001:db8::/64"
    assert six(leases, 2, "user2", Purpose.PREFIX, "homes") == "2001:db8:0:1::/64"
    assert six(leases, 1, "user1", Purpose.DELEGATED, "sites") == "2001:db8:1::/56"
    assert six(leases, 2, "user2", Purpose.DELEGATED, "sites") == "2001:db8:1:100::/56"
    assert six(leases, 1, "user1", Purpose.IPV6_ADDRESS, "singles") == "2001:db8:2::10/128"
    assert [(state.used, state.size) for state in leases.use()] == [(2, 4092), (2, 4), (2, 2), (1, 2)]
    assert six(leases, 2, "user2", Purpose.DELEGATED, "sites") == "None"
    leases.release(holder(1))
    assert [state.used for state in leases.use()] == [1, 1, 1, 0]
    leases.acquire(holder(3), "user3", pool="main")
    assert six(leases, 3, "user3", Purpose.DELEGATED, "sites") == "2001:db8:1::/56"


def test_a_pool_of_another_kind_gives_nothing() -> None:
    """A reload may have changed it since the grant was made."""
    leases = Leases(SIX, RESERVED, Memory())
    assert leases.acquire(holder(1), "alice", pool="homes") is None
    leases.acquire(holder(1), "alice", pool="main")
    for purpose, pool in (
        (Purpose.PREFIX, "sites"),
        (Purpose.DELEGATED, "singles"),
        (Purpose.IPV6_ADDRESS, "homes"),
        (Purpose.PREFIX, "main"),
        (Purpose.PREFIX, "nowhere"),
    ):
        assert leases.acquire_ipv6(holder(1), "alice", purpose, pool) is None
    assert [state.used for state in leases.use()] == [1, 0, 0, 0]


def test_a_user_finds_each_prefix_in_its_place_also_from_one_pool_and_over_a_restart() -> None:
    memory = Memory()
    leases = Leases(SIX, RESERVED, memory)

    def login(number: int, user: str, book: Leases) -> tuple[str, str]:
        book.acquire(holder(number), user, pool="main")
        return (
            six(book, number, user, Purpose.PREFIX, "homes"),
            six(book, number, user, Purpose.DELEGATED, "homes"),
        )

    mine = login(1, "alice", leases)
    leases.release(holder(1))
    theirs = login(2, "bob", leases)
    assert login(3, "alice", leases) == mine
    assert len({*mine, *theirs}) == 4
    after = Leases(SIX, RESERVED, Memory(), memory.items())
    assert (login(1, "bob", after), login(2, "alice", after)) == (theirs, mine)


def test_a_full_pool_of_prefixes_is_followed_by_the_next_one() -> None:
    following = PoolView.of([parse_span("2001:db8:9::/64")], prefix_length=64)
    leases = Leases({**SIX, "homes": msgspec.structs.replace(HOMES, next_pool="more"), "more": following}, (), Memory())
    found = []
    for number in range(6):
        leases.acquire(holder(number), "alice", pool="main")
        found.append(six(leases, number, f"user{number}", Purpose.PREFIX, "homes"))
    assert found[3:] == ["2001:db8:0:3::/64", "2001:db8:9::/64", "None"]


def test_fixed_networks_are_held_beside_each_other_and_never_within_a_pool() -> None:
    leases = Leases(SIX, RESERVED, Memory())
    for number in (1, 2):
        leases.acquire(holder(number), "alice", pool="main")
        assert (
            leases.hold(holder(number), "alice", ["fd42::/64", "fd43::/48"]) == ""
        )  # as routes of the same network are
    for overlapping in ("2001:db8::/32", "2001:db8:0:3::/64", "2001:db8:1:100::7/128", "2001:db8:2::11/128"):
        assert leases.hold(holder(1), "alice", ["fd44::/64", overlapping]) == f"{overlapping} is in a pool"
    pools = {**SIX, "late": PoolView.of([parse_span("fd42::/62"), parse_span("fd44::/64")], prefix_length=64)}
    leases.configure(pools, RESERVED)  # what is held already is no part of a pool that a reload brings
    assert leases.use()[-1].size == 4
    leases.acquire(holder(3), "bob", pool="main")
    assert six(leases, 3, "bob", Purpose.PREFIX, "late") == "fd42:0:0:1::/64"
    leases.release(holder(1))
    leases.configure(pools, RESERVED)
    assert leases.use()[-1].size == 4
    leases.release(holder(2))
    leases.configure(pools, RESERVED)
    assert (leases.use()[-1].size, leases.use()[-1].used) == (5, 1)


def test_what_a_session_has_is_nobody_elses_as_long_as_it_lasts() -> None:
    """Whichever of both came from a pool or is fixed by the configuration; routes contest each other as ever."""
    leases = Leases(SIX, RESERVED, Memory())
    for number in range(1, 6):
        leases.acquire(holder(number), f"user{number}", pool="main")
    assert six(leases, 1, "user1", Purpose.PREFIX, "homes") == "2001:db8::/64"
    assert leases.hold(holder(2), "user2", ["fd42::/64", "fd43::/48"], own=["fd42::/64"]) == ""
    leases.configure({"main": SIX["main"]}, RESERVED)

    def refused(number: int, network: str, *, own: bool) -> bool:
        why = leases.hold(holder(number), f"user{number}", [network], [network] if own else [])
        assert why in ("", f"{network} is still another user's, whose session goes on")
        return bool(why)

    for own in (True, False):  # of the same size, within, around
        for network in ("2001:db8::/64", "2001:db8::7/128", "2001:db8::/32", "fd42::/64", "fd42::/65", "fd42::/48"):
            assert refused(3, network, own=own)
    assert refused(3, "fd43::/64", own=True)  # user2's route
    assert not refused(3, "fd43::/64", own=False)
    assert not refused(3, "fd42:0:0:1::/64", own=True)  # beside it
    leases.acquire(holder(6), "user2", pool="main")
    assert leases.hold(holder(6), "user2", ["fd42::/64"], ["fd42::/64"]) == ""  # the same user's
    for gone in (2, 6):
        assert refused(4, "fd42::/64", own=True)
        leases.release(holder(gone))
    assert not refused(4, "fd42::/64", own=True)
    leases.release(holder(1))
    assert not refused(5, "2001:db8::/32", own=True)


def test_leases_stay_when_a_reload_cuts_the_pool_otherwise() -> None:
    """Then no pool hands out a part of one; it is free again when the session is gone and the pools are read again."""
    leases = Leases(SIX, RESERVED, Memory())
    leases.acquire(holder(1), "alice", pool="main")
    assert six(leases, 1, "alice", Purpose.PREFIX, "homes") == "2001:db8::/64"
    assert six(leases, 1, "alice", Purpose.DELEGATED, "sites") == "2001:db8:1::/56"
    other = {
        **POOLS,
        "homes": PoolView.of([parse_span("2001:db8::/62")], prefix_length=63),
        "sites": PoolView.of([parse_span("2001:db8:1::/55")], prefix_length=64),
    }
    leases.configure(other, RESERVED)
    assert [(state.used, state.size) for state in leases.use()] == [(1, 4092), (0, 1), (0, 256)]
    leases.acquire(holder(2), "bob", pool="main")
    assert six(leases, 2, "bob", Purpose.DELEGATED, "sites") == "2001:db8:1:100::/64"
    leases.configure(SIX, RESERVED)
    assert [(state.used, state.size) for state in leases.use()] == [(2, 4092), (0, 3), (0, 0), (0, 2)]
    for number in (1, 2):
        leases.release(holder(number))
    leases.configure(SIX, RESERVED)
    assert [(state.used, state.size) for state in leases.use()] == [(0, 4092), (0, 4), (0, 2), (0, 2)]


def test_what_was_leased_before_a_restart_is_not_handed_out_again() -> None:
    leases = Leases(SIX, RESERVED, Memory())
    assert leases.restore(holder(1), "10.20.0.2", "a", ["2001:db8::/64", "2001:db8:1::/57", "fd42::/64"])
    assert leases.restore(holder(2), "10.20.0.3", "b", ["2001:db8::/64"])  # the earlier one has it
    assert [(state.used, state.size) for state in leases.use()] == [(2, 4092), (0, 3), (0, 1), (0, 2)]
    leases.acquire(holder(3), "carol", pool="main")
    assert six(leases, 3, "carol", Purpose.PREFIX, "homes") == "2001:db8:0:1::/64"
    assert six(leases, 3, "carol", Purpose.DELEGATED, "sites") == "2001:db8:1:100::/56"
    leases = Leases(SIX, RESERVED, Memory())
    assert leases.restore(holder(1), "10.20.0.2", "a", ["2001:db8::/64"])
    leases.release(holder(1))
    leases.acquire(holder(2), "dave", pool="main")
    found = {six(leases, 2, "dave", Purpose.PREFIX, "homes") for _ in range(4)}
    assert found == {"2001:db8::/64", "2001:db8:0:1::/64", "2001:db8:0:2::/64", "2001:db8:0:3::/64"}


def test_a_pool_of_more_addresses_than_a_message_can_say() -> None:
    leases = Leases({"huge": PoolView.of([parse_span("2001:db8::/40")], prefix_length=128)}, (), Memory())
    (state,) = leases.use()
    assert state.size == 2**63 - 1
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=PoolState) == state


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_happens_no_network_of_ipv6_is_two_sessions(data: st.DataObject) -> None:
    """Logins, ends, restarts, reloads with other pools: what one hands out overlaps nothing, fixed or leased."""
    shapes = st.fixed_dictionaries(
        {
            "a": st.sampled_from([("fd00::/58", 60), ("fd00::/58", 64), ("fd00::/59", 64), ("fd00:0:0:20::/59", 61)]),
            "b": st.sampled_from([("fd01::/60", 64), ("fd00:0:0:40::/60", 64), ("fd01::8-fd01::b", 128)]),
        }
    )

    def pools() -> dict[str, PoolView]:
        return {
            "four": PoolView.of([parse_range("10.0.0.0/16")]),
            **{
                name: PoolView.of([parse_ipv6_range(text, length)], prefix_length=length)
                for name, (text, length) in data.draw(shapes).items()
            },
        }

    memory = Memory()
    now = pools()
    leases = Leases(now, (), memory)
    live: dict[int, tuple[str, str, list[IPv6Network], list[IPv6Network]]] = {}  # address, user, leased, fixed
    for number in range(data.draw(st.integers(1, 40))):
        match data.draw(st.sampled_from(["login", "login", "login", "fixed", "end", "reload", "restart"])):
            case "login" | "fixed" as how:
                user = f"user{data.draw(st.integers(0, 5))}"
                address = str(leases.acquire(holder(number), user, pool="four"))
                fixed = []
                if how == "fixed":
                    network = IPv6Network((int(IPv6Address("fd00::")) + (data.draw(st.integers(0, 90)) << 64), 64))
                    own = [str(network)] if data.draw(st.booleans()) else []
                    others_own = [net for _, other, nets, _ in live.values() if other != user for net in nets]
                    if not leases.hold(holder(number), user, [str(network)], own):
                        assert not any(network.overlaps(other) for other in others_own)
                        fixed.append(network)
                leased: list[IPv6Network] = []
                for pool in ("a", "b"):
                    length = now[pool].prefix_length
                    purpose = Purpose.IPV6_ADDRESS if length == 128 else Purpose.DELEGATED
                    found = leases.acquire_ipv6(holder(number), user, purpose, pool)
                    if found is not None:
                        assert found.prefixlen == length
                        others = [net for _, _, *both in live.values() for nets in both for net in nets]
                        assert not any(found.overlaps(other) for other in [*others, *fixed, *leased])
                        leased.append(found)
                live[number] = (address, user, leased, fixed)
            case "end" if live:
                gone = data.draw(st.sampled_from(sorted(live)))
                leases.release(holder(gone))
                del live[gone]
            case "reload":
                now = pools()
                leases.configure(now, ())
            case "restart":
                now = data.draw(st.sampled_from([now, pools()]))
                leases = Leases(now, (), memory, list(memory.items()))
                for number_of, (address, user, leased, fixed) in live.items():
                    networks = [str(network) for network in (*leased, *fixed)]
                    assert leases.restore(holder(number_of), address, user, networks, networks[: len(leased)])
        assert len(leases) == len(live)


def test_100000_churned_logins_share_no_address() -> None:
    """SECURITY 16: from two pools of few addresses, with users who come back and addresses that are asked for."""
    leases = Leases(
        {
            "a": PoolView.of([parse_range("10.0.0.1-10.0.0.200")], next_pool="b"),
            "b": PoolView.of([parse_range("10.0.1.1-10.0.1.200"), parse_range("10.0.3.1-10.0.3.99")]),
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
