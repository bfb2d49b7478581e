"""A session that is authenticated once more (Termination-Action, RFC 2865 5.29): what is asked, what changes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sstpfarm.config.addresses import parse_range
from sstpfarm.config.books import Auth
from sstpfarm.config.fields import Method, Password
from sstpfarm.config.ppp import Profile
from sstpfarm.config.radius import Radius, RadiusServer
from sstpfarm.config.views import AuthView, PoolView
from sstpfarm.dataplane.rates import UNLIMITED, RateLimit
from sstpfarm.ipc.messages import (
    AccessAccept,
    AccessCancelled,
    AccessChallenge,
    AccessReject,
    AccessRequest,
    ChangeSession,
    FramedRoute,
    LiveSessions,
)
from sstpfarm.proto.ppp.packet import Packet, encode_packet
from tests.radius_double import SECRET, RadiusDouble, Received, attribute, local, vendor

from .auth_bench import Bench, End, Story, bench, run
from .logins import PROFILE, request, view
from .test_auth_ipv6 import POOLS as IPV6_POOLS

ACCEPT, REJECT, CHALLENGE = 2, 3, 11
STATE = 24
AGAIN = attribute(27, (60).to_bytes(4, "big")) + attribute(29, (1).to_bytes(4, "big"))
MIKROTIK = 14988


@pytest.fixture
def double() -> Iterator[RadiusDouble]:
    with RadiusDouble(local()) as made:
        grant(made, AGAIN)
        yield made


def grant(double: RadiusDouble, attributes: bytes) -> None:
    """Accept everybody with that from now on."""

    def script(asked: Received) -> Iterable[bytes]:
        return [asked.reply(ACCEPT, attributes)]

    double.script = script


def refuse(asked: Received) -> Iterable[bytes]:
    return [asked.reply(REJECT)]


def settings(double: RadiusDouble, **changes: Any) -> AuthView:
    server = RadiusServer(address="127.0.0.1", auth_port=double.port, secret=Password(SECRET.decode()))
    return msgspec.structs.replace(
        view(delay=0.0, ipv6=False),
        **{"auth": Auth(backends=("local", "radius"), failures_per_minute=0), **changes},
        radius=Radius(accounting=False, server=(server,)),
    )


def proof(method: Method = "chap", *, user: bytes = b"rita", session: int = 1, again: bool = True) -> AccessRequest:
    return msgspec.structs.replace(request(user, "password", method, session=session), again=again)


async def opened(made: Bench, method: Method = "chap") -> End:
    """A worker with one session that carries packets."""
    worker = made.worker(0)
    assert isinstance(await made.ask(worker, proof(method, again=False)), AccessAccept)
    made.start(1)
    await made.settled()
    return worker


def changes(made: Bench) -> list[ChangeSession]:
    return [message for _, message in made.journal if isinstance(message, ChangeSession)]


def play(tmp_path: Path, double: RadiusDouble, story: Story, **settings_changes: Any) -> None:
    run(tmp_path, story, settings(double, **settings_changes))


def test_the_session_goes_on_and_the_servers_state_goes_along(tmp_path: Path, double: RadiusDouble) -> None:
    """RFC 2865 5.24: the State of an Access-Accept comes back unchanged; that of the next one the time after."""

    async def story(made: Bench) -> None:
        grant(double, AGAIN + attribute(STATE, b"\0first") + attribute(62, (1).to_bytes(4, "big")))  # Port-Limit
        worker = await opened(made)
        (granted,) = made.grants()
        assert (granted.effects.session_timeout, granted.effects.reauthenticate) == (60, True)
        grant(double, AGAIN + attribute(STATE, b"second") + attribute(62, (1).to_bytes(4, "big")))
        for _ in range(2):
            answer = await made.ask(worker, proof())
            assert isinstance(answer, AccessAccept)
            assert (answer.hlak, answer.moved) == (bytes(32), False)  # the binding is done with the key of the login
        assert [asked.values(STATE) for asked in double.received] == [[], [b"\0first"], [b"second"]]
        assert {tuple(asked.values(44)) for asked in double.received} == {(b"%016x" % 1,)}
        await made.settled()
        assert made.grants() == [granted]
        assert changes(made) == [ChangeSession(worker=0, session=f"{1:016x}", renewed=True)] * 2
        assert len(made.auth.sessions) == 1
        assert made.auth.leases.use()[0].used == 1

    play(tmp_path, double, story)


def test_what_an_order_can_change_is_that_of_the_new_grant(tmp_path: Path, double: RadiusDouble) -> None:
    async def story(made: Bench) -> None:
        grant(double, AGAIN + vendor(MIKROTIK, 8, b"2M/4M") + attribute(11, b"staff") + attribute(25, b"first"))
        worker = await opened(made)
        new = attribute(27, (90).to_bytes(4, "big")) + attribute(28, (7).to_bytes(4, "big")) + attribute(25, b"second")
        grant(double, new + attribute(85, (300).to_bytes(4, "big")))
        await made.ask(worker, proof())
        await made.settled()
        (change,) = changes(made)
        assert change.renewed
        assert (change.session_timeout, change.idle_timeout, change.reauthenticate) == (90, 7, False)
        assert (change.rate_limit, change.address_lists) == (UNLIMITED, ())  # the grant has none any more
        (session,) = made.auth.sessions
        assert session.facts.authorization.class_ == (b"second",)
        assert session.facts.authorization.interim_interval == 300
        assert session.interim_due > 0

    play(tmp_path, double, story)


def test_the_interims_of_a_session_do_not_wait_longer_for_it(tmp_path: Path, double: RadiusDouble) -> None:
    """Else a Session-Timeout below the interval would leave none."""

    async def story(made: Bench) -> None:
        grant(double, AGAIN + attribute(85, (300).to_bytes(4, "big")) + attribute(STATE, b"1"))
        worker = await opened(made)
        (session,) = made.auth.sessions
        due = session.interim_due
        grant(double, AGAIN + attribute(85, (300).to_bytes(4, "big")) + attribute(STATE, b"2"))
        await made.ask(worker, proof())
        assert session.facts.authorization.state == b"2"
        assert session.interim_due == due

    play(tmp_path, double, story)


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        (b"", attribute(8, bytes((10, 20, 0, 99))), "remote_address"),
        (attribute(8, bytes((10, 9, 0, 1))), b"", "pool"),
        (b"", attribute(88, b"other"), "pool"),
        (b"", attribute(22, b"10.31.0.0/24 0.0.0.0 1"), "routes"),
        (attribute(22, b"10.31.0.0/24 0.0.0.0 1"), attribute(22, b"10.31.0.0/24 0.0.0.0 2"), "routes"),
        (b"", attribute(97, b"\0\x40" + bytes.fromhex("fd42000000000001")), "routes"),
        (b"", attribute(96, bytes(7) + b"\1"), "interface_id"),
    ],
)
def test_a_grant_elsewhere_ends_the_session_in_order(
    tmp_path: Path, double: RadiusDouble, before: bytes, after: bytes, what: str
) -> None:
    """The proof was good: the client is told so, and can dial anew."""

    async def story(made: Bench) -> None:
        grant(double, AGAIN + before)
        worker = await opened(made)
        grant(double, AGAIN + after)
        answer = await made.ask(worker, proof())
        assert isinstance(answer, AccessAccept)
        assert answer.moved
        await made.settled()
        assert made.revoked() == [(f"{1:016x}", "session-timeout")]
        assert made.named("session.moved") == [{"session": f"{1:016x}", "user": "rita", "what": what}]
        assert changes(made) == []

    pools = {**view().pools, "other": view().pools["main"]}
    play(tmp_path, double, story, pools=pools)


def test_the_address_that_a_session_has_can_be_named_by_the_server(tmp_path: Path, double: RadiusDouble) -> None:
    async def story(made: Bench) -> None:
        worker = await opened(made)
        (granted,) = made.grants()
        address = bytes(map(int, granted.terms.remote_address.split(".")))
        grant(double, AGAIN + attribute(8, address))
        await made.ask(worker, proof())
        await made.settled()
        assert made.revoked() == []
        assert [change.renewed for change in changes(made)] == [True]

    play(tmp_path, double, story)


def test_leases_of_ipv6_are_no_other_place(tmp_path: Path, double: RadiusDouble) -> None:
    profile = Profile(
        local_address="10.20.0.1", remote_address="pool:main",
        remote_ipv6_prefix_pool="homes", dhcpv6_pd_pool="sites", ipv6_address_pool="singles",
    )  # fmt: skip

    async def story(made: Bench) -> None:
        grant(double, AGAIN + attribute(97, b"\0\x40" + bytes.fromhex("fd42000000000001")))
        worker = await opened(made)
        (session,) = made.auth.sessions
        assert len(session.facts.authorization.routes) == 3
        assert FramedRoute("fd42:0:0:1::/64") in session.facts.authorization.routes
        await made.ask(worker, proof())
        await made.settled()
        assert (made.revoked(), made.named("session.moved")) == ([], [])
        assert len(changes(made)) == 1

    play(tmp_path, double, story, ipv6=True, pools=IPV6_POOLS, profiles={"default": profile})


@pytest.mark.parametrize("user", [b"mallory", b"alice"])
def test_another_user_does_not_go_on_in_the_session(tmp_path: Path, double: RadiusDouble, user: bytes) -> None:
    """Neither one of the same server nor, with the password of a secret here, one of ours."""

    async def story(made: Bench) -> None:
        worker = await opened(made)
        found = msgspec.structs.replace(request(user, "wonderland", "chap"), again=True)
        answer = await made.ask(worker, found)
        assert isinstance(answer, AccessReject)
        assert answer.reason == "auth-refused"
        assert b"rita" not in answer.message
        await made.settled()
        assert changes(made) == []

    play(tmp_path, double, story)


def test_a_refusal_ends_nothing_by_itself(tmp_path: Path, double: RadiusDouble) -> None:
    """The worker tells the peer and ends the session; its lease stays until the master has released it."""

    async def story(made: Bench) -> None:
        worker = await opened(made)
        double.script = refuse
        answer = await made.ask(worker, proof())
        assert isinstance(answer, AccessReject)
        assert answer.reason == "auth-refused"
        assert (made.revoked(), len(made.auth.sessions), made.auth.leases.use()[0].used) == ([], 1, 1)
        made.release(1, reason="auth-refused", opened=True)
        await made.settled()
        assert (len(made.auth.sessions), made.auth.leases.use()[0].used) == (0, 0)

    play(tmp_path, double, story)


def test_a_session_that_is_not_there_is_not_made(tmp_path: Path, double: RadiusDouble) -> None:
    """Its end may have overtaken the proof: no server is asked, and nobody is accused."""

    async def story(made: Bench) -> None:
        worker = made.worker(0)
        answer = await made.ask(worker, proof())
        assert isinstance(answer, AccessReject)
        assert double.received == []
        assert (made.grants(), made.violations()) == ([], [])

    play(tmp_path, double, story)


def test_one_that_is_to_end_is_not_renewed(tmp_path: Path, double: RadiusDouble) -> None:
    async def story(made: Bench) -> None:
        worker = await opened(made)
        (session,) = made.auth.sessions
        session.revoked = True
        worker.channel.send(proof())
        assert await silent(made, worker)
        assert len(double.received) == 1

    play(tmp_path, double, story)


@pytest.mark.parametrize("verdict", [ACCEPT, REJECT])
def test_one_that_is_told_to_end_while_it_is_asked_ends_for_that_reason(
    tmp_path: Path, double: RadiusDouble, verdict: int
) -> None:
    """A refusal could reach the worker before the master's order does, and be the reason of the Stop."""

    async def story(made: Bench) -> None:
        worker = await opened(made)
        double.script = lambda asked: ()
        worker.channel.send(proof())
        await made.until(lambda: len(double.received) == 2)
        (session,) = made.auth.sessions
        session.revoked = True
        double.script = lambda asked: [asked.reply(verdict, AGAIN if verdict == ACCEPT else b"")]
        await made.until(lambda: len(double.received) == 3)  # the retransmission
        assert await silent(made, worker)
        assert changes(made) == []

    play(tmp_path, double, story)


