"""One end of a SEQPACKET socket pair that carries typed messages and descriptors between two of our processes.

A message is one datagram: msgpack of one tagged struct. What the receiver may be sent is a closed list
(`permissions`); anything else, a truncated message, or a wrong number of descriptors closes the channel with a
violation, and the supervisor kills the process at the other end.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final

import msgspec

from sstpfarm.errors import LocalError
from sstpfarm.ipc.messages import Message
from sstpfarm.ipc.permissions import DESCRIPTORS

MAX_MESSAGE: Final = 65_536  # far below what one SEQPACKET datagram holds (about 200 KiB)
MAX_DESCRIPTORS: Final = 4
ANCILLARY_SPACE: Final = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)
MAX_QUEUE: Final = 131_072  # messages that wait for a slow reader, two for each session at most; more: it is stuck
READS_PER_EVENT: Final = 64  # so that one chatty peer does not keep the loop
SECONDS_PER_EVENT: Final = 0.02  # nor one whose messages cost much: a kernel that changes links can be slow

OnMessage = Callable[[Any, list[int]], None]
OnClose = Callable[[str], None]
VIOLATION: Final = "violation: "


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """Make the two ends of a channel: non-blocking SEQPACKET sockets, closed on exec unless passed on."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    return ours, theirs


class Channel:
    """Send and receive messages on one socket.

    Args:
        sock: a connected SEQPACKET socket; the channel owns it from now on.
        receive_type: union of the message types that the other end may send (`permissions.may_send`).
        on_message: called with each message and its descriptors, which then belong to the callee.
        on_close: called once, with a text; one that begins with VIOLATION means that the other end broke the rules.
    """

    def __init__(self, sock: socket.socket, receive_type: Any, on_message: OnMessage, on_close: OnClose) -> None:
        self._sock = sock
        self._decoder = msgspec.msgpack.Decoder(receive_type)
        self._encoder = msgspec.msgpack.Encoder()
        self._on_message = on_message
        self._on_close = on_close
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queue: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._closed = False
        self._drained = asyncio.Event()  # nothing waits to be sent, or nothing will be
        self._drained.set()
        sock.setblocking(False)

    @property
    def closed(self) -> bool:
        """Whether the channel has ended."""
        return self._closed

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to receive, on that loop."""
        self._loop = loop
        loop.add_reader(self._sock.fileno(), self._readable)

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send a message and copies of the descriptors; queue it when the other end is slow. Does nothing once closed.

        Raises:
            LocalError: the message is larger than MAX_MESSAGE or carries a wrong number of descriptors.
            OSError: it would have to wait, and there are no descriptors for the copies; it is not sent.
        """
        data = self._unsent(message, fds)
        if data is not None:
            self._queue_up(data, _copies(fds))  # the caller may close its own as soon as we return

    def give(self, message: Message, fds: Sequence[int]) -> None:
        """Send a message and the descriptors themselves, which the channel closes: as `send`, but without OSError."""
        data = None
        try:
            data = self._unsent(message, fds)
        finally:
            if data is None:
                _close_all(fds)
        if data is not None:
            self._queue_up(data, tuple(fds))

    async def drain(self, seconds: float) -> None:
        """Wait until everything is sent, the channel has ended, or that time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._drained.wait()

    def close(self) -> None:
        """End the channel without telling on_close. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._loop is not None:
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
        for _, fds in self._queue:
            for fd in fds:
                os.close(fd)
        self._queue.clear()
        self._drained.set()
        self._sock.close()

    def _unsent(self, message: Message, fds: Sequence[int]) -> bytes | None:
        """Send a message if that can be done now; return what has to wait, None for nothing."""
        if self._closed:
            return None
        data = self._encoder.encode(message)
        if len(data) > MAX_MESSAGE or len(fds) != DESCRIPTORS.get(type(message), 0):
            raise LocalError(f"{type(message).__name__} of {len(data)} bytes with {len(fds)} descriptors")
        if not self._queue and self._send_now(data, fds):
            return None
        if self.closed:  # the attempt may have ended the channel
            return None
        if len(self._queue) >= MAX_QUEUE:
            self._end("the other end does not read")
            return None
        return data

    def _queue_up(self, data: bytes, fds: tuple[int, ...]) -> None:
        """Have a message wait, with descriptors that are the channel's."""
        self._queue.append((data, fds))
        self._drained.clear()
        if len(self._queue) == 1 and self._loop is not None:
            self._loop.add_writer(self._sock.fileno(), self._writable)

    def _send_now(self, data: bytes, fds: Sequence[int]) -> bool:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._sock.sendmsg([data], ancillary)
        except BlockingIOError:
            return False
        except OSError as error:
            self._end(f"send: {error.strerror}")
            return False
        return True

    def _writable(self) -> None:
        while self._queue:
            data, fds = self._queue[0]
            if not self._send_now(data, fds):
                return
            self._queue.popleft()
            for fd in fds:
                os.close(fd)
        self._drained.set()
        if self._loop is not None:
            self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        enough = monotonic() + SECONDS_PER_EVENT
        for _ in range(READS_PER_EVENT):
            if self._closed or monotonic() > enough:
                return
            try:
                # socket.recv_fds of Python 3.11 drops the flags
                data, ancillary, flags, _ = self._sock.recvmsg(MAX_MESSAGE, ANCILLARY_SPACE, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except OSError as error:
                self._end(f"receive: {error.strerror}")
                return
            fds = _descriptors(ancillary)
            if not data:
                _close_all(fds)
                self._end("closed by the other end")
                return
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                _close_all(fds)
                self._end(VIOLATION + "message or descriptors truncated")
                return
            try:
                message = self._decoder.decode(data)
            except msgspec.MsgspecError as error:
                _close_all(fds)
                self._end(VIOLATION + str(error)[:200])
                return
            if len(fds) != DESCRIPTORS.get(type(message), 0):
                _close_all(fds)
                self._end(f"{VIOLATION}{type(message).__name__} with {len(fds)} descriptors")
                return
            self._on_message(message, fds)

    def _end(self, why: str) -> None:
        if not self._closed:
            self.close()
            self._on_close(why)


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def _copies(fds: Sequence[int]) -> tuple[int, ...]:
    copies: list[int] = []
    try:
        for fd in fds:
            copies.append(os.dup(fd))  # noqa: PERF401 - what was made is closed when the next one fails
    except OSError:
        _close_all(copies)
        raise
    return tuple(copies)


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
