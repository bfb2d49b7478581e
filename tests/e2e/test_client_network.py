"""Our client when the way to its server changes, or its name leads elsewhere.

+-- client ------------------+          +-- server -------------------+
| uplink  10.99.1.2          |---veth---| downlink  10.99.1.1         |
| second  10.98.1.2          |---veth---| another   10.98.1.1         |
+----------------------------+          | lo        10.50.0.1         |
                                        +-----------------------------+
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .client_service import interface, serving
from .farm import GATEWAY, Farm
from .netns import Wire, connect, until

SERVER, NETWORK = "10.50.0.1", "10.50.0.0/24"
FIRST, SECOND = "10.99.1.1", "10.98.1.1"


@pytest.fixture(scope="module")
def two_ways(wire: Wire) -> Iterator[Wire]:
    """A second wire, and an address of the server's that both lead to."""
    connect(wire.client, "second", ["10.98.1.2/24"], wire.server, "another", [f"{SECOND}/24"])
    wire.server.run("ip", "address", "add", f"{SERVER}/32", "dev", "lo")
    yield wire
    wire.client.run("ip", "link", "delete", "second")


def lead(wire: Wire, gateway: str) -> None:
    """Let the client reach the server that way."""
    wire.client.run("ip", "route", "replace", NETWORK, "via", gateway)


def past(wire: Wire) -> list[str]:
    """The gateways of the client's own route to the server."""
    return [route["gateway"] for route in wire.client.ip("route", "show", f"{SERVER}/32")]


def test_another_way_is_another_session_at_once(two_ways: Wire, farm: Farm) -> None:
    """The back-off is an hour: what dials is the change. The same way again, or an added one, ends nothing."""
    lead(two_ways, FIRST)
    slow = interface(SERVER, reconnect_delay_s=3600, reconnect_delay_max_s=3600)
    with serving(two_ways.client, {"sstpc0": slow}) as service:
        service.opened("sstpc0")
        (session,) = farm.sessions()
        assert session["caller_id"].startswith("10.99.1.2:")

        mark = service.log.mark()
        two_ways.client.run("ip", "route", "add", NETWORK, "via", SECOND, "metric", "5")
        two_ways.client.run("ip", "address", "add", "10.97.0.1/32", "dev", "lo")
        two_ways.client.run("ip", "route", "del", NETWORK, "via", SECOND, "metric", "5")
        two_ways.client.run("ip", "address", "del", "10.97.0.1/32", "dev", "lo")

        lead(two_ways, SECOND)
        assert service.wait("tunnel.closed", mark)["reason"] == "network-changed"
        service.opened("sstpc0", mark)
        assert len(service.log.find("tunnel.closed")) == 1
        until(lambda: [s["caller_id"].split(":")[0] for s in farm.sessions()] == ["10.98.1.2"], "the other way")
        assert two_ways.client.ping(GATEWAY)

        mark = service.log.mark()
        two_ways.client.run("ip", "address", "del", "10.98.1.2/24", "dev", "second")  # our end, and the route with it
        assert service.wait("tunnel.closed", mark)["reason"] == "network-changed"
        service.wait("tunnel.postponed", mark)  # there is no way at all
        mark = service.log.mark()
        lead(two_ways, FIRST)
        service.opened("sstpc0", mark)
        two_ways.client.run("ip", "address", "add", "10.98.1.2/24", "dev", "second")
    two_ways.client.run("ip", "route", "del", NETWORK)
    farm.idle()


def test_the_route_past_the_tunnel_follows_the_gateway(two_ways: Wire, farm: Farm) -> None:
    """Another gateway on the same link: the connection lives on, and its packets take the new one."""
    two_ways.server.run("ip", "address", "add", "10.99.1.9/24", "dev", "downlink")
    lead(two_ways, FIRST)
    with serving(two_ways.client, {"sstpc0": interface(SERVER, add_default_route=True)}) as service:
        service.opened("sstpc0")
        assert past(two_ways) == [FIRST]
        lead(two_ways, "10.99.1.9")
        until(lambda: past(two_ways) == ["10.99.1.9"], "our route goes by the new gateway")
        assert two_ways.client.ping(GATEWAY)
        assert not service.log.find("tunnel.closed")
        lead(two_ways, FIRST)
    two_ways.client.run("ip", "route", "del", NETWORK)
    two_ways.server.run("ip", "address", "del", "10.99.1.9/24", "dev", "downlink")
    farm.idle()
