"""A small HTTP proxy in a namespace: it speaks CONNECT, wants a password if told so, or answers what a test says."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .netns import Namespace

LIMIT = 65536


class Proxy:
    """Answers each connection in a thread of its own; `heads` are the requests that came.

    Args:
        credentials: "user:password" that it wants (Basic); None wants none.
        names: addresses that it knows for names.
        answer: sent instead of everything else; empty bytes say nothing until the client leaves.
    """

    def __init__(
        self, place: Namespace, *, credentials: str | None = None, names: dict[str, str] | None = None,
        answer: bytes | None = None,
    ) -> None:  # fmt: skip
        self.place = place
        self.heads: list[bytes] = []
        self._wanted = credentials and f"Proxy-Authorization: Basic {base64.b64encode(credentials.encode()).decode()}"
        self._names = names or {}
        self._answer = answer

    def serve(self, sock: socket.socket) -> None:
        """One connection."""
        with sock, suppress(OSError):
            sock.settimeout(60)
            head = b""
            while b"\r\n\r\n" not in head and len(head) < LIMIT:
                data = sock.recv(1)  # byte by byte: whatever comes behind the head stays in the socket
                if not data:
                    return
                head += data
            self.heads.append(head)
            if self._answer is not None:
                sock.sendall(self._answer)
                if not self._answer:
                    sock.recv(1)
                return
            if self._wanted and self._wanted.encode() not in head:
                sock.sendall(
                    b'HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm="test"\r\n'
                    b"Content-Length: 5\r\nConnection: close\r\n\r\nno no"
                )
                return
            target = head.split(b" ")[1].decode()
            host, _, port = target.rpartition(":")
            host = host.strip("[]")
            with self.place.dial(self._names.get(host, host), int(port)) as server:
                for byte in b"HTTP/1.1 200 Connection established\r\nX-Proxy: test\r\n\r\n":
                    sock.sendall(bytes([byte]))
                server.settimeout(None)
                sock.settimeout(None)
                back = threading.Thread(target=pour, args=(server, sock))
                back.start()
                pour(sock, server)
                back.join()


def pour(source: socket.socket, sink: socket.socket) -> None:
    """Copy until one side ends."""
    with suppress(OSError):
        while data := source.recv(LIMIT):
            sink.sendall(data)
    for sock in (source, sink):
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxying(proxy: Proxy, host: str) -> Iterator[int]:
    """Serve on that address; yields the port. At the end every connection must have ended."""
    threads: list[threading.Thread] = []
    with proxy.place.listener(host) as listener:
        listener.settimeout(0.1)
        ending = threading.Event()

        def accept() -> None:
            while not ending.is_set():
                with suppress(TimeoutError):
                    sock, _ = listener.accept()
                    threads.append(threading.Thread(target=proxy.serve, args=(sock,)))
                    threads[-1].start()

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield listener.getsockname()[1]
        finally:
            ending.set()
            acceptor.join()
            for thread in threads:
                thread.join(60)
