"""Many sessions in one process, some of which stop to read: what the others' echo requests see of it.

    python -m tests.e2e.stalling_crowd HOST PORT COUNT STALLING PASSWORD

Runs in the client's namespace; users are user1 ... userCOUNT, and the sessions of the first STALLING stall. It follows
words on standard input, one a line, and answers each with a line of JSON on standard output:

    go                  the addresses of the sessions that will stall, once all are up
    read                a window with those reading: {"sent", "received", "p50", "p95", "worst"}, these in milliseconds
    stall               a window with them not reading
    ask FIRST LAST N    the sessions FIRST to LAST ask for N LCP echoes each, whose answers they do not read: {}
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
from contextlib import suppress
from ipaddress import IPv4Address
from time import monotonic
from typing import Any, Final

import uvloop

from loadtest import packets
from loadtest.caller import Caller
from loadtest.crowd import Crowd
from loadtest.measures import Tally
from loadtest.orders import Hold, Order
from loadtest.target import Target
from sstpfarm.config.fields import Password

WINDOW: Final = 0.8  # seconds in which each session sends
GRACE: Final = 20.0  # and at most until the last answers have come
INTERVAL: Final = 0.05  # between two packets of one session
SIZE: Final = 500
LOGINS: Final = 24  # at once
ECHO: Final = 1408  # bytes of an LCP echo request, and of its answer


class Stalling:
    """The director of the crowd."""

    def __init__(self, host: str, port: int, count: int, stalling: int, password: str) -> None:
        target = Target(host, port, host, "user{n}", Password(password))
        order = Order(target, Hold(seconds=60, sessions=count), 0, 1)
        self.crowd = Crowd(order, Tally())
        self.crowd.direct(self)
        self.count = count
        self.stalling = range(1, stalling + 1)
        self.next = 1
        self.all_up = asyncio.Event()
        self.callers: dict[int, Caller] = {}
        self.sent: dict[tuple[int, int], float] = {}
        self.answered = asyncio.Event()  # all that was sent
        self.round_trips: list[float] = []

    # -- director ----------------------------------------------------------------------------------------------------

    def up(self, caller: Caller) -> None:
        """Begin the next login."""
        self.callers[caller.number] = caller
        self.dial()
        if len(self.callers) == self.count:
            self.all_up.set()

    def gone(self, caller: Caller, *, was_up: bool) -> None:
        """Only those that stall may go."""
        if caller.number not in self.stalling:
            sys.exit(f"session {caller.number} is gone: {self.crowd.tally.counts}")

    def packet(self, caller: Caller, packet: memoryview) -> None:
        """An answer; the flood that one session gets is no answer."""
        if packet[9] == packets.PROTOCOL_ICMP:
            stamp = packets.read_packet(packet, caller.address)
            began = self.sent.pop((caller.number, stamp.sequence), None)
            if began is not None:
                self.round_trips.append(monotonic() - began)
                if not self.sent:
                    self.answered.set()

    def writable(self, caller: Caller) -> None:
        """Nothing waits here."""

    # -- words -------------------------------------------------------------------------------------------------------

    def dial(self) -> None:
        """One more login, if one is missing."""
        if self.next <= self.count:
            self.next += 1
            self.crowd.dial(self.next - 1)

    async def go(self) -> list[str]:
        """Bring all up."""
        for _ in range(LOGINS):
            self.dial()
        await self.all_up.wait()
        stalled = [self.callers[number] for number in self.stalling]
        for caller in stalled:
            assert caller._sock is not None
            # else the kernel takes megabytes for a client that does not read
            caller._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
        return [str(IPv4Address(caller.address)) for caller in stalled]

    async def window(self) -> dict[str, float]:
        """Let all others send; what comes back, and when."""
        senders = [caller for number, caller in self.callers.items() if number not in self.stalling]
        self.sent.clear()
        self.round_trips.clear()
        began, turn, total = monotonic(), 0, 0
        step = INTERVAL / len(senders)
        while turn * step < WINDOW:
            while turn * step <= monotonic() - began:
                caller = senders[turn % len(senders)]
                self.sent[caller.number, turn] = monotonic()
                body = packets.payload(packets.Kind.ECHO, 0, turn, 0, SIZE - packets.IPV4_HEADER - packets.ICMP_HEADER)
                if caller.send([packets.echo_request(caller.address, caller.gateway, caller.number, turn, body)]):
                    total += 1
                else:
                    del self.sent[caller.number, turn]
                turn += 1
            await asyncio.sleep(0.001)
        self.answered.clear()
        if self.sent:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.answered.wait(), GRACE)
        times = sorted(self.round_trips)
        return {
            "sent": total,
            "received": len(times),
            "p50": 1000 * times[len(times) // 2],
            "p95": 1000 * times[len(times) * 95 // 100],
            "worst": 1000 * times[-1],
        }

    async def read(self) -> dict[str, float]:
        """Let all read."""
        for number in self.stalling:
            stalled = self.callers[number]
            self.crowd.around.poller.add_reader(stalled._fd, stalled._readable)
        await asyncio.sleep(0.2)
        return await self.window()

    async def stall(self) -> dict[str, float]:
        """Let some read no more."""
        for number in self.stalling:
            self.crowd.around.poller.remove_reader(self.callers[number]._fd)
        await asyncio.sleep(0.2)
        return await self.window()

    def ask(self, first: int, last: int, count: int) -> dict[str, float]:
        """Ask for echoes."""
        echo = bytes.fromhex("ff03c021") + struct.pack("!BBHI", 9, 1, ECHO, 0) + bytes(ECHO - 8)
        for number in range(first, last + 1):
            stalled = self.callers[number]
            assert stalled._pump is not None
            stalled._pump.send((struct.pack("!HH", 0x1000, 4 + len(echo)) + echo) * count)
            stalled._flush()
        return {}

    async def obey(self, word: str, *arguments: str) -> Any:
        """Do one word."""
        match word:
            case "go":
                return await self.go()
            case "read":
                return await self.read()
            case "stall":
                return await self.stall()
            case "ask":
                return self.ask(*map(int, arguments))
        raise ValueError(word)


async def main(host: str, port: str, count: str, stalling: str, password: str) -> None:
    """Obey until the input ends."""
    crowd = Stalling(host, int(port), int(count), int(stalling), password)
    loop = asyncio.get_running_loop()
    while words := (await loop.run_in_executor(None, sys.stdin.readline)).split():
        print(json.dumps(await crowd.obey(*words)), flush=True)  # noqa: T201 - this program's output


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
