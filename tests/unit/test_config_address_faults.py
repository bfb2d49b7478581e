"""Faulty addresses, pools and prefixes, and those that collide: the whole of what the operator is told."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.unit.config_faults import REST, Fault, assert_told

RANGE: Final = '"FIRST-LAST", "NETWORK/LENGTH" or one address'
PREFIX: Final = '"NETWORK/64", or "" for none'
HOST: Final = 'an IPv4 address such as "10.20.0.1"'

FAULTS: Final[dict[str, Fault]] = {
    "a profile with a pool that does not exist": Fault(
        '[profile.default]\nremote-address = "pool:mian"\n[pool.main]\nranges = ["10.0.0.1"]',
        ('2: profile.default.remote-address: there is no pool "mian"; did you mean main?',),
    ),
    "three DNS servers": Fault(
        REST + '[profile.x]\ndns-server = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]',
        ("8: profile.x.dns-server: has 3 IPv4 addresses; allowed: at most 2",),
    ),
    "five DNS servers": Fault(
        REST + '[profile.x]\ndns-server = ["10.0.0.1", "10.0.0.2", "fd42::1", "fd42::2", "fd42::3"]',
        (
            "8: profile.x.dns-server: an array is not allowed; "
            "allowed: a list of at most two IPv4 and two IPv6 addresses",
        ),
    ),
    "DNS servers of IPv6 that are none": Fault(
        REST + '[profile.x]\ndns-server = ["fd42::g", "fe80::1%eth0", "fe80::1"]',
        (
            "8: profile.x.dns-server: has 3 IPv6 addresses; allowed: at most 2",
            '8: profile.x.dns-server[0]: "fd42::g" is not an IPv6 address; allowed: an IPv4 or IPv6 address',
            '8: profile.x.dns-server[1]: "fe80::1%eth0" has a zone, which means nothing to a client; '
            "allowed: an IPv4 or IPv6 address",
            '8: profile.x.dns-server[2]: "fe80::1" is no host\'s address; allowed: an IPv4 or IPv6 address',
        ),
    ),
    "a DNS server that is none": Fault(
        REST + '[profile.x]\ndns-server = ["10.0.0.1", "10.0.0.256"]',
        ('8: profile.x.dns-server[1]: "10.0.0.256" is not an IPv4 address; allowed: an IPv4 or IPv6 address',),
    ),
    "an address of our own that no host can have": Fault(
        REST + '[profile.x]\nlocal-address = "127.0.0.1"',
        (f'8: profile.x.local-address: "127.0.0.1" is no host\'s address; allowed: {HOST}',),
    ),
    "a pool without ranges": Fault(
        REST + "[pool.x]",
        (
            "7: pool.x.ranges: is missing; "
            'allowed: a list of ranges of one IP version: "FIRST-LAST", "NETWORK/LENGTH" or one address',
        ),
    ),
    "a range backwards": Fault(
        REST + '[pool.x]\nranges = ["10.1.0.9-10.1.0.1"]',
        (f'8: pool.x.ranges[0]: "10.1.0.9-10.1.0.1" ends before it begins; allowed: {RANGE}',),
    ),
    "a network with host bits": Fault(
        REST + '[pool.x]\nranges = ["10.1.0.5/24"]',
        (
            '8: pool.x.ranges[0]: "10.1.0.5/24" is not a network\'s address (did you mean 10.1.0.0/24?); '
            f"allowed: {RANGE}",
        ),
    ),
    "a WINS server of IPv6": Fault(
        REST + '[profile.x]\nwins-server = ["fd42::1"]',
        (f'8: profile.x.wins-server[0]: "fd42::1" is not an IPv4 address; allowed: {HOST}',),
    ),
    "a pool of both IP versions": Fault(
        REST + '[pool.x]\nranges = [\n"2001:db8::/64",\n"10.1.0.0/24"]\nexclude = ["10.1.0.7"]',
        (
            f'10: pool.x.ranges[1]: "10.1.0.0/24" is not a range of IPv6 addresses; allowed: {RANGE}',
            f'11: pool.x.exclude[0]: "10.1.0.7" is not a range of IPv6 addresses; allowed: {RANGE}',
        ),
    ),
    "ranges of IPv6 that are none": Fault(
        REST + '[pool.x]\nranges = [\n"2001:db8::7/64",\n"2001:db8::/65",\n"2001:db8:1::-2001:db8::",\n"fe80::/64",\n'
        '"2001:db8:2::1-2001:db8:3::",\n"2001:db8::1",\n"2001:db8::/129"]',
        (
            '9: pool.x.ranges[0]: "2001:db8::7/64" is not a network\'s address (did you mean 2001:db8::/64?); '
            f"allowed: {RANGE}",
            f'10: pool.x.ranges[1]: "2001:db8::/65" is no whole number of prefixes of 64 bits; allowed: {RANGE}',
            f'11: pool.x.ranges[2]: "2001:db8:1::-2001:db8::" ends before it begins; allowed: {RANGE}',
            f'12: pool.x.ranges[3]: "fe80::/64" holds addresses that no host can have; allowed: {RANGE}',
            '13: pool.x.ranges[4]: "2001:db8:2::1-2001:db8:3::" is no whole number of prefixes of 64 bits; '
            f"allowed: {RANGE}",
            f'14: pool.x.ranges[5]: "2001:db8::1" is no whole number of prefixes of 64 bits; allowed: {RANGE}',
            f'15: pool.x.ranges[6]: "2001:db8::/129" is not a range of IPv6 addresses; allowed: {RANGE}',
        ),
    ),
    "prefix lengths that cannot be": Fault(
        REST + '[pool.x]\nranges = ["10.1.0.0/24"]\nprefix-length = 64\n'
        '[pool.y]\nranges = ["2001:db8::/40"]\nprefix-length = 65\n',
        (
            "9: pool.x.prefix-length: stands in a pool of IPv4 addresses; allowed: beside ranges of IPv6",
            "12: pool.y.prefix-length: 65 is not allowed; allowed: 48 to 64, or 128",
        ),
    ),
    "a prefix length that is too short": Fault(
        REST + '[pool.x]\nranges = ["2001:db8::/40"]\nprefix-length = 47\n',
        ("9: pool.x.prefix-length: 47 is not allowed; allowed: a whole number of bits, 48 to 64, or 128",),
    ),
    "overlapping pools of IPv6": Fault(
        REST + '[pool.x]\nranges = ["2001:db8::/40"]\n[pool.y]\nranges = ["2001:db8:5::7"]\nprefix-length = 128\n',
        ('10: pool.y.ranges[0]: "2001:db8:5::7" overlaps "2001:db8::/40" of pool.x',),
    ),
    "pools of the wrong kind": Fault(
        REST + '[pool.x]\nranges = ["2001:db8::/40"]\nprefix-length = 56\nnext-pool = "main"\n'
        '[profile.y]\nremote-address = "pool:x"\nremote-ipv6-prefix-pool = "x"\ndhcpv6-pd-pool = "main"\n'
        'ipv6-address-pool = "x"\n[profile.z]\nremote-ipv6-prefix-pool = "z"\ndhcpv6-pd-pool = "x"\n'
        'ipv6-address-pool = ""\n',
        (
            '10: pool.x.next-pool: "main" is a pool of IPv4 addresses; allowed: one of IPv6 prefixes of 56 bits',
            '12: profile.y.remote-address: "x" is a pool of IPv6 prefixes of 56 bits; allowed: one of IPv4 addresses',
            '13: profile.y.remote-ipv6-prefix-pool: "x" is a pool of IPv6 prefixes of 56 bits; '
            "allowed: one of IPv6 prefixes of 64 bits",
            '14: profile.y.dhcpv6-pd-pool: "main" is a pool of IPv4 addresses; '
            "allowed: one of IPv6 prefixes of 48 to 64 bits",
            '15: profile.y.ipv6-address-pool: "x" is a pool of IPv6 prefixes of 56 bits; '
            "allowed: one of IPv6 addresses",
            '17: profile.z.remote-ipv6-prefix-pool: there is no pool "z"; known: main, x',
        ),
    ),
    "fixed prefixes": Fault(
        REST
        + "".join(
            f'[secret.{name}]\npassword = "p"\nremote-ipv6-prefix = "{prefix}"\n'
            for name, prefix in (
                ("a", "fd42:0::/64"),
                ("b", "fd42::/64"),
                ("c", "fd42::/56"),
                ("d", "10.9.0.0/24"),
                ("e", "fe80::/64"),
                ("f", "fd43::1/64"),
            )
        )
        + '[secret.g]\npassword = "p"\nroutes = ["fd42::/48"]\n'
        + '[secret.h]\npassword = "p"\nremote-ipv6-prefix = "fd44::/64"\nroutes = ["fd44::/48"]\n'
        + '[secret.i]\npassword = "p"\nroutes = [\n"2001:db8:5::/48",\n"2001:db7::/32"]\n'
        + '[pool.x]\nranges = ["2001:db8::/40"]\n',
        (
            '12: secret.b.remote-ipv6-prefix: "fd42::/64" is also that of secret.a',
            '15: secret.c.remote-ipv6-prefix: "fd42::/56" is nothing that a client can make addresses from; '
            f"allowed: {PREFIX}",
            '18: secret.d.remote-ipv6-prefix: "10.9.0.0/24" is nothing that a client can make addresses from; '
            f"allowed: {PREFIX}",
            '21: secret.e.remote-ipv6-prefix: "fe80::/64" holds addresses that cannot be behind a client; '
            f"allowed: {PREFIX}",
            '24: secret.f.remote-ipv6-prefix: "fd43::1/64" does not begin with a network\'s address '
            f"(did you mean fd43::/64?); allowed: {PREFIX}",
            '27: secret.g.routes[0]: "fd42::/48" holds addresses of secret.a',
            '35: secret.i.routes[0]: "2001:db8:5::/48" holds addresses of pool.x',
        ),
    ),
    "overlapping pools, the wide one first": Fault(
        REST + '[pool.x]\nranges = [\n"10.20.1.0/24",\n"10.20.2.7"]',
        (
            '9: pool.x.ranges[0]: "10.20.1.0/24" overlaps "10.20.0.2-10.20.15.254" of pool.main',
            '10: pool.x.ranges[1]: "10.20.2.7" overlaps "10.20.0.2-10.20.15.254" of pool.main',
        ),
    ),
    "a secret without addresses": Fault(
        '[profile.default]\n[secret.alice]\npassword = "hunter2"',
        (
            "2: secret.alice: has no local-address; set it here or in profile.default",
            "2: secret.alice: has no remote-address; set it here or in profile.default",
        ),
    ),
    "two secrets with one address": Fault(
        REST
        + '[secret.alice]\npassword = "a"\nremote-address = "10.20.0.9"\n'
        + '[secret.bob]\npassword = "b"\nremote-address = "10.20.0.9"\n',
        ('12: secret.bob.remote-address: "10.20.0.9" is also that of secret.alice',),
    ),
    "a secret with our address": Fault(
        REST + '[secret.alice]\npassword = "a"\nremote-address = "10.20.0.1"\n',
        ('9: secret.alice.remote-address: "10.20.0.1" is a local-address',),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_told_with_file_line_key_and_what_is_right(name: str, tmp_path: Path) -> None:
    assert_told(FAULTS[name], tmp_path)
