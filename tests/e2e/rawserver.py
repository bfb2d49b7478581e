"""A misbehaving SSTP server for our client: it says what a test scripts, and shares no code with the product."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .bytestream import StreamEndError, TcpStream
from .frames import ACK, CHAP, CONNECT_ACK, CONNECT_REQUEST, LCP, REQ, TERM_ACK, TERM_REQ, attribute, message, ppp
from .netns import Namespace
from .rawpeer import RawPeer

Script = Callable[["RawServer"], None]
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\nServer: raw\r\n\r\n"


class RawServer(RawPeer):
    """The server's end of one connection."""

    def __init__(self, tls: ssl.SSLSocket) -> None:
        super().__init__(TcpStream(tls), b"", "")

    def take_request(self) -> bytes:
        """Read the HTTP request."""
        return self.read_head()

    def accept_call(self, mask: int = 3) -> None:
        """Answer HTTP with 200 and the Call Connect Request with an Ack."""
        self.take_request()
        self.send(RESPONSE)
        self.control(CONNECT_REQUEST)
        self.nonce = os.urandom(32)
        self.send(message(CONNECT_ACK, attribute(4, b"\0\0\0" + bytes([mask]) + self.nonce)))

    def offer_lcp(self, option: bytes) -> None:
        """LCP to Opened on both sides with that authentication option."""
        self.send(ppp(LCP, REQ, 1, option))
        ours = theirs = False
        while not (ours and theirs):
            came = self.frame(LCP, REQ, ACK)
            if came.code == REQ:
                self.send(ppp(LCP, ACK, came.identifier, came.options))
                theirs = True
            else:
                ours = True

    def challenge(self, value: bytes, code: int, text: bytes) -> None:
        """Send a CHAP Challenge, read the Response, answer with Success or Failure and that text."""
        self.send(ppp(CHAP, 1, 9, bytes([len(value)]) + value + b"raw"))
        answer = self.frame(CHAP, 2)
        self.send(ppp(CHAP, code, answer.identifier, text))

    def acknowledge_terminate(self) -> None:
        """Wait for LCP Terminate-Request and acknowledge it."""
        came = self.frame(LCP, TERM_REQ)
        self.send(ppp(LCP, TERM_ACK, came.identifier))


@contextmanager
def serving(place: Namespace, address: str, certificate: tuple[Path, Path] | None, script: Script) -> Iterator[int]:
    """Serve one connection with that script; yields the port. Without a certificate the script's TLS never begins."""
    failures: list[BaseException] = []

    def serve(listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
            with sock:
                if certificate is None:
                    sock.settimeout(60)
                    while sock.recv(65536):  # silence
                        pass
                    return
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(*certificate)
                with suppress(ssl.SSLError, ConnectionError), context.wrap_socket(sock, server_side=True) as tls:
                    script(RawServer(tls))
        except (StreamEndError, ConnectionError):
            pass  # the client left: what it says about it is what the test looks at
        except BaseException as error:
            failures.append(error)

    with place.listener(address) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join(60)
    assert not failures, failures
