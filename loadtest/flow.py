"""One direction of a session's packets: what was sent, what came back, in which order, and how late."""

from __future__ import annotations

from typing import Final

WINDOW: Final = 1024  # sequence numbers behind the newest for which a second copy is still told from a late one


class Flow:
    """Counts the packets of one session. Sequence numbers begin at 0.

    Attributes:
        sent, received: packets; `received` without second copies.
        reordered: packets that came after one with a higher number.
        duplicated: second copies, and packets so late that they cannot be told from one.
    """

    __slots__ = ("_newest", "_seen", "duplicated", "received", "reordered", "sent")

    def __init__(self) -> None:
        self.sent = self.received = self.reordered = self.duplicated = 0
        self._newest = -1
        self._seen = 0  # bit n: newest - n has come

    def next_sequence(self) -> int:
        """The number of the next packet, which counts as sent."""
        self.sent += 1
        return self.sent - 1

    def came(self, sequence: int) -> bool:
        """Note that number; False when it counts as a second copy, or was never sent."""
        if not 0 <= sequence < self.sent:
            self.duplicated += 1
            return False
        ahead = sequence - self._newest
        if ahead > 0:
            self._seen = ((self._seen << ahead) | 1) & ((1 << WINDOW) - 1) if ahead < WINDOW else 1
            self._newest = sequence
        else:
            bit = 1 << -ahead
            if -ahead >= WINDOW or self._seen & bit:
                self.duplicated += 1
                return False
            self._seen |= bit
            self.reordered += 1
        self.received += 1
        return True

    @property
    def lost(self) -> int:
        """Packets that have not come (yet)."""
        return self.sent - self.received
