"""What a session gets of IPv6: leases of pools join what its grant names, and the worker is told what to tell."""

from __future__ import annotations

from ipaddress import IPv6Network
from typing import NamedTuple

import msgspec

from sstpfarm.auth.authorization import Authorization
from sstpfarm.auth.leases import Holder, Leases, Purpose
from sstpfarm.config.pools import SUBNET
from sstpfarm.ipc.messages import FramedRoute, Ipv6Offer


class Leased(NamedTuple):
    """An authorization with all that was leased, and the pools that had nothing left."""

    authorization: Authorization
    exhausted: tuple[str, ...]


def lease_ipv6(leases: Leases, holder: Holder, authorization: Authorization) -> Leased:
    """Lease what a session gets from pools of IPv6. Nobody stays out because one is empty."""
    exhausted = []
    leased = authorization
    for purpose, pool in (
        (Purpose.PREFIX, authorization.ipv6_prefix_pool),
        (Purpose.DELEGATED, authorization.delegated_pool),
        (Purpose.IPV6_ADDRESS, authorization.ipv6_address_pool),
    ):
        if not pool:
            continue
        network = leases.acquire_ipv6(holder, authorization.user, purpose, pool)
        if network is None:
            exhausted.append(pool)
        else:
            leased = _with(leased, purpose, network)
    return Leased(leased, tuple(exhausted))


def _with(authorization: Authorization, purpose: Purpose, network: IPv6Network) -> Authorization:
    """Return the authorization with something that was leased; all of it is routed to the client."""
    found: dict[str, tuple[str, ...]] = {}
    match purpose:
        case Purpose.PREFIX:
            found["framed_prefixes"] = (*authorization.framed_prefixes, str(network))
        case Purpose.DELEGATED:
            found["delegated_prefixes"] = (*authorization.delegated_prefixes, str(network))
        case Purpose.IPV6_ADDRESS:
            found["ipv6_addresses"] = (*authorization.ipv6_addresses, str(network.network_address))
    return msgspec.structs.replace(
        authorization,
        routes=(*authorization.routes, FramedRoute(str(network))),
        leased=(*authorization.leased, str(network)),
        **found,
    )


def without_leases(authorization: Authorization) -> Authorization:
    """Return it as it was before `lease_ipv6`."""
    leased = frozenset(authorization.leased)
    return msgspec.structs.replace(
        authorization,
        routes=tuple(route for route in authorization.routes if route.destination not in leased),
        framed_prefixes=tuple(text for text in authorization.framed_prefixes if text not in leased),
        delegated_prefixes=tuple(text for text in authorization.delegated_prefixes if text not in leased),
        ipv6_addresses=tuple(text for text in authorization.ipv6_addresses if f"{text}/128" not in leased),
        leased=(),
    )


def ipv6_offer(authorization: Authorization) -> Ipv6Offer:
    """Return what the client is told of.

    It can make addresses of its own from a /64 only (RFC 4291 2.5.1); a framed prefix of another length is routed to
    it and no more.
    """
    return Ipv6Offer(
        prefixes=tuple(text for text in authorization.framed_prefixes if IPv6Network(text).prefixlen == SUBNET),
        address=authorization.ipv6_addresses[0] if authorization.ipv6_addresses else "",
        delegated=authorization.delegated_prefixes,
        dns_servers=authorization.ipv6_dns_servers,
    )
