"""A world of two tunnel cores: a virtual clock, a wire that cuts and delays, an auth that takes its time.

client Tunnel + PurePath  ==(ordered bytes, random chunks, random delays)==  PurePath + server Tunnel
"""

from __future__ import annotations

import heapq
import random
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import IPv4Address
from itertools import count

from sstpfarm.dataplane.interface import CELLS, FramingError
from sstpfarm.dataplane.pure import PurePath
from sstpfarm.proto.events import AuthRequest, AuthSucceeded, Ipv4Opened, LcpOpened
from sstpfarm.proto.ppp.link import PppSettings
from sstpfarm.proto.roles import AuthMethod, Ipv4Terms, Ipv6Terms, Role
from sstpfarm.proto.sstp.call import CertificateHash, SstpSettings
from sstpfarm.proto.tunnel import GatesChanged, Tunnel, TunnelEnded, TunnelEvent, TunnelSettings
from sstpfarm.reasons import Reason
from sstpfarm.transport.path_settings import gates_of, set_limits
from tests.unit.judging import PasswordJudge

CERTIFICATE = CertificateHash(sha1=b"\x01" * 20, sha256=b"\x02" * 32)
GATEWAY, ADDRESS = IPv4Address("10.20.0.1"), IPv4Address("10.20.0.7")
PASSWORD = "päss-\U0001f600"


def settings(role: Role, *methods: AuthMethod, password: str = PASSWORD, mask: int = 3) -> TunnelSettings:
    """Defaults of both roles, under the virtual clock."""
    return TunnelSettings(
        sstp=SstpSettings(role=role, certificates=(CERTIFICATE,), hash_mask=mask),
        ppp=PppSettings(role=role, methods=methods or tuple(AuthMethod), user=b"alice", password=password),
        host="vpn.example",
        date=lambda: "Sat, 21 Nov 2026 00:00:00 GMT",
    )


class End:
    """One side: core, packet path, what happened."""

    def __init__(self, world: World, role: Role, tunnel_settings: TunnelSettings) -> None:
        self.world, self.role = world, role
        self.entropy = random.Random(
            f"{role} of {world.seed}"
        ).randbytes  # apart from the wire's: chunks change nothing
        self.tunnel = Tunnel(tunnel_settings, self.entropy)
        self.cells = memoryview(array("Q", bytes(8 * CELLS)))
        self.path = PurePath(memoryview(array("Q", bytes(8 * CELLS))), self.cells)
        self.path.set_sources(((0, 0),), ((0, 0),))
        self.events: list[TunnelEvent] = []
        self.ended: tuple[float, TunnelEnded] | None = None
        self.opened_at: float | None = None
        self.mute = False  # what it sends is lost from now on
        self.auth_delay = self.configure_delay = 0.0
        self.wire_free_at = 0.0
        self.judge = PasswordJudge(PASSWORD, self.entropy)
        self.other: End

    def receive(self, data: bytes) -> None:
        """Bytes from the wire."""
        if self.ended:
            return
        now, plain = self.world.now, memoryview(data)
        self.tunnel.heard(now)
        if self.tunnel.wants_head:
            plain = memoryview(self.tunnel.receive_head(plain, now))
            self.settle()
        try:
            while plain and not self.tunnel.ended:
                consumed, frame = self.path.feed(plain)
                if frame is None:
                    break
                plain = plain[consumed:]
                self.tunnel.receive_frame(frame, now)
                self.settle()
                for packet in self.tunnel.packets():
                    self.path.deliver(packet)
        except FramingError as error:
            self.tunnel.broken(Reason.BAD_FRAMING, str(error))
        self.settle()

    def settle(self) -> None:
        """What the asyncio glue does after each call."""
        while True:
            data = self.tunnel.data_to_send()
            if data and not self.mute:
                self.world.carry(self, data)
            events = self.tunnel.events()
            if not events:
                return
            for event in events:
                self.events.append(event)
                self.on(event)

    def on(self, event: TunnelEvent) -> None:
        """The driver's part."""
        world = self.world
        match event:
            case LcpOpened():
                set_limits(self.path, event)
            case GatesChanged():
                self.path.set_gates(gates_of(event))
                if event.ipv4 and self.opened_at is None:
                    self.opened_at = world.now
            case AuthRequest():
                decision = self.judge.decide(event)
                world.later(self.auth_delay, lambda: self.tunnel.auth_result(decision, world.now))
            case AuthSucceeded():
                server = self.role is Role.SERVER
                terms = Ipv4Terms(local=GATEWAY, peer=ADDRESS, dns=(GATEWAY,)) if server else Ipv4Terms()
                terms6 = Ipv6Terms(local=bytes([0, *self.entropy(7)]))
                world.later(self.configure_delay, lambda: self.tunnel.configure(terms, terms6, world.now))
            case TunnelEnded():
                self.ended = world.now, event
                if event.drop or not self.mute:
                    world.later(0.01, self.other.hang_up)

    def hang_up(self) -> None:
        """The other side has closed TCP: all that it sent has arrived before."""
        world = self.world
        if world.now < self.other.wire_free_at:
            world.later(self.other.wire_free_at - world.now + 0.001, self.hang_up)
        elif not self.ended:
            self.tunnel.broken(self.tunnel.reason or Reason.TRANSPORT_LOST, "closed")
            self.settle()

    @property
    def ipv4(self) -> Ipv4Opened | None:
        """The last agreement of IPCP."""
        return next((event for event in reversed(self.events) if isinstance(event, Ipv4Opened)), None)


