"""Many sessions with a steady rate each: what is lost, reordered, late or damaged on the way there and back."""

from __future__ import annotations

import asyncio
import heapq
from ipaddress import IPv4Address
from time import monotonic, monotonic_ns
from typing import Final

from loadtest import packets
from loadtest.caller import Caller
from loadtest.flow import Flow
from loadtest.measures import Tally
from loadtest.orders import Order, Traffic
from loadtest.packets import Kind
from loadtest.scenarios.base import SessionStages

TICK: Final = 0.002  # seconds; a packet goes out at most this late when the machine keeps up
GRACE: Final = 1.0  # seconds in which the last packets may still come back
BEHIND: Final = 0.5  # seconds by which a session may fall behind before its packets are skipped and counted


class Echo:
    """Sends stamped packets of a session and accounts for their return; for every scenario that sends echoes.

    Counters: ``packets sent``, ``packets received``, ``packets reordered``, ``packets duplicated``,
    ``packets bad: WHAT``, ``bytes sent``, ``bytes received`` (IP packets both). Durations: ``round trip``.
    """

    def __init__(self, tally: Tally, sink: tuple[int, int] | None) -> None:
        self._tally = tally
        self._sink = sink

    def send(self, caller: Caller, size: int) -> bool:
        """Send one packet of that size; False when the connection is stuck, and then nothing is sent."""
        if caller.blocked or not caller.is_up:
            return False
        flow = caller.flow
        if flow is None:
            flow = caller.flow = Flow()
        size = max(packets.MIN_PACKET, min(size, caller.mtu))
        sequence = flow.next_sequence()
        headers = packets.IPV4_HEADER + packets.UDP_HEADER  # the ICMP header is as long
        data = packets.payload(Kind.ECHO, 0, sequence, monotonic_ns(), size - headers)
        if self._sink is None:
            packet = packets.echo_request(caller.address, caller.gateway, caller.number, sequence, data)
        else:
            packet = packets.datagram(caller.address, self._sink[0], self._sink[1], sequence, data)
        caller.send([packet])
        self._tally.add("packets sent")
        self._tally.add("bytes sent", size)
        return True

    def came(self, caller: Caller, packet: memoryview) -> bool:
        """Account for a packet; False when it is none of those that were sent."""
        try:
            stamp = packets.read_packet(packet, caller.address)
        except packets.Bad as error:
            self._tally.add(f"packets bad: {error}")
            return False
        flow = caller.flow
        if flow is None or stamp.kind != Kind.ECHO:
            self._tally.add("packets stray")
            return False
        reordered, duplicated = flow.reordered, flow.duplicated
        if flow.came(stamp.sequence):
            self._tally.add("packets received")
            self._tally.add("bytes received", len(packet))
            self._tally.observe("round trip", (monotonic_ns() - stamp.nanoseconds) / 1e9)
        if flow.reordered > reordered:
            self._tally.add("packets reordered")
        if flow.duplicated > duplicated:
            self._tally.add("packets duplicated")
        return True


class TrafficStages(SessionStages):
    """One timer for all sessions; a heap says whose packet is due.

    Durations: ``generator late`` is how much later than planned packets went out: what the harness adds to the latency.
    """

    def __init__(self, order: Order, plan: Traffic, tally: Tally) -> None:
        super().__init__(order, tally)
        self._plan = plan
        self._echo = Echo(tally, sink_of(plan.sink))
        self._due: list[tuple[float, int, int, Caller]] = []  # moment, session, its packets so far
        self._stopped = False

    def begin(self) -> None:
        """Bring all sessions up."""
        self.bring_up(self.numbers(self._plan.sessions))

    def measure(self) -> None:
        """Start sending; the sessions' beginnings are spread over the time of one packet."""
        now = monotonic()
        callers = sorted(self.crowd.callers, key=lambda caller: caller.number)
        first = 8 * self._plan.sizes[0] / self._plan.bits
        for place, caller in enumerate(callers):
            # a session's place in the mix of sizes is its own, else all send their large packets at once
            self._due.append((now + first * place / len(callers), caller.number, place, caller))
        heapq.heapify(self._due)
        self._tick()

    def finish(self) -> None:
        """Wait for the last packets, then end the sessions."""
        self._stopped = True
        asyncio.get_running_loop().call_later(GRACE, super().finish)

    def packet(self, caller: Caller, packet: memoryview) -> None:
        """An echo came back."""
        self._echo.came(caller, packet)

    def _tick(self) -> None:
        if self._stopped:
            return
        now = monotonic()
        due, sizes, bits = self._due, self._plan.sizes, self._plan.bits
        while due and due[0][0] <= now:
            at, number, turn, caller = heapq.heappop(due)
            if caller not in self.crowd.callers:
                continue
            size = sizes[turn % len(sizes)]
            self.tally.observe("generator late", now - at)
            if not self._echo.send(caller, size):
                self.tally.add("packets held back")
            following = at + 8 * size / bits
            if following < now - BEHIND:
                self.tally.add("packets skipped", int((now - following) * bits / 8 / size))
                following = now
            heapq.heappush(due, (following, number, turn + 1, caller))
        asyncio.get_running_loop().call_later(TICK, self._tick)


def sink_of(sink: tuple[str, int] | None) -> tuple[int, int] | None:
    """The reflector's address as a number."""
    return (int(IPv4Address(sink[0])), sink[1]) if sink is not None else None
