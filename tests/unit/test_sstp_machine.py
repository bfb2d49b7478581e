"""Every cell of the SSTP state machines, for both roles: in the tables, and by real messages and a clock.

The grids below were written from MS-SSTP and our policy, not from the tables. A mark says what has to happen:

    =   nothing             !   our own bug         A5  Call Abort with status 5, and so on
    B   Call Abort in answer, 1 s      b  the same without a second Call Abort      C  closed, in order
    D   Call Disconnect                d  Call Disconnect Ack, 1 s                  X  closed without a word
    O   the next state of the establishment, with its message        N  Call Connect Nak
    R   Call Connect Request again     e  Echo Request               E  Echo Response
"""

from __future__ import annotations

import pytest

from sstpfarm.errors import LocalError
from sstpfarm.proto.events import CallAccepted, CallConnected, CallEnded, CallEnding
from sstpfarm.proto.roles import Role
from sstpfarm.proto.sstp import packets
from sstpfarm.proto.sstp.binding import build_call_connected
from sstpfarm.proto.sstp.call import CertificateHash, SstpCall, SstpSettings
from sstpfarm.proto.sstp.constants import HashProtocol, MessageType
from sstpfarm.proto.sstp.machine import CARRIES_CONTROL, TABLE, Action, Input, State
from sstpfarm.reasons import Reason

CERTIFICATE = CertificateHash(b"1" * 20, b"2" * 32)
HLAK = b"k" * 32
NONCE = b"n" * 32

TEARDOWN = [
    State.ABORT_PENDING,
    State.ABORT_TIMEOUT_PENDING,
    State.DISCONNECT_ACK_PENDING,
    State.DISCONNECT_TIMEOUT_PENDING,
    State.CLOSED,
]
STATES = {
    Role.SERVER: [
        State.CALL_DISCONNECTED,
        State.CONNECT_REQUEST_PENDING,
        State.CALL_CONNECTED_PENDING,
        State.CALL_CONNECTED,
        *TEARDOWN,
    ],
    Role.CLIENT: [
        State.CALL_DISCONNECTED,
        State.CONNECT_REQUEST_SENT,
        State.CONNECT_ACK_RECEIVED,
        State.CALL_CONNECTED,
        *TEARDOWN,
    ],
}

COMMON = """
call-abort                 !  B  B  B   b  =  B  =  =
call-disconnect            !  d  d  d   =  =  d  =  =
call-disconnect-ack        !  A5 A5 A5  =  =  C  =  =
echo-request               !  =  E  E   =  =  =  =  =
echo-response              !  =  =  =   =  =  =  =  =
unknown                    !  A7 A7 =   =  =  =  =  =
malformed                  !  A7 A7 A7  =  =  =  =  =
start                      O  !  !  !   !  !  !  !  !
disconnect                 C  D  D  D   =  =  =  =  =
abort                      C  A7 A7 A7  =  =  =  =  =
drop                       X  X  X  X   X  X  X  X  =
timeout                    !  A8 A8 !   C  C  C  C  !
hello                      !  !  !  e   !  !  !  !  !
peer-silent                !  !  !  X   !  !  !  !  !
"""
SERVER = """
connect-request-good       !  O  A5 A5  =  =  =  =  =
connect-request-bad        !  N  A5 A5  =  =  =  =  =
connect-request-bad-last   !  A6 A5 A5  =  =  =  =  =
connect-ack-good           !  A5 A5 A5  =  =  =  =  =
connect-ack-bad            !  A5 A5 A5  =  =  =  =  =
connect-nak                !  A5 A5 A5  =  =  =  =  =
connect-nak-last           !  A5 A5 A5  =  =  =  =  =
call-connected-good        !  A5 O  A5  =  =  =  =  =
call-connected-early       !  A5 =  A5  =  =  =  =  =
call-connected-bad         !  A5 A7 A5  =  =  =  =  =
authenticated              !  !  =  =   =  =  =  =  =
"""
CLIENT = """
connect-request-good       !  A5 A5 A5  =  =  =  =  =
connect-request-bad        !  A5 A5 A5  =  =  =  =  =
connect-request-bad-last   !  A5 A5 A5  =  =  =  =  =
connect-ack-good           !  O  A5 A5  =  =  =  =  =
connect-ack-bad            !  A7 A5 A5  =  =  =  =  =
connect-nak                !  R  A5 A5  =  =  =  =  =
connect-nak-last           !  A6 A5 A5  =  =  =  =  =
call-connected-good        !  A5 A5 A5  =  =  =  =  =
call-connected-early       !  A5 A5 A5  =  =  =  =  =
call-connected-bad         !  A5 A5 A5  =  =  =  =  =
authenticated              !  !  O  =   =  =  =  =  =
"""


