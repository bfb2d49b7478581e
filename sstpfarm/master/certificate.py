"""The server's certificate and key: from the operator's files, or a self-signed pair that the farm makes and keeps."""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sstpfarm.config.addresses import Endpoint
from sstpfarm.config.pem import check_pair
from sstpfarm.config.schema import CertificateFiles, Config, Server
from sstpfarm.errors import ConfigError, SystemRefusal
from sstpfarm.telemetry.log import Log

CHAIN_FILE: Final = "certificate.pem"
KEY_FILE: Final = "certificate.key"
VALID: Final = datetime.timedelta(days=730)
RENEW_BEFORE: Final = datetime.timedelta(days=30)  # a made certificate that ends sooner is made again at start
MAX_PEM: Final = 1 << 20  # bytes of one file
COMMON_NAME_MAX: Final = 64  # RFC 5280 A.1, ub-common-name
HELP: Final = "clients must import it: `sstpfarm certificate show` says how"


@dataclass(frozen=True, slots=True)
class Certificate:
    """A chain and its key as PEM, empty for TLS without a certificate.

    Attributes:
        sha256: the leaf's fingerprint in hexadecimal.
        client_authorities: certificates in PEM, of which one must have issued a client's; "" asks for none.
    """

    chain: bytes
    key: bytes = field(repr=False)
    sha256: str
    not_after: datetime.datetime
    client_authorities: str = ""

    @property
    def expiry(self) -> float:
        """When it ends, in seconds since the epoch; inf where there is none."""
        return self.not_after.timestamp() if self.chain else inf


@dataclass(frozen=True, slots=True)
class Facts:
    """What people want to know of the server's certificate."""

    path: Path
    subject: str
    issuer: str
    names: tuple[str, ...]
    not_before: datetime.datetime
    not_after: datetime.datetime
    sha256: str
    self_signed: bool


NO_CERTIFICATE: Final = Certificate(b"", b"", "", datetime.datetime.max)


def obtain(config: Config, log: Log, before: Certificate | None = None) -> Certificate:
    """Return what a configuration says: the operator's certificate, the farm's own one, or none.

    Args:
        before: what was obtained last; when it is the same, the log gets nothing and `before` itself is returned.

    A certificate whose time has not come is taken where there is none before: the clock of a machine without a battery
    is behind until it is set, and the clients' clocks decide.

    Raises:
        ConfigError: the operator's files cannot be used, or would take the place of `before` too early.
        SystemRefusal: the farm's own cannot be written.
    """
    server = config.server
    if server.anonymous:
        log.emit("tls.anonymous", why="TLS without a certificate: whoever is on the way can read and change all")
        return NO_CERTIFICATE
    state = Path(config.farm.state_directory)
    own = not isinstance(server.certificate, CertificateFiles)
    if isinstance(server.certificate, CertificateFiles):
        found = load_files(server.certificate)
    else:
        check_files(config)  # what is wrong with client-ca shows before a certificate is made
        found = load_or_make(state, server.endpoints(), log, names=server.certificate_names)
    if server.require_client_certificate:
        found = replace(found, client_authorities=client_authorities(server, found.chain))
    if found == before:
        return before
    early = _too_early(found.chain)
    if early and before is not None:
        raise ConfigError(early)
    if early:
        log.emit("certificate.not_yet_valid", sha256=found.sha256, why=early)
    if own:
        log.emit("certificate.self_signed", path=str(state / CHAIN_FILE), sha256=found.sha256, help=HELP)
    log.emit("certificate.loaded", sha256=found.sha256, not_after=found.not_after.isoformat(timespec="seconds"))
    return found


def check_files(config: Config) -> list[str]:
    """Look at the files of certificates that a configuration names; nothing is made.

    Returns:
        What is allowed and yet worth a second look.

    Raises:
        ConfigError: they cannot be used.
    """
    server = config.server
    found = load_files(server.certificate) if isinstance(server.certificate, CertificateFiles) else NO_CERTIFICATE
    if server.require_client_certificate:
        client_authorities(server, found.chain)
    early = _too_early(found.chain) if found.chain else ""
    return [early] if early else []


def describe_certificate(config: Config) -> Facts:
    """Return the facts of the certificate that a configuration names; nothing is made.

    Raises:
        ConfigError: there is none, or it cannot be used.
        SystemRefusal: the farm has not made its own yet.
    """
    server = config.server
    if server.anonymous:
        raise ConfigError("server.certificate: TLS without a certificate: there is nothing to show")
    if isinstance(server.certificate, CertificateFiles):
        path = Path(server.certificate.chain)
        data = load_files(server.certificate).chain
    else:
        path = Path(config.farm.state_directory) / CHAIN_FILE
        try:
            data = path.read_bytes()
        except OSError as error:
            raise SystemRefusal(f"{path}: {error.strerror}; the server makes it at its first start") from error
    leaf = x509.load_pem_x509_certificate(data)
    return Facts(
        path=path,
        subject=leaf.subject.rfc4514_string(),
        issuer=leaf.issuer.rfc4514_string(),
        names=tuple(str(name.value) for name in _alternative_names(data)),
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
        sha256=leaf.fingerprint(hashes.SHA256()).hex(),
        self_signed=leaf.subject == leaf.issuer,
    )


