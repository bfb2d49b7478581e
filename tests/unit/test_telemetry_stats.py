"""The statistics page: what a worker writes is what the master reads, and nothing undeclared can be counted."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest

from sstpfarm.dataplane.interface import CELLS, Cell
from sstpfarm.dataplane.pure import PurePath
from sstpfarm.errors import LocalError
from sstpfarm.proto.events import Phase
from sstpfarm.reasons import Reason
from sstpfarm.telemetry import catalogue
from sstpfarm.telemetry.stats import EMPTY, MAX_SLOTS, HistogramValue, Stats


@pytest.fixture
def page() -> Iterator[Stats]:
    stats = Stats.create(4)
    yield stats
    stats.close()


@pytest.fixture
def twin(page: Stats) -> Iterator[Stats]:
    """The same page, mapped again as a worker does."""
    stats = Stats.open(os.dup(page.fd))
    yield stats
    stats.close()


def test_the_label_sets_are_those_of_the_tables() -> None:
    assert tuple(phase.value for phase in Phase) == catalogue.PHASES
    values = {counter.name: counter.values for counter in catalogue.COUNTERS}
    reasons = tuple(Reason)
    assert values[catalogue.CONNECTIONS] == ("opened", *reasons)
    assert values[catalogue.LOGINS] == ("accepted", *reasons)
    assert values[catalogue.SESSION_ENDS] == reasons


def test_names_follow_the_conventions() -> None:
    names = [
        *(counter.name for counter in catalogue.COUNTERS),
        *(gauge.name for gauge in catalogue.GAUGES),
        *(histogram.name for histogram in catalogue.HISTOGRAMS),
        *(counter.name for counter in catalogue.PACKET_COUNTERS),
        *(metric.name for metric in catalogue.FARM_METRICS),
    ]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"sstpfarm_[a-z_]+[a-z]", name) for name in names)
    assert all(counter.name.endswith("_total") for counter in (*catalogue.COUNTERS, *catalogue.PACKET_COUNTERS))
    labels = {
        *(counter.label for counter in catalogue.COUNTERS),
        *(counter.label for counter in catalogue.PACKET_COUNTERS),
        *(histogram.label for histogram in catalogue.HISTOGRAMS),
    }
    assert labels == {"", "outcome", "reason", "direction", "phase", "message"}  # never a user, never an address
    assert all(list(h.buckets) == sorted(set(h.buckets)) for h in catalogue.HISTOGRAMS)


def test_a_new_page_is_empty(page: Stats) -> None:
    assert page.snapshot().cells[3:] == EMPTY.cells[3:]
    assert not any(page.slot(3))
    assert len(page.totals) == CELLS


def test_every_counter_has_a_cell_of_its_own(page: Stats, twin: Stats) -> None:
    expected = {}
    for number, (name, label) in enumerate((c.name, value) for c in catalogue.COUNTERS for value in c.values):
        twin.inc(name, label, number + 1)
        twin.inc(name, label)
        expected[name, label] = number + 2
    for cell in Cell:
        twin.totals[cell] = 1000 + cell
    twin.set(catalogue.SESSIONS, 77)
    snapshot = page.snapshot()
    assert {key: snapshot.counter(*key) for key in expected} == expected
    assert [snapshot.total(cell) for cell in Cell] == [1000 + cell for cell in Cell]
    assert snapshot.gauge(catalogue.SESSIONS) == 77
    assert not any(sum(snapshot.histogram(h.name, v).buckets) for h in catalogue.HISTOGRAMS for v in h.values)


@pytest.mark.parametrize(
    ("value", "bucket"),
    [(0, 0), (0.001, 0), (0.0011, 1), (0.0025, 1), (0.3, 8), (120.0, 15), (120.1, 16), (1e9, 16)],
)
def test_histogram_buckets(page: Stats, value: float, bucket: int) -> None:
    """An upper bound belongs to its bucket (Prometheus: le)."""
    page.observe(catalogue.LOGIN_PHASE, "tls", value)
    held = page.snapshot().histogram(catalogue.LOGIN_PHASE, "tls")
    assert held.buckets == tuple(int(at == bucket) for at in range(17))
    assert held.sum == pytest.approx(value)


def test_histograms_do_not_touch_their_neighbours(page: Stats) -> None:
    expected = {}
    for number, (name, label, bounds) in enumerate(
        (h.name, value, h.buckets) for h in catalogue.HISTOGRAMS for value in h.values
    ):
        for _ in range(number + 1):
            page.observe(name, label, 1000.0)
            page.observe(name, label, 0.0)
        expected[name, label] = HistogramValue(
            (number + 1, *[0] * (len(bounds) - 1), number + 1), 1000.0 * (number + 1)
        )
    snapshot = page.snapshot()
    assert {key: snapshot.histogram(*key) for key in expected} == expected
    assert not any(snapshot.counter(c.name, value) for c in catalogue.COUNTERS for value in c.values)


def test_slots(page: Stats, twin: Stats) -> None:
    for index in range(4):
        for cell in Cell:
            twin.slot(index)[cell] = 100 * index + cell
    assert [list(page.slot(index)) for index in range(4)] == [[100 * i + cell for cell in Cell] for i in range(4)]
    page.clear_slot(1)
    assert list(twin.slot(1)) == [0] * CELLS
    assert [twin.slot(index)[Cell.CONTROL_IN] for index in (0, 2, 3)] == [11, 211, 311]
    assert not any(page.totals)


def test_the_packet_path_counts_into_the_page(page: Stats, twin: Stats) -> None:
    path = PurePath(twin.totals, twin.slot(2))
    path.feed(memoryview(bytes.fromhex("10000006ff03" + "1001000800080000")))
    assert page.slot(2)[Cell.DROP_MALFORMED] == page.snapshot().total(Cell.DROP_MALFORMED) == 1
    assert page.slot(2)[Cell.CONTROL_IN] == page.snapshot().total(Cell.CONTROL_IN) == 1


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("sstpfarm_connections_total", "alice"),
        ("sstpfarm_connections_total", ""),
        ("sstpfarm_sessions", ""),
        ("sstpfarm_login_phase_seconds", "tls"),
        ("nothing", ""),
    ],
)
def test_inc_refuses_what_is_not_declared(page: Stats, name: str, label: str) -> None:
    before = page.snapshot()
    with pytest.raises(LocalError):
        page.inc(name, label)
    assert page.snapshot() == before


def test_other_misuse_is_refused(page: Stats) -> None:
    before = page.snapshot()
    with pytest.raises(LocalError):
        page.inc(catalogue.CONNECTIONS, "opened", -1)
    with pytest.raises(LocalError):
        page.set(catalogue.CONNECTIONS, 1)
    for gauge in (-1, 1 << 64):
        with pytest.raises(LocalError):
            page.set(catalogue.SESSIONS, gauge)
    with pytest.raises(LocalError):
        page.observe(catalogue.LOGIN_PHASE, "dns", 0.1)
    for value in (-0.1, float("nan"), float("inf")):
        with pytest.raises(LocalError):
            page.observe(catalogue.LOOP_LAG, "", value)
    for index in (-1, 4):
        with pytest.raises(LocalError):
            page.slot(index)
        with pytest.raises(LocalError):
            page.clear_slot(index)
    assert page.snapshot() == before


@pytest.mark.parametrize("slots", [0, -1, MAX_SLOTS + 1])
def test_slots_are_bounded(slots: int) -> None:
    with pytest.raises(LocalError):
        Stats.create(slots)


def test_the_size_is_sealed(page: Stats) -> None:
    """A worker that shrinks the file would kill the master that reads it."""
    for size in (0, 1 << 20):
        with pytest.raises(PermissionError):
            os.ftruncate(page.fd, size)
    assert fcntl.fcntl(page.fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SEAL
    assert not os.get_inheritable(page.fd)


def copy_of(page: Stats, *, at: int = 0, value: bytes = b"", cut: int = 0, seal: bool = True) -> int:
    """The page's bytes with a change, in another memfd."""
    content = bytearray(os.pread(page.fd, os.fstat(page.fd).st_size, 0))
    content[at : at + len(value)] = value
    fd = os.memfd_create("copy", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, content[: len(content) - cut])
    if seal:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


