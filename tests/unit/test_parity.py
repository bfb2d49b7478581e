"""docs/parity.md is complete and says what the tests say."""

from __future__ import annotations

from functools import cache

from tests.parity.table import DOCUMENT, collect, render, rows


@cache
def shown() -> dict[str, list[str]]:
    return collect()


def test_every_marker_names_a_row() -> None:
    assert set(shown()) <= set(rows()["row"])


def test_every_row_belongs_to_a_document() -> None:
    listed = rows()
    assert {name.partition("/")[0] for name in listed["row"]} == set(listed["document"])


def test_every_row_has_a_test() -> None:
    assert sorted(set(rows()["row"]) - set(shown())) == []


def test_the_document_is_up_to_date() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == render(rows(), shown()), (
        "run: python -m tests.parity.table > docs/parity.md"
    )
