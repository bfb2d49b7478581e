"""A result as one HTML page: charts as inline SVG, which needs neither a library nor a network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

WIDTH: Final = 860  # pixels of a chart
HEIGHT: Final = 240
LEFT: Final = 70
BOTTOM: Final = 30
TOP: Final = 14
TICKS: Final = 5
MAX_POINTS: Final = 1500  # of a line
COLOURS: Final = ("#1f6fb2", "#d1603d", "#3d8b40", "#8a4fa3", "#b8860b", "#4d4d4d", "#c2185b", "#00838f")
MIB: Final = 1 << 20

Line = Sequence[tuple[float, float]]

PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.45 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222 }}
table {{ border-collapse: collapse; margin: 1em 0 }} td, th {{ padding: .2em .8em; border-bottom: 1px solid #ddd }}
td {{ text-align: right; font-variant-numeric: tabular-nums }} th {{ text-align: left; font-weight: 600 }}
svg text {{ font: 12px system-ui, sans-serif; fill: #444 }} h2 {{ margin: 1.6em 0 .2em; font-size: 1.1em }}
pre {{ background: #f6f6f6; padding: 1em; overflow: auto }}
</style></head><body><h1>{title}</h1><p>{facts}</p>{body}</body></html>
"""


def page(result: Mapping[str, Any]) -> str:
    """The page of a result."""
    scenario, machine = result["scenario"], result["machine"]
    title = f"Load test: {scenario['name']}, {result['began']}"
    facts = escape(
        f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, Python {machine['python']}, "
        f"{machine['openssl']}; sstpfarm {result['tool']['version']} {result['tool']['commit']}"
    )
    rows = result["series"]
    parts = [_durations(result["durations"])]
    parts += [chart(name, unit, lines) for name, unit, lines in _charts(rows) if any(lines.values())]
    shown = {key: value for key, value in result.items() if key not in ("series", "durations")}
    parts.append(f"<h2>Everything else</h2><pre>{escape(json.dumps(shown, indent=2))}</pre>")
    return PAGE.format(title=escape(title), facts=facts, body="".join(parts))


def _charts(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, dict[str, Line]]]:
    def rate(*names: str) -> dict[str, Line]:
        return {
            name: [(row["at"], row["rates"].get(name, 0.0)) for row in rows]
            for name in names
            if any(name in row["rates"] for row in rows)
        }

    def gauge(*names: str) -> dict[str, Line]:
        return {name: [(row["at"], row["gauges"].get(name, 0)) for row in rows] for name in names}

    def quantiles(name: str) -> dict[str, Line]:
        found = [(row["at"], row["quantiles"][name]) for row in rows if name in row["quantiles"]]
        labels = ("p50", "p95", "p99")
        return {label: [(at, values[place]) for at, values in found] for place, label in enumerate(labels)}

    def server(place: int, scale: float) -> dict[str, Line]:
        roles = dict.fromkeys(role for row in rows for role in row["server"])
        return {
            role: [(row["at"], row["server"][role][place] / scale) for row in rows if role in row["server"]]
            for role in roles
        }

    bits: dict[str, Line] = {
        name.removeprefix("bytes "): [(at, 8 * value / 1e6) for at, value in line]
        for name, line in rate("bytes sent", "bytes received").items()
    }
    timed = sorted({name for row in rows for name in row["quantiles"] if not name.startswith("login.")})
    return [
        ("Sessions", "", gauge("up", "starting", "hostile")),
        ("Logins", "a second", rate("logins", "failed", "lost", "closed")),
        ("Packets", "a second", rate("packets sent", "packets received", "packets reordered", "packets held back")),
        ("Throughput", "Mbit/s", bits),
        *((f"Duration: {name}", "ms", quantiles(name)) for name in timed),
        ("CPU of the server", "% of a core", server(0, 1)),
        ("Memory of the server (RSS)", "MiB", server(1, MIB)),
    ]


def chart(title: str, unit: str, lines: Mapping[str, Line]) -> str:
    """One line chart."""
    lines = {name: line for name, line in lines.items() if line}
    points = [point for line in lines.values() for point in line]
    right = max((x for x, _ in points), default=0.0) or 1.0
    top = _round_up(max((y for _, y in points), default=0.0))
    across, up = (WIDTH - LEFT - 10) / right, (HEIGHT - BOTTOM - TOP) / top

    def place(point: tuple[float, float]) -> str:
        return f"{LEFT + point[0] * across:.1f},{HEIGHT - BOTTOM - point[1] * up:.1f}"

    drawn = []
    for number in range(TICKS + 1):
        y, value = HEIGHT - BOTTOM - number * (HEIGHT - BOTTOM - TOP) / TICKS, top * number / TICKS
        x, moment = LEFT + number * (WIDTH - LEFT - 10) / TICKS, right * number / TICKS
        drawn.append(f'<path d="M{LEFT},{y:.1f}H{WIDTH - 10}" stroke="#e2e2e2"/>')
        drawn.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
        drawn.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{moment:.3g} s</text>')
    legend = []
    for number, (name, line) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(place(point) for point in line[:: max(1, len(line) // MAX_POINTS)])
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        legend.append(f'<span style="color:{colour}">&#9632;</span> {escape(name)}')
    heading = escape(f"{title} ({unit})" if unit else title)
    return (
        f"<h2>{heading}</h2><div>{' &nbsp; '.join(legend)}</div>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{heading}">{"".join(drawn)}</svg>'
    )


def _round_up(value: float) -> float:
    """The next 1, 2 or 5 times a power of ten: an axis that reads well."""
    if value <= 0:
        return 1.0
    power = 1.0
    while power * 10 <= value:
        power *= 10
    while power > value:
        power /= 10
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value)


def _durations(durations: Mapping[str, Mapping[str, float]]) -> str:
    columns = ("count", "mean", "p50", "p90", "p95", "p99", "p99.9", "max")
    head = "".join(f"<th>{column}</th>" for column in columns)
    rows = [
        f"<tr><th>{escape(name)}</th>" + "".join(f"<td>{summary.get(column, '')}</td>" for column in columns) + "</tr>"
        for name, summary in durations.items()
    ]
    return f"<h2>Durations (ms)</h2><table><tr><th></th>{head}</tr>{''.join(rows)}</table>" if rows else ""
