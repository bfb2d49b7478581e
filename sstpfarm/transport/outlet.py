"""The way out of one connection: the bytes that wait for its socket, and which descriptor drives.

As long as the socket takes everything, the TUN drives: each time that it has packets. Once the socket is full, or the
TUN holds more than one event may carry, the socket does: each time that it takes bytes, and the TUN is read only when
all earlier ones are gone. The kernel drops in the TUN's ring meanwhile. So nothing is registered and unregistered
under load.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from sstpfarm.transport.poller import Poller

UNSENT: Final = 16 * 1024  # bytes that the kernel may hold unsent before the socket counts as full
TCP_NOTSENT_LOWAT: Final = 25  # linux/tcp.h
MAX_PENDING: Final = 256 * 1024  # bytes that wait for the socket; reached only by control frames nobody reads
NOTHING: Final = memoryview(b"")


class Overflow(Exception):  # noqa: N818 - it is no error of ours: the peer does not read
    """More than MAX_PENDING bytes would wait."""


class Outlet:
    """Sends what it is given, now or when the socket takes it.

    Args:
        sock: non-blocking; the caller keeps ownership, of the TUN descriptor too.
        on_socket: called when the socket takes bytes, as long as it drives; it is to call `offer`.
        on_tun: called when the TUN has packets, as long as it drives.
    """

    __slots__ = (
        "_armed",
        "_fd",
        "_on_socket",
        "_on_tun",
        "_poller",
        "_sock",
        "_socket_drives",
        "_tun",
        "_unsent",
        "pending",
    )

    def __init__(
        self,
        poller: Poller,
        sock: socket.socket,
        on_socket: Callable[[], None],
        on_tun: Callable[[], None],
    ) -> None:
        self._poller = poller
        self._sock = sock
        self._fd = sock.fileno()
        self._on_socket = on_socket
        self._on_tun = on_tun
        self._tun = -1
        self._armed = self._socket_drives = False
        self._unsent = 0
        self.pending = NOTHING
        self.hold(UNSENT)

    def put(self, data: bytes | memoryview) -> None:
        """Send those bytes, or let them wait behind others.

        Raises:
            OSError: the socket is broken.
            Overflow: too much waits already.
        """
        if not self.pending:
            self._try(data)
        elif len(self.pending) + len(data) <= MAX_PENDING:
            self.pending = memoryview(b"".join((self.pending, data)))  # the socket tells when it takes more
        else:
            raise Overflow

    def hold(self, size: int) -> None:
        """Let the kernel hold that many bytes unsent, at most UNSENT; on a slow way even these are a long time."""
        size = min(size, UNSENT)
        if size != self._unsent:
            self._unsent = size
            with suppress(OSError):  # no TCP socket; a broken one shows elsewhere
                self._sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, size)

    def offer(self) -> None:
        """Offer the socket what waits; OSError when it is broken."""
        if self.pending:
            self._try(self.pending)

    def _try(self, data: bytes | memoryview) -> None:
        try:
            # with it the kernel puts nothing more into the last segment, which it would without a look at the bound
            sent = self._sock.send(data, socket.MSG_EOR if self._unsent < UNSENT else 0)
        except (BlockingIOError, InterruptedError):
            sent = 0
        if sent == len(data):
            self.pending = NOTHING  # an empty view would keep the whole batch in memory
        else:
            self.pending = memoryview(data)[sent:]
            self.drive_by_socket(True)

    def drive_by_socket(self, on: bool) -> None:
        """Let the socket drive, or the TUN; OSError when the kernel watches nothing more."""
        if on != self._socket_drives:
            if on:
                self._poller.add_writer(self._fd, self._on_socket)
            else:
                self._poller.remove_writer(self._fd)
            self._socket_drives = on
        self._arm(not on)

    def rest(self) -> None:
        """Watch neither, until `drive_by_socket` is called again or bytes wait for the socket."""
        self.drive_by_socket(False)
        self._arm(False)

    def set_tun(self, tun: int) -> None:
        """Watch that TUN descriptor from now on, -1 for none: then its last one may be closed."""
        self._arm(False)
        self._tun = tun
        self._arm(not self._socket_drives)

    def close(self) -> None:
        """Forget what waits, and watch nothing any more."""
        self.set_tun(-1)
        self.pending = NOTHING
        self.drive_by_socket(False)

    def _arm(self, on: bool) -> None:
        on = on and self._tun >= 0
        if on != self._armed:
            if on:
                self._poller.add_reader(self._tun, self._on_tun)
            else:
                self._poller.remove_reader(self._tun)
            self._armed = on
