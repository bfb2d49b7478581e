"""Free addresses: none twice, none lost, and no work that grows with the pool."""

from __future__ import annotations

from ipaddress import IPv4Address

from hypothesis import given, settings
from hypothesis import strategies as st

from sstpfarm.auth.pools import REST, AddressBook
from sstpfarm.config.addresses import AddressRange, parse_range


def number(address: str) -> int:
    return int(IPv4Address(address))


def test_addresses_come_in_order_over_all_ranges_without_reserved_ones() -> None:
    book = AddressBook(
        {"main": [parse_range("10.0.1.8-10.0.1.9"), parse_range("10.0.0.1-10.0.0.3")]}, reserved=[number("10.0.0.2")]
    )
    taken = [book.take_from("main") for _ in range(5)]
    assert taken == [number("10.0.0.1"), number("10.0.0.3"), number("10.0.1.8"), number("10.0.1.9"), None]


def test_a_pool_that_does_not_exist_has_no_address() -> None:
    assert AddressBook({}).take_from("main") is None


def test_a_released_address_rests_while_there_are_fresh_ones() -> None:
    book = AddressBook({"main": [parse_range("10.0.0.1-10.0.0.3")]})
    first = book.take_from("main")
    assert first == number("10.0.0.1")
    book.give_back(first)
    assert [book.take_from("main") for _ in range(4)] == [
        number("10.0.0.2"),
        number("10.0.0.3"),
        first,
        None,
    ]


def test_an_address_that_is_given_back_twice_is_free_once() -> None:
    book = AddressBook({"main": [parse_range("10.0.0.1")]})
    address = book.take_from("main")
    assert address is not None
    book.give_back(address)
    book.give_back(address)
    assert book.take_from("main") == address
    assert book.take_from("main") is None


def test_a_fixed_address_is_in_use_at_most_once_and_never_from_a_pool() -> None:
    fixed = number("10.0.0.1")
    book = AddressBook({"main": [parse_range("10.0.0.1-10.0.0.2")]}, reserved=[fixed])
    assert book.take(fixed)
    assert not book.take(fixed)
    book.give_back(fixed)
    assert [book.take_from("main"), book.take_from("main")] == [number("10.0.0.2"), None]
    assert book.take(fixed)


def test_addresses_in_use_from_the_start_are_skipped_and_come_back() -> None:
    first, second = number("10.0.0.1"), number("10.0.0.2")
    book = AddressBook({"main": [parse_range("10.0.0.1-10.0.0.2")]}, in_use=[first])
    assert [book.take_from("main"), book.take_from("main")] == [second, None]
    book.give_back(first)
    assert book.take_from("main") == first


def test_a_huge_pool_costs_no_more_than_what_is_used() -> None:
    """100,000 logins in 10.0.0.0/8, 500 at a time: few distinct addresses, and each rests for REST others."""
    book = AddressBook({"main": [parse_range("10.0.0.0/8")]})
    live: list[int] = []
    seen = set()
    for _ in range(100_000):
        address = book.take_from("main")
        assert address is not None
        live.append(address)
        seen.add(address)
        if len(live) > 500:
            book.give_back(live.pop(0))
    assert len(set(live)) == len(live) == len(book)
    assert len(seen) <= 500 + REST + 3


def test_an_address_that_was_asked_for_is_not_handed_out_and_comes_back_once() -> None:
    """A RADIUS server may name an address of a pool; it may be fresh there, or one that rests."""
    first, second, third = (number(f"10.0.0.{last}") for last in (1, 2, 3))
    book = AddressBook({"main": [parse_range("10.0.0.1-10.0.0.3")]})
    assert book.take(second)
    assert [book.take_from("main"), book.take_from("main"), book.take_from("main")] == [first, third, None]
    book.give_back(first)
    assert book.take(first)
    book.give_back(first)
    assert [book.take_from("main"), book.take_from("main")] == [first, None]
    assert not book.take(first)


def test_a_pool_tells_its_size_and_use() -> None:
    book = AddressBook({"main": [parse_range("10.0.0.1-10.0.0.4")]}, reserved=[number("10.0.0.4"), number("10.9.9.9")])
    pool = book.pools["main"]
    assert (pool.used, pool.size) == (0, 3)
    book.take_from("main")
    book.take(number("10.0.0.3"))
    book.take(number("10.0.0.4"))
    assert pool.used == 2
    book.give_back(number("10.0.0.3"))
    book.give_back(number("10.0.0.4"))
    assert (pool.used, pool.size) == (1, 3)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(0, 6)), min_size=1, max_size=4),
    st.sets(st.integers(1, 60), max_size=4),
    st.lists(st.one_of(st.just("take"), st.just("fixed"), st.integers(0, 40), st.integers(-60, -1)), max_size=120),
    st.sampled_from([1, 8, 2**64]),
)
def test_no_address_is_ever_used_twice_or_lost(
    spans: list[tuple[int, int]], reserved: set[int], steps: list[str | int], size: int
) -> None:
    """Against a model that keeps the whole list, of addresses or prefixes; a negative step asks for that very one."""
    ranges: list[AddressRange] = []
    end = 0
    for gap, length in spans:
        ranges.append(AddressRange(end + gap, end + gap + length))
        end = ranges[-1].last
    assignable = {address * size for found in ranges for address in range(found.first, found.last + 1)}
    reserved = {address * size for address in reserved}
    assignable -= reserved
    whole = [AddressRange(found.first * size, (found.last + 1) * size - 1) for found in ranges]
    book = AddressBook({"main": whole}, reserved, steps={"main": size})
    assert book.pools["main"].size == len(assignable)
    live: list[int] = []
    for step in steps:
        if step == "take":
            address = book.take_from("main")
            assert (address is None) == (assignable <= set(live))
            if address is not None:
                assert address in assignable - set(live)
                live.append(address)
        elif step == "fixed":
            for address in reserved:
                assert book.take(address) == (address not in live)
                live.extend([address] if address not in live else [])
        elif isinstance(step, int) and step < 0:
            wanted = -step * size
            assert book.hands_out(AddressRange(wanted, wanted + size - 1)) == (wanted in assignable)
            assert book.take(wanted) == (wanted not in live)
            live.extend([wanted] if wanted not in live else [])
        elif live:
            book.give_back(live.pop(int(step) % len(live)))
        assert len(book) == len(live)
        assert book.pools["main"].used == len(assignable & set(live))


def test_a_part_of_a_prefix_is_none() -> None:
    book = AddressBook({"main": [AddressRange(64, 127)]}, steps={"main": 16})
    expected = {(64, 79): True, (64, 64): False, (72, 87): False, (64, 95): False, (112, 127): True, (128, 143): False}
    assert {addresses: book.hands_out(AddressRange(*addresses)) for addresses in expected} == expected
    touched = {(0, 63): False, (0, 64): True, (70, 71): True, (127, 200): True, (128, 128): False, (0, 500): True}
    assert {addresses: book.touches(AddressRange(*addresses)) for addresses in touched} == touched
    assert not book.is_free(72, "main")
