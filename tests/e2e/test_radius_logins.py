"""Users of a real FreeRADIUS: every method with its crypto binding, every attribute of the grant, refusals.

Session-Timeout and Idle-Timeout are in test_radius_accounting.py, where their causes are.

+-- client ----------------+                    +-- server ---------------------------------+
| sstp0 10.20.0.x          |====tunnel====>     | sstp... 10.20.0.1                         |
| uplink 10.99.1.2         |------veth----------| downlink 10.99.1.1:443                    |
+--------------------------+                    | lo: FreeRADIUS 127.0.0.1:1812, :1813      |
                                                +-------------------------------------------+
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pytest

from sstpfarm.reasons import ExitCode

from .client import TRUST_ANY, connected, connecting
from .farm import GATEWAY, Farm, running
from .frames import LCP, ppp
from .freeradius import SECRET, FreeRadius
from .measured_rate import samples, stream, whole_rate
from .netns import Wire, until
from .rawpeer import tls_peer
from .test_ipv6 import link_local

METHODS = ["eap", "mschap2", "mschap1", "chap", "pap"]
IDENTIFICATION = 12  # an LCP code, RFC 1570 2.1
PASSWORD = "radius pass"  # FreeRADIUS 3.2.1 and pppd agree on ASCII only
USERS = {
    "rita": (PASSWORD, []),
    "grant": (
        PASSWORD,
        [
            "Framed-IP-Address = 10.30.0.9",
            "Framed-IP-Netmask = 255.255.255.248",
            'Framed-Route = "10.31.0.0/24 0.0.0.0 7"',
            'Framed-Route += "192.168.77.0"',
            'Framed-IPv6-Route = "fd42:1::/64 :: 5"',
            "Delegated-IPv6-Prefix = fd42:2::/56",
            "Framed-IPv6-Prefix = fd42:3::/64",
            "Framed-IPv6-Address = fd42:4::9",
            "Framed-Interface-Id = 0200:5eff:fe00:9",
            "Framed-MTU = 1300",
            "MS-Primary-DNS-Server = 9.9.9.9",
            "MS-Secondary-DNS-Server = 149.112.112.112",
            "MS-Primary-NBNS-Server = 10.30.0.2",
            'Filter-Id = "staff"',
            'Mikrotik-Address-List = "guests"',
            'Mikrotik-Rate-Limit = "8M/4M"',
            'Reply-Message = "Welcome"',
            'User-Name = "grant@corp"',
        ],
    ),
    "pooled": (PASSWORD, ['Framed-Pool = "other"', "Framed-IP-Address = 255.255.255.254"]),
    "told": (PASSWORD, ['User-Name = "%{MS-RAS-Vendor} %{MS-RAS-Version}"']),
    "windows": (PASSWORD, ['User-Name = "%{MS-RAS-Client-Version} %{MS-RAS-Client-Name}"']),
    "twice": (PASSWORD, ["Port-Limit = 1"]),
    "login-service": (PASSWORD, ["Service-Type = Login-User"]),
    "servers": (
        PASSWORD,
        [
            "MS-Primary-DNS-Server = 9.9.9.9",
            "MS-Secondary-DNS-Server = 149.112.112.112",
            "MS-Primary-NBNS-Server = 10.30.0.2",
            "MS-Secondary-NBNS-Server = 10.30.0.3",
        ],
    ),
    "vlan": (
        PASSWORD,
        ["Tunnel-Type = VLAN", "Tunnel-Medium-Type = IEEE-802", 'Tunnel-Private-Group-Id = "100"'],
    ),
    "mikrotik": (PASSWORD, ['Mikrotik-Rate-Limit = "2M/4M"']),
    "wispr": (PASSWORD, ["WISPr-Bandwidth-Max-Up = 2000000", "WISPr-Bandwidth-Max-Down = 4000000"]),
    "volume": (PASSWORD, ["Mikrotik-Recv-Limit = 50000", "Mikrotik-Recv-Limit-Gigawords = 0"]),
}


@pytest.fixture(scope="module")
def farm(wire: Wire, radius: FreeRadius) -> Iterator[Farm]:
    """A farm that asks it for users that have no secret."""
    with running(
        wire.server,
        server={"authentication": METHODS, "failure-delay-s": 0.1},
        auth={"backends": ["local", "radius"]},
        pools={"other": {"ranges": ["10.40.0.2-10.40.0.9"]}},
        tables={
            "radius": {
                "nas-ip-address": wire.SERVER4,
                "ms-ras-vendor": 311,
                "server": [{"address": "127.0.0.1", "secret": SECRET, "message-authenticator": "require"}],
            }
        },
    ) as made:
        yield made


@pytest.mark.parametrize("method", METHODS)
def test_every_method(wire: Wire, farm: Farm, method: str) -> None:
    """The crypto binding is checked with the keys that the server sent; without them there would be no session."""
    mark = farm.log.mark()
    with connected(wire.client, wire.SERVER4, "--authentication", method, user="rita", password=PASSWORD) as (_, up):
        assert up["method"] == method
        opened = farm.wait_event("session.opened", mark)
        assert opened["user"] == "rita"
        assert wire.client.ping(GATEWAY)
    farm.idle()


@pytest.mark.parametrize("method", ["eap", "mschap2", "pap"])
def test_a_wrong_password_by_method(wire: Wire, farm: Farm, method: str) -> None:
    with (
        farm.counts("sstpfarm_logins_total", outcome="auth-refused"),
        connecting(
            wire.client, wire.SERVER4, *TRUST_ANY, "--authentication", method, user="rita", password="wrong"
        ) as client,
    ):
        code, closed = client.end()
        assert (code, closed["reason"]) == (ExitCode.AUTHENTICATION, "auth-refused"), closed


def test_the_local_user_eap(wire: Wire, farm: Farm) -> None:
    """EAP-MSCHAPv2 without RADIUS: alice has a secret here, and FreeRADIUS does not know her."""
    with connected(wire.client, wire.SERVER4, "--authentication", "eap") as (_, up):
        assert up["method"] == "eap"
        assert wire.client.ping(GATEWAY)


def test_the_text_of_a_refusal_reaches_the_client(wire: Wire, farm: Farm) -> None:
    with connecting(
        wire.client, wire.SERVER4, *TRUST_ANY, "--authentication", "pap", user="nobody", password="x"
    ) as client:
        code, closed = client.end()
        assert (code, closed["reason"]) == (ExitCode.AUTHENTICATION, "auth-refused")
        assert "Nobody of that name" in closed["detail"], closed


def test_what_an_accept_grants(wire: Wire, farm: Farm) -> None:
    """Each attribute in the kernel or on the wire."""
    mark = farm.log.mark()
    with connected(wire.client, wire.SERVER4, "--interface", "sstp0", user="grant", password=PASSWORD) as (_, up):
        opened = farm.wait_event("session.opened", mark)
        assert opened["user"] == "grant@corp"
        assert up["local_address"] == "10.30.0.9"
        assert up["dns"] == ["9.9.9.9", "149.112.112.112"]
        interface = opened["interface"]
        assert wire.server.ip("link", "show", interface)[0]["mtu"] == 1300
        assert wire.client.ping(GATEWAY)

        def routes() -> bool:
            text = wire.server.run("ip", "-4", "route", "show", "dev", interface).stdout
            return all(net in text for net in ("10.30.0.8/29", "10.31.0.0/24", "192.168.77.0/24"))

        until(routes, "the networks behind the client are routed to it")
        assert "metric 7" in wire.server.run("ip", "route", "show", "10.31.0.0/24").stdout

        def routes6() -> bool:
            text = wire.server.run("ip", "-6", "route", "show", "dev", interface).stdout
            return all(net in text for net in ("fd42:1::/64", "fd42:2::/56", "fd42:3::/64", "fd42:4::9"))

        until(routes6, "those of IPv6 too")
        for name in ("staff", "guests"):
            assert "10.30.0.9" in wire.server.run("nft", "list", "set", "inet", "sstpfarm", name).stdout
        assert link_local(wire.client, "sstp0") == "fe80::200:5eff:fe00:9"
    farm.idle()


def test_the_servers_that_a_peer_asks_for(wire: Wire, farm: Farm) -> None:
    """DNS and WINS of the Access-Accept, in IPCP (RFC 1877: options 129 to 132)."""
    with tls_peer(wire.client, wire.SERVER4) as peer:
        peer.until_authenticated("servers", PASSWORD)
        peer.send(peer.call_connected())
        peer.open_ipcp(129, 130, 131, 132)
        assert peer.servers == {129: "9.9.9.9", 130: "10.30.0.2", 131: "149.112.112.112", 132: "10.30.0.3"}
        peer.disconnect()
    farm.idle()


@pytest.mark.alone
@pytest.mark.parametrize("direction", ["download", "upload"])
@pytest.mark.parametrize("user", ["mikrotik", "wispr"])
def test_a_rate_limit(wire: Wire, farm: Farm, user: str, direction: str) -> None:
    """2 Mbit/s from the client, 4 towards it."""
    with connected(wire.client, wire.SERVER4, "--interface", "slow0", user=user, password=PASSWORD) as (_, up):
        (session,) = farm.sessions()
        down = direction == "download"
        ends: Any = (wire.server, wire.client, up["local_address"]) if down else (wire.client, wire.server, GATEWAY)
        place, interface = (wire.client, "slow0") if down else (wire.server, session["interface"])
        with stream(*ends):
            time.sleep(0.5)  # the beginning of the stream
            found = samples(place, interface, 3)
    limit = 4e6 if down else 2e6
    assert 0.85 * limit <= whole_rate(found) <= 1.08 * limit, f"{whole_rate(found) / 1e6:.3f} Mbit/s"
    farm.idle()


def test_what_a_policy_of_nps_can_ask_for(wire: Wire, farm: Farm) -> None:
    """The server gives back what it was told, as the user's name."""
    mark = farm.log.mark()
    with connected(wire.client, wire.SERVER4, user="told", password=PASSWORD):
        assert farm.wait_event("session.opened", mark)["user"] == f"311 sstpfarm {version('sstpfarm')}"


