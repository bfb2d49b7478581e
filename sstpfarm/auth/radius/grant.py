"""What an Access-Accept grants, as an `Authorization`; a grant that contradicts itself or us is none.

Attributes that we do not know are ignored (RFC 2865 5). What the reply leaves out is that of the profile that
Mikrotik-Group names, else of the default profile.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_network
from typing import Final, NamedTuple, TypeVar

import msgspec

from sstpfarm.auth.authorization import Authorization
from sstpfarm.auth.changes import Changes
from sstpfarm.auth.leases import LENGTHS, Purpose
from sstpfarm.auth.local import authorize
from sstpfarm.auth.radius.packet import Attributes, MalformedAttributeError
from sstpfarm.auth.radius.vlan import vlan_of
from sstpfarm.config.fields import MTU_MAX, MTU_MIN, SetName
from sstpfarm.config.pools import OF_IPV4, kind_of
from sstpfarm.config.ppp import Secret
from sstpfarm.config.routes import TakenAddresses, parse_network, parse_route
from sstpfarm.config.views import AuthView
from sstpfarm.dataplane.rates import RateLimit, parse_rate_limit
from sstpfarm.ipc.messages import FramedRoute

FRAMED: Final = 2  # Service-Type, RFC 2865 5.6
PPP: Final = 1  # Framed-Protocol, RFC 2865 5.7
USER_CHOOSES: Final = IPv4Address(0xFFFFFFFF)  # RFC 2865 5.8
NAS_CHOOSES: Final = IPv4Address(0xFFFFFFFE)
INTERIM_MIN: Final = 60  # seconds, RFC 2869 5.16
MAX_ROUTES: Final = 128
MAX_PREFIXES: Final = 16  # of one kind: what the client is told of fits into one packet
MAX_IPV6_SERVERS: Final = 4
MAX_LISTS: Final = 32
TERMINATION_ACTIONS: Final = {0: False, 1: True}  # Default, RADIUS-Request (RFC 2865 5.29); others are ignored
GIGAWORD: Final = 32  # bits
MAX_VOLUME: Final = 2**63 - 1  # bytes that are counted; a limit above is never reached


Value = TypeVar("Value")


class ContradictionError(Exception):
    """The grant cannot be used; the text is for the operator."""


class Offer(NamedTuple):
    """What the configuration has for grants.

    Attributes:
        profiles: what each profile grants alone.
        default_profile: the name of one of them.
        pools: those that there are, with their prefix lengths; 0 for IPv4.
        taken: addresses that are behind no client.
    """

    profiles: Mapping[str, Authorization]
    default_profile: str
    pools: Mapping[str, int]
    taken: TakenAddresses


def offer_of(view: AuthView) -> Offer:
    """Return what a configuration has for grants."""
    return Offer(
        {name: authorize("", Secret(), profile) for name, profile in view.profiles.items()},
        view.default_profile,
        {name: pool.prefix_length for name, pool in view.pools.items()},
        TakenAddresses(
            {name: pool.spans() for name, pool in view.pools.items()}, view.profiles, view.secrets, view.listen
        ),
    )


def authorization_of(reply: Attributes, user: str, offer: Offer) -> Authorization:
    """Return what the reply grants.

    Args:
        user: the name as the peer sent it; the reply's User-Name replaces it.

    Raises:
        ContradictionError: a malformed attribute, or one that cannot be honoured.
    """
    try:
        return _authorization_of(reply, user, offer)
    except MalformedAttributeError as error:
        raise ContradictionError(str(error)) from None


def _authorization_of(reply: Attributes, user: str, offer: Offer) -> Authorization:
    for name, wanted in (("Service-Type", FRAMED), ("Framed-Protocol", PPP)):
        number = reply.number(name)
        if number is not None and number != wanted:
            raise ContradictionError(f"{name} is {number}, not {wanted}")
    names = reply.texts("User-Name")
    base = _base(reply, offer)
    remote = _address(reply)
    pool = _pool(reply, "Framed-Pool", OF_IPV4, offer.pools) if not remote else ""
    remote_address = remote or ("" if pool else base.remote_address)
    if not (remote_address or pool or base.pool):
        raise ContradictionError("no Framed-IP-Address, no Framed-Pool, and no remote-address in the profile")
    prefixes = {name: _prefixes(reply, name) for name in ("Framed-IPv6-Prefix", "Delegated-IPv6-Prefix")}
    addresses = _ipv6_addresses(reply)
    networks = [
        *_routes(reply, remote),
        *(_Found(name, FramedRoute(prefix)) for name, found in prefixes.items() for prefix in found),
        *(_Found("Framed-IPv6-Address", FramedRoute(str(ip_network(address)))) for address in addresses),
    ]
    routes = (*(found.route for found in networks), *base.routes)
    if len(routes) > MAX_ROUTES:
        raise ContradictionError(f"there are {len(routes)} routes, more than {MAX_ROUTES}")
    _check_taken(networks, offer.taken, remote_address)
    changes = changes_of(reply)
    return msgspec.structs.replace(
        base,
        user=names[0] if names and names[0].isprintable() and names[0] else user,
        authentic="radius",
        remote_address=remote_address,
        pool=pool or ("" if remote else base.pool),
        dns_servers=_servers(reply, "DNS") or base.dns_servers,
        wins_servers=_servers(reply, "NBNS") or base.wins_servers,
        interface_id=_interface_id(reply),
        routes=routes,
        framed_prefixes=tuple(prefixes["Framed-IPv6-Prefix"]),
        delegated_prefixes=tuple(prefixes["Delegated-IPv6-Prefix"]),
        ipv6_addresses=tuple(map(str, addresses)),
        ipv6_prefix_pool=_ipv6_pool(reply, prefixes["Framed-IPv6-Prefix"], Purpose.PREFIX, base, offer),
        delegated_pool=_ipv6_pool(reply, prefixes["Delegated-IPv6-Prefix"], Purpose.DELEGATED, base, offer),
        ipv6_address_pool=_ipv6_pool(reply, addresses, Purpose.IPV6_ADDRESS, base, offer),
        ipv6_dns_servers=_ipv6_servers(reply) or base.ipv6_dns_servers,
        mtu=_mtu(reply),
        bridge_port_vid=_bridge_port_vid(reply, base),
        port_limit=_or(reply.number("Port-Limit"), base.port_limit),
        rate_limit=_or(changes.rate_limit, base.rate_limit),
        session_timeout=_or(changes.session_timeout, base.session_timeout),
        idle_timeout=_or(changes.idle_timeout, base.idle_timeout),
        reauthenticate=changes.reauthenticate or False,
        state=changes.state or b"",
        interim_interval=_or(changes.interim_interval, base.interim_interval),
        limit_bytes_in=_or(changes.limit_bytes_in, base.limit_bytes_in),
        limit_bytes_out=_or(changes.limit_bytes_out, base.limit_bytes_out),
        limit_bytes_total=_or(changes.limit_bytes_total, base.limit_bytes_total),
        address_lists=_or(changes.address_lists, base.address_lists),
        class_=changes.class_ or (),
    )


def changes_of(attributes: Attributes) -> Changes:
    """Return limits, lists and Class.

    Raises:
        ContradictionError: one of them cannot be honoured.
        MalformedAttributeError: one has a wrong length.
    """
    interim = attributes.number("Acct-Interim-Interval")
    action = attributes.number("Termination-Action")
    reauthenticate = TERMINATION_ACTIONS.get(action) if action is not None else None
    return Changes(
        rate_limit=_rate_limit(attributes),
        session_timeout=attributes.number("Session-Timeout"),
        idle_timeout=attributes.number("Idle-Timeout"),
        reauthenticate=reauthenticate,
        state=attributes.first("State") if reauthenticate else None,  # RFC 2865 5.24: it is for that only
        interim_interval=max(interim, INTERIM_MIN) if interim else interim,
        limit_bytes_in=_volume(attributes, "Recv"),
        limit_bytes_out=_volume(attributes, "Xmit"),
        limit_bytes_total=_volume(attributes, "Total"),
        address_lists=_address_lists(attributes),
        class_=tuple(attributes.all("Class")) or None,
    )


def _or(value: Value | None, other: Value) -> Value:
    return other if value is None else value


def _base(reply: Attributes, offer: Offer) -> Authorization:
    """Return what the profile grants that the reply names, the default one when it names none."""
    named = reply.texts("Mikrotik-Group")
    if not named:
        return offer.profiles[offer.default_profile]
    base = offer.profiles.get(named[0])
    if base is None:
        raise ContradictionError(f"Mikrotik-Group is {named[0][:80]!r}, and there is no such profile")
    return base


def _address(reply: Attributes) -> str:
    """Return the fixed address, "" for none."""
    address = reply.address("Framed-IP-Address")
    if address is None or address in (USER_CHOOSES, NAS_CHOOSES):
        return ""  # the user may not choose: IPCP assigns in both cases
    if address.is_multicast or address.is_loopback or address.is_unspecified or address.is_link_local:
        raise ContradictionError(f"Framed-IP-Address is {address}, which no client can have")
    return str(address)


def _pool(reply: Attributes, name: str, lengths: Collection[int], pools: Mapping[str, int]) -> str:
    """Return the first pool that exists; RFC 2869 5.18 and 6911 3.4 have one, some servers send several.

    Args:
        lengths: the prefix lengths of the pools that are good for that.
    """
    named = reply.texts(name)
    found = [pool for pool in named if pool in pools]
    if named and not found:
        raise ContradictionError(f"{name} is {named[0]!r}, and there is no such pool")
    if found and pools[found[0]] not in lengths:
        has, wants = kind_of({pools[found[0]]}), kind_of(lengths)
        raise ContradictionError(f"{name} is {found[0]!r}, which is a pool of {has}, not of {wants}")
    return found[0] if found else ""


def _servers(reply: Attributes, kind: str) -> tuple[str, ...]:
    """Return the DNS or NBNS servers (RFC 2548 2.7); zero is none."""
    found = (reply.address(f"MS-{order}-{kind}-Server") for order in ("Primary", "Secondary"))
    return tuple(str(address) for address in found if address is not None and int(address))


def _interface_id(reply: Attributes) -> bytes:
    identifier = reply.identifier("Framed-Interface-Id")
    if identifier is not None and not any(identifier):
        raise ContradictionError("Framed-Interface-Id is zero")
    return identifier or b""


def _bridge_port_vid(reply: Attributes, base: Authorization) -> int:
    """Return the VLAN of a bridged session's port; only the profile can name a bridge."""
    try:
        vid = vlan_of(reply)
    except ValueError as error:
        raise ContradictionError(str(error)) from None
    if vid is None:
        return base.bridge_port_vid
    if not base.bridge:
        raise ContradictionError(f"Tunnel-Private-Group-Id is {vid}, and the profile has no bridge")
    return vid


