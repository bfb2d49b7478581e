"""Guesses side by side: no more are judged at once than could fail one after the other, and nobody else is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from sstpfarm.auth import guesses as module
from sstpfarm.auth.authorization import Accepted, Authorization, Challenged, Denied, Unavailable, Verdict
from sstpfarm.auth.chain import Chain
from sstpfarm.auth.guesses import Guess, Guesses
from sstpfarm.auth.leases import Holder
from sstpfarm.config.addresses import parse_range
from sstpfarm.config.books import Auth
from sstpfarm.config.views import PoolView
from sstpfarm.ipc.messages import AccessAccept, AccessCancelled, AccessChallenge, AccessReject, AccessRequest
from sstpfarm.proto.ppp.eap import REQUEST
from sstpfarm.proto.ppp.packet import Packet, encode_packet
from tests.unit.auth_bench import Bench, End, run
from tests.unit.homes_book import throttle
from tests.unit.logins import PROFILE, request, view

FREE = 3
SETTINGS = msgspec.structs.replace(
    view(delay=0.0),
    max_starting=200,
    auth=Auth(failures_per_minute=FREE),
    profiles={"default": msgspec.structs.replace(PROFILE, remote_address="pool:main")},
    pools={"main": PoolView.of([parse_range("10.20.0.2-10.20.0.250")])},
)


class SlowBackend:
    """Judges when the test says so.

    Attributes:
        judging: the requests that it judges now, with who waits for each verdict.
        most: how many there ever were at once.
        asked, decided: how many there were in all.
    """

    def __init__(self) -> None:
        self.judging: dict[str, tuple[AccessRequest, asyncio.Future[Verdict]]] = {}
        self.most = 0
        self.asked = self.decided = 0

    async def authenticate(self, holder: Holder, request: AccessRequest) -> Verdict:
        verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self.judging[holder.session] = request, verdict
        self.asked += 1
        self.most = max(self.most, len(self.judging))
        try:
            return await verdict
        finally:
            del self.judging[holder.session]

    def forget(self, holder: Holder) -> None:
        """Nothing is kept."""

    def decide(self, verdict: Callable[[AccessRequest], Verdict]) -> None:
        """Decide over all that are judged now."""
        for asked, waiting in list(self.judging.values()):
            if not waiting.done():
                waiting.set_result(verdict(asked))
                self.decided += 1


def right(asked: AccessRequest) -> Verdict:
    return Accepted(Authorization(user=asked.user.decode(), authentic="radius", pool="main"), bytes(32))


def wrong(_: AccessRequest) -> Verdict:
    return Denied("wrong password")


def slow(bench: Bench) -> SlowBackend:
    backend = SlowBackend()
    bench.auth.service._chain = Chain([backend])
    return backend


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_guesses_at_once_gain_nothing_over_guesses_one_after_the_other(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        backend = slow(bench)
        worker = bench.worker(0)
        for number in range(50):
            worker.channel.send(request(b"alice", "x", "pap", session=number))
        await bench.until(lambda: len(backend.judging) == FREE + 1)
        await turns()
        assert len(backend.judging) == FREE + 1  # the last one of them would shut the door
        backend.decide(wrong)
        answers = [await worker.next() for _ in range(50)]
        assert all(isinstance(answer, AccessReject) for answer in answers)
        assert backend.asked == FREE + 1
        details = [keys["detail"] for keys in bench.named("login.denied")]
        assert details.count("wrong password") == FREE + 1
        assert sum(detail.startswith("too many failures") for detail in details) == 50 - FREE - 1
        assert len(bench.auth.service._guesses) == 0

    run(tmp_path, story, SETTINGS)


def test_an_office_behind_one_address_gets_in_though_all_come_at_once(tmp_path: Path) -> None:
    """Hundred users of one network log in with good passwords, after a restart: nobody is refused."""

    async def story(bench: Bench) -> None:
        backend = slow(bench)
        worker = bench.worker(0)
        for number in range(100):
            worker.channel.send(request(b"user%d" % number, "x", "pap", session=number))
        answers = 0
        while answers < 100:
            await bench.until(lambda: bool(backend.judging))
            backend.decide(right)
            while answers < backend.decided:
                assert isinstance(await worker.next(), AccessAccept)
                answers += 1
        assert backend.most == FREE + 1
        assert len(bench.auth.service._guesses) == 0

    run(tmp_path, story, SETTINGS)


def test_who_is_known_in_the_network_waits_for_nobody_there(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        backend = slow(bench)
        worker = bench.worker(0)
        worker.channel.send(request(b"carol", "x", "pap", session=1))
        await bench.until(lambda: bool(backend.judging))
        backend.decide(right)
        assert isinstance(await worker.next(), AccessAccept)
        for number in range(10, 20):
            worker.channel.send(request(b"user%d" % number, "x", "pap", session=number))
        await bench.until(lambda: len(backend.judging) == FREE + 1)
        worker.channel.send(request(b"carol", "x", "pap", session=2))
        await bench.until(lambda: f"{2:016x}" in backend.judging)
        assert f"{19:016x}" not in backend.judging

    run(tmp_path, story, SETTINGS)


def test_whoever_hangs_up_makes_room_wherever_he_stands(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        backend = slow(bench)
        worker = bench.worker(0)
        for number in range(8):
            worker.channel.send(request(b"alice", "x", "pap", session=number))
        await bench.until(lambda: len(backend.judging) == FREE + 1)
        for number in (0, 4, 5, 1):  # judged, waiting, waiting, judged
            worker.channel.send(AccessCancelled(session=f"{number:016x}"))
        await bench.until(lambda: sorted(backend.judging) == [f"{number:016x}" for number in (2, 3, 6, 7)])
        # and in the moment in which the turn comes
        worker.channel.send(request(b"alice", "x", "pap", session=8))
        worker.channel.send(AccessCancelled(session=f"{2:016x}"))
        worker.channel.send(AccessCancelled(session=f"{8:016x}"))
        await bench.until(lambda: len(backend.judging) == 3)
        backend.decide(right)
        for _ in range(3):
            assert isinstance(await worker.next(), AccessAccept)
        assert len(bench.auth.service._guesses) == 0

    run(tmp_path, story, SETTINGS)


def test_a_backend_that_does_not_decide_uses_nothing_up(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        backend = slow(bench)
        worker = bench.worker(0)
        for number in range(20):
            worker.channel.send(request(b"alice", "x", "pap", session=number))
        answers = 0
        while answers < 20:
            await bench.until(lambda: bool(backend.judging))
            backend.decide(lambda _: Unavailable("away"))
            while answers < backend.decided:
                answer = await worker.next()
                assert isinstance(answer, AccessReject)
                assert answer.reason == "auth-unavailable"
                answers += 1
        assert backend.asked == 20

    run(tmp_path, story, SETTINGS)


def test_conversations_count_until_they_end_but_a_name_alone_does_not(tmp_path: Path) -> None:
    """A challenge of RADIUS may tell that the password was wrong: no more of them are beyond a name at once."""
    identity = encode_packet(Packet(2, 1, b"\x01alice"))
    question = encode_packet(Packet(REQUEST, 1, b"\x1a"))
    settings = msgspec.structs.replace(SETTINGS, methods=("eap",))

    def eap(packet: bytes, number: int) -> AccessRequest:
        return msgspec.structs.replace(request(b"alice", "", "eap", session=number), eap=packet)

    async def story(bench: Bench) -> None:
        backend = slow(bench)
        worker = bench.worker(0)

        async def challenge(packet: bytes, numbers: range, judged: int) -> None:
            for number in numbers:
                worker.channel.send(eap(packet, number))
            answers = 0
            while answers < judged:
                await bench.until(lambda: bool(backend.judging))
                backend.decide(lambda _: Challenged(question))
                await turns()
                while not worker.inbox.empty():
                    answers += 1
                    worker.inbox.get_nowait()
            assert answers == judged

        await challenge(identity, range(10), 10)
        await challenge(b"proof", range(10), FREE + 1)
        await turns()
        assert not backend.judging
        await challenge(b"more", range(FREE + 1), FREE + 1)  # conversations that were let in go on
        for number in range(FREE + 1):  # hanging up then is failing
            worker.channel.send(AccessCancelled(session=f"{number:016x}"))
        answers = [await worker.next() for _ in range(10 - FREE - 1)]
        assert all(isinstance(answer, AccessReject) for answer in answers)
        assert len(bench.auth.service._guesses) == 0

    run(tmp_path, story, settings)


async def converse(bench: Bench, worker: End, backend: SlowBackend, packets: tuple[bytes, ...], number: int) -> object:
    """Have alice say these in one conversation of EAP; return the last answer."""
    answer: object = None
    for packet in packets:
        worker.channel.send(msgspec.structs.replace(request(b"alice", "", "eap", session=number), eap=packet))
        await bench.until(lambda: bool(backend.judging) or not worker.inbox.empty())
        backend.decide(lambda _: Challenged(encode_packet(Packet(REQUEST, 1, b"\x1a"))))
        answer = await worker.next()
    return answer


def test_hanging_up_behind_a_name_is_no_failure(tmp_path: Path) -> None:
    """Nothing was guessed yet; a client whose way is bad would shut its user out."""
    identity = encode_packet(Packet(2, 1, b"\x01alice"))

    async def story(bench: Bench) -> None:
        backend = slow(bench)
        worker = bench.worker(0)
        for number in range(3 * FREE):
            assert isinstance(await converse(bench, worker, backend, (identity,), number), AccessChallenge)
            worker.channel.send(AccessCancelled(session=f"{number:016x}"))
        await turns()
        assert bench.auth.service._guesses.shut(b"alice", request(b"", "").caller_id) == 0

    run(tmp_path, story, msgspec.structs.replace(SETTINGS, methods=("eap",)))


HELLO = encode_packet(Packet(2, 2, bytes.fromhex("1900 160301 0002 0100")))  # PEAP, one record of the handshake
ACKNOWLEDGED = encode_packet(Packet(2, 3, bytes.fromhex("1900")))
WITHIN = encode_packet(Packet(2, 4, bytes.fromhex("1900 170303 0002 0000")))  # application data


def test_who_stalls_in_the_handshake_of_tls_holds_up_nobody(tmp_path: Path) -> None:
    identity = encode_packet(Packet(2, 1, b"\x01alice"))

    async def story(bench: Bench) -> None:
        backend = slow(bench)
        worker = bench.worker(0)
        for number in range(3 * FREE):
            answer = await converse(bench, worker, backend, (identity, HELLO, ACKNOWLEDGED), number)
            assert isinstance(answer, AccessChallenge)
        assert len(bench.auth.service._guesses) == 0
        worker.channel.send(request(b"alice", "x", "pap", session=99))
        await bench.until(lambda: bool(backend.judging))
        backend.decide(right)
        assert isinstance(await worker.next(), AccessAccept)
        for number in range(3 * FREE):
            worker.channel.send(AccessCancelled(session=f"{number:016x}"))
        await turns()
        assert bench.auth.service._guesses.shut(b"alice", request(b"", "").caller_id) == 0

    run(tmp_path, story, msgspec.structs.replace(SETTINGS, methods=("eap", "pap")))


@pytest.mark.parametrize("last", [(), (ACKNOWLEDGED,), (HELLO,)])
def test_who_stalls_behind_something_within_the_tunnel_counts(tmp_path: Path, last: tuple[bytes, ...]) -> None:
    """It may have been a password, and the answer a verdict; that nothing is proven afterwards changes nothing."""
    identity = encode_packet(Packet(2, 1, b"\x01alice"))

    async def story(bench: Bench) -> None:
        backend = slow(bench)
        worker = bench.worker(0)
        for number in range(FREE + 1):
            packets = (identity, HELLO, ACKNOWLEDGED, WITHIN, *last)
            assert isinstance(await converse(bench, worker, backend, packets, number), AccessChallenge)
        worker.channel.send(request(b"alice", "x", "pap", session=99))
        await turns()
        assert not backend.judging
        for number in range(FREE + 1):
            worker.channel.send(AccessCancelled(session=f"{number:016x}"))
        answer = await worker.next()
        assert isinstance(answer, AccessReject)
        assert bench.named("login.denied")[0]["detail"].startswith("too many failures")

    run(tmp_path, story, msgspec.structs.replace(SETTINGS, methods=("eap", "pap")))


async def last_word(bench: Bench, worker: End, backend: SlowBackend, number: int) -> AccessRequest:
    """Bring a conversation of alice's to its last packet, which is judged; the challenge before may have told all."""
    identity = encode_packet(Packet(2, 1, b"\x01alice"))
    assert isinstance(await converse(bench, worker, backend, (identity, b"proof"), number), AccessChallenge)
    last = msgspec.structs.replace(request(b"alice", "", "eap", session=number), eap=b"I see")
    worker.channel.send(last)
    await bench.until(lambda: bool(backend.judging))
    return last


