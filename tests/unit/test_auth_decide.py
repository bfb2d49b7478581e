"""Who comes in, with what, and what those who do not are told."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from sstpfarm.auth.decide import Granted, Judge, Refused, session_identifier
from sstpfarm.auth.leases import Holder, SqliteLeases, open_database
from sstpfarm.auth.secrets import find_user
from sstpfarm.config.fields import STRENGTH, Method
from sstpfarm.errors import LocalError, SystemRefusal
from sstpfarm.ipc.messages import AccessRequest
from sstpfarm.proto.ppp.verify import verify
from sstpfarm.proto.roles import AuthAccept, AuthMethod, Proof
from tests.unit.logins import request, view


@pytest.fixture
def leases(tmp_path: Path) -> Iterator[SqliteLeases]:
    settings = view()
    store = SqliteLeases(
        open_database(tmp_path, os.getuid(), os.getgid()), settings.pools, settings.reserved, lambda: 0.0
    )
    yield store
    store.close()


@pytest.fixture
def judge(leases: SqliteLeases) -> Judge:
    return Judge(view(), leases, os.urandom)


def granted(judge: Judge, message: AccessRequest, worker: int = 0) -> Granted:
    decision = judge.judge(worker, message)
    assert isinstance(decision, Granted)
    return decision


def refused(judge: Judge, message: AccessRequest) -> Refused:
    decision = judge.judge(0, message)
    assert isinstance(decision, Refused)
    return decision


@pytest.mark.parametrize("method", STRENGTH)
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


@pytest.mark.parametrize("method", STRENGTH)
def test_a_wrong_password_and_an_unknown_user_are_told_the_same(
    judge: Judge, leases: SqliteLeases, method: Method
) -> None:
    wrong = refused(judge, request(b"alice", "Wonderland", method))
    unknown = refused(judge, request(b"mallory", "wonderland", method))
    assert wrong.answer.reason == unknown.answer.reason == "auth-refused"
    assert masked(wrong.answer.message) == masked(unknown.answer.message)
    assert (wrong.detail, unknown.detail) == ("wrong password", "unknown user")
    if method.startswith("mschap"):
        assert wrong.answer.message.startswith(b"E=691 R=0 C=")
    assert len(leases) == 0


def masked(message: bytes) -> bytes:
    """The message without the random challenge in it."""
    return re.sub(rb"C=[0-9A-F]+", b"C=...", message)


def test_an_unknown_user_costs_the_same_work(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way to E=691 for a method that is allowed verifies one proof against one password of usual length."""
    calls: Counter[str] = Counter()
    lengths = []

    def counting(method: AuthMethod, user: bytes, proof: Proof, password: str) -> AuthAccept | None:
        calls[user.decode()] += 1
        lengths.append(len(password))
        return verify(method, user, proof, password)

    monkeypatch.setattr("sstpfarm.auth.decide.verify", counting)
    for user in (b"alice", b"mallory", b"off", b"home"):
        refused(judge, request(user, "wrong"))
    assert calls == {"alice": 1, "mallory": 1, "off": 1, "home": 1}
    # up to 27 UTF-16 code units are one block of MD4 (64 bytes less 9 of padding): equal work
    assert max(lengths) <= 27


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
    if isinstance(decision, Refused):
        assert decision.answer.message.startswith(b"E=649 R=0")
        assert decision.answer.reason == "auth-refused"
    wrong = refused(judge, request(b"home", "wrong", caller_id=caller_id))
    assert wrong.answer.message.startswith(b"E=691 R=0")


def test_no_free_address_keeps_the_peer_out(judge: Judge, leases: SqliteLeases) -> None:
    addresses = {
        granted(judge, request(b"alice", "wonderland", session=number)).answer.terms.remote_address
        for number in range(3)
    }
    assert addresses == {"10.20.0.2", "10.20.0.3", "10.20.0.4"}
    decision = refused(judge, request(b"alice", "wonderland", session=3))
    assert decision.answer.reason == "no-address"
    leases.release(Holder(0, f"{1:016x}"))
    granted(judge, request(b"alice", "wonderland", session=4))


