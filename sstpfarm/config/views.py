"""What of the configuration travels to auth and to the workers; both views go through msgpack, in a sealed memfd."""

from __future__ import annotations

from ipaddress import IPv4Address

import msgspec

from sstpfarm.config.addresses import AddressRange, parse_range, pool_name
from sstpfarm.config.fields import LogFormat, Method, Password
from sstpfarm.config.ppp import Secret, Terms, merged
from sstpfarm.config.routes import Route, parse_route
from sstpfarm.config.schema import Config, Server
from sstpfarm.dataplane.rates import RateLimit, parse_rate_limit


class Account(msgspec.Struct, frozen=True):
    """A secret with its profile's terms filled in.

    Attributes:
        pool: the pool that its sessions' addresses come from, or "" when `remote_address` is fixed.
        remote_address: the fixed address, or "" when it comes from `pool`.
        caller_id: the address or network that the client must come from, "" for any.
        routes: networks behind the client.
        address_lists: nftables sets that its address is in.
        bridge: that the session is a port of, "" for none.
        on_up, on_down: a program and its arguments.
        session_timeout, idle_timeout: seconds, 0 for none.
        limit_bytes_in, limit_bytes_out, limit_bytes_total: of a session; in is from the client; 0 for none.
    """

    password: Password
    local_address: str
    pool: str
    remote_address: str
    dns_servers: tuple[str, ...]
    wins_servers: tuple[str, ...]
    disabled: bool
    caller_id: str
    routes: tuple[Route, ...] = ()
    address_lists: tuple[str, ...] = ()
    clamp_mss: bool = True
    bridge: str = ""
    on_up: tuple[str, ...] = ()
    on_down: tuple[str, ...] = ()
    rate_limit: RateLimit | None = None
    session_timeout: int = 0
    idle_timeout: int = 0
    limit_bytes_in: int = 0
    limit_bytes_out: int = 0
    limit_bytes_total: int = 0


class AuthView(msgspec.Struct, frozen=True):
    """All that auth needs.

    Attributes:
        pools: the assignable ranges of each pool.
        reserved: addresses that no pool hands out: our own and the fixed ones.
        certificate_must_match: a user needs a client's certificate with the user's name.
    """

    state_directory: str
    log_format: LogFormat
    methods: tuple[Method, ...]
    ipv6: bool
    failure_delay_s: float
    max_starting: int
    accounts: dict[str, Account]
    pools: dict[str, tuple[AddressRange, ...]]
    reserved: tuple[int, ...]
    certificate_must_match: bool = False


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
    return AuthView(
        state_directory=config.farm.state_directory,
        log_format=config.farm.log_format,
        methods=config.server.methods(),
        ipv6=config.server.ipv6,
        failure_delay_s=config.server.failure_delay_s,
        max_starting=config.server.max_starting,
        accounts={name: _account(config, secret) for name, secret in config.secret.items()},
        pools={name: tuple(parse_range(text) for text in pool.ranges) for name, pool in config.pool.items()},
        reserved=tuple(sorted({int(IPv4Address(address)) for address in (*fixed, *own)})),
        certificate_must_match=config.server.client_certificate_user == "match",
    )


def for_worker(config: Config, client_authorities: str) -> WorkerView:
    """Return a worker's view of a configuration."""
    return WorkerView(log_format=config.farm.log_format, server=config.server, client_authorities=client_authorities)


def _account(config: Config, secret: Secret) -> Account:
    profile = config.profile[config.server.default_profile if secret.profile is None else secret.profile]
    terms = merged(secret, profile)
    remote = terms.remote_address
    assert terms.local_address is not None, "checks.py requires it"
    assert remote is not None, "checks.py requires it"
    assert secret.password is not None, "load requires it"
    pool = pool_name(remote)
    return Account(
        password=secret.password,
        local_address=terms.local_address,
        pool=pool or "",
        remote_address=remote if pool is None else "",
        dns_servers=terms.dns_server or (),
        wins_servers=terms.wins_server or (),
        disabled=secret.disabled,
        caller_id=secret.caller_id,
        routes=tuple(parse_route(text) for text in secret.routes),
        address_lists=tuple(dict.fromkeys(terms.address_list or ())),
        clamp_mss=terms.change_tcp_mss is not False,
        bridge=terms.bridge or "",
        on_up=terms.on_up or (),
        on_down=terms.on_down or (),
        rate_limit=parse_rate_limit(terms.rate_limit) if terms.rate_limit else None,
        session_timeout=terms.session_timeout or 0,
        idle_timeout=terms.idle_timeout or 0,
        limit_bytes_in=terms.limit_bytes_in or 0,
        limit_bytes_out=terms.limit_bytes_out or 0,
        limit_bytes_total=terms.limit_bytes_total or 0,
    )
