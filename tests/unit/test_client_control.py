"""client/control.py: what an operator is told, whatever the interface does when asked."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sstpfarm.client.control import ClientControl, ConnectRequest, DisconnectRequest
from sstpfarm.client.lifecycle import Input, State, follow
from sstpfarm.ipc.control import control_request

SAID = {
    State.DISABLED: (None, "already down"),
    State.HELD: ("dialing", "already down"),
    State.WAITING: ("dialing", "disconnecting"),
    State.DIALING: ("connection is being established", "disconnecting"),
    State.UP: ("already connected", "disconnecting"),
    State.BACKOFF: ("dialing", "disconnecting"),
    State.HANGING_UP: ("dialing", "being disconnected"),
    State.DISABLING: (None, "being disconnected"),
    State.REDIALING: ("connection is being established", "disconnecting"),
}


def asked(state: State, command: str) -> tuple[dict[str, Any], list[str]]:
    """The reply, and what the interface was told."""
    told: list[str] = []
    double: Any = SimpleNamespace(
        state=state,
        retry_now=lambda: told.append(Input.CONNECT),
        advance=told.append,
    )
    control = ClientControl(Path("/nonexistent"), {"sstpc0": double})
    request = ConnectRequest("sstpc0") if command == "connect" else DisconnectRequest("sstpc0")
    return control._ask(request, "uid 0"), told


@pytest.mark.parametrize("state", State)
def test_connect(state: State) -> None:
    reply, told = asked(state, "connect")
    wanted = SAID[state][0]
    if wanted is None:
        assert reply == {"ok": False, "error": "interface sstpc0 is disabled in the configuration"}
        assert not told
        return
    assert reply == {"said": wanted, "state": state.value}
    assert bool(told) == (wanted == "dialing")
    assert not told or follow(state, Input.CONNECT)[0] in (State.DIALING, State.REDIALING)


@pytest.mark.parametrize("state", State)
def test_disconnect(state: State) -> None:
    reply, told = asked(state, "disconnect")
    assert reply == {"said": SAID[state][1], "state": state.value}
    assert bool(told) == (SAID[state][1] == "disconnecting")
    assert not told or follow(state, Input.DISCONNECT)[0] in (State.HELD, State.HANGING_UP)


def test_whoever_dials_or_hangs_up_is_noted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        control = ClientControl(tmp_path, {})
        await control.start()
        for command in ("connect", "disconnect", "interfaces"):
            request = {"command": command} | ({} if command == "interfaces" else {"interface": "sstpc0"})
            await asyncio.to_thread(control_request, tmp_path, request)
        await control.stop()

    asyncio.run(main())
    told = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    by = f"uid {os.geteuid()} pid {os.getpid()}"
    assert [(event["event"], event["order"], event["by"]) for event in told] == [
        ("control.ordered", "connect sstpc0", by),
        ("control.ordered", "disconnect sstpc0", by),
    ]


def test_an_interface_that_is_none() -> None:
    control = ClientControl(Path("/nonexistent"), {})
    assert control._ask(ConnectRequest("x"), "uid 0") == {"ok": False, "error": "no interface x"}
