"""The control socket: requests, refusals, bounds, and the client function."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sstpfarm.errors import ConfigError, SystemRefusal
from sstpfarm.ipc import control
from sstpfarm.ipc.control import MAX_REQUEST, control_request
from sstpfarm.master.control import ControlServer

ME = f"uid {os.geteuid()} pid {os.getpid()}"


class Recorder:
    def __init__(self) -> None:
        self.kicked: list[tuple[str, str]] = []

    def sessions(self) -> list[dict[str, Any]]:
        return [{"session": "a" * 16, "bytes_in": 1}]

    def status(self) -> dict[str, Any]:
        return {"version": "1"}

    def pools(self) -> list[dict[str, Any]]:
        return [{"pool": "main", "used": 1, "free": 2, "size": 3}]

    async def reload(self) -> dict[str, Any]:
        if self.kicked:
            raise ConfigError("farm.toml:3: secret.alice: has no password")
        return {"users": 7, "need_restart": [], "certificate_kept": None}

    def interfaces(self) -> list[dict[str, Any]]:
        return [{"name": "office"}]

    def interface(self, name: str) -> dict[str, Any] | None:
        return {"name": name} if name == "office" else None

    def kick(self, text: str, by: str) -> list[str]:
        self.kicked.append((text, by))
        return ["a" * 16] if text == "sstp0" else []


def served(directory: Path, client: Callable[[], Any]) -> tuple[Any, Recorder]:
    operator = Recorder()

    async def main() -> Any:
        server = ControlServer(directory, operator)
        await server.start()
        try:
            assert (directory / "control.sock").stat().st_mode & 0o777 == 0o600
            return await asyncio.to_thread(client)
        finally:
            await server.stop()

    result = asyncio.run(main())
    assert not (directory / "control.sock").exists()
    return result, operator


def raw(directory: Path, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(str(directory / "control.sock"))
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        parts = []
        while part := sock.recv(65536):
            parts.append(part)
        return b"".join(parts)


def test_requests(tmp_path: Path) -> None:
    def client() -> list[dict[str, Any]]:
        requests: list[dict[str, Any]] = [
            {"command": "sessions"},
            {"command": "status"},
            {"command": "interfaces"},
            {"command": "interface", "name": "office"},
            {"command": "interface", "name": "sstp9"},
            {"command": "pools"},
            {"command": "reload"},
            {"command": "kick", "session": "sstp0"},
            {"command": "kick", "session": "sstp9"},
            {"command": "reload"},
        ]
        return [control_request(tmp_path, request) for request in requests]

    replies, operator = served(tmp_path, client)
    assert replies == [
        {"ok": True, "sessions": [{"session": "a" * 16, "bytes_in": 1}]},
        {"ok": True, "status": {"version": "1"}},
        {"ok": True, "interfaces": [{"name": "office"}]},
        {"ok": True, "interface": {"name": "office"}},
        {"ok": False, "error": "no interface sstp9"},
        {"ok": True, "pools": [{"pool": "main", "used": 1, "free": 2, "size": 3}]},
        {"ok": True, "reload": {"users": 7, "need_restart": [], "certificate_kept": None}},
        {"ok": True, "kicked": ["a" * 16]},
        {"ok": False, "error": "no session has the ID, the interface or the user sstp9"},
        {"ok": False, "error": "farm.toml:3: secret.alice: has no password", "fault": "configuration"},
    ]
    assert [text for text, _ in operator.kicked] == ["sstp0", "sstp9"]
    assert operator.kicked[0][1] == ME


def test_orders_are_noted_with_who_gives_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Also what fails; what only asks is not."""

    def client() -> None:
        for command in ({"command": "reload"}, {"command": "status"}, {"command": "kick", "session": "sstp9"}):
            control_request(tmp_path, command)

    served(tmp_path, client)
    told = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(event["event"], event["order"], event["by"]) for event in told] == [
        ("control.ordered", "reload", ME),
        ("control.ordered", "kick sstp9", ME),
    ]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"command": "halt"}',
        b'{"command": "kick"}',
        b'{"command": "kick", "session": 7}',
        b'{"command": "kick", "session": ""}',
        b'{"command": "kick", "session": "' + b"x" * 257 + b'"}',
        b'{"command": "sessions", "more": 1}',
        b"\xff\xfe\x00",
    ],
)
def test_malformed(tmp_path: Path, line: bytes) -> None:
    reply, operator = served(tmp_path, lambda: raw(tmp_path, line + b"\n"))
    answer = json.loads(reply)
    assert answer["ok"] is False
    assert answer["error"]
    assert operator.kicked == []


def test_bounds(tmp_path: Path) -> None:
    def client() -> None:
        assert raw(tmp_path, b"x" * (MAX_REQUEST + 100) + b"\n") == b""  # too long: closed
        assert raw(tmp_path, b'{"command": "status"}') == b""  # unfinished: closed
        both = raw(tmp_path, b'{"command": "status"}\n{"command": "sessions"}\n')
        assert len(both.splitlines()) == 2

    served(tmp_path, client)


def test_only_the_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_asker", lambda writer: (1, 12345))

    def client() -> None:
        with pytest.raises(SystemRefusal, match="only root"):
            control_request(tmp_path, {"command": "sessions"})

    served(tmp_path, client)


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(SystemRefusal, match="no farm runs"):
        control_request(tmp_path, {"command": "sessions"})
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "control.sock"))
    with pytest.raises(SystemRefusal, match="no farm runs"):
        control_request(tmp_path, {"command": "sessions"})
    served(tmp_path, lambda: None)  # a leftover does not keep the next farm from starting
