"""An SSTP client driven by hand, byte for byte, that shares no code with the product.

It does what a test says, step by step, and shows exactly what comes back: packets, and how the stream ended.
Formats are those of MS-SSTP 2.2 and RFC 1661, 1332, 1334, 1994, 2759. It works in the test's own process over a
socket that lives in the client's namespace.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .bytestream import Stream, StreamEndError, TcpStream, name_of, tls_context
from .farm import GATEWAY, PASSWORD, PORT
from .frames import (
    ABORT,
    ACK,
    AUTH_OPTIONS,
    CHAP,
    CONNECT_ACK,
    CONNECTED,
    DISCONNECT,
    DISCONNECT_ACK,
    ECHO_REQUEST,
    ECHO_RESPONSE,
    GOOD_REQUEST,
    IPCP,
    IPV4,
    LCP,
    LCP_ECHO_REPLY,
    LCP_ECHO_REQ,
    NAK,
    PAP,
    REQ,
    REQUEST,
    TERM_ACK,
    TERM_REQ,
    Packet,
    attribute,
    data,
    message,
    options,
    ppp,
)
from .mschap2 import hlak, nt_response
from .netns import PATIENCE, Namespace
from .packets import icmp_echo


class RawPeer:
    """One connection to the server, driven step by step."""

    def __init__(self, stream: Stream, certificate: bytes, peer: str) -> None:
        self.stream = stream
        self.certificate = certificate
        self.peer = peer  # our address as the server logs it
        self.nonce = b""
        self.mask = 0
        self.method = ""
        self.address = ""
        self.servers: dict[int, str] = {}  # given in IPCP, by option
        self._buffer = b""
        self._kept: deque[Packet] = deque(maxlen=256)
        self._pings = 0

    # bytes

    def send(self, *pieces: bytes) -> None:
        """Write in one go."""
        self.stream.send(b"".join(pieces))

    def close(self) -> None:
        """Drop the connection."""
        self.stream.close()

    def rest(self, timeout: float = PATIENCE) -> tuple[bytes, str]:
        """Everything until the stream ends, and how it ended; then our end is closed too."""
        got, self._buffer = self._buffer, b""
        try:
            while True:
                got += self.stream.receive(timeout)
        except StreamEndError as end:
            self.close()
            return got, end.how

    def read_head(self, timeout: float = PATIENCE) -> bytes:
        """The HTTP response's head; what follows it is kept."""
        while b"\r\n\r\n" not in self._buffer:
            self._buffer += self.stream.receive(timeout)
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return head

    # packets

    def _next(self, timeout: float) -> Packet:
        deadline = time.monotonic() + timeout
        while True:
            if len(self._buffer) >= 4:
                version, flags, length = struct.unpack(">BBH", self._buffer[:4])
                length &= 0x0FFF
                assert (version, flags & 0xFE) == (0x10, 0), self._buffer[:8].hex()
                assert length >= 4, self._buffer[:8].hex()
                if len(self._buffer) >= length:
                    body, self._buffer = self._buffer[4:length], self._buffer[length:]
                    return Packet(int.from_bytes(body[:2], "big") if flags & 1 else 0, body)
            self._buffer += self.stream.receive(max(0.001, deadline - time.monotonic()))

    def expect(self, wanted: Callable[[Packet], bool], timeout: float = PATIENCE) -> Packet:
        """The first packet, kept or new, that is wanted; others are kept. SSTP and LCP echoes are answered."""
        for kept in self._kept:
            if wanted(kept):
                self._kept.remove(kept)
                return kept
        deadline = time.monotonic() + timeout
        while True:
            came = self._next(max(0.001, deadline - time.monotonic()))
            if wanted(came):
                return came
            if came.kind == ECHO_REQUEST:
                self.send(message(ECHO_RESPONSE))
            elif came.protocol == LCP and came.code == LCP_ECHO_REQ:
                self.send(ppp(LCP, LCP_ECHO_REPLY, came.identifier, b"\0\0\0\0"))
            else:
                self._kept.append(came)

    def put_back(self, came: Packet) -> None:
        """Keep a packet that was read for a later `expect`."""
        self._kept.appendleft(came)

    def linger(self, seconds: float) -> None:
        """Only answer echoes for that long; raises when the stream ends meanwhile."""
        try:
            self.expect(lambda came: False, seconds)
        except StreamEndError as end:
            if end.how != "timeout":
                raise

    def control(self, kind: int, timeout: float = PATIENCE) -> Packet:
        """The next SSTP message of that type."""
        return self.expect(lambda came: came.kind == kind, timeout)

    def frame(self, protocol: int, *codes: int, timeout: float = PATIENCE) -> Packet:
        """The next PPP packet of that protocol, with one of these codes when given."""
        return self.expect(lambda came: came.protocol == protocol and (not codes or came.code in codes), timeout)

    def packets_until_end(self, timeout: float = PATIENCE) -> tuple[list[Packet], str]:
        """All packets until the stream ends, and how it ended; then our end is closed too."""
        got = list(self._kept)
        self._kept.clear()
        try:
            while True:
                got.append(self._next(timeout))
        except StreamEndError as end:
            assert self._buffer == b"", self._buffer
            self.close()
            return got, end.how

    # steps of a login

    def open_http(self) -> None:
        """The HTTP exchange (MS-SSTP 3.2.4.1)."""
        self.send(REQUEST)
        head = self.read_head()
        assert head.startswith(b"HTTP/1.1 200"), head

    def call_connect(self) -> None:
        """Call Connect Request and Ack; keeps nonce and hash mask."""
        self.send(GOOD_REQUEST)
        self.take_ack()

    def take_ack(self) -> None:
        """Read the Call Connect Ack (MS-SSTP 2.2.10)."""
        ack = self.control(CONNECT_ACK)
        assert len(ack.body) == 44, ack
        self.mask, self.nonce = ack.body[11], ack.body[12:44]

    def open_lcp(self, method: str, mru: int = 1400) -> None:
        """LCP to Opened on both sides, with that authentication method and what we take in one frame."""
        self.send(ppp(LCP, REQ, 1, b"\x01\x04" + struct.pack(">H", mru) + b"\x05\x06" + os.urandom(4)))
        ours = theirs = False
        while not (ours and theirs):
            came = self.frame(LCP, REQ, ACK)
            if came.code == ACK:
                ours = True
            elif AUTH_OPTIONS[method] in came.options:
                self.send(ppp(LCP, ACK, came.identifier, came.options))
                theirs = True
            else:
                self.send(ppp(LCP, NAK, came.identifier, AUTH_OPTIONS[method]))
        self.method = method

    def send_pap(self, user: str = "alice", password: str = PASSWORD) -> None:
        """The PAP request (RFC 1334 2.2.1)."""
        name, secret = user.encode(), password.encode()
        self.send(ppp(PAP, 1, 1, bytes([len(name)]) + name + bytes([len(secret)]) + secret))

    def authenticate_pap(self, user: str = "alice", password: str = PASSWORD) -> None:
        """PAP that must be accepted."""
        self.send_pap(user, password)
        assert self.frame(PAP).code == ACK

    def answer_challenge(self, user: str, value: bytes) -> Packet:
        """Wait for the CHAP Challenge, answer with these bytes, return Success or Failure (RFC 1994 4)."""
        challenge = self.frame(CHAP, 1)
        self.send(ppp(CHAP, 2, challenge.identifier, bytes([len(value)]) + value + user.encode()))
        return self.frame(CHAP, 3, 4)

    def answer_md5(self, user: str, password: str) -> Packet:
        """Wait for the Challenge of CHAP with MD5, answer it, return Success or Failure (RFC 1994 4.1)."""
        challenge = self.frame(CHAP, 1)
        self.put_back(challenge)
        value = challenge.options[1 : 1 + challenge.options[0]]
        return self.answer_challenge(
            user, hashlib.md5(bytes((challenge.identifier,)) + password.encode() + value).digest()
        )

    def call_connected(
        self, *, hash_protocol: int = 2, nonce: bytes | None = None, certificate: bytes | None = None,
        hlak: bytes = bytes(32), flip_mac: bool = False,
    ) -> bytes:  # fmt: skip
        """The Call Connected message (MS-SSTP 2.2.11, 3.2.5.2.2), made wrong as told."""
        name, size = ("sha1", 20) if hash_protocol == 1 else ("sha256", 32)
        digest = hashlib.new(name, self.certificate if certificate is None else certificate).digest()
        proof = (self.nonce if nonce is None else nonce) + digest.ljust(32, b"\0")
        value = b"\0\0\0" + bytes([hash_protocol]) + proof
        zeroed = message(CONNECTED, attribute(3, value + bytes(32)))
        seed = b"SSTP inner method derived CMK" + struct.pack("<H", size) + b"\x01"
        key = hmac.digest(hlak, seed, name)
        mac = hmac.digest(key, zeroed, name)
        if flip_mac:
            mac = bytes([mac[0] ^ 1]) + mac[1:]
        return message(CONNECTED, attribute(3, value + mac.ljust(32, b"\0")))

    def open_ipcp(self, *servers: int) -> str:
        """IPCP to Opened on both sides (RFC 1332); returns the address that we were given.

        `servers` are the options of RFC 1877 that are asked for too; what was given for them is in `servers`.
        """
        wishes, identifier = dict.fromkeys((3, *servers), bytes(4)), 1

        def ask() -> None:
            self.send(ppp(IPCP, REQ, identifier, b"".join(bytes((kind, 6)) + wishes[kind] for kind in wishes)))

        ask()
        ours = theirs = False
        while not (ours and theirs):
            came = self.frame(IPCP, REQ, ACK, NAK)
            if came.code == REQ:
                self.send(ppp(IPCP, ACK, came.identifier, came.options))
                theirs = True
            elif came.identifier == identifier and came.code == NAK:
                wishes, identifier = wishes | options(came.options), identifier + 1
                ask()
            elif came.identifier == identifier:
                ours = True
        self.servers = {kind: socket.inet_ntoa(wishes[kind]) for kind in servers}
        self.address = socket.inet_ntoa(wishes[3])
        return self.address

    def log_in(self, user: str = "alice", password: str = PASSWORD) -> None:
        """LCP, PAP, Call Connected, IPCP: all that follows the Call Connect Ack."""
        self.open_lcp("pap")
        self.authenticate_pap(user, password)
        self.send(self.call_connected())
        self.open_ipcp()

    def until_authenticated(self, user: str = "alice", password: str = PASSWORD) -> None:
        """HTTP, Call Connect, LCP, PAP."""
        self.open_http()
        self.call_connect()
        self.open_lcp("pap")
        self.authenticate_pap(user, password)

    def open_session(self, user: str = "alice", password: str = PASSWORD) -> None:
        """A whole login by PAP, to the point where packets pass."""
        self.open_http()
        self.call_connect()
        self.log_in(user, password)

    def authenticate_mschap2(self, user: str = "alice") -> bytes:
        """MS-CHAPv2 that must be accepted, with the common password; returns the HLAK (RFC 2759, RFC 3079)."""
        challenge = self.frame(CHAP, 1)
        size = challenge.options[0]
        ours, theirs, name = os.urandom(16), challenge.options[1 : 1 + size], user.encode()
        response = nt_response(theirs, ours, user)
        value = ours + bytes(8) + response + b"\0"
        self.send(ppp(CHAP, 2, challenge.identifier, bytes([len(value)]) + value + name))
        answer = self.frame(CHAP, 3, 4)
        assert answer.code == 3, answer
        return hlak(response)

    # traffic and end

    def ping(self, target: str = GATEWAY, timeout: float = PATIENCE) -> bool:
        """Whether an ICMP echo through the tunnel is answered."""
        self._pings += 1
        request = icmp_echo(self.address, target, self._pings)
        self.send(data(IPV4, request))
        wanted = b"\0\0" + struct.pack(">HH", 0x5354, self._pings)

        def is_reply(came: Packet) -> bool:
            echo = came.information[20:]
            return came.protocol == IPV4 and echo[:2] + echo[4:8] == wanted

        try:
            self.expect(is_reply, timeout)
        except StreamEndError as end:
            if end.how != "timeout":
                raise
            return False
        return True

    def answer_abort(self, status: int) -> None:
        """Assert that Call Abort with that status comes; answer it; assert the TLS end within ABORT_2 (1 s)."""
        abort = self.control(ABORT)
        assert abort.status == status, abort
        started = time.monotonic()
        self.send(message(ABORT, attribute(2, bytes(8))))
        _, how = self.packets_until_end()
        assert how == "close-notify"
        assert time.monotonic() - started < 3  # ABORT_1, which would pass without our answer

    def answer_disconnect(self) -> bytes:
        """Assert LCP Terminate-Request, Call Disconnect with status 0 and the TLS end; returns Terminate's text."""
        terminate = self.frame(LCP, TERM_REQ)
        self.send(ppp(LCP, TERM_ACK, terminate.identifier))
        assert self.control(DISCONNECT).status == 0
        started = time.monotonic()
        self.send(message(DISCONNECT_ACK))
        _, how = self.packets_until_end()
        assert how == "close-notify"
        assert time.monotonic() - started < 4  # DISCONNECT_1 is 5 s: the Ack closes at once
        return terminate.options

    def disconnect(self) -> None:
        """End in order: LCP Terminate, Call Disconnect, TLS end."""
        self.send(ppp(LCP, TERM_REQ, 77))
        self.frame(LCP, TERM_ACK)
        self.send(message(DISCONNECT, attribute(2, bytes(8))))
        self.control(DISCONNECT_ACK)
        self.close()


@contextmanager
def tcp_peer(place: Namespace, host: str, port: int = PORT) -> Iterator[RawPeer]:
    """A peer after TCP, before TLS."""
    sock = place.dial(host, port)
    try:
        yield RawPeer(TcpStream(sock), b"", name_of(sock))
    finally:
        sock.close()


@contextmanager
def tls_peer(
    place: Namespace, host: str, port: int = PORT, *, context: ssl.SSLContext | None = None, source: str = ""
) -> Iterator[RawPeer]:
    """A peer after the TLS handshake, before HTTP; from that address if one is named."""
    sock = place.dial(host, port, source=source)
    peer = name_of(sock)
    try:
        with (context or tls_context()).wrap_socket(
            sock, server_hostname="farm.test", suppress_ragged_eofs=False
        ) as tls:
            certificate = tls.getpeercert(binary_form=True)
            yield RawPeer(TcpStream(tls), certificate or b"", peer)
    finally:
        sock.close()
