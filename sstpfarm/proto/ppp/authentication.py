"""The authentication phase of a PPP link, whatever the method and the role: one protocol, one factory."""

from __future__ import annotations

from typing import Protocol

from sstpfarm.errors import ConfigError
from sstpfarm.proto.ppp.chap import ChapAuthenticator, ChapPeer
from sstpfarm.proto.ppp.eap import EapAuthenticator
from sstpfarm.proto.ppp.eap_peer import EapPeer
from sstpfarm.proto.ppp.exchange import MAX_NAME, AuthEvent, AuthFailed
from sstpfarm.proto.ppp.pap import PapAuthenticator, PapPeer
from sstpfarm.proto.ppp.passwords import as_utf8
from sstpfarm.proto.roles import AuthDecision, AuthMethod, Entropy, Role

__all__ = ["AuthEvent", "AuthFailed", "Authentication", "check_credentials", "make_authentication"]

_MAX_PAP_PASSWORD = 255  # bytes, RFC 1334 2.2.1


class Authentication(Protocol):
    """One end of one authentication exchange.

    Packets are PPP information fields: code, identifier, length and data. Nothing that a peer sends raises.
    """

    @property
    def protocol(self) -> int:
        """Return the PPP protocol number: 0xC023 PAP, 0xC223 CHAP, 0xC227 EAP."""

    def start(self, now: float) -> None:
        """Begin: LCP is open."""

    def receive(self, packet: bytes, now: float) -> None:
        """Take one packet of this protocol; what is malformed or out of place is dropped."""

    def again(self, now: float) -> bool:
        """Ask a peer that was let in for its proof once more (server); False where nothing can be asked."""

    def result(self, decision: AuthDecision, now: float) -> None:
        """Give the decision on the AuthRequest (server); without an open one it is ignored."""

    def packets_to_send(self) -> list[bytes]:
        """Return and forget the packets that are to be sent now."""

    def events(self) -> list[AuthEvent]:
        """Return and forget what has happened."""

    def tick(self, now: float) -> None:
        """Let the time pass; `now` is in seconds on the caller's clock."""

    def next_deadline(self) -> float | None:
        """Return when `tick` is due, None when no timer runs."""


def check_credentials(method: AuthMethod, user: bytes, password: str) -> None:
    """Refuse what the method cannot carry, before a connection is made.

    Raises:
        ConfigError: the name is longer than 255 bytes, the password longer than 256 characters (PAP: 255 bytes of
            UTF-8) or not Unicode text.
    """
    if len(user) > MAX_NAME:
        raise ConfigError(f"the user name is longer than {MAX_NAME} bytes")
    if len(as_utf8(password)) > _MAX_PAP_PASSWORD and method is AuthMethod.PAP:
        raise ConfigError(f"the password is longer than the {_MAX_PAP_PASSWORD} bytes that PAP can carry")


def make_authentication(
    role: Role, method: AuthMethod, *, entropy: Entropy, name: bytes, user: bytes = b"", password: str = ""
) -> Authentication:
    """Return this end of the exchange.

    Args:
        name: of the server, in its Challenges.
        user, password: of the client.

    Raises:
        ConfigError: at a client, as `check_credentials` does.
    """
    if role is Role.SERVER:
        match method:
            case AuthMethod.PAP:
                return PapAuthenticator()
            case AuthMethod.EAP:
                return EapAuthenticator(entropy)
        return ChapAuthenticator(method, name, entropy)
    check_credentials(method, user, password)
    match method:
        case AuthMethod.PAP:
            return PapPeer(user, password, entropy(1)[0])
        case AuthMethod.EAP:
            return EapPeer(user, password, entropy)
    return ChapPeer(method, user, password, entropy)
