"""Notices that addresses, links or routes of this machine changed (rtnetlink(7) multicast groups)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

# linux/rtnetlink.h
RTMGRP_LINK: Final = 0x1
RTMGRP_IPV4_IFADDR: Final = 0x10
RTMGRP_IPV4_ROUTE: Final = 0x40
RTMGRP_IPV6_IFADDR: Final = 0x100
RTMGRP_IPV6_ROUTE: Final = 0x400
GROUPS: Final = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE
SETTLE: Final = 0.3  # seconds: changes come in bursts (link, addresses, routes), and one look at the end will do
LATEST: Final = 2.0  # seconds after the first of a burst that does not end
NOTICE: Final = 4096  # bytes of one notice that are taken off the socket; its content does not matter


class Changes:
    """Calls back some time after something changed; what, one has to look for oneself.

    Args:
        on_change: called in the event loop.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._first = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._sock.setblocking(False)
        self._sock.bind((0, GROUPS))
        self._loop.add_reader(self._sock, self._readable)

    def close(self) -> None:
        """Notice nothing any more."""
        self._loop.remove_reader(self._sock)
        self._sock.close()
        if self._timer is not None:
            self._timer.cancel()

    def _readable(self) -> None:
        while True:
            try:
                self._sock.recv(NOTICE)
            except BlockingIOError:
                break
            except OSError:  # ENOBUFS: notices were lost, and that something changed is all that they say
                break
        now = self._loop.time()
        if self._timer is None:
            self._first = now
        else:
            self._timer.cancel()
        self._timer = self._loop.call_at(min(now + SETTLE, self._first + LATEST), self._settled)

    def _settled(self) -> None:
        self._timer = None
        self._on_change()
