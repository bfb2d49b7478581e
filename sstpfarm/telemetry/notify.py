"""Tell systemd how the service is: sd_notify(3), one datagram for each state."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Final

ADDRESS: Final = "NOTIFY_SOCKET"
WATCHDOG: Final = "WATCHDOG_USEC"


class Notifier:
    """Sends states to the service manager; does nothing where there is none."""

    def __init__(self) -> None:
        address = os.environ.pop(ADDRESS, "")  # children must not speak for us
        self._address = "\0" + address[1:] if address.startswith("@") else address
        microseconds = os.environ.pop(WATCHDOG, "")
        self.watchdog = int(microseconds) / 2e6 if microseconds.isdecimal() else None  # s: half of what is allowed

    def send(self, *states: str) -> None:
        """Send states such as ``READY=1``; a manager that does not listen is no error."""
        if self._address:
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                sock.sendto("\n".join(states).encode(), self._address)
