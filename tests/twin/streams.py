"""Random streams as a peer might send them: flows side by side, oddities of each kind, damage, control frames."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from random import Random
from typing import Final

from tests.twin.packets import ACK, CWR, DONT_FRAGMENT, FIN, PSH, TCP, UDP, Flow, ip_packet, with_checksums

QUICK: Final = 250  # streams of a test in an ordinary run
SECONDS: Final = float(os.environ.get("SSTPFARM_TWIN_SECONDS", "0"))  # how long each test goes on instead

PPP4: Final = (b"\xff\x03\x00\x21", b"\x00\x21", b"\x21", b"\xff\x03\x21")
PPP6: Final = (b"\xff\x03\x00\x57", b"\x00\x57", b"\x57", b"\xff\x03\x57")
CONTROLS: Final = (
    bytes.fromhex("1001000800080000"),
    bytes.fromhex("1000000eff03c0210901000800000000"),
    bytes.fromhex("10ff f008 00080000".replace(" ", "")),
)
TIMESTAMPS: Final = bytes.fromhex("0101080a0000123400005678")


def seeds(count: int = QUICK) -> Iterator[int]:
    """Numbers of streams: always the same ones, or new ones for as long as was asked for."""
    if not SECONDS:
        yield from range(count)
        return
    end = time.monotonic() + SECONDS
    seed = time.time_ns()
    while time.monotonic() < end:
        seed += 1
        yield seed


def frame(random: Random, packet: bytes) -> bytes:
    """The packet in an SSTP data packet."""
    ppp = random.choice(PPP4 if packet[0] >> 4 == 4 else PPP6) if random.random() < 0.1 else b""
    ppp = ppp or (PPP4[0] if packet[0] >> 4 == 4 else PPP6[0])
    padding = random.randbytes(random.randrange(9)) if random.random() < 0.03 else b""
    body = ppp + packet + padding
    return struct.pack("!BBH", 0x10, 0, 4 + len(body)) + body


def some_flow(random: Random, number: int) -> Flow:
    return Flow(
        version=random.choice((4, 4, 6)),
        protocol=random.choice((TCP, TCP, UDP)),
        ports=(1000 + number, random.choice((53, 443))),
        sequence=random.choice((1, 0xFFFFF000, random.getrandbits(32))),
        options=random.choice((b"", TIMESTAMPS)),
        identification=random.choice((0, 0xFFFE, random.getrandbits(16))),
        fragment=random.choice((0, DONT_FRAGMENT)),
        random=random,
    )


def burst(random: Random, flow: Flow) -> list[bytes]:
    """Some packets of one flow in order, mostly such as can be merged."""
    size = random.choice((1, 172, 536, 1348, random.randrange(1, 1400)))
    made = []
    for _ in range(random.choice((1, 2, 5, 30))):
        flags, length = ACK, size
        if random.random() < 0.15:
            flags, length = random.choice(
                ((ACK | PSH, size), (ACK, 0), (ACK, size // 2), (ACK, size + 1), (ACK | FIN, size), (ACK | CWR, size))
            )
        packet = flow.next(min(length, 1400), flags)
        made.append(damaged(random, packet) if random.random() < 0.08 else packet)
        if random.random() < 0.03:
            flow.sequence = (flow.sequence + random.choice((-1, 1)) * size) & 0xFFFFFFFF
        if random.random() < 0.03:
            flow.identification = random.getrandbits(16)
    return made


def damaged(random: Random, packet: bytes) -> bytes:
    """The packet with another byte, mostly of its headers; half of the time with checksums that hide it."""
    made = bytearray(packet)
    place = random.randrange(min(len(made), 80) if random.random() < 0.8 else len(made))
    made[place] ^= 1 << random.randrange(8)
    if random.random() < 0.2:  # a checksum of zeros or ones
        offset = (20 if packet[0] >> 4 == 4 else 40) + random.choice((6, 16))
        made[offset : offset + 2] = random.choice((b"\0\0", b"\xff\xff"))
    if random.random() < 0.5 and made[0] in (0x45, 0x60):
        return with_checksums(bytes(made))
    return bytes(made)


def router_packet(random: Random) -> bytes:
    """What asks the router, or nearly: each field that decides is right most of the time."""
    target = random.choice(("ff02::2", "ff02::1:2", "fe80::1", "febf::1"))
    if random.random() < 0.2:
        target = random.choice(("ff02::1", "fec0::1", "ff02::1:0:2", "ff02:1::2", "::1:2"))
    if random.random() < 0.5:
        kind = random.choice((133, 133, 133, 134, 128))
        return ip_packet(6, 58, (bytes([kind]) + bytes(7))[: random.choice((8, 8, 8, 4, 3, 0))], to=target)
    port = random.choice((547, 547, 547, 546, 53))
    datagram = struct.pack("!HHHH", random.choice((546, 547)), port, 12, 0) + b"\1abc"
    return ip_packet(6, random.choice((17, 17, 17, 6, 0)), datagram[: random.choice((12, 12, 4, 3, 0))], to=target)


def odd_packet(random: Random) -> bytes:
    """A packet that no run takes."""
    version = random.choice((4, 6))
    body = random.randbytes(random.randrange(60))
    match random.randrange(5):
        case 0:
            return ip_packet(version, 1 if version == 4 else 58, body)
        case 1:  # a fragment
            return ip_packet(4, random.choice((TCP, UDP)), body, fragment=random.choice((0x2000, 0x0010, 0x8000)))
        case 2:  # IPv4 options; an IPv6 extension header
            return ip_packet(
                version, TCP if version == 4 else 0, body, options=b"\x01" * 4 * (1 if version == 4 else 2)
            )
        case 3:  # cut in the transport header
            return ip_packet(version, random.choice((TCP, UDP)), body[: random.randrange(20)])
        case _:
            return random.choice((b"\x45", b"\x60", b"\x45\x00\x00\x14", random.randbytes(30)))


def stream(random: Random, *, mutated: bool) -> list[bytes]:
    """Frames in order; when `mutated`, some of their bytes are other ones, the framing's not often."""
    flows = [some_flow(random, number) for number in range(random.choice((1, 2, 3, 12)))]
    frames: list[bytes] = []
    for _ in range(random.randrange(1, 12)):
        kind = random.random()
        if kind < 0.75:
            frames += (frame(random, packet) for packet in burst(random, random.choice(flows)))
        elif kind < 0.85:
            frames.append(frame(random, odd_packet(random)))
        elif kind < 0.9:
            frames += (frame(random, router_packet(random)) for _ in range(5))
        elif kind < 0.95:
            frames.append(random.choice(CONTROLS))
        else:
            frames.append(struct.pack("!BBH", 0x10, 0, 4 + (length := random.randrange(20))) + random.randbytes(length))
    if mutated:
        for number in random.sample(range(len(frames)), k=min(len(frames), 3)):
            made = bytearray(frames[number])
            place = random.randrange(len(made)) if random.random() < 0.2 else random.randrange(4, max(5, len(made)))
            if place < len(made):
                made[place] = random.getrandbits(8)
            frames[number] = bytes(made)
    return frames


def chunks(random: Random, frames: list[bytes]) -> Iterator[bytes]:
    """The stream in pieces of any size, none of more than some tens of frames (a socket stands in for the TUN)."""
    style = random.randrange(4)
    waiting = b""
    for number, one in enumerate(frames):
        waiting += one
        if style == 0 or number % 60 == 59:
            yield waiting
            waiting = b""
        elif style == 1 and random.random() < 0.1:
            cut = random.randrange(len(waiting) + 1)
            yield waiting[:cut]
            waiting = waiting[cut:]
    if style == 3:
        while waiting:
            cut = random.choice((1, 2, 3, 4, 5, 9, 100, 2000))
            yield waiting[:cut]
            waiting = waiting[cut:]
    yield waiting