@dataclass(order=True)
class Due:
    """Something that happens at a moment."""

    at: float
    order: int
    what: Callable[[], None] = field(compare=False)


class World:
    """The clock, the wire and both ends."""

    def __init__(self, seed: int, client: TunnelSettings, server: TunnelSettings, *, chunk: int = 0) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.now = 1000.0
        self.delay = 0.02
        self.chunk = chunk  # bytes in one piece; 0 draws each anew
        self._due: list[Due] = []
        self._order = count()
        self.client = End(self, Role.CLIENT, client)
        self.server = End(self, Role.SERVER, server)
        self.client.other, self.server.other = self.server, self.client

    def later(self, delay: float, what: Callable[[], None]) -> None:
        """Do something after a delay, and what follows from it."""
        heapq.heappush(self._due, Due(self.now + delay, next(self._order), what))

    def carry(self, source: End, data: bytes) -> None:
        """Cut the bytes into pieces and deliver them in order."""
        at = max(source.wire_free_at, self.now)
        while data:
            size = self.chunk or self.random.choice((1, 2, 3, 7, 20, 100, len(data)))
            piece, data = data[:size], data[size:]
            at += self.random.random() * self.delay
            heapq.heappush(self._due, Due(at, next(self._order), partial(source.other.receive, piece)))
        source.wire_free_at = at

    def start(self) -> None:
        """TLS is up at both ends."""
        for end in (self.server, self.client):
            end.tunnel.start(self.now)
            end.settle()

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Let time pass: pieces, delays and deadlines in their order."""
        limit, steps = self.now + seconds, 0
        while not until():
            steps += 1
            assert steps < 200_000, "the world does not come to rest"
            deadlines = [
                (deadline, end)
                for end in (self.client, self.server)
                if end.ended is None and (deadline := end.tunnel.next_deadline()) is not None
            ]
            next_due = self._due[0].at if self._due else float("inf")
            next_deadline = min((deadline for deadline, _ in deadlines), default=float("inf"))
            self.now = max(self.now, min(next_due, next_deadline, limit))
            if self.now >= limit:
                return
            if next_due <= next_deadline:
                heapq.heappop(self._due).what()
            for deadline, end in deadlines:
                if deadline <= self.now and end.ended is None:
                    end.tunnel.tick(self.now)
            for end in (self.client, self.server):
                end.settle()

    def is_open(self) -> bool:
        """Both ends carry IPv4."""
        return self.client.opened_at is not None and self.server.opened_at is not None

    def is_over(self) -> bool:
        """Both ends have ended."""
        return self.client.ended is not None and self.server.ended is not None


def with_keepalive(value: TunnelSettings, seconds: float | None) -> TunnelSettings:
    """The same with another keepalive-timeout."""
    return replace(value, sstp=replace(value.sstp, keepalive=seconds))
