"""TLS over memory buffers: the pump of one connection.

All buffers, OpenSSL's memory BIOs among them, are shared by the connections of a process, because only one of them
works at a time and none leaves anything behind; a connection keeps nothing but OpenSSL's state and what the socket did
not take yet (ADR 0004).
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

from sstpfarm.errors import PeerError
from sstpfarm.reasons import Reason
from sstpfarm.transport.client_hello import EXCESSIVE, HANDSHAKE_RECORD, ClientHelloWatch

RECORD: Final = 16_384  # largest TLS plaintext record, RFC 8446 5.1
# Both bound the work of one event; half of either costs a tenth more processor time in a bulk transfer.
RECEIVE: Final = 256 * 1024  # bytes taken from a socket at once
OUTBOUND: Final = 144 * 1024  # bytes of SSTP packets encrypted and sent at once: two super-packets of 64 KiB
ALERT_RECORD: Final = 0x15  # RFC 8446 5.1; what a server answers that refuses a ClientHello

# What a peer may send that yields no plaintext: KeyUpdates, tickets, empty records, attempts at renegotiation, headers
# of records that hold next to nothing. OpenSSL works on as many as there are: 9 us for each KeyUpdate of 27 bytes. An
# honest peer sends a few in its life (RFC 8446 5.5: a KeyUpdate behind 2^24.5 full records).
HANDSHAKE: Final = 192 * 1024  # bytes of a whole handshake; OpenSSL takes a certificate chain of 100 KiB at most
IDLE: Final = 2 * RECORD  # bytes at once; a record that is not whole yet counts too, until it is
IDLE_RATE: Final = 1024  # bytes a second from then on
# bytes that a record adds to its plaintext: with AEAD header, type and tag (RFC 8446 5.2); in TLS 1.2 at most header,
# initialization vector, the MAC of SHA-384 and a block of padding (RFC 5246 6.2.3.2)
OVERHEAD_TLS13: Final = 22
OVERHEAD_TLS12: Final = 85
OVERHEAD_RATIO: Final = 2  # of overhead to plaintext: the smallest IP packets need less with any suite
# Bytes that OpenSSL gets before the look at what they yielded: each time twice as many, so that bulk costs nothing.
FIRST_PORTION: Final = 16 * 1024
PORTION: Final = 128 * 1024

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

    __slots__ = (
        "_allowed", "_buffers", "_first", "_hello", "_object", "_overhead", "_portion", "_ready", "_refilled",
        "handshaken", "peer_closed", "waiting",
    )  # fmt: skip

    def __init__(
        self, context: ssl.SSLContext, buffers: SharedBuffers, *, server_side: bool, server_name: str | None = None
    ) -> None:
        self._buffers = buffers
        self._object = context.wrap_bio(buffers.incoming, buffers.outgoing, server_side, server_name)
        self._first = True
        self._hello = ClientHelloWatch() if server_side else None
        self._ready: list[bytes] = []
        self._allowed = HANDSHAKE  # bytes that need not yield plaintext
        self._refilled = 0.0  # when time last added to them
        self._overhead = 0  # of a record; during the handshake none is data
        self._portion = FIRST_PORTION
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
            PeerError: TLS_NOT_TLS, TLS_FAILED, CERTIFICATE_UNTRUSTED or CONTROL_FLOOD; what `to_send` then gives is
                the alert.
        """
        if not self.handshaken:
            self._look(data)
        return self._advance(data) if len(data) <= self._portion else self._in_portions(data)

    def _look(self, data: memoryview) -> None:
        """Look at what comes before the end of the handshake; PeerError when OpenSSL is not to see it."""
        if self._hello is not None:
            try:
                self._hello.look(data)
            except PeerError as error:
                if error.reason is Reason.TLS_FAILED:
                    self._say(EXCESSIVE)
                raise
        elif self._first and data[0] not in (HANDSHAKE_RECORD, ALERT_RECORD):
            raise PeerError("first byte is not of a TLS record", reason=Reason.TLS_NOT_TLS)
        self._first = False

    def _in_portions(self, data: memoryview) -> memoryview:
        filled = 0
        while len(data) > self._portion:
            filled = len(self._advance(data[: self._portion], filled))
            data = data[self._portion :]
            if self._portion < PORTION:
                self._portion *= 2
        return self._advance(data, filled)

    def _advance(self, data: memoryview, start: int = 0) -> memoryview:
        """Take ciphertext; return what is in the shared buffer, with plaintext behind the first `start` bytes."""
        plain, filled, incoming, records = self._buffers.plain, start, self._buffers.incoming, 0
        incoming.write(data)
        try:
            if not self.handshaken:
                self._object.do_handshake()
                self.handshaken = True
            read: Callable[[int, memoryview], int] = self._object.read  # type: ignore[assignment] # given a buffer, so
            # A call gives one record at most, and all of it: when OpenSSL has taken everything, there is no more to be
            # had. To ask for it all the same costs an exception.
            while incoming.pending:
                count = read(RECORD, plain[filled:] if filled else plain)
                if not count:
                    self.peer_closed = True
                    break
                filled += count
                records += 1
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
        added = len(data) + start - filled
        if added != records * self._overhead or added > OVERHEAD_RATIO * (filled - start):
            self._account(added, filled - start, records)
        return plain[:filled]

    def _account(self, added: int, gained: int, records: int) -> None:
        """Charge for the bytes that were `added` to those `gained`, apart from what so many records of data may add.

        As long as all is well nobody looks at the clock.
        """
        if not self._overhead:
            self._account_handshake(added)
            return
        self._allowed -= added - min(records * self._overhead, OVERHEAD_RATIO * gained)
        if self._allowed < 0:
            now = monotonic()
            self._allowed += min(int((now - self._refilled) * IDLE_RATE), IDLE)
            self._refilled = now
            if self._allowed < 0:
                raise PeerError("TLS records without data", reason=Reason.CONTROL_FLOOD)
        elif self._allowed > IDLE:
            self._allowed = IDLE

    def _account_handshake(self, size: int) -> None:
        self._allowed -= size
        if self._allowed < 0:
            raise PeerError("the handshake is too long", reason=Reason.TLS_FAILED)
        if self.handshaken:
            self._overhead = OVERHEAD_TLS13 if self.version == "TLSv1.3" else OVERHEAD_TLS12
            self._allowed, self._refilled = IDLE, monotonic()
            self._hello = None

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
            self._say(buffers.outgoing.read())
        if buffers.incoming.pending:
            buffers.incoming.read()

    def _say(self, data: bytes) -> None:
        self._ready.append(data)
        self.waiting += len(data)

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
