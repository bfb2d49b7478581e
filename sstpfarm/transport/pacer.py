"""One timer for all limited sessions of a process: each that waits for tokens is called again after a tick.

All wait equally long, so a plain queue is in the order of time, whatever the number of sessions.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final

TICK: Final = 0.01  # seconds: the delay that a limit adds at most, beside its queue
CALLS_PER_TURN: Final = 64  # the loop's other work gets its turn in between


class Pacer:
    """Calls back, once for each `wait`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[tuple[float, Callable[[], None]]] = deque()
        self._timer: asyncio.Handle | None = None

    def wait(self, callback: Callable[[], None]) -> None:
        """Call back after a tick. A caller that has no more use for it lets it come."""
        self._waiting.append((monotonic() + TICK, callback))
        if self._timer is None:
            self._arm()

    def _arm(self) -> None:
        delay = self._waiting[0][0] - monotonic()
        self._timer = self._loop.call_later(delay, self._turn) if delay > 0 else self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._timer = None
        now = monotonic()
        try:
            for _ in range(CALLS_PER_TURN):
                if not self._waiting or self._waiting[0][0] > now:
                    break
                self._waiting.popleft()[1]()
        finally:
            if self._waiting and self._timer is None:
                self._arm()
