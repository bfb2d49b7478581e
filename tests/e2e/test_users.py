"""Users that come and go while the farm runs, what they may, and the books that are kept of them.

+-- client ----------------+           +-- server ---------------------------------+
| raw peers   10.99.1.2    |---veth----| sstpfarm serve, secrets.d, user, reload    |
+--------------------------+           +--------------------------------------------+
"""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from .farm import PASSWORD, Farm, running
from .frames import ACK, DISCONNECT, LCP, NAK, PAP, TERM_REQ, Packet
from .netns import PATIENCE, Wire, until, wired
from .rawpeer import RawPeer, tls_peer

FIXED = "10.20.14.7"


@pytest.fixture(scope="module")
def farm(wire: Wire) -> Iterator[Farm]:
    """A farm with drop-in files, short intervals, a strict throttle of its own user and network."""
    with running(
        wire.server,
        server={"authentication": ["pap"], "failure-delay-s": 0.1},
        auth={"secrets-directory": "secrets.d", "failures-per-minute": 0},
        tables={"accounting": {"interim-interval": 1}},
        pools={"tiny": {"ranges": ["10.21.0.1-10.21.0.3"], "exclude": ["10.21.0.2"], "next-pool": "more"},
               "more": {"ranges": ["10.22.0.1"]}},
        secrets={
            "one": {"password": PASSWORD, "only-one": "replace", "remote-address": FIXED},
            "deny": {"password": PASSWORD, "only-one": "deny"},
            "two": {"password": PASSWORD, "port-limit": 2},
            "tiny": {"password": PASSWORD, "remote-address": "pool:tiny"},
        },
    ) as made:  # fmt: skip
        yield made


def opened(farm: Farm, user: str) -> dict[str, Any]:
    """The session of a user in `show sessions`."""
    found = [session for session in farm.sessions() if session["user"] == user]
    assert len(found) == 1, found
    return found[0]


def refused(wire: Wire, farm: Farm, user: str, password: str = PASSWORD) -> str:
    """The reason for which a login by PAP is refused."""
    mark = farm.log.mark()
    with tls_peer(wire.client, wire.SERVER4) as peer:
        to_pap(peer)
        peer.send_pap(user, password)
        assert peer.frame(PAP).code == NAK
        peer.answer_disconnect()
        return str(farm.wait_event("login.refused", mark, peer=peer.peer)["reason"])


def is_answer_or_end(came: Packet) -> bool:
    """Whether it answers PAP, or ends the link before it is answered (RFC 1661 3.7)."""
    return came.protocol == PAP or (came.protocol, came.code) == (LCP, TERM_REQ)


def ended_in_order(peer: RawPeer) -> None:
    """Assert that the server ends the call, although the peer acknowledges nothing."""
    packets, how = peer.packets_until_end()
    assert [came.status for came in packets if came.kind == DISCONNECT] == [0], packets
    assert how == "close-notify"


def to_pap(peer: RawPeer) -> None:
    """Everything before the authentication."""
    peer.open_http()
    peer.call_connect()
    peer.open_lcp("pap")


def history(farm: Farm, user: str) -> list[dict[str, Any]]:
    """What `show history` tells of a user, the last session first."""
    found = json.loads(farm.cli("show", "history", "--json", "--user", user).stdout)
    assert isinstance(found, list)
    return found


def add(farm: Farm, name: str, *options: str) -> str:
    """`sstpfarm user add` with the common password; what it says."""
    password = farm.directory / "new.pw"
    password.write_text(PASSWORD + "\n")
    return farm.cli("user", "add", name, "--password-file", str(password), *options).stdout


@pytest.mark.parity("ros-ppp/name-password", "ros-ppp/comment")
def test_a_user_comes_and_goes_while_the_farm_runs(wire: Wire, farm: Farm) -> None:
    assert refused(wire, farm, "dave") == "auth-refused"
    assert re.fullmatch(
        r"written; the farm has \d+ users now\n", add(farm, "dave", "--hash", "argon2id", "--comment", "on the road")
    )
    listed = json.loads(farm.cli("user", "list", "--json").stdout)
    assert [user["comment"] for user in listed if user["user"] == "dave"] == ["on the road"]
    with tls_peer(wire.client, wire.SERVER4) as peer:
        peer.open_session("dave")
        session = opened(farm, "dave")
        farm.cli("user", "del", "dave")
        peer.answer_disconnect()
        assert farm.wait_event("session.closed", session=session["session"])["reason"] == "admin-reset"
    assert refused(wire, farm, "dave") == "auth-refused"
    farm.idle()


