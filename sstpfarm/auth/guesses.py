"""How many logins are judged at once: no more of a user or of a network than could fail before the door is shut.

A backend may take its time (RADIUS, argon2id), and a conversation several packets. So that guesses side by side gain
nothing over guesses one after the other, a login that is being judged counts as a failure until its verdict is there.
A conversation counts from its first packet that can hold a proof; before, only while its backend works on a packet.
One that could be too many is not refused for that: it waits in line until others are decided. So a whole office behind
one address gets in, a few at a time, as long as it does not fail more often than is free.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from sstpfarm.auth.throttle import Key, Throttle

PATIENCE: Final = 20.0  # seconds in line; a worker grants the whole authentication 60 by default


class Guess:
    """One login before its verdict.

    Attributes:
        user, caller_id: by whom it is counted.
        keys: what stands for them.
        turn: whether it is judged; without a result as long as it waits in line.
        judged: it counts as a failure now.
        told: a challenge may have told the peer that the password was wrong.
    """

    def __init__(self, guesses: Guesses, user: bytes, caller_id: str, keys: tuple[Key, ...]) -> None:
        self.user = user
        self.caller_id = caller_id
        self.keys = keys
        self.turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.judged = False
        self.told = False
        self._guesses = guesses
        self._counted = False

    def failed(self) -> None:
        """Count it as a failure, once."""
        if not self._counted:
            self._counted = True
            self._guesses.failed(self)

    def succeeded(self) -> None:
        """Forget the failures of its user."""
        self._counted = True  # it cannot fail any more
        self._guesses.succeeded(self)

    def abandon(self) -> None:
        """End it undecided, as when its peer hangs up: a failure where a challenge may have told the verdict."""
        if self.told:
            self.failed()
        else:
            self.give_back()

    def give_back(self) -> None:
        """End its judgement without a verdict, or its place in line. Idempotent."""
        self._guesses.leave(self)


class _Line:
    """Of one user or network: how many are judged, and who waits, in order."""

    __slots__ = ("judged", "waiting")

    def __init__(self) -> None:
        self.judged = 0
        self.waiting: dict[Guess, None] = {}


class Guesses:
    """Lets logins in to be judged. Its tables are bounded by the logins that its caller lets begin.

    Args:
        clock: seconds on a clock that never jumps.
    """

    def __init__(self, throttle: Throttle, clock: Callable[[], float]) -> None:
        self._throttle = throttle
        self._clock = clock
        self._lines: dict[Key, _Line] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def shut(self, user: bytes, caller_id: str) -> float:
        """Return for how many seconds more the door is shut, 0 when it is open."""
        return self._throttle.shut(user, caller_id, self._clock())

    async def enter(self, user: bytes, caller_id: str) -> Guess | None:
        """Wait until a login may be judged; None when the door is shut.

        Raises:
            TimeoutError: too many others were before it.
        """
        guess = Guess(self, user, caller_id, self._throttle.keys(user, caller_id))
        self._consider(guess)
        try:
            if not guess.turn.done():
                async with asyncio.timeout(PATIENCE):
                    await guess.turn
        except BaseException:
            guess.give_back()  # its turn may have come in the same moment
            raise
        return guess if guess.turn.result() else None

    def failed(self, guess: Guess) -> None:
        """Count a failure; then its place is free."""
        self._throttle.failed(guess.keys, self._clock())
        self.leave(guess)

    def succeeded(self, guess: Guess) -> None:
        """Forget the failures of the user; then its place is free."""
        self._throttle.succeeded(guess.user, guess.caller_id)
        self.leave(guess)

    def leave(self, guess: Guess) -> None:
        """End its judgement or its place in line; who waits behind may have the turn then."""
        if not guess.judged:
            for key in guess.keys:
                if key in self._lines:
                    self._lines[key].waiting.pop(guess, None)
            return
        guess.judged = False
        for key in guess.keys:
            self._lines[key].judged -= 1
        now = self._clock()
        for key in guess.keys:
            line = self._lines[key]
            while line.waiting and not self._throttle.is_full(key, line.judged, now):
                following = next(iter(line.waiting))
                del line.waiting[following]
                self._consider(following)
            if not line.judged and not line.waiting:
                del self._lines[key]

    def _consider(self, guess: Guess) -> None:
        """Let it in, turn it away, or put it into the line of what is full."""
        if guess.turn.done():  # cancelled in this very moment
            return
        now = self._clock()
        if self.shut(guess.user, guess.caller_id) > 0:
            guess.turn.set_result(False)
            return
        for key in self._throttle.doors(guess.user, guess.caller_id):
            line = self._lines.get(key)
            if line is not None and self._throttle.is_full(key, line.judged, now):
                line.waiting[guess] = None
                return
        for key in guess.keys:
            self._lines.setdefault(key, _Line()).judged += 1
        guess.judged = True
        guess.turn.set_result(True)
