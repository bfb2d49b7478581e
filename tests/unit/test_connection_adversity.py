"""transport/connection.py when peers, delegates, devices and the order of events are unkind."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from sstpfarm.dataplane.interface import Gate, PacketPath
from sstpfarm.proto.events import AuthRequest, AuthSucceeded, BridgeOpened, Ipv4Opened, Ipv6Opened, Phase
from sstpfarm.proto.tunnel import Tunnel
from sstpfarm.reasons import Reason
from sstpfarm.transport import downlink, farewell
from sstpfarm.transport.connection import Connection
from sstpfarm.transport.outlet import MAX_PENDING, NOTHING
from sstpfarm.transport.tls import OUTBOUND
from sstpfarm.transport.tls_context import ServerIdentity
from tests.unit.connection_bench import ADDRESS, GATEWAY, End, Pair, packet, pair, until

CALLBACKS = ("open_tunnel", "phase_done", "authenticate", "authenticated", "network_opened", "gates_changed")


class Meddler(End):
    """A delegate that does something to the connection inside one of its own callbacks, and counts what follows."""

    def meddle(self, callback: str, deed: Callable[[Connection], None]) -> None:
        self.callback, self.deed = callback, deed
        self.after_the_end: list[str] = []

    def _called(self, name: str, connection: Connection) -> None:
        if self.ended:
            self.after_the_end.append(name)
        if name == self.callback:
            self.deed(connection)

    def open_tunnel(self, connection: Connection, certificate: bytes) -> tuple[Tunnel, PacketPath]:
        self._called("open_tunnel", connection)
        return super().open_tunnel(connection, certificate)

    def phase_done(self, connection: Connection, phase: Phase, detail: str) -> None:
        self._called("phase_done", connection)
        super().phase_done(connection, phase, detail)

    def authenticate(self, connection: Connection, request: AuthRequest) -> None:
        self._called("authenticate", connection)
        super().authenticate(connection, request)

    def authenticated(self, connection: Connection, event: AuthSucceeded) -> None:
        self._called("authenticated", connection)
        super().authenticated(connection, event)

    def network_opened(self, connection: Connection, event: Ipv4Opened | Ipv6Opened | BridgeOpened) -> None:
        self._called("network_opened", connection)

    def gates_changed(self, connection: Connection, gates: Gate) -> None:
        self._called("gates_changed", connection)
        super().gates_changed(connection, gates)

    def closed(self, connection: Connection, reason: Reason, detail: str) -> None:
        self._called("closed", connection)
        super().closed(connection, reason, detail)


def meddle(both: Pair, callback: str, deed: Callable[[Connection], None]) -> Meddler:
    end = both.server_end
    end.__class__ = Meddler
    assert isinstance(end, Meddler)
    end.meddle(callback, deed)
    return end


@pytest.mark.parametrize("reason", [Reason.SHUTDOWN, Reason.AUTH_UNAVAILABLE, Reason.PEER_DEAD])
@pytest.mark.parametrize("callback", CALLBACKS)
def test_a_delegate_may_close_inside_any_callback(identity: ServerIdentity, callback: str, reason: Reason) -> None:
    async def scenario() -> None:
        async with pair(identity) as both:
            end = meddle(both, callback, lambda connection: connection.close(reason))
            both.start()
            await both.over()
            assert end.ended[0][0] is reason
            assert end.after_the_end == []

    asyncio.run(scenario())


def test_a_delegate_may_close_when_it_is_told_of_the_end(identity: ServerIdentity) -> None:
    async def scenario() -> None:
        async with pair(identity) as both:
            end = meddle(both, "closed", lambda connection: connection.close(Reason.SHUTDOWN))
            await both.open()
            both.client.close(Reason.USER_REQUEST)
            await both.over()
            assert [reason for reason, _ in end.ended] in ([Reason.PEER_TERMINATED], [Reason.PEER_DISCONNECT])

    asyncio.run(scenario())


@pytest.mark.parametrize("callback", CALLBACKS)
def test_a_bug_in_any_callback_ends_this_connection_only(identity: ServerIdentity, callback: str) -> None:
    def fail(connection: Connection) -> None:
        raise ZeroDivisionError

    async def scenario() -> None:
        loop_errors: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: loop_errors.append(context))
        async with pair(identity) as both:
            end = meddle(both, callback, fail)
            both.start()
            await both.over()
            assert end.ended[0][0] is Reason.INTERNAL_ERROR
            assert "ZeroDivisionError" in end.ended[0][1]
            assert end.after_the_end == []
        assert loop_errors == []

    asyncio.run(scenario())


def reset(sock: socket.socket) -> None:
    """Close with a reset instead of an orderly end."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def vanish(both: Pair) -> socket.socket:
    """Take the client's socket away from its connection, which ends then; the server knows nothing."""
    sock = both.client_sock.dup()
    both.client._close_now()
    await until(lambda: bool(both.client_end.ended))
    return sock


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_reset_behind_the_last_bytes_is_noticed(
    identity: ServerIdentity, monkeypatch: pytest.MonkeyPatch, run: Callable[[Awaitable[None]], None]
) -> None:
    """One poll reports both."""

    async def scenario() -> None:
        async with pair(identity) as both:
            await both.open()
            await asyncio.sleep(0.2)
            both.client._pump.send(bytes.fromhex("10000004"))  # an SSTP data packet with nothing in it
            last = both.client._pump.to_send()
            sock = await vanish(both)
            sock.send(last)
            reset(sock)
            await until(lambda: bool(both.server_end.ended), 2)
            assert both.server_end.ended[0][0] is Reason.TRANSPORT_LOST

    run(scenario())


