"""The backend that asks RADIUS servers for users: one request for each proof, a conversation for EAP."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from sstpfarm.auth.authorization import Accepted, Challenged, Denied, Unavailable, Verdict
from sstpfarm.auth.leases import Holder
from sstpfarm.auth.radius.client import RadiusClient, Service
from sstpfarm.auth.radius.endpoint import Endpoint
from sstpfarm.auth.radius.grant import ContradictionError, Offer, authorization_of
from sstpfarm.auth.radius.packet import Code, MalformedAttributeError, Pairs, Reply
from sstpfarm.auth.radius.request import access_attributes
from sstpfarm.config.radius import Radius
from sstpfarm.errors import PeerError
from sstpfarm.ipc.messages import AccessRequest
from sstpfarm.proto.ppp import mschap
from sstpfarm.proto.ppp.eap import REQUEST, identity_of
from sstpfarm.proto.ppp.exchange import decode_text, readable
from sstpfarm.proto.ppp.failure import AUTHENTICATION_FAILURE, failure_message
from sstpfarm.proto.ppp.packet import decode_packet
from sstpfarm.proto.roles import AuthMethod, Entropy
from sstpfarm.reasons import OUTCOMES, Reason

MAX_TEXT: Final = 200  # bytes of a text that goes to the peer
AUTHENTICATOR_RESPONSE: Final = 42  # bytes: "S=" and 40 hexadecimal digits, RFC 2759 5
MPPE_KEYS: Final = 32  # bytes of MS-CHAP-MPPE-Keys: LM key 8, NT key 16, padding 8 (RFC 2548 2.4.1)
_RETRY: Final = re.compile(rb"(?<=\bR=)1\b")


class _Conversation(NamedTuple):
    """Where a challenged login goes on, and the server's note about it."""

    endpoint: Endpoint
    state: bytes


