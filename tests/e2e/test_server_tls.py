"""The server's side of TLS: where it listens, with which certificate, and what a scanner finds.

+-- client -----------------+           +-- server ---------------------+
| scanner, sstpfarm connect |---veth----| sstpfarm serve, several kinds |
+---------------------------+           +-------------------------------+
"""

from __future__ import annotations

import ssl
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from sstpfarm.reasons import ExitCode

from .authority import Authority
from .bytestream import tls_context
from .client import TRUST_ANY, connecting
from .farm import GATEWAY, PORT, Farm, running
from .netns import Wire, wired
from .rawpeer import tls_peer

OTHER_PORT = 8443
AEAD_TLS12 = {"ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"}
AEAD_TLS13 = {"TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"}


@pytest.fixture(scope="module")
def farm(wire: Wire) -> Iterator[Farm]:
    """A farm with a certificate of its own, on another port, named once."""
    server = {"listen": [Wire.SERVER4], "port": OTHER_PORT, "certificate-names": ["vpn.test", "192.0.2.7"]}
    with running(wire.server, server=server) as made:
        yield made


# -- the certificate that the farm makes


@pytest.mark.parity("ros-server/port")
def test_port(wire: Wire, farm: Farm) -> None:
    """The port counts for the addresses in `listen`, and nothing listens elsewhere."""
    listening = wire.server.run("ss", "-Hltn", "sport", "!=", "9443").stdout
    assert {line.split()[3] for line in listening.splitlines()} == {f"{Wire.SERVER4}:{OTHER_PORT}"}
    assert farm.wait_event("farm.ready")["listen"] == [f"{Wire.SERVER4}:{OTHER_PORT}"]
    with tls_peer(wire.client, wire.SERVER4, OTHER_PORT) as peer:
        peer.open_http()


@pytest.mark.parity("ros-server/certificate-auto")
def test_certificate_of_the_farm_is_shown_and_serves(wire: Wire, farm: Farm, tmp_path: Path) -> None:
    """The log and `certificate show` tell its SHA-256; a client that trusts that file or that hash comes in."""
    logged = farm.wait_event("certificate.self_signed")
    assert "sstpfarm certificate show" in logged["help"]
    shown = farm.cli("certificate", "show").stdout
    facts = {line.split()[0]: line.split(maxsplit=1)[1] for line in shown.splitlines()[:6]}
    assert facts["SHA-256"] == logged["sha256"]
    assert facts["file"] == logged["path"]
    assert {"vpn.test", "192.0.2.7", Wire.SERVER4} <= set(facts["names"].split(", "))
    for command in (
        "Import-Certificate -FilePath .\\certificate.pem -CertStoreLocation Cert:\\LocalMachine\\Root",
        "certutil -addstore -f Root certificate.pem",
    ):
        assert f"  {command}\n" in shown
    server = f"{wire.SERVER4}:{OTHER_PORT}"
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    (trusted / "farm.pem").write_bytes(Path(facts["file"]).read_bytes())
    for trust in (["--ca", facts["file"]], ["--ca", str(trusted)], ["--pin", f"sha256:{facts['SHA-256']}"]):
        with connecting(wire.client, server, *trust, "--server-name", "vpn.test", "--no-default-route") as client:
            client.up()
            assert wire.client.ping(GATEWAY)
            client.stop()
    farm.idle()


def test_names_are_checked(wire: Wire, farm: Farm) -> None:
    """The address that is dialled is in the certificate; another name in its place is not."""
    path = farm.wait_event("certificate.self_signed")["path"]
    server = f"{wire.SERVER4}:{OTHER_PORT}"
    with connecting(wire.client, server, "--ca", path, "--server-name", "other.test") as client:
        code, closed = client.end()
    assert (code, closed["reason"]) == (ExitCode.CERTIFICATE, "certificate-untrusted"), closed
    assert "'other.test'" in closed["detail"]
    assert closed["detail"].endswith("dial one of its names, or set server-name to one")
    with connecting(wire.client, server, "--no-default-route") as client:
        _, closed = client.end()
    assert closed["detail"] == "self-signed certificate: trust it by its file (ca) or its SHA-256 (pin)"


# -- a scanner's view (SECURITY 6)


def handshake(wire: Wire, context: ssl.SSLContext, port: int = OTHER_PORT) -> str:
    """The suite of a handshake, "" when the server refuses."""
    try:
        with tls_peer(wire.client, wire.SERVER4, port, context=context) as peer:
            cipher = peer.stream.sock.cipher()  # type: ignore[attr-defined]  # a TcpStream over TLS
            return str(cipher[0])
    except (ssl.SSLError, ConnectionError):
        return ""


def only(version: ssl.TLSVersion, ciphers: str = "ALL:COMPLEMENTOFALL") -> ssl.SSLContext:
    """A client with one version, and with suites that OpenSSL would not use by itself."""
    context = tls_context()
    with warnings.catch_warnings():  # Python calls TLS 1.0 and 1.1 deprecated, which is the point
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    return context


def test_versions(wire: Wire, farm: Farm) -> None:
    old = (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1)
    assert [handshake(wire, only(version)) for version in old] == ["", ""]
    assert handshake(wire, only(ssl.TLSVersion.TLSv1_2)) in AEAD_TLS12
    assert handshake(wire, only(ssl.TLSVersion.TLSv1_3)) in AEAD_TLS13


