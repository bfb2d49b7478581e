"""What every PPP authentication exchange has: its outcome, its queues and its restart timer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final

from sstpfarm.errors import PeerError
from sstpfarm.proto.events import AuthRequest, AuthSucceeded
from sstpfarm.proto.ppp.packet import Packet, decode_packet, encode_packet
from sstpfarm.reasons import Reason

RESTART_TIMER: Final = 3.0  # seconds between two transmissions of a packet, RFC 1661 4.6
MAX_TRANSMISSIONS: Final = 10  # as Max-Configure, RFC 1661 4.6
MAX_NAME: Final = 255  # bytes; a PAP Peer-ID cannot be longer, RFC 1334 2.2.1
MAX_TEXT: Final = 200  # characters of a peer's text that reach a log or a person


@dataclass(frozen=True, slots=True)
class AuthFailed:
    """Authentication ended badly; `text` is for people, cleaned and without challenges."""

    reason: Reason
    text: str


AuthEvent = AuthRequest | AuthSucceeded | AuthFailed


def decode_text(data: bytes) -> str:
    """Return a text or name from the wire: UTF-8, and Latin-1 when it is not valid UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def readable(data: bytes) -> str:
    """Return a text from the wire that is safe in a log or on a terminal: printable, at most 200 characters."""
    shown = decode_text(data)[:MAX_TEXT]
    return "".join(c if c.isprintable() else "?" for c in shown).strip()


class Exchange(ABC):
    """The queues and the restart timer of one exchange; subclasses add the automaton.

    What `_send_and_wait` sent is due again after 3 seconds, 10 times in all; then `_exhausted` is called.
    """

    protocol: int

    def __init__(self) -> None:
        self._packets: list[bytes] = []
        self._events: list[AuthEvent] = []
        self._deadline: float | None = None
        self._transmissions = 0

    def receive(self, information: bytes, now: float) -> None:
        """Take one packet of this protocol; what is malformed or out of place is dropped."""
        try:
            packet = decode_packet(information)
        except PeerError:
            return
        self._received(packet, now)

    @abstractmethod
    def _received(self, packet: Packet, now: float) -> None:
        """Take one packet whose length is right."""

    def again(self, now: float) -> bool:
        """Return False: a client asks for nothing, and a server's end says otherwise."""
        return False

    def packets_to_send(self) -> list[bytes]:
        """Return and forget the PPP information fields that are to be sent now."""
        packets, self._packets = self._packets, []
        return packets

    def events(self) -> list[AuthEvent]:
        """Return and forget what has happened."""
        events, self._events = self._events, []
        return events

    def next_deadline(self) -> float | None:
        """Return when `tick` is due, on the caller's clock in seconds; None: not before the next packet."""
        return self._deadline

    def tick(self, now: float) -> None:
        """Let the time pass."""
        if self._deadline is None or now < self._deadline:
            return
        if self._transmissions < MAX_TRANSMISSIONS:
            self._timed_out(now)
        else:
            self._exhausted(now)

    @abstractmethod
    def _timed_out(self, now: float) -> None:
        """The restart timer expired and a transmission is left."""

    @abstractmethod
    def _exhausted(self, now: float) -> None:
        """The restart timer expired after the last transmission."""

    def _send(self, code: int, identifier: int, data: bytes) -> None:
        self._packets.append(encode_packet(Packet(code, identifier, data)))

    def _send_and_wait(self, code: int, identifier: int, data: bytes, now: float) -> None:
        self._send(code, identifier, data)
        self._transmissions += 1
        self._deadline = now + RESTART_TIMER

    def _stop_timer(self) -> None:
        self._deadline = None
