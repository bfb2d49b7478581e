"""One control protocol at work: the automaton with its timer and counters, over options that subclasses judge.

LCP, IPCP and IPV6CP differ in their options only (RFC 1661 4, RFC 1332 3). Beyond the RFC every negotiation is
bounded, also against a peer that never falls silent and never agrees: `failure` says why it was given up.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Final

from sstpfarm.errors import LocalError, PeerError
from sstpfarm.proto.ppp.automaton import TABLE, TIMED, Action, Input, State
from sstpfarm.proto.ppp.constants import DEFAULT_MRU, Code, PppProtocol
from sstpfarm.proto.ppp.packet import (
    HEADER,
    Option,
    Packet,
    decode_options,
    decode_packet,
    encode_options,
    encode_packet,
)
from sstpfarm.reasons import OUTCOMES, Reason

_FUNDAMENTAL_CODES: Final = range(Code.CONFIGURE_REQUEST, Code.CODE_REJECT + 1)  # losing one is RXJ-, RFC 1661 4.3
_DEAF: Final = (State.INITIAL, State.STARTING)  # the lower layer is down: nothing can arrive
_IGNORES_OPTIONS: Final = (State.CLOSED, State.CLOSING, State.STOPPING)  # RCR+ and RCR- have the same cell
_NEGOTIATING: Final = (State.REQ_SENT, State.ACK_RCVD, State.ACK_SENT, State.OPENED)


@dataclass(frozen=True, slots=True)
class Limits:
    """Timer and counters of RFC 1661 4.6; the timer in seconds."""

    restart_timer: float = 3.0
    max_configure: int = 10
    max_terminate: int = 2
    max_failure: int = 5

    @property
    def max_rounds(self) -> int:
        """Requests sent, and refusals sent, on the way to Opened before a negotiation is given up.

        A silent peer costs Max-Configure requests; whatever is left to agree on, Max-Failure Naks each way.
        """
        return self.max_configure + 2 * self.max_failure


class Verdict(Enum):
    """What is said of an option in the peer's request; an Option in its place is the Nak that would be acceptable."""

    ACCEPT = "accept"
    REJECT = "reject"


