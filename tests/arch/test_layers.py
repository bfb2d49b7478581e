"""The house keeps its shape: layers, rooms, file lengths, one name for each thing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from sstpfarm.ipc.messages import Method
from sstpfarm.proto.roles import AuthMethod
from sstpfarm.reasons import OUTCOMES, Reason, Teardown

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "sstpfarm").rglob("*.py"))


def test_import_contracts_hold() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_tells_one_story(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 500
    assert not text or text.lstrip().startswith(('"""', "#!")), "no module docstring"
    assert not re.fullmatch(r"(utils?|helpers?|common|misc)", path.stem)


def test_no_sql_stands_outside_of_the_store() -> None:
    """Another database takes the place of one package."""
    sql = re.compile(r"\bsqlite3\b(?!['\"]|\.Error)|\b(SELECT|INSERT|UPDATE|DELETE|PRAGMA)\s+[\w(*]")
    found = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if "sqlite" not in path.relative_to(ROOT).parts and sql.search(path.read_text())
    ]
    assert found == []
    assert sum(bool(sql.search(path.read_text())) for path in SOURCES) == 3


def test_methods_have_one_set_of_names() -> None:
    assert tuple(method.value for method in AuthMethod) == get_args(Method)


def test_every_reason_has_its_outcome() -> None:
    assert set(OUTCOMES) == set(Reason)
    for reason, outcome in OUTCOMES.items():
        assert (outcome.sstp_status != 0) <= (outcome.teardown is Teardown.ABORT), reason