def test_every_suite(wire: Wire, farm: Farm) -> None:
    """Each suite of TLS 1.2 that OpenSSL can speak is offered alone: those with AEAD and forward secrecy pass."""
    suites = [suite["name"] for suite in only(ssl.TLSVersion.TLSv1_2).get_ciphers() if suite["protocol"] != "TLSv1.3"]
    assert len(suites) > 60
    assert {"AES256-SHA", "AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-SHA", "AECDH-AES256-SHA"} < set(suites)
    taken = {suite for suite in suites if handshake(wire, only(ssl.TLSVersion.TLSv1_2, suite))}
    assert taken == AEAD_TLS12


def test_no_renegotiation_compression_or_tickets(wire: Wire, farm: Farm) -> None:
    command = ["openssl", "s_client", "-connect", f"{wire.SERVER4}:{OTHER_PORT}", "-tls1_2", "-comp"]
    done = subprocess.run(
        wire.client.argv(*command), input="R\n", capture_output=True, text=True, timeout=60, check=False
    )
    said = done.stdout + done.stderr
    assert "RENEGOTIATING" in said
    assert "no renegotiation" in said
    assert "Compression: NONE" in said
    assert "New, TLSv1.2" in said
    assert "session ticket" not in said.lower()
    context = only(ssl.TLSVersion.TLSv1_3)
    with tls_peer(wire.client, wire.SERVER4, OTHER_PORT, context=context) as peer:
        peer.open_http()  # tickets of TLS 1.3 would come before the answer
        session = peer.stream.sock.session  # type: ignore[attr-defined]  # a TcpStream over TLS
        assert session is None or not session.has_ticket


# -- other kinds of servers


@pytest.mark.parity("ros-client/certificate", "ros-server/certificate", "ros-server/require-client-certificate")
def test_old_suites_and_authorities_of_clients(tmp_path: Path) -> None:
    """`tls-ciphers` lets old peers in; `client-ca` decides instead of the server's own issuers; our client has both."""
    ours, theirs = Authority(tmp_path, "servers"), Authority(tmp_path, "clients")
    server = ours.issue("server", "vpn.test", [Wire.SERVER4], server=True, use_rsa=True)
    settings = {
        "certificate": server.table(),
        "tls-ciphers": "ECDHE+AESGCM:AES256-SHA",
        "require-client-certificate": True,
        "client-ca": str(theirs.file),
    }
    good, bad = theirs.issue("alice", "anything"), ours.issue("intruder", "alice")
    with wired() as wire, running(wire.server, server=settings) as farm:
        assert "no forward secrecy or no AEAD: AES256-SHA" in farm.cli("check").stdout
        old = only(ssl.TLSVersion.TLSv1_2, "AES256-SHA")
        old.load_cert_chain(*good)
        assert handshake(wire, old, PORT) == "AES256-SHA"
        trust = ["--ca", str(ours.file), "--no-default-route"]
        with connecting(wire.client, wire.SERVER4, *trust, "--certificate", *map(str, good)) as client:
            client.up()
            assert wire.client.ping(GATEWAY)
            client.stop()
        for extra in ([], ["--certificate", *map(str, bad)]):
            with connecting(wire.client, wire.SERVER4, *trust, *extra) as client:
                code, closed = client.end()
            assert (code, closed["reason"]) == (ExitCode.CERTIFICATE, "certificate-missing"), closed
        farm.idle()


@pytest.mark.parity("ros-server/certificate-anonymous")
def test_no_certificate_at_all() -> None:
    """Anonymous TLS: named loudly in the configuration and the log; only a client that is told so comes in."""
    with wired() as wire, running(wire.server, server={"certificate": "none-anonymous-tls"}) as farm:
        assert farm.wait_event("tls.anonymous")["level"] == "warning"
        assert "whoever is on the way can read and change all" in farm.cli("check").stdout
        anonymous = ["--insecure-anonymous", "--no-default-route"]
        with connecting(wire.client, wire.SERVER4, *anonymous) as client:
            event = client.up()
            assert event["cipher"].startswith("AECDH-")
            assert event["tls_version"] == "TLSv1.2"
            assert wire.client.ping(GATEWAY)
            client.stop()
        with connecting(wire.client, wire.SERVER4, *TRUST_ANY) as client:
            code, closed = client.end()
        assert (code, closed["reason"]) == (ExitCode.PROTOCOL, "tls-failed"), closed
        farm.idle()


def test_anonymous_client_and_a_server_with_certificate(wire: Wire, farm: Farm) -> None:
    with connecting(wire.client, f"{wire.SERVER4}:{OTHER_PORT}", "--insecure-anonymous") as client:
        code, closed = client.end()
    assert (code, closed["reason"]) == (ExitCode.PROTOCOL, "tls-failed"), closed


@pytest.mark.parity("ros-server/enabled")
def test_not_enabled() -> None:
    """The farm runs, `show` answers, and nothing is bound."""
    with wired() as wire, running(wire.server, server={"enabled": False}) as farm:
        assert farm.wait_event("farm.not_enabled")["level"] == "warning"
        assert farm.wait_event("farm.ready")["listen"] == []
        assert farm.sessions() == []
        with pytest.raises(ConnectionRefusedError):
            wire.client.dial(wire.SERVER4, PORT)
        listening = wire.server.run("ss", "-Hltn").stdout.split()
        assert [word for word in listening if word.endswith(f":{PORT}")] == []
