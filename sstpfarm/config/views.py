"""What of the configuration travels to auth and to the workers; both views go through msgpack, in a sealed memfd."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address

import msgspec

from sstpfarm.config.addresses import AddressRange, parse_span, pool_name
from sstpfarm.config.books import Accounting, Auth
from sstpfarm.config.fields import LogFormat, Method
from sstpfarm.config.pools import assignable, prefix_length
from sstpfarm.config.ppp import Profile, Secret, Terms
from sstpfarm.config.radius import Radius
from sstpfarm.config.schema import Config, Server


class PoolView(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a pool hands out, without what it excludes, and the pool that follows when it is empty.

    Attributes:
        ranges: texts of AddressRange, because a message holds no number of 128 bits.
        prefix_length: bits of the prefixes of IPv6, 0 for a pool of IPv4 addresses.
    """

    ranges: tuple[str, ...]
    next_pool: str = ""
    prefix_length: int = 0

    @classmethod
    def of(cls, ranges: Iterable[AddressRange], next_pool: str = "", prefix_length: int = 0) -> PoolView:
        """Return the view of a pool with these ranges."""
        return cls(tuple(map(str, ranges)), next_pool, prefix_length)

    def spans(self) -> tuple[AddressRange, ...]:
        """Return the ranges."""
        return tuple(map(parse_span, self.ranges))


class AuthView(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that auth needs.

    Attributes:
        secrets: with the passwords of password files.
        reserved: addresses that no pool hands out: our own and the fixed ones. Fixed prefixes of IPv6 are in no pool's
            ranges.
        listen: where clients connect to, ``ADDRESS:PORT``.
        certificate_must_match: a user needs a client's certificate with the user's name.
    """

    state_directory: str
    log_format: LogFormat
    methods: tuple[Method, ...]
    ipv6: bool
    failure_delay_s: float
    max_starting: int
    default_profile: str
    profiles: dict[str, Profile]
    secrets: dict[str, Secret]
    pools: dict[str, PoolView]
    reserved: tuple[int, ...]
    listen: tuple[str, ...] = ()
    certificate_must_match: bool = False
    auth: Auth = Auth()
    accounting: Accounting = Accounting()
    radius: Radius | None = None


class WorkerView(msgspec.Struct, frozen=True):
    """All that a worker needs; it holds no secret.

    Attributes:
        client_authorities: certificates in PEM, of which one must have issued a client's; "" asks for none.
    """

    log_format: LogFormat
    server: Server
    client_authorities: str = ""


def for_auth(config: Config) -> AuthView:
    """Return auth's view of a configuration that `load` returned."""
    terms: tuple[Terms, ...] = (*config.profile.values(), *config.secret.values())
    fixed = (item.remote_address for item in terms if item.remote_address and pool_name(item.remote_address) is None)
    own = (item.local_address for item in terms if item.local_address)
    prefixes = [parse_span(secret.remote_ipv6_prefix) for secret in config.secret.values() if secret.remote_ipv6_prefix]
    return AuthView(
        state_directory=config.farm.state_directory,
        log_format=config.farm.log_format,
        methods=config.server.methods(),
        ipv6=config.server.ipv6,
        failure_delay_s=config.server.failure_delay_s,
        max_starting=config.server.max_starting,
        default_profile=config.server.default_profile,
        profiles=config.profile,
        secrets=config.secret,
        pools={
            name: PoolView.of(assignable(pool, prefixes), pool.next_pool, prefix_length(pool))
            for name, pool in config.pool.items()
        },
        reserved=tuple(sorted({int(IPv4Address(address)) for address in (*fixed, *own)})),
        listen=tuple(config.server.listen),
        certificate_must_match=config.server.client_certificate_user == "match",
        auth=config.auth,
        accounting=config.accounting,
        radius=config.radius,
    )


def for_worker(config: Config, client_authorities: str) -> WorkerView:
    """Return a worker's view of a configuration."""
    return WorkerView(log_format=config.farm.log_format, server=config.server, client_authorities=client_authorities)
