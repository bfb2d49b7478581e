"""Finds the account that a peer means with the name that it sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sstpfarm.config.views import Account
from sstpfarm.proto.ppp.exchange import decode_text


class KnownUser(NamedTuple):
    """An account and its name in the configuration."""

    name: str
    account: Account


def find_user(accounts: Mapping[str, Account], user: bytes) -> KnownUser | None:
    """Return the account of a name as it came on the wire; None when there is none.

    The whole name is looked up first, then what follows the last backslash (``DOMAIN\\user``, ``\\user``), where
    Windows puts a domain. Case counts.
    """
    whole = decode_text(user)
    for name in (whole, whole.rpartition("\\")[2]):
        account = accounts.get(name)
        if account is not None:
            return KnownUser(name, account)
    return None
