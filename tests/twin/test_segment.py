"""Super-packets from the kernel, taken apart: fields of each segment, small buffers, closed gates, too large ones."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from sstpfarm.dataplane.interface import MAX_FRAME, Cell, Gate, Offload
from tests.twin.bench import Bench, native
from tests.twin.packets import ACK, CWR, FIN, PSH, TCP, UDP, Flow, are_sound, network_length
from tests.twin.supers import NEEDS_CSUM, PLAIN, Virtio, super_packet

FAMILIES = pytest.mark.parametrize("version", [4, 6])
PROTOCOLS = pytest.mark.parametrize("protocol", [TCP, UDP])


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(native(Offload.USO))
    made.path.set_limits(receive=1500, send=1400)
    yield made
    made.close()


def packets(frames: bytes) -> list[bytes]:
    """The packets in SSTP data packets, whose headers must be right."""
    found = []
    while frames:
        first, flags, length, ppp, protocol = struct.unpack_from("!BBHHH", frames)
        assert (first, flags, ppp) == (0x10, 0, 0xFF03)
        packet = frames[8:length]
        assert protocol == (0x21 if packet[0] >> 4 == 4 else 0x57)
        found.append(packet)
        frames = frames[length:]
    return found


@FAMILIES
@PROTOCOLS
@pytest.mark.parametrize("size", [1200, 1201, 2399, 2400, 50_000])
def test_segments_carry_the_payload_in_order(bench: Bench, version: int, protocol: int, size: int) -> None:
    flow = Flow(version=version, protocol=protocol, from_client=False, identification=0xFFFE, sequence=0xFFFFFF00)
    packet = flow.next(size)
    bench.kernel.send(super_packet(packet, 1200))
    made = packets(bench.drain())
    assert all(map(are_sound, made))
    assert [len(each) - flow.headers for each in made[:-1]] == [1200] * (len(made) - 1)
    assert b"".join(each[flow.headers :] for each in made) == packet[flow.headers :]
    start = network_length(packet)
    for number, each in enumerate(made):
        if version == 4:
            assert int.from_bytes(each[4:6], "big") == (0xFFFE + number) & 0xFFFF
            assert each[6:10] == packet[6:10]
        else:
            assert each[:4] == packet[:4]
        if protocol == TCP:
            sequence = (0xFFFFFF00 + 1200 * number) & 0xFFFFFFFF
            assert int.from_bytes(each[start + 4 : start + 8], "big") == sequence
            assert each[start + 8 : start + 16] == packet[start + 8 : start + 16]
    assert bench.counted() == {Cell.PACKETS_OUT: len(made), Cell.BYTES_OUT: sum(map(len, made))}


@FAMILIES
def test_flags_stand_where_they_belong(bench: Bench, version: int) -> None:
    flow = Flow(version=version, from_client=False)
    bench.kernel.send(super_packet(flow.next(3000, ACK | FIN | PSH | CWR), 1000))
    made = packets(bench.drain())
    place = (20 if version == 4 else 40) + 13
    assert [each[place] for each in made] == [ACK | CWR, ACK, ACK | FIN | PSH]
    assert all(map(are_sound, made))


@FAMILIES
def test_a_sum_of_zero_is_sent_as_ones_by_udp(bench: Bench, version: int) -> None:
    """The payload is chosen so that the checksum comes out as 0; RFC 768 writes that 0xffff."""
    flow = Flow(version=version, protocol=UDP, from_client=False)
    start = network_length(flow.next(8))
    wanted = next(
        payload
        for number in range(1 << 16)
        if flow.next(0, ACK, payload := bytes(98) + number.to_bytes(2, "big"))[start + 6 : start + 8] == b"\xff\xff"
    )
    single = super_packet(flow.next(0, ACK, wanted), 200)
    double = super_packet(flow.next(0, ACK, wanted + wanted), 100)
    assert Virtio.unpack(single).gso_type == 0
    bench.kernel.send(single)
    bench.kernel.send(double)
    made = packets(bench.drain())
    assert [each[start + 6 : start + 8] for each in made] == [b"\xff\xff"] * 3
    assert all(map(are_sound, made))


@FAMILIES
@PROTOCOLS
def test_an_unfinished_checksum_is_finished(bench: Bench, version: int, protocol: int) -> None:
    packet = Flow(version=version, protocol=protocol, from_client=False).next(501)
    bench.kernel.send(super_packet(packet, 600))
    assert packets(bench.drain()) == [packet]


@pytest.mark.parametrize("room", [MAX_FRAME, 5000, 70_000])
def test_a_small_buffer_takes_it_in_parts(bench: Bench, room: int) -> None:
    flow = Flow(from_client=False)
    whole = flow.next(64_000, ACK | PSH)
    bench.kernel.send(super_packet(whole, 1360))
    bench.kernel.send(PLAIN + flow.next(1))
    buffer = bytearray(room)
    found, calls, more = b"", 0, True
    while more:
        filled, more = bench.path.drain(memoryview(buffer))
        assert filled <= room
        found += buffer[:filled]
        calls += 1
    assert calls >= 66_000 // room
    made = packets(found)
    assert b"".join(each[40:] for each in made[:-1]) == whole[40:]
    assert len(made[-1]) == 41
    assert all(map(are_sound, made))


def test_many_small_segments_need_more_room_than_there_is(bench: Bench) -> None:
    flow = Flow(from_client=False, options=bytes(40))
    whole = flow.next(65_000)
    bench.kernel.send(super_packet(whole, 8))
    made = packets(bench.drain(1 << 18))
    assert len(made) == 65_000 // 8
    assert b"".join(each[80:] for each in made) == whole[80:]


def test_a_gate_that_closes_stops_what_was_kept(bench: Bench) -> None:
    bench.kernel.send(super_packet(Flow(from_client=False).next(13_600), 1360))
    buffer = memoryview(bytearray(MAX_FRAME))
    assert bench.path.drain(buffer) == (2 * 1408, True)
    bench.path.set_gates(Gate.IPV6)
    assert bench.path.drain(buffer) == (0, False)
    assert bench.counted() == {Cell.PACKETS_OUT: 2, Cell.BYTES_OUT: 2800, Cell.DROP_GATE_OUT: 8}


def test_what_is_discarded_is_counted_by_segments(bench: Bench) -> None:
    """What was kept of a super-packet, a whole one, and single packets."""
    flow = Flow(from_client=False)
    bench.kernel.send(super_packet(flow.next(13_600), 1360))
    buffer = memoryview(bytearray(MAX_FRAME))
    assert bench.path.drain(buffer)[1]
    for message in (super_packet(flow.next(2000), 1360), PLAIN + flow.next(100), b"\x01"):
        bench.kernel.send(message)
    assert not bench.path.discard()
    assert bench.drain() == b""
    assert bench.counted() == {
        Cell.PACKETS_OUT: 2,
        Cell.BYTES_OUT: 2800,
        Cell.DROP_RATE: 8 + 2 + 1,
        Cell.DROP_MALFORMED: 1,
    }


def test_detach_forgets_what_was_kept(bench: Bench) -> None:
    """The next session of the object's device must not see it."""
    bench.kernel.send(super_packet(Flow(from_client=False).next(13_600), 1360))
    buffer = memoryview(bytearray(MAX_FRAME))
    assert bench.path.drain(buffer)[1]
    bench.path.detach()
    bench.path.attach(bench.tun.fileno())
    assert bench.path.drain(buffer) == (0, False)


