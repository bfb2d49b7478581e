"""The users that the client's unprivileged halves become: numbers that no account has, one for each tunnel.

systemd's UIDS-GIDS.md leaves 60706 to 61183 unused; the farm takes those from 60800 on. Users of their own, since
processes of one user could signal each other.
"""

from __future__ import annotations

from typing import Final

from sstpfarm.config.client import MAX_INTERFACES

CONNECT_ID: Final = 60799  # user and group of `sstpfarm connect`
FIRST_INTERFACE_ID: Final = 60706  # of `sstpfarm client`
assert FIRST_INTERFACE_ID + MAX_INTERFACES <= CONNECT_ID


def interface_id(slot: int) -> int:
    """Return the user and group number of the child that serves the interface of that slot."""
    assert 0 <= slot < MAX_INTERFACES
    return FIRST_INTERFACE_ID + slot
