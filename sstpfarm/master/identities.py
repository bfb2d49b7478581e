"""The users that the farm's processes become: numbers that no account has, one for each process.

systemd's UIDS-GIDS.md leaves 60706 to 61183 unused. Users of their own, since processes of one user could signal
each other.
"""

from __future__ import annotations

from typing import Final

AUTH_ID: Final = 60800  # user and group
FIRST_WORKER_ID: Final = 60801
LAST_ID: Final = 61183


def worker_id(worker: int) -> int:
    """Return the user and group number of that worker."""
    number = FIRST_WORKER_ID + worker
    assert number <= LAST_ID
    return number
