"""A control socket: a line of JSON asks, a line of JSON answers. For root alone (mode 0600, and SO_PEERCRED).

A request is an object whose "command" names one of a closed list of structs. A reply has "ok"; when that is false,
"error" says what is wrong; "fault" may say whose fault it is.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec

from sstpfarm.errors import ConfigError, SystemRefusal

SOCKET_FILE: Final = "control.sock"
MAX_REQUEST: Final = 4096  # bytes of one line
MAX_REPLY: Final = 256 << 20  # bytes that the asking side takes: 65,536 sessions are about 25 MB
MAX_CONNECTIONS: Final = 16
PATIENCE_S: Final = 30.0  # for a request to come, and for a reply to be taken
ASKING_PATIENCE_S: Final = 10.0
CONFIGURATION: Final = "configuration"  # the fault of a file
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: process, user, group


class Request(msgspec.Struct, frozen=True, tag_field="command", forbid_unknown_fields=True):
    """Base of what can be asked; the tag is the command."""


class Order(Request, frozen=True):
    """Base of what changes something: who orders it is noted."""


Reply = dict[str, Any]
Note = Callable[[str, str], None]
"""Takes an order ("kick sstp3") and who gives it, before it is carried out."""
Answer = Callable[[Any, str], Reply | Awaitable[Reply]]
"""Takes a request and who asks ("uid 0 pid 4711"); returns the reply without "ok", or with "ok" false and "error"."""


class NobodyThere(SystemRefusal):
    """No process that could be asked runs in the run directory."""


def refusal(error: ConfigError | SystemRefusal) -> Reply:
    """Return what a reply says of an error; `raise_refusal` makes the error of it again."""
    return {"error": str(error), "fault": CONFIGURATION if isinstance(error, ConfigError) else "system"}


def raise_refusal(told: Mapping[str, Any]) -> NoReturn:
    """Raise what a reply says: ConfigError where a file is wrong, else SystemRefusal."""
    text = str(told.get("error", "the farm gave no reason"))
    raise ConfigError(text) if told.get("fault") == CONFIGURATION else SystemRefusal(text)


class ControlSocket:
    """Serves the control socket in a run directory.

    Args:
        requests: the union of the structs that can be asked for.
        note: told of each Order among them.
    """

    def __init__(self, directory: Path, requests: Any, answer: Answer, note: Note) -> None:
        self._path = directory / SOCKET_FILE
        self._reply_to = answer
        self._note = note
        self._decoder = msgspec.json.Decoder(requests)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Open the socket; the directory's lock says that a file that is there is a leftover.

        Raises:
            SystemRefusal: it cannot be made.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._path.unlink(missing_ok=True)
            before = os.umask(0o177)
            try:
                sock.bind(str(self._path))
            finally:
                os.umask(before)
            self._server = await asyncio.start_unix_server(self._serve, sock=sock, limit=MAX_REQUEST)
        except OSError as error:
            sock.close()
            raise SystemRefusal(f"control socket {self._path}: {error.strerror or error}") from error

    async def stop(self) -> None:
        """Close the socket and all connections, and remove the file."""
        if self._server is None:
            return
        self._server.close()
        for writer in list(self._connections):
            writer.close()
        with suppress(OSError):
            self._path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            writer.close()
            return
        self._connections.add(writer)
        try:
            process, user = _asker(writer)
            if user not in (0, os.geteuid()):
                return
            while True:
                async with asyncio.timeout(PATIENCE_S):
                    line = await reader.readline()
                if not line.endswith(b"\n"):
                    return
                writer.write(msgspec.json.encode(await self._answer(line, f"uid {user} pid {process}")) + b"\n")
                async with asyncio.timeout(PATIENCE_S):
                    await writer.drain()
        except (TimeoutError, OSError, ValueError):  # ValueError: a line beyond the limit
            return
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _answer(self, line: bytes, by: str) -> Reply:
        try:
            request = self._decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return {"ok": False, "error": str(error)[:500]}
        if isinstance(request, Order):
            self._note(" ".join(map(str, msgspec.to_builtins(request).values())), by)
        reply = self._reply_to(request, by)
        return {"ok": True, **(await reply if isinstance(reply, Awaitable) else reply)}


def _asker(writer: asyncio.StreamWriter) -> tuple[int, int]:
    """Return process and user of the other end, as they were when it connected (unix(7), SO_PEERCRED)."""
    sock = writer.get_extra_info("socket")
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, _ = _CREDENTIALS.unpack(credentials)
    return process, user


def control_request(
    run_directory: str | Path,
    request: Mapping[str, Any],
    *,
    whom: str = "farm",
    patience: float = ASKING_PATIENCE_S,
) -> dict[str, Any]:
    """Ask the farm (or the client) that runs in that directory, and return its reply (`ok` says whether it did).

    Raises:
        NobodyThere: none runs there.
        SystemRefusal: we may not ask, or it does not answer.
    """
    path = Path(run_directory) / SOCKET_FILE
    reply = bytearray()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(patience)
            sock.connect(str(path))
            sock.sendall(json.dumps(request).encode() + b"\n")
            while not reply.endswith(b"\n") and len(reply) < MAX_REPLY:
                part = sock.recv(1 << 16)
                if not part:
                    raise ConnectionResetError
                reply += part
    except (FileNotFoundError, ConnectionRefusedError):
        raise NobodyThere(f"no {whom} runs in {run_directory}") from None
    except (ConnectionResetError, BrokenPipeError):
        raise SystemRefusal(f"{path}: the {whom} closed the connection: only root may ask") from None
    except PermissionError:
        raise SystemRefusal(f"{path}: permission denied: only root may ask") from None
    except OSError as error:
        raise SystemRefusal(f"{path}: {error}") from error
    answer = json.loads(reply)
    if not isinstance(answer, dict):
        raise SystemRefusal(f"{path}: no {whom} of ours answers there")
    return answer
