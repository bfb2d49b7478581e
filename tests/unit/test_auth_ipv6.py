"""What a session gets of IPv6: what its grant tells the client and routes to it."""

from __future__ import annotations

from sstpfarm.auth.authorization import Authorization
from sstpfarm.auth.ipv6 import ipv6_offer
from sstpfarm.ipc.messages import Ipv6Offer


def test_the_offer_holds_what_the_client_can_use() -> None:
    """Only of a /64 it can make addresses (RFC 4291 2.5.1)."""
    found = ipv6_offer(
        Authorization(
            user="alice",
            framed_prefixes=("fd42:3::/64", "fd42:4::/56"),
            delegated_prefixes=("fd42:2::/56",),
            ipv6_addresses=("fd42:5::9", "fd42:5::a"),
            ipv6_dns_servers=("fd42::35",),
        )
    )
    assert found == Ipv6Offer(("fd42:3::/64",), "fd42:5::9", ("fd42:2::/56",), ("fd42::35",))
