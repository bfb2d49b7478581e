"""Both packet paths on a TAP device: Ethernet frames in PPP (RFC 3518 4.1), and which frames do not pass."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sstpfarm.dataplane.interface import HEADROOM, Cell, Gate
from tests.unit.pure_bench import BOTH, Bench, data_packet, ipv4
from tests.vectors.loader import Vector, borrow, load

HEAD = b"\xff\x03\x00\x31\x00\x01"
ARP = borrow("ppp-bcp-frame")["ppp_frame"][6:]  # the Ethernet frame: 42 bytes
TAGGED = ARP[:12] + b"\x81\x00\x00\x07" + ARP[12:]
SERVICE_TAGGED = ARP[:12] + b"\x88\xa8\x00\x07" + ARP[12:]
OPEN = Gate.BRIDGE | Gate.TAGGED


def to(address: str, frame: bytes = ARP) -> bytes:
    return bytes.fromhex(address.replace("-", "")) + frame[6:]


@pytest.fixture(params=BOTH)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(request.param)
    made.path.attach(made.tun.fileno(), bridged=True)
    made.path.set_gates(OPEN)
    yield made
    made.close()


@pytest.mark.parametrize("vector", load("ppp-bcp-*"), ids=str)
def test_the_frame_of_the_vector_both_ways(bench: Bench, vector: Vector) -> None:
    bench.feed(vector["sstp_data_packet"])
    assert bench.packets() == [ARP]
    bench.kernel.send(ARP)
    assert bench.drain() == (vector["sstp_data_packet"], False)
    size = len(ARP)
    assert bench.counted() == {
        Cell.PACKETS_IN: 1,
        Cell.BYTES_IN: size,
        Cell.PACKETS_OUT: 1,
        Cell.BYTES_OUT: size + 2,  # the PPP information field
    }


# -- from the peer -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("information", "frame"),
    [
        (b"\x80\x01" + ARP + b"FCS4", ARP),
        (b"\x03\x01" + ARP + b"pad", ARP),
        (b"\x85\x01" + ARP + b"FCS4" + b"pads5", ARP),
        (b"\x20\x01" + ARP, ARP + bytes(18)),  # tinygram: the zeros come back
        (b"\x20\x01" + ARP + bytes(30), ARP + bytes(30)),
        (b"\xa0\x01" + ARP + b"FCS4", ARP + bytes(18)),
        (b"\x40\x01" + ARP, ARP),  # reserved, a LAN identification once
        (b"\x00\x01" + ARP[:14], ARP[:14]),
        (b"\x00\x01" + TAGGED, TAGGED),
    ],
)
def test_what_surrounds_a_frame_is_taken_off(bench: Bench, information: bytes, frame: bytes) -> None:
    assert bench.feed(data_packet(b"\xff\x03\x00\x31" + information)) == []
    assert bench.packets() == [frame]


@pytest.mark.parametrize(
    ("information", "cell"),
    [
        (b"", Cell.DROP_MALFORMED),
        (b"\x00", Cell.DROP_MALFORMED),
        (b"\x00\x01", Cell.DROP_MALFORMED),
        (b"\x00\x01" + ARP[:13], Cell.DROP_MALFORMED),
        (b"\x81\x01" + ARP[:14] + b"FCS4", Cell.DROP_MALFORMED),
        (b"\x0f\x01" + bytes(10), Cell.DROP_MALFORMED),
        (b"\x10\x01" + ARP, Cell.DROP_PROTOCOL),  # a bridge control packet
        (b"\x00\x02" + ARP, Cell.DROP_PROTOCOL),  # token bus
        (b"\x00\x01" + to("01-80-c2-00-00-00"), Cell.DROP_PROTOCOL),  # a BPDU
        (b"\x00\x01" + to("01-80-c2-00-00-0f"), Cell.DROP_PROTOCOL),
        (b"\x00\x01" + bytes(1499), Cell.DROP_TOO_LARGE),
    ],
)
def test_what_does_not_pass(bench: Bench, information: bytes, cell: Cell) -> None:
    bench.feed(data_packet(b"\xff\x03\x00\x31" + information))
    assert bench.packets() == []
    assert bench.counted() == {cell: 1}


@pytest.mark.parametrize(
    "address", ["01-80-c2-00-00-10", "01-80-c2-00-01-00", "01-80-c2-01-00-00", "33-33-00-00-00-01"]
)
def test_neighbours_of_the_reserved_addresses_pass(bench: Bench, address: str) -> None:
    bench.feed(data_packet(HEAD + to(address)))
    bench.kernel.send(to(address))
    assert bench.packets() == [to(address)]
    assert len(bench.drain()[0]) == len(ARP) + 2 + HEADROOM


def test_no_ip_packet_is_written_to_a_tap(bench: Bench) -> None:
    """Its bytes would be taken for an Ethernet header."""
    bench.path.set_gates(Gate.IPV4 | Gate.IPV6 | OPEN)
    bench.feed(data_packet(b"\xff\x03\x00\x21" + ipv4()))
    assert bench.packets() == []
    assert bench.counted() == {Cell.DROP_GATE_IN: 1}


def test_no_frame_is_written_to_a_tun(bench: Bench) -> None:
    bench.path.attach(bench.tun.fileno())
    bench.feed(data_packet(HEAD + ARP))
    assert bench.packets() == []
    assert bench.counted() == {Cell.DROP_GATE_IN: 1}


@pytest.mark.parametrize("gates", [Gate.NONE, Gate.TAGGED, Gate.IPV4])
def test_the_gate(bench: Bench, gates: Gate) -> None:
    bench.path.set_gates(gates)
    bench.feed(data_packet(HEAD + ARP))
    bench.kernel.send(ARP)
    assert bench.drain() == (b"", False)
    assert bench.packets() == []
    assert bench.counted() == {Cell.DROP_GATE_IN: 1, Cell.DROP_GATE_OUT: 1}


def test_without_a_device(bench: Bench) -> None:
    bench.path.detach()
    bench.feed(data_packet(HEAD + ARP))
    assert bench.counted() == {Cell.DROP_TUN: 1}


# -- towards the peer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "cell"),
    [
        (ARP[:13], Cell.DROP_MALFORMED),
        (to("01-80-c2-00-00-00"), Cell.DROP_PROTOCOL),
        (to("01-80-c2-00-00-0e"), Cell.DROP_PROTOCOL),  # LLDP
        (ARP + bytes(1500), Cell.DROP_TOO_LARGE),
    ],
)
def test_what_is_not_sent(bench: Bench, frame: bytes, cell: Cell) -> None:
    bench.kernel.send(frame)
    assert bench.drain() == (b"", False)
    assert bench.counted() == {cell: 1}


@pytest.mark.parametrize("frame", [TAGGED, SERVICE_TAGGED])
def test_tags_go_only_to_a_peer_that_takes_them(bench: Bench, frame: bytes) -> None:
    bench.kernel.send(frame)
    assert bench.drain() == (data_packet(HEAD + frame), False)
    bench.path.set_gates(Gate.BRIDGE)
    bench.kernel.send(frame)
    bench.kernel.send(ARP)
    assert bench.drain() == (data_packet(HEAD + ARP), False)
    assert bench.counted()[Cell.DROP_PROTOCOL] == 1


@pytest.mark.parametrize(("size", "passes"), [(1498, True), (1499, False)])
def test_the_send_limit_counts_the_header_of_bridging(bench: Bench, size: int, passes: bool) -> None:
    frame = ARP + bytes(size - len(ARP))
    bench.kernel.send(frame)
    assert bench.drain() == (data_packet(HEAD + frame) if passes else b"", False)


def test_a_full_frame_goes_in_fragments(bench: Bench) -> None:
    bench.path.set_multilink(header=4, receive=1600, send=1600)
    frame = ARP + bytes(1514 - len(ARP))
    bench.kernel.send(ARP)
    bench.kernel.send(frame)
    assert bench.drain() == (data_packet(HEAD + ARP), True)
    assert bench.path.large() == b"\x00\x31\x00\x01" + frame
    bench.path.deliver(b"\x00\x31\x00\x01" + frame)
    bench.feed(data_packet(b"\xff\x03\x00\x3d\xc0\0\0\0\x31\x00\x01" + frame))
    assert bench.packets() == [frame, frame]


@pytest.mark.parametrize(
    ("limit", "cell"), [(1, Cell.DROP_MALFORMED), (15, Cell.DROP_TOO_LARGE), (16, Cell.DROP_TOO_LARGE)]
)
def test_limits_in_which_no_frame_fits_do_no_harm(bench: Bench, limit: int, cell: Cell) -> None:
    """Of what is too large only so much is read that it shows."""
    bench.path.set_limits(receive=1500, send=limit)
    bench.kernel.send(ARP)
    assert bench.drain() == (b"", False)
    assert bench.counted() == {cell: 1}


def test_a_session_without_a_bridge_again(bench: Bench) -> None:
    bench.path.attach(bench.tun.fileno())
    bench.path.set_gates(Gate.IPV4)
    bench.kernel.send(ipv4())
    assert bench.drain() == (data_packet(b"\xff\x03\x00\x21" + ipv4()), False)
