"""Line numbers of the keys in a TOML text, for error messages; the standard parser does not keep them.

The text must already have been accepted by `tomllib`, so this scanner takes its syntax for granted.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Mapping
from typing import Final

KeyPath = tuple[str | int, ...]
"""Keys of tables and indexes of arrays, from the document's root."""

_BLANK: Final = re.compile(r"[ \t]*")
_GAP: Final = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_STRING: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}(?!")'  # up to two quotation marks may stand before the closing three
    r"|'''.*?'{3,5}(?!')"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_SCALAR: Final = re.compile(r"[^,\]}#\n]*")


def locate(text: str) -> Mapping[KeyPath, int]:
    """Return the line, from 1, on which each table, key and array element of a valid TOML text begins."""
    return _Scanner(text).document()


def line_of(lines: Mapping[KeyPath, int], path: KeyPath) -> int:
    """Return the line of that key or of its nearest parent that stands in the text; 1 when none does."""
    for end in range(len(path), 0, -1):
        if path[:end] in lines:
            return lines[path[:end]]
    return 1


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._newlines = [match.start() for match in re.finditer("\n", text)]
        self._lines: dict[KeyPath, int] = {}
        self._elements: dict[KeyPath, int] = {}  # arrays of tables: elements so far

    def document(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        self._skip(_GAP)
        while self._at < len(self._text):
            if self._text.startswith("[[", self._at):
                table = self._header(2)
                index = self._elements.get(table, 0)
                self._elements[table] = index + 1
                table = (*table, index)
                self._record(table, self._at)
            elif self._text[self._at] == "[":
                table = self._header(1)
            else:
                self._pair(table)
            self._skip(_GAP)
        return self._lines

    def _header(self, brackets: int) -> KeyPath:
        start = self._at
        self._at += brackets
        *parents, last = self._keys()
        path: KeyPath = ()
        for key in parents:
            path = (*path, key)
            if path in self._elements:
                path = (*path, self._elements[path] - 1)
        path = (*path, last)
        self._at += brackets
        self._record(path, start)
        return path

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._skip(_BLANK)
            bare = _BARE_KEY.match(self._text, self._at)
            if bare is not None:
                keys.append(bare[0])
                self._at = bare.end()
            else:
                keys.append(_unquote(self._take_string()))
            self._skip(_BLANK)
            if self._text[self._at] != ".":
                return keys
            self._at += 1

    def _pair(self, table: KeyPath) -> None:
        start = self._at
        path = (*table, *self._keys())
        self._record(path, start)
        self._at += 1  # "="
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        self._skip(_BLANK)
        match self._text[self._at]:
            case "[":
                self._at += 1
                index = 0
                while not self._closes("]"):
                    self._record((*path, index), self._at)
                    self._value((*path, index))
                    index += 1
            case "{":
                self._at += 1
                while not self._closes("}"):
                    self._pair(path)
            case '"' | "'":
                self._take_string()
            case _:
                self._skip(_SCALAR)

    def _closes(self, bracket: str) -> bool:
        """Skip to the next element of an array or inline table; take the closing bracket if that comes."""
        self._skip(_GAP)
        if self._text[self._at] == ",":
            self._at += 1
            self._skip(_GAP)
        if self._text[self._at] == bracket:
            self._at += 1
            return True
        return False

    def _take_string(self) -> str:
        found = _STRING.match(self._text, self._at)
        assert found is not None, "tomllib accepted the text"
        self._at = found.end()
        return found[0]

    def _skip(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self._text, self._at)
        if found is not None:
            self._at = found.end()

    def _record(self, path: KeyPath, at: int) -> None:
        line = bisect_right(self._newlines, at - 1) + 1
        for end in range(1, len(path) + 1):
            self._lines.setdefault(path[:end], line)


def _unquote(token: str) -> str:
    key = tomllib.loads(f"key = {token}")["key"]
    assert isinstance(key, str)
    return key
