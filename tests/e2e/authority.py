"""A certificate authority of the tests: what servers and clients need, good and bad."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

UPN = ObjectIdentifier("1.3.6.1.4.1.311.20.2.3")


class Pair(NamedTuple):
    """Chain (leaf, then its issuers) and key, as PEM files."""

    chain: Path
    key: Path

    def table(self) -> dict[str, str]:
        """As the configuration writes it."""
        return {"chain": str(self.chain), "key": str(self.key)}


def general_name(text: str) -> x509.GeneralName:
    """DNS name, address, e-mail address, or user principal name (after ``upn:``)."""
    if text.startswith("upn:"):
        value = text.removeprefix("upn:").encode()
        return x509.OtherName(UPN, b"\x0c" + bytes([len(value)]) + value)
    if "@" in text:
        return x509.RFC822Name(text)
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


class Authority:
    """An authority, self-signed or under another one; `file` is its certificate."""

    def __init__(self, directory: Path, name: str = "test authority", parent: Authority | None = None) -> None:
        self.directory = directory
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        self.certificate = (
            x509.CertificateBuilder(
                (parent or self).name, self.name, self.key.public_key(), x509.random_serial_number()
            )
            .not_valid_before(now - datetime.timedelta(days=9))
            .not_valid_after(now + datetime.timedelta(days=9))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign((parent or self).key, hashes.SHA256())
        )
        self.file = directory / f"{name.replace(' ', '-')}.pem"
        self.file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self, file: str, common_name: str, names: Sequence[str] = (), *,
        days: int = 2, first_day: int = -8, server: bool = False,
        passphrase: bytes | None = None, use_rsa: bool = False,
    ) -> Pair:  # fmt: skip
        """Issue a certificate that is valid from `first_day` to `days`; both are counted from now."""
        key = rsa.generate_private_key(65537, 2048) if use_rsa else ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        builder = (
            x509.CertificateBuilder(self.name, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=first_day))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(list(map(general_name, names))), critical=False)
        leaf = builder.sign(self.key, hashes.SHA256())
        pair = Pair(self.directory / f"{file}.pem", self.directory / f"{file}.key")
        pair.chain.write_bytes(leaf.public_bytes(serialization.Encoding.PEM) + self.file.read_bytes())
        protection = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
        pair.key.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
        )
        pair.key.chmod(0o600)
        return pair
