"""Reads and validates the client's configuration file."""

from __future__ import annotations

import stat
from pathlib import Path

import msgspec

from sstpfarm.config.client import SYSTEM, ClientConfig, Interface
from sstpfarm.config.client_checks import check_client, check_name
from sstpfarm.config.document import file_text, read_document, read_password, read_regular
from sstpfarm.config.fields import Password
from sstpfarm.config.locate import KeyPath
from sstpfarm.config.pem import MAX_PEM, check_pair, read_authorities
from sstpfarm.config.report import Report
from sstpfarm.config.schema import CertificateFiles
from sstpfarm.errors import ConfigError
from sstpfarm.proto.ppp.authentication import check_credentials
from sstpfarm.proto.roles import AuthMethod


def load_client(path: Path) -> ClientConfig:
    """Return the configuration of a file: valid, with absolute paths, with the passwords of password files.

    Raises:
        ConfigError: one line ``FILE:LINE: KEY: problem; what is allowed`` for each fault that was found.
    """
    report, config = read_document(file_text(path), path, ClientConfig, check_name)
    check_client(config, report)
    config = _resolve(config, report)
    report.raise_if_any()
    return config


def _resolve(config: ClientConfig, report: Report) -> ClientConfig:
    """Make paths absolute, relative to the file's directory; read the password files; look at the others."""
    base = report.path.absolute().parent
    client = msgspec.structs.replace(config.client, run_directory=str(base / config.client.run_directory))
    interfaces = {
        name: _resolve_interface(interface, base, ("interface", name), report)
        for name, interface in config.interface.items()
    }
    return msgspec.structs.replace(config, client=client, interface=interfaces)


def _resolve_interface(interface: Interface, base: Path, path: KeyPath, report: Report) -> Interface:
    certificate = interface.certificate
    if certificate is not None:
        certificate = CertificateFiles(chain=str(base / certificate.chain), key=str(base / certificate.key))
        _check_certificate(certificate, (*path, "certificate"), report)
    authorities = interface.ca
    if authorities != SYSTEM:
        authorities = str(base / authorities)
        try:
            read_authorities(Path(authorities))
        except ConfigError as error:
            report.add((*path, "ca"), str(error))
    password, proxy_password = interface.password, interface.proxy_password
    if interface.password_file is not None and password is None:
        password = read_password(base / interface.password_file, (*path, "password-file"), report)
    if interface.proxy_password_file is not None and proxy_password is None:
        file = base / interface.proxy_password_file
        proxy_password = read_password(file, (*path, "proxy-password-file"), report)
    if password is not None:
        _check_credentials(interface, password, path, report)
    return msgspec.structs.replace(
        interface, certificate=certificate, ca=authorities, password=password, proxy_password=proxy_password
    )


def _check_credentials(interface: Interface, password: Password, path: KeyPath, report: Report) -> None:
    for method in interface.authentication:
        try:
            check_credentials(AuthMethod(method), interface.user.encode(), password.text)
        except ConfigError as error:
            report.add((*path, "user"), str(error))
            return


def _check_certificate(files: CertificateFiles, path: KeyPath, report: Report) -> None:
    read: list[bytes] = []
    for key, name in (("chain", files.chain), ("key", files.key)):
        try:
            data, mode = read_regular(Path(name), MAX_PEM)
        except OSError as error:
            report.add((*path, key), f"{name} cannot be read: {error.strerror}")
            continue
        read.append(data)
        if key == "key" and mode & stat.S_IRWXO:
            allowed = "allowed: no rights for others, chmod o-rwx"
            report.add((*path, key), f"{name} is open to every user (mode {mode:04o}); {allowed}")
    if len(read) == 2:
        try:
            check_pair(*read)
        except ValueError as error:
            report.add(path, f"{files.chain} with {files.key}: {error}")
