"""A TLS client over memory, for what Python's ssl cannot say: KeyUpdates and attempts at renegotiation.

OpenSSL's library by ctypes; only what the tests need, and nothing is freed before the process ends.
"""

from __future__ import annotations

import ctypes
from ctypes.util import find_library
from typing import Final

SSL: Final = ctypes.CDLL(find_library("ssl") or "libssl.so.3")
CRYPTO: Final = ctypes.CDLL(find_library("crypto") or "libcrypto.so.3")
SSL_CTRL_SET_GROUPS_LIST: Final = 92  # openssl/ssl.h
SSL_CTRL_SET_MAX_PROTO_VERSION: Final = 124
KEY_UPDATE: Final = {False: 0, True: 1}  # whether the other side is to update too, RFC 8446 4.6.3
_BUFFER: Final = 1 << 16

for _library, _name, _result, _arguments in (
    (SSL, "TLS_client_method", ctypes.c_void_p, ()),
    (SSL, "SSL_CTX_new", ctypes.c_void_p, (ctypes.c_void_p,)),
    (SSL, "SSL_CTX_ctrl", ctypes.c_long, (ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p)),
    (SSL, "SSL_new", ctypes.c_void_p, (ctypes.c_void_p,)),
    (SSL, "SSL_set_bio", None, (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)),
    (SSL, "SSL_set_connect_state", None, (ctypes.c_void_p,)),
    (SSL, "SSL_do_handshake", ctypes.c_int, (ctypes.c_void_p,)),
    (SSL, "SSL_key_update", ctypes.c_int, (ctypes.c_void_p, ctypes.c_int)),
    (SSL, "SSL_renegotiate", ctypes.c_int, (ctypes.c_void_p,)),
    (SSL, "SSL_write", ctypes.c_int, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int)),
    (SSL, "SSL_read", ctypes.c_int, (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)),
    (CRYPTO, "BIO_s_mem", ctypes.c_void_p, ()),
    (CRYPTO, "BIO_new", ctypes.c_void_p, (ctypes.c_void_p,)),
    (CRYPTO, "BIO_read", ctypes.c_int, (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)),
    (CRYPTO, "BIO_write", ctypes.c_int, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int)),
):
    getattr(_library, _name).restype, getattr(_library, _name).argtypes = _result, _arguments


class OpensslPeer:
    """The client's side of a connection.

    Args:
        version: the highest one, as on the wire (0x0303 is TLS 1.2).
        groups: of the key exchange, in OpenSSL's words; the first one gets a key share.
    """

    def __init__(self, version: int = 0x0304, groups: str = "X25519:P-256") -> None:
        context = SSL.SSL_CTX_new(SSL.TLS_client_method())
        SSL.SSL_CTX_ctrl(context, SSL_CTRL_SET_MAX_PROTO_VERSION, version, None)
        assert SSL.SSL_CTX_ctrl(context, SSL_CTRL_SET_GROUPS_LIST, 0, groups.encode()) == 1
        self._ssl = SSL.SSL_new(context)
        self._in, self._out = CRYPTO.BIO_new(CRYPTO.BIO_s_mem()), CRYPTO.BIO_new(CRYPTO.BIO_s_mem())
        SSL.SSL_set_bio(self._ssl, self._in, self._out)
        SSL.SSL_set_connect_state(self._ssl)
        self._buffer = ctypes.create_string_buffer(_BUFFER)

    def handshake(self, received: bytes = b"") -> bytes:
        """Take the server's bytes, go on with the handshake; return ours."""
        self._take(received)
        SSL.SSL_do_handshake(self._ssl)
        return self._said()

    def read(self, received: bytes) -> bytes:
        """Take the server's bytes; return the plaintext, one record at most."""
        self._take(received)
        count = SSL.SSL_read(self._ssl, self._buffer, _BUFFER)
        return self._buffer.raw[: max(count, 0)]

    def write(self, data: bytes) -> bytes:
        """Return records with that plaintext."""
        assert SSL.SSL_write(self._ssl, data, len(data)) == len(data)
        return self._said()

    def key_updates(self, count: int, *, answered: bool = True) -> bytes:
        """Return so many KeyUpdates."""
        for _ in range(count):
            assert SSL.SSL_key_update(self._ssl, KEY_UPDATE[answered]) == 1
            assert SSL.SSL_do_handshake(self._ssl) == 1
        return self._said()

    def renegotiate(self) -> bytes:
        """Return an attempt at renegotiation (TLS 1.2)."""
        SSL.SSL_renegotiate(self._ssl)
        SSL.SSL_do_handshake(self._ssl)
        return self._said()

    def _take(self, received: bytes) -> None:
        assert not received or CRYPTO.BIO_write(self._in, received, len(received)) == len(received)

    def _said(self) -> bytes:
        said = bytearray()
        while (count := CRYPTO.BIO_read(self._out, self._buffer, _BUFFER)) > 0:
            said += self._buffer.raw[:count]
        return bytes(said)
