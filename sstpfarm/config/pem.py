"""A certificate and its key in PEM: whether they are what they should be, told without a byte of the key."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import serialization


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
