"""Which sessions an order means (RFC 5176 3): all that it names must be theirs.

What a session is known by stands in an index, so that an order costs by the sessions that it may mean and not by those
that there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from sstpfarm.auth.leases import Holder
from sstpfarm.auth.radius.packet import Attributes
from sstpfarm.auth.radius.request import nas_port
from sstpfarm.auth.sessions import Session, Sessions
from sstpfarm.config.addresses import caller_address
from sstpfarm.config.radius import Radius

SESSION: Final = frozenset(
    {
        "Acct-Session-Id",
        "User-Name",
        "Framed-IP-Address",
        "Framed-IPv6-Prefix",
        "Framed-Interface-Id",
        "NAS-Port",
        "NAS-Port-Id",
        "Calling-Station-Id",
        "Called-Station-Id",
    }
)
"""What says which sessions are meant."""
Mark = tuple[str, str | int | bytes]
"""Something that a session is known by: an attribute's name and the value; Calling-Station-Id by its two forms."""


class Found(NamedTuple):
    """What an order means.

    Attributes:
        looked_at: how many sessions were looked at for that.
    """

    sessions: list[Session]
    looked_at: int


class SessionIndex:
    """The sessions by their marks; it follows the table that it is made for."""

    def __init__(self, sessions: Sessions) -> None:
        self._marked: dict[Mark, Session | dict[Holder, Session]] = {}  # most marks are one session's alone
        for session in sessions:
            self.add(session)
        sessions.follow(self)

    def __len__(self) -> int:
        return len(self._marked)

    def add(self, session: Session) -> None:
        """Take in what a session is known by, as far as it is not there yet."""
        for mark in _marks(session):
            others = self._marked.get(mark)
            if others is None:
                self._marked[mark] = session
            elif isinstance(others, dict):
                others[session.holder] = session
            elif others is not session:
                self._marked[mark] = {others.holder: others, session.holder: session}

    def remove(self, session: Session) -> None:
        """Forget a session."""
        for mark in _marks(session):
            others = self._marked.get(mark)
            if isinstance(others, dict):
                others.pop(session.holder, None)
            if others is session or others == {}:
                del self._marked[mark]

    def meant(self, order: Attributes, radius: Radius) -> Found:
        """Return the sessions that have all that the order names, the oldest first.

        Raises:
            MalformedAttributeError: an attribute that names sessions is malformed.
        """
        named = [self._with(mark) for mark in _named(order, radius)]
        fewest = min(named, key=len, default={})
        found = [session for holder, session in fewest.items() if all(holder in others for others in named)]
        return Found(found, len(fewest))

    def _with(self, mark: Mark) -> dict[Holder, Session]:
        found = self._marked.get(mark, {})
        return found if isinstance(found, dict) else {found.holder: found}


def _marks(session: Session) -> Iterator[Mark]:
    """Yield what a session is known by now; it gets more, and loses none."""
    facts = session.facts
    grant = facts.grant
    yield "Acct-Session-Id", grant.session
    yield "User-Name", session.user
    yield "Framed-IP-Address", grant.terms.remote_address
    yield "NAS-Port", nas_port(session.holder, grant.slot)
    yield "address:port", grant.caller_id
    address = caller_address(grant.caller_id)
    yield "address", grant.caller_id if address is None else str(address)
    yield "Called-Station-Id", facts.called_id
    for network in grant.terms.networks:
        yield "Framed-IPv6-Prefix", network
    if session.interface:
        yield "NAS-Port-Id", session.interface
    if session.interface_id:
        yield "Framed-Interface-Id", session.interface_id


def _named(order: Attributes, radius: Radius) -> Iterator[Mark]:
    """Yield the marks that an order names; of an address, a port and an identifier the first counts."""
    for name in ("Acct-Session-Id", "User-Name", "NAS-Port-Id", "Called-Station-Id"):
        for text in order.texts(name):
            yield name, text
    for text in order.texts("Calling-Station-Id"):
        yield radius.calling_station_id, text
    for prefix in order.prefixes("Framed-IPv6-Prefix"):
        yield "Framed-IPv6-Prefix", str(prefix)
    if (address := order.address("Framed-IP-Address")) is not None:
        yield "Framed-IP-Address", str(address)
    if (port := order.number("NAS-Port")) is not None:
        yield "NAS-Port", port
    if (identifier := order.identifier("Framed-Interface-Id")) is not None:
        yield "Framed-Interface-Id", identifier
