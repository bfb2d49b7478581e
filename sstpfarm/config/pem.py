"""Certificates and keys in PEM: read, and whether they are what they should be, told without a byte of a key."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from sstpfarm.config.document import read_regular
from sstpfarm.errors import ConfigError

MAX_PEM: Final = 4 << 20  # bytes of one file, and of a directory of authorities; Debian's whole store has 0.2 MiB


def read_pem(path: Path) -> str:
    """Return the text of a PEM file; ConfigError when it cannot be had."""
    try:
        data, _ = read_regular(path, MAX_PEM + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_PEM:
        raise ConfigError(f"{path}: larger than {MAX_PEM} bytes")
    return data.decode("ascii", "ignore")  # comments of a bundle may hold other letters; ssl takes ASCII alone


def read_authorities(path: Path) -> str:
    """Return the usable certificates of a file, or of all files of a directory, as text.

    Raises:
        ConfigError: they cannot be read, or TLS cannot use them.
    """
    if path.is_dir():
        try:
            files = sorted(file for file in path.iterdir() if file.suffix in (".pem", ".crt") and file.is_file())
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
        found = "\n".join(read_pem(file) for file in files)
    else:
        found = read_pem(path)
    if len(found) > MAX_PEM:
        raise ConfigError(f"{path}: more than {MAX_PEM} bytes of certificates")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=found)
    except (ssl.SSLError, ValueError):
        raise ConfigError(f"{path} holds no usable certificate in PEM") from None
    return found


def check_pair(chain: bytes, key: bytes) -> x509.Certificate:
    """Return the first certificate of a chain, to which the key must belong.

    Raises:
        ValueError: why the two cannot be used together.
    """
    try:
        leaf = x509.load_pem_x509_certificate(chain)
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
    return leaf
