"""worker/session.py: what auth says of a session whose end has begun."""

from __future__ import annotations

from typing import Any, cast

import pytest
from msgspec import structs

from sstpfarm.ipc import messages as m
from sstpfarm.proto.events import AuthRequest
from sstpfarm.proto.roles import AuthAccept, AuthMethod, PapProof
from sstpfarm.reasons import Reason
from sstpfarm.telemetry.stats import Stats
from sstpfarm.transport.connection import Connection
from sstpfarm.worker.server import WorkerServer
from sstpfarm.worker.session import Session

SESSION = "0123456789abcdef"


class Around:
    """What a session uses of its worker and of its connection."""

    def __init__(self) -> None:
        self.stats, self.log = Stats.create(1), self
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.asked: list[m.AccessRequest] = []
        self.cancelled: list[str] = []
        self.decisions: list[object] = []
        self.lasts, self.mtu, self.frame_limit = True, 1400, 1400
        self.peer, self.tls_version, self.cipher = "192.0.2.7:5000", "TLSv1.3", "AES"
        self.ask_auth, self.cancel_auth = self.asked.append, self.cancelled.append
        self.auth_result = self.decisions.append

    def emit(self, name: str, **keys: Any) -> None:
        self.events.append((name, keys))

    def session_gone(self, session: str, slot: int, **_: object) -> None:
        """The worker forgets it."""

    def reauthenticate(self) -> None:
        """The peer is asked; `authenticate` says what it answers."""


@pytest.mark.parametrize("ordered", [Reason.REPLACED, Reason.AUTH_TIMEOUT])
@pytest.mark.parametrize("lasts", [True, False])
def test_who_is_to_go_is_not_said_to_be_let_in(lasts: bool, ordered: Reason) -> None:
    """The order came by way of the master, before auth's answer; or the peer's time was over."""
    around = Around()
    connection = cast(Connection, around)
    session = Session(cast(WorkerServer, around), SESSION, "192.0.2.1:443", {})
    session.connection = connection
    session.authenticate(connection, AuthRequest(AuthMethod.PAP, b"alice", PapProof(b"x")))
    around.lasts = lasts
    assert session.unanswered == (around.asked[0] if lasts else None)
    terms = m.Terms(local_address="10.20.0.1", remote_address="10.20.0.2")
    session.accepted(m.AccessAccept(session=SESSION, user="alice", terms=terms, hlak=bytes(32), message=b""))
    assert len(around.decisions) == lasts
    session.closed(connection, ordered, "")
    refused = ["login.refused"] if not lasts and ordered is Reason.AUTH_TIMEOUT else []
    expected = ["login.accepted"] if lasts else refused
    assert [name for name, _ in around.events] == [*expected, "connection.refused"]
    snapshot = around.stats.snapshot()
    assert snapshot.counter("sstpfarm_logins_total", "accepted") == lasts
    assert around.cancelled == ([] if lasts else [SESSION])
    around.stats.close()


@pytest.mark.parametrize("moved", [False, True])
def test_who_goes_on_is_counted_and_who_moved_is_not(moved: bool) -> None:
    """Auth's answer may overtake the master's order to end the session. The peer is told in both cases that it is who
    it says.
    """
    around = Around()
    connection = cast(Connection, around)
    session = Session(cast(WorkerServer, around), SESSION, "192.0.2.1:443", {})
    session.connection = connection
    terms = m.Terms(local_address="10.20.0.1", remote_address="10.20.0.2")
    accept = m.AccessAccept(session=SESSION, user="alice", terms=terms, hlak=bytes(32))
    request = AuthRequest(AuthMethod.PAP, b"alice", PapProof(b"x"))
    session.authenticate(connection, request)
    session.accepted(accept)
    session.reauthenticate()
    session.authenticate(connection, request)
    session.accepted(structs.replace(accept, moved=moved))
    assert [type(decision) for decision in around.decisions] == [AuthAccept, AuthAccept]
    assert [name for name, _ in around.events] == ["login.accepted", *["session.reauthenticated"] * (not moved)]
    snapshot = around.stats.snapshot()
    counted = [snapshot.counter("sstpfarm_reauthentications_total", outcome) for outcome in ("asked", "accepted")]
    assert counted == [1, int(not moved)]
    around.stats.close()
