"""CHAP (RFC 1994) with MD5, MS-CHAPv1 (RFC 2433) and MS-CHAPv2 (RFC 2759): both roles, no retries."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from hmac import compare_digest
from typing import Final

from sstpfarm.errors import LocalError
from sstpfarm.proto.events import AuthSucceeded
from sstpfarm.proto.ppp import mschap
from sstpfarm.proto.ppp.authenticator import Authenticator, Claim, Input
from sstpfarm.proto.ppp.constants import PppProtocol
from sstpfarm.proto.ppp.exchange import MAX_NAME, AuthFailed, Exchange
from sstpfarm.proto.ppp.failure import describe_failure
from sstpfarm.proto.ppp.packet import Packet
from sstpfarm.proto.ppp.passwords import as_utf8
from sstpfarm.proto.roles import AuthDecision, AuthMethod, ChapProof, Entropy
from sstpfarm.reasons import Reason

CHALLENGE: Final = 1  # RFC 1994 4
RESPONSE: Final = 2
SUCCESS: Final = 3
FAILURE: Final = 4

# bytes of the Challenge that we make, and of the Response value
CHALLENGE_LENGTHS: Final[Mapping[AuthMethod, int]] = {
    AuthMethod.CHAP: 16,
    AuthMethod.MSCHAP1: mschap.CHALLENGE_V1,
    AuthMethod.MSCHAP2: mschap.CHALLENGE_V2,
}
RESPONSE_LENGTHS: Final[Mapping[AuthMethod, int]] = {
    AuthMethod.CHAP: 16,
    AuthMethod.MSCHAP1: mschap.RESPONSE_LENGTH,
    AuthMethod.MSCHAP2: mschap.RESPONSE_LENGTH,
}
_MAX_MESSAGE: Final = 512  # fits the smallest MRU that we agree to (576)
_S_LENGTH: Final = 42  # "S=" and 40 hexadecimal digits


def md5_response(identifier: int, secret: bytes, challenge: bytes) -> bytes:
    """Return the Response value of CHAP with MD5, 16 bytes (RFC 1994 4.1)."""
    return hashlib.md5(bytes((identifier,)) + secret + challenge, usedforsecurity=False).digest()


def build_value(value: bytes, name: bytes) -> bytes:
    """Return the data of a Challenge or Response (RFC 1994 4.1)."""
    return bytes((len(value),)) + value + name


def parse_value(data: bytes) -> tuple[bytes, bytes] | None:
    """Return value and name of a Challenge or Response, or None when the value runs past the packet or is empty."""
    if not data or not 0 < data[0] < len(data):
        return None
    return data[1 : 1 + data[0]], data[1 + data[0] :]


class ChapAuthenticator(Authenticator):
    """The server's end: sends a Challenge every 3 seconds until a Response comes."""

    protocol = PppProtocol.CHAP
    accept_code = SUCCESS
    reject_code = FAILURE

    def __init__(self, method: AuthMethod, name: bytes, entropy: Entropy) -> None:
        super().__init__(method)
        self._name = name
        self._entropy = entropy
        self._identifier = entropy(1)[0]
        self._challenge = entropy(CHALLENGE_LENGTHS[method])

    def _received(self, packet: Packet, now: float) -> None:
        if packet.code != RESPONSE or packet.identifier != self._identifier:
            return
        fields = parse_value(packet.data)
        if fields is None:
            return
        value, name = fields
        if len(value) != RESPONSE_LENGTHS[self._method] or len(name) > MAX_NAME:
            return
        proof = ChapProof(self._identifier, self._challenge, value)
        self._step(Input.PROOF, now, claim=Claim(self._identifier, name, proof))

    def _renew(self) -> None:
        self._identifier = (self._identifier + 1) % 256
        self._challenge = self._entropy(CHALLENGE_LENGTHS[self._method])

    def _prompt(self, now: float) -> None:
        self._send_and_wait(CHALLENGE, self._identifier, build_value(self._challenge, self._name), now)

    def _message_data(self, message: bytes) -> bytes:
        return message[:_MAX_MESSAGE]


