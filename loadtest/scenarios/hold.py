"""Many sessions that do nothing but live: both ends' keepalive is answered."""

from __future__ import annotations

from loadtest.measures import Tally
from loadtest.orders import Hold, Order
from loadtest.scenarios.base import SessionStages


class HoldStages(SessionStages):
    """Sessions that are lost are counted, and not replaced."""

    def __init__(self, order: Order, plan: Hold, tally: Tally) -> None:
        super().__init__(order, tally)
        self._plan = plan
        if plan.at_once:
            self.end_window = plan.sessions

    def begin(self) -> None:
        """Bring all sessions up."""
        self.bring_up(self.numbers(self._plan.sessions))