def _mtu(reply: Attributes) -> int:
    mtu = reply.number("Framed-MTU")
    if mtu is None:
        return 0
    if mtu < MTU_MIN:
        raise ContradictionError(f"Framed-MTU is {mtu}, less than {MTU_MIN}")
    return min(mtu, MTU_MAX)


class _Found(NamedTuple):
    """A network behind the client, and the attribute that says so."""

    attribute: str
    route: FramedRoute


def _routes(reply: Attributes, address: str) -> list[_Found]:
    """Return what is behind the client: the network of its address and routes (RFC 2865 5.22, RFC 3162 2.5)."""
    found = _netmask(reply, address)
    for name in ("Framed-Route", "Framed-IPv6-Route"):
        for text in reply.texts(name):
            said = f"{name} {text[:80]!r}"
            try:
                found.append(_Found(said, FramedRoute(*parse_route(_with_length(text)))))
            except ValueError as error:
                raise ContradictionError(f"{said} {error}") from None
    return found


def _netmask(reply: Attributes, address: str) -> list[_Found]:
    """Return the network that the netmask makes around a fixed address."""
    mask = reply.address("Framed-IP-Netmask")
    if mask is None or not address or int(mask) == 0xFFFFFFFF:
        return []
    try:
        network = IPv4Network((address, str(mask)), strict=False)
    except ValueError:
        raise ContradictionError(f"Framed-IP-Netmask is {mask}, which is none") from None
    if network.prefixlen == 0 or int(network.netmask) != int(mask):
        raise ContradictionError(f"Framed-IP-Netmask is {mask}, which makes no network behind a client")
    return [_Found(f"Framed-IP-Netmask {mask}", FramedRoute(str(network)))]


