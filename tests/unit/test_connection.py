"""transport/connection.py: two connections over a real socket, real TLS, and datagram sockets in place of the TUNs."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from ipaddress import IPv4Address, IPv6Address

import pytest

from sstpfarm.dataplane.interface import Cell, RouterRole
from sstpfarm.proto.events import Phase
from sstpfarm.proto.sstp.http import SSTP_PATH
from sstpfarm.reasons import Reason
from sstpfarm.transport.tls_context import ServerIdentity
from tests.unit.connection_bench import ADDRESS, GATEWAY, End, packet, pair, raw_pair, until


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
            assert (both.client.lasts, both.server.lasts) == (True, True)
            both.client.close(Reason.USER_REQUEST)
            assert not both.client.lasts  # though it says goodbye first
            assert both.client_end.ended == []
            await both.over()
            assert not both.server.lasts
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
            both.poller.remove_reader(both.client_sock.fileno())  # the client stalls
            sent = 0
            for _ in range(3000):
                try:
                    both.server_end.tun.send(packet(GATEWAY, ADDRESS, bytes(1300)))
                    sent += 1
                except BlockingIOError:
                    await asyncio.sleep(0.001)
            assert 100 < sent < 3000, "the TUN was left to fill"
            assert len(both.server._outlet.pending) <= 256 * 1024
            both.poller.add_reader(both.client_sock.fileno(), both.client._readable)
            # the datagram socket in place of the TUN holds few packets, and the queue stood: the rest is counted
            cells, shed = both.client_end.cells, both.server_end.cells
            await until(lambda: cells[Cell.PACKETS_IN] + cells[Cell.DROP_TUN] + shed[Cell.DROP_QUEUE] == sent)

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
                sock.settimeout(60)
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
            await until(lambda: bool(end.ended))
            assert end.ended[0][0] is Reason.TLS_TIMEOUT

    asyncio.run(scenario())


@pytest.mark.parametrize("role", list(RouterRole))
def test_what_asks_the_router_comes_to_the_delegate(identity: ServerIdentity, role: RouterRole) -> None:
    """In order with the packets around it, which go to the device."""
    head = b"\x60\0\0\0\0\x08\x3a\xff" + IPv6Address("fe80::7").packed
    question = head + IPv6Address("ff02::2").packed + b"\x85" + bytes(7)
    answer = head + IPv6Address("ff02::1").packed + b"\x86" + bytes(7)

    async def scenario() -> None:
        async with pair(identity) as both:
            both.server.send_ipv6(answer)  # no gate is open: nobody gets it
            await both.open()
            assert both.server._path is not None
            assert both.client._path is not None
            both.server._path.set_sources(((0, 0),), ((0, 0),))
            both.client._path.set_sources(((0, 0),), ((0, 0),))
            both.server._path.set_router(role)
            for one in (packet(ADDRESS, GATEWAY, b"before"), question, packet(ADDRESS, GATEWAY, b"behind")):
                both.client_end.tun.send(one)
            expected = 3 if role is RouterRole.KERNEL else 2
            await until(lambda: both.server_end.cells[Cell.PACKETS_IN] == expected)
            assert both.server_end.received()[1:-1] == ([question] if role is RouterRole.KERNEL else [])
            asked = [b"\xff\x03\x00\x57" + question] if role is RouterRole.PYTHON else []
            assert both.server_end.asked == asked
            both.server.send_ipv6(answer)
            await until(lambda: both.client_end.cells[Cell.PACKETS_IN] == 1)
            assert both.client_end.received() == [answer]
            assert both.server_end.cells[Cell.PACKETS_OUT] == 0

    asyncio.run(scenario())
