"""Prefixes and addresses of IPv6 from pools: for users of this farm and of a real FreeRADIUS, in the kernel, in
`show pools` and in the accounting records.

+-- client ----------------+                    +-- server ---------------------------------+
| sstp0 fe80::id, PREFIX:id|====tunnel====>     | sstp... what was leased is routed there   |
| uplink 10.99.1.2         |------veth----------| downlink 10.99.1.1:443                    |
+--------------------------+                    | lo: FreeRADIUS 127.0.0.1:1812, :1813      |
                                                |     UDP 3799 <-- radclient                |
                                                +-------------------------------------------+
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network

import pytest

from .client import TRUST_ANY, connected, connecting
from .farm import GATEWAY, PASSWORD, Farm, running
from .freeradius import SECRET, FreeRadius, radclient
from .netns import Namespace, Wire, until

RADIUS_PASSWORD = "radius pass"  # FreeRADIUS 3.2.1 and pppd agree on ASCII only
USERS = {
    "plain": (RADIUS_PASSWORD, []),
    "pools": (
        RADIUS_PASSWORD,
        [
            'Framed-IPv6-Pool = "homes"',
            'Delegated-IPv6-Prefix-Pool = "sites"',
            'Stateful-IPv6-Address-Pool = "singles"',
            "DNS-Server-IPv6-Address = fd42:9::53",
        ],
    ),
    "own": (
        RADIUS_PASSWORD,
        [
            "Framed-IPv6-Prefix = fd42:3::/64",
            "Framed-IPv6-Address = fd42:4::9",
            'Framed-IPv6-Pool = "homes"',
            'Stateful-IPv6-Address-Pool = "singles"',
        ],
    ),
    "thief": (RADIUS_PASSWORD, ["Framed-IPv6-Prefix = fd42:a:0:1::/64"]),
    "lost": (RADIUS_PASSWORD, ['Framed-IPv6-Pool = "sites"']),
}


@pytest.fixture(scope="module")
def farm(wire: Wire, radius: FreeRadius) -> Iterator[Farm]:
    """A farm whose default profile gives IPv6 to its own users; it asks RADIUS for others, and takes orders."""
    with running(
        wire.server,
        server={"authentication": ["mschap2", "pap"]},
        auth={"backends": ["local", "radius"]},
        profile={"remote-ipv6-prefix-pool": "few", "dns-server": [GATEWAY, "fd42:9::1"]},
        pools={
            "homes": {"ranges": ["fd42:a::/48"]},
            "sites": {"ranges": ["fd42:b::/48"], "prefix-length": 56},
            "singles": {"ranges": ["fd42:c::10-fd42:c::1f"], "prefix-length": 128},
            "few": {"ranges": ["fd42:d::/63"], "exclude": ["fd42:d::1"]},
        },
        secrets={"fixed": {"password": PASSWORD, "remote-ipv6-prefix": "fd42:e::/64"}},
        tables={
            "radius": {
                "server": [{"address": "127.0.0.1", "secret": SECRET, "message-authenticator": "require"}],
                "coa": {"listen": "127.0.0.1:3799", "client": [{"address": "127.0.0.1", "secret": SECRET}]},
            }
        },
    ) as made:
        yield made


def routed(place: Namespace, interface: str) -> set[str]:
    """The networks of IPv6 that lead into an interface, but for link-local ones."""
    words = [line.split()[0] for line in place.run("ip", "-6", "route", "show", "dev", interface).stdout.splitlines()]
    return {word for word in words if not word.startswith("fe80") and word != "multicast"}


def made_from(place: Namespace, interface: str, prefix: str) -> bool:
    """Whether an interface has an address of that prefix."""
    found = place.ip("-6", "address", "show", "dev", interface, "scope", "global")
    addresses = [address["local"] for entry in found for address in entry.get("addr_info", []) if "local" in address]
    return any(IPv6Address(address) in IPv6Network(prefix) for address in addresses)


def used(farm: Farm) -> dict[str, int]:
    """How much of each pool `show pools` says is used."""
    return {pool["pool"]: pool["used"] for pool in json.loads(farm.cli("show", "pools", "--json").stdout)}


def shows(farm: Farm, **expected: int) -> None:
    """Wait until `show pools` says so of these pools, and 0 of the others."""
    wanted = {**dict.fromkeys(("main", "homes", "sites", "singles", "few"), 0), **expected}
    until(lambda: used(farm) == wanted, f"show pools says {wanted}")


def record_of(radius: FreeRadius, session: str, status: str) -> dict[str, str]:
    """The accounting record of a session with that status, awaited."""
    (record,) = until(
        lambda: radius.records(Acct_Session_Id=session, Acct_Status_Type=status), f"{status} of {session}"
    )
    return record


def test_every_attribute_of_radius_that_names_a_pool(wire: Wire, farm: Farm, radius: FreeRadius) -> None:
    mark = farm.log.mark()
    with connected(wire.client, wire.SERVER4, "--interface", "sstp0", user="pools", password=RADIUS_PASSWORD):
        opened = farm.wait_event("session.opened", mark)
        interface = opened["interface"]
        expected = {"fd42:a::/64", "fd42:b::/56", "fd42:c::10"}
        until(lambda: routed(wire.server, interface) == expected, f"routes to {expected}")
        shows(farm, main=1, homes=1, sites=1, singles=1)
        until(lambda: farm.metric("sstpfarm_pool_addresses", pool="homes", state="used") == 1, "the metric says so")
        assert farm.metric("sstpfarm_pool_addresses", pool="homes", state="free") == 65_535
        assert farm.metric("sstpfarm_pool_addresses", pool="sites", state="free") == 255

        until(lambda: made_from(wire.client, "sstp0", "fd42:a::/64"), "the client has made an address from the prefix")

        # who is meant by an order: the prefix that was leased, and no other
        target = "127.0.0.1:3799"
        said = radclient(wire.server, target, "coa", ["Framed-IPv6-Prefix = fd42:a:0:1::/64", "Idle-Timeout = 0"])
        assert "CoA-NAK" in said
        said = radclient(wire.server, target, "coa", ["Framed-IPv6-Prefix = fd42:a::/64", "Idle-Timeout = 0"])
        assert "CoA-ACK" in said
    farm.idle()
    shows(farm)
    for status in ("Start", "Stop"):
        record = record_of(radius, opened["session"], status)
        assert record["Framed-IPv6-Prefix"] == "fd42:a::/64"
        assert record["Delegated-IPv6-Prefix"] == "fd42:b::/56"
        assert record["Framed-IPv6-Address"] == "fd42:c::10"
    (row,) = json.loads(farm.cli("show", "history", "--user", "pools", "--json").stdout)
    assert row["ipv6_networks"] == "fd42:a::/64 fd42:b::/56 fd42:c::10"
    words = farm.cli("show", "history", "--user", "pools").stdout.split()
    assert words[words.index(row["address"]) :][1:4] == row["ipv6_networks"].split()


def test_what_the_server_gives_itself_comes_from_no_pool(wire: Wire, farm: Farm, radius: FreeRadius) -> None:
    mark = farm.log.mark()
    with connected(wire.client, wire.SERVER4, "--interface", "sstp0", user="own", password=RADIUS_PASSWORD):
        opened = farm.wait_event("session.opened", mark)
        expected = {"fd42:3::/64", "fd42:4::9"}
        until(lambda: routed(wire.server, opened["interface"]) == expected, f"routes to {expected}")
        shows(farm, main=1)
    farm.idle()
    record = record_of(radius, opened["session"], "Stop")
    assert (record["Framed-IPv6-Prefix"], record["Framed-IPv6-Address"]) == ("fd42:3::/64", "fd42:4::9")
    assert "Delegated-IPv6-Prefix" not in record


@pytest.mark.parametrize(
    ("user", "detail"),
    [
        (
            "thief",
            "Framed-IPv6-Prefix makes fd42:a:0:1::/64 a network behind the client, and pool.homes is in it",
        ),
        (
            "lost",
            "Framed-IPv6-Pool is 'sites', which is a pool of IPv6 prefixes of 56 bits, not of IPv6 prefixes of 64 bits",
        ),
    ],
)
def test_a_grant_that_cannot_be(wire: Wire, farm: Farm, user: str, detail: str) -> None:
    mark = farm.log.mark()
    with connecting(wire.client, wire.SERVER4, *TRUST_ANY, user=user, password=RADIUS_PASSWORD) as client:
        client.end()
    denied = farm.wait_event("login.denied", mark)
    assert denied["detail"] == f"RADIUS server 127.0.0.1 port 1812: {detail}"
    shows(farm)


def test_users_of_the_farm_and_an_empty_pool(wire: Wire, farm: Farm) -> None:
    """The pool has one prefix that is not excluded; who comes second has IPv4, and finds a prefix the next time."""
    mark = farm.log.mark()
    with (
        connected(wire.client, wire.SERVER4, "--interface", "sstp0", user="alice", password=PASSWORD),
        connected(wire.client, wire.SERVER4, "--interface", "sstp1", user="user1") as (_, up),
    ):
        first = farm.wait_event("session.opened", mark, user="alice")
        second = farm.wait_event("session.opened", mark, user="user1")
        until(lambda: routed(wire.server, first["interface"]) == {"fd42:d:0:1::/64"}, "alice has the prefix")
        assert routed(wire.server, second["interface"]) == set()
        exhausted = farm.log.find("pool.exhausted", mark)
        assert [(event["session"], event["user"], event["pools"]) for event in exhausted] == [
            (second["session"], "user1", ["few"])
        ]
        assert up["local_address"]
        shows(farm, main=2, few=1)
    farm.idle()
    mark = farm.log.mark()
    with connected(wire.client, wire.SERVER4, "--interface", "sstp0", user="user1", password=PASSWORD):
        opened = farm.wait_event("session.opened", mark)
        until(lambda: routed(wire.server, opened["interface"]) == {"fd42:d:0:1::/64"}, "now user1 has it")
    farm.idle()


def test_the_client_may_send_from_its_prefix_and_not_from_anothers(wire: Wire, farm: Farm) -> None:
    """The farm's end of the tunnel sees packets from the leased prefix, and answers them."""
    mark = farm.log.mark()
    with connected(wire.client, wire.SERVER4, "--interface", "sstp0", user="fixed", password=PASSWORD):
        opened = farm.wait_event("session.opened", mark)
        until(lambda: routed(wire.server, opened["interface"]) == {"fd42:e::/64"}, "the fixed prefix is routed")
        wire.server.run("ip", "-6", "address", "add", "fd42:f::1/128", "dev", "lo")
        try:
            wire.client.run("ip", "-6", "route", "add", "fd42:f::1/128", "dev", "sstp0")
            for source, answered in (("fd42:e::7", True), ("fd42:e:0:1::7", False)):
                wire.client.run("ip", "-6", "address", "add", f"{source}/128", "dev", "sstp0", "nodad")
                patience = "10" if answered else "2"
                assert wire.client.ping("fd42:f::1", "-6", "-I", source, "-W", patience) is answered, source
        finally:
            wire.server.run("ip", "-6", "address", "del", "fd42:f::1/128", "dev", "lo")
        shows(farm, main=1)
    farm.idle()


def test_leases_outlive_a_killed_auth_process(wire: Wire, farm: Farm) -> None:
    mark = farm.log.mark()
    with connected(wire.client, wire.SERVER4, "--interface", "sstp0", user="pools", password=RADIUS_PASSWORD):
        first = farm.wait_event("session.opened", mark)
        until(lambda: len(routed(wire.server, first["interface"])) == 3, "all is routed")
        kept = routed(wire.server, first["interface"])
        auth = farm.auth_pid()
        mark = farm.log.mark()
        os.kill(auth, signal.SIGKILL)
        farm.wait_event("auth.ready", mark)
        shows(farm, main=1, homes=1, sites=1, singles=1)
        with connected(wire.client, wire.SERVER4, "--interface", "sstp1", user="pools", password=RADIUS_PASSWORD):
            second = farm.wait_event("session.opened", mark)
            until(lambda: len(routed(wire.server, second["interface"])) == 3, "the second has three too")
            assert not routed(wire.server, second["interface"]) & kept
            assert routed(wire.server, first["interface"]) == kept
            shows(farm, main=2, homes=2, sites=2, singles=2)
    farm.idle()
    shows(farm)
