"""One port of one RADIUS server: requests go out and are repeated, replies come in or do not.

A source port of ours has 256 identifiers, so there are as many as are needed, up to a bound. Whatever does not fit to
a request, in its source or in its content, is ignored and counted, and the request goes on waiting.
"""

from __future__ import annotations

import asyncio
import socket
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final, NamedTuple

from sstpfarm.auth.radius.packet import AUTHENTICATOR, MAX_PACKET, Code, Pairs, Reply, Request, UnsignedReplyError
from sstpfarm.config.radius import Signature
from sstpfarm.errors import PeerError
from sstpfarm.proto.roles import Entropy
from sstpfarm.telemetry.catalogue import RADIUS_BUCKETS

IDENTIFIERS: Final = 256  # RFC 2865 3: one byte
MAX_PORTS: Final = 16  # 4,096 requests at once to one server's port
PROBE_INTERVAL: Final = 5.0  # seconds between two Status-Server requests at most
REPORT_INTERVAL: Final = 60.0  # seconds between two log lines about replies that were ignored
MAX_READS: Final = 256  # datagrams that are read before the event loop's other work goes on

Emit = Callable[..., None]
Build = Callable[[bytes, bytes], Pairs]
"""Makes the attributes of a request, from the shared secret and the Request Authenticator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings:
    """Where a server is and how it is asked; times in seconds."""

    address: str
    port: int
    secret: bytes = field(repr=False)
    timeout: float = 2.0
    retries: int = 1
    dead_time: float = 30.0
    signature: Signature = "auto"
    status_server: bool = True
    source_address: str = ""


class _Waiting(NamedTuple):
    """A request that was sent, and who waits for its reply."""

    request: Request
    reply: asyncio.Future[Reply]


class _SourcePort:
    """A UDP socket and the requests that were sent through it, by their identifiers.

    It is not connected: an ICMP error would be an error of the socket then, and libuv stops to watch such a socket.
    """

    def __init__(
        self, sock: socket.socket, server: tuple[str, int], receive: Callable[[_SourcePort, bytes, bool], None]
    ) -> None:
        self.waiting: dict[int, _Waiting] = {}
        self._sock = sock
        self._server = server
        self._receive = receive
        self._last = -1
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._readable)

    def free_identifier(self) -> int | None:
        """Return the one that was used longest ago of those that nobody waits for; None when there is none."""
        for step in range(1, IDENTIFIERS + 1):
            identifier = (self._last + step) % IDENTIFIERS
            if identifier not in self.waiting:
                self._last = identifier
                return identifier
        return None

    def send(self, data: bytes) -> None:
        """Send a datagram; one that cannot be sent is one that was lost."""
        try:
            self._sock.sendto(data, self._server)
        except OSError:
            return

    def close(self) -> None:
        """Stop; idempotent."""
        self._loop.remove_reader(self._sock)
        self._sock.close()

    def _readable(self) -> None:
        for _ in range(MAX_READS):
            try:
                data, source = self._sock.recvfrom(MAX_PACKET + 1)
            except OSError:  # nothing more
                return
            self._receive(self, data, source[:2] == self._server)


class Endpoint:
    """One port of one server.

    Attributes:
        ignored: replies that were not taken, by the reason.
        unanswered: requests that got no reply; a Status-Server is not counted.
        buckets: how many replies took up to each time of RADIUS_BUCKETS, and longer.
        seconds: that all of them took.
    """

    def __init__(self, settings: EndpointSettings, entropy: Entropy, emit: Emit) -> None:
        self.settings = settings
        self.name = f"{settings.address} port {settings.port}"
        self.ignored: Counter[str] = Counter()
        self.unanswered = 0
        self.buckets = [0] * (len(RADIUS_BUCKETS) + 1)
        self.seconds = 0.0
        self._entropy = entropy
        self._emit = emit
        self._loop = asyncio.get_running_loop()
        self._ports: list[_SourcePort] = []
        self._closed = False
        self._retired = False
        self._heard_at = float("-inf")
        self._dead_until: float | None = None
        self._probe: asyncio.Task[None] | None = None
        self._signed = False  # the server has sent a Message-Authenticator
        self._warned = False
        self._reported_at = float("-inf")
        self._reported = 0

    @property
    def alive(self) -> bool:
        """Whether nothing is known against the server."""
        return self._dead_until is None

    def is_at(self, settings: EndpointSettings) -> bool:
        """Whether those settings mean this port, with this secret and from this source address."""
        ours = self.settings
        return (ours.address, ours.port, ours.secret, ours.source_address) == (
            settings.address,
            settings.port,
            settings.secret,
            settings.source_address,
        )

    def reload(self, settings: EndpointSettings) -> None:
        """Ask in that way from now on, the requests that are under way too.

        Args:
            settings: of this port (`is_at`).
        """
        self.settings = settings
        if self._dead_until is not None:
            self._dead_until = min(self._dead_until, self._loop.time() + settings.dead_time)

    def retire(self) -> None:
        """It is asked nothing new: requests under way and conversations go on, and nobody cares whether it is dead."""
        self._retired = True
        if self._probe is not None:
            self._probe.cancel()

    def usable(self) -> bool:
        """Whether a request may be tried: the server is alive, or was left alone for its dead time.

        Of a dead server that is due for a try only one caller gets True; the try keeps the others off.
        """
        now = self._loop.time()
        if self._dead_until is None:
            return True
        if now < self._dead_until:
            return False
        self._dead_until = now + self.settings.timeout * (1 + self.settings.retries)
        return True

    async def exchange(self, code: Code, build: Build, deadline: float) -> Reply | None:
        """Send a request, again and again until its reply comes; None when none came.

        Args:
            deadline: on the loop's clock; no longer than that in any case.

        Raises:
            PeerError: the attributes cannot be made (a password that is too long), or do not fit into a packet.
        """
        began = self._loop.time()
        reply = await self._exchange(code, build, deadline, tries=1 + self.settings.retries)
        if reply is None:
            self.unanswered += 1
        else:
            took = self._loop.time() - began
            self.buckets[bisect_left(RADIUS_BUCKETS, took)] += 1
            self.seconds += took
        return reply

    def close(self) -> None:
        """Stop; requests that wait get no reply. Idempotent."""
        self._closed = True
        if self._probe is not None:
            self._probe.cancel()
        for port in self._ports:
            for waiting in port.waiting.values():
                waiting.reply.cancel()
            port.close()
        self._ports.clear()

    # -- out ---------------------------------------------------------------------------------------------------------

    async def _exchange(self, code: Code, build: Build, deadline: float, *, tries: int) -> Reply | None:
        slot = self._take_slot()
        if slot is None:
            return None
        port, identifier = slot
        authenticator = self._entropy(AUTHENTICATOR)
        secret = self.settings.secret
        request = Request(code, identifier, secret, build(secret, authenticator), authenticator)
        if len(request.data) > MAX_PACKET:  # the server would be silent about it, and seem to be dead
            raise PeerError(f"RADIUS carries packets of {MAX_PACKET} bytes at most")
        waiting = _Waiting(request, self._loop.create_future())
        port.waiting[identifier] = waiting
        began = self._loop.time()
        try:
            for _ in range(tries):
                left = min(self.settings.timeout, deadline - self._loop.time())
                if left <= 0:
                    return None
                port.send(request.data)  # the same bytes each time: RFC 2865 2.5, RFC 5080 2.2.1
                done, _pending = await asyncio.wait({waiting.reply}, timeout=left)
                if done:
                    return None if waiting.reply.cancelled() else waiting.reply.result()
        finally:
            del port.waiting[identifier]
        self._silent_since(began)
        return None

    def _take_slot(self) -> tuple[_SourcePort, int] | None:
        """Return a source port and an identifier of it, None when too much is under way."""
        if self._closed:
            return None
        for port in self._ports:
            identifier = port.free_identifier()
            if identifier is not None:
                return port, identifier
        if len(self._ports) == MAX_PORTS:
            return None
        sock = self._open_socket()
        if sock is None:
            return None
        port = _SourcePort(sock, (self.settings.address, self.settings.port), self._received)
        self._ports.append(port)
        identifier = port.free_identifier()
        assert identifier is not None, "a new port has all its identifiers"
        return port, identifier

    def _open_socket(self) -> socket.socket | None:
        settings = self.settings
        family = socket.AF_INET6 if ip_address(settings.address).version == 6 else socket.AF_INET
        try:
            sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as error:  # this kernel has no IPv6, or no descriptor is left: another server may do
            self._ignore(f"no socket can be had: {error.strerror}")
            return None
        try:
            if settings.source_address:
                sock.bind((settings.source_address, 0))
        except OSError as error:  # the address is not there now
            sock.close()
            self._ignore(f"{settings.source_address} cannot be bound: {error.strerror}")
            return None
        return sock

    # -- in ----------------------------------------------------------------------------------------------------------

    def _received(self, port: _SourcePort, data: bytes, from_server: bool) -> None:
        if not from_server:
            self._ignore("from another address or port")
            return
        waiting = port.waiting.get(data[1]) if len(data) > 1 else None
        if waiting is None or waiting.reply.done():
            self._ignore("late, or with an identifier of no request")
            return
        signature = self.settings.signature
        required = signature == "require" or (signature == "auto" and self._signed)
        try:
            reply = waiting.request.read(data, require_signature=required)
        except UnsignedReplyError:
            self._ignore("without Message-Authenticator")
            return
        except PeerError as error:
            self._ignore(str(error))
            return
        self._heard(reply)
        waiting.reply.set_result(reply)

    def _heard(self, reply: Reply) -> None:
        self._heard_at = self._loop.time()
        if reply.signed:
            self._signed = True
        elif reply.code is not Code.ACCOUNTING_RESPONSE and self.settings.signature == "auto" and not self._warned:
            self._warned = True
            self._emit("radius.unsigned", server=self.name)
        if self._dead_until is not None:
            self._dead_until = None
            self._emit("radius.server_alive", server=self.name)

    def _ignore(self, why: str) -> None:
        """Count what was not taken, and log it, though not each."""
        self.ignored[why] += 1
        now = self._loop.time()
        if now - self._reported_at >= REPORT_INTERVAL:
            total = self.ignored.total()
            self._emit("radius.ignored", server=self.name, why=why, count=total - self._reported)
            self._reported_at, self._reported = now, total

    # -- dead or alive -----------------------------------------------------------------------------------------------

    def _silent_since(self, began: float) -> None:
        """A request got no reply. Only a server that answered nothing at all since then is dead, not a slow one."""
        if self._heard_at >= began or self._closed or self._retired:
            return
        if self._dead_until is None:
            self._emit("radius.server_dead", server=self.name)
        self._dead_until = self._loop.time() + self.settings.dead_time
        if self.settings.status_server and (self._probe is None or self._probe.done()):
            self._probe = self._loop.create_task(self._ask_for_status())

    async def _ask_for_status(self) -> None:
        """Ask until the server answers (RFC 5997 4.2); that brings it back to life."""
        interval = min(self.settings.dead_time, PROBE_INTERVAL)
        while not self.alive:
            await asyncio.sleep(interval)
            if not self.alive:
                await self._exchange(Code.STATUS_SERVER, lambda *_: (), self._loop.time() + interval, tries=1)