def test_hanging_up_while_the_last_word_is_judged_has_failed(tmp_path: Path) -> None:
    """A challenge may have told that the password was wrong, and a RADIUS server takes a second to say so aloud."""

    async def story(bench: Bench) -> None:
        backend = slow(bench)
        worker = bench.worker(0)
        for number in range(FREE + 1):
            last = await last_word(bench, worker, backend, number)
            worker.channel.send(AccessCancelled(session=last.session))
            await bench.until(lambda: not backend.judging)
        assert bench.auth.service._guesses.shut(b"alice", last.caller_id) > 0
        assert len(bench.auth.service._guesses) == 0

    run(tmp_path, story, msgspec.structs.replace(SETTINGS, methods=("eap",)))


def test_a_conversation_that_nobody_decides_behind_a_challenge_has_failed(tmp_path: Path) -> None:
    """Else whoever finds something that his RADIUS server does not answer, hears the verdict and guesses on."""

    async def story(bench: Bench) -> None:
        backend = slow(bench)
        worker = bench.worker(0)
        for number in range(FREE + 1):
            last = await last_word(bench, worker, backend, number)
            backend.decide(lambda _: Unavailable("away"))
            answer = await worker.next()
            assert isinstance(answer, AccessReject)
            assert answer.reason == "auth-unavailable"
        assert bench.auth.service._guesses.shut(b"alice", last.caller_id) > 0
        assert len(bench.auth.service._guesses) == 0

    run(tmp_path, story, msgspec.structs.replace(SETTINGS, methods=("eap",)))


