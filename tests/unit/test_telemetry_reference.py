"""docs/metrics.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from sstpfarm.telemetry import catalogue, reference
from sstpfarm.telemetry.events import EVENTS

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_document_is_up_to_date() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == reference.render(), (
        "run: python -m sstpfarm.telemetry.reference > docs/metrics.md"
    )


def test_the_document_names_everything_once() -> None:
    first_cells = re.findall(r"^\| `([a-z_.]+)` \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    listed = (
        *catalogue.FARM_METRICS,
        *catalogue.RADIUS_METRICS,
        *catalogue.GAUGES,
        *catalogue.COUNTERS,
        *catalogue.PACKET_COUNTERS,
        *catalogue.HISTOGRAMS,
    )
    assert first_cells == [*(metric.name for metric in listed), *EVENTS]
