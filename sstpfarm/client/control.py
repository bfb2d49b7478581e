"""What the client's control socket can be asked.

{"command": "interfaces"}                         {"ok": true, "interfaces": [...]}
{"command": "connect", "interface": "sstpc0"}     {"ok": true, "said": "being established"}
{"command": "disconnect", "interface": "sstpc0"}  {"ok": true, "said": "disconnecting"}
anything else                                     {"ok": false, "error": "what is wrong"}

`state` of a reply to connect and disconnect says what the interface did when it was asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from msgspec import Meta

from sstpfarm.client.interface import Interface
from sstpfarm.client.lifecycle import Input, State
from sstpfarm.ipc.control import ControlSocket, Order, Request
from sstpfarm.telemetry.log import note_order

Name = Annotated[str, Meta(min_length=1, max_length=64)]

# What an operator is told, by what the interface does when asked; the words are VyOS's.
ON_CONNECT: Final[Mapping[State, str]] = {
    State.UP: "already connected",
    State.DIALING: "connection is being established",
    State.REDIALING: "connection is being established",
}
ON_DISCONNECT: Final[Mapping[State, str]] = {
    State.HELD: "already down",
    State.DISABLED: "already down",
    State.HANGING_UP: "being disconnected",
    State.DISABLING: "being disconnected",
}


class InterfacesRequest(Request, frozen=True, tag="interfaces"):
    """List all interfaces."""


class ConnectRequest(Order, frozen=True, tag="connect"):
    """Dial now."""

    interface: Name


class DisconnectRequest(Order, frozen=True, tag="disconnect"):
    """End the session in order, and do not dial again until asked."""

    interface: Name


class ClientControl(ControlSocket):
    """Serves the client's control socket in a run directory; `interfaces` is looked at for each request."""

    def __init__(self, directory: Path, interfaces: Mapping[str, Interface]) -> None:
        super().__init__(directory, InterfacesRequest | ConnectRequest | DisconnectRequest, self._ask, note_order)
        self._interfaces = interfaces

    def _ask(self, request: InterfacesRequest | ConnectRequest | DisconnectRequest, by: str) -> dict[str, Any]:
        if isinstance(request, InterfacesRequest):
            return {"interfaces": [interface.facts() for interface in self._interfaces.values()]}
        interface = self._interfaces.get(request.interface)
        if interface is None:
            return {"ok": False, "error": f"no interface {request.interface}"}
        state = interface.state
        if isinstance(request, ConnectRequest):
            if state in (State.DISABLED, State.DISABLING):
                return {"ok": False, "error": f"interface {request.interface} is disabled in the configuration"}
            said = ON_CONNECT.get(state)
            if said is None:
                interface.retry_now()
                said = "dialing"
        else:
            said = ON_DISCONNECT.get(state)
            if said is None:
                interface.advance(Input.DISCONNECT)
                said = "disconnecting"
        return {"said": said, "state": state.value}