def _prefixes(reply: Attributes, name: str) -> list[str]:
    found = []
    for prefix in reply.prefixes(name):
        try:
            found.append(parse_route(str(prefix)).destination)
        except ValueError as error:
            raise ContradictionError(f"{name} {prefix} {error}") from None
    if len(found) > MAX_PREFIXES:
        raise ContradictionError(f"there are {len(found)} {name}, more than {MAX_PREFIXES}")
    return found


def _ipv6_addresses(reply: Attributes) -> list[IPv6Address]:
    found = reply.ipv6_addresses("Framed-IPv6-Address")
    for address in found:
        try:
            parse_network(f"{address}/{address.max_prefixlen}")
        except ValueError:
            raise ContradictionError(f"Framed-IPv6-Address is {address}, which no client can have") from None
    return found


def _ipv6_pool(
    reply: Attributes, given: Collection[object], purpose: Purpose, base: Authorization, offer: Offer
) -> str:
    """Return the pool for one purpose: none where the reply gives what is wanted itself."""
    names, of_base = {
        Purpose.PREFIX: (("Framed-IPv6-Pool",), base.ipv6_prefix_pool),
        Purpose.DELEGATED: (("Delegated-IPv6-Prefix-Pool", "Mikrotik-Delegated-IPv6-Pool"), base.delegated_pool),
        Purpose.IPV6_ADDRESS: (("Stateful-IPv6-Address-Pool",), base.ipv6_address_pool),
    }[purpose]
    if given:
        return ""
    found = [_pool(reply, name, LENGTHS[purpose], offer.pools) for name in names]
    return next(filter(None, found), of_base)


