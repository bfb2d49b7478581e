"""One tunnel as its user wants it: what the unprivileged half needs for it, and what the privileged half does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from sstpfarm.config.fields import Password
from sstpfarm.config.routes import Route
from sstpfarm.ipc.messages import Method

METHODS: Final[tuple[Method, ...]] = ("eap", "mschap2", "mschap1", "chap", "pap")

ClampToPmtu = Literal["clamp-mss-to-pmtu"]
SourceValidation = Literal["strict", "loose", "disable"]


class Part(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Base of what travels to the unprivileged half, in a sealed memory file."""


class ClientCertificate(Part, frozen=True):
    """What the client shows of itself, both in PEM form."""

    chain_pem: str
    key_pem: Password


class HttpProxy(Part, frozen=True):
    """The HTTP proxy to go through (CONNECT); `user` "" for none."""

    host: str
    port: int
    user: str = ""
    password: Password = Password("")


class ClientSettings(Part, frozen=True):
    """What the unprivileged half needs; times in seconds, sizes in bytes.

    Attributes:
        host: the server as the user named it: Host header, and SNI and name check unless `server_name` is set.
        ca_pem: certificates to trust instead of the system's.
        pin: SHA-256 of the server's certificate in DER form, 64 lower-case digits; replaces chain and name check.
        insecure: check neither.
        insecure_anonymous: speak to a server that has no certificate, and to no other.
        server_name: for SNI and name check instead of `host`; "" for none.
        mrru: the largest packet to receive in fragments (multilink); None without.
        bridging: negotiate BCP, carry Ethernet frames instead of IP packets.
    """

    host: str
    port: int
    user: str
    password: str
    authentication: tuple[Method, ...] = ("mschap2",)
    certificate: ClientCertificate | None = None
    ca_pem: str | None = None
    pin: str | None = None
    insecure: bool = False
    insecure_anonymous: bool = False
    server_name: str = ""
    proxy: HttpProxy | None = None
    keepalive_timeout: float | None = 60.0
    max_mtu: int = 1500
    max_mru: int = 1500
    mrru: int | None = None
    bridging: bool = False
    ipv6: bool = True
    peer_dns: bool = True
    connect_timeout_s: float = 10.0
    login_deadline_s: float = 120.0

    @property
    def first_stop(self) -> tuple[str, int]:
        """Host and port that TCP goes to: those of the proxy, if there is one."""
        return (self.host, self.port) if self.proxy is None else (self.proxy.host, self.proxy.port)

    def __repr__(self) -> str:
        return f"ClientSettings({self.user}@{self.host}:{self.port})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the privileged half does with the tunnel.

    Attributes:
        interface: the interface's name; None takes the first free sstpc0, sstpc1, ...
        description: the interface's alias; "" for none.
        default_route: send all IPv4 traffic through the tunnel, but for the server's own address.
        default_route_distance: metric of that route; 0 goes before every other default route.
        routes: further networks behind the tunnel.
        register_dns: give the received DNS servers to the system's resolver.
        vrf: the VRF device that the interface belongs to, with its routes; "" for none.
        bridge: the bridge that the interface joins (with `ClientSettings.bridging`); "" for none.
        change_tcp_mss: bound TCP's segments to what fits the tunnel; `adjust_mss` says it differently.
        adjust_mss: bytes, or clamp to the MTU; None leaves it to `change_tcp_mss`.
        disable_forwarding: net.ipv4.conf.IF.forwarding = 0.
        source_validation: reverse path filter; None leaves the system's setting.
        idle_timeout, session_timeout: seconds, 0 for none; after them the tunnel ends.
        dial_on_demand: dial at the first packet.
    """

    interface: str | None = None
    description: str = ""
    default_route: bool = True
    default_route_distance: int = 0
    routes: tuple[Route, ...] = ()
    register_dns: bool = False
    vrf: str = ""
    bridge: str = ""
    change_tcp_mss: bool = False
    adjust_mss: int | ClampToPmtu | None = None
    disable_forwarding: bool = False
    source_validation: SourceValidation | None = None
    idle_timeout: int = 0
    session_timeout: int = 0
    dial_on_demand: bool = False
