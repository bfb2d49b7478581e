"""config/pools.py: what ranges of IPv6 are, and what is left of ranges without what is taken out of them."""

from __future__ import annotations

from ipaddress import IPv6Address

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sstpfarm.config.addresses import AddressRange, parse_ipv6_range, parse_span
from sstpfarm.config.pools import assignable, prefix_length, step_of, without
from sstpfarm.config.ppp import Pool
from sstpfarm.config.routes import parse_network
from sstpfarm.config.views import PoolView

SPANS = st.lists(
    st.builds(lambda first, size: AddressRange(first, first + size), st.integers(0, 90), st.integers(0, 30)), max_size=8
)


@pytest.mark.parametrize(
    ("text", "length", "first", "last"),
    [
        ("2001:db8::/40", 64, "2001:db8::", "2001:db8:ff:ffff:ffff:ffff:ffff:ffff"),
        ("2001:db8::/64", 64, "2001:db8::", "2001:db8::ffff:ffff:ffff:ffff"),
        ("2001:db8::-2001:db8:0:3::", 64, "2001:db8::", "2001:db8:0:3:ffff:ffff:ffff:ffff"),
        ("2001:db8:: - 2001:db8:0:3:ffff:ffff:ffff:ffff", 64, "2001:db8::", "2001:db8:0:3:ffff:ffff:ffff:ffff"),
        ("2001:DB8:0::/56", 56, "2001:db8::", "2001:db8:0:ff:ffff:ffff:ffff:ffff"),
        ("2001:db8::/64", 128, "2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff"),  # RFC 4291 2.6.1
        ("2001:db8::/127", 128, "2001:db8::", "2001:db8::1"),  # RFC 6164
        ("2001:db8::7", 128, "2001:db8::7", "2001:db8::7"),
        ("2001:db8::7-2001:db8::9", 128, "2001:db8::7", "2001:db8::9"),
    ],
)
def test_ranges_of_ipv6(text: str, length: int, first: str, last: str) -> None:
    found = parse_ipv6_range(text, length)
    assert (IPv6Address(found.first), IPv6Address(found.last)) == (IPv6Address(first), IPv6Address(last))
    assert parse_span(str(found)) == found


@pytest.mark.parametrize("text", ["2001:db8::%eth0/64", "2001:db8::%1-2001:db8:1::", "2001:db8::%1"])
def test_a_range_has_no_zone(text: str) -> None:
    with pytest.raises(ValueError, match="has a zone"):
        parse_ipv6_range(text, 64)


@given(text=st.text("0123456789abcdef:./-% ", max_size=30), length=st.sampled_from([48, 64, 128]))
def test_what_is_no_range_is_refused_and_what_is_one_travels(text: str, length: int) -> None:
    try:
        found = parse_ipv6_range(text, length)
    except ValueError:
        return
    assert 2**120 <= found.first <= found.last < 2**128
    assert parse_span(str(found)) == found


def test_a_network_behind_a_client_has_no_zone() -> None:
    with pytest.raises(ValueError, match="has a zone"):
        parse_network("fd00::%1/64")


@pytest.mark.parametrize(
    ("ranges", "length", "expected"),
    [(("10.0.0.0/24",), None, 0), (("2001:db8::/40",), None, 64), (("2001:db8::1",), 128, 128)],
)
def test_how_long_the_prefixes_of_a_pool_are(ranges: tuple[str, ...], length: int | None, expected: int) -> None:
    assert prefix_length(Pool(ranges=ranges, prefix_length=length)) == expected


def test_a_prefix_goes_as_a_whole_when_a_part_of_it_is_somebody_elses() -> None:
    pool = Pool(ranges=("2001:db8::/61",), exclude=("2001:db8:0:2::9", "2001:db8:0:5::/65"))
    fixed = [parse_span("2001:db8:0:7::/64"), parse_span("fd00::/64"), parse_span("10.0.0.0/8")]
    left = ("2001:db8::/63", "2001:db8:0:3::-2001:db8:0:4::", "2001:db8:0:6::/64")
    assert assignable(pool, fixed) == tuple(parse_ipv6_range(text, 64) for text in left)


@pytest.mark.parametrize(
    ("ranges", "exclude", "left"),
    [
        ("10.0.0.250-10.0.2.5", "10.0.1.0/24", ["10.0.0.250-10.0.0.255", "10.0.2.0-10.0.2.5"]),
        ("2001:db8::-2001:db8::5", "2001:db8::/126", ["2001:db8::4-2001:db8::5"]),
    ],
)
def test_all_of_an_excluded_network_is_excluded(ranges: str, exclude: str, left: list[str]) -> None:
    """Also the first and the last address, which are left out where a network is to be handed out."""
    pool = Pool(ranges=(ranges,), exclude=(exclude,), prefix_length=128 if ":" in ranges else None)
    assert assignable(pool) == tuple(map(parse_span, left))


def test_fixed_prefixes_of_ipv6_cut_no_pool_of_ipv4() -> None:
    pool = Pool(ranges=("10.0.0.1-10.0.0.9",))
    assert assignable(pool, [AddressRange(0, 2**128)]) == (parse_span("10.0.0.1-10.0.0.9"),)


@given(ranges=SPANS, holes=SPANS, step=st.sampled_from([1, 2, 4]))
def test_what_is_left_of_ranges(ranges: list[AddressRange], holes: list[AddressRange], step: int) -> None:
    """Against a model that knows each address: whole prefixes of which nothing is taken."""
    disjoint: list[AddressRange] = []
    for first, last in sorted(ranges):
        begin = max(first, disjoint[-1].last + 1 if disjoint else 0)
        whole = AddressRange(-(-begin // step) * step, (last + 1) // step * step - 1)
        disjoint += [whole] if whole.first <= whole.last else []
    taken = {address for hole in holes for address in range(hole.first, hole.last + 1)}
    expected = {
        first
        for addresses in disjoint
        for first in range(addresses.first, addresses.last + 1, step)
        if not taken & set(range(first, first + step))
    }
    found = without(disjoint, holes, step)
    assert [first for addresses in found for first in range(addresses.first, addresses.last + 1, step)] == sorted(
        expected
    )
    assert all(addresses.first % step == 0 == (addresses.last + 1) % step for addresses in found)


def test_a_view_travels_with_its_ranges() -> None:
    spans = (parse_span("10.0.0.1-10.0.0.9"), parse_span("fd00::/40"))
    view = PoolView.of(spans, "next", 64)
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(view), type=PoolView)
    assert (again, again.spans()) == (view, spans)
    assert step_of(again.prefix_length) == 2**64
