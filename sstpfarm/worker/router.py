"""The router of one session's link, as its client sees it: it advertises the session's prefixes and answers DHCPv6.

The kernel routes; this only tells the client of it, and keeps no state but the time of the next advertisement.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network
from math import inf
from pathlib import Path
from random import uniform
from typing import Final

from sstpfarm.dataplane.interface import PacketPath, RouterRole
from sstpfarm.errors import PeerError
from sstpfarm.ipc import messages as m
from sstpfarm.proto.ipv6 import dhcpv6, neighbor
from sstpfarm.proto.ipv6.offer import Offer
from sstpfarm.proto.ipv6.packet import ICMPV6, Ipv6Packet, decode_packet, decode_udp, encode_udp, link_local
from sstpfarm.proto.ppp.frame import decode_frame
from sstpfarm.telemetry.catalogue import ROUTER_MESSAGES
from sstpfarm.telemetry.stats import Stats
from sstpfarm.transport.deadlines import Deadlines

QUESTIONS: Final = 20  # that are answered in `WINDOW` seconds, the rest is dropped; a client asks a handful in all
WINDOW: Final = 2.0
_NOTHING: Final = Offer()
MACHINE_ID: Final = Path("/etc/machine-id")  # machine-id(5)


class Router:
    """Tells one client of its offer. It is `transport.deadlines.Timed`.

    Args:
        offer: not empty.
        local, peer: the interface identifiers that IPV6CP agreed on.
        mtu: bytes of the largest packet towards the client, at least 1280.
        server_id: our DUID.
        path: hands out what the client asks, from `start` to `stop`.
        send: takes an IPv6 packet for the client.
    """

    __slots__ = (
        "_advertised", "_client", "_deadlines", "_mtu", "_next", "_offer", "_ours", "_path", "_questions", "_send",
        "_server_id", "_stats", "_window_ends", "scheduled",
    )  # fmt: skip

    def __init__(
        self,
        offer: Offer,
        *,
        local: bytes,
        peer: bytes,
        mtu: int,
        server_id: bytes,
        stats: Stats,
        deadlines: Deadlines,
        path: PacketPath,
        send: Callable[[bytes], None],
    ) -> None:
        self._offer = offer
        self._ours, self._client = link_local(local), link_local(peer)
        self._mtu = mtu
        self._server_id = server_id
        self._stats = stats
        self._deadlines = deadlines
        self._path: PacketPath | None = path
        self._send: Callable[[bytes], None] | None = send
        self._next = inf  # advertisement to all nodes
        self._advertised = 0
        self._window_ends = inf  # it begins with a question
        self._questions = 0  # of this window
        self.scheduled = inf

    def start(self, now: float) -> None:
        """Packets may pass: advertise now and from time to time. Idempotent."""
        if self._next < inf or self._path is None:
            return
        self._path.set_router(RouterRole.PYTHON)
        self._next = now
        self.tick(now)
        self._deadlines.watch(self)

    def stop(self) -> None:
        """Say nothing any more. The timers' heap may know us for a while: little is kept alive by it."""
        if self._path is not None:
            self._path.set_router(RouterRole.KERNEL)
        self._path = self._send = None
        self._offer = _NOTHING
        self._next = self._window_ends = inf
        self._deadlines.forget(self)

    def next_deadline(self) -> float | None:
        """When there is something to do, in seconds of the monotonic clock; None for never."""
        soonest = min(self._next, self._window_ends)
        return soonest if soonest < inf else None

    def tick(self, now: float) -> None:
        """Do what is due: hear questions again; advertise (RFC 4861 6.2.4)."""
        if now >= self._window_ends and self._path is not None:
            self._path.set_router(RouterRole.PYTHON)
            self._window_ends, self._questions = inf, 0
        if now < self._next or self._send is None:
            return
        interval = uniform(neighbor.MIN_INTERVAL, neighbor.MAX_INTERVAL)  # noqa: S311 - it spreads load, no secret
        self._advertised += 1
        if self._advertised < neighbor.INITIAL_ADVERTISEMENTS:
            interval = min(interval, neighbor.INITIAL_INTERVAL)
        self._next = now + interval
        self._advertise(neighbor.ALL_NODES)

    def asked(self, frame: bytes, now: float) -> None:
        """Answer what the client asks in this PPP frame, or count that it is not answered."""
        if self._path is None:
            return
        if self._window_ends == inf:
            self._window_ends = now + WINDOW
            self._deadlines.watch(self)
        self._questions += 1
        if self._questions == QUESTIONS:
            self._path.set_router(RouterRole.NOBODY)
        try:
            answered = self._answer(decode_packet(decode_frame(frame)[1]))
        except PeerError:
            answered = False
        if not answered:
            self._stats.inc(ROUTER_MESSAGES, "unanswered")

    def _answer(self, packet: Ipv6Packet) -> bool:
        if packet.source != self._client:
            return False
        if packet.next_header == ICMPV6 and packet.destination in (neighbor.ALL_ROUTERS, self._ours):
            neighbor.check_solicitation(packet)
            self._advertise(self._client)  # to one alone: none of the delays of RFC 4861 6.2.6
            return True
        if packet.next_header == ICMPV6 or packet.destination not in (dhcpv6.ALL_SERVERS, self._ours):
            return False
        _, _, data = decode_udp(packet)  # from any port: RFC 8415 7.2 says only where a client listens
        unicast = packet.destination == self._ours
        given = dhcpv6.answer(dhcpv6.decode_query(data), self._offer, self._server_id, unicast=unicast)
        if given is None or self._send is None:
            return False
        self._send(encode_udp((self._ours, dhcpv6.SERVER_PORT), (self._client, dhcpv6.CLIENT_PORT), given))
        self._stats.inc(ROUTER_MESSAGES, "dhcpv6")
        return True

    def _advertise(self, destination: IPv6Address) -> None:
        if self._send is not None:
            self._send(neighbor.encode_advertisement(self._ours, destination, self._offer, self._mtu))
            self._stats.inc(ROUTER_MESSAGES, "advertisement")


def offer_of(told: m.Ipv6Offer) -> Offer:
    """Return the offer as the protocols take it."""
    return Offer(
        prefixes=tuple(map(IPv6Network, told.prefixes)),
        address=IPv6Address(told.address) if told.address else None,
        delegated=tuple(map(IPv6Network, told.delegated)),
        dns_servers=tuple(map(IPv6Address, told.dns_servers)),
    )


def machine_server_id() -> bytes:
    """Return the DUID of this machine: the same for all workers and after every restart; it does not tell machine-id.

    Without a machine-id it is made of the host's name.
    """
    try:
        seed = MACHINE_ID.read_bytes().strip()
    except OSError:
        seed = b""
    seed = seed or socket.gethostname().encode()
    return dhcpv6.server_identifier(hashlib.sha256(b"sstpfarm DHCPv6 " + seed).digest())
