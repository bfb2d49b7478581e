"""As many logins a second as the server and this machine can."""

from __future__ import annotations

from loadtest.caller import Caller
from loadtest.measures import Tally
from loadtest.orders import Order, Storm
from loadtest.scenarios.base import SessionStages


class StormStages(SessionStages):
    """A session that is up is ended at once, unless they are to be kept."""

    def __init__(self, order: Order, plan: Storm, tally: Tally) -> None:
        super().__init__(order, tally)
        self._plan = plan

    def begin(self) -> None:
        """All of it is here."""
        self.bring_up(self.numbers(self._plan.count))

    def up(self, caller: Caller) -> None:
        """Make room for the next."""
        if not self._plan.keep:
            self.hang_up([caller])
        super().up(caller)
