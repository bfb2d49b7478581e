"""Our client against servers that misbehave: its last event, its exit code, and nothing left behind.

+-- client -----------+           +-- server -------------------------+
| sstpfarm connect    |---veth----| raw server 10.99.1.1, scripted    |
+---------------------+           +-----------------------------------+
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sstpfarm.reasons import ExitCode
from tests.certificates import make_certificate

from .client import TRUST_ANY, Client, connecting
from .farm import Event, Farm, Journal
from .frames import (
    ABORT,
    AUTH_OPTIONS,
    CONNECT_NAK,
    CONNECT_REQUEST,
    CONNECTED,
    DISCONNECT,
    DISCONNECT_ACK,
    IPV4,
    LCP,
    NAK,
    PAP,
    REQ,
    TERM_REQ,
    attribute,
    data,
    message,
    packet,
    ppp,
)
from .netns import PATIENCE, Wire
from .packets import icmp_echo
from .rawserver import RESPONSE, RawServer, Script, serving

Pair = tuple[Path, Path]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A certificate for the raw server's address."""
    return make_certificate(tmp_path_factory.mktemp("certificate"), Wire.SERVER4)


@contextmanager
def leaves_nothing(wire: Wire) -> Iterator[None]:
    """Assert that interfaces and routes of the client's namespace are as before."""
    before = wire.client.links(), wire.client.routes()
    yield
    assert (wire.client.links(), wire.client.routes()) == before


def ended(wire: Wire, certificate: Pair | None, script: Script, *options: str) -> tuple[int, Event, Journal]:
    """Run our client against that script: exit code, `closed` event, all events."""
    with (
        leaves_nothing(wire),
        serving(wire.server, wire.SERVER4, certificate, script) as port,
        connecting(wire.client, f"{wire.SERVER4}:{port}", *(options or TRUST_ANY)) as client,
    ):
        code, closed = client.end()
        assert not client.output.find("up")
    return code, closed, client.output


def silent(server: RawServer) -> None:
    """Say nothing until the client leaves."""
    server.rest(30)


# -- trust


def pin(pair: Pair) -> str:
    """What --pin wants for that certificate."""
    der = ssl.PEM_cert_to_DER_cert(pair[0].read_text())
    return f"sha256:{hashlib.sha256(der).hexdigest()}"


def test_certificate_that_nobody_vouches_for(wire: Wire, certificate: Pair) -> None:
    """Without --ca, --pin or --insecure the system's authorities decide; no credentials are sent."""
    code, closed, output = ended(wire, certificate, silent, "--no-default-route")
    assert (code, closed["reason"]) == (ExitCode.CERTIFICATE, "certificate-untrusted"), closed
    assert closed["text"] == "the server's certificate is not trusted"
    assert not output.find("phase", phase="http")


@pytest.mark.parity("vyos/ssl")
def test_certificate_of_another_authority(wire: Wire, certificate: Pair, tmp_path: Path) -> None:
    other = make_certificate(tmp_path, Wire.SERVER4)
    code, closed, _ = ended(wire, certificate, silent, "--ca", str(other[0]))
    assert (code, closed["reason"]) == (ExitCode.CERTIFICATE, "certificate-untrusted"), closed


def test_certificate_of_another_name(wire: Wire, tmp_path: Path) -> None:
    other = make_certificate(tmp_path, "other.test")
    code, closed, _ = ended(wire, other, silent, "--ca", str(other[0]))
    assert (code, closed["reason"]) == (ExitCode.CERTIFICATE, "certificate-untrusted"), closed


def test_certificate_that_is_not_the_pinned_one(wire: Wire, certificate: Pair, tmp_path: Path) -> None:
    other = make_certificate(tmp_path, Wire.SERVER4)
    code, closed, output = ended(wire, certificate, silent, "--pin", pin(other))
    assert (code, closed["reason"]) == (ExitCode.CERTIFICATE, "certificate-untrusted"), closed
    assert pin(certificate).removeprefix("sha256:") in closed["detail"]
    assert not output.find("phase", phase="http")


