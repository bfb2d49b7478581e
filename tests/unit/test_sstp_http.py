"""The HTTP exchange in front of SSTP."""

from __future__ import annotations

import pytest

from sstpfarm.errors import LocalError, PeerError
from sstpfarm.proto.sstp.http import (
    HEAD_LIMIT,
    REFUSALS,
    SSTP_PATH,
    HeadReader,
    Request,
    encode_refusal,
    encode_request,
    encode_response,
    parse_request,
    parse_response,
)
from sstpfarm.reasons import Reason
from tests.vectors.loader import load

(EXCHANGE,) = load("http")
REQUEST = EXCHANGE.text("request_ascii").encode("ascii")
RESPONSE = EXCHANGE.text("response_ascii").encode("ascii")
GUID = "{2A7DC0F0-6E4D-4F4B-9B0E-0123456789AB}"


def refused(head: bytes) -> Reason:
    with pytest.raises(PeerError) as caught:
        parse_request(head)
    return caught.value.reason


def test_request_vector_both_ways() -> None:
    assert encode_request("vpn.example.test", GUID) == REQUEST
    assert parse_request(REQUEST) == Request("SSTP_DUPLEX_POST", SSTP_PATH, "vpn.example.test", GUID)


def test_response_vector_both_ways() -> None:
    assert encode_response("Thu, 09 Nov 2006 00:51:09 GMT") == RESPONSE
    assert parse_response(RESPONSE) == 200


@pytest.mark.parametrize(
    "head",
    [
        f"SSTP_DUPLEX_POST {SSTP_PATH} HTTP/1.1\r\n\r\n",  # neither Host nor Content-Length
        f"SSTP_DUPLEX_POST {SSTP_PATH.upper()} HTTP/1.1\r\ncontent-length:0\r\n\r\n",
        f"SSTP_DUPLEX_POST {SSTP_PATH.lower()} HTTP/1.0\r\nX-Unknown: \x80\xff\r\nCookie: a=b\r\n\r\n",
        f"SSTP_DUPLEX_POST {SSTP_PATH} HTTP/1.1\r\nCONTENT-LENGTH:\t18446744073709551615 \r\n\r\n",
    ],
)
def test_what_real_clients_vary(head: str) -> None:
    assert parse_request(head.encode("latin-1")).correlation_id == ""


def test_texts_for_logs_are_clean_and_bounded() -> None:
    correlation_id = f"a\x1b[31m\nb{'c' * 999}"
    host = f"{'h' * 999}\xe9"
    head = f"SSTP_DUPLEX_POST {SSTP_PATH} HTTP/1.1\r\nSstpCorrelationId: {correlation_id}\r\nhost: {host}\r\n\r\n"
    request = parse_request(head.encode("latin-1"))
    assert request.correlation_id == "a[31mb" + "c" * 58
    assert request.host == "h" * 255


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (f"GET {SSTP_PATH} HTTP/1.1\r\n\r\n", Reason.HTTP_WRONG_METHOD),
        (f"HEAD {SSTP_PATH} HTTP/1.1\r\n\r\n", Reason.HTTP_WRONG_METHOD),
        ("GET / HTTP/1.1\r\n\r\n", Reason.HTTP_WRONG_PATH),
        ("HEAD /index.html HTTP/1.1\r\n\r\n", Reason.HTTP_WRONG_PATH),
        ("SSTP_DUPLEX_POST / HTTP/1.1\r\n\r\n", Reason.HTTP_WRONG_PATH),
        (f"SSTP_DUPLEX_POST {SSTP_PATH}x HTTP/1.1\r\n\r\n", Reason.HTTP_WRONG_PATH),
        (f"SSTP_DUPLEX_POST {SSTP_PATH} HTTP/2.0\r\n\r\n", Reason.HTTP_BAD_REQUEST),
        (f"SSTP_DUPLEX_POST {SSTP_PATH} HTTP/1.10\r\n\r\n", Reason.HTTP_BAD_REQUEST),
        (f"SSTP_DUPLEX_POST {SSTP_PATH}\r\n\r\n", Reason.HTTP_BAD_REQUEST),
        (f"SSTP_DUPLEX_POST  {SSTP_PATH} HTTP/1.1\r\n\r\n", Reason.HTTP_BAD_REQUEST),
        (f"SSTP_DUPLEX_POST {SSTP_PATH} HTTP/1.1\n\r\n\r\n", Reason.HTTP_BAD_REQUEST),
        (f"SSTP_DUPLEX_POST {SSTP_PATH} HTTP/1.1\r\nContent-Length: 5\r\n\r\n", Reason.HTTP_BAD_REQUEST),
        (f"SSTP_DUPLEX_POST {SSTP_PATH} HTTP/1.1\r\nno colon\r\n\r\n", Reason.HTTP_BAD_REQUEST),
        (f"SSTP_DUPLEX_POST {SSTP_PATH} HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", Reason.HTTP_BAD_REQUEST),
        (f"SSTP_DUPLEX_POST {SSTP_PATH} HTTP/1.1\r\n: value\r\n\r\n", Reason.HTTP_BAD_REQUEST),
        (f"SSTP_DUPLEX_POST {SSTP_PATH} HTTP/1.1\r\n", Reason.HTTP_BAD_REQUEST),
        ("\r\n\r\n", Reason.HTTP_BAD_REQUEST),
        ("", Reason.HTTP_BAD_REQUEST),
        ("\x16\x03\x01\r\n\r\n", Reason.HTTP_BAD_REQUEST),
    ],
)
def test_refused_requests(head: str, reason: Reason) -> None:
    assert refused(head.encode("latin-1")) is reason


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("HTTP/1.1 200 OK\r\n\r\n", 200),
        ("HTTP/1.0 200\r\nConnection: keep-alive\r\n\r\n", 200),
        ("HTTP/1.1 404 Not \xe4 Found\r\n\r\n", 404),
        ("HTTP/1.1 503 \r\nAllow: x\r\n\r\n", 503),
    ],
)
def test_response_status(head: str, status: int) -> None:
    assert parse_response(head.encode("latin-1")) == status


