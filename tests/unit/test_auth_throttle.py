"""The throttle: what is free, how long the door stays shut, and the bound of its table."""

from __future__ import annotations

import pytest

from sstpfarm.auth import throttle as module
from sstpfarm.auth.throttle import Throttle
from tests.unit.homes_book import throttle as new

HERE = "192.0.2.7:1000"


def fail(throttle: Throttle, times: int, now: float = 0.0, user: bytes = b"alice", caller: str = HERE) -> None:
    for _ in range(times):
        throttle.failed(throttle.keys(user, caller), now)


def test_a_few_failures_are_free_and_more_shut_the_door_twice_as_long_each() -> None:
    throttle = new(5)
    fail(throttle, 5)
    assert throttle.shut(b"alice", HERE, 0) == 0
    shut = []
    for _ in range(7):
        fail(throttle, 1)
        shut.append(throttle.shut(b"alice", HERE, 0))
    assert shut == [12, 24, 48, 96, 192, 300, 300]
    assert throttle.shut(b"alice", HERE, 299.5) == 0.5
    assert throttle.shut(b"alice", HERE, 301) == 0


def test_failures_are_forgotten_at_the_rate_that_is_free() -> None:
    throttle = new(5)
    for number in range(20):  # one in 12 s, for ever
        fail(throttle, 1, now=12.0 * number)
        assert throttle.shut(b"alice", HERE, 12.0 * number) == 0
    fail(throttle, 5, now=12.0 * 19)
    assert throttle.shut(b"alice", HERE, 12.0 * 19) > 0


@pytest.mark.parametrize(
    ("user", "caller", "shut"),
    [
        (b"alice", "198.51.100.1:5", True),  # the user, from anywhere
        (b"CORP\\alice", "198.51.100.1:5", True),  # a domain is free to choose
        (b"bob", "192.0.2.200:5", True),  # anybody of that network
        (b"bob", "[::ffff:192.0.2.200]:5", True),
        (b"bob", "192.0.3.7:5", False),
        (b"bob", "[2001:db8::1]:5", False),
        (b"Alice", "198.51.100.1:5", False),
        (b"alice", "nonsense", True),
        (b"bob", "nonsense", False),
    ],
)
def test_the_user_and_the_network_of_24_bits_are_counted(user: bytes, caller: str, shut: bool) -> None:
    throttle = new(5)
    fail(throttle, 6)
    assert (throttle.shut(user, caller, 0) > 0) == shut


def test_networks_of_ipv6_have_64_bits() -> None:
    throttle = new(2)
    for number in range(3):
        fail(throttle, 1, user=b"u%d" % number, caller=f"[2001:db8:0:1::{number}]:9")
    assert throttle.shut(b"x", "[2001:db8:0:1:ffff::]:9", 0) > 0
    assert throttle.shut(b"x", "[2001:db8:0:2::]:9", 0) == 0


def test_a_success_forgets_the_users_failures_and_not_the_networks() -> None:
    throttle = new(5)
    fail(throttle, 5)
    throttle.succeeded(b"alice", HERE)
    fail(throttle, 1)
    assert throttle.shut(b"alice", "198.51.100.1:5", 0) == 0
    assert throttle.shut(b"bob", HERE, 0) > 0


def test_nobody_shuts_a_user_out_from_afar() -> None:
    throttle = new(5)
    throttle.succeeded(b"alice", HERE)
    fail(throttle, 50, caller="198.51.100.1:5")
    assert throttle.shut(b"alice", "203.0.113.1:5", 0) > 0
    assert throttle.shut(b"CORP\\alice", "192.0.2.99:5", 0) == 0
    fail(throttle, 6)
    assert throttle.shut(b"alice", HERE, 0) > 0
    throttle.succeeded(b"alice", HERE)
    assert throttle.shut(b"alice", HERE, 0) == 0


def test_no_name_can_be_sent_that_stands_for_another_user_at_home() -> None:
    throttle = new(5)
    throttle.succeeded(b"alice", HERE)
    fail(throttle, 50, user=b"alice\0n" + bytes((192, 0, 2, 0)), caller="198.51.100.1:5")
    assert throttle.shut(b"alice", HERE, 0) == 0


def test_a_forgotten_device_does_not_shut_out_the_office() -> None:
    throttle = new(5)
    throttle.succeeded(b"alice", HERE)
    fail(throttle, 50, user=b"bob")
    assert throttle.shut(b"bob", HERE, 0) > 0
    assert throttle.shut(b"carol", HERE, 0) > 0  # nobody knows her here
    assert throttle.shut(b"alice", HERE, 0) == 0


def test_the_table_is_bounded_and_forgets_who_failed_longest_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.MAX_ENTRIES == 65_536
    monkeypatch.setattr(module, "MAX_ENTRIES", 100)
    throttle = new(5)
    fail(throttle, 6)
    for number in range(500):
        fail(throttle, 1, user=b"user%d" % number, caller=f"10.{number // 256}.{number % 256}.1:1")
        if number % 20 == 0:
            fail(throttle, 1)
        assert len(throttle) <= 100
    assert throttle.shut(b"alice", "198.51.100.1:1", 0) > 0
    assert throttle.shut(b"user0", "198.51.100.1:1", 0) == 0


def test_it_can_be_switched_off() -> None:
    throttle = new(0)
    fail(throttle, 1000)
    assert throttle.shut(b"alice", HERE, 0) == 0
    assert len(throttle) == 0
