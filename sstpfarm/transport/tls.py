"""TLS over memory buffers: the pump of one connection.

All buffers, OpenSSL's memory BIOs among them, are shared by the connections of a process, because only one of them
works at a time and none leaves anything behind; a connection keeps nothing but OpenSSL's state and what the socket did
not take yet (ADR 0004).
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Final

from sstpfarm.errors import PeerError
from sstpfarm.reasons import Reason

RECORD: Final = 16_384  # largest TLS plaintext record, RFC 8446 5.1
# Both bound the work of one event; half of either costs a tenth more processor time in a bulk transfer.
RECEIVE: Final = 256 * 1024  # bytes taken from a socket at once
OUTBOUND: Final = 144 * 1024  # bytes of SSTP packets encrypted and sent at once: two super-packets of 64 KiB
# first byte of a TLS record, RFC 8446 5.1; a server that refuses a ClientHello answers with an alert
HANDSHAKE_RECORD: Final = 0x16
ALERT_RECORD: Final = 0x15
ADVICE: Final = {
    9: "look at this machine's clock",
    10: "the server needs a new one; or this machine's clock is wrong",
    18: "trust it by its file (ca) or its SHA-256 (pin)",
    19: "trust its authority by the file of that (ca)",
    20: "trust its authority by the file of that (ca); or the server does not send the certificates between",
    21: "trust its authority by the file of that (ca); or the server does not send the certificates between",
    26: "it is not meant for servers",
    62: "dial one of its names, or set server-name to one",
    64: "dial one of its names, or set server-name to one",
}
"""What the owner of a client can do, by OpenSSL's X509_V_ERR number (openssl/x509_vfy.h)."""

# OpenSSL's words: at the server, and for the alerts that tell a client what the server thinks of its certificate.
NO_CLIENT_CERTIFICATE: Final = frozenset({"PEER_DID_NOT_RETURN_A_CERTIFICATE"})
CLIENT_CERTIFICATE_REFUSED: Final = frozenset(
    {
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "TLSV1_ALERT_UNKNOWN_CA",
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_REVOKED",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
    }
)


class SharedBuffers:
    """The buffers that the connections of one process take turns to use.

    One pair of BIOs serves all: OpenSSL takes every byte of `incoming` before it asks for more (a part of a record
    moves into its own buffer), and every call's output is fetched from `outgoing` at once. A BIO keeps the size that
    it once grew to, and that is now paid once.
    """

    def __init__(self) -> None:
        self.received = memoryview(bytearray(RECEIVE))
        # Plaintext is shorter than its records; OpenSSL may hold most of one from before. The last read needs room too.
        self.plain = memoryview(bytearray(RECEIVE + 2 * RECORD))
        self.outbound = memoryview(bytearray(OUTBOUND))
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()


class TlsPump:
    """The TLS state of one connection; the caller moves the bytes to and from the socket."""

    __slots__ = ("_buffers", "_first", "_object", "_ready", "handshaken", "peer_closed", "waiting")

    def __init__(
        self, context: ssl.SSLContext, buffers: SharedBuffers, *, server_side: bool, server_name: str | None = None
    ) -> None:
        self._buffers = buffers
        self._object = context.wrap_bio(buffers.incoming, buffers.outgoing, server_side, server_name)
        self._first = True
        self._ready: list[bytes] = []
        self.handshaken = False
        self.peer_closed = False  # close_notify was received
        self.waiting = 0  # bytes that `to_send` would give

    def start(self) -> None:
        """Client: make the ClientHello."""
        self._advance(memoryview(b""))

    def receive(self, data: memoryview) -> memoryview:
        """Take ciphertext; return plaintext in the shared buffer, valid until the next call of any pump.

        Args:
            data: at most the size of the shared receive buffer.

        Raises:
            PeerError: TLS_NOT_TLS, TLS_FAILED or CERTIFICATE_UNTRUSTED; what `to_send` then gives is the alert.
        """
        if self._first:
            if data[0] != HANDSHAKE_RECORD and (self._object.server_side or data[0] != ALERT_RECORD):
                raise PeerError("first byte is not of a TLS record", reason=Reason.TLS_NOT_TLS)
            self._first = False
        return self._advance(data)

    def _advance(self, data: memoryview) -> memoryview:
        plain, filled, incoming = self._buffers.plain, 0, self._buffers.incoming
        incoming.write(data)
        try:
            if not self.handshaken:
                self._object.do_handshake()
                self.handshaken = True
            read = self._object.read
            # A call gives one record at most, and all of it: when OpenSSL has taken everything, there is no more to be
            # had. To ask for it all the same costs an exception.
            while incoming.pending:
                count = read(RECORD, plain[filled:] if filled else plain)
                if not count:
                    self.peer_closed = True
                    break
                filled += int(count)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.peer_closed = True
        except ssl.SSLCertVerificationError as error:
            reason = Reason.CERTIFICATE_MISSING if self._object.server_side else Reason.CERTIFICATE_UNTRUSTED
            advice = ADVICE.get(error.verify_code) if reason is Reason.CERTIFICATE_UNTRUSTED else None
            text = error.verify_message.rstrip(".") + (f": {advice}" if advice else "")
            raise PeerError(text, reason=reason) from None
        except ssl.SSLError as error:
            told = NO_CLIENT_CERTIFICATE if self._object.server_side else CLIENT_CERTIFICATE_REFUSED
            reason = Reason.CERTIFICATE_MISSING if error.reason in told else Reason.TLS_FAILED
            raise PeerError(_text(error), reason=reason) from None
        finally:
            self._leave()
        return plain[:filled]

    def send(self, data: bytes | memoryview) -> None:
        """Encrypt plaintext; OpenSSL makes records of at most 16 KiB of it."""
        write, done = self._object.write, 0
        try:
            while done < len(data):
                done += write(memoryview(data)[done:] if done else data)
        finally:
            self._leave()

    def close(self) -> None:
        """Make the close_notify alert; `to_send` then gives it."""
        try:
            self._object.unwrap()
        except (ssl.SSLError, ValueError):
            return  # the peer's own close_notify is not there yet, or the handshake was never finished
        finally:
            self._leave()

    def _leave(self) -> None:
        """Take our output; leave nothing in the shared BIOs (after an error, or behind a close_notify)."""
        buffers = self._buffers
        if buffers.outgoing.pending:
            data = buffers.outgoing.read()
            self._ready.append(data)
            self.waiting += len(data)
        if buffers.incoming.pending:
            buffers.incoming.read()

    def to_send(self) -> bytes:
        """Return and forget the ciphertext for the socket."""
        ready = self._ready
        if not ready:
            return b""
        data = ready[0] if len(ready) == 1 else b"".join(ready)
        ready.clear()
        self.waiting = 0
        return data

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
