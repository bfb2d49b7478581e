"""Who may say what to the master, when: every cell of both tables."""

from __future__ import annotations

import itertools

import pytest

from sstpfarm.errors import IpcViolation
from sstpfarm.ipc import messages as m
from sstpfarm.ipc.permissions import MAY_SEND, Party
from sstpfarm.master.permissions import (
    PROCESS_ACCEPTS,
    SESSION_ACCEPTS,
    ProcessPhase,
    SessionPhase,
    check_process,
    check_session,
)

TERMS = m.Terms(local_address="10.0.0.1", remote_address="10.0.0.2")
SESSION = "0" * 16
MESSAGES: list[m.Message] = [
    m.AuthReady(),
    m.Grant(worker=0, session=SESSION, user="u", caller_id="c", method="pap", mtu=1400, slot=0, terms=TERMS),
    m.Revoke(worker=0, session=SESSION, reason="replaced"),
    m.ChangeSession(worker=0, session=SESSION),
    m.ReadCounters(sessions=((0, SESSION),)),
    m.PoolUse(pools=()),
    m.RadiusUse(servers=()),
    m.WorkerViolated(worker=0, generation=1, detail="d"),
    m.Pong(number=1),
    m.WorkerReady(),
    m.SessionOpened(session=SESSION, cipher="c", tls_version="v"),
    m.Ipv6Opened(session=SESSION, peer=b"identify"),
    m.SessionClosed(session=SESSION, reason="shutdown"),
    m.Shutdown(),
]


@pytest.mark.parametrize(
    ("party", "phase", "message"), list(itertools.product((Party.AUTH, Party.WORKER), ProcessPhase, MESSAGES))
)
def test_process_cells(party: Party, phase: ProcessPhase, message: m.Message) -> None:
    expected = {
        (Party.AUTH, ProcessPhase.STARTING): {"AuthReady"},
        (Party.AUTH, ProcessPhase.READY): {
            "Grant",
            "Revoke",
            "ChangeSession",
            "ReadCounters",
            "PoolUse",
            "RadiusUse",
            "WorkerViolated",
            "Pong",
        },
        (Party.WORKER, ProcessPhase.STARTING): {"WorkerReady"},
        (Party.WORKER, ProcessPhase.READY): {"SessionOpened", "Ipv6Opened", "SessionClosed", "Pong"},
    }[party, phase]
    if type(message).__name__ in expected:
        check_process(party, phase, message)
    else:
        with pytest.raises(IpcViolation, match=type(message).__name__):
            check_process(party, phase, message)


@pytest.mark.parametrize(("phase", "message"), list(itertools.product((None, *SessionPhase), MESSAGES)))
def test_session_cells(phase: SessionPhase | None, message: m.Message) -> None:
    expected = {
        SessionPhase.HANDED: {"SessionOpened", "Ipv6Opened", "SessionClosed"},
        SessionPhase.OPENED: {"Ipv6Opened", "SessionClosed"},
    }.get(phase or SessionPhase.CLOSING, set())
    if type(message).__name__ in expected:
        check_session(phase, message)
    else:
        with pytest.raises(IpcViolation, match=type(message).__name__):
            check_session(phase, message)


def test_tables_are_complete() -> None:
    """Everything that a channel to the master can carry is taken in some phase, and nothing else."""
    for party in (Party.AUTH, Party.WORKER):
        taken = {kind for (sender, _), kinds in PROCESS_ACCEPTS.items() if sender is party for kind in kinds}
        assert taken == set(MAY_SEND[party, Party.MASTER])
    assert set(SESSION_ACCEPTS) == {None, *SessionPhase}
