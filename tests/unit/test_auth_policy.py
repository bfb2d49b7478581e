"""What a user may have at once: one session, a few, until when; and what a reload ends."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sstpfarm.auth.admission import RELEASE_PATIENCE
from sstpfarm.auth.authorization import Accepted, Backend, Denied, Verdict
from sstpfarm.auth.chain import Chain
from sstpfarm.auth.leases import Holder
from sstpfarm.auth.local import LocalBackend
from sstpfarm.config.addresses import parse_range
from sstpfarm.config.books import Auth
from sstpfarm.config.fields import Password
from sstpfarm.config.ppp import Secret
from sstpfarm.config.radius import Radius, RadiusServer
from sstpfarm.config.views import AuthView, PoolView
from sstpfarm.ipc.messages import AccessAccept, AccessReject, AccessRequest, Grant, LiveSessions, ReloadUsers, Revoke
from sstpfarm.ipc.permissions import Party
from sstpfarm.ipc.process import seal_memfd
from sstpfarm.proto.sstp.call import SstpSettings
from sstpfarm.proto.tunnel import TunnelSettings
from sstpfarm.reasons import Reason
from sstpfarm.transport.farewell import FLUSH, LINGER
from tests.radius_double import RadiusDouble, Received, attribute, local
from tests.unit.auth_bench import Bench, run
from tests.unit.logins import PROFILE, request, secret, view

ADDRESS = "10.20.0.77"
MANY = 200


def settings(**secrets: Secret) -> AuthView:
    """Users beside alice; a pool that is large enough, and refusals that do not wait."""
    before = view(delay=0.0)
    return msgspec.structs.replace(
        before,
        max_starting=2 * MANY,
        secrets={**before.secrets, **secrets},
        pools={"main": PoolView.of([parse_range("10.20.1.0-10.20.3.255")])},
    )


class Master:
    """Plays the master: a session that is to end is released a moment later; the worker's answers are counted."""

    def __init__(self, made: Bench, patience: float = 0.0) -> None:
        self.made = made
        self.patience = patience
        self.live: dict[str, str] = {}  # session: address
        self.twice: list[str] = []  # addresses that two sessions had at once

    async def serve(self) -> None:
        while True:
            message = await self.made.master.inbox.get()
            if isinstance(message, Grant):
                address = message.terms.remote_address
                self.twice += [address] if address in self.live.values() else []
                self.live[message.session] = address
            elif isinstance(message, Revoke) and message.session in self.live:
                asyncio.get_running_loop().call_later(self.patience, self.end, message.session, message.reason)

    def end(self, session: str, reason: str) -> None:
        if self.live.pop(session, None) is not None:
            self.made.release(int(session, 16), reason=reason)


@pytest.mark.parametrize("only_one", ["replace", "deny"])
@pytest.mark.parametrize("address", ["", ADDRESS])
def test_200_logins_at_once_of_one_user_leave_exactly_one(tmp_path: Path, only_one: str, address: str) -> None:
    """SECURITY 19."""
    terms: dict[str, Any] = {"only_one": only_one, **({"remote_address": address} if address else {})}

    async def story(made: Bench) -> None:
        master = Master(made, patience=0.01)
        playing = asyncio.ensure_future(master.serve())
        worker = made.worker(0)
        for number in range(MANY):
            worker.channel.send(request(b"solo", "one", "pap", session=number))
        answers = [await worker.next() for _ in range(MANY)]
        await made.until(lambda: len(made.auth.sessions) == 1 and len(master.live) == 1)
        playing.cancel()
        accepted = [answer.session for answer in answers if isinstance(answer, AccessAccept)]
        assert list(master.live) == [session.holder.session for session in made.auth.sessions]
        assert set(master.live) <= set(accepted)
        assert master.twice == []
        refused = {answer.reason for answer in answers if isinstance(answer, AccessReject)}
        if only_one == "deny":
            assert (len(accepted), refused) == (1, {"already-connected"})
        else:
            assert refused <= {"replaced"}
            assert {reason for _, reason in made.revoked()} == {"replaced"}
        if not address:
            assert (len(accepted) == MANY) == (only_one == "replace")

    run(tmp_path, story, settings(solo=secret("one", **terms)))


