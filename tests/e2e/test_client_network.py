"""Our client when the way to its server changes, or its name leads elsewhere.

+-- client ------------------+          +-- server -------------------+
| uplink  10.99.1.2          |---veth---| downlink  10.99.1.1         |
| second  10.98.1.2          |---veth---| another   10.98.1.1         |
+----------------------------+          | lo        10.50.0.1         |
                                        +-----------------------------+
"""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic

import pytest

from .client_service import interface, serving
from .farm import GATEWAY, Farm, running
from .netns import HOSTS, Wire, connect, until

SERVER, NETWORK = "10.50.0.1", "10.50.0.0/24"
FIRST, SECOND = "10.99.1.1", "10.98.1.1"


@pytest.fixture(scope="module")
def farm(wire: Wire) -> Iterator[Farm]:
    """A farm that soon notices clients whose address is gone: nothing that they send can tell it."""
    with running(wire.server, server={"authentication": ["mschap2", "pap"], "keepalive-timeout": 2}) as made:
        yield made


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


@pytest.mark.parity("vyos/server", "ros-client/connect-to")
def test_a_name_is_looked_up_at_each_dial_and_all_its_addresses_are_tried(wire: Wire, farm: Farm) -> None:
    hosts = wire.client.hosts
    hosts.write_text("10.99.1.8 vpn.test\n")  # nobody is there
    tunnels = {"sstpc0": interface("", server="vpn.test", connect_timeout_s=0.3)}
    with serving(wire.client, tunnels) as service:
        failed = service.wait("tunnel.failed")
        assert (failed["reason"], failed["detail"]) == (
            "network-unreachable",
            "10.99.1.8 port 443: no answer in time",
        )
        hosts.write_text(f"10.99.1.8 vpn.test\n{wire.SERVER4} vpn.test\n")
        assert service.opened("sstpc0")["server"] == wire.SERVER4
    hosts.write_text(HOSTS)
    farm.idle()


def test_dial_on_demand_with_the_default_route_and_a_name(wire: Wire, farm: Farm) -> None:
    """Everything waits in the device; the server is looked up before, and reached past it."""
    wire.client.hosts.write_text(f"{wire.SERVER4} vpn.test\n")
    tunnels = {"sstpc0": interface("vpn.test", dial_on_demand=True, add_default_route=True)}
    with serving(wire.client, tunnels) as service:
        service.wait("tunnel.stood_by")
        [default] = wire.client.ip("route", "show", "default")
        assert default["dev"] == "sstpc0"
        [past] = wire.client.ip("route", "show", f"{wire.SERVER4}/32")
        assert past["dev"] == "uplink"
        pinged = wire.client.run("ping", "-n", "-c", "1", "-W", "30", GATEWAY, check=False)
        assert " 1 received" in pinged.stdout, pinged.stdout
        mark = service.log.mark()
        farm.cli("kick", farm.sessions()[0]["session"])  # an end in order: it waits for the next packet
        service.wait("tunnel.stood_by", mark)
        [default] = wire.client.ip("route", "show", "default")
        assert default["dev"] == "sstpc0", "nothing goes past the tunnel meanwhile"
        assert not service.log.find("tunnel.postponed")
    wire.client.hosts.write_text(HOSTS)
    farm.idle()


@pytest.mark.parity("ros-client/keepalive-timeout")
def test_a_server_that_says_nothing_any_more_is_given_up(wire: Wire, farm: Farm) -> None:
    """Twice keepalive-timeout after its last word it is dead, and dialled again."""
    with serving(wire.client, {"sstpc0": interface(wire.SERVER4, keepalive_timeout=1)}) as service:
        service.opened("sstpc0")
        mark, began = service.log.mark(), monotonic()
        wire.server.run("nft", "add table inet mute; add chain inet mute out { type filter hook output priority 0; }")
        wire.server.run("nft", "add rule inet mute out tcp sport 443 drop")
        closed = service.wait("tunnel.closed", mark)
        assert closed["reason"] == "peer-dead"
        assert 1 < monotonic() - began < 20
        wire.server.run("nft", "delete table inet mute")
        service.opened("sstpc0", mark)
    farm.idle()
