"""Passwords as the authentication protocols put them into bytes. No normalisation anywhere: what was typed counts."""

from __future__ import annotations

from typing import Final

from sstpfarm.errors import ConfigError

MAX_CHARACTERS: Final = 256  # UTF-16 code units, RFC 2759 8.3


def as_utf16(password: str) -> bytes:
    """Return the password as both MS-CHAPs hash it: UTF-16, little-endian (RFC 2759 8.3).

    Raises:
        ConfigError: longer than 256 characters, or not Unicode text.
    """
    try:
        encoded = password.encode("utf-16-le")
    except UnicodeEncodeError:
        # from None: the original exception carries the password
        raise ConfigError("the password is not valid Unicode text") from None
    if len(encoded) > 2 * MAX_CHARACTERS:
        raise ConfigError(f"the password is longer than {MAX_CHARACTERS} characters")
    return encoded


def as_utf8(password: str) -> bytes:
    """Return the password as PAP and CHAP with MD5 use it; raises ConfigError as `as_utf16` does."""
    return as_utf16(password).decode("utf-16-le").encode("utf-8")


def fits_utf16(password: str) -> bool:
    """Whether `as_utf16` takes the text: what a peer presents need not be a password."""
    try:
        as_utf16(password)
    except ConfigError:
        return False
    return True
