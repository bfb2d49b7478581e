"""Many sessions in one process, one of which stops to read: what the others' echo requests see of it.

    python -m tests.e2e.stalling_crowd HOST PORT COUNT PASSWORD

Runs in the client's namespace; users are user1 ... userCOUNT, and user1's session is the one that stalls. It follows
words on standard input, one a line, and answers each with a line of JSON on standard output:

    go       the address of the session that will stall, once all are up
    read     a window with that session reading: {"sent", "received", "p50", "p95"}, the latter in milliseconds
    stall    a window with it not reading
    flood    it asks for LCP echoes whose answers it does not read: {}
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
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
GRACE: Final = 0.4  # and in which the last answers come
INTERVAL: Final = 0.05  # between two packets of one session
SIZE: Final = 500
LOGINS: Final = 24  # at once
ECHOES: Final = 320  # fewer than the burst that counts as a flood; their answers are more than may wait


class Stalling:
    """The director of the crowd."""

    def __init__(self, host: str, port: int, count: int, password: str) -> None:
        target = Target(host, port, host, "user{n}", Password(password))
        order = Order(target, Hold(seconds=60, sessions=count), 0, 1)
        self.crowd = Crowd(order, Tally())
        self.crowd.direct(self)
        self.count = count
        self.next = 1
        self.all_up = asyncio.Event()
        self.callers: dict[int, Caller] = {}
        self.sent: dict[tuple[int, int], float] = {}
        self.round_trips: list[float] = []

    # -- director ----------------------------------------------------------------------------------------------------

    def up(self, caller: Caller) -> None:
        """Begin the next login."""
        self.callers[caller.number] = caller
        self.dial()
        if len(self.callers) == self.count:
            self.all_up.set()

    def gone(self, caller: Caller, *, was_up: bool) -> None:
        """Only the one that stalls may go."""
        if caller.number != 1:
            sys.exit(f"session {caller.number} is gone: {self.crowd.tally.counts}")

    def packet(self, caller: Caller, packet: memoryview) -> None:
        """An answer; the flood that one session gets is no answer."""
        if packet[9] == packets.PROTOCOL_ICMP:
            stamp = packets.read_packet(packet, caller.address)
            began = self.sent.pop((caller.number, stamp.sequence), None)
            if began is not None:
                self.round_trips.append(monotonic() - began)

    def writable(self, caller: Caller) -> None:
        """Nothing waits here."""

    # -- words -------------------------------------------------------------------------------------------------------

    def dial(self) -> None:
        """One more login, if one is missing."""
        if self.next <= self.count:
            self.next += 1
            self.crowd.dial(self.next - 1)

    async def go(self) -> str:
        """Bring all up."""
        for _ in range(LOGINS):
            self.dial()
        await self.all_up.wait()
        stalled = self.callers[1]
        assert stalled._sock is not None
        # else the kernel takes megabytes for a client that does not read
        stalled._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
        return str(IPv4Address(stalled.address))

    async def window(self) -> dict[str, float]:
        """Let all but the one send; what comes back, and when."""
        senders = [caller for number, caller in self.callers.items() if number != 1]
        self.sent.clear()
        self.round_trips.clear()
        began, turn, total = monotonic(), 0, 0
        step = INTERVAL / len(senders)
        while turn * step < WINDOW:
            while turn * step <= monotonic() - began:
                caller = senders[turn % len(senders)]
                self.sent[caller.number, turn] = monotonic()
                body = packets.payload(packets.Kind.ECHO, 0, turn, 0, SIZE - packets.IPV4_HEADER - packets.ICMP_HEADER)
                total += caller.send([packets.echo_request(caller.address, caller.gateway, caller.number, turn, body)])
                turn += 1
            await asyncio.sleep(0.001)
        await asyncio.sleep(GRACE)
        times = sorted(self.round_trips)
        return {
            "sent": total,
            "received": len(times),
            "p50": 1000 * times[len(times) // 2],
            "p95": 1000 * times[len(times) * 95 // 100],
        }

    async def obey(self, word: str) -> Any:
        """Do one word."""
        stalled = self.callers.get(1)
        match word:
            case "go":
                return await self.go()
            case "read":
                assert stalled is not None
                self.crowd.around.poller.add_reader(stalled._fd, stalled._readable)
                await asyncio.sleep(0.2)
                return await self.window()
            case "stall":
                assert stalled is not None
                self.crowd.around.poller.remove_reader(stalled._fd)
                await asyncio.sleep(0.2)
                return await self.window()
            case "flood":
                assert stalled is not None
                assert stalled._pump is not None
                echo = bytes.fromhex("ff03c021") + struct.pack("!BBHI", 9, 1, 1408, 0) + bytes(1400)
                stalled._pump.send((struct.pack("!HH", 0x1000, 4 + len(echo)) + echo) * ECHOES)
                stalled._flush()
                return {}
        raise ValueError(word)


async def main(host: str, port: str, count: str, password: str) -> None:
    """Obey until the input ends."""
    crowd = Stalling(host, int(port), int(count), password)
    loop = asyncio.get_running_loop()
    while word := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        print(json.dumps(await crowd.obey(word)), flush=True)  # noqa: T201 - this program's output


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
