"""Kernel settings under /proc/sys: read, write, and put back what was there."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

import msgspec

from sstpfarm.errors import SystemRefusal

ROOT: Final = Path("/proc/sys")
BOOT_ID: Final = "kernel/random/boot_id"
NAMESPACE: Final = Path("/proc/thread-self/ns/net")
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


class _Journal(msgspec.Struct, frozen=True):
    """What a process has changed: before and after, by key; and in which life of which network namespace."""

    life: str
    changed: dict[str, tuple[str, str]]


class Sysctl:
    """Settings that are changed for as long as the farm runs.

    Args:
        journal: a file that remembers what was there, in case that this process is killed; None for none.
    """

    def __init__(self, journal: Path | None = None) -> None:
        self._changed: dict[str, tuple[str, str]] = {}
        self._journal = journal

    def recover(self) -> None:
        """Put back what a process that was killed has changed, as its journal says. Never raises."""
        if self._journal is None:
            return
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            found = msgspec.json.decode(self._journal.read_bytes(), type=_Journal)
            if found.life == _life():  # else it was another kernel that was changed
                self._changed = dict(found.changed)
        self.restore()

    def set(self, key: str, value: str) -> None:
        """Set a setting and remember what was there; leave one alone that already has the value.

        Raises:
            SystemRefusal: it cannot be read or written.
        """
        try:
            before = read(key)
            if before == value:
                return
            self._changed.setdefault(key, (before, value))
            if self._journal is not None:
                self._journal.write_bytes(msgspec.json.encode(_Journal(_life(), self._changed)))
            write(key, value)
        except OSError as error:
            raise SystemRefusal(f"sysctl {key} = {value}: {error.strerror}") from error

    def restore(self) -> None:
        """Put back what was there, except where someone else has changed the setting since. Never raises."""
        for key, (before, ours) in self._changed.items():
            with contextlib.suppress(OSError):
                if read(key) == ours:
                    write(key, before)
        self._changed.clear()
        if self._journal is not None:
            with contextlib.suppress(OSError):
                self._journal.unlink(missing_ok=True)


def _life() -> str:
    """Name this boot of the kernel and this network namespace."""
    return f"{read(BOOT_ID)} {NAMESPACE.stat().st_ino}"