async def silent(made: Bench, worker: End) -> bool:
    """Whether auth has decided over the proof and does not answer it."""
    await made.until(lambda: not worker.inbox.empty() or not made.auth.service._workers[0].logins)
    await asyncio.sleep(0.05)
    return worker.inbox.empty()


def test_who_ends_while_it_is_asked_is_not_renewed(tmp_path: Path, double: RadiusDouble) -> None:
    async def story(made: Bench) -> None:
        worker = await opened(made)
        double.script = lambda asked: ()
        worker.channel.send(proof())
        await made.until(lambda: len(double.received) == 2)
        made.release(1, opened=True)
        await made.settled()
        grant(double, AGAIN)  # for the retransmission
        assert isinstance(await worker.next(), AccessReject)
        assert len(made.grants()) == 1

    play(tmp_path, double, story)


def test_strangers_who_fill_all_places_do_not_end_a_session(tmp_path: Path, double: RadiusDouble) -> None:
    """`max_starting` is 4: a fifth login is refused, and a session is authenticated all the same."""

    async def story(made: Bench) -> None:
        worker = await opened(made)

        def script(asked: Received) -> Iterable[bytes]:
            return [asked.reply(ACCEPT, AGAIN)] if asked.values(1) == [b"rita"] else []

        double.script = script
        for session in range(2, 6):
            worker.channel.send(proof(user=b"stranger", session=session, again=False))
        await made.until(lambda: len(double.received) >= 5)
        fifth = await made.ask(worker, proof(user=b"rita", session=7, again=False))
        assert isinstance(fifth, AccessReject)
        assert isinstance(await made.ask(worker, proof()), AccessAccept)
        await made.settled()
        assert [change.renewed for change in changes(made)] == [True]

    play(tmp_path, double, story)