def test_who_begins_again_within_a_session_has_failed(tmp_path: Path) -> None:
    """Else one session could try one password after the other, in conversations that it never ends."""
    identity = encode_packet(Packet(2, 1, b"\x01alice"))
    settings = msgspec.structs.replace(SETTINGS, methods=("eap",))

    async def story(bench: Bench) -> None:
        backend = slow(bench)
        worker = bench.worker(0)
        for told in range(20):
            assert told <= FREE + 1
            for packet in (identity, b"proof"):
                worker.channel.send(msgspec.structs.replace(request(b"alice", "", "eap"), eap=packet))
                await bench.until(lambda: bool(backend.judging) or not worker.inbox.empty())
                backend.decide(lambda _: Challenged(encode_packet(Packet(REQUEST, 1, b"\x1a"))))
                if isinstance(await worker.next(), AccessReject):
                    return

    run(tmp_path, story, settings)


def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)

    async def story(bench: Bench) -> None:
        slow(bench)
        worker = bench.worker(0)
        for number in range(FREE + 2):
            worker.channel.send(request(b"alice", "x", "pap", session=number))
        answer = await worker.next()
        assert isinstance(answer, AccessReject)
        assert (answer.session, answer.reason) == (f"{FREE + 1:016x}", "auth-unavailable")

    run(tmp_path, story, SETTINGS)