@pytest.mark.parity("vyos/ssl")
@pytest.mark.parametrize("trust", ["ca", "pin"])
def test_trusted_certificate_gets_past_tls(wire: Wire, certificate: Pair, trust: str) -> None:
    """The tests above can fail: with the right --ca or --pin the same server is spoken to."""

    def refuse(server: RawServer) -> None:
        assert server.take_request().startswith(b"SSTP_DUPLEX_POST /sra_{BA195980-")
        server.send(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")

    options = ["--ca", str(certificate[0])] if trust == "ca" else ["--pin", pin(certificate)]
    code, closed, output = ended(wire, certificate, refuse, *options)
    assert (code, closed["reason"]) == (ExitCode.NETWORK, "http-unavailable"), closed  # later may be better
    assert output.find("phase", phase="tls")


# -- network, HTTP and SSTP


def test_nobody_listens(wire: Wire) -> None:
    with leaves_nothing(wire), connecting(wire.client, f"{wire.SERVER4}:4444", *TRUST_ANY) as client:
        code, closed = client.end()
    assert (code, closed["reason"]) == (ExitCode.NETWORK, "network-unreachable"), closed
    assert "4444" in closed["detail"]


def test_silence_instead_of_tls(wire: Wire) -> None:
    code, closed, _ = ended(wire, None, silent, *TRUST_ANY, "--connect-timeout-s", "1")
    assert (code, closed["reason"]) == (ExitCode.NETWORK, "tls-timeout"), closed


def test_silence_instead_of_http(wire: Wire, certificate: Pair) -> None:
    code, closed, _ = ended(wire, certificate, silent, *TRUST_ANY, "--login-deadline-s", "1")
    assert code == ExitCode.NETWORK
    assert closed["reason"] in {"http-timeout", "login-deadline"}


def test_silence_instead_of_the_ack(wire: Wire, certificate: Pair) -> None:
    heard = []

    def script(server: RawServer) -> None:
        server.take_request()
        server.send(RESPONSE)
        server.control(CONNECT_REQUEST)
        heard.append(server.control(ABORT).status)
        server.send(message(ABORT))

    code, closed, _ = ended(wire, certificate, script, *TRUST_ANY, "--login-deadline-s", "1")
    assert (code, closed["reason"]) == (ExitCode.NETWORK, "login-deadline"), closed
    assert heard == [8]  # MS-SSTP 2.2.7 negotiation timeout


@pytest.mark.parametrize("status", ["404 Not Found", "301 Moved Permanently", "407 Proxy Authentication Required"])
def test_http_refusal(wire: Wire, certificate: Pair, status: str) -> None:
    def script(server: RawServer) -> None:
        server.take_request()
        server.send(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())

    code, closed, _ = ended(wire, certificate, script)
    assert (code, closed["reason"]) == (ExitCode.PROTOCOL, "http-refused"), closed
    assert status[:3] in closed["detail"]


@pytest.mark.parametrize("head", [b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/2 200\r\n\r\n"])
def test_no_http(wire: Wire, certificate: Pair, head: bytes) -> None:
    def script(server: RawServer) -> None:
        server.take_request()
        server.send(head)

    code, closed, _ = ended(wire, certificate, script)
    assert (code, closed["reason"]) == (ExitCode.PROTOCOL, "http-bad-request"), closed


def test_broken_framing(wire: Wire, certificate: Pair) -> None:
    said = []

    def script(server: RawServer) -> None:
        server.take_request()
        server.send(RESPONSE)
        server.control(CONNECT_REQUEST)
        server.send(packet(1, bytes(4), version=0x11))
        said.append(server.rest())

    code, closed, _ = ended(wire, certificate, script)
    assert (code, closed["reason"]) == (ExitCode.PROTOCOL, "bad-framing"), closed
    assert said
    assert said[0][0] == b""


def test_naks_without_end(wire: Wire, certificate: Pair) -> None:
    """The request is repeated three times, then Call Abort with status 6 (PROTOCOL 4.3)."""
    requests = []

    def script(server: RawServer) -> None:
        server.take_request()
        server.send(RESPONSE)
        while True:
            came = server.expect(lambda came: came.kind in {CONNECT_REQUEST, ABORT})
            requests.append(came)
            if came.kind == ABORT:
                server.send(message(ABORT))
                return
            server.send(message(CONNECT_NAK, attribute(2, b"\0\0\0\1\0\0\0\4\0\1")))

    code, closed, _ = ended(wire, certificate, script)
    assert (code, closed["reason"]) == (ExitCode.PROTOCOL, "nak-limit"), closed
    assert [came.kind for came in requests] == [CONNECT_REQUEST] * 4 + [ABORT]
    assert requests[-1].status == 6


def test_connection_lost_in_the_login(wire: Wire, certificate: Pair) -> None:
    code, closed, _ = ended(wire, certificate, lambda server: server.accept_call())
    assert (code, closed["reason"]) == (ExitCode.NETWORK, "transport-lost"), closed


# -- authentication


def test_server_that_does_not_know_the_password(wire: Wire, certificate: Pair) -> None:
    """A wrong authenticator response S= : no Call Connected, Call Abort with status 7 (PROTOCOL 7.4)."""
    came = []

    def script(server: RawServer) -> None:
        server.accept_call()
        server.offer_lcp(AUTH_OPTIONS["mschap2"])
        server.challenge(b"0123456789abcdef", 3, b"S=" + b"0" * 40 + b" M=welcome")
        server.acknowledge_terminate()
        came.append(server.expect(lambda found: found.kind in {ABORT, CONNECTED}))
        server.send(message(ABORT))

    code, closed, _ = ended(wire, certificate, script)
    assert (code, closed["reason"]) == (ExitCode.AUTHENTICATION, "server-not-authentic"), closed
    assert closed["text"] == "the server does not know the password"
    assert [(found.kind, found.status) for found in came] == [(ABORT, 7)]


def test_server_that_accepts_without_proof(wire: Wire, certificate: Pair) -> None:
    """No authenticator response at all is as bad as a wrong one."""

    def script(server: RawServer) -> None:
        server.accept_call()
        server.offer_lcp(AUTH_OPTIONS["mschap2"])
        server.challenge(b"0123456789abcdef", 3, b"welcome")
        server.acknowledge_terminate()
        server.control(ABORT)
        server.send(message(ABORT))

    code, closed, _ = ended(wire, certificate, script)
    assert (code, closed["reason"]) == (ExitCode.AUTHENTICATION, "server-not-authentic"), closed


@pytest.mark.parametrize("option", [AUTH_OPTIONS["eap"], AUTH_OPTIONS["pap"], AUTH_OPTIONS["chap"], b""])
def test_no_common_method(wire: Wire, certificate: Pair, option: bytes) -> None:
    """The client allows MS-CHAPv2 only: it Naks, and never sends the password in another way.

    A server that asks for no proof at all (no option) cannot give one either: the client does not go on with it.
    """
    seen = []

    def script(server: RawServer) -> None:
        server.accept_call()
        for identifier in range(1, 12):
            server.send(ppp(LCP, REQ, identifier, option))
            came = server.expect(
                lambda came: came.kind == DISCONNECT or (came.protocol == LCP and came.code in {NAK, TERM_REQ})
            )
            seen.append(came.code if came.kind == 0 else DISCONNECT)
            if seen[-1] != NAK:
                break
            assert AUTH_OPTIONS["mschap2"] in came.options
        assert not [came for came in server._kept if came.protocol == PAP]
        server.send(ppp(LCP, 6, came.identifier))
        server.control(DISCONNECT)
        server.send(message(DISCONNECT_ACK))

    code, closed, _ = ended(wire, certificate, script)
    assert (code, closed["reason"]) == (ExitCode.AUTHENTICATION, "auth-no-common-method"), closed
    assert NAK in seen
    assert seen[-1] == TERM_REQ


def test_data_before_call_connected_never_reaches_the_client(wire: Wire, certificate: Pair) -> None:
    """Network data that comes early is dropped (MS-SSTP 3.2.5.3); the login goes on to its end."""

    def script(server: RawServer) -> None:
        server.accept_call()
        server.send(data(IPV4, icmp_echo("10.20.0.1", "10.20.0.2", 1)))
        server.offer_lcp(AUTH_OPTIONS["mschap2"])
        server.send(data(IPV4, icmp_echo("10.20.0.1", "10.20.0.2", 2)))
        server.challenge(b"0123456789abcdef", 4, b"E=691 R=0 C=00112233445566778899AABBCCDDEEFF V=3 M=no")
        server.acknowledge_terminate()
        server.control(DISCONNECT)
        server.send(message(DISCONNECT_ACK))

    code, closed, _ = ended(wire, certificate, script)
    assert (code, closed["reason"]) == (ExitCode.AUTHENTICATION, "auth-refused"), closed
    assert "E=691" in closed["detail"]


# -- the user's own mistakes


def test_interface_name_in_use(wire: Wire, farm: Farm) -> None:
    with connecting(wire.client, wire.SERVER4, *TRUST_ANY, "--interface", "uplink") as client:
        code, closed = client.end()
    assert (code, closed["reason"]) == (ExitCode.SYSTEM, "interface-failed"), closed
    assert "uplink" in closed["detail"]
    farm.idle()


def test_wrong_usage(wire: Wire) -> None:
    """A password on the command line does not exist; two ways of trust at once are refused."""
    for extra in (["--password", "x"], ["--insecure", "--pin", "sha256:" + "0" * 64], ["--authentication", "spap"]):
        client = Client(wire.client, wire.SERVER4, *extra)
        try:
            assert client.process.wait(PATIENCE) == ExitCode.USAGE
            client.errors.join()
            assert "Traceback" not in client.errors.text()
        finally:
            client.destroy()