@pytest.mark.parametrize("talk", [False, True], ids=["server", "peer"])
def test_sessions_that_log_in_again_keep_no_stranger_out(tmp_path: Path, double: RadiusDouble, talk: bool) -> None:
    """Two sessions of one moment whose server, or whose peers, take their time do not fill the two places."""
    identity = encode_packet(Packet(2, 1, b"\x01rita"))
    question = attribute(79, encode_packet(Packet(1, 2, b"\x1a")))

    def script(asked: Received) -> Iterable[bytes]:
        if asked.values(1) == [b"rita"]:
            return [asked.reply(CHALLENGE, question)] if talk else []
        return [asked.reply(ACCEPT, AGAIN)]

    async def story(made: Bench) -> None:
        worker = made.worker(0)
        for session in (1, 2):
            assert isinstance(await made.ask(worker, proof(session=session, again=False)), AccessAccept)
            made.start(session)
        await made.settled()
        double.script = script
        for session in (1, 2):
            asked = proof(method="eap" if talk else "chap", session=session)
            worker.channel.send(msgspec.structs.replace(asked, eap=identity) if talk else asked)
        await made.until(lambda: len(double.received) >= 4)
        for _ in range(2 if talk else 0):
            assert isinstance(await worker.next(), AccessChallenge)
        stranger = await made.ask(worker, proof(user=b"stranger", session=7, again=False))
        assert isinstance(stranger, AccessAccept)
        for session in (1, 2):
            worker.channel.send(AccessCancelled(session=f"{session:016x}"))
        await made.until(lambda: not made.auth.service._workers[0].proving)
        assert made.auth.service._workers[0].pending == 0

    play(tmp_path, double, story, max_starting=2, methods=("chap", "eap"))


