"""Networks of IPv4 behind clients after a reload: what is one user's now may still be that of another's session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from sstpfarm.config.addresses import parse_range
from sstpfarm.config.views import AuthView, PoolView
from sstpfarm.ipc.messages import AccessAccept, AccessReject

from .auth_bench import Bench, run
from .logins import request, secret, view

FIXED = {"remote_address": "10.9.0.5"}
ROUTED = {"routes": ("10.9.0.0/24",)}
POOL = "10.20.0.2-10.20.0.4"


def settings(alice: dict[str, Any], bob: dict[str, Any], pool: str = POOL) -> AuthView:
    pools = {"main": PoolView.of([parse_range(part) for part in pool.split(" ")])}
    users = {name: secret("wonderland", **terms) for name, terms in (("alice", alice), ("bob", bob))}
    return msgspec.structs.replace(view(delay=0.0, ipv6=False), secrets=users, pools=pools)


async def login(made: Bench, user: str, session: int) -> Any:
    worker = made.workers[0] if made.workers else made.worker(0)
    return await made.ask(worker, request(user.encode(), "wonderland", session=session))


@pytest.fixture(params=[False, True], ids=["reloaded", "restarted"])
def over(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Plays two stories one after the other, the second under other settings: after a reload, or in another process."""

    def play(first: Any, second: Any, before: AuthView, after: AuthView) -> None:
        async def both(made: Bench) -> None:
            await first(made)
            if not request.param:
                made.auth.service._take_view(after)
                await second(made)

        run(tmp_path, both, before)
        if request.param:
            run(tmp_path, second, after)

    return play


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        pytest.param(FIXED, ROUTED, "10.9.0.0/24", id="a route around a fixed address"),
        pytest.param({}, {"routes": ("10.20.0.0/28",)}, "10.20.0.0/28", id="a route around an address of a pool"),
        pytest.param(ROUTED, FIXED, "10.9.0.5", id="a fixed address within a route"),
    ],
)
def test_what_is_still_anothers_is_refused_until_his_session_is_gone(
    over: Any, before: dict[str, Any], after: dict[str, Any], what: str
) -> None:
    async def first(made: Bench) -> None:
        assert isinstance(await login(made, "alice", 1), AccessAccept)

    async def second(made: Bench) -> None:
        refused = await login(made, "bob", 2)
        assert isinstance(refused, AccessReject)
        assert refused.reason == "no-address"
        (denied,) = made.named("login.denied")
        assert denied["detail"].startswith(f"{what} is still another ")
        assert len(made.auth.leases) == 1
        made.release(1)
        await made.settled()
        answer = await login(made, "bob", 3)
        assert isinstance(answer, AccessAccept)
        assert what in (answer.terms.remote_address, *answer.terms.networks)

    over(first, second, settings(before, {}), settings({}, after, "10.21.0.2-10.21.0.9"))


def test_a_pool_hands_nothing_out_of_a_network_that_a_session_has(over: Any) -> None:
    """It does when that session is gone."""

    async def first(made: Bench) -> None:
        assert isinstance(await login(made, "alice", 1), AccessAccept)

    async def second(made: Bench) -> None:
        assert (await login(made, "bob", 2)).terms.remote_address == "10.10.0.1"
        refused = await login(made, "bob", 3)
        assert isinstance(refused, AccessReject)
        assert refused.reason == "no-address"
        assert [(state.used, state.size) for state in made.auth.leases.use()] == [(1, 1)]
        made.release(1)
        await made.settled()
        assert (await login(made, "bob", 4)).terms.remote_address == "10.9.0.1"
        assert [(state.used, state.size) for state in made.auth.leases.use()] == [(2, 4)]

    over(first, second, settings(ROUTED, {}), settings({}, {}, "10.9.0.1-10.9.0.3 10.10.0.1"))


@pytest.mark.parametrize("other", ["10.9.0.0/24", "10.9.0.0/16", "10.9.0.128/25"])
def test_routes_contest_each_other_as_ever(over: Any, other: str) -> None:
    """Two users may have one network behind them, and two sessions of one user may: gateways of one site."""

    async def first(made: Bench) -> None:
        assert isinstance(await login(made, "alice", 1), AccessAccept)

    async def second(made: Bench) -> None:
        for session, user in ((2, "bob"), (3, "alice")):
            assert isinstance(await login(made, user, session), AccessAccept)

    over(first, second, settings(ROUTED, {}), settings(ROUTED, {"routes": (other,)}))
