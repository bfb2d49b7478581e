"""worker/admission.py: heavy sources are dropped first, and the others log in; what is told of it."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Sequence
from itertools import count

import pytest
from msgspec.structs import fields

from sstpfarm.config.schema import Server
from sstpfarm.reasons import Reason
from sstpfarm.worker.admission import Admission, Report, source_of

MOST = Server().max_starting
PER_SOURCE = next(field.default for field in fields(Server) if field.name == "max_starting_per_source")
SECONDS = 120.0
HOLD = Server().http_deadline_s  # for so long a silent connection keeps its place
ATTEMPTS = 300.0  # connections a second of all abusive sources together: ten times what fills all places in HOLD
LOGINS = 40.0  # a second, of the other sources together
SOURCES = 1000


def never() -> float:
    """The draw with which nobody is dropped early."""
    return float("inf")


def fill(admission: Admission, source: str, connections: int) -> Counter[Reason | None]:
    """Try that many from one source; how often each came out."""
    found: Counter[Reason | None] = Counter()
    for number in range(connections):
        refusal = admission.refusal((source,))
        found[refusal] += 1
        if refusal is None:
            admission.enter(f"{source} {number}", (source,))
    return found


def attacked(abusive: Sequence[str], per_source: int | None, seed: int) -> tuple[float, int]:
    """The share of the others' logins that get in, and how many there were, while these hosts beside 999 are abusive.

    Each abusive connection says nothing until its deadline; a login takes 50 ms to 2 s.
    """
    others = [source_of(f"198.51.{number >> 8}.{number & 255}") for number in range(SOURCES - 1)]
    abusers = [source_of(host) for host in abusive]
    draw = random.Random(seed)
    admission = Admission(MOST, per_source, draw.random)
    names = count()
    leaving: list[tuple[float, str]] = []
    outcomes: Counter[bool] = Counter()
    attack, login = 0.0, 0.0
    while (now := min(attack, login)) < SECONDS:
        while leaving and leaving[0][0] <= now:
            admission.leave(heapq.heappop(leaving)[1])
        if attack <= login:
            attack += draw.expovariate(ATTEMPTS)
            source, stay = draw.choice(abusers), HOLD
        else:
            login += draw.expovariate(LOGINS)
            source, stay = draw.choice(others), draw.uniform(0.05, 2.0)
        refusal = admission.refusal(source)
        if refusal is None:
            name = str(next(names))
            admission.enter(name, source)
            heapq.heappush(leaving, (now + stay, name))
        if stay != HOLD and now > HOLD:  # the attack has had the time to take all that it gets
            outcomes[refusal is None] += 1
    return outcomes[True] / outcomes.total(), outcomes.total()


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("abusive", [1, 3, 30, 50])
def test_abusive_addresses_beside_many_others_keep_nobody_out(abusive: int, seed: int) -> None:
    share, logins = attacked([f"192.0.2.{number}" for number in range(abusive)], PER_SOURCE, seed)
    assert logins > 3000
    assert share >= 0.999


def test_a_site_with_more_networks_than_there_are_places_keeps_nobody_out() -> None:
    share, logins = attacked([f"2001:db8:1:{number:x}::1" for number in range(2 * MOST)], PER_SOURCE, 1)
    assert logins > 3000
    assert share >= 0.999


def test_without_a_limit_of_the_source_the_same_attack_keeps_out_most() -> None:
    """What the figures above are worth: it is not the attack that is weak."""
    share, _ = attacked(["192.0.2.1"], None, 1)
    assert share < 0.5


def test_an_attacker_leaves_room_for_an_office_behind_one_address() -> None:
    admission = Admission(MOST, PER_SOURCE, random.Random(1).random)
    assert fill(admission, "192.0.2.1", 3000) == {None: PER_SOURCE, Reason.SOURCE_LIMIT: 3000 - PER_SOURCE}
    assert fill(admission, "198.51.100.1", 400) == {None: 400}


def test_a_source_is_dropped_early_by_its_share_of_what_is_free() -> None:
    """120 places, 90 taken, 30 free: who holds 3 is dropped in (12 / 30)^2 of all cases, who holds 8 always."""
    admission = Admission(120, 100, random.Random(5).random)
    for source, places in (("three", 3), ("eight", 8)):
        fill(admission, source, places)
    for number in range(79):
        fill(admission, f"other {number}", 1)
    drawn = Counter(admission.refusal(("three",)) for _ in range(4000))
    assert set(drawn) == {None, Reason.EARLY_DROP}
    assert drawn[Reason.EARLY_DROP] / 4000 == pytest.approx((12 / 30) ** 2, abs=0.02)
    assert {admission.refusal(("eight",)) for _ in range(100)} == {Reason.EARLY_DROP}
    assert {admission.refusal(("nobody yet",)) for _ in range(100)} == {None}


def test_nobody_is_dropped_early_below_two_thirds() -> None:
    admission = Admission(120, 100, lambda: 0.0)
    assert fill(admission, "one", 81) == {None: 80, Reason.EARLY_DROP: 1}


def test_a_full_table_takes_nobody_and_holds_no_more_than_it_may() -> None:
    admission = Admission(10, 3, never)
    assert [admission.refusal(("x",)) for _ in range(2)] == [None, None]
    for number in range(20):
        fill(admission, f"source {number}", 1)
    assert len(admission) == len(admission._held) == 10
    assert admission.refusal(("x",)) is Reason.STARTING_LIMIT
    admission.leave("source 3 0")
    admission.leave("source 3 0")
    assert len(admission) == len(admission._held) == 9
    assert admission.refusal(("x",)) is None


def test_nothing_is_kept_of_those_who_left() -> None:
    admission = Admission(10, 3, never)
    for number, host in enumerate(("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "192.0.2.1")):
        admission.enter(str(number), source_of(host))
    assert admission._held == {"2001:db8::/64": 2, "2001:db8:0:1::/64": 1, "2001:db8::/48": 3, "192.0.2.1": 1}
    for number in range(4):
        admission.leave(str(number))
    assert admission._held == {}
    assert len(admission) == 0


def test_sources_that_are_not_told_apart_may_fill_all_places() -> None:
    """Behind a balancer of TCP all clients have one address."""
    admission = Admission(1500, None, lambda: 0.0)
    assert fill(admission, "192.0.2.1", 1501) == {None: 1500, Reason.STARTING_LIMIT: 1}


def test_each_rule_is_reported_once_a_minute_with_its_count() -> None:
    admission = Admission(4, 2, never)
    assert admission.reports(0.0) == ()
    fill(admission, "a", 5)
    assert admission.reports(0.5) == [Report(Reason.SOURCE_LIMIT, 3, 2, "a", 2)]
    assert admission.reports(0.6) == ()
    fill(admission, "a", 4)
    fill(admission, "b", 2)
    fill(admission, "c", 1)
    assert admission.reports(60.4) == [Report(Reason.STARTING_LIMIT, 1, 4, "a", 2)]
    assert admission.reports(60.5) == [Report(Reason.SOURCE_LIMIT, 4, 4, "a", 2)]
    assert admission.reports(200.0) == ()
    for name in ("a 0", "a 1", "b 0", "b 1"):
        admission.leave(name)
    admission.drop(Reason.SESSION_LIMIT)
    assert admission.reports(200.0) == [Report(Reason.SESSION_LIMIT, 1, 0, "", 0)]


@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("192.0.2.7", ("192.0.2.7",)),
        ("::ffff:192.0.2.7", ("192.0.2.7",)),
        ("2001:db8:1:2:3:4:5:6", ("2001:db8:1:2::/64", "2001:db8:1::/48")),
        ("2001:db8:1:2::", ("2001:db8:1:2::/64", "2001:db8:1::/48")),
        ("::1", ("::/64", "::/48")),
        ("fe80::1", ("fe80::/64", "fe80::/48")),
    ],
)
def test_a_source_is_an_address_of_ipv4_or_a_64_of_ipv6(host: str, source: tuple[str, ...]) -> None:
    assert source_of(host) == source
