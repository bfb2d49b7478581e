"""EAP under any order of events and any bytes: every cell of both tables, no exception, no undeserved success."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sstpfarm.proto.events import AuthRequest, AuthSucceeded
from sstpfarm.proto.ppp import authenticator as server_side
from sstpfarm.proto.ppp import mschap
from sstpfarm.proto.ppp.authenticator import Action, Input, State
from sstpfarm.proto.ppp.chap import build_value
from sstpfarm.proto.ppp.eap import FAILURE, REQUEST, RESPONSE, SUCCESS, EapAuthenticator, EapType
from sstpfarm.proto.ppp.eap_mschapv2 import MschapConversation, MschapPacket, OpCode, Verdict, decode_mschap
from sstpfarm.proto.ppp.eap_peer import EAP_PEER_TABLE, EapPeer, EapPeerAction, EapPeerInput, EapPeerState
from sstpfarm.proto.ppp.exchange import AuthEvent, AuthFailed
from sstpfarm.proto.ppp.packet import Packet, decode_packet, encode_packet
from sstpfarm.proto.roles import AuthAccept, AuthChallenge, AuthReject, AuthUnavailable
from sstpfarm.reasons import Reason
from tests.property.test_ppp_auth_exchanges import NAMES, PASSWORDS, make_entropy
from tests.unit.judging import PasswordJudge

PASSWORD = "clientPass"
IDENTITY = bytes((EapType.IDENTITY,))


def packet(code: int, identifier: int, data: bytes = b"") -> bytes:
    return encode_packet(Packet(code, identifier, data))


# -- every cell of the server's table ----------------------------------------------------------------------------------

WAY_TO: dict[State, list[Input]] = {
    State.IDLE: [],
    State.WAITING: [Input.START],
    State.ASKED: [Input.START, Input.PROOF],
    State.ACCEPTED: [Input.START, Input.PROOF, Input.ACCEPT],
    State.REFUSED: [Input.START, Input.PROOF, Input.REJECT],
    State.GIVEN_UP: [Input.START, Input.PROOF, Input.UNAVAILABLE],
}
WHAT_SHOWS: dict[Action, tuple[list[int], list[type]]] = {  # codes to send, events
    Action.NONE: ([], []),
    Action.PROMPT: ([REQUEST], []),
    Action.PROMPT_ANEW: ([REQUEST], []),
    Action.ASK: ([], [AuthRequest]),
    Action.ASK_ON: ([REQUEST], []),
    Action.NOTE: ([], []),
    Action.ADMIT: ([SUCCESS], [AuthSucceeded]),
    Action.REFUSE: ([FAILURE], [AuthFailed]),
    Action.REPEAT: ([], []),  # filled in by the state
    Action.BREAK_OFF: ([], [AuthFailed]),
}


def feed_server(server: EapAuthenticator, event: Input, identifier: int) -> None:
    match event:
        case Input.START:
            server.start(0.0)
        case Input.PROOF:
            server.receive(packet(RESPONSE, identifier, IDENTITY + b"User"), 0.0)
        case Input.CHALLENGE:
            server.result(AuthChallenge(packet(REQUEST, 77, b"\x1ax")), 0.0)
        case Input.ACCEPT:
            server.result(AuthAccept(bytes(32)), 0.0)
        case Input.REJECT:
            server.result(AuthReject(), 0.0)
        case Input.UNAVAILABLE:
            server.result(AuthUnavailable(), 0.0)
        case Input.AGAIN:
            server.again(0.0)


# no Request is repeated, so no timer runs
EVENTS = [event for event in Input if event not in (Input.TIMEOUT, Input.EXHAUSTED)]


@pytest.mark.parametrize(("state", "event"), list(product(State, EVENTS)))
def test_every_cell_of_the_server(state: State, event: Input) -> None:
    server = EapAuthenticator(lambda length: b"\x2a" * length)
    for step in WAY_TO[state]:
        feed_server(server, step, 0x2A)
        server.packets_to_send()
    server.events()
    assert server.state is state
    feed_server(server, event, 0x2A)
    action, after = server_side.TABLE.get((state, event), (Action.NONE, state))
    codes, events = WHAT_SHOWS[action]
    if action is Action.REPEAT:
        codes = [SUCCESS if state is State.ACCEPTED else FAILURE]
    sent = [decode_packet(data) for data in server.packets_to_send()]
    assert server.state is after
    assert [p.code for p in sent] == codes
    assert all(p.identifier == 0x2A and not p.data for p in sent if p.code in (SUCCESS, FAILURE))
    assert [type(e) for e in server.events()] == events
    assert server.next_deadline() is None


# -- every cell of the client's table ----------------------------------------------------------------------------------

PEER_WAY_TO: dict[EapPeerState, list[EapPeerInput]] = {
    EapPeerState.WAITING: [],
    EapPeerState.RESPONDED: [EapPeerInput.CHALLENGE],
    EapPeerState.PROVEN: [EapPeerInput.CHALLENGE, EapPeerInput.PROOF],
    EapPeerState.TOLD: [EapPeerInput.CHALLENGE, EapPeerInput.REFUSAL],
    EapPeerState.SUCCEEDED: [EapPeerInput.CHALLENGE, EapPeerInput.PROOF, EapPeerInput.SUCCESS],
    EapPeerState.FAILED: [EapPeerInput.CHALLENGE, EapPeerInput.FAILURE],
}
PEER_SHOWS: dict[EapPeerAction, tuple[int, list[Reason | None]]] = {  # packets, events: None is success
    EapPeerAction.NONE: (0, []),
    EapPeerAction.IDENTIFY: (1, []),
    EapPeerAction.BEGIN_ANEW: (1, []),
    EapPeerAction.RESPOND: (1, []),
    EapPeerAction.CONFIRM: (1, []),
    EapPeerAction.SUCCEED: (0, [None]),
    EapPeerAction.DISTRUST: (0, [Reason.SERVER_NOT_AUTHENTIC]),
    EapPeerAction.FAIL: (0, [Reason.AUTH_REFUSED]),
}


class Server:
    """Says to a client whatever a cell needs, with a new identifier each time."""

    def __init__(self) -> None:
        self.client = EapPeer(b"User", PASSWORD, make_entropy())
        self.identifier = 1
        self.proof = b"S=" + b"0" * 40
        self.say(REQUEST, IDENTITY)
        assert self.sent() == [packet(RESPONSE, 2, IDENTITY + b"User")]

    def sent(self) -> list[bytes]:
        return self.client.packets_to_send()

    def say(self, code: int, data: bytes = b"") -> None:
        if code == REQUEST:
            self.identifier += 1
        self.client.receive(packet(code, self.identifier, data), 0.0)

    def feed(self, event: EapPeerInput) -> None:
        match event:
            case EapPeerInput.IDENTITY:
                self.say(REQUEST, IDENTITY)
            case EapPeerInput.CHALLENGE:
                challenge = build_value(bytes(16), b"vpn")
                self.say(REQUEST, MschapPacket(OpCode.CHALLENGE, self.identifier, challenge).encode())
                sent = self.client._packets[-1:]  # what the proof must be made from
                if sent:
                    answer = decode_mschap(decode_packet(sent[0]).data)
                    value = answer.data[1:50]
                    hashed = mschap.challenge_hash(value[mschap.PEER_CHALLENGE], bytes(16), b"User")
                    secret = mschap.nt_hash(PASSWORD)
                    self.proof = mschap.authenticator_response(secret, value[mschap.NT_RESPONSE], hashed)
            case EapPeerInput.PROOF:
                self.say(REQUEST, MschapPacket(OpCode.SUCCESS, 9, self.proof + b" M=hello").encode())
            case EapPeerInput.FALSE_PROOF:
                self.say(REQUEST, MschapPacket(OpCode.SUCCESS, 9, b"S=" + b"1" * 40).encode())
            case EapPeerInput.REFUSAL:
                self.say(REQUEST, MschapPacket(OpCode.FAILURE, 9, b"E=691 R=0 C=00 V=3 M=no").encode())
            case EapPeerInput.SUCCESS:
                self.say(SUCCESS)
            case EapPeerInput.FAILURE:
                self.say(FAILURE)


@pytest.mark.parametrize(("state", "event"), list(product(EapPeerState, EapPeerInput)))
def test_every_cell_of_the_client(state: EapPeerState, event: EapPeerInput) -> None:
    server = Server()
    for step in PEER_WAY_TO[state]:
        server.feed(step)
        server.sent()
    server.client.events()
    assert server.client.state is state
    if (state, event) == (EapPeerState.WAITING, EapPeerInput.PROOF):
        server.proof = b"S=" + b"0" * 40  # there can be no proof before a challenge
    server.feed(event)
    action, after = EAP_PEER_TABLE.get((state, event), (EapPeerAction.NONE, state))
    packets, outcomes = PEER_SHOWS[action]
    assert server.client.state is after
    assert len(server.sent()) == packets
    assert [e.reason if isinstance(e, AuthFailed) else None for e in server.client.events()] == outcomes


# -- any bytes ---------------------------------------------------------------------------------------------------------

TYPES = st.sampled_from([b"\x01", b"\x02", b"\x03", b"\x04", b"\x0d", b"\x1a\x01", b"\x1a\x03", b"\x1a\x04", b""])
RANDOM_PACKETS = st.one_of(
    st.binary(max_size=80),
    st.builds(
        lambda code, identifier, kind, data: packet(code, identifier, kind + data),
        st.integers(1, 5), st.sampled_from([0x2A, 1, 2, 3]), TYPES, st.binary(max_size=60),
    ),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(packets=st.lists(RANDOM_PACKETS, max_size=12))
def test_a_server_survives_any_bytes(packets: list[bytes]) -> None:
    server = EapAuthenticator(lambda length: b"\x2a" * length)
    server.start(0.0)
    for data in packets:
        server.receive(data, 0.0)
    asked = [event for event in server.events() if isinstance(event, AuthRequest)]
    assert len(asked) <= 1
    assert all(len(request.user) <= 255 for request in asked)


@settings(max_examples=200, deadline=None)
@given(packets=st.lists(RANDOM_PACKETS, max_size=12))
def test_a_client_survives_any_bytes_and_believes_nobody(packets: list[bytes]) -> None:
    client = EapPeer(b"User", PASSWORD, make_entropy())
    for data in packets:
        client.receive(data, 0.0)
    assert not any(isinstance(event, AuthSucceeded) for event in client.events())


@settings(max_examples=200, deadline=None)
@given(packets=st.lists(RANDOM_PACKETS, max_size=6))
def test_a_conversation_survives_any_bytes_and_accepts_nobody(packets: list[bytes]) -> None:
    conversation = MschapConversation(1, b"vpn", make_entropy())
    conversation.begin()
    for data in packets:
        assert conversation.receive(data, lambda name, proof: b"E=691").verdict is not Verdict.ACCEPTED


# -- whole logins ------------------------------------------------------------------------------------------------------


def run_login(user: bytes, typed: str, stored: str, mutate: Callable[[bytes], bytes]) -> list[AuthEvent]:
    """Run one login; return the events of both ends, the client's first. `mutate` changes the client's packets."""
    client, server = EapPeer(user, typed, make_entropy()), EapAuthenticator(make_entropy())
    judge = PasswordJudge(stored, make_entropy())
    events: list[AuthEvent] = []
    server.start(0.0)
    for _ in range(5):
        for data in server.packets_to_send():
            client.receive(data, 0.0)
        for data in client.packets_to_send():
            server.receive(mutate(data), 0.0)
        for event in server.events():
            if isinstance(event, AuthRequest):
                server.result(judge.decide(event), 0.0)
            else:
                events.append(event)
        events += server.events()
    return client.events() + events


@settings(max_examples=50, deadline=None)
@given(user=NAMES, password=PASSWORDS)
def test_the_right_password_gives_both_ends_the_same_key(user: bytes, password: str) -> None:
    at_client, at_server = run_login(user, password, password, lambda data: data)
    assert at_client == at_server
    assert isinstance(at_client, AuthSucceeded)
    assert (at_client.user, len(at_client.hlak), any(at_client.hlak)) == (user, 32, True)


@settings(max_examples=50, deadline=None)
@given(user=NAMES, typed=PASSWORDS, stored=PASSWORDS)
def test_a_wrong_password_gives_none(user: bytes, typed: str, stored: str) -> None:
    events = run_login(user, typed, stored, lambda data: data)
    if typed != stored:
        assert [type(event) for event in events] == [AuthFailed, AuthFailed]
        assert isinstance(events[0], AuthFailed)
        assert events[0].text == "E=691: wrong user name or password (the server says: no)"


@settings(max_examples=100, deadline=None)
@given(bit=st.integers(0, 24 * 8 - 1))
def test_one_flipped_bit_of_the_proof_is_refused(bit: int) -> None:
    def mutate(data: bytes) -> bytes:
        if data[4:6] != b"\x1a\x02":
            return data
        changed = bytearray(data)
        changed[4 + 1 + 4 + 1 + 24 + bit // 8] ^= 1 << bit % 8  # the NT-Response
        return bytes(changed)

    assert not any(isinstance(event, AuthSucceeded) for event in run_login(b"User", PASSWORD, PASSWORD, mutate))
