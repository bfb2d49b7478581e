"""Which packets from the peer become one super-packet, and which never do."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from random import Random

import pytest

from sstpfarm.dataplane._fast import FastPath
from sstpfarm.dataplane.interface import CELLS, Cell, Gate, Offload
from tests.twin.bench import Bench, native
from tests.twin.packets import (
    ACK,
    CWR,
    DONT_FRAGMENT,
    ECE,
    FIN,
    PSH,
    RST,
    SYN,
    TCP,
    UDP,
    URG,
    Flow,
    ip_packet,
    with_checksums,
)
from tests.twin.streams import frame
from tests.twin.supers import PLAIN, Virtio, expand

FAMILIES = pytest.mark.parametrize("version", [4, 6])
PROTOCOLS = pytest.mark.parametrize("protocol", [TCP, UDP])


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(native(Offload.USO))
    yield made
    made.close()


def feed(bench: Bench, packets: list[bytes]) -> list[list[bytes]]:
    """The packets of each write that one feed() of all of them makes."""
    random = Random(1)
    random.random = lambda: 1.0  # type: ignore[method-assign]  # plain frames
    bench.feed(b"".join(frame(random, packet) for packet in packets))
    return [expand(message) for message in bench.messages()]


@FAMILIES
@PROTOCOLS
def test_a_run_is_one_write(bench: Bench, version: int, protocol: int) -> None:
    flow = Flow(version=version, protocol=protocol)
    packets = [flow.next(1000) for _ in range(20)]
    assert feed(bench, packets) == [packets]
    assert bench.counted() == {Cell.PACKETS_IN: 20, Cell.BYTES_IN: sum(map(len, packets))}


@FAMILIES
@PROTOCOLS
def test_one_packet_is_left_alone(bench: Bench, version: int, protocol: int) -> None:
    packet = Flow(version=version, protocol=protocol).next(1000)
    bench.feed(frame(Random(5), packet))
    assert bench.messages() == [PLAIN + packet]


@FAMILIES
@PROTOCOLS
def test_a_shorter_one_ends_the_run_and_a_longer_one_begins_another(bench: Bench, version: int, protocol: int) -> None:
    flow = Flow(version=version, protocol=protocol)
    a, b, short, c, d, longer = (flow.next(size) for size in (100, 100, 99, 100, 100, 101))
    assert feed(bench, [a, b, short, c, d, longer]) == [[a, b, short], [c, d], [longer]]


@FAMILIES
def test_push_ends_the_run(bench: Bench, version: int) -> None:
    flow = Flow(version=version)
    packets = [flow.next(100, flags) for flags in (ACK, ACK, ACK | PSH, ACK, ACK | PSH, ACK | PSH, ACK)]
    a, b, c, d, e, f, g = packets
    assert feed(bench, packets) == [[a, b, c], [d, e], [f], [g]]


@FAMILIES
@pytest.mark.parametrize("flags", [ACK | FIN, ACK | CWR, ACK | ECE, ACK | URG, ACK | RST, SYN, 0, ACK | 0x100, FIN])
def test_other_flags_go_alone_and_in_order(bench: Bench, version: int, flags: int) -> None:
    flow = Flow(version=version)
    packets = [flow.next(100, each) for each in (ACK, ACK, flags, ACK, ACK)]
    assert feed(bench, packets) == [packets[:2], packets[2:3], packets[3:]]


@FAMILIES
def test_acknowledgements_without_data_go_alone_and_in_order(bench: Bench, version: int) -> None:
    flow = Flow(version=version)
    packets = [flow.next(size) for size in (100, 100, 0, 0, 100)]
    a, b, c, d, e = packets
    assert feed(bench, packets) == [[a, b], [c], [d], [e]]


def set_window(flow: Flow) -> None:
    flow.window += 1


def set_acknowledgement(flow: Flow) -> None:
    flow.acknowledgement += 1


def set_options(flow: Flow) -> None:
    flow.options = bytes.fromhex("0101080a0000123500005678")


def set_tos(flow: Flow) -> None:
    flow.tos = 3  # congestion experienced


def set_ttl(flow: Flow) -> None:
    flow.ttl -= 1


def set_sequence(flow: Flow) -> None:
    flow.sequence -= 100


def set_gap(flow: Flow) -> None:
    flow.sequence += 1


@FAMILIES
@pytest.mark.parametrize(
    "change", [set_window, set_acknowledgement, set_options, set_tos, set_ttl, set_sequence, set_gap]
)
def test_what_the_first_does_not_say_begins_another_run(
    bench: Bench, version: int, change: Callable[[Flow], None]
) -> None:
    flow = Flow(version=version, options=bytes.fromhex("0101080a0000123400005678"))
    before = [flow.next(100), flow.next(100)]
    change(flow)
    after = [flow.next(100), flow.next(100)]
    assert feed(bench, before + after) == [before, after]


def test_the_flow_label_is_part_of_the_headers(bench: Bench) -> None:
    flow = Flow(version=6)
    before = [flow.next(100), flow.next(100)]
    flow.flow_label += 1
    after = [flow.next(100), flow.next(100)]
    assert feed(bench, before + after) == [before, after]


@PROTOCOLS
def test_identifications_that_jump(bench: Bench, protocol: int) -> None:
    """They matter to packets that may be fragmented, and only to those."""
    flow = Flow(protocol=protocol, fragment=0, identification=0xFFFF)
    before = [flow.next(100), flow.next(100)]
    flow.identification = 7
    after = [flow.next(100), flow.next(100)]
    assert feed(bench, before + after) == [before, after]
    flow = Flow(protocol=protocol, fragment=DONT_FRAGMENT, identification=0)
    packets = [flow.next(100)]
    flow.identification = 0
    packets.append(flow.next(100))
    [group] = feed(bench, packets)
    assert [each[6:10] + each[20:] for each in group] == [each[6:10] + each[20:] for each in packets]
    assert [each[4:6] for each in group] == [b"\0\0", b"\0\1"]


def test_fragments_options_and_extension_headers_go_alone(bench: Bench) -> None:
    def segment(flow: Flow) -> bytes:
        packet = flow.next(100)
        return packet[20 if flow.version == 4 else 40 :]

    flow, flow6 = Flow(), Flow(version=6)
    first = flow.next(100)
    odd = [
        ip_packet(4, TCP, segment(flow), fragment=0x2000),
        ip_packet(4, TCP, segment(flow), fragment=0x0001),
        ip_packet(4, TCP, segment(flow), fragment=0x8000),
        ip_packet(4, TCP, segment(flow), options=b"\x01\x01\x01\x00"),
        ip_packet(6, 60, segment(flow6), options=bytes([TCP, 0, 1, 4, 0, 0, 0, 0])),
        ip_packet(4, 1, b"\x08\0\0\0" * 2),
    ]
    last = flow.next(100)
    assert feed(bench, [first, *odd, last]) == [[first], *([each] for each in odd), [last]]


def test_udp_without_checksum_goes_alone(bench: Bench) -> None:
    flow = Flow(protocol=UDP)
    packets = [flow.next(100) for _ in range(4)]
    bare = bytearray(packets[1])
    bare[26:28] = b"\0\0"
    packets[1] = bytes(bare)
    assert feed(bench, packets) == [[packets[0]], [packets[1]], packets[2:]]


def test_udp_whose_length_is_not_that_of_the_packet_goes_alone(bench: Bench) -> None:
    flow = Flow(protocol=UDP)
    packets = [flow.next(100) for _ in range(3)]
    made = bytearray(packets[1])
    made[25] -= 1
    packets[1] = with_checksums(bytes(made))
    assert feed(bench, packets) == [[packets[0]], [packets[1]], [packets[2]]]


@FAMILIES
@PROTOCOLS
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_corrupted_packet_arrives_as_corrupted_as_it_was(
    bench: Bench, version: int, protocol: int, which: int
) -> None:
    """At each byte of it: nobody mends its checksum."""
    pure = Bench()
    for path in (bench.path, pure.path):
        path.set_sources(((0, 0),), ((0, 0),))
    for place in range(len(Flow(version=version, protocol=protocol).next(100))):
        flow = Flow(version=version, protocol=protocol, fragment=0)
        packets = [flow.next(100) for _ in range(3)]
        made = bytearray(packets[which])
        made[place] ^= 0x10
        packets[which] = bytes(made)
        stream = b"".join(map(frame_plain, packets))
        bench.feed(stream)
        pure.feed(stream)
        found = [packet for message in bench.messages() for packet in expand(message)]
        assert sorted(found) == sorted(pure.messages())
        if place >= (4 if version == 4 else 6):  # before that are version and length
            assert packets[which] in found
    pure.close()


def frame_plain(packet: bytes) -> bytes:
    ppp = b"\xff\x03\x00\x21" if packet[0] >> 4 == 4 else b"\xff\x03\x00\x57"
    return b"\x10\x00" + (8 + len(packet)).to_bytes(2, "big") + ppp + packet


def test_the_unusual_zero_of_a_checksum_is_not_made_usual(bench: Bench) -> None:
    """0xffff where 0 is usual holds as well, and must stay."""
    flow = Flow(sequence=0)
    payload = next(
        guess
        for number in range(1 << 17)
        if with_checksums(Flow(sequence=100, identification=6).next(0, ACK, guess := number.to_bytes(100, "big")))[
            36:38
        ]
        == b"\0\0"
    )
    first = flow.next(100)
    second = bytearray(flow.next(0, ACK, payload))
    assert second[36:38] == b"\0\0"
    second[36:38] = b"\xff\xff"
    assert feed(bench, [first, bytes(second)]) == [[first], [bytes(second)]]


@FAMILIES
def test_the_largest_super_packet(bench: Bench, version: int) -> None:
    flow = Flow(version=version)
    fit = (65535 - flow.headers) // 1400
    packets = [flow.next(1400) for _ in range(fit + 3)]
    assert [len(group) for group in feed(bench, packets)] == [fit, 3]


@pytest.mark.parametrize(("protocol", "most"), [(TCP, 128), (UDP, 64)])
def test_segments_are_bounded(bench: Bench, protocol: int, most: int) -> None:
    flow = Flow(protocol=protocol)
    packets = [flow.next(10) for _ in range(most + 5)]
    assert [len(group) for group in feed(bench, packets)] == [most, 5]


def test_several_flows_side_by_side(bench: Bench) -> None:
    flows = [Flow(version=4 + 2 * (n % 2), protocol=(TCP, UDP)[n // 4], ports=(n, 9)) for n in range(8)]
    rounds = [[flow.next(100) for flow in flows] for _ in range(5)]
    groups = feed(bench, [packet for one in rounds for packet in one])
    assert groups == [[one[n] for one in rounds] for n in range(8)]


def test_more_flows_than_runs_lose_only_speed(bench: Bench) -> None:
    flows = [Flow(ports=(n, 9)) for n in range(11)]
    rounds = [[flow.next(100) for flow in flows] for _ in range(4)]
    groups = feed(bench, [packet for one in rounds for packet in one])
    for n in range(11):
        found = [packet for group in groups for packet in group if packet[20:22] == n.to_bytes(2, "big")]
        assert found == [one[n] for one in rounds]


def test_a_run_ends_with_the_call_and_at_a_control_frame(bench: Bench) -> None:
    flow = Flow()
    a, b, c, d = (frame_plain(flow.next(100)) for _ in range(4))
    echo = bytes.fromhex("1001000800080000")
    stream = memoryview(a + b + echo + c + d)
    consumed, control = bench.path.feed(stream)
    assert control == echo
    assert [len(expand(message)) for message in bench.messages()] == [2]
    assert bench.path.feed(stream[consumed:]) == (len(c + d), None)
    assert [len(expand(message)) for message in bench.messages()] == [2]


def test_a_run_may_begin_in_a_frame_that_came_in_parts(bench: Bench) -> None:
    flow = Flow()
    packets = [flow.next(100) for _ in range(3)]
    stream = b"".join(map(frame_plain, packets))
    assert bench.path.feed(memoryview(stream[:50])) == (50, None)
    assert bench.messages() == []
    bench.feed(stream[50:])
    [message] = bench.messages()
    assert expand(message) == packets


def test_a_super_packet_that_the_kernel_refuses_goes_in_parts(bench: Bench) -> None:
    """A socket that takes no large message stands for a kernel without segmentation."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
        bench.path.attach(left.fileno())
        flow = Flow()
        packets = [flow.next(1000) for _ in range(60)]
        bench.feed(b"".join(map(frame_plain, packets)))
        found = []
        while True:
            try:
                found.append(right.recv(1 << 17))
            except BlockingIOError:
                break
    assert found
    assert found == [PLAIN + packet for packet in packets[: len(found)]]
    assert bench.counted() == {
        Cell.PACKETS_IN: len(found),
        Cell.BYTES_IN: 1040 * len(found),
        Cell.DROP_TUN: 60 - len(found),
    }


