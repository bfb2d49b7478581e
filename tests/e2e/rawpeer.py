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
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from .farm import GATEWAY, NT_HASH, NT_HASH_HASH, PASSWORD, PORT
from .netns import PATIENCE, Namespace

SSTP_PATH: Final = "/sra_{BA195980-CD49-458b-9E23-C84EE0ADCD75}/"
REQUEST: Final = (
    f"SSTP_DUPLEX_POST {SSTP_PATH} HTTP/1.1\r\nHost: farm.test\r\nContent-Length: 18446744073709551615\r\n"
    "SSTPCORRELATIONID: {5BE5A7D9-6A0B-4BCE-9B6B-4B6AFAE72A67}\r\n\r\n"
).encode()

# MS-SSTP 2.2.2: message types
CONNECT_REQUEST, CONNECT_ACK, CONNECT_NAK, CONNECTED, ABORT, DISCONNECT, DISCONNECT_ACK = 1, 2, 3, 4, 5, 6, 7
ECHO_REQUEST, ECHO_RESPONSE = 8, 9
# PPP protocol numbers and codes (RFC 1661)
IPV4, IPCP, IPV6CP, LCP, PAP, CHAP, EAP = 0x0021, 0x8021, 0x8057, 0xC021, 0xC023, 0xC223, 0xC227
REQ, ACK, NAK, REJ, TERM_REQ, TERM_ACK, PROTO_REJ, LCP_ECHO_REQ, LCP_ECHO_REPLY, DISCARD_REQUEST = (
    1,
    2,
    3,
    4,
    5,
    6,
    8,
    9,
    10,
    11,
)
AUTH_OPTIONS: Final = {
    "pap": b"\x03\x04\xc0\x23",
    "chap": b"\x03\x05\xc2\x23\x05",
    "mschap1": b"\x03\x05\xc2\x23\x80",
    "mschap2": b"\x03\x05\xc2\x23\x81",
    "eap": b"\x03\x04\xc2\x27",
}


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


# -- encoding --------------------------------------------------------------------------------------------------------


def packet(control: int, body: bytes, *, version: int = 0x10, length: int | None = None) -> bytes:
    """One SSTP packet (MS-SSTP 2.2.1)."""
    return struct.pack(">BBH", version, control, 4 + len(body) if length is None else length) + body


def message(kind: int, *attributes: bytes, count: int | None = None) -> bytes:
    """One SSTP control packet (MS-SSTP 2.2.2)."""
    number = len(attributes) if count is None else count
    return packet(1, struct.pack(">HH", kind, number) + b"".join(attributes))


def attribute(identifier: int, value: bytes, *, length: int | None = None) -> bytes:
    """One attribute (MS-SSTP 2.2.4)."""
    return struct.pack(">BBH", 0, identifier, 4 + len(value) if length is None else length) + value


GOOD_REQUEST: Final = message(CONNECT_REQUEST, attribute(1, b"\x00\x01"))


def data(protocol: int, information: bytes) -> bytes:
    """One SSTP data packet with a PPP frame."""
    return packet(0, b"\xff\x03" + struct.pack(">H", protocol) + information)


def ppp(protocol: int, code: int, identifier: int, body: bytes = b"") -> bytes:
    """One SSTP data packet with a PPP control packet (RFC 1661 5)."""
    return data(protocol, struct.pack(">BBH", code, identifier, 4 + len(body)) + body)


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(padded[at : at + 2], "big") for at in range(0, len(padded), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(source: str, target: str, protocol: int, payload: bytes) -> bytes:
    """One IPv4 packet (RFC 791)."""
    head = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0,
        socket.inet_aton(source), socket.inet_aton(target),
    )  # fmt: skip
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def icmp_echo(source: str, target: str, number: int) -> bytes:
    """An ICMP echo request in IPv4 (RFC 792)."""
    body = struct.pack(">HH", 0x5354, number) + b"sstpfarm"
    echo = struct.pack(">BBH", 8, 0, checksum(b"\x08\0\0\0" + body)) + body
    return ipv4(source, target, 1, echo)


def udp(source: str, target: str, port: int, payload: bytes) -> bytes:
    """A UDP datagram in IPv4, without checksum (RFC 768)."""
    return ipv4(source, target, 17, struct.pack(">HHHH", port, port, 8 + len(payload), 0) + payload)