class PeerState(Enum):
    """Where the client's exchange stands."""

    WAITING = auto()  # for a Challenge
    RESPONDED = auto()
    SUCCEEDED = auto()
    RESPONDED_AGAIN = auto()  # the server challenged anew after Success: RFC 1994 2 allows it at any time
    FAILED = auto()


class PeerInput(Enum):
    """What can happen to a client; answers with another identifier are dropped before they get here."""

    CHALLENGE = auto()
    SAME_CHALLENGE = auto()  # a repetition of the one that was answered last
    SUCCESS = auto()
    FALSE_SUCCESS = auto()  # MS-CHAPv2: the authenticator response is missing or wrong
    FAILURE = auto()


class PeerAction(Enum):
    """What the client does about it."""

    NONE = auto()
    RESPOND = auto()
    REPEAT = auto()
    SUCCEED = auto()
    DISTRUST = auto()
    FAIL = auto()


# A pair that is not in the table changes nothing.
PEER_TABLE: Final[Mapping[tuple[PeerState, PeerInput], tuple[PeerAction, PeerState]]] = {
    (PeerState.WAITING, PeerInput.CHALLENGE): (PeerAction.RESPOND, PeerState.RESPONDED),
    (PeerState.RESPONDED, PeerInput.CHALLENGE): (PeerAction.RESPOND, PeerState.RESPONDED),
    (PeerState.RESPONDED, PeerInput.SAME_CHALLENGE): (PeerAction.REPEAT, PeerState.RESPONDED),
    (PeerState.RESPONDED, PeerInput.SUCCESS): (PeerAction.SUCCEED, PeerState.SUCCEEDED),
    (PeerState.RESPONDED, PeerInput.FALSE_SUCCESS): (PeerAction.DISTRUST, PeerState.FAILED),
    (PeerState.RESPONDED, PeerInput.FAILURE): (PeerAction.FAIL, PeerState.FAILED),
    (PeerState.SUCCEEDED, PeerInput.CHALLENGE): (PeerAction.RESPOND, PeerState.RESPONDED_AGAIN),
    (PeerState.SUCCEEDED, PeerInput.SAME_CHALLENGE): (PeerAction.REPEAT, PeerState.SUCCEEDED),
    (PeerState.RESPONDED_AGAIN, PeerInput.CHALLENGE): (PeerAction.RESPOND, PeerState.RESPONDED_AGAIN),
    (PeerState.RESPONDED_AGAIN, PeerInput.SAME_CHALLENGE): (PeerAction.REPEAT, PeerState.RESPONDED_AGAIN),
    (PeerState.RESPONDED_AGAIN, PeerInput.SUCCESS): (PeerAction.NONE, PeerState.SUCCEEDED),
    (PeerState.RESPONDED_AGAIN, PeerInput.FALSE_SUCCESS): (PeerAction.DISTRUST, PeerState.FAILED),
    (PeerState.RESPONDED_AGAIN, PeerInput.FAILURE): (PeerAction.FAIL, PeerState.FAILED),
}


@dataclass(frozen=True, slots=True)
class _Response:
    """What answers one Challenge, and what must or will follow from it."""

    identifier: int
    challenge: bytes = field(repr=False)
    value: bytes = field(repr=False)
    hlak: bytes = field(repr=False)
    expected: bytes = field(repr=False)  # how the Success must begin, upper-case; empty: anyhow

    def is_proven_by(self, message: bytes) -> bool:
        """Check the authenticator response in a Success; what follows it is free text (RFC 2759 5)."""
        return not self.expected or (
            len(message) >= _S_LENGTH and compare_digest(message[:_S_LENGTH].upper(), self.expected)
        )


