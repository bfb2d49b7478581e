"""transport/tls.py bounds what a peer sends that yields no data, and never an honest peer."""

from __future__ import annotations

import ssl
from contextlib import suppress

import pytest

from sstpfarm.errors import PeerError
from sstpfarm.reasons import Reason
from sstpfarm.transport import tls
from sstpfarm.transport.tls import IDLE, IDLE_RATE, RECEIVE, SharedBuffers, TlsPump
from sstpfarm.transport.tls_context import (
    ServerIdentity,
    anonymous_identity,
    client_context,
    make_anonymous,
    server_identity,
)
from tests.certificates import make_certificate
from tests.unit.openssl_peer import OpensslPeer

KEY_UPDATE = 27  # bytes: record header 5, message 5, type 1, tag 16
TLS12 = 0x0303


class Clock:
    """What the pump takes for the time."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(tls, "monotonic", clock)
    return clock


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> ServerIdentity:
    chain, key = make_certificate(tmp_path_factory.mktemp("tls"), "vpn.example")
    return server_identity(str(chain), str(key), chain.read_text())


def connected(identity: ServerIdentity, version: int = 0x0304) -> tuple[TlsPump, OpensslPeer]:
    server, peer = TlsPump(identity.context, SharedBuffers(), server_side=True), OpensslPeer(version)
    received = b""
    for _ in range(3):
        said = peer.handshake(received)
        if said:
            server.receive(memoryview(said))
        received = server.to_send()
    assert server.handshaken
    return server, peer


def survives(server: TlsPump, data: bytes, most: int = RECEIVE) -> int:
    """Bytes that the pump takes, in reads of at most `most`, before it ends the connection."""
    for taken in range(0, len(data), most):
        try:
            server.receive(memoryview(data)[taken : taken + most])
        except PeerError as error:
            refusal = error
            break
    else:
        return len(data)
    assert (refusal.reason, str(refusal)) == (Reason.CONTROL_FLOOD, "TLS records without data")
    return taken


@pytest.mark.parametrize("most", [1, 1000, 1 << 14])
@pytest.mark.parametrize("answered", [True, False])
def test_key_updates_without_end(identity: ServerIdentity, clock: Clock, most: int, answered: bool) -> None:
    server, peer = connected(identity)
    flood = peer.key_updates(2 * IDLE // KEY_UPDATE, answered=answered)
    assert IDLE - most <= survives(server, flood, most) <= IDLE


def test_one_read_full_of_key_updates(identity: ServerIdentity, clock: Clock) -> None:
    """It is not all worked on: each that is answered makes an answer of the same size."""
    server, peer = connected(identity)
    with pytest.raises(PeerError):
        server.receive(memoryview(peer.key_updates(RECEIVE // KEY_UPDATE)))
    assert KEY_UPDATE < server.waiting <= IDLE + 2 * tls.FIRST_PORTION


def test_key_updates_of_a_patient_peer(identity: ServerIdentity, clock: Clock) -> None:
    server, peer = connected(identity)
    for _ in range(200):
        clock.now += 1
        assert survives(server, peer.key_updates(IDLE_RATE // KEY_UPDATE)) == IDLE_RATE // KEY_UPDATE * KEY_UPDATE
    assert survives(server, peer.key_updates(3 * IDLE // KEY_UPDATE), 1000) <= 2 * IDLE


def test_data_does_not_pay_for_key_updates(identity: ServerIdentity, clock: Clock) -> None:
    """Neither large records nor small ones."""
    for size, count in ((16_384, 1), (48, 300)):
        server, peer = connected(identity)
        updates = 0
        with suppress(PeerError):
            while updates < IDLE:
                server.receive(memoryview(b"".join(peer.write(bytes(size)) for _ in range(count))))
                server.receive(memoryview(peer.key_updates(100)))
                updates += 100
        assert updates * KEY_UPDATE <= IDLE


def test_records_of_one_byte(identity: ServerIdentity, clock: Clock) -> None:
    server, peer = connected(identity)
    flood = b"".join(peer.write(b"x") for _ in range(IDLE // 10))
    assert survives(server, flood, 1 << 14) <= 2 * IDLE


def test_an_attempt_at_renegotiation_is_charged(identity: ServerIdentity, clock: Clock) -> None:
    """TLS 1.2. One is refused with a warning, and the connection goes on; OpenSSL's client has no second try."""
    server, peer = connected(identity, TLS12)
    server.receive(memoryview(peer.write(bytes(100))))
    assert server._allowed == IDLE
    hello = peer.renegotiate()
    assert len(server.receive(memoryview(hello))) == 0
    assert server.to_send()
    assert server._allowed == IDLE - len(hello)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3, None])
def test_an_honest_peer_is_never_charged(
    identity: ServerIdentity, clock: Clock, version: ssl.TLSVersion | None
) -> None:
    """Packets of every size in records of their own and reads of every size, while time stands still.

    Without a version: a server that has no certificate, with the suites that need most.
    """
    context = client_context(ca_pem=None, verify=False)
    if version is None:
        identity = anonymous_identity()
        make_anonymous(context)
    else:
        context.maximum_version = version
    server = TlsPump(identity.context, SharedBuffers(), server_side=True)
    client = TlsPump(context, SharedBuffers(), server_side=False)
    client.start()
    for _ in range(3):
        for source, sink in ((client, server), (server, client)):
            if data := source.to_send():
                sink.receive(memoryview(data))
    # the smallest packet: SSTP 4, PPP 1 with both compressions, IPv4 20, UDP 8
    for size in (33, 48, 60, 137, 1408, 4095, 16_384, 100_000):
        for read in (1500, 16_384, 50_000, RECEIVE):
            for _ in range(max(1, 300_000 // size)):
                client.send(bytes(size))
            said, got = memoryview(client.to_send()), 0
            for start in range(0, len(said), read):
                got += len(server.receive(said[start : start + read]))
            assert got == size * max(1, 300_000 // size)
    assert server._allowed == IDLE


def test_a_handshake_without_end(identity: ServerIdentity) -> None:
    """A server's hello that OpenSSL would still take, a byte in each record."""
    client = TlsPump(client_context(ca_pem=None, verify=False), SharedBuffers(), server_side=False)
    client.start()
    hello = bytes((2, 0, 0xFF, 0)) + bytes(0xFF00)
    said = memoryview(b"".join(bytes((0x16, 3, 3, 0, 1, byte)) for byte in hello))
    taken = tls.HANDSHAKE // 6 * 6
    for start in range(0, taken, 6000):
        client.receive(said[start : min(start + 6000, taken)])
    with pytest.raises(PeerError, match="the handshake is too long") as caught:
        client.receive(said[taken : taken + 6])
    assert caught.value.reason is Reason.TLS_FAILED
