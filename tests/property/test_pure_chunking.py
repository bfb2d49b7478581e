"""PurePath on generated streams: any chunking gives the same packets, controls, counters; any bytes only FramingError.

The stream is made of frames whose fate is known from how they were made, so the path is compared with the
specification and not only with itself.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from sstpfarm.dataplane.interface import MAX_FRAME, Cell, FramingError, Gate
from tests.unit.pure_bench import Bench, data_packet, ipv4, ipv6

PPP_V4 = st.sampled_from([b"\xff\x03\x00\x21", b"\x00\x21", b"\x21", b"\xff\x03\x21"])
PPP_V6 = st.sampled_from([b"\xff\x03\x00\x57", b"\x00\x57", b"\x57", b"\xff\x03\x57"])


@dataclass(frozen=True)
class Frame:
    """A frame, and what must become of it."""

    wire: bytes
    cell: Cell | None
    packet: bytes = b""


def good(ppp: bytes, packet: bytes, padding: bytes) -> Frame:
    return Frame(data_packet(ppp + packet + padding), Cell.PACKETS_IN, packet)


def control(body: bytes, flags: int, reserved: int) -> Frame:
    return Frame(struct.pack("!BBH", 0x10, flags | 1, reserved << 12 | (4 + len(body))) + body, Cell.CONTROL_IN)


def bad(ppp: bytes, packet: bytes, cell: Cell) -> Frame:
    return Frame(data_packet(ppp + packet), cell)


PADDING = st.binary(max_size=9)
FRAMES = st.one_of(
    st.builds(good, PPP_V4, st.builds(ipv4, st.integers(20, 1400)), PADDING),
    st.builds(good, PPP_V6, st.builds(ipv6, st.integers(40, 1400)), PADDING),
    st.builds(control, st.binary(min_size=4, max_size=40), st.integers(0, 255), st.integers(0, 15)),
    st.builds(bad, PPP_V4, st.builds(ipv4, st.integers(0, 19)), st.just(Cell.DROP_MALFORMED)),
    st.builds(bad, PPP_V4, st.builds(ipv4, source=st.just(IPv4Address("10.20.0.9"))), st.just(Cell.DROP_SOURCE)),
    st.builds(bad, PPP_V6, st.builds(ipv6, source=st.just(IPv6Address("ff02::1"))), st.just(Cell.DROP_SOURCE)),
    st.builds(bad, PPP_V6, st.builds(ipv6, st.integers(1501, 4000)), st.just(Cell.DROP_TOO_LARGE)),
    st.builds(bad, st.just(b"\xc0\x21"), st.binary(max_size=30), st.just(Cell.CONTROL_IN)),
    st.just(Frame(data_packet(b""), None)),
)


def cuts(stream: bytes, at: list[int]) -> Iterator[bytes]:
    """The stream in pieces, cut at those places (modulo its length)."""
    places = sorted({place % (len(stream) + 1) for place in at} | {0, len(stream)})
    for start, end in pairwise(places):
        yield stream[start:end]


@settings(max_examples=120, deadline=None)
@given(st.lists(FRAMES, max_size=12), st.lists(st.integers(0, 1 << 16), max_size=30))
def test_any_chunking_gives_the_same(frames: list[Frame], at: list[int]) -> None:
    bench = Bench()
    try:
        controls, packets = [], []
        for chunk in cuts(b"".join(frame.wire for frame in frames), at):
            controls += bench.feed(chunk)
            packets += bench.packets()
        assert controls == [frame.wire for frame in frames if frame.cell is Cell.CONTROL_IN]
        assert packets == [frame.packet for frame in frames if frame.cell is Cell.PACKETS_IN]
        expected = Counter(frame.cell for frame in frames if frame.cell is not None)
        if sizes := sum(len(frame.packet) for frame in frames):
            expected[Cell.BYTES_IN] = sizes
        assert bench.counted() == dict(expected)
    finally:
        bench.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(FRAMES, max_size=4))
def test_byte_by_byte(frames: list[Frame]) -> None:
    stream = b"".join(frame.wire[:300] if len(frame.wire) <= 300 else b"" for frame in frames)
    whole, single = Bench(), Bench()
    try:
        controls = whole.feed(stream)
        assert [found for byte in stream for found in single.feed(bytes([byte]))] == controls
        assert single.packets() == whole.packets()
        assert single.counted() == whole.counted()
    finally:
        whole.close()
        single.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(FRAMES, min_size=2, max_size=10), st.lists(st.integers(0, 1 << 16), max_size=20))
def test_a_gate_that_a_control_frame_moves_holds_for_the_next_byte(frames: list[Frame], at: list[int]) -> None:
    """Each control frame turns the gates over; the packets that pass are those between an odd and an even one."""
    bench = Bench()
    bench.path.set_gates(Gate.NONE)
    is_open = False
    expected = []
    for frame in frames:
        if frame.cell is Cell.CONTROL_IN:
            is_open = not is_open
        elif frame.cell is Cell.PACKETS_IN and is_open:
            expected.append(frame.packet)
    now_open = False
    passed = []
    try:
        for chunk in cuts(b"".join(frame.wire for frame in frames), at):
            view = memoryview(chunk)
            while True:
                consumed, found = bench.path.feed(view)
                view = view[consumed:]
                if found is None:
                    break
                now_open = not now_open
                bench.path.set_gates(Gate.IPV4 | Gate.IPV6 if now_open else Gate.NONE)
            passed += bench.packets()
        assert passed == expected
    finally:
        bench.close()


def outcome(stream: bytes, at: list[int]) -> tuple[list[bytes], list[bytes], dict[Cell, int], bool]:
    """Controls, packets, counters, and whether the framing broke."""
    bench = Bench()
    bench.path.set_sources(((0, 0),), ((0, 0),))
    controls: list[bytes] = []
    broken = False
    try:
        for chunk in cuts(stream, at):
            view = memoryview(chunk)
            while view:
                consumed, found = bench.path.feed(view)
                assert 0 < consumed <= len(view)
                assert found is not None or consumed == len(view)
                assert found is None or 5 <= len(found) <= MAX_FRAME
                view = view[consumed:]
                if found is not None:
                    controls.append(found)
    except FramingError:
        broken = True
    try:
        return controls, bench.packets(), bench.counted(), broken
    finally:
        bench.close()


MUTATIONS = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=6)


@settings(max_examples=150, deadline=None)
@given(st.lists(FRAMES, max_size=6), MUTATIONS, st.binary(max_size=30), st.lists(st.integers(0, 1 << 16), max_size=10))
def test_mutated_streams_break_only_the_framing(
    frames: list[Frame], mutations: list[tuple[int, int]], tail: bytes, at: list[int]
) -> None:
    stream = bytearray(b"".join(frame.wire for frame in frames) + tail)
    for place, value in mutations if stream else []:
        stream[place % len(stream)] = value
    assert outcome(bytes(stream), at) == outcome(bytes(stream), [])


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=64), st.lists(st.integers(0, 64), max_size=5))
def test_random_bytes_break_only_the_framing(stream: bytes, at: list[int]) -> None:
    assert outcome(stream, at) == outcome(stream, [])
    with_header = b"\x10\x00\x0f\xff" + stream * 64
    assert outcome(with_header, at) == outcome(with_header, [])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.integers(20, 1600).map(ipv4), st.integers(40, 1600).map(ipv6)), max_size=20))
def test_drain_and_feed_are_inverse(packets: list[bytes]) -> None:
    bench = Bench()
    try:
        for packet in packets:
            bench.kernel.send(packet)
        stream = b""
        more = True
        buffer = bytearray(4200)
        while more:
            filled, more = bench.path.drain(memoryview(buffer))
            stream += buffer[:filled]
        assert bench.feed(stream) == []
        passed = [packet for packet in packets if len(packet) <= 1500]
        assert bench.packets() == passed
        counted = bench.counted()
        assert counted.get(Cell.PACKETS_IN, 0) == counted.get(Cell.PACKETS_OUT, 0) == len(passed)
        assert counted.get(Cell.BYTES_IN, 0) == counted.get(Cell.BYTES_OUT, 0) == sum(map(len, passed))
        assert counted.get(Cell.DROP_TOO_LARGE, 0) == len(packets) - len(passed)
    finally:
        bench.close()
