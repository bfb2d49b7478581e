"""Both packet paths: what asks the router of the link comes back, when it is wanted, and nothing else does."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Address

import pytest

from sstpfarm.dataplane.interface import Cell, RouterRole
from tests.unit.pure_bench import BOTH, CLIENT6, Bench, data_packet

SOLICITATION = bytes([133, 0, 0, 0, 0, 0, 0, 0])
DHCPV6 = bytes.fromhex("0222 0223 000c 0000 01 000001")
PPP = b"\xff\x03\x00\x57"


def packet(target: str, next_header: int, payload: bytes, *, source: int = int(CLIENT6)) -> bytes:
    head = b"\x60\0\0\0" + len(payload).to_bytes(2, "big") + bytes([next_header, 255])
    return head + source.to_bytes(16, "big") + IPv6Address(target).packed + payload


ASKING = [
    packet("ff02::2", 58, SOLICITATION),
    packet("fe80::1", 58, SOLICITATION),
    packet("febf::1", 58, SOLICITATION[:4]),
    packet("ff02::1:2", 17, DHCPV6),
    packet("fe80::1", 17, DHCPV6),
]


@pytest.fixture(params=BOTH)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(request.param)
    made.path.set_router(RouterRole.PYTHON)
    yield made
    made.close()


@pytest.mark.parametrize("head", [PPP, PPP[2:], PPP[3:]], ids=["plain", "acfc", "pfc"])
@pytest.mark.parametrize("asking", ASKING)
def test_what_asks_the_router_comes_back(bench: Bench, asking: bytes, head: bytes) -> None:
    framed = data_packet(head + asking)
    assert bench.feed(framed) == [framed]
    assert bench.packets() == []
    assert bench.counted() == {Cell.CONTROL_IN: 1}


@pytest.mark.parametrize("asking", ASKING)
def test_unless_nobody_wants_it(bench: Bench, asking: bytes) -> None:
    bench.path.set_router(RouterRole.KERNEL)
    assert bench.feed(data_packet(PPP + asking)) == []
    assert bench.packets() == [asking]


@pytest.mark.parametrize(
    "other",
    [
        packet("ff02::2", 58, b"\x86" + SOLICITATION[1:]),  # an advertisement
        packet("ff02::2", 58, b"\x80" + SOLICITATION[1:]),  # an echo request
        packet("ff02::2", 58, SOLICITATION[:3]),
        packet("ff02::2", 0, SOLICITATION),  # behind an extension header
        packet("ff02::1", 58, SOLICITATION),
        packet("ff02::1:0:2", 58, SOLICITATION),
        packet("ff02:0:0:1::2", 58, SOLICITATION),
        packet("ff05::2", 58, SOLICITATION),
        packet("fec0::1", 58, SOLICITATION),
        packet("2001:db8::1", 17, DHCPV6),
        packet("ff02::1:2", 17, DHCPV6[:2] + b"\x02\x22" + DHCPV6[4:]),  # to a client
        packet("ff02::1:2", 17, DHCPV6[:3]),
        packet("ff02::1:2", 6, DHCPV6),
        packet("ff02::1:2", 17, b""),
    ],
)
def test_everything_else_passes(bench: Bench, other: bytes) -> None:
    assert bench.feed(data_packet(PPP + other)) == []
    assert bench.packets() == [other]


def test_the_length_of_the_packet_counts_not_the_padding(bench: Bench) -> None:
    short = packet("ff02::1:2", 17, DHCPV6[:3])
    assert bench.feed(data_packet(PPP + short + DHCPV6[3:])) == []
    assert bench.packets() == [short]


def test_a_strange_source_asks_nothing(bench: Bench) -> None:
    assert bench.feed(data_packet(PPP + packet("ff02::2", 58, SOLICITATION, source=int(CLIENT6) ^ 1))) == []
    assert bench.counted() == {Cell.DROP_SOURCE: 1}


def test_without_a_device_it_comes_back_all_the_same(bench: Bench) -> None:
    bench.path.detach()
    framed = data_packet(PPP + ASKING[0])
    assert bench.feed(framed) == [framed]


def test_too_many_questions_are_dropped(bench: Bench) -> None:
    bench.path.set_router(RouterRole.NOBODY)
    other = packet("2001:db8::1", 17, DHCPV6)
    assert bench.feed(b"".join(data_packet(PPP + one) for one in (*ASKING, other))) == []
    assert bench.packets() == [other]
    assert bench.counted() == {Cell.DROP_RATE: len(ASKING), Cell.PACKETS_IN: 1, Cell.BYTES_IN: len(other)}


def test_in_fragments(bench: Bench) -> None:
    """In one fragment it comes back with its header; what was put together is told to whom delivers it."""
    bench.path.set_multilink(header=4, receive=1600, send=1600)
    framed = data_packet(b"\xff\x03\x00\x3d\xc0\0\0\x07" + PPP[2:] + ASKING[0])
    assert bench.feed(framed) == [framed]
    assert bench.path.deliver(PPP[2:] + ASKING[3])
    assert bench.packets() == []
    assert bench.counted() == {Cell.CONTROL_IN: 2}
    assert not bench.path.deliver(PPP[2:] + packet("2001:db8::1", 17, DHCPV6))
    assert not bench.path.deliver(b"\xc0\x21" + bytes(8))
    assert len(bench.packets()) == 1
