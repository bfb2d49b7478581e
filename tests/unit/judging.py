"""What stands for the auth service where only the protocol is under test: it knows one password."""

from __future__ import annotations

from sstpfarm.proto.events import AuthRequest
from sstpfarm.proto.ppp.eap import identity_of
from sstpfarm.proto.ppp.eap_mschapv2 import MschapConversation, Verdict
from sstpfarm.proto.ppp.verify import AUTHENTICATION_FAILURE, failure_message, verify
from sstpfarm.proto.roles import (
    AuthAccept,
    AuthChallenge,
    AuthDecision,
    AuthMethod,
    AuthReject,
    ChapProof,
    EapProof,
    Entropy,
)


class PasswordJudge:
    """Decides over the requests of one peer.

    Args:
        text: of refusals.
    """

    def __init__(self, password: str, entropy: Entropy, text: str = "no") -> None:
        self._password = password
        self._entropy = entropy
        self._text = text
        self._conversation: MschapConversation | None = None

    def decide(self, request: AuthRequest) -> AuthDecision:
        """Return the decision; EAP takes several requests."""
        if isinstance(request.proof, EapProof):
            return self._converse(request.proof.packet)
        accept = verify(request.method, request.user, request.proof, self._password)
        return accept or AuthReject(failure_message(request.method, AUTHENTICATION_FAILURE, self._entropy, self._text))

    def _converse(self, packet: bytes) -> AuthDecision:
        if identity_of(packet) is not None:
            self._conversation = MschapConversation(packet[1], b"sstpfarm", self._entropy)
            return AuthChallenge(self._conversation.begin())
        assert self._conversation is not None
        step = self._conversation.receive(packet, self._judge)
        match step.verdict:
            case Verdict.CONTINUE:
                return AuthChallenge(step.request)
            case Verdict.ACCEPTED:
                return AuthAccept(step.hlak)
            case Verdict.REFUSED:
                return AuthReject()

    def _judge(self, name: bytes, proof: ChapProof) -> AuthAccept | bytes:
        accept = verify(AuthMethod.MSCHAP2, name, proof, self._password)
        if accept is None:
            return failure_message(AuthMethod.MSCHAP2, AUTHENTICATION_FAILURE, self._entropy, self._text)
        return accept
