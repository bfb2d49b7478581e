"""What profiles, pools and secrets say is what a session gets.

+-- client -------------------+           +-- server ------+
| raw peers, sstpfarm connect |---veth----| sstpfarm serve |
+-----------------------------+           +----------------+
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from .client import connected
from .farm import GATEWAY, PASSWORD, Farm, running
from .frames import ACK, IPCP, NAK, PAP, REQ, options, ppp
from .netns import Wire
from .rawpeer import tls_peer

SECRETS = {
    "fixed": {"password": PASSWORD, "remote-address": "10.77.0.9", "local-address": "10.77.0.1"},
    "named": {"password": PASSWORD, "dns-server": ["10.20.0.53", "10.20.0.54"]},
    "disabled": {"password": PASSWORD, "disabled": True},
    "dialler": {"password": PASSWORD, "service": "pptp"},
    "here-too": {"password": PASSWORD, "service": "sstp"},
    "elsewhere": {"password": PASSWORD, "caller-id": "192.0.2.0/24"},
    "here": {"password": PASSWORD, "caller-id": Wire.CLIENT4},
    "lonely": {"password": PASSWORD, "remote-address": "pool:single"},
    "windows": {"password": PASSWORD, "wins-server": ["10.20.0.42", "10.20.0.43"]},
    "other": {"password": PASSWORD, "profile": "other"},
}


@pytest.fixture(scope="module")
def farm(wire: Wire) -> Iterator[Farm]:
    """A farm with small packets, a pool of one address and users of all kinds."""
    with running(
        wire.server,
        server={"authentication": ["mschap2", "pap"], "max-mtu": 1300, "max-mru": 1350},
        secrets=SECRETS,
        pools={"single": {"ranges": ["10.30.0.1"]}},
        tables={
            "profile.other": {"local-address": "10.88.0.1", "remote-address": "10.88.0.2", "dns-server": ["10.88.0.53"]}
        },
    ) as made:
        yield made


@pytest.mark.parity("ros-ppp/local-address", "ros-ppp/remote-address")
def test_fixed_addresses(wire: Wire, farm: Farm) -> None:
    with tls_peer(wire.client, wire.SERVER4) as peer, tls_peer(wire.client, wire.SERVER4) as second:
        peer.open_session("fixed")
        assert peer.address == "10.77.0.9"
        assert peer.ping("10.77.0.1")
        # the address is taken: a second session of that user cannot have it
        with farm.refuses("no-address", "lcp", second.peer):
            second.open_http()
            second.call_connect()
            second.open_lcp("pap")
            second.send_pap("fixed")
            assert second.frame(PAP).code == NAK
            second.answer_disconnect()
        peer.disconnect()
    farm.idle()


@pytest.mark.parity("ros-ppp/pool")
def test_used_up_pool(wire: Wire, farm: Farm) -> None:
    for _ in range(2):  # the address comes back each time
        with tls_peer(wire.client, wire.SERVER4) as peer:
            peer.open_session("lonely")
            assert peer.address == "10.30.0.1"
            with tls_peer(wire.client, wire.SERVER4) as second, farm.refuses("no-address", "lcp", second.peer):
                second.open_http()
                second.call_connect()
                second.open_lcp("pap")
                second.send_pap("lonely")
                second.answer_disconnect()
            peer.disconnect()
        farm.idle()


@pytest.mark.parity("ros-ppp/dns-server")
def test_dns_servers(wire: Wire, farm: Farm) -> None:
    with connected(wire.client, wire.SERVER4, user="named") as (_, up):
        assert up["dns"] == ["10.20.0.53", "10.20.0.54"]
    farm.idle()


@pytest.mark.parity("ros-server/max-mtu", "ros-server/max-mru", "ros-client/max-mru")
def test_mtu(wire: Wire, farm: Farm) -> None:
    """The interface at each end has the smaller of its own limit and what the other receives."""
    with connected(wire.client, wire.SERVER4, "--interface", "sstp0", "--max-mru", "1290") as (_, up):
        (session,) = farm.sessions()
        assert session["mtu"] == 1290
        assert up["mtu"] == 1350
        assert wire.server.ip("link", "show", session["interface"])[0]["mtu"] == 1290
        assert wire.client.ping(GATEWAY, "-M", "do", "-s", str(1290 - 28))
        assert not wire.client.ping(GATEWAY, "-M", "do", "-s", str(1351 - 28))
    farm.idle()


@pytest.mark.parity("ros-ppp/wins-server")
def test_wins_servers(wire: Wire, farm: Farm) -> None:
    """A peer that asks for NBNS servers is told those of the secret (RFC 1877 1.2, 1.4)."""
    with tls_peer(wire.client, wire.SERVER4) as peer:
        peer.until_authenticated("windows")
        peer.send(peer.call_connected())
        peer.send(ppp(IPCP, REQ, 7, b"\x03\x06" + bytes(4) + b"\x82\x06" + bytes(4) + b"\x84\x06" + bytes(4)))
        told = options(peer.frame(IPCP, NAK).options)
        assert [socket.inet_ntoa(told[number]) for number in (130, 132)] == ["10.20.0.42", "10.20.0.43"]
        peer.send(ppp(IPCP, REQ, 8, b"".join(bytes([number, 6]) + value for number, value in told.items())))
        assert peer.frame(IPCP, ACK).identifier == 8
        peer.disconnect()
    farm.idle()


@pytest.mark.parity("ros-ppp/profile", "ros-server/default-profile")
def test_the_profile_of_the_secret_or_the_default_one(wire: Wire, farm: Farm) -> None:
    with connected(wire.client, wire.SERVER4, user="other") as (_, up):
        assert (up["local_address"], up["remote_address"], up["dns"]) == ("10.88.0.2", "10.88.0.1", ["10.88.0.53"])
    with connected(wire.client, wire.SERVER4) as (_, up):
        assert (up["remote_address"], up["dns"]) == (GATEWAY, [GATEWAY])


@pytest.mark.parity("ros-ppp/caller-id", "ros-ppp/service")
@pytest.mark.parametrize("user", ["here", "here-too"])
def test_caller_and_service_that_are_allowed(wire: Wire, farm: Farm, user: str) -> None:
    with tls_peer(wire.client, wire.SERVER4) as peer:
        peer.open_session(user)
        assert peer.ping()
        peer.disconnect()
    farm.idle()


@pytest.mark.parity("ros-ppp/disabled", "ros-ppp/caller-id", "ros-ppp/service")
@pytest.mark.parametrize("user", ["disabled", "elsewhere", "dialler"])
def test_users_who_may_not_come_in(wire: Wire, farm: Farm, user: str) -> None:
    with tls_peer(wire.client, wire.SERVER4) as peer, farm.refuses("auth-refused", "lcp", peer.peer):
        peer.open_http()
        peer.call_connect()
        peer.open_lcp("pap")
        peer.send_pap(user)
        assert peer.frame(PAP).code == NAK
        peer.answer_disconnect()
    farm.idle()
