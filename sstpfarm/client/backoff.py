"""How long the client waits before it dials again: doubled with each failure, shortened by chance, never for ever."""

from __future__ import annotations

from collections.abc import Callable
from random import SystemRandom
from typing import Final

from sstpfarm.client.plan import Delays
from sstpfarm.reasons import OUTCOMES, ExitCode, Reason

_random: Final = SystemRandom()
LASTED: Final = 60.0  # seconds of a session after which the next loss counts as the first again
MAX_DOUBLINGS: Final = 32
HUMAN: Final = frozenset({ExitCode.AUTHENTICATION, ExitCode.CERTIFICATE})
"""Exit codes of reasons that a person has to mend: dialling soon again would only lock the account."""


class Backoff:
    """The waits of one interface.

    Args:
        chance: returns numbers from 0 to 1.
    """

    def __init__(self, delays: Delays, chance: Callable[[], float] = _random.random) -> None:
        self.delays = delays
        self._chance = chance
        self._failures = 0

    def after(self, reason: Reason, lasted: float) -> float:
        """Return the seconds to wait after a session that lasted so many seconds, 0 when it never began."""
        if lasted >= LASTED:
            self._failures = 0
        delays = self.delays
        human = OUTCOMES[reason].exit_code in HUMAN
        first, longest = (delays.refused_first, delays.refused_longest) if human else (delays.first, delays.longest)
        wait = min(longest, first * 2.0 ** min(self._failures, MAX_DOUBLINGS))
        self._failures += 1
        return wait * (1 - self._chance() / 2)

    def forget(self) -> None:
        """Begin anew: somebody did something about it."""
        self._failures = 0
