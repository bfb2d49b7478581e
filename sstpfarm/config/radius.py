"""The tables of RADIUS: [radius], [[radius.server]], [radius.coa] and [[radius.coa.client]]."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from sstpfarm.config.addresses import parse_endpoint
from sstpfarm.config.fields import FilePath, Password, Switch, Table
from sstpfarm.config.locate import KeyPath
from sstpfarm.config.report import Report

CallingStationId = Literal["address", "address:port"]
Signature = Literal["require", "auto", "off"]
MAX_VALUE: Final = 253  # bytes of an attribute's value, RFC 2865 5

Secret = Annotated[Password, Meta(description="text of 1 to 256 characters")]
Host = Annotated[str, Meta(max_length=64, description="an IPv4 or IPv6 address")]
OptionalHost = Annotated[str, Meta(max_length=64, description='an IPv4 or IPv6 address, or "" for none')]
Wait = Annotated[float, Meta(ge=0.1, le=300, description="seconds, 0.1 to 300")]  # a human may have to be asked
Port = Annotated[int, Meta(ge=1, le=65535, description="a port, 1 to 65535")]


class RadiusServer(Table, frozen=True):
    """[[radius.server]]: one server; they are asked in the order of the file."""

    address: Host
    auth_port: Port = 1812
    acct_port: Port = 1813
    secret: Secret | None = None
    secret_file: FilePath | None = None
    timeout_s: Wait = 2.0
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

    client: Annotated[
        tuple[CoaClient, ...], Meta(min_length=1, max_length=64, description="1 to 64 tables [[radius.coa.client]]")
    ]
    listen: Annotated[str, Meta(max_length=80, description='"ADDRESS:PORT" or "[ADDRESS]:PORT"')] = "0.0.0.0:3799"
    require_message_authenticator: Switch = False
    require_event_timestamp: Switch = False


class Radius(Table, frozen=True):
    """[radius]: how users are asked for, and accounted to, with outside servers."""

    server: Annotated[
        tuple[RadiusServer, ...], Meta(min_length=1, max_length=16, description="1 to 16 tables [[radius.server]]")
    ]
    accounting: Switch = True
    nas_identifier: Annotated[str, Meta(min_length=1, max_length=253, description="text of 1 to 253 characters")] = (
        "sstpfarm"
    )
    nas_ip_address: OptionalHost = ""
    source_address: OptionalHost = ""
    calling_station_id: Annotated[CallingStationId, Meta(description='"address" or "address:port"')] = "address"
    ms_ras_vendor: Annotated[
        int,
        Meta(
            ge=0, le=0xFF_FFFF, description="a whole number, 0 (not told) to 16777215"
        ),  # RFC 2548: a number of three bytes
    ] = 0
    deadline_s: Wait = 10.0
    coa: Annotated[RadiusCoa | None, Meta(description="the table [radius.coa]")] = None


def reloaded_radius(running: Radius | None, found: Radius | None) -> tuple[Radius | None, list[str]]:
    """Return what of a new [radius] can hold without a restart, and the keys of the rest, which stay as they are.

    Sinks and backends are chosen at the start; the socket for orders is bound while the process is still root.
    """
    if running is None or found is None:
        return running, [] if running == found else ["radius"]
    keys = []
    if found.accounting != running.accounting:
        keys.append("radius.accounting")
        found = msgspec.structs.replace(found, accounting=running.accounting)
    if (found.coa is None) != (running.coa is None):
        keys.append("radius.coa")
        found = msgspec.structs.replace(found, coa=running.coa)
    elif found.coa is not None and running.coa is not None and found.coa.listen != running.coa.listen:
        keys.append("radius.coa.listen")
        found = msgspec.structs.replace(found, coa=msgspec.structs.replace(found.coa, listen=running.coa.listen))
    return found, keys


def check_radius(radius: Radius, report: Report) -> None:
    """Report what is wrong between and inside of the keys: addresses, secrets, servers that are listed twice."""
    for key, text in (("nas-ip-address", radius.nas_ip_address), ("source-address", radius.source_address)):
        if text:
            _check_host(text, ("radius", key), report)
    size = len(radius.nas_identifier.encode())
    if size > MAX_VALUE:
        report.add(("radius", "nas-identifier"), f"has {size} bytes of UTF-8; allowed: 1 to {MAX_VALUE}")
    seen: set[tuple[str, int]] = set()
    path: KeyPath
    for index, server in enumerate(radius.server):
        path = ("radius", "server", index)
        _check_host(server.address, (*path, "address"), report)
        _check_secret(server, path, report)
        if (server.address, server.auth_port) in seen:
            report.add((*path, "address"), f"{server.address} port {server.auth_port} is listed twice")
        seen.add((server.address, server.auth_port))
    if radius.coa is None:
        return
    try:
        parse_endpoint(radius.coa.listen)
    except ValueError as error:
        allowed = '"ADDRESS:PORT" or "[ADDRESS]:PORT"'
        report.add_value(("radius", "coa", "listen"), radius.coa.listen, str(error), allowed)
    for index, client in enumerate(radius.coa.client):
        path = ("radius", "coa", "client", index)
        try:
            ip_network(client.address)
        except ValueError:
            allowed = "an address, or a network as ADDRESS/LENGTH without bits behind its length"
            report.add_value((*path, "address"), client.address, "is none", allowed)
        _check_secret(client, path, report)


def _check_host(text: str, key: KeyPath, report: Report) -> None:
    try:
        ip_address(text)
    except ValueError:
        report.add_value(key, text, "is no address", "an IPv4 or IPv6 address")


def _check_secret(table: RadiusServer | CoaClient, path: KeyPath, report: Report) -> None:
    if (table.secret is None) == (table.secret_file is None):
        report.add((*path, "secret"), "exactly one of secret and secret-file must be there")
