"""Networks behind a client: how a route is written, and what it must not reach.

The form is RouterOS's, "NETWORK/LENGTH GATEWAY METRIC". It is that of RADIUS's Framed-Route too (RFC 2865
5.22, RFC 3162 2.5).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple

from sstpfarm.config.addresses import AddressRange, parse_endpoint, parse_host, parse_range, pool_name
from sstpfarm.config.locate import KeyPath
from sstpfarm.config.ppp import Pool, Profile, Secret
from sstpfarm.config.report import Report, dotted, show
from sstpfarm.config.schema import Config

ROUTE_FORMS: Final = '"NETWORK/LENGTH [GATEWAY [METRIC]]"'
MAX_METRIC: Final = 0xFFFF_FFFF  # RTA_PRIORITY has 32 bits
NEVER: Final = tuple(
    ip_network(text)
    for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/8", "fe80::/10", "ff00::/8")
)
"""What is behind no client: this host, link-local addresses, multicast (RFC 6890); so no default route either."""

Network = IPv4Network | IPv6Network


class Route(NamedTuple):
    """A network behind a client, as text; an empty gateway means the client itself."""

    destination: str
    gateway: str
    metric: int


def parse_route(text: str) -> Route:
    """Return the route that ``NETWORK/LENGTH [GATEWAY [METRIC]]`` names, IPv4 or IPv6.

    Raises:
        ValueError: it is none, or one that no client may have; the text says why.
    """
    words = text.split()
    if not 1 <= len(words) <= 3:
        raise ValueError("is no route")
    network = parse_network(words[0])
    gateway = ""
    if len(words) > 1:
        try:
            address = ip_address(words[1])
        except ValueError:
            raise ValueError("has a gateway that is no address") from None
        if address.version != network.version:
            raise ValueError("has a gateway of the other IP version")
        if not address.is_unspecified:  # RFC 2865 5.22: the user's address is the gateway then
            if address.is_loopback or address.is_multicast or "%" in words[1]:
                raise ValueError("has a gateway that is no host's address")
            gateway = str(address)
    metric = 0
    if len(words) > 2:
        if not (words[2].isascii() and words[2].isdigit()) or len(words[2]) > 10 or int(words[2]) > MAX_METRIC:
            raise ValueError(f"has a metric that is not 0 to {MAX_METRIC}")
        metric = int(words[2])
    return Route(str(network), gateway, metric)


def parse_network(text: str) -> Network:
    """Return the network of ``NETWORK/LENGTH``, one that can be behind a client.

    Raises:
        ValueError: it is none, has bits behind its length, or holds addresses that cannot be behind a client.
    """
    if "/" not in text:
        raise ValueError("has no length behind its network")
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError("has no network") from None
    if str(network.network_address) != str(ip_address(text.partition("/")[0])):
        raise ValueError(f"does not begin with a network's address (did you mean {network}?)")
    if network.prefixlen == 0:
        raise ValueError("is a default route: it would take the server's own traffic along")
    if any(refused.version == network.version and network.overlaps(refused) for refused in NEVER):
        raise ValueError("holds addresses that cannot be behind a client")
    return network


def check_routes(config: Config, report: Report) -> None:
    """Report each route that is none, twice there, or reaches what is our own or another user's."""
    routed = [(name, secret) for name, secret in config.secret.items() if secret.routes]
    if routed:
        taken = TakenAddresses(
            {name: tuple(_ranges(pool)) for name, pool in config.pool.items()},
            config.profile,
            config.secret,
            config.server.listen,
        )
        for name, secret in routed:
            profile = config.profile.get(config.server.default_profile if secret.profile is None else secret.profile)
            _check_secret(secret, profile or Profile(), name, taken, report)


def _check_secret(secret: Secret, profile: Profile, name: str, taken: TakenAddresses, report: Report) -> None:
    local, remote = secret.local_address or profile.local_address, secret.remote_address or profile.remote_address
    seen: set[Route] = set()
    for index, text in enumerate(secret.routes):
        key: KeyPath = ("secret", name, "routes", index)
        try:
            route = parse_route(text)
        except ValueError as error:
            report.add_value(key, text, str(error), ROUTE_FORMS)
            continue
        if route in seen:
            report.add(key, f"{show(text)} is listed twice")
        seen.add(route)
        if route.gateway and route.gateway == local:
            report.add(key, f"{show(text)} has our own local-address as its gateway; allowed: the client's, or 0.0.0.0")
        network = ip_network(route.destination)
        owner = taken.owner_within(network, remote or "") if isinstance(network, IPv4Network) else None
        if owner is not None:
            report.add(key, f"{show(text)} holds addresses of {owner}")


def _ranges(pool: Pool) -> Iterator[AddressRange]:
    for text in pool.ranges:
        with suppress(ValueError):
            yield parse_range(text)


class TakenAddresses:
    """The IPv4 addresses that somebody has: pools, fixed ones, our own. What is no address is reported elsewhere.

    Args:
        pools: the ranges of each pool.
        listen: as in the configuration, ``ADDRESS:PORT``.
    """

    def __init__(
        self,
        pools: Mapping[str, Iterable[AddressRange]],
        profiles: Mapping[str, Profile],
        secrets: Mapping[str, Secret],
        listen: Iterable[str],
    ) -> None:
        self._pools = sorted((found, dotted(("pool", name))) for name, ranges in pools.items() for found in ranges)
        singles: list[tuple[int, KeyPath]] = []

        def add(text: str | None, path: KeyPath) -> None:
            if text is not None and pool_name(text) is None:
                with suppress(ValueError):
                    singles.append((int(parse_host(text)), path))

        for name, profile in profiles.items():
            add(profile.local_address, ("profile", name, "local-address"))
            add(profile.remote_address, ("profile", name))
        for name, secret in secrets.items():
            add(secret.local_address, ("secret", name, "local-address"))
            add(secret.remote_address, ("secret", name))
        for index, text in enumerate(listen):
            with suppress(ValueError):
                add(parse_endpoint(text).host, ("server", "listen", index))
        self._singles = sorted(singles, key=lambda single: single[0])

    def owner_within(self, network: IPv4Network, own: str) -> str | None:
        """Return whose addresses are in the network, but for the address `own`; None when nobody's are."""
        first, last = int(network.network_address), int(network.broadcast_address)
        for addresses, owner in self._pools:
            if addresses.first <= last and first <= addresses.last:
                return owner
        at = bisect_left(self._singles, first, key=lambda single: single[0])
        while at < len(self._singles) and self._singles[at][0] <= last:
            number, path = self._singles[at]
            if not own or pool_name(own) is not None or number != int(ip_address(own)):
                return dotted(path)
            at += 1
        return None
