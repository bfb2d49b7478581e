"""A RADIUS server for tests, on a socket that the test made: a script decides which bytes each request gets back."""

from __future__ import annotations

import hashlib
import hmac
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

SECRET = b"testing123"


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute (RFC 2865 5)."""
    return bytes((kind, 2 + len(value))) + value


def vendor(number: int, kind: int, value: bytes) -> bytes:
    """One vendor-specific attribute (RFC 2865 5.26)."""
    return attribute(26, number.to_bytes(4, "big") + attribute(kind, value))


@dataclass(frozen=True)
class Received:
    """A request as it came."""

    data: bytes
    secret: bytes = field(default=SECRET, repr=False)

    @property
    def code(self) -> int:
        return self.data[0]

    def values(self, kind: int) -> list[bytes]:
        """The values of an attribute, in their order."""
        found, at = [], 20
        while at < len(self.data):
            if self.data[at] == kind:
                found.append(self.data[at + 2 : at + self.data[at + 1]])
            at += self.data[at + 1]
        return found

    def vendor_values(self, number: int, kind: int) -> list[bytes]:
        """The values of one vendor's attribute."""
        wanted = number.to_bytes(4, "big") + bytes((kind,))
        return [value[6:] for value in self.values(26) if value[:5] == wanted]

    def reply(self, code: int, attributes: bytes = b"", *, signed: bool = True, secret: bytes | None = None) -> bytes:
        """A reply to it, with nothing but hashlib (RFC 2865 3, RFC 3579 3.2)."""
        secret = self.secret if secret is None else secret
        if signed:
            attributes = attribute(80, bytes(16)) + attributes
        head = bytes((code, self.data[1])) + (20 + len(attributes)).to_bytes(2, "big")
        if signed:
            seal = hmac.digest(secret, head + self.data[4:20] + attributes, "md5")
            attributes = attribute(80, seal) + attributes[18:]
        return head + hashlib.md5(head + self.data[4:20] + attributes + secret).digest() + attributes


Script = Callable[[Received], Iterable[bytes]]


def accounting(request: Received) -> Iterable[bytes]:
    """Answer every Accounting-Request."""
    if request.code == 4:
        yield request.reply(5, signed=False)


class RadiusDouble:
    """Answers on a bound UDP socket in a thread until it is closed.

    Attributes:
        received: every datagram that came, in order.
        script: what is sent back; may be exchanged at any time.
    """

    def __init__(self, sock: socket.socket, script: Script = lambda _: ()) -> None:
        self.sock = sock
        self.script = script
        self.received: list[Received] = []
        self._sock = sock
        self._sock.settimeout(0.1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self.sock.getsockname()[1]
        return port

    def _serve(self) -> None:
        while not self._stop.is_set():
            try:
                data, source = self._sock.recvfrom(65536)
            except TimeoutError:
                continue
            except OSError:  # an ICMP message for an answer that nobody wanted
                continue
            request = Received(data)
            self.received.append(request)
            for answer in self.script(request):
                self._sock.sendto(answer, source)

    def close(self) -> None:
        """Stop and close the socket."""
        self._stop.set()
        self._thread.join(60)
        self._sock.close()

    def __enter__(self) -> RadiusDouble:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def local() -> socket.socket:
    """A socket on a free port of the loopback address."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock
