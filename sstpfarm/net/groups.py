"""Interface groups (IFLA_GROUP): whose session an interface is, in one number that nftables and netlink understand.

The upper 16 bits say "sstpfarm" ("SW" in ASCII); the lower ones name the worker, the pool, or the graveyard. A link
without a session that stays up stays in its worker's group.
"""

from __future__ import annotations

from typing import Final

SESSION_GROUPS: Final = 0x5357_0000
SESSION_GROUP_MASK: Final = 0xFFFF_0000
GRAVEYARD_GROUP: Final = 0x5357_FFFF  # links of ended sessions wait here to be deleted in one request
POOL_GROUP: Final = 0x5357_FFFE  # links without a session that are down wait here for the next one
GATEWAY_GROUP: Final = 0x5357_FFFD  # the link that has the gateway addresses of all sessions
MAX_WORKERS: Final = 1024  # what `ipc.messages` can name


UNCLAMPED: Final = 0x4000  # the MSS of TCP through such an interface is left alone
CLAMP_MASK: Final = SESSION_GROUP_MASK | UNCLAMPED


def worker_group(worker: int, *, clamped: bool = True) -> int:
    """Return the group of the session interfaces of that worker, those whose TCP is clamped or the others."""
    assert 0 <= worker < MAX_WORKERS
    return SESSION_GROUPS + worker + (0 if clamped else UNCLAMPED)


def is_session_group(group: int) -> bool:
    """Whether an interface of that group belongs to a farm."""
    return group & SESSION_GROUP_MASK == SESSION_GROUPS
