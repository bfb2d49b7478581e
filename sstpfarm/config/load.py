"""Reads and validates a configuration file; every fault is reported with file, line, key and what would be right."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from sstpfarm.config.checks import check_references, warnings
from sstpfarm.config.document import file_text, read_document, read_password, read_regular
from sstpfarm.config.dropins import is_exposed, read_dropins
from sstpfarm.config.fields import MAX_NAME, MAX_USER
from sstpfarm.config.locate import KeyPath
from sstpfarm.config.ppp import Secret
from sstpfarm.config.radius import CoaClient, Radius, RadiusServer
from sstpfarm.config.report import Report
from sstpfarm.config.schema import CertificateFiles, Config, Farm, Server
from sstpfarm.errors import ConfigError

SharedSecret = TypeVar("SharedSecret", RadiusServer, CoaClient)


Look = Callable[[Config], object]
"""Looks at the content of files that a configuration names; ConfigError, beginning with the key, when it is faulty."""


def load(path: Path, *, certificates: bool = True, look: Look | None = None) -> Config:
    """Return the configuration of a file: valid, with absolute paths, with the passwords of password files.

    Args:
        certificates: whether the server's certificate, its key and client-ca must be there to be read. Who is after
            something else does without: a certificate's fault must not keep users from being changed.
        look: its fault is told with the others.

    Raises:
        ConfigError: one line ``FILE:LINE: KEY: problem; what is allowed`` for each fault that was found. What must hold
            between keys is looked at when the main file has no fault of form: no TOML, unknown keys, wrong values.
    """
    report, config = read_document(file_text(path), path, Config, _check_name)
    if _holds_passwords(config) and is_exposed(path):
        report.add(
            ("secret",), "passwords stand in this file and every user can read it; allowed: password-file, chmod o-rwx"
        )
    faults = []
    try:
        config = _with_dropins(config, report)
    except ConfigError as error:
        faults = str(error).split("\n")
    check_references(config, report)
    config = _resolve(config, report)
    readable = not certificates or _check_certificates(config.server, report)
    if look is not None and readable:
        try:
            look(config)
        except ConfigError as error:
            key, _, problem = str(error).partition(": ")
            report.add(tuple(key.split(".")), problem)
    faults += report.texts()
    if faults:
        raise ConfigError("\n".join(faults))
    return config


def locate_farm(path: Path) -> Farm:
    """Return the table [farm] of a file, with absolute paths, whatever else is wrong between its keys.

    Raises:
        ConfigError: the file is no TOML, or has wrong keys or values.
    """
    report, config = read_document(file_text(path), path, Config, _check_name)
    return _resolve_farm(config.farm, report.path.absolute().parent)


def secrets_directory(path: Path) -> Path | None:
    """Return the directory of drop-in files that a file names; None when it names none.

    Raises:
        ConfigError: as `locate_farm`.
    """
    _, config = read_document(file_text(path), path, Config, _check_name)
    return path.absolute().parent / config.auth.secrets_directory if config.auth.secrets_directory else None


def parse(text: str, path: Path) -> Config:
    """Return the configuration of a text, checked like a file's, without a look at any other file.

    Raises:
        ConfigError: as `load`; `path` is named in the messages.
    """
    report, config = read_document(text, path, Config, _check_name)
    check_references(config, report)
    report.raise_if_any()
    return config


def describe(config: Config, path: Path) -> str:
    """Return what a file that `load` returned says, in one line, and a line for each warning."""
    server = config.server
    facts = (
        f"listen {', '.join(map(str, server.endpoints())) or 'nowhere: enabled = false'}",
        f"workers {server.workers}",
        f"authentication {', '.join(server.methods())}",
        f"profiles {len(config.profile)}",
        f"pools {len(config.pool)}",
        f"secrets {len(config.secret)}",
    )
    notes = warnings(config)
    return "\n".join([f"{path}: good; {'; '.join(facts)}", *(f"{path}: warning: {note}" for note in notes)])


def _check_name(section: str, name: str, report: Report) -> None:
    if section == "secret":
        if not 1 <= len(name.encode()) <= MAX_USER or not name.isprintable():
            report.add((section, name), f"is no user's name; allowed: 1 to {MAX_USER} bytes of printable UTF-8")
    elif not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        report.add((section, name), f"is no {section}'s name; allowed: 1 to {MAX_NAME} printable characters")


def _check_programs(config: Config, report: Report) -> None:
    """Every program that a session runs is there and can be executed."""
    good: set[str] = set()
    for section, everyone in (("profile", config.profile), ("secret", config.secret)):
        for name, terms in everyone.items():
            for key, command in (("on-up", terms.on_up), ("on-down", terms.on_down)):
                if not command or not command[0].startswith("/") or command[0] in good:
                    continue
                if Path(command[0]).is_file() and os.access(command[0], os.X_OK):
                    good.add(command[0])
                else:
                    report.add((section, name, key, 0), f"{command[0]} is no file that can be executed")


def _check_certificates(server: Server, report: Report) -> bool:
    """Whether the files of certificates can be read."""
    readable = True
    named: list[tuple[KeyPath, str]] = []
    if isinstance(server.certificate, CertificateFiles):
        named.append((("server", "certificate", "chain"), server.certificate.chain))
        named.append((("server", "certificate", "key"), server.certificate.key))
    if server.client_ca is not None:
        named.append((("server", "client-ca"), server.client_ca))
    for key, name in named:
        try:
            read_regular(Path(name), 1)
        except OSError as error:
            report.add(key, f"{name} cannot be read: {error.strerror}")
            readable = False
    return readable


def _resolve(config: Config, report: Report) -> Config:
    """Make paths absolute, relative to the file's directory; read the password files; look at others."""
    base = report.path.absolute().parent
    farm = _resolve_farm(config.farm, base)
    server = config.server
    if isinstance(server.certificate, CertificateFiles):
        files = CertificateFiles(chain=str(base / server.certificate.chain), key=str(base / server.certificate.key))
        server = msgspec.structs.replace(server, certificate=files)
    if server.nftables_include:
        server = msgspec.structs.replace(server, nftables_include=str(base / server.nftables_include))
        try:
            read_regular(Path(server.nftables_include), 1)
        except OSError as error:
            key_path = ("server", "nftables-include")
            report.add(key_path, f"{server.nftables_include} cannot be read: {error.strerror}")
    _check_programs(config, report)
    if server.client_ca is not None:
        server = msgspec.structs.replace(server, client_ca=str(base / server.client_ca))
    secrets = {name: _with_password(name, secret, report) for name, secret in config.secret.items()}
    radius = None if config.radius is None else _resolve_radius(config.radius, base, report)
    return msgspec.structs.replace(config, farm=farm, server=server, secret=secrets, radius=radius)


