"""The agenda: each session is due once, when it is planned; what ended or was planned anew leaves nothing behind.

And the table: a login and an end do not go over the sessions that there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from sstpfarm.auth import sessions as module
from sstpfarm.auth.authorization import Authorization
from sstpfarm.auth.sessions import Agenda, Session, Sessions
from sstpfarm.auth.store import SessionFacts
from sstpfarm.config.views import PoolView
from sstpfarm.ipc.messages import AccessAccept, Grant, Terms
from tests.unit.auth_bench import Bench, run
from tests.unit.logins import request, secret, view


def session(number: int, due: float) -> Session:
    grant = Grant(
        worker=0,
        session=f"{number:016x}",
        user="alice",
        caller_id="192.0.2.1:1",
        method="pap",
        mtu=1400,
        slot=1,
        terms=Terms(local_address="10.0.0.1", remote_address="10.0.0.2"),
    )
    return Session(SessionFacts(grant=grant, authorization=Authorization(user="alice")), interim_due=due)


def test_each_is_due_once_and_at_its_last_plan() -> None:
    sessions = Sessions()
    agenda = Agenda(sessions, lambda found: found.interim_due)
    late, early, gone, moved = (session(number, due) for number, due in enumerate((3.0, 1.0, 2.0, 1.0)))
    for found in (late, early, gone, moved):
        sessions.add(found)
        agenda.plan(found)
    moved.interim_due = 2.5
    agenda.plan(moved)
    sessions.remove(gone.holder)
    assert agenda.next(0.9) is None
    assert [agenda.next(2.6) for _ in range(3)] == [early, moved, None]
    assert [agenda.next(9.0) for _ in range(2)] == [late, None]
    assert len(agenda) == 0


def test_it_grows_with_the_sessions_that_there_are_and_not_with_those_that_there_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SLACK", 10)
    sessions = Sessions()
    agenda = Agenda(sessions, lambda found: found.interim_due)
    stays = session(0, 5.0)
    sessions.add(stays)
    agenda.plan(stays)
    for number in range(1, 200):
        found = session(number, 1e9)
        sessions.add(found)
        agenda.plan(found)
        sessions.remove(found.holder)
        stays.interim_due += 1.0  # planned anew again and again
        agenda.plan(stays)
        assert len(agenda) <= 2 + 10
    assert agenda.next(1e6) is stays


def test_sessions_of_an_account_that_expires_some_day_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLACK", 10)

    async def story(made: Bench) -> None:
        worker = made.worker(0)
        for number in range(50):
            assert isinstance(await made.ask(worker, request(b"guest", "x", session=number)), AccessAccept)
            made.start(number)
            made.release(number, opened=True)
            await made.settled()
        assert len(made.auth.admission._expiries) <= 2 + 10
        assert len(made.auth.ledger._agenda) <= 2 + 10

    guest = secret("x", expires="2199-01-01")
    pools = {"main": PoolView(("10.20.0.2-10.20.0.9",))}
    run(tmp_path, story, msgspec.structs.replace(view(), secrets={"guest": guest}, pools=pools))


def test_a_login_and_an_end_go_over_no_other_sessions_not_even_those_of_the_same_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An account may be that of thousands; going over them at each login cost 40 us with 5,000."""
    gone_over: list[str] = []
    of_user, every = Sessions.of_user, Sessions.__iter__

    def spied_of_user(sessions: Sessions, user: str) -> list[Session]:
        gone_over.append(user)
        return of_user(sessions, user)

    def spied_iter(sessions: Sessions) -> Iterator[Session]:
        gone_over.append("all")
        return every(sessions)

    monkeypatch.setattr(Sessions, "of_user", spied_of_user)
    monkeypatch.setattr(Sessions, "__iter__", spied_iter)

    async def story(made: Bench) -> None:
        gone_over.clear()  # a start does go over those of before
        worker = made.worker(0)
        for number in range(4):  # the fourth is one too many
            answer = await made.ask(worker, request(b"guest", "x", session=number))
            assert isinstance(answer, AccessAccept) is (number < 3)
        made.start(0)
        made.release(0, opened=True)
        await made.settled()
        assert isinstance(await made.ask(worker, request(b"guest", "x", session=4)), AccessAccept)
        assert made.auth.sessions.count("guest") == 3
        assert made.auth.sessions.count("nobody") == 0
        assert gone_over == []

    pools = {"main": PoolView(("10.20.0.2-10.20.0.9",))}
    guest = secret("x", port_limit=3)
    run(tmp_path, story, msgspec.structs.replace(view(delay=0.0), secrets={"guest": guest}, pools=pools))
