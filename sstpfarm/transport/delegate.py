"""What a role (the worker's session, the client's dialer) does with a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from sstpfarm.dataplane.interface import Gate, PacketPath
from sstpfarm.proto.events import AuthRequest, AuthSucceeded, BridgeOpened, Ipv4Opened, Ipv6Opened, Phase
from sstpfarm.proto.tunnel import Tunnel
from sstpfarm.reasons import Reason

if TYPE_CHECKING:
    from sstpfarm.transport.connection import Connection


class Delegate(Protocol):
    """Every call comes from the connection's own callbacks; each may call the connection back, and may end it."""

    def open_tunnel(self, connection: Connection, certificate: bytes) -> tuple[Tunnel, PacketPath]:
        """TLS is up (the peer's leaf certificate, DER, or empty): make the protocol core and the packet path.

        Raises:
            PeerError: the connection ends with its reason.
        """

    def phase_done(self, connection: Connection, phase: Phase, detail: str) -> None:
        """A phase of the login is done."""

    def authenticate(self, connection: Connection, request: AuthRequest) -> None:
        """Server: have the proof judged; `connection.auth_result` takes the answer."""

    def authenticated(self, connection: Connection, event: AuthSucceeded) -> None:
        """Authentication is over; the role calls `connection.configure` when it is ready for network protocols."""

    def network_opened(self, connection: Connection, event: Ipv4Opened | Ipv6Opened | BridgeOpened) -> None:
        """A network protocol is open."""

    def gates_changed(self, connection: Connection, gates: Gate) -> None:
        """Packets of exactly these families may pass now."""

    def router_asked(self, connection: Connection, frame: bytes) -> None:
        """The peer asks the router of the link (`PacketPath.set_router`); `frame` has protocol and IPv6 packet."""

    def closed(self, connection: Connection, reason: Reason, detail: str) -> None:
        """The connection has ended; its descriptors are closed. Called exactly once, and last."""
