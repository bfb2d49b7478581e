"""EAP-MSCHAPv2 with the configuration's own users: the conversations that go on, one for each session."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from sstpfarm.auth.authorization import Challenged, Denied, Unknown, Verdict
from sstpfarm.auth.leases import Holder
from sstpfarm.ipc.messages import AccessRequest
from sstpfarm.proto.ppp.eap import identity_of
from sstpfarm.proto.ppp.eap_mschapv2 import MschapConversation
from sstpfarm.proto.ppp.eap_mschapv2 import Verdict as Turn
from sstpfarm.proto.ppp.failure import failure_message
from sstpfarm.proto.ppp.verify import verify
from sstpfarm.proto.roles import AuthAccept, AuthMethod, ChapProof, Entropy
from sstpfarm.reasons import OUTCOMES

if TYPE_CHECKING:
    from sstpfarm.auth.local import KnownUser, LocalBackend

NAME: Final = b"sstpfarm"  # in our Challenges


@dataclass(slots=True)
class _Login:
    """One conversation; `known` is None for a user who does not exist, and `denied` why it will end badly.

    Attributes:
        name: the identity, as it came.
    """

    name: bytes
    conversation: MschapConversation
    known: KnownUser | None
    denied: Denied | None = None


class EapLogins:
    """The conversations of a backend.

    Args:
        users: finds and judges them.
        last: no backend is asked behind this one: a user who does not exist gets a conversation too, which ends as
            one with a wrong password does, so that nobody can find out who exists.
    """

    def __init__(self, users: LocalBackend, entropy: Entropy, *, last: bool) -> None:
        self._users = users
        self._entropy = entropy
        self._last = last
        self._logins: dict[Holder, _Login] = {}

    def authenticate(self, holder: Holder, request: AccessRequest) -> Verdict:
        """Take a Response; an identity begins a conversation.

        It is the request's user, from the first Response to the last one: failures are counted by that name.
        """
        login = self._logins.pop(holder, None)
        identity = identity_of(request.eap)
        if identity is not None:
            if login is not None or identity != request.user:
                return Denied("the EAP identity changed")
            return self._begin(holder, identity, request.eap[1])
        if login is None:
            return Unknown()
        if login.name != request.user:
            return Denied("the EAP identity changed")
        step = login.conversation.receive(
            request.eap, lambda name, proof: self._judge(login, name, proof, request.caller_id)
        )
        match step.verdict:
            case Turn.CONTINUE:
                self._logins[holder] = login
                return Challenged(step.request, failed=login.denied is not None and not login.denied.told)
            case Turn.ACCEPTED if login.known is not None:
                return self._users.accepted(login.known, step.hlak)
        if login.denied is not None:
            return replace(login.denied, counts=False)
        return Denied("the EAP conversation broke off")

    def forget(self, holder: Holder) -> None:
        """End the session's conversation."""
        self._logins.pop(holder, None)

    def _begin(self, holder: Holder, identity: bytes, identifier: int) -> Verdict:
        known = self._users.find(identity)
        if known is None and not self._last:
            return Unknown()
        login = self._logins[holder] = _Login(identity, MschapConversation(identifier, NAME, self._entropy), known)
        return Challenged(login.conversation.begin())

    def _judge(self, login: _Login, name: bytes, proof: ChapProof, caller_id: str) -> AuthAccept | bytes:
        known = login.known
        accept = verify(AuthMethod.MSCHAP2, name, proof, self._users.nt_hash(known))
        if known is None:
            login.denied = Denied("unknown user")
        elif not self._users.serves(known, AuthMethod.EAP):
            login.denied = Denied("its secret does not serve eap")
        elif accept is None or self._users.find(name) != known:
            login.denied = Denied("wrong password")
        else:
            login.denied = self._users.admissible(known, caller_id)
        if login.denied is None:
            assert accept is not None
            return accept
        text = login.denied.detail if login.denied.told else OUTCOMES[login.denied.reason].text
        return failure_message(AuthMethod.MSCHAP2, login.denied.error, self._entropy, text)
