"""The statistics page of one worker: 64-bit cells in shared memory, written by the worker, read by the master.

The page outlives its worker, so that what a killed worker counted is not lost. One process writes, each cell is
aligned and stored at once, so a reader needs no lock; cells that belong together may be a moment apart.

Layout, in cells of 8 bytes: magic, layout, slots; the worker's packet totals; gauges; counters; histograms
(for each label value: the buckets, the one for +Inf, the sum in nanoseconds); then CELLS for each session slot.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from bisect import bisect_left
from dataclasses import dataclass
from hashlib import sha256
from itertools import count, islice
from struct import Struct
from typing import Final

from sstpfarm.dataplane.interface import CELLS, Cell
from sstpfarm.errors import LocalError
from sstpfarm.telemetry.catalogue import COUNTERS, GAUGES, HISTOGRAMS

MAX_SLOTS: Final = 1 << 20  # the bound of ipc.messages.Slot

_NANOSECONDS: Final = 1_000_000_000
_MAX_VALUE: Final = (1 << 64) - 1
_HEADER: Final = Struct("=8sQQ")  # magic, layout, slots
_MAGIC: Final = b"sstpfarm"
_CELL_BYTES: Final = 8
# The reader maps the page: a writer that could shrink the file would kill it with SIGBUS.
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL

_cell = count(_HEADER.size // _CELL_BYTES)
_TOTALS_AT: Final = min(islice(_cell, CELLS))  # min: of a run of cells, the first
_GAUGE_AT: Final = {gauge.name: next(_cell) for gauge in GAUGES}
_COUNTER_AT: Final = {(counter.name, value): next(_cell) for counter in COUNTERS for value in counter.values}
_HISTOGRAM_AT: Final = {
    (histogram.name, value): (min(islice(_cell, len(histogram.buckets) + 2)), histogram.buckets)
    for histogram in HISTOGRAMS
    for value in histogram.values
}
_SLOTS_AT: Final = next(_cell)
_GAUGE_CELLS: Final = frozenset(_GAUGE_AT.values())

# A worker that was started after an upgrade may have another catalogue than the master: it must not be misread.
_LAYOUT: Final = int.from_bytes(
    sha256(repr(([*Cell], _GAUGE_AT, _COUNTER_AT, _HISTOGRAM_AT)).encode()).digest()[:_CELL_BYTES], "big"
)


@dataclass(frozen=True, slots=True)
class HistogramValue:
    """What a histogram holds.

    Attributes:
        buckets: observations in each bucket alone, the one for +Inf last. Their sum is the count, so that the count
            cannot disagree with them.
        sum: of all observations, in seconds.
    """

    buckets: tuple[int, ...]
    sum: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of a page without its slots; `added` makes the sum of two."""

    cells: tuple[int, ...]

    def total(self, cell: Cell) -> int:
        """A counter of the worker's packet path."""
        return self.cells[_TOTALS_AT + cell]

    def gauge(self, name: str) -> int:
        """A gauge's value."""
        return self.cells[_GAUGE_AT[name]]

    def counter(self, name: str, label: str = "") -> int:
        """A counter's value."""
        return self.cells[_COUNTER_AT[name, label]]

    def histogram(self, name: str, label: str = "") -> HistogramValue:
        """A histogram's buckets and sum."""
        at, bounds = _HISTOGRAM_AT[name, label]
        end = at + len(bounds) + 1
        return HistogramValue(self.cells[at:end], self.cells[end] / _NANOSECONDS)

    def added(self, other: Snapshot) -> Snapshot:
        """The sums of all that counts; the gauges are those of this snapshot, for they do not add up over time."""
        pairs = enumerate(zip(self.cells, other.cells, strict=True))
        return Snapshot(tuple(a if at in _GAUGE_CELLS else a + b for at, (a, b) in pairs))


EMPTY: Final = Snapshot((0,) * _SLOTS_AT)


