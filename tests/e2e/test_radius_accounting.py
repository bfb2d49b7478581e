"""Accounting in a real FreeRADIUS's detail file: counters, causes, interims, and what waits while it is away.

client --tunnel--> sstp... 10.20.0.1 [server namespace: farm, FreeRADIUS on lo, nftables counters on sstp...]
"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from .client import TRUST_ANY, connected, connecting
from .farm import GATEWAY, Farm, running
from .farm import PASSWORD as LOCAL_PASSWORD
from .freeradius import SECRET, FreeRadius, freeradius
from .netns import Wire, until

PASSWORD = "radius pass"
USERS = {
    "rita": (PASSWORD, ['Class = "first"', 'Class += "second"', 'User-Name = "rita@corp"']),
    "short": (PASSWORD, ["Session-Timeout = 1"]),
    "still": (PASSWORD, ["Idle-Timeout = 1"]),
}
COUNT = """
table inet independent {
    chain in { type filter hook input priority -400; iifname "sstp*" counter; }
    chain out { type filter hook output priority 400; oifname "sstp*" counter; }
}
"""


@pytest.fixture(scope="module")
def radius(wire: Wire) -> Iterator[FreeRadius]:
    """FreeRADIUS beside the farm."""
    with freeradius(wire.server, USERS) as server:
        yield server


@pytest.fixture(scope="module")
def farm(wire: Wire, radius: FreeRadius) -> Iterator[Farm]:
    """A farm that accounts to it; after its end the books are closed too.

    Without IPv6: its multicast from before the gate opens would be counted by nftables and not by the session.
    """
    with running(
        wire.server,
        server={"ipv6": False},
        auth={"backends": ["local", "radius"]},
        tables={
            "accounting": {"interim-interval": 2},
            "radius": {
                "server": [
                    {
                        "address": "127.0.0.1",
                        "secret": SECRET,
                        "timeout-s": 0.5,
                        "retries": 0,
                        "dead-time-s": 0.5,
                    }
                ],
            },
        },
    ) as made:
        yield made
    (off,) = radius.records(Acct_Status_Type="Accounting-Off")
    assert off["NAS-Identifier"] == "sstpfarm"
    statuses = [record["Acct-Status-Type"] for record in radius.records()]
    assert statuses[0] == "Accounting-On"
    assert statuses[-1] == "Accounting-Off"


def record_of(radius: FreeRadius, session: str, status: str) -> dict[str, str]:
    """The one record of a session with that status, awaited."""
    until(lambda: radius.records(Acct_Session_Id=session, Acct_Status_Type=status), f"{status} of {session}")
    (record,) = radius.records(Acct_Session_Id=session, Acct_Status_Type=status)
    return record


def independent(wire: Wire) -> dict[str, tuple[int, int]]:
    """Packets and bytes that nftables has counted in the server's namespace, by direction."""
    listed = json.loads(wire.server.run("nft", "-j", "list", "table", "inet", "independent").stdout)
    found: dict[str, tuple[int, int]] = {}
    for item in listed["nftables"]:
        if "rule" in item:
            counter: dict[str, Any] = next(part["counter"] for part in item["rule"]["expr"] if "counter" in part)
            found[item["rule"]["chain"]] = (counter["packets"], counter["bytes"])
    return found