def test_pap_is_not_asked(tmp_path: Path, double: RadiusDouble) -> None:
    async def story(made: Bench) -> None:
        await opened(made, "pap")
        (granted,) = made.grants()
        assert (granted.effects.session_timeout, granted.effects.reauthenticate) == (60, False)

    play(tmp_path, double, story)


def test_another_auth_process_knows_of_it_still(tmp_path: Path, double: RadiusDouble) -> None:
    async def main() -> None:
        async with bench(tmp_path, settings(double)) as made:
            grant(double, AGAIN + attribute(STATE, b"kept") + vendor(MIKROTIK, 8, b"2M/4M"))
            await opened(made)
        async with bench(tmp_path, settings(double)) as made:
            grant(double, AGAIN + vendor(MIKROTIK, 8, b"3M/4M"))
            assert isinstance(await made.ask(made.worker(0), proof()), AccessAccept)
            assert double.received[-1].values(STATE) == [b"kept"]
            await made.settled()
            (change,) = changes(made)
            assert (change.rate_limit, change.session_timeout) == (RateLimit(3_000_000, 4_000_000), None)

    assert PROFILE.rate_limit is None
    asyncio.run(main())


def test_a_master_that_was_not_told_of_a_change_is_told_by_the_next_process(
    tmp_path: Path, double: RadiusDouble
) -> None:
    """The process before has written it to the books, and was no more then. What was never changed is left alone; what
    was changed back is not: the master may know of the one change and not of the other.
    """
    first, second = (AGAIN + vendor(MIKROTIK, 8, rate) + attribute(11, b"staff") for rate in (b"2M/4M", b"3M/4M"))
    live = LiveSessions(sessions=tuple(f"{session:016x}" for session in (1, 2, 3)))

    async def before(made: Bench) -> None:
        worker = made.worker(0)
        grant(double, first)
        for session in (1, 2, 3, 4):
            assert isinstance(await made.ask(worker, proof(session=session, again=False)), AccessAccept)
            made.start(session)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(made.auth.service, "change", lambda change: None)
            for attributes, sessions in ((second, (1, 3, 4)), (first, (3,))):
                grant(double, attributes)
                for session in sessions:
                    assert isinstance(await made.ask(worker, proof(session=session)), AccessAccept)
        assert changes(made) == []

    async def after(made: Bench) -> None:
        made.master.channel.send(live)
        await made.settled()
        told = {change.session: change for change in changes(made)}
        assert list(told) == [f"{session:016x}" for session in (1, 3)]  # 4 has ended meanwhile
        limits = ChangeSession(
            worker=0,
            session=f"{1:016x}",
            rate_limit=RateLimit(3_000_000, 4_000_000),
            session_timeout=60,
            idle_timeout=0,
            reauthenticate=True,
            limit_bytes_in=0,
            limit_bytes_out=0,
            limit_bytes_total=0,
            address_lists=("staff",),
        )
        assert told[f"{1:016x}"] == limits
        changed_back = RateLimit(2_000_000, 4_000_000)
        assert told[f"{3:016x}"] == msgspec.structs.replace(limits, session=f"{3:016x}", rate_limit=changed_back)

    for story in (before, after):
        play(tmp_path, double, story, pools={"main": PoolView.of([parse_range("10.20.0.2-10.20.0.9")])})


