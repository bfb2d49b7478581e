"""The HTTP exchange in front of SSTP: one request, one response, then SSTP bytes (MS-SSTP 3.2, 3.3).

Heads are passed on as the bytes up to and including the empty line. All bytes behind it belong to SSTP: some
clients write their Call Connect Request in the same flight.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from sstpfarm.errors import LocalError, PeerError
from sstpfarm.reasons import Reason

SSTP_METHOD: Final = "SSTP_DUPLEX_POST"
SSTP_PATH: Final = "/sra_{BA195980-CD49-458b-9E23-C84EE0ADCD75}/"  # MS-SSTP 3.2; compared without case
CONTENT_LENGTH: Final = "18446744073709551615"  # 2^64-1: MS-SSTP 3.2
HEAD_LIMIT: Final = 16384  # bytes

REFUSALS: Final[Mapping[Reason, str]] = MappingProxyType(
    {
        Reason.HTTP_BAD_REQUEST: "400 Bad Request",
        Reason.HTTP_HEAD_TOO_LARGE: "400 Bad Request",
        Reason.HTTP_WRONG_PATH: "404 Not Found",
        Reason.HTTP_WRONG_METHOD: "405 Method Not Allowed",
        Reason.HTTP_UNAVAILABLE: "503 Service Unavailable",
    }
)
"""The reasons for which a request is answered with an HTTP error."""

_END: Final = b"\r\n\r\n"
_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - RFC 9110 5.6.2, the word's other meaning
_REQUEST_LINE: Final = re.compile(rf"({_TOKEN}) ([!-~]+) HTTP/1\.[0-9]")
_STATUS_LINE: Final = re.compile(r"HTTP/1\.[0-9] ([1-5][0-9]{2})(?: .*)?", re.DOTALL)
_HEADER: Final = re.compile(rf"({_TOKEN}):(.*)", re.DOTALL)
_UNPRINTABLE: Final = re.compile(r"[^ -~]")
_HOST_LIMIT: Final = 255  # RFC 1035 2.3.4
_CORRELATION_ID_LIMIT: Final = 64  # a GUID in braces has 38


@dataclass(frozen=True, slots=True)
class Request:
    """An acceptable SSTP request.

    Attributes:
        host: of the Host header, with its port if there is one; "" without. Printable ASCII, at most 255.
        correlation_id: opaque text for logs; "" without. Printable ASCII, at most 64.
    """

    method: str
    path: str
    host: str
    correlation_id: str


class HeadReader:
    """Collects the bytes of an HTTP head up to its empty line; any chunking gives the same result."""

    __slots__ = ("_buffer", "_done", "_limit")

    def __init__(self, limit: int = HEAD_LIMIT) -> None:
        self._buffer = bytearray()
        self._limit = limit
        self._done = False

    def feed(self, data: bytes | memoryview) -> tuple[bytes, bytes] | None:
        """Take bytes; return (head with its empty line, all bytes behind it) once the head is complete.

        Raises:
            PeerError: HTTP_HEAD_TOO_LARGE, no empty line within the limit.
            LocalError: the head was complete before.
        """
        if self._done:
            raise LocalError("the HTTP head was complete before")
        before = len(self._buffer)
        self._buffer += data[: self._limit - before]
        found = self._buffer.find(_END, max(0, before - len(_END) + 1))
        if found < 0:
            if len(self._buffer) >= self._limit:
                raise PeerError(f"an HTTP head is longer than {self._limit} bytes", reason=Reason.HTTP_HEAD_TOO_LARGE)
            return None
        end = found + len(_END)
        head = bytes(self._buffer[:end])
        self._done = True
        self._buffer = bytearray()
        return head, bytes(data[end - before :])


def parse_request(head: bytes) -> Request:
    """Return the request of a client, if it is one for SSTP.

    Host and Content-Length may be missing. Header names are matched without case, unknown ones are ignored.

    Raises:
        PeerError: HTTP_BAD_REQUEST, HTTP_WRONG_PATH (whatever the method), HTTP_WRONG_METHOD (only on SSTP's path).
    """
    line, headers = _split(head)
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise PeerError("the request line cannot be understood", reason=Reason.HTTP_BAD_REQUEST)
    method, path = match.groups()
    if path.lower() != SSTP_PATH.lower():
        raise PeerError("a request for another path", reason=Reason.HTTP_WRONG_PATH)
    if method != SSTP_METHOD:
        raise PeerError("a request with another method", reason=Reason.HTTP_WRONG_METHOD)
    if headers.get("content-length", CONTENT_LENGTH) not in (CONTENT_LENGTH, "0"):
        raise PeerError("a request with another Content-Length", reason=Reason.HTTP_BAD_REQUEST)
    return Request(
        method,
        path,
        _UNPRINTABLE.sub("", headers.get("host", ""))[:_HOST_LIMIT],
        _UNPRINTABLE.sub("", headers.get("sstpcorrelationid", ""))[:_CORRELATION_ID_LIMIT],
    )


def parse_response(head: bytes) -> int:
    """Return the status of a server's response; SSTP may begin only after 200.

    Raises:
        PeerError: HTTP_BAD_REQUEST, it is no HTTP/1 response.
    """
    match = _STATUS_LINE.fullmatch(_split(head)[0])
    if match is None:
        raise PeerError("the status line cannot be understood", reason=Reason.HTTP_BAD_REQUEST)
    return int(match[1])


def encode_request(host: str, correlation_id: str) -> bytes:
    """Return a client's request head.

    Args:
        host: name or address of the server, an IPv6 address in brackets, with the port unless it is 443.
        correlation_id: a GUID in braces.

    Raises:
        LocalError: one of them is empty or not printable ASCII.
    """
    for text in (host, correlation_id):
        if not text or _UNPRINTABLE.search(text):
            raise LocalError("an HTTP header value must be printable ASCII")
    return (
        f"{SSTP_METHOD} {SSTP_PATH} HTTP/1.1\r\n"
        f"Host: {host}\r\n"
        f"Content-Length: {CONTENT_LENGTH}\r\n"
        f"SSTPCORRELATIONID: {correlation_id}\r\n"
        "\r\n"
    ).encode("ascii")


def encode_response(date: str) -> bytes:
    """Return the head of the response 200; `date` as in RFC 9110 5.6.7, such as ``Thu, 09 Nov 2006 00:51:09 GMT``.

    The same headers as a Windows server's, since some clients parse few of them (sstpc: seven).
    """
    return (
        f"HTTP/1.1 200 OK\r\nContent-Length: {CONTENT_LENGTH}\r\nServer: Microsoft-HTTPAPI/2.0\r\nDate: {date}\r\n\r\n"
    ).encode("ascii")


def encode_refusal(reason: Reason) -> bytes:
    """Return the whole error response for a reason of REFUSALS; the connection is to be closed behind it."""
    if reason not in REFUSALS:
        raise LocalError(f"{reason} has no HTTP answer")
    allow = f"Allow: {SSTP_METHOD}\r\n" if reason is Reason.HTTP_WRONG_METHOD else ""  # RFC 9110 15.5.6
    return f"HTTP/1.1 {REFUSALS[reason]}\r\n{allow}Content-Length: 0\r\nConnection: close\r\n\r\n".encode("ascii")


def _split(head: bytes) -> tuple[str, dict[str, str]]:
    """Return the first line and the headers, names in lower case; of a repeated header the first counts."""
    if not head.endswith(_END):
        raise PeerError("an HTTP head without its empty line", reason=Reason.HTTP_BAD_REQUEST)
    first, *lines = head[: -len(_END)].decode("latin-1").split("\r\n")
    headers: dict[str, str] = {}
    for line in lines:
        match = _HEADER.fullmatch(line)
        if match is None:
            raise PeerError("an HTTP header cannot be understood", reason=Reason.HTTP_BAD_REQUEST)
        headers.setdefault(match[1].lower(), match[2].strip())
    return first, headers
