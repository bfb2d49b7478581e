"""The schema of the server's configuration file: one struct for each kind of table, one field for each key.

What users get is in `ppp`, the kinds of value in `fields`. Conditions that join several keys are in `checks`.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, field

from sstpfarm.config.addresses import Endpoint, parse_endpoint, parse_listener
from sstpfarm.config.books import Accounting, Auth
from sstpfarm.config.fields import (
    ANONYMOUS,
    AUTO,
    STRENGTH,
    Deadline,
    Directory,
    FilePath,
    LogFormat,
    Method,
    Mrru,
    Mtu,
    Switch,
    Table,
)
from sstpfarm.config.ppp import Interface, Pool, Profile, Secret
from sstpfarm.config.radius import Radius


class Farm(Table, frozen=True):
    """[farm]: where the farm keeps its things."""

    state_directory: Directory = "/var/lib/sstpfarm"
    run_directory: Directory = "/run/sstpfarm"
    log_format: Annotated[LogFormat, Meta(description='"auto", "json" or "console"')] = "auto"


LISTENER_FORMS: Final = '"ADDRESS", "ADDRESS:PORT" or "[ADDRESS]:PORT"'


class CertificateFiles(Table, frozen=True):
    """certificate = { chain, key }: PEM files."""

    chain: FilePath
    key: FilePath


Certificate = Annotated[
    CertificateFiles | Literal["auto", "none-anonymous-tls"],
    Meta(description='"auto", { chain = "FILE", key = "FILE" } or "none-anonymous-tls"'),
]
# AEAD with forward secrecy: SECURITY of TLS 1.2 is in this list alone; TLS 1.3 has nothing else.
CIPHERS_TLS12: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
DEFAULT_PORT: Final = 443  # MS-SSTP 1.9


class Server(Table, frozen=True):
    """[server]: listeners, workers, the protocol's limits and timers."""

    enabled: Switch = True
    listen: Annotated[
        tuple[Annotated[str, Meta(max_length=80)], ...],
        Meta(
            min_length=1,
            max_length=16,
            description='a list of 1 to 16 of "ADDRESS", "ADDRESS:PORT" or "[ADDRESS]:PORT"',
        ),
    ] = ("0.0.0.0", "::")  # noqa: S104 - a server for everybody
    port: Annotated[int, Meta(ge=1, le=65535, description="a whole number, 1 to 65535")] | None = None
    workers: Annotated[
        Annotated[int, Meta(ge=1, le=64)] | Literal["auto"], Meta(description='"auto" or a whole number, 1 to 64')
    ] = AUTO
    certificate: Certificate = AUTO
    certificate_names: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=253)], ...],
        Meta(max_length=32, description="a list of at most 32 DNS names and addresses"),
    ] = ()
    tls_minimum: Annotated[Literal["1.2", "1.3"], Meta(description='"1.2" or "1.3"')] = "1.2"
    tls_ciphers: Annotated[
        str, Meta(min_length=1, max_length=1024, description="a list of cipher suites as OpenSSL writes it")
    ] = CIPHERS_TLS12
    require_client_certificate: Switch = False
    client_ca: FilePath | None = None
    client_certificate_user: Annotated[Literal["ignore", "match"], Meta(description='"ignore" or "match"')] = "ignore"
    authentication: Annotated[
        tuple[Method, ...],
        Meta(min_length=1, description='a list of one or more of "eap", "mschap2", "mschap1", "chap", "pap"'),
    ] = ("mschap2",)
    default_profile: Annotated[str, Meta(description="the name of a profile")] = "default"
    keepalive_timeout: Annotated[
        Annotated[int, Meta(ge=1, le=86400)] | Literal["disabled"],
        Meta(description='a whole number of seconds, 1 to 86400, or "disabled"'),
    ] = 60
    max_mtu: Mtu = 1500
    max_mru: Mtu = 1500
    mrru: Mrru = "disabled"
    ipv6: Switch = True
    forwarding: Switch = False
    client_to_client: Switch = False
    masquerade: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9._@+-]{0,15}\Z",
            description='the name of an interface, at most 15 characters, or "" for none',
        ),
    ] = ""
    proxy_arp: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^[A-Za-z0-9._@+-]{1,15}\Z")], ...],
        Meta(max_length=16, description="a list of at most 16 names of interfaces"),
    ] = ()
    proxy_arp_mode: Annotated[Literal["neighbour", "sysctl"], Meta(description='"neighbour" or "sysctl"')] = "neighbour"
    nftables_include: Annotated[
        str,
        Meta(max_length=4096, pattern=r"^[^\x00-\x1f\"*?\[]*\Z", description='the path of a file, or "" for none'),
    ] = ""
    script_timeout_s: Deadline = 10.0
    metrics: Annotated[
        str, Meta(max_length=80, description='"ADDRESS:PORT" or "[ADDRESS]:PORT", or "" to switch it off')
    ] = "127.0.0.1:9443"
    ready_interfaces: Annotated[int, Meta(ge=0, le=65536, description="a whole number, 0 to 65536")] = 0
    max_sessions: Annotated[int, Meta(ge=1, le=65536, description="a whole number, 1 to 65536")] = 8192
    max_starting: Annotated[int, Meta(ge=1, le=65536, description="a whole number, 1 to 65536")] = 1500
    max_starting_per_source: Annotated[
        Annotated[int, Meta(ge=1, le=65536)] | Literal["disabled"],
        Meta(description='a whole number, 1 to 65536, or "disabled"'),
    ] = 500
    tls_deadline_s: Deadline = 10.0
    http_deadline_s: Deadline = 30.0
    connect_request_deadline_s: Deadline = 60.0
    negotiation_deadline_s: Deadline = 60.0
    authentication_deadline_s: Deadline = 60.0
    login_deadline_s: Deadline = 120.0
    failure_delay_s: Annotated[float, Meta(ge=0, le=30, description="seconds, 0 to 30")] = 1.0

    def methods(self) -> tuple[Method, ...]:
        """Return the authentication methods in the order in which they are offered: strongest first."""
        return tuple(method for method in STRENGTH if method in self.authentication)

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Return the listeners' addresses and ports, in the file's order; none when the server is not enabled."""
        port = DEFAULT_PORT if self.port is None else self.port
        return tuple(parse_listener(text, port) for text in self.listen) if self.enabled else ()

    @property
    def anonymous(self) -> bool:
        """Whether TLS is done without any certificate."""
        return self.certificate == ANONYMOUS

    def metrics_endpoint(self) -> Endpoint | None:
        """Return where /metrics is served, None when it is switched off."""
        return parse_endpoint(self.metrics) if self.metrics else None


class Config(Table, frozen=True):
    """The whole file."""

    farm: Farm = Farm()
    server: Server = Server()
    auth: Auth = Auth()
    accounting: Accounting = Accounting()
    profile: dict[str, Profile] = field(default_factory=dict)
    pool: dict[str, Pool] = field(default_factory=dict)
    secret: dict[str, Secret] = field(default_factory=dict)
    interface: dict[str, Interface] = field(default_factory=dict)
    radius: Radius | None = None
