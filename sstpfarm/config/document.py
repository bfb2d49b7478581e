"""Reads a TOML file into a schema, key by key, so that every fault is found and told with file, line and key.

It knows no file in particular: `load` reads the server's with it, `client` the client's.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import tomllib
from collections.abc import Callable
from datetime import date
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from sstpfarm.config.fields import MAX_PASSWORD, TAKES_DATES, Password, Table
from sstpfarm.config.locate import KeyPath
from sstpfarm.config.report import Report, dotted
from sstpfarm.errors import ConfigError

MAX_FILE: Final = 16 << 20  # bytes; 100,000 secrets take about 10 MiB
MAX_PASSWORD_FILE: Final = 4096  # bytes; 256 characters of UTF-8 and a newline take at most 1026
_SYNTAX: Final = re.compile(r"(?P<what>.*) \(at (?:line (?P<line>\d+), column \d+|end of document)\)", re.DOTALL)
_ELEMENT: Final = re.compile(r"- at `\$(?P<indexes>(?:\[\d+\])*)`$")

Root = TypeVar("Root", bound=Table)
CheckName = Callable[[str, str, Report], None]
"""Reports a fault of the NAME of a table [section.NAME]; takes section and name."""


def file_text(path: Path) -> str:
    """Return the text of a configuration file.

    Raises:
        ConfigError: it cannot be read, is larger than MAX_FILE, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > MAX_FILE:
        raise ConfigError(f"{path}: larger than {MAX_FILE} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text") from None


def read_toml(path: Path) -> dict[str, Any]:
    """Return what a TOML file holds, unchecked.

    Raises:
        ConfigError: it cannot be read, or is no TOML.
    """
    text = file_text(path)
    try:
        return tomllib.loads(text)
    except ValueError as error:
        raise ConfigError(_syntax_message(str(error), text, path)) from None


def read_document(text: str, path: Path, root: type[Root], check_name: CheckName) -> tuple[Report, Root]:
    """Parse a text and convert every key to its type; a field of `root` that is a dict holds tables [section.NAME].

    Returns:
        The report, for what else may be found, and the document.

    Raises:
        ConfigError: one line for each fault.
    """
    try:
        document = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, and the interpreter's limit for the digits of a number
        raise ConfigError(_syntax_message(str(error), text, path)) from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    report = Report(path, text)
    plain = _convert_document(document, root, check_name, report)
    report.raise_if_any()
    return report, msgspec.convert(plain, root)


def allowed_values(kind: type[Table], key: str) -> str:
    """Return for people which values a key of a table may have."""
    return _allowed(_fields(kind)[key].hint)


