"""What the farm's control socket can be asked.

{"command": "sessions"}                     {"ok": true, "sessions": [...]}
{"command": "kick", "session": "sstp3"}     {"ok": true, "kicked": ["0123456789abcdef"]}
{"command": "interfaces"}                   {"ok": true, "interfaces": [...]}
{"command": "interface", "name": "office"}  {"ok": true, "interface": {...}}
{"command": "status"}                       {"ok": true, "status": {...}}
{"command": "pools"}                        {"ok": true, "pools": [...]}
{"command": "reload"}                       {"ok": true, "reload": {...}}
anything else                               {"ok": false, "error": "what is wrong"}

What "reload" refuses has "fault" besides: "configuration" where a file is wrong, "system" else.
"""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path
from typing import Annotated, Any, Protocol

from msgspec import Meta

from sstpfarm.errors import ConfigError, SystemRefusal
from sstpfarm.ipc.control import ControlSocket, Order, Request, refusal
from sstpfarm.telemetry.log import note_order


class SessionsRequest(Request, frozen=True, tag="sessions"):
    """List all sessions."""


class StatusRequest(Request, frozen=True, tag="status"):
    """Describe the farm."""


class InterfacesRequest(Request, frozen=True, tag="interfaces"):
    """List all interfaces, those of sessions and static ones."""


class InterfaceRequest(Request, frozen=True, tag="interface"):
    """Describe the interface of that name."""

    name: Annotated[str, Meta(min_length=1, max_length=15)]


class KickRequest(Order, frozen=True, tag="kick"):
    """End the session of that identifier or interface name; where there is none, all sessions of that user."""

    session: Annotated[str, Meta(min_length=1, max_length=256)]


class PoolsRequest(Request, frozen=True, tag="pools"):
    """Tell how much of each pool is used."""


class ReloadRequest(Order, frozen=True, tag="reload"):
    """Read the users again."""


class Operator(Protocol):
    """What the control socket can have done."""

    def sessions(self) -> list[dict[str, Any]]:
        """List all sessions."""

    def status(self) -> dict[str, Any]:
        """Describe the farm."""

    def interfaces(self) -> list[dict[str, Any]]:
        """List all interfaces, those of sessions and static ones."""

    def interface(self, name: str) -> dict[str, Any] | None:
        """Describe the interface of that name, None when there is none."""

    def kick(self, text: str, by: str) -> list[str]:
        """End the sessions of that identifier, interface or else user; return their identifiers."""

    def pools(self) -> list[dict[str, Any]]:
        """Tell how much of each pool is used."""

    async def reload(self) -> dict[str, Any]:
        """Read users, profiles and pools again; return what came of it.

        Raises:
            ConfigError, SystemRefusal: the files have faults, or there is no room for them; nothing changed.
        """


Requests = (
    SessionsRequest | StatusRequest | InterfacesRequest | InterfaceRequest | KickRequest | PoolsRequest | ReloadRequest
)


class ControlServer(ControlSocket):
    """Serves the farm's control socket in a run directory."""

    def __init__(self, directory: Path, operator: Operator) -> None:
        super().__init__(directory, Requests, self._ask, note_order)
        self._operator = operator

    def _ask(self, request: Requests, by: str) -> dict[str, Any] | Awaitable[dict[str, Any]]:
        match request:
            case SessionsRequest():
                return {"sessions": self._operator.sessions()}
            case StatusRequest():
                return {"status": self._operator.status()}
            case PoolsRequest():
                return {"pools": self._operator.pools()}
            case ReloadRequest():
                return self._reload()
            case InterfacesRequest():
                return {"interfaces": self._operator.interfaces()}
            case InterfaceRequest(name=name):
                found = self._operator.interface(name)
                return {"interface": found} if found else {"ok": False, "error": f"no interface {name}"}
            case KickRequest(session=session):
                kicked = self._operator.kick(session, by)
                missing = f"no session has the ID, the interface or the user {session}"
                return {"kicked": kicked} if kicked else {"ok": False, "error": missing}

    async def _reload(self) -> dict[str, Any]:
        try:
            return {"reload": await self._operator.reload()}
        except (ConfigError, SystemRefusal) as error:
            return {"ok": False, **refusal(error)}
