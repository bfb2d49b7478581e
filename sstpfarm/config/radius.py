"""The tables of RADIUS: [radius], [[radius.server]], [radius.coa] and [[radius.coa.client]]."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from sstpfarm.config.fields import FilePath, Password, Seconds, Switch, Table

CallingStationId = Literal["address", "address:port"]
Signature = Literal["require", "auto", "off"]

Secret = Annotated[Password, Meta(description="text of 1 to 256 characters")]
Host = Annotated[str, Meta(max_length=64, description="an IPv4 or IPv6 address")]
OptionalHost = Annotated[str, Meta(max_length=64, description='an IPv4 or IPv6 address, or "" for none')]
Port = Annotated[int, Meta(ge=1, le=65535, description="a port, 1 to 65535")]


class RadiusServer(Table, frozen=True):
    """[[radius.server]]: one server; they are asked in the order of the file."""

    address: Host
    auth_port: Port = 1812
    acct_port: Port = 1813
    secret: Secret | None = None
    secret_file: FilePath | None = None
    timeout_s: Annotated[float, Meta(ge=0.1, le=60, description="seconds, 0.1 to 60")] = 2.0
    retries: Annotated[int, Meta(ge=0, le=10, description="a whole number, 0 to 10")] = 1
    dead_time_s: Annotated[float, Meta(ge=0.1, le=3600, description="seconds, 0.1 to 3600")] = 30.0
    message_authenticator: Annotated[Signature, Meta(description='"require", "auto" or "off"')] = "auto"
    status_server: Switch = True


class CoaClient(Table, frozen=True):
    """[[radius.coa.client]]: who may send Disconnect and CoA requests."""

    address: Annotated[str, Meta(max_length=64, description="an address, or a network as ADDRESS/LENGTH")]
    secret: Secret | None = None
    secret_file: FilePath | None = None


class RadiusCoa(Table, frozen=True):
    """[radius.coa]: dynamic authorization (RFC 5176)."""

    listen: Annotated[str, Meta(max_length=80, description='"ADDRESS:PORT" or "[ADDRESS]:PORT"')] = "0.0.0.0:3799"
    require_message_authenticator: Switch = False
    require_event_timestamp: Switch = False
    client: Annotated[
        tuple[CoaClient, ...], Meta(min_length=1, max_length=64, description="1 to 64 tables [[radius.coa.client]]")
    ]


class Radius(Table, frozen=True):
    """[radius]: how users are asked for, and accounted to, with outside servers."""

    authentication: Switch = True
    accounting: Switch = True
    nas_identifier: Annotated[
        str, Meta(min_length=1, max_length=253, description="text of 1 to 253 characters")
    ] = "sstpfarm"
    nas_ip_address: OptionalHost = ""
    source_address: OptionalHost = ""
    calling_station_id: Annotated[CallingStationId, Meta(description='"address" or "address:port"')] = "address"
    deadline_s: Annotated[float, Meta(ge=0.1, le=120, description="seconds, 0.1 to 120")] = 10.0
    interim_update: Seconds = 0
    server: Annotated[
        tuple[RadiusServer, ...], Meta(min_length=1, max_length=16, description="1 to 16 tables [[radius.server]]")
    ]
    coa: RadiusCoa | None = None
