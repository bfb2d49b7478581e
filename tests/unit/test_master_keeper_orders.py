"""What running sessions are told by the keeper: to end, for a limit or an order, and to authenticate once more."""

from __future__ import annotations

import pytest
from msgspec import structs

from sstpfarm.dataplane.interface import Cell
from sstpfarm.dataplane.rates import RateLimit
from sstpfarm.ipc import messages as m
from sstpfarm.master import keeper as keeper_module
from sstpfarm.master.permissions import SessionPhase
from sstpfarm.reasons import Reason
from tests.unit.inside import needs_root
from tests.unit.keeper_bench import Bench, closed, grant, identifier, opened, run


@needs_root
def test_kick() -> None:
    async def scenario(bench: Bench) -> None:
        bench.keeper.grant(grant(1))
        bench.keeper.grant(grant(2))
        assert bench.keeper.kick("sstp1", "uid 0") == [identifier(2)]
        assert bench.workers[-1] == (0, m.EndSession(session=identifier(2), reason="admin-reset"))
        assert bench.keeper.kick(identifier(1), "uid 0") == [identifier(1)]
        assert bench.keeper.kick("sstp7", "uid 0") == []
        bench.keeper.closed_to_new = True
        bench.keeper.closed(0, closed(1))
        assert bench.phase(1) is SessionPhase.CLOSING  # at the end of the farm nothing is kept for another session
        assert bench.keeper.kick(identifier(1), "uid 0") == []
        await bench.keeper.drain()
        assert bench.place.links() == {"lo", "sstp1"}

    run(scenario)


@needs_root
def test_a_user_is_kicked_from_all_sessions() -> None:
    """A session's identifier and an interface's name come first, whatever users are called."""

    async def scenario(bench: Bench) -> None:
        for number, user in ((1, "alice"), (2, "alice"), (3, "bob"), (4, "sstp2")):
            bench.keeper.grant(structs.replace(grant(number), user=user))
        assert bench.keeper.kick("alice", "uid 0") == [identifier(1), identifier(2)]
        assert bench.keeper.kick("sstp2", "uid 0") == [identifier(3)]
        assert bench.keeper.kick("ali", "uid 0") == []
        ended = [message.session for _, message in bench.workers if isinstance(message, m.EndSession)]
        assert ended == [identifier(1), identifier(2), identifier(3)]

    run(scenario)


@needs_root
def test_limits_are_enforced_and_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(keeper_module, "_now", lambda: clock[0])

    async def scenario(bench: Bench) -> None:
        keeper = bench.keeper
        keeper.grant(structs.replace(grant(1), effects=m.Effects(session_timeout=60)))
        keeper.grant(grant(2))
        keeper.opened(0, opened(1))
        keeper.opened(0, opened(2))
        said = len(bench.workers)
        clock[0] += 59
        keeper.enforce()
        assert bench.workers[said:] == []
        rate = RateLimit(1_000_000, 2_000_000)
        change = m.ChangeSession(worker=0, session=identifier(1), session_timeout=90, rate_limit=rate)
        keeper.change(change)
        assert bench.workers[said:] == [(0, m.ChangeRate(session=identifier(1), rate_limit=rate))]
        keeper.change(structs.replace(change, worker=1))  # no such session of that worker
        keeper.change(m.ChangeSession(worker=0, session=identifier(2), limit_bytes_total=1000))
        keeper.change(m.ChangeSession(worker=0, session=identifier(2)))  # changes nothing
        assert len(bench.workers) == said + 1
        clock[0] += 30
        bench.stats[0].slot(2)[Cell.BYTES_OUT] = 1000
        keeper.enforce()
        assert bench.workers[said + 1 :] == [
            (0, m.EndSession(session=identifier(2), reason="quota")),
        ]
        clock[0] += 1
        keeper.enforce()
        assert bench.workers[-1] == (0, m.EndSession(session=identifier(1), reason="session-timeout"))
        keeper.closed(0, closed(1, "session-timeout"))
        said = len(bench.workers)
        clock[0] += 29
        keeper.enforce()
        assert bench.accused == [(0, "it did not end a session within 30 s")]  # that of session 2
        clock[0] += 60
        keeper.enforce()
        assert len(bench.accused) == 1
        assert len(bench.workers) == said

    run(scenario)


@needs_root
def test_a_session_that_is_to_log_in_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its worker is told so once; auth's answer begins its time anew; without one it ends."""
    clock = [1000.0]
    monkeypatch.setattr(keeper_module, "_now", lambda: clock[0])

    async def scenario(bench: Bench) -> None:
        keeper = bench.keeper
        keeper.grant(structs.replace(grant(1), effects=m.Effects(session_timeout=60, reauthenticate=True)))
        keeper.opened(0, opened(1))
        said = len(bench.workers)
        clock[0] += 60
        keeper.enforce()
        keeper.enforce()
        assert bench.workers[said:] == [(0, m.Reauthenticate(session=identifier(1)))]
        clock[0] += 5
        keeper.change(m.ChangeSession(worker=0, session=identifier(1), renewed=True))
        clock[0] += 59
        keeper.enforce()
        assert len(bench.workers) == said + 1
        clock[0] += 1
        keeper.enforce()
        assert bench.workers[-1] == (0, m.Reauthenticate(session=identifier(1)))
        clock[0] += 60 + 30
        keeper.enforce()
        assert bench.workers[said + 2 :] == [(0, m.EndSession(session=identifier(1), reason="auth-timeout"))]
        assert bench.keeper.listing()[0]["uptime_s"] == 60 + 5 + 60 + 90  # it is one session all the time

    run(scenario)


@needs_root
def test_a_worker_must_obey_a_kick_too(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(keeper_module, "_now", lambda: clock[0])

    async def scenario(bench: Bench) -> None:
        for number in (1, 2, 3):
            bench.keeper.grant(grant(number))
        bench.keeper.kick(identifier(1), "uid 0")
        bench.keeper.revoke(0, identifier(2), Reason.REPLACED)
        bench.keeper.closed(0, closed(1))
        clock[0] += 31
        bench.keeper.enforce()
        assert len(bench.accused) == 1

    run(scenario)
