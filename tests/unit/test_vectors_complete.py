"""Every vector of vectors.json is covered by exactly one test module, as the sources of the test modules say.

A module claims vectors by calling `load` of tests.vectors.loader, or, when it reads the file in its own way, by a
constant: ``VECTOR_IDS = ("sstp-wire", "http-*")``. Both take ids, groups, and beginnings of ids with a ``*``.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

from tests.vectors.loader import every_vector, select

TESTS = Path(__file__).parents[1]
LOADER = "tests.vectors.loader"


def claimed_by(source: str) -> set[str]:
    """Return the ids that the module with this source claims.

    The selectors must be string literals, and `load` must be imported under its own name: otherwise the claim could
    not be read.
    """
    tree = ast.parse(source)
    selectors: list[ast.expr] = []
    imported = False
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == LOADER:
            names = {alias.name: alias.asname for alias in node.names}
            assert names.get("load") is None, "import load under its own name"
            imported = imported or "load" in names
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "load" and imported:
            selectors += node.args
        elif isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["VECTOR_IDS"]:
            assert isinstance(node.value, ast.Tuple), "VECTOR_IDS is a tuple"
            selectors += node.value.elts
    ids: set[str] = set()
    for selector in selectors:
        assert isinstance(selector, ast.Constant), "selectors are string literals"
        assert isinstance(selector.value, str), "selectors are string literals"
        ids |= {vector.id for vector in select(selector.value)}
    return ids


def test_ids_are_unique() -> None:
    ids = [vector.id for vector in every_vector()]
    assert len(ids) == len(set(ids)) == 71


def test_every_vector_is_claimed_by_exactly_one_module() -> None:
    claims: dict[str, list[str]] = {vector.id: [] for vector in every_vector()}
    for path in sorted(TESTS.rglob("test_*.py")):
        for vector_id in claimed_by(path.read_text("utf-8")):
            claims[vector_id].append(path.name)
    wrong: dict[str, list[str]] = defaultdict(list)
    for vector_id, modules in claims.items():
        if len(modules) != 1:
            wrong[", ".join(modules) or "no module"].append(vector_id)
    assert not wrong, "\n".join(f"claimed by {modules}: {', '.join(ids)}" for modules, ids in wrong.items())


def test_claims_are_read_from_sources() -> None:
    header = f"from {LOADER} import borrow, load\n"
    assert claimed_by(header + 'load("mppe", "cb-zero*")\nborrow("des")') == {
        "rfc3079-session-128",
        "cb-zero-hlak-sha256",
    }
    assert claimed_by('VECTOR_IDS = ("mppe",)') == {"rfc3079-session-128"}
    assert claimed_by('load("mppe")') == set()
    with pytest.raises(AssertionError, match="string literals"):
        claimed_by(header + "load(name)")
    with pytest.raises(AssertionError, match="its own name"):
        claimed_by(f"from {LOADER} import load as fetch")
    with pytest.raises(AssertionError, match="no vector matches"):
        claimed_by(header + 'load("no-such-vector")')
