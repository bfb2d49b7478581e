"""Accounting in a real FreeRADIUS's detail file: counters, causes, interims, and what waits while it is away.

client --tunnel--> sstp... 10.20.0.1 [server namespace: farm, FreeRADIUS on lo, nftables counters on sstp...]
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from .bytestream import TcpStream
from .client import connected
from .farm import GATEWAY, Event, Farm, running
from .farm import PASSWORD as LOCAL_PASSWORD
from .frames import ABORT, attribute, message
from .freeradius import SECRET, FreeRadius, radclient
from .netns import Wire, until
from .rawpeer import RawPeer, tls_peer

PASSWORD = "radius pass"
RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s
OpenPeer = Callable[..., tuple[RawPeer, Event]]
USERS = {
    "rita": (PASSWORD, ['Class = "first"', 'Class += "second"', 'User-Name = "rita@corp"']),
    "prefixed": (PASSWORD, ["Framed-IPv6-Prefix = fd42:3::/64", "Delegated-IPv6-Prefix = fd42:2::/56"]),
    "single": (PASSWORD, ['Mikrotik-Group = "single"']),
    "unbound": (PASSWORD, []),
    "volume": (PASSWORD, ["Mikrotik-Recv-Limit = 100"]),
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
def farm(wire: Wire, radius: FreeRadius) -> Iterator[Farm]:
    """A farm that accounts to it; after its end the books are closed too.

    Without IPv6: its multicast from before the gate opens would be counted by nftables and not by the session.
    """
    with running(
        wire.server,
        server={"ipv6": False, "authentication": ["mschap2", "pap"]},
        auth={"backends": ["local", "radius"]},
        tables={
            "accounting": {"interim-interval": 2},
            "profile.single": {"local-address": GATEWAY, "remote-address": "pool:single", "only-one": "replace"},
            "pool.single": {"ranges": ["10.50.0.2-10.50.0.9"]},
            "radius": {
                "coa": {"listen": "127.0.0.1:3799", "client": [{"address": "127.0.0.1", "secret": SECRET}]},
                "server": [
                    {
                        "address": "127.0.0.1",
                        "secret": SECRET,
                        "timeout-s": 2,
                        "retries": 0,
                        "dead-time-s": 0.5,
                    }
                ],
            },
        },
    ) as made:
        yield made
    (off,) = until(lambda: radius.records(Acct_Status_Type="Accounting-Off"), "the farm's end is in the books")
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


@pytest.fixture
def open_peer(wire: Wire, farm: Farm) -> Iterator[OpenPeer]:
    """Opens a raw session by PAP; returns the peer and the session's log event."""
    with ExitStack() as held:

        def opened(user: str, password: str = PASSWORD) -> tuple[RawPeer, Event]:
            peer = held.enter_context(tls_peer(wire.client, wire.SERVER4))
            peer.open_session(user, password)
            return peer, farm.wait_event("session.opened", peer=peer.peer)

        yield opened


def test_each_way_to_end_has_its_cause(wire: Wire, farm: Farm, radius: FreeRadius, open_peer: OpenPeer) -> None:
    """The Acct-Terminate-Cause of each end; who fails the crypto binding is in no record."""
    expected: dict[str, str] = {}
    with tls_peer(wire.client, wire.SERVER4) as peer, farm.refuses("binding-mac", "ipcp", peer.peer):
        peer.until_authenticated("unbound", PASSWORD)
        peer.open_ipcp()
        peer.send(peer.call_connected(flip_mac=True))
        peer.answer_abort(7)

    peer, local = open_peer("alice", LOCAL_PASSWORD)
    peer.disconnect()
    expected[local["session"]] = "User-Request"

    peer, prefixed = open_peer("prefixed")
    peer.send(message(ABORT, attribute(2, bytes(8))))
    expected[prefixed["session"]] = "User-Error"

    peer, opened = open_peer("rita")
    assert isinstance(peer.stream, TcpStream)
    peer.stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    peer.close()
    expected[opened["session"]] = "Lost-Carrier"

    peer, opened = open_peer("rita")
    farm.cli("kick", opened["session"])
    peer.answer_disconnect()
    expected[opened["session"]] = "Admin-Reset"

    peer, opened = open_peer("rita")
    order = [f'Acct-Session-Id = "{opened["session"]}"']
    assert "Disconnect-ACK" in radclient(wire.server, "127.0.0.1:3799", "disconnect", order)
    peer.answer_disconnect()
    expected[opened["session"]] = "Admin-Reset"

    before, opened = open_peer("single")
    assert opened["address"].startswith("10.50.0.")  # the pool of the profile that Mikrotik-Group names
    expected[opened["session"]] = "Port-Preempted"  # FreeRADIUS's word for 13
    peer, opened = open_peer("single")
    before.answer_disconnect()
    peer.disconnect()
    expected[opened["session"]] = "User-Request"

    peer, opened = open_peer("volume")
    for _ in range(4):
        assert peer.ping()
    peer.answer_disconnect()
    expected[opened["session"]] = "NAS-Request"

    timed = {cause: open_peer(user) for user, cause in (("short", "Session-Timeout"), ("still", "Idle-Timeout"))}
    for cause, (peer, opened) in timed.items():
        peer.answer_disconnect()
        expected[opened["session"]] = cause

    peer, opened = open_peer("rita")
    mark = farm.log.mark()
    os.kill(farm.worker_pids()[opened["worker"]], signal.SIGKILL)
    farm.wait_event("worker.lost", mark)
    expected[opened["session"]] = "NAS-Error"

    found = {session: record_of(radius, session, "Stop")["Acct-Terminate-Cause"] for session in expected}
    assert found == expected
    assert record_of(radius, local["session"], "Stop")["Acct-Authentic"] == "Local"
    for status in ("Start", "Stop"):
        record = record_of(radius, prefixed["session"], status)
        assert record["Framed-IPv6-Prefix"] == "fd42:3::/64"
        assert record["Delegated-IPv6-Prefix"] == "fd42:2::/56"
        assert record["Acct-Authentic"] == "RADIUS"
    assert not radius.records(User_Name="unbound")
    farm.wait_event("worker.ready", mark)


def test_no_record_is_lost_while_the_server_is_away(farm: Farm, radius: FreeRadius, open_peer: OpenPeer) -> None:
    """Sessions come and go without it, auth is killed meanwhile; then its books are complete, none is there twice."""
    before = {record["Acct-Session-Id"] for record in radius.records()}
    radius.stop()
    mark = farm.log.mark()
    for _ in range(3):
        open_peer("alice", LOCAL_PASSWORD)[0].disconnect()
    auth = farm.auth_pid()
    os.kill(auth, signal.SIGKILL)
    until(lambda: farm.auth_pid() != auth, "auth runs again")
    until(lambda: len(farm.log.find("auth.ready")) >= 2, "auth is ready again")
    for _ in range(2):
        open_peer("alice", LOCAL_PASSWORD)[0].disconnect()
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


def test_the_end_of_the_farm(farm: Farm, radius: FreeRadius, open_peer: OpenPeer) -> None:
    """The last one here: the session's Stop comes before the farm's Accounting-Off."""
    peer, opened = open_peer("rita")
    farm.process.send_signal(signal.SIGTERM)
    peer.answer_disconnect()
    assert record_of(radius, opened["session"], "Stop")["Acct-Terminate-Cause"] == "NAS-Reboot"
