"""What the client of a session is told of IPv6: fixed for the session, so every answer is made from it alone."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Final

# Seconds. Of a prefix or an address that ends with its session: with those of RFC 4861 6.2.1, a week and a month, a
# network behind the client would use a prefix long after another one took its place (RFC 9096 3.4).
PREFERRED_LIFETIME: Final = 2700
VALID_LIFETIME: Final = 5400
MOST_NETWORKS: Final = 16  # of each kind
MOST_DNS_SERVERS: Final = 4


@dataclass(frozen=True, slots=True)
class Offer:
    """The offer of one session.

    Attributes:
        prefixes: /64s that the client makes its addresses from (RFC 4862).
        address: the one that it gets by DHCPv6, None for none.
        delegated: prefixes that it gets by DHCPv6 for networks of its own.
        dns_servers: told both ways.
    """

    prefixes: tuple[IPv6Network, ...] = ()
    address: IPv6Address | None = None
    delegated: tuple[IPv6Network, ...] = ()
    dns_servers: tuple[IPv6Address, ...] = ()

    def __post_init__(self) -> None:
        assert max(len(self.prefixes), len(self.delegated)) <= MOST_NETWORKS
        assert len(self.dns_servers) <= MOST_DNS_SERVERS

    def __bool__(self) -> bool:
        return bool(self.prefixes or self.address or self.delegated or self.dns_servers)
