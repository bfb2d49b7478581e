"""Hostile connections, and one honest client that measures whether logins still work beside them.

Generator 0 is the honest client, all others attack: what the attack costs this program must not show in the
measurement. Every attack ends with the server closing the connection, or with ours; then it begins anew.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import ssl
import struct
from time import monotonic
from typing import Final

from loadtest.caller import Caller
from loadtest.measures import Tally
from loadtest.orders import Attack, Hostile, Order
from loadtest.scenarios.base import SessionStages, Stages
from sstpfarm.proto.sstp.http import encode_request
from sstpfarm.transport.tls_context import client_context

TICK: Final = 0.05  # seconds between looks at what attackers are due
BYTE_INTERVAL: Final = 1.0  # seconds
GARBAGE: Final = 20_480  # bytes: more than the HTTP head of any server
RECORD: Final = 16_384  # read at once
RESET: Final = struct.pack("ii", 1, 0)  # struct linger: close with a reset (socket(7))
CONTROL_BYTE: Final = b"\x10\x01"  # MS-SSTP 2.2.2: version, C bit


class ProbeStages(SessionStages):
    """Generator 0: logs in, ends, waits, logs in. Durations: ``probe before``, ``probe during``, whole logins."""

    def __init__(self, order: Order, plan: Hostile, tally: Tally) -> None:
        super().__init__(order, tally)
        self._plan = plan
        self._stage = "before"
        self._stopped = False

    def begin(self) -> None:
        """Measure the baseline."""
        self._dial()
        asyncio.get_running_loop().call_later(self._plan.baseline, self._settle)

    def _settle(self) -> None:
        self.settled = True

    def measure(self) -> None:
        """The attack begins."""
        self._stage = "during"

    def finish(self) -> None:
        """No more logins."""
        self._stopped = True
        super().finish()

    def up(self, caller: Caller) -> None:
        """Note how long it took, and end it."""
        self.tally.observe(f"probe {self._stage}", monotonic() - caller.began)
        self.hang_up([caller])

    def gone(self, caller: Caller, *, was_up: bool) -> None:
        """The next one follows."""
        if not was_up and not caller.wanted_end:
            self.tally.add(f"probe failed {self._stage}")
        asyncio.get_running_loop().call_later(self._plan.probe_interval, self._dial)
        super().gone(caller, was_up=was_up)

    def _dial(self) -> None:
        if not self._stopped:
            self.crowd.dial(0)


class Attacker:
    """One hostile connection; `step` is called again and again, and never waits.

    Attributes:
        ended: how it ended, "" while it lives: ``closed`` by the server, ``reset`` (either side), ``refused``.
    """

    __slots__ = ("_due", "_incoming", "_object", "_outgoing", "_sent", "_sock", "_waiting", "attack", "began", "ended")

    def __init__(self, attack: Attack, address: tuple[str, int], context: ssl.SSLContext) -> None:
        self.attack = attack
        self.began = self._due = monotonic()
        self.ended = ""
        self._waiting = b""  # what goes out one byte at a time
        self._sent = False
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, False, None)
        self._sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_STREAM)
        self._sock.setblocking(False)
        try:
            self._sock.connect(address)
        except BlockingIOError:
            pass
        except OSError:
            self._end("refused")

    def step(self, now: float) -> None:
        """Do what is due."""
        try:
            if not self.ended:
                self._read()
            if not self.ended:
                self._act(now)
        except ssl.SSLError:
            self.close("closed")  # an alert: the server ends it
        except BlockingIOError:
            return
        except OSError:
            self.close("reset")

    def close(self, how: str) -> None:
        """End it from this side."""
        if not self.ended:
            self._end(how)

    def _end(self, how: str) -> None:
        self.ended = how
        self._sock.close()

    def _read(self) -> None:
        try:
            data = self._sock.recv(RECORD)
        except BlockingIOError:
            return
        if not data:
            self._end("closed")
            return
        if self.attack is Attack.DROP and self._sent:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self._end("dropped")
            return
        self._incoming.write(data)

    def _act(self, now: float) -> None:
        match self.attack:
            case Attack.SILENT:
                if not self._sent:
                    self._sock.getpeername()  # OSError while it is not connected
                    self._sent = True
            case Attack.SLOW_HELLO | Attack.DROP:
                if not self._waiting and not self._sent:
                    self._shake()
                    self._waiting, self._sent = self._outgoing.read(), True
                self._trickle(now, whole=self.attack is Attack.DROP)
            case Attack.SLOW_HEAD | Attack.GARBAGE | Attack.GARBAGE_FRAMES:
                self._over_tls(now)

    def _over_tls(self, now: float) -> None:
        if not self._shake():
            self._push()
            return
        if self.attack is Attack.SLOW_HEAD:
            self._waiting = self._waiting or encode_request("load.test", "{" + "0" * 36 + "}")
            if now >= self._due:
                self._object.write(self._waiting[:1])
                self._waiting, self._due = self._waiting[1:], now + BYTE_INTERVAL
        elif not self._sent:
            if self.attack is Attack.GARBAGE_FRAMES:
                self._object.write(encode_request("load.test", "{" + "0" * 36 + "}"))
                frames = (CONTROL_BYTE + struct.pack("!H", 64) + os.urandom(60) for _ in range(GARBAGE // 64))
                self._object.write(b"".join(frames))
            else:
                self._object.write(os.urandom(GARBAGE))
            self._sent = True
        try:
            if not self._object.read(RECORD):
                self._push()
                self._end("closed")
                return
        except ssl.SSLWantReadError:
            pass
        self._push()

    def _shake(self) -> bool:
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def _push(self) -> None:
        data = self._outgoing.read()
        if data:
            self._sock.send(data)  # a few hundred bytes: a socket that does not take them whole is lost

    def _trickle(self, now: float, *, whole: bool) -> None:
        if self._waiting and now >= self._due:
            sent = self._sock.send(self._waiting if whole else self._waiting[:1])
            self._waiting, self._due = self._waiting[sent:], now + BYTE_INTERVAL


class AttackStages(Stages):
    """All other generators: keep our share of the connections going.

    Counters: ``hostile ATTACK``, ``hostile ATTACK: HOW``. Gauge: ``hostile``. Durations: ``hostile ATTACK``.
    """

    def __init__(self, order: Order, plan: Hostile, tally: Tally) -> None:
        super().__init__(order, tally)
        self._plan = plan
        attackers = order.processes - 1
        self._share = max(1, plan.connections // attackers)
        self._rate = plan.rate / attackers
        self._context = client_context(ca_pem=None, verify=False)
        self._attackers: list[Attacker] = []
        self._random = random.Random(order.index)  # noqa: S311 - which attack comes next is no secret
        self._allowed, self._allowed_at = 0.0, 0.0
        self._stopped = False

    def measure(self) -> None:
        """Begin."""
        self._allowed_at = monotonic()
        self._tick()

    def finish(self) -> None:
        """Stop all."""
        self._stopped = True
        for attacker in self._attackers:
            attacker.close("ended")
        self._attackers.clear()
        self.finished = True

    def look(self) -> None:
        """Set the gauge."""
        self.tally.gauges["hostile"] = len(self._attackers)

    def _tick(self) -> None:
        if self._stopped:
            return
        now = monotonic()
        alive = []
        for attacker in self._attackers:
            attacker.step(now)
            if attacker.ended:
                self.tally.add(f"hostile {attacker.attack}: {attacker.ended}")
                self.tally.observe(f"hostile {attacker.attack}", now - attacker.began)
            else:
                alive.append(attacker)
        self._attackers = alive
        self._allowed = min(self._rate, self._allowed + (now - self._allowed_at) * self._rate)
        self._allowed_at = now
        target = (self.order.target.address, self.order.target.port)
        while self._allowed >= 1 and len(self._attackers) < self._share:
            self._allowed -= 1
            attack = self._random.choice(self._plan.attacks)
            self.tally.add(f"hostile {attack}")
            self._attackers.append(Attacker(attack, target, self._context))
        asyncio.get_running_loop().call_later(TICK, self._tick)
