"""Termination-Action = RADIUS-Request against a real FreeRADIUS: at the end of its time a session is authenticated
once more, and goes on.

client --tunnel--> sstp... 10.20.0.1 [server namespace: farm, FreeRADIUS on lo]
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sstpfarm.reasons import ExitCode

from .client import TRUST_ANY, connecting
from .farm import GATEWAY, Farm, running
from .frames import CHAP
from .freeradius import SECRET, FreeRadius, radclient
from .netns import Wire, until
from .rawpeer import RawPeer, tls_peer

PASSWORD = "radius pass"
PERIOD = 2  # seconds
AGAIN = [f"Session-Timeout = {PERIOD}", "Termination-Action = RADIUS-Request"]
USERS: dict[str, tuple[str, list[str]]] = {
    "rita": (PASSWORD, [*AGAIN, 'Class = "first"', "Port-Limit = 1"]),
    "moved": (PASSWORD, [*AGAIN, "Framed-IP-Address = 10.30.0.9"]),
    "bounded": (PASSWORD, [*AGAIN, 'Filter-Id = "staff"']),
    "ordered": (PASSWORD, []),
}


@pytest.fixture(scope="module")
def farm(wire: Wire, radius: FreeRadius) -> Iterator[Farm]:
    with running(
        wire.server,
        server={
            "authentication": ["eap", "mschap2", "mschap1", "chap", "pap"],
            "failure-delay-s": 0.1,
            "authentication-deadline-s": 4.0,
        },
        auth={"backends": ["local", "radius"]},
        tables={
            "radius": {
                "coa": {"listen": "127.0.0.1:3799", "client": [{"address": "127.0.0.1", "secret": SECRET}]},
                "server": [{"address": "127.0.0.1", "secret": SECRET, "message-authenticator": "require"}],
            }
        },
    ) as made:
        yield made


@pytest.fixture(autouse=True)
def _users(radius: FreeRadius) -> Iterator[None]:
    yield
    radius.change_users(USERS)


def statuses(radius: FreeRadius, session: str) -> list[str]:
    return [record["Acct-Status-Type"] for record in radius.records(Acct_Session_Id=session)]


def stop_of(radius: FreeRadius, session: str) -> dict[str, str]:
    """The one Stop, awaited; there was one Start."""
    until(lambda: "Stop" in statuses(radius, session), "the Stop is there")
    assert statuses(radius, session) == ["Start", "Stop"]
    return radius.records(Acct_Session_Id=session)[-1]


def renewals(farm: Farm, session: str) -> int:
    return len(farm.log.find("session.reauthenticated", session=session))


@contextmanager
def rita(wire: Wire, farm: Farm) -> Iterator[tuple[RawPeer, str]]:
    """A raw peer who has logged in with CHAP, and its session."""
    mark = farm.log.mark()
    with tls_peer(wire.client, wire.SERVER4) as peer:
        peer.open_http()
        peer.call_connect()
        peer.open_lcp("chap")
        peer.answer_md5("rita", PASSWORD)
        peer.send(peer.call_connected())
        peer.open_ipcp()
        yield peer, farm.wait_event("session.opened", mark)["session"]


@pytest.mark.parametrize("method", ["chap", "mschap1", "mschap2", "eap"])
def test_a_session_lives_on_until_its_user_is_refused(wire: Wire, farm: Farm, radius: FreeRadius, method: str) -> None:
    """Three periods and more, with a ping all the time of which none is lost; then the user is gone."""
    mark = farm.log.mark()
    with connecting(
        wire.client, wire.SERVER4, *TRUST_ANY, "--no-default-route", "--authentication", method,
        user="rita", password=PASSWORD,
    ) as client:  # fmt: skip
        client.up()
        session = farm.wait_event("session.opened", mark)["session"]
        said = wire.client.run("ping", "-q", "-c", "190", "-i", "0.05", "-W", "10", GATEWAY).stdout
        assert "190 packets transmitted, 190 received" in said, said
        until(lambda: renewals(farm, session) >= 3, "it has logged in again three times")
        (shown,) = farm.sessions()
        assert shown["session"] == session
        assert shown["uptime_s"] > 3 * PERIOD
        radius.change_users({})
        code, closed = client.end()
    assert (code, closed["reason"]) == (ExitCode.AUTHENTICATION, "auth-refused"), closed
    assert farm.wait_event("session.closed", session=session)["reason"] == "auth-refused"
    stop = stop_of(radius, session)
    assert stop["Acct-Terminate-Cause"] == "Reauthentication-Failure"
    assert stop["Class"] == "0x6669727374"
    asked = radius.requests(Acct_Session_Id=session)
    assert {request["User-Name"] for request in asked} == {"rita"}
    done = renewals(farm, session)
    # of EAP-MSCHAPv2 identity, response and confirmation, at the end the first two: there is no password for him
    assert len(asked) == (3 * (1 + done) + 2 if method == "eap" else 1 + done + 1)
    refused = farm.log.find("login.denied", session=session)
    assert len(refused) == 1
    farm.idle()


def test_pap_ends(wire: Wire, farm: Farm, radius: FreeRadius) -> None:
    """Only the peer can begin PAP, and nobody keeps its password."""
    mark = farm.log.mark()
    with connecting(
        wire.client, wire.SERVER4, *TRUST_ANY, "--no-default-route", "--authentication", "pap",
        user="rita", password=PASSWORD,
    ) as client:  # fmt: skip
        client.up()
        session = farm.wait_event("session.opened", mark)["session"]
        code, _ = client.end()
    assert code == ExitCode.OK
    stop = stop_of(radius, session)
    assert stop["Acct-Terminate-Cause"] == "Session-Timeout"
    assert int(stop["Acct-Session-Time"]) in range(PERIOD, PERIOD + 3)
    assert len(radius.requests(Acct_Session_Id=session)) == 1
    farm.idle()


def test_a_new_grant_holds(wire: Wire, farm: Farm, radius: FreeRadius) -> None:
    """Its set is another one, its Class too, and its time is up for good: without Termination-Action it ends."""
    mark = farm.log.mark()
    with connecting(
        wire.client, wire.SERVER4, *TRUST_ANY, "--no-default-route", user="bounded", password=PASSWORD
    ) as client:
        client.up()
        opened = farm.wait_event("session.opened", mark)

        def in_set(name: str) -> bool:
            listed = wire.server.run("nft", "list", "set", "inet", "sstpfarm", name, check=False).stdout
            return opened["address"] in listed

        assert in_set("staff")
        reply = [f"Session-Timeout = {PERIOD}", 'Filter-Id = "guests"', 'Class = "second"']
        radius.change_users({"bounded": (PASSWORD, reply)})
        until(lambda: in_set("guests") and not in_set("staff"), "the address is in the other set")
        assert wire.client.ping(GATEWAY)
        client.end()
    assert farm.wait_event("session.closed", session=opened["session"])["reason"] == "session-timeout"
    stop = stop_of(radius, opened["session"])
    assert (stop["Acct-Terminate-Cause"], stop["Class"]) == ("Session-Timeout", "0x7365636f6e64")
    periods = 1 + renewals(farm, opened["session"])
    assert int(stop["Acct-Session-Time"]) in range(periods * PERIOD, periods * (PERIOD + 1) + 2)
    farm.idle()


def test_another_address_ends_the_session(wire: Wire, farm: Farm, radius: FreeRadius) -> None:
    """IPCP cannot be had again on an open link: the client is let go, and would dial anew."""
    mark = farm.log.mark()
    with connecting(
        wire.client, wire.SERVER4, *TRUST_ANY, "--no-default-route", user="moved", password=PASSWORD
    ) as client:
        assert client.up()["local_address"] == "10.30.0.9"
        session = farm.wait_event("session.opened", mark)["session"]
        radius.change_users({"moved": (PASSWORD, [*AGAIN, "Framed-IP-Address = 10.30.0.10"])})
        code, _ = client.end()
    assert code == ExitCode.OK
    assert farm.wait_event("session.moved", session=session)["what"] == "remote_address"
    assert stop_of(radius, session)["Acct-Terminate-Cause"] == "Session-Timeout"
    farm.idle()


def test_a_peer_that_does_not_answer(wire: Wire, farm: Farm, radius: FreeRadius) -> None:
    """It is pinged through all the time that it has, `authentication-deadline-s`; then it ends."""
    with rita(wire, farm) as (peer, session):
        challenge = peer.frame(CHAP, 1)
        assert peer.ping()
        assert peer.frame(CHAP, 1) == challenge  # repeated after 3 s
        peer.answer_disconnect()
    assert farm.wait_event("session.closed", session=session)["reason"] == "auth-timeout"
    assert stop_of(radius, session)["Acct-Terminate-Cause"] == "Reauthentication-Failure"
    farm.idle()


def test_orders_while_the_peer_is_asked(wire: Wire, farm: Farm, radius: FreeRadius) -> None:
    """A CoA-Request holds until the new grant does; a Disconnect-Request ends the session, and is the reason."""
    with rita(wire, farm) as (peer, session):
        who = f'Acct-Session-Id = "{session}"'
        peer.put_back(peer.frame(CHAP, 1))
        said = radclient(wire.server, "127.0.0.1:3799", "coa", [who, "Session-Timeout = 600", 'Class = "ordered"'])
        assert "CoA-ACK" in said
        assert peer.answer_md5("rita", PASSWORD).code == 3
        farm.wait_event("session.reauthenticated", session=session)
        peer.frame(CHAP, 1)  # after the time of the grant, not that of the order
        assert "Disconnect-ACK" in radclient(wire.server, "127.0.0.1:3799", "disconnect", [who])
        peer.answer_disconnect()
    assert farm.wait_event("session.closed", session=session)["reason"] == "admin-reset"
    stop = stop_of(radius, session)
    assert (stop["Acct-Terminate-Cause"], stop["Class"]) == ("Admin-Reset", "0x6669727374")
    assert farm.log.find("login.denied", session=session) == []
    farm.idle()


def test_another_name(wire: Wire, farm: Farm, radius: FreeRadius) -> None:
    """Its password is right, but the session is another user's."""
    with rita(wire, farm) as (peer, session):
        assert peer.answer_md5("bounded", PASSWORD).code == 4
        peer.answer_disconnect()
    assert farm.wait_event("session.closed", session=session)["reason"] == "auth-refused"
    said = farm.log.find("login.denied", session=session)[0]["detail"]
    assert re.search("that of rita .*, not of bounded", said), said
    farm.idle()


def test_an_order_brings_it_too(wire: Wire, farm: Farm, radius: FreeRadius) -> None:
    """RFC 5176 3.6: Session-Timeout and Termination-Action in a CoA-Request."""
    mark = farm.log.mark()
    with connecting(
        wire.client, wire.SERVER4, *TRUST_ANY, "--no-default-route", user="ordered", password=PASSWORD
    ) as client:
        client.up()
        session = farm.wait_event("session.opened", mark)["session"]
        who = f'Acct-Session-Id = "{session}"'
        said = radclient(wire.server, "127.0.0.1:3799", "coa", [who, "Session-Timeout = 1", "Termination-Action = 1"])
        assert "CoA-ACK" in said
        farm.wait_event("session.reauthenticated", session=session)
        # the grant has neither: the session has no end any more
        assert wire.client.ping(GATEWAY)
        client.stop()
    assert stop_of(radius, session)["Acct-Terminate-Cause"] == "User-Request"
    farm.idle()
