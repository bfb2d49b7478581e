"""`sstpfarm user`: users in drop-in files, one file for each; the running farm is told to read them again."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import click
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from sstpfarm.cli.commands import config_option
from sstpfarm.cli.sessions import ask_farm, raise_if_kept
from sstpfarm.cli.table import print_table
from sstpfarm.cli.trial import try_login
from sstpfarm.config.document import read_toml
from sstpfarm.config.dropins import SUFFIX
from sstpfarm.config.fields import Password
from sstpfarm.config.load import load, secrets_directory
from sstpfarm.errors import ConfigError, SystemRefusal
from sstpfarm.ipc.control import NobodyThere
from sstpfarm.proto.ppp.mschap import nt_hash
from sstpfarm.reasons import ExitCode

MAX_FILE_NAME: Final = 200  # characters; file systems take 255 bytes
PROOFS: Final = ("password", "password-file", "nt-hash", "password-hash")
# OWASP's second choice for argon2id (19 MiB, two passes, one lane): some 20 ms of one core a login
MEMORY: Final = 19_456  # KiB
PASSES: Final = 2


def password_options(function: click.decorators.FC) -> click.decorators.FC:
    """Where a new password comes from, and how it is kept."""
    function = click.option(
        "--hash",
        "kept",
        type=click.Choice(["none", "nt", "argon2id"]),
        default="none",
        show_default=True,
        help="Keep a hash only: nt serves MS-CHAP and PAP, argon2id PAP alone.",
    )(function)
    return click.option(
        "--password-file",
        type=click.Path(path_type=Path),
        help="Read the password from the first line of this file instead of asking for it.",
    )(function)


@click.group()
def user() -> None:
    """Manage the users in the secrets-directory."""


@user.command()
@config_option
@password_options
@click.argument("name")
@click.option("--profile", help="The profile whose terms the user gets.")
@click.option("--remote-address", help='A fixed address, or "pool:NAME".')
@click.option("--expires", help="From when on the account is no more: a date or an RFC 3339 time.")
@click.option("--comment", help="For people.")
def add(path: Path, password_file: Path | None, kept: str, name: str, **keys: str | None) -> None:
    """Add a user."""
    with _editing(path) as directory:
        if _file_of(directory, name).exists():
            raise SystemRefusal(f"user {name} is there already")
        proof = _proof(_new_password(password_file), kept)
        given = {key.replace("_", "-"): value for key, value in keys.items() if value is not None}
        _replace(path, _file_of(directory, name), _render(name, {**proof, **given}))
    _reload(path)


@user.command()
@config_option
@password_options
@click.argument("name")
def passwd(path: Path, password_file: Path | None, kept: str, name: str) -> None:
    """Change a user's password; the other keys stay."""
    with _editing(path) as directory:
        file = _own_file(path, directory, name)
        table = read_toml(file)["secret"][name]
        rest = {key: value for key, value in table.items() if key not in PROOFS}
        proof = _proof(_new_password(password_file), kept)
        _replace(path, file, _render(name, {**proof, **rest}))
    _reload(path)


@user.command("del")
@config_option
@click.argument("name")
def delete(path: Path, name: str) -> None:
    """Delete a user; running sessions of the user end."""
    with _editing(path) as directory:
        _own_file(path, directory, name).unlink()
    _reload(path)


@user.command("list")
@config_option
@click.option("--json", "as_json", is_flag=True, help="As a JSON list.")
def list_users(path: Path, as_json: bool) -> None:
    """List all users, those of the configuration file too."""
    config = load(path, certificates=False)
    facts = [
        {
            "user": name,
            "profile": secret.profile or config.server.default_profile,
            "remote_address": secret.remote_address or "",
            "disabled": secret.disabled,
            "expires": secret.expires,
            "comment": secret.comment,
        }
        for name, secret in sorted(config.secret.items())
    ]
    if as_json:
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    print_table(
        ("USER", "PROFILE", "REMOTE-ADDRESS", "DISABLED", "EXPIRES", "COMMENT"),
        (
            [("yes" if value else "") if isinstance(value, bool) else str(value) for value in found.values()]
            for found in facts
        ),
    )


@user.command("test")
@config_option
@click.option("--password-file", type=click.Path(path_type=Path), help="Read the password from the first line of this.")
@click.option("--caller-id", default="192.0.2.1", show_default=True, help="Where the test pretends to call from.")
@click.argument("name")
@click.pass_context
def try_user(context: click.Context, path: Path, password_file: Path | None, caller_id: str, name: str) -> None:
    """Log in with each method that the server offers, at the backends of the farm, and show what the user would get."""
    password = _first_line(password_file) if password_file else click.prompt("Password", hide_input=True, err=True)
    outcomes = try_login(load(path, certificates=False), name, password, caller_id)
    for method, outcome in outcomes.items():
        click.echo(f"{method}: {outcome}")
    if not all(outcome.startswith("accepted") for outcome in outcomes.values()):
        context.exit(ExitCode.AUTHENTICATION)


