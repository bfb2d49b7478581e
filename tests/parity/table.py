"""Makes docs/parity.md: `python -m tests.parity.table > docs/parity.md`.

The rows stand in docs/parity-rows.toml; which test shows which row is what pytest itself collects, so a test that was
renamed, deleted or lost its marker cannot stay in the table.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
ROWS: Final = ROOT / "docs" / "parity-rows.toml"
DOCUMENT: Final = ROOT / "docs" / "parity.md"
PLACES: Final = ("tests/unit", "tests/e2e", "tests/interop")
HEAD: Final = """# Parity with RouterOS and VyOS

Every property, command and behaviour of the two source documents, RouterOS "Interface/SSTP" (v5) and the VyOS SSTP
client, how it is set here, and the test that would fail if it were ignored. Server keys are those of
[configuration.md](configuration.md), client keys those of [client.md](client.md). Made from `parity-rows.toml` and from
the markers of the tests by `python -m tests.parity.table`; do not edit it.
"""


def collect() -> dict[str, list[str]]:
    """Return the tests (without parameters) that carry each row's marker, as pytest finds them."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.parity.collector", "--collect-only", "-qq", *PLACES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("parity: ")]
    if done.returncode or len(lines) != 1:
        raise RuntimeError(f"pytest could not collect the tests:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
    found: dict[str, list[str]] = json.loads(lines[0].removeprefix("parity: "))
    return found


def rows() -> dict[str, Any]:
    """Return the documents and rows of the list."""
    return tomllib.loads(ROWS.read_text(encoding="utf-8"))


def render(listed: Mapping[str, Any], shown: Mapping[str, Sequence[str]]) -> str:
    """Return the document's text."""
    lines = [HEAD]
    for key, document in listed["document"].items():
        lines += [f"## {document['title']}", "", "| Property | Here | Test | Remarks |", "|---|---|---|---|"]
        for name, row in listed["row"].items():
            if name.partition("/")[0] == key:
                tests = "<br>".join(f"`{test.removeprefix('tests/')}`" for test in shown.get(name, ()))
                lines.append(
                    f"| {row['property']} | {row['how']} | {tests} | {row.get('remarks', '')} |".replace("|  |", "| |")
                )
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(render(rows(), collect()))
