"""EAP-MSCHAPv2 of local users through the auth service: whole conversations, and what ends them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sstpfarm.auth.authorization import Challenged, Verdict
from sstpfarm.auth.chain import Chain
from sstpfarm.auth.leases import Holder
from sstpfarm.config.books import Auth
from sstpfarm.config.fields import Password
from sstpfarm.config.radius import Radius, RadiusServer
from sstpfarm.ipc.messages import AccessAccept, AccessCancelled, AccessChallenge, AccessReject, AccessRequest
from sstpfarm.proto.events import AuthSucceeded
from sstpfarm.proto.ppp.eap import REQUEST, RESPONSE
from sstpfarm.proto.ppp.eap_peer import EapPeer
from sstpfarm.proto.ppp.exchange import AuthFailed
from sstpfarm.proto.ppp.packet import Packet, encode_packet

from .auth_bench import Bench, End, run
from .logins import view

SETTINGS = msgspec.structs.replace(view(delay=0.0), methods=("eap",))


def request(user: bytes, packet: bytes, session: int = 1, caller_id: str = "198.51.100.7:1") -> AccessRequest:
    return AccessRequest(
        session=f"{session:016x}", user=user, method="eap", caller_id=caller_id, mtu=1400, slot=3, eap=packet
    )


class Caller:
    """A client behind a worker that relays its packets."""

    def __init__(
        self, worker: End, user: bytes, password: str, session: int = 1, identity: bytes | None = None
    ) -> None:
        self.peer = EapPeer(user, password, os.urandom)
        self.worker = worker
        self.session = session
        self.identity = identity or user
        self.answers: list[str] = []

    async def login(self, bench: Bench, caller_id: str = "198.51.100.7:1") -> Any:
        """Converse until auth decides; the decision."""
        packet = encode_packet(Packet(RESPONSE, 77, b"\x01" + self.identity))
        while True:
            answer = await bench.ask(self.worker, request(self.identity, packet, self.session, caller_id))
            self.answers.append(type(answer).__name__)
            if not isinstance(answer, AccessChallenge):
                return answer
            assert answer.message[0] == REQUEST
            self.peer.receive(answer.message, 0.0)
            (packet,) = self.peer.packets_to_send()


def test_the_right_password_gives_both_ends_the_same_key(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        caller = Caller(bench.worker(0), b"CORP\\alice", "wonderland")
        accept = await caller.login(bench)
        assert isinstance(accept, AccessAccept)
        assert accept.user == "alice"
        # RFC 3748 4.2: Success has the identifier of the last Response: 77 was the identity, then came 78 and 79
        caller.peer.receive(encode_packet(Packet(3, 79)), 0.0)
        (event,) = caller.peer.events()
        assert isinstance(event, AuthSucceeded)
        assert event.hlak == accept.hlak
        assert caller.answers == ["AccessChallenge", "AccessChallenge", "AccessAccept"]

    run(tmp_path, story, SETTINGS)


@pytest.mark.parametrize(
    ("user", "password", "identity", "detail"),
    [
        (b"alice", "wrong", None, "wrong password"),
        (b"nobody", "wonderland", None, "unknown user"),
        (b"off", "wonderland", b"alice", "wrong password"),  # the name in the proof is another user's
        (b"off", "switched", None, "the account is disabled"),
        (b"home", "sweet", None, "not allowed from this address"),
    ],
)
def test_a_refusal_takes_as_many_steps_whatever_its_reason(
    tmp_path: Path, user: bytes, password: str, identity: bytes | None, detail: str
) -> None:
    async def story(bench: Bench) -> None:
        caller = Caller(bench.worker(0), user, password, identity=identity)
        assert isinstance(await caller.login(bench), AccessReject)
        assert caller.answers == ["AccessChallenge", "AccessChallenge", "AccessReject"]
        assert [denied["detail"] for denied in bench.named("login.denied")] == [detail]
        caller.peer.receive(encode_packet(Packet(4, 79)), 0.0)
        (event,) = caller.peer.events()
        assert isinstance(event, AuthFailed)
        told = {"the account is disabled": "E=647", "not allowed from this address": "E=649"}
        assert event.text.startswith(told.get(detail, "E=691"))

    run(tmp_path, story, SETTINGS)


def test_an_unknown_user_is_left_to_the_next_backend_at_once(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        packet = encode_packet(Packet(RESPONSE, 77, b"\x01nobody"))
        verdict = await bench.auth.local.authenticate(Holder(0, "0" * 16), request(b"nobody", packet))
        assert type(verdict).__name__ == "Unknown"

    radius = Radius(accounting=False, server=(RadiusServer(address="127.0.0.1", secret=Password("x")),))
    both = msgspec.structs.replace(SETTINGS, auth=Auth(backends=("local", "radius")), radius=radius)
    run(tmp_path, story, both)


@pytest.mark.parametrize("packet", [b"", b"\x02\x4d\x00\x06\x1a\x03", b"junk"])
def test_a_response_out_of_nowhere_is_refused(tmp_path: Path, packet: bytes) -> None:
    async def story(bench: Bench) -> None:
        assert isinstance(await bench.ask(bench.worker(0), request(b"alice", packet)), AccessReject)

    run(tmp_path, story, SETTINGS)


def test_a_conversation_ends_with_its_session(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        worker = bench.worker(0)
        first = encode_packet(Packet(RESPONSE, 77, b"\x01alice"))
        challenge = await bench.ask(worker, request(b"alice", first))
        assert isinstance(challenge, AccessChallenge)
        worker.channel.send(AccessCancelled(session=f"{1:016x}"))
        peer = EapPeer(b"alice", "wonderland", os.urandom)
        peer.receive(challenge.message, 0.0)
        (packet,) = peer.packets_to_send()
        assert isinstance(await bench.ask(worker, request(b"alice", packet)), AccessReject)

    run(tmp_path, story, SETTINGS)


def test_who_hangs_up_when_the_challenge_tells_that_the_password_was_wrong_has_failed(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        worker = bench.worker(0)
        for number in range(1, 5):
            caller = Caller(worker, b"alice", "wrong", session=number)
            packet = encode_packet(Packet(RESPONSE, 77, b"\x01alice"))
            for _ in range(2):
                answer = await bench.ask(worker, request(b"alice", packet, number))
                assert isinstance(answer, AccessChallenge)
                caller.peer.receive(answer.message, 0.0)
                (packet,) = caller.peer.packets_to_send()
            worker.channel.send(AccessCancelled(session=f"{number:016x}"))
        assert isinstance(await Caller(worker, b"alice", "wonderland", session=9).login(bench), AccessReject)
        (shut,) = bench.named("login.denied")
        assert shut["detail"].startswith("too many failures")

    run(tmp_path, story, msgspec.structs.replace(SETTINGS, auth=Auth(failures_per_minute=3)))


def test_guesses_side_by_side_are_counted_before_the_next_one_is_judged(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        worker = bench.worker(0)
        first = encode_packet(Packet(RESPONSE, 77, b"\x01alice"))
        guesses = []
        for number in range(1, 5):
            caller = Caller(worker, b"alice", "wrong", session=number)
            caller.peer.receive((await bench.ask(worker, request(b"alice", first, number))).message, 0.0)
            guesses += caller.peer.packets_to_send()
        answers = [await bench.ask(worker, request(b"alice", guess, n)) for n, guess in enumerate(guesses, start=1)]
        assert [type(answer) for answer in answers] == [*(AccessChallenge,) * 3, AccessReject]

    run(tmp_path, story, msgspec.structs.replace(SETTINGS, auth=Auth(failures_per_minute=2)))


def test_a_failure_is_counted_once(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        worker = bench.worker(0)
        for number in range(1, 4):
            assert isinstance(await Caller(worker, b"alice", "wrong", number).login(bench), AccessReject)
        assert isinstance(await Caller(worker, b"alice", "wonderland", session=9).login(bench), AccessAccept)

    run(tmp_path, story, msgspec.structs.replace(SETTINGS, auth=Auth(failures_per_minute=3)))


def test_a_conversation_with_radius_that_breaks_off_has_failed(tmp_path: Path) -> None:
    class Relay:
        """A backend that asks on, and nobody here knows what."""

        async def authenticate(self, holder: Holder, request: AccessRequest) -> Verdict:
            return Challenged(encode_packet(Packet(REQUEST, 1, b"\x1a")))

        def forget(self, holder: Holder) -> None:
            """Nothing is kept."""

    async def story(bench: Bench) -> None:
        bench.auth.service._chain = Chain([Relay()])
        worker = bench.worker(0)
        answers = []
        for number in range(1, 6):
            answer = None
            for packet in (encode_packet(Packet(RESPONSE, 77, b"\x01alice")), b"?"):
                if not isinstance(answer, AccessReject):
                    answer = await bench.ask(worker, request(b"alice", packet, number))
            answers.append(type(answer))
            worker.channel.send(AccessCancelled(session=f"{number:016x}"))
        assert answers == [*(AccessChallenge,) * 4, AccessReject]

    run(tmp_path, story, msgspec.structs.replace(SETTINGS, auth=Auth(failures_per_minute=3)))


def test_a_worker_that_goes_is_no_failure_of_its_peers(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        packet = encode_packet(Packet(RESPONSE, 77, b"\x01alice"))
        worker = bench.worker(0)
        for number in range(1, 5):
            assert isinstance(await bench.ask(worker, request(b"alice", packet, number)), AccessChallenge)
        worker = bench.worker(0)
        assert isinstance(await Caller(worker, b"alice", "wonderland", session=9).login(bench), AccessAccept)

    run(tmp_path, story, msgspec.structs.replace(SETTINGS, auth=Auth(failures_per_minute=3)))


def test_nobody_guesses_under_another_name(tmp_path: Path) -> None:
    """The throttle counts by the request's user, so the conversation must be that user's from its beginning on."""
    alice = encode_packet(Packet(RESPONSE, 77, b"\x01alice"))

    async def story(bench: Bench) -> None:
        worker = bench.worker(0)
        for number, (first, then, packet) in enumerate(
            (
                (b"alice", b"alice", encode_packet(Packet(RESPONSE, 78, b"\x01off"))),  # to a Challenge
                (b"alice", b"alice", alice),
                (b"alice", b"off", b""),
            ),
            start=1,
        ):
            answer = await bench.ask(worker, request(first, alice, number))
            assert isinstance(answer, AccessChallenge)
            peer = EapPeer(b"alice", "wonderland", os.urandom)
            peer.receive(answer.message, 0.0)
            (right,) = peer.packets_to_send()
            assert isinstance(await bench.ask(worker, request(then, packet or right, number)), AccessReject)
        assert isinstance(await bench.ask(worker, request(b"off", alice, 4)), AccessReject)
        assert {denied["detail"] for denied in bench.named("login.denied")} == {"the EAP identity changed"}

    run(tmp_path, story, SETTINGS)


def test_conversations_side_by_side(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        worker = bench.worker(0)
        callers = [Caller(worker, b"alice", "wonderland", session=number) for number in (1, 2)]
        packets = [encode_packet(Packet(RESPONSE, 77, b"\x01alice"))] * 2
        for step in range(3):
            for number, caller in enumerate(callers):
                answer = await bench.ask(worker, request(b"alice", packets[number], caller.session))
                if step == 2:
                    assert isinstance(answer, AccessAccept)
                else:
                    caller.peer.receive(answer.message, 0.0)
                    (packets[number],) = caller.peer.packets_to_send()

    run(tmp_path, story, SETTINGS)