def grid(role: Role) -> dict[tuple[State, Input], str]:
    """The marks of one role by state and input."""
    marks: dict[tuple[State, Input], str] = {}
    for line in (COMMON + (SERVER if role is Role.SERVER else CLIENT)).strip().splitlines():
        if words := line.split():
            marks |= {(state, Input(words[0])): mark for state, mark in zip(STATES[role], words[1:], strict=True)}
    return marks


GRIDS = {role: grid(role) for role in Role}
CELLS = [(role, state, event) for role in Role for state, event in GRIDS[role]]
ESTABLISHED = {
    State.CALL_DISCONNECTED: {Role.SERVER: State.CONNECT_REQUEST_PENDING, Role.CLIENT: State.CONNECT_REQUEST_SENT},
    State.CONNECT_REQUEST_PENDING: {Role.SERVER: State.CALL_CONNECTED_PENDING},
    State.CALL_CONNECTED_PENDING: {Role.SERVER: State.CALL_CONNECTED},
    State.CONNECT_REQUEST_SENT: {Role.CLIENT: State.CONNECT_ACK_RECEIVED},
    State.CONNECT_ACK_RECEIVED: {Role.CLIENT: State.CALL_CONNECTED},
}


def next_state(role: Role, state: State, mark: str) -> State:
    """Where a mark leads."""
    match mark[0]:
        case "A":
            return State.ABORT_PENDING
        case "B" | "b":
            return State.ABORT_TIMEOUT_PENDING
        case "D":
            return State.DISCONNECT_ACK_PENDING
        case "d":
            return State.DISCONNECT_TIMEOUT_PENDING
        case "C" | "X":
            return State.CLOSED
        case "O":
            return ESTABLISHED[state][role]
        case _:
            return state


def test_grid_and_table_have_every_cell_and_no_other() -> None:
    for role in Role:
        every = {(state, event) for state in STATES[role] for event in Input}
        assert set(GRIDS[role]) == every
        assert set(TABLE[role]) == every
    assert {state for states in STATES.values() for state in states} == set(State)


@pytest.mark.parametrize(("role", "state", "event"), CELLS)
def test_table_cell(role: Role, state: State, event: Input) -> None:
    mark = GRIDS[role][state, event]
    cell = TABLE[role][state, event]
    assert (cell.next or state) is next_state(role, state, mark)
    assert (Action.IMPOSSIBLE in cell.actions) is (mark == "!")
    assert (Action.SEND_ABORT in cell.actions) is (mark[0] in "AB")
    # whatever leaves the establishment ends the call and forgets the keys; whatever closes it says so, last
    ends = cell.next in TEARDOWN and mark != "b"
    assert (Action.REPORT_ENDING in cell.actions) is ends
    assert Action.ERASE_KEYS in cell.actions or not ends
    assert (cell.actions[-1:] in ((Action.REPORT_ENDED,), (Action.REPORT_DROPPED,))) is (cell.next is State.CLOSED)


def test_every_action_is_used() -> None:
    assert {action for table in TABLE.values() for cell in table.values() for action in cell.actions} == set(Action)


def test_ppp_control_passes_from_the_ack_to_the_end() -> None:
    for role in Role:
        assert [state in CARRIES_CONTROL for state in STATES[role]] == [False, False, True, True] + [False] * 5


# -- the same by wire ------------------------------------------------------------------------------------------------


