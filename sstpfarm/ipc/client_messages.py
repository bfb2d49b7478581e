"""The messages between the client's two halves; the parts that the server's have too are those of `messages`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from sstpfarm.ipc.messages import Address, Addresses, Identifier8, InterfaceName, Line, Message, Method, Mtu, Short

# -- client: privileged half > unprivileged half -----------------------------------------------------------------------


class Dial(Message, frozen=True, tag="dial"):
    """Dial these addresses, in this order, until one answers."""

    addresses: Annotated[tuple[Address, ...], Meta(min_length=1, max_length=16)]
    port: Annotated[int, Meta(ge=1, le=65535)]


class DeviceReady(Message, frozen=True, tag="device-ready"):
    """One descriptor comes along: the device, addressed and up.

    Attributes:
        queued_from: packets that wait in the device are sent, those from this address as if from `local_address`;
            None: they are dropped.
    """

    name: InterfaceName
    local_address: Address | None = None
    queued_from: Address | None = None


class DeviceRefused(Message, frozen=True, tag="device-refused"):
    """The device could not be made or addressed."""

    detail: Short


class HangUp(Message, frozen=True, tag="hang-up"):
    """End the tunnel in the way of that reason."""

    reason: Short


# -- client: unprivileged half > privileged half -----------------------------------------------------------------------


class PhaseReached(Message, frozen=True, tag="phase-reached"):
    """A phase of the login is done; seconds since the dial began."""

    phase: Line
    seconds: float
    detail: Line = ""


class InterfaceWanted(Message, frozen=True, tag="interface-wanted"):
    """The NCPs that matter are open: make the interface and send its descriptor."""

    mtu: Mtu
    local_address: Address | None = None
    remote_address: Address | None = None
    dns_servers: Addresses = ()
    ipv6_local: Identifier8 | None = None


class TunnelFacts(Message, frozen=True, tag="tunnel-facts"):
    """What was negotiated, for the display."""

    method: Method | Literal["none"]
    cipher: Line
    tls_version: Line
    server_address: Address
    certificate_sha256: Line


class TunnelClosed(Message, frozen=True, tag="tunnel-closed"):
    """The tunnel has ended; nothing more follows."""

    reason: Line
    detail: Line = ""
