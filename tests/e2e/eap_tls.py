"""EAP-TLS (RFC 5216, 9190) and PEAPv0 with EAP-MSCHAPv2 as a raw peer speaks them; it shares no code with the product.

TLS is that of Python: its key log gives the master secret (in version 1.3 that of the exporter), and from that come the
keys that Python itself cannot export.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import ssl
import struct
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from .frames import EAP, Packet, ppp
from .mschap2 import des
from .rawpeer import RawPeer

REQUEST, RESPONSE, SUCCESS, FAILURE = 1, 2, 3, 4  # RFC 3748 4
IDENTITY, EAP_TLS, PEAP, MSCHAPV2, EXTENSIONS = 1, 13, 25, 26, 33
LENGTH_INCLUDED, MORE, START = 0x80, 0x40, 0x20  # RFC 5216 3.1
CHALLENGE, ANSWER, GOOD, BAD = 1, 2, 3, 4  # draft-kamath-pppext-eap-mschapv2 2
CIPHER: Final = "ECDHE-RSA-AES128-GCM-SHA256"  # its PRF is that of SHA-256
RESULT: Final = b"\x80\x03\x00\x02\x00"  # Result TLV, draft-kamath-pppext-peapv0; the status follows
NT_HASHES: Final = {  # openssl dgst -md4 over UTF-16LE
    "radius pass": bytes.fromhex("c4f3f80f1e0a0c1ec98c623b08360f76"),
    "wrong": bytes.fromhex("76452cc75e42bc5045bf93ca507a70d1"),
}


@dataclass
class Outcome:
    """How a login went.

    Attributes:
        last: EAP Success or Failure.
        hlak: 32 bytes, made by the keys of TLS.
        requests: lengths of the server's EAP Requests, in their order.
        said: what the inner method said about the end: the text of MSCHAPv2's Success or Failure.
    """

    last: Packet
    hlak: bytes = b""
    requests: list[int] = field(default_factory=list)
    said: bytes = b""


def client_tls(
    authority: Path,
    certificate: tuple[Path, Path] | None = None,
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
) -> ssl.SSLContext:
    """TLS of a peer that trusts that authority, with its own certificate for EAP-TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = version
    context.set_ciphers(CIPHER)  # of 1.2 only
    context.load_verify_locations(authority)
    if certificate is not None:
        context.load_cert_chain(*certificate)
    return context


def prf(secret: bytes, label: bytes, seed: bytes, size: int) -> bytes:
    """The PRF of TLS 1.2 with SHA-256 (RFC 5246 5)."""
    found, block = b"", label + seed
    while len(found) < size:
        block = hmac.digest(secret, block, "sha256")
        found += hmac.digest(secret, block + label + seed, "sha256")
    return found[:size]


def expand_label(secret: bytes, label: str, context: bytes, size: int, name: str) -> bytes:
    """HKDF-Expand-Label of TLS 1.3 (RFC 8446 7.1, RFC 5869 2.3)."""
    full = b"tls13 " + label.encode()
    info = struct.pack(">HB", size, len(full)) + full + bytes([len(context)]) + context
    found, block = b"", b""
    for number in range(1, 2 + size // hashlib.new(name).digest_size):
        block = hmac.digest(secret, block + info + bytes([number]), name)
        found += block
    return found[:size]


class Conversation:
    """One EAP login of a raw peer by a method that is TLS in fragments.

    Args:
        kind: EAP_TLS or PEAP.
        server: the name that the server's certificate must have.
        fragment: bytes of TLS in one Response at most.
    """

    def __init__(
        self, peer: RawPeer, kind: int, identity: str, context: ssl.SSLContext, server: str, fragment: int
    ) -> None:
        self.peer = peer
        self.kind = kind
        self.identity = identity.encode()
        self.fragment = fragment
        self.requests: list[int] = []
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._directory = tempfile.TemporaryDirectory(prefix="sstpfarm-eap-")
        self._key_log = Path(self._directory.name, "keys")
        context.keylog_filename = str(self._key_log)
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server)
        self._first_flight = b""

    def close(self) -> None:
        """Remove the key log."""
        self._directory.cleanup()

    def respond(self, request: Packet, data: bytes) -> None:
        """Send a Response to that Request."""
        self.peer.send(ppp(EAP, RESPONSE, request.identifier, data))

    def next_request(self) -> Packet:
        """The next packet of EAP; the identity is told, and another method than ours is asked for ours."""
        while True:
            came = self.peer.frame(EAP)
            if came.code != REQUEST:
                return came
            self.requests.append(4 + len(came.options))
            if came.options[0] == IDENTITY:
                self.respond(came, bytes([IDENTITY]) + self.identity)
            elif came.options[0] != self.kind:
                self.respond(came, bytes([3, self.kind]))  # Nak, RFC 3748 5.3.1
            else:
                return came

    def receive(self) -> Packet:
        """One whole message of the server: its last fragment, or the packet that ended the login."""
        whole, announced = b"", 0
        while True:
            came = self.next_request()
            if came.code != REQUEST:
                return came
            flags, data = came.options[1], came.options[2:]
            if flags & LENGTH_INCLUDED:
                announced, data = int.from_bytes(data[:4], "big"), data[4:]
            whole += data
            if not flags & MORE:
                assert announced in (0, len(whole)), (announced, len(whole))
                self._first_flight = self._first_flight or whole
                self._incoming.write(whole)
                return came
            self.respond(came, bytes([self.kind, 0]))  # the acknowledgement of a fragment is empty

    def send(self, request: Packet) -> Packet:
        """Send what TLS wrote, in fragments, or an acknowledgement when it wrote nothing; the last Request."""
        data = self._outgoing.read()
        flags, head = (LENGTH_INCLUDED, struct.pack(">I", len(data))) if len(data) > self.fragment else (0, b"")
        while len(data) > self.fragment:
            piece, data = data[: self.fragment], data[self.fragment :]
            self.respond(request, bytes([self.kind, flags | MORE]) + head + piece)
            request = self.next_request()
            assert request.options[1:] == b"\0", request  # acknowledged
            flags, head = 0, b""
        self.respond(request, bytes([self.kind, flags]) + head + data)
        return request

    def handshake(self) -> Packet:
        """The handshake of TLS; the packet that came after our last flight."""
        start = self.receive()
        assert start.options[1] & START, start
        request = start
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.send(request)
                request = self.receive()
                if request.code != REQUEST:
                    return request
            else:
                return request

    def outcome(self, last: Packet, said: bytes = b"") -> Outcome:
        """How it went; without Success there are no keys."""
        return Outcome(last, self.hlak() if last.code == SUCCESS else b"", self.requests, said)

    def hlak(self) -> bytes:
        """The first half of the MSK (RFC 5216 2.3, RFC 9190 2.3, PROTOCOL 5.1)."""
        secrets = {line.split()[0]: line.split()[1:] for line in self._key_log.read_text().splitlines()}
        if self.tls.version() == "TLSv1.3":
            cipher = self.tls.cipher()
            assert cipher is not None
            name = cipher[0].rpartition("_")[2].lower()
            secret = bytes.fromhex(secrets["EXPORTER_SECRET"][1])
            empty, kind = hashlib.new(name).digest(), hashlib.new(name, bytes([self.kind])).digest()
            size = hashlib.new(name).digest_size
            derived = expand_label(secret, "EXPORTER_EAP_TLS_Key_Material", empty, size, name)
            return expand_label(derived, "exporter", kind, 128, name)[:32]
        client_random, master_secret = secrets["CLIENT_RANDOM"]
        server_random = self._first_flight[11:43]  # record header 5, handshake header 4, version 2 (RFC 5246 7.4.1.3)
        seed = bytes.fromhex(client_random) + server_random
        return prf(bytes.fromhex(master_secret), b"client EAP encryption", seed, 64)[:32]