def test_a_fixed_address_serves_one_session(judge: Judge) -> None:
    assert granted(judge, request(b"fixed", "nailed", session=1)).answer.terms.remote_address == "10.20.0.77"
    assert refused(judge, request(b"fixed", "nailed", session=2)).answer.reason == "no-address"


def test_a_method_that_is_not_allowed_is_refused(leases: SqliteLeases) -> None:
    judge = Judge(view(methods=("mschap2",)), leases, os.urandom)
    decision = refused(judge, request(b"alice", "wonderland", "pap"))
    assert (decision.answer.reason, decision.detail) == ("auth-refused", "method pap is not allowed")
    granted(judge, request(b"alice", "wonderland", "mschap2"))


def test_a_second_login_in_a_granted_session_is_a_violation(judge: Judge) -> None:
    granted(judge, request(b"alice", "wonderland"))
    with pytest.raises(LocalError, match="has a lease"):
        judge.judge(0, request(b"fixed", "nailed"))
    granted(judge, request(b"alice", "wonderland"), worker=1)  # the same number in another worker is another session


@pytest.mark.parametrize("method", STRENGTH)
@pytest.mark.parametrize("fields", [{}, {"value": b"x"}, {"challenge": b"x" * 255, "value": b"x" * 255}])
def test_values_of_wrong_length_are_refused(judge: Judge, method: Method, fields: dict[str, Any]) -> None:
    message = AccessRequest(session="0" * 16, user=b"alice", method=method, caller_id="x", mtu=1400, slot=0, **fields)
    assert refused(judge, message).detail == "wrong password"


def test_leases_that_cannot_be_written_are_not_the_peers_fault() -> None:
    class Broken:
        def acquire(self, holder: Holder, user: str, *, pool: str = "", address: str = "") -> IPv4Address | None:
            raise SystemRefusal("leases cannot be written: disk full")

        def release(self, holder: Holder) -> None: ...

        def reconcile(self, live: object) -> int:
            return 0

    decision = refused(Judge(view(), Broken(), os.urandom), request(b"alice", "wonderland"))
    assert decision.answer.reason == "auth-unavailable"
    assert b"disk full" not in decision.answer.message
    assert decision.detail == "leases cannot be written: disk full"


def test_a_rehearsal_leaves_nothing_behind(judge: Judge, leases: SqliteLeases) -> None:
    judge.rehearse()
    assert len(leases) == 0


def test_ipv6_is_offered_when_it_is_on(leases: SqliteLeases) -> None:
    on = granted(Judge(view(), leases, os.urandom), request(b"alice", "wonderland", session=1)).answer.terms
    off = granted(Judge(view(ipv6=False), leases, os.urandom), request(b"alice", "wonderland", session=2)).answer.terms
    assert on.ipv6_local is not None
    assert len(on.ipv6_local) == 8
    assert off.ipv6_local is None


def test_asked_again_a_restarted_auth_grants_the_same(tmp_path: Path) -> None:
    """Auth died between its grant and its answer: the master takes an equal grant, and no other, for the same one."""
    message, grants = request(b"alice", "wonderland"), []
    for _ in range(2):
        database = open_database(tmp_path, os.getuid(), os.getgid())
        leases = SqliteLeases(database, view().pools, view().reserved, lambda: 0.0)
        leases.reconcile({message.session})
        grants.append(granted(Judge(view(), leases, os.urandom), message).grant)
        leases.close()
    assert grants[0] == grants[1]
    assert session_identifier("0" * 16) != session_identifier("1" * 16)


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
    known = find_user(view().accounts, user)
    assert (known.name if known else None) == name


def test_a_name_with_a_domain_comes_in(judge: Judge) -> None:
    assert granted(judge, request(b"CORP\\alice", "wonderland")).grant.user == "alice"
