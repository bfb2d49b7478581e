"""Multilink and bridging: on random input both paths answer alike, call by call; super-packets segment by segment."""

from __future__ import annotations

from random import Random

import pytest

from sstpfarm.dataplane.interface import MAX_FRAME, Gate, Offload, PacketPath, RouterRole
from tests.twin.bench import Bench, native
from tests.twin.compare import by_flow, run
from tests.twin.packets import UDP, ip_packet
from tests.twin.streams import chunks, frame, router_packet, seeds, some_flow, stream
from tests.twin.supers import PLAIN, expand, super_packet

SENT = tuple[bytes, bool]  # bytes, and whether they are a packet that only fits in fragments


def in_fragments(random: Random, one: bytes, header: int) -> bytes:
    """A data packet as a fragment, mostly one that is whole."""
    if one[1] & 1 or random.random() < 0.3:
        return one
    flags = random.choice((0xC0, 0xC0, 0xC0, 0xFF, 0x80, 0x40, 0x00))
    protocol = random.choice((b"\xff\x03\x00\x3d", b"\x00\x3d", b"\x3d"))
    body = protocol + bytes([flags]) + random.randbytes(header - 1) + one[4:]
    return b"\x10\x00" + (4 + len(body)).to_bytes(2, "big") + body


@pytest.mark.parametrize("offload", Offload)
def test_fragments_from_the_peer(offload: Offload) -> None:
    for seed in seeds(120):
        random = Random(seed)
        header = random.choice((2, 4))
        frames = [in_fragments(random, one, header) for one in stream(random, mutated=random.random() < 0.5)]
        outcomes = []
        for bench, level in ((Bench(), Offload.NONE), (Bench(native(offload)), offload)):
            bench.path.set_limits(receive=1400, send=1400)
            bench.path.set_multilink(header=header, receive=1500, send=1500)
            gates = [Gate.IPV4 | Gate.IPV6, Gate.IPV4]
            outcomes.append(run(bench, level, list(chunks(Random(seed), frames)), gates))
            bench.close()
        pure, fast = outcomes
        assert (fast.controls, fast.counted, fast.broken) == (pure.controls, pure.counted, pure.broken), seed
        assert by_flow(fast.packets) == by_flow(pure.packets), seed


@pytest.mark.parametrize("offload", Offload)
def test_delivered_packets(offload: Offload) -> None:
    asked = 0
    for seed in seeds(120):
        random = Random(seed)
        router = random.choices(list(RouterRole), weights=[1, 8, 1])[0]
        flow = some_flow(random, 1)
        packets = []
        for _ in range(20):
            made = bytearray(frame(random, flow.next(random.choice((1, 1348, 1460, 1600))))[4:])
            if random.random() < 0.3:
                made[random.randrange(min(len(made), 40))] = random.getrandbits(8)
            if random.random() < 0.2:
                made = bytearray(frame(random, router_packet(random))[4:])
            packets.append(bytes(made[: random.randrange(len(made) + 1)] if random.random() < 0.1 else made))
        found = []
        for bench, level in ((Bench(), Offload.NONE), (Bench(native(offload)), offload)):
            bench.path.set_multilink(header=4, receive=1500, send=1500)
            bench.path.set_router(router)
            asks = [bench.path.deliver(packet) for packet in packets]
            found.append(
                (asks, [one for m in bench.messages() for one in (expand(m) if level else [m])], bench.counted())
            )
            bench.close()
        assert found[0] == found[1], seed
        asked += sum(found[0][0])
    assert asked > 20


def all_of(path: PacketPath, room: int, shed: Random | None = None) -> list[SENT]:
    """What is sent, in order."""
    sent: list[SENT] = []
    buffer = memoryview(bytearray(room))
    while True:
        filled, more = path.drain(buffer, shed is not None and shed.random() < 0.2)
        view = bytes(buffer[:filled])
        while view:
            length = int.from_bytes(view[2:4], "big")
            sent.append((view[:length], False))
            view = view[length:]
        large = path.large()
        if large is not None:
            sent.append((large, True))
        if not more:
            return sent


