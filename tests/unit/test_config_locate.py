"""Line numbers of keys in TOML texts."""

from __future__ import annotations

import json
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sstpfarm.config.locate import KeyPath, line_of, locate

TEXT = '''\
# a comment with [a table] and a = "key"
top = 1
[plain]  # [not.this]
a = "x # not a comment"
b = [ 1, # one
  2,

  [3,
   4],
]
"quoted key" = { c = 1, "d e" = [5, 6] }
long = """
[fake]
a = \\"""
"""""
literal = \'\'\'
[fake]\'\'\'
dotted.inner = 1979-05-27T07:32:00Z
[plain.sub."x.y"]
'z' = 'w'
[[many]]
m = 1
[many.below]
n = 2
[[many]]
m = 3
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 2),
        (("plain",), 3),
        (("plain", "a"), 4),
        (("plain", "b"), 5),
        (("plain", "b", 0), 5),
        (("plain", "b", 1), 6),
        (("plain", "b", 2), 8),
        (("plain", "b", 2, 1), 9),
        (("plain", "quoted key"), 11),
        (("plain", "quoted key", "d e", 1), 11),
        (("plain", "long"), 12),
        (("plain", "literal"), 16),
        (("plain", "dotted", "inner"), 18),
        (("plain", "sub", "x.y"), 19),
        (("plain", "sub", "x.y", "z"), 20),
        (("many", 0, "m"), 22),
        (("many", 0, "below", "n"), 24),
        (("many", 1), 25),
        (("many", 1, "m"), 26),
    ],
)
def test_each_kind_of_key(path: KeyPath, line: int) -> None:
    tomllib.loads(TEXT)  # the example is TOML
    assert locate(TEXT)[path] == line


def test_nothing_inside_of_a_string_is_a_key() -> None:
    assert ("fake",) not in locate(TEXT)
    assert ("many", "below") not in locate(TEXT)


def test_a_missing_key_is_told_with_its_nearest_parent() -> None:
    lines = locate(TEXT)
    assert line_of(lines, ("plain", "sub", "missing")) == 19
    assert line_of(lines, ("nowhere", "at all")) == 1


keys = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)
strings = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=8)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(keys, st.dictionaries(keys, st.lists(strings, max_size=3), max_size=4), max_size=4))
def test_every_key_of_any_document_is_found_on_its_line(document: dict[str, dict[str, list[str]]]) -> None:
    # json's quoting is also TOML's, for what json escapes
    lines: list[str] = []
    expected: dict[KeyPath, int] = {}
    for table, pairs in document.items():
        lines.append(f"[{_quoted(table)}]")
        expected[(table,)] = len(lines)
        for key, values in pairs.items():
            lines.append(f"{_quoted(key)} = [")
            expected[(table, key)] = len(lines)
            for index, value in enumerate(values):
                lines.append(f"  {_quoted(value)}, # ]")
                expected[(table, key, index)] = len(lines)
            lines.append("]")
    text = "\n".join(lines)
    assert tomllib.loads(text) == document
    assert locate(text) == expected


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
