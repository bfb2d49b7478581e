"""From a configured interface to what the two halves of the client are told."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from sstpfarm.client.settings import ClientCertificate, ClientSettings, HttpProxy, Wishes
from sstpfarm.config.addresses import parse_server
from sstpfarm.config.client import HTTPS, SYSTEM, ClientConfig, ClientProfile, Interface
from sstpfarm.config.client_checks import pin_digits
from sstpfarm.config.fields import DISABLED, Password
from sstpfarm.config.pem import read_authorities, read_pem
from sstpfarm.config.routes import parse_route

MTU: Final = 1500
NO_PROXY: Final = ("", "0.0.0.0:443")


class Delays(msgspec.Struct, frozen=True):
    """Seconds before the next dial: the first and the longest, ordinarily and after a refusal."""

    first: float
    longest: float
    refused_first: float
    refused_longest: float


class Plan(msgspec.Struct, frozen=True):
    """One interface of the client.

    Attributes:
        disabled: it is there, and down.
    """

    name: str
    settings: ClientSettings
    wishes: Wishes
    delays: Delays
    disabled: bool


def plans(config: ClientConfig) -> dict[str, Plan]:
    """Return the plan of each interface of a configuration that `load_client` returned.

    Raises:
        ConfigError: a certificate's or authority's file cannot be read any more.
    """
    return {name: _plan(config, name, interface) for name, interface in config.interface.items()}


def _plan(config: ClientConfig, name: str, interface: Interface) -> Plan:
    profile = config.profile.get(interface.profile, ClientProfile())
    server = parse_server(interface.connect_to or interface.server or "", HTTPS)
    if interface.server is not None and ":" not in interface.server:
        server = parse_server(interface.server, interface.port or HTTPS)
    elif interface.port is not None:
        server = server._replace(port=interface.port)
    assert interface.password is not None, "load_client requires it"
    settings = ClientSettings(
        host=server.host,
        port=server.port,
        user=interface.user,
        password=interface.password.text,
        authentication=interface.authentication,
        certificate=_certificate(interface),
        ca_pem=None if interface.ca == SYSTEM else read_authorities(Path(interface.ca)),
        pin=pin_digits(interface.pin) if interface.pin else None,
        insecure=interface.insecure,
        insecure_anonymous=interface.insecure_anonymous,
        server_name=interface.server_name,
        proxy=_proxy(interface),
        keepalive_timeout=None if interface.keepalive_timeout == DISABLED else float(interface.keepalive_timeout),
        max_mtu=interface.mtu or interface.max_mtu or MTU,
        max_mru=interface.mtu or interface.max_mru or MTU,
        mrru=None if isinstance(interface.mrru, str) else interface.mrru,
        bridging=bool(interface.bridge),
        ipv6=profile.use_ipv6 if interface.ipv6 is None else interface.ipv6,
        peer_dns=not interface.no_peer_dns,
        connect_timeout_s=interface.connect_timeout_s,
        login_deadline_s=interface.login_deadline_s,
    )
    wishes = Wishes(
        interface=name,
        description=interface.text(),
        default_route=interface.wants_default_route(),
        default_route_distance=interface.default_route_distance,
        routes=tuple(parse_route(text) for text in interface.routes),
        register_dns=not interface.no_peer_dns,
        vrf=interface.vrf,
        bridge=interface.bridge,
        change_tcp_mss=profile.change_tcp_mss,
        adjust_mss=interface.ip.adjust_mss,
        disable_forwarding=interface.ip.disable_forwarding,
        source_validation=interface.ip.source_validation,
        idle_timeout=profile.idle_timeout,
        session_timeout=profile.session_timeout,
        dial_on_demand=interface.dial_on_demand,
    )
    delays = Delays(
        interface.reconnect_delay_s,
        interface.reconnect_delay_max_s,
        interface.refused_delay_s,
        interface.refused_delay_max_s,
    )
    return Plan(name, settings, wishes, delays, interface.is_disabled())


def _certificate(interface: Interface) -> ClientCertificate | None:
    files = interface.certificate
    if files is None:
        return None
    return ClientCertificate(chain_pem=read_pem(Path(files.chain)), key_pem=Password(read_pem(Path(files.key))))


def _proxy(interface: Interface) -> HttpProxy | None:
    if interface.proxy in NO_PROXY:
        return None
    host, port = parse_server(interface.proxy)
    return HttpProxy(host=host, port=port, user=interface.proxy_user, password=interface.proxy_password or Password(""))
