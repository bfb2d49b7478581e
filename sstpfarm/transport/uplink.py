"""What a peer with a rate limit may send: its socket is read no faster, and TCP tells it to wait.

Nothing is dropped. What the peer's own kernel and ours may hold is bounded by the window, so that its control frames,
which wait behind its packets, come in time.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Final

from sstpfarm.dataplane.bucket import Bucket
from sstpfarm.transport.surroundings import Surroundings

LEAST_READ: Final = 2048  # bytes taken at once: a packet in its TLS record
# Seconds at its rate that may be on the way to us: what the path needs, twice, in case that it becomes longer, and what
# keeps us busy from tick to tick.
ROUND_TRIPS: Final = 2
SPARE: Final = 0.05
LEAST_WINDOW: Final = 16 * 1024  # bytes: a TLS record
MOST_WINDOW: Final = 128 * 1024  # bytes; what needs more is left to TCP, whose own window follows what is read
SO_BUF_LOCK: Final = 72  # asm-generic/socket.h, Linux 5.15
TCP_INFO_RTT: Final = 68  # where struct tcp_info has tcpi_rtt, microseconds


class Uplink:
    """Reads the socket of one connection no faster than its bucket allows.

    Args:
        sock: watched for `readable` by the surroundings' poller, as long as the connection is open.
    """

    __slots__ = ("_around", "_bucket", "_paused", "_readable", "_sock")

    def __init__(self, around: Surroundings, sock: socket.socket, readable: Callable[[], None]) -> None:
        self._around = around
        self._sock = sock
        self._readable = readable
        self._bucket: Bucket | None = None
        self._paused = False

    def limit(self, bucket: Bucket | None) -> None:
        """Let that bucket decide from now on, None for no limit."""
        self._bucket = bucket
        window = self._window(bucket.rate) if bucket is not None else MOST_WINDOW
        if window < MOST_WINDOW:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)  # Linux doubles it, for its own needs
        else:
            with suppress(OSError):  # an older kernel: the window stays as it is
                self._sock.setsockopt(socket.SOL_SOCKET, SO_BUF_LOCK, 0)

    def _window(self, rate: float) -> int:
        """Bytes that the peer may have on the way to us, so that it reaches that many bytes a second."""
        info = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_RTT + 4)
        seconds = ROUND_TRIPS * int.from_bytes(info[TCP_INFO_RTT:], sys.byteorder) / 1e6 + SPARE
        return max(LEAST_WINDOW, int(rate * seconds))

    def part(self, received: memoryview) -> memoryview:
        """Return the part of the buffer that may be filled now; if that is none, the peer must wait."""
        if self._bucket is None:
            return received
        allowed = self._bucket.available(monotonic())
        if allowed > 0:
            return received[: max(LEAST_READ, int(allowed))]
        if not self._paused:
            self._paused = True
            self._around.poller.remove_reader(self._sock.fileno())
            self._around.pacer.wait(self._go_on)
        return received[:0]

    def spend(self, size: int) -> None:
        """The peer has sent that many bytes."""
        if self._bucket is not None:
            self._bucket.spend(size)

    def unread(self) -> bool:
        """Whether the peer has said what we have not listened to."""
        try:
            return self._paused and bool(self._sock.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def close(self) -> None:
        """The connection is not open any more: whoever watches the socket now is not disturbed."""
        self._paused = False

    def _go_on(self) -> None:
        """There may be tokens again."""
        if not self._paused:
            return
        if self._bucket is not None and self._bucket.available(monotonic()) <= 0:
            self._around.pacer.wait(self._go_on)
            return
        try:
            self._around.poller.add_reader(self._sock.fileno(), self._readable)
        except OSError:  # no watch is left for now
            self._around.pacer.wait(self._go_on)
        else:
            self._paused = False
