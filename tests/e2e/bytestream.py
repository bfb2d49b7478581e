"""Byte streams to the server as a test drives them: TCP, TLS, `openssl s_client`; and how each of them ended."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import time
from contextlib import suppress
from typing import Protocol

from .netns import PATIENCE


class StreamEndError(Exception):
    """The peer ended the stream: `close-notify` (TLS end, then TCP), `eof` (TCP only), `reset` or `timeout`."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


class Stream(Protocol):
    """A byte stream to the server."""

    def send(self, data: bytes) -> None:
        """Write all of `data`."""

    def receive(self, timeout: float) -> bytes:
        """Some bytes, at least one; raises StreamEndError."""

    def close(self) -> None:
        """Drop it."""


class TcpStream:
    """Plain TCP, before or instead of TLS."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def send(self, data: bytes) -> None:
        """Write all of `data`."""
        self.sock.settimeout(PATIENCE)
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise StreamEndError("reset") from error

    def receive(self, timeout: float) -> bytes:
        """Some bytes; raises StreamEndError."""
        self.sock.settimeout(timeout)
        try:
            data = self.sock.recv(65536)
        except ssl.SSLError as error:
            if error.reason != "UNEXPECTED_EOF_WHILE_READING":  # SSLEOFError from Python 3.11.4 on
                raise
            raise StreamEndError("eof") from error
        except ConnectionResetError as error:
            raise StreamEndError("reset") from error
        except TimeoutError as error:
            raise StreamEndError("timeout") from error
        if not data:
            raise StreamEndError("close-notify" if isinstance(self.sock, ssl.SSLSocket) else "eof")
        return data

    def close(self) -> None:
        """Drop it without a TLS end."""
        self.sock.close()


class PipeStream:
    """`openssl s_client` as the TLS layer, because it can do what Python's ssl cannot."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        assert process.stdin is not None
        assert process.stdout is not None
        self._in, self._out = process.stdin, process.stdout
        os.set_blocking(self._out.fileno(), False)

    def send(self, data: bytes) -> None:
        """Write all of `data`."""
        self._in.write(data)
        self._in.flush()

    def receive(self, timeout: float) -> bytes:
        """Some bytes; raises StreamEndError."""
        deadline = time.monotonic() + timeout
        while True:
            with suppress(BlockingIOError):
                data = os.read(self._out.fileno(), 65536)
                if not data:
                    raise StreamEndError("eof")
                return data
            if time.monotonic() > deadline:
                raise StreamEndError("timeout")
            time.sleep(0.005)

    def close(self) -> None:
        """Kill the program."""
        self.process.kill()
        self.process.communicate()


def tls_context() -> ssl.SSLContext:
    """A TLS client that checks nothing and notices how a stream ends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # Python 3.11.2 sets it: then eof looks like close-notify
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def name_of(sock: socket.socket) -> str:
    """Our end of a connection as the server writes it."""
    address, port, *_ = sock.getsockname()
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
