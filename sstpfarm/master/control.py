"""What the farm's control socket can be asked.

{"command": "sessions"}                     {"ok": true, "sessions": [...]}
{"command": "kick", "session": "sstp3"}     {"ok": true, "kicked": ["0123456789abcdef"]}
{"command": "status"}                       {"ok": true, "status": {...}}
anything else                               {"ok": false, "error": "what is wrong"}
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Protocol

from msgspec import Meta

from sstpfarm.ipc.control import ControlSocket, Request


class SessionsRequest(Request, frozen=True, tag="sessions"):
    """List all sessions."""


class StatusRequest(Request, frozen=True, tag="status"):
    """Describe the farm."""


class KickRequest(Request, frozen=True, tag="kick"):
    """End the session of that identifier or interface name."""

    session: Annotated[str, Meta(min_length=1, max_length=64)]


class Operator(Protocol):
    """What the control socket can have done."""

    def sessions(self) -> list[dict[str, Any]]:
        """List all sessions."""

    def status(self) -> dict[str, Any]:
        """Describe the farm."""

    def kick(self, text: str, by: str) -> list[str]:
        """End the sessions of that identifier or interface; return their identifiers."""


class ControlServer(ControlSocket):
    """Serves the farm's control socket in a run directory."""

    def __init__(self, directory: Path, operator: Operator) -> None:
        super().__init__(directory, SessionsRequest | StatusRequest | KickRequest, self._ask)
        self._operator = operator

    def _ask(self, request: SessionsRequest | StatusRequest | KickRequest, by: str) -> dict[str, Any]:
        match request:
            case SessionsRequest():
                return {"sessions": self._operator.sessions()}
            case StatusRequest():
                return {"status": self._operator.status()}
            case KickRequest(session=session):
                kicked = self._operator.kick(session, by)
                return {"kicked": kicked} if kicked else {"ok": False, "error": f"no session {session}"}
