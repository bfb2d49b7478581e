"""Test benches for the PPP core: one link against a script, and two links against each other on a virtual clock."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address
from typing import TypeVar

from sstpfarm.proto.events import AuthRequest, AuthSucceeded, Ipv4Opened, Ipv6Opened, LcpOpened, LinkClosed, PppEvent
from sstpfarm.proto.ppp.constants import Code, PppProtocol
from sstpfarm.proto.ppp.frame import decode_frame, encode_frame
from sstpfarm.proto.ppp.link import PppLink, PppSettings
from sstpfarm.proto.ppp.packet import Option, Packet, decode_options, decode_packet, encode_options, encode_packet
from sstpfarm.proto.roles import AuthDecision, AuthMethod, Entropy, Ipv4Terms, Ipv6Terms, Role
from sstpfarm.reasons import Reason
from tests.unit.judging import PasswordJudge

LCP, IPCP, IPV6CP, CCP = PppProtocol.LCP, PppProtocol.IPCP, PppProtocol.IPV6CP, PppProtocol.CCP
REQUEST, ACK, NAK, REJECT = Code.CONFIGURE_REQUEST, Code.CONFIGURE_ACK, Code.CONFIGURE_NAK, Code.CONFIGURE_REJECT

PASSWORD = "clientPass"
SERVER = PppSettings(role=Role.SERVER, methods=(AuthMethod.MSCHAP2,))
CLIENT = PppSettings(role=Role.CLIENT, methods=(AuthMethod.MSCHAP2,), user=b"User", password=PASSWORD)
PAP_SERVER = replace(SERVER, methods=(AuthMethod.PAP,))
OPEN_SERVER = replace(SERVER, methods=())
OPEN_CLIENT = replace(CLIENT, methods=())

GATEWAY = IPv4Address("10.9.0.1")
ASSIGNED = IPv4Address("10.9.0.5")
DNS = (IPv4Address("10.9.0.1"), IPv4Address("9.9.9.9"))
SERVER_IPV4 = Ipv4Terms(local=GATEWAY, peer=ASSIGNED, dns=DNS)
CLIENT_IPV4 = Ipv4Terms()
SERVER_IPV6 = Ipv6Terms(local=bytes.fromhex("0000000000000001"))
CLIENT_IPV6 = Ipv6Terms(local=bytes.fromhex("0000000000000002"))

Event = TypeVar("Event", bound=PppEvent)


def seeded(seed: int) -> Entropy:
    """Return an entropy source that can be replayed."""
    return random.Random(seed).randbytes


def request(identifier: int, *options: Option) -> Packet:
    """Return a Configure-Request."""
    return Packet(REQUEST, identifier, encode_options(options))


def options_of(packet: Packet) -> dict[int, bytes]:
    """Return the options of a Configure packet by type."""
    return {option.type: option.value for option in decode_options(packet.data)}


def describe(packet: Packet) -> tuple[str, list[int]]:
    """Return name and option types of a Configure packet, which is what most tests are about."""
    return Code(packet.code).name, [option.type for option in decode_options(packet.data)]


class Script:
    """One link, started, whose peer is the test itself."""

    def __init__(self, settings: PppSettings, seed: int = 1) -> None:
        self.link = PppLink(settings, seeded(seed))
        self.now = 1000.0
        self.events: list[PppEvent] = []
        self.link.start(self.now)

    def sent(self) -> list[tuple[int, Packet]]:
        """Return and forget what the link sent: protocol and packet."""
        self.events += self.link.events()
        frames = [decode_frame(frame) for frame in self.link.frames_to_send()]
        return [(protocol, decode_packet(information)) for protocol, information in frames]

    def sent_by(self, protocol: int) -> list[Packet]:
        """Return what the link sent of one protocol; forget all."""
        return [packet for sender, packet in self.sent() if sender == protocol]

    def say(self, protocol: int, packet: Packet) -> list[tuple[int, Packet]]:
        """Let the peer send a packet; return the answers."""
        self.link.receive(encode_frame(protocol, encode_packet(packet)), self.now)
        return self.sent()

    def only_answer(self, protocol: int, packet: Packet) -> Packet:
        """Let the peer send a packet; return the one answer, of the same protocol."""
        ((answered, answer),) = self.say(protocol, packet)
        assert answered == protocol
        return answer

    def wait(self, seconds: float) -> list[tuple[int, Packet]]:
        """Let the time pass, tick by tick; return what was sent."""
        until = self.now + seconds
        while (at := self.link.next_deadline()) is not None and at <= until:
            self.now = max(self.now, at)
            self.link.tick(self.now)
        self.now = until
        return self.sent()

    def took(self, kind: type[Event]) -> list[Event]:
        """Return the events of that kind so far."""
        self.events += self.link.events()
        return [event for event in self.events if isinstance(event, kind)]

    def closed(self) -> LinkClosed | None:
        """Return the end of the link, of which there is at most one."""
        ends = self.took(LinkClosed)
        assert len(ends) <= 1
        return ends[0] if ends else None

    def end_reason(self) -> Reason | None:
        """Return why the link has ended, None while it lives."""
        end = self.closed()
        return end.reason if end is not None else None

    def open_lcp(self, *options: Option) -> list[tuple[int, Packet]]:
        """Let the peer agree to all and ask for `options`; return what came once LCP was open."""
        (ours,) = self.sent_by(LCP)
        self.say(LCP, replace(ours, code=ACK))
        return self.say(LCP, request(77, *options))

    def open_network(self, ipv4: Ipv4Terms | None, ipv6: Ipv6Terms | None) -> list[tuple[int, Packet]]:
        """Open LCP without authentication and start the NCPs; return their first packets."""
        self.open_lcp()
        self.link.configure(ipv4, ipv6, self.now)
        return self.sent()


class Pair:
    """A client link against a server link: frames take `delay` seconds, `lose` picks those that get lost."""

    def __init__(
        self,
        server: PppSettings = SERVER,
        client: PppSettings = CLIENT,
        *,
        seed: int = 1,
        delay: Callable[[], float] = lambda: 0.02,
        lose: Callable[[bytes], bool] = lambda frame: False,
        password: str = PASSWORD,
        server_terms: tuple[Ipv4Terms | None, Ipv6Terms | None] = (SERVER_IPV4, SERVER_IPV6),
        client_terms: tuple[Ipv4Terms | None, Ipv6Terms | None] = (CLIENT_IPV4, CLIENT_IPV6),
        configure_delay: float = 0.5,
    ) -> None:
        self.links = {
            Role.SERVER: PppLink(server, seeded(2 * seed)),
            Role.CLIENT: PppLink(client, seeded(2 * seed + 1)),
        }
        self.events: dict[Role, list[PppEvent]] = {Role.SERVER: [], Role.CLIENT: []}
        self.now = 0.0
        self._delay, self._lose = delay, lose
        self._judge = PasswordJudge(password, seeded(9), "wrong")
        self._terms = {Role.SERVER: server_terms, Role.CLIENT: client_terms}
        self._configure_delay = {Role.SERVER: configure_delay, Role.CLIENT: 0.0}
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._arrival = {Role.SERVER: 0.0, Role.CLIENT: 0.0}
        self._number = 0
        for role, link in self.links.items():
            link.start(self.now)
            self._drain(role)

    def run(self, seconds: float) -> None:
        """Let the virtual time pass."""
        until = self.now + seconds
        for role in self.links:
            self._drain(role)
        for _ in range(100_000):
            deadlines = [link.next_deadline() for link in self.links.values()]
            at = min((d for d in deadlines if d is not None), default=until)
            if self._agenda and self._agenda[0][0] <= min(at, until):
                self.now, _, act = heapq.heappop(self._agenda)
                act()
            elif at < until:
                self.now = max(self.now, at)
                for link in self.links.values():
                    link.tick(self.now)
            else:
                self.now = until
                return
            for role in self.links:
                self._drain(role)
        raise AssertionError("the links never come to rest")

    def end(self, role: Role) -> LinkClosed | None:
        """Return how the link of that role ended; it ends once at most."""
        ends = self.took(role, LinkClosed)
        assert len(ends) <= 1
        return ends[0] if ends else None

    def took(self, role: Role, kind: type[Event]) -> list[Event]:
        """Return the events of that kind that a role had."""
        return [event for event in self.events[role] if isinstance(event, kind)]

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        self._at(self.now + seconds, act)

    def _at(self, when: float, act: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._agenda, (when, self._number, act))

    def _drain(self, role: Role) -> None:
        link = self.links[role]
        other = Role.CLIENT if role is Role.SERVER else Role.SERVER
        for event in link.events():
            self.events[role].append(event)
            if isinstance(event, AuthRequest):
                self._later(0.3, partial(self._decide, role, self._judge.decide(event)))
            elif isinstance(event, AuthSucceeded):
                self._later(self._configure_delay[role], partial(self._configure, role))
        for frame in link.frames_to_send():
            if self._lose(frame):
                continue
            # in order, as TCP delivers
            self._arrival[other] = max(self._arrival[other], self.now + self._delay())
            self._at(self._arrival[other], partial(self._deliver, other, frame))

    def _decide(self, role: Role, decision: AuthDecision) -> None:
        self.links[role].auth_result(decision, self.now)

    def _configure(self, role: Role) -> None:
        ipv4, ipv6 = self._terms[role]
        self.links[role].configure(ipv4, ipv6, self.now)

    def _deliver(self, role: Role, frame: bytes) -> None:
        self.links[role].receive(frame, self.now)


def check_session(pair: Pair, method: AuthMethod | None) -> None:
    """Both ends agree on everything and are still up."""
    client, server = Role.CLIENT, Role.SERVER
    assert pair.end(client) is None
    assert pair.end(server) is None
    assert pair.took(server, Ipv4Opened) == [Ipv4Opened(GATEWAY, ASSIGNED, DNS)]
    assert pair.took(client, Ipv4Opened) == [Ipv4Opened(ASSIGNED, GATEWAY, DNS)]
    assert pair.took(server, Ipv6Opened) == [Ipv6Opened(bytes(7) + b"\x01", bytes(7) + b"\x02")]
    assert pair.took(client, Ipv6Opened) == [Ipv6Opened(bytes(7) + b"\x02", bytes(7) + b"\x01")]
    (at_server,), (at_client,) = pair.took(server, AuthSucceeded), pair.took(client, AuthSucceeded)
    assert at_server.method is at_client.method is method
    assert at_server.hlak == at_client.hlak
    assert len(at_server.hlak) == 32
    assert any(at_server.hlak) is (method in (AuthMethod.EAP, AuthMethod.MSCHAP2, AuthMethod.MSCHAP1))
    assert pair.took(server, LcpOpened)[-1].method is method
