"""Two connections over a real socket, real TLS, and datagram sockets in place of the TUNs."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path

from sstpfarm.dataplane.interface import CELLS, Gate, PacketPath
from sstpfarm.dataplane.pure import PurePath
from sstpfarm.proto.events import AuthRequest, AuthSucceeded, BridgeOpened, Ipv4Opened, Ipv6Opened, Phase
from sstpfarm.proto.ppp.link import PppSettings
from sstpfarm.proto.ppp.verify import failure_message, verify
from sstpfarm.proto.roles import AuthMethod, AuthReject, Ipv4Terms, Ipv6Terms, Role
from sstpfarm.proto.sstp.binding import CertificateHash
from sstpfarm.proto.sstp.call import SstpSettings
from sstpfarm.proto.tunnel import Tunnel, TunnelSettings
from sstpfarm.reasons import Reason
from sstpfarm.transport.connection import Connection
from sstpfarm.transport.deadlines import Deadlines
from sstpfarm.transport.poller import Poller
from sstpfarm.transport.surroundings import Surroundings
from sstpfarm.transport.tls import SharedBuffers, TlsPump
from sstpfarm.transport.tls_context import ServerIdentity, client_context, server_identity
from tests.certificates import make_certificate

GATEWAY, ADDRESS = IPv4Address("10.20.0.1"), IPv4Address("10.20.0.7")
PASSWORD = "correct horse"


def make_identity(folder: Path) -> ServerIdentity:
    """A TLS identity with a fresh self-signed certificate, whose files are left in the folder."""
    chain, key = make_certificate(folder, "vpn.example")
    return server_identity(str(chain), str(key), chain.read_text())


def packet(source: IPv4Address, destination: IPv4Address, payload: bytes) -> bytes:
    """An IPv4 packet with an unused protocol number; checksums are the kernel's business."""
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, 253, 0)
    return header + source.packed + destination.packed + payload


class End:
    """A delegate that logs in without delay and remembers everything."""

    def __init__(self, role: Role, identity: ServerIdentity, password: str = PASSWORD) -> None:
        self.role, self.identity, self.password = role, identity, password
        self.phases: list[Phase] = []
        self.gates = Gate.NONE
        self.asked: list[bytes] = []
        self.ended: list[tuple[Reason, str]] = []
        self.tun, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.tun.setblocking(False)
        self.far_end = far_end.detach()
        os.set_blocking(self.far_end, False)
        self.cells = memoryview(array("Q", bytes(8 * CELLS)))

    def open_tunnel(self, connection: Connection, certificate: bytes) -> tuple[Tunnel, PacketPath]:
        server = self.role is Role.SERVER
        hashes = self.identity.certificates if server else (CertificateHash.of(certificate),)
        settings = TunnelSettings(
            sstp=SstpSettings(role=self.role, certificates=hashes),
            ppp=PppSettings(role=self.role, methods=(AuthMethod.MSCHAP2,), user=b"alice", password=self.password),
            host="vpn.example",
        )
        path = PurePath(memoryview(array("Q", bytes(8 * CELLS))), self.cells)
        path.set_sources(((int(ADDRESS), 0xFFFFFFFF),) if server else ((0, 0),), ())
        return Tunnel(settings, os.urandom), path

    def phase_done(self, connection: Connection, phase: Phase, detail: str) -> None:
        self.phases.append(phase)

    def authenticate(self, connection: Connection, request: AuthRequest) -> None:
        accept = verify(request.method, request.user, request.proof, PASSWORD)
        refusal = AuthReject(failure_message(request.method, 691, os.urandom, "no"))
        connection.auth_result(accept or refusal)

    def authenticated(self, connection: Connection, event: AuthSucceeded) -> None:
        connection.attach(self.far_end)
        self.far_end = -1
        server = self.role is Role.SERVER
        connection.configure(
            Ipv4Terms(local=GATEWAY, peer=ADDRESS) if server else Ipv4Terms(), Ipv6Terms(local=os.urandom(7) + b"\x01")
        )

    def network_opened(self, connection: Connection, event: Ipv4Opened | Ipv6Opened | BridgeOpened) -> None:
        pass

    def gates_changed(self, connection: Connection, gates: Gate) -> None:
        self.gates = gates

    def router_asked(self, connection: Connection, frame: bytes) -> None:
        self.asked.append(frame)

    def closed(self, connection: Connection, reason: Reason, detail: str) -> None:
        self.ended.append((reason, detail))
        if self.far_end >= 0:
            os.close(self.far_end)

    def received(self) -> list[bytes]:
        packets = []
        while True:
            try:
                packets.append(self.tun.recv(65536))
            except BlockingIOError:
                return packets


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the conditions are plain facts of the code under test
            await asyncio.sleep(0.002)


class Pair:
    """A server and a client connection, joined by a socket pair."""

    def __init__(self, identity: ServerIdentity, password: str = PASSWORD) -> None:
        self.server_end, self.client_end = End(Role.SERVER, identity), End(Role.CLIENT, identity, password)
        loop = asyncio.get_running_loop()
        self.poller = Poller(loop)
        around = Surroundings(loop, self.poller, SharedBuffers(), Deadlines(loop))
        listener = socket.create_server(("127.0.0.1", 0))
        client_sock = socket.create_connection(listener.getsockname())
        server_sock, _ = listener.accept()
        listener.close()
        for sock in (client_sock, server_sock):
            sock.setblocking(False)
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):  # quickly full, where a test wants that
                sock.setsockopt(socket.SOL_SOCKET, option, 1 << 16)
        pump = TlsPump(identity.context, around.buffers, server_side=True)
        self.server = Connection(
            around, self.server_end, server_sock, pump, peer="client", tls_deadline=5, login_deadline=20
        )
        context = client_context(ca_pem=None, verify=False)
        pump = TlsPump(context, around.buffers, server_side=False, server_name="vpn.example")
        self.client = Connection(
            around, self.client_end, client_sock, pump, peer="server", tls_deadline=5, login_deadline=20
        )
        self.client_sock, self.server_sock = client_sock, server_sock

    def start(self) -> None:
        self.server.start()
        self.client.start(client=True)

    async def open(self) -> None:
        self.start()
        both = Gate.IPV4 | Gate.IPV6
        await until(lambda: self.server_end.gates == self.client_end.gates == both)

    async def over(self) -> None:
        await until(lambda: bool(self.server_end.ended and self.client_end.ended))


@asynccontextmanager
async def pair(identity: ServerIdentity, password: str = PASSWORD) -> AsyncIterator[Pair]:
    made = Pair(identity, password)
    try:
        yield made
    finally:
        made.client.close(Reason.USER_REQUEST)
        await made.over()
        for end in (made.server_end, made.client_end):
            assert len(end.ended) == 1, "closed exactly once"
            end.tun.close()


@asynccontextmanager
async def raw_pair(identity: ServerIdentity, tls_deadline: float = 5.0) -> AsyncIterator[tuple[socket.socket, End]]:
    end = End(Role.SERVER, identity)
    ours, theirs = socket.socketpair()
    ours.close()
    theirs.close()
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    listener.close()
    server.setblocking(False)
    loop = asyncio.get_running_loop()
    around = Surroundings(loop, Poller(loop), SharedBuffers(), Deadlines(loop))
    pump = TlsPump(identity.context, around.buffers, server_side=True)
    Connection(around, end, server, pump, peer="raw", tls_deadline=tls_deadline, login_deadline=20).start()
    try:
        yield client, end
    finally:
        client.close()
        await until(lambda: bool(end.ended))
        end.tun.close()
