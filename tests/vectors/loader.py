"""The protocol test vectors of vectors.json, and the record of which test module covers which of them.

A test module *claims* the vectors that it covers by calling `load` with literal selectors; tests/unit/
test_vectors_complete.py reads the calls from the sources and demands that every vector is claimed by exactly one
module. A module that only needs a vector as an ingredient takes it with `borrow`, which claims nothing.

    @pytest.mark.parametrize("vector", load("sstp-wire"), ids=str)
    def test_packet(vector: Vector) -> None: ...
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

VECTORS_FILE = Path(__file__).with_name("vectors.json")


@dataclass(frozen=True)
class Vector:
    """One vector: values are lower-case hex unless the key ends in ``_ascii`` or the value is a number.

    `vector["key"]` is the value of an input or else an expected key as bytes; `number` and `text` are for the others.
    """

    id: str
    group: str
    inputs: Mapping[str, Any] = field(repr=False)
    expected: Mapping[str, Any] = field(repr=False)

    def __str__(self) -> str:
        return self.id

    def __getitem__(self, key: str) -> bytes:
        return bytes.fromhex(self._value(key))

    def number(self, key: str) -> int:
        """Return a value that is a JSON number."""
        value = self._value(key)
        assert isinstance(value, int), key
        return value

    def text(self, key: str) -> str:
        """Return a value as the string that it is in the file (``*_ascii``)."""
        value = self._value(key)
        assert isinstance(value, str), key
        return value

    def _value(self, key: str) -> Any:
        return self.inputs[key] if key in self.inputs else self.expected[key]


@cache
def every_vector() -> tuple[Vector, ...]:
    """Return all vectors in the file's order."""
    entries = json.loads(VECTORS_FILE.read_text("utf-8"))["vectors"]
    return tuple(Vector(e["id"], e["group"], e["inputs"], e["expected"]) for e in entries)


def select(*selectors: str) -> list[Vector]:
    """Return the vectors that any selector names: an id, a group, or the beginning of ids followed by ``*``."""
    chosen: list[Vector] = []
    for selector in selectors:
        start = selector[:-1] if selector.endswith("*") else None
        found = [
            v for v in every_vector() if selector in (v.id, v.group) or (start is not None and v.id.startswith(start))
        ]
        assert found, f"no vector matches {selector!r}"
        chosen += [v for v in found if v not in chosen]
    return chosen


def load(*selectors: str) -> list[Vector]:
    """Return the selected vectors and claim them for the calling test module; selectors are string literals."""
    return select(*selectors)


def borrow(vector_id: str) -> Vector:
    """Return one vector without claiming it: another module covers it."""
    (vector,) = (v for v in every_vector() if v.id == vector_id)
    return vector
