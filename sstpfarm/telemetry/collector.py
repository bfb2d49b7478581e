"""What /metrics shows: the sums over all workers, those that died included, and what the master counts itself.

prometheus_client collects in threads of its own; a lock keeps a scrape from seeing a worker twice or not at all while
the master attaches or retires it. Nothing here is on the packet path.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from math import inf
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from sstpfarm.errors import LocalError
from sstpfarm.telemetry.catalogue import (
    CERTIFICATE_EXPIRY,
    COUNTERS,
    FARM_METRICS,
    GAUGES,
    HISTOGRAMS,
    INFO,
    IPC_VIOLATIONS,
    LOG_LINES_LOST,
    PACKET_COUNTERS,
    POOL_ADDRESSES,
    RADIUS_BUCKETS,
    RADIUS_METRICS,
    WORKER_RESTARTS,
    WORKERS_UP,
    Histogram,
)
from sstpfarm.telemetry.stats import EMPTY, Snapshot, Stats


class RadiusServer(Protocol):
    """What is known of a RADIUS server; `ipc.messages.RadiusServerState` is one."""

    @property
    def service(self) -> str:
        """What it is asked for."""

    @property
    def server(self) -> int:
        """Its place in the configuration, from 1 on."""

    @property
    def up(self) -> bool:
        """Whether it is asked."""

    @property
    def unanswered(self) -> int:
        """Requests without a reply."""

    @property
    def buckets(self) -> Sequence[int]:
        """Replies that took up to each of RADIUS_BUCKETS, and longer."""

    @property
    def seconds(self) -> float:
        """That all of them took."""


class FarmCollector(Collector):
    """The farm's metrics, as prometheus_client wants them.

    Args:
        version: of sstpfarm.
        dataplane: name of the packet path.
        workers_up: how many workers are ready; called from another thread.
        log_lines_lost: how many log lines the master itself could not write; called from another thread.
        wall: seconds since the epoch.

    Attributes:
        certificate_expiry: when the server's certificate ends, in seconds since the epoch; inf without one.
    """

    def __init__(
        self,
        *,
        version: str,
        dataplane: str,
        workers_up: Callable[[], int],
        log_lines_lost: Callable[[], int] = lambda: 0,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._identity = {"version": version, "dataplane": dataplane}
        self._workers_up = workers_up
        self._log_lines_lost = log_lines_lost
        self._lock = threading.Lock()
        self._live: dict[int, Stats] = {}
        self._retired = EMPTY  # the sum of all workers that are gone
        self._restarts = 0
        self._violations = 0
        self._pools: Mapping[str, tuple[int, int]] = {}
        self._wall = wall
        self._radius: tuple[Sequence[RadiusServer], int, float] = ((), 0, 0.0)
        self.certificate_expiry = inf

    def attach(self, worker: int, stats: Stats) -> None:
        """Show that worker's page from now on; the caller keeps it open until it was retired."""
        with self._lock:
            if worker in self._live:
                raise LocalError(f"worker {worker} has a statistics page already")
            self._live[worker] = stats

    def retire(self, worker: int) -> None:
        """Keep what a dead worker counted, forget its page. Call it when the process is gone, before `close`."""
        with self._lock:
            stats = self._live.pop(worker, None)
            if stats is None:
                raise LocalError(f"worker {worker} has no statistics page")
            self._retired = self._retired.added(stats.snapshot())

    def worker_restarted(self) -> None:
        """Count a worker that was started in the place of a lost one."""
        self._restarts += 1

    def ipc_violation(self) -> None:
        """Count a process that was killed for what it sent."""
        self._violations += 1

    def pools_used(self, pools: Mapping[str, tuple[int, int]]) -> None:
        """Show how many addresses of each pool are used, and how many it can hand out, from now on."""
        self._pools = pools

    def radius_used(self, servers: Sequence[RadiusServer], spooled: int, oldest: float) -> None:
        """Show these RADIUS servers and so many spooled records from now on.

        Args:
            oldest: when the first record was made, in seconds since the epoch; 0 where there is none.
        """
        self._radius = servers, spooled, oldest

    def collect(self) -> Iterator[Metric]:
        """All metric families."""
        with self._lock:
            live = {worker: stats.snapshot() for worker, stats in sorted(self._live.items())}
            farm = self._retired
        for snapshot in live.values():
            farm = farm.added(snapshot)
        yield from self._farm_metrics()
        yield from self._radius_metrics()
        for gauge in GAUGES:
            family = GaugeMetricFamily(gauge.name, gauge.help, labels=("worker",))
            for worker, snapshot in live.items():
                family.add_metric((str(worker),), snapshot.gauge(gauge.name))
            yield family
        yield from self._counters(farm)
        for histogram in HISTOGRAMS:
            yield _histogram(histogram, farm)

    def _farm_metrics(self) -> Iterator[Metric]:
        values = {
            WORKERS_UP: float(self._workers_up()),
            WORKER_RESTARTS: float(self._restarts),
            IPC_VIOLATIONS: float(self._violations),
            CERTIFICATE_EXPIRY: self.certificate_expiry,
            INFO: 1.0,
        }
        pools = self._pools
        for metric in FARM_METRICS:
            kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family = kind(metric.name, metric.help, labels=metric.labels)
            if metric.name == POOL_ADDRESSES:
                for pool, (used, size) in pools.items():
                    family.add_metric([pool, "used"], used)
                    family.add_metric([pool, "free"], size - used)
            else:
                family.add_metric([self._identity[label] for label in metric.labels], values[metric.name])
            yield family

    def _radius_metrics(self) -> Iterator[Metric]:
        servers, spooled, oldest = self._radius
        up, requests, response, records, age = RADIUS_METRICS
        shown = GaugeMetricFamily(up.name, up.help, labels=up.labels)
        asked = CounterMetricFamily(requests.name, requests.help, labels=requests.labels)
        times = HistogramMetricFamily(response.name, response.help, labels=response.labels)
        for one in servers:
            labels = (one.service, str(one.server))
            shown.add_metric(labels, one.up)
            asked.add_metric((*labels, "answered"), sum(one.buckets))
            asked.add_metric((*labels, "unanswered"), one.unanswered)
            times.add_metric(labels, _cumulated(RADIUS_BUCKETS, one.buckets), one.seconds)
        waited = max(0.0, self._wall() - oldest) if oldest else 0.0
        yield from (shown, asked, times)
        yield GaugeMetricFamily(records.name, records.help, value=spooled)
        yield GaugeMetricFamily(age.name, age.help, value=waited)

    def _counters(self, farm: Snapshot) -> Iterator[Metric]:
        for counter in COUNTERS:
            family = CounterMetricFamily(counter.name, counter.help, labels=_names(counter.label))
            for value in counter.values:
                number = farm.counter(counter.name, value)
                if counter.name == LOG_LINES_LOST:
                    number += self._log_lines_lost()
                family.add_metric(_names(value), number)
            yield family
        for packet_counter in PACKET_COUNTERS:
            family = CounterMetricFamily(packet_counter.name, packet_counter.help, labels=_names(packet_counter.label))
            for value, cell in packet_counter.cells.items():
                family.add_metric(_names(value), farm.total(cell))
            yield family


def _names(label: str) -> tuple[str, ...]:
    """The labels, or the label values, of a family that has one label or none."""
    return (label,) if label else ()


def _histogram(histogram: Histogram, farm: Snapshot) -> Metric:
    family = HistogramMetricFamily(histogram.name, histogram.help, labels=_names(histogram.label))
    for value in histogram.values:
        held = farm.histogram(histogram.name, value)
        family.add_metric(_names(value), _cumulated(histogram.buckets, held.buckets), held.sum)
    return family


def _cumulated(bounds: Iterable[float], numbers: Iterable[int]) -> list[tuple[str, float]]:
    """Return the buckets as Prometheus wants them: each holds those below it too."""
    return list(zip([*map(str, bounds), "+Inf"], accumulate(numbers), strict=True))


def make_registry(farm: FarmCollector) -> CollectorRegistry:
    """The farm's metrics and those of the master's own process."""
    registry = CollectorRegistry(auto_describe=True)
    registry.register(farm)
    ProcessCollector(registry=registry)
    return registry
