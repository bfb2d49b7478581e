"""What the terminal shows: a table that moves, or lines where there is no terminal, and a summary at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from loadtest.conductor import Row
from loadtest.result import failures

MIB: Final = 1 << 20
SHOWN: Final = ("login", "round trip", "probe before", "probe during", "generator late")


@contextmanager
def progress(console: Console) -> Iterator[Callable[[Row], None]]:
    """Give the function that shows a row."""
    if not console.is_terminal:
        yield lambda row: console.print(_line(row), highlight=False, soft_wrap=True)
        return
    with Live(console=console, refresh_per_second=4) as live:
        yield lambda row: live.update(_table(row))


def _line(row: Row) -> str:
    server = " ".join(f"{role} {percent:.0f}% {rss / MIB:.0f}M" for role, (percent, rss) in row.server.items())
    parts = [
        f"{row.at:7.1f} s {row.stage:8}",
        f"up {row.gauges.get('up', 0)}",
        f"starting {row.gauges.get('starting', 0)}",
        f"logins {row.rates.get('logins', 0):.0f}/s",
        f"failed {row.rates.get('failed', 0):.0f}/s lost {row.rates.get('lost', 0):.0f}/s",
    ]
    if "bytes received" in row.rates:
        parts.append(f"received {8 * row.rates['bytes received'] / 1e6:.1f} Mbit/s")
    for name in SHOWN:
        if name in row.quantiles:
            median, high, _ = row.quantiles[name]
            parts.append(f"{name} p50 {median:.1f} p95 {high:.1f} ms")
    return "  ".join([*parts, server])


def _table(row: Row) -> Table:
    table = Table(title=f"{row.at:.0f} s, {row.stage}", show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    for name, value in row.gauges.items():
        if name not in ("cpu", "rss"):
            table.add_row(name, f"{value}")
    for name, rate in sorted(row.rates.items()):
        table.add_row(escape(name), f"{8 * rate / 1e6:.1f} Mbit/s" if name.startswith("bytes") else f"{rate:.1f} /s")
    for name, (median, high, highest) in sorted(row.quantiles.items()):
        table.add_row(f"{name}, p50 p95 p99", f"{median:.1f} {high:.1f} {highest:.1f} ms")
    for role, (percent, rss) in row.server.items():
        table.add_row(f"server, {role}", f"{percent:.1f} % of a core, {rss / MIB:.0f} MiB")
    return table


def show_result(console: Console, result: dict[str, Any]) -> None:
    """The closing tables."""
    for stage in result["stages"]:
        if not stage["counts"] and stage["name"] != "measure":
            continue
        table = Table(title=f"{result['scenario']['name']}: {stage['name']}, {stage['seconds']:.1f} s")
        table.add_column("", style="bold")
        for column in ("count", "a second"):
            table.add_column(column, justify="right")
        for name, count in stage["counts"].items():
            table.add_row(escape(name), f"{count}", f"{stage['rates'].get(name, 0):.1f}")
        for name, value in stage.get("mbit_per_second", {}).items():
            table.add_row(f"Mbit/s {name}", f"{value:.1f}", "")
        for kind, value in stage.get("server_cpu_ms_per_login", {}).items():
            table.add_row(f"server CPU a login, {kind}", f"{value:.2f} ms", "")
        for found in stage["server"]:
            rss = f"{found['rss_after_bytes'] / MIB:.1f} MiB"
            table.add_row(f"server, {found['role']}", rss, f"{found['cpu_percent']:.1f} %")
        console.print(table)
        if stage["durations"]:
            console.print(_durations(stage["durations"]))
    for failure in failures(result):
        console.print(failure, style="red", markup=False)


def _durations(durations: dict[str, Any]) -> Table:
    columns = ("count", "mean", "p50", "p95", "p99", "max")
    table = Table(title="milliseconds")
    table.add_column("", style="bold", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    for name, summary in durations.items():
        table.add_row(name, *(f"{summary.get(column, 0)}" for column in columns))
    return table