# -- passwords ---------------------------------------------------------------------------------------------------------


def _new_password(file: Path | None) -> str:
    password = _first_line(file) if file else click.prompt("New password", hide_input=True, confirmation_prompt=True)
    if not Password.fits(password):
        raise ConfigError("the password is not allowed; allowed: 1 to 256 characters")
    return str(password)


def _first_line(file: Path) -> str:
    try:
        return file.read_text("utf-8").partition("\n")[0].removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from None


def _proof(password: str, kept: str) -> dict[str, str]:
    """Return the key of a secret that holds the password, in the form that was asked for."""
    match kept:
        case "nt":
            return {"nt-hash": nt_hash(password).hex()}
        case "argon2id":
            hashing = Argon2id(salt=os.urandom(16), length=32, iterations=PASSES, lanes=1, memory_cost=MEMORY)
            return {"password-hash": hashing.derive_phc_encoded(password.encode())}
        case _:
            return {"password": password}


# -- files -------------------------------------------------------------------------------------------------------------


@contextmanager
def _editing(path: Path) -> Iterator[Path]:
    """Hold the directory of drop-in files for this command alone.

    Raises:
        ConfigError, SystemRefusal: the configuration names none, or it cannot be made.
    """
    directory = secrets_directory(path)
    if directory is None:
        raise ConfigError(f"{path}: auth.secrets-directory is not set; users cannot be managed without it")
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise SystemRefusal(f"{directory}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield directory
    finally:
        os.close(lock)


def _file_of(directory: Path, name: str) -> Path:
    """Return the file of a user: the name itself where a file can have it, else with what it cannot have quoted."""
    quoted = quote(name, safe="@+= ")
    if quoted.startswith("."):
        quoted = "%2E" + quoted[1:]
    if len(quoted) > MAX_FILE_NAME:
        quoted = sha256(name.encode()).hexdigest()
    return directory / f"{quoted}{SUFFIX}"


def _own_file(path: Path, directory: Path, name: str) -> Path:
    """Return the file that holds this user and nobody else.

    Raises:
        SystemRefusal: there is no such user, or it stands somewhere else.
    """
    file = _file_of(directory, name)
    if file.is_file() and set(read_toml(file).get("secret", {})) == {name}:
        return file
    if name in load(path, certificates=False).secret:
        raise SystemRefusal(f"user {name} does not stand in a file of its own, {file}: edit it where it stands")
    raise SystemRefusal(f"there is no user {name}")


def _replace(path: Path, file: Path, text: str) -> None:
    """Write a file as a whole, then check the configuration; what was there before comes back when it has faults.

    Raises:
        ConfigError: the configuration would have faults.
    """
    before = file.read_bytes() if file.exists() else None
    _write(file, text.encode())
    try:
        load(path, certificates=False)
    except ConfigError:
        if before is None:
            file.unlink()
        else:
            _write(file, before)
        raise


def _write(file: Path, data: bytes) -> None:
    """Write a file such that a reader sees the old one or the new one, with mode 0600."""
    new = file.with_name(f".{file.name}.new")
    with suppress(FileNotFoundError):
        new.unlink()
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(fd)
    new.replace(file)


def _render(name: str, keys: Mapping[str, Any]) -> str:
    """Return a table [secret.NAME] as TOML."""
    return "\n".join([f"[secret.{_toml(name)}]", *(f"{key} = {_toml(value)}" for key, value in keys.items()), ""])


def _toml(value: object) -> str:
    match value:
        case str():  # a JSON string is a TOML one, but for DEL
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case bool() | int() | float():
            return json.dumps(value)
        case list():
            return f"[{', '.join(map(_toml, value))}]"
        case _:  # dates and times
            return str(value)


def _reload(path: Path) -> None:
    """Have the running farm read its users again, and say what came of it.

    Raises:
        ConfigError, SystemRefusal: the farm has not taken it over, or kept its certificate.
    """
    try:
        found = ask_farm(path, {"command": "reload"})["reload"]
    except NobodyThere as error:
        click.echo(f"written; {error}")
        return
    except (ConfigError, SystemRefusal) as error:
        raise type(error)(f"written, but not taken over by the farm: {error}") from error
    click.echo(f"written; the farm has {found['users']} users now")
    raise_if_kept(found)