def test_a_send_that_fails_does_not_hide_what_the_peer_said_last(identity: ServerIdentity) -> None:
    async def scenario() -> None:
        async with pair(identity) as both:
            await both.open()
            both.poller.remove_reader(both.server_sock.fileno())  # the TUN's event comes first
            both.client.close(Reason.BINDING_MAC)  # sends Call Abort at once
            sock = await vanish(both)
            reset(sock)
            both.server_end.tun.send(packet(GATEWAY, ADDRESS, b"x"))
            await both.over()
            assert both.server_end.ended[0][0] is Reason.PEER_ABORT

    asyncio.run(scenario())


async def stall(both: Pair) -> None:
    """Let the client read no more, and fill the way to it."""
    both.poller.remove_reader(both.client_sock.fileno())
    for _ in range(20_000):
        try:
            both.server_end.tun.send(packet(GATEWAY, ADDRESS, bytes(1300)))
        except BlockingIOError:
            waiting = len(both.server._outlet.pending)
            await asyncio.sleep(0.02 if waiting else 0)
            if waiting and len(both.server._outlet.pending) == waiting:
                return
    raise AssertionError("the socket takes everything")


def test_a_half_closed_peer_still_gets_the_last_bytes(identity: ServerIdentity) -> None:
    async def scenario() -> None:
        async with pair(identity) as both:
            await both.open()
            await stall(both)
            both.server._finish(Reason.SHUTDOWN, "", drop=False)  # close_notify waits behind the packets
            both.client_sock.shutdown(socket.SHUT_WR)
            await asyncio.sleep(0.05)
            assert not both.server_end.ended
            both.poller.add_reader(both.client_sock.fileno(), both.client._readable)
            await both.over()
            assert both.client_end.ended == [(Reason.TRANSPORT_LOST, "TLS closed by the peer")]
            assert both.server_end.ended[0][0] is Reason.SHUTDOWN

    asyncio.run(scenario())