def _ipv6_servers(reply: Attributes) -> tuple[str, ...]:
    """Return the first DNS servers of IPv6 (RFC 6911 3.2); the unspecified address is none."""
    found = (address for address in reply.ipv6_addresses("DNS-Server-IPv6-Address") if int(address))
    return tuple(map(str, found))[:MAX_IPV6_SERVERS]


def _check_taken(routes: Iterable[_Found], taken: TakenAddresses, own: str) -> None:
    """Refuse a network that would let the client send from addresses of pools, of other users, or of ours.

    Raises:
        ContradictionError: one of them does.
    """
    for attribute, route in routes:
        network = ip_network(route.destination)
        owner = taken.owner_within(network, own if isinstance(network, IPv4Network) else "")
        if owner is not None:
            raise ContradictionError(f"{attribute} makes {network} a network behind the client, and {owner} is in it")


def _with_length(text: str) -> str:
    """Return a Framed-Route whose prefix has its length: 8, 16 or 24 bits by its class (RFC 2865 5.22).

    Numbers behind the metric (some servers send several metrics) are left out.
    """
    words = text.split()[:3]
    if words and "/" not in words[0] and ":" not in words[0]:
        try:
            first = IPv4Address(words[0]).packed[0]
        except ValueError:
            return text
        words[0] += "/8" if first < 128 else "/16" if first < 192 else "/24"
    return " ".join(words)


def _rate_limit(attributes: Attributes) -> RateLimit | None:
    """Return MikroTik's limit, or WISPr's; Up is from the client."""
    texts = attributes.texts("Mikrotik-Rate-Limit")
    if texts:
        try:
            return parse_rate_limit(texts[0])
        except ValueError as error:
            raise ContradictionError(f"Mikrotik-Rate-Limit {error}") from None
    up, down = attributes.number("WISPr-Bandwidth-Max-Up"), attributes.number("WISPr-Bandwidth-Max-Down")
    if up is None and down is None:
        return None
    try:
        return parse_rate_limit(f"{up or 0}/{down or 0}")
    except ValueError as error:
        raise ContradictionError(f"WISPr-Bandwidth-Max {error}") from None


def _volume(attributes: Attributes, direction: str) -> int | None:
    low = attributes.number(f"Mikrotik-{direction}-Limit")
    high = attributes.number(f"Mikrotik-{direction}-Limit-Gigawords")
    return None if low is None and high is None else min((high or 0) << GIGAWORD | (low or 0), MAX_VOLUME)


def _address_lists(attributes: Attributes) -> tuple[str, ...] | None:
    names = [*attributes.texts("Filter-Id"), *attributes.texts("Mikrotik-Address-List")]
    if not names:
        return None
    if len(names) > MAX_LISTS:
        raise ContradictionError(f"there are {len(names)} address lists, more than {MAX_LISTS}")
    for name in names:
        try:
            msgspec.convert(name, SetName)
        except msgspec.ValidationError:
            raise ContradictionError(f"Filter-Id or Mikrotik-Address-List {name[:80]!r} is no set's name") from None
    return tuple(dict.fromkeys(names))
