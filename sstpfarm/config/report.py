"""Collects what is wrong with a configuration file, so that the operator sees all of it at once, with lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from sstpfarm.config.locate import KeyPath, line_of, locate
from sstpfarm.errors import ConfigError

MAX_SHOWN: Final = 60  # characters of a value in a message
MAX_PROBLEMS: Final = 50  # in one error; the rest is counted


class Report:
    """The problems of one file, in the order of their lines.

    Args:
        path: of the file, as the operator named it.
        text: its content, from which the line numbers come.
    """

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self._text = text
        self._problems: list[tuple[KeyPath, str]] = []
        self._delegates: dict[KeyPath, Report] = {}

    def delegate(self, table: KeyPath, report: Report) -> None:
        """Have another file's report take what is said of the keys of that [section.NAME] from now on."""
        self._delegates[table] = report

    def of(self, key: KeyPath) -> Report:
        """Return the report of the file in which a key stands."""
        return self._delegates.get(key[:2], self)

    def add(self, key: KeyPath, problem: str) -> None:
        """Note a problem with a key."""
        self.of(key)._problems.append((key, problem))

    def add_value(self, key: KeyPath, value: object, problem: str, allowed: str) -> None:
        """Note that a key's value is not allowed, and what is. The value is shown: not for secrets."""
        self.add(key, f"{show(value)} {problem}; allowed: {allowed}")

    def add_unknown(self, key: KeyPath, noun: str, known: Iterable[str]) -> None:
        """Note a name that does not exist, with the nearest that does, or all that do."""
        self.add(key, f"unknown {noun}; {suggest(str(key[-1]), known)}")

    def raise_if_any(self) -> None:
        """Raise one ConfigError with a line for each problem, also of the files behind this one, if there are any."""
        texts = self.texts()
        if texts:
            raise ConfigError("\n".join(texts))

    def texts(self) -> list[str]:
        """Return a line for each problem, also of the files behind this one."""
        reports = dict.fromkeys((self, *self._delegates.values()))
        return [text for report in reports for text in report._texts()]

    def _texts(self) -> list[str]:
        if not self._problems:
            return []
        lines: Mapping[KeyPath, int] = locate(self._text)
        found = sorted((line_of(lines, key), f"{dotted(key)}: {problem}") for key, problem in self._problems)
        texts = [f"{self.path}:{line}: {problem}" for line, problem in found[:MAX_PROBLEMS]]
        if len(found) > MAX_PROBLEMS:
            texts.append(f"{self.path}: and {len(found) - MAX_PROBLEMS} more")
        return texts


def suggest(name: str, known: Iterable[str]) -> str:
    """Return ``did you mean X?`` when a known name is near, else the list of the known ones."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1) or [other for other in names if name and other.startswith(name)]
    if near:
        return f"did you mean {near[0]}?"
    if not names:
        return "none is defined"
    listed = ", ".join(names[:20])
    return f"known: {listed}" + (", ..." if len(names) > 20 else "")


def dotted(key: KeyPath) -> str:
    """Return a key path as the operator would write it: ``secret."a b".dns-server[1]``."""
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = part.isascii() and part.replace("-", "").replace("_", "").isalnum()
            text += ("." if text else "") + (part if bare else json.dumps(part))
    return text


def show(value: object) -> str:
    """Return a value as TOML would write it, shortened; tables and arrays by their kind only."""
    match value:
        case bool() | int() | float():
            return _shorten(str(value).lower())
        case str():
            return _shorten(json.dumps(value))
        case dict():
            return "a table"
        case list():
            return "an array" if value else "an empty array"
        case _:
            return f"a {type(value).__name__}"


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."