@pytest.mark.parity("ros-ppp/disabled")
def test_a_user_who_is_disabled_by_a_reload_is_out(wire: Wire, farm: Farm) -> None:
    add(farm, "erin")
    file = farm.secrets / "erin.toml"
    with tls_peer(wire.client, wire.SERVER4) as peer:
        peer.open_session("erin")
        file.write_text(file.read_text() + "disabled = true\n")
        mark = farm.log.mark()
        farm.process.send_signal(signal.SIGHUP)
        farm.wait_event("config.reloaded", mark)
        peer.answer_disconnect()
    assert refused(wire, farm, "erin") == "auth-refused"
    farm.cli("user", "del", "erin")
    farm.idle()


def test_a_half_written_file_changes_nothing(wire: Wire, farm: Farm) -> None:
    add(farm, "frank")
    half = farm.secrets / "half.toml"
    half.touch(0o600)
    half.write_text('[secret.grace]\npassword = "x')
    try:
        mark = farm.log.mark()
        farm.process.send_signal(signal.SIGHUP)
        assert farm.wait_event("config.refused", mark)["faults"] == [f"{half}:2: not TOML: Unterminated string"]
        done = farm.cli("reload", check=False)
        assert (done.returncode, f"{half}:2: not TOML" in done.stderr) == (78, True)
        with tls_peer(wire.client, wire.SERVER4) as peer:  # the users of before
            peer.open_session("frank")
            assert peer.ping()
            peer.disconnect()
    finally:
        half.unlink()
    farm.cli("user", "del", "frank")
    farm.idle()


@pytest.mark.parity("ros-ppp/only-one", "ros-ppp/remote-address")
def test_the_last_login_replaces_the_one_before_and_takes_its_address(wire: Wire, farm: Farm) -> None:
    with tls_peer(wire.client, wire.SERVER4) as old, tls_peer(wire.client, wire.SERVER4) as new:
        old.open_session("one")
        assert old.address == FIXED
        first = opened(farm, "one")
        to_pap(new)
        new.send_pap("one")
        old.answer_disconnect()
        assert new.frame(PAP).code == ACK
        new.send(new.call_connected())
        new.open_ipcp()
        assert new.address == FIXED
        assert new.ping()
        assert farm.wait_event("session.closed", session=first["session"])["reason"] == "replaced"
        new.disconnect()
    farm.idle()


@pytest.mark.parity("ros-ppp/only-one")
def test_of_many_logins_at_once_one_is_left(wire: Wire, farm: Farm) -> None:
    """SECURITY 19, where the first to come in is as a client that lost its network: it acknowledges no end."""
    mark = farm.log.mark()
    with ExitStack() as held:
        peers = [held.enter_context(tls_peer(wire.client, wire.SERVER4)) for _ in range(12)]
        for peer in peers:
            to_pap(peer)
        for peer in peers:
            peer.send_pap("one")
        accepted, refused = {}, 0
        for peer in peers:
            answer = peer.expect(is_answer_or_end)
            if (answer.protocol, answer.code) == (PAP, ACK):
                accepted[peer.peer] = peer
            else:
                refused += answer.protocol == PAP
                ended_in_order(peer)
        # all but the first, who has the address at once, and the last; the first may be replaced before it is answered
        assert (refused, len(accepted)) in ((10, 2), (10, 1))
        winner = accepted.pop(farm.log.find("login.accepted", mark, user="one")[-1]["peer"])
        for peer in accepted.values():
            ended_in_order(peer)
        winner.send(winner.call_connected())
        assert winner.open_ipcp() == FIXED
        assert winner.ping()
        assert opened(farm, "one")["caller_id"] == winner.peer
        reasons = {event["reason"] for event in farm.log.find("connection.refused", mark)}
        assert reasons == {"replaced"}
        winner.disconnect()
    farm.idle()


@pytest.mark.parity("ros-ppp/only-one")
def test_a_second_login_is_denied(wire: Wire, farm: Farm) -> None:
    with tls_peer(wire.client, wire.SERVER4) as peer:
        peer.open_session("deny")
        assert refused(wire, farm, "deny") == "already-connected"
        assert peer.ping()
        peer.disconnect()
    farm.idle()
    with tls_peer(wire.client, wire.SERVER4) as peer:
        peer.open_session("deny")
        peer.disconnect()
    farm.idle()


def test_a_user_has_as_many_sessions_as_the_limit_says(wire: Wire, farm: Farm) -> None:
    with tls_peer(wire.client, wire.SERVER4) as one, tls_peer(wire.client, wire.SERVER4) as two:
        one.open_session("two")
        two.open_session("two")
        assert refused(wire, farm, "two") == "already-connected"
        one.disconnect()
        two.disconnect()
    farm.idle()


