"""transport/downlink.py: how large a batch is while the socket is the bottleneck, on a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sstpfarm.transport import downlink as module
from sstpfarm.transport.downlink import CALM, LEAST, SMALL, WHILE, Downlink
from sstpfarm.transport.tls import OUTBOUND


class Source:
    """A TUN that always has more, or only `last` bytes."""

    attached = True
    last = 0

    def read(self, out: memoryview, now: float) -> tuple[int, bool]:
        return self.last or len(out), not self.last

    def large(self) -> bytes:
        return b""


class Outlet:
    """A socket that takes each batch as a whole, or all but its end."""

    pending = b""

    def __init__(self) -> None:
        self.held = 0

    def drive_by_socket(self, on: bool) -> None:
        """Nothing to drive."""

    def hold(self, size: int) -> None:
        self.held = size


class Around:
    """The buffers, and a poller's turn, whose end is `behind`."""

    def __init__(self) -> None:
        self.buffers = self.poller = self
        self.outbound = memoryview(bytearray(OUTBOUND))
        self.behind: list[Callable[[], object]] = []

    def later(self, callback: Callable[[], object]) -> None:
        self.behind.append(callback)


class Bench:
    """A downlink; `sizes` are those of its batches."""

    def __init__(self) -> None:
        self.now = 100.0
        self.takes_all = False
        self.sizes: list[int] = []
        self.flushes = 0
        self.around, self.source, self.outlet = Around(), Source(), Outlet()
        self.downlink = Downlink(
            self.around,  # type: ignore[arg-type] # only what a drain needs, as the two others
            self.source,  # type: ignore[arg-type]
            self.outlet,  # type: ignore[arg-type]
            lambda batch: self.sizes.append(len(batch)),
            self.flush,
            lambda _: None,
            lambda: None,
        )

    def flush(self) -> bool:
        self.flushes += 1
        return self.takes_all

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


@pytest.mark.parametrize("rate", [100e6, 1e6, 250e3, 10e3])
@pytest.mark.parametrize("gap", [0.001, 0.13])
def test_a_batch_is_what_the_socket_takes_in_a_while(bench: Bench, rate: float, gap: float) -> None:
    """Also where its way opens only now and then, for several batches at once."""
    bench.stop(0)
    budget = 0.0
    for _ in range(int(20 / gap)):
        bench.now += gap
        budget += rate * gap
        while budget > 0:
            budget -= bench.stop(0)
    size = min(max(LEAST, rate * WHILE), OUTBOUND)
    assert size / 2 <= bench.sizes[-1] <= size * 2
    assert LEAST <= bench.outlet.held <= size * 2


def test_a_socket_that_takes_everything_gets_large_batches_again(bench: Bench) -> None:
    for _ in range(20):
        bench.stop(1.0)
    assert bench.sizes[-1] == LEAST
    bench.takes_all = True
    bench.stop(CALM / 2)
    assert bench.sizes[-1] == LEAST  # it may have opened for a moment
    bench.stop(CALM)
    for _ in range(4):
        bench.stop(0)
    assert bench.sizes[-1] == OUTBOUND


def test_time_without_packets_is_not_the_sockets(bench: Bench) -> None:
    bench.takes_all = True
    bench.stop(0)
    assert bench.stop(50.0) == OUTBOUND


def test_a_small_batch_leaves_at_the_end_of_the_turn(bench: Bench) -> None:
    """So the small batches of many sessions leave in a row."""
    bench.source.last, bench.takes_all = SMALL, True
    bench.downlink.drain()
    assert (bench.sizes, bench.flushes, len(bench.around.behind)) == ([SMALL], 0, 1)
    bench.around.behind.pop()()
    assert bench.flushes == 1


def test_a_large_batch_leaves_at_once(bench: Bench) -> None:
    """Many of them would be much memory."""
    bench.source.last, bench.takes_all = SMALL + 1, True
    bench.downlink.drain()
    assert (bench.sizes, bench.flushes, bench.around.behind) == ([SMALL + 1], 1, [])


def test_a_socket_that_does_not_take_a_small_batch_is_the_bottleneck(bench: Bench) -> None:
    """The next batches are as small as its rate asks for."""
    bench.source.last = SMALL
    bench.downlink.drain()
    bench.around.behind.pop()()
    bench.source.last = 0
    for _ in range(20):
        bench.stop(0.1)
    assert bench.outlet.held == LEAST
