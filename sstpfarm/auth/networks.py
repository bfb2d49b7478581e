"""Which networks are behind a session, and what of its addresses is its user's alone.

What RADIUS servers give is theirs to keep apart.
"""

from __future__ import annotations

from sstpfarm.auth.authorization import Authorization


def networks_of(authorization: Authorization) -> tuple[str, ...]:
    """Return all networks that are behind a session, each once; of IPv6 the client's own ones are among them."""
    return tuple(dict.fromkeys(route.destination for route in authorization.routes))


def own_networks(authorization: Authorization) -> tuple[str, ...]:
    """Return those of them that are the user's alone."""
    if authorization.authentic == "radius":
        return ()
    return (*authorization.framed_prefixes, *authorization.delegated_prefixes, *authorization.ipv6_addresses)


def owns_address(authorization: Authorization) -> bool:
    """Whether the address of IPv4 is the user's alone: it comes from a pool, or the configuration fixes it."""
    return authorization.authentic == "local" or not authorization.remote_address
