"""FarmCollector and /metrics: sums over workers, counters that never go back, and the endpoint itself."""

from __future__ import annotations

import random
import select
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry

from sstpfarm.dataplane.interface import Cell
from sstpfarm.errors import ConfigError, LocalError, SystemRefusal
from sstpfarm.ipc.messages import RadiusServerState
from sstpfarm.reasons import Reason
from sstpfarm.telemetry import catalogue, exposition
from sstpfarm.telemetry.collector import FarmCollector, make_registry
from sstpfarm.telemetry.exposition import MOST_REQUESTS, serve
from sstpfarm.telemetry.stats import Stats

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Farm:
    """A collector with pages in the place of workers."""

    def __init__(self) -> None:
        self.up = 2
        self.lost = 0
        self.collector = FarmCollector(
            version="0.1.0", dataplane="pure", workers_up=lambda: self.up, log_lines_lost=lambda: self.lost
        )
        self.registry = CollectorRegistry(auto_describe=True)
        self.registry.register(self.collector)
        self.pages: dict[int, Stats] = {}

    def start(self, worker: int) -> Stats:
        self.pages[worker] = Stats.create(2)
        self.collector.attach(worker, self.pages[worker])
        return self.pages[worker]

    def die(self, worker: int) -> None:
        self.collector.retire(worker)
        self.pages.pop(worker).close()

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    def samples(self) -> Samples:
        """Everything, as a Prometheus server would parse it."""
        text = generate_latest(self.registry).decode()
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@pytest.fixture
def farm() -> Iterator[Farm]:
    made = Farm()
    yield made
    for page in made.pages.values():
        page.close()


def test_sums_over_workers(farm: Farm) -> None:
    for worker in range(3):
        page = farm.start(worker)
        page.inc(catalogue.CONNECTIONS, "opened", worker + 1)
        page.inc(catalogue.CONNECTIONS, Reason.HTTP_WRONG_PATH)
        page.totals[Cell.BYTES_IN] = 1000
        page.totals[Cell.DROP_SOURCE] = worker
        page.set(catalogue.SESSIONS, 10 * worker)
        page.observe(catalogue.LOGIN_PHASE, "tls", 0.002)
        page.observe(catalogue.LOGIN_PHASE, "tls", 0.04)
    assert farm.value("sstpfarm_connections_total", outcome="opened") == 6
    assert farm.value("sstpfarm_connections_total", outcome="http-wrong-path") == 3
    assert farm.value("sstpfarm_connections_total", outcome="peer-dead") == 0
    assert farm.value("sstpfarm_bytes_total", direction="in") == 3000
    assert farm.value("sstpfarm_bytes_total", direction="out") == 0
    assert farm.value("sstpfarm_drops_total", reason="source") == 3
    assert [farm.value("sstpfarm_sessions", worker=str(worker)) for worker in range(3)] == [0, 10, 20]
    bucket = "sstpfarm_login_phase_seconds_bucket"
    assert [farm.value(bucket, phase="tls", le=le) for le in ("0.001", "0.0025", "0.025", "0.05", "120.0", "+Inf")] == [
        0, 3, 3, 6, 6, 6,
    ]  # fmt: skip
    assert farm.value("sstpfarm_login_phase_seconds_count", phase="tls") == 6
    assert farm.value("sstpfarm_login_phase_seconds_sum", phase="tls") == pytest.approx(0.126)
    assert farm.value("sstpfarm_loop_lag_seconds_count") == 0


def test_what_the_master_knows(farm: Farm) -> None:
    farm.collector.worker_restarted()
    farm.collector.worker_restarted()
    farm.collector.ipc_violation()
    farm.lost = 4
    farm.start(0).inc(catalogue.LOG_LINES_LOST, n=2)
    assert farm.value("sstpfarm_workers_up") == 2
    assert farm.value("sstpfarm_worker_restarts_total") == 2
    assert farm.value("sstpfarm_ipc_violations_total") == 1
    assert farm.value("sstpfarm_info", version="0.1.0", dataplane="pure") == 1
    assert farm.value("sstpfarm_log_lines_lost_total") == 6


def test_pools_are_shown_by_name(farm: Farm) -> None:
    farm.collector.pools_used({"main": (1, 4)})
    assert farm.value("sstpfarm_pool_addresses", pool="main", state="used") == 1
    assert farm.value("sstpfarm_pool_addresses", pool="main", state="free") == 3


