"""The RADIUS vectors, computed here from RFC 2865, 2866, 2548, 2869 and 5176 with nothing but hashlib and hmac.

sstpfarm has no RADIUS client yet. These tests pin the specification that it will have to meet, and that the vectors
are right: no code of sstpfarm is tested here, except that the HLAK from RADIUS keys is the one that the MS-CHAPv2
arithmetic gives.
"""

from __future__ import annotations

import hashlib
import hmac
import struct

import pytest

from sstpfarm.proto.ppp import mschap
from tests.vectors.loader import Vector, borrow, load

MESSAGE_AUTHENTICATOR = 80
VENDOR_SPECIFIC = 26
MICROSOFT = 311
VECTORS = {v.id: v for v in load("radius")}


def md5(*parts: bytes) -> bytes:
    return hashlib.md5(b"".join(parts)).digest()


def xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def hide_password(password: bytes, secret: bytes, authenticator: bytes) -> bytes:
    """RFC 2865 5.2."""
    padded = password.ljust(max(16, -(-len(password) // 16) * 16), b"\0")
    hidden, last = b"", authenticator
    for start in range(0, len(padded), 16):
        last = xor(padded[start : start + 16], md5(secret, last))
        hidden += last
    return hidden


def hide_key(key: bytes, salt: bytes, secret: bytes, authenticator: bytes) -> bytes:
    """RFC 2548 2.4.2: the MS-MPPE-Send-Key and MS-MPPE-Recv-Key value."""
    plain = bytes((len(key),)) + key
    padded = plain.ljust(-(-len(plain) // 16) * 16, b"\0")
    hidden, last = b"", authenticator + salt
    for start in range(0, len(padded), 16):
        last = xor(padded[start : start + 16], md5(secret, last))
        hidden += last
    return salt + hidden


def reveal_key(value: bytes, secret: bytes, authenticator: bytes) -> bytes:
    """The inverse of `hide_key`, with the length byte and the padding."""
    hidden, last, plain = value[2:], authenticator + value[:2], b""
    for start in range(0, len(hidden), 16):
        block = hidden[start : start + 16]
        plain += xor(block, md5(secret, last))
        last = block
    return plain


def packet(code: int, identifier: int, authenticator: bytes, attributes: bytes) -> bytes:
    return struct.pack(">BBH", code, identifier, 20 + len(attributes)) + authenticator + attributes


def attributes_of(message: bytes) -> list[tuple[int, int, bytes]]:
    """Type, offset and value of each attribute; the lengths must add up."""
    assert struct.unpack_from(">H", message, 2)[0] == len(message)
    found, position = [], 20
    while position < len(message):
        kind, length = message[position], message[position + 1]
        assert 2 <= length <= len(message) - position
        found.append((kind, position, message[position + 2 : position + length]))
        position += length
    return found


def attribute(message: bytes, kind: int) -> bytes:
    (value,) = (v for k, _, v in attributes_of(message) if k == kind)
    return value


def microsoft(message: bytes, kind: int) -> bytes:
    """RFC 2548: the value of one Microsoft attribute."""
    values = [v for k, _, v in attributes_of(message) if k == VENDOR_SPECIFIC and v[:4] == MICROSOFT.to_bytes(4, "big")]
    (value,) = (v[6:] for v in values if v[4] == kind and v[5] == len(v) - 4)
    return value


def response_authenticator(message: bytes, request_authenticator: bytes, secret: bytes) -> bytes:
    """RFC 2865 3."""
    return md5(message[:4], request_authenticator, message[20:], secret)


def message_authenticator(message: bytes, authenticator: bytes, secret: bytes) -> bytes:
    """RFC 2869 5.14: over the packet with this authenticator in its header and the attribute zeroed."""
    body = bytearray(message[:4] + authenticator + message[20:])
    ((_, position, value),) = (a for a in attributes_of(message) if a[0] == MESSAGE_AUTHENTICATOR)
    assert len(value) == 16
    body[position + 2 : position + 18] = bytes(16)
    return hmac.new(secret, bytes(body), "md5").digest()


def test_rfc_2865_example_1() -> None:
    v = VECTORS["radius-rfc2865-7.1"]
    hidden = hide_password(v["password"], v["secret"], v["request_authenticator"])
    assert hidden == v["user_password"] == attribute(v["access_request"], 2)
    assert v["access_request"][4:20] == v["request_authenticator"]
    accept = v["access_accept"]
    expected = response_authenticator(accept, v["request_authenticator"], v["secret"])
    assert expected == v["response_authenticator"] == accept[4:20]


def test_rfc_2865_example_2() -> None:
    v = VECTORS["radius-rfc2865-7.2-response"]
    assert v["access_accept_header"][2:4] == (20 + len(v["attributes"])).to_bytes(2, "big")
    authenticator = md5(v["access_accept_header"], v["request_authenticator"], v["attributes"], v["secret"])
    assert authenticator == v["response_authenticator"]


@pytest.mark.parametrize("vector", [v for k, v in VECTORS.items() if k.startswith("radius-password-")], ids=str)
def test_user_password(vector: Vector) -> None:
    hidden = hide_password(vector["password"], vector["secret"], vector["request_authenticator"])
    assert hidden == vector["user_password"]


def test_access_request_of_pap() -> None:
    v = VECTORS["radius-access-request-pap"]
    secret, authenticator = v["secret"], v["request_authenticator"]
    attributes = (
        b"\x50\x12" + bytes(16)
        + b"\x01\x06" + v["user"]
        + b"\x02\x12" + hide_password(v["password"], secret, authenticator)
        + bytes.fromhex("3d0600000005 060600000002 070600000001")
    )  # fmt: skip
    zeroed = packet(1, v.number("id"), authenticator, attributes)
    assert zeroed == v["packet_with_zeroed_message_authenticator"]
    seal = message_authenticator(zeroed, authenticator, secret)
    assert seal == v["message_authenticator"]
    assert zeroed.replace(bytes(16), seal, 1) == v["packet"]
    reply = v["access_accept_captured"]
    assert response_authenticator(reply, authenticator, secret) == reply[4:20]


def test_access_accept_with_message_authenticator() -> None:
    v = VECTORS["radius-access-accept-with-ma"]
    secret, authenticator = v["secret"], v["request_authenticator"]
    zeroed = packet(2, v.number("id"), bytes(16), v["attributes_with_zeroed_ma"])
    seal = message_authenticator(zeroed, authenticator, secret)
    assert seal == v["message_authenticator"]
    sealed = zeroed[:22] + seal + zeroed[38:]
    assert response_authenticator(sealed, authenticator, secret) == v["response_authenticator"]
    assert sealed[:4] + v["response_authenticator"] + sealed[20:] == v["packet"]


def test_mschapv2_with_a_real_server() -> None:
    v = VECTORS["radius-mschapv2-freeradius"]
    secret, authenticator = v["secret"], v["request_authenticator"]
    request, accept = v["access_request"], v["access_accept"]
    rfc_2759 = borrow("mschapv2-rfc2759")
    assert message_authenticator(request, authenticator, secret) == attribute(request, MESSAGE_AUTHENTICATOR)
    assert microsoft(request, 11) == rfc_2759["authenticator_challenge"]
    value = rfc_2759["response_value_49"]
    assert microsoft(request, 25) == b"\x07\0" + value[:48]  # identifier, flags, then the Response value
    assert response_authenticator(accept, authenticator, secret) == accept[4:20]
    success = microsoft(accept, 26)
    assert success == v["ms_chap2_success"]
    assert success[1:].decode() == rfc_2759.text("success_message_ascii_prefix")
    receive, send = microsoft(accept, 17), microsoft(accept, 16)
    assert (receive, send) == (v["ms_mppe_recv_key_attr"], v["ms_mppe_send_key_attr"])
    receive, send = (reveal_key(k, secret, authenticator) for k in (receive, send))
    assert (receive, send) == (v["recv_key_plain_32"], v["send_key_plain_32"])
    receive, send = (k[1 : 1 + k[0]] for k in (receive, send))
    assert (receive, send) == (v["recv_key"], v["send_key"])
    assert receive + send == v["hlak"] == mschap.hlak_v2(mschap.nt_hash("clientPass"), value[mschap.NT_RESPONSE])


def test_mppe_key() -> None:
    v = VECTORS["radius-mppe-key-16"]
    secret, authenticator = v["secret"], v["request_authenticator"]
    value = hide_key(v["key"], v["salt"], secret, authenticator)
    assert value == v["attribute_value"]
    assert reveal_key(value, secret, authenticator) == b"\x10" + v["key"] + bytes(15)
    vendor = MICROSOFT.to_bytes(4, "big") + bytes((17, 2 + len(value))) + value
    assert bytes((VENDOR_SPECIFIC, 2 + len(vendor))) + vendor == v["vsa_recv_key_type26"]


def test_mschapv2_reject_of_a_real_server() -> None:
    v = VECTORS["radius-mschapv2-reject-freeradius"]
    secret, authenticator = v["secret"], v["request_authenticator"]
    request, reject = v["access_request"], v["access_reject"]
    assert message_authenticator(request, authenticator, secret) == attribute(request, MESSAGE_AUTHENTICATOR)
    assert response_authenticator(reject, authenticator, secret) == reject[4:20]
    error = microsoft(reject, 2)
    assert error == v["ms_chap_error_raw"]
    assert (error[:1], error[1:].decode()) == (v["ident"], v.text("text_ascii"))


def test_accounting_start() -> None:
    v = VECTORS["radius-accounting-start"]
    blank = packet(4, v.number("id"), bytes(16), v["attributes"])
    authenticator = md5(blank, v["secret"])
    assert authenticator == v["request_authenticator"]
    assert packet(4, v.number("id"), authenticator, v["attributes"]) == v["packet"]
    reply = v["accounting_response_captured"]
    assert response_authenticator(reply, authenticator, v["secret"]) == reply[4:20]


def test_disconnect_request() -> None:
    v = VECTORS["radius-disconnect-request"]
    secret = v["secret"]
    blank = packet(40, v.number("id"), bytes(16), v["attributes_with_zeroed_ma"])
    seal = message_authenticator(blank, bytes(16), secret)
    assert seal == v["message_authenticator"]
    sealed = blank[:-16] + seal
    authenticator = md5(sealed, secret)
    assert authenticator == v["request_authenticator"]
    assert sealed[:4] + authenticator + sealed[20:] == v["packet"]
    nak = v["nak_packet"]
    assert attribute(nak, 101) == (503).to_bytes(4, "big")
    nak_seal = message_authenticator(nak, authenticator, secret)
    assert nak_seal == v["nak_message_authenticator"] == attribute(nak, MESSAGE_AUTHENTICATOR)
    assert response_authenticator(nak, authenticator, secret) == nak[4:20]


def test_access_request_of_chap_md5() -> None:
    v = borrow("chap-md5-2")
    authenticator, request = v["request_authenticator"], v["access_request"]
    assert request[:4] == bytes((1, v.number("radius_id"))) + len(request).to_bytes(2, "big")
    assert request[4:20] == authenticator
    seal = message_authenticator(request, authenticator, v["radius_secret"])
    assert seal == attribute(request, MESSAGE_AUTHENTICATOR)
    assert attribute(request, 3) == v["identifier"] + v["response"]
    assert attribute(request, 60) == v["challenge"]