def test_open_takes_an_equal_page(page: Stats) -> None:
    page.inc(catalogue.LOGINS, "accepted")
    stats = Stats.open(copy_of(page))
    assert stats.snapshot() == page.snapshot()
    assert stats.slots == 4
    stats.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": b"sstpfarN"}, "not a statistics page"),
        ({"at": 8, "value": bytes(8)}, "another version"),
        ({"at": 16, "value": struct.pack("=Q", 5)}, "wrong size"),
        ({"at": 16, "value": struct.pack("=Q", 0)}, "wrong size"),
        ({"at": 16, "value": b"\xff" * 8}, "wrong size"),
        ({"cut": 8}, "wrong size"),
        ({"seal": False}, "can change its size"),
    ],
)
def test_open_refuses_another_file(page: Stats, change: dict[str, bytes | int], message: str) -> None:
    fd = copy_of(page, **change)  # type: ignore[arg-type]  # the values' types follow from their keys
    try:
        with pytest.raises(LocalError, match=message):
            Stats.open(fd)
    finally:
        os.close(fd)


def test_open_refuses_an_empty_file() -> None:
    fd = os.memfd_create("empty")
    try:
        with pytest.raises(LocalError, match="not a statistics page"):
            Stats.open(fd)
    finally:
        os.close(fd)


def test_close_is_idempotent_and_survives_slots_that_are_held() -> None:
    stats = Stats.create(1)
    slot = stats.slot(0)
    stats.close()
    stats.close()
    slot[0] = 5
    assert slot[0] == 5


WORKER = """
import os, sys
from sstpfarm.telemetry.stats import Stats
stats = Stats.open(int(sys.argv[1]))
stats.inc("sstpfarm_connections_total", "opened", 3)
stats.slot(1)[0] = 99
os.kill(os.getpid(), 9)
"""


def test_a_killed_worker_leaves_its_numbers(page: Stats) -> None:
    done = subprocess.run([sys.executable, "-c", WORKER, str(page.fd)], pass_fds=(page.fd,), timeout=30, check=False)
    assert done.returncode == -9
    assert page.snapshot().counter(catalogue.CONNECTIONS, "opened") == 3
    assert page.slot(1)[0] == 99
