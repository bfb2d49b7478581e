"""PPP authentication under any order of events and any bytes: every cell, no exception, no undeserved success."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from itertools import count, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sstpfarm.proto.events import AuthRequest, AuthSucceeded
from sstpfarm.proto.ppp import authenticator as server_side
from sstpfarm.proto.ppp import chap, pap
from sstpfarm.proto.ppp.authentication import Authentication, AuthEvent, AuthFailed, make_authentication
from sstpfarm.proto.ppp.exchange import MAX_TRANSMISSIONS
from sstpfarm.proto.ppp.packet import Packet, encode_packet
from sstpfarm.proto.ppp.verify import verify
from sstpfarm.proto.roles import AuthAccept, AuthMethod, AuthReject, AuthUnavailable, Entropy, Role

METHODS = [method for method in AuthMethod if method is not AuthMethod.EAP]  # that has a file of its own
CHAPS = [AuthMethod.CHAP, AuthMethod.MSCHAP1, AuthMethod.MSCHAP2]
PASSWORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
NAMES = st.binary(max_size=255)


def make_entropy() -> Entropy:
    numbers = count()
    return lambda length: sha256(b"%d" % next(numbers)).digest()[:length]


def make_pair(
    method: AuthMethod, user: bytes = b"User", password: str = "secret"
) -> tuple[Authentication, Authentication]:
    entropy = make_entropy()
    return (
        make_authentication(Role.CLIENT, method, entropy=entropy, name=b"", user=user, password=password),
        make_authentication(Role.SERVER, method, entropy=entropy, name=b"vpn"),
    )


def packet(code: int, identifier: int, data: bytes) -> bytes:
    return encode_packet(Packet(code, identifier, data))


# -- every cell of the server's table ----------------------------------------------------------------------------------

State, Input, Action = server_side.State, server_side.Input, server_side.Action
WAY_TO: dict[server_side.State, list[server_side.Input]] = {
    State.IDLE: [],
    State.WAITING: [Input.START],
    State.ASKED: [Input.START, Input.PROOF],
    State.ACCEPTED: [Input.START, Input.PROOF, Input.ACCEPT],
    State.REFUSED: [Input.START, Input.PROOF, Input.REJECT],
    State.GIVEN_UP: [Input.START, *[Input.TIMEOUT] * (MAX_TRANSMISSIONS - 1), Input.EXHAUSTED],
}
WHAT_SHOWS: dict[server_side.Action, tuple[int, list[type]]] = {  # packets to send, events
    Action.NONE: (0, []),
    Action.PROMPT: (1, []),
    Action.PROMPT_ANEW: (1, []),
    Action.ASK: (0, [AuthRequest]),
    Action.NOTE: (0, []),
    Action.ADMIT: (1, [AuthSucceeded]),
    Action.REFUSE: (1, [AuthFailed]),
    Action.REPEAT: (1, []),
    Action.GIVE_UP: (0, [AuthFailed]),
    Action.BREAK_OFF: (0, [AuthFailed]),
}


def feed_server(authenticator: server_side.Authenticator, event: server_side.Input, proof: bytes) -> None:
    deadline = authenticator.next_deadline()
    match event:
        case Input.START:
            authenticator.start(0.0)
        case Input.PROOF:
            authenticator.receive(proof, 0.0)
        case Input.ACCEPT:
            authenticator.result(AuthAccept(bytes(32), b"yes"), 0.0)
        case Input.REJECT:
            authenticator.result(AuthReject(b"no"), 0.0)
        case Input.UNAVAILABLE:
            authenticator.result(AuthUnavailable(), 0.0)
        case Input.TIMEOUT | Input.EXHAUSTED:
            authenticator.tick(1e9 if deadline is None else deadline)
        case Input.AGAIN:
            authenticator.again(0.0)


SERVER_CELLS = [  # in PAP the peer speaks first: no timer runs at the server
    (method, state, event)
    for method, state, event in product(METHODS, State, Input)
    if event is not Input.CHALLENGE  # only EAP can
    if method is not AuthMethod.PAP
    or not (state is State.GIVEN_UP or event in (Input.TIMEOUT, Input.EXHAUSTED, Input.AGAIN))
]


@pytest.mark.parametrize(("method", "state", "event"), SERVER_CELLS)
def test_every_cell_of_the_server(method: AuthMethod, state: server_side.State, event: server_side.Input) -> None:
    way = WAY_TO[State.GIVEN_UP][:-1] if (state, event) == (State.WAITING, Input.EXHAUSTED) else WAY_TO[state]
    client, authenticator = make_pair(method)
    assert isinstance(authenticator, server_side.Authenticator)
    client.start(0.0)
    proof = b"".join(client.packets_to_send())
    for step in way:
        feed_server(authenticator, step, proof)
        for challenge in authenticator.packets_to_send():
            client.receive(challenge, 0.0)
            proof = b"".join(client.packets_to_send()) or proof
    if method is not AuthMethod.PAP and state is State.IDLE:
        proof = packet(chap.RESPONSE, 0, chap.build_value(bytes(chap.RESPONSE_LENGTHS[method]), b"User"))
    authenticator.events()
    assert authenticator.state is state
    feed_server(authenticator, event, proof)
    action, after = server_side.TABLE.get((state, event), (Action.NONE, state))
    packets, events = WHAT_SHOWS[action]
    if method is AuthMethod.PAP and action is Action.PROMPT:
        packets = 0
    assert authenticator.state is after
    assert len(authenticator.packets_to_send()) == packets
    assert [type(e) for e in authenticator.events()] == events
    assert (authenticator.next_deadline() is not None) == (after is State.WAITING and method is not AuthMethod.PAP)


# -- every cell of the clients' tables ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "event"), list(product(pap.PeerState, pap.PeerInput)))
def test_every_cell_of_the_pap_client(state: pap.PeerState, event: pap.PeerInput) -> None:
    def feed(step: pap.PeerInput) -> None:
        match step:
            case pap.PeerInput.START:
                peer.start(0.0)
            case pap.PeerInput.ACK:
                peer.receive(packet(pap.ACK, 5, b"\0"), 0.0)
            case pap.PeerInput.NAK:
                peer.receive(packet(pap.NAK, 5, b"\0"), 0.0)
            case pap.PeerInput.TIMEOUT:
                peer.tick(peer.next_deadline() or 1e9)

    start = pap.PeerInput.START
    way = {
        pap.PeerState.IDLE: [],
        pap.PeerState.REQUESTED: [start, *[pap.PeerInput.TIMEOUT] * (2 * MAX_TRANSMISSIONS)],  # it does not give up
        pap.PeerState.SUCCEEDED: [start, pap.PeerInput.ACK],
        pap.PeerState.FAILED: [start, pap.PeerInput.NAK],
    }
    shows: dict[pap.PeerAction, tuple[int, list[type]]] = {
        pap.PeerAction.NONE: (0, []),
        pap.PeerAction.REQUEST: (1, []),
        pap.PeerAction.SUCCEED: (0, [AuthSucceeded]),
        pap.PeerAction.FAIL: (0, [AuthFailed]),
    }
    peer = pap.PapPeer(b"User", "secret", identifier=5)
    for step in way[state]:
        feed(step)
    peer.packets_to_send()
    peer.events()
    assert peer.state is state
    feed(event)
    action, after = pap.PEER_TABLE.get((state, event), (pap.PeerAction.NONE, state))
    packets, events = shows[action]
    assert peer.state is after
    assert len(peer.packets_to_send()) == packets
    assert [type(e) for e in peer.events()] == events
    assert (peer.next_deadline() is not None) == (after is pap.PeerState.REQUESTED)


@pytest.mark.parametrize("method", CHAPS)
@pytest.mark.parametrize(("state", "event"), list(product(chap.PeerState, chap.PeerInput)))
def test_every_cell_of_the_chap_client(method: AuthMethod, state: chap.PeerState, event: chap.PeerInput) -> None:
    if event is chap.PeerInput.FALSE_SUCCESS and method is not AuthMethod.MSCHAP2:
        event = chap.PeerInput.FAILURE  # the other methods believe any Success
    numbers = count(1)
    challenge = b""

    def feed(step: chap.PeerInput) -> None:
        nonlocal challenge
        match step:
            case chap.PeerInput.CHALLENGE:
                value = bytes((next(numbers),)) * chap.CHALLENGE_LENGTHS[method]
                challenge = packet(chap.CHALLENGE, value[0], chap.build_value(value, b""))
                peer.receive(challenge, 0.0)
            case chap.PeerInput.SAME_CHALLENGE:
                peer.receive(challenge, 0.0)
            case chap.PeerInput.SUCCESS:
                response = vars(peer)["_response"]
                expected = b"" if response is None else response.expected
                peer.receive(packet(chap.SUCCESS, challenge[1] if challenge else 0, expected), 0.0)
            case chap.PeerInput.FALSE_SUCCESS:
                peer.receive(packet(chap.SUCCESS, challenge[1] if challenge else 0, b"S=" + b"0" * 40), 0.0)
            case chap.PeerInput.FAILURE:
                peer.receive(packet(chap.FAILURE, challenge[1] if challenge else 0, b"E=691 R=1"), 0.0)

    new, success, failure = chap.PeerInput.CHALLENGE, chap.PeerInput.SUCCESS, chap.PeerInput.FAILURE
    way = {
        chap.PeerState.WAITING: [],
        chap.PeerState.RESPONDED: [new],
        chap.PeerState.SUCCEEDED: [new, success],
        chap.PeerState.RESPONDED_AGAIN: [new, success, new],
        chap.PeerState.FAILED: [new, failure],
    }
    shows: dict[chap.PeerAction, tuple[int, list[type]]] = {
        chap.PeerAction.NONE: (0, []),
        chap.PeerAction.RESPOND: (1, []),
        chap.PeerAction.REPEAT: (1, []),
        chap.PeerAction.SUCCEED: (0, [AuthSucceeded]),
        chap.PeerAction.DISTRUST: (0, [AuthFailed]),
        chap.PeerAction.FAIL: (0, [AuthFailed]),
    }
    peer = chap.ChapPeer(method, b"User", "secret", make_entropy())
    for step in way[state]:
        feed(step)
    peer.packets_to_send()
    peer.events()
    assert peer.state is state
    feed(event)
    action, after = chap.PEER_TABLE.get((state, event), (chap.PeerAction.NONE, state))
    packets, events = shows[action]
    assert peer.state is after
    assert len(peer.packets_to_send()) == packets
    assert [type(e) for e in peer.events()] == events


# -- any bytes, any order ----------------------------------------------------------------------------------------------

RANDOM_PACKETS = st.one_of(
    st.binary(max_size=80),
    st.builds(packet, st.integers(0, 5), st.integers(0, 255), st.binary(max_size=80)),
    st.builds(
        lambda code, identifier, value, name: packet(code, identifier, bytes((len(value),)) + value + name),
        st.integers(1, 2),
        st.integers(0, 255),
        st.sampled_from([8, 16, 49]).flatmap(lambda size: st.binary(min_size=size, max_size=size)),
        NAMES,
    ),
)


@settings(max_examples=150, deadline=None)
@given(method=st.sampled_from(METHODS), packets=st.lists(RANDOM_PACKETS, max_size=12))
def test_a_server_survives_any_bytes_and_asks_at_most_once(method: AuthMethod, packets: list[bytes]) -> None:
    _, authenticator = make_pair(method)
    authenticator.start(0.0)
    (identifier,) = (p[1] for p in authenticator.packets_to_send()) if method is not AuthMethod.PAP else (None,)
    events: list[AuthEvent] = []
    for data in packets:
        authenticator.receive(data, 0.0)
        if identifier is not None and len(data) > 1:
            authenticator.receive(data[:1] + bytes((identifier,)) + data[2:], 0.0)
        events += authenticator.events()
        assert authenticator.packets_to_send() == []
    assert [type(e) for e in events] in ([], [AuthRequest])


@settings(max_examples=150, deadline=None)
@given(method=st.sampled_from(METHODS), packets=st.lists(RANDOM_PACKETS, max_size=12))
def test_a_client_survives_any_bytes_and_believes_no_mschap2_server(method: AuthMethod, packets: list[bytes]) -> None:
    client, _ = make_pair(method)
    client.start(0.0)
    client.packets_to_send()
    for data in packets:
        client.receive(data, 0.0)
        assert len(client.packets_to_send()) <= 1
        for event in client.events():
            assert isinstance(event, AuthSucceeded | AuthFailed)
            if isinstance(event, AuthFailed):
                assert event.text.isprintable()
                assert len(event.text) <= 200
            else:
                assert method is not AuthMethod.MSCHAP2


def run_login(
    method: AuthMethod, user: bytes, typed: str, stored: str, mutate: Callable[[bytes], bytes]
) -> list[AuthEvent]:
    """Run one login; return the events of both ends, the client's first. `mutate` changes the client's packets."""
    client, authenticator = make_pair(method, user, typed)
    events: list[AuthEvent] = []
    client.start(0.0)
    authenticator.start(0.0)
    for _ in range(3):
        for data in authenticator.packets_to_send():
            client.receive(data, 0.0)
        for data in client.packets_to_send():
            authenticator.receive(mutate(data), 0.0)
        for event in authenticator.events():
            if isinstance(event, AuthRequest):
                accept = verify(method, event.user, event.proof, stored)
                authenticator.result(AuthReject(b"E=691 R=0") if accept is None else accept, 0.0)
            else:
                events.append(event)
        events += authenticator.events()
    return client.events() + events


@settings(max_examples=100, deadline=None)
@given(method=st.sampled_from(METHODS), user=NAMES, password=PASSWORDS)
def test_the_right_password_gives_both_ends_the_same_key(method: AuthMethod, user: bytes, password: str) -> None:
    at_client, at_server = run_login(method, user, password, password, lambda data: data)
    assert at_client == at_server
    assert isinstance(at_client, AuthSucceeded)
    assert (at_client.user, len(at_client.hlak)) == (user, 32)


@settings(max_examples=100, deadline=None)
@given(method=st.sampled_from(METHODS), user=NAMES, typed=PASSWORDS, stored=PASSWORDS)
def test_a_wrong_password_gives_none(method: AuthMethod, user: bytes, typed: str, stored: str) -> None:
    if typed == stored:
        stored += "x"
    assert [type(event) for event in run_login(method, user, typed, stored, lambda data: data)] == [AuthFailed] * 2


# what the proof covers, as offsets in the client's packet for "User" and "secret"; not the name in MD5 and v1 (the
# driver looks the password up by it), nor the LM response, the reserved bytes and the flags of v2
COVERED = {
    AuthMethod.PAP: range(10, 16),
    AuthMethod.CHAP: range(5, 21),
    AuthMethod.MSCHAP1: range(29, 54),
    AuthMethod.MSCHAP2: [*range(5, 21), *range(29, 53), *range(54, 58)],
}
FLIPS = st.sampled_from([(method, offset) for method, offsets in COVERED.items() for offset in offsets])


@settings(max_examples=200, deadline=None)
@given(flip=FLIPS, bit=st.integers(0, 7))
def test_one_flipped_bit_of_the_proof_is_refused(flip: tuple[AuthMethod, int], bit: int) -> None:
    method, offset = flip

    def mutate(data: bytes) -> bytes:
        return data[:offset] + bytes((data[offset] ^ 1 << bit,)) + data[offset + 1 :]

    assert [type(event) for event in run_login(method, b"User", "secret", "secret", mutate)] == [AuthFailed] * 2
