"""The names that a client's certificate gives to its holder."""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID, ObjectIdentifier

UPN: Final = ObjectIdentifier("1.3.6.1.4.1.311.20.2.3")  # [MS-WCCE] 2.2.2.7.7.4: the user principal name of Windows
MAX_NAMES: Final = 16
MAX_NAME: Final = 253  # characters; a user's name is never longer
UNREADABLE: Final = (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
UTF8_STRING: Final = 0x0C  # X.690 8.23


def names_of(certificate: bytes) -> tuple[str, ...]:
    """Return the common names of the subject, and the e-mail addresses and user principal names beside it.

    Args:
        certificate: DER of a certificate that was verified; empty for none.

    Returns:
        At most MAX_NAMES, without what is too long, does not print or cannot be read.
    """
    if not certificate:
        return ()
    found: list[str] = []
    try:
        leaf = x509.load_der_x509_certificate(certificate)
        found += [str(one.value) for one in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        beside = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found += beside.get_values_for_type(x509.RFC822Name)
        found += [_utf8_string(one.value) for one in beside.get_values_for_type(x509.OtherName) if one.type_id == UPN]
    except x509.ExtensionNotFound:
        pass
    except UNREADABLE:  # it is not what the standards say: it names nobody
        return ()
    good = [name for name in dict.fromkeys(found) if 0 < len(name) <= MAX_NAME and name.isprintable()]
    return tuple(good[:MAX_NAMES])


def _utf8_string(der: bytes) -> str:
    """The text of a DER UTF8String of less than 128 bytes; ValueError for all else."""
    if len(der) < 2 or der[0] != UTF8_STRING or der[1] != len(der) - 2 or der[1] > 0x7F:
        raise ValueError("no UTF8String")
    return der[2:].decode()
