"""Finds the account that a peer means with the name that it sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sstpfarm.config.views import Account


class KnownUser(NamedTuple):
    """An account and its name in the configuration."""

    name: str
    account: Account


def find_user(accounts: Mapping[str, Account], user: bytes) -> KnownUser | None:
    """Return the account of a name as it came on the wire; None when there is none.

    The whole name is looked up first, then what follows the last backslash (``DOMAIN\\user``, ``\\user``), where
    Windows puts a domain. Case counts.
    """
    whole = decode_user(user)
    for name in (whole, whole.rpartition("\\")[2]):
        account = accounts.get(name)
        if account is not None:
            return KnownUser(name, account)
    return None


def decode_user(user: bytes) -> str:
    """Return a name from the wire as text: UTF-8, or Latin-1 when it is not valid UTF-8."""
    try:
        return user.decode("utf-8")
    except UnicodeDecodeError:
        return user.decode("latin-1")


def shown_user(user: bytes) -> str:
    """Return a name from the wire fit for a log: at most 64 characters, unprintable ones replaced."""
    text = decode_user(user)[:64]
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
