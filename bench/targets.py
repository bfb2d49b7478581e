"""What is to be reached: the figures of the project's promise, in the order of their table."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Verdict(StrEnum):
    """How a measured value stands to its target."""

    STRETCH = "stretch"
    PASS = "pass"  # noqa: S105 - a verdict
    MISSED = "missed"
    UNKNOWN = "not measured"
    REPORTED = "reported"


@dataclass(frozen=True, slots=True)
class Target:
    """One row of the table.

    Attributes:
        reach, stretch: the bounds; None when the figure is only reported.
        digits: behind the point.
        more: whether more is better.
    """

    key: str
    title: str
    unit: str
    reach: float | None = None
    stretch: float | None = None
    digits: int = 2
    more: bool = False

    def verdict(self, value: float | None) -> Verdict:
        """Judge a value as it is shown, rounded to `digits`."""
        if value is None:
            return Verdict.UNKNOWN
        if self.reach is None or self.stretch is None:
            return Verdict.REPORTED
        sign = -1 if self.more else 1
        shown = sign * round(value, self.digits)
        if shown <= sign * self.stretch:
            return Verdict.STRETCH
        return Verdict.PASS if shown <= sign * self.reach else Verdict.MISSED


TARGETS: Final = (
    Target("tcp-up-ratio", "one session, TCP, client to net: server CPU to the native limit", "times", 1.35, 1.15),
    Target("tcp-down-ratio", "one session, TCP, net to client: server CPU to the native limit", "times", 1.35, 1.15),
    Target("tcp-up-core", "the same, client to net: throughput of one worker core", "Gbit/s", 4, 6, 1, more=True),
    Target("tcp-down-core", "the same, net to client: throughput of one worker core", "Gbit/s", 4, 6, 1, more=True),
    Target("many-up", "100 sessions of 20 Mbit/s, TCP, client to net: server CPU", "s/GB", 3.0, 1.8),
    Target("many-down", "100 sessions of 20 Mbit/s, TCP, net to client: server CPU", "s/GB", 3.0, 1.8),
    Target("udp-in", "UDP, 172 bytes, one flow into the tunnel: worker CPU", "us/packet", 1.0, 0.4),
    Target("udp-out", "UDP, 1,372 bytes, out of the tunnel: worker CPU", "us/packet", 2.5, 1.5),
    Target("burst-up", "bursts of 64 UDP datagrams of 1,200 bytes each 10 ms, client to net: lost", "", 0, 0, 0),
    Target("burst-down", "the same, net to client: lost", "", 0, 0, 0),
    Target("login-cpu", "worker CPU for a full login", "ms", 4, 2),
    Target("login-rate", "logins a second on this machine, generator included", "1/s", 150, 300, 0, more=True),
    Target("session-kib", "worker memory for a session that carried traffic, 2,000 sessions", "KiB", 96, 64, 0),
    Target("sessions", "sessions at once, 2 workers, keepalive answered, none lost", "", 5000, 10000, 0, more=True),
    Target("idle-cpu", "CPU of the server while they idle", "% of a core", 10, 3, 1),
    Target("end-at-once", "then all of them log out at once: until the last one is closed", "s", digits=1),
    Target("ping-p50", "100 Mbit/s bottleneck, download running: ping through the tunnel, median", "ms", 45, 30, 0),
    Target("ping-p95", "the same, 95th percentile", "ms", 70, 45, 0),
    Target("pure-up", "pure packet path, one session, TCP, client to net: server CPU", "s/GB"),
    Target("pure-down", "pure packet path, one session, TCP, net to client: server CPU", "s/GB"),
    Target("fast-up", "fast packet path, the same, client to net", "s/GB"),
    Target("fast-down", "fast packet path, the same, net to client", "s/GB"),
    Target("native-up", "native comparator, the same, client to net", "s/GB"),
    Target("native-down", "native comparator, the same, net to client", "s/GB"),
    Target("connect-up", "`sstpfarm connect` on the other core, client to net: reached", "Gbit/s"),
    Target("connect-down", "`sstpfarm connect` on the other core, net to client: reached", "Gbit/s"),
    Target("login-cpu-100", "worker CPU for a login, the first 100 sessions", "ms"),
    Target("login-cpu-1000", "worker CPU for a login, up to 1,000 sessions", "ms"),
    Target("login-cpu-5000", "worker CPU for a login, up to 5,000 sessions", "ms"),
    Target("login-all-100", "CPU of worker, master and auth for a login, the first 100 sessions", "ms"),
    Target("login-all-1000", "CPU of worker, master and auth for a login, up to 1,000 sessions", "ms"),
    Target("login-all-5000", "CPU of worker, master and auth for a login, up to 5,000 sessions", "ms"),
    Target("login-routed-100", "the same, with an IPv6 /64 for each session, the first 100 sessions", "ms"),
    Target("login-routed-1000", "the same, with an IPv6 /64 for each session, up to 1,000 sessions", "ms"),
    Target("login-routed-5000", "the same, with an IPv6 /64 for each session, up to 5,000 sessions", "ms"),
    Target("login-ready-100", "the same, with interfaces that were ready, the first 100 sessions", "ms"),
    Target("login-ready-1000", "the same, with interfaces that were ready, up to 1,000 sessions", "ms"),
    Target("login-ready-5000", "the same, with interfaces that were ready, up to 5,000 sessions", "ms"),
    Target("login-again-100", "CPU of worker, master and auth for an end and a login, beside 100 that stay", "ms"),
    Target("login-again-1000", "CPU of worker, master and auth for an end and a login, beside 1,000", "ms"),
    Target("login-again-5000", "CPU of worker, master and auth for an end and a login, beside 5,000", "ms"),
    Target("again-routed-100", "the same, with an IPv6 /64 for each session, beside 100", "ms"),
    Target("again-routed-1000", "the same, with an IPv6 /64 for each session, beside 1,000", "ms"),
    Target("again-routed-5000", "the same, with an IPv6 /64 for each session, beside 5,000", "ms"),
    Target("again-ready-100", "the same, with interfaces that were ready, beside 100", "ms"),
    Target("again-ready-1000", "the same, with interfaces that were ready, beside 1,000", "ms"),
    Target("again-ready-5000", "the same, with interfaces that were ready, beside 5,000", "ms"),
    Target("idle-100", "CPU of the server for an idle session, 100 sessions", "us/s", digits=1),
    Target("idle-1000", "CPU of the server for an idle session, 1,000 sessions", "us/s", digits=1),
    Target("idle-5000", "CPU of the server for an idle session, 5,000 sessions", "us/s", digits=1),
    Target(
        "instructions-tcp-in", "instructions of the packet path, TCP, client to net, MTU 1400", "a packet", digits=0
    ),
    Target("instructions-tcp-out", "the same, net to client", "a packet", digits=0),
    Target("instructions-udp-in", "the same, UDP, 172 bytes, client to net", "a packet", digits=0),
    Target("instructions-udp-out", "the same, UDP, 1,372 bytes, net to client", "a packet", digits=0),
)
BY_KEY: Final = {target.key: target for target in TARGETS}
