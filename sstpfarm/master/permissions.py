"""What the master takes from whom, and when: two literal tables. Anything else is a violation; its sender is killed.

`sstpfarm.ipc.permissions` says which types a channel can carry at all; here it is the phase that counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from sstpfarm.errors import IpcViolation
from sstpfarm.ipc import messages as m
from sstpfarm.ipc.permissions import Party


class ProcessPhase(StrEnum):
    """Where a child process is in its life."""

    STARTING = "starting"
    READY = "ready"


class SessionPhase(StrEnum):
    """Where a session is in its life, as the master knows it."""

    HANDED = "handed"  # auth granted it, its worker has the descriptor
    OPENED = "opened"  # it carries packets
    CLOSING = "closing"  # its worker has closed the descriptor; the interface is being deleted


PROCESS_ACCEPTS: Final[Mapping[tuple[Party, ProcessPhase], tuple[type[m.Message], ...]]] = {
    (Party.AUTH, ProcessPhase.STARTING): (m.AuthReady,),
    (Party.AUTH, ProcessPhase.READY): (
        m.Grant,
        m.Revoke,
        m.ChangeSession,
        m.ReadCounters,
        m.PoolUse,
        m.RadiusUse,
        m.WorkerViolated,
        m.Pong,
    ),
    (Party.WORKER, ProcessPhase.STARTING): (m.WorkerReady,),
    (Party.WORKER, ProcessPhase.READY): (m.SessionOpened, m.Ipv6Opened, m.SessionClosed, m.Pong),
}

SESSION_ACCEPTS: Final[Mapping[SessionPhase | None, tuple[type[m.Message], ...]]] = {
    None: (),  # no such session of that worker
    SessionPhase.HANDED: (m.SessionOpened, m.Ipv6Opened, m.SessionClosed),
    SessionPhase.OPENED: (m.Ipv6Opened, m.SessionClosed),
    SessionPhase.CLOSING: (),
}


def check_process(party: Party, phase: ProcessPhase, message: Any) -> None:
    """Let a message of a process in that phase pass.

    Raises:
        IpcViolation: it may not send it now.
    """
    if type(message) not in PROCESS_ACCEPTS[party, phase]:
        raise IpcViolation(f"{type(message).__name__} while {phase}")


def check_session(phase: SessionPhase | None, message: Any) -> None:
    """Let a worker's message about one of its sessions pass; `phase` is None when it has no such session.

    Raises:
        IpcViolation: it may not send it now.
    """
    if type(message) not in SESSION_ACCEPTS[phase]:
        raise IpcViolation(f"{type(message).__name__} for a session that is {phase or 'not there'}")
