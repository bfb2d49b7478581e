"""A check that a piece of code closes each descriptor that it opens."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def open_descriptors() -> dict[int, str]:
    """What each open descriptor of this process is."""
    found = {}
    for entry in list(Path("/proc/self/fd").iterdir()):
        with suppress(FileNotFoundError):  # that of the listing itself
            found[int(entry.name)] = str(entry.readlink())
    return found


@contextmanager
def descriptors_closed() -> Iterator[None]:
    """Assert that the block leaves as many descriptors open as there were.

    What earlier tests left to the garbage collector is collected first: else it goes in between, and hides a leak or
    looks like the opposite of one. What the block leaves to it counts as open.
    """
    gc.collect()
    before = open_descriptors()
    yield
    after = open_descriptors()
    assert len(after) == len(before), sorted(set(after.items()) ^ set(before.items()))
