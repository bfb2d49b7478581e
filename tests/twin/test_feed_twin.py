"""From the peer: on random and mutated streams, in any chunking, both paths do the same.

Merging changes the order of packets of different flows, and, where nobody can tell (RFC 6864 4.1), identifications of
packets that must not be fragmented; so flows are compared one by one. Everything else must be the same, to the byte.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from random import Random

import pytest

from sstpfarm.dataplane.interface import Cell, Gate, Offload
from tests.twin.bench import Bench, FramingError, native, packets_of
from tests.twin.packets import DONT_FRAGMENT, TCP, UDP, network_length, ones_sum, protocol_of
from tests.twin.streams import chunks, seeds, stream


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


@pytest.mark.parametrize("mutated", [False, True], ids=["whole", "mutated"])
@pytest.mark.parametrize("offload", Offload)
def test_both_do_the_same(offload: Offload, mutated: bool) -> None:
    merged = packets = 0
    for seed in seeds():
        random = Random(seed)
        frames = stream(random, mutated=mutated)
        gates = random.choices([Gate.IPV4 | Gate.IPV6, Gate.IPV4, Gate.IPV6, Gate.NONE], weights=[6, 1, 1, 1], k=5)
        limit = random.choice((1500, 1400, 600, 4087))
        outcomes = []
        for bench, level in ((Bench(), Offload.NONE), (Bench(native(offload)), offload)):
            bench.path.set_limits(receive=limit, send=1400)
            outcomes.append(run(bench, level, list(chunks(Random(seed), frames)), gates))
            bench.close()
        pure, fast = outcomes
        assert fast.controls == pure.controls, seed
        assert fast.counted == pure.counted, seed
        assert fast.broken == pure.broken, seed
        if offload in (Offload.NONE, Offload.HEADER):
            assert fast.packets == pure.packets, seed
        else:
            assert by_flow(fast.packets) == by_flow(pure.packets), seed
        merged += pure.writes - fast.writes
        packets += pure.writes
    if offload >= Offload.TSO:
        assert merged > packets // 5  # else this tests nothing
    else:
        assert merged == 0


def test_any_chunking_of_the_same_stream() -> None:
    """Every cut of a stream in two, byte by byte too."""
    random = Random(7)
    frames: list[bytes] = []
    while sum(map(len, frames)) < 4000:
        frames += [one for one in stream(random, mutated=False) if len(one) < 300][:40]
    whole = b"".join(frames)
    bench = Bench()
    expected = run(bench, Offload.NONE, [whole], [Gate.IPV4 | Gate.IPV6])
    bench.close()
    for cut in [*range(1, len(whole), 3), None]:
        pieces = [bytes([one]) for one in whole] if cut is None else [whole[:cut], whole[cut:]]
        bench = Bench(native(Offload.USO))
        found = run(bench, Offload.USO, pieces, [Gate.IPV4 | Gate.IPV6])
        bench.close()
        assert (found.controls, found.counted) == (expected.controls, expected.counted)
        assert by_flow(found.packets) == by_flow(expected.packets)


def test_random_bytes() -> None:
    for seed in seeds():
        random = Random(seed)
        noise = random.randbytes(random.randrange(200))
        if random.random() < 0.7:  # a header that holds for a while
            noise = b"\x10" + bytes([random.randrange(2)]) + random.randrange(8, 300).to_bytes(2, "big") + noise * 3
        outcomes = []
        for bench, level in ((Bench(), Offload.NONE), (Bench(native(Offload.USO)), Offload.USO)):
            bench.path.set_sources(((0, 0),), ((0, 0),))
            found = run(bench, level, list(chunks(Random(seed), [noise])), [Gate.IPV4 | Gate.IPV6])
            outcomes.append((found.controls, found.packets, found.counted, found.broken))
            bench.close()
        assert outcomes[0] == outcomes[1], seed
