"""RADIUS parsers under any bytes: what is not authentic is refused, what is malformed names itself, nothing else."""

from __future__ import annotations

import hashlib
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from sstpfarm.auth.authorization import Authorization
from sstpfarm.auth.radius.grant import ContradictionError, Offer, authorization_of, changes_of
from sstpfarm.auth.radius.packet import Code, MalformedAttributeError, Order, Request, check_framing
from sstpfarm.config.routes import TakenAddresses
from sstpfarm.errors import PeerError
from tests.radius_double import SECRET, Received, attribute, vendor

ATTRIBUTES = st.lists(
    st.one_of(
        st.builds(attribute, st.integers(1, 255).filter(lambda kind: kind != 80), st.binary(max_size=40)),
        st.builds(vendor, st.sampled_from([311, 14988, 14122, 9]), st.integers(0, 40), st.binary(max_size=40)),
        st.builds(lambda value: attribute(26, value), st.binary(max_size=30)),
    ),
    max_size=12,
).map(b"".join)
OFFER = Offer({"default": Authorization(user="", pool="main")}, "default", {"main": 0}, TakenAddresses({}, {}, {}, []))


def request() -> Request:
    return Request(Code.ACCESS_REQUEST, 1, SECRET, [], bytes(16))


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=120))
def test_any_bytes_are_no_reply_and_no_order(data: bytes) -> None:
    for read in (
        lambda: request().read(data, require_signature=False),
        lambda: Order(data, SECRET, require_signature=False),
    ):
        try:
            read()
        except PeerError:
            continue
        raise AssertionError("forged")


@settings(max_examples=300, deadline=None)
@given(data=ATTRIBUTES, at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_one_flipped_bit_makes_a_reply_worthless(data: bytes, at: int, bit: int) -> None:
    sent = request()
    reply = bytearray(Received(sent.data).reply(2, data))
    reply[at % len(reply)] ^= 1 << bit
    try:
        sent.read(bytes(reply), require_signature=True)
    except PeerError:
        return
    raise AssertionError("accepted")


@settings(max_examples=500, deadline=None)
@given(data=ATTRIBUTES)
def test_any_attributes_make_a_grant_or_a_contradiction(data: bytes) -> None:
    sent = request()
    try:
        reply = sent.read(Received(sent.data).reply(2, data), require_signature=True)
    except PeerError:
        assert b"\x21" in data  # a Proxy-State that was not sent
        return
    with suppress(ContradictionError):
        found = authorization_of(reply, "alice", OFFER)
        assert found.mtu == 0 or 576 <= found.mtu <= 4087
    for name in ("MS-MPPE-Recv-Key", "MS-MPPE-Send-Key"):
        with suppress(MalformedAttributeError):
            reply.salted_key(name)
    with suppress(MalformedAttributeError):
        reply.hidden("MS-CHAP-MPPE-Keys")


@settings(max_examples=300, deadline=None)
@given(data=ATTRIBUTES)
def test_any_attributes_make_changes_or_a_contradiction(data: bytes) -> None:
    head = bytes((43, 1)) + (20 + len(data)).to_bytes(2, "big")
    asked = Order(head + hashlib.md5(head + bytes(16) + data + SECRET).digest() + data, SECRET, require_signature=False)
    with suppress(ContradictionError, MalformedAttributeError):
        changes_of(asked)


@settings(max_examples=300, deadline=None)
@given(data=st.binary(min_size=4, max_size=80))
def test_framing_looks_at_nothing_behind_the_packet(data: bytes) -> None:
    with suppress(PeerError):
        check_framing(data)
        assert 20 <= int.from_bytes(data[2:4], "big") <= len(data)
