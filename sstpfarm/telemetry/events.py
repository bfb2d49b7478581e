"""Every log event of the project: its name, its level, the keys that it always carries. Undeclared names are a bug."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

Level = Literal["debug", "info", "warning", "error"]


class LogEvent(NamedTuple):
    """Level and required keys of one event."""

    level: Level
    keys: tuple[str, ...] = ()


EVENTS: Final[dict[str, LogEvent]] = {
    "farm.starting": LogEvent("info", ("version", "workers")),
    "dataplane.chosen": LogEvent("info", ("dataplane", "offload")),
    "dataplane.degraded": LogEvent("warning", ("why",)),
    "masquerade.suspended": LogEvent("warning", ("why",)),
    "farm.ready": LogEvent("info", ("listen", "workers")),
    "farm.stopping": LogEvent("info", ("signal",)),
    "farm.stopped": LogEvent("info"),
    "farm.leftovers_removed": LogEvent("warning", ("interfaces",)),
    "certificate.made": LogEvent("info", ("path", "sha256")),
    "certificate.loaded": LogEvent("info", ("sha256", "not_after")),
    "certificate.kept": LogEvent("warning", ("why",)),
    "certificate.not_yet_valid": LogEvent("warning", ("sha256", "why")),
    "certificate.self_signed": LogEvent("info", ("path", "sha256", "help")),
    "tls.anonymous": LogEvent("warning", ("why",)),
    "farm.not_enabled": LogEvent("warning", ("why",)),
    "method.unprotected": LogEvent("warning", ("method", "why")),
    "worker.started": LogEvent("info", ("worker", "pid")),
    "worker.ready": LogEvent("info", ("worker",)),
    "worker.lost": LogEvent("error", ("worker", "pid", "status", "sessions")),
    "worker.unresponsive": LogEvent("error", ("worker", "pid")),
    "worker.stopped": LogEvent("info", ("worker",)),
    "auth.started": LogEvent("info", ("pid",)),
    "auth.ready": LogEvent("info"),
    "config.reloaded": LogEvent("info", ("users", "need_restart")),
    "config.refused": LogEvent("error", ("faults",)),
    "users.reloaded": LogEvent("info", ("users",)),
    "auth.lost": LogEvent("error", ("pid", "status")),
    "listener.skipped": LogEvent("warning", ("listener", "why")),
    "listener.lent": LogEvent("info", ("listener", "worker")),
    "listener.taken_back": LogEvent("info", ("listener", "worker")),
    "ipc.violation": LogEvent("error", ("sender", "detail")),
    "connection.refused": LogEvent("info", ("peer", "reason", "phase")),
    "login.accepted": LogEvent("info", ("session", "user", "peer", "method")),
    "login.refused": LogEvent("info", ("session", "user", "peer", "method", "reason")),
    "login.denied": LogEvent("info", ("session", "user", "peer", "method", "detail")),
    "pool.exhausted": LogEvent("warning", ("session", "user", "pools")),
    "session.opened": LogEvent("info", ("session", "user", "peer", "address", "interface")),
    "session.closed": LogEvent("info", ("session", "user", "peer", "reason", "seconds", "bytes_in", "bytes_out")),
    "session.reauthenticated": LogEvent("info", ("session", "user", "peer", "method")),
    "session.moved": LogEvent("info", ("session", "user", "what")),
    "session.kicked": LogEvent("info", ("session", "by")),
    "effect.failed": LogEvent("warning", ("session", "effect", "detail")),
    "route.contested": LogEvent("warning", ("session", "route", "metric", "serves")),
    "table.restored": LogEvent("warning"),
    "table.lost": LogEvent("error", ("detail",)),
    "script.output": LogEvent("info", ("session", "program", "text")),
    "script.failed": LogEvent("warning", ("session", "program", "detail")),
    "scripts.abandoned": LogEvent("warning", ("count",)),
    "interface.failed": LogEvent("error", ("session", "detail")),
    "interface.incomplete": LogEvent("warning", ("session", "detail")),
    "accept.paused": LogEvent("warning", ("error",)),
    "connections.dropped": LogEvent("warning", ("reason", "count", "starting", "source", "source_starting")),
    "radius.unsigned": LogEvent("warning", ("server",)),
    "radius.server_dead": LogEvent("warning", ("server",)),
    "radius.server_alive": LogEvent("info", ("server",)),
    "radius.records_lost": LogEvent("error", ("count",)),
    "radius.order": LogEvent("info", ("client", "order", "sessions", "error_cause")),
    "radius.order_ignored": LogEvent("warning", ("client", "why", "count")),
    "radius.ignored": LogEvent("warning", ("server", "why", "count")),
    "client.starting": LogEvent("info", ("version", "interfaces")),
    "client.ready": LogEvent("info", ("interfaces",)),
    "client.reloaded": LogEvent("info", ("added", "removed", "changed", "redialed")),
    "client.reload_refused": LogEvent("error", ("detail",)),
    "client.stopping": LogEvent("info", ("signal",)),
    "client.stopped": LogEvent("info"),
    "client.leftovers_removed": LogEvent("warning", ("routes",)),
    "tunnel.dialing": LogEvent("info", ("interface", "server")),
    "tunnel.opened": LogEvent("info", ("interface", "user", "server", "address", "mtu", "method", "cipher")),
    "tunnel.closed": LogEvent("info", ("interface", "reason", "detail", "seconds", "bytes_in", "bytes_out")),
    "tunnel.failed": LogEvent("warning", ("interface", "reason", "detail", "phase")),
    "tunnel.postponed": LogEvent("info", ("interface", "seconds", "reason")),
    "tunnel.stood_by": LogEvent("info", ("interface",)),
    "tunnel.refused": LogEvent("error", ("interface", "detail")),
    "tunnel.troubled": LogEvent("warning", ("interface", "detail")),
    "network.changed": LogEvent("info", ("interface",)),
    "internal.error": LogEvent("error", ("detail",)),
}