def test_what_windows_says_of_itself(wire: Wire, farm: Farm) -> None:
    """LCP Identification (RFC 1570 2.1), before authentication, and later with other texts: the first ones count."""
    mark = farm.log.mark()
    with tls_peer(wire.client, wire.SERVER4) as peer:
        peer.open_http()
        peer.call_connect()
        peer.open_lcp("pap")
        texts = (b"MSRAS-0-" + b"x" * 1000, b"MSRASV5.20", b"MSRAS-0-LAPTOP-7", b"MSRASV9.99", b"MSRAS-1-OTHER", b"\n")
        for number, text in enumerate(texts, 1):
            peer.send(ppp(LCP, IDENTIFICATION, number, bytes(4) + text))
        peer.authenticate_pap("windows", PASSWORD)
        peer.send(ppp(LCP, IDENTIFICATION, 9, bytes(4) + b"MSRAS-0-LATE"))
        peer.send(peer.call_connected())
        peer.open_ipcp()
        opened = farm.wait_event("session.opened", mark)
        assert (opened["user"], opened["client_name"]) == ("MSRASV5.20 LAPTOP-7", "LAPTOP-7")
        assert peer.ping()
        peer.disconnect()
    farm.idle()


def test_a_pool_by_its_name(wire: Wire, farm: Farm) -> None:
    with connected(wire.client, wire.SERVER4, user="pooled", password=PASSWORD) as (_, up):
        assert up["local_address"].startswith("10.40.0.")


