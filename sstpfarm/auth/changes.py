"""What changes about a running session: an order says so (CoA), or the grant of another authentication."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from sstpfarm.auth.authorization import Authorization
from sstpfarm.auth.ipv6 import without_leases
from sstpfarm.auth.sessions import Session
from sstpfarm.dataplane.rates import UNLIMITED, RateLimit
from sstpfarm.ipc.messages import ChangeSession, Method

NEGOTIATED: Final = (
    "local_address",
    "routes",
    "framed_prefixes",
    "delegated_prefixes",
    "ipv6_addresses",
    "ipv6_prefix_pool",
    "delegated_pool",
    "ipv6_address_pool",
    "interface_id",
    "interface",
    "bridge",
    "bridge_port_vid",
)
"""Where a session is, as far as the client was told of it or its interface was made for it: that cannot change."""


class Changes(NamedTuple):
    """What both a grant and a CoA-Request can say; None where nothing is said.

    Attributes:
        reauthenticate, state: as in `Authorization`.
        renewed: the session was authenticated once more: its time begins anew.
    """

    rate_limit: RateLimit | None = None
    session_timeout: int | None = None
    idle_timeout: int | None = None
    reauthenticate: bool | None = None
    state: bytes | None = None
    interim_interval: int | None = None
    limit_bytes_in: int | None = None
    limit_bytes_out: int | None = None
    limit_bytes_total: int | None = None
    address_lists: tuple[str, ...] | None = None
    class_: tuple[bytes, ...] | None = None
    renewed: bool = False


Change = Callable[[Session, Changes], None]
"""Makes changes to a session."""
FIELDS: Final = tuple(name for name in Changes._fields if name != "renewed")


def changed(authorization: Authorization, changes: Changes) -> Authorization:
    """Return an authorization with these changes."""
    said = {name: value for name in FIELDS if (value := getattr(changes, name)) is not None}
    return msgspec.structs.replace(authorization, **said)


def renewal(before: Authorization, found: Authorization) -> Changes:
    """Return what a new grant changes; what it says as the one before did is left out."""
    now, then = (msgspec.structs.replace(one, rate_limit=one.rate_limit or UNLIMITED) for one in (found, before))
    said = {name: value for name in FIELDS if (value := getattr(now, name)) != getattr(then, name)}
    return Changes(**said, renewed=True)


def in_force(authorization: Authorization) -> Changes:
    """Return all that can change, as it is now: for a master that may not have heard of the last change."""
    now = {name: getattr(authorization, name) for name in FIELDS}
    return Changes(**{**now, "rate_limit": authorization.rate_limit or UNLIMITED})


def change_message(session: Session, changes: Changes) -> ChangeSession:
    """Return what the master must know of the changes."""
    worker, identifier = session.holder
    return ChangeSession(
        worker=worker,
        session=identifier,
        rate_limit=changes.rate_limit,
        session_timeout=changes.session_timeout,
        idle_timeout=changes.idle_timeout,
        reauthenticate=changes.reauthenticate and can_be_asked(session.facts.grant.method),
        limit_bytes_in=changes.limit_bytes_in,
        limit_bytes_out=changes.limit_bytes_out,
        limit_bytes_total=changes.limit_bytes_total,
        address_lists=changes.address_lists,
        renewed=changes.renewed,
    )


def can_be_asked(method: Method) -> bool:
    """Whether a peer can be asked at any time for its proof: PAP is begun by the peer (RFC 1334 2)."""
    return method != "pap"


def what_moves(session: Session, found: Authorization) -> str:
    """Return what a new grant says that a running session cannot follow, "" for nothing."""
    before = without_leases(session.facts.authorization)
    if found.remote_address:
        if found.remote_address != session.facts.grant.terms.remote_address:
            return "remote_address"
    elif found.pool != before.pool:
        return "pool"
    return next((name for name in NEGOTIATED if getattr(found, name) != getattr(before, name)), "")