def call_in(role: Role, state: State, *, naks: int = 0, hlak: bool = False) -> SstpCall:
    """A call that came to `state` at time 0 by messages; everything that it said so far was fetched."""
    call = SstpCall(SstpSettings(role=role, certificates=(CERTIFICATE,)), lambda length: NONCE[:length])
    if state is not State.CALL_DISCONNECTED:
        call.start(0)
        server = role is Role.SERVER
        for _ in range(naks):
            call.receive(BAD_REQUEST if server else NAK, 0)
        if state not in (State.CONNECT_REQUEST_PENDING, State.CONNECT_REQUEST_SENT):
            call.receive(REQUEST if server else ACK, 0)
        beyond = state not in (State.CALL_CONNECTED_PENDING, State.CONNECT_ACK_RECEIVED) and call.carries_control
        if hlak or beyond:
            call.authenticated(HLAK, 0)
        if server and state in (State.CALL_CONNECTED, *TEARDOWN):
            call.receive(CONNECTED, 0)
    match state:
        case State.ABORT_PENDING:
            call.abort(Reason.MALFORMED_MESSAGE, 0)
        case State.ABORT_TIMEOUT_PENDING:
            call.receive(ABORT, 0)
        case State.DISCONNECT_ACK_PENDING:
            call.disconnect(Reason.USER_REQUEST, 0)
        case State.DISCONNECT_TIMEOUT_PENDING:
            call.receive(DISCONNECT, 0)
        case State.CLOSED:
            call.abort(Reason.TRANSPORT_LOST, 0)
        case _:
            pass
    assert call.state is state
    call.data_to_send()
    call.events()
    return call


REQUEST = packets.CALL_CONNECT_REQUEST.encode()
BAD_REQUEST = bytes.fromhex("1001000e00010001000100060002")
ACK = packets.call_connect_ack(3, NONCE).encode()
BAD_ACK = bytes.fromhex("1001000800020000")
NAK = bytes.fromhex("10010016000300010002000e00000001000000040002")
CONNECTED = build_call_connected(hash_protocol=HashProtocol.SHA256, nonce=NONCE, certificate=CERTIFICATE, hlak=HLAK)
ABORT = packets.call_abort(7).encode()
DISCONNECT = packets.call_disconnect(0).encode()
MESSAGES = {
    Input.CONNECT_REQUEST_GOOD: REQUEST,
    Input.CONNECT_REQUEST_BAD: BAD_REQUEST,
    Input.CONNECT_REQUEST_BAD_LAST: BAD_REQUEST,
    Input.CONNECT_ACK_GOOD: ACK,
    Input.CONNECT_ACK_BAD: BAD_ACK,
    Input.CONNECT_NAK: NAK,
    Input.CONNECT_NAK_LAST: NAK,
    Input.CALL_CONNECTED_GOOD: CONNECTED,
    Input.CALL_CONNECTED_EARLY: CONNECTED,
    Input.CALL_CONNECTED_BAD: CONNECTED[:-1] + b"x",
    Input.CALL_ABORT: ABORT,
    Input.CALL_DISCONNECT: DISCONNECT,
    Input.CALL_DISCONNECT_ACK: packets.CALL_DISCONNECT_ACK.encode(),
    Input.ECHO_REQUEST: packets.ECHO_REQUEST.encode(),
    Input.ECHO_RESPONSE: packets.ECHO_RESPONSE.encode(),
    Input.UNKNOWN: bytes.fromhex("10010008000a0000"),
    Input.MALFORMED: bytes.fromhex("1001000c0008000100010000"),
}
SAYS = {
    "B": [MessageType.CALL_ABORT],
    "D": [MessageType.CALL_DISCONNECT],
    "d": [MessageType.CALL_DISCONNECT_ACK],
    "N": [MessageType.CALL_CONNECT_NAK],
    "R": [MessageType.CALL_CONNECT_REQUEST],
    "e": [MessageType.ECHO_REQUEST],
    "E": [MessageType.ECHO_RESPONSE],
}
ESTABLISHING = {
    (Role.CLIENT, State.CALL_DISCONNECTED): [MessageType.CALL_CONNECT_REQUEST],
    (Role.SERVER, State.CONNECT_REQUEST_PENDING): [MessageType.CALL_CONNECT_ACK],
    (Role.CLIENT, State.CONNECT_ACK_RECEIVED): [MessageType.CALL_CONNECTED],
}


