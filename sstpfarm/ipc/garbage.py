"""Python's garbage collector in a process that keeps many objects for long.

A full collection looks at every object there is, and nothing else runs meanwhile: with 5,000 sessions a worker carried
no packet for 0.1 s. It is there for cycles only, and sessions leave none: they are freed by their reference counts. So
what has survived a full collection is frozen, and left out of most of those that follow.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import Final

FULL: Final = 2  # the generation that a full collection is of
ALL_EACH: Final = 16  # of so many full collections one looks at everything: no cycle stays for good

Collected = Callable[[str, Mapping[str, int]], None]
"""What `gc.callbacks` holds."""


def spare_old_objects() -> Collected:
    """Freeze what is there now, and from now on what survives a full collection; return what was hooked in for that.

    To be called once in a process, when all is imported and made that it begins with.
    """
    left = ALL_EACH

    def collected(phase: str, info: Mapping[str, int]) -> None:
        nonlocal left
        if info["generation"] != FULL:
            return
        if phase == "stop":
            gc.freeze()
            return
        left -= 1
        if not left:
            left = ALL_EACH
            gc.unfreeze()

    gc.collect()
    gc.freeze()
    gc.callbacks.append(collected)
    return collected
