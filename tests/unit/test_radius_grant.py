"""What an Access-Accept grants, attribute by attribute, and the contradictions that make it none."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Any

import msgspec
import pytest

from sstpfarm.auth.authorization import Authorization
from sstpfarm.auth.radius.grant import ContradictionError, Offer, authorization_of, offer_of
from sstpfarm.auth.radius.packet import Attributes, Code, Request
from sstpfarm.config.addresses import parse_range, parse_span
from sstpfarm.config.ppp import Profile, Secret
from sstpfarm.config.routes import TakenAddresses
from sstpfarm.dataplane.rates import RateLimit
from sstpfarm.ipc.messages import FramedRoute
from tests.radius_double import SECRET, Received, attribute, vendor

from .logins import view

MICROSOFT, MIKROTIK, WISPR = 311, 14988, 14122
BASE = Authorization(user="", pool="main", dns_servers=("10.20.0.1",), session_timeout=99, address_lists=("basic",))
GOLD = Authorization(
    user="", pool="other", only_one="replace", session_timeout=7, idle_timeout=8, bridge="br0", bridge_port_vid=7
)
BRIDGED = attribute(26, (14988).to_bytes(4, "big") + attribute(3, b"gold"))
VLAN_TYPE, MEDIUM_802 = attribute(64, b"\0\0\0\x0d"), attribute(65, b"\0\0\0\x06")
TAKEN = TakenAddresses(
    {"shared": [parse_range("10.77.0.0/24")], "sites": [parse_span("fd77::/40")]},
    {"default": Profile(local_address="10.78.0.1")},
    {"bob": Secret(remote_address="10.79.0.5"), "carol": Secret(remote_ipv6_prefix="fd79::/64")},
    ["10.76.0.1:443", "[fd76::1]:443"],
)
SIXTH = Authorization(
    user="", pool="main", ipv6_prefix_pool="six", delegated_pool="sites", ipv6_dns_servers=("fd42::35",)
)
POOLS = {"main": 0, "other": 0, "six": 64, "sites": 56, "singles": 128}
OFFER = Offer({"default": BASE, "gold": GOLD, "bare": Authorization(user=""), "sixth": SIXTH}, "default", POOLS, TAKEN)


def number(value: int) -> bytes:
    return value.to_bytes(4, "big")


def reply(data: bytes) -> Attributes:
    request = Request(Code.ACCESS_REQUEST, 1, SECRET, [], bytes(16))
    return request.read(Received(request.data).reply(2, data), require_signature=True)


def granted(data: bytes) -> Authorization:
    return authorization_of(reply(data), "alice", OFFER)


def test_an_empty_accept_grants_what_the_default_profile_does() -> None:
    found = granted(b"")
    assert found.user == "alice"
    assert found.authentic == "radius"
    assert (found.pool, found.remote_address) == ("main", "")
    assert (found.dns_servers, found.session_timeout, found.address_lists) == (("10.20.0.1",), 99, ("basic",))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (attribute(8, bytes((10, 0, 0, 7))), {"remote_address": "10.0.0.7", "pool": "", "routes": ()}),
        (attribute(8, b"\xff\xff\xff\xff"), {"remote_address": "", "pool": "main"}),
        (attribute(8, b"\xff\xff\xff\xfe"), {"remote_address": "", "pool": "main"}),
        (
            attribute(8, bytes((10, 0, 0, 7))) + attribute(9, bytes((255, 255, 255, 0))),
            {"routes": (FramedRoute("10.0.0.0/24"),)},
        ),
        (attribute(8, bytes((10, 0, 0, 7))) + attribute(9, b"\xff\xff\xff\xff"), {"routes": ()}),
        (attribute(88, b"other"), {"pool": "other"}),
        (attribute(88, b"nowhere") + attribute(88, b"other"), {"pool": "other"}),
        (attribute(22, b"10.9.0.0/16 0.0.0.0 3 4 5"), {"routes": (FramedRoute("10.9.0.0/16", "", 3),)}),
        (attribute(22, b"10.9.0.0/16 10.0.0.1"), {"routes": (FramedRoute("10.9.0.0/16", "10.0.0.1"),)}),
        (attribute(22, b"12.0.0.0"), {"routes": (FramedRoute("12.0.0.0/8"),)}),  # RFC 2865 5.22: by its class
        (attribute(22, b"172.16.0.0"), {"routes": (FramedRoute("172.16.0.0/16"),)}),
        (attribute(22, b"192.168.7.0"), {"routes": (FramedRoute("192.168.7.0/24"),)}),
        (attribute(99, b"fd42::/48 :: 5"), {"routes": (FramedRoute("fd42::/48", "", 5),)}),
        (
            attribute(123, b"\0\x38\xfd\x42\0\0\0\0\0"),
            {"routes": (FramedRoute("fd42::/56"),), "delegated_prefixes": ("fd42::/56",), "framed_prefixes": ()},
        ),
        (
            attribute(97, b"\0\x40\xfd\x42" + bytes(6)),
            {"routes": (FramedRoute("fd42::/64"),), "framed_prefixes": ("fd42::/64",), "delegated_prefixes": ()},
        ),
        (vendor(MIKROTIK, 3, b"default"), {"pool": "main", "session_timeout": 99}),
        (
            vendor(MIKROTIK, 3, b"gold") + attribute(27, number(60)),  # what the reply says goes over the profile
            {
                "pool": "other",
                "only_one": "replace",
                "session_timeout": 60,
                "idle_timeout": 8,
                "bridge": "br0",
                "dns_servers": (),
                "address_lists": (),
                "user": "alice",
                "authentic": "radius",
            },
        ),
        (vendor(MIKROTIK, 3, b"gold") + attribute(88, b"main"), {"pool": "main", "only_one": "replace"}),
        (BRIDGED, {"bridge": "br0", "bridge_port_vid": 7}),
        (BRIDGED + attribute(81, b"100"), {"bridge_port_vid": 100}),  # without a tag, and without a type
        (BRIDGED + VLAN_TYPE + MEDIUM_802 + attribute(81, b"\0004094"), {"bridge_port_vid": 4094}),
        (  # another tunnel beside it, under another tag
            BRIDGED
            + attribute(64, b"\1" + number(3)[1:])
            + attribute(65, b"\1" + number(1)[1:])
            + attribute(81, b"\1group")
            + attribute(64, b"\2" + number(13)[1:])
            + attribute(65, b"\2" + number(6)[1:])
            + attribute(81, b"\0021"),
            {"bridge_port_vid": 1},
        ),
        (  # bob's address is his own network's
            attribute(8, bytes((10, 79, 0, 5))) + attribute(9, bytes((255, 255, 255, 252))),
            {"routes": (FramedRoute("10.79.0.4/30"),)},
        ),
        (
            attribute(168, b"\xfd\x42" + bytes(13) + b"\1") + attribute(168, b"\xfd\x42" + bytes(13) + b"\2"),
            {
                "routes": (FramedRoute("fd42::1/128"), FramedRoute("fd42::2/128")),
                "ipv6_addresses": ("fd42::1", "fd42::2"),
            },
        ),
        (
            attribute(169, bytes(16)) + attribute(169, b"\xfd\x42" + bytes(13) + b"\x35"),
            {"ipv6_dns_servers": ("fd42::35",), "dns_servers": ("10.20.0.1",)},
        ),
        (
            attribute(100, b"six") + attribute(171, b"nowhere") + attribute(171, b"sites") + attribute(172, b"singles"),
            {"ipv6_prefix_pool": "six", "delegated_pool": "sites", "ipv6_address_pool": "singles", "pool": "main"},
        ),
        (attribute(171, b"six"), {"delegated_pool": "six", "ipv6_prefix_pool": ""}),
        (vendor(MIKROTIK, 22, b"sites"), {"delegated_pool": "sites"}),
        (vendor(MIKROTIK, 22, b"sites") + attribute(171, b"six"), {"delegated_pool": "six"}),
        (  # what it gives itself comes from no pool, neither its own nor the profile's
            vendor(MIKROTIK, 3, b"sixth")
            + attribute(100, b"nowhere")
            + attribute(97, b"\0\x40\xfd\x42" + bytes(6))
            + attribute(168, b"\xfd\x42" + bytes(13) + b"\1"),
            {
                "ipv6_prefix_pool": "",
                "delegated_pool": "sites",
                "ipv6_address_pool": "",
                "ipv6_dns_servers": ("fd42::35",),
            },
        ),
        (
            vendor(MIKROTIK, 3, b"sixth") + attribute(172, b"singles") + attribute(169, bytes(15) + b"\1"),
            {"ipv6_prefix_pool": "six", "ipv6_address_pool": "singles", "ipv6_dns_servers": ("::1",)},
        ),
        (attribute(12, number(1300)), {"mtu": 1300}),
        (attribute(12, number(65535)), {"mtu": 4087}),
        (attribute(96, bytes(range(8))), {"interface_id": bytes(range(8))}),
        (
            vendor(MICROSOFT, 28, bytes((9, 9, 9, 9))) + vendor(MICROSOFT, 29, bytes((1, 1, 1, 1))),
            {"dns_servers": ("9.9.9.9", "1.1.1.1")},
        ),
        (vendor(MICROSOFT, 28, bytes(4)), {"dns_servers": ("10.20.0.1",)}),
        (vendor(MICROSOFT, 31, bytes((10, 0, 0, 2))), {"wins_servers": ("10.0.0.2",)}),
        (attribute(27, number(60)) + attribute(28, number(30)), {"session_timeout": 60, "idle_timeout": 30}),
        (attribute(85, number(600)), {"interim_interval": 600}),
        (attribute(85, number(5)), {"interim_interval": 60}),  # RFC 2869 5.16
        (attribute(25, b"a") + attribute(25, b"b"), {"class_": (b"a", b"b")}),
        (
            attribute(11, b"staff") + vendor(MIKROTIK, 19, b"guests") + attribute(11, b"staff"),
            {"address_lists": ("staff", "guests")},
        ),
        (attribute(62, number(2)), {"port_limit": 2}),
        (attribute(1, b"alice@corp"), {"user": "alice@corp"}),
        (vendor(MIKROTIK, 8, b"1M/2M"), {"rate_limit": RateLimit(1_000_000, 2_000_000)}),
        (
            vendor(WISPR, 7, number(64_000)) + vendor(WISPR, 8, number(128_000)),
            {"rate_limit": RateLimit(64_000, 128_000)},
        ),
        (
            vendor(MIKROTIK, 8, b"1M") + vendor(WISPR, 7, number(64_000)),
            {"rate_limit": RateLimit(1_000_000, 1_000_000)},
        ),
        (
            attribute(29, number(1)) + attribute(24, b"s"),
            {"reauthenticate": True, "state": b"s", "session_timeout": 99},
        ),
        (attribute(29, number(0)) + attribute(24, b"s"), {"reauthenticate": False, "state": b""}),
        (attribute(29, number(2)) + attribute(24, b"s"), {"reauthenticate": False, "state": b""}),  # RFC 2865 5.29
        (attribute(24, b"s"), {"reauthenticate": False, "state": b""}),
        (vendor(MIKROTIK, 1, number(7)) + vendor(MIKROTIK, 14, number(2)), {"limit_bytes_in": (2 << 32) + 7}),
        (vendor(MIKROTIK, 2, number(9)), {"limit_bytes_out": 9}),
        (vendor(MIKROTIK, 17, number(9)) + vendor(MIKROTIK, 18, number(1)), {"limit_bytes_total": (1 << 32) + 9}),
        (vendor(MIKROTIK, 14, number(0xFFFFFFFF)), {"limit_bytes_in": 2**63 - 1}),  # more than a message can carry
        (attribute(250, b"?") + vendor(9, 1, b"unknown") + attribute(6, number(2)) + attribute(7, number(1)), {}),
    ],
)
def test_each_attribute(data: bytes, expected: dict[str, Any]) -> None:
    found = granted(data)
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (attribute(6, number(1)), "Service-Type is 1, not 2"),
        (attribute(7, number(6)), "Framed-Protocol is 6, not 1"),
        (attribute(12, number(500)), "Framed-MTU is 500, less than 576"),
        (attribute(12, b"\1"), "Framed-MTU has 1 bytes, not 4"),
        (attribute(8, bytes(4)), "Framed-IP-Address is 0.0.0.0, which no client can have"),
        (attribute(8, bytes((224, 0, 0, 1))), "Framed-IP-Address is 224.0.0.1, which no client can have"),
        (
            attribute(8, bytes((10, 0, 0, 7))) + attribute(9, bytes((255, 0, 255, 0))),
            "Framed-IP-Netmask is 255.0.255.0, which is none",
        ),
        (
            attribute(8, bytes((10, 0, 0, 7))) + attribute(9, bytes(4)),
            "Framed-IP-Netmask is 0.0.0.0, which makes no network behind a client",
        ),
        (
            vendor(MIKROTIK, 3, b"bare"),
            "no Framed-IP-Address, no Framed-Pool, and no remote-address in the profile",
        ),
        (vendor(MIKROTIK, 3, b"lead"), "Mikrotik-Group is 'lead', and there is no such profile"),
        (
            attribute(8, bytes((10, 77, 0, 7))) + attribute(9, bytes((255, 255, 255, 0))),
            "Framed-IP-Netmask 255.255.255.0 makes 10.77.0.0/24 a network behind the client, and pool.shared is in it",
        ),
        (
            attribute(8, bytes((10, 79, 0, 9))) + attribute(9, bytes((255, 255, 0, 0))),
            "Framed-IP-Netmask 255.255.0.0 makes 10.79.0.0/16 a network behind the client, and secret.bob is in it",
        ),
        (
            attribute(22, b"10.78.0.0/30"),
            "Framed-Route '10.78.0.0/30' makes 10.78.0.0/30 a network behind the client, and "
            "profile.default.local-address is in it",
        ),
        (
            attribute(22, b"10.76.0.0/24 10.0.0.1"),
            "Framed-Route '10.76.0.0/24 10.0.0.1' makes 10.76.0.0/24 a network behind the client, and "
            "server.listen[0] is in it",
        ),
        (attribute(88, b"nowhere"), "Framed-Pool is 'nowhere', and there is no such pool"),
        (
            attribute(88, b"six"),
            "Framed-Pool is 'six', which is a pool of IPv6 prefixes of 64 bits, not of IPv4 addresses",
        ),
        (attribute(100, b"nowhere"), "Framed-IPv6-Pool is 'nowhere', and there is no such pool"),
        (
            attribute(100, b"sites"),
            "Framed-IPv6-Pool is 'sites', which is a pool of IPv6 prefixes of 56 bits, not of IPv6 prefixes of 64 bits",
        ),
        (attribute(171, b"nowhere"), "Delegated-IPv6-Prefix-Pool is 'nowhere', and there is no such pool"),
        (
            attribute(171, b"singles"),
            "Delegated-IPv6-Prefix-Pool is 'singles', which is a pool of IPv6 addresses, "
            "not of IPv6 prefixes of 48 to 64 bits",
        ),
        (vendor(MIKROTIK, 22, b"nowhere"), "Mikrotik-Delegated-IPv6-Pool is 'nowhere', and there is no such pool"),
        (attribute(172, b"nowhere"), "Stateful-IPv6-Address-Pool is 'nowhere', and there is no such pool"),
        (
            attribute(172, b"main"),
            "Stateful-IPv6-Address-Pool is 'main', which is a pool of IPv4 addresses, not of IPv6 addresses",
        ),
        (
            attribute(97, b"\0\x40\xfd\x77" + bytes(6)),
            "Framed-IPv6-Prefix makes fd77::/64 a network behind the client, and pool.sites is in it",
        ),
        (
            attribute(123, b"\0\x30\xfd\x79" + bytes(4)),
            "Delegated-IPv6-Prefix makes fd79::/48 a network behind the client, and secret.carol is in it",
        ),
        (
            attribute(168, b"\xfd\x79" + bytes(13) + b"\1"),
            "Framed-IPv6-Address makes fd79::1/128 a network behind the client, and secret.carol is in it",
        ),
        (
            attribute(99, b"fd76::/64 ::"),
            "Framed-IPv6-Route 'fd76::/64 ::' makes fd76::/64 a network behind the client, and "
            "server.listen[1] is in it",
        ),
        (attribute(22, b"10.9.0.0/40"), "Framed-Route '10.9.0.0/40' has no network"),
        (
            attribute(22, b"0.0.0.0/0"),
            "Framed-Route '0.0.0.0/0' is a default route: it would take the server's own traffic along",
        ),
        (
            attribute(99, b"fd42::/64 10.0.0.1"),
            "Framed-IPv6-Route 'fd42::/64 10.0.0.1' has a gateway of the other IP version",
        ),
        (attribute(123, b"\0\x40\xfe\x80"), "Delegated-IPv6-Prefix is no IPv6 prefix"),
        (
            attribute(123, b"\0\x10\xfe\x80"),
            "Delegated-IPv6-Prefix fe80::/16 holds addresses that cannot be behind a client",
        ),
        (attribute(97, b"\0\x40\xfd\x42" + bytes(6)) * 17, "there are 17 Framed-IPv6-Prefix, more than 16"),
        (attribute(168, bytes(4)), "Framed-IPv6-Address has 4 bytes, not 16"),
        (attribute(168, bytes(15) + b"\1"), "Framed-IPv6-Address is ::1, which no client can have"),
        (attribute(169, bytes(4)), "DNS-Server-IPv6-Address has 4 bytes, not 16"),
        (attribute(96, bytes(8)), "Framed-Interface-Id is zero"),
        (attribute(11, b"a b"), "Filter-Id or Mikrotik-Address-List 'a b' is no set's name"),
        (attribute(11, b"a") * 33, "there are 33 address lists, more than 32"),
        (vendor(MIKROTIK, 8, b"fast"), "Mikrotik-Rate-Limit holds 'fast', which is no rate"),
        (
            VLAN_TYPE + MEDIUM_802 + attribute(81, b"100"),
            "Tunnel-Private-Group-Id is 100, and the profile has no bridge",
        ),
        *(
            (BRIDGED + attribute(81, text), f"Tunnel-Private-Group-Id is {text.decode()!r}, not a VLAN from 1 to 4094")
            for text in (b"0", b"4095", b"00100", b"staff", b"-1", b" 1", b"\xc2\xb2", b"")
        ),
        (BRIDGED + attribute(81, b"\1\xff"), "Tunnel-Private-Group-Id is not UTF-8 text"),
        (BRIDGED + attribute(81, b"\0017") + attribute(81, b"\0028"), "Tunnel-Private-Group-Id names several VLANs"),
        (BRIDGED + attribute(64, b"\0\0\0\3") + attribute(81, b"7"), "Tunnel-Type is 3, not 13 (VLAN)"),
        (attribute(64, b"\0\0\0\3"), "Tunnel-Type is 3, not 13 (VLAN)"),
        (BRIDGED + VLAN_TYPE, "Tunnel-Type is 13 (VLAN), and no Tunnel-Private-Group-Id has its tag"),
        (attribute(64, b"\x0d"), "Tunnel-Type has 1 bytes, not 4"),
        (
            BRIDGED + attribute(65, b"\1\0\0\1") + attribute(81, b"\0017"),
            "Tunnel-Medium-Type is 1, not 6 (IEEE 802)",
        ),
        (vendor(WISPR, 7, number(3)), "WISPr-Bandwidth-Max holds '3', which is less than 1k"),
    ],
)
def test_contradictions_are_told(data: bytes, problem: str) -> None:
    with pytest.raises(ContradictionError) as caught:
        granted(data)
    assert str(caught.value) == problem


def test_the_number_of_routes_is_bounded() -> None:
    with pytest.raises(ContradictionError, match="129 routes, more than 128"):  # the netmask's network is one too
        granted(
            attribute(8, bytes((10, 200, 0, 1)))
            + attribute(9, bytes((255, 255, 0, 0)))
            + b"".join(attribute(22, b"10.%d.0.0/16" % number) for number in range(128))
        )
    with pytest.raises(ContradictionError, match="129 routes, more than 128"):
        granted(b"".join(attribute(22, b"10.%d.0.0/16" % number) for number in range(129)))


def test_what_a_configuration_offers() -> None:
    """Profiles as they are for who has no secret; pools, fixed addresses and our own belong to others."""
    config = view()
    offer = offer_of(msgspec.structs.replace(config, listen=("192.0.2.1:443",)))
    assert (offer.default_profile, offer.pools) == ("default", {"main": 0})
    assert offer.profiles["default"].pool == "main"
    owners = {"10.20.0.3": "pool.main", "10.20.0.77": "secret.fixed", "192.0.2.1": "server.listen[0]"}
    owners["10.20.0.1"] = "profile.default.local-address"
    assert {text: offer.taken.owner_within(IPv4Network(text), "") for text in owners} == owners