def _with_password(name: str, secret: Secret, report: Report) -> Secret:
    """Read the password file, which is relative to the file that names it."""
    if secret.password_file is None:
        return secret
    key = ("secret", name, "password-file")
    path = report.of(key).path.absolute().parent / secret.password_file
    return msgspec.structs.replace(secret, password=read_password(path, key, report))


def _resolve_farm(farm: Farm, base: Path) -> Farm:
    return msgspec.structs.replace(
        farm, state_directory=str(base / farm.state_directory), run_directory=str(base / farm.run_directory)
    )


def _holds_passwords(config: Config) -> bool:
    shared: list[RadiusServer | CoaClient] = list(config.radius.server) if config.radius else []
    if config.radius and config.radius.coa:
        shared += config.radius.coa.client
    return any(table.secret for table in shared) or any(
        secret.password or secret.nt_hash or secret.password_hash for secret in config.secret.values()
    )


def _with_dropins(config: Config, report: Report) -> Config:
    """Add the users of the drop-in files."""
    if not config.auth.secrets_directory:
        return config
    directory = report.path.absolute().parent / config.auth.secrets_directory
    added = read_dropins(directory, report, set(config.secret), _check_name)
    return msgspec.structs.replace(
        config,
        auth=msgspec.structs.replace(config.auth, secrets_directory=str(directory)),
        secret={**config.secret, **added},
    )


def _resolve_radius(radius: Radius, base: Path, report: Report) -> Radius:
    """Read the files of the shared secrets."""
    read = partial(_with_secret, base=base, report=report)
    servers = tuple(read(server, ("radius", "server", index)) for index, server in enumerate(radius.server))
    coa = radius.coa
    if coa is not None:
        clients = tuple(read(client, ("radius", "coa", "client", i)) for i, client in enumerate(coa.client))
        coa = msgspec.structs.replace(coa, client=clients)
    return msgspec.structs.replace(radius, server=servers, coa=coa)


def _with_secret(table: SharedSecret, key: KeyPath, *, base: Path, report: Report) -> SharedSecret:
    if table.secret_file is None:
        return table
    secret = read_password(base / table.secret_file, (*key, "secret-file"), report)
    return msgspec.structs.replace(table, secret=secret)
