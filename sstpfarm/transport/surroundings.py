"""What all connections of a process share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from sstpfarm.transport.deadlines import Deadlines
from sstpfarm.transport.pacer import Pacer
from sstpfarm.transport.poller import Poller
from sstpfarm.transport.tls import SharedBuffers


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The loop, and what is made once for it."""

    loop: asyncio.AbstractEventLoop
    poller: Poller
    buffers: SharedBuffers
    deadlines: Deadlines
    pacer: Pacer = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pacer", Pacer(self.loop))