def split(stream: bytes) -> list[packets.ControlMessage]:
    messages = []
    while stream:
        length = int.from_bytes(stream[2:4])
        messages.append(packets.decode_control(stream[:length]))
        stream = stream[length:]
    return messages


def let_happen(call: SstpCall, event: Input) -> None:
    """Let an input come to the call the way it comes in life."""
    match event:
        case Input.START:
            call.start(0)
        case Input.AUTHENTICATED:
            call.authenticated(HLAK, 0)
        case Input.DISCONNECT:
            call.disconnect(Reason.ADMIN_RESET, 0)
        case Input.ABORT:
            call.abort(Reason.SERVER_NOT_AUTHENTIC, 0)
        case Input.DROP:
            call.abort(Reason.BAD_FRAMING, 0)
        case Input.TIMEOUT | Input.HELLO:
            call.tick(60)
        case Input.PEER_SILENT:
            call.tick(120)
        case message:
            call.receive(MESSAGES[message], 0)


@pytest.mark.parametrize(
    ("role", "state", "event"),
    [
        (role, state, event)
        for role, state, event in CELLS
        # time is given to a state that has that timer; the others are the next test's
        if not (event in (Input.TIMEOUT, Input.HELLO, Input.PEER_SILENT) and GRIDS[role][state, event] == "!")
    ],
)
def test_cell_by_wire(role: Role, state: State, event: Input) -> None:
    mark = GRIDS[role][state, event]
    naks = 3 if event in (Input.CONNECT_REQUEST_BAD_LAST, Input.CONNECT_NAK_LAST) else 0
    hlak = role is Role.SERVER and event in (Input.CALL_CONNECTED_GOOD, Input.CALL_CONNECTED_BAD)
    hlak = hlak and state is State.CALL_CONNECTED_PENDING
    call = call_in(role, state, naks=naks, hlak=hlak)
    if mark == "!":
        with pytest.raises(LocalError):
            let_happen(call, event)
        return
    let_happen(call, event)

    assert call.state is next_state(role, state, mark)
    said = split(call.data_to_send())
    if mark[0] == "A":
        (message,) = said
        assert message.type == MessageType.CALL_ABORT
        status = packets.status_of(message)
        assert status is not None
        assert status.status == int(mark[1:])
    elif mark == "O":
        assert [message.type for message in said] == ESTABLISHING.get((role, state), [])
    else:
        assert [message.type for message in said] == SAYS.get(mark, [])

    events = call.events()
    endings = [happened for happened in events if isinstance(happened, CallEnding)]
    ended = [happened for happened in events if isinstance(happened, CallEnded)]
    assert len(endings) == (state not in TEARDOWN and mark[0] in "ABCDXd")
    assert [happened.drop for happened in ended] == ([mark == "X"] if mark in "CX" else [])
    others = [happened for happened in events if not isinstance(happened, CallEnding | CallEnded)]
    accepted = mark == "O" and call.state in (State.CALL_CONNECTED_PENDING, State.CONNECT_ACK_RECEIVED)
    connected = mark == "O" and call.state is State.CALL_CONNECTED
    assert others == [CallAccepted()] * accepted + [CallConnected()] * connected


@pytest.mark.parametrize(("role", "state"), [(role, state) for role in Role for state in STATES[role]])
def test_no_timer_fires_where_there_is_none(role: Role, state: State) -> None:
    timers = [event for event in (Input.TIMEOUT, Input.HELLO) if GRIDS[role][state, event] != "!"]
    call = call_in(role, state)
    assert (call.next_deadline() is None) is (timers == [])
    if not timers:
        call.tick(1e9)
        assert call.state is state
        assert (call.data_to_send(), call.events()) == (b"", [])
