"""The end of a TCP connection whose last bytes are to arrive: they are sent, then the peer's close is awaited, a while.

A close at once would answer what the peer still says with a reset, and a reset can overtake our last bytes.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from time import monotonic
from typing import Final

from sstpfarm.transport.outlet import Outlet, Overflow
from sstpfarm.transport.surroundings import Surroundings

LINGER: Final = 1.0  # seconds to wait for the peer's close, so that our last bytes are not lost to a reset
FLUSH: Final = 3.0  # seconds that the last bytes may take to leave


def _nothing() -> None:
    """There is no TUN any more."""


class Farewell:
    """Takes a socket over to close it well.

    Args:
        sock: connected, non-blocking; owned from now on. Whoever watched it watches it no more.
        closed: called once, when the socket is closed.
    """

    __slots__ = ("_around", "_closed", "_deadline", "_outlet", "_peer_finished", "_sock", "scheduled")

    def __init__(self, around: Surroundings, sock: socket.socket, closed: Callable[[], None]) -> None:
        self._around = around
        self._sock = sock
        self._closed: Callable[[], None] | None = closed
        self._peer_finished = False
        self._deadline: float | None = None
        self._outlet = Outlet(around.poller, sock, self._writable, _nothing)
        self.scheduled = float("inf")

    def say(self, *last: bytes | memoryview) -> None:
        """Send these bytes and close; to be called once, first."""
        self._deadline = monotonic() + FLUSH
        try:
            self._around.poller.add_reader(self._sock.fileno(), self._readable)
            for data in last:
                if data:
                    self._outlet.put(data)
        except (OSError, Overflow):
            self.close()
            return
        self._linger_or_wait()

    def close(self) -> None:
        """Close the socket now. Idempotent."""
        closed, self._closed = self._closed, None
        if closed is None:
            return
        self._deadline = None
        self._outlet.close()
        self._around.poller.remove_reader(self._sock.fileno())
        self._sock.close()
        self._around.deadlines.forget(self)
        del self._outlet  # it calls us back: without a circle we go at once
        closed()

    def next_deadline(self) -> float | None:
        """When the peer has had time enough."""
        return self._deadline

    def tick(self, now: float) -> None:
        """Close, if it has."""
        if self._deadline is not None and now >= self._deadline:
            self.close()

    def _readable(self) -> None:
        """The peer still talks; nothing of it matters any more but its end."""
        try:
            count = self._sock.recv_into(self._around.buffers.received)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        if count:
            return
        if self._outlet.pending:  # it says no more, but may still read what we say
            self._peer_finished = True
            self._around.poller.remove_reader(self._sock.fileno())
        else:
            self.close()

    def _writable(self) -> None:
        try:
            self._outlet.offer()
        except OSError:
            self.close()
        else:
            self._linger_or_wait()

    def _linger_or_wait(self) -> None:
        if not self._outlet.pending:
            if self._peer_finished:
                self.close()
                return
            self._outlet.close()
            self._deadline = monotonic() + LINGER
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError:
                self.close()
                return
        self._around.deadlines.watch(self)
