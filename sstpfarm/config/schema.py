"""The schema of the configuration file: one struct for each kind of table, one field for each key.

The keys in the file are the field names in kebab-case. The description of a field says what is allowed; it is what an
error message tells the operator. Conditions that join several keys are in `checks`.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from sstpfarm.config.addresses import Endpoint, parse_endpoint

Method = Literal["mschap2", "mschap1", "chap", "pap"]
LogFormat = Literal["auto", "json", "console"]
STRENGTH: Final[tuple[Method, ...]] = ("mschap2", "mschap1", "chap", "pap")
"""The methods, strongest first: the order in which they are offered, whatever the order in the file."""

AUTO: Final = "auto"
DISABLED: Final = "disabled"

# RFC 791 3.1: every host takes datagrams of 576 bytes. MS-SSTP 2.2.1: a packet's length has 12 bits, so it is at most
# 4095 bytes, less 4 of SSTP header and 4 of PPP header (FF 03 and the protocol).
MTU_MIN: Final = 576
MTU_MAX: Final = 4087
IPV6_MTU_MIN: Final = 1280  # RFC 8200 5
MAX_PASSWORD: Final = 256  # UTF-16 code units, RFC 2759 8.3
MAX_USER: Final = 253  # bytes of a name; a PAP Peer-ID holds 255 (RFC 1334 2.2.1), messages between processes 256
MAX_NAME: Final = 64  # characters of a profile's or pool's name

Mtu = Annotated[int, Meta(ge=MTU_MIN, le=MTU_MAX, description="a whole number of bytes, 576 to 4087")]
Deadline = Annotated[float, Meta(gt=0, le=3600, description="seconds, more than 0, at most 3600")]
Path = Annotated[str, Meta(max_length=4096, pattern=r"^[^\x00]+$")]
FilePath = Annotated[Path, Meta(description="the path of a file")]
Directory = Annotated[Path, Meta(description="the path of a directory")]
Address = Annotated[str, Meta(max_length=64, description='an IPv4 address such as "10.20.0.1"')]
Addresses = Annotated[
    tuple[Annotated[str, Meta(max_length=64)], ...],
    Meta(max_length=2, description="a list of at most two IPv4 addresses"),
]
Remote = Annotated[str, Meta(max_length=80, description='an IPv4 address or "pool:NAME"')]
Switch = Annotated[bool, Meta(description="true or false")]


class Password(msgspec.Struct, frozen=True):
    """A password that no repr, log or traceback shows; `text` is the secret itself."""

    text: str

    def __repr__(self) -> str:
        return "Password(hidden)"


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """Base of every table of the file."""


class Farm(Table, frozen=True):
    """[farm]: where the farm keeps its things."""

    state_directory: Directory = "/var/lib/sstpfarm"
    run_directory: Directory = "/run/sstpfarm"
    log_format: Annotated[LogFormat, Meta(description='"auto", "json" or "console"')] = "auto"


class CertificateFiles(Table, frozen=True):
    """certificate = { chain, key }: PEM files."""

    chain: FilePath
    key: FilePath


class Server(Table, frozen=True):
    """[server]: listeners, workers, the protocol's limits and timers."""

    listen: Annotated[
        tuple[Annotated[str, Meta(max_length=80)], ...],
        Meta(min_length=1, max_length=16, description='a list of 1 to 16 of "ADDRESS:PORT" or "[ADDRESS]:PORT"'),
    ] = ("0.0.0.0:443", "[::]:443")
    workers: Annotated[
        Annotated[int, Meta(ge=1, le=64)] | Literal["auto"], Meta(description='"auto" or a whole number, 1 to 64')
    ] = AUTO
    certificate: Annotated[
        CertificateFiles | Literal["auto"], Meta(description='"auto" or { chain = "FILE", key = "FILE" }')
    ] = AUTO
    authentication: Annotated[
        tuple[Method, ...],
        Meta(min_length=1, description='a list of one or more of "mschap2", "mschap1", "chap", "pap"'),
    ] = ("mschap2",)
    default_profile: Annotated[str, Meta(description="the name of a profile")] = "default"
    keepalive_timeout: Annotated[
        Annotated[int, Meta(ge=1, le=86400)] | Literal["disabled"],
        Meta(description='a whole number of seconds, 1 to 86400, or "disabled"'),
    ] = 60
    max_mtu: Mtu = 1500
    max_mru: Mtu = 1500
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
    metrics: Annotated[
        str, Meta(max_length=80, description='"ADDRESS:PORT" or "[ADDRESS]:PORT", or "" to switch it off')
    ] = "127.0.0.1:9443"
    max_sessions: Annotated[int, Meta(ge=1, le=65536, description="a whole number, 1 to 65536")] = 8192
    max_starting: Annotated[int, Meta(ge=1, le=65536, description="a whole number, 1 to 65536")] = 1500
    tls_deadline_s: Deadline = 10.0
    http_deadline_s: Deadline = 60.0
    connect_request_deadline_s: Deadline = 60.0
    negotiation_deadline_s: Deadline = 60.0
    authentication_deadline_s: Deadline = 60.0
    login_deadline_s: Deadline = 120.0
    failure_delay_s: Annotated[float, Meta(ge=0, le=30, description="seconds, 0 to 30")] = 1.0

    def methods(self) -> tuple[Method, ...]:
        """Return the authentication methods in the order in which they are offered: strongest first."""
        return tuple(method for method in STRENGTH if method in self.authentication)

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Return the listeners' addresses and ports, in the file's order."""
        return tuple(parse_endpoint(text) for text in self.listen)

    def metrics_endpoint(self) -> Endpoint | None:
        """Return where /metrics is served, None when it is switched off."""
        return parse_endpoint(self.metrics) if self.metrics else None


class Profile(Table, frozen=True):
    """[profile.NAME]: what the sessions of the secrets that name it get."""

    local_address: Address | None = None
    remote_address: Remote | None = None
    dns_server: Addresses = ()
    wins_server: Addresses = ()


class Pool(Table, frozen=True):
    """[pool.NAME]: addresses to hand out."""

    ranges: Annotated[
        tuple[Annotated[str, Meta(max_length=64)], ...],
        Meta(
            min_length=1,
            max_length=1024,
            description='a list of IPv4 ranges: "FIRST-LAST", "NETWORK/LENGTH" or one address',
        ),
    ]


class Secret(Table, frozen=True):
    """[secret.NAME]: a user; what it leaves out comes from its profile."""

    password: Annotated[Password, Meta(description="text of 1 to 256 characters")] | None = None
    password_file: FilePath | None = None
    profile: Annotated[str, Meta(description="the name of a profile")] | None = None
    local_address: Address | None = None
    remote_address: Remote | None = None
    dns_server: Addresses | None = None
    wins_server: Addresses | None = None
    disabled: Switch = False
    caller_id: Annotated[str, Meta(max_length=64, description='an address, a network, or "" for any')] = ""
    service: Annotated[Literal["any", "sstp"], Meta(description='"any" or "sstp"')] = "any"
    comment: Annotated[str, Meta(max_length=1024, description="text, at most 1024 characters")] = ""


class Config(Table, frozen=True):
    """The whole file."""

    farm: Farm = Farm()
    server: Server = Server()
    profile: dict[str, Profile] = {}
    pool: dict[str, Pool] = {}
    secret: dict[str, Secret] = {}
