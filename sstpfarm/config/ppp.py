"""The tables of who may come in and with what: profiles, pools, secrets, static interfaces.

Profile and secret have the keys of `Terms` in common: what a secret leaves out comes from its profile, what both leave
out has the default that the documentation names. The names are those of RouterOS `/ppp profile` and `/ppp secret`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from sstpfarm.config.fields import (
    MAX_USER,
    TAKES_DATES,
    Address,
    Addresses,
    ByteLimit,
    Command,
    DeviceName,
    FilePath,
    NameServers,
    NtHash,
    Password,
    PasswordHash,
    PoolName,
    Remote,
    Seconds,
    SetName,
    Switch,
    Table,
    Text,
    Vid,
)
from sstpfarm.dataplane.rates import RATE_FORMS


class Terms(Table, frozen=True):
    """The keys that a profile and a secret have in common; None where the key is left out."""

    local_address: Address | None = None
    remote_address: Remote | None = None
    dns_server: NameServers | None = None
    wins_server: Addresses | None = None
    rate_limit: Annotated[str, Meta(max_length=256, description=RATE_FORMS)] | None = None
    session_timeout: Seconds | None = None
    idle_timeout: Seconds | None = None
    only_one: Annotated[Literal["no", "replace", "deny"], Meta(description='"no", "replace" or "deny"')] | None = None
    port_limit: (
        Annotated[int, Meta(ge=0, le=65536, description="a whole number of sessions, 0 (no limit) to 65536")] | None
    ) = None
    limit_bytes_in: ByteLimit | None = None
    limit_bytes_out: ByteLimit | None = None
    limit_bytes_total: ByteLimit | None = None
    change_tcp_mss: Switch | None = None
    use_ipv6: Switch | None = None
    remote_ipv6_prefix_pool: PoolName | None = None
    dhcpv6_pd_pool: PoolName | None = None
    ipv6_address_pool: PoolName | None = None
    address_list: (
        Annotated[
            tuple[SetName, ...],
            Meta(
                max_length=16,
                description="a list of at most 16 names of nftables sets: a letter or _, then letters, digits, . _ -, "
                'at most 64 characters, not "sstpfarm..."',
            ),
        ]
        | None
    ) = None
    bridge: DeviceName | None = None
    bridge_port_vid: Vid | None = None
    on_up: Command | None = None
    on_down: Command | None = None


class Profile(Terms, frozen=True):
    """[profile.NAME]: what the sessions of the secrets that name it get."""

    comment: Text = ""


class Pool(Table, frozen=True):
    """[pool.NAME]: addresses of IPv4, or addresses or prefixes of IPv6, to hand out."""

    ranges: Annotated[
        tuple[Annotated[str, Meta(max_length=96)], ...],
        Meta(
            min_length=1,
            max_length=1024,
            description='a list of ranges of one IP version: "FIRST-LAST", "NETWORK/LENGTH" or one address',
        ),
    ]
    prefix_length: (
        Annotated[int, Meta(ge=48, le=128, description="a whole number of bits, 48 to 64, or 128")] | None
    ) = None
    exclude: Annotated[
        tuple[Annotated[str, Meta(max_length=96)], ...],
        Meta(max_length=1024, description="a list of ranges, as for ranges"),
    ] = ()
    next_pool: PoolName = ""


class Secret(Terms, frozen=True):
    """[secret.NAME]: a user; what it leaves out comes from its profile."""

    password: Annotated[Password, Meta(description="text of 1 to 256 characters")] | None = None
    password_file: FilePath | None = None
    nt_hash: Annotated[NtHash, Meta(description="32 hexadecimal digits")] | None = None
    password_hash: (
        Annotated[
            PasswordHash,
            Meta(description='"$argon2id$v=19$m=...,t=...,p=...$...$...", at most 1 GiB, 16 passes, 16 lanes'),
        ]
        | None
    ) = None
    profile: Annotated[str, Meta(description="the name of a profile")] | None = None
    routes: Annotated[
        tuple[Annotated[str, Meta(max_length=128)], ...],
        Meta(max_length=64, description='a list of at most 64 of "NETWORK/LENGTH [GATEWAY [METRIC]]"'),
    ] = ()
    remote_ipv6_prefix: Annotated[str, Meta(max_length=64, description='"NETWORK/64", or "" for none')] = ""
    disabled: Switch = False
    expires: Annotated[
        str, Meta(max_length=40, description='a date or an RFC 3339 time, or "" for never', extra=TAKES_DATES)
    ] = ""
    caller_id: Annotated[
        Annotated[str, Meta(max_length=64)]
        | Annotated[tuple[Annotated[str, Meta(max_length=64)], ...], Meta(max_length=64)],
        Meta(description='an address or a network, a list of at most 64 of them, or "" for any'),
    ] = ""
    service: Annotated[
        Literal["any", "async", "l2tp", "ovpn", "pppoe", "pptp", "sstp"],
        Meta(description='"any", "sstp" or another service of RouterOS: "async", "l2tp", "ovpn", "pppoe", "pptp"'),
    ] = "any"
    comment: Text = ""


class Interface(Table, frozen=True):
    """[interface.NAME]: the interface of its own that a user's session gets."""

    user: Annotated[str, Meta(min_length=1, max_length=MAX_USER, description="the name of a user")]
    disabled: Switch = False
    comment: Text = ""


def merged(secret: Secret, profile: Profile) -> Terms:
    """Return the terms of a secret, filled in from its profile; None is left where both say nothing."""
    values = {}
    for name in Terms.__struct_fields__:
        own = getattr(secret, name)
        values[name] = getattr(profile, name) if own is None else own
    return Terms(**values)