def read_regular(path: Path, limit: int) -> tuple[bytes, int]:
    """Return up to `limit` bytes of a regular file and its mode; never waits for a FIFO's writer."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return os.read(fd, limit), stat.S_IMODE(status.st_mode)
    finally:
        os.close(fd)


def read_password(path: Path, key: KeyPath, report: Report) -> Password | None:
    """Return the password that a file holds; None, and a fault of `key`, when there is none to be had."""
    try:
        data, mode = read_regular(path, MAX_PASSWORD_FILE + 1)
    except OSError as error:
        report.add(key, f"{path} cannot be read: {error.strerror}")
        return None
    if mode & stat.S_IRWXO:
        report.add(key, f"{path} is open to every user (mode {mode:04o}); allowed: no rights for others, chmod o-rwx")
        return None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        report.add(key, f"{path} is not UTF-8 text")
        return None
    text = text.removesuffix("\n").removesuffix("\r")
    if not Password.fits(text):
        report.add(key, f"{path} holds no password; allowed: 1 to {MAX_PASSWORD} characters and a newline")
        return None
    return Password(text)


def _syntax_message(message: str, text: str, path: Path) -> str:
    match = _SYNTAX.fullmatch(message)
    if match is None:
        return f"{path}: not TOML: {message}"
    line = match["line"] or text.rstrip("\n").count("\n") + 1
    return f"{path}:{line}: not TOML: {match['what']}"


def _convert_document(
    document: dict[str, Any], root: type[Table], check_name: CheckName, report: Report
) -> dict[str, Any]:
    """Check the tables and keys one by one, so that each fault is found; return what makes the root."""
    plain: dict[str, Any] = {}
    known = {key: field.hint for key, field in _fields(root).items()}
    for name, value in document.items():
        if name not in known:
            report.add_unknown((name,), "table", known)
            continue
        named = get_origin(known[name]) is dict
        if not isinstance(value, dict):
            report.add((name,), f"is not a table; allowed: [{name}{'.NAME' if named else ''}]")
        elif named:
            kind = get_args(known[name])[1]
            plain[name] = {key: _convert_table(kind, table, (name, key), report) for key, table in value.items()}
            for key in value:
                check_name(name, key, report)
        else:
            plain[name] = _convert_value(known[name], value, (name,), report)
    return plain


def _convert_table(kind: type[Table], table: object, path: KeyPath, report: Report) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    if not isinstance(table, dict):
        wanted = f"[{path[0]}.NAME]" if isinstance(path[-1], str) else f"[[{dotted(path[:-1])}]]"
        report.add(path, f"is not a table; allowed: {wanted}")
        return plain
    known = _fields(kind)
    for key, value in table.items():
        if key in known:
            plain[key] = _convert_value(known[key].hint, value, (*path, key), report)
        else:
            report.add_unknown((*path, key), "key", known)
    for key, field in known.items():
        if field.required and key not in table:
            report.add((*path, key), f"is missing; allowed: {_allowed(field.hint)}")
    return plain


class _Field(NamedTuple):
    """A key of a table: its annotated type, and whether it must be there."""

    hint: Any
    required: bool


@cache
def _fields(kind: type[Table]) -> dict[str, _Field]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.encode_name: _Field(hints[field.name], field.required) for field in msgspec.structs.fields(kind)}


def _convert_value(hint: Any, value: Any, path: KeyPath, report: Report) -> Any:
    members = _members(hint)
    secret = next((kind for kind in members if isinstance(kind, type) and issubclass(kind, Password)), None)
    if secret is not None:
        if isinstance(value, str) and secret.fits(value):
            return secret(value)
        report.add(path, f"is not allowed; allowed: {_allowed(hint)}")  # the value is not shown
        return None
    inner = next((kind for kind in members if isinstance(kind, type) and issubclass(kind, Table)), None)
    if isinstance(value, dict) and inner is not None:
        return _convert_table(inner, value, path, report)
    element = next((get_args(kind)[0] for kind in members if get_origin(kind) is tuple), None)
    if isinstance(value, list) and isinstance(element, type) and issubclass(element, Table):
        return _convert_tables(element, hint, value, path, report)
    if isinstance(value, date) and _meta(hint).extra == TAKES_DATES:
        value = value.isoformat()
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        match = _ELEMENT.search(str(error))
        indexes = [int(index) for index in re.findall(r"\d+", match["indexes"])] if match else []
        wrong = value
        for index in indexes:
            wrong = wrong[index]
        report.add_value((*path, *indexes), wrong, "is not allowed", _allowed(hint))
    return None


def _convert_tables(kind: type[Table], hint: Any, tables: list[Any], path: KeyPath, report: Report) -> list[Any]:
    """Convert an array of tables, [[PATH]]; its annotation says how many there may be."""
    try:
        msgspec.convert([{}] * len(tables), Annotated[list[dict[str, Any]], _meta(hint)])
    except msgspec.ValidationError:
        report.add_value(path, tables, "is not allowed", _allowed(hint))
    return [_convert_table(kind, table, (*path, index), report) for index, table in enumerate(tables)]


def _meta(hint: Any) -> msgspec.Meta:
    notes = hint.__metadata__ if get_origin(hint) is Annotated else ()
    return next((note for note in notes if isinstance(note, msgspec.Meta)), msgspec.Meta())


@cache
def _members(hint: Any) -> tuple[Any, ...]:
    """Return the types that an annotation joins, without what is annotated."""
    if get_origin(hint) is Annotated:
        return _members(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return tuple(member for part in get_args(hint) for member in _members(part))
    return (hint,)


def _allowed(hint: Any) -> str:
    """Return the description in an annotation, also one inside of `... | None`."""
    if get_origin(hint) is Annotated:
        for note in hint.__metadata__:
            if isinstance(note, msgspec.Meta) and note.description:
                return note.description
    return next((found for part in get_args(hint) if (found := _allowed(part))), "")
