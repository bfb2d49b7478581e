"""All clients of one generator process, and what happens to them, counted."""

from __future__ import annotations

import asyncio
import hashlib
import os
from time import monotonic
from typing import Final, Protocol

from loadtest.caller import Around, Caller
from loadtest.measures import Tally
from loadtest.orders import Order
from sstpfarm.errors import PeerError
from sstpfarm.proto.events import Phase
from sstpfarm.proto.ppp.link import PppSettings
from sstpfarm.proto.roles import AuthMethod, Ipv6Terms, Role
from sstpfarm.proto.sstp.binding import CertificateHash
from sstpfarm.proto.sstp.call import SstpSettings
from sstpfarm.proto.tunnel import TunnelSettings
from sstpfarm.reasons import Reason
from sstpfarm.transport.deadlines import Deadlines
from sstpfarm.transport.poller import Poller
from sstpfarm.transport.tls import SharedBuffers
from sstpfarm.transport.tls_context import client_context

MAX_DETAILS: Final = 50  # different texts of why logins failed that are told apart
UNIVERSAL_BIT: Final = 0x02  # clear in an interface identifier that was drawn at random, RFC 5072 4.1


class Director(Protocol):
    """What the scenario does with its clients."""

    def up(self, caller: Caller) -> None:
        """A login is done."""

    def gone(self, caller: Caller, *, was_up: bool) -> None:
        """A client has ended."""

    def packet(self, caller: Caller, packet: memoryview) -> None:
        """An IPv4 packet came."""

    def writable(self, caller: Caller) -> None:
        """A connection takes packets again."""


class Crowd:
    """Makes clients, counts what becomes of them, and passes events on to the director.

    Counters: ``logins`` (up), ``failed`` and ``failed: REASON`` (never up), ``lost`` and ``lost: REASON`` (were up and
    ended without our wish), ``closed`` (ended at our wish). Gauges: ``up``, ``starting``.
    """

    def __init__(self, order: Order, tally: Tally) -> None:
        self._order = order
        self._target = order.target
        self._context = client_context(ca_pem=order.target.ca_pem, verify=order.target.verify)
        self._sstp: dict[bytes, SstpSettings] = {}  # by certificate: there is one, or a few during a change
        loop = asyncio.get_running_loop()
        self.around = Around(Poller(loop), SharedBuffers(), Deadlines(loop))
        self.tally = tally
        self._director: Director | None = None
        self.callers: set[Caller] = set()
        self._up: set[Caller] = set()
        self._details: set[str] = set()

    def direct(self, director: Director) -> None:
        """Tell that director from now on; to be called before the first `dial`."""
        self._director = director

    def dial(self, number: int) -> Caller:
        """Begin a login as the user of that number."""
        caller = Caller(self.around, self, number, self._order.login_seconds)
        self.callers.add(caller)
        self.tally.add("attempts")
        caller.dial(self._target.address, self._target.port, self._context, self._target.host.split("%", 1)[0])
        return caller

    @property
    def up_count(self) -> int:
        """Sessions that are up."""
        return len(self._up)

    @property
    def starting(self) -> int:
        """Clients that are not up yet, or no longer."""
        return len(self.callers) - len(self._up)

    # -- Owner -------------------------------------------------------------------------------------------------------

    def tunnel_settings(self, caller: Caller, certificate: bytes) -> TunnelSettings:
        """Check the pin; what can be shared by all sessions is."""
        sstp = self._sstp.get(certificate)
        if sstp is None:
            pin = self._target.pin
            if pin and hashlib.sha256(certificate).hexdigest() != pin:
                raise PeerError("not the pinned certificate", reason=Reason.CERTIFICATE_UNTRUSTED)
            if len(self._sstp) > 8:
                self._sstp.clear()
            sstp = self._sstp[certificate] = SstpSettings(
                role=Role.CLIENT, certificates=(CertificateHash.of(certificate),), keepalive=self._order.keepalive
            )
        users = self._order.users
        user = self._target.user_of(caller.number % users if users else caller.number)
        ppp = PppSettings(
            role=Role.CLIENT,
            methods=tuple(method for method in AuthMethod if method in self._order.methods),  # strongest first
            user=user.encode(),
            password=self._target.password.text,
            ipv6=self._order.ipv6,
        )
        return TunnelSettings(sstp=sstp, ppp=ppp, host=self._target.host_header)

    def ipv6_terms(self) -> Ipv6Terms | None:
        """A random interface identifier, when IPv6 is wanted."""
        drawn = os.urandom(8)
        return Ipv6Terms(bytes([drawn[0] & ~UNIVERSAL_BIT]) + drawn[1:]) if self._order.ipv6 else None

    def phase_done(self, caller: Caller, phase: Phase, seconds: float) -> None:
        """Measure a phase."""
        self.tally.observe(f"login.{phase.value}", seconds)

    def up(self, caller: Caller) -> None:
        """Count the login."""
        self._up.add(caller)
        self.tally.add("logins")
        self.tally.observe("login", monotonic() - caller.began)
        self.director.up(caller)

    def packet(self, caller: Caller, packet: memoryview) -> None:
        """Pass it on."""
        self.director.packet(caller, packet)

    def writable(self, caller: Caller) -> None:
        """Pass it on."""
        self.director.writable(caller)

    def ended(self, caller: Caller, reason: Reason, detail: str) -> None:
        """Count the end."""
        was_up = caller in self._up
        self._up.discard(caller)
        self.callers.discard(caller)
        if caller.wanted_end:
            self.tally.add("closed")
        else:
            what = "lost" if was_up else "failed"
            self.tally.add(what)
            self.tally.add(f"{what}: {reason.value}{self._brief(detail)}")
        self.director.gone(caller, was_up=was_up)

    def _brief(self, detail: str) -> str:
        detail = detail[:80]
        if len(self._details) < MAX_DETAILS:
            self._details.add(detail)
        return f" ({detail})" if detail and detail in self._details else ""

    @property
    def director(self) -> Director:
        """Whom the clients' events go to."""
        assert self._director is not None
        return self._director