def test_strangers_from_afar_do_not_end_a_session_of_before_this_process(tmp_path: Path, double: RadiusDouble) -> None:
    """Who has a session is known in its network, whichever process let him in: failures elsewhere do not count."""
    counting = settings(double, auth=Auth(backends=("local", "radius"), failures_per_minute=3))

    async def main() -> None:
        async with bench(tmp_path, counting) as made:
            await opened(made)
        async with bench(tmp_path, counting) as made:
            worker = made.worker(0)
            double.script = refuse
            for number in range(2, 7):
                guess = request(b"rita", "wrong", "chap", session=number, caller_id=f"203.0.113.{number}:4000")
                assert isinstance(await made.ask(worker, guess), AccessReject)
            assert made.named("login.denied")[-1]["detail"].startswith("too many failures")
            grant(double, AGAIN)
            assert isinstance(await made.ask(worker, proof()), AccessAccept)

    asyncio.run(main())


@pytest.mark.parametrize("again", [False, True])
def test_a_conversation_with_an_auth_process_that_is_no_more(tmp_path: Path, double: RadiusDouble, again: bool) -> None:
    """The server would refuse what comes without its State, and the peer would have guessed wrong."""
    counting = settings(double, auth=Auth(backends=("local", "radius"), failures_per_minute=1), methods=("chap", "eap"))
    answer = encode_packet(Packet(2, 2, b"\x1a\x02\x01\x00\x06\x00"))

    async def main() -> None:
        async with bench(tmp_path, counting) as made:
            await opened(made)
        async with bench(tmp_path, counting) as made:
            double.script = refuse
            asked = msgspec.structs.replace(proof(method="eap", again=again, session=1 if again else 2), eap=answer)
            for _ in range(3):
                said = await made.ask(made.worker(0), asked)
                assert isinstance(said, AccessReject)
                assert said.reason == "auth-unavailable"
            assert len(double.received) == 1

    asyncio.run(main())
