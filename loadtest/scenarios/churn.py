"""Sessions that come at a rate, send a little, wait for the answers, and go."""

from __future__ import annotations

import asyncio
import heapq
from time import monotonic
from typing import Final

from loadtest.caller import Caller
from loadtest.measures import Tally
from loadtest.orders import Churn, Order
from loadtest.scenarios.base import SessionStages
from loadtest.scenarios.traffic import GRACE, Echo

TICK: Final = 0.005  # seconds
PROBE_BYTES: Final = 128  # of an echo request, as an IP packet


class ChurnStages(SessionStages):
    """An arrival that finds `window` logins in progress is skipped and counted: the server is slower than the rate."""

    def __init__(self, order: Order, plan: Churn, tally: Tally) -> None:
        super().__init__(order, tally)
        self._plan = plan
        self._rate = plan.rate / order.processes
        self._echo = Echo(tally, None)
        self._arrival = 0.0
        self._arrivals = 0
        self._due: list[tuple[float, int, float, Caller]] = []  # moment of its next packet, number, moment of its end
        self._stopped = False

    def measure(self) -> None:
        """Let them come."""
        self._arrival = monotonic()
        self._tick()

    def finish(self) -> None:
        """No more arrivals; the rest is ended, once the last answers have come."""
        self._stopped = True
        asyncio.get_running_loop().call_later(GRACE, super().finish)

    def up(self, caller: Caller) -> None:
        """It lives from now on."""
        now = monotonic()
        heapq.heappush(self._due, (now, caller.number, now + self._plan.life, caller))
        super().up(caller)

    def packet(self, caller: Caller, packet: memoryview) -> None:
        """An echo came back."""
        self._echo.came(caller, packet)

    def _tick(self) -> None:
        if self._stopped:
            return
        now = monotonic()
        while self._arrival <= now:
            self._arrival += 1 / self._rate
            if self.crowd.starting < self.window:
                number = self.order.index + self.order.processes * self._arrivals
                self._arrivals += 1
                self.crowd.dial(number)
            else:
                self.tally.add("arrivals skipped")
        while self._due and self._due[0][0] <= now:
            _, number, end, caller = heapq.heappop(self._due)
            if caller not in self.crowd.callers:
                continue
            awaits = caller.flow is not None and caller.flow.lost > 0
            if now >= end + (GRACE if awaits else 0):
                self.hang_up([caller])
            elif now >= end:
                heapq.heappush(self._due, (now + TICK, number, end, caller))
            else:
                self._echo.send(caller, PROBE_BYTES)
                heapq.heappush(self._due, (now + self._plan.interval, number, end, caller))
        asyncio.get_running_loop().call_later(TICK, self._tick)
