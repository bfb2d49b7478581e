"""Both packet paths with multilink: whole fragments, packets that were put together, and those that only fit so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sstpfarm.dataplane.interface import HEADROOM, MAX_PACKET, Cell, Gate
from sstpfarm.errors import LocalError
from sstpfarm.proto.ppp.multilink import Multilink, Reassembler
from tests.unit.pure_bench import BOTH, CLIENT4, Bench, data_packet, ipv4, ipv6

LONG, SHORT = b"\xff\x03\x00\x3d\xc0\0\0\x07", b"\xff\x03\x00\x3d\xc0\x07"
IPV4, IPV6 = b"\x00\x21", b"\x00\x57"


@pytest.fixture(params=BOTH)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(request.param)
    made.path.set_limits(receive=1400, send=1400)
    made.path.set_multilink(header=4, receive=1600, send=1600)
    yield made
    made.close()


def drain(bench: Bench, *, shed: bool = False) -> tuple[bytes, bool]:
    buffer = bytearray(b"\xaa" * 65536)
    filled, more = bench.path.drain(memoryview(buffer), shed)
    return bytes(buffer[:filled]), more


# -- from the peer -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", [b"\x00\x21", b"\x21", b"\xff\x03\x00\x21", b"\xff\x03\x21"])
@pytest.mark.parametrize("header", [LONG, LONG[2:], LONG[3:]], ids=["plain", "acfc", "pfc"])
def test_a_whole_packet_in_one_fragment_passes_here(bench: Bench, header: bytes, inner: bytes) -> None:
    assert bench.feed(data_packet(header + inner + ipv4(1500))) == []
    assert bench.packets() == [ipv4(1500)]
    assert bench.counted() == {Cell.PACKETS_IN: 1, Cell.BYTES_IN: 1500}


def test_short_headers(bench: Bench) -> None:
    bench.path.set_multilink(header=2, receive=1600, send=1600)
    assert bench.feed(data_packet(SHORT + IPV6 + ipv6(100))) == []
    assert bench.packets() == [ipv6(100)]


@pytest.mark.parametrize(
    "ppp",
    [
        b"\xff\x03\x00\x3d\x80\0\0\x07\x00\x21begins",
        b"\xff\x03\x00\x3d\x40\0\0\x07ends",
        b"\xff\x03\x00\x3d\x00\0\0\x07goes on",
        b"\xff\x03\x00\x3d\xc0\0\0",
        b"\xff\x03\x00\x3d",
        LONG + b"\xc0\x21\x09\x01\x00\x08\0\0\0\0",  # an Echo-Request of LCP
        LONG + LONG + IPV4 + ipv4(),  # a fragment in a fragment
    ],
)
def test_every_other_fragment_comes_back(bench: Bench, ppp: bytes) -> None:
    assert bench.feed(data_packet(ppp)) == [data_packet(ppp)]
    assert bench.counted() == {Cell.CONTROL_IN: 1}


def test_without_multilink_every_fragment_comes_back(bench: Bench) -> None:
    other = Bench(bench.make)
    assert other.feed(data_packet(LONG + IPV4 + ipv4())) == [data_packet(LONG + IPV4 + ipv4())]
    other.close()


def test_a_packet_that_was_put_together_is_delivered(bench: Bench) -> None:
    for packet in (IPV4 + ipv4(1600), b"\xff\x03\x57" + ipv6(1600)):
        bench.path.deliver(packet)
    assert bench.packets() == [ipv4(1600), ipv6(1600)]
    assert bench.counted() == {Cell.PACKETS_IN: 2, Cell.BYTES_IN: 3200}


@pytest.mark.parametrize(
    ("packet", "cell"),
    [
        (IPV4 + ipv4(1601), Cell.DROP_TOO_LARGE),
        (IPV4 + ipv4(1500, source=CLIENT4 + 1), Cell.DROP_SOURCE),
        (IPV4 + ipv4(1500, total=1501), Cell.DROP_MALFORMED),
        (b"\x00", Cell.DROP_MALFORMED),
        (b"", Cell.DROP_MALFORMED),
        (b"\xc0\x21" + bytes(10), Cell.DROP_PROTOCOL),
        (LONG[2:] + IPV4 + ipv4(), Cell.DROP_PROTOCOL),
        (b"\x00\x31\x00\x01" + bytes(60), Cell.DROP_GATE_IN),
    ],
)
def test_delivered_packets_meet_the_same_checks(bench: Bench, packet: bytes, cell: Cell) -> None:
    bench.path.deliver(packet)
    assert bench.packets() == []
    assert bench.counted() == {cell: 1}


@pytest.mark.parametrize("gates", [Gate.NONE, Gate.IPV6])
def test_a_closed_gate_is_closed_for_them_too(bench: Bench, gates: Gate) -> None:
    bench.path.set_gates(gates)
    bench.path.deliver(IPV4 + ipv4(1500))
    bench.feed(data_packet(LONG + IPV4 + ipv4(1500)))
    assert bench.packets() == []
    assert bench.counted() == {Cell.DROP_GATE_IN: 2}


def test_lost_fragments_are_counted(bench: Bench) -> None:
    bench.path.lose(3)
    assert bench.counted() == {Cell.DROP_FRAGMENT: 3}


# -- towards the peer --------------------------------------------------------------------------------------------------


def test_what_fits_goes_plain_and_what_does_not_is_handed_out_in_order(bench: Bench) -> None:
    for size in (1400, 1401, 60, 1600):
        bench.kernel.send(ipv4(size))
    assert drain(bench) == (data_packet(b"\xff\x03\x00\x21" + ipv4(1400)), True)
    assert drain(bench) == (b"", True)  # nothing overtakes
    assert bench.path.large() == IPV4 + ipv4(1401)
    assert bench.path.large() is None
    assert drain(bench) == (data_packet(b"\xff\x03\x00\x21" + ipv4(60)), True)
    assert bench.path.large() == IPV4 + ipv4(1600)
    assert drain(bench) == (b"", False)
    assert bench.counted() == {Cell.PACKETS_OUT: 4, Cell.BYTES_OUT: 1400 + 1401 + 60 + 1600}


def test_beyond_the_mrru_is_too_large(bench: Bench) -> None:
    bench.kernel.send(ipv6(1601))
    bench.kernel.send(ipv6(1600))
    assert drain(bench) == (b"", True)
    assert bench.path.large() == IPV6 + ipv6(1600)
    assert bench.counted() == {Cell.DROP_TOO_LARGE: 1, Cell.PACKETS_OUT: 1, Cell.BYTES_OUT: 1600}


def test_a_closed_gate_hands_nothing_out(bench: Bench) -> None:
    bench.path.set_gates(Gate.IPV6)
    bench.kernel.send(ipv4(1500))
    assert drain(bench) == (b"", False)
    assert bench.path.large() is None
    assert bench.counted() == {Cell.DROP_GATE_OUT: 1}


@pytest.mark.parametrize("before", [0, 2])
def test_shedding_takes_the_large_packet(bench: Bench, before: int) -> None:
    for _ in range(before):
        bench.kernel.send(ipv4(60))
    bench.kernel.send(ipv4(1500))
    filled, _ = drain(bench, shed=True)
    assert len(filled) == before * (60 + HEADROOM)
    assert bench.path.large() is None
    expected = {Cell.PACKETS_OUT: before, Cell.BYTES_OUT: 60 * before, Cell.DROP_QUEUE: 1}
    assert bench.counted() == {cell: count for cell, count in expected.items() if count}


def test_nothing_survives_the_device(bench: Bench) -> None:
    bench.kernel.send(ipv4(1500))
    drain(bench)
    bench.path.detach()
    assert bench.path.large() is None
    bench.path.attach(bench.tun.fileno())
    assert drain(bench) == (b"", False)


@pytest.mark.parametrize("short", [False, True])
def test_what_is_handed_out_comes_back_as_it_was(bench: Bench, short: bool) -> None:
    """Out of one path, through fragments, into another."""
    reassembler = Reassembler(Multilink(1600, 1600, receive_short=short))
    bench.kernel.send(ipv4(1600))
    drain(bench)
    large = bench.path.large()
    assert large is not None
    header = b"\x80\x00" if short else b"\x80\0\0\0"
    assert reassembler.take(header + large[:1000]) is None
    packet = reassembler.take((b"\x40\x01" if short else b"\x40\0\0\x01") + large[1000:])
    assert packet is not None
    bench.path.deliver(packet)
    assert bench.packets() == [ipv4(1600)]


@pytest.mark.parametrize(
    ("header", "receive", "send"),
    [(0, 1600, 1600), (3, 1600, 1600), (4, 0, 1600), (4, 1600, 0), (4, MAX_PACKET + 1, 1600), (4, 1600, 1 << 20)],
)
def test_impossible_settings_are_a_bug(bench: Bench, header: int, receive: int, send: int) -> None:
    with pytest.raises(LocalError):
        bench.path.set_multilink(header=header, receive=receive, send=send)


def test_the_largest_packet_passes_both_ways(bench: Bench) -> None:
    bench.path.set_multilink(header=4, receive=MAX_PACKET, send=MAX_PACKET)
    bench.kernel.send(ipv4(MAX_PACKET))
    drain(bench)
    large = bench.path.large()
    assert large == IPV4 + ipv4(MAX_PACKET)
    bench.path.deliver(IPV4 + ipv4(MAX_PACKET))
    assert bench.packets() == [ipv4(MAX_PACKET)]
