"""The client's end of EAP (RFC 3748), with one type: EAP-MSCHAPv2 (draft-kamath-pppext-eap-mschapv2-02).

A server that cannot prove that it knows the password is not believed, whatever it says about success.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from hmac import compare_digest
from typing import Final

from sstpfarm.errors import PeerError
from sstpfarm.proto.events import AuthSucceeded
from sstpfarm.proto.ppp import mschap
from sstpfarm.proto.ppp.chap import build_value, parse_value
from sstpfarm.proto.ppp.constants import PppProtocol
from sstpfarm.proto.ppp.eap import FAILURE, REQUEST, RESPONSE, SUCCESS, EapType
from sstpfarm.proto.ppp.eap_mschapv2 import MschapPacket, OpCode, decode_mschap
from sstpfarm.proto.ppp.exchange import AuthFailed, Exchange
from sstpfarm.proto.ppp.failure import describe_failure
from sstpfarm.proto.ppp.packet import Packet
from sstpfarm.proto.roles import AuthDecision, AuthMethod, Entropy
from sstpfarm.reasons import Reason


class EapPeerState(Enum):
    """Where the client's exchange stands."""

    WAITING = auto()  # for a Request
    RESPONDED = auto()  # to the Challenge of MS-CHAPv2
    PROVEN = auto()  # the server has shown that it knows the password
    TOLD = auto()  # the server has said that it refuses, and why
    SUCCEEDED = auto()
    FAILED = auto()


class EapPeerInput(Enum):
    """What can happen; a Request that was answered already is answered again before it gets here."""

    IDENTITY = auto()
    CHALLENGE = auto()
    PROOF = auto()
    FALSE_PROOF = auto()
    REFUSAL = auto()
    SUCCESS = auto()
    FAILURE = auto()


class EapPeerAction(Enum):
    """What the client does about it."""

    NONE = auto()
    IDENTIFY = auto()
    BEGIN_ANEW = auto()  # the same, and forget the exchange before
    RESPOND = auto()
    CONFIRM = auto()  # a Response to Success or Failure that has the OpCode alone
    SUCCEED = auto()
    DISTRUST = auto()
    FAIL = auto()


# A pair that is not in the table changes nothing.
EAP_PEER_TABLE: Final[Mapping[tuple[EapPeerState, EapPeerInput], tuple[EapPeerAction, EapPeerState]]] = {
    (EapPeerState.WAITING, EapPeerInput.IDENTITY): (EapPeerAction.IDENTIFY, EapPeerState.WAITING),
    (EapPeerState.WAITING, EapPeerInput.CHALLENGE): (EapPeerAction.RESPOND, EapPeerState.RESPONDED),
    (EapPeerState.WAITING, EapPeerInput.SUCCESS): (EapPeerAction.DISTRUST, EapPeerState.FAILED),
    (EapPeerState.WAITING, EapPeerInput.FAILURE): (EapPeerAction.FAIL, EapPeerState.FAILED),
    (EapPeerState.RESPONDED, EapPeerInput.IDENTITY): (EapPeerAction.IDENTIFY, EapPeerState.RESPONDED),
    (EapPeerState.RESPONDED, EapPeerInput.CHALLENGE): (EapPeerAction.RESPOND, EapPeerState.RESPONDED),
    (EapPeerState.RESPONDED, EapPeerInput.PROOF): (EapPeerAction.CONFIRM, EapPeerState.PROVEN),
    (EapPeerState.RESPONDED, EapPeerInput.FALSE_PROOF): (EapPeerAction.DISTRUST, EapPeerState.FAILED),
    (EapPeerState.RESPONDED, EapPeerInput.REFUSAL): (EapPeerAction.CONFIRM, EapPeerState.TOLD),
    (EapPeerState.RESPONDED, EapPeerInput.SUCCESS): (EapPeerAction.DISTRUST, EapPeerState.FAILED),
    (EapPeerState.RESPONDED, EapPeerInput.FAILURE): (EapPeerAction.FAIL, EapPeerState.FAILED),
    (EapPeerState.PROVEN, EapPeerInput.IDENTITY): (EapPeerAction.IDENTIFY, EapPeerState.PROVEN),
    (EapPeerState.PROVEN, EapPeerInput.SUCCESS): (EapPeerAction.SUCCEED, EapPeerState.SUCCEEDED),
    (EapPeerState.PROVEN, EapPeerInput.FAILURE): (EapPeerAction.FAIL, EapPeerState.FAILED),
    (EapPeerState.TOLD, EapPeerInput.IDENTITY): (EapPeerAction.IDENTIFY, EapPeerState.TOLD),
    (EapPeerState.TOLD, EapPeerInput.SUCCESS): (EapPeerAction.DISTRUST, EapPeerState.FAILED),
    (EapPeerState.TOLD, EapPeerInput.FAILURE): (EapPeerAction.FAIL, EapPeerState.FAILED),
    (EapPeerState.SUCCEEDED, EapPeerInput.IDENTITY): (EapPeerAction.BEGIN_ANEW, EapPeerState.WAITING),  # RFC 3748 2
}


