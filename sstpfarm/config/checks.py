"""What must hold between the keys of a configuration: names exist, addresses are well-formed and do not collide."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from sstpfarm.config.addresses import (
    POOL_PREFIX,
    Endpoint,
    parse_caller,
    parse_endpoint,
    parse_host,
    parse_listener,
    parse_name_server,
    pool_name,
)
from sstpfarm.config.expiry import EXPIRY_FORMS, expiry_time
from sstpfarm.config.fields import IPV6_MTU_MIN, Method
from sstpfarm.config.interfaces import check_interfaces, interface_warnings
from sstpfarm.config.locate import KeyPath
from sstpfarm.config.pools import NETWORKS, OF_IPV4, PREFIXES, SINGLES, check_pool_name, check_pools
from sstpfarm.config.ppp import Profile, Secret, Terms, merged
from sstpfarm.config.radius import check_radius
from sstpfarm.config.report import Report, show, suggest
from sstpfarm.config.routes import check_routes
from sstpfarm.config.schema import DEFAULT_PORT, LISTENER_FORMS, Config
from sstpfarm.config.tls_checks import check_tls, tls_warnings
from sstpfarm.dataplane.rates import RATE_FORMS, parse_rate_limit

ENDPOINT_FORMS: Final = '"ADDRESS:PORT" or "[ADDRESS]:PORT"'
COMMAND_FORM: Final = "a list: the absolute path of a program, then its arguments; [] for none"
CALLER_FORMS: Final = 'an address, a network, or "" for any'
NAME_SERVERS: Final = 2  # of each IP version; IPCP can carry no more (RFC 1877)


def check_references(config: Config, report: Report) -> None:
    """Report every contradiction between keys."""
    _check_server(config, report)
    check_pools(config, report)
    for name, profile in config.profile.items():
        _check_terms(config, profile, ("profile", name), report)
    for name, secret in config.secret.items():
        _check_secret(config, secret, name, report)
    _check_static_addresses(config, report)
    check_routes(config, report)
    check_interfaces(config, report)
    if config.radius is not None:
        check_radius(config.radius, report)
        shared = config.profile.get(config.server.default_profile)
        if "radius" in config.auth.backends and shared is not None and shared.local_address is None:
            path = ("profile", config.server.default_profile)
            report.add(path, "has no local-address; users of RADIUS have that of the default profile")
    elif "radius" in config.auth.backends:
        report.add(("auth", "backends"), '"radius" is listed, and there is no [[radius.server]]')


def warnings(config: Config) -> tuple[str, ...]:
    """Return what is allowed and yet worth a second look, a sentence each, without the values of secrets."""
    server = config.server
    found = [
        f"server.authentication: {method} leaves the crypto binding without its protection"
        for method in server.methods()
        if method not in ("eap", "mschap2")
    ]
    if server.ipv6 and min(server.max_mtu, server.max_mru) < IPV6_MTU_MIN:
        found.append(f"server.ipv6: IPv6 needs a max-mtu and max-mru of {IPV6_MTU_MIN} or more")
    if server.masquerade and not server.forwarding:
        found.append("server.masquerade: has no effect without forwarding = true")
    if server.proxy_arp and not server.forwarding:
        found.append("server.proxy-arp: has no effect without forwarding = true")
    if not server.ipv6:
        found += _unused_pools(config)
    found += _deadlines_without_effect(config)
    found += tls_warnings(server)
    found += interface_warnings(config)
    for name, secret in config.secret.items():
        found += (f"secret.{name}: {note}" for note in _unusable(secret, server.methods()))
    found += _unlimited_users(config)
    if not config.secret and "radius" not in config.auth.backends:
        found.append("secret: there is none, nobody can log in")
    return tuple(found)


def _deadlines_without_effect(config: Config) -> Iterator[str]:
    """Waits for a human (a second factor) that another deadline cuts short."""
    server = config.server
    ends = [(server.negotiation_deadline_s, "negotiation-deadline-s"), (server.login_deadline_s, "login-deadline-s")]
    seconds, name = min(ends)
    if server.authentication_deadline_s > seconds:
        yield f"server.authentication-deadline-s: server.{name} ends a login after {seconds:g} s already"
    seconds, name = min(*ends, (server.authentication_deadline_s, "authentication-deadline-s"))
    if config.radius is not None and "radius" in config.auth.backends and config.radius.deadline_s > seconds:
        yield f"radius.deadline-s: server.{name} ends a login after {seconds:g} s already"


def _unlimited_users(config: Config) -> Iterator[str]:
    """Who may have any number of sessions, without that anybody has said so; one line, however many they are."""
    risk = 'one password can take every address of the pool; only-one = "no" says that it may'
    profiles, default = config.profile, config.server.default_profile
    names = [
        name
        for name, secret in config.secret.items()
        if not secret.disabled and _is_unlimited(merged(secret, profiles[secret.profile or default]))
    ]
    if names:
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield f"secret.{names[0]}{others}: neither only-one nor port-limit: {risk}"
    if "radius" in config.auth.backends and default in profiles and _is_unlimited(profiles[default]):
        yield f"profile.{default}: neither only-one nor port-limit, and RADIUS servers may not send Port-Limit: {risk}"


def _is_unlimited(terms: Terms) -> bool:
    """Whether nothing is said of how many sessions there may be; with a fixed address there is one."""
    shared = terms.remote_address is None or pool_name(terms.remote_address) is not None
    return shared and terms.only_one is None and terms.port_limit is None


def _unused_pools(config: Config) -> Iterator[str]:
    """Where users would get IPv6, if the server spoke it."""
    tables = (
        *(("profile", *item) for item in config.profile.items()),
        *(("secret", *item) for item in config.secret.items()),
    )
    for kind, name, terms in tables:
        fixed = terms.remote_ipv6_prefix if isinstance(terms, Secret) else ""
        if fixed or terms.remote_ipv6_prefix_pool or terms.dhcpv6_pd_pool or terms.ipv6_address_pool:
            yield f"{kind}.{name}: its prefixes and pools of IPv6 have no effect without server.ipv6 = true"


def _unusable(secret: Secret, methods: tuple[Method, ...]) -> tuple[str, ...]:
    """The methods that are offered and that a secret cannot serve, because its password is known by a hash only."""
    if secret.password_hash is not None:
        without, key = [method for method in methods if method != "pap"], "password-hash"
    elif secret.nt_hash is not None:
        without, key = [method for method in methods if method == "chap"], "nt-hash"
    else:
        return ()
    return (f"its {key} cannot serve {', '.join(without)}: such logins are refused",) if without else ()


def _parsed(parse: Callable[[str], object], text: str, key: KeyPath, allowed: str, report: Report) -> bool:
    try:
        parse(text)
    except ValueError as error:
        report.add_value(key, text, str(error), allowed)
        return False
    return True


def _check_server(config: Config, report: Report) -> None:
    server = config.server
    port = DEFAULT_PORT if server.port is None else server.port
    seen: dict[Endpoint, KeyPath] = {}
    for index, text in enumerate(server.listen):
        key: KeyPath = ("server", "listen", index)
        if not _parsed(lambda written: parse_listener(written, port), text, key, LISTENER_FORMS, report):
            continue
        endpoint = parse_listener(text, port)
        if server.port not in (None, endpoint.port):
            report.add(key, f"{show(text)} has another port than server.port, {server.port}; allowed: one of both")
        if endpoint in seen:
            report.add(key, f"{show(text)} is listed twice")
        seen[endpoint] = key
    metrics = ("server", "metrics")
    written = bool(server.metrics) and _parsed(parse_endpoint, server.metrics, metrics, ENDPOINT_FORMS, report)
    if written and parse_endpoint(server.metrics) in seen:
        report.add(metrics, f"{show(server.metrics)} is listed twice")
    check_tls(server, report)
    for index, method in enumerate(server.authentication):
        if method in server.authentication[:index]:
            report.add(("server", "authentication", index), f"{show(method)} is listed twice")
    if server.default_profile not in config.profile:
        _report_reference(server.default_profile, config.profile, "profile", ("server", "default-profile"), report)


def _check_terms(config: Config, terms: Profile | Secret, path: tuple[str, ...], report: Report) -> None:
    """The addresses that a profile or secret gives, and its rate limit."""
    host = 'an IPv4 address such as "10.20.0.1"'
    if terms.local_address is not None:
        _parsed(parse_host, terms.local_address, (*path, "local-address"), host, report)
    if terms.remote_address is not None:
        key = (*path, "remote-address")
        pool = pool_name(terms.remote_address)
        if pool is None:
            _parsed(parse_host, terms.remote_address, key, f'an IPv4 address or "{POOL_PREFIX}NAME"', report)
        else:
            check_pool_name(pool, config.pool, OF_IPV4, key, report)
    for name, pool, lengths in (
        ("remote-ipv6-prefix-pool", terms.remote_ipv6_prefix_pool, PREFIXES),
        ("dhcpv6-pd-pool", terms.dhcpv6_pd_pool, NETWORKS),
        ("ipv6-address-pool", terms.ipv6_address_pool, SINGLES),
    ):
        if pool:
            check_pool_name(pool, config.pool, lengths, (*path, name), report)
    if terms.rate_limit is not None:
        _parsed(parse_rate_limit, terms.rate_limit, (*path, "rate-limit"), RATE_FORMS, report)
    for index, text in enumerate(terms.wins_server or ()):
        _parsed(parse_host, text, (*path, "wins-server", index), host, report)
    if terms.dns_server:
        _check_name_servers(terms.dns_server, (*path, "dns-server"), report)
    for name, command in (("on-up", terms.on_up), ("on-down", terms.on_down)):
        if command and not command[0].startswith("/"):
            report.add_value((*path, name, 0), command[0], "is no absolute path", COMMAND_FORM)


def _check_name_servers(servers: Sequence[str], key: tuple[str, ...], report: Report) -> None:
    for index, text in enumerate(servers):
        _parsed(parse_name_server, text, (*key, index), "an IPv4 or IPv6 address", report)
    of_ipv6 = sum(":" in text for text in servers)
    for version, count in (("IPv4", len(servers) - of_ipv6), ("IPv6", of_ipv6)):
        if count > NAME_SERVERS:
            report.add(key, f"has {count} {version} addresses; allowed: at most {NAME_SERVERS}")


def _check_secret(config: Config, secret: Secret, name: str, report: Report) -> None:
    path = ("secret", name)
    proofs = (
        ("password", secret.password),
        ("password-file", secret.password_file),
        ("nt-hash", secret.nt_hash),
        ("password-hash", secret.password_hash),
    )
    given = [key for key, value in proofs if value is not None]
    wanted = "allowed: exactly one of password-file, password, nt-hash and password-hash"
    if len(given) > 1:
        report.add((*path, given[1]), f"stands beside {given[0]}; {wanted}")
    if not given:
        report.add(path, f"has no password; {wanted}")
    _check_terms(config, secret, path, report)
    if secret.expires:
        _parsed(expiry_time, secret.expires, (*path, "expires"), EXPIRY_FORMS, report)
    if isinstance(secret.caller_id, str):
        if secret.caller_id:
            _parsed(parse_caller, secret.caller_id, (*path, "caller-id"), CALLER_FORMS, report)
    else:
        for index, text in enumerate(secret.caller_id):
            _parsed(parse_caller, text, (*path, "caller-id", index), "an address or a network", report)
    profile_name = config.server.default_profile if secret.profile is None else secret.profile
    profile = config.profile.get(profile_name)
    if profile is None:
        if secret.profile is not None:
            _report_reference(profile_name, config.profile, "profile", (*path, "profile"), report)
        return
    for key, own, shared in (
        ("local-address", secret.local_address, profile.local_address),
        ("remote-address", secret.remote_address, profile.remote_address),
    ):
        if own is None and shared is None:
            report.add(path, f"has no {key}; set it here or in profile.{profile_name}")
    if secret.bridge_port_vid is not None and not merged(secret, profile).bridge:
        report.add((*path, "bridge-port-vid"), f"stands without bridge; set it here or in profile.{profile_name}")


def _check_static_addresses(config: Config, report: Report) -> None:
    """A fixed remote address belongs to one secret, and is no address of our own."""
    everyone: tuple[Profile | Secret, ...] = (*config.profile.values(), *config.secret.values())
    local = {terms.local_address for terms in everyone}
    owners: dict[str, str] = {}
    remotes = [
        *((("profile", name), profile.remote_address) for name, profile in config.profile.items()),
        *((("secret", name), secret.remote_address) for name, secret in config.secret.items()),
    ]
    for path, remote in remotes:
        if remote is None or pool_name(remote) is not None:
            continue
        key = (*path, "remote-address")
        if remote in local:
            report.add(key, f"{show(remote)} is a local-address")
        if path[0] == "secret":
            if remote in owners:
                report.add(key, f"{show(remote)} is also that of secret.{owners[remote]}")
            owners.setdefault(remote, path[1])


def _report_reference(name: str, known: Mapping[str, object], noun: str, key: KeyPath, report: Report) -> None:
    report.add(key, f"there is no {noun} {show(name)}; {suggest(name, known)}")
