"""A pytest plugin that prints which tests carry which parity marker, as one line of JSON."""

from __future__ import annotations

import json
from collections import defaultdict

import pytest


def pytest_collection_finish(session: pytest.Session) -> None:
    """Print the tests of each marker, in the order of collection, each once."""
    found: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for item in session.items:
        for marker in item.iter_markers("parity"):
            for row in marker.args:
                found[row][item.nodeid.partition("[")[0]] = None
    print("parity: " + json.dumps({row: list(tests) for row, tests in sorted(found.items())}))  # noqa: T201 - its output
