"""The server's certificate and key: from the operator's files, or a self-signed pair that the farm makes and keeps."""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sstpfarm.config.addresses import Endpoint
from sstpfarm.config.schema import CertificateFiles
from sstpfarm.errors import ConfigError, SystemRefusal
from sstpfarm.telemetry.log import Log

CHAIN_FILE: Final = "certificate.pem"
KEY_FILE: Final = "certificate.key"
VALID: Final = datetime.timedelta(days=730)
RENEW_BEFORE: Final = datetime.timedelta(days=30)  # a made certificate that ends sooner is made again at start
MAX_PEM: Final = 1 << 20  # bytes of one file
COMMON_NAME_MAX: Final = 64  # RFC 5280 A.1, ub-common-name


@dataclass(frozen=True, slots=True)
class Certificate:
    """A chain and its key as PEM; `sha256` is the leaf's fingerprint in hexadecimal."""

    chain: bytes
    key: bytes = field(repr=False)
    sha256: str
    not_after: datetime.datetime


def load_files(files: CertificateFiles) -> Certificate:
    """Load the operator's chain and key.

    Raises:
        ConfigError: a file cannot be read, is no PEM, the pair does not match, or the certificate is not valid now.
    """
    chain = _read(files.chain, "chain")
    key = _read(files.key, "key")
    try:
        found = _pair(chain, key)
    except ValueError as error:
        raise ConfigError(f"server.certificate: {files.chain} with {files.key}: {error}") from error
    leaf = x509.load_pem_x509_certificate(chain)
    now = datetime.datetime.now(datetime.UTC)
    if found.not_after <= now:
        raise ConfigError(f"server.certificate: {files.chain}: it has expired on {found.not_after:%Y-%m-%d %H:%M} UTC")
    if leaf.not_valid_before_utc > now:
        raise ConfigError(f"server.certificate: {files.chain}: valid from {leaf.not_valid_before_utc:%Y-%m-%d} only")
    return found


def load_or_make(directory: Path, endpoints: Sequence[Endpoint], log: Log) -> Certificate:
    """Return the farm's own self-signed certificate; make it where there is none that serves for a month more.

    Raises:
        SystemRefusal: it cannot be written.
    """
    chain_path, key_path = directory / CHAIN_FILE, directory / KEY_FILE
    with suppress(OSError, ValueError):
        found = _pair(chain_path.read_bytes(), key_path.read_bytes())
        if found.not_after - datetime.datetime.now(datetime.UTC) > RENEW_BEFORE:
            return found
    made = _make(endpoints)
    try:
        _write(key_path, made.key, 0o600)
        _write(chain_path, made.chain, 0o644)
    except OSError as error:
        raise SystemRefusal(f"{error.filename}: {error.strerror}") from error
    log.emit("certificate.made", path=str(chain_path), sha256=made.sha256)
    return made


def _read(path: str, what: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_PEM + 1)
    except OSError as error:
        raise ConfigError(f"server.certificate.{what}: {path}: {error.strerror}") from error
    if len(data) > MAX_PEM:
        raise ConfigError(f"server.certificate.{what}: {path}: larger than {MAX_PEM} bytes")
    return data


def _pair(chain: bytes, key: bytes) -> Certificate:
    """Raises ValueError, without a byte of the key in its text."""
    try:
        leaf = x509.load_pem_x509_certificate(chain)
        ssl.PEM_cert_to_DER_cert(leaf.public_bytes(serialization.Encoding.PEM).decode())
    except ValueError:
        raise ValueError("the chain holds no certificate in PEM") from None
    try:
        private = serialization.load_pem_private_key(key, None)
    except TypeError:
        raise ValueError("the key has a passphrase: store it without one, readable by root only") from None
    except Exception:  # its text could quote the file
        raise ValueError("the key is no private key in PEM") from None
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    if private.public_key().public_bytes(*form) != leaf.public_key().public_bytes(*form):
        raise ValueError("the key does not belong to the first certificate of the chain")
    return Certificate(chain, key, leaf.fingerprint(hashes.SHA256()).hex(), leaf.not_valid_after_utc)


def _make(endpoints: Sequence[Endpoint]) -> Certificate:
    host = socket.gethostname() or "localhost"
    names: list[x509.GeneralName] = [
        x509.DNSName(name) for name in dict.fromkeys((host, "localhost")) if name.isascii()
    ]
    addresses = [ipaddress.ip_address(text) for text in dict.fromkeys(endpoint.host for endpoint in endpoints)]
    names += [x509.IPAddress(address) for address in addresses if not address.is_unspecified]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:COMMON_NAME_MAX])])
    private = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # a client's clock may be behind
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(private, hashes.SHA256())
    )
    key = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain = certificate.public_bytes(serialization.Encoding.PEM)
    return Certificate(chain, key, certificate.fingerprint(hashes.SHA256()).hex(), certificate.not_valid_after_utc)


def _write(path: Path, data: bytes, mode: int) -> None:
    """Put a file in place at once: a crash leaves the old one or the new one."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:  # noqa: PTH123 - a descriptor with its mode from the start
        os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
