"""transport/tls_context.py and what TLS tells of certificates: policies, clients' certificates, none at all."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from sstpfarm.errors import ConfigError, PeerError
from sstpfarm.reasons import Reason
from sstpfarm.transport.certificate_names import names_of
from sstpfarm.transport.tls import SharedBuffers, TlsPump
from sstpfarm.transport.tls_context import (
    NO_CERTIFICATE,
    ServerIdentity,
    TlsPolicy,
    anonymous_identity,
    client_context,
    make_anonymous,
    present,
    server_identity,
)
from tests.e2e.authority import Authority, Pair


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> Pair:
    return authority.issue("server", "vpn.example", ["vpn.example"], server=True)


def identity(server: Pair, policy: TlsPolicy) -> ServerIdentity:
    return server_identity(str(server.chain), str(server.key), server.chain.read_text(), policy)


def meet(identity: ServerIdentity, context: ssl.SSLContext, name: str = "vpn.example") -> tuple[TlsPump, TlsPump]:
    """A handshake over memory; what either side finds wrong is raised."""
    server = TlsPump(identity.context, SharedBuffers(), server_side=True)
    client = TlsPump(context, SharedBuffers(), server_side=False, server_name=name)
    client.start()
    for _ in range(4):
        for source, sink in ((client, server), (server, client)):
            data = source.to_send()
            if data:
                sink.receive(memoryview(data))
    return server, client


def test_minimum_version(server: Pair, authority: Authority) -> None:
    context = client_context(ca_pem=authority.file.read_text(), verify=True)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert meet(identity(server, TlsPolicy()), context)[0].version == "TLSv1.2"
    with pytest.raises(PeerError) as caught:
        meet(identity(server, TlsPolicy(minimum="1.3")), context)
    assert caught.value.reason is Reason.TLS_FAILED


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_who_the_client_is(server: Pair, authority: Authority, version: ssl.TLSVersion) -> None:
    """A certificate of the authority; the server sees it. Without one each side says the same reason."""
    asking = identity(server, TlsPolicy(client_authorities=authority.file.read_text()))
    pair = authority.issue("client", "alice", ["alice@example.org", "upn:alice@corp.example", "host.example"])
    context = client_context(ca_pem=authority.file.read_text(), verify=True)
    context.maximum_version = version
    with pytest.raises(PeerError) as caught:
        meet(asking, context)
    assert caught.value.reason is Reason.CERTIFICATE_MISSING
    present(context, str(pair.chain), str(pair.key))
    seen, _ = meet(asking, context)
    assert names_of(seen.peer_certificate) == ("alice", "alice@example.org", "alice@corp.example")


def test_alert_that_tells_the_client(server: Pair, authority: Authority) -> None:
    """With TLS 1.3 its handshake is over when the server misses the certificate."""
    asking = identity(server, TlsPolicy(client_authorities=authority.file.read_text()))
    far = TlsPump(asking.context, SharedBuffers(), server_side=True)
    near = TlsPump(client_context(ca_pem=None, verify=False), SharedBuffers(), server_side=False, server_name="x")
    near.start()
    far.receive(memoryview(near.to_send()))
    near.receive(memoryview(far.to_send()))
    assert near.handshaken
    with pytest.raises(PeerError):
        far.receive(memoryview(near.to_send()))
    with pytest.raises(PeerError) as caught:
        near.receive(memoryview(far.to_send()))
    assert caught.value.reason is Reason.CERTIFICATE_MISSING


def test_an_intermediate_alone_is_enough(authority: Authority, server: Pair, tmp_path: Path) -> None:
    """The chain of a server rarely holds the root; whom the intermediate has issued comes in, whom the root has not."""
    intermediate = Authority(tmp_path, "intermediate", parent=authority)
    asking = identity(server, TlsPolicy(client_authorities=intermediate.file.read_text()))
    for issuer, welcome in ((intermediate, True), (authority, False)):
        context = client_context(ca_pem=None, verify=False)
        pair = issuer.issue("other", "bob")
        present(context, str(pair.chain), str(pair.key))
        if welcome:
            assert meet(asking, context)[0].handshaken
        else:
            with pytest.raises(PeerError):
                meet(asking, context)


def test_no_certificate() -> None:
    context = client_context(ca_pem=None, verify=False)
    make_anonymous(context)
    made = anonymous_identity()
    far, near = meet(made, context)
    assert near.cipher.startswith("AECDH-")
    assert near.peer_certificate == b""
    assert made.certificates == (NO_CERTIFICATE,)
    assert NO_CERTIFICATE.sha256 == bytes(32)
    with pytest.raises(PeerError):  # an ordinary client does not do it
        meet(made, client_context(ca_pem=None, verify=False))
    assert far.handshaken


@pytest.mark.parametrize(
    ("days", "name", "advice"),
    [
        (-1, "vpn.example", "certificate has expired: the server needs a new one; or this machine's clock is wrong"),
        (2, "other.example", ": dial one of its names, or set server-name to one"),
    ],
)
def test_advice(authority: Authority, days: int, name: str, advice: str) -> None:
    pair = authority.issue("advised", "vpn.example", ["vpn.example"], days=days, server=True)
    with pytest.raises(PeerError) as caught:
        meet(identity(pair, TlsPolicy()), client_context(ca_pem=authority.file.read_text(), verify=True), name)
    assert caught.value.reason is Reason.CERTIFICATE_UNTRUSTED
    assert str(caught.value).endswith(advice)


def test_key_with_a_passphrase(authority: Authority) -> None:
    pair = authority.issue("locked", "alice", passphrase=b"secret-marker")
    with pytest.raises(ConfigError, match="the key has a passphrase: store it without one") as caught:
        present(client_context(ca_pem=None, verify=False), str(pair.chain), str(pair.key))
    assert "secret-marker" not in str(caught.value)


def test_policies_that_cannot_be(server: Pair) -> None:
    for policy in (TlsPolicy(ciphers="ROT13"), TlsPolicy(client_authorities="no PEM")):
        with pytest.raises(ConfigError):
            identity(server, policy)


@pytest.mark.parametrize("certificate", [b"", b"no certificate", Path(__file__).read_bytes()[:100]])
def test_names_of_nothing(certificate: bytes) -> None:
    assert names_of(certificate) == ()
