"""The processes that this one has started and not yet waited for."""

from __future__ import annotations

import os
from pathlib import Path


def children() -> set[int]:
    """Their numbers, zombies included. Other tests may have some of their own."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:  # gone meanwhile
            continue
        parent = int(text.rpartition(")")[2].split()[1])  # proc(5): behind the name, which may hold anything
        if parent == os.getpid():
            found.add(int(stat.parent.name))
    return found