def test_a_login_waits_longer_than_the_end_of_a_session_whose_peer_is_dead() -> None:
    waits: dict[str, Any] = {
        field.name: field.default for settings in (TunnelSettings, SstpSettings) for field in fields(settings)
    }
    assert waits["terminate_wait"] + waits["disconnect_1"] + max(LINGER, FLUSH) < RELEASE_PATIENCE


def test_a_replaced_session_that_does_not_end_costs_the_login_and_not_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sstpfarm.auth.admission.RELEASE_PATIENCE", 0.1)

    async def story(made: Bench) -> None:
        worker = made.worker(0)
        assert isinstance(await made.ask(worker, request(b"solo", "one", session=1)), AccessAccept)
        answer = await made.ask(worker, request(b"solo", "one", session=2))
        assert (answer.session, answer.reason) == (f"{2:016x}", "no-address")
        assert made.revoked() == [(f"{1:016x}", "replaced")]
        assert len(made.auth.leases) == 1
        made.release(1)
        assert isinstance(await made.ask(worker, request(b"solo", "one", session=3)), AccessAccept)

    run(tmp_path, story, settings(solo=secret("one", only_one="replace", remote_address=ADDRESS)))


def test_a_waiting_login_whose_peer_goes_takes_nothing(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        worker = made.worker(0)
        assert isinstance(await made.ask(worker, request(b"solo", "one", session=1)), AccessAccept)
        worker.channel.send(request(b"solo", "one", session=2))
        await made.until(lambda: bool(made.revoked()))
        worker.channel.close()
        await made.until(lambda: not made.auth.service._workers)
        made.release(1)
        await made.until(lambda: len(made.auth.sessions) == 0)
        assert len(made.grants()) == 1

    run(tmp_path, story, settings(solo=secret("one", only_one="replace", remote_address=ADDRESS)))


def test_a_user_has_as_many_sessions_as_the_limit_says(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        worker = made.worker(0)
        for number in (1, 2):
            assert isinstance(await made.ask(worker, request(b"few", "two", session=number)), AccessAccept)
        assert (await made.ask(worker, request(b"few", "two", session=3))).reason == "already-connected"
        assert isinstance(await made.ask(worker, request(b"alice", "wonderland", session=4)), AccessAccept)
        made.release(1)
        await made.settled()
        assert isinstance(await made.ask(worker, request(b"few", "two", session=5)), AccessAccept)

    run(tmp_path, story, settings(few=secret("two", port_limit=2)))


def test_limits_count_the_sessions_of_an_auth_process_before(tmp_path: Path) -> None:
    async def before(made: Bench) -> None:
        assert isinstance(await made.ask(made.worker(0), request(b"solo", "one", session=1)), AccessAccept)

    async def after(made: Bench) -> None:
        answer = await made.ask(made.worker(0), request(b"solo", "one", session=2))
        assert answer.reason == "already-connected"

    users = settings(solo=secret("one", only_one="deny"))
    run(tmp_path, before, users)
    run(tmp_path, after, users)


def test_an_account_expires_also_under_a_running_session(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        made.now = 1_800_000_000.0
        worker = made.worker(0)
        assert isinstance(await made.ask(worker, request(b"brief", "x", session=1)), AccessAccept)
        made.now = 1_893_456_000.0 - 0.1
        made.auth.admission.expire()
        assert made.revoked() == []
        made.now += 0.1
        made.auth.admission.expire()
        await made.until(lambda: made.revoked() == [(f"{1:016x}", "expired")])
        answer = await made.ask(worker, request(b"brief", "x", session=2))
        assert (answer.reason, b"expired" in answer.message) == ("expired", True)
        assert (await made.ask(worker, request(b"brief", "wrong", session=3))).reason == "auth-refused"

    run(tmp_path, story, settings(brief=secret("x", expires="2030-01-01T00:00:00Z")))


def reload(made: Bench, new: AuthView) -> None:
    fd = seal_memfd("users", msgspec.msgpack.encode(new))
    made.master.channel.send(ReloadUsers(), (fd,))
    os.close(fd)


def test_a_reload_brings_new_users_and_ends_the_sessions_of_those_who_are_gone_or_disabled(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        worker = made.worker(0)
        for number, user in enumerate((b"alice", b"gone", b"shut", b"dated"), 1):
            assert isinstance(await made.ask(worker, request(user, "wonderland", session=number)), AccessAccept)
        new = settings(
            shut=secret("wonderland", disabled=True),
            dated=secret("wonderland", expires="2020-01-01"),
            fresh=secret("wonderland"),
        )
        reload(made, msgspec.structs.replace(new, pools={"main": PoolView.of([parse_range("10.9.9.9")])}))
        await made.until(lambda: len(made.revoked()) == 3)
        assert sorted(made.revoked()) == [
            (f"{2:016x}", "admin-reset"),
            (f"{3:016x}", "admin-reset"),
            (f"{4:016x}", "expired"),
        ]
        answer = await made.ask(worker, request(b"fresh", "wonderland", session=9))
        assert answer.terms.remote_address == "10.9.9.9"
        assert (await made.ask(worker, request(b"gone", "wonderland", session=10))).reason == "auth-refused"
        assert made.named("users.reloaded") == [{"users": len(new.secrets)}]

    ordinary = secret("wonderland")
    run(tmp_path, story, settings(gone=ordinary, shut=ordinary, dated=ordinary))


def test_who_was_disabled_while_no_auth_process_was_there_is_out(tmp_path: Path) -> None:
    async def before(made: Bench) -> None:
        for number, user in enumerate((b"alice", b"shut"), 1):
            answer = await made.ask(made.worker(number), request(user, "wonderland", session=number))
            assert isinstance(answer, AccessAccept)

    async def after(made: Bench) -> None:
        made.master.channel.send(LiveSessions(sessions=(f"{1:016x}", f"{2:016x}")))
        await made.until(lambda: made.revoked() != [])
        assert made.revoked() == [(f"{2:016x}", "admin-reset")]

    run(tmp_path, before, settings(shut=secret("wonderland")))
    run(tmp_path, after, settings(shut=secret("wonderland", disabled=True)))


def test_who_is_disabled_while_the_login_is_decided_stays_out(tmp_path: Path) -> None:
    class Slow:
        def __init__(self, backend: Backend) -> None:
            self._backend = backend
            self.decided, self.go = asyncio.Event(), asyncio.Event()

        async def authenticate(self, holder: Holder, request: AccessRequest) -> Verdict:
            verdict = await self._backend.authenticate(holder, request)
            self.decided.set()
            await self.go.wait()
            return verdict

        def forget(self, holder: Holder) -> None:
            """Nothing is kept."""

    async def story(made: Bench) -> None:
        slow = Slow(made.auth.local)
        made.auth.service._chain = Chain([slow])
        worker = made.worker(0)
        worker.channel.send(request(b"shut", "wonderland", session=1))
        await slow.decided.wait()
        reload(made, settings(shut=secret("wonderland", disabled=True)))
        await made.until(lambda: made.named("users.reloaded") != [])
        slow.go.set()
        assert (await worker.next()).reason == "auth-refused"
        assert made.grants() == []

    run(tmp_path, story, settings(shut=secret("wonderland")))


def test_who_guesses_finds_the_door_shut_whatever_he_knows(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        worker = made.worker(0)
        for number in range(4):
            answer = await made.ask(worker, request(b"alice", "wrong", "pap", session=number))
        shut = await made.ask(worker, request(b"alice", "wonderland", "pap", session=9))
        assert (shut.reason, shut.message) == (answer.reason, answer.message) == ("auth-refused", answer.message)
        elsewhere = request(b"home", "sweet", session=5, caller_id="192.0.2.9:1")
        assert isinstance(await made.ask(worker, elsewhere), AccessAccept)
        assert [party for party, _ in made.journal if party is Party.WORKER]

    run(tmp_path, story, msgspec.structs.replace(settings(), auth=Auth(failures_per_minute=3)))


def test_a_grant_of_radius_that_contradicts_itself_is_no_guess(tmp_path: Path) -> None:
    """One wrong attribute of one user must not shut the door before a whole office."""

    def accept(received: Received) -> Iterable[bytes]:
        yield received.reply(2, attribute(7, (6).to_bytes(4, "big")))  # Framed-Protocol is not PPP

    async def story(made: Bench) -> None:
        worker = made.worker(0)
        for number in range(6):
            assert isinstance(await made.ask(worker, request(b"odd", "x", "pap", session=number)), AccessReject)
        assert len(made.named("login.denied")) == 6
        assert all("Framed-Protocol is 6" in denied["detail"] for denied in made.named("login.denied"))
        assert made.auth.radius is not None
        await made.auth.radius.close()

    with RadiusDouble(local(), accept) as double:
        server = RadiusServer(address="127.0.0.1", auth_port=double.port, secret=Password("testing123"))
        users = msgspec.structs.replace(
            settings(),
            auth=Auth(backends=("radius",), failures_per_minute=3),
            radius=Radius(server=(server,), accounting=False),
        )
        run(tmp_path, story, users)


def test_our_own_address_is_given_to_nobody(tmp_path: Path) -> None:
    def accept(received: Received) -> Iterable[bytes]:
        yield received.reply(2, attribute(8, bytes((10, 20, 0, 1))))

    async def story(made: Bench) -> None:
        assert (await made.ask(made.worker(0), request(b"odd", "x", "pap"))).reason == "no-address"
        assert made.named("login.denied")[0]["detail"] == "the fixed address is our own"
        assert len(made.auth.leases) == 0
        assert made.auth.radius is not None
        await made.auth.radius.close()

    with RadiusDouble(local(), accept) as double:
        server = RadiusServer(address="127.0.0.1", auth_port=double.port, secret=Password("testing123"))
        radius = Radius(server=(server,), accounting=False)
        run(tmp_path, story, msgspec.structs.replace(settings(), auth=Auth(backends=("radius",)), radius=radius))


@pytest.mark.parametrize("change", [{}, {"password": Password("another")}, {"profile": "new"}, None])
def test_a_user_whom_a_reload_changes_while_his_proof_is_judged_asks_again(
    change: dict[str, Any] | None,
) -> None:
    """Who is the same in the new configuration comes in, and nobody with the terms of before."""
    user = secret("wonderland", profile="old")
    before = msgspec.structs.replace(view(), profiles={**view().profiles, "old": PROFILE}, secrets={"alice": user})
    after = msgspec.structs.replace(
        before,
        profiles={**view().profiles, **({"old": PROFILE} if change == {} else {"new": PROFILE})},
        secrets={} if change is None else {"alice": msgspec.structs.replace(user, **change)},
    )
    backend = LocalBackend(before, os.urandom)
    known = backend.find(b"alice")
    assert known is not None
    backend.reload(msgspec.msgpack.decode(msgspec.msgpack.encode(after), type=AuthView))
    verdict = backend.accepted(known, bytes(32))
    if change == {}:
        assert isinstance(verdict, Accepted)
    else:
        assert isinstance(verdict, Denied)
        assert (verdict.reason, verdict.told) == (Reason.AUTH_UNAVAILABLE, False)


def test_a_reload_brings_new_terms() -> None:
    backend = LocalBackend(view(), os.urandom)
    for address in ("10.20.0.50", "10.20.0.51"):
        backend.reload(msgspec.structs.replace(view(), secrets={"alice": secret("x", remote_address=address)}))
        known = backend.find(b"alice")
        assert known is not None
        accepted = backend.accepted(known, b"")
        assert isinstance(accepted, Accepted)
        assert accepted.authorization.remote_address == address
