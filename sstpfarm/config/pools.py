"""What pools hand out: addresses of IPv4, or prefixes of IPv6 of one length, of which 128 bits are single addresses."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import Final

from sstpfarm.config.addresses import AddressRange, parse_ipv6_range, parse_range
from sstpfarm.config.locate import KeyPath
from sstpfarm.config.ppp import Pool
from sstpfarm.config.report import Report, dotted, show, suggest
from sstpfarm.config.schema import Config

RANGE_FORMS: Final = '"FIRST-LAST", "NETWORK/LENGTH" or one address'
ADDRESS: Final = 128  # bits
SUBNET: Final = 64  # bits of a prefix in front of an interface identifier, RFC 4291 2.5.1
SHORTEST: Final = 48  # bits of the largest network that a pool hands out
OF_IPV4: Final = frozenset({0})
PREFIXES: Final = frozenset({SUBNET})  # clients can make addresses from these only
NETWORKS: Final = frozenset(range(SHORTEST, SUBNET + 1))
SINGLES: Final = frozenset({ADDRESS})
"""Prefix lengths of the pools that are good for one purpose or another."""


def prefix_length(pool: Pool) -> int:
    """Return how long the prefixes are that a pool hands out, 0 for a pool of IPv4 addresses."""
    if not any(":" in text for text in pool.ranges):
        return 0
    return SUBNET if pool.prefix_length is None else pool.prefix_length


def step_of(length: int) -> int:
    """Return how many addresses are in what a session gets of a pool with that prefix length."""
    return 1 << (ADDRESS - length) if length else 1


def ranges_of(pool: Pool) -> list[AddressRange]:
    """Return the ranges of a pool as they are written; what is none is reported elsewhere."""
    found = []
    for text in pool.ranges:
        with suppress(ValueError):
            found.append(_parse(text, prefix_length(pool)))
    return found


def assignable(pool: Pool, fixed: Iterable[AddressRange] = ()) -> tuple[AddressRange, ...]:
    """Return what a pool hands out, in order: without what it excludes, and whole prefixes only.

    Args:
        fixed: networks of IPv6 that users have. What is fixed of IPv4 `AuthView.reserved` tells.
    """
    length = prefix_length(pool)
    holes = [_parse_hole(text, length) for text in pool.exclude]
    return without(ranges_of(pool), [*holes, *(fixed if length else ())], step_of(length))


def without(ranges: Iterable[AddressRange], holes: Iterable[AddressRange], step: int) -> tuple[AddressRange, ...]:
    """Return the ranges without the holes, in order; a prefix of `step` addresses goes as a whole."""
    cuts = sorted(holes)
    pieces: list[tuple[int, int]] = []
    at = 0
    for begin, last in sorted(ranges):
        while at < len(cuts) and cuts[at].last < begin:
            at += 1
        following = at  # a hole may reach into the next range too
        while following < len(cuts) and cuts[following].first <= last:
            pieces.append((begin, min(cuts[following].first - 1, last)))
            begin = max(begin, cuts[following].last + 1)
            following += 1
        pieces.append((begin, last))
    whole = (AddressRange(-(-first // step) * step, (last + 1) // step * step - 1) for first, last in pieces)
    return tuple(piece for piece in whole if piece.first <= piece.last)


def check_pools(config: Config, report: Report) -> None:
    """Every range is well-formed, no address is in two of them, and each pool is of one kind."""
    found: list[tuple[AddressRange, KeyPath, str]] = []
    for name, pool in config.pool.items():
        found += _check_pool(pool, name, report)
        if pool.next_pool:
            check_pool_name(pool.next_pool, config.pool, {prefix_length(pool)}, ("pool", name, "next-pool"), report)
    found.sort(key=lambda item: item[0])
    widest: tuple[AddressRange, KeyPath, str] | None = None  # of those before, the one that reaches furthest
    for item in found:
        addresses, place, text = item
        if widest is not None and addresses.first <= widest[0].last:
            report.add(place, f"{show(text)} overlaps {show(widest[2])} of {dotted(widest[1][:2])}")
        if widest is None or addresses.last > widest[0].last:
            widest = item


def check_pool_name(
    name: str, pools: Mapping[str, Pool], lengths: Collection[int], key: KeyPath, report: Report
) -> None:
    """Report a pool that is not there, or whose prefixes have none of these lengths."""
    pool = pools.get(name)
    if pool is None:
        report.add(key, f"there is no pool {show(name)}; {suggest(name, pools)}")
    elif prefix_length(pool) not in lengths:
        has = kind_of({prefix_length(pool)})
        report.add(key, f"{show(name)} is a pool of {has}; allowed: one of {kind_of(lengths)}")


def kind_of(lengths: Collection[int]) -> str:
    """Return what pools with these prefix lengths hand out."""
    if len(lengths) > 1:
        return f"IPv6 prefixes of {min(lengths)} to {max(lengths)} bits"
    (length,) = lengths
    return {0: "IPv4 addresses", ADDRESS: "IPv6 addresses"}.get(length, f"IPv6 prefixes of {length} bits")


def _check_pool(pool: Pool, name: str, report: Report) -> list[tuple[AddressRange, KeyPath, str]]:
    """Report what is wrong inside of one pool; return its ranges."""
    length = prefix_length(pool)
    path: KeyPath = ("pool", name, "prefix-length")
    if pool.prefix_length is not None and not length:
        report.add(path, "stands in a pool of IPv4 addresses; allowed: beside ranges of IPv6")
    if length not in OF_IPV4 | NETWORKS | SINGLES:
        report.add_value(path, length, "is not allowed", f"{SHORTEST} to {SUBNET}, or {ADDRESS}")
        return []
    found: list[tuple[AddressRange, KeyPath, str]] = []
    for index, text in enumerate(pool.ranges):
        path = ("pool", name, "ranges", index)
        try:
            found.append((_parse(text, length), path, text))
        except ValueError as error:
            report.add_value(path, text, str(error), RANGE_FORMS)
    for index, text in enumerate(pool.exclude):
        try:
            _parse_hole(text, length)
        except ValueError as error:
            report.add_value(("pool", name, "exclude", index), text, str(error), RANGE_FORMS)
    return found


def _parse(text: str, length: int) -> AddressRange:
    return parse_ipv6_range(text, length) if length else parse_range(text)


def _parse_hole(text: str, length: int) -> AddressRange:
    """A hole may be smaller than a prefix."""
    return parse_ipv6_range(text, ADDRESS, whole=True) if length else parse_range(text, whole=True)
