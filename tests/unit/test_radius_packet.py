"""RADIUS packets: requests as the vectors have them, replies that count and replies that do not."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

import pytest

from sstpfarm.auth.radius.packet import (
    Attributes,
    Code,
    MalformedAttributeError,
    Order,
    Pairs,
    Request,
    UnsignedReplyError,
    check_framing,
    hide_password,
)
from sstpfarm.errors import PeerError
from sstpfarm.proto.ppp import mschap
from tests.vectors.loader import borrow

SECRET = b"testing123"
AUTHENTICATOR = bytes(range(16))


def attribute(kind: int, value: bytes) -> bytes:
    return bytes((kind, 2 + len(value))) + value


def vendor(number: int, kind: int, value: bytes) -> bytes:
    return attribute(26, number.to_bytes(4, "big") + attribute(kind, value))


def reply_to(request: Request, code: int, attributes: bytes = b"", *, signed: bool = True) -> bytes:
    """A reply as a server makes it, with nothing but hashlib."""
    if signed:
        attributes = attribute(80, bytes(16)) + attributes
    head = bytes((code, request.data[1])) + (20 + len(attributes)).to_bytes(2, "big")
    if signed:
        seal = hmac.digest(SECRET, head + request.authenticator + attributes, "md5")
        attributes = attribute(80, seal) + attributes[18:]
    digest = hashlib.md5(head + request.authenticator + attributes + SECRET).digest()
    return head + digest + attributes


def access_request(*pairs: tuple[str, int | str | bytes]) -> Request:
    return Request(Code.ACCESS_REQUEST, 7, SECRET, pairs, AUTHENTICATOR)


def order(code: int, attributes: bytes, *, signed: bool = True, secret: bytes = SECRET) -> bytes:
    """A Disconnect-Request or CoA-Request (RFC 5176 2.3)."""
    if signed:
        attributes = attribute(80, bytes(16)) + attributes
    head = bytes((code, 9)) + (20 + len(attributes)).to_bytes(2, "big")
    if signed:
        attributes = attribute(80, hmac.digest(secret, head + bytes(16) + attributes, "md5")) + attributes[18:]
    return head + hashlib.md5(head + bytes(16) + attributes + secret).digest() + attributes


def test_an_access_request_is_that_of_the_vector() -> None:
    v = borrow("radius-access-request-pap")
    secret, authenticator = v["secret"], v["request_authenticator"]
    pairs: Pairs = [
        ("User-Name", v["user"]),
        ("User-Password", hide_password(v["password"], secret, authenticator)),
        ("NAS-Port-Type", 5),
        ("Service-Type", 2),
        ("Framed-Protocol", 1),
    ]
    request = Request(Code.ACCESS_REQUEST, v.number("id"), secret, pairs, authenticator)
    assert request.data == v["packet"]
    assert request.data[20] == 80  # CVE-2024-3596: Message-Authenticator comes first
    reply = request.read(v["access_accept_captured"], require_signature=False)
    assert (reply.code, reply.signed) == (Code.ACCESS_ACCEPT, False)
    with pytest.raises(UnsignedReplyError):
        request.read(v["access_accept_captured"], require_signature=True)


def test_the_keys_of_a_real_server() -> None:
    v = borrow("radius-mschapv2-freeradius")
    sent, secret = v["access_request"], v["secret"]
    request = Request(Code.ACCESS_REQUEST, sent[1], secret, [], sent[4:20])
    reply = request.read(v["access_accept"], require_signature=False)
    assert reply.salted_key("MS-MPPE-Recv-Key") == v["recv_key"]
    assert reply.salted_key("MS-MPPE-Send-Key") == v["send_key"]
    assert reply.first("MS-CHAP2-Success") == v["ms_chap2_success"]
    assert v["recv_key"] + v["send_key"] == v["hlak"]


def test_a_disconnect_request_is_that_of_the_vector_and_so_is_the_nak() -> None:
    v = borrow("radius-disconnect-request")
    asked = Order(v["packet"], v["secret"], require_signature=True)
    assert asked.code is Code.DISCONNECT_REQUEST
    nak = asked.answer(Code.DISCONNECT_NAK, 503)
    assert nak[:2] == v["nak_packet"][:2]
    assert sorted(nak[20:]) != []  # the attributes stand in another order: ours has Message-Authenticator first
    assert nak[20] == 80
    body = nak[:4] + v["request_authenticator"] + attribute(80, bytes(16)) + nak[38:]
    assert hmac.digest(v["secret"], body, "md5") == nak[22:38]
    assert hashlib.md5(nak[:4] + v["request_authenticator"] + nak[20:] + v["secret"]).digest() == nak[4:20]
    assert nak[38:] == attribute(101, (503).to_bytes(4, "big"))


def test_octets_that_look_like_hexadecimal_digits_stay_as_they_are() -> None:
    value = b"0x" + b"41" * 24
    request = access_request(("MS-CHAP2-Response", value), ("EAP-Message", b"0x" + b"a" * 251), ("EAP-Message", b"b"))
    assert vendor(311, 25, value) in request.data
    assert attribute(79, b"0x" + b"a" * 251) + attribute(79, b"b") in request.data


@pytest.mark.parametrize("password", [b"", b"a", b"sixteen bytes ok", b"0x41414141", b"x" * 128])
def test_passwords(password: bytes) -> None:
    hidden = hide_password(password, SECRET, AUTHENTICATOR)
    assert len(hidden) == max(16, -(-len(password) // 16) * 16)
    first = bytes(a ^ b for a, b in zip(hidden[:16], hashlib.md5(SECRET + AUTHENTICATOR).digest(), strict=True))
    assert first == password[:16].ljust(16, b"\0")


def test_a_password_that_radius_cannot_carry() -> None:
    with pytest.raises(PeerError, match="128 bytes"):
        hide_password(b"x" * 129, SECRET, AUTHENTICATOR)


def test_what_is_no_reply_to_the_request() -> None:
    request = access_request(("User-Name", "alice"))
    good = reply_to(request, 2, attribute(18, b"Hello"))
    assert request.read(good, require_signature=True).texts("Reply-Message") == ["Hello"]
    assert request.read(good + b"padding", require_signature=True).signed
    bad = {
        "identifier": good[:1] + bytes((good[1] ^ 1,)) + good[2:],
        "authenticator": good[:4] + bytes(16) + good[20:],
        "a changed attribute": good[:-1] + b"O",
        "accounting's answer": reply_to(request, 5),
        "another code": reply_to(request, 99),
        "a wrong secret": reply_to(Request(Code.ACCESS_REQUEST, 7, SECRET, [], bytes(16)), 2),
        "shorter than its length": good[:-1],
        "a header alone": good[:19],
        "nothing": b"",
        "a length below 20": good[:2] + b"\x00\x13" + good[4:],
    }
    for data in bad.values():
        with pytest.raises(PeerError):
            request.read(data, require_signature=False)


def test_a_wrong_or_doubled_message_authenticator_is_refused_even_where_none_is_required() -> None:
    request = access_request()
    for attributes in (attribute(80, bytes(16)), attribute(80, b"short"), attribute(80, bytes(16)) * 2):
        with pytest.raises(PeerError):
            request.read(reply_to(request, 2, attributes, signed=False), require_signature=False)
    with pytest.raises(PeerError):
        request.read(reply_to(request, 2, attribute(80, bytes(16))), require_signature=True)


def test_proxy_state_that_was_not_sent_is_the_mark_of_blast_radius() -> None:
    request = access_request()
    with pytest.raises(PeerError):
        request.read(reply_to(request, 2, attribute(33, b"x"), signed=False), require_signature=False)


@pytest.mark.parametrize("tail", [b"\x12", b"\x12\x00", b"\x12\x01", b"\x12\x05ab", b"\x12\x03a\x12"])
def test_attributes_whose_lengths_do_not_add_up(tail: bytes) -> None:
    with pytest.raises(PeerError):
        check_framing(bytes((2, 7)) + (20 + len(tail)).to_bytes(2, "big") + bytes(16) + tail)


def attributes_of(data: bytes) -> Attributes:
    request = access_request()
    return request.read(reply_to(request, 2, data), require_signature=True)


def test_values() -> None:
    found = attributes_of(
        attribute(8, bytes((10, 20, 0, 9)))
        + attribute(12, (1400).to_bytes(4, "big"))
        + attribute(25, b"a") + attribute(200, b"unknown") + attribute(25, b"b")
        + attribute(97, b"\0\x40\x20\x01\x0d\xb8\0\0\0\1\xff\xff")
        + vendor(14988, 8, b"1M/2M")
        + vendor(99, 1, b"unknown")
    )  # fmt: skip
    assert str(found.address("Framed-IP-Address")) == "10.20.0.9"
    assert found.number("Framed-MTU") == 1400
    assert found.number("Session-Timeout") is None
    assert found.all("Class") == [b"a", b"b"]
    assert [str(net) for net in found.prefixes("Framed-IPv6-Prefix")] == ["2001:db8:0:1::/64"]
    assert found.texts("Mikrotik-Rate-Limit") == ["1M/2M"]
    assert found.names().count("?") == 2


@pytest.mark.parametrize(
    ("name", "read", "data"),
    [
        ("Framed-IP-Address", Attributes.address, attribute(8, b"\x0a\x14\x00")),
        ("Framed-MTU", Attributes.number, attribute(12, b"\x05")),
        ("Framed-Interface-Id", Attributes.identifier, attribute(96, bytes(7))),
        ("Framed-IPv6-Prefix", Attributes.prefixes, attribute(97, b"\0\x81" + bytes(16))),
        ("Framed-IPv6-Prefix", Attributes.prefixes, attribute(97, b"\0\x40" + bytes(7))),
        ("Framed-IPv6-Prefix", Attributes.prefixes, attribute(97, b"\0")),
        ("Filter-Id", Attributes.texts, attribute(11, b"\xff")),
    ],
)
def test_malformed_values_name_their_attribute(
    name: str, read: Callable[[Attributes, str], object], data: bytes
) -> None:
    with pytest.raises(MalformedAttributeError, match=name):
        read(attributes_of(data), name)


@pytest.mark.parametrize("size", [1, 16, 32, 64])
def test_keys_of_any_length(size: int) -> None:
    key, salt = bytes(range(100, 100 + size)), b"\x9a\x01"
    plain = (bytes((size,)) + key).ljust(-(-(size + 1) // 16) * 16, b"\0")
    hidden, last = b"", AUTHENTICATOR + salt
    for start in range(0, len(plain), 16):
        pad = hashlib.md5(SECRET + last).digest()
        last = bytes(a ^ b for a, b in zip(plain[start : start + 16], pad, strict=True))
        hidden += last
    request = access_request()
    reply = request.read(reply_to(request, 2, vendor(311, 17, salt + hidden)), require_signature=True)
    assert reply.salted_key("MS-MPPE-Recv-Key") == key
    assert reply.salted_key("MS-MPPE-Send-Key") is None


def test_a_key_that_cannot_be_decrypted() -> None:
    request = access_request()
    reply = request.read(reply_to(request, 2, vendor(311, 17, bytes(17))), require_signature=True)
    with pytest.raises(MalformedAttributeError, match="MS-MPPE-Recv-Key"):
        reply.salted_key("MS-MPPE-Recv-Key")


def test_the_keys_of_mschap1() -> None:
    keys = bytes(8) + mschap.nt_hash_hash(mschap.nt_hash("x")) + bytes(8)
    hidden = hide_password(keys, SECRET, AUTHENTICATOR)
    request = access_request()
    reply = request.read(reply_to(request, 2, vendor(311, 12, hidden)), require_signature=True)
    assert reply.hidden("MS-CHAP-MPPE-Keys") == keys


def test_orders_that_are_not_authentic() -> None:
    good = order(40, attribute(44, b"abc"))
    assert Order(good, SECRET, require_signature=True).texts("Acct-Session-Id") == ["abc"]
    unsigned = order(43, attribute(44, b"abc"), signed=False)
    assert Order(unsigned, SECRET, require_signature=False).code is Code.COA_REQUEST
    with pytest.raises(PeerError, match="no Message-Authenticator"):
        Order(unsigned, SECRET, require_signature=True)
    with pytest.raises(PeerError, match="authenticator is wrong"):
        Order(order(40, b"", secret=b"other"), SECRET, require_signature=False)
    with pytest.raises(PeerError, match="no order"):
        Order(order(1, b""), SECRET, require_signature=False)
    with pytest.raises(PeerError):
        Order(good[:-1], SECRET, require_signature=False)
    wrong_seal = order(40, attribute(80, bytes(16)) + attribute(44, b"abc"), signed=False)
    with pytest.raises(PeerError, match="Message-Authenticator"):
        Order(wrong_seal, SECRET, require_signature=False)


def test_an_answer_repeats_the_proxy_states_in_order() -> None:
    asked = Order(order(43, attribute(33, b"one") + attribute(33, b"two")), SECRET, require_signature=True)
    ack = asked.answer(Code.COA_ACK)
    assert ack[0] == Code.COA_ACK
    assert attribute(33, b"one") + attribute(33, b"two") in ack