class EapPeer(Exchange):
    """The client's end: tells its identity, answers MS-CHAPv2, asks for it with a Nak when another type comes."""

    protocol = PppProtocol.EAP

    def __init__(self, user: bytes, password: str, entropy: Entropy) -> None:
        super().__init__()
        self._user = user
        self._password_hash = mschap.nt_hash(password)
        self._entropy = entropy
        self._state = EapPeerState.WAITING
        self._answered: tuple[Packet, Packet] | None = None  # the last Request and the Response to it
        self._expected = self._hlak = b""
        self._refusal = b""

    @property
    def state(self) -> EapPeerState:
        """Return where the exchange stands."""
        return self._state

    def start(self, now: float) -> None:
        """Do nothing: the server speaks first, and repeats itself."""

    def result(self, decision: AuthDecision, now: float) -> None:
        """Do nothing: a client decides nothing."""

    def _received(self, packet: Packet, now: float) -> None:
        if packet.code == REQUEST and packet.data:
            if self._answered is not None and self._answered[0] == packet:
                self._respond(*self._answered)  # RFC 3748 4.1: the same Response to a repeated Request
            else:
                self._requested(packet)
            return
        if self._answered is None or packet.identifier != self._answered[0].identifier:
            return  # RFC 3748 4.2: a Success or Failure has the identifier of the Response
        if packet.code == SUCCESS:
            self._step(EapPeerInput.SUCCESS)
        elif packet.code == FAILURE:
            self._step(EapPeerInput.FAILURE)

    def _requested(self, request: Packet) -> None:
        if request.data[0] == EapType.IDENTITY:
            self._step(EapPeerInput.IDENTITY, request)
            return
        if self._state in (EapPeerState.SUCCEEDED, EapPeerState.FAILED):
            return
        match request.data[0]:
            case EapType.NOTIFICATION:
                self._answer(request, bytes((EapType.NOTIFICATION,)))
            case EapType.MSCHAPV2:
                self._mschap(request)
            case EapType.NAK:
                pass  # RFC 3748 5.3.1: valid in Responses only
            case _:
                self._answer(request, bytes((EapType.NAK, EapType.MSCHAPV2)))

    def _mschap(self, request: Packet) -> None:
        try:
            packet = decode_mschap(request.data)
        except PeerError:
            return
        match packet.op:
            case OpCode.CHALLENGE:
                fields = parse_value(packet.data)
                if fields is not None and len(fields[0]) == mschap.CHALLENGE_V2:
                    self._step(EapPeerInput.CHALLENGE, request, packet, fields[0])
            case OpCode.SUCCESS:
                length = len(self._expected)
                proven = length > 0 and compare_digest(packet.data[:length].upper(), self._expected)
                self._step(EapPeerInput.PROOF if proven else EapPeerInput.FALSE_PROOF, request, packet)
            case OpCode.FAILURE:
                self._refusal = packet.data
                self._step(EapPeerInput.REFUSAL, request, packet)

    def _step(
        self,
        event: EapPeerInput,
        request: Packet | None = None,
        packet: MschapPacket | None = None,
        challenge: bytes = b"",
    ) -> None:
        """Take the one step that the table gives; the only place that changes the state."""
        action, self._state = EAP_PEER_TABLE.get((self._state, event), (EapPeerAction.NONE, self._state))
        match action:
            case EapPeerAction.IDENTIFY | EapPeerAction.BEGIN_ANEW:
                assert request is not None
                if action is EapPeerAction.BEGIN_ANEW:
                    self._expected = self._hlak = self._refusal = b""
                self._answer(request, bytes((EapType.IDENTITY,)) + self._user)
            case EapPeerAction.RESPOND:
                assert request is not None
                assert packet is not None
                value = self._prove(challenge)
                answer = MschapPacket(OpCode.RESPONSE, packet.identifier, build_value(value, self._user))
                self._answer(request, answer.encode())
            case EapPeerAction.CONFIRM:
                assert request is not None
                assert packet is not None
                self._answer(request, MschapPacket(packet.op).encode_short())
            case EapPeerAction.SUCCEED:
                self._events.append(AuthSucceeded(AuthMethod.EAP, self._user, self._hlak))
            case EapPeerAction.DISTRUST:
                text = "the server did not prove that it knows the password"
                self._events.append(AuthFailed(Reason.SERVER_NOT_AUTHENTIC, text))
            case EapPeerAction.FAIL:
                text = describe_failure(AuthMethod.MSCHAP2, self._refusal)
                self._events.append(AuthFailed(Reason.AUTH_REFUSED, text))
            case EapPeerAction.NONE:
                pass

    def _prove(self, challenge: bytes) -> bytes:
        """Return the 49-byte Response value; note what the server must prove, and the key (RFC 2759 8, RFC 3079)."""
        peer_challenge = self._entropy(mschap.CHALLENGE_V2)
        hashed = mschap.challenge_hash(peer_challenge, challenge, mschap.name_without_domain(self._user))
        nt_response = mschap.challenge_response(hashed, self._password_hash)
        self._expected = mschap.authenticator_response(self._password_hash, nt_response, hashed)
        self._hlak = mschap.hlak_v2(self._password_hash, nt_response)
        return mschap.response_value_v2(peer_challenge, nt_response)

    def _answer(self, request: Packet, data: bytes) -> None:
        self._respond(request, Packet(RESPONSE, request.identifier, data))

    def _respond(self, request: Packet, response: Packet) -> None:
        self._answered = (request, response)
        self._send(response.code, response.identifier, response.data)

    def _timed_out(self, now: float) -> None:
        """Never happens: a Response is repeated when the server repeats its Request."""

    def _exhausted(self, now: float) -> None:
        """Never happens, as above."""
