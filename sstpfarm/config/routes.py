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

from sstpfarm.config.addresses import AddressRange, parse_endpoint, parse_name_server, parse_span, pool_name
from sstpfarm.config.locate import KeyPath
from sstpfarm.config.pools import SUBNET, ranges_of
from sstpfarm.config.ppp import Profile, Secret
from sstpfarm.config.report import Report, dotted, show
from sstpfarm.config.schema import Config

ROUTE_FORMS: Final = '"NETWORK/LENGTH [GATEWAY [METRIC]]"'
PREFIX_FORMS: Final = '"NETWORK/64", or "" for none'
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
    if "%" in text:
        raise ValueError("has a zone, which means nothing behind a client")
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
    """Report each route that is none, twice there, or reaches what is our own or another user's; fixed prefixes too."""
    _check_prefixes(config.secret, report)
    routed = [(name, secret) for name, secret in config.secret.items() if secret.routes]
    if routed:
        taken = TakenAddresses(
            {name: ranges_of(pool) for name, pool in config.pool.items()},
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
        own = remote if isinstance(network, IPv4Network) else secret.remote_ipv6_prefix
        owner = taken.owner_within(network, own or "")
        if owner is not None:
            report.add(key, f"{show(text)} holds addresses of {owner}")


def _check_prefixes(secrets: Mapping[str, Secret], report: Report) -> None:
    """A fixed prefix is a /64, and belongs to one secret."""
    owners: dict[Network, str] = {}
    for name, secret in secrets.items():
        text = secret.remote_ipv6_prefix
        if not text:
            continue
        key = ("secret", name, "remote-ipv6-prefix")
        try:
            prefix = parse_network(text)
        except ValueError as error:
            report.add_value(key, text, str(error), PREFIX_FORMS)
            continue
        if prefix.version != 6 or prefix.prefixlen != SUBNET:
            report.add_value(key, text, "is nothing that a client can make addresses from", PREFIX_FORMS)
        elif prefix in owners:
            report.add(key, f"{show(text)} is also that of secret.{owners[prefix]}")
        owners.setdefault(prefix, name)


class _Owners:
    """Ranges that do not overlap, and whose they are; finding who is in a range costs the same for few and many."""

    def __init__(self, ranges: Iterable[tuple[AddressRange, str]]) -> None:
        self._ranges = sorted(ranges)

    def within(self, addresses: AddressRange) -> Iterator[tuple[AddressRange, str]]:
        """Yield those that overlap these addresses."""
        at = bisect_left(self._ranges, addresses.first, key=lambda owned: owned[0].last)
        while at < len(self._ranges) and self._ranges[at][0].first <= addresses.last:
            yield self._ranges[at]
            at += 1


class TakenAddresses:
    """The addresses that somebody has: pools, fixed ones, our own. What is no address is reported elsewhere.

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
        prefixes: list[tuple[AddressRange, str]] = []
        singles: list[tuple[AddressRange, str]] = []

        def add(text: str | None, path: KeyPath) -> None:
            if text is not None and pool_name(text) is None:
                with suppress(ValueError):
                    number = int(parse_name_server(text))
                    singles.append((AddressRange(number, number), dotted(path)))

        for name, profile in profiles.items():
            add(profile.local_address, ("profile", name, "local-address"))
            add(profile.remote_address, ("profile", name))
        for name, secret in secrets.items():
            add(secret.local_address, ("secret", name, "local-address"))
            add(secret.remote_address, ("secret", name))
            with suppress(ValueError):
                prefixes.append((parse_span(secret.remote_ipv6_prefix), dotted(("secret", name))))
        for index, text in enumerate(listen):
            with suppress(ValueError):
                add(parse_endpoint(text).host, ("server", "listen", index))
        of_pools = ((found, dotted(("pool", name))) for name, ranges in pools.items() for found in ranges)
        self._pools, self._fixed = _Owners(of_pools), (_Owners(prefixes), _Owners(singles))

    def owner_within(self, network: Network, own: str) -> str | None:
        """Return whose addresses are in the network; None when nobody's are.

        Args:
            own: the address, or the prefix of IPv6, that does not count; "" for none.
        """
        addresses = parse_span(str(network))
        for _, owner in self._pools.within(addresses):
            return owner
        mine = parse_span(own) if own and pool_name(own) is None else None
        for owners in self._fixed:
            for found, owner in owners.within(addresses):
                if found != mine:
                    return owner
        return None
