"""How far a connection has come."""

from __future__ import annotations

from enum import Enum, auto


class Stage(Enum):
    """The connection's own stages; the tunnel has its own inside of OPEN."""

    HANDSHAKE = auto()
    OPEN = auto()
    ENDING = auto()  # the tunnel has ended, the socket is being closed well
    CLOSED = auto()
