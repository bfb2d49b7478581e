"""Fuzz the native packet path, feed() and drain(), with `pure.py` beside it: any difference is a finding.

    python -m tests.fuzz.fuzz_dataplane [--seconds 60] [--seed N]     mutate the corpus
    python -m tests.fuzz.fuzz_dataplane --atheris [CORPUS] [-runs=N]  be guided by what pure.py executes

Meant to run on a sanitized build (`make fuzz`), which makes any read or write out of bounds a finding too. The input's
first bytes choose target (feed or drain, with multilink, on a TAP device, for a router), offload, gates, limit and
chunking; the rest are frames from the peer, or messages of the kernel, each behind its length.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final

from sstpfarm.dataplane.interface import MAX_FRAME, Gate, Offload, RouterRole
from tests.twin.bench import Bench, native
from tests.twin.compare import by_flow, run

CORPUS: Final = Path(__file__).with_name("corpus")
LIMITS: Final = (1500, 1400, 600, 4087)
WHOLE: Final = 1600
MULTILINK, BRIDGED, ROUTER = 2, 4, 8  # bits of the first byte; the lowest chooses feed(), from ROUTER up RouterRole
PROTOCOLS: Final = {4: b"\x00\x21", 6: b"\x00\x57"}
FINDING: Final = Path("build/fuzz/finding")
HEADER: Final = 5  # bytes of choices
MOST: Final = 100  # messages of one input: a socket stands in for the TUN


def fuzz_one(data: bytes) -> None:
    """Run one input; AssertionError when the paths differ."""
    if len(data) < HEADER:
        return
    target, offload, gates, limit, chunking = data[:HEADER]
    level = Offload(offload % len(Offload))
    if target % 2:
        fuzz_feed(data[HEADER:], target, level, Gate(gates % 16), LIMITS[limit % 4], chunking)
    else:
        fuzz_drain(data[HEADER:], target, level, Gate(gates % 16), LIMITS[limit % 4], MAX_FRAME + 1024 * chunking)


def prepare(bench: Bench, target: int, gates: Gate, receive: int, send: int) -> None:
    """Set the path as the input wants it."""
    if target & BRIDGED:
        bench.path.attach(bench.tun.fileno(), bridged=True)
    bench.path.set_limits(receive=receive, send=send)
    if target & MULTILINK:
        bench.path.set_multilink(header=4, receive=WHOLE, send=WHOLE)
    bench.path.set_gates(gates)
    bench.path.set_router(RouterRole(target // ROUTER % len(RouterRole)))


def fuzz_feed(stream: bytes, target: int, offload: Offload, gates: Gate, limit: int, chunking: int) -> None:
    """Bytes from the peer; the gates of a family turn with each control frame."""
    random = Random(chunking)
    pieces = list(pieces_of(stream, random)) if chunking else [stream[:8192]]
    found = []
    for bench, level in ((Bench(), Offload.NONE), (Bench(native(offload)), offload)):
        bench.path.set_sources(((0, 0),), ((0, 0),))
        prepare(bench, target, gates, limit, limit)
        level = Offload.NONE if target & BRIDGED else level
        outcome = run(bench, level, pieces, [gates, Gate.IPV4 | Gate.IPV6 | Gate.BRIDGE])
        packets = {b"": outcome.packets} if target & BRIDGED else by_flow(outcome.packets)
        asks = False
        if target & MULTILINK:  # what was put together of the same bytes is any packet too
            asks = bench.path.deliver(stream[:2000])
        found.append((asks, outcome.controls, bench.counted(), outcome.broken, packets))
        bench.close()
    assert found[0] == found[1]


def pieces_of(stream: bytes, random: Random) -> Iterator[bytes]:
    """The stream in pieces that no socket is too small for."""
    while stream:
        cut = random.choice((1, 3, 4, 5, 100, 1500, 5000))
        yield stream[:cut]
        stream = stream[cut:]


def fuzz_drain(data: bytes, target: int, offload: Offload, gates: Gate, limit: int, room: int) -> None:
    """Messages of a kernel that may say anything: what comes out must be whole frames within the limit."""
    bench = Bench(native(offload))
    prepare(bench, target, gates, 1500, limit)
    for _ in range(MOST):
        size = int.from_bytes(data[:2], "big")
        message, data = data[2 : 2 + size], data[2 + size :]
        if not message:
            break
        bench.kernel.send(message)
    buffer = memoryview(bytearray(room))
    more = True
    while more:
        filled, more = bench.path.drain(buffer)
        check_frames(bytes(buffer[:filled]), target, limit)
        large = bench.path.large()
        if large is not None:
            assert more
            assert target & MULTILINK
            assert limit < len(large) - 2 <= WHOLE
            check_protocol(large, target)
    bench.counted()
    bench.close()


def check_frames(frames: bytes, target: int, limit: int) -> None:
    """Assert that these are whole SSTP data packets within the limit."""
    while frames:
        length = int.from_bytes(frames[2:4], "big")
        assert frames[:2] == b"\x10\x00"
        assert frames[4:6] == b"\xff\x03"
        assert 8 < length <= min(len(frames), 8 + limit)
        check_protocol(frames[6:length], target)
        frames = frames[length:]


def check_protocol(packet: bytes, target: int) -> None:
    """Assert that a packet says what it is."""
    if target & BRIDGED:
        assert packet[:4] == b"\x00\x31\x00\x01"
        assert len(packet) >= 4 + 14
    else:
        assert packet[:2] == PROTOCOLS[packet[2] >> 4]


def mutated(random: Random, data: bytes, others: list[bytes]) -> bytes:
    """The input with some bytes changed, moved, cut out, or of another input."""
    made = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        place = random.randrange(len(made) + 1)
        end = min(len(made), place + random.choice((1, 2, 4, 40, 400)))
        match random.randrange(6):
            case 0 | 1:
                for index in range(place, min(end, place + 2)):
                    made[index] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.getrandbits(8)))
            case 2:
                del made[place:end]
            case 3:
                made[place:place] = made[place:end]
            case 4:
                other = random.choice(others)
                start = random.randrange(len(other))
                made[place:end] = other[start : start + random.choice((2, 8, 200, 2000))]
            case _:
                if end > place:
                    made[place] ^= 1 << random.randrange(8)
    return bytes(made[:20_000])


def main() -> int:
    """Run as a program."""
    parser = argparse.ArgumentParser(prog="fuzz_dataplane")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--atheris", action="store_true", help="what is behind it goes to libFuzzer")
    parser.add_argument("--replay", type=Path, help="run one input, such as a finding")
    options, rest = parser.parse_known_args()
    if options.atheris:
        return with_atheris(rest or [str(CORPUS)])
    if options.replay:
        fuzz_one(options.replay.read_bytes())
        return 0
    seed = options.seed if options.seed is not None else time.time_ns()
    random = Random(seed)
    FINDING.parent.mkdir(parents=True, exist_ok=True)
    corpus = [path.read_bytes() for path in sorted(CORPUS.iterdir())]
    for data in corpus:
        fuzz_one(data)
    end, count = time.monotonic() + options.seconds, 0
    while time.monotonic() < end:
        data = mutated(random, random.choice(corpus), corpus)
        FINDING.write_bytes(data)  # before it runs: a sanitizer ends the process
        try:
            fuzz_one(data)
        except BaseException:
            print(f"seed {seed}, input {count}: kept as {FINDING}", file=sys.stderr)  # noqa: T201 - its output
            raise
        count += 1
    FINDING.unlink()
    print(f"{count} inputs in {options.seconds:.0f} s, seed {seed}: nothing found")  # noqa: T201 - as above
    return 0


def with_atheris(arguments: list[str]) -> int:
    """Let libFuzzer choose the inputs; it never returns unless it was told how many runs to make."""
    import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]  # no dependency, nor typed

    from sstpfarm.dataplane import pure

    atheris.instrument_func(pure.PurePath._take)
    atheris.instrument_func(pure.PurePath._carry)
    atheris.instrument_func(pure.PurePath._frame)
    atheris.instrument_func(pure.PurePath._ipv4)
    atheris.instrument_func(pure.PurePath._ipv6)
    atheris.instrument_func(pure._asks_router)
    atheris.Setup([sys.argv[0], *arguments], fuzz_one)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
