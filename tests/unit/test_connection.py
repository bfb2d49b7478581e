"""transport/connection.py: two connections over a real socket, real TLS, and datagram sockets in place of the TUNs."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
import subprocess
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address

import pytest

from sstpfarm.dataplane.interface import CELLS, Cell, Gate, PacketPath
from sstpfarm.dataplane.pure import PurePath
from sstpfarm.proto.events import AuthRequest, AuthSucceeded, Ipv4Opened, Ipv6Opened, Phase
from sstpfarm.proto.ppp.link import PppSettings
from sstpfarm.proto.ppp.verify import failure_message, verify
from sstpfarm.proto.roles import AuthMethod, AuthReject, Ipv4Terms, Ipv6Terms, Role
from sstpfarm.proto.sstp.binding import CertificateHash
from sstpfarm.proto.sstp.call import SstpSettings
from sstpfarm.proto.sstp.http import SSTP_PATH
from sstpfarm.proto.tunnel import Tunnel, TunnelSettings
from sstpfarm.reasons import Reason
from sstpfarm.transport.connection import Connection, Surroundings
from sstpfarm.transport.deadlines import Deadlines
from sstpfarm.transport.tls import (
    ServerIdentity,
    SharedBuffers,
    TlsPump,
    client_context,
    server_identity,
)

GATEWAY, ADDRESS = IPv4Address("10.20.0.1"), IPv4Address("10.20.0.7")
PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> ServerIdentity:
    folder = tmp_path_factory.mktemp("tls")
    chain, key = folder / "chain.pem", folder / "key.pem"
    subprocess.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=vpn.example "
        f"-keyout {key} -out {chain}",
        shell=True,
        check=True,
        capture_output=True,
    )
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

    def network_opened(self, connection: Connection, event: Ipv4Opened | Ipv6Opened) -> None:
        pass

    def gates_changed(self, connection: Connection, gates: Gate) -> None:
        self.gates = gates

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


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the conditions are plain facts of the code under test
            await asyncio.sleep(0.002)


class Pair:
    """A server and a client connection, joined by a socket pair."""

    def __init__(self, identity: ServerIdentity, password: str = PASSWORD) -> None:
        self.server_end, self.client_end = End(Role.SERVER, identity), End(Role.CLIENT, identity, password)
        loop = asyncio.get_running_loop()
        around = Surroundings(loop, SharedBuffers(), Deadlines(loop))
        listener = socket.create_server(("127.0.0.1", 0))
        client_sock = socket.create_connection(listener.getsockname())
        server_sock, _ = listener.accept()
        listener.close()
        for sock in (client_sock, server_sock):
            sock.setblocking(False)
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


def test_login_packets_and_orderly_end(identity: ServerIdentity) -> None:
    async def scenario() -> None:
        async with pair(identity) as both:
            await both.open()
            up = [packet(ADDRESS, GATEWAY, bytes([n]) * (n % 1300)) for n in range(200)]
            down = [packet(GATEWAY, ADDRESS, bytes([n]) * (n % 1300)) for n in range(200)]
            got_up: list[bytes] = []
            got_down: list[bytes] = []
            for index in range(0, 200, 8):
                for one, two in zip(up[index : index + 8], down[index : index + 8], strict=True):
                    both.client_end.tun.send(one)
                    both.server_end.tun.send(two)
                want = index + 8
                while len(got_up) < want or len(got_down) < want:
                    got_up += both.server_end.received()
                    got_down += both.client_end.received()
                    await asyncio.sleep(0)
            assert got_up == up
            assert got_down == down
            assert both.server_end.cells[Cell.PACKETS_IN] == both.client_end.cells[Cell.PACKETS_OUT] == 200
            both.client.close(Reason.USER_REQUEST)
            await both.over()
            assert both.client_end.ended[0][0] is Reason.USER_REQUEST
            assert both.server_end.ended[0][0] in (Reason.PEER_TERMINATED, Reason.PEER_DISCONNECT)
            assert both.client_end.phases == [phase for phase in Phase if phase not in (Phase.TCP, Phase.INTERFACE)]

    asyncio.run(scenario())


def test_spoofed_source_never_arrives(identity: ServerIdentity) -> None:
    async def scenario() -> None:
        async with pair(identity) as both:
            await both.open()
            both.client_end.tun.send(packet(IPv4Address("10.20.0.8"), GATEWAY, b"spoofed"))
            both.client_end.tun.send(packet(ADDRESS, GATEWAY, b"honest"))
            await until(lambda: both.server_end.cells[Cell.PACKETS_IN] == 1)
            assert both.server_end.received() == [packet(ADDRESS, GATEWAY, b"honest")]
            assert both.server_end.cells[Cell.DROP_SOURCE] == 1

    asyncio.run(scenario())


def test_wrong_password(identity: ServerIdentity) -> None:
    async def scenario() -> None:
        async with pair(identity, "wrong") as both:
            both.start()
            await both.over()
            assert both.client_end.ended[0][0] is Reason.AUTH_REFUSED
            assert "691" in both.client_end.ended[0][1]
            assert both.server_end.ended[0][0] is Reason.AUTH_REFUSED

    asyncio.run(scenario())


def test_a_peer_that_does_not_read_costs_a_bounded_queue(identity: ServerIdentity) -> None:
    async def scenario() -> None:
        async with pair(identity) as both:
            await both.open()
            loop = asyncio.get_running_loop()
            loop.remove_reader(both.client_sock.fileno())  # the client stalls
            sent = 0
            for _ in range(3000):
                try:
                    both.server_end.tun.send(packet(GATEWAY, ADDRESS, bytes(1300)))
                    sent += 1
                except BlockingIOError:
                    await asyncio.sleep(0.001)
            assert 100 < sent < 3000, "the TUN was left to fill"
            assert len(both.server._pending) <= 256 * 1024
            loop.add_reader(both.client_sock.fileno(), both.client._readable)
            cells = (
                both.client_end.cells
            )  # the datagram socket in place of the TUN holds few packets: the rest is counted
            await until(lambda: cells[Cell.PACKETS_IN] + cells[Cell.DROP_TUN] == sent)

    asyncio.run(scenario())


@pytest.mark.parametrize("abrupt", [True, False])
def test_lost_connection(identity: ServerIdentity, abrupt: bool) -> None:
    async def scenario() -> None:
        async with pair(identity) as both:
            await both.open()
            if abrupt:
                both.client_sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            both.client._close_now()
            await both.over()
            assert both.server_end.ended[0][0] is Reason.TRANSPORT_LOST

    asyncio.run(scenario())


def raw_exchange(identity: ServerIdentity, data: bytes, *, tls: bool = True) -> tuple[bytes, End]:
    """Send bytes to a server connection; return all that comes back until it closes, and what the server saw."""

    async def scenario() -> tuple[bytes, End]:
        async with raw_pair(identity) as (sock, end):
            loop = asyncio.get_running_loop()

            def talk() -> bytes:
                sock.settimeout(10)
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                stream = context.wrap_socket(sock) if tls else sock
                with stream:
                    stream.sendall(data)
                    answer = b""
                    while part := stream.recv(65536):
                        answer += part
                    return answer

            answer = await loop.run_in_executor(None, talk)
            await until(lambda: bool(end.ended))
            return answer, end

    return asyncio.run(scenario())


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
    around = Surroundings(loop, SharedBuffers(), Deadlines(loop))
    pump = TlsPump(identity.context, around.buffers, server_side=True)
    Connection(around, end, server, pump, peer="raw", tls_deadline=tls_deadline, login_deadline=20).start()
    try:
        yield client, end
    finally:
        client.close()
        await until(lambda: bool(end.ended))
        end.tun.close()


@pytest.mark.parametrize(
    ("request_line", "status", "reason"),
    [
        (f"GET {SSTP_PATH} HTTP/1.1", b"405", Reason.HTTP_WRONG_METHOD),
        (f"HEAD {SSTP_PATH} HTTP/1.1", b"405", Reason.HTTP_WRONG_METHOD),
        ("GET / HTTP/1.1", b"404", Reason.HTTP_WRONG_PATH),
        ("nonsense", b"400", Reason.HTTP_BAD_REQUEST),
    ],
)
def test_http_refusals_arrive_whole(identity: ServerIdentity, request_line: str, status: bytes, reason: Reason) -> None:
    answer, end = raw_exchange(identity, f"{request_line}\r\nHost: vpn.example\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert answer.endswith(b"\r\n\r\n")
    assert b"content-length: 0" in answer.lower()
    assert end.ended[0][0] is reason


def test_plain_http_is_closed_without_a_word(identity: ServerIdentity) -> None:
    answer, end = raw_exchange(identity, b"GET / HTTP/1.1\r\n\r\n", tls=False)
    assert answer == b""
    assert end.ended[0][0] is Reason.TLS_NOT_TLS


def test_call_connect_request_in_the_flight_of_the_head_is_answered(identity: ServerIdentity) -> None:
    head = f"SSTP_DUPLEX_POST {SSTP_PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551615\r\n\r\n".encode()
    connect = bytes.fromhex("1001000e0001000100010006 0001".replace(" ", ""))
    abort = bytes.fromhex("1001000800050000")
    answer, end = raw_exchange(identity, head + connect + abort)
    _, _, rest = answer.partition(b"\r\n\r\n")
    assert rest[:8] == bytes.fromhex("1001003000020001"), "Call Connect Ack"
    assert end.ended[0][0] is Reason.PEER_ABORT


def test_a_silent_peer_is_closed_at_the_tls_deadline(identity: ServerIdentity) -> None:
    async def scenario() -> None:
        async with raw_pair(identity, 0.2) as (_, end):
            await until(lambda: bool(end.ended), 2)
            assert end.ended[0][0] is Reason.TLS_TIMEOUT

    asyncio.run(scenario())