def test_an_account_expires_under_a_running_session(wire: Wire, farm: Farm) -> None:
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    add(farm, "heidi", "--expires", later)
    file = farm.secrets / "heidi.toml"
    text = file.read_text()
    assert later in text
    moment = datetime.now(UTC) + timedelta(seconds=4)  # for a reload and a login
    file.write_text(text.replace(later, moment.isoformat()))
    mark = farm.log.mark()
    farm.process.send_signal(signal.SIGHUP)
    farm.wait_event("config.reloaded", mark)
    with tls_peer(wire.client, wire.SERVER4) as peer:
        peer.open_session("heidi")
        peer.answer_disconnect()
        assert 0 <= (datetime.now(UTC) - moment).total_seconds() < 3
        assert farm.wait_event("session.closed", user="heidi")["reason"] == "expired"
    assert refused(wire, farm, "heidi") == "expired"
    farm.cli("user", "del", "heidi")
    farm.idle()


@pytest.mark.parity("ros-ppp/pool")
def test_pools_have_holes_followers_and_a_display(wire: Wire, farm: Farm) -> None:
    def use() -> dict[str, int]:
        found = json.loads(farm.cli("show", "pools", "--json").stdout)
        return {pool["pool"]: pool["used"] for pool in found if pool["pool"] != "main"}

    with ExitStack() as held:
        peers = [held.enter_context(tls_peer(wire.client, wire.SERVER4)) for _ in range(3)]
        for peer in peers:
            peer.open_session("tiny")
        assert [peer.address for peer in peers] == ["10.21.0.1", "10.21.0.3", "10.22.0.1"]
        assert refused(wire, farm, "tiny") == "no-address"
        until(lambda: use() == {"tiny": 2, "more": 1}, "the use of the pools is shown")
        until(lambda: farm.metric("sstpfarm_pool_addresses", pool="tiny", state="used") == 2, "the metric says so")
        assert farm.metric("sstpfarm_pool_addresses", pool="more", state="free") == 0
        for peer in peers:
            peer.disconnect()
    farm.idle()
    until(lambda: use() == {"tiny": 0, "more": 0}, "the pools are free")


def test_who_comes_back_gets_the_address_of_before(wire: Wire, farm: Farm) -> None:
    addresses: dict[str, set[str]] = {"user1": set(), "user2": set()}
    for user in ("user1", "user2", "user1", "user2"):
        with tls_peer(wire.client, wire.SERVER4) as peer:
            peer.open_session(user)
            addresses[user].add(peer.address)
            peer.disconnect()
        farm.idle()
    assert [len(found) for found in addresses.values()] == [1, 1]
    assert addresses["user1"] != addresses["user2"]


def test_the_history_has_each_session_once_with_what_it_carried(wire: Wire, farm: Farm) -> None:
    before = len(history(farm, "user3"))
    with tls_peer(wire.client, wire.SERVER4) as peer:
        peer.open_session("user3")
        for _ in range(3):
            assert peer.ping()
        peer.disconnect()
        name = peer.peer
    farm.idle()
    until(lambda: len(history(farm, "user3")) == before + 1, "the session is in the history")
    found = history(farm, "user3")[0]
    closed = farm.wait_event("session.closed", session=found["session"])
    assert (found["caller_id"], found["address"], found["method"]) == (name, peer.address, "pap")
    assert (found["packets_in"], found["packets_out"]) == (3, 3)
    assert (found["bytes_in"], found["bytes_out"]) == (closed["bytes_in"], closed["bytes_out"])
    assert found["reason"] == closed["reason"] == "peer-terminated"
    assert found["started_at"] <= found["ended_at"]
    table = farm.cli("show", "history", "--user", "user3", "--since", "1h").stdout
    assert len(table.splitlines()) == before + 2


def test_the_books_go_on_when_auth_is_killed(wire: Wire, farm: Farm) -> None:
    before = len(history(farm, "user4"))
    with tls_peer(wire.client, wire.SERVER4) as stays, tls_peer(wire.client, wire.SERVER4) as ends:
        stays.open_session("user4")
        ends.open_session("user4")
        mark = farm.log.mark()
        os.kill(farm.auth_pid(), signal.SIGKILL)
        ends.disconnect()  # while nobody keeps books
        farm.wait_event("auth.ready", mark)
        assert stays.ping()
        until(lambda: len(history(farm, "user4")) == before + 1, "the one that ended is in the history")
        stays.disconnect()
    farm.idle()
    until(lambda: len(history(farm, "user4")) == before + 2, "both are in the history")
    found = history(farm, "user4")[:2]
    assert {row["packets_in"] for row in found} == {0, 1}
    assert {row["reason"] for row in found} == {"peer-terminated"}
    assert len({row["session"] for row in found}) == 2


