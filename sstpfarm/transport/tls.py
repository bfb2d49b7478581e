"""TLS over memory buffers: the contexts of both roles, and the pump of one connection.

The receive buffer and the plaintext buffers are shared by all connections of a process, because only one of them
works at a time; a connection keeps nothing but OpenSSL's state and what the socket did not take yet (ADR 0004).
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sstpfarm.errors import ConfigError, PeerError
from sstpfarm.proto.sstp.binding import CertificateHash
from sstpfarm.reasons import Reason

RECORD: Final = 16_384  # largest TLS plaintext record, RFC 8446 5.1
SLICE: Final = 16_384  # a BIO keeps the size that it once grew to, so it is fed in slices
CIPHERS_TLS12: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"  # AEAD with forward secrecy; TLS 1.3 has nothing else
HANDSHAKE_RECORD: Final = 0x16  # first byte of a TLS handshake record, RFC 8446 5.1


class SharedBuffers:
    """The buffers that the connections of one process take turns to use."""

    def __init__(self) -> None:
        self.received = memoryview(bytearray(128 * 1024))
        self.plain = memoryview(bytearray(128 * 1024 + RECORD))  # plaintext is shorter than its records
        self.outbound = memoryview(bytearray(64 * 1024))


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """A TLS server context with the hashes of the certificate that it presents."""

    context: ssl.SSLContext
    certificates: tuple[CertificateHash, ...]


def server_identity(chain_path: str, key_path: str, chain_pem: str) -> ServerIdentity:
    """Make the server's context: TLS 1.2 and 1.3, AEAD, no renegotiation, compression or tickets.

    Args:
        chain_path, key_path: where OpenSSL reads the pair; ``/proc/self/fd/N`` of a memory file will do.
        chain_pem: the text of the chain, leaf first.

    Raises:
        ConfigError: the pair cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS_TLS12)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0
    try:
        context.load_cert_chain(chain_path, key_path)
        der = first_certificate(chain_pem)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise ConfigError(f"server.certificate: chain and key cannot be used: {error}") from None
    return ServerIdentity(context, (CertificateHash.of(der),))


def first_certificate(pem: str) -> bytes:
    """Return the DER form of the first certificate of a PEM text; ValueError when there is none."""
    start = pem.index(ssl.PEM_HEADER)
    end = pem.index(ssl.PEM_FOOTER, start) + len(ssl.PEM_FOOTER)
    return ssl.PEM_cert_to_DER_cert(pem[start:end])


def client_context(*, ca_pem: str | None, verify: bool) -> ssl.SSLContext:
    """Make the client's context; name and chain are checked against `ca_pem`, or the system's store, when `verify`.

    Raises:
        ConfigError: `ca_pem` holds no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca_pem is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        try:
            context.load_verify_locations(cadata=ca_pem)
        except (ssl.SSLError, ValueError) as error:
            raise ConfigError(f"the CA file holds no usable certificate: {error}") from None
    return context


class TlsPump:
    """The TLS state of one connection; the caller moves the bytes to and from the socket."""

    __slots__ = ("_buffers", "_first", "_incoming", "_object", "_outgoing", "handshaken", "peer_closed")

    def __init__(
        self, context: ssl.SSLContext, buffers: SharedBuffers, *, server_side: bool, server_name: str | None = None
    ) -> None:
        self._buffers = buffers
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side, server_name)
        self._first = True
        self.handshaken = False
        self.peer_closed = False  # close_notify was received

    def start(self) -> None:
        """Client: make the ClientHello."""
        self._handshake()

    def receive(self, data: memoryview) -> memoryview:
        """Take ciphertext; return plaintext in the shared buffer, valid until the next call of any pump.

        Args:
            data: at most the size of the shared receive buffer.

        Raises:
            PeerError: TLS_NOT_TLS, TLS_FAILED or CERTIFICATE_UNTRUSTED; what `to_send` then gives is the alert.
        """
        plain, filled = self._buffers.plain, 0
        if self._first and data[0] != HANDSHAKE_RECORD:
            raise PeerError("first byte is not of a TLS record", reason=Reason.TLS_NOT_TLS)
        self._first = False
        for start in range(0, len(data), SLICE):
            self._incoming.write(data[start : start + SLICE])
            if not self.handshaken:
                self._handshake()
                if not self.handshaken:
                    continue
            try:
                while not self.peer_closed:
                    count = self._object.read(RECORD, plain[filled : filled + RECORD])
                    filled += int(count)
                    if not count:
                        self.peer_closed = True
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLZeroReturnError:
                self.peer_closed = True
            except ssl.SSLError as error:
                raise PeerError(_text(error), reason=Reason.TLS_FAILED) from None
        return plain[:filled]

    def _handshake(self) -> None:
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLCertVerificationError as error:
            raise PeerError(error.verify_message, reason=Reason.CERTIFICATE_UNTRUSTED) from None
        except ssl.SSLError as error:
            raise PeerError(_text(error), reason=Reason.TLS_FAILED) from None
        self.handshaken = True

    def send(self, *parts: bytes | memoryview) -> None:
        """Encrypt plaintext, in records of at most 16 KiB."""
        for part in parts:
            view = memoryview(part)
            for start in range(0, len(view), RECORD):
                self._object.write(view[start : start + RECORD])

    def close(self) -> None:
        """Make the close_notify alert; `to_send` then gives it."""
        try:
            self._object.unwrap()
        except (ssl.SSLError, ValueError):
            return  # the peer's own close_notify is not there yet, or the handshake was never finished

    def to_send(self) -> bytes:
        """Return the ciphertext that waits for the socket."""
        return self._outgoing.read() if self._outgoing.pending else b""

    @property
    def cipher(self) -> str:
        """The name of the negotiated cipher suite."""
        cipher: Sequence[object] | None = self._object.cipher()
        return str(cipher[0]) if cipher else ""

    @property
    def version(self) -> str:
        """The negotiated version, such as TLSv1.3."""
        return self._object.version() or ""

    @property
    def peer_certificate(self) -> bytes:
        """The peer's leaf certificate (DER), empty when it presented none."""
        return self._object.getpeercert(binary_form=True) or b""


def _text(error: ssl.SSLError) -> str:
    return (error.reason or "TLS error").lower().replace("_", " ")
