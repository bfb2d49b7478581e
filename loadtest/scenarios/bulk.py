"""A few sessions that move as much as they can, in big packets.

echo   ICMP echo to the server's own address, `flight` bytes on their way at once: works with any server
up     datagrams to a reflector behind the server, as fast as the connection takes them; the reflector counts
down   bursts of datagrams from a reflector; a burst that came whole, or is overdue, asks for the next
"""

from __future__ import annotations

import asyncio
from time import monotonic, monotonic_ns
from typing import Final

from loadtest import packets
from loadtest.caller import Caller
from loadtest.flow import Flow
from loadtest.measures import Tally
from loadtest.orders import Bulk, Order
from loadtest.packets import IPV4_HEADER, UDP_HEADER, Kind, Stamp
from loadtest.scenarios.base import SessionStages
from loadtest.scenarios.traffic import Echo, sink_of

TICK: Final = 0.02  # seconds between looks at what is overdue
OVERDUE: Final = 0.2  # seconds after which what has not come counts as lost, and is replaced
BATCH: Final = 32  # packets sent or asked for at once
QUERY_INTERVAL: Final = 0.25  # seconds
GRACE: Final = 1.0  # seconds for the last answers


class Mover:
    """What one session has on its way."""

    __slots__ = ("heard", "last", "on_way", "reported", "sequence")

    def __init__(self) -> None:
        self.on_way = 0  # packets, or packets of bursts
        self.heard = 0.0  # when something last came
        self.last = 0.0  # when the last query was sent
        self.reported = (0, 0)  # packets and bytes that the reflector counted so far
        self.sequence = 0


class BulkStages(SessionStages):
    """Counters as `Echo`; for up ``sent`` is what the connection took, ``received`` what the sink counted."""

    def __init__(self, order: Order, plan: Bulk, tally: Tally) -> None:
        super().__init__(order, tally)
        self._plan = plan
        self._sink = sink_of(plan.sink)
        self._echo = Echo(tally, self._sink)
        self._movers: dict[Caller, Mover] = {}
        self._stopped = False

    def begin(self) -> None:
        """Bring all sessions up."""
        self.bring_up(self.numbers(self._plan.sessions))

    def measure(self) -> None:
        """Start moving."""
        for caller in self.crowd.callers:
            self._movers[caller] = Mover()
            self._move(caller)
        self._tick()

    def finish(self) -> None:
        """Stop, wait for the last answers, end the sessions."""
        self._stopped = True
        if self._plan.direction == "up":
            for caller, mover in self._movers.items():
                self._query(caller, mover, monotonic())
        asyncio.get_running_loop().call_later(GRACE, super().finish)

    def writable(self, caller: Caller) -> None:
        """Go on."""
        self._move(caller)

    def gone(self, caller: Caller, *, was_up: bool) -> None:
        """Forget it."""
        self._movers.pop(caller, None)
        super().gone(caller, was_up=was_up)

    def packet(self, caller: Caller, packet: memoryview) -> None:
        """An echo, a count, or a packet of a burst."""
        mover = self._movers.get(caller)
        if mover is None:
            self.tally.add("packets stray")
            return
        mover.heard = monotonic()
        if self._plan.direction == "echo":
            if self._echo.came(caller, packet):
                mover.on_way = max(0, mover.on_way - 1)
        else:
            try:
                stamp = packets.read_packet(packet, caller.address)
            except packets.Bad as error:
                self.tally.add(f"packets bad: {error}")
                return
            if stamp.kind == Kind.REPORT:
                self._reported(mover, stamp)
            elif stamp.kind == Kind.SOURCE:
                self._burst(caller, mover, stamp, len(packet))
        self._move(caller)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _move(self, caller: Caller) -> None:
        mover = self._movers.get(caller)
        if mover is None or self._stopped:
            return
        if self._plan.direction == "echo":
            while mover.on_way * self._plan.size < self._plan.flight and self._echo.send(caller, self._plan.size):
                mover.on_way += 1
        elif self._plan.direction == "up":
            self._push(caller, mover)
        else:
            while (mover.on_way + BATCH) * self._plan.size <= self._plan.flight and not caller.blocked:
                self._ask(caller, mover)

    def _push(self, caller: Caller, mover: Mover) -> None:
        """One batch; the next follows from the loop, so that no session starves the others."""
        if caller.blocked or self._sink is None:
            return
        size = min(self._plan.size, caller.mtu)
        batch = []
        for _ in range(BATCH):
            data = packets.payload(Kind.DATA, 0, mover.sequence, 0, size - IPV4_HEADER - UDP_HEADER)
            batch.append(packets.datagram(caller.address, *self._sink, mover.sequence, data))
            mover.sequence += 1
        if caller.send(batch):
            self.tally.add("packets sent", BATCH)
            self.tally.add("bytes sent", BATCH * size)
            if not caller.blocked:
                asyncio.get_running_loop().call_soon(self._move, caller)

    def _query(self, caller: Caller, mover: Mover, now: float) -> None:
        if self._sink is not None and not caller.blocked:
            mover.last = now
            data = packets.payload(Kind.QUERY, 0, 0, 0, packets.STAMP.size)
            caller.send([packets.datagram(caller.address, *self._sink, 0, data)])

    def _reported(self, mover: Mover, stamp: Stamp) -> None:
        packets_before, bytes_before = mover.reported
        if stamp.sequence > packets_before:
            mover.reported = stamp.sequence, stamp.nanoseconds
            self.tally.add("packets received", stamp.sequence - packets_before)
            self.tally.add("bytes received", stamp.nanoseconds - bytes_before)

    def _ask(self, caller: Caller, mover: Mover) -> None:
        assert self._sink is not None
        size = min(self._plan.size, caller.mtu)
        data = packets.payload(Kind.BURST, BATCH, mover.sequence, monotonic_ns(), size - IPV4_HEADER - UDP_HEADER)
        if not caller.send([packets.datagram(caller.address, *self._sink, mover.sequence, data)]):
            return
        if caller.flow is None:
            caller.flow = Flow()
        caller.flow.sent += BATCH
        mover.sequence += BATCH
        mover.on_way += BATCH
        self.tally.add("packets sent", BATCH)
        self.tally.add("bytes sent", BATCH * size)

    def _burst(self, caller: Caller, mover: Mover, stamp: Stamp, size: int) -> None:
        if caller.flow is not None and caller.flow.came(stamp.sequence):
            mover.on_way = max(0, mover.on_way - 1)
            self.tally.add("packets received")
            self.tally.add("bytes received", size)
            if stamp.sequence % BATCH == 0:
                self.tally.observe("round trip", (monotonic_ns() - stamp.nanoseconds) / 1e9)

    def _tick(self) -> None:
        if self._stopped:
            return
        now = monotonic()
        for caller, mover in list(self._movers.items()):
            if self._plan.direction == "up":
                if now - mover.last >= QUERY_INTERVAL:
                    self._query(caller, mover, now)
            elif mover.on_way and now - mover.heard > OVERDUE:
                mover.on_way, mover.heard = 0, now  # lost: what never comes shows in the totals
            self._move(caller)
        asyncio.get_running_loop().call_later(TICK, self._tick)
