"""A look at a client's handshake before OpenSSL gets it.

OpenSSL makes room for a ClientHello as soon as its header is there, for as much as it announces: 128 KiB for nine
bytes. Behind a HelloRetryRequest a client can do it a second time (RFC 8446 4.1.2), so all plain records are looked at
until the handshake is over.
"""

from __future__ import annotations

from typing import Final

from sstpfarm.errors import PeerError
from sstpfarm.reasons import Reason

LARGEST_HELLO: Final = 16 * 1024  # bytes; one with shares of post-quantum keys has less than 4 KiB
RECORD_HEADER: Final = 5  # type, version, length, RFC 8446 5.1
HANDSHAKE_RECORD: Final = 0x16
MAJOR_VERSION: Final = 3  # of every version since SSL 3.0
MESSAGE_HEADER: Final = 4  # type, length, RFC 8446 4
CLIENT_HELLO: Final = 1
EXCESSIVE: Final = bytes.fromhex("15 0303 0002 02 2f")
"""The record of a fatal alert, illegal_parameter (RFC 8446 6): what OpenSSL answers to a message that is too large."""


class ClientHelloWatch:
    """Follows the records and the messages in them through any chunking; it keeps nothing but headers."""

    __slots__ = ("_begun", "_header", "_message", "_message_left", "_over", "_record_left")

    def __init__(self) -> None:
        self._header = b""  # of the record, as far as it is there
        self._record_left = 0  # bytes
        self._message = b""  # header of the handshake message, as far as it is there
        self._message_left = 0  # bytes
        self._begun = False  # the first record's header was right
        self._over = False  # no ClientHello can follow

    def look(self, data: memoryview) -> None:
        """Look at the bytes that come next.

        Raises:
            PeerError: TLS_NOT_TLS, or TLS_FAILED for a ClientHello that is too large; the answer is EXCESSIVE then.
        """
        while data and not self._over:
            if self._record_left:
                size = min(self._record_left, len(data))
                if self._header[0] == HANDSHAKE_RECORD:
                    self._look_at_messages(data[:size])
                self._record_left -= size
            else:
                if len(self._header) == RECORD_HEADER:
                    self._header = b""
                size = min(RECORD_HEADER - len(self._header), len(data))
                self._header += data[:size]
                self._look_at_header()
            data = data[size:]

    def _look_at_header(self) -> None:
        header = self._header
        if not self._begun and (header[0] != HANDSHAKE_RECORD or header[1:2] not in (b"", bytes((MAJOR_VERSION,)))):
            raise PeerError("the first bytes are not of a TLS record", reason=Reason.TLS_NOT_TLS)
        if len(header) == RECORD_HEADER:
            self._begun = True
            self._record_left = int.from_bytes(header[3:])

    def _look_at_messages(self, data: memoryview) -> None:
        while data and not self._over:
            if self._message_left:
                size = min(self._message_left, len(data))
                self._message_left -= size
            else:
                size = min(MESSAGE_HEADER - len(self._message), len(data))
                self._message += data[:size]
                if len(self._message) == MESSAGE_HEADER:
                    self._look_at_message()
            data = data[size:]

    def _look_at_message(self) -> None:
        kind, size = self._message[0], int.from_bytes(self._message[1:])
        if kind != CLIENT_HELLO:
            self._over = True  # TLS 1.2: what comes next may be encrypted, in records of the same type
        elif size > LARGEST_HELLO:
            raise PeerError(f"a ClientHello of {size} bytes", reason=Reason.TLS_FAILED)
        self._message, self._message_left = b"", size
