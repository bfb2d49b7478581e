"""The places of the workers, and who serves the listeners of a place whose worker does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sstpfarm.ipc import messages as m
from sstpfarm.master.child import Backoff, Child
from sstpfarm.master.listeners import Listener
from sstpfarm.master.permissions import ProcessPhase
from sstpfarm.telemetry.log import Log
from sstpfarm.telemetry.stats import Stats

Send = Callable[[int, m.Message, Sequence[int]], None]
"""Sends a message with descriptors to the worker of that number."""


@dataclass(slots=True)
class Place:
    """The place of one worker, which several processes may fill one after another."""

    number: int
    cpu: int
    listeners: list[Listener]
    generation: int = 0  # counts the processes that were started for it
    child: Child | None = None
    stats: Stats | None = None
    backoff: Backoff = field(default_factory=Backoff)

    @property
    def ready(self) -> bool:
        """Whether its worker serves."""
        return self.child is not None and self.child.phase is ProcessPhase.READY and self.child.status is None


class Lending:
    """Lend the listeners of places without a worker to workers that serve: no connection waits in a dead queue."""

    def __init__(self, places: Sequence[Place], send: Send, log: Log) -> None:
        self._places = places
        self._send = send
        self._log = log
        self._lent: dict[int, int] = {}  # listener number: worker that serves it in its owner's place

    def lost(self, worker: int) -> None:
        """Note that a worker is gone, and with it what it had borrowed."""
        self._lent = {listener: borrower for listener, borrower in self._lent.items() if borrower != worker}

    def share(self, load: Callable[[int], int]) -> None:
        """Give listeners back to owners that serve, and have those of others served by the worker with least load."""
        for place in self._places:
            for listener in place.listeners:
                borrower = self._lent.get(listener.number)
                if place.ready and borrower is not None:
                    del self._lent[listener.number]
                    self._send(borrower, m.TakeBackListener(listener=listener.number), ())
                    self._log.emit("listener.taken_back", listener=str(listener.endpoint), worker=borrower)
                elif not place.ready and borrower is None:
                    self._lend(listener, load)

    def _lend(self, listener: Listener, load: Callable[[int], int]) -> None:
        ready = [place.number for place in self._places if place.ready]
        if not ready:
            return  # the next worker that becomes ready gets it
        worker = min(ready, key=load)
        try:
            self._send(worker, m.LendListener(listener=listener.number), (listener.sock.fileno(),))
        except OSError as error:  # no descriptor is left: whoever waits there waits for its owner
            self._log.emit("internal.error", detail=f"{listener.endpoint} cannot be lent: {error.strerror}")
            return
        self._lent[listener.number] = worker
        self._log.emit("listener.lent", listener=str(listener.endpoint), worker=worker)