def test_a_peer_that_never_takes_the_last_bytes_is_left_behind(
    identity: ServerIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(farewell, "FLUSH", 0.1)

    async def scenario() -> None:
        async with pair(identity) as both:
            await both.open()
            await stall(both)
            both.server._finish(Reason.SHUTDOWN, "", drop=False)
            await until(lambda: bool(both.server_end.ended))
            assert both.server_end.ended[0][0] is Reason.SHUTDOWN

    asyncio.run(scenario())


def lcp_echo_request(size: int) -> bytes:
    """An SSTP data packet with an LCP Echo-Request of that many bytes (RFC 1661 5.8)."""
    frame = bytes.fromhex("ff03c021") + struct.pack("!BBHI", 9, 1, size, 0) + bytes(size - 8)
    return struct.pack("!HH", 0x1000, 4 + len(frame)) + frame


def test_answers_that_nobody_reads_are_bounded(identity: ServerIdentity) -> None:
    async def scenario() -> None:
        async with pair(identity) as both:
            await both.open()
            await stall(both)
            most = len(both.server._outlet.pending)
            assert most <= OUTBOUND + 4096
            for _ in range(400):
                both.client._pump.send(lcp_echo_request(1400))
            flood = both.client._pump.to_send()
            # one read of this would make half a megabyte of answers
            for start in range(0, len(flood), 65536):
                if both.server_end.ended:
                    break
                await asyncio.get_running_loop().sock_sendall(both.client_sock, flood[start : start + 65536])
                await asyncio.sleep(0.01)
                if not both.server_end.ended:
                    most = max(most, len(both.server._outlet.pending) + both.server._pump.waiting)
            await until(lambda: bool(both.server_end.ended))
            assert both.server_end.ended[0][0] is Reason.PEER_DEAD
            assert OUTBOUND < most <= MAX_PENDING

    asyncio.run(scenario())


class EndlessPath:
    """A packet path whose TUN is never readable and that yet has packets: those that a super-packet was cut into."""

    def __init__(self) -> None:
        self.left = 10
        self.drains = 0

    def drain(self, out: memoryview, shed: bool = False) -> tuple[int, bool]:
        self.drains += 1
        if not self.left:
            return 0, False
        self.left -= 1
        out[:4] = bytes.fromhex("10000004")
        return 4, self.left > 0

    def large(self) -> None:
        return None

    def detach(self) -> None:
        pass


def test_one_event_carries_a_bounded_number_of_batches(identity: ServerIdentity) -> None:
    async def scenario() -> None:
        async with pair(identity) as both:
            await both.open()
            endless = EndlessPath()
            assert both.server._downlink is not None
            both.server._downlink.source._path = endless  # type: ignore[assignment] # only what a drain needs
            both.server._tun_readable()
            assert endless.drains == downlink.DRAINS
            outlet = both.server._outlet
            assert (outlet._socket_drives, outlet._armed) == (True, False)
            await until(lambda: endless.left == 0)
            assert (outlet._socket_drives, outlet._armed) == (False, True)

    asyncio.run(scenario())


def test_a_device_that_is_gone_ends_the_session_in_order(identity: ServerIdentity) -> None:
    async def scenario() -> None:
        async with pair(identity) as both:
            await both.open()
            assert both.server._downlink is not None
            tun = both.server._downlink.source._tun
            far_end, write_only = os.pipe()
            os.dup2(write_only, tun)  # reading it fails with EBADF, as a deleted device does with EBADFD
            os.close(write_only)
            both.server._tun_readable()
            await both.over()
            os.close(far_end)
            assert both.server_end.ended[0][0] is Reason.INTERFACE_FAILED
            assert both.client_end.ended[0][0] in (Reason.PEER_TERMINATED, Reason.PEER_DISCONNECT)

    asyncio.run(scenario())


def test_a_sent_batch_does_not_stay_in_memory(identity: ServerIdentity) -> None:
    async def scenario() -> None:
        async with pair(identity) as both:
            await both.open()
            both.server_end.tun.send(packet(GATEWAY, ADDRESS, bytes(1300)))
            await until(lambda: bool(both.client_end.received()))
            assert both.server._outlet.pending is NOTHING
            assert both.server._pump._ready == []
            for bio in (both.server._around.buffers.incoming, both.server._around.buffers.outgoing):
                assert bio.pending == 0

    asyncio.run(scenario())


def test_a_closed_connection_leaves_memory_without_the_garbage_collector(identity: ServerIdentity) -> None:
    """Although delegates still hold it, as do the timers until its first deadline."""

    def alive() -> int:
        return sum(isinstance(thing, ssl.SSLObject | Tunnel) for thing in gc.get_objects())

    async def scenario() -> None:
        gc.collect()
        gc.disable()
        try:
            before = alive()
            async with pair(identity) as both:
                await both.open()
                assert alive() == before + 4
                both.client.close(Reason.USER_REQUEST)
                await both.over()
                await asyncio.sleep(0)
                assert alive() == before
        finally:
            gc.enable()

    asyncio.run(scenario())
