"""The chain's patience: a backend that hangs holds a login up for a while only; one that asks a human has the time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from sstpfarm.auth.authorization import Denied, Verdict
from sstpfarm.auth.chain import MARGIN, PATIENCE, Chain, patience_of
from sstpfarm.auth.leases import Holder
from sstpfarm.config.fields import Password
from sstpfarm.config.radius import Radius, RadiusServer
from sstpfarm.config.views import AuthView
from sstpfarm.ipc.messages import AccessRequest, ReloadUsers
from sstpfarm.ipc.process import seal_memfd
from sstpfarm.reasons import Reason
from tests.unit.auth_bench import Bench, run
from tests.unit.logins import request, view


class Hangs:
    """A backend that never answers."""

    async def authenticate(self, holder: Holder, request: AccessRequest) -> Verdict:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    def forget(self, holder: Holder) -> None:
        """Nothing is kept."""


def with_radius(deadline: float) -> AuthView:
    server = RadiusServer(address="127.0.0.1", secret=Password("testing123"))
    return msgspec.structs.replace(view(), radius=Radius(server=(server,), accounting=False, deadline_s=deadline))


def test_a_backend_that_hangs_is_as_good_as_none() -> None:
    verdict = asyncio.run(Chain([Hangs()], patience=0.01).authenticate(Holder(0, "a"), request(b"alice", "x")))
    assert isinstance(verdict, Denied)
    assert verdict.reason is Reason.AUTH_UNAVAILABLE


def test_it_never_ends_before_the_deadline_of_radius(tmp_path: Path) -> None:
    assert patience_of(view()) == patience_of(with_radius(10.0)) == PATIENCE
    assert patience_of(with_radius(120.0)) == 120.0 + MARGIN

    async def story(made: Bench) -> None:
        assert made.auth.chain.patience == 60.0 + MARGIN
        made.master.channel.send(ReloadUsers(), [seal_memfd("view", msgspec.msgpack.encode(with_radius(300.0)))])
        await made.settled()
        assert made.auth.chain.patience == 300.0 + MARGIN

    run(tmp_path, story, with_radius(60.0))
