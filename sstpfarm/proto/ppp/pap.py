"""PAP (RFC 1334 2): both roles."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final

from sstpfarm.proto.events import AuthSucceeded
from sstpfarm.proto.ppp.authenticator import Authenticator, Claim, Input
from sstpfarm.proto.ppp.constants import PppProtocol
from sstpfarm.proto.ppp.exchange import AuthFailed, Exchange
from sstpfarm.proto.ppp.failure import describe_failure
from sstpfarm.proto.ppp.mschap import ZERO_HLAK
from sstpfarm.proto.ppp.packet import Packet
from sstpfarm.proto.ppp.passwords import as_utf8
from sstpfarm.proto.roles import AuthDecision, AuthMethod, PapProof
from sstpfarm.reasons import Reason

REQUEST: Final = 1  # RFC 1334 2.2
ACK: Final = 2
NAK: Final = 3
_MAX_FIELD: Final = 255  # each field has a one-byte length


def build_request(user: bytes, password: bytes) -> bytes:
    """Return the data of an Authenticate-Request; neither may be longer than 255 bytes (RFC 1334 2.2.1)."""
    return bytes((len(user),)) + user + bytes((len(password),)) + password


def parse_request(data: bytes) -> tuple[bytes, bytes] | None:
    """Return Peer-ID and Password of an Authenticate-Request, or None when the lengths do not fit."""
    user_end = 1 + data[0] if data else 0
    if not 0 < user_end < len(data):
        return None
    password_end = user_end + 1 + data[user_end]
    if password_end > len(data):
        return None
    return data[1:user_end], data[user_end + 1 : password_end]


def parse_message(data: bytes) -> bytes:
    """Return the message of an Ack or Nak: what there is of it, also when it is absent (RFC 1334 2.2.2)."""
    return data[1 : 1 + data[0]] if data else b""


class PapAuthenticator(Authenticator):
    """The server's end: waits for the request."""

    protocol = PppProtocol.PAP
    accept_code = ACK
    reject_code = NAK
    speaks_first = False

    def __init__(self) -> None:
        super().__init__(AuthMethod.PAP)

    def _received(self, packet: Packet, now: float) -> None:
        fields = parse_request(packet.data) if packet.code == REQUEST else None
        if fields is not None:
            self._step(Input.PROOF, now, claim=Claim(packet.identifier, fields[0], PapProof(fields[1])))

    def _prompt(self, now: float) -> None:
        """Do nothing: in PAP the peer speaks first, and repeats itself."""

    def _message_data(self, message: bytes) -> bytes:
        shown = message[:_MAX_FIELD]
        return bytes((len(shown),)) + shown


class PeerState(Enum):
    """Where the client's exchange stands."""

    IDLE = auto()
    REQUESTED = auto()
    SUCCEEDED = auto()
    FAILED = auto()


class PeerInput(Enum):
    """What can happen to a client; packets with another identifier are dropped before they get here."""

    START = auto()
    ACK = auto()
    NAK = auto()
    TIMEOUT = auto()


class PeerAction(Enum):
    """What the client does about it."""

    NONE = auto()
    REQUEST = auto()
    SUCCEED = auto()
    FAIL = auto()


# A pair that is not in the table changes nothing.
PEER_TABLE: Final[Mapping[tuple[PeerState, PeerInput], tuple[PeerAction, PeerState]]] = {
    (PeerState.IDLE, PeerInput.START): (PeerAction.REQUEST, PeerState.REQUESTED),
    (PeerState.REQUESTED, PeerInput.ACK): (PeerAction.SUCCEED, PeerState.SUCCEEDED),
    (PeerState.REQUESTED, PeerInput.NAK): (PeerAction.FAIL, PeerState.FAILED),
    (PeerState.REQUESTED, PeerInput.TIMEOUT): (PeerAction.REQUEST, PeerState.REQUESTED),
}


class PapPeer(Exchange):
    """The client's end: sends the request, every 3 seconds until it is answered (RFC 1334 2.2.1).

    It does not give up by itself: behind the server a human may be asked. The link has its time for all of it.
    """

    protocol = PppProtocol.PAP

    def __init__(self, user: bytes, password: str, identifier: int) -> None:
        super().__init__()
        self._state = PeerState.IDLE
        self._user = user
        self._request = build_request(user, as_utf8(password))
        self._identifier = identifier

    @property
    def state(self) -> PeerState:
        """Return where the exchange stands."""
        return self._state

    def start(self, now: float) -> None:
        """Begin: LCP is open."""
        self._step(PeerInput.START, now)

    def _received(self, packet: Packet, now: float) -> None:
        if packet.identifier != self._identifier:
            return
        if packet.code == ACK:
            self._step(PeerInput.ACK, now)
        elif packet.code == NAK:
            self._step(PeerInput.NAK, now, parse_message(packet.data))

    def result(self, decision: AuthDecision, now: float) -> None:
        """Do nothing: a client decides nothing."""

    def _timed_out(self, now: float) -> None:
        self._step(PeerInput.TIMEOUT, now)

    def _exhausted(self, now: float) -> None:
        self._timed_out(now)

    def _step(self, event: PeerInput, now: float, message: bytes = b"") -> None:
        """Take the one step that the table gives; the only place that changes the state."""
        action, self._state = PEER_TABLE.get((self._state, event), (PeerAction.NONE, self._state))
        match action:
            case PeerAction.REQUEST:
                self._send_and_wait(REQUEST, self._identifier, self._request, now)
            case PeerAction.SUCCEED:
                self._stop_timer()
                self._events.append(AuthSucceeded(AuthMethod.PAP, self._user, ZERO_HLAK))
            case PeerAction.FAIL:
                self._stop_timer()
                self._events.append(AuthFailed(Reason.AUTH_REFUSED, describe_failure(AuthMethod.PAP, message)))
            case PeerAction.NONE:
                pass
