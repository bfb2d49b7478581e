"""netlink(7): requests in one datagram, carried out and answered by the time that `send` returns.

The kernel carries them out in the context of the sender, so its acknowledgement waits in the socket as soon as the
datagram was sent: nothing is awaited here, and nothing else can come in between. `rtnetlink` (links, addresses, routes,
neighbours) and `nftables` (elements of sets) lay out the requests.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Final

# linux/netlink.h
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLM_F_REQUEST: Final = 0x1
NLM_F_ACK: Final = 0x4
NLM_F_ECHO: Final = 0x8
NLM_F_DUMP: Final = 0x300
NLM_F_REPLACE: Final = 0x100
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
NLM_F_APPEND: Final = 0x800
NLA_F_NESTED: Final = 0x8000
SOL_NETLINK: Final = 270
NETLINK_CAP_ACK: Final = 10  # an error does not bring the request back

SO_RCVBUFFORCE: Final = 33  # asm-generic/socket.h
ANSWERS: Final = 1 << 20  # bytes for the errors of one datagram: about 1 KiB each with the kernel's own
ANSWER: Final = 4096  # bytes of one answer that are read; an acknowledgement has 36
DUMP_PART: Final = 1 << 16  # bytes of one datagram of a dump: the kernel makes them as large as 32 KiB
PATIENCE_S: Final = 5  # for an acknowledgement that is there already; a kernel that owes one is broken
_HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_ERROR: Final = struct.Struct("=i")  # struct nlmsgerr
_ATTRIBUTE: Final = struct.Struct("=HH")  # struct nlattr
_NUMBER_ATTRIBUTE: Final = struct.Struct("=HHI")
_TIMEVAL: Final = struct.Struct("ll")

Request = tuple[int, int, bytes]
"""Type, flags beside NLM_F_REQUEST, and body of one message."""


class Netlink:
    """A socket of one netlink family, such as NETLINK_ROUTE."""

    def __init__(self, family: int) -> None:
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        self._sock.bind((0, 0))
        self._sock.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        self._sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ANSWERS)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(PATIENCE_S, 0))
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def send(self, requests: Sequence[Request], *, acknowledged: int = -1) -> dict[int, int]:
        """Have the requests carried out, in order, in one datagram; one that fails does not stop those behind it.

        Args:
            acknowledged: index of the request whose acknowledgement is waited for; no answer comes to those behind it.

        Returns:
            The errno of each request that failed, by its position.

        Raises:
            OSError: the datagram was refused, or the acknowledgement does not come.
        """
        first = self._sequence + 1
        self._sequence += len(requests)
        last = range(first, first + len(requests))[acknowledged]
        datagram = bytearray()
        for sequence, (kind, flags, body) in enumerate(requests, first):
            asked = NLM_F_REQUEST | flags | (NLM_F_ACK if sequence == last else 0)  # an error is always told
            datagram += _HEADER.pack(_HEADER.size + len(body), kind, asked, sequence & 0xFFFFFFFF, 0) + body
        self._sock.send(datagram)
        failed: dict[int, int] = {}
        while True:
            answer = self._sock.recv(ANSWER)
            _, kind, _, sequence, _ = _HEADER.unpack_from(answer)
            position = sequence - (first & 0xFFFFFFFF) & 0xFFFFFFFF
            if kind != NLMSG_ERROR or position >= len(requests):
                continue  # of a datagram whose answer nobody waited for
            (code,) = _ERROR.unpack_from(answer, _HEADER.size)
            if code:
                failed[position] = -code
            if sequence == last & 0xFFFFFFFF:
                return failed

    def ask(self, request: Request) -> bytes:
        """Return the body of the message that answers a request for one object, cut at ANSWER; b"" when there is none.

        Raises:
            OSError: the kernel refuses, or does not answer.
        """
        kind, flags, body = request
        self._sequence += 1
        wanted, asked = self._sequence & 0xFFFFFFFF, NLM_F_REQUEST | NLM_F_ACK | NLM_F_ECHO | flags
        self._sock.send(_HEADER.pack(_HEADER.size + len(body), kind, asked, wanted, 0) + body)
        found = b""
        while True:
            answer = self._sock.recv(ANSWER)
            length, kind, _, sequence, _ = _HEADER.unpack_from(answer)
            if sequence != wanted:
                continue
            if kind != NLMSG_ERROR:
                found = answer[_HEADER.size : length]
            elif code := -_ERROR.unpack_from(answer, _HEADER.size)[0]:
                raise OSError(code, os.strerror(code))
            else:
                return found

    def dump(self, request: Request) -> list[bytes]:
        """Return the bodies of all messages that answer a request for a list.

        Raises:
            OSError: the kernel refuses, or the list does not end.
        """
        kind, flags, body = request
        self._sequence += 1
        wanted = self._sequence & 0xFFFFFFFF
        self._sock.send(
            _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP | flags, wanted, 0) + body
        )
        found: list[bytes] = []
        while True:
            part = self._sock.recv(DUMP_PART)
            at = 0
            while at + _HEADER.size <= len(part):
                length, kind, _, sequence, _ = _HEADER.unpack_from(part, at)
                body = part[at + _HEADER.size : at + length]
                at += max(_HEADER.size, length + 3 & ~3)
                if sequence != wanted:
                    continue
                if kind == NLMSG_DONE:
                    return found
                if kind == NLMSG_ERROR:
                    code = -_ERROR.unpack_from(body)[0]
                    raise OSError(code, os.strerror(code))
                found.append(body)


def check(failed: Mapping[int, int], *, ignore: int = 0) -> None:
    """Raise OSError of the first request that failed, except with errno `ignore`."""
    for position in sorted(failed):
        if failed[position] != ignore:
            raise OSError(failed[position], os.strerror(failed[position]))


def attribute(kind: int, value: bytes) -> bytes:
    """Return one attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def number(kind: int, value: int) -> bytes:
    """Return one attribute that is a 32-bit number."""
    return _NUMBER_ATTRIBUTE.pack(_NUMBER_ATTRIBUTE.size, kind, value)


def attributes(data: bytes) -> dict[int, bytes]:
    """Return the attributes of a message of the kernel, by their type; a cut one ends the list."""
    found: dict[int, bytes] = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind] = data[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3
    return found
