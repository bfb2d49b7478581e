"""Who comes in, with what, and what those who do not are told."""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from sstpfarm.auth.admission import Granted, session_identifier
from sstpfarm.auth.assembly import Assembly
from sstpfarm.auth.authorization import Denied
from sstpfarm.auth.leases import Holder
from sstpfarm.auth.local import LocalBackend
from sstpfarm.auth.service import _Login
from sstpfarm.auth.sqlite.database import open_database
from sstpfarm.auth.sqlite.store import SqliteStore
from sstpfarm.auth.store import Counters, SessionFacts
from sstpfarm.config.fields import STRENGTH, Method
from sstpfarm.config.views import AuthView
from sstpfarm.errors import LocalError, SystemRefusal
from sstpfarm.ipc.messages import AccessReject, AccessRequest
from sstpfarm.proto.ppp.verify import verify
from sstpfarm.proto.roles import AuthAccept, AuthMethod, Proof
from sstpfarm.reasons import Reason
from tests.unit.logins import request, view

PROVING = tuple(method for method in STRENGTH if method != "eap")
"""The methods that take one request."""

Result = TypeVar("Result")


def run(work: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run(work)


class Judge:
    """The service without its channels: each request is decided at once."""

    def __init__(self, directory: Path, settings: AuthView | None = None) -> None:
        self.store = SqliteStore(open_database(directory, os.getuid(), os.getgid()))
        self.auth = Assembly(
            settings or view(),
            self.store,
            entropy=os.urandom,
            wall=lambda: 1000.0,
            clock=lambda: 0.0,
            random=lambda: 0.5,
            emit=lambda name, **keys: None,
            on_end=lambda why: None,
        )
        self.auth.service._loop = type("Clock", (), {"time": staticmethod(lambda: 0.0)})()  # a clock that stands

    def judge(self, worker: int, message: AccessRequest) -> Granted | Denied:
        decision = run(self.auth.service._decide(Holder(worker, message.session), _Login(None), message))
        assert isinstance(decision, Granted | Denied)
        return decision

    def text(self, message: AccessRequest, denied: Denied) -> AccessReject:
        """What the peer is told."""
        return self.auth.service.rejection(message, denied)


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    return Judge(tmp_path)


def granted(judge: Judge, message: AccessRequest, worker: int = 0) -> Granted:
    decision = judge.judge(worker, message)
    assert isinstance(decision, Granted)
    return decision


class Refused:
    """A refusal: what the peer is told, and what the operator."""

    def __init__(self, answer: AccessReject, detail: str) -> None:
        self.answer = answer
        self.detail = detail


def refused(judge: Judge, message: AccessRequest) -> Refused:
    decision = judge.judge(0, message)
    assert isinstance(decision, Denied)
    return Refused(judge.text(message, decision), decision.detail)


@pytest.mark.parametrize("method", PROVING)
def test_the_right_password_comes_in_with_every_method(judge: Judge, method: Method) -> None:
    decision = granted(judge, request(b"alice", "wonderland", method), worker=5)
    grant, answer = decision.grant, decision.answer
    assert (grant.worker, grant.session, grant.user, grant.method) == (5, f"{1:016x}", "alice", method)
    assert (grant.mtu, grant.slot, grant.caller_id) == (1400, 3, "198.51.100.7:50000")
    assert grant.terms == answer.terms
    assert (answer.session, answer.user) == (grant.session, "alice")
    assert (answer.terms.local_address, answer.terms.remote_address) == ("10.20.0.1", "10.20.0.2")
    assert answer.terms.dns_servers == ("10.20.0.1",)
    assert len(answer.hlak) == 32
    assert any(answer.hlak) == method.startswith("mschap")
    assert answer.message.startswith(b"S=") == (method == "mschap2")


@pytest.mark.parametrize("method", PROVING)
def test_a_wrong_password_and_an_unknown_user_are_told_the_same(judge: Judge, method: Method) -> None:
    wrong = refused(judge, request(b"alice", "Wonderland", method))
    unknown = refused(judge, request(b"mallory", "wonderland", method))
    assert wrong.answer.reason == unknown.answer.reason == "auth-refused"
    assert masked(wrong.answer.message) == masked(unknown.answer.message)
    assert (wrong.detail, unknown.detail) == ("wrong password", "unknown user")
    if method.startswith("mschap"):
        assert wrong.answer.message.startswith(b"E=691 R=0 C=")
    assert len(judge.auth.leases) == 0


def masked(message: bytes) -> bytes:
    """The message without the random challenge in it."""
    return re.sub(rb"C=[0-9A-F]+", b"C=...", message)


def test_an_unknown_user_costs_the_same_work(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way to E=691 for a method that is allowed verifies one proof against one password of usual length."""
    calls: Counter[str] = Counter()
    kinds = set()

    def counting(method: AuthMethod, user: bytes, proof: Proof, password: str | bytes) -> AuthAccept | None:
        calls[user.decode()] += 1
        kinds.add(type(password))
        return verify(method, user, proof, password)

    monkeypatch.setattr("sstpfarm.auth.local.verify", counting)
    for user in (b"alice", b"mallory", b"off", b"home"):
        refused(judge, request(user, "wrong"))
    assert calls == {"alice": 1, "mallory": 1, "off": 1, "home": 1}
    assert kinds == {bytes}  # a hash that is there already, for everybody


def test_nobody_knows_the_password_of_nobody(judge: Judge) -> None:
    for password in ("", "nobody", "wonderland"):
        assert refused(judge, request(b"mallory", password, "pap")).detail == "unknown user"


def test_a_disabled_account_is_told_so_only_with_the_right_password(judge: Judge) -> None:
    right, wrong = refused(judge, request(b"off", "switched")), refused(judge, request(b"off", "wrong"))
    assert right.answer.message.startswith(b"E=647 R=0")
    assert wrong.answer.message.startswith(b"E=691 R=0")
    assert right.answer.reason == wrong.answer.reason == "auth-refused"


@pytest.mark.parametrize(
    ("caller_id", "comes_in"),
    [
        ("192.0.2.9:1", True),
        ("[::ffff:192.0.2.9]:1", True),
        ("198.51.100.7:1", False),
        ("[2001:db8::1]:1", False),
        ("nonsense", False),
    ],
)
def test_an_account_can_be_bound_to_where_it_calls_from(judge: Judge, caller_id: str, comes_in: bool) -> None:
    decision = judge.judge(0, request(b"home", "sweet", caller_id=caller_id))
    assert isinstance(decision, Granted) == comes_in
    if isinstance(decision, Denied):
        told = judge.text(request(b"home", "sweet"), decision)
        assert told.message.startswith(b"E=649 R=0")
        assert told.reason == "auth-refused"
    wrong = refused(judge, request(b"home", "wrong", caller_id=caller_id))
    assert wrong.answer.message.startswith(b"E=691 R=0")


def test_no_free_address_keeps_the_peer_out(judge: Judge) -> None:
    addresses = {
        granted(judge, request(b"alice", "wonderland", session=number)).answer.terms.remote_address
        for number in range(3)
    }
    assert addresses == {"10.20.0.2", "10.20.0.3", "10.20.0.4"}
    decision = refused(judge, request(b"alice", "wonderland", session=3))
    assert decision.answer.reason == "no-address"
    judge.auth.ledger.released(Holder(0, f"{1:016x}"), Counters(), Reason.PEER_DISCONNECT, opened=False)
    granted(judge, request(b"alice", "wonderland", session=4))


def test_a_fixed_address_serves_one_session(judge: Judge) -> None:
    assert granted(judge, request(b"fixed", "nailed", session=1)).answer.terms.remote_address == "10.20.0.77"
    assert refused(judge, request(b"fixed", "nailed", session=2)).answer.reason == "no-address"


def test_a_method_that_is_not_allowed_is_refused(tmp_path: Path) -> None:
    judge = Judge(tmp_path, view(methods=("mschap2",)))
    decision = refused(judge, request(b"alice", "wonderland", "pap"))
    assert (decision.answer.reason, decision.detail) == ("auth-refused", "method pap is not allowed")
    granted(judge, request(b"alice", "wonderland", "mschap2"))


def test_a_second_login_in_a_granted_session_is_a_violation(judge: Judge) -> None:
    granted(judge, request(b"alice", "wonderland"))
    with pytest.raises(LocalError, match="has a lease"):
        judge.judge(0, request(b"fixed", "nailed"))
    granted(judge, request(b"alice", "wonderland"), worker=1)  # the same number in another worker is another session


@pytest.mark.parametrize("method", PROVING)
@pytest.mark.parametrize("fields", [{}, {"value": b"x"}, {"challenge": b"x" * 255, "value": b"x" * 255}])
def test_values_of_wrong_length_are_refused(judge: Judge, method: Method, fields: dict[str, Any]) -> None:
    message = AccessRequest(session="0" * 16, user=b"alice", method=method, caller_id="x", mtu=1400, slot=0, **fields)
    assert refused(judge, message).detail == "wrong password"


def test_a_store_that_cannot_be_written_is_not_the_peers_fault(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(facts: SessionFacts) -> None:
        raise SystemRefusal("auth's store: database or disk is full")

    monkeypatch.setattr(judge.store, "add_session", full)
    decision = refused(judge, request(b"alice", "wonderland"))
    assert decision.answer.reason == "auth-unavailable"
    assert b"disk" not in decision.answer.message
    assert decision.detail == "auth's store: database or disk is full"
    assert len(judge.auth.leases) == 0


def test_a_rehearsal_leaves_nothing_behind(judge: Judge) -> None:
    judge.auth.rehearse()
    assert len(judge.auth.leases) == 0


def test_ipv6_is_offered_when_it_is_on(tmp_path: Path) -> None:
    for number, on in enumerate((True, False)):
        (tmp_path / str(number)).mkdir()
        judge = Judge(tmp_path / str(number), view(ipv6=on))
        identifier = granted(judge, request(b"alice", "wonderland")).answer.terms.ipv6_local
        assert (identifier is not None and len(identifier) == 8) == on


def test_asked_again_a_restarted_auth_grants_the_same_once(tmp_path: Path) -> None:
    """Auth died between its grant and its answer: the master takes an equal grant, and no other, for the same one."""
    message = request(b"alice", "wonderland")
    first = granted(Judge(tmp_path), message).grant
    profile = msgspec.structs.replace(view().profiles["default"], session_timeout=60)
    again = Judge(tmp_path, msgspec.structs.replace(view(), profiles={"default": profile}))
    again.auth.ledger.reconcile({message.session})
    assert granted(again, message).grant == first
    with pytest.raises(LocalError, match="has a lease"):
        again.judge(0, message)
    with pytest.raises(LocalError, match="has a lease"):
        Judge(tmp_path).judge(0, request(b"home", "sweet", caller_id="192.0.2.9:1"))
    assert session_identifier("0" * 16) != session_identifier("1" * 16)


def test_the_certificate_must_be_the_users_where_that_is_wanted(tmp_path: Path) -> None:
    judge = Judge(tmp_path, msgspec.structs.replace(view(), certificate_must_match=True))
    message = request(b"CORP\\alice", "wonderland")
    for names in ((), ("bob", "alice.example")):
        denied = refused(judge, msgspec.structs.replace(message, certificate_names=names))
        assert (denied.answer.reason, denied.detail) == ("auth-refused", "the client's certificate is another user's")
    granted(judge, msgspec.structs.replace(message, certificate_names=("bob", "alice")))


@pytest.mark.parametrize(
    ("user", "name"),
    [
        (b"alice", "alice"),
        (b"CORP\\alice", "alice"),
        (b"\\alice", "alice"),
        (b"EXACT\\alice", "EXACT\\alice"),
        (b"Alice", None),
        (b"alice@example.org", None),
        (b"", None),
        (b"\\", None),
    ],
)
def test_names(user: bytes, name: str | None) -> None:
    known = LocalBackend(view(), os.urandom).find(user)
    assert (known.name if known else None) == name


def test_a_name_with_a_domain_comes_in(judge: Judge) -> None:
    assert granted(judge, request(b"CORP\\alice", "wonderland")).grant.user == "alice"
