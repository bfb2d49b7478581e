"""EAP-MSCHAPv2 (type 26): its packets, and the server's end of a conversation that needs no RADIUS server.

Source: draft-kamath-pppext-eap-mschapv2-02. What is computed is MS-CHAPv2's (RFC 2759); the key is the same too, so
the crypto binding is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, IntEnum, auto
from typing import Final

from sstpfarm.errors import PeerError
from sstpfarm.proto.ppp import mschap
from sstpfarm.proto.ppp.chap import build_value, parse_value
from sstpfarm.proto.ppp.eap import REQUEST, RESPONSE, EapType
from sstpfarm.proto.ppp.exchange import MAX_NAME
from sstpfarm.proto.ppp.packet import Packet, decode_packet, encode_packet
from sstpfarm.proto.roles import AuthAccept, ChapProof, Entropy

_HEADER: Final = 4  # OpCode, MS-CHAPv2-ID, MS-Length (2)


class OpCode(IntEnum):
    """What a packet is (draft 2); the Responses to Success and Failure have the OpCode alone."""

    CHALLENGE = 1
    RESPONSE = 2
    SUCCESS = 3
    FAILURE = 4


@dataclass(frozen=True, slots=True)
class MschapPacket:
    """The type data of one EAP packet: OpCode, identifier, and what follows the length."""

    op: int
    identifier: int = 0
    data: bytes = field(default=b"", repr=False)

    def encode(self) -> bytes:
        """Return the data of an EAP Request or Response, with its type."""
        length = (_HEADER + len(self.data)).to_bytes(2, "big")
        return bytes((EapType.MSCHAPV2, self.op, self.identifier)) + length + self.data

    def encode_short(self) -> bytes:
        """Return the data of a Response to Success or Failure: type and OpCode (draft 2.5, 2.7)."""
        return bytes((EapType.MSCHAPV2, self.op))


def decode_mschap(data: bytes) -> MschapPacket:
    """Return what the data of an EAP packet of type 26 holds.

    Raises:
        PeerError: another type, no OpCode, or a length that is not that of the packet.
    """
    if len(data) < 2 or data[0] != EapType.MSCHAPV2:
        raise PeerError("not an EAP-MSCHAPv2 packet", spec="draft-kamath-pppext-eap-mschapv2 2")
    if len(data) == 2:
        return MschapPacket(data[1])
    body = data[1:]
    if len(body) < _HEADER or not _HEADER <= int.from_bytes(body[2:4], "big") <= len(body):
        raise PeerError("EAP-MSCHAPv2 packet with a wrong length", spec="draft-kamath-pppext-eap-mschapv2 2")
    return MschapPacket(body[0], body[1], body[_HEADER : int.from_bytes(body[2:4], "big")])


class Phase(Enum):
    """Where a server's conversation stands."""

    CHALLENGED = auto()
    TOLD_SUCCESS = auto()
    TOLD_FAILURE = auto()
    OVER = auto()


class Verdict(Enum):
    """What a Response has come to."""

    CONTINUE = auto()  # send `request`
    ACCEPTED = auto()
    REFUSED = auto()


@dataclass(frozen=True, slots=True)
class Step:
    """The outcome of one Response: the next Request when it goes on, the key when the peer is accepted."""

    verdict: Verdict
    request: bytes = b""
    hlak: bytes = field(default=b"", repr=False)


REFUSED: Final = Step(Verdict.REFUSED)
Judge = Callable[[bytes, ChapProof], AuthAccept | bytes]
"""Decides over a name and an MS-CHAPv2 proof: the acceptance, or the text of the Failure (``E=691 R=0 ...``)."""


class MschapConversation:
    """The server's end of one login with EAP-MSCHAPv2.

    Args:
        identifier: of the peer's Identity Response; the Requests count on from it.
        name: ours, in the Challenge.
    """

    def __init__(self, identifier: int, name: bytes, entropy: Entropy) -> None:
        self._identifier = identifier
        self._name = name
        self._challenge = entropy(mschap.CHALLENGE_V2)
        self._phase = Phase.CHALLENGED
        self._hlak = b""

    def begin(self) -> bytes:
        """Return the first Request."""
        return self._request(OpCode.CHALLENGE, build_value(self._challenge, self._name))

    def receive(self, packet: bytes, judge: Judge) -> Step:
        """Take a Response, a whole EAP packet; whatever does not fit ends the conversation."""
        try:
            response = decode_packet(packet)
            if response.code != RESPONSE or response.identifier != self._identifier:
                raise PeerError("not the Response to the Request that was sent", spec="RFC 3748 4.1")
            answer = decode_mschap(response.data)
        except PeerError:  # also a Nak: the peer wants another type, and there is none
            self._phase = Phase.OVER
            return REFUSED
        match self._phase, answer.op:
            case Phase.CHALLENGED, OpCode.RESPONSE:
                return self._judge(answer, judge)
            case Phase.TOLD_SUCCESS, OpCode.SUCCESS:
                self._phase = Phase.OVER
                return Step(Verdict.ACCEPTED, hlak=self._hlak)
        self._phase = Phase.OVER
        return REFUSED

    def _judge(self, answer: MschapPacket, judge: Judge) -> Step:
        fields = parse_value(answer.data)
        if fields is None or len(fields[0]) != mschap.RESPONSE_LENGTH or len(fields[1]) > MAX_NAME:
            self._phase = Phase.OVER
            return REFUSED
        value, name = fields
        decision = judge(name, ChapProof(answer.identifier, self._challenge, value))
        if isinstance(decision, bytes):
            self._phase = Phase.TOLD_FAILURE
            return Step(Verdict.CONTINUE, self._request(OpCode.FAILURE, decision, answer.identifier))
        self._phase, self._hlak = Phase.TOLD_SUCCESS, decision.hlak
        return Step(Verdict.CONTINUE, self._request(OpCode.SUCCESS, decision.message, answer.identifier))

    def _request(self, op: OpCode, data: bytes, mschap_identifier: int | None = None) -> bytes:
        self._identifier = (self._identifier + 1) % 256
        identifier = self._identifier if mschap_identifier is None else mschap_identifier
        return encode_packet(Packet(REQUEST, self._identifier, MschapPacket(op, identifier, data).encode()))
