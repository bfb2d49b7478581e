"""Kernel settings under /proc/sys: read, write, and put back what was there."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from sstpfarm.errors import SystemRefusal

ROOT: Final = Path("/proc/sys")
IPV4_FORWARDING: Final = "net/ipv4/ip_forward"


def read(key: str) -> str:
    """Return the value of a setting, named by its path below /proc/sys (an interface's name may hold a dot).

    Raises:
        OSError: there is no such setting, or it cannot be read.
    """
    return (ROOT / key).read_text("ascii").strip()


def write(key: str, value: str) -> None:
    """Set a setting.

    Raises:
        OSError: there is no such setting, or it cannot be written.
    """
    (ROOT / key).write_text(value, "ascii")


class Sysctl:
    """Settings that are changed for as long as the farm runs."""

    def __init__(self) -> None:
        self._changed: dict[str, tuple[str, str]] = {}

    def set(self, key: str, value: str) -> None:
        """Set a setting and remember what was there; leave one alone that already has the value.

        Raises:
            SystemRefusal: it cannot be read or written.
        """
        try:
            before = read(key)
            if before == value:
                return
            write(key, value)
        except OSError as error:
            raise SystemRefusal(f"sysctl {key} = {value}: {error.strerror}") from error
        self._changed.setdefault(key, (before, value))

    def restore(self) -> None:
        """Put back what was there, except where someone else has changed the setting since. Never raises."""
        for key, (before, ours) in self._changed.items():
            with contextlib.suppress(OSError):
                if read(key) == ours:
                    write(key, before)
        self._changed.clear()
