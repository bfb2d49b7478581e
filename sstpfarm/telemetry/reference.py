"""The text of docs/metrics.md, made from the catalogues.

``python -m sstpfarm.telemetry.reference > docs/metrics.md`` writes it; a test compares the two.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from sstpfarm.telemetry.catalogue import (
    COUNTERS,
    FARM_METRICS,
    GAUGES,
    HISTOGRAMS,
    LOG_LINES_LOST,
    PACKET_COUNTERS,
    RADIUS_METRICS,
    REASONS,
)
from sstpfarm.telemetry.events import EVENTS

_METRICS_INTRO = """\
# Metrics and log events

Made from the code: `python -m sstpfarm.telemetry.reference > docs/metrics.md`. A test compares the two.

## Metrics

`/metrics` is served by the master at the address `metrics` of the configuration. Counters and histograms are sums over
all workers since the farm was started, those that died included: they never go back; those of RADIUS
begin anew when auth is started again. Only gauges of a single worker
carry the label `worker`. Every label has a closed set of values; no user name and no address is ever one.

The master's own process shows as `process_cpu_seconds_total`, `process_resident_memory_bytes`, `process_open_fds` and
the other `process_*` metrics of prometheus_client.
"""

_EVENTS_INTRO = """\
## Log events

One line on stderr for each event: JSON, or coloured text on a terminal. Each line has `event`, `level`, `timestamp`
(ISO 8601, UTC), `role` and `pid`, and in a worker `worker`; where an event has a key `worker` or `pid` of its own, as
in `worker.lost`, it is the one that the event is about. An event always has the keys below, and may have more. A text
is cut at 500 characters, and its control characters are escaped. Keys that could hold a secret are refused.
"""


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ("---",) * len(head), *rows)]


def _label(name: str, values: tuple[str, ...]) -> str:
    if not name:
        return ""
    if values[-len(REASONS) :] == REASONS:
        others = (f"`{value}`" for value in values[: -len(REASONS)])
        return f"`{name}`: {' or '.join((*others, 'a reason'))}"
    return f"`{name}`: {', '.join(f'`{value}`' for value in values)}"


def render() -> str:
    """The whole document."""
    rows = [
        (f"`{m.name}`", m.kind, ", ".join(f"`{label}`" for label in m.labels), m.help)
        for m in (*FARM_METRICS, *RADIUS_METRICS)
    ]
    rows += [(f"`{g.name}`", "gauge", "`worker`", g.help) for g in GAUGES]
    rows += [(f"`{c.name}`", "counter", _label(c.label, c.values), c.help) for c in COUNTERS]
    rows += [(f"`{p.name}`", "counter", _label(p.label, tuple(p.cells)), p.help) for p in PACKET_COUNTERS]
    rows += [(f"`{h.name}`", "histogram", _label(h.label, h.values), h.help) for h in HISTOGRAMS]
    events = [(f"`{name}`", event.level, ", ".join(f"`{key}`" for key in event.keys)) for name, event in EVENTS.items()]
    lines = [
        _METRICS_INTRO,
        *_table(("Name", "Kind", "Label", "Meaning"), rows),
        "",
        f"A reason is one of: {', '.join(f'`{reason}`' for reason in REASONS)}.",
        "",
        f"`{LOG_LINES_LOST}` counts lines of the master and of the workers.",
        "",
        _EVENTS_INTRO,
        *_table(("Event", "Level", "Keys"), events),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
