"""Both packet paths, from the peer to the TUN: framing, gates, reasons for a drop, source addresses, lengths."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import pytest

from sstpfarm.dataplane.interface import CELLS, MAX_FRAME, Cell, FramingError, Gate, PacketPath
from sstpfarm.errors import LocalError
from tests.unit.pure_bench import BOTH, CLIENT4, CLIENT6, Bench, Make, data_packet, ipv4, ipv6

ECHO_REQUEST = bytes.fromhex("1001000800080000")  # SSTP control message 8
LCP_ECHO = b"\xc0\x21\x09\x01\x00\x08\x00\x00\x00\x00"


@pytest.fixture(params=BOTH)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(request.param)
    yield made
    made.close()


def test_it_is_a_packet_path(bench: Bench) -> None:
    path: PacketPath = bench.path
    assert path.feed(memoryview(b"")) == (0, None)


@pytest.mark.parametrize("head", [b"\xff\x03\x00\x21", b"\x00\x21", b"\xff\x03\x21", b"\x21"])
def test_ipv4_passes_in_every_ppp_form(bench: Bench, head: bytes) -> None:
    packet = ipv4()
    assert bench.feed(data_packet(head + packet)) == []
    assert bench.packets() == [packet]
    assert bench.counted() == {Cell.PACKETS_IN: 1, Cell.BYTES_IN: 28}


@pytest.mark.parametrize("head", [b"\xff\x03\x00\x57", b"\x00\x57", b"\xff\x03\x57", b"\x57"])
def test_ipv6_passes_in_every_ppp_form(bench: Bench, head: bytes) -> None:
    packet = ipv6()
    assert bench.feed(data_packet(head + packet)) == []
    assert bench.packets() == [packet]
    assert bench.counted() == {Cell.PACKETS_IN: 1, Cell.BYTES_IN: 48}


def test_reserved_bits_are_ignored(bench: Bench) -> None:
    packet = ipv4()
    ppp = b"\xff\x03\x00\x21" + packet
    assert bench.feed(struct.pack("!BBH", 0x10, 0xFE, 0xF000 | (4 + len(ppp))) + ppp) == []
    assert bench.packets() == [packet]


def test_padding_behind_the_packet_is_cut(bench: Bench) -> None:
    bench.feed(data_packet(b"\x21" + ipv4() + b"padding") + data_packet(b"\x57" + ipv6() + b"padding"))
    assert bench.packets() == [ipv4(), ipv6()]
    assert bench.counted() == {Cell.PACKETS_IN: 2, Cell.BYTES_IN: 76}


def test_empty_data_packets_say_nothing(bench: Bench) -> None:
    assert bench.feed(data_packet(b"") * 3 + bytes.fromhex("10fef004")) == []  # the last with all reserved bits
    assert bench.counted() == {}


@pytest.mark.parametrize(
    ("ppp", "cell"),
    [
        (b"\xff\x03", Cell.DROP_MALFORMED),  # no protocol
        (b"\x00", Cell.DROP_MALFORMED),  # half a protocol
        (b"\xff\x03\x00", Cell.DROP_MALFORMED),
        (b"\x21", Cell.DROP_MALFORMED),  # no packet
        (b"\x21" + ipv4(19), Cell.DROP_MALFORMED),
        (b"\x21" + ipv4(28, total=29), Cell.DROP_MALFORMED),
        (b"\x21" + ipv4(28, total=19), Cell.DROP_MALFORMED),
        (b"\x21" + ipv4(28, first=0x44), Cell.DROP_MALFORMED),  # header shorter than 20
        (b"\x21" + ipv4(28, first=0x48), Cell.DROP_MALFORMED),  # header longer than the packet
        (b"\x21" + ipv4(28, first=0x65), Cell.DROP_MALFORMED),
        (b"\x21" + ipv4(28, first=0x05), Cell.DROP_MALFORMED),
        (b"\x21" + ipv6(), Cell.DROP_MALFORMED),  # the other family
        (b"\x57", Cell.DROP_MALFORMED),
        (b"\x57" + ipv6(39, payload=0), Cell.DROP_MALFORMED),
        (b"\x57" + ipv6(48, payload=9), Cell.DROP_MALFORMED),
        (b"\x57" + ipv6(48, payload=0xFFFF), Cell.DROP_MALFORMED),
        (b"\x57" + ipv6(48, first=0x45), Cell.DROP_MALFORMED),
        (b"\x57" + ipv4(60), Cell.DROP_MALFORMED),
        (b"\x21" + ipv4(1501), Cell.DROP_TOO_LARGE),
        (b"\x57" + ipv6(1501), Cell.DROP_TOO_LARGE),
        (b"\x21" + ipv4(source=IPv4Address("10.20.0.8")), Cell.DROP_SOURCE),
        (b"\x21" + ipv4(source=IPv4Address("0.0.0.0")), Cell.DROP_SOURCE),
        (b"\x57" + ipv6(source=IPv6Address("fe80::8")), Cell.DROP_SOURCE),
        (b"\x57" + ipv6(source=IPv6Address("::")), Cell.DROP_SOURCE),
    ],
)
def test_each_drop_has_its_counter(bench: Bench, ppp: bytes, cell: Cell) -> None:
    assert bench.feed(data_packet(ppp)) == []
    assert bench.packets() == []
    assert bench.counted() == {cell: 1}


@pytest.mark.parametrize("size", [20, 21, 1499, 1500])
def test_ipv4_boundary_lengths(bench: Bench, size: int) -> None:
    bench.feed(data_packet(b"\xff\x03\x00\x21" + ipv4(size)))
    assert bench.packets() == [ipv4(size)]


@pytest.mark.parametrize("size", [40, 41, 1500])
def test_ipv6_boundary_lengths(bench: Bench, size: int) -> None:
    bench.feed(data_packet(b"\xff\x03\x00\x57" + ipv6(size)))
    assert bench.packets() == [ipv6(size)]


def test_the_largest_frame_passes(bench: Bench) -> None:
    bench.path.set_limits(receive=4087, send=4087)
    frame = data_packet(b"\xff\x03\x00\x21" + ipv4(4087))
    assert len(frame) == MAX_FRAME
    bench.feed(frame)
    assert bench.packets() == [ipv4(4087)]


def test_ipv4_options_pass(bench: Bench) -> None:
    packet = ipv4(60, first=0x4F)
    bench.feed(data_packet(b"\x21" + packet))
    assert bench.packets() == [packet]


def test_sources_are_networks(bench: Bench) -> None:
    lan4 = IPv4Address("192.168.7.0")
    lan6 = IPv6Address("2001:db8:7::")
    mask6 = ((1 << 48) - 1) << 80
    bench.path.set_sources(
        ((int(CLIENT4), 0xFFFF_FFFF), (int(lan4), 0xFFFF_FF00)), ((int(CLIENT6), (1 << 128) - 1), (int(lan6), mask6))
    )
    inside = [ipv4(source=lan4 + 255), ipv4(), ipv6(source=lan6 + (1 << 80) - 1), ipv6()]
    outside = [ipv4(source=lan4 + 256), ipv4(source=lan4 - 1), ipv6(source=lan6 + (1 << 80)), ipv6(source=lan6 - 1)]
    for packet in inside + outside:
        bench.feed(data_packet((b"\x21" if packet[0] >> 4 == 4 else b"\x57") + packet))
    assert bench.packets() == inside
    assert bench.counted()[Cell.DROP_SOURCE] == 4


def test_any_source_and_no_source(bench: Bench) -> None:
    stranger = ipv4(source=IPv4Address("203.0.113.9"))
    bench.path.set_sources(((0, 0),), ())
    bench.feed(data_packet(b"\x21" + stranger) + data_packet(b"\x57" + ipv6()))
    assert bench.packets() == [stranger]
    assert bench.counted()[Cell.DROP_SOURCE] == 1


@pytest.mark.parametrize("pair", [(1, 0), (1 << 32, 1 << 32), (-1, 0xFFFF_FFFF), (0, -1)])
def test_a_source_that_is_no_network_is_a_bug(bench: Bench, pair: tuple[int, int]) -> None:
    with pytest.raises(LocalError):
        bench.path.set_sources((pair,), ())


@pytest.mark.parametrize("limits", [(0, 1500), (1500, 0), (4088, 1500), (1500, 4088)])
def test_limits_are_bounded(bench: Bench, limits: tuple[int, int]) -> None:
    with pytest.raises(LocalError):
        bench.path.set_limits(receive=limits[0], send=limits[1])


@pytest.mark.parametrize(
    ("gates", "passed"), [(Gate.NONE, []), (Gate.IPV4, [ipv4()]), (Gate.IPV6, [ipv6()]), (Gate.IPV4 | Gate.IPV6, None)]
)
def test_gates_for_each_family(bench: Bench, gates: Gate, passed: list[bytes] | None) -> None:
    expected = [ipv4(), ipv6()] if passed is None else passed
    bench.path.set_gates(gates)
    bench.feed(data_packet(b"\x21" + ipv4()) + data_packet(b"\x57" + ipv6()))
    assert bench.packets() == expected
    assert bench.counted().get(Cell.DROP_GATE_IN, 0) == 2 - len(expected)


def test_gates_are_closed_and_sources_empty_at_first(bench: Bench) -> None:
    fresh = bench.make(bench.totals, bench.slot)
    fresh.attach(bench.tun.fileno())
    fresh.feed(memoryview(data_packet(b"\x21" + ipv4())))
    fresh.set_gates(Gate.IPV4)
    fresh.feed(memoryview(data_packet(b"\x21" + ipv4())))
    assert bench.packets() == []
    assert bench.counted() == {Cell.DROP_GATE_IN: 1, Cell.DROP_SOURCE: 1}


@pytest.mark.parametrize(
    "frame",
    [
        ECHO_REQUEST,
        data_packet(b"\xff\x03" + LCP_ECHO),
        data_packet(LCP_ECHO),
        data_packet(b"\xff\x03\x80\x21\x01\x01\x00\x04"),
        data_packet(b"\x3dmultilink"),
        data_packet(b"\xff\x03\x40\x21"),
        data_packet(b"\x00\x20"),  # no legal number: RFC 1661 2 wants it treated as unrecognised
    ],
)
def test_what_is_not_ip_comes_back_whole(bench: Bench, frame: bytes) -> None:
    bench.path.set_gates(Gate.NONE)
    assert bench.feed(frame) == [frame]
    assert bench.counted() == {Cell.CONTROL_IN: 1}


def test_feed_stops_behind_each_control_frame(bench: Bench) -> None:
    """The gate that a control frame opens holds for the data behind it in the same buffer, not for that before."""
    bench.path.set_gates(Gate.NONE)
    packet = data_packet(b"\x21" + ipv4())
    stream = memoryview(packet + ECHO_REQUEST + packet + packet + ECHO_REQUEST + packet)
    consumed, control = bench.path.feed(stream)
    assert (consumed, control) == (len(packet) + len(ECHO_REQUEST), ECHO_REQUEST)
    bench.path.set_gates(Gate.IPV4)
    stream = stream[consumed:]
    consumed, control = bench.path.feed(stream)
    assert (consumed, control) == (2 * len(packet) + len(ECHO_REQUEST), ECHO_REQUEST)
    bench.path.set_gates(Gate.NONE)
    assert bench.path.feed(stream[consumed:]) == (len(packet), None)
    assert bench.packets() == [ipv4(), ipv4()]
    assert bench.counted() == {Cell.DROP_GATE_IN: 2, Cell.PACKETS_IN: 2, Cell.BYTES_IN: 56, Cell.CONTROL_IN: 2}


def test_a_control_frame_that_was_split_stops_feed_too(bench: Bench) -> None:
    bench.path.set_gates(Gate.NONE)
    packet = data_packet(b"\x21" + ipv4())
    assert bench.path.feed(memoryview(ECHO_REQUEST[:3])) == (3, None)
    stream = memoryview(ECHO_REQUEST[3:] + packet)
    assert bench.path.feed(stream) == (5, ECHO_REQUEST)
    bench.path.set_gates(Gate.IPV4)
    assert bench.path.feed(stream[5:]) == (len(packet), None)
    assert bench.packets() == [ipv4()]


def test_the_caller_may_reuse_its_buffer(bench: Bench) -> None:
    """A partial frame and a control frame are copies."""
    buffer = bytearray(ECHO_REQUEST + ECHO_REQUEST[:5])
    consumed, control = bench.path.feed(memoryview(buffer))
    assert bench.path.feed(memoryview(buffer)[consumed:]) == (5, None)
    buffer[:] = bytes(len(buffer))
    assert control == ECHO_REQUEST
    assert bench.feed(ECHO_REQUEST[5:]) == [ECHO_REQUEST]


@pytest.mark.parametrize(
    "header",
    ["11000008", "00000008", "20000008", "47455420", "10000000", "10000003", "10010007", "10010004", "1000f003"],
)
@pytest.mark.parametrize("split", range(5))
def test_broken_framing(bench: Bench, header: str, split: int) -> None:
    """Also when the header arrives in two parts; what came before it has passed and is counted."""
    stream = data_packet(b"\x21" + ipv4()) + bytes.fromhex(header)
    cut = len(stream) - split
    if split:
        bench.path.feed(memoryview(stream[:cut]))
        stream = stream[cut:]
    with pytest.raises(FramingError):
        bench.path.feed(memoryview(stream))
    assert bench.packets() == [ipv4()]
    assert bench.counted() == {Cell.PACKETS_IN: 1, Cell.BYTES_IN: 28}


def test_a_write_that_the_kernel_refuses_is_counted(bench: Bench) -> None:
    bench.kernel.close()  # EPIPE
    bench.feed(data_packet(b"\x21" + ipv4()))
    assert bench.counted() == {Cell.DROP_TUN: 1}


def test_a_full_tun_is_counted(bench: Bench) -> None:
    """EAGAIN: packets are dropped, the call returns, what was written stays."""
    bench.tun.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    bench.feed(data_packet(b"\x21" + ipv4(1500)) * 100)
    counted = bench.counted()
    passed = len(bench.packets())
    assert 0 < passed < 100
    assert counted == {Cell.PACKETS_IN: passed, Cell.BYTES_IN: 1500 * passed, Cell.DROP_TUN: 100 - passed}


def test_detached_drops_and_attach_goes_on(bench: Bench) -> None:
    bench.path.detach()
    bench.path.detach()
    bench.feed(data_packet(b"\x21" + ipv4()))
    assert bench.counted() == {Cell.DROP_TUN: 1}
    bench.path.attach(bench.tun.fileno())
    bench.feed(data_packet(b"\x21" + ipv4()))
    assert bench.packets() == [ipv4()]


@pytest.mark.parametrize("make", BOTH)
def test_totals_sum_the_slots(make: Make) -> None:
    totals = memoryview(bytearray(8 * CELLS)).cast("Q")
    slots = [memoryview(bytearray(8 * CELLS)).cast("Q") for _ in range(3)]
    for number, slot in enumerate(slots):
        make(totals, slot).feed(memoryview(data_packet(b"\x21" + ipv4()) * number))
    assert [slot[Cell.DROP_GATE_IN] for slot in slots] == [0, 1, 2]
    assert totals[Cell.DROP_GATE_IN] == 3


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize("cells", [memoryview(bytearray(8 * CELLS)), memoryview(bytearray(8 * CELLS - 8)).cast("Q")])
def test_counters_of_another_shape_are_a_bug(cells: memoryview, make: Make) -> None:
    good = memoryview(bytearray(8 * CELLS)).cast("Q")
    with pytest.raises(LocalError):
        make(good, cells)
    with pytest.raises(LocalError):
        make(cells, good)
