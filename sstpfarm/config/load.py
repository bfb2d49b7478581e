"""Reads and validates a configuration file; every fault is reported with file, line, key and what would be right."""

from __future__ import annotations

import errno
import os
import re
import stat
import tomllib
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, NamedTuple, Union, get_args, get_origin, get_type_hints

import msgspec

from sstpfarm.config.checks import check_references, warnings
from sstpfarm.config.fields import MAX_NAME, MAX_PASSWORD, MAX_USER, Password, Table
from sstpfarm.config.ppp import Pool, Profile, Secret
from sstpfarm.config.report import Report
from sstpfarm.config.schema import CertificateFiles, Config
from sstpfarm.errors import ConfigError

MAX_FILE: Final = 16 << 20  # bytes; 100,000 secrets take about 10 MiB
MAX_PASSWORD_FILE: Final = 4096  # bytes; 256 characters of UTF-8 and a newline take at most 1026
SECTIONS: Final[dict[str, type[Table]]] = {"profile": Profile, "pool": Pool, "secret": Secret}
_SYNTAX: Final = re.compile(r"(?P<what>.*) \(at (?:line (?P<line>\d+), column \d+|end of document)\)", re.DOTALL)
_ELEMENT: Final = re.compile(r"- at `\$(?P<indexes>(?:\[\d+\])*)`$")


def load(path: Path) -> Config:
    """Return the configuration of a file: valid, with absolute paths, with the passwords of password files.

    Raises:
        ConfigError: one line ``FILE:LINE: KEY: problem; what is allowed`` for each fault that was found.
    """
    report, config = _read(_file_text(path), path)
    check_references(config, report)
    config = _resolve(config, report)
    report.raise_if_any()
    return config


def parse(text: str, path: Path) -> Config:
    """Return the configuration of a text, checked like a file's, without a look at any other file.

    Raises:
        ConfigError: as `load`; `path` is named in the messages.
    """
    report, config = _read(text, path)
    check_references(config, report)
    report.raise_if_any()
    return config


def describe(config: Config, path: Path) -> str:
    """Return what a file that `load` returned says, in one line, and a line for each warning."""
    server = config.server
    facts = (
        f"listen {', '.join(server.listen)}",
        f"workers {server.workers}",
        f"authentication {', '.join(server.methods())}",
        f"profiles {len(config.profile)}",
        f"pools {len(config.pool)}",
        f"secrets {len(config.secret)}",
    )
    notes = warnings(config)
    if path.stat().st_mode & stat.S_IRWXO and any(secret.password_file is None for secret in config.secret.values()):
        notes = (*notes, "passwords stand in this file and every user can read it; use password-file, or chmod o-rwx")
    return "\n".join([f"{path}: good; {'; '.join(facts)}", *(f"{path}: warning: {note}" for note in notes)])


def allowed_values(kind: type[Table], key: str) -> str:
    """Return for people which values a key of a table may have."""
    return _allowed(_fields(kind)[key].hint)


def _file_text(path: Path) -> str:
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


def _read(text: str, path: Path) -> tuple[Report, Config]:
    """Parse the text and convert every key to its type."""
    try:
        document = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, and the interpreter's limit for the digits of a number
        raise ConfigError(_syntax_message(str(error), text, path)) from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    report = Report(path, text)
    plain = _convert_document(document, report)
    report.raise_if_any()
    return report, msgspec.convert(plain, Config)


def _syntax_message(message: str, text: str, path: Path) -> str:
    match = _SYNTAX.fullmatch(message)
    if match is None:
        return f"{path}: not TOML: {message}"
    line = match["line"] or text.rstrip("\n").count("\n") + 1
    return f"{path}:{line}: not TOML: {match['what']}"


def _convert_document(document: dict[str, Any], report: Report) -> dict[str, Any]:
    """Check the tables and keys one by one, so that each fault is found; return what makes the Config."""
    plain: dict[str, Any] = {}
    known = {field.encode_name: field.type for field in msgspec.structs.fields(Config)}
    for name, value in document.items():
        if name not in known:
            report.add_unknown((name,), "table", known)
        elif not isinstance(value, dict):
            report.add((name,), f"is not a table; allowed: [{name}{'.NAME' if name in SECTIONS else ''}]")
        elif name in SECTIONS:
            plain[name] = {
                key: _convert_table(SECTIONS[name], table, (name, key), report) for key, table in value.items()
            }
            for key in value:
                _check_name(name, key, report)
        else:
            plain[name] = _convert_table(known[name], value, (name,), report)
    return plain


def _convert_table(kind: type[Table], table: object, path: tuple[str, ...], report: Report) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    if not isinstance(table, dict):
        report.add(path, f"is not a table; allowed: [{path[0]}.NAME]")
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


def _convert_value(hint: Any, value: Any, path: tuple[str, ...], report: Report) -> Any:
    if Password in _members(hint):
        if isinstance(value, str) and _is_password(value):
            return Password(value)
        report.add(path, f"is not allowed; allowed: {_allowed(hint)}")  # the value is not shown
        return None
    if isinstance(value, dict) and CertificateFiles in _members(hint):
        return _convert_table(CertificateFiles, value, path, report)
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


def _check_name(section: str, name: str, report: Report) -> None:
    if section == "secret":
        if not 1 <= len(name.encode()) <= MAX_USER or not name.isprintable():
            report.add((section, name), f"is no user's name; allowed: 1 to {MAX_USER} bytes of printable UTF-8")
    elif not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        report.add((section, name), f"is no {section}'s name; allowed: 1 to {MAX_NAME} printable characters")


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


def _resolve(config: Config, report: Report) -> Config:
    """Make paths absolute, relative to the file's directory; read the password files; look at the certificate's."""
    base = report.path.absolute().parent
    farm = msgspec.structs.replace(
        config.farm,
        state_directory=str(base / config.farm.state_directory),
        run_directory=str(base / config.farm.run_directory),
    )
    server = config.server
    if isinstance(server.certificate, CertificateFiles):
        files = CertificateFiles(chain=str(base / server.certificate.chain), key=str(base / server.certificate.key))
        server = msgspec.structs.replace(server, certificate=files)
        for key, name in (("chain", files.chain), ("key", files.key)):
            try:
                _read_regular(Path(name), 1)
            except OSError as error:
                report.add(("server", "certificate", key), f"{name} cannot be read: {error.strerror}")
    secrets = {
        name: msgspec.structs.replace(secret, password=_password_of(base / secret.password_file, name, report))
        if secret.password_file is not None
        else secret
        for name, secret in config.secret.items()
    }
    return msgspec.structs.replace(config, farm=farm, server=server, secret=secrets)


def _password_of(path: Path, secret: str, report: Report) -> Password | None:
    key = ("secret", secret, "password-file")
    try:
        data, mode = _read_regular(path, MAX_PASSWORD_FILE + 1)
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
    if not _is_password(text):
        report.add(key, f"{path} holds no password; allowed: 1 to {MAX_PASSWORD} characters and a newline")
        return None
    return Password(text)


def _is_password(text: str) -> bool:
    return 1 <= len(text.encode("utf-16-le")) // 2 <= MAX_PASSWORD


def _read_regular(path: Path, limit: int) -> tuple[bytes, int]:
    """Return up to `limit` bytes of a regular file and its mode; never waits for a FIFO's writer."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return os.read(fd, limit), stat.S_IMODE(status.st_mode)
    finally:
        os.close(fd)
