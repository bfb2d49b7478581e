"""The auth service between a master and workers, over real channels."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec

from sstpfarm.auth.authorization import Denied, Unavailable, Unknown, Verdict
from sstpfarm.auth.chain import Chain
from sstpfarm.auth.leases import Holder
from sstpfarm.auth.local import LocalBackend
from sstpfarm.config.addresses import AddressRange
from sstpfarm.config.views import PoolView
from sstpfarm.ipc.messages import (
    AccessAccept,
    AccessCancelled,
    AccessChallenge,
    AccessReject,
    AccessRequest,
    Grant,
    LiveSessions,
    PoolUse,
    SessionReleased,
    Shutdown,
)
from sstpfarm.ipc.permissions import Party
from sstpfarm.proto.ppp.eap import RESPONSE
from sstpfarm.proto.ppp.packet import Packet, encode_packet
from tests.unit import auth_bench
from tests.unit.auth_bench import Bench
from tests.unit.logins import request, secret, view

DELAY = 0.2
SETTINGS = view(delay=DELAY)


def run(directory: Path, story: auth_bench.Story) -> None:
    auth_bench.run(directory, story, SETTINGS)


def test_the_master_gets_the_grant_before_the_worker_gets_the_answer(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        worker = made.worker(3)
        worker.channel.send(request(b"alice", "wonderland"))
        grant, answer = await made.master.next(), await worker.next()
        assert isinstance(grant, Grant)
        assert isinstance(answer, AccessAccept)
        assert (grant.worker, grant.session, grant.terms) == (3, answer.session, answer.terms)
        assert [party for party, _ in made.journal] == [Party.MASTER, Party.MASTER, Party.WORKER]

    run(tmp_path, story)


def test_a_refusal_waits_and_holds_up_nobody(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        clock = asyncio.get_running_loop().time
        worker, other = made.worker(0), made.worker(1)
        began = clock()
        worker.channel.send(request(b"alice", "wrong", session=1))
        worker.channel.send(request(b"mallory", "wrong", session=2))
        worker.channel.send(request(b"alice", "wonderland", session=3))
        other.channel.send(request(b"fixed", "nailed", session=4))
        assert isinstance(await worker.next(), AccessAccept)
        assert isinstance(await other.next(), AccessAccept)
        assert worker.inbox.empty()  # the refusals, asked for before, still wait
        for session in (1, 2):
            answer = await worker.next()
            assert isinstance(answer, AccessReject)
            assert (answer.session, answer.reason) == (f"{session:016x}", "auth-refused")
        assert clock() - began >= DELAY
        assert [event["detail"] for event in made.named("login.denied")] == ["wrong password", "unknown user"]

    run(tmp_path, story)


def test_refusals_that_wait_are_bounded_for_each_worker(tmp_path: Path) -> None:
    """What comes beyond is not judged, so a right password and a wrong one look the same."""

    async def story(made: Bench) -> None:
        worker, other = made.worker(0), made.worker(1)
        for session in range(4):
            worker.channel.send(request(b"alice", "wrong", session=session))
        worker.channel.send(request(b"alice", "wonderland", session=8))
        worker.channel.send(request(b"alice", "wrong", session=9))
        for session in (8, 9):
            answer = await worker.next()
            assert (answer.session, answer.reason, answer.message) == (f"{session:016x}", "auth-unavailable", b"")
        other.channel.send(request(b"alice", "wonderland"))
        assert isinstance(await other.next(), AccessAccept)
        for _ in range(4):
            assert (await worker.next()).reason == "auth-refused"
        worker.channel.send(request(b"alice", "wonderland", session=10))
        assert isinstance(await worker.next(), AccessAccept)

    run(tmp_path, story)


def test_a_released_session_gives_its_address_back(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        worker = made.worker(0)
        worker.channel.send(request(b"fixed", "nailed", session=1))
        assert isinstance(await worker.next(), AccessAccept)
        worker.channel.send(request(b"fixed", "nailed", session=2))
        assert (await worker.next()).reason == "no-address"
        made.master.channel.send(SessionReleased(worker=0, session=f"{1:016x}", reason="peer-disconnect"))
        await made.settled()
        worker.channel.send(request(b"fixed", "nailed", session=3))
        assert isinstance(await worker.next(), AccessAccept)

    run(tmp_path, story)


def test_a_worker_releases_nothing_by_going_away(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        worker = made.worker(0)
        worker.channel.send(request(b"alice", "wonderland"))
        await worker.next()
        worker.channel.send(request(b"alice", "wrong", session=2))
        worker.channel.close()
        await asyncio.sleep(DELAY * 1.5)  # the refusal that waits meets a closed channel
        assert len(made.auth.leases) == 1
        assert made.violations() == []

    run(tmp_path, story)


async def two_logins(made: Bench) -> None:
    """Sessions 1 and 2 of one worker."""
    worker = made.worker(0)
    for session in (1, 2):
        worker.channel.send(request(b"alice", "wonderland", session=session))
        assert isinstance(await worker.next(), AccessAccept)


def test_after_a_restart_the_masters_list_frees_the_rest(tmp_path: Path) -> None:
    async def after(made: Bench) -> None:
        assert len(made.auth.leases) == 2
        made.master.channel.send(LiveSessions(sessions=(f"{2:016x}",)))
        await made.settled()
        assert len(made.auth.leases) == 1
        made.release(2)
        await made.settled()
        assert len(made.auth.leases) == 0

    run(tmp_path, two_logins)
    run(tmp_path, after)


def test_the_masters_list_may_come_in_parts(tmp_path: Path) -> None:
    async def after(made: Bench) -> None:
        made.master.channel.send(LiveSessions(sessions=(f"{1:016x}",), more=True))
        made.master.channel.send(LiveSessions(sessions=("f" * 16,), more=True))
        await made.settled()
        assert len(made.auth.leases) == 2  # nothing is freed before the last part
        made.master.channel.send(LiveSessions(sessions=(f"{2:016x}",)))
        await made.settled()
        assert len(made.auth.leases) == 2

    run(tmp_path, two_logins)
    run(tmp_path, after)


def test_a_new_worker_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        old = made.worker(0)
        new = made.worker(0, generation=2)
        await asyncio.wait_for(old.ended.wait(), 30)
        new.channel.send(request(b"alice", "wonderland"))
        assert isinstance(await new.next(), AccessAccept)
        assert [granted.generation for granted in made.grants()] == [2]

    run(tmp_path, story)


def test_a_worker_that_sends_what_it_may_not_is_cut_off_alone(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        bad, good = made.worker(0), made.worker(1)
        bad.channel.send(Shutdown())
        await asyncio.wait_for(bad.ended.wait(), 30)
        await made.settled()
        assert [violated.worker for violated in made.violations()] == [0]
        good.channel.send(request(b"alice", "wonderland"))
        assert isinstance(await good.next(), AccessAccept)
        assert made.ends == []

    run(tmp_path, story)


def test_a_second_login_in_a_session_cuts_the_worker_off(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        worker = made.worker(7, generation=3)
        worker.channel.send(request(b"alice", "wonderland"))
        worker.channel.send(request(b"fixed", "nailed"))
        await asyncio.wait_for(worker.ended.wait(), 30)
        await made.settled()
        (violated,) = made.violations()
        assert (violated.worker, violated.generation) == (7, 3)
        assert violated.detail == f"session {1:016x} asks while its login is being decided"
        assert len(made.auth.leases) == 0  # the first was not decided

    run(tmp_path, story)


def test_it_ends_with_the_master(tmp_path: Path) -> None:
    async def gone(made: Bench) -> None:
        made.master.channel.close()
        while not made.ends:  # noqa: ASYNC110  # on_end is a plain callback here
            await asyncio.sleep(0.001)
        assert made.ends == ["closed by the other end"]

    async def told(made: Bench) -> None:
        made.master.channel.send(Shutdown())
        await made.settled()
        assert made.ends == ["shutdown"]

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    run(tmp_path / "a", gone)
    run(tmp_path / "b", told)


def test_no_event_holds_a_password_or_a_proof(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        worker = made.worker(0)
        worker.channel.send(request(b"alice", "guess-one", "pap", session=1))
        worker.channel.send(request(b"alice", "wonderland", "pap", session=2))
        assert isinstance(await worker.next(), AccessAccept)
        assert isinstance(await worker.next(), AccessReject)
        assert "guess-one" not in repr(made.events)
        assert "wonderland" not in repr(made.events)

    run(tmp_path, story)


class Slow:
    """A backend that decides when it is told to."""

    def __init__(self, backend: LocalBackend) -> None:
        self._backend = backend
        self.go = asyncio.Event()
        self.asked: list[Holder] = []
        self.forgotten: list[Holder] = []

    async def authenticate(self, holder: Holder, request: AccessRequest) -> Verdict:
        self.asked.append(holder)
        if request.user == b"fixed":
            await self.go.wait()
        return await self._backend.authenticate(holder, request)

    def forget(self, holder: Holder) -> None:
        self.forgotten.append(holder)


def test_a_backend_that_takes_its_time_holds_up_nobody(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        slow = Slow(made.auth.local)
        made.auth.service._chain = Chain([slow])
        worker = made.worker(0)
        worker.channel.send(request(b"fixed", "nailed", session=1))
        worker.channel.send(request(b"alice", "wonderland", session=2))
        assert (await worker.next()).session == f"{2:016x}"
        slow.go.set()
        assert (await worker.next()).session == f"{1:016x}"

    run(tmp_path, story)


def test_a_session_that_ends_while_auth_decides_is_dropped(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        slow = Slow(made.auth.local)
        made.auth.service._chain = Chain([slow])
        worker = made.worker(0)
        worker.channel.send(request(b"fixed", "nailed", session=1))
        await made.until(lambda: bool(slow.asked))
        worker.channel.send(AccessCancelled(session=f"{1:016x}"))
        await made.until(lambda: not made.auth.service._workers[0].logins)
        slow.go.set()
        assert isinstance(await made.ask(worker, request(b"fixed", "nailed", session=2)), AccessAccept)
        assert [grant.session for grant in made.grants()] == [f"{2:016x}"]
        assert worker.inbox.empty()

    run(tmp_path, story)


def test_what_waits_for_a_slow_backend_is_bounded_for_each_worker(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        slow = Slow(made.auth.local)
        made.auth.service._chain = Chain([slow])
        worker, other = made.worker(0), made.worker(1)
        for session in range(SETTINGS.max_starting + 1):
            worker.channel.send(request(b"fixed", "nailed", session=session))
        answer = await worker.next()
        assert (answer.session, answer.reason) == (f"{SETTINGS.max_starting:016x}", "auth-unavailable")
        assert isinstance(await made.ask(other, request(b"alice", "wonderland")), AccessAccept)

    run(tmp_path, story)


class Broken:
    """A backend with a bug."""

    async def authenticate(self, holder: Holder, request: AccessRequest) -> Verdict:
        raise KeyError("a password: hunter2")

    def forget(self, holder: Holder) -> None: ...


def test_a_bug_of_a_backend_costs_one_login_and_tells_no_secret(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        sound = made.auth.service._chain
        made.auth.service._chain = Chain([Broken()])
        worker = made.worker(0)
        assert (await made.ask(worker, request(b"alice", "wonderland", session=1))).reason == "auth-unavailable"
        (event,) = made.named("internal.error")
        assert event["detail"].startswith("KeyError at test_auth_service.py:")
        made.auth.service._chain = sound
        assert isinstance(await made.ask(worker, request(b"alice", "wonderland", session=2)), AccessAccept)
        assert "hunter2" not in repr(made.events)

    run(tmp_path, story)


def test_the_next_backend_decides_over_who_is_unknown_to_the_first_and_when_it_is_down(tmp_path: Path) -> None:
    class Other:
        def __init__(self, verdict: Verdict) -> None:
            self.verdict = verdict

        async def authenticate(self, holder: Holder, request: AccessRequest) -> Verdict:
            return self.verdict

        def forget(self, holder: Holder) -> None: ...

    async def story(made: Bench) -> None:
        worker = made.worker(0)
        cases: list[tuple[Verdict, str | None]] = [
            (Unknown(), None),
            (Unavailable("no server answers"), None),
            (Denied("no"), "auth-refused"),
        ]
        for number, (first, reason) in enumerate(cases):
            made.auth.service._chain = Chain([Other(first), made.auth.local])
            answer = await made.ask(worker, request(b"alice", "wonderland", session=number))
            assert getattr(answer, "reason", None) == reason
        made.auth.service._chain = Chain([Other(Unavailable("no server answers")), made.auth.local])
        answer = await made.ask(worker, request(b"mallory", "x", session=9))
        assert answer.reason == "auth-unavailable"  # who knows whether there is one
        assert made.named("login.denied")[-1]["detail"] == "no server answers"

    run(tmp_path, story)


def test_the_use_of_many_pools_is_told_in_parts(tmp_path: Path) -> None:
    """300 pools with names of 64 characters of four bytes: each part is a message that the channel carries."""
    pools = {
        f"{number:04}" + "\N{GRINNING FACE}" * 60: PoolView.of([AddressRange(0x0A000001 + number, 0x0A000001 + number)])
        for number in range(300)
    }

    async def story(made: Bench) -> None:
        parts: list[PoolUse] = []
        while not parts or parts[-1].more:
            message = await made.master.next()
            parts += [message] if isinstance(message, PoolUse) else []
        assert [len(part.pools) for part in parts] == [128, 128, 44]
        assert {state.pool for part in parts for state in part.pools} == set(pools)

    auth_bench.run(tmp_path, story, msgspec.structs.replace(SETTINGS, pools=pools))


def test_a_grant_that_no_message_can_carry_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        worker = made.worker(0)
        assert (await made.ask(worker, request(b"wordy", "x", session=1))).reason == "auth-unavailable"
        assert made.named("login.denied")[-1]["detail"] == "the grant is too large"
        assert len(made.auth.leases) == len(made.auth.sessions) == len(made.store.sessions()) == 0
        assert isinstance(await made.ask(worker, request(b"alice", "wonderland", session=2)), AccessAccept)

    wordy = secret("x", on_up=("/bin/true", *("x" * 4096 for _ in range(20))))
    auth_bench.run(tmp_path, story, msgspec.structs.replace(SETTINGS, secrets={**SETTINGS.secrets, "wordy": wordy}))


def test_a_grant_that_the_master_could_not_take_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    """Sent and kept, it would end this auth process, and every one after it."""

    async def story(made: Bench) -> None:
        worker = made.worker(0)
        assert (await made.ask(worker, request(b"listed", "x", session=1))).reason == "auth-unavailable"
        assert made.named("login.denied")[-1]["detail"].startswith("no grant: Expected `array` of length <= 32")
        assert len(made.auth.leases) == len(made.auth.sessions) == len(made.store.sessions()) == 0
        assert isinstance(await made.ask(worker, request(b"alice", "wonderland", session=2)), AccessAccept)

    listed = secret("x", address_list=tuple(f"list{number}" for number in range(33)))
    auth_bench.run(tmp_path, story, msgspec.structs.replace(SETTINGS, secrets={**SETTINGS.secrets, "listed": listed}))


def test_a_worker_that_is_gone_before_its_grant_leaves_gets_none(tmp_path: Path) -> None:
    """The next worker of its number knows nothing of that session."""

    async def story(made: Bench) -> None:
        worker = made.worker(0)
        service = made.auth.service
        then = made.auth.ledger.then

        def late(act: Callable[[bool], None]) -> None:
            service._detached(service._workers[0], "gone")
            then(act)

        made.auth.ledger.then = late  # type: ignore[method-assign]  # the moment between the books and the grant
        worker.channel.send(request(b"alice", "wonderland"))
        await made.until(lambda: bool(made.named("login.denied")))
        assert made.named("login.denied")[0]["detail"] == "its worker is gone"
        await made.settled()
        assert made.grants() == []
        assert len(made.auth.leases) == len(made.auth.sessions) == len(made.store.sessions()) == 0

    run(tmp_path, story)


def test_a_conversation_that_goes_on_with_another_method_is_forgotten(tmp_path: Path) -> None:
    """A worker that plays foul must not fill a table of ours."""
    identity = encode_packet(Packet(RESPONSE, 77, b"\x01alice"))

    async def story(made: Bench) -> None:
        worker = made.worker(0)
        for number, method in enumerate(("pap", "mschap1")):  # judged, and not allowed
            asked = request(b"alice", "wrong", "pap", session=number)
            eap = msgspec.structs.replace(asked, method="eap", password=b"", eap=identity)
            assert isinstance(await made.ask(worker, eap), AccessChallenge)
            assert len(made.auth.local._eap._logins) == len(made.auth.chain._talking) == 1
            assert isinstance(await made.ask(worker, msgspec.structs.replace(asked, method=method)), AccessReject)
            assert len(made.auth.local._eap._logins) == len(made.auth.chain._talking) == 0

    auth_bench.run(tmp_path, story, view(delay=0.0, methods=("eap", "pap")))
