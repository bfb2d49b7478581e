"""IPv6 inside the tunnel (link-local) and outside it (the connection itself).

+-- client --------------------+                +-- server -------------------+
| sstp0 fe80::id/64            |====tunnel====> | sstp... fe80::id/64         |
| uplink fd99:1::2             |------veth------| downlink [fd99:1::1]:443    |
+------------------------------+                +-----------------------------+
"""

from __future__ import annotations

import time

from .client import connected
from .farm import GATEWAY, Farm, running
from .netns import Namespace, Wire, until


def link_local(place: Namespace, interface: str) -> str:
    """The one link-local address of an interface, once it is there: IPV6CP may end a little after IPCP."""

    def addresses() -> list[str]:
        entries = place.ip("-6", "address", "show", "dev", interface, "scope", "link")
        found = [address for entry in entries for address in entry.get("addr_info", [])]
        return [str(address["local"]) for address in found if address]  # of another scope it shows an empty one

    (address,) = until(addresses, f"a link-local address of {interface}")
    return address


def test_link_local_ping_through_a_static_interface(wire: Wire) -> None:
    with running(wire.server, tables={"interface.site": {"user": "alice"}}) as farm:
        with connected(wire.client, wire.SERVER4, "--interface", "sstp0") as (_, up):
            ours, theirs = link_local(wire.client, "sstp0"), link_local(wire.server, "site")
            assert ours != theirs
            assert up["ipv6_local"] in {ours, None}
            assert wire.client.ping(f"{theirs}%sstp0", "-6", count=3)
            assert wire.server.ping(f"{ours}%site", "-6", count=3)
        farm.idle()


def test_another_interface_has_no_route_of_ipv6(wire: Wire, farm: Farm) -> None:
    """Not even where IPV6CP is open: each would cost every session that comes or goes (ADR 0008)."""
    mark = farm.log.mark()
    with connected(wire.client, wire.SERVER4, "--interface", "sstp0") as (_, up):
        assert up["ipv6_local"] == link_local(wire.client, "sstp0")
        interface = farm.wait_event("session.opened", mark)["interface"]
        time.sleep(0.2)  # the worker tells of IPV6CP's end now
        assert wire.server.run("ip", "-6", "route", "show", "table", "all", "dev", interface).stdout == ""
        assert wire.client.ping(GATEWAY)
    farm.idle()


def test_outer_connection_over_ipv6(wire: Wire, farm: Farm) -> None:
    mark = farm.log.mark()
    with connected(wire.client, f"[{wire.SERVER6}]:443", "--interface", "sstp0"):
        assert wire.client.ping(GATEWAY)
        assert wire.CLIENT6 in farm.wait_event("session.opened", mark)["peer"]
        assert wire.CLIENT6 in farm.sessions()[0]["caller_id"]
    farm.idle()
