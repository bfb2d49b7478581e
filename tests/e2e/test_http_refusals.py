"""What is not an SSTP request on the TLS port: the answer, the end of the stream, the log event, the counter.

+-- client -------+           +-- server ------+
| raw peer        |---veth----| sstpfarm serve |
+-----------------+           +----------------+
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from .farm import Farm, running
from .frames import GOOD_REQUEST, REQUEST, SSTP_PATH
from .netns import Wire, wired
from .rawpeer import tcp_peer, tls_peer

LENGTH = b"Content-Length: 18446744073709551615\r\n"


def request(line: str, *headers: bytes) -> bytes:
    """An HTTP request head."""
    return line.encode() + b"\r\nHost: farm.test\r\n" + b"".join(headers) + b"\r\n"


REFUSED = {
    "GET on the SSTP path": (request(f"GET {SSTP_PATH} HTTP/1.1"), 405, "http-wrong-method"),
    "HEAD on the SSTP path": (request(f"HEAD {SSTP_PATH} HTTP/1.1"), 405, "http-wrong-method"),
    "POST on the SSTP path": (request(f"POST {SSTP_PATH} HTTP/1.1", LENGTH), 405, "http-wrong-method"),
    "GET elsewhere": (request("GET / HTTP/1.1"), 404, "http-wrong-path"),
    "HEAD elsewhere": (request("HEAD /index.html HTTP/1.1"), 404, "http-wrong-path"),
    "SSTP elsewhere": (request("SSTP_DUPLEX_POST /sra/ HTTP/1.1", LENGTH), 404, "http-wrong-path"),
    "HTTP/2.0": (request(f"SSTP_DUPLEX_POST {SSTP_PATH} HTTP/2.0", LENGTH), 400, "http-bad-request"),
    "no HTTP": (b"\x10\x01\x00\x0e\r\n\r\n", 400, "http-bad-request"),
    "empty line first": (b"\r\n\r\n", 400, "http-bad-request"),
    "header without colon": (REQUEST[:-2] + b"nonsense\r\n\r\n", 400, "http-bad-request"),
    "head of 16 KiB and more": (REQUEST[:-2] + b"X: " + b"x" * 16384 + b"\r\n\r\n", 400, "http-head-too-large"),
    "head without end": (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 4000, 400, "http-head-too-large"),
}


@pytest.mark.parametrize(("sent", "status", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_request(wire: Wire, farm: Farm, sent: bytes, status: int, reason: str) -> None:
    with tls_peer(wire.client, wire.SERVER4) as peer, farm.refuses(reason, "tls", peer.peer):
        peer.send(sent)
        answer, how = peer.rest()
    head, end, body = answer.partition(b"\r\n\r\n")
    first, *headers = head.split(b"\r\n")
    assert first.startswith(b"HTTP/1.1 %d " % status), answer
    assert b"Content-Length: 0" in headers
    assert b"Connection: close" in headers
    assert (b"Allow: SSTP_DUPLEX_POST" in headers) == (status == 405)
    assert (end, body, how) == (b"\r\n\r\n", b"", "close-notify")


def test_plain_http_on_the_tls_port(wire: Wire, farm: Farm) -> None:
    with tcp_peer(wire.client, wire.SERVER4) as peer, farm.refuses("tls-not-tls", "tcp", peer.peer):
        peer.send(request("GET / HTTP/1.1"))
        answer, how = peer.rest()
    assert answer == b""
    assert how in {"eof", "reset"}


def test_broken_tls(wire: Wire, farm: Farm) -> None:
    """A TLS record header with nonsense behind it: at most an alert record (RFC 8446 6) comes back."""
    with tcp_peer(wire.client, wire.SERVER4) as peer, farm.refuses("tls-failed", "tcp", peer.peer):
        peer.send(b"\x16\x03\x01\x00\x20" + b"\xff" * 32)
        answer, how = peer.rest()
    assert answer == b"" or (answer[0], len(answer)) == (21, 7)
    assert how in {"eof", "reset"}


@pytest.mark.parametrize(
    "head",
    [
        REQUEST.lower().replace(b"sstp_duplex_post", b"SSTP_DUPLEX_POST").replace(b"http/1.1", b"HTTP/1.1"),
        b"SSTP_DUPLEX_POST " + SSTP_PATH.encode() + b" HTTP/1.1\r\n\r\n",
        b"SSTP_DUPLEX_POST " + SSTP_PATH.upper().encode() + b" HTTP/1.1\r\nX: y\r\n" + LENGTH + b"\r\n",
    ],
    ids=["lower case", "no headers", "upper case path, unknown header"],
)
def test_liberal_in_what_it_takes(wire: Wire, farm: Farm, head: bytes) -> None:
    with tls_peer(wire.client, wire.SERVER4) as peer:
        peer.send(head)
        answer = peer.read_head()
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer
        assert b"\r\nContent-Length: 18446744073709551615" in answer
        assert answer.count(b"\r\n") < 7  # sstpc parses at most seven headers
        peer.call_connect()


def test_bytes_in_one_record_with_the_head_are_kept(wire: Wire, farm: Farm) -> None:
    """Some clients write the Call Connect Request in the same flight as the HTTP request (PROTOCOL 11.1)."""
    with tls_peer(wire.client, wire.SERVER4) as peer:
        peer.send(REQUEST + GOOD_REQUEST)  # one write of less than 16 KiB is one TLS record
        assert peer.read_head().startswith(b"HTTP/1.1 200")
        peer.take_ack()
        peer.log_in()
        assert peer.ping()
        peer.disconnect()
    farm.idle()


def test_head_and_packets_byte_by_byte(wire: Wire, farm: Farm) -> None:
    """Every byte in a TLS record of its own."""
    with tls_peer(wire.client, wire.SERVER4) as peer:
        for at in range(len(REQUEST)):
            peer.send(REQUEST[at : at + 1])
        assert peer.read_head().startswith(b"HTTP/1.1 200")
        for at in range(len(GOOD_REQUEST)):
            peer.send(GOOD_REQUEST[at : at + 1])
        peer.take_ack()


def test_sessions_above_the_limit_are_refused_with_503() -> None:
    settings = {"max-sessions": 2, "workers": 1, "authentication": ["pap"]}
    with wired() as wire, running(wire.server, server=settings) as farm:
        with tls_peer(wire.client, wire.SERVER4) as first, tls_peer(wire.client, wire.SERVER4) as second:
            first.open_session("user1")
            second.open_session("user2")
            with (
                tls_peer(wire.client, wire.SERVER4) as third,
                farm.refuses("http-unavailable", "tls", third.peer),
            ):
                third.send(REQUEST)
                answer, how = third.rest()
                assert answer.startswith(b"HTTP/1.1 503 ")
                assert how == "close-notify"
            assert first.ping()
            assert second.ping()
            first.disconnect()
            second.disconnect()
        farm.idle()


def test_connections_without_a_login_take_no_place_of_a_session() -> None:
    """Neither while they stay idle nor after they are gone."""
    places = {"max-starting": 20, "max-starting-per-source": "disabled"}
    settings = {"max-sessions": 2, **places, "workers": 1, "authentication": ["pap"]}
    with wired() as wire, running(wire.server, server=settings), ExitStack() as idle:
        for _ in range(10):
            idle.enter_context(tls_peer(wire.client, wire.SERVER4))
            with tls_peer(wire.client, wire.SERVER4):
                pass
        with tls_peer(wire.client, wire.SERVER4) as peer:
            peer.open_session("user1")
            assert peer.ping()
            peer.disconnect()
