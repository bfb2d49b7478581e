"""The run directory of a farm or a client: whose it is."""

from __future__ import annotations

import fcntl
import os
from contextlib import ExitStack
from pathlib import Path

from sstpfarm.errors import SystemRefusal


def hold_lock(run: Path, who: str) -> ExitStack:
    """Return a context that holds the run directory for this process alone.

    Args:
        who: "farm" or "client".

    Raises:
        SystemRefusal: another one has it; its process is named.
    """
    path = run / "lock"
    held = ExitStack()
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise SystemRefusal(f"{path}: {error.strerror}") from error
    held.callback(os.close, fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
        held.close()
        raise SystemRefusal(f"another {who} (process {owner}) runs in {run}") from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return held