def eap_tls(
    peer: RawPeer, identity: str, context: ssl.SSLContext, *, server: str = "radius.test", fragment: int = 1300
) -> Outcome:
    """A login by EAP-TLS (RFC 5216, RFC 9190)."""
    talk = Conversation(peer, EAP_TLS, identity, context, server, fragment)
    try:
        last = talk.handshake()
        while last.code == REQUEST:
            talk.send(last)  # with 1.2 the server's Finished is acknowledged, with 1.3 ours goes out
            last = talk.receive()
        if last.code == SUCCESS and talk.tls.version() == "TLSv1.3":
            assert talk.tls.read(1) == b"\0"  # the server's word that it is content, RFC 9190 2.1.1
        return talk.outcome(last)
    finally:
        talk.close()


def peap(
    peer: RawPeer, user: str, password: str, context: ssl.SSLContext, *,
    identity: str = "anonymous", server: str = "radius.test", fragment: int = 1300,
) -> Outcome:  # fmt: skip
    """A login by PEAPv0 with EAP-MSCHAPv2 inside; the password is one of NT_HASHES."""
    talk = Conversation(peer, PEAP, identity, context, server, fragment)
    said = b""

    def answer(inner: bytes) -> bytes:
        nonlocal said
        if inner[:1] == bytes([REQUEST]) and len(inner) > 4 and int.from_bytes(inner[2:4], "big") == len(inner):
            kind = inner[4]  # with the header of EAP: identity and extensions; a method's packet comes without
            if kind == IDENTITY:
                return bytes([IDENTITY]) + user.encode()
            assert kind == EXTENSIONS, inner
            assert inner[5:10] == RESULT, inner
            return bytes([RESPONSE, inner[1]]) + inner[2:]  # the server's result is ours too
        assert inner[0] == MSCHAPV2, inner
        operation, number = inner[1], inner[2]
        if operation == CHALLENGE:
            challenge = inner[6:22]
            return mschapv2_answer(number, challenge, user, NT_HASHES[password])
        assert operation in (GOOD, BAD), inner
        said = inner[5:]
        return bytes([MSCHAPV2, operation])

    try:
        request = talk.handshake()
        if request.code == REQUEST:
            talk.send(request)
            request = talk.receive()
        while request.code == REQUEST:
            talk.tls.write(answer(talk.tls.read(4096)))
            talk.send(request)
            request = talk.receive()
        return talk.outcome(request, said)
    finally:
        talk.close()


def stall(peer: RawPeer, kind: int, identity: str, context: ssl.SSLContext, *, server: str = "radius.test") -> None:
    """A login that stops in the handshake: the server's certificate has come, and nothing is answered."""
    talk = Conversation(peer, kind, identity, context, server, fragment=1300)
    try:
        start = talk.receive()
        try:
            talk.tls.do_handshake()
        except ssl.SSLWantReadError:
            talk.send(start)
        assert talk.receive().code == REQUEST
    finally:
        talk.close()


def mschapv2_answer(number: int, challenge: bytes, user: str, nt_hash: bytes) -> bytes:
    """The Response of EAP-MSCHAPv2 without EAP's header (RFC 2759 4)."""
    ours = os.urandom(16)
    short = hashlib.sha1(ours + challenge + user.encode()).digest()[:8]
    response = b"".join(des(short, nt_hash.ljust(21, b"\0")[at : at + 7]) for at in (0, 7, 14))
    value = ours + bytes(8) + response + b"\0"
    size = 4 + 1 + len(value) + len(user)
    return bytes([MSCHAPV2, ANSWER, number]) + struct.pack(">HB", size, len(value)) + value + user.encode()