class Stats:
    """The page of one worker. Made by `create` (master) and mapped by `open` (worker).

    Attributes:
        fd: the memfd; owned by this object.
        slots: number of session slots.
        totals: counters of the worker's packet path (`dataplane.interface.Cell`), format 'Q'.
    """

    def __init__(self, fd: int, slots: int) -> None:
        """Use `create` or `open`; maps `fd`, whose size must be right."""
        self.fd = fd
        self.slots = slots
        self._map = mmap.mmap(fd, _size(slots))
        self._cells = memoryview(self._map).cast("Q")
        self.totals = self._cells[_TOTALS_AT : _TOTALS_AT + CELLS]

    @classmethod
    def create(cls, slots: int) -> Stats:
        """Make a page in a new memfd (close-on-exec), sealed against a change of its size.

        Raises:
            OSError: no memory, no descriptor.
        """
        if not 0 < slots <= MAX_SLOTS:
            raise LocalError(f"slots must be 1 to {MAX_SLOTS}: {slots}")
        fd = os.memfd_create("sstpfarm-stats", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, _size(slots))
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            stats = cls(fd, slots)
        except BaseException:
            os.close(fd)
            raise
        _HEADER.pack_into(stats._map, 0, _MAGIC, _LAYOUT, slots)
        return stats

    @classmethod
    def open(cls, fd: int) -> Stats:
        """Map the page behind `fd` and take the descriptor over; at an error it stays the caller's.

        Raises:
            LocalError: not a page of this version of sstpfarm.
        """
        header = os.pread(fd, _HEADER.size, 0)
        if len(header) != _HEADER.size or not header.startswith(_MAGIC):
            raise LocalError("not a statistics page")
        _, layout, slots = _HEADER.unpack(header)
        if layout != _LAYOUT:
            raise LocalError("statistics page of another version of sstpfarm")
        if not 0 < slots <= MAX_SLOTS or os.fstat(fd).st_size != _size(slots):
            raise LocalError("statistics page of the wrong size")
        if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise LocalError("statistics page that can change its size")
        return cls(fd, slots)

    def slot(self, index: int) -> memoryview:
        """The packet counters of one session (`dataplane.interface.Cell`), format 'Q'."""
        if not 0 <= index < self.slots:
            raise LocalError(f"slot {index} of {self.slots}")
        at = _SLOTS_AT + index * CELLS
        return self._cells[at : at + CELLS]

    def clear_slot(self, index: int) -> None:
        """Set a slot's counters to zero, for the next session."""
        self.slot(index)[:] = memoryview(bytearray(CELLS * _CELL_BYTES)).cast("Q")

    def inc(self, name: str, label: str = "", n: int = 1) -> None:
        """Raise a counter of the catalogue by `n`.

        Raises:
            LocalError: the catalogue has no such name or label value, or `n` is negative.
        """
        at = _COUNTER_AT.get((name, label))
        if at is None:
            raise LocalError(f"no such counter: {name} {label!r}")
        if n < 0:
            raise LocalError(f"a counter never goes back: {name} {n}")
        self._cells[at] = min(self._cells[at] + n, _MAX_VALUE)  # the master too counts in a page that a worker wrote

    def set(self, name: str, value: int) -> None:
        """Set a gauge of the catalogue."""
        at = _GAUGE_AT.get(name)
        if at is None:
            raise LocalError(f"no such gauge: {name}")
        if not 0 <= value <= _MAX_VALUE:
            raise LocalError(f"not a gauge's value: {name} {value}")
        self._cells[at] = value

    def observe(self, name: str, label: str, value: float) -> None:
        """Count an observation of `value` seconds; the label is "" where the histogram has none."""
        found = _HISTOGRAM_AT.get((name, label))
        if found is None:
            raise LocalError(f"no such histogram: {name} {label!r}")
        if not 0 <= value < _MAX_VALUE / _NANOSECONDS:  # also refuses NaN
            raise LocalError(f"not a duration: {name} {value}")
        at, bounds = found
        self._cells[at + bisect_left(bounds, value)] += 1
        self._cells[at + len(bounds) + 1] += round(value * _NANOSECONDS)

    def snapshot(self) -> Snapshot:
        """A copy of everything but the slots."""
        return Snapshot(tuple(self._cells[:_SLOTS_AT]))

    def close(self) -> None:
        """Close the descriptor and unmap; idempotent. Slots that are still held keep the memory until they go."""
        if self.fd < 0:
            return
        os.close(self.fd)
        self.fd = -1
        self.totals.release()
        self._cells.release()
        with contextlib.suppress(BufferError):
            self._map.close()


def _size(slots: int) -> int:
    return (_SLOTS_AT + slots * CELLS) * _CELL_BYTES
