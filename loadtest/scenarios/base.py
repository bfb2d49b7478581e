"""What the scenarios share: sessions are brought up with a bounded number of logins in progress, and ended in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from loadtest.caller import Caller
from loadtest.crowd import Crowd
from loadtest.measures import Tally
from loadtest.orders import Order


class Stages:
    """A scenario as the generator drives it: `begin`, then `measure` once it is settled, then `finish`.

    Attributes:
        settled: what `begin` started is done.
        finished: what `finish` started is done.
    """

    def __init__(self, order: Order, tally: Tally) -> None:
        self.order = order
        self.tally = tally
        self.settled = self.finished = False

    def begin(self) -> None:
        """Bring up what the scenario needs."""
        self.settled = True

    def measure(self) -> None:
        """The measured stage begins."""

    def finish(self) -> None:
        """The measured stage is over: end everything."""
        self.finished = True

    def look(self) -> None:
        """Set the gauges; called before each report."""


class SessionStages(Stages):
    """A scenario whose clients are ordinary ones.

    `window` logins are in progress at once (a share of the plan's), and `end_window` ends: as many, if a scenario wants
    no other number.
    """

    def __init__(self, order: Order, tally: Tally) -> None:
        super().__init__(order, tally)
        self.crowd = Crowd(order, tally)
        self.crowd.direct(self)
        self.window = self.end_window = max(1, order.share(order.scenario.window))
        self._waiting: deque[int] = deque()  # numbers of the sessions to begin
        self._ending: deque[Caller] = deque()  # sessions to end
        self._hanging_up: set[Caller] = set()
        self._bringing_up = self._finishing = False
        self._woken = False

    def numbers(self, count: int) -> Iterable[int]:
        """The numbers of our share of `count` sessions."""
        step = self.order.processes
        return range(self.order.index, self.order.index + step * self.order.share(count), step)

    def bring_up(self, numbers: Iterable[int]) -> None:
        """Begin these sessions; `settled` is set when each is up or has failed, and those to be ended have ended."""
        self._bringing_up = True
        self._waiting.extend(numbers)
        self._wake()

    def hang_up(self, callers: Iterable[Caller]) -> None:
        """End these sessions in order."""
        self._ending.extend(callers)
        self._wake()

    def finish(self) -> None:
        """End all sessions."""
        self._finishing = True
        self._waiting.clear()
        self.hang_up(self.crowd.callers - self._hanging_up)

    def look(self) -> None:
        """Set the gauges."""
        self.tally.gauges.update(up=self.crowd.up_count, starting=self.crowd.starting)

    # -- Director ----------------------------------------------------------------------------------------------------

    def up(self, caller: Caller) -> None:
        """A login is done."""
        self._wake()

    def gone(self, caller: Caller, *, was_up: bool) -> None:
        """A client has ended."""
        self._hanging_up.discard(caller)
        self._wake()

    def packet(self, caller: Caller, packet: memoryview) -> None:
        """Nobody asked for it: router advertisements and the like are not IPv4, so it is counted as stray."""
        self.tally.add("packets stray")

    def writable(self, caller: Caller) -> None:
        """Nothing waits for it."""

    # -- inside ------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Look at the queues soon, from the loop: never from inside of a client's callback."""
        if not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        self._woken = False
        while self._ending and len(self._hanging_up) < self.end_window:
            caller = self._ending.popleft()
            if caller in self.crowd.callers and caller not in self._hanging_up:
                self._hanging_up.add(caller)
                caller.hang_up()
        while self._waiting and self.crowd.starting < self.window:
            self.crowd.dial(self._waiting.popleft())
        if self._bringing_up and not (self._waiting or self._ending or self._hanging_up or self.crowd.starting):
            self.settled = True
        if self._finishing and not self.crowd.callers:
            self.finished = True
