"""Both packet paths, from the TUN to the peer: headers, gates, limits, work bound, and a TUN that is gone."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from time import monotonic

import pytest

from sstpfarm.dataplane.interface import HEADROOM, MAX_FRAME, Cell, Gate
from sstpfarm.dataplane.pure import DRAIN_PACKETS
from sstpfarm.errors import LocalError
from tests.unit.pure_bench import BOTH, Bench, data_packet, ipv4, ipv6


@pytest.fixture(params=BOTH)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(request.param)
    yield made
    made.close()


def test_headers_are_put_in_front(bench: Bench) -> None:
    bench.kernel.send(ipv4(60))
    bench.kernel.send(ipv6(1500))
    filled, more = bench.drain()
    assert filled == (
        bytes.fromhex("10000044ff030021") + ipv4(60) + bytes.fromhex("100005e4ff030057") + ipv6(1500)  # 68, 1508
    )
    assert not more
    assert bench.counted() == {Cell.PACKETS_OUT: 2, Cell.BYTES_OUT: 1560}


def test_an_empty_tun(bench: Bench) -> None:
    assert bench.drain() == (b"", False)
    assert bench.counted() == {}


def test_what_was_drained_can_be_fed(bench: Bench) -> None:
    bench.kernel.send(ipv4(77))
    filled, _ = bench.drain()
    bench.feed(filled)
    assert bench.packets() == [ipv4(77)]


@pytest.mark.parametrize("gates", [Gate.NONE, Gate.IPV4, Gate.IPV6, Gate.IPV4 | Gate.IPV6])
def test_gates_for_each_family(bench: Bench, gates: Gate) -> None:
    bench.path.set_gates(gates)
    for packet in (ipv4(), ipv6(), ipv4()):
        bench.kernel.send(packet)
    filled, more = bench.drain()
    v4, v6 = Gate.IPV4 in gates, Gate.IPV6 in gates
    assert len(filled) == v4 * 2 * (28 + HEADROOM) + v6 * (48 + HEADROOM)
    assert not more
    counted = bench.counted()
    assert counted.get(Cell.PACKETS_OUT, 0) == 2 * v4 + v6
    assert counted.get(Cell.DROP_GATE_OUT, 0) == 3 - 2 * v4 - v6


@pytest.mark.parametrize(("size", "passes"), [(1399, True), (1400, True), (1401, False), (1500, False), (4000, False)])
def test_the_send_limit(bench: Bench, size: int, passes: bool) -> None:
    bench.path.set_limits(receive=1500, send=1400)
    bench.kernel.send(ipv4(size))
    bench.kernel.send(ipv4(28))
    filled, _ = bench.drain()
    assert filled == (
        bytes.fromhex("1000") + struct.pack("!H", size + 8) + b"\xff\x03\x00\x21" + ipv4(size)
    ) * passes + (bytes.fromhex("10000024ff030021") + ipv4(28))
    assert bench.counted().get(Cell.DROP_TOO_LARGE, 0) == (not passes)


def test_discard_reads_to_the_same_bound(bench: Bench) -> None:
    for _ in range(DRAIN_PACKETS + 5):
        bench.kernel.send(ipv4(60))
    assert bench.path.discard()
    assert not bench.path.discard()
    assert bench.drain() == (b"", False)
    assert bench.counted() == {Cell.DROP_RATE: DRAIN_PACKETS + 5}
    assert not bench.slot[Cell.ACTIVE]
    bench.path.detach()
    assert not bench.path.discard()


def test_packets_that_pass_are_activity_and_nothing_else_is(bench: Bench) -> None:
    """Milliseconds of the coarse monotonic clock, which may be some 10 ms late."""
    bench.path.set_gates(Gate.IPV4)
    bench.kernel.send(ipv6())  # the gate is closed
    bench.drain()
    bench.feed(data_packet(b"\0\x57" + ipv6()) + bytes.fromhex("1001000800080000"))  # and an Echo-Request
    assert not bench.slot[Cell.ACTIVE]
    for inbound in (True, False):
        bench.slot[Cell.ACTIVE] = 0
        before = monotonic() * 1000 - 20
        if inbound:
            bench.feed(data_packet(b"\0\x21" + ipv4()))
        else:
            bench.kernel.send(ipv4())
            bench.drain()
        assert before <= bench.slot[Cell.ACTIVE] <= monotonic() * 1000


def test_a_packet_that_is_not_ip_is_dropped(bench: Bench) -> None:
    bench.kernel.send(b"\x00rubbish")
    bench.kernel.send(b"\xf0")
    assert bench.drain() == (b"", False)
    assert bench.counted() == {Cell.DROP_PROTOCOL: 2}


def test_the_smallest_buffer_takes_the_largest_packet(bench: Bench) -> None:
    bench.path.set_limits(receive=4087, send=4087)
    bench.kernel.send(ipv4(4087))
    bench.kernel.send(ipv4(28))
    filled, more = bench.drain(MAX_FRAME)
    assert len(filled) == MAX_FRAME
    assert more
    filled, more = bench.drain(MAX_FRAME)
    assert len(filled) == 28 + HEADROOM
    assert more  # no room for another: the caller asks again
    assert bench.drain(MAX_FRAME) == (b"", False)


@pytest.mark.parametrize(("second", "fits"), [(1291, True), (1292, False)])
def test_a_packet_is_read_only_into_room_for_the_largest(bench: Bench, second: int, fits: bool) -> None:
    """The third packet ends with the buffer, or would end one byte behind it."""
    for size in (1280, second, 1500):
        bench.kernel.send(ipv4(size))
    filled, more = bench.drain(MAX_FRAME)
    assert more
    assert len(filled) == (MAX_FRAME if fits else 1280 + second + 2 * HEADROOM)
    if not fits:
        filled, _ = bench.drain(MAX_FRAME)
    assert filled.endswith(data_packet(b"\xff\x03\x00\x21" + ipv4(1500)))


def test_the_buffer_bounds_one_call_and_nothing_is_lost(bench: Bench) -> None:
    for number in range(10):
        bench.kernel.send(ipv4(1000 + number))
    sizes = []
    more = True
    while more:
        filled, more = bench.drain(4095)
        assert len(filled) <= 4095
        while filled:
            length = struct.unpack_from("!H", filled, 2)[0]
            sizes.append(length - HEADROOM)
            filled = filled[length:]
    assert sizes == [1000 + number for number in range(10)]


def test_the_work_of_one_call_is_bounded(bench: Bench) -> None:
    """Also when every packet is dropped."""
    for _ in range(DRAIN_PACKETS + 1):
        bench.kernel.send(ipv4())
    filled, more = bench.drain()
    assert (len(filled), more) == (DRAIN_PACKETS * (28 + HEADROOM), True)
    bench.path.set_gates(Gate.NONE)
    for _ in range(DRAIN_PACKETS):
        bench.kernel.send(ipv4())
    assert bench.drain() == (b"", True)
    assert bench.drain() == (b"", False)
    assert bench.counted()[Cell.DROP_GATE_OUT] == DRAIN_PACKETS + 1


def test_detached_reads_nothing(bench: Bench) -> None:
    bench.kernel.send(ipv4())
    bench.path.detach()
    assert bench.drain() == (b"", False)
    bench.path.attach(bench.tun.fileno())
    assert len(bench.drain()[0]) == 28 + HEADROOM


def test_the_other_end_is_closed(bench: Bench) -> None:
    bench.kernel.close()
    assert bench.drain() == (b"", False)


def test_a_tun_that_no_longer_reads_is_told(bench: Bench) -> None:
    """What was counted before it is kept."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        bench.path.attach(write_end)
        with pytest.raises(OSError, match="Bad file descriptor"):
            bench.drain()
    finally:
        os.close(write_end)


def test_a_buffer_that_is_too_small_is_a_bug(bench: Bench) -> None:
    with pytest.raises(LocalError):
        bench.drain(MAX_FRAME - 1)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_shedding_takes_the_last_packet_out(bench: Bench, count: int) -> None:
    packets = [ipv4(60 + number) for number in range(count)]
    for packet in packets:
        bench.kernel.send(packet)
    buffer = bytearray(b"\xaa" * 65536)
    filled, more = bench.path.drain(memoryview(buffer), True)
    assert buffer[:filled] == b"".join(data_packet(b"\xff\x03\x00\x21" + packet) for packet in packets[:-1])
    assert not more
    passed = {Cell.PACKETS_OUT: count - 1, Cell.BYTES_OUT: sum(map(len, packets[:-1])), Cell.DROP_QUEUE: 1}
    assert bench.counted() == ({cell: number for cell, number in passed.items() if number} if count else {})
