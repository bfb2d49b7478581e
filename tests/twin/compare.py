"""What a path made of a stream, in a form in which two paths can be compared.

Merging changes the order of packets of different flows, and, where nobody can tell (RFC 6864 4.1), identifications of
packets that must not be fragmented; so flows are compared one by one. Everything else must be the same, to the byte.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from sstpfarm.dataplane.interface import Cell, FramingError, Gate, Offload
from tests.twin.bench import Bench, packets_of
from tests.twin.packets import DONT_FRAGMENT, TCP, UDP, network_length, ones_sum, protocol_of


@dataclass
class Outcome:
    """What a path made of a stream."""

    controls: list[bytes]
    packets: list[bytes]
    counted: dict[Cell, int]
    broken: str
    writes: int


def run(bench: Bench, offload: Offload, pieces: list[bytes], gates: list[Gate]) -> Outcome:
    """Feed the pieces; after each control frame the next gates hold."""
    controls: list[bytes] = []
    messages: list[bytes] = []
    broken = ""
    try:
        for piece in pieces:
            view = memoryview(piece)
            while True:
                consumed, control = bench.path.feed(view)
                view = view[consumed:]
                if control is None:
                    assert not view
                    break
                controls.append(control)
                bench.path.set_gates(gates[len(controls) % len(gates)])
            messages += bench.messages()
    except FramingError as error:
        broken = str(error)
        messages += bench.messages()
    return Outcome(controls, packets_of(messages, offload), bench.counted(), broken, len(messages))


def flow_of(packet: bytes) -> bytes:
    """Addresses, protocol and ports; "" for what is not plainly TCP or UDP."""
    if len(packet) < 24:
        return b""
    start = network_length(packet)
    if protocol_of(packet) not in (TCP, UDP) or (packet[0] >> 4 == 4 and packet[0] != 0x45) or len(packet) < start + 4:
        return b""
    if packet[0] >> 4 == 4 and int.from_bytes(packet[6:8], "big") & ~DONT_FRAGMENT:
        return b""
    addresses = packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]
    return bytes([packet[0] >> 4, protocol_of(packet)]) + addresses + packet[start : start + 4]


def without_identification(packet: bytes) -> bytes:
    """The packet without what merging may change."""
    if packet[0] == 0x45 and packet[6:8] == b"\x40\0" and ones_sum(packet[:20]) == 0xFFFF:
        return packet[:4] + b"\0\0" + packet[6:10] + b"\0\0" + packet[12:]
    return packet


def by_flow(packets: list[bytes]) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = defaultdict(list)
    for packet in packets:
        found[flow_of(packet)].append(without_identification(packet))
    return found