class ChapPeer(Exchange):
    """The client's end: answers Challenges, and believes no MS-CHAPv2 server that cannot prove itself."""

    protocol = PppProtocol.CHAP

    def __init__(self, method: AuthMethod, user: bytes, password: str, entropy: Entropy) -> None:
        super().__init__()
        self._state = PeerState.WAITING
        self._method = method
        self._user = user
        # the NT hash serves as well as the password: the password itself is not kept
        self._secret = as_utf8(password) if method is AuthMethod.CHAP else mschap.nt_hash(password)
        self._entropy = entropy
        self._response: _Response | None = None

    @property
    def state(self) -> PeerState:
        """Return where the exchange stands."""
        return self._state

    def start(self, now: float) -> None:
        """Do nothing: in CHAP the server speaks first, and repeats itself."""

    def result(self, decision: AuthDecision, now: float) -> None:
        """Do nothing: a client decides nothing."""

    def _received(self, packet: Packet, now: float) -> None:
        response = self._response
        if packet.code == CHALLENGE:
            self._challenged(packet.identifier, packet.data)
        elif response is None or packet.identifier != response.identifier:
            return
        elif packet.code == SUCCESS:
            proven = response.is_proven_by(packet.data)
            self._step(PeerInput.SUCCESS if proven else PeerInput.FALSE_SUCCESS)
        elif packet.code == FAILURE:
            self._step(PeerInput.FAILURE, packet.data)

    def _challenged(self, identifier: int, data: bytes) -> None:
        fields = parse_value(data)
        if fields is None:
            return
        challenge = fields[0]
        if self._method is not AuthMethod.CHAP and len(challenge) != CHALLENGE_LENGTHS[self._method]:
            return
        last = self._response
        if last is not None and (last.identifier, last.challenge) == (identifier, challenge):
            self._step(PeerInput.SAME_CHALLENGE)
        elif self._state is not PeerState.FAILED:
            self._response = self._respond(identifier, challenge)
            self._step(PeerInput.CHALLENGE)

    def _respond(self, identifier: int, challenge: bytes) -> _Response:
        match self._method:
            case AuthMethod.MSCHAP2:
                peer_challenge = self._entropy(mschap.CHALLENGE_V2)
                name = mschap.name_without_domain(self._user)
                hashed = mschap.challenge_hash(peer_challenge, challenge, name)
                nt_response = mschap.challenge_response(hashed, self._secret)
                return _Response(
                    identifier,
                    challenge,
                    mschap.response_value_v2(peer_challenge, nt_response),
                    mschap.hlak_v2(self._secret, nt_response),
                    mschap.authenticator_response(self._secret, nt_response, hashed),
                )
            case AuthMethod.MSCHAP1:
                value = mschap.response_value_v1(mschap.challenge_response(challenge, self._secret))
                return _Response(identifier, challenge, value, mschap.hlak_v1(self._secret, challenge), b"")
            case AuthMethod.CHAP:
                value = md5_response(identifier, self._secret, challenge)
                return _Response(identifier, challenge, value, mschap.ZERO_HLAK, b"")
            case AuthMethod.PAP | AuthMethod.EAP:
                raise LocalError(f"{self._method} is not a CHAP method")

    def _timed_out(self, now: float) -> None:
        """Never happens: a client's Response is repeated when the server repeats its Challenge."""

    def _exhausted(self, now: float) -> None:
        """Never happens, as above."""

    def _step(self, event: PeerInput, message: bytes = b"") -> None:
        """Take the one step that the table gives; the only place that changes the state."""
        action, self._state = PEER_TABLE.get((self._state, event), (PeerAction.NONE, self._state))
        response = self._response
        assert response is not None
        match action:
            case PeerAction.RESPOND | PeerAction.REPEAT:
                self._send(RESPONSE, response.identifier, build_value(response.value, self._user))
            case PeerAction.SUCCEED:
                self._events.append(AuthSucceeded(self._method, self._user, response.hlak))
            case PeerAction.DISTRUST:
                text = "the server did not prove that it knows the password"
                self._events.append(AuthFailed(Reason.SERVER_NOT_AUTHENTIC, text))
            case PeerAction.FAIL:
                self._events.append(AuthFailed(Reason.AUTH_REFUSED, describe_failure(self._method, message)))
            case PeerAction.NONE:
                pass
