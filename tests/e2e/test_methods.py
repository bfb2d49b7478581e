"""Each authentication method carries a session from login to a clean end.

+-- client ----------------+                    +-- server ---------------+
| sstp0 10.20.0.x          |====tunnel====>     | sstp... 10.20.0.1       |
| uplink 10.99.1.2         |------veth----------| downlink 10.99.1.1:443  |
+--------------------------+                    +-------------------------+
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from .client import connected
from .farm import GATEWAY, Farm, running
from .netns import Wire
from .transfer import transfer

METHODS = ["mschap2", "mschap1", "chap", "pap"]
MEGABYTES = 50


@pytest.fixture(scope="module")
def farm(wire: Wire) -> Iterator[Farm]:
    """A farm that takes every method."""
    with running(wire.server, server={"authentication": METHODS}) as made:
        yield made


@pytest.mark.parity("ros-ppp/name-password", "ros-client/user", "ros-client/password", "ros-client/authentication")
@pytest.mark.parametrize("method", METHODS)
def test_session_by_method(wire: Wire, farm: Farm, method: str) -> None:
    mark = farm.log.mark()
    bytes_before = {way: farm.metric("sstpfarm_bytes_total", direction=way) for way in ("in", "out")}
    with (
        farm.counts("sstpfarm_logins_total", outcome="accepted"),
        farm.counts("sstpfarm_connections_total", outcome="opened"),
        connected(wire.client, wire.SERVER4, "--interface", "sstp0", "--authentication", method) as (client, up),
    ):
        assert (up["method"], up["interface"], up["remote_address"]) == (method, "sstp0", GATEWAY)
        assert up["dns"] == [GATEWAY]
        assert up["tls_version"] == "TLSv1.3"
        address = up["local_address"]
        assert IPv4Address("10.20.0.2") <= IPv4Address(address) <= IPv4Address("10.20.15.254")
        for phase in ("tcp", "tls", "http", "sstp", "lcp", "authentication", "ipcp", "interface"):
            assert phase in client.phases()

        opened = farm.wait_event("session.opened", mark)
        assert (opened["user"], opened["address"]) == ("alice", address)
        assert farm.wait_event("login.accepted", mark)["method"] == method
        (session,) = farm.sessions()
        assert (session["user"], session["address"], session["method"]) == ("alice", address, method)
        assert session["cipher"] == up["cipher"]
        assert session["interface"] in farm.tunnels()
        assert wire.client.ip("link", "show", "sstp0")[0]["mtu"] == up["mtu"] == session["mtu"]
        assert farm.lease_count() == 1

        assert wire.client.ping(GATEWAY, count=3)
        assert wire.server.ping(address, count=3)
        sent, received = transfer(wire.client, wire.server, GATEWAY, MEGABYTES)
        assert sent == received
        sent, received = transfer(wire.server, wire.client, address, MEGABYTES)
        assert sent == received
        for way, before in bytes_before.items():
            assert farm.metric("sstpfarm_bytes_total", direction=way) - before > MEGABYTES * 1_000_000

    closed = farm.wait_event("session.closed", mark)
    assert closed["reason"] in {"peer-disconnect", "peer-terminated"}
    assert min(closed["bytes_in"], closed["bytes_out"]) > MEGABYTES * 1_000_000
    farm.idle()
    assert farm.sessions() == []