@pytest.mark.parametrize("offload", [Offload.HEADER, Offload.TSO, Offload.USO])
def test_large_packets_from_the_kernel(offload: Offload) -> None:
    larges = 0
    for seed in seeds(120):
        random = Random(seed)
        limit, whole = random.choice(((1400, 1600), (576, 1500), (1500, 1500), (1400, 16384), (100, 1500)))
        room = random.choice((MAX_FRAME, 9000, 1 << 18))
        pure, fast = Bench(), Bench(native(offload))
        for bench in (pure, fast):
            bench.path.set_limits(receive=1500, send=limit)
            bench.path.set_multilink(header=4, receive=1600, send=whole)
        expected: list[SENT] = []
        found: list[SENT] = []
        for number in range(6):
            flow = some_flow(random, number)
            flow.from_client = False
            size = random.choice((100, 1348, 1460, 1560, 5000, 40000))
            packet = flow.next(size)
            unit = random.choice((536, 1348, 1460, 1560, limit - flow.headers + random.choice((-1, 0, 1))))
            if offload is Offload.HEADER or size < 2000 or (flow.protocol == UDP and offload is Offload.TSO):
                message = PLAIN + flow.next(random.choice((60, 1348, 1400, 1500, 1560)))
                if offload is not Offload.HEADER:
                    message = super_packet(message[len(PLAIN) :], 60000)  # one unfinished checksum
            else:
                message = super_packet(packet, max(unit, 30 if flow.protocol == UDP else 1))
            if random.random() < 0.1:
                message = PLAIN + ip_packet(4, 47, bytes(1450))
            fast.kernel.send(message)
            found += all_of(fast.path, room)
            for one in expand(message):
                pure.kernel.send(one)
                expected += all_of(pure.path, room)
        assert found == expected, seed
        assert fast.counted() == pure.counted(), seed
        larges += sum(large for _, large in found)
        pure.close()
        fast.close()
    assert larges > 200  # else this tests nothing


def some_ethernet(random: Random) -> bytes:
    address = random.choice((b"\xff" * 6, bytes.fromhex("0180c200000e"), bytes.fromhex("0180c2000010"), bytes(6)))
    kind = random.choice((b"\x08\x06", b"\x81\x00", b"\x88\xa8", b"\x08\x00"))
    made = address + random.randbytes(6) + kind + random.randbytes(random.choice((0, 28, 46, 1366, 1384, 1500, 1600)))
    return made[: random.randrange(1, 20)] if random.random() < 0.1 else made


def test_ethernet_frames_both_ways() -> None:
    for seed in seeds():
        random = Random(seed)
        gates = random.choice((Gate.BRIDGE, Gate.BRIDGE | Gate.TAGGED, Gate.NONE, Gate.IPV4 | Gate.BRIDGE))
        out = [some_ethernet(random) for _ in range(random.randrange(30))]
        into = []
        for _ in range(random.randrange(30)):
            flags = random.choice((0, 0, 0, 0x80, 0x20, 0xA0, 0x10, 0x05, 0x40, random.getrandbits(8)))
            body = b"\xff\x03\x00\x31" + bytes([flags, random.choice((1, 1, 1, 1, 2))]) + some_ethernet(random)
            body = body[: random.randrange(4, 12)] if random.random() < 0.1 else body
            into.append(b"\x10\x00" + (4 + len(body)).to_bytes(2, "big") + body)
        outcomes = []
        for bench in (Bench(), Bench(native(Offload.USO))):
            chance = Random(seed)
            bench.path.attach(bench.tun.fileno(), bridged=True)
            bench.path.set_limits(receive=1400, send=1400)
            if seed % 2:
                bench.path.set_multilink(header=4, receive=1600, send=1600)
            bench.path.set_gates(gates)
            for one in out:
                bench.kernel.send(one)
            sent = all_of(bench.path, chance.choice((MAX_FRAME, 1 << 17)), chance)
            pieces = list(chunks(chance, into))
            outcomes.append((sent, run(bench, Offload.NONE, pieces, [gates]), bench.counted()))
            bench.close()
        assert outcomes[0] == outcomes[1], seed
