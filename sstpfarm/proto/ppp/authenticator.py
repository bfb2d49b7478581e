"""The server's automaton of a PPP authentication, the same for PAP, the CHAP family and EAP (RFC 1334, 1994, 3748).

The protocols differ in how the proof is asked for and in the form of the packets: pap.py, chap.py and eap.py.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from sstpfarm.errors import LocalError
from sstpfarm.proto.events import AuthRequest, AuthSucceeded
from sstpfarm.proto.ppp.exchange import MAX_TRANSMISSIONS, AuthFailed, Exchange
from sstpfarm.proto.ppp.failure import describe_failure
from sstpfarm.proto.roles import (
    AuthAccept,
    AuthChallenge,
    AuthDecision,
    AuthMethod,
    AuthReject,
    AuthUnavailable,
    Proof,
)
from sstpfarm.reasons import Reason


class State(Enum):
    """Where the exchange stands."""

    IDLE = auto()
    WAITING = auto()  # for the peer's proof
    ASKED = auto()  # the driver has the proof and will give the result
    ACCEPTED = auto()
    REFUSED = auto()
    GIVEN_UP = auto()  # no proof came, or no decision


class Input(Enum):
    """What can happen; a packet that is malformed or has the wrong identifier is dropped before it gets here."""

    START = auto()
    PROOF = auto()
    CHALLENGE = auto()  # the driver wants another proof
    ACCEPT = auto()
    REJECT = auto()
    UNAVAILABLE = auto()
    TIMEOUT = auto()
    EXHAUSTED = auto()
    AGAIN = auto()  # the peer, which was let in, is to prove itself once more


class Action(Enum):
    """What is done about it."""

    NONE = auto()
    PROMPT = auto()  # ask the peer for its proof (CHAP: Challenge; PAP: the peer speaks first)
    PROMPT_ANEW = auto()  # the same with another identifier and challenge
    ASK = auto()  # hand the proof to the driver
    ASK_ON = auto()  # ask the peer for another proof (EAP)
    NOTE = auto()  # a repetition while the driver decides: only its identifier can matter
    ADMIT = auto()  # Ack or Success
    REFUSE = auto()  # Nak or Failure
    REPEAT = auto()  # the same answer once more: RFC 1334 2.2.1, RFC 1994 4.1
    GIVE_UP = auto()
    BREAK_OFF = auto()  # without Nak or Failure: these would tell the peer that it is at fault


# A pair that is not in the table changes nothing: the input came too late, or it cannot happen in that state.
TABLE: Final[Mapping[tuple[State, Input], tuple[Action, State]]] = {
    (State.IDLE, Input.START): (Action.PROMPT, State.WAITING),
    (State.WAITING, Input.PROOF): (Action.ASK, State.ASKED),
    (State.WAITING, Input.TIMEOUT): (Action.PROMPT, State.WAITING),
    (State.WAITING, Input.EXHAUSTED): (Action.GIVE_UP, State.GIVEN_UP),
    (State.ASKED, Input.PROOF): (Action.NOTE, State.ASKED),
    (State.ASKED, Input.CHALLENGE): (Action.ASK_ON, State.WAITING),
    (State.ASKED, Input.ACCEPT): (Action.ADMIT, State.ACCEPTED),
    (State.ASKED, Input.REJECT): (Action.REFUSE, State.REFUSED),
    (State.ASKED, Input.UNAVAILABLE): (Action.BREAK_OFF, State.GIVEN_UP),
    (State.ACCEPTED, Input.PROOF): (Action.REPEAT, State.ACCEPTED),
    (State.ACCEPTED, Input.AGAIN): (Action.PROMPT_ANEW, State.WAITING),  # RFC 1994 2: at any time; RFC 3748 2
    (State.REFUSED, Input.PROOF): (Action.REPEAT, State.REFUSED),
}


_INPUTS: Final = {
    AuthAccept: Input.ACCEPT,
    AuthChallenge: Input.CHALLENGE,
    AuthReject: Input.REJECT,
    AuthUnavailable: Input.UNAVAILABLE,
}


@dataclass(frozen=True, slots=True)
class Claim:
    """One well-formed proof from the peer, and the identifier that the answer to it bears."""

    identifier: int
    user: bytes
    proof: Proof = field(repr=False)


class Authenticator(Exchange):
    """Asks for a proof, hands it to the driver as AuthRequest (one at a time), and tells the peer the result."""

    accept_code: int
    reject_code: int
    speaks_first = True  # else only the peer can begin

    def __init__(self, method: AuthMethod) -> None:
        super().__init__()
        self._method = method
        self._state = State.IDLE
        self._claim: Claim | None = None  # while the driver decides
        self._answer = (0, b"")  # code and data, once it has decided

    @property
    def state(self) -> State:
        """Return where the exchange stands."""
        return self._state

    def start(self, now: float) -> None:
        """Begin: LCP is open."""
        self._step(Input.START, now)

    def again(self, now: float) -> bool:
        """Ask a peer that was let in for its proof once more, unless it is being asked already.

        Returns:
            Whether it is being asked.
        """
        if self.speaks_first:
            self._step(Input.AGAIN, now)
        return self._state in (State.WAITING, State.ASKED)

    def result(self, decision: AuthDecision, now: float) -> None:
        """Give the decision on the AuthRequest; without an open one (it came too late) it is ignored."""
        self._step(_INPUTS[type(decision)], now, decision=decision)

    @abstractmethod
    def _message_data(self, message: bytes) -> bytes:
        """Return the data field of the answer that carries this message, cut to what fits."""

    @abstractmethod
    def _prompt(self, now: float) -> None:
        """Ask the peer for its proof."""

    def _renew(self) -> None:
        """Have the next question bear another identifier, and a challenge another value (RFC 1994 4.1, RFC 3748 4.1).

        Raises:
            LocalError: this protocol asks nothing.
        """
        raise LocalError(f"{self._method} asks nothing")

    def _ask_on(self, message: bytes, now: float) -> None:
        """Ask the peer for another proof, with what the driver says; only EAP can.

        Raises:
            LocalError: this protocol has no such thing.
        """
        raise LocalError(f"{self._method} has no further challenges")

    def _timed_out(self, now: float) -> None:
        self._step(Input.TIMEOUT, now)

    def _exhausted(self, now: float) -> None:
        self._step(Input.EXHAUSTED, now)

    def _step(
        self, event: Input, now: float, *, claim: Claim | None = None, decision: AuthDecision | None = None
    ) -> None:
        """Take the one step that the table gives; the only place that changes the state."""
        action, self._state = TABLE.get((self._state, event), (Action.NONE, self._state))
        match action:
            case Action.PROMPT:
                self._prompt(now)
            case Action.PROMPT_ANEW:
                self._transmissions = 0
                self._renew()
                self._prompt(now)
            case Action.ASK:
                assert claim is not None
                self._stop_timer()
                self._claim = claim
                self._events.append(AuthRequest(self._method, claim.user, claim.proof))
            case Action.NOTE:
                assert claim is not None
                assert self._claim is not None
                if (claim.user, claim.proof) == (self._claim.user, self._claim.proof):
                    self._claim = claim  # pppd repeats a PAP request under a new identifier
            case Action.ASK_ON:
                assert isinstance(decision, AuthChallenge)
                self._claim = None
                self._ask_on(decision.message, now)
            case Action.ADMIT:
                assert isinstance(decision, AuthAccept)
                user = self._reply(self.accept_code, decision.message)
                self._events.append(AuthSucceeded(self._method, user, decision.hlak))
            case Action.REFUSE:
                assert isinstance(decision, AuthReject)
                self._reply(self.reject_code, decision.message)
                text = describe_failure(self._method, decision.message)
                self._events.append(AuthFailed(decision.reason, text))
            case Action.REPEAT:
                assert claim is not None
                code, data = self._answer
                self._send(code, claim.identifier, data)
            case Action.GIVE_UP:
                self._stop_timer()
                text = f"no answer after {MAX_TRANSMISSIONS} challenges"
                self._events.append(AuthFailed(Reason.AUTH_TIMEOUT, text))
            case Action.BREAK_OFF:
                self._claim = None
                self._events.append(AuthFailed(Reason.AUTH_UNAVAILABLE, ""))
            case Action.NONE:
                pass

    def _reply(self, code: int, message: bytes) -> bytes:
        """Send the answer, keep it for repetitions, forget the proof; return the user's name."""
        assert self._claim is not None
        self._answer = (code, self._message_data(message))
        self._send(code, self._claim.identifier, self._answer[1])
        user, self._claim = self._claim.user, None
        return user