def test_radius_servers_are_shown_by_their_place(farm: Farm) -> None:
    buckets = (0, 0, 0, 7, *(0,) * (len(catalogue.RADIUS_BUCKETS) - 4), 2)
    servers = (
        RadiusServerState("authentication", 1, True, 3, buckets, 65.5),
        RadiusServerState("authentication", 2, False, 9, (0,) * len(buckets), 0.0),
    )
    assert farm.value("sstpfarm_accounting_spool_age_seconds") == 0
    farm.collector.radius_used(servers, 40, time.time() - 60)
    first = {"service": "authentication", "server": "1"}
    assert farm.value("sstpfarm_radius_server_up", **first) == 1
    assert farm.value("sstpfarm_radius_server_up", service="authentication", server="2") == 0
    assert farm.value("sstpfarm_radius_requests_total", outcome="answered", **first) == 9
    assert farm.value("sstpfarm_radius_requests_total", outcome="unanswered", **first) == 3
    response = "sstpfarm_radius_response_seconds"
    below = [farm.value(f"{response}_bucket", le=le, **first) for le in ("0.005", "0.01", "30.0", "+Inf")]
    assert below == [0, 7, 7, 9]
    assert farm.value(f"{response}_sum", **first) == 65.5
    assert farm.value("sstpfarm_accounting_spool_records") == 40
    assert farm.value("sstpfarm_accounting_spool_age_seconds") == pytest.approx(60, abs=30)


def test_every_metric_of_the_catalogue_is_served(farm: Farm) -> None:
    farm.start(0)
    farm.collector.pools_used({"main": (1, 4)})
    quiet = (0,) * (len(catalogue.RADIUS_BUCKETS) + 1)
    farm.collector.radius_used((RadiusServerState("accounting", 1, True, 0, quiet, 0.0),), 0, 0.0)
    names = {name for name, _ in farm.samples()}
    for histogram in catalogue.HISTOGRAMS:
        assert {f"{histogram.name}_{part}" for part in ("bucket", "sum", "count")} <= names
    assert {f"{catalogue.RADIUS_RESPONSE}_{part}" for part in ("bucket", "sum", "count")} <= names
    listed = (*catalogue.COUNTERS, *catalogue.GAUGES, *catalogue.PACKET_COUNTERS, *catalogue.FARM_METRICS)
    assert {metric.name for metric in catalogue.RADIUS_METRICS if metric.kind != "histogram"} <= names
    assert {metric.name for metric in listed} <= names


def test_a_dead_worker_keeps_counting(farm: Farm) -> None:
    page = farm.start(0)
    page.inc(catalogue.LOGINS, "accepted", 5)
    page.totals[Cell.PACKETS_OUT] = 7
    page.set(catalogue.SESSIONS, 5)
    page.observe(catalogue.LOOP_LAG, "", 0.75)
    farm.die(0)
    assert farm.value("sstpfarm_logins_total", outcome="accepted") == 5
    assert farm.value("sstpfarm_packets_total", direction="out") == 7
    assert farm.value("sstpfarm_loop_lag_seconds_sum") == 0.75
    assert farm.value("sstpfarm_sessions", worker="0") is None  # its sessions are gone, and not zero but unknown
    page = farm.start(0)
    page.inc(catalogue.LOGINS, "accepted", 2)
    page.set(catalogue.SESSIONS, 1)
    assert farm.value("sstpfarm_logins_total", outcome="accepted") == 7
    assert farm.value("sstpfarm_sessions", worker="0") == 1
    farm.die(0)
    assert farm.value("sstpfarm_logins_total", outcome="accepted") == 7


def test_attach_and_retire_go_in_pairs(farm: Farm) -> None:
    page = farm.start(0)
    with pytest.raises(LocalError):
        farm.collector.attach(0, page)
    farm.die(0)
    with pytest.raises(LocalError):
        farm.collector.retire(0)


@pytest.mark.parametrize("seed", range(5))
def test_counters_never_go_back(farm: Farm, seed: int) -> None:
    draw = random.Random(seed)
    labels = {(c.name, value) for c in catalogue.COUNTERS for value in c.values}
    counters = sorted(labels)
    counted: dict[tuple[str, str], int] = dict.fromkeys(counters, 0)
    before: Samples = {}
    for _ in range(40):
        worker = draw.randrange(4)
        if worker in farm.pages and draw.random() < 0.3:
            farm.die(worker)
        elif worker not in farm.pages:
            farm.start(worker)
        else:
            page = farm.pages[worker]
            key = draw.choice(counters)
            amount = draw.randrange(1000)
            page.inc(*key, amount)
            counted[key] += amount
            page.totals[draw.choice(list(Cell))] += draw.randrange(1 << 40)
            page.observe(catalogue.LOGIN_PHASE, draw.choice(catalogue.PHASES), draw.random() * 200)
            page.set(catalogue.SESSIONS, draw.randrange(100))
        now = {key: value for key, value in farm.samples().items() if key[0] != catalogue.SESSIONS}
        assert before.keys() <= now.keys()
        assert all(now[key] >= value for key, value in before.items())
        before = now
    shown = {(name, next(iter(labels))[1] if labels else ""): value for (name, labels), value in before.items()}
    assert {key: shown[key] for key in counters} == counted


