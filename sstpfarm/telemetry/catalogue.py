"""Every metric of the project: name, meaning, label and the closed set of its values, and where its number is kept.

A label value that is not listed here cannot be counted, so no user name and no address can ever become one.
The master must not import `proto`: the phases are written out here, and a test compares them with `proto.events.Phase`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sstpfarm.dataplane.interface import DROP_CELLS, Cell
from sstpfarm.reasons import Reason

RADIUS: Final = ("service", "server")  # labels: "authentication" or "accounting"; "1" to "16"
UNLABELLED: Final = ("",)  # the label values of a metric that has no label

REASONS: Final = tuple(reason.value for reason in Reason)
PHASES: Final = ("tcp", "tls", "http", "sstp", "lcp", "authentication", "binding", "ipcp", "interface")


class Counter(NamedTuple):
    """A counter that workers raise with `Stats.inc`; the farm's value is the sum over all workers, dead ones too."""

    name: str
    help: str
    label: str = ""
    values: tuple[str, ...] = UNLABELLED


class Gauge(NamedTuple):
    """A gauge that each worker sets with `Stats.set`; shown with the label `worker`."""

    name: str
    help: str


class Histogram(NamedTuple):
    """A histogram of seconds that workers fill with `Stats.observe`."""

    name: str
    help: str
    label: str
    values: tuple[str, ...]
    buckets: tuple[float, ...]  # upper bounds in seconds, rising; +Inf is implied


class PacketCounter(NamedTuple):
    """A counter that the packet path keeps in the worker's totals: one cell for each label value."""

    name: str
    help: str
    label: str
    cells: dict[str, Cell]


class FarmMetric(NamedTuple):
    """A metric that the master knows by itself."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()


CONNECTIONS: Final = "sstpfarm_connections_total"
LOGINS: Final = "sstpfarm_logins_total"
REAUTHENTICATIONS: Final = "sstpfarm_reauthentications_total"
SESSION_ENDS: Final = "sstpfarm_session_ends_total"
ROUTER_MESSAGES: Final = "sstpfarm_router_messages_total"
LOG_LINES_LOST: Final = "sstpfarm_log_lines_lost_total"
SESSIONS: Final = "sstpfarm_sessions"
LOGIN_PHASE: Final = "sstpfarm_login_phase_seconds"
LOOP_LAG: Final = "sstpfarm_loop_lag_seconds"
WORKERS_UP: Final = "sstpfarm_workers_up"
WORKER_RESTARTS: Final = "sstpfarm_worker_restarts_total"
IPC_VIOLATIONS: Final = "sstpfarm_ipc_violations_total"
POOL_ADDRESSES: Final = "sstpfarm_pool_addresses"
RADIUS_SERVER_UP: Final = "sstpfarm_radius_server_up"
RADIUS_REQUESTS: Final = "sstpfarm_radius_requests_total"
RADIUS_RESPONSE: Final = "sstpfarm_radius_response_seconds"
SPOOL_RECORDS: Final = "sstpfarm_accounting_spool_records"
SPOOL_AGE: Final = "sstpfarm_accounting_spool_age_seconds"
CERTIFICATE_EXPIRY: Final = "sstpfarm_certificate_expiry_timestamp_seconds"
INFO: Final = "sstpfarm_info"

COUNTERS: Final = (
    Counter(
        CONNECTIONS,
        "TCP connections by how far they came: a session was opened, or the reason for which none was",
        "outcome",
        ("opened", *REASONS),
    ),
    Counter(
        LOGINS,
        "Logins that reached a decision, by that decision",
        "outcome",
        ("accepted", *REASONS),
    ),
    Counter(
        REAUTHENTICATIONS,
        "Sessions whose time was over and whose peer was asked to log in again, and those that went on then",
        "outcome",
        ("asked", "accepted"),
    ),
    Counter(SESSION_ENDS, "Sessions that were open and ended, by the reason of the end", "reason", REASONS),
    Counter(
        ROUTER_MESSAGES,
        "What clients were told of their IPv6: router advertisements, answers by DHCPv6; and what got no answer",
        "message",
        ("advertisement", "dhcpv6", "unanswered"),
    ),
    Counter(LOG_LINES_LOST, "Log lines that could not be written"),
)

GAUGES: Final = (Gauge(SESSIONS, "Sessions that are open now"),)

HISTOGRAMS: Final = (
    Histogram(
        LOGIN_PHASE,
        "Time that each phase of a login took",
        "phase",
        PHASES,
        (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
    ),
    Histogram(
        LOOP_LAG,
        "How much later than planned a worker's event loop ran its tick",
        "",
        UNLABELLED,
        (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0),
    ),
)

PACKET_COUNTERS: Final = (
    PacketCounter(
        "sstpfarm_bytes_total",
        "Bytes of network packets that were passed on; in is from the peer",
        "direction",
        {"in": Cell.BYTES_IN, "out": Cell.BYTES_OUT},
    ),
    PacketCounter(
        "sstpfarm_packets_total",
        "Network packets that were passed on; in is from the peer",
        "direction",
        {"in": Cell.PACKETS_IN, "out": Cell.PACKETS_OUT},
    ),
    PacketCounter(
        "sstpfarm_drops_total", "Network packets that were dropped, by the reason", "reason", dict(DROP_CELLS)
    ),
    PacketCounter(
        "sstpfarm_control_frames_total",
        "SSTP control packets and PPP control frames that peers sent",
        "",
        {"": Cell.CONTROL_IN},
    ),
)

RADIUS_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds in seconds of RADIUS_RESPONSE."""
_SERVER: Final = "by service and by the server's place in the configuration (1 is the first)"

RADIUS_METRICS: Final = (
    FarmMetric(RADIUS_SERVER_UP, "gauge", f"1 for a RADIUS server that is asked, 0 for a dead one; {_SERVER}", RADIUS),
    FarmMetric(
        RADIUS_REQUESTS,
        "counter",
        f"Requests to RADIUS servers that were answered or unanswered, repetitions not counted; {_SERVER}",
        (*RADIUS, "outcome"),
    ),
    FarmMetric(
        RADIUS_RESPONSE,
        "histogram",
        f"Time from a request to its reply, repetitions included; {_SERVER}",
        RADIUS,
    ),
    FarmMetric(SPOOL_RECORDS, "gauge", "Accounting records that no RADIUS server has acknowledged yet"),
    FarmMetric(SPOOL_AGE, "gauge", "How long the first of them has waited; 0 where none waits"),
)
"""What auth tells of RADIUS. Its counters begin anew with an auth process."""

FARM_METRICS: Final = (
    FarmMetric(WORKERS_UP, "gauge", "Workers that are ready to serve"),
    FarmMetric(WORKER_RESTARTS, "counter", "Workers that were started again after they were lost"),
    FarmMetric(IPC_VIOLATIONS, "counter", "Processes that were killed because they sent a forbidden message"),
    FarmMetric(
        POOL_ADDRESSES,
        "gauge",
        "Addresses, or prefixes of IPv6, that each pool can hand out: used and free",
        ("pool", "state"),
    ),
    FarmMetric(
        CERTIFICATE_EXPIRY,
        "gauge",
        "When the server's certificate ends, in seconds since the epoch; +Inf where there is none",
    ),
    FarmMetric(INFO, "gauge", "Always 1; version of sstpfarm and name of the packet path", ("version", "dataplane")),
)
