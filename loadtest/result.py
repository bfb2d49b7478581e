"""The result of a run as plain JSON data; README.md describes its schema."""

from __future__ import annotations

import os
import platform
import ssl
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec

from loadtest.conductor import ROOT, Books, StageFacts
from loadtest.measures import Tally
from loadtest.observe import Usage
from loadtest.orders import Order

SCHEMA: Final = 1


def make_result(order: Order, books: Books, began: datetime, *, own_farm: bool) -> dict[str, Any]:
    """The whole result. Durations are in milliseconds, unless a name says otherwise."""
    target, plan = order.target, order.scenario
    whole = Tally()
    for stage in books.stages:
        whole.absorb(stage.tally)
    if whole.counts.get("packets sent"):
        whole.add("packets lost", whole.counts["packets sent"] - whole.counts.get("packets received", 0))
    return {
        "schema": SCHEMA,
        "tool": {"version": version("sstpfarm"), "commit": _commit()},
        "began": began.isoformat(timespec="seconds"),
        "machine": machine(),
        "target": {"address": target.address, "port": target.port, "own_farm": own_farm},
        "scenario": {"name": type(plan).__struct_config__.tag, **msgspec.to_builtins(msgspec.structs.asdict(plan))},
        "processes": order.processes,
        "interrupted": books.interrupted,
        "overdue": books.overdue,
        "counts": dict(sorted(whole.counts.items())),
        "durations": _durations(whole),
        "stages": [_stage(stage) for stage in books.stages],
        "generators": [
            {"cpu_seconds": round(found.get("cpu", 0) / 1e9, 3), "rss_bytes": found.get("rss", 0)}
            for found in books.generators
        ],
        "series": [msgspec.to_builtins(row) for row in books.rows],
    }


def machine() -> dict[str, Any]:
    """What the run was made on."""
    cpu, memory = platform.machine(), 0
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
        memory = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    return {
        "kernel": platform.release(),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": memory,
        "python": sys.version.split()[0],
        "openssl": ssl.OPENSSL_VERSION,
    }


def _stage(stage: StageFacts) -> dict[str, Any]:
    counts = stage.tally.counts
    seconds = stage.seconds
    found: dict[str, Any] = {
        "name": stage.name,
        "seconds": round(seconds, 3),
        "counts": dict(sorted(counts.items())),
        "gauges": stage.tally.gauges,
        "durations": _durations(stage.tally),
        "rates": {name: round(count / seconds, 3) for name, count in sorted(counts.items()) if seconds > 0},
        "server": _server(stage),
    }
    roles = _cpu_by_kind(stage)
    if logins := counts.get("logins"):
        found["server_cpu_ms_per_login"] = {kind: round(1000 * cpu / logins, 3) for kind, cpu in roles.items()}
    if moved := counts.get("bytes received"):
        found["server_cpu_s_per_gb"] = {kind: round(cpu / moved * 1e9, 3) for kind, cpu in roles.items()}
        found["mbit_per_second"] = {
            name: round(8 * counts.get(f"bytes {name}", 0) / seconds / 1e6, 3) for name in ("sent", "received")
        }
    return found


def _server(stage: StageFacts) -> list[dict[str, Any]]:
    before = {found.pid: found for found in stage.before}
    return [
        {
            "pid": found.pid,
            "role": found.role,
            "cpu_seconds": round(_spent(before, found), 4),
            "cpu_percent": round(100 * _spent(before, found) / stage.seconds, 3),
            "rss_before_bytes": before[found.pid].rss if found.pid in before else 0,
            "rss_after_bytes": found.rss,
        }
        for found in stage.after
    ]


def _cpu_by_kind(stage: StageFacts) -> dict[str, float]:
    """CPU seconds of the stage: all workers together, auth, master."""
    before = {found.pid: found for found in stage.before}
    spent: dict[str, float] = {}
    for found in stage.after:
        kind = found.role.split()[0]
        spent[kind] = spent.get(kind, 0.0) + _spent(before, found)
    return spent


def _spent(before: dict[int, Usage], found: Usage) -> float:
    return found.cpu - (before[found.pid].cpu if found.pid in before else 0.0)


def _durations(tally: Tally) -> dict[str, Any]:
    return {name: histogram.summary() for name, histogram in sorted(tally.durations.items())}


def _commit() -> str:
    """The commit of the checkout, with a + when it was changed; "" outside of one."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        changed = _git("diff", "--quiet", "HEAD")
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return commit.stdout.strip() + ("+" if changed.returncode == 1 else "") if commit.returncode == 0 else ""


def _git(*words: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=20)  # noqa: S603 - fixed words


def failures(result: dict[str, Any]) -> Iterable[str]:
    """What went wrong, for people; empty when every login worked and no session was lost."""
    counts = result["counts"]
    for name, count in counts.items():
        if name.startswith(("failed: ", "lost: ", "probe failed", "packets bad")):
            yield f"{count} {name}"
    for stage in result["overdue"]:
        yield f"the {stage} stage was not over in its time"