@pytest.mark.parametrize(
    ("offload", "writes"), [(Offload.NONE, 8), (Offload.HEADER, 8), (Offload.TSO, 5), (Offload.USO, 2)]
)
def test_each_step_of_offload(offload: Offload, writes: int) -> None:
    bench = Bench(native(offload))
    tcp, udp = Flow(), Flow(protocol=UDP)
    packets = [flow.next(100) for flow in (tcp, udp) for _ in range(4)]
    bench.feed(b"".join(map(frame_plain, packets)))
    messages = bench.messages()
    assert len(messages) == writes
    if offload is Offload.NONE:
        assert messages == packets
    elif offload is Offload.HEADER:
        assert messages == [PLAIN + packet for packet in packets]
    bench.close()


def test_the_header_of_a_super_packet(bench: Bench) -> None:
    """Against the definition, not only against the expander."""
    flow = Flow(version=6, options=bytes(12))
    bench.feed(b"".join(frame_plain(flow.next(500)) for _ in range(3)))
    [message] = bench.messages()
    assert Virtio.unpack(message) == Virtio(1, 4, 72, 500, 40, 16)
    assert len(message) == 10 + 72 + 1500


def test_memory_of_a_session(bench: Bench) -> None:
    """An idle path keeps less than 1 KiB."""
    assert sys.getsizeof(bench.path) < 512


def test_it_says_what_it_is_not() -> None:
    cells = memoryview(bytearray(8 * CELLS)).cast("Q")
    with pytest.raises(ValueError, match="9"):
        FastPath(cells, cells, 9)  # type: ignore[arg-type]  # what a caller that is wrong would do
    path = FastPath(cells, cells)
    path.set_gates(Gate.IPV4)
    assert path.feed(memoryview(b"")) == (0, None)
