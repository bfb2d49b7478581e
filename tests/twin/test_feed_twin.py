"""From the peer: on random and mutated streams, in any chunking, both paths do the same."""

from __future__ import annotations

from random import Random

import pytest

from sstpfarm.dataplane.interface import Gate, Offload, RouterRole
from tests.twin.bench import Bench, native
from tests.twin.compare import by_flow, run
from tests.twin.streams import PPP6, chunks, seeds, stream


@pytest.mark.parametrize("mutated", [False, True], ids=["whole", "mutated"])
@pytest.mark.parametrize("offload", Offload)
def test_both_do_the_same(offload: Offload, mutated: bool) -> None:
    merged = packets = asked = 0
    for seed in seeds():
        random = Random(seed)
        frames = stream(random, mutated=mutated)
        gates = random.choices([Gate.IPV4 | Gate.IPV6, Gate.IPV4, Gate.IPV6, Gate.NONE], weights=[6, 1, 1, 1], k=5)
        limit = random.choice((1500, 1400, 600, 4087))
        router = random.choices(list(RouterRole), weights=[2, 7, 1])[0]
        outcomes = []
        for bench, level in ((Bench(), Offload.NONE), (Bench(native(offload)), offload)):
            bench.path.set_limits(receive=limit, send=1400)
            bench.path.set_router(router)
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
        asked += sum(control[:2] == b"\x10\0" and control[4:8] == PPP6[0] for control in pure.controls)
        merged += pure.writes - fast.writes
        packets += pure.writes
    assert asked > 20
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
