"""transport/client_hello.py: what a client announces costs no memory, in whatever pieces it comes."""

from __future__ import annotations

import asyncio
import ctypes
import socket
from collections.abc import Callable
from typing import Final

import pytest

from sstpfarm.errors import PeerError
from sstpfarm.reasons import Reason
from sstpfarm.transport.client_hello import EXCESSIVE, LARGEST_HELLO, ClientHelloWatch
from sstpfarm.transport.tls import SharedBuffers, TlsPump
from sstpfarm.transport.tls_context import ServerIdentity
from tests.unit.connection_bench import raw_pair, until
from tests.unit.openssl_peer import OpensslPeer

CHUNKS = (1, 3, 5, 9, 1 << 14)
CHANGE_CIPHER_SPEC: Final = bytes.fromhex("140303000101")
APPLICATION_DATA: Final = bytes.fromhex("1703030003") + b"abc"
CLIENT_KEY_EXCHANGE: Final = 16


def record(content: bytes, kind: int = 0x16) -> bytes:
    return bytes((kind, 3, 1)) + len(content).to_bytes(2) + content


def header(size: int, kind: int = 1) -> bytes:
    return bytes((kind,)) + size.to_bytes(3)


def in_chunks(take: Callable[[memoryview], object], data: bytes, size: int) -> None:
    for start in range(0, len(data), size):
        take(memoryview(data)[start : start + size])


def retried_hello() -> bytes:
    """A ClientHello whose only key share is of a group that no server knows; HelloRetryRequest asks for another."""
    hello = OpensslPeer(groups="X448:X25519").handshake()
    made = hello.replace(bytes.fromhex("0004 001e 001d"), bytes.fromhex("0004 2a2a 001d"))  # supported_groups
    made = made.replace(bytes.fromhex("001e 0038"), bytes.fromhex("2a2a 0038"))  # key_share
    assert sum(one != other for one, other in zip(hello, made, strict=True)) == 4
    return made


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("version", [0x0303, 0x0304])
def test_handshakes_pass(identity: ServerIdentity, version: int, chunk: int) -> None:
    server, peer = TlsPump(identity.context, SharedBuffers(), server_side=True), OpensslPeer(version)
    received = b""
    for _ in range(3):
        in_chunks(server.receive, peer.handshake(received), chunk)
        received = server.to_send()
    assert server.handshaken


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize(
    "before",
    [
        b"",
        record(b""),
        record(header(3) + b"abc"),  # a first one that is small
        record(header(3) + b"abc") + CHANGE_CIPHER_SPEC + APPLICATION_DATA,  # as around HelloRetryRequest
        record(header(3) + b"a") + record(b"bc" + header(0)),
    ],
)
def test_a_hello_that_is_too_large(before: bytes, chunk: int) -> None:
    for said in (record(header(LARGEST_HELLO + 1)), record(header(1 << 17)[:1]) + record(header(1 << 17)[1:])):
        watch = ClientHelloWatch()
        in_chunks(watch.look, (before + said)[:-1], chunk)
        with pytest.raises(PeerError) as caught:
            watch.look(memoryview(said)[-1:])
        assert caught.value.reason is Reason.TLS_FAILED


@pytest.mark.parametrize("chunk", CHUNKS)
def test_what_is_none(chunk: int) -> None:
    """The largest hello that may be; another message; what is encrypted and may look like a hello."""
    watch = ClientHelloWatch()
    in_chunks(watch.look, record(header(LARGEST_HELLO) + bytes(12_284)) + record(bytes(4100)), chunk)
    in_chunks(watch.look, record(header(2, CLIENT_KEY_EXCHANGE) + b"ab"), chunk)
    in_chunks(watch.look, CHANGE_CIPHER_SPEC + record(header(0xFFFFFF)), chunk)


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n", b"\x80\x2e\x01\x03\x01", b"\x16\x02", b"\x17\x03\x03", b"\0"])
@pytest.mark.parametrize("chunk", CHUNKS)
def test_what_is_not_tls(said: bytes, chunk: int) -> None:
    watch = ClientHelloWatch()
    with pytest.raises(PeerError) as caught:
        in_chunks(watch.look, said, chunk)
    assert caught.value.reason is Reason.TLS_NOT_TLS


def test_the_peer_is_told(identity: ServerIdentity) -> None:
    """OpenSSL's own alert for a message that is too large, and the end."""

    async def scenario() -> None:
        async with raw_pair(identity) as (sock, end):
            sock.sendall(record(header(1 << 17)))
            sock.shutdown(socket.SHUT_WR)
            sock.setblocking(False)
            async with asyncio.timeout(10):
                assert await asyncio.get_running_loop().sock_recv(sock, 100) == EXCESSIVE
            await until(lambda: bool(end.ended))
            assert end.ended == [(Reason.TLS_FAILED, "a ClientHello of 131072 bytes")]

    asyncio.run(scenario())


class Mallinfo(ctypes.Structure):
    """struct mallinfo2, malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


def allocated() -> int:
    """Bytes that C code of this process has allocated and not freed; small Python objects are elsewhere."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Mallinfo
    info = mallinfo2()
    return int(info.uordblks + info.hblkhd)


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        (record(header(LARGEST_HELLO))[:1], False),
        (record(header(LARGEST_HELLO)), False),
        (record(header(LARGEST_HELLO) + bytes(8000)) + record(bytes(8000))[:4000], False),
        (record(header(1 << 17)), True),
        (retried_hello(), False),
        (retried_hello() + record(header(1 << 17)), True),
        (retried_hello() + CHANGE_CIPHER_SPEC + record(header(LARGEST_HELLO)), False),
    ],
)
def test_memory_of_a_connection_that_is_starting(identity: ServerIdentity, said: bytes, refused: bool) -> None:
    """Most has a record that is not whole; a hello that may announce 128 KiB would take 204 KiB."""
    buffers = SharedBuffers()
    pumps = []
    count = 100
    refusals = 0
    for number in range(count + 1):
        if number == 1:
            before = allocated()  # the buffers have grown to what they need
        pump = TlsPump(identity.context, buffers, server_side=True)
        try:
            pump.receive(memoryview(said))
        except PeerError:
            refusals += 1
        pump.to_send()
        pumps.append(pump)
    each = (allocated() - before) / count
    assert refusals == (count + 1 if refused else 0)
    assert each < 72 * 1024