def test_a_limit_in_volume(wire: Wire, farm: Farm) -> None:
    mark = farm.log.mark()
    with connecting(
        wire.client, wire.SERVER4, *TRUST_ANY, "--no-default-route", user="volume", password=PASSWORD
    ) as client:
        client.up()
        wire.client.run("ping", "-q", "-c", "60", "-i", "0.002", "-s", "1000", GATEWAY, check=False)
        client.end()
        assert farm.wait_event("session.closed", mark)["reason"] == "quota"


def test_a_limit_of_sessions(wire: Wire, farm: Farm) -> None:
    mark = farm.log.mark()
    with (
        connected(wire.client, wire.SERVER4, user="twice", password=PASSWORD),
        connecting(wire.client, wire.SERVER4, *TRUST_ANY, user="twice", password=PASSWORD) as second,
    ):
        _, closed = second.end()
        assert closed["reason"] == "auth-refused"
        assert farm.wait_event("login.refused", mark)["reason"] == "already-connected"


@pytest.mark.parametrize(
    ("user", "detail"),
    [
        ("login-service", "Service-Type is 1, not 2"),
        ("vlan", "Tunnel-Private-Group-Id is 100, and the profile has no bridge"),
    ],
)
def test_a_grant_that_contradicts_itself(wire: Wire, farm: Farm, user: str, detail: str) -> None:
    """Each contradiction is in tests/unit/test_radius_grant.py."""
    mark = farm.log.mark()
    with connecting(wire.client, wire.SERVER4, *TRUST_ANY, user=user, password=PASSWORD) as client:
        assert client.end()[0] == ExitCode.AUTHENTICATION
    said = f"RADIUS server 127.0.0.1 port 1812: {detail}"
    assert farm.wait_event("login.denied", mark)["detail"] == said
