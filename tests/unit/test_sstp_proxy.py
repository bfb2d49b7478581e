"""CONNECT through an HTTP proxy, byte for byte (PROTOCOL 2.5, RFC 9110 9.3.6, RFC 7617)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sstpfarm.errors import LocalError, PeerError
from sstpfarm.proto.sstp.http import HEAD_LIMIT
from sstpfarm.proto.sstp.proxy import CredentialsWantedError, ProxyConnect
from sstpfarm.reasons import Reason

CHALLENGE = b'HTTP/1.1 407 Who are you\r\nProxy-Authenticate: NTLM\r\nproxy-authenticate: Basic realm="x"\r\n\r\n'


def test_request() -> None:
    assert ProxyConnect("vpn.example.com", 443, "u", "p").request() == (
        b"CONNECT vpn.example.com:443 HTTP/1.1\r\nHost: vpn.example.com:443\r\nSSTPVERSION: 1.0\r\n\r\n"
    )


def test_request_for_an_ipv6_address() -> None:
    request = ProxyConnect("2001:db8::1", 8443).request()
    assert request.startswith(b"CONNECT [2001:db8::1]:8443 HTTP/1.1\r\nHost: [2001:db8::1]:8443\r\n")


def test_request_with_credentials() -> None:
    """The example of RFC 7617 2; a long password makes no second line."""
    assert b"\r\nProxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n" in (
        ProxyConnect("h", 1, "Aladdin", "open sesame", authenticate=True).request()
    )
    assert ProxyConnect("h", 1, "u", "p" * 256, authenticate=True).request().count(b"\r\n") == 5
    # RFC 7617 2.1: UTF-8
    assert b"Basic dGVzdDoxMjPCow==" in ProxyConnect("h", 1, "test", "123\u00a3", authenticate=True).request()


@given(st.binary(max_size=40), st.lists(st.integers(1, 30), max_size=20))
def test_any_chunking_ends_at_the_same_byte(rest: bytes, sizes: list[int]) -> None:
    head = b"HTTP/1.0 200 Connection established\r\nVia: 1.1 proxy\r\n\r\n"
    data, at, connect = head + rest, 0, ProxyConnect("h", 1)
    for size in [*sizes, *([1] * len(head))]:
        chunk = data[at : at + size]
        end = connect.receive(chunk)
        if end is not None:
            assert at + end == len(head)
            return
        at += len(chunk)
    raise AssertionError("the head never ended")


@pytest.mark.parametrize(
    ("answer", "reason", "text"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", Reason.PROXY_REFUSED, "it says: 403 Forbidden"),
        (b"HTTP/1.1 502\r\n\r\n", Reason.PROXY_REFUSED, "it says: 502"),
        (b"HTTP/1.1 302 \x1b[2JGo\r\n\r\n", Reason.PROXY_REFUSED, "it says: 302 [2JGo"),
        (b"SSH-2.0-x\r\n\r\n", Reason.PROXY_REFUSED, "it does not answer as an HTTP proxy does"),
        (b"x" * HEAD_LIMIT, Reason.PROXY_REFUSED, f"its answer is longer than {HEAD_LIMIT} bytes"),
        (CHALLENGE, Reason.PROXY_AUTHENTICATION, "it says: 407 Who are you; set proxy-user and proxy-password-file"),
        (
            b"HTTP/1.1 407 No\r\nProxy-Authenticate: Digest qop=auth\r\n\r\n",
            Reason.PROXY_AUTHENTICATION,
            "it says: 407 No; it offers digest, and only Basic is supported",
        ),
    ],
)
def test_refusals(answer: bytes, reason: Reason, text: str) -> None:
    with pytest.raises(PeerError) as caught:
        ProxyConnect("h", 1).receive(answer)
    assert (caught.value.reason, str(caught.value)) == (reason, text)


def test_credentials_are_sent_when_they_are_wanted_and_once() -> None:
    first = ProxyConnect("h", 1, "u", "secret")
    assert b"Authorization" not in first.request()
    with pytest.raises(CredentialsWantedError):
        first.receive(CHALLENGE)
    with pytest.raises(PeerError) as caught:
        ProxyConnect("h", 1, "u", "secret", authenticate=True).receive(CHALLENGE)
    assert caught.value.reason is Reason.PROXY_AUTHENTICATION
    assert "secret" not in str(caught.value)
    assert "is wrong" in str(caught.value)


@pytest.mark.parametrize("host", ["a b", "a\r\nb", "ä"])
def test_what_is_no_name(host: str) -> None:
    with pytest.raises(LocalError):
        ProxyConnect(host, 1)
