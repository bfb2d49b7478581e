"""The schema of the client's configuration file: tunnels, and what several of them have in common.

Keys are those of RouterOS `/interface sstp-client` and of VyOS `interfaces sstpc`. Where both name the same thing, a
file may use either; which keys exclude each other is in `client_checks`.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, field

from sstpfarm.config.fields import (
    Deadline,
    DeviceName,
    Directory,
    FilePath,
    LogFormat,
    Method,
    Mrru,
    Mtu,
    Password,
    Seconds,
    Switch,
    Table,
    Text,
)
from sstpfarm.config.schema import CertificateFiles

SYSTEM: Final = "system"
CLAMP: Final = "clamp-mss-to-pmtu"
HTTPS: Final = 443
MAX_INTERFACES: Final = 93  # each has a user of its own; see `client.identities`

ServerText = Annotated[str, Meta(min_length=1, max_length=300)]
ClientName = Annotated[str, Meta(max_length=253)]
ShortPassword = Annotated[Password, Meta(description="text of 1 to 256 characters")]
Delay = Annotated[float, Meta(ge=0.05, le=86400, description="seconds, 0.05 to 86400")]


class Client(Table, frozen=True):
    """[client]: where the client keeps its things."""

    run_directory: Directory = "/run/sstpfarm-client"
    log_format: Annotated[LogFormat, Meta(description='"auto", "json" or "console"')] = "auto"


class ClientProfile(Table, frozen=True):
    """[profile.NAME]: what several interfaces have in common."""

    use_ipv6: Switch = True
    change_tcp_mss: Switch = True
    idle_timeout: Seconds = 0
    session_timeout: Seconds = 0
    comment: Text = ""


class IpSettings(Table, frozen=True):
    """ip = { ... }: kernel settings of the interface."""

    adjust_mss: (
        Annotated[
            Annotated[int, Meta(ge=536, le=65535)] | Literal["clamp-mss-to-pmtu"],
            Meta(description='a whole number of bytes, 536 to 65535, or "clamp-mss-to-pmtu"'),
        ]
        | None
    ) = None
    disable_forwarding: Switch = False
    source_validation: (
        Annotated[Literal["strict", "loose", "disable"], Meta(description='"strict", "loose" or "disable"')] | None
    ) = None


class Interface(Table, frozen=True):
    """[interface.NAME]: a tunnel; NAME is that of its device."""

    user: Annotated[str, Meta(min_length=1, max_length=253, description="text of 1 to 253 characters")]
    connect_to: Annotated[ServerText, Meta(description='"HOST", "HOST:PORT", "ADDRESS" or "[ADDRESS]:PORT"')] | None = (
        None
    )
    server: Annotated[ServerText, Meta(description="a name or an address")] | None = None
    port: Annotated[int, Meta(ge=1, le=65535, description="a whole number, 1 to 65535")] | None = None
    password: ShortPassword | None = None
    password_file: FilePath | None = None
    profile: Annotated[str, Meta(description="the name of a profile")] = "default"
    authentication: Annotated[
        tuple[Method, ...],
        Meta(min_length=1, description='a list of one or more of "eap", "mschap2", "mschap1", "chap", "pap"'),
    ] = ("mschap2",)
    certificate: Annotated[CertificateFiles, Meta(description='{ chain = "FILE", key = "FILE" }')] | None = None
    ca: Annotated[
        str, Meta(min_length=1, max_length=4096, description='"system", or the path of a file or directory')
    ] = SYSTEM
    pin: Annotated[str, Meta(max_length=128, description='"sha256:" and 64 hexadecimal digits, or "" for none')] = ""
    server_name: Annotated[ClientName, Meta(description='a name, or "" for that of the server')] = ""
    insecure: Switch = False
    insecure_anonymous: Switch = False
    proxy: Annotated[str, Meta(max_length=300, description='"HOST:PORT" or "[ADDRESS]:PORT", or "" for none')] = ""
    proxy_user: Annotated[
        str, Meta(max_length=253, pattern=r"^[^:\x00-\x1f]*\Z", description='text without a colon, or "" for none')
    ] = ""
    proxy_password: ShortPassword | None = None
    proxy_password_file: FilePath | None = None
    add_default_route: Switch | None = None
    no_default_route: Switch | None = None
    default_route_distance: Annotated[
        int, Meta(ge=0, le=0xFFFF_FFFF, description="a whole number, 0 to 4294967295")
    ] = 0
    routes: Annotated[
        tuple[Annotated[str, Meta(max_length=128)], ...],
        Meta(max_length=64, description='a list of at most 64 of "NETWORK/LENGTH [GATEWAY [METRIC]]"'),
    ] = ()
    no_peer_dns: Switch = False
    dial_on_demand: Switch = False
    disabled: Switch | None = None
    disable: Switch | None = None
    keepalive_timeout: Annotated[
        Annotated[int, Meta(ge=1, le=86400)] | Literal["disabled"],
        Meta(description='a whole number of seconds, 1 to 86400, or "disabled"'),
    ] = 60
    max_mtu: Mtu | None = None
    max_mru: Mtu | None = None
    mtu: Mtu | None = None
    mrru: Mrru = "disabled"
    bridge: DeviceName = ""
    ipv6: Switch | None = None
    vrf: DeviceName = ""
    ip: Annotated[
        IpSettings,
        Meta(description="{ adjust-mss = ..., disable-forwarding = ..., source-validation = ... }"),
    ] = IpSettings()
    comment: Text | None = None
    description: Text | None = None
    connect_timeout_s: Deadline = 10.0
    login_deadline_s: Deadline = 120.0
    reconnect_delay_s: Delay = 1.0
    reconnect_delay_max_s: Delay = 60.0
    refused_delay_s: Delay = 60.0
    refused_delay_max_s: Delay = 900.0

    def is_disabled(self) -> bool:
        """Whether it is configured and not used (`disabled`, `disable`)."""
        return bool(self.disabled or self.disable)

    def wants_default_route(self) -> bool:
        """Whether the default route goes through it (`add-default-route`, `no-default-route`): no unless it is said."""
        return bool(self.add_default_route) or self.no_default_route is False

    def text(self) -> str:
        """What its owner wrote about it (`comment`, `description`)."""
        return self.comment or self.description or ""


class ClientConfig(Table, frozen=True):
    """The whole file."""

    client: Client = Client()
    profile: dict[str, ClientProfile] = field(default_factory=dict)
    interface: dict[str, Interface] = field(default_factory=dict)