def play(story: Callable[[Guesses], Awaitable[None]], free: int = FREE) -> None:
    async def main() -> None:
        await story(Guesses(throttle(free), lambda: 0.0))

    asyncio.run(main())


def test_who_waits_has_the_turn_in_order_across_users_and_networks() -> None:
    async def story(guesses: Guesses) -> None:
        async def enter(user: bytes, host: int) -> None:
            guess = await guesses.enter(user, f"192.0.{host}.1:1")
            assert guess is not None
            order.append((user, host))
            entered.append(guess)

        order: list[tuple[bytes, int]] = []
        entered: list[Guess] = []
        tasks = [asyncio.create_task(enter(b"a", 1)) for _ in range(4)]
        tasks += [asyncio.create_task(enter(b"a", 2)) for _ in range(3)]  # wait for the user
        tasks += [asyncio.create_task(enter(b"b", 1)) for _ in range(2)]  # wait for the network
        tasks += [asyncio.create_task(enter(b"b", 2))]
        await turns()
        assert order == [*[(b"a", 1)] * 4, (b"b", 2)]
        while entered:
            entered.pop(0).give_back()
            await turns()
        assert order[5:] == [(b"a", 2), (b"b", 1), (b"a", 2), (b"b", 1), (b"a", 2)]
        await asyncio.gather(*tasks)
        assert len(guesses) == 0

    play(story)


def test_switched_off_it_holds_up_nobody() -> None:
    async def story(guesses: Guesses) -> None:
        for _ in range(100):
            assert await guesses.enter(b"a", "192.0.2.1:1") is not None
        assert len(guesses) == 0

    play(story, free=0)
