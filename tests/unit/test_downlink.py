"""transport/downlink.py: how large a batch is while the socket is the bottleneck, on a clock of the test's own."""

from __future__ import annotations

import pytest

from sstpfarm.transport import downlink as module
from sstpfarm.transport.downlink import LEAST, WHILE, Downlink
from sstpfarm.transport.tls import OUTBOUND


class Source:
    """A TUN that always has more."""

    attached = True

    def read(self, out: memoryview, now: float) -> tuple[int, bool]:
        return len(out), True

    def large(self) -> bytes:
        return b""


class Outlet:
    """A socket that takes each batch as a whole, or all but its end."""

    pending = b""

    def drive_by_socket(self, on: bool) -> None:
        """Nothing to drive."""


class Around:
    """The buffers."""

    def __init__(self) -> None:
        self.buffers = self
        self.outbound = memoryview(bytearray(OUTBOUND))


class Bench:
    """A downlink; `sizes` are those of its batches."""

    def __init__(self) -> None:
        self.now = 100.0
        self.takes_all = False
        self.sizes: list[int] = []
        self.downlink = Downlink(
            Around(),  # type: ignore[arg-type] # only what a drain needs, as the two others
            Source(),  # type: ignore[arg-type]
            Outlet(),  # type: ignore[arg-type]
            lambda batch: self.sizes.append(len(batch)),
            lambda: self.takes_all,
            lambda _: None,
            lambda: None,
        )

    def stop(self, seconds: float) -> int:
        """The socket took that long for the end of the last batch; the size of the next one."""
        self.now += seconds
        self.downlink.drain()
        return self.sizes[-1]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench()
    monkeypatch.setattr(module, "monotonic", lambda: made.now)
    return made


def test_a_slow_socket_gets_small_batches_and_a_fast_one_large_ones(bench: Bench) -> None:
    assert bench.stop(0) == OUTBOUND
    assert [bench.stop(1.5 * WHILE) for _ in range(3)] == [OUTBOUND // 2, OUTBOUND // 4, OUTBOUND // 8]
    assert bench.stop(WHILE / 2) == OUTBOUND // 8  # as it should be
    assert [bench.stop(WHILE / 10) for _ in range(4)] == [OUTBOUND // 4, OUTBOUND // 2, OUTBOUND, OUTBOUND]
    for _ in range(20):
        bench.stop(1.0)
    assert bench.sizes[-1] == LEAST


def test_a_socket_that_takes_everything_gets_large_batches_again(bench: Bench) -> None:
    for _ in range(20):
        bench.stop(1.0)
    bench.takes_all = True
    for _ in range(4):
        bench.stop(1.0)
    assert bench.sizes[-1] == OUTBOUND


def test_time_without_packets_is_not_the_sockets(bench: Bench) -> None:
    bench.takes_all = True
    bench.stop(0)
    assert bench.stop(50.0) == OUTBOUND
