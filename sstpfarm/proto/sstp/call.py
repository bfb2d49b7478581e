"""One SSTP call, for either end: control packets and time in, control packets and events out. No I/O.

The driver feeds whole control packets to `receive`, any sign of life to `heard`, the result of the PPP
authentication to `authenticated`, and calls `tick` at `next_deadline`. After any of them it writes what
`data_to_send` returns and looks at `events`. Every call ends: with exactly one CallEnding, then exactly one
CallEnded, both with the same reason, the first that came up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from sstpfarm.errors import LocalError, PeerError
from sstpfarm.proto.events import CallAccepted, CallConnected, CallEnded, CallEnding, SstpEvent
from sstpfarm.proto.roles import Entropy, Role
from sstpfarm.proto.sstp import binding, packets
from sstpfarm.proto.sstp.binding import CertificateHash
from sstpfarm.proto.sstp.constants import (
    HLAK_LENGTH,
    MAX_PACKET,
    NAK_RETRIES,
    NONCE_LENGTH,
    AttributeId,
    HashProtocol,
    MessageType,
    Status,
)
from sstpfarm.proto.sstp.machine import CARRIES_CONTROL, TABLE, Action, Input, State
from sstpfarm.proto.sstp.packets import ControlMessage, StatusInfo
from sstpfarm.reasons import OUTCOMES, Reason, Teardown

__all__ = ["CertificateHash", "SstpCall", "SstpSettings", "State"]

ECHO_INTERVAL: Final = 1.0  # seconds between Echo Requests to a silent peer
OUTPUT_LIMIT: Final = MAX_PACKET  # bytes not fetched yet, beyond which echoes are not added: a flood grows nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class SstpSettings:
    """What one call is to do; all times in seconds, the defaults are those of MS-SSTP 3.1.2, 3.2.2 and 3.3.2.

    Attributes:
        certificates: server: all that it may have presented on this connection; client: the one leaf that it saw.
        hash_mask: hash protocols that are offered (server) or allowed (client).
        keepalive: silence after which the peer is asked for a sign of life, and after twice of which it is dead;
            None: never.
        connect_request_timeout: server: for the client's acceptable Call Connect Request.
        negotiation_timeout: from there to Call Connected, the PPP authentication included; client: also for the Ack.
    """

    role: Role
    certificates: tuple[CertificateHash, ...]
    hash_mask: int = HashProtocol.SHA1 | HashProtocol.SHA256
    keepalive: float | None = 60.0
    connect_request_timeout: float = 60.0
    negotiation_timeout: float = 60.0
    abort_1: float = 3.0
    abort_2: float = 1.0
    disconnect_1: float = 5.0
    disconnect_2: float = 1.0

    def __post_init__(self) -> None:
        if not self.certificates or (self.role is Role.CLIENT and len(self.certificates) != 1):
            raise LocalError("a server knows its certificates, a client the one that it saw")
        if self.hash_mask not in (1, 2, 3):
            raise LocalError("a hash mask has bit 1, bit 2 or both")
        if self.keepalive is not None and self.keepalive <= 0:
            raise LocalError("a keepalive time is positive, or None")


_DURATIONS: Final[Mapping[Action, Callable[[SstpSettings], float]]] = {
    Action.START_CONNECT_REQUEST: lambda settings: settings.connect_request_timeout,
    Action.START_NEGOTIATION: lambda settings: settings.negotiation_timeout,
    Action.START_ABORT_1: lambda settings: settings.abort_1,
    Action.START_ABORT_2: lambda settings: settings.abort_2,
    Action.START_DISCONNECT_1: lambda settings: settings.disconnect_1,
    Action.START_DISCONNECT_2: lambda settings: settings.disconnect_2,
}


@dataclass(frozen=True, slots=True)
class _Occasion:
    """What an input brings along for the actions of its cell."""

    reason: Reason | None = None
    detail: str = ""
    status: int | None = None  # of our Call Abort, where it is more precise than the reason's
    complaints: tuple[StatusInfo, ...] = ()
    packet: bytes = field(default=b"", repr=False)
    nonce: bytes = field(default=b"", repr=False)
    hash_protocol: HashProtocol | None = None
    hlak: bytes = field(default=b"", repr=False)


_NOTHING: Final = _Occasion()


class SstpCall:
    """An SSTP call from the HTTP exchange to the close of the transport. `now` is any clock that never goes back.

    Args:
        settings: role, certificates, times.
        entropy: returns that many random bytes; used for the nonce.
    """

    __slots__ = (
        "_deadline",
        "_detail",
        "_echo_at",
        "_entropy",
        "_events",
        "_hash_protocol",
        "_heard",
        "_held",
        "_hlak",
        "_naks",
        "_nonce",
        "_output",
        "_reason",
        "_settings",
        "_state",
        "_table",
    )

    def __init__(self, settings: SstpSettings, entropy: Entropy) -> None:
        self._settings = settings
        self._entropy = entropy
        self._table = TABLE[settings.role]
        self._state = State.CALL_DISCONNECTED
        self._deadline: float | None = None  # of the state's one timer
        self._heard = 0.0  # when the peer last gave a sign of life
        self._echo_at = 0.0  # no Echo Request before this time
        self._naks = 0  # sent (server) or received (client)
        self._nonce = b""
        self._hash_protocol: HashProtocol | None = None
        self._hlak = b""
        self._held = b""  # a Call Connected whose MAC waits for the HLAK
        self._reason: Reason | None = None
        self._detail = ""
        self._output = bytearray()
        self._events: list[SstpEvent] = []

    # -- what the driver sees ----------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The state of MS-SSTP's machine."""
        return self._state

    @property
    def carries_control(self) -> bool:
        """Whether PPP control frames may pass now, in both directions."""
        return self._state in CARRIES_CONTROL

    @property
    def carries_data(self) -> bool:
        """Whether network data may pass now, in both directions: only after the crypto binding."""
        return self._state is State.CALL_CONNECTED

    def data_to_send(self) -> bytes:
        """Return the control packets that wait to be sent, and forget them."""
        data = bytes(self._output)
        self._output.clear()
        return data

    def events(self) -> list[SstpEvent]:
        """Return the events since the last call, oldest first, and forget them."""
        events, self._events = self._events, []
        return events

    def next_deadline(self) -> float | None:
        """Return when `tick` has to be called at the latest; None: not at all."""
        if self._state is State.CALL_CONNECTED and self._settings.keepalive is not None:
            silence = self._settings.keepalive
            return min(max(self._heard + silence, self._echo_at), self._heard + 2 * silence)
        return self._deadline

    # -- what the driver does ----------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Begin, when the HTTP exchange is done: the client sends its request, the server waits for one."""
        self._apply(Input.START, now)

    def receive(self, packet: bytes, now: float) -> None:
        """Take one whole control packet, header included. No bytes of a peer make this raise.

        Raises:
            LocalError: before `start`.
        """
        self.heard(now)
        try:
            message = packets.decode_control(packet)
        except PeerError as error:
            malformed = error.reason is not Reason.BAD_FRAMING
            self._apply(Input.MALFORMED if malformed else Input.DROP, now, _Occasion(error.reason, str(error)))
            return
        event, occasion = self._judge(message, packet)
        self._apply(event, now, occasion)

    def heard(self, now: float) -> None:
        """Note that any bytes came from the peer."""
        self._heard = now

    def authenticated(self, hlak: bytes, now: float) -> None:
        """Note that the PPP authentication finished well; `hlak` has 32 bytes, zeros if the method gives no key.

        The client sends Call Connected; the server checks the one that it holds, or waits for it. A second
        authentication after Call Connected changes nothing: the binding holds for the first.

        Raises:
            LocalError: before the call was accepted, or the key has another length.
        """
        if len(hlak) != HLAK_LENGTH:
            raise LocalError("an HLAK has 32 bytes")
        if self._held:
            event, occasion = self._judge_mac(self._held, hlak)
            self._apply(event, now, occasion)
        else:
            self._apply(Input.AUTHENTICATED, now, _Occasion(hlak=hlak))

    def disconnect(self, reason: Reason, now: float) -> None:
        """End the call in order with Call Disconnect; PPP was terminated before. Nothing once the call is ending."""
        self._apply(Input.DISCONNECT, now, _Occasion(reason))

    def abort(self, reason: Reason, now: float, detail: str = "") -> None:
        """End the call with Call Abort; with a reason whose teardown is DROP close it at once, without a word.

        The latter also cuts a teardown short that is under way: the transport is gone or its framing broken.
        """
        silent = OUTCOMES[reason].teardown is Teardown.DROP
        self._apply(Input.DROP if silent else Input.ABORT, now, _Occasion(reason, detail))

    def tick(self, now: float) -> None:
        """Do what is due. At any time, also early or late, without harm."""
        due = self.next_deadline()
        if due is None or now < due:
            return
        keepalive = self._settings.keepalive
        if self._deadline is not None:
            self._apply(Input.TIMEOUT, now)
        elif keepalive is not None and now >= self._heard + 2 * keepalive:
            self._apply(Input.PEER_SILENT, now)
        else:
            self._apply(Input.HELLO, now)

    # -- judging what came in ----------------------------------------------------------------------------------------

    def _judge(self, message: ControlMessage, packet: bytes) -> tuple[Input, _Occasion]:
        """Return the input that a message is, whatever the state."""
        complaints = packets.complaints(message)
        match message.type:
            case MessageType.CALL_CONNECT_REQUEST:
                return self._judge_connect_request(complaints)
            case MessageType.CALL_CONNECT_ACK:
                return self._judge_connect_ack(message, complaints)
            case MessageType.CALL_CONNECT_NAK:
                used_up = self._naks >= NAK_RETRIES
                detail = _peer_says(message)
                return Input.CONNECT_NAK_LAST if used_up else Input.CONNECT_NAK, _Occasion(detail=detail)
            case MessageType.CALL_CONNECTED:
                return self._judge_call_connected(packet, complaints)
            case MessageType.CALL_ABORT:
                return Input.CALL_ABORT, _Occasion(Reason.PEER_ABORT, _peer_says(message))
            case MessageType.CALL_DISCONNECT:
                return Input.CALL_DISCONNECT, _Occasion(Reason.PEER_DISCONNECT, _peer_says(message))
            case MessageType.CALL_DISCONNECT_ACK:
                event = Input.CALL_DISCONNECT_ACK
            case MessageType.ECHO_REQUEST:
                event = Input.ECHO_REQUEST
            case MessageType.ECHO_RESPONSE:
                event = Input.ECHO_RESPONSE
            case unknown:
                return Input.UNKNOWN, _Occasion(Reason.UNKNOWN_MESSAGE, f"message type {unknown}")
        return (Input.MALFORMED, _refusal(complaints)) if complaints else (event, _NOTHING)

    def _judge_connect_request(self, complaints: tuple[StatusInfo, ...]) -> tuple[Input, _Occasion]:
        if not complaints:
            return Input.CONNECT_REQUEST_GOOD, _NOTHING
        occasion = _Occasion(detail=_we_say(complaints), complaints=complaints)
        used_up = self._naks >= NAK_RETRIES
        return Input.CONNECT_REQUEST_BAD_LAST if used_up else Input.CONNECT_REQUEST_BAD, occasion

    def _judge_connect_ack(
        self, message: ControlMessage, complaints: tuple[StatusInfo, ...]
    ) -> tuple[Input, _Occasion]:
        offer = message.find(AttributeId.CRYPTO_BINDING_REQ)
        if complaints or offer is None:
            return Input.CONNECT_ACK_BAD, _refusal(complaints)
        try:
            chosen = binding.choose_hash(offer.value[3], self._settings.hash_mask)
        except PeerError as error:
            return Input.CONNECT_ACK_BAD, _Occasion(error.reason, str(error))
        return Input.CONNECT_ACK_GOOD, _Occasion(nonce=offer.value[4:], hash_protocol=chosen)

    def _judge_call_connected(self, packet: bytes, complaints: tuple[StatusInfo, ...]) -> tuple[Input, _Occasion]:
        if complaints:
            return Input.CALL_CONNECTED_BAD, _refusal(complaints)
        if self._held:
            return Input.CALL_CONNECTED_BAD, _Occasion(Reason.UNEXPECTED_MESSAGE, "a second Call Connected")
        try:
            binding.check_presented(
                packet,
                nonce=self._nonce,
                hash_mask=self._settings.hash_mask,
                certificates=self._settings.certificates,
            )
        except PeerError as error:
            return Input.CALL_CONNECTED_BAD, _Occasion(error.reason, str(error))
        if not self._hlak:
            return Input.CALL_CONNECTED_EARLY, _Occasion(packet=packet)
        return self._judge_mac(packet, self._hlak)

    def _judge_mac(self, packet: bytes, hlak: bytes) -> tuple[Input, _Occasion]:
        try:
            binding.check_mac(packet, hlak)
        except PeerError as error:
            return Input.CALL_CONNECTED_BAD, _Occasion(error.reason, str(error))
        return Input.CALL_CONNECTED_GOOD, _NOTHING

    # -- the machine -------------------------------------------------------------------------------------------------

    def _apply(self, event: Input, now: float, occasion: _Occasion = _NOTHING) -> None:
        cell = self._table[self._state, event]
        if cell.reason is not None:
            unexpected = cell.reason is Reason.UNEXPECTED_MESSAGE
            occasion = _Occasion(cell.reason, f"{event} in {self._state}" if unexpected else occasion.detail)
        if cell.next is not None:
            self._move(cell.next)
        for action in cell.actions:
            self._perform(action, event, now, occasion)

    def _move(self, state: State) -> None:
        self._state = state
        self._deadline = None

    def _perform(self, action: Action, event: Input, now: float, occasion: _Occasion) -> None:
        if action in _DURATIONS:
            self._deadline = now + _DURATIONS[action](self._settings)
            return
        match action:
            case Action.SEND_CONNECT_REQUEST:
                self._naks += event is Input.CONNECT_NAK
                self._send(packets.CALL_CONNECT_REQUEST)
            case Action.SEND_CONNECT_ACK:
                self._nonce = self._entropy(NONCE_LENGTH)
                self._send(packets.call_connect_ack(self._settings.hash_mask, self._nonce))
            case Action.SEND_CONNECT_NAK:
                self._naks += 1
                self._send(packets.call_connect_nak(occasion.complaints))
            case Action.SEND_CALL_CONNECTED:
                self._send_call_connected()
            case Action.SEND_ABORT:
                self._send(packets.call_abort(self._status() if occasion.status is None else occasion.status))
            case Action.SEND_DISCONNECT:
                self._send(packets.call_disconnect(self._status()))
            case Action.SEND_DISCONNECT_ACK:
                self._send(packets.CALL_DISCONNECT_ACK)
            case Action.SEND_ECHO_REQUEST:
                self._echo_at = now + ECHO_INTERVAL
                self._send_echo(packets.ECHO_REQUEST)
            case Action.SEND_ECHO_RESPONSE:
                self._send_echo(packets.ECHO_RESPONSE)
            case Action.DISCARD_OUTPUT:
                self._output.clear()
            case Action.START_HELLO:
                self.heard(now)
            case Action.KEEP_OFFER:
                self._nonce, self._hash_protocol = occasion.nonce, occasion.hash_protocol
            case Action.KEEP_HLAK:
                self._hlak = occasion.hlak
            case Action.HOLD_CALL_CONNECTED:
                self._held = occasion.packet
            case Action.ERASE_KEYS:
                self._nonce = self._hlak = self._held = b""
            case Action.REPORT_ACCEPTED:
                self._events.append(CallAccepted())
            case Action.REPORT_CONNECTED:
                self._events.append(CallConnected())
            case Action.REPORT_ENDING:
                self._report_ending(occasion)
            case Action.REPORT_ENDED:
                self._events.append(CallEnded(self._final_reason(), self._detail))
            case Action.REPORT_DROPPED:
                self._events.append(CallEnded(self._final_reason(), self._detail, drop=True))
            case _:
                raise LocalError(f"SSTP call: {event} in {self._state}")

    def _report_ending(self, occasion: _Occasion) -> None:
        """Fix reason and detail, once: the first reason wins, whatever follows during the teardown."""
        if self._reason is None:
            assert occasion.reason is not None
            self._reason, self._detail = occasion.reason, occasion.detail
            self._events.append(CallEnding(self._reason))

    def _final_reason(self) -> Reason:
        assert self._reason is not None
        return self._reason

    def _status(self) -> int:
        return OUTCOMES[self._final_reason()].sstp_status

    def _send(self, message: ControlMessage) -> None:
        self._output += message.encode()

    def _send_echo(self, message: ControlMessage) -> None:
        if len(self._output) < OUTPUT_LIMIT:
            self._send(message)

    def _send_call_connected(self) -> None:
        assert self._hash_protocol is not None
        self._output += binding.build_call_connected(
            hash_protocol=self._hash_protocol,
            nonce=self._nonce,
            certificate=self._settings.certificates[0],
            hlak=self._hlak,
        )


def _peer_says(message: ControlMessage) -> str:
    status = packets.status_of(message)
    return f"the peer gave {status}" if status else "the peer gave no status"


def _we_say(complaints: tuple[StatusInfo, ...]) -> str:
    return ", ".join(str(complaint) for complaint in complaints)


def _refusal(complaints: tuple[StatusInfo, ...]) -> _Occasion:
    """Return what ends the call when a message that is no Call Connect Request has wrong attributes (MS-SSTP 2.2.8)."""
    unknown = any(complaint.status == Status.UNRECOGNIZED_ATTRIBUTE for complaint in complaints)
    status = Status.UNRECOGNIZED_ATTRIBUTE if unknown else None
    return _Occasion(Reason.MALFORMED_MESSAGE, _we_say(complaints), status)