def des(block: bytes, key: bytes) -> bytes:
    """DES of one block with a 7-byte key (RFC 2759 8.6), as 3DES with three equal keys."""
    bits = int.from_bytes(key, "big")
    spread = bytes((bits >> (49 - 7 * at) & 0x7F) << 1 for at in range(8))
    return Cipher(TripleDES(spread * 3), modes.ECB()).encryptor().update(block)


@dataclass(frozen=True)
class Packet:
    """One SSTP packet that came: `kind` is the message type of a control packet, 0 for data."""

    kind: int
    body: bytes

    @property
    def status(self) -> int:
        """The status of the first Status Info attribute (MS-SSTP 2.2.7); -1 when there is none."""
        attributes = self.body[4:]
        if len(attributes) >= 12 and attributes[1] == 2:
            return int.from_bytes(attributes[8:12], "big")
        return -1

    @property
    def complaint(self) -> tuple[int, int, bytes]:
        """(attribute complained about, status, value) of the first Status Info."""
        attributes = self.body[4:]
        length = int.from_bytes(attributes[2:4], "big") & 0x0FFF
        return attributes[7], self.status, attributes[12:length]

    @property
    def protocol(self) -> int:
        """PPP protocol of a data packet."""
        return int.from_bytes(self.body[2:4], "big") if self.kind == 0 else -1

    @property
    def information(self) -> bytes:
        """PPP information field of a data packet."""
        return self.body[4:]

    @property
    def code(self) -> int:
        """Code of a PPP control packet."""
        return self.body[4]

    @property
    def identifier(self) -> int:
        """Identifier of a PPP control packet."""
        return self.body[5]

    @property
    def options(self) -> bytes:
        """What follows code, identifier and length in a PPP control packet."""
        return self.body[8 : 4 + int.from_bytes(self.body[6:8], "big")]


def options(data: bytes) -> dict[int, bytes]:
    """PPP configuration options by type (RFC 1661 6)."""
    found = {}
    while len(data) >= 2 and 2 <= data[1] <= len(data):
        found[data[0]] = data[2 : data[1]]
        data = data[data[1] :]
    return found


# -- the peer --------------------------------------------------------------------------------------------------------


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

    def until_authenticated(self, user: str = "alice", password: str = PASSWORD) -> None:
        """HTTP, Call Connect, LCP, PAP."""
        self.open_http()
        self.call_connect()
        self.open_lcp("pap")
        self.authenticate_pap(user, password)

    def open_session(self, user: str = "alice", password: str = PASSWORD) -> None:
        """A whole login by PAP, to the point where packets pass."""
        self.until_authenticated(user, password)
        self.send(self.call_connected())
        self.open_ipcp()

    def authenticate_mschap2(self, user: str = "alice") -> bytes:
        """MS-CHAPv2 that must be accepted, with the common password; returns the HLAK (RFC 2759, RFC 3079)."""
        challenge = self.frame(CHAP, 1)
        size = challenge.options[0]
        ours, theirs, name = os.urandom(16), challenge.options[1 : 1 + size], user.encode()
        short = hashlib.sha1(ours + theirs + name).digest()[:8]
        response = b"".join(des(short, NT_HASH.ljust(21, b"\0")[at : at + 7]) for at in (0, 7, 14))
        value = ours + bytes(8) + response + b"\0"
        self.send(ppp(CHAP, 2, challenge.identifier, bytes([len(value)]) + value + name))
        answer = self.frame(CHAP, 3, 4)
        assert answer.code == 3, answer
        master = hashlib.sha1(NT_HASH_HASH + response + b"This is the MPPE Master Key").digest()[:16]
        keys = []
        for first, second in (("send", "receive"), ("receive", "send")):
            magic = f"On the client side, this is the {first} key; on the server side, it is the {second} key."
            keys.append(hashlib.sha1(master + bytes(40) + magic.encode() + b"\xf2" * 40).digest()[:16])
        return b"".join(keys)

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
    place: Namespace, host: str, port: int = PORT, *, context: ssl.SSLContext | None = None
) -> Iterator[RawPeer]:
    """A peer after the TLS handshake, before HTTP."""
    sock = place.dial(host, port)
    peer = name_of(sock)
    try:
        with (context or tls_context()).wrap_socket(
            sock, server_hostname="farm.test", suppress_ragged_eofs=False
        ) as tls:
            certificate = tls.getpeercert(binary_form=True)
            yield RawPeer(TcpStream(tls), certificate or b"", peer)
    finally:
        sock.close()