def fetch(port: int, host: str = "127.0.0.1") -> str:
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=60) as answer:
        assert answer.status == 200
        text: bytes = answer.read()
    return text.decode()


def test_serve(farm: Farm) -> None:
    stop = serve("127.0.0.1:0", make_registry(farm.collector))
    try:
        farm.start(0).inc(catalogue.CONNECTIONS, "opened", 3)
        text = fetch(stop.port)
        assert 'sstpfarm_connections_total{outcome="opened"} 3.0' in text
        assert "process_open_fds " in text
        with pytest.raises(SystemRefusal):
            serve(f"127.0.0.1:{stop.port}", farm.registry)
    finally:
        stop()
    stop()
    with pytest.raises(ConnectionRefusedError):
        HTTPConnection("127.0.0.1", stop.port, timeout=60).connect()


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


def test_who_says_nothing_keeps_few_threads_for_a_short_time(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "REQUEST_DEADLINE", 2.0)
    stop = serve("127.0.0.1:0", farm.registry)
    address = ("127.0.0.1", stop.port)
    before = threading.active_count()
    held = [socket.create_connection(address, timeout=60) for _ in range(MOST_REQUESTS)]
    try:
        with socket.create_connection(address, timeout=60) as surplus:
            assert surplus.recv(100).startswith(b"HTTP/1.0 503 ")
        assert threading.active_count() - before <= 2 * MOST_REQUESTS  # and a timer for each
        assert [sock.recv(100) for sock in held] == [b""] * MOST_REQUESTS
        assert "sstpfarm_workers_up 2.0" in fetch_soon(stop.port)
    finally:
        for sock in held:
            sock.close()
        stop()


def test_two_hundred_slow_connections(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    """They send a byte now and then, and so have no pause that a time-out would see."""
    monkeypatch.setattr(exposition, "REQUEST_DEADLINE", 0.5)
    stop = serve("127.0.0.1:0", farm.registry)
    before, most, began = threading.active_count(), 0, time.monotonic()
    held: list[socket.socket] = []
    try:
        while len(held) < 200:
            held.append(socket.create_connection(("127.0.0.1", stop.port), timeout=60))
            time.sleep(0.002)  # else the backlog overflows, and a connection takes a second
        alive = list(held)
        while alive and time.monotonic() - began < 60:
            most = max(most, threading.active_count() - before)
            alive = [sock for sock in alive if said(sock, b"G")]
            time.sleep(0.05)
        assert alive == []
        assert 0 < most <= 2 * MOST_REQUESTS
        assert "sstpfarm_workers_up 2.0" in fetch_soon(stop.port)
    finally:
        for sock in held:
            sock.close()
        stop()


def fetch_soon(port: int) -> str:
    """The page, when the last of those that had all places is out."""
    while True:
        with suppress(urllib.error.HTTPError):
            return fetch(port)


def said(sock: socket.socket, text: bytes) -> bool:
    """Whether the connection still takes that, and nothing came back."""
    try:
        sock.send(text)
        return not select.select([sock], [], [], 0)[0]
    except OSError:
        return False


def test_a_moment_without_threads_costs_no_places(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Timer) -> None:
        raise RuntimeError("can't start new thread")

    stop = serve("127.0.0.1:0", farm.registry)
    try:
        monkeypatch.setattr(threading.Timer, "start", refuse)
        for _ in range(MOST_REQUESTS + 1):
            with socket.create_connection(("127.0.0.1", stop.port), timeout=60) as sock:
                assert sock.recv(100) == b""
        monkeypatch.undo()
        assert "sstpfarm_workers_up 2.0" in fetch(stop.port)
    finally:
        stop()


@pytest.mark.skipif(not has_ipv6(), reason="this kernel or container has no IPv6 loopback")
def test_serve_over_ipv6(farm: Farm) -> None:
    stop = serve("[::1]:0", farm.registry)
    try:
        assert "sstpfarm_workers_up 2.0" in fetch(stop.port, "[::1]")
    finally:
        stop()


@pytest.mark.parametrize(
    "address", ["", "9443", ":9443", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "::1:9443", "[::1]", "[a]:1", "h:65536"]
)
def test_serve_refuses_what_is_no_address(farm: Farm, address: str) -> None:
    with pytest.raises(ConfigError, match="metrics address"):
        serve(address, farm.registry)


def test_the_master_imports_no_protocol_code() -> None:
    program = (
        "import sys; import sstpfarm.telemetry.collector, sstpfarm.telemetry.log;"
        "sys.exit(any(name.startswith('sstpfarm.proto') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
