"""CPU time and memory of processes, read from /proc: the server's, and the harness's own."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

PROC: Final = Path("/proc")
PAGE: Final = os.sysconf("SC_PAGE_SIZE")
MAX_PROCESSES: Final = 1024  # of one server
MODULES: Final = {b"sstpfarm.worker.process": "worker", b"sstpfarm.auth.process": "auth", b"serve": "master"}


class Usage(msgspec.Struct):
    """What a process has used so far.

    Attributes:
        role: worker, auth, master; of another server's process, the name of its program.
        cpu: seconds, user and kernel, all threads that live.
        rss: bytes.
    """

    pid: int
    role: str
    cpu: float
    rss: int


def cpu_nanoseconds(pid: int) -> int:
    """The CPU time of all threads of a process; OSError when it is gone."""
    spent = 0
    for thread in (PROC / str(pid) / "task").iterdir():
        with suppress(FileNotFoundError):  # a thread that has just ended
            spent += int((thread / "schedstat").read_bytes().split()[0])
    return spent


def resident_bytes(pid: int) -> int:
    """The resident set of a process; OSError when it is gone."""
    return int((PROC / str(pid) / "statm").read_bytes().split()[1]) * PAGE


def descendants(pid: int) -> list[int]:
    """A process and all that descend from it, parents first."""
    found, at = [pid], 0
    while at < len(found) < MAX_PROCESSES:
        with suppress(OSError):
            for thread in (PROC / str(found[at]) / "task").iterdir():
                found += map(int, (thread / "children").read_bytes().split())
        at += 1
    return found


def role_of(pid: int) -> str:
    """What a process does in its server."""
    words = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    for module, role in MODULES.items():
        if module in words and any(b"sstpfarm" in word for word in words):
            return f"worker {words[words.index(b'--worker') + 1].decode()}" if b"--worker" in words else role
    return (PROC / str(pid) / "comm").read_text().strip()


class Observer:
    """Reads the usage of the processes below some roots."""

    def __init__(self, roots: tuple[int, ...]) -> None:
        self._roots = roots
        self._roles: dict[int, str] = {}

    def sample(self) -> list[Usage]:
        """The usage of every process that lives and that we may look at."""
        found = []
        for pid in dict.fromkeys(pid for root in self._roots for pid in descendants(root)):
            with suppress(OSError):
                if pid not in self._roles:
                    self._roles[pid] = role_of(pid)
                found.append(Usage(pid, self._roles[pid], cpu_nanoseconds(pid) / 1e9, resident_bytes(pid)))
        return found