@pytest.mark.parametrize(
    "head", ["HTTP/2 200\r\n\r\n", "HTTP/1.1 2000 OK\r\n\r\n", "HTTP/1.1 200OK\r\n\r\n", "200\r\n\r\n", ""]
)
def test_no_response(head: str) -> None:
    with pytest.raises(PeerError) as caught:
        parse_response(head.encode("latin-1"))
    assert caught.value.reason is Reason.HTTP_BAD_REQUEST


@pytest.mark.parametrize(
    ("reason", "line", "allow"),
    [
        (Reason.HTTP_BAD_REQUEST, "HTTP/1.1 400 Bad Request", False),
        (Reason.HTTP_HEAD_TOO_LARGE, "HTTP/1.1 400 Bad Request", False),
        (Reason.HTTP_WRONG_PATH, "HTTP/1.1 404 Not Found", False),
        (Reason.HTTP_WRONG_METHOD, "HTTP/1.1 405 Method Not Allowed", True),
        (Reason.HTTP_UNAVAILABLE, "HTTP/1.1 503 Service Unavailable", False),
    ],
)
def test_refusals(reason: Reason, line: str, allow: bool) -> None:
    lines = encode_refusal(reason).decode("ascii").split("\r\n")
    assert lines[0] == line
    assert {"Content-Length: 0", "Connection: close"} < set(lines)
    assert ("Allow: SSTP_DUPLEX_POST" in lines) is allow
    assert lines[-2:] == ["", ""]
    assert parse_response(encode_refusal(reason)) == int(line.split()[1])


def test_a_refusal_without_an_answer_is_our_own_bug() -> None:
    assert Reason.PEER_DEAD not in REFUSALS
    with pytest.raises(LocalError):
        encode_refusal(Reason.PEER_DEAD)


@pytest.mark.parametrize("text", ["", "a\r\nX: y", "a\x00", "caf\xe9"])
def test_header_values_cannot_smuggle(text: str) -> None:
    with pytest.raises(LocalError):
        encode_request(text, GUID)
    with pytest.raises(LocalError):
        encode_request("vpn.example.test", text)


def test_bytes_behind_the_head_are_kept() -> None:
    sstp = bytes.fromhex("1001000e00010001000100060001")
    assert HeadReader().feed(REQUEST + sstp) == (REQUEST, sstp)
    assert HeadReader().feed(memoryview(REQUEST + sstp)) == (REQUEST, sstp)
    large = REQUEST + bytes(100_000)
    assert HeadReader().feed(large) == (REQUEST, bytes(100_000))


def test_head_byte_by_byte() -> None:
    reader = HeadReader()
    for index in range(len(REQUEST) - 1):
        assert reader.feed(REQUEST[index : index + 1]) is None
    assert reader.feed(REQUEST[-1:] + b"rest") == (REQUEST, b"rest")
    with pytest.raises(LocalError):
        reader.feed(b"")


@pytest.mark.parametrize("chunk", [1, 7, 4096, 100_000])
def test_head_limit_is_exact(chunk: int) -> None:
    def feed(stream: bytes) -> tuple[bytes, bytes] | None:
        reader = HeadReader()
        for start in range(0, len(stream), chunk):
            if found := reader.feed(stream[start : start + chunk]):
                return found
        return None

    fits = b"x" * (HEAD_LIMIT - 4) + b"\r\n\r\n"
    assert feed(fits) == (fits, b"")
    with pytest.raises(PeerError) as caught:
        feed(b"x" + fits)
    assert caught.value.reason is Reason.HTTP_HEAD_TOO_LARGE
    assert feed(b"x" * (HEAD_LIMIT - 1)) is None