def test_no_session_is_lost_or_doubled_in_the_books_while_auth_is_killed_again_and_again(
    wire: Wire, farm: Farm
) -> None:
    """Logins wait for the next auth process; ends that nobody heard are closed by it."""
    mark = farm.log.mark()
    kills = 0
    with ExitStack() as held:
        live: list[RawPeer] = []
        for number in range(16):
            peer = held.enter_context(tls_peer(wire.client, wire.SERVER4))
            if number % 8 == 2:  # the login meets a dead auth process
                os.kill(farm.auth_pid(), signal.SIGKILL)
                kills += 1
            peer.open_session("user2")
            live.append(peer)
            if len(live) > 3:
                live.pop(0).disconnect()
        for peer in live:
            peer.disconnect()
    farm.idle()
    assert len(farm.log.find("auth.lost", mark)) == kills == 2
    closed = [event["session"] for event in farm.log.find("session.closed", mark, user="user2")]
    assert len(closed) == len(set(closed)) == 16

    def kept() -> list[str]:
        return [row["session"] for row in history(farm, "user2") if row["session"] in closed]

    until(lambda: len(kept()) >= 16, "all sessions are in the history")
    assert sorted(kept()) == sorted(closed)
    addresses = [row["address"] for row in history(farm, "user2") if row["session"] in closed]
    assert len(set(addresses)) >= 4  # four at once, and each had its own


@pytest.mark.parity("ros-ppp/caller-id")
def test_an_account_may_name_several_places_to_call_from(wire: Wire, farm: Farm) -> None:
    add(farm, "ivan")
    file = farm.secrets / "ivan.toml"
    text = file.read_text()
    for places, comes_in in ((["192.0.2.0/24", "10.99.1.2"], True), (["192.0.2.0/24", "10.99.1.3"], False)):
        file.write_text(text + f"caller-id = {json.dumps(places)}\n")
        farm.cli("reload")
        if comes_in:
            with tls_peer(wire.client, wire.SERVER4) as peer:
                peer.open_session("ivan")
                peer.disconnect()
        else:
            assert refused(wire, farm, "ivan") == "auth-refused"
    farm.cli("user", "del", "ivan")
    farm.idle()


def test_a_killed_farm_leaves_books_that_the_next_one_closes_and_guessing_is_slow() -> None:
    settings: dict[str, Any] = {
        "server": {"authentication": ["pap"], "workers": 1, "failure-delay-s": 0.1},
        "tables": {"accounting": {"interim-interval": 1}},
    }
    with wired() as wire, running(wire.server, orderly=False, **settings) as farm:
        with tls_peer(wire.client, wire.SERVER4) as peer:
            peer.open_session("user1")
            for _ in range(4):
                assert peer.ping()

            def kept() -> int:
                with closing(sqlite3.connect(farm.state / "auth" / "auth.sqlite3")) as database:
                    return int(database.execute("SELECT coalesce(max(packets_in), 0) FROM session").fetchone()[0])

            until(lambda: kept() == 4, "an interim was kept")
            session = opened(farm, "user1")
            farm.process.kill()
            farm.process.wait(PATIENCE)
            peer.rest()
        with running(wire.server, state=farm.state, auth={"failures-per-minute": 1}, **settings) as again:
            again.links_before, again.routes_before = farm.links_before, farm.routes_before
            (found,) = history(again, "user1")
            assert (found["session"], found["reason"], found["packets_in"]) == (session["session"], "worker-lost", 4)
            assert refused(wire, again, "user1", "wrong") == "auth-refused"
            with tls_peer(wire.client, wire.SERVER4) as peer:
                peer.open_session("user1")
                peer.disconnect()
            assert refused(wire, again, "mallory", "wrong") == "auth-refused"
            # now the right password is refused too, in the same words, but not for who has come from here before
            assert refused(wire, again, "user2") == "auth-refused"
            assert refused(wire, again, "mallory", "wrong") == "auth-refused"
            with tls_peer(wire.client, wire.SERVER4) as peer:
                peer.open_session("user1")
                peer.disconnect()
            again.idle()
            details = [event["detail"] for event in again.log.find("login.denied")]
            assert details[:2] == ["wrong password", "unknown user"]
            assert all(re.fullmatch(r"too many failures: refused for \d+ s more", detail) for detail in details[2:])
            assert len(details) == 4
            assert len(history(again, "user1")) == 3
