"""Addresses in nftables sets: what nft lists after each transaction."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from ipaddress import IPv4Address

import pytest

from sstpfarm.net import nft
from sstpfarm.net.sets import Sets, rule_handles
from tests.unit.inside import Namespace, inside, namespace, needs_root

NEEDS = [
    needs_root,
    pytest.mark.skipif(
        shutil.which("nft", path=nft.SEARCH_PATH) is None, reason="needs the program nft (Debian package nftables)"
    ),
]
pytestmark = NEEDS
ONE, TWO = IPv4Address("10.20.0.1"), IPv4Address("10.20.0.2")


def members(place: Namespace, name: str) -> set[str]:
    """The elements of a set, as nft lists them."""
    found = json.loads(place.run("nft", "-j", "list", "sets").stdout)["nftables"]
    (listed,) = [entry["set"] for entry in found if "set" in entry and entry["set"]["name"] == name]
    assert listed["type"] == "ipv4_addr"
    return set(listed.get("elem", ()))


def run(scenario: Callable[[Namespace, Sets], None]) -> None:
    def main() -> None:
        nft.install(forwarding=False, client_to_client=False, masquerade="", lists=("staff", "everyone"))
        sets = Sets(nft.TABLE_NAME)
        try:
            scenario(place, sets)
        finally:
            sets.close()

    with namespace("sets") as place:
        inside(place, main)


def test_enter_and_leave() -> None:
    def scenario(place: Namespace, sets: Sets) -> None:
        sets.change(ONE, enter=["staff", "everyone"])
        sets.change(TWO, enter=["everyone"])
        sets.change(TWO, enter=["everyone"])  # in it already
        assert members(place, "staff") == {"10.20.0.1"}
        assert members(place, "everyone") == {"10.20.0.1", "10.20.0.2"}
        sets.change(ONE, enter=["staff"], leave=["everyone"])
        assert members(place, "staff") == {"10.20.0.1"}
        assert members(place, "everyone") == {"10.20.0.2"}
        sets.change(ONE)
        sets.change(ONE, leave=["staff"])
        assert members(place, "staff") == set()

    run(scenario)


def test_what_is_gone_is_no_obstacle() -> None:
    def scenario(place: Namespace, sets: Sets) -> None:
        sets.change(ONE, enter=["staff"])
        place.run("nft", "flush", "set", "inet", nft.TABLE_NAME, "staff")
        sets.change(ONE, enter=["everyone"], leave=["staff"])
        assert members(place, "everyone") == {"10.20.0.1"}
        place.run("nft", "delete", "set", "inet", nft.TABLE_NAME, "staff")
        sets.change(ONE, leave=["staff", "everyone"])
        assert members(place, "everyone") == set()

    run(scenario)


def test_all_or_nothing() -> None:
    def scenario(place: Namespace, sets: Sets) -> None:
        with pytest.raises(FileNotFoundError):
            sets.change(ONE, enter=["everyone", "nobody"])
        assert members(place, "everyone") == set()
        sets.change(ONE, enter=["everyone"])  # the socket goes on
        assert members(place, "everyone") == {"10.20.0.1"}

    run(scenario)


def test_sets_are_made_on_demand_and_their_names_need_not_please_nft() -> None:
    def scenario(place: Namespace, sets: Sets) -> None:
        for name in ("guests", "drop", "guests", "x" * 64):
            sets.make(name)
        sets.change(ONE, enter=["guests", "drop", "x" * 64])
        assert members(place, "guests") == {"10.20.0.1"}
        sets.make("guests")
        assert members(place, "guests") == {"10.20.0.1"}
        place.run(
            "nft", "add", "set", "inet", nft.TABLE_NAME, "theirs", "{", "type", "ipv4_addr;", "timeout", "1h;", "}"
        )
        sets.make("theirs")  # one of the operator's, with properties of its own
        sets.change(TWO, enter=["theirs"])
        assert "10.20.0.2" in place.run("nft", "list", "set", "inet", nft.TABLE_NAME, "theirs").stdout
        place.run("nft", "add", "rule", "inet", nft.TABLE_NAME, "input", "ip", "saddr", "@guests", "drop")
        rules = rule_handles(nft.TABLE_NAME)
        listed = place.run("nft", "-a", "list", "table", "inet", nft.TABLE_NAME).stdout
        assert len(rules) == listed.count(" # handle") - 9  # of the table, of six sets and of two chains
        place.run("nft", "flush", "chain", "inet", nft.TABLE_NAME, "input")
        assert len(rule_handles(nft.TABLE_NAME)) == len(rules) - 3
        assert rule_handles(nft.TABLE_NAME) < rules
        place.run("nft", "add", "table", "ip", nft.TABLE_NAME)
        nft.remove()
        assert rule_handles(nft.TABLE_NAME) == frozenset()
        with pytest.raises(FileNotFoundError):
            sets.make("guests")
        with pytest.raises(FileNotFoundError):
            sets.change(ONE, enter=["guests"])

    run(scenario)