def test_a_session_from_start_to_stop(wire: Wire, farm: Farm, radius: FreeRadius) -> None:
    """The counters are those of nftables; what the Access-Accept gave is repeated."""
    mark = farm.log.mark()
    rules = farm.directory / "count.nft"
    rules.write_text(COUNT)
    wire.server.run("nft", "-f", str(rules))
    try:
        with connected(wire.client, wire.SERVER4, user="rita", password=PASSWORD) as (_, up):
            opened = farm.wait_event("session.opened", mark)
            session = opened["session"]
            start = record_of(radius, session, "Start")
            assert wire.client.ping(GATEWAY, "-s", "1000", count=5)
            until(lambda: radius.records(Acct_Session_Id=session, Acct_Status_Type="Interim-Update"), "an interim")
            assert wire.client.ping(GATEWAY, "-s", "500", count=3)
        stop = record_of(radius, session, "Stop")
        counted = independent(wire)
    finally:
        wire.server.run("nft", "delete", "table", "inet", "independent")
    assert start["User-Name"] == stop["User-Name"] == "rita@corp"
    assert start["Framed-IP-Address"] == up["local_address"]
    assert start["Calling-Station-Id"] == wire.CLIENT4
    assert start["Called-Station-Id"] == f"{wire.SERVER4}:443"
    assert start["NAS-Port-Id"] == opened["interface"]
    assert start["Acct-Authentic"] == "RADIUS"
    assert start["Service-Type"] == "Framed-User"
    assert start["Framed-Protocol"] == "PPP"
    assert start["NAS-Port-Type"] == "Virtual"
    assert start["Connect-Info"].startswith("SSTP TLSv1.3")
    assert "Acct-Input-Octets" not in start
    text = (radius.directory / "detail").read_text()
    stop_block = text[text.index("Acct-Status-Type = Stop") :]
    assert "Class = 0x6669727374" in stop_block  # "first"
    assert "Class = 0x7365636f6e64" in stop_block  # "second"
    assert stop["Acct-Terminate-Cause"] == "User-Request"
    assert (int(stop["Acct-Input-Packets"]), int(stop["Acct-Input-Octets"])) == counted["in"]
    assert (int(stop["Acct-Output-Packets"]), int(stop["Acct-Output-Octets"])) == counted["out"]
    assert int(stop["Acct-Input-Octets"]) >= 5 * 1028 + 3 * 528
    assert stop["Acct-Input-Gigawords"] == stop["Acct-Output-Gigawords"] == "0"
    assert int(stop["Acct-Session-Time"]) >= 1
    closed = farm.wait_event("session.closed", mark)
    assert (closed["bytes_in"], closed["bytes_out"]) == (counted["in"][1], counted["out"][1])


@pytest.mark.parametrize(
    ("user", "end", "cause"),
    [
        ("short", "", "Session-Timeout"),
        ("still", "", "Idle-Timeout"),
        ("rita", "kick", "Admin-Reset"),
        ("rita", "lost", "Lost-Carrier"),
        ("alice", "", "User-Request"),
    ],
)
def test_the_cause_of_a_stop(wire: Wire, farm: Farm, radius: FreeRadius, user: str, end: str, cause: str) -> None:
    mark = farm.log.mark()
    local = user == "alice"
    password = LOCAL_PASSWORD if local else PASSWORD
    with connecting(
        wire.client, wire.SERVER4, *TRUST_ANY, "--no-default-route", user=user, password=password
    ) as client:
        client.up()
        session = farm.wait_event("session.opened", mark)["session"]
        if end == "kick":
            farm.cli("kick", session)
        elif end == "lost":
            client.process.kill()
        elif local:
            client.stop()
        stop = record_of(radius, session, "Stop")
    assert stop["Acct-Terminate-Cause"] == cause
    assert stop["Acct-Authentic"] == ("Local" if local else "RADIUS")


def test_no_record_is_lost_while_the_server_is_away(wire: Wire, farm: Farm, radius: FreeRadius) -> None:
    """Sessions come and go without it, auth is killed meanwhile; then its books are complete, none is there twice."""
    before = {record["Acct-Session-Id"] for record in radius.records()}
    radius.stop()
    mark = farm.log.mark()
    for _ in range(3):
        with connected(wire.client, wire.SERVER4):
            pass
    auth = farm.auth_pid()
    os.kill(auth, signal.SIGKILL)
    until(lambda: farm.auth_pid() != auth, "auth runs again")
    until(lambda: len(farm.log.find("auth.ready")) >= 2, "auth is ready again")
    for _ in range(2):
        with connected(wire.client, wire.SERVER4):
            pass
    sessions = [event["session"] for event in farm.log.find("session.opened", mark)]
    assert len(sessions) == 5
    assert not {record["Acct-Session-Id"] for record in radius.records()} - before
    radius.start()
    for session in sessions:
        record_of(radius, session, "Stop")
    new = [record for record in radius.records() if record["Acct-Session-Id"] in sessions]
    found = Counter((record["Acct-Session-Id"], record["Acct-Status-Type"]) for record in new)
    for session in sessions:
        assert found[session, "Start"] == found[session, "Stop"] == 1, found
        told = [record["Acct-Status-Type"] for record in new if record["Acct-Session-Id"] == session]
        assert told[0] == "Start"  # the order of several sessions is not promised
        assert told[-1] == "Stop"
    delayed = [int(record["Acct-Delay-Time"]) for record in new if record["Acct-Session-Id"] == sessions[0]]
    assert max(delayed) >= 1