class ControlProtocol(ABC):
    """Base of LCP and the NCPs. The owner drains `packets` and `signals` and looks at `failure` after each call.

    Attributes:
        state: of the automaton.
        packets: PPP information fields to send, in order.
        signals: This-Layer-Up, -Down, -Started, -Finished, in order.
        failure: why the negotiation was given up; the Close that follows from it was already done.
        peer_text: data of the peer's Terminate-Request once one came.
        send_limit: bytes that a packet may have, for those that grow with what the peer sent.
    """

    protocol: ClassVar[PppProtocol]
    not_converging: ClassVar[Reason] = Reason.NCP_FAILED

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.state = State.INITIAL
        self.packets: list[bytes] = []
        self.signals: list[Action] = []
        self.failure: Reason | None = None
        self.peer_text: bytes | None = None
        self.send_limit = DEFAULT_MRU
        self._deadline: float | None = None
        self._restart_counter = 0
        self._identifier = 0  # of the last packet that we began
        self._requested: tuple[Option, ...] = ()
        self._request = Packet(Code.CONFIGURE_REQUEST, 0)
        self._request_answered = True
        self._requests_sent = 0  # since the automaton was last Opened, as the next two
        self._refusals_sent = 0
        self._naks_sent = 0
        self._peer_request: Packet | None = None  # the last one, to know a retransmission
        self._acknowledged: Packet | None = None  # the peer's request that was acknowledged last
        self._response = Packet(Code.CONFIGURE_ACK, 0)
        self._response_options: tuple[Option, ...] = ()
        self._terminate_text = b""

    # -- what the owner calls ------------------------------------------------------------------------------------------

    def open(self, now: float) -> None:
        """Event Open: the layer may be established."""
        self._step(Input.OPEN, now)

    def up(self, now: float) -> None:
        """Event Up: the lower layer is ready."""
        self._step(Input.UP, now)

    def down(self, now: float) -> None:
        """Event Down: the lower layer is gone; nothing is sent."""
        self._step(Input.DOWN, now)

    def close(self, now: float, text: str) -> None:
        """Event Close; `text` goes into the Terminate-Request."""
        self._terminate_text = text.encode()
        self._step(Input.CLOSE, now)

    def rejected(self, now: float) -> None:
        """The peer sent a Protocol-Reject of this protocol: it does not speak it (RFC 1661 5.7)."""
        if self.state not in _DEAF:
            self._step(Input.RXJ_MINUS, now)

    def receive(self, information: bytes, now: float) -> None:
        """Take one PPP information field; what is malformed is dropped silently (RFC 1661 5)."""
        if self.state in _DEAF:
            return
        try:
            self._dispatch(decode_packet(information), now)
        except PeerError:
            return

    def tick(self, now: float) -> None:
        """Let the restart timer expire if it is due."""
        if self._deadline is None or now < self._deadline:
            return
        if self._requests_sent >= self.limits.max_rounds and self.state in _NEGOTIATING:
            self._give_up(now, self.not_converging)
        else:
            self._step(Input.TO_PLUS if self._restart_counter > 0 else Input.TO_MINUS, now)

    def next_deadline(self) -> float | None:
        """Return when `tick` has something to do."""
        return self._deadline

    # -- what a subclass says ------------------------------------------------------------------------------------------

    @abstractmethod
    def _request_options(self) -> list[Option]:
        """Return the options of our next Configure-Request."""

    @abstractmethod
    def _judge(self, option: Option, repeated: bool) -> Verdict | Option:
        """Judge one option of the peer; `repeated`: of a request that is answered for the second time."""

    @abstractmethod
    def _missing(self, present: Collection[int], repeated: bool) -> list[Option]:
        """Return options that the peer must bring and did not, as a Nak asks for them."""

    @abstractmethod
    def _take_request(self, options: Sequence[Option]) -> None:
        """The peer's options were acknowledged: they hold from now on, absent ones have their default."""

    def _take_ack(self) -> None:  # noqa: B027 - IPV6CP has nothing to do then
        """Our options were acknowledged."""

    @abstractmethod
    def _take_nak(self, options: Sequence[Option]) -> None:
        """The peer would rather have these values in our next request."""

    @abstractmethod
    def _take_reject(self, options: Sequence[Option]) -> None:
        """The peer will not have these options of ours."""

    def _extended(self, packet: Packet, now: float) -> bool:
        """Take a packet with a code above 7; return False if it is unknown."""
        return False

    def _echo_reply(self, packet: Packet) -> None:
        """Action Send-Echo-Reply."""
        raise LocalError(f"{self.protocol.name} has no echo")

    def _may_renegotiate(self) -> bool:
        """Whether the peer may take the automaton out of Opened by anything but a Terminate-Request."""
        return True

    # -- received packets ----------------------------------------------------------------------------------------------

    def _dispatch(self, packet: Packet, now: float) -> None:
        match packet.code:
            case Code.CONFIGURE_REQUEST:
                self._configure_request(packet, now)
            case Code.CONFIGURE_ACK | Code.CONFIGURE_NAK | Code.CONFIGURE_REJECT:
                self._configure_answer(packet, now)
            case Code.TERMINATE_REQUEST:
                self.peer_text = packet.data
                self._step(Input.RTR, now, packet)
            case Code.TERMINATE_ACK:
                if self.state is State.OPENED and not self._may_renegotiate():
                    self._give_up(now, self.not_converging)
                else:
                    self._step(Input.RTA, now, packet)
            case Code.CODE_REJECT:
                fatal = packet.data[:1] and packet.data[0] in _FUNDAMENTAL_CODES
                self._step(Input.RXJ_MINUS if fatal else Input.RXJ_PLUS, now, packet)
            case _:
                if not self._extended(packet, now):
                    self._step(Input.RUC, now, packet)

    def _configure_request(self, packet: Packet, now: float) -> None:
        options = decode_options(packet.data)
        repeated, self._peer_request = packet == self._peer_request, packet
        if self.state is State.OPENED and packet == self._acknowledged:
            # a slow peer's retransmission, not a new negotiation: SSTP neither loses nor reorders
            self._send(Packet(Code.CONFIGURE_ACK, packet.identifier, packet.data))
            return
        if self.state in _IGNORES_OPTIONS:
            self._step(Input.RCR_PLUS, now, packet)
            return
        if self._refusals_sent >= self.limits.max_rounds or (
            self.state is State.OPENED and not self._may_renegotiate()
        ):
            self._give_up(now, self.not_converging)
            return
        code, answer = self._answer(options, repeated)
        if self.failure is not None:
            self._give_up(now, self.failure)
            return
        self._response = Packet(code, packet.identifier, encode_options(answer))
        self._response_options = tuple(answer)
        self._step(Input.RCR_PLUS if code is Code.CONFIGURE_ACK else Input.RCR_MINUS, now, packet)

    def _answer(self, options: Sequence[Option], repeated: bool) -> tuple[Code, Sequence[Option]]:
        """Choose the answer to a request: Reject goes before Nak, Nak before Ack (RFC 1661 5.4)."""
        rejects: list[Option] = []
        naks: list[Option] = []
        refused: list[Option] = []  # the peer's side of `naks`
        present: set[int] = set()
        for option in options:
            # RFC 1661 6: no option of ours may be listed twice
            verdict = Verdict.REJECT if option.type in present else self._judge(option, repeated)
            present.add(option.type)
            if verdict is Verdict.REJECT:
                rejects.append(option)
            elif isinstance(verdict, Option):
                naks.append(verdict)
                refused.append(option)
        if rejects:
            return Code.CONFIGURE_REJECT, rejects
        missing = self._missing(present, repeated)
        exhausted = self._naks_sent >= self.limits.max_failure
        if naks and exhausted:  # RFC 1661 4.6, Max-Failure
            return Code.CONFIGURE_REJECT, refused
        if missing and exhausted and self.failure is None:
            self.failure = self.not_converging
        if naks or missing:
            self._naks_sent += not repeated
            return Code.CONFIGURE_NAK, naks + missing
        return Code.CONFIGURE_ACK, options

    def _configure_answer(self, packet: Packet, now: float) -> None:
        if self.state not in _NEGOTIATING:
            self._step(Input.RCA if packet.code == Code.CONFIGURE_ACK else Input.RCN, now, packet)
            return
        if packet.identifier != self._request.identifier or self._request_answered:
            return
        if packet.code == Code.CONFIGURE_ACK:
            if packet.data != self._request.data:
                return
            self._request_answered = True
            self._take_ack()
        else:
            options = decode_options(packet.data)
            if not options or (
                packet.code == Code.CONFIGURE_REJECT and not all(option in self._requested for option in options)
            ):
                return
            self._request_answered = True
            if packet.code == Code.CONFIGURE_NAK:
                self._take_nak(options)
            else:
                self._take_reject(options)
            if self.failure is None and self._requests_sent >= self.limits.max_rounds:
                self.failure = self.not_converging
        if self.failure is not None:
            self._give_up(now, self.failure)
        else:
            self._step(Input.RCA if packet.code == Code.CONFIGURE_ACK else Input.RCN, now, packet)

    # -- the automaton -------------------------------------------------------------------------------------------------

    def _give_up(self, now: float, reason: Reason) -> None:
        self.failure = reason
        self.close(now, OUTCOMES[reason].text)

    def _step(self, event: Input, now: float, packet: Packet | None = None) -> None:
        """Move by one cell of the table; `packet` is the received one that caused it."""
        cell = TABLE.get((self.state, event))
        if cell is None:
            raise LocalError(f"{self.protocol.name}: {event} is impossible in {self.state.name}")
        self.state, actions = cell
        for action in actions:
            self._perform(action, event, now, packet)
        if self.state not in TIMED:
            self._deadline = None

    def _perform(self, action: Action, event: Input, now: float, packet: Packet | None) -> None:
        match action:
            case Action.TLU | Action.TLD | Action.TLS | Action.TLF:
                if action in (Action.TLU, Action.TLF):
                    self._requests_sent = self._refusals_sent = self._naks_sent = 0
                if action is Action.TLD:
                    self._acknowledged = None
                self.signals.append(action)
            case Action.IRC:
                terminating = self.state in (State.CLOSING, State.STOPPING)  # `irc` of a cell with `str`
                self._restart_counter = self.limits.max_terminate if terminating else self.limits.max_configure
            case Action.ZRC:
                self._restart_counter = 0
                self._deadline = now + self.limits.restart_timer
            case Action.SCR:
                self._send_request(retransmission=event is Input.TO_PLUS, now=now)
            case Action.SCA:
                self._acknowledged = packet
                self._take_request(self._response_options)
                self._naks_sent = 0
                self._send(self._response)
            case Action.SCN:
                self._refusals_sent += 1
                self._send(self._response)
            case Action.STR:
                self._restart_counter -= 1
                self._deadline = now + self.limits.restart_timer
                self._send(Packet(Code.TERMINATE_REQUEST, self._next_identifier(), self._terminate_text))
            case Action.STA:
                assert packet is not None
                self._send(Packet(Code.TERMINATE_ACK, packet.identifier))
            case Action.SCJ:
                assert packet is not None
                rejected = encode_packet(packet)[: self.send_limit - HEADER]
                self._send(Packet(Code.CODE_REJECT, self._next_identifier(), rejected))
            case Action.SER:
                assert packet is not None
                self._echo_reply(packet)

    def _send_request(self, *, retransmission: bool, now: float) -> None:
        if not retransmission:  # only changed options need a new identifier, RFC 1661 5.1
            self._requested = tuple(self._request_options())
            self._request = Packet(Code.CONFIGURE_REQUEST, self._next_identifier(), encode_options(self._requested))
        self._request_answered = False
        self._requests_sent += 1
        self._restart_counter -= 1
        self._deadline = now + self.limits.restart_timer
        self._send(self._request)

    def _next_identifier(self) -> int:
        self._identifier = (self._identifier + 1) % 256
        return self._identifier

    def _send(self, packet: Packet) -> None:
        self.packets.append(encode_packet(packet))
