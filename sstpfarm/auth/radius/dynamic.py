"""Dynamic authorization (RFC 5176): outside servers end sessions (Disconnect) and change them (CoA).

What is not authentic gets no answer. What is gets one, and a repetition gets the same one again without any effect.
A change is made to all of it or to nothing.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from sstpfarm.auth.changes import Change, Changes, can_be_asked
from sstpfarm.auth.radius.endpoint import REPORT_INTERVAL, Emit
from sstpfarm.auth.radius.grant import ContradictionError, changes_of
from sstpfarm.auth.radius.identification import SESSION, SessionIndex
from sstpfarm.auth.radius.packet import MAX_PACKET, Code, MalformedAttributeError, Order
from sstpfarm.auth.sessions import Session, Sessions
from sstpfarm.config.addresses import parse_endpoint
from sstpfarm.config.fields import Password
from sstpfarm.config.radius import Radius, RadiusCoa
from sstpfarm.errors import PeerError, SystemRefusal
from sstpfarm.reasons import Reason

WINDOW: Final = 300.0  # seconds that an Event-Timestamp may be off, RFC 5176 3
REMEMBERED: Final = 2 * WINDOW  # how long an answer is kept: longer than the same request can be good
MAX_REMEMBERED: Final = 8192
# of one turn of the loop, which logins wait for: a few milliseconds
MAX_ORDERS: Final = 16
MAX_WORK: Final = 256  # sessions that are looked at, ended or changed; one order may look at more

# Error-Cause, RFC 5176 3.5
UNSUPPORTED_ATTRIBUTE: Final = 401
MISSING_ATTRIBUTE: Final = 402
NAS_MISMATCH: Final = 403
INVALID_REQUEST: Final = 404
UNSUPPORTED_SERVICE: Final = 405
INVALID_VALUE: Final = 407
SESSION_NOT_FOUND: Final = 503

NAS: Final = frozenset({"NAS-Identifier", "NAS-IP-Address", "NAS-IPv6-Address"})
CHANGEABLE: Final = frozenset(
    {
        "Session-Timeout",
        "Termination-Action",
        "State",
        "Idle-Timeout",
        "Acct-Interim-Interval",
        "Filter-Id",
        "Class",
        "Mikrotik-Rate-Limit",
        "Mikrotik-Address-List",
        "Mikrotik-Recv-Limit",
        "Mikrotik-Recv-Limit-Gigawords",
        "Mikrotik-Xmit-Limit",
        "Mikrotik-Xmit-Limit-Gigawords",
        "Mikrotik-Total-Limit",
        "Mikrotik-Total-Limit-Gigawords",
        "WISPr-Bandwidth-Max-Up",
        "WISPr-Bandwidth-Max-Down",
    }
)
ENVELOPE: Final = frozenset({"Message-Authenticator", "Event-Timestamp", "Proxy-State"})
INFORMATION: Final = frozenset({"Reply-Message", "Acct-Terminate-Cause", "Service-Type"})  # RFC 5176 3.6

Source = tuple[str, int]


@dataclass(frozen=True, slots=True)
class _Client:
    """Who may send orders."""

    network: IPv4Network | IPv6Network
    secret: bytes = field(repr=False)


class _RefusedError(Exception):
    """The order is answered with a NAK.

    Attributes:
        cause: Error-Cause.
    """

    def __init__(self, cause: int, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause


class DynamicAuthorization:
    """Takes orders on a UDP socket.

    Args:
        radius: what names us.
        revoke: ends a session.
        wall: seconds since the epoch.

    Raises:
        SystemRefusal: the address cannot be bound.
    """

    def __init__(
        self,
        coa: RadiusCoa,
        radius: Radius,
        sessions: Sessions,
        *,
        revoke: Callable[[Session, Reason], None],
        change: Change,
        wall: Callable[[], float],
        emit: Emit,
    ) -> None:
        self._sessions = sessions
        self._index = SessionIndex(sessions)
        self._due: deque[tuple[Session, Changes | None]] = deque()  # of the last order; None ends the session
        self._work = 0  # of this turn of the loop: sessions that were looked at, ended or changed
        self._rest: asyncio.Handle | None = None
        self._revoke = revoke
        self._change = change
        self._wall = wall
        self._emit = emit
        self._answers: OrderedDict[tuple[str, bytes], tuple[float, bytes]] = OrderedDict()
        self._ignored: Counter[str] = Counter()
        self._reported_at = float("-inf")
        self._loop = asyncio.get_running_loop()
        self.reload(coa, radius)
        self._sock = _bind(coa.listen)

    def reload(self, coa: RadiusCoa, radius: Radius) -> None:
        """Take orders from those clients from now on; the socket stays."""
        self._coa = coa
        self._radius = radius
        self._clients = [_Client(ip_network(client.address), _secret(client.secret)) for client in coa.client]

    def start(self) -> None:
        """Begin to take orders."""
        self._loop.add_reader(self._sock, self._readable)

    def close(self) -> None:
        """Stop; idempotent."""
        if self._rest is not None:
            self._rest.cancel()
        self._loop.remove_reader(self._sock)
        self._sock.close()

    def _readable(self) -> None:
        self._work = 0
        for _ in range(MAX_ORDERS):
            try:
                data, source = self._sock.recvfrom(MAX_PACKET + 1)
            except OSError:  # nothing more, or an ICMP message about an answer
                return
            self._received(data, source[:2])
            if self._due:
                self._carry_out()
            if self._rest is not None or self._work >= MAX_WORK:
                return

    def _go_on(self) -> None:
        """Carry out more of the last order, in a turn of its own."""
        self._work, self._rest = 0, None
        self._loop.add_reader(self._sock, self._readable)
        self._carry_out()

    def _carry_out(self) -> None:
        """End or change the sessions that the last order means; no other is read before that is done."""
        try:
            while self._due and self._work < MAX_WORK:
                self._work += 1
                self._do(*self._due.popleft())
        finally:
            if self._due:
                self._loop.remove_reader(self._sock)
                self._rest = self._loop.call_soon(self._go_on)

    def _do(self, session: Session, changes: Changes | None) -> None:
        if session.revoked or self._sessions.get(session.holder) is not session:
            return
        if changes is not None:
            self._change(session, changes)
            return
        session.revoked = True
        self._revoke(session, Reason.ADMIN_RESET)

    # -- what comes ----------------------------------------------------------------------------------------------------

    def _received(self, data: bytes, source: Source) -> None:
        client = self._client_of(source[0])
        if client is None:
            self._ignore("not from a client of ours", source)
            return
        try:
            order = Order(data, client.secret, require_signature=self._coa.require_message_authenticator)
            key = (source[0], order.authenticator)
            before = self._answer_to(key)
            if before is not None:
                self._send(before, source)
                return
            self._check_time(order)
        except PeerError as error:
            self._ignore(str(error), source)
            return
        sessions: Sequence[Session] = ()
        changes: Changes | None = None
        cause: int | None = None
        detail = ""
        try:
            sessions, changes = self._judge(order)
        except _RefusedError as refused:
            cause, detail = refused.cause, str(refused)
        disconnect = order.code is Code.DISCONNECT_REQUEST
        if cause is None:
            code = Code.DISCONNECT_ACK if disconnect else Code.COA_ACK
        else:
            code = Code.DISCONNECT_NAK if disconnect else Code.COA_NAK
        answer = order.answer(code, cause)
        self._remember(key, answer)
        self._send(answer, source)  # the answer goes out before anything is taken down (RFC 5176 2.1)
        self._emit(
            "radius.order",
            client=source[0],
            order="disconnect" if disconnect else "change",
            sessions=len(sessions),
            error_cause=cause or 0,
            detail=detail,
        )
        self._due.extend((session, changes) for session in sessions)

    def _client_of(self, host: str) -> _Client | None:
        address: IPv4Address | IPv6Address = ip_address(host.partition("%")[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return next((client for client in self._clients if address in client.network), None)

    def _check_time(self, order: Order) -> None:
        """Refuse what may have been recorded long ago.

        Raises:
            PeerError: Event-Timestamp is missing where it is required, malformed, or too far off.
        """
        stamp = order.number("Event-Timestamp")
        if stamp is None:
            if self._coa.require_event_timestamp:
                raise PeerError("there is no Event-Timestamp")
        elif abs(self._wall() - stamp) > WINDOW:
            raise PeerError(f"its Event-Timestamp is {self._wall() - stamp:.0f} s old")

    # -- what it says --------------------------------------------------------------------------------------------------

    def _judge(self, order: Order) -> tuple[list[Session], Changes | None]:
        """Return the sessions that are meant, and the changes of a CoA-Request.

        Raises:
            _RefusedError: nothing of it is done.
        """
        names = set(order.names())
        disconnect = order.code is Code.DISCONNECT_REQUEST
        if "Service-Type" in names:  # Authorize Only, RFC 5176 3.2
            raise _RefusedError(UNSUPPORTED_SERVICE, "Service-Type")
        known = NAS | SESSION | ENVELOPE | (INFORMATION if disconnect else CHANGEABLE)
        unknown = names - known
        if unknown:
            raise _RefusedError(UNSUPPORTED_ATTRIBUTE, ", ".join(sorted(unknown)))
        try:
            self._check_nas(order)
            if not names & SESSION:
                raise _RefusedError(MISSING_ATTRIBUTE, "nothing says which session")
            found, looked_at = self._index.meant(order, self._radius)
        except MalformedAttributeError as error:
            raise _RefusedError(INVALID_REQUEST, str(error)) from None
        self._work += looked_at
        changes = None if disconnect else self._changes(order, names)
        if not found:
            raise _RefusedError(SESSION_NOT_FOUND, "no such session")
        if changes is not None and changes.reauthenticate:
            self._check_can_be_asked(found)
        return found, changes

    def _changes(self, order: Order, names: set[str]) -> Changes:
        if not names & CHANGEABLE:
            raise _RefusedError(MISSING_ATTRIBUTE, "nothing to change")
        try:
            found = changes_of(order)
        except (MalformedAttributeError, ContradictionError) as error:
            raise _RefusedError(INVALID_VALUE, str(error)) from None
        if "Termination-Action" in names and found.reauthenticate is None:
            raise _RefusedError(INVALID_VALUE, "Termination-Action")
        if "State" in names and not found.reauthenticate:  # RFC 5176 3.3: they come together
            raise _RefusedError(INVALID_VALUE, "State without Termination-Action")
        return found

    def _check_can_be_asked(self, sessions: Sequence[Session]) -> None:
        """Termination-Action is known, and its value means something for other sessions: so not 401, but 407."""
        mute = [session.holder.session for session in sessions if not can_be_asked(session.facts.grant.method)]
        if mute:
            raise _RefusedError(INVALID_VALUE, f"Termination-Action: PAP cannot be asked again (session {mute[0]})")

    def _check_nas(self, order: Order) -> None:
        """RFC 5176 3: it must be for us. An address that the configuration does not name is not compared."""
        identifiers = order.all("NAS-Identifier")
        ours = self._radius.nas_ip_address
        addresses = [str(IPv4Address(value)) for value in order.all("NAS-IP-Address") if len(value) == 4]
        addresses += [str(IPv6Address(value)) for value in order.all("NAS-IPv6-Address") if len(value) == 16]
        if any(value != self._radius.nas_identifier.encode() for value in identifiers):
            raise _RefusedError(NAS_MISMATCH, "another NAS-Identifier")
        if ours and any(address != ours for address in addresses):
            raise _RefusedError(NAS_MISMATCH, "another NAS address")

    # -- what goes out -------------------------------------------------------------------------------------------------

    def _answer_to(self, key: tuple[str, bytes]) -> bytes | None:
        now = self._loop.time()
        while self._answers and next(iter(self._answers.values()))[0] + REMEMBERED < now:
            self._answers.popitem(last=False)
        found = self._answers.get(key)
        return found[1] if found is not None else None

    def _remember(self, key: tuple[str, bytes], answer: bytes) -> None:
        self._answers[key] = (self._loop.time(), answer)
        if len(self._answers) > MAX_REMEMBERED:
            self._answers.popitem(last=False)

    def _send(self, data: bytes, source: Source) -> None:
        try:
            self._sock.sendto(data, source)
        except OSError:
            return  # as good as lost: the client asks again

    def _ignore(self, why: str, source: Source) -> None:
        """Count what was not answered, and log it, though not each."""
        self._ignored[why] += 1
        now = self._loop.time()
        if now - self._reported_at >= REPORT_INTERVAL:
            self._emit("radius.order_ignored", client=source[0], why=why, count=self._ignored.total())
            self._reported_at = now
            self._ignored.clear()


def _secret(password: Password | None) -> bytes:
    assert password is not None, "load has read it"
    return password.text.encode()


def _bind(listen: str) -> socket.socket:
    endpoint = parse_endpoint(listen)
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(endpoint)
    except OSError as error:
        sock.close()
        raise SystemRefusal(f"radius.coa: cannot listen on {listen}: {error.strerror}") from None
    return sock
