"""master/ledger.py: which limit ends a session, when, and what ten thousand sessions with limits cost to look at."""

from __future__ import annotations

from array import array
from typing import Any

import pytest

from sstpfarm.dataplane.interface import CELLS, Cell
from sstpfarm.ipc import messages as m
from sstpfarm.master.ledger import ASKED_PER_TICK, OBEDIENCE, Ledger
from sstpfarm.master.sessions import Session
from sstpfarm.reasons import Reason

BEGAN = 5000.0


class Bench:
    """A ledger and sessions in it, each with cells of its own."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.cells: dict[int, memoryview] = {}

    def session(self, *, opened: float | None = BEGAN, **limits: Any) -> Session:
        terms = m.Terms(local_address="10.0.0.1", remote_address="10.0.0.2")
        effects = m.Effects(**limits)
        grant = m.Grant(
            worker=0,
            session=f"{len(self.cells):016x}",
            user="u",
            caller_id="c",
            method="pap",
            mtu=1400,
            slot=0,
            terms=terms,
            effects=effects,
        )
        session = Session(grant, BEGAN - 3, effects, opened=opened)
        cells = self.cells[id(session)] = memoryview(array("Q", bytes(8 * CELLS)))
        self.ledger.enter(session, cells, BEGAN)
        return session

    def reasons(self, now: float) -> list[Reason | None]:
        return [reason for _, reason in self.ledger.used_up(now)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_session_without_limits_is_not_looked_at(bench: Bench) -> None:
    bench.session(clamp_mss=False)
    assert len(bench.ledger) == 0
    assert bench.reasons(BEGAN + 10**9) == []


def test_session_timeout(bench: Bench) -> None:
    session = bench.session(session_timeout=60)
    assert bench.reasons(BEGAN + 59.9) == []
    assert bench.ledger.used_up(BEGAN + 60) == [(session, Reason.SESSION_TIMEOUT)]


def test_idle_timeout_counts_from_the_last_packet_or_the_beginning(bench: Bench) -> None:
    session = bench.session(idle_timeout=10)
    assert bench.reasons(BEGAN + 9.9) == []
    assert bench.reasons(BEGAN + 10) == [Reason.IDLE_TIMEOUT]
    bench.cells[id(session)][Cell.ACTIVE] = round((BEGAN + 8) * 1000)
    assert bench.reasons(BEGAN + 17.9) == []
    assert bench.reasons(BEGAN + 18) == [Reason.IDLE_TIMEOUT]


@pytest.mark.parametrize(
    ("limits", "carried", "over"),
    [
        ({"limit_bytes_in": 1000}, (999, 10**9), False),
        ({"limit_bytes_in": 1000}, (1000, 0), True),
        ({"limit_bytes_out": 1000}, (10**9, 999), False),
        ({"limit_bytes_out": 1000}, (0, 1000), True),
        ({"limit_bytes_total": 1000}, (500, 499), False),
        ({"limit_bytes_total": 1000}, (500, 500), True),
        ({"limit_bytes_total": 2**63 - 1}, (2**62, 2**62 - 2), False),
    ],
)
def test_bytes(bench: Bench, limits: dict[str, int], carried: tuple[int, int], over: bool) -> None:
    session = bench.session(**limits)
    cells = bench.cells[id(session)]
    cells[Cell.BYTES_IN], cells[Cell.BYTES_OUT] = carried
    assert bench.reasons(BEGAN + 10**6) == [Reason.QUOTA] * over


def test_what_was_told_to_end_is_not_told_again_but_must_end(bench: Bench) -> None:
    session = bench.session(session_timeout=60)
    bench.ledger.end(session, BEGAN + 60)
    bench.ledger.end(session, BEGAN + 80)  # a second order gives no more time
    bench.ledger.change(session, bench.cells[id(session)], BEGAN + 60)
    assert bench.reasons(BEGAN + 100) == []
    assert bench.ledger.disobeyed(BEGAN + 60 + OBEDIENCE - 1) == []
    assert bench.ledger.disobeyed(BEGAN + 60 + OBEDIENCE) == [session]
    assert bench.ledger.disobeyed(BEGAN + 61 + OBEDIENCE) == []


def test_a_session_that_left_owes_nothing(bench: Bench) -> None:
    session = bench.session(session_timeout=60)
    other = bench.session(session_timeout=60)
    bench.ledger.end(session, BEGAN)
    for one in (session, other, other):
        bench.ledger.leave(one)
    assert bench.reasons(BEGAN + 100) == []
    assert bench.ledger.disobeyed(BEGAN + 1000) == []
    assert len(bench.ledger) == 0


def test_changed_limits_count_what_was_used_up(bench: Bench) -> None:
    session = bench.session(session_timeout=60)
    cells = bench.cells[id(session)]
    session.effects = m.Effects(session_timeout=100, limit_bytes_in=5)
    bench.ledger.change(session, cells, BEGAN + 50)
    assert bench.reasons(BEGAN + 99) == []
    assert bench.reasons(BEGAN + 100) == [Reason.SESSION_TIMEOUT]
    session.effects = m.Effects()
    bench.ledger.change(session, cells, BEGAN + 50)
    assert len(bench.ledger) == 0


def test_a_session_that_is_never_said_to_be_open_counts_from_its_grant(bench: Bench) -> None:
    bench.session(opened=None, session_timeout=60)
    assert bench.reasons(BEGAN + 60) == [Reason.SESSION_TIMEOUT]


# -- once more, at the end of the time ---------------------------------------------------------------------------------


def test_a_session_that_is_to_log_in_again_is_named_once_and_renewed(bench: Bench) -> None:
    session = bench.session(session_timeout=60, reauthenticate=True)
    cells = bench.cells[id(session)]
    assert bench.reasons(BEGAN + 59.9) == []
    assert bench.ledger.used_up(BEGAN + 60) == [(session, None)]
    assert bench.reasons(BEGAN + 100) == []
    bench.ledger.renew(session, cells, BEGAN + 100)
    assert bench.reasons(BEGAN + 159.9) == []
    assert bench.ledger.used_up(BEGAN + 160) == [(session, None)]
    session.effects = m.Effects(session_timeout=30)  # the next grant has no Termination-Action
    bench.ledger.renew(session, cells, BEGAN + 161)
    assert bench.reasons(BEGAN + 190.9) == []
    assert bench.reasons(BEGAN + 191) == [Reason.SESSION_TIMEOUT]


def test_one_that_is_not_renewed_in_time_ends(bench: Bench) -> None:
    """Its worker should have ended it; an order that comes meanwhile neither asks again nor lets it off."""
    session = bench.session(session_timeout=60, reauthenticate=True)
    assert bench.reasons(BEGAN + 60) == [None]
    session.effects = m.Effects(session_timeout=1, reauthenticate=True)
    bench.ledger.change(session, bench.cells[id(session)], BEGAN + 70)
    assert bench.reasons(BEGAN + 149.9) == []
    assert bench.reasons(BEGAN + 150) == [Reason.AUTH_TIMEOUT]


def test_the_other_limits_hold_while_it_is_asked(bench: Bench) -> None:
    session = bench.session(session_timeout=60, reauthenticate=True, limit_bytes_in=1000, idle_timeout=1000)
    assert bench.reasons(BEGAN + 60) == [None]
    bench.cells[id(session)][Cell.BYTES_IN] = 1000
    assert bench.reasons(BEGAN + 61) == [Reason.QUOTA]


def test_idle_time_is_not_begun_anew(bench: Bench) -> None:
    session = bench.session(session_timeout=60, reauthenticate=True, idle_timeout=100)
    assert bench.reasons(BEGAN + 60) == [None]
    bench.ledger.renew(session, bench.cells[id(session)], BEGAN + 61)
    assert bench.reasons(BEGAN + 99.9) == []
    assert bench.reasons(BEGAN + 100) == [Reason.IDLE_TIMEOUT]


def test_a_session_that_never_opened_is_not_asked(bench: Bench) -> None:
    bench.session(opened=None, session_timeout=60, reauthenticate=True)
    assert bench.reasons(BEGAN + 60) == [Reason.SESSION_TIMEOUT]


def test_ten_thousand_whose_time_is_over_in_one_moment_are_asked_a_few_at_a_time(bench: Bench) -> None:
    sessions = [bench.session(session_timeout=60, reauthenticate=True) for _ in range(10_000)]
    asked: list[Session] = []
    for second in range(100):
        found = bench.ledger.used_up(BEGAN + 60 + second)
        assert [reason for _, reason in found] == [None] * ASKED_PER_TICK
        for session, _ in found:
            bench.ledger.renew(session, bench.cells[id(session)], BEGAN + 60 + second)
        asked += [session for session, _ in found]
    assert list(map(id, asked)) == list(map(id, sessions))  # and nobody twice, though it is due again after 60 s