def client_authorities(server: Server, chain: bytes) -> str:
    """Return the certificates in PEM that may issue those of clients: of `client-ca`, or the issuers in our own chain.

    Raises:
        ConfigError: there are none.
    """
    if server.client_ca is not None:
        data, what = _read(server.client_ca, "client-ca"), f"server.client-ca: {server.client_ca}"
        first = 0
    else:
        data, what = chain, "server.require-client-certificate: the chain of server.certificate"
        first = 1
    try:
        issuers = x509.load_pem_x509_certificates(data)[first:]
    except ValueError:
        raise ConfigError(f"{what}: holds no certificate in PEM") from None
    if not issuers:
        raise ConfigError(f"{what}: holds no issuer after the server's own certificate; add them, or set client-ca")
    return "".join(one.public_bytes(serialization.Encoding.PEM).decode() for one in issuers)


def load_files(files: CertificateFiles) -> Certificate:
    """Load the operator's chain and key.

    Raises:
        ConfigError: a file cannot be read, is no PEM, the pair does not match, or the certificate has expired.
    """
    chain = _read(files.chain, "certificate.chain")
    key = _read(files.key, "certificate.key")
    try:
        found = _pair(chain, key)
    except ValueError as error:
        raise ConfigError(f"server.certificate: {files.chain} with {files.key}: {error}") from error
    if found.not_after <= datetime.datetime.now(datetime.UTC):
        raise ConfigError(f"server.certificate: {files.chain}: it has expired on {found.not_after:%Y-%m-%d %H:%M} UTC")
    return found


def load_or_make(directory: Path, endpoints: Sequence[Endpoint], log: Log, *, names: Sequence[str] = ()) -> Certificate:
    """Return the farm's own self-signed certificate.

    It is made where there is none that serves for a month more and has all of `names` (DNS names and addresses).

    Raises:
        SystemRefusal: it cannot be written, or the one that is there cannot be read now: clients may know it.
    """
    chain_path, key_path = directory / CHAIN_FILE, directory / KEY_FILE
    try:
        with suppress(FileNotFoundError, ValueError):
            found = _pair(chain_path.read_bytes(), key_path.read_bytes())
            serves = found.not_after - datetime.datetime.now(datetime.UTC) > RENEW_BEFORE
            if serves and set(_general_names(names)) <= set(_alternative_names(found.chain)):
                return found
        made = _make(endpoints, names)
        drafts = _draft(key_path, made.key, 0o600), _draft(chain_path, made.chain, 0o644)
        for draft, path in zip(drafts, (key_path, chain_path), strict=True):
            draft.replace(path)
    except OSError as error:
        raise SystemRefusal(f"{error.filename}: {error.strerror}") from error
    log.emit("certificate.made", path=str(chain_path), sha256=made.sha256)
    return made


def _read(path: str, what: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_PEM + 1)
    except OSError as error:
        raise ConfigError(f"server.{what}: {path}: {error.strerror}") from error
    if len(data) > MAX_PEM:
        raise ConfigError(f"server.{what}: {path}: larger than {MAX_PEM} bytes")
    return data


def _pair(chain: bytes, key: bytes) -> Certificate:
    """Raises ValueError, without a byte of the key in its text."""
    leaf = check_pair(chain, key)
    return Certificate(chain, key, leaf.fingerprint(hashes.SHA256()).hex(), leaf.not_valid_after_utc)


def _too_early(chain: bytes) -> str:
    """Return what to say of a certificate whose time has not come, "" for any other."""
    begin = x509.load_pem_x509_certificate(chain).not_valid_before_utc
    if begin <= datetime.datetime.now(datetime.UTC):
        return ""
    return f"server.certificate: it is valid from {begin:%Y-%m-%d %H:%M} UTC only; is this machine's clock right?"


def _general_names(texts: Iterable[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for text in dict.fromkeys(texts):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(text)))
        except ValueError:
            if text.isascii():
                names.append(x509.DNSName(text))
    return names


def _alternative_names(chain: bytes) -> list[x509.GeneralName]:
    leaf = x509.load_pem_x509_certificate(chain)
    try:
        return list(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []


def _make(endpoints: Sequence[Endpoint], wanted: Sequence[str]) -> Certificate:
    host = socket.gethostname() or "localhost"
    served = [one.host for one in endpoints if not ipaddress.ip_address(one.host).is_unspecified]
    names = _general_names((*wanted, host, "localhost", *served))
    title = wanted[0] if wanted else host
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title[:COMMON_NAME_MAX])])
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


def _draft(path: Path, data: bytes, mode: int) -> Path:
    """Return a file that is to take the place of another at once: a crash leaves the old one or the new one."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:  # noqa: PTH123 - a descriptor with its mode from the start
        os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return draft
