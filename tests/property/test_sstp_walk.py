"""Random walks: whatever a peer sends and whenever the driver calls, an SSTP call never raises and always ends."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sstpfarm.proto.events import CallAccepted, CallConnected, CallEnded, CallEnding, SstpEvent
from sstpfarm.proto.roles import Role
from sstpfarm.proto.sstp import packets
from sstpfarm.proto.sstp.binding import build_call_connected
from sstpfarm.proto.sstp.call import CertificateHash, SstpCall, SstpSettings, State
from sstpfarm.proto.sstp.constants import HashProtocol
from sstpfarm.proto.sstp.packets import Attribute, ControlMessage, StatusInfo
from sstpfarm.reasons import OUTCOMES, Reason, Teardown

CERTIFICATE = CertificateHash(b"1" * 20, b"2" * 32)
NONCE = b"n" * 32
KEYS = [b"k" * 32, bytes(32)]
CALL_CONNECTED = build_call_connected(
    hash_protocol=HashProtocol.SHA256, nonce=NONCE, certificate=CERTIFICATE, hlak=KEYS[0]
)

# what a peer may send: every good message, often, so that walks come far; then variations and rubbish
good = st.sampled_from(
    [
        packets.CALL_CONNECT_REQUEST,
        packets.call_connect_ack(3, NONCE),
        packets.call_connect_nak((StatusInfo(1, 4),)),
        packets.CALL_DISCONNECT_ACK,
        packets.ECHO_REQUEST,
        packets.ECHO_RESPONSE,
    ]
)
ends = st.sampled_from([packets.call_abort(7), packets.call_disconnect(0), ControlMessage(5), ControlMessage(6)])
attributes = st.builds(Attribute, st.integers(0, 6), st.sampled_from([0, 2, 8, 36, 100]).map(bytes))
odd = st.builds(ControlMessage, st.integers(0, 11), st.lists(attributes, max_size=3).map(tuple))
call_connected = st.builds(
    lambda hash_protocol, hlak: build_call_connected(
        hash_protocol=hash_protocol, nonce=NONCE, certificate=CERTIFICATE, hlak=hlak
    ),
    st.sampled_from(list(HashProtocol)),
    st.sampled_from(KEYS),
)


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    packet = bytearray(draw(call_connected | good.map(ControlMessage.encode)))
    packet[draw(st.integers(4, len(packet) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(packet)


class Walk(RuleBasedStateMachine):
    """One call between a peer without manners and a driver that keeps to its contract, under a fake clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.seen: list[SstpEvent] = []

    @initialize(
        role=st.sampled_from(list(Role)), keepalive=st.sampled_from([None, 0.5, 10.0]), stage=st.sampled_from([1, 2, 3])
    )
    def begin(self, role: Role, keepalive: float | None, stage: int) -> None:
        """Half of the way or all of it is paved, since a random peer seldom comes far."""
        server = role is Role.SERVER
        sstp = SstpSettings(role=role, certificates=(CERTIFICATE,), keepalive=keepalive)
        self.call = SstpCall(sstp, lambda length: NONCE[:length])
        self.call.start(self.now)
        if stage >= 2:
            first = packets.CALL_CONNECT_REQUEST if server else packets.call_connect_ack(3, NONCE)
            self.call.receive(first.encode(), self.now)
        if stage == 3:
            self.call.authenticated(KEYS[0], self.now)
            if server:
                self.call.receive(CALL_CONNECTED, self.now)
            assert self.call.carries_data

    @rule(message=good)
    def good_message(self, message: ControlMessage) -> None:
        self.call.receive(message.encode(), self.now)

    @rule(packet=call_connected)
    def binding(self, packet: bytes) -> None:
        self.call.receive(packet, self.now)

    @precondition(lambda self: self.call.carries_control)
    @rule(hlak=st.sampled_from(KEYS))
    def authenticated(self, hlak: bytes) -> None:
        self.call.authenticated(hlak, self.now)

    @rule(message=ends | odd)
    def other_message(self, message: ControlMessage) -> None:
        self.call.receive(message.encode(), self.now)

    @rule(packet=changed() | st.binary(max_size=24))
    def rubbish(self, packet: bytes) -> None:
        self.call.receive(packet, self.now)

    @rule(seconds=st.sampled_from([0.0, 0.3, 1.0, 5.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.call.tick(self.now)

    @rule()
    def due_time(self) -> None:
        self.now = max(self.now, self.call.next_deadline() or self.now)
        self.call.tick(self.now)

    @rule()
    def bytes_came(self) -> None:
        self.call.heard(self.now)

    @rule(reason=st.sampled_from([reason for reason in Reason if OUTCOMES[reason].teardown is not Teardown.DROP]))
    def we_disconnect(self, reason: Reason) -> None:
        self.call.disconnect(reason, self.now)

    @rule(reason=st.sampled_from(list(Reason)))
    def we_abort(self, reason: Reason) -> None:
        self.call.abort(reason, self.now, "detail")

    @rule()
    def drain(self) -> None:
        """What is sent is always whole, good control packets."""
        stream = self.call.data_to_send()
        while stream:
            length = int.from_bytes(stream[2:4])
            message = packets.decode_control(stream[:length])
            assert packets.complaints(message) == ()
            stream = stream[length:]

    @invariant()
    def events_come_in_order(self) -> None:
        if not hasattr(self, "call"):
            return
        self.seen += self.call.events()
        kinds = [type(event) for event in self.seen]
        order = [CallAccepted, CallConnected, CallEnding, CallEnded]
        assert kinds == [kind for kind in order if kind in kinds]
        assert CallConnected not in kinds or CallAccepted in kinds
        assert CallEnded not in kinds or CallEnding in kinds
        assert (CallEnded in kinds) is (self.call.state is State.CLOSED)
        assert self.call.carries_data is (CallConnected in kinds and CallEnding not in kinds)
        assert self.call.carries_control is (CallAccepted in kinds and CallEnding not in kinds)
        reasons = {event.reason for event in self.seen if isinstance(event, CallEnding | CallEnded)}
        assert len(reasons) <= 1
        assert len(self.call._output) < 4095 + 4 * 700  # echoes are bounded; three Naks, an Abort and the like are few

    def teardown(self) -> None:
        """The walk stops here: the call comes to its end by its own timers, or after our Disconnect."""
        if not hasattr(self, "call"):
            return
        if self.call.state is State.CALL_CONNECTED and self.call.next_deadline() is None:
            self.call.disconnect(Reason.SHUTDOWN, self.now)
        for _ in range(100):
            due = self.call.next_deadline()
            if due is None:
                break
            self.now = max(self.now, due)
            self.call.tick(self.now)
        assert self.call.state is State.CLOSED
        self.events_come_in_order()
        (ended,) = (event for event in self.seen if isinstance(event, CallEnded))
        if OUTCOMES[ended.reason].teardown is Teardown.DROP:
            assert ended.drop
        if ended.drop:
            assert self.call.data_to_send() == b""


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=300, stateful_step_count=30, derandomize=True, deadline=None)