@FAMILIES
def test_segments_that_are_too_large(bench: Bench, version: int) -> None:
    """Each counts; the last one may be small enough."""
    flow = Flow(version=version, from_client=False)
    bench.path.set_limits(receive=1500, send=1300)
    bench.kernel.send(super_packet(flow.next(1350 * 4 + 10), 1350))
    [last] = packets(bench.drain())
    assert len(last) == flow.headers + 10
    assert are_sound(last)
    assert bench.counted()[Cell.DROP_TOO_LARGE] == 4


@pytest.mark.parametrize(
    "virtio",
    [
        Virtio(NEEDS_CSUM, 3, 40, 100, 20, 16),  # UFO, which was never asked for
        Virtio(NEEDS_CSUM, 9, 40, 100, 20, 16),
        Virtio(NEEDS_CSUM, 4, 40, 100, 20, 16),  # TCP over the other family
        Virtio(0, 1, 40, 100, 20, 16),
        Virtio(NEEDS_CSUM, 1, 40, 0, 20, 16),
        Virtio(NEEDS_CSUM, 1, 40, 100, 19, 16),
        Virtio(NEEDS_CSUM, 1, 40, 100, 24, 16),
        Virtio(NEEDS_CSUM, 1, 40, 100, 5000, 16),
        Virtio(NEEDS_CSUM, 0, 0, 0, 500, 16),  # outside of the packet
        Virtio(NEEDS_CSUM, 0, 0, 0, 0, 6),  # in its IP header
        Virtio(NEEDS_CSUM, 0, 0, 0, 65535, 65535),
    ],
)
def test_headers_that_make_no_sense(bench: Bench, virtio: Virtio) -> None:
    bench.kernel.send(virtio.pack() + Flow(from_client=False).next(300))
    assert bench.drain() == b""
    assert bench.counted() == {Cell.DROP_MALFORMED: 1}


@pytest.mark.parametrize("message", [b"\x01", bytes(9), bytes(10)])
def test_messages_without_a_packet(bench: Bench, message: bytes) -> None:
    bench.kernel.send(message)
    assert bench.drain() == b""
    assert bench.counted() == {Cell.DROP_MALFORMED: 1}
