"""transport/shaper.py: what waits, what passes and what is dropped, on a clock of the test's own."""

from __future__ import annotations

from sstpfarm.dataplane.bucket import DEPTH, Bucket
from sstpfarm.dataplane.interface import MAX_FRAME
from sstpfarm.transport.shaper import BURST, DISCARDS, LEAST_QUEUE, MOST_QUEUE, QUEUE, READS, Shaper
from sstpfarm.transport.tun_source import TunSource

PACKET = 1000
OUT = memoryview(bytearray(144 * 1024))


class Path:
    """A packet path whose TUN holds that many packets of 1,000 bytes."""

    def __init__(self, packets: int = 0) -> None:
        self.packets = packets
        self.shed = self.discarded = 0
        self.behind: list[bytes] = []

    def drain(self, out: memoryview, shed: bool = False) -> tuple[int, bool]:
        count = min(self.packets, len(out) // PACKET)
        self.packets -= count
        if shed and count:
            self.shed += 1
            count -= 1
        return count * PACKET, self.packets > 0

    def large(self) -> bytes | None:
        return self.behind.pop() if self.behind else None

    def discard(self) -> bool:
        count = min(self.packets, 64)
        self.packets -= count
        self.discarded += count
        return self.packets > 0


def source_of(path: Path) -> TunSource:
    return TunSource(path, None, bytes)  # type: ignore[arg-type] # only what a shaper needs


def shaper_of(path: Path, rate: int) -> Shaper:
    made = Shaper(source_of(path))
    made.limit(Bucket(rate, 0, 0, 0, 0.0))
    return made


def passed(shaper: Shaper, now: float) -> int:
    """Bytes that pass at that moment."""
    total = 0
    while batch := shaper.next(OUT, now):
        total += len(batch)
    return total


def test_what_the_bucket_holds_passes_at_once_and_the_rest_waits() -> None:
    path = Path(100)
    shaper = shaper_of(path, 8_000_000)  # 1,000,000 bytes a second; a tick is 10,000
    assert 1_000_000 * DEPTH <= passed(shaper, 0.0) < 1_000_000 * DEPTH + 10_001
    assert not shaper.may_pass(0.0)
    shaper.fill(OUT, 0.0)
    assert path.packets == 100 - 50 - 1_000_000 * QUEUE // PACKET
    before = path.packets
    assert passed(shaper, 0.01) == 10_000
    assert path.packets == before  # those that waited were first


def test_it_sends_at_its_rate() -> None:
    path = Path()
    shaper = shaper_of(path, 2_000_000)
    total = 0
    for tick in range(1, 1001):
        path.packets = max(path.packets, 20)
        now = tick * 0.01
        total += passed(shaper, now)
        shaper.fill(OUT, now)
    assert 0.97 <= total / 2_500_000 <= 1.01


def test_the_queue_is_bounded_in_time_and_holds_some_packets_at_least() -> None:
    for rate, most in ((8_000_000, 1_000_000 * QUEUE), (64_000, LEAST_QUEUE)):
        path = Path(10_000)
        shaper = shaper_of(path, rate)
        passed(shaper, 0.0)
        for _ in range(5):
            shaper.fill(OUT, 0.0)
        shaper.limit(None)
        assert most <= passed(shaper, 0.0) < most + MAX_FRAME + rate / 8 * 0.01


def test_a_burst_stays_in_the_ring_and_what_stands_there_is_dropped() -> None:
    path = Path(500)
    shaper = shaper_of(path, 1_000_000)
    passed(shaper, 10.0)
    shaper.fill(OUT, 10.0)
    for tick in range(1, 40):
        now = 10.0 + tick * 0.01
        passed(shaper, now)
        shaper.fill(OUT, now)
        if now < 10.0 + BURST:
            assert path.discarded == 0
    assert path.discarded > 400
    assert path.packets == 0
    assert path.shed > 0  # TCP is told before that


def test_who_was_not_looked_at_for_long_loses_no_burst() -> None:
    path = Path(500)
    shaper = shaper_of(path, 1_000_000)
    passed(shaper, 0.0)
    shaper.fill(OUT, 50.0)
    assert path.discarded == 0


def test_a_high_rate_has_a_bounded_queue_and_leaves_the_rest_to_the_ring() -> None:
    path = Path(100_000)
    shaper = shaper_of(path, 10**10)
    for tick in range(100):
        shaper.fill(OUT, tick * 0.01)
    assert path.discarded == 0
    assert 100_000 - path.packets - path.shed <= (MOST_QUEUE + len(OUT)) // PACKET


def test_one_event_does_a_bounded_number_of_calls() -> None:
    class Closed(Path):
        """Its gates are closed: packets come without end and none is carried."""

        calls = 0

        def drain(self, out: memoryview, shed: bool = False) -> tuple[int, bool]:
            self.calls += 1
            return 0, True

        def discard(self) -> bool:
            self.calls += 1
            return True

    path = Closed()
    shaper = shaper_of(path, 1_000_000)
    for now in (0.0, BURST / 2, 2 * BURST):
        shaper.fill(OUT, now)
    assert not shaper.next(OUT, 0.3)
    assert path.calls <= 3 * READS + DISCARDS + 2


def test_without_a_limit_what_waits_passes_and_then_it_has_no_use() -> None:
    path = Path(30)
    shaper = shaper_of(path, 1_000_000)
    first = passed(shaper, 0.0)
    shaper.fill(OUT, 0.0)
    shaper.limit(None)
    assert shaper.may_pass(0.0)
    waited = passed(shaper, 0.0)
    assert waited
    assert shaper.idle
    assert first + waited + path.packets * PACKET == 30_000


def test_each_fragment_is_a_batch_of_its_own() -> None:
    """It becomes a TLS record of its own, as without a limit."""
    path = Path(1)
    path.behind = [b"a packet that does not fit"]
    source = TunSource(path, None, lambda _: [b"first", b"second", b"third"])  # type: ignore[arg-type] # as above
    shaper = Shaper(source)
    shaper.limit(Bucket(8_000_000, 0, 0, 0, 0.0))
    found = [bytes(shaper.next(OUT, 0.0)) for _ in range(5)]
    assert found == [bytes(PACKET), b"first", b"second", b"third", b""]


def test_the_rest_of_a_super_packet_follows_when_a_shed_packet_was_alone() -> None:
    """No descriptor tells that there is more."""
    path = Path(2)
    source = source_of(path)
    shaper = Shaper(source)
    shaper.limit(Bucket(1_000_000, 0, 0, 0, 0.0))
    source._queue.due = 0.0
    one = memoryview(bytearray(MAX_FRAME))[:PACKET]
    assert len(shaper.next(one, 1.0)) == PACKET
    assert (path.shed, path.packets) == (1, 0)
