"""The server's automaton of a PPP authentication, the same for PAP and the CHAP family (RFC 1334, RFC 1994).

The protocols differ in how the proof is asked for and in the form of the packets: pap.py and chap.py.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from sstpfarm.proto.events import AuthRequest, AuthSucceeded
from sstpfarm.proto.ppp.exchange import MAX_TRANSMISSIONS, AuthFailed, Exchange
from sstpfarm.proto.ppp.failure import describe_failure
from sstpfarm.proto.roles import AuthAccept, AuthMethod, AuthReject, Proof
from sstpfarm.reasons import Reason


class State(Enum):
    """Where the exchange stands."""

    IDLE = auto()
    WAITING = auto()  # for the peer's proof
    ASKED = auto()  # the driver has the proof and will give the result
    ACCEPTED = auto()
    REFUSED = auto()
    GIVEN_UP = auto()  # no proof came


class Input(Enum):
    """What can happen; a packet that is malformed or has the wrong identifier is dropped before it gets here."""

    START = auto()
    PROOF = auto()
    ACCEPT = auto()
    REJECT = auto()
    TIMEOUT = auto()
    EXHAUSTED = auto()


class Action(Enum):
    """What is done about it."""

    NONE = auto()
    PROMPT = auto()  # ask the peer for its proof (CHAP: Challenge; PAP: the peer speaks first)
    ASK = auto()  # hand the proof to the driver
    NOTE = auto()  # a repetition while the driver decides: only its identifier can matter
    ADMIT = auto()  # Ack or Success
    REFUSE = auto()  # Nak or Failure
    REPEAT = auto()  # the same answer once more: RFC 1334 2.2.1, RFC 1994 4.1
    GIVE_UP = auto()


# A pair that is not in the table changes nothing: the input came too late, or it cannot happen in that state.
TABLE: Final[Mapping[tuple[State, Input], tuple[Action, State]]] = {
    (State.IDLE, Input.START): (Action.PROMPT, State.WAITING),
    (State.WAITING, Input.PROOF): (Action.ASK, State.ASKED),
    (State.WAITING, Input.TIMEOUT): (Action.PROMPT, State.WAITING),
    (State.WAITING, Input.EXHAUSTED): (Action.GIVE_UP, State.GIVEN_UP),
    (State.ASKED, Input.PROOF): (Action.NOTE, State.ASKED),
    (State.ASKED, Input.ACCEPT): (Action.ADMIT, State.ACCEPTED),
    (State.ASKED, Input.REJECT): (Action.REFUSE, State.REFUSED),
    (State.ACCEPTED, Input.PROOF): (Action.REPEAT, State.ACCEPTED),
    (State.REFUSED, Input.PROOF): (Action.REPEAT, State.REFUSED),
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

    def result(self, decision: AuthAccept | AuthReject, now: float) -> None:
        """Give the decision on the AuthRequest; without an open one (it came too late) it is ignored."""
        self._step(Input.ACCEPT if isinstance(decision, AuthAccept) else Input.REJECT, now, decision=decision)

    @abstractmethod
    def _message_data(self, message: bytes) -> bytes:
        """Return the data field of the answer that carries this message, cut to what fits."""

    @abstractmethod
    def _prompt(self, now: float) -> None:
        """Ask the peer for its proof."""

    def _timed_out(self, now: float) -> None:
        self._step(Input.TIMEOUT, now)

    def _exhausted(self, now: float) -> None:
        self._step(Input.EXHAUSTED, now)

    def _step(
        self, event: Input, now: float, *, claim: Claim | None = None, decision: AuthAccept | AuthReject | None = None
    ) -> None:
        """Take the one step that the table gives; the only place that changes the state."""
        action, self._state = TABLE.get((self._state, event), (Action.NONE, self._state))
        match action:
            case Action.PROMPT:
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
            case Action.NONE:
                pass

    def _reply(self, code: int, message: bytes) -> bytes:
        """Send the answer, keep it for repetitions, forget the proof; return the user's name."""
        assert self._claim is not None
        self._answer = (code, self._message_data(message))
        self._send(code, self._claim.identifier, self._answer[1])
        user, self._claim = self._claim.user, None
        return user
