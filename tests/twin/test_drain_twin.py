"""From the kernel: a super-packet through the native path gives the frames that its segments give through `pure.py`."""

from __future__ import annotations

from random import Random

import pytest

from sstpfarm.dataplane.interface import MAX_FRAME, Gate, Offload
from tests.twin.bench import Bench, native
from tests.twin.packets import ACK, CWR, FIN, PSH, TCP, UDP, ip_packet
from tests.twin.streams import seeds, some_flow
from tests.twin.supers import PLAIN, expand, super_packet


def some_messages(random: Random, offload: Offload) -> list[bytes]:
    """What a TUN of that offload hands out: packets, unfinished packets, super-packets, and what is not IP."""
    made = []
    for number in range(random.randrange(1, 6)):
        flow = some_flow(random, number)
        flow.from_client = False
        kind = random.random()
        if kind < 0.15:
            message = PLAIN + ip_packet(random.choice((4, 6)), 58, random.randbytes(random.randrange(60)))
        elif kind < 0.2:
            message = PLAIN + bytes([random.randrange(256)]) + random.randbytes(20)
        elif kind < 0.5 or offload is Offload.HEADER or (flow.protocol == UDP and offload is Offload.TSO):
            packet = flow.next(random.choice((1, 100, 1300, 1348, random.randrange(1600))))
            message = PLAIN + packet if offload is Offload.HEADER or kind < 0.3 else super_packet(packet, 4000)
        else:
            flags = ACK | random.choice((0, 0, PSH, FIN | PSH, CWR, CWR | FIN)) if flow.protocol == TCP else ACK
            unit = random.choice((1348, 1400 - flow.headers, 536, 100, 9, random.randrange(1, 1500)))
            most = min(65535 - flow.headers, unit * 60 if flow.protocol == UDP else 60000)
            packet = flow.next(random.choice((most, random.randrange(1, most), unit, min(most, unit + 1))), flags)
            message = super_packet(packet, unit)
        made.append(message)
    return made


@pytest.mark.parametrize("offload", [Offload.HEADER, Offload.TSO, Offload.USO])
def test_both_do_the_same(offload: Offload) -> None:
    for seed in seeds(80):
        random = Random(seed)
        pure, fast = Bench(), Bench(native(offload))
        gates = random.choice((Gate.IPV4 | Gate.IPV6, Gate.IPV4 | Gate.IPV6, Gate.IPV4, Gate.IPV6, Gate.NONE))
        limit = random.choice((1400, 1400, 1500, 600, 68, 4087))
        room = random.choice((MAX_FRAME, MAX_FRAME + random.randrange(5000), 1 << 16, 1 << 18))
        for bench in (pure, fast):
            bench.path.set_gates(gates)
            bench.path.set_limits(receive=1500, send=limit)
        for _ in range(random.randrange(1, 4)):
            expected = b""
            messages = some_messages(random, offload)
            for message in messages:
                fast.kernel.send(message)
                packets = expand(message)
                for start in range(0, len(packets), 40):  # a socket holds only so many
                    for packet in packets[start : start + 40]:
                        pure.kernel.send(packet)
                    expected += pure.drain()
            assert fast.drain(room) == expected, seed
        assert fast.counted() == pure.counted(), seed
        pure.close()
        fast.close()


def test_plain_devices_byte_by_byte() -> None:
    """Without headers the two answer alike at each single call."""
    for seed in seeds():
        random = Random(seed)
        pure, fast = Bench(), Bench(native(Offload.NONE))
        limit, room = random.choice((1400, 600, 4087)), random.choice((MAX_FRAME, 5000, 1 << 16))
        for _ in range(random.randrange(1, 100)):
            packet = random.randbytes(1) + random.randbytes(random.choice((0, 27, 599, 600, 1399, 1400, 4087)))
            if random.random() < 0.9:
                packet = bytes([random.choice((0x45, 0x60))]) + packet[1:]
            for bench in (pure, fast):
                bench.kernel.send(packet)
        buffers = bytearray(room), bytearray(room)
        for bench in (pure, fast):
            bench.path.set_limits(receive=1500, send=limit)
        more = True
        while more:
            filled, more = pure.path.drain(memoryview(buffers[0]))
            assert fast.path.drain(memoryview(buffers[1])) == (filled, more)
            assert buffers[0][:filled] == buffers[1][:filled]
        assert fast.counted() == pure.counted()
        pure.close()
        fast.close()


def test_any_header_and_packet_do_no_harm() -> None:
    """The kernel is trusted, but no length of its is used unchecked; whatever it says, frames come out."""
    for seed in seeds():
        random = Random(seed)
        bench = Bench(native(Offload.USO))
        flow = some_flow(random, 1)
        flow.from_client = False
        message = bytearray(super_packet(flow.next(random.randrange(1, 6000)), random.randrange(1, 1500)))
        for _ in range(random.randrange(1, 4)):
            place = random.randrange(10) if random.random() < 0.6 else random.randrange(min(len(message), 100))
            message[place] = random.choice((0, 1, 0xFF, random.getrandbits(8)))
        bench.kernel.send(bytes(message[: random.randrange(1, len(message))] if random.random() < 0.3 else message))
        found = bench.drain(random.choice((MAX_FRAME, 1 << 18)))
        while found:
            assert found[:2] == b"\x10\x00"
            assert found[4:8] in (b"\xff\x03\x00\x21", b"\xff\x03\x00\x57")
            found = found[int.from_bytes(found[2:4], "big") :]
        bench.counted()
        bench.close()
