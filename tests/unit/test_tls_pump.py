"""transport/tls.py: the pump against another pump, in every chunking, with bounded memory and clean failures."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from sstpfarm.errors import ConfigError, PeerError
from sstpfarm.proto.sstp.binding import CertificateHash
from sstpfarm.reasons import Reason
from sstpfarm.transport.tls import SharedBuffers, TlsPump
from sstpfarm.transport.tls_context import ServerIdentity, client_context, first_certificate, server_identity
from tests.certificates import make_certificate


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"), "vpn.example")


@pytest.fixture(scope="module")
def identity(pair: tuple[Path, Path]) -> ServerIdentity:
    chain, key = pair
    return server_identity(str(chain), str(key), chain.read_text())


def pumps(identity: ServerIdentity, context: ssl.SSLContext, name: str = "vpn.example") -> tuple[TlsPump, TlsPump]:
    server = TlsPump(identity.context, SharedBuffers(), server_side=True)
    client = TlsPump(context, SharedBuffers(), server_side=False, server_name=name)
    client.start()
    return server, client


def carry(source: TlsPump, sink: TlsPump, chunk: int = 1 << 16) -> bytes:
    """Move all ciphertext; return the plaintext that came out."""
    data, plain = memoryview(source.to_send()), bytearray()
    for start in range(0, len(data), chunk):
        plain += sink.receive(data[start : start + chunk])
    return bytes(plain)


def handshake(server: TlsPump, client: TlsPump, chunk: int = 1 << 16) -> None:
    for _ in range(4):
        carry(client, server, chunk)
        carry(server, client, chunk)
    assert server.handshaken
    assert client.handshaken


@pytest.mark.parametrize("chunk", [1, 7, 1000, 1 << 16])
def test_bytes_pass_both_ways_in_any_chunking(identity: ServerIdentity, pair: tuple[Path, Path], chunk: int) -> None:
    server, client = pumps(identity, client_context(ca_pem=pair[0].read_text(), verify=True))
    handshake(server, client, chunk)
    payload = bytes(range(256)) * (8 if chunk < 1000 else 200)
    client.send(payload[:10])
    client.send(memoryview(payload)[10:])
    assert carry(client, server, chunk) == payload
    server.send(payload)
    assert carry(server, client, chunk) == payload
    assert client.version == "TLSv1.3"
    assert "GCM" in client.cipher
    der = first_certificate(pair[0].read_text())
    assert client.peer_certificate == der
    assert identity.certificates == (CertificateHash.of(der),)


def test_close_notify_is_seen(identity: ServerIdentity) -> None:
    server, client = pumps(identity, client_context(ca_pem=None, verify=False))
    handshake(server, client)
    client.send(b"last words")
    client.close()
    assert carry(client, server) == b"last words"
    assert server.peer_closed


def test_plain_http_is_told_apart(identity: ServerIdentity) -> None:
    server = TlsPump(identity.context, SharedBuffers(), server_side=True)
    with pytest.raises(PeerError) as caught:
        server.receive(memoryview(b"GET / HTTP/1.1\r\n\r\n"))
    assert caught.value.reason is Reason.TLS_NOT_TLS
    assert server.to_send() == b""


@pytest.mark.parametrize("name", ["vpn.example", "other.example"])
def test_untrusted_chain_and_wrong_name(identity: ServerIdentity, pair: tuple[Path, Path], name: str) -> None:
    ca = None if name == "vpn.example" else pair[0].read_text()
    server, client = pumps(identity, client_context(ca_pem=ca, verify=True), name)
    carry(client, server)
    with pytest.raises(PeerError) as caught:
        carry(server, client)
    assert caught.value.reason is Reason.CERTIFICATE_UNTRUSTED
    assert client.to_send()  # the alert


def test_old_versions_and_weak_suites_are_refused(identity: ServerIdentity) -> None:
    for forbid in ("version", "cipher"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if forbid == "version":
            context.set_ciphers("ALL:@SECLEVEL=0")
            with pytest.warns(DeprecationWarning, match="TLSv1_1"):
                context.minimum_version = ssl.TLSVersion.TLSv1_1
            with pytest.warns(DeprecationWarning, match="TLSv1_1"):
                context.maximum_version = ssl.TLSVersion.TLSv1_1
        else:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers("ECDHE-ECDSA-AES128-SHA256")
        server, client = pumps(identity, context)
        with pytest.raises(PeerError) as caught:
            carry(client, server)
        assert caught.value.reason is Reason.TLS_FAILED


def test_no_ticket_is_ever_sent(identity: ServerIdentity) -> None:
    server, client = pumps(identity, client_context(ca_pem=None, verify=False))
    handshake(server, client)
    assert server.to_send() == b""


def test_bad_pair_says_which_key_of_the_configuration(pair: tuple[Path, Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    with pytest.raises(ConfigError, match=r"server\.certificate"):
        server_identity(str(pair[0]), str(empty), pair[0].read_text())
    with pytest.raises(ConfigError, match="CA file"):
        client_context(ca_pem="not a certificate", verify=True)


def test_handshakes_and_failures_of_others_share_the_buffers(identity: ServerIdentity) -> None:
    """Everything interleaved, byte by byte where it hurts: no connection leaves anything behind for another."""
    servers, clients = SharedBuffers(), SharedBuffers()
    context = client_context(ca_pem=None, verify=False)
    pairs = []
    for _ in range(12):
        server = TlsPump(identity.context, servers, server_side=True)
        client = TlsPump(context, clients, server_side=False, server_name="vpn.example")
        client.start()
        pairs.append((server, client))
    for round_ in range(3):
        for number, (server, client) in enumerate(pairs):
            hello = memoryview(client.to_send())
            half = len(hello) // 2
            if number % 4 == 3 and round_ == 0:
                server.receive(hello[:half])  # and never again
                continue
            if number % 4 == 2 and round_ == 0:
                server.receive(hello[:half])
                with pytest.raises(PeerError):
                    server.receive(memoryview(bytes(3000)))
                continue
            if number % 4 < 2:
                for start in range(0, len(hello), 97):
                    server.receive(hello[start : start + 97])
                client.receive(memoryview(server.to_send()))
            assert servers.incoming.pending == servers.outgoing.pending == clients.incoming.pending == 0
    whole = [both for number, both in enumerate(pairs) if number % 4 < 2]
    del pairs  # the others go, with handshakes half done
    texts = [bytes([number]) * 40_000 for number in range(len(whole))]
    for (server, client), text in zip(whole, texts, strict=True):
        assert server.handshaken
        assert client.handshaken
        client.send(text)
    ways = [memoryview(client.to_send()) for _, client in whole]
    got = [bytearray() for _ in whole]
    for start in range(0, len(ways[0]), 7001):  # parts of records of all of them, in turns
        for number, (server, _) in enumerate(whole):
            got[number] += server.receive(ways[number][start : start + 7001])
    assert got == texts


def test_a_damaged_record_ends_one_connection(identity: ServerIdentity) -> None:
    buffers = SharedBuffers()
    context = client_context(ca_pem=None, verify=False)
    made = []
    for _ in range(2):
        server = TlsPump(identity.context, buffers, server_side=True)
        client = TlsPump(context, SharedBuffers(), server_side=False)
        client.start()
        handshake(server, client)
        made.append((server, client))
    (server, client), (other_server, other_client) = made
    client.send(bytes(50_000))
    damaged = bytearray(client.to_send())
    damaged[20_000] ^= 1
    with pytest.raises(PeerError) as caught:
        server.receive(memoryview(damaged))
    assert caught.value.reason is Reason.TLS_FAILED
    assert server.to_send()  # the alert
    other_client.send(b"untouched")
    assert carry(other_client, other_server) == b"untouched"


def test_a_session_that_was_busy_keeps_no_buffers(identity: ServerIdentity) -> None:
    server, client = pumps(identity, client_context(ca_pem=None, verify=False))
    handshake(server, client)
    client.send(bytes(120_000))
    assert len(carry(client, server)) == 120_000
    own = {name: getattr(server, name) for name in TlsPump.__slots__}
    assert own["_ready"] == []
    assert [type(value).__name__ for name, value in own.items() if name not in ("_buffers", "_ready")] == [
        "int", "bool", "NoneType", "SSLObject", "int", "int", "float", "bool", "bool", "int",
    ]  # fmt: skip
