"""Multilink: fragments on the wire, what is put together and what is dropped, and how LCP agrees on it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sstpfarm.proto.events import LcpOpened
from sstpfarm.proto.ppp.frame import decode_frame
from sstpfarm.proto.ppp.link import PppSettings
from sstpfarm.proto.ppp.multilink import Fragmenter, Multilink, Reassembler
from sstpfarm.proto.ppp.packet import Option, Packet, encode_options, encode_packet
from tests.unit.ppp_bench import (
    ACK,
    CCP,
    LCP,
    NAK,
    OPEN_CLIENT,
    OPEN_SERVER,
    REJECT,
    SERVER_IPV4,
    Pair,
    Script,
    describe,
    options_of,
    request,
)
from tests.vectors.loader import Vector, borrow, load

LONG = Multilink(1600, 1600)
SHORT = Multilink(1600, 1600, receive_short=True, send_short=True)
MRRU, SHORT_SEQUENCE, DISCRIMINATOR = Option(17, b"\x06\x40"), Option(18), Option(19, b"\x03\x02\0\0\0\0\x01")
SPEAKS = replace(OPEN_SERVER, mru=1400, mtu=1400, mrru=1600)


# -- fragments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", load("ppp-mp-*"), ids=str)
def test_the_vector_is_put_together_and_made(vector: Vector) -> None:
    protocol, fragment = decode_frame(vector["ppp_frame"])
    assert protocol == 0x003D
    packet = borrow("ppp-ipv4-plain")["ppp_frame"][2:]
    assert Reassembler(LONG).take(fragment) == packet
    fragmenter = Fragmenter(LONG, 1400)
    fragmenter.split(b"\0\x21before")  # sequence number 0
    assert fragmenter.split(packet) == [fragment]


def test_short_headers_byte_by_byte() -> None:
    fragmenter = Fragmenter(SHORT, 6)
    assert fragmenter.split(b"123456789") == [b"\x80\x001234", b"\x00\x015678", b"\x40\x029"]
    for _ in range(0xFFF - 3):
        fragmenter.split(b"x")
    assert fragmenter.split(b"12345") == [b"\x8f\xff1234", b"\x40\x005"]  # 12 bits, and around


def test_long_sequence_numbers_go_around() -> None:
    reassembler = Reassembler(LONG)
    assert reassembler.take(b"\x80\xff\xff\xffone") is None
    assert reassembler.take(b"\x40\x00\x00\x00two") == b"onetwo"
    assert reassembler.dropped == 0


@pytest.mark.parametrize("terms", [LONG, SHORT])
@settings(deadline=None)
@given(packets=st.lists(st.binary(min_size=1, max_size=1604), max_size=5), limit=st.integers(5, 1500))
def test_what_is_split_comes_together_again(terms: Multilink, packets: list[bytes], limit: int) -> None:
    fragmenter, reassembler = Fragmenter(terms, limit), Reassembler(terms)
    for packet in packets:
        fragments = fragmenter.split(packet)
        assert all(len(fragment) <= limit for fragment in fragments)
        assert [reassembler.take(fragment) for fragment in fragments] == [None] * (len(fragments) - 1) + [packet]
    assert reassembler.dropped == 0


@pytest.mark.parametrize(
    ("fragments", "packets", "dropped"),
    [
        ([b"\x80\0\0\0a", b"\x00\0\0\x02b", b"\x40\0\0\x03c"], [], 2),  # one is missing: both remainders go
        ([b"\x80\0\0\0a", b"\x80\0\0\x01b", b"\x40\0\0\x02c"], [b"bc"], 1),  # the first never ended
        ([b"\x40\0\0\0a"], [], 1),  # an end without a beginning
        ([b"\xc0\0\0\0a", b"\x40\0\0\x01b"], [b"a"], 1),
        ([b"\x80\0\0\0a", b"\xc0\0\0"], [], 1),  # half a header
        ([b""], [], 1),
        ([b"\x80\0\0\0" + b"a" * 1604, b"\x40\0\0\x01"], [b"a" * 1604], 0),
        ([b"\x80\0\0\0" + b"a" * 1604, b"\x40\0\0\x01b"], [], 1),  # beyond the MRRU
        ([b"\xc0\0\0\0" + b"a" * 1605], [], 1),
        ([b"\xff\0\0\0a"], [b"a"], 0),  # the reserved bits mean nothing
    ],
)
def test_what_is_dropped(fragments: list[bytes], packets: list[bytes], dropped: int) -> None:
    reassembler = Reassembler(LONG)
    assert [packet for fragment in fragments if (packet := reassembler.take(fragment)) is not None] == packets
    assert reassembler.dropped == dropped


@settings(deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=50), st.booleans())
def test_no_fragments_do_harm(fragments: list[bytes], short: bool) -> None:
    """Whatever comes, a packet is within the MRRU, and every fragment is part of one, dropped, or still waits."""
    reassembler = Reassembler(replace(LONG, receive_mrru=500, receive_short=short))
    for fragment in fragments:
        packet = reassembler.take(fragment)
        assert packet is None or len(packet) <= 504
    assert 0 <= reassembler.dropped <= 2 * len(fragments)


# -- LCP ---------------------------------------------------------------------------------------------------------------


def test_both_ends_agree() -> None:
    pair = Pair(SPEAKS, replace(OPEN_CLIENT, mru=1400, mrru=2000))
    pair.run(5)
    server, client = (pair.took(role, LcpOpened)[0] for role in pair.links)
    assert server == LcpOpened(1400, 1400, None, Multilink(1600, 1600, True, True))
    assert client == LcpOpened(1400, 1400, None, Multilink(2000, 1600, True, True))
    assert (server.mtu, client.mtu) == (1600, 1600)


def test_the_options_of_the_vector_are_acknowledged() -> None:
    script = Script(SPEAKS)
    (ours,) = script.sent_by(LCP)
    assert describe(ours) == ("CONFIGURE_REQUEST", [1, 5, 17, 18, 19])
    assert options_of(ours)[17] == b"\x06\x40"
    assert len(options_of(ours)[19]) == 9
    _, information = decode_frame(borrow("ppp-lcp-confreq-mrru")["ppp_frame"])
    script.link.receive(b"\xff\x03\xc0\x21" + information, script.now)
    ((_, answer),) = script.sent()
    assert answer.code == ACK
    script.say(LCP, replace(ours, code=ACK))
    (opened,) = script.took(LcpOpened)
    assert opened.multilink == Multilink(1600, 1600, True, True)


@pytest.mark.parametrize("role", [OPEN_SERVER, OPEN_CLIENT])
def test_disabled_it_is_neither_asked_for_nor_taken(role: PppSettings) -> None:
    script = Script(role)
    (ours,) = script.sent_by(LCP)
    assert not {17, 18, 19} & set(options_of(ours))
    answer = script.only_answer(LCP, request(1, MRRU, SHORT_SEQUENCE, DISCRIMINATOR))
    assert answer == Packet(REJECT, 1, encode_options([MRRU, SHORT_SEQUENCE, DISCRIMINATOR]))


@pytest.mark.parametrize("asked", [0, 576, 1499])
def test_an_mrru_below_1500_is_not_accepted(asked: int) -> None:
    script = Script(SPEAKS)
    script.sent()
    answer = script.only_answer(LCP, request(1, Option(17, asked.to_bytes(2, "big"))))
    assert answer == Packet(NAK, 1, encode_options([Option(17, (1500).to_bytes(2, "big"))]))


@pytest.mark.parametrize("option", [Option(17, b"\x06"), Option(18, b"\x01"), Option(19), Option(19, bytes(22))])
def test_malformed_options_are_rejected(option: Option) -> None:
    script = Script(SPEAKS)
    script.sent()
    assert script.only_answer(LCP, request(1, option)) == Packet(REJECT, 1, encode_options([option]))


@pytest.mark.parametrize(("wanted", "taken"), [(1500, 1500), (1499, 1600), (1601, 1600)])
def test_nak_of_our_mrru_is_followed_within_bounds(wanted: int, taken: int) -> None:
    script = Script(SPEAKS)
    (ours,) = script.sent_by(LCP)
    nak = Packet(NAK, ours.identifier, encode_options([Option(17, wanted.to_bytes(2, "big"))]))
    again = script.only_answer(LCP, nak)
    assert options_of(again)[17] == taken.to_bytes(2, "big")


def test_only_one_side_is_not_enough() -> None:
    """A peer that rejects ours may offer its own: plain frames only, and a fragment gets a Protocol-Reject."""
    script = Script(SPEAKS)
    (ours,) = script.sent_by(LCP)
    again = script.only_answer(LCP, Packet(REJECT, ours.identifier, encode_options([Option(17, b"\x06\x40")])))
    assert describe(again) == ("CONFIGURE_REQUEST", [1, 5])
    script.say(LCP, replace(again, code=ACK))
    script.say(LCP, request(1, MRRU))
    (opened,) = script.took(LcpOpened)
    assert (opened.multilink, opened.mtu) == (None, 1400)
    assert script.link.fragments(b"\0\x21packet") == []
    script.link.configure(SERVER_IPV4, None, script.now)
    script.sent()
    assert script.link.fragment(b"\xff\x03\x00\x3d\xc0\0\0\0x") is None
    script.link.receive(b"\xff\x03\x00\x3d\xc0\0\0\0x", script.now)
    ((protocol, answer),) = script.sent()
    assert (protocol, answer.code, answer.data[:2]) == (LCP, 8, b"\x00\x3d")


@pytest.mark.parametrize(("offered", "short"), [([MRRU], False), ([MRRU, SHORT_SEQUENCE], True)])
def test_the_peer_chooses_what_it_receives(offered: list[Option], short: bool) -> None:
    script = Script(SPEAKS)
    script.open_lcp(Option(1, b"\x05\x00"), *offered)  # MRU 1280
    (opened,) = script.took(LcpOpened)
    assert opened.multilink == Multilink(1600, 1600, True, short)
    frames = script.link.fragments(b"\0\x21" + bytes(1600))
    assert [frame[:4] for frame in frames] == [b"\xff\x03\x00\x3d"] * 2
    header = 2 if short else 4
    assert [len(frame) - 4 for frame in frames] == [1280, 1602 - (1280 - header) + header]


@pytest.mark.parametrize(("packet", "answers"), [(Packet(9, 1, bytes(4)), 1), (request(9), 0), (Packet(5, 1), 0)])
def test_what_of_lcp_may_come_in_fragments(packet: Packet, answers: int) -> None:
    """RFC 1990 2: Echo may; Configure and Terminate may not."""
    script = Script(SPEAKS)
    script.open_lcp(MRRU)
    script.link.receive(b"\xc0\x21" + encode_packet(packet), script.now, reassembled=True)
    assert len(script.sent()) == answers
    assert script.closed() is None


def test_a_new_negotiation_ends_the_old_agreement() -> None:
    script = Script(SPEAKS)
    script.open_lcp(MRRU)
    script.link.configure(SERVER_IPV4, None, script.now)
    assert script.link.fragment(b"\xff\x03\x00\x3d\x80\0x") == b"\x80\0x"
    script.link.reassemble(b"\x80\0x")
    script.say(LCP, Packet(5, 1))
    assert script.link.fragment(b"\xff\x03\x00\x3d\x40\1x") is None
    assert script.link.reassemble(b"\x40\1x") is None
    assert script.say(CCP, request(1)) == []
