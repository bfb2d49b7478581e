"""The table of RFC 1661 4.1, against a second transcription, and the machine that runs it, cell by cell."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pytest

from sstpfarm.errors import LocalError
from sstpfarm.proto.ppp.automaton import TABLE, TIMED, Action, Input, State
from sstpfarm.proto.ppp.constants import Code, PppProtocol
from sstpfarm.proto.ppp.control import ControlProtocol, Limits, Verdict
from sstpfarm.proto.ppp.packet import Option, Packet, decode_packet

# Columns are the states 0 to 9; a cell is "actions/next state" or "-"; r, p and x mark options of the RFC.
SPECIFICATION = """
Up   | 2     | irc,scr/6 | -         | -             | -     | -     | -         | -         | -         | -
Down | -     | -         | 0         | tls/1         | 0     | 1     | 1         | 1         | 1         | tld/1
Open | tls/1 | 1         | irc,scr/6 | 3r            | 5r    | 5r    | 6         | 7         | 8         | 9r
Close| 0     | tlf/0     | 2         | 2             | 4     | 4     | irc,str/4 | irc,str/4 | irc,str/4 | tld,irc,str/4
TO+  | -     | -         | -         | -             | str/4 | str/5 | scr/6     | scr/6     | scr/8     | -
TO-  | -     | -         | -         | -             | tlf/2 | tlf/3 | tlf/3p    | tlf/3p    | tlf/3p    | -
RCR+ | -     | -         | sta/2     | irc,scr,sca/8 | 4     | 5     | sca/8     | sca,tlu/9 | sca/8     | tld,scr,sca/8
RCR- | -     | -         | sta/2     | irc,scr,scn/6 | 4     | 5     | scn/6     | scn/7     | scn/6     | tld,scr,scn/6
RCA  | -     | -         | sta/2     | sta/3         | 4     | 5     | irc/7     | scr/6x    | irc,tlu/9 | tld,scr/6x
RCN  | -     | -         | sta/2     | sta/3         | 4     | 5     | irc,scr/6 | scr/6x    | irc,scr/8 | tld,scr/6x
RTR  | -     | -         | sta/2     | sta/3         | sta/4 | sta/5 | sta/6     | sta/6     | sta/6     | tld,zrc,sta/5
RTA  | -     | -         | 2         | 3             | tlf/2 | tlf/3 | 6         | 6         | 8         | tld,scr/6
RUC  | -     | -         | scj/2     | scj/3         | scj/4 | scj/5 | scj/6     | scj/7     | scj/8     | scj/9
RXJ+ | -     | -         | 2         | 3             | 4     | 5     | 6         | 6         | 8         | 9
RXJ- | -     | -         | tlf/2     | tlf/3         | tlf/2 | tlf/3 | tlf/3     | tlf/3     | tlf/3     | tld,irc,str/5
RXR  | -     | -         | 2         | 3             | 4     | 5     | 6         | 7         | 8         | ser/9
"""

Cell = tuple[State, tuple[Action, ...]] | None


def read_cell(text: str) -> Cell:
    if text == "-":
        return None
    actions, _, state = text.rstrip("rpx").rpartition("/")
    return State(int(state)), tuple(Action(name) for name in actions.split(",") if name)


def every_cell() -> list[tuple[State, Input, Cell]]:
    cells = []
    for line in SPECIFICATION.strip().splitlines():
        name, *row = (part.strip() for part in line.split("|"))
        assert len(row) == len(State)
        cells += [(state, Input(name), read_cell(text)) for state, text in zip(State, row, strict=True)]
    return cells


CELLS = every_cell()
NAMES = [f"{state.name}-{event}" for state, event, _ in CELLS]


def test_both_transcriptions_speak_of_the_same_cells() -> None:
    assert len(CELLS) == len(State) * len(Input) == 160
    assert {(state, event) for state, event, cell in CELLS if cell is not None} == set(TABLE)


@pytest.mark.parametrize(("state", "event", "cell"), CELLS, ids=NAMES)
def test_cell(state: State, event: Input, cell: Cell) -> None:
    assert TABLE.get((state, event)) == cell


class Bare(ControlProtocol):
    """A control protocol with one option, which is good when it is 1 byte long."""

    protocol = PppProtocol.IPCP

    def _request_options(self) -> list[Option]:
        return [Option(200, b"x")]

    def _judge(self, option: Option, repeated: bool) -> Verdict | Option:
        return Verdict.ACCEPT if len(option.value) == 1 else Verdict.REJECT

    def _missing(self, present: Collection[int], repeated: bool) -> list[Option]:
        return []

    def _take_request(self, options: Sequence[Option]) -> None:
        pass

    def _take_nak(self, options: Sequence[Option]) -> None:
        pass

    def _take_reject(self, options: Sequence[Option]) -> None:
        pass

    def _extended(self, packet: Packet, now: float) -> bool:
        if packet.code == Code.ECHO_REQUEST:
            self._step(Input.RXR, now, packet)
        return packet.code == Code.ECHO_REQUEST

    def _echo_reply(self, packet: Packet) -> None:
        self._send(Packet(Code.ECHO_REPLY, packet.identifier))


OPTION = bytes.fromhex("c80378")
OURS = Packet(Code.CONFIGURE_REQUEST, 1, OPTION)
PACKETS = {
    Input.RCR_PLUS: bytes.fromhex("01070007c80379"),
    Input.RCR_MINUS: bytes.fromhex("01070006c802"),
    Input.RCA: bytes.fromhex("02010007c80378"),
    Input.RCN: bytes.fromhex("03010007c80379"),
    Input.RTR: bytes.fromhex("05070004"),
    Input.RTA: bytes.fromhex("06070004"),
    Input.RUC: bytes.fromhex("63070004"),
    Input.RXJ_PLUS: bytes.fromhex("0707000863010004"),
    Input.RXJ_MINUS: bytes.fromhex("0707000801010004"),
    Input.RXR: bytes.fromhex("09070004"),
}
ACTION_BY_CODE = {
    Code.CONFIGURE_REQUEST: Action.SCR,
    Code.CONFIGURE_ACK: Action.SCA,
    Code.CONFIGURE_REJECT: Action.SCN,
    Code.TERMINATE_REQUEST: Action.STR,
    Code.TERMINATE_ACK: Action.STA,
    Code.CODE_REJECT: Action.SCJ,
    Code.ECHO_REPLY: Action.SER,
}
# Ways into each state, so that the machine under test is a real one and not a patched one.
WAYS: dict[State, tuple[Input, ...]] = {
    State.INITIAL: (),
    State.STARTING: (Input.OPEN,),
    State.CLOSED: (Input.UP,),
    State.STOPPED: (Input.OPEN, Input.UP, Input.RXJ_MINUS),
    State.CLOSING: (Input.OPEN, Input.UP, Input.CLOSE),
    State.STOPPING: (Input.OPEN, Input.UP, Input.RCA, Input.RCR_PLUS, Input.RXJ_MINUS),
    State.REQ_SENT: (Input.OPEN, Input.UP),
    State.ACK_RCVD: (Input.OPEN, Input.UP, Input.RCA),
    State.ACK_SENT: (Input.OPEN, Input.UP, Input.RCR_PLUS),
    State.OPENED: (Input.OPEN, Input.UP, Input.RCA, Input.RCR_PLUS),
}


def cause(machine: Bare, event: Input, now: float) -> None:
    """Bring the event about from outside."""
    match event:
        case Input.UP:
            machine.up(now)
        case Input.DOWN:
            machine.down(now)
        case Input.OPEN:
            machine.open(now)
        case Input.CLOSE:
            machine.close(now, "bye")
        case Input.TO_PLUS | Input.TO_MINUS:
            machine.tick(now)
        case _:
            machine.receive(PACKETS[event], now)


def made(state: State) -> Bare:
    machine = Bare(Limits())
    for event in WAYS[state]:
        if event is Input.RCR_PLUS:
            machine.receive(bytes.fromhex("01060007c80379"), 0.0)
        else:
            cause(machine, event, 0.0)
    assert machine.state is state
    return machine


# Not to be brought about from outside: a second answer to an answered request is dropped by its identifier, and
# Ack-Rcvd is left with the first timeout.
DROPPED = [(state, event) for state in (State.ACK_RCVD, State.OPENED) for event in (Input.RCA, Input.RCN)]
UNREACHABLE = {*DROPPED, (State.ACK_RCVD, Input.TO_MINUS)}
REACHABLE = [cell for cell in CELLS if cell[:2] not in UNREACHABLE]


@pytest.mark.parametrize(
    ("state", "event", "cell"), REACHABLE, ids=[f"{state.name}-{event}" for state, event, _ in REACHABLE]
)
def test_machine_runs_the_cell(state: State, event: Input, cell: Cell) -> None:
    machine = made(state)
    if event is Input.TO_MINUS:  # use the retransmissions up
        while (at := machine.next_deadline()) is not None and machine._restart_counter > 0:
            machine.tick(at)
        assert machine.state is state
    machine.packets.clear()
    machine.signals.clear()
    now = machine.next_deadline() or 50.0

    if event in (Input.UP, Input.DOWN, Input.OPEN, Input.CLOSE) and cell is None:
        with pytest.raises(LocalError):
            cause(machine, event, now)
        return
    cause(machine, event, now)
    if cell is None:
        cell = (state, ())

    assert machine.state is cell[0]
    expected = [action for action in cell[1] if action not in (Action.IRC, Action.ZRC)]
    done = machine.signals + [ACTION_BY_CODE[Code(decode_packet(p).code)] for p in machine.packets]
    assert sorted(done) == sorted(expected)
    timer_runs = machine.state in TIMED
    assert (machine.next_deadline() is not None) is timer_runs
    if timer_runs and {Action.SCR, Action.STR, Action.ZRC} & set(cell[1]):
        assert machine.next_deadline() == now + 3.0


@pytest.mark.parametrize(("state", "event"), DROPPED)
def test_second_answer_to_a_request_is_dropped(state: State, event: Input) -> None:
    machine = made(state)
    machine.packets.clear()
    cause(machine, event, 1.0)
    assert (machine.state, machine.packets) == (state, [])


def test_request_is_sent_ten_times_then_the_layer_is_finished() -> None:
    machine = made(State.REQ_SENT)
    while (at := machine.next_deadline()) is not None:
        machine.tick(at)
    assert [decode_packet(p) for p in machine.packets] == [OURS] * 10
    assert at is None
    assert machine.signals[-1] is Action.TLF
    assert machine.state is State.STOPPED


def test_terminate_request_is_sent_twice_then_the_layer_is_finished() -> None:
    machine = made(State.OPENED)
    machine.packets.clear()
    machine.close(100.0, "bye")
    machine.tick(102.9)
    assert len(machine.packets) == 1
    machine.tick(103.0)
    machine.tick(106.0)
    assert [decode_packet(p).data for p in machine.packets] == [b"bye"] * 2
    assert machine.state is State.CLOSED
    assert machine.signals[-2:] == [Action.TLD, Action.TLF]


def test_after_the_peers_terminate_request_one_period_passes() -> None:
    machine = made(State.OPENED)
    machine.packets.clear()
    machine.receive(PACKETS[Input.RTR], 100.0)
    assert machine.packets == [bytes.fromhex("06070004")]
    assert machine.next_deadline() == 103.0
    machine.tick(103.0)
    assert machine.state is State.STOPPED
    assert len(machine.packets) == 1


def test_retransmitted_request_in_opened_is_acknowledged_again_and_changes_nothing() -> None:
    machine = made(State.OPENED)
    machine.packets.clear()
    machine.signals.clear()
    machine.receive(bytes.fromhex("01060007c80379"), 1.0)
    assert machine.packets == [bytes.fromhex("02060007c80379")]
    assert machine.signals == []
    machine.receive(bytes.fromhex("01070007c80379"), 1.0)  # the next identifier: a new negotiation
    assert machine.signals == [Action.TLD]


@pytest.mark.parametrize(
    "packet",
    [
        "02020007c80378",  # Ack with another identifier
        "02010007c80379",  # Ack with other options
        "02010004",  # Ack of nothing
        "04010007c80379",  # Reject of what was not asked for
        "04010004",  # Reject of nothing
        "03010004",  # Nak of nothing
        "03010007c80178",  # option length below 2
        "03010007c80478",  # option runs past the packet
        "01010007c80478",
        "010100030000",  # length below 4
        "01010009c80378",  # length beyond the field
        "0101",
        "",
    ],
)
def test_invalid_packet_is_dropped(packet: str) -> None:
    machine = made(State.REQ_SENT)
    machine.packets.clear()
    machine.receive(bytes.fromhex(packet), 1.0)
    assert (machine.state, machine.packets, machine.next_deadline()) == (State.REQ_SENT, [], 3.0)


def test_new_contents_have_a_new_identifier_and_retransmissions_the_old_one() -> None:
    machine = made(State.REQ_SENT)
    machine.tick(3.0)
    machine.receive(bytes.fromhex("03010007c80379"), 4.0)
    assert [decode_packet(p).identifier for p in machine.packets] == [1, 1, 2]


def test_code_reject_is_cut_to_the_peers_limit() -> None:
    machine = made(State.OPENED)
    machine.packets.clear()
    machine.send_limit = 576
    machine.receive(bytes.fromhex("630703e8") + bytes(996), 1.0)
    (packet,) = machine.packets
    assert len(packet) == 576
    assert decode_packet(packet).data[:4] == bytes.fromhex("630703e8")


def test_endless_naks_end() -> None:
    machine = made(State.REQ_SENT)
    for _ in range(100):
        identifier = decode_packet(machine.packets[-1]).identifier
        machine.receive(bytes((3, identifier)) + bytes.fromhex("0007c80379"), 1.0)
        if machine.failure is not None:
            break
    assert machine.state is State.CLOSING
    requests = [p for p in machine.packets if p[0] == Code.CONFIGURE_REQUEST]
    assert len(requests) == Limits().max_rounds


def test_peer_that_acknowledges_but_never_asks_is_given_up() -> None:
    machine = made(State.REQ_SENT)
    now = 0.0
    while machine.state in (State.REQ_SENT, State.ACK_RCVD):
        machine.receive(bytes((2, 1)) + bytes.fromhex("0007c80378"), now)
        now = machine.next_deadline() or now
        machine.tick(now)
    assert now <= 60.0
    assert machine.failure is not None


def test_peer_that_always_asks_for_the_impossible_is_given_up() -> None:
    machine = made(State.ACK_RCVD)
    machine.packets.clear()
    for identifier in range(100):
        machine.receive(bytes((1, identifier)) + bytes.fromhex("0006c802"), 1.0)
    rejects = [p for p in machine.packets if p[0] == Code.CONFIGURE_REJECT]
    assert len(rejects) == Limits().max_rounds
    assert machine.state is State.CLOSING