class RadiusBackend:
    """Decide with RADIUS servers.

    Args:
        offer: what the configuration has for grants.
        state_of: the State that a session's Access-Accept left for its next authentication, or empty.
    """

    def __init__(
        self,
        client: RadiusClient,
        radius: Radius,
        offer: Offer,
        entropy: Entropy,
        state_of: Callable[[Holder], bytes] = lambda _: b"",
    ) -> None:
        self._client = client
        self._radius = radius
        self._entropy = entropy
        self._conversations: dict[Holder, _Conversation] = {}
        self._offer = offer
        self._state_of = state_of

    def reload(self, radius: Radius, offer: Offer) -> None:
        """Ask and grant by that from now on."""
        self._radius = radius
        self._offer = offer

    async def authenticate(self, holder: Holder, request: AccessRequest) -> Verdict:
        """Decide over a request, as Backend says."""
        talk = self._conversations.pop(holder, None)
        state = talk.state if talk is not None else b""
        if request.again and (request.method != "eap" or identity_of(request.eap) is not None):
            state = self._state_of(holder)  # RFC 2865 5.24: unchanged, when Termination-Action is performed

        def build(secret: bytes, authenticator: bytes) -> Pairs:
            return access_attributes(self._radius, holder, request, state, secret, authenticator)

        try:
            answer = await self._client.ask(
                Service.AUTHENTICATION, Code.ACCESS_REQUEST, build, at=talk.endpoint if talk is not None else None
            )
        except PeerError as error:
            return Denied(str(error))
        if answer is None:
            return Unavailable("no RADIUS server answers")
        try:
            match answer.reply.code:
                case Code.ACCESS_ACCEPT:
                    return self._accepted(request, answer.reply)
                case Code.ACCESS_CHALLENGE:
                    return self._challenged(holder, request, answer.endpoint, answer.reply)
            return self._rejected(request, answer.reply)
        except (ContradictionError, MalformedAttributeError) as error:
            accepted = answer.reply.code is Code.ACCESS_ACCEPT  # the proof was good: nobody has guessed
            return Denied(f"RADIUS server {answer.endpoint.name}: {error}", counts=not accepted)

    def forget(self, holder: Holder) -> None:
        """End the session's conversation."""
        self._conversations.pop(holder, None)

    # -- replies -----------------------------------------------------------------------------------------------------

    def _accepted(self, request: AccessRequest, reply: Reply) -> Verdict:
        hlak = _hlak(request, reply)
        message = _reply_message(reply)
        if request.method == "mschap2":
            success = (reply.first("MS-CHAP2-Success") or b"")[1:]  # behind its ident
            if len(success) < AUTHENTICATOR_RESPONSE or not success.startswith(b"S="):
                raise ContradictionError("Access-Accept without MS-CHAP2-Success")
            message = success
        granted = authorization_of(reply, readable(request.user), self._offer)
        return Accepted(granted, hlak, b"" if request.method == "eap" else message)

    def _challenged(self, holder: Holder, request: AccessRequest, endpoint: Endpoint, reply: Reply) -> Verdict:
        if request.method != "eap":  # RFC 2865 4.4: who cannot answer takes it for an Access-Reject
            text = _reply_message(reply)
            said = f"RADIUS server {endpoint.name}: Access-Challenge, which {request.method} cannot answer"
            detail = f"{said}: {readable(text)}" if text else said
            return Denied(detail, message=self._failure(request, reply, text))
        packet = reply.joined("EAP-Message")
        try:
            code = decode_packet(packet).code
        except PeerError:
            code = 0
        if code != REQUEST:
            raise ContradictionError("Access-Challenge without an EAP Request")
        most = request.frame or request.mtu  # EAP does not travel in fragments
        if len(packet) > most:
            raise ContradictionError(f"an EAP Request of {len(packet)} bytes; the peer takes {most}")
        self._conversations[holder] = _Conversation(endpoint, reply.first("State") or b"")
        return Challenged(packet)

    def _rejected(self, request: AccessRequest, reply: Reply) -> Denied:
        text = _reply_message(reply)
        detail = "refused by RADIUS" + (f": {readable(text)}" if text else "")
        return Denied(detail, message=self._failure(request, reply, text))

    def _failure(self, request: AccessRequest, reply: Reply, text: bytes) -> bytes:
        """Return the whole text of the Failure or Nak."""
        method = AuthMethod(request.method)
        error = (reply.first("MS-CHAP-Error") or b"")[1:]  # behind its ident
        if method in (AuthMethod.MSCHAP2, AuthMethod.MSCHAP1) and error.startswith(b"E="):
            message = _RETRY.sub(b"0", error)[: 2 * MAX_TEXT]  # a retry would need another challenge of ours
            wants_text = method is AuthMethod.MSCHAP2 and text and b" M=" not in message
            return message + b" M=" + text if wants_text else message
        said = decode_text(text) or OUTCOMES[Reason.AUTH_REFUSED].text
        return failure_message(method, AUTHENTICATION_FAILURE, self._entropy, said)


def _reply_message(reply: Reply) -> bytes:
    return b" ".join(reply.all("Reply-Message"))[:MAX_TEXT]


def _hlak(request: AccessRequest, reply: Reply) -> bytes:
    """Return the key for the crypto binding (PROTOCOL 5.1).

    Raises:
        ContradictionError: the method makes keys, and the reply has none: no binding could be checked.
    """
    if request.method in ("pap", "chap"):
        return mschap.ZERO_HLAK
    if request.method == "mschap1":
        keys = reply.hidden("MS-CHAP-MPPE-Keys") or b""
        if len(keys) != MPPE_KEYS:
            raise ContradictionError("Access-Accept without MS-CHAP-MPPE-Keys")
        return mschap.hlak_v1_from(keys[8:24], request.challenge)
    receive, send = reply.salted_key("MS-MPPE-Recv-Key"), reply.salted_key("MS-MPPE-Send-Key")
    if receive is None or send is None:
        raise ContradictionError("Access-Accept without MS-MPPE-Recv-Key and MS-MPPE-Send-Key")
    return (receive + send)[: mschap.HLAK_LENGTH].ljust(mschap.HLAK_LENGTH, b"\0")
