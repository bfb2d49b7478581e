"""Dynamic authorization (RFC 5176) by `radclient`: sessions end and change, and forged or old orders do nothing.

client --tunnel--> sstp... 10.20.0.1 [server namespace: farm, UDP 3799 <-- radclient on lo]
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import time
from collections.abc import Iterator

import pytest

from ..radius_double import attribute
from .client import TRUST_ANY, Client, connected, connecting
from .farm import GATEWAY, Event, Farm, running
from .freeradius import SECRET, radclient
from .netns import PATIENCE, Wire, until

TARGET = "127.0.0.1:3799"
SESSION_NOT_FOUND = "Error-Cause = Session-Context-Not-Found"


@pytest.fixture(scope="module")
def farm(wire: Wire) -> Iterator[Farm]:
    """A farm that takes orders from its own machine, and from nobody else."""
    with running(
        wire.server,
        profile={"address-list": ["staff"]},
        tables={
            "radius": {
                "accounting": False,
                "nas-ip-address": wire.SERVER4,
                "server": [{"address": "127.0.0.1", "secret": "unused"}],
                "coa": {"listen": "0.0.0.0:3799", "client": [{"address": "127.0.0.1", "secret": SECRET}]},
            }
        },
    ) as made:
        yield made


@pytest.fixture
def session(wire: Wire, farm: Farm) -> Iterator[tuple[Client, Event]]:
    """A client that is up, and its session.opened event."""
    mark = farm.log.mark()
    with connecting(wire.client, wire.SERVER4, *TRUST_ANY, "--no-default-route") as client:
        client.up()
        yield client, farm.wait_event("session.opened", mark)
    farm.idle()


def order(
    code: int, attributes: bytes, *, secret: str = SECRET, identifier: int = 9, stamp: float | None = None
) -> bytes:
    """A signed request, made by hand."""
    if stamp is not None:
        attributes += attribute(55, int(stamp).to_bytes(4, "big"))
    attributes = attribute(80, bytes(16)) + attributes
    head = bytes((code, identifier)) + (20 + len(attributes)).to_bytes(2, "big")
    seal = hmac.digest(secret.encode(), head + bytes(16) + attributes, "md5")
    attributes = attribute(80, seal) + attributes[18:]
    return head + hashlib.md5(head + bytes(16) + attributes + secret.encode()).digest() + attributes


def ask(wire: Wire, data: bytes, *, host: str = "127.0.0.1", wait: float = PATIENCE) -> bytes | None:
    """Send a datagram to the farm; return the answer, None when none comes."""
    sock = wire.server.open_socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.settimeout(wait)
        sock.sendto(data, (host, 3799))
        try:
            return sock.recv(4096)
        except TimeoutError:
            return None


def test_disconnect(wire: Wire, farm: Farm, session: tuple[Client, Event]) -> None:
    client, opened = session
    mark = farm.log.mark()
    said = radclient(
        wire.server, TARGET, "disconnect", [f'Acct-Session-Id = "{opened["session"]}"', 'User-Name = "alice"']
    )
    assert "Disconnect-ACK" in said
    client.end()
    closed = farm.wait_event("session.closed", session=opened["session"])
    assert closed["reason"] == "admin-reset"
    told = farm.wait_event("radius.order", mark)
    assert (told["order"], told["sessions"], told["error_cause"]) == ("disconnect", 1, 0)
    again = radclient(wire.server, TARGET, "disconnect", [f'Acct-Session-Id = "{opened["session"]}"'])
    assert "Disconnect-NAK" in again
    assert SESSION_NOT_FOUND in again


def test_what_is_changed(wire: Wire, farm: Farm, session: tuple[Client, Event]) -> None:
    """The address moves from one set to another, then the time runs out."""
    client, opened = session
    address = opened["address"]

    def in_set(name: str) -> bool:
        return address in wire.server.run("nft", "list", "set", "inet", "sstpfarm", name, check=False).stdout

    assert in_set("staff")
    who = [f"Framed-IP-Address = {address}", 'Calling-Station-Id = "10.99.1.2"']
    said = radclient(wire.server, TARGET, "coa", [*who, 'Filter-Id = "guests"', 'Class = "other"'])
    assert "CoA-ACK" in said
    until(lambda: in_set("guests") and not in_set("staff"), "the address is in the other set")
    assert wire.client.ping(GATEWAY)
    said = radclient(wire.server, TARGET, "coa", [*who, "Session-Timeout = 1"])
    assert "CoA-ACK" in said
    client.end()
    assert farm.wait_event("session.closed", session=opened["session"])["reason"] == "session-timeout"


@pytest.mark.alone
def test_a_rate_limit_that_is_changed(wire: Wire, farm: Farm, session: tuple[Client, Event]) -> None:
    """Five kilobytes each way at 16 kbit/s take seconds, and took none before."""
    _, opened = session
    mark = farm.log.mark()

    def seconds() -> float:
        began = time.monotonic()
        wire.client.run("ping", "-q", "-c", "8", "-i", "0.02", "-s", "1200", "-w", "20", GATEWAY, check=False)
        return time.monotonic() - began

    before = min(seconds(), seconds())
    who = f'Acct-Session-Id = "{opened["session"]}"'
    assert "CoA-ACK" in radclient(wire.server, TARGET, "coa", [who, 'Mikrotik-Rate-Limit = "32k/32k"'])
    farm.wait_event("radius.order", mark, order="change")
    after = seconds()
    assert after > before + 0.8, (before, after)


@pytest.mark.parametrize(
    ("kind", "pairs", "cause"),
    [
        ("disconnect", ['User-Name = "nobody"'], "Session-Context-Not-Found"),
        ("disconnect", ['User-Name = "alice"', "Framed-IP-Address = 10.20.99.99"], "Session-Context-Not-Found"),
        ("disconnect", ['User-Name = "alice"', "NAS-Port = 4711"], "Session-Context-Not-Found"),
        ("disconnect", ['NAS-Identifier = "sstpfarm"'], "Missing-Attribute"),
        ("disconnect", ['User-Name = "alice"', 'NAS-Identifier = "other"'], "NAS-Identification-Mismatch"),
        ("disconnect", ['User-Name = "alice"', "NAS-IP-Address = 192.0.2.7"], "NAS-Identification-Mismatch"),
        ("disconnect", ['User-Name = "alice"', "Session-Timeout = 1"], "Unsupported-Attribute"),
        ("coa", ['User-Name = "alice"'], "Missing-Attribute"),
        ("coa", ['User-Name = "alice"', "Session-Timeout = 1", 'Login-LAT-Node = "x"'], "Unsupported-Attribute"),
        ("coa", ['User-Name = "alice"', "Session-Timeout = 1", "Service-Type = Authorize-Only"], "Unsupported-Service"),
        (
            "coa",
            ['User-Name = "alice"', "Session-Timeout = 1", 'Mikrotik-Rate-Limit = "fast"'],
            "Invalid-Attribute-Value",
        ),
    ],
)
def test_what_is_refused_changes_nothing(
    wire: Wire, farm: Farm, crowd: list[Event], kind: str, pairs: list[str], cause: str
) -> None:
    said = radclient(wire.server, TARGET, kind, pairs)
    assert ("Disconnect-NAK" if kind == "disconnect" else "CoA-NAK") in said
    assert f"Error-Cause = {cause}" in said, said
    assert {row["session"] for row in farm.sessions()} == {event["session"] for event in crowd}


@pytest.fixture(scope="module")
def crowd(wire: Wire, farm: Farm) -> Iterator[list[Event]]:
    """One session that no order may touch."""
    mark = farm.log.mark()
    with connected(wire.client, wire.SERVER4):
        yield [farm.wait_event("session.opened", mark)]


def test_forged_and_old_orders(wire: Wire, farm: Farm, crowd: list[Event]) -> None:
    """SECURITY 41: a wrong secret, another source, a wrong seal, an old time: no answer and no effect, of 2,000."""
    who = attribute(1, b"alice")
    now = time.time()
    forged = order(40, who, secret="wrong")
    torn = bytearray(order(40, who))
    torn[30] ^= 1
    sock = wire.server.open_socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        for number in range(500):
            for data in (forged, bytes(torn), order(40, who, stamp=now - 400), order(40, who, stamp=now + 400)):
                sock.sendto(data, ("127.0.0.1", 3799))
            if number % 20 == 0:
                time.sleep(0.005)  # else they would be lost in the socket's buffer
    assert ask(wire, forged, wait=0.3) is None
    assert ask(wire, order(40, who), host=wire.SERVER4, wait=0.3) is None  # the source is 10.99.1.1 then
    farm.wait_event("radius.order_ignored")
    assert {row["session"] for row in farm.sessions()} == {event["session"] for event in crowd}


def test_a_repetition_gets_the_same_answer_and_does_nothing(wire: Wire, farm: Farm) -> None:
    """A recorded Disconnect-Request that is sent again, later and from another port, ends no new session."""
    recorded = order(40, attribute(1, b"user1"), stamp=time.time())
    mark = farm.log.mark()
    with connecting(wire.client, wire.SERVER4, *TRUST_ANY, "--no-default-route", user="user1") as client:
        client.up()
        first = ask(wire, recorded)
        assert first is not None
        assert first[0] == 41
        client.end()
    assert farm.wait_event("session.closed", mark)["reason"] == "admin-reset"
    with connected(wire.client, wire.SERVER4, user="user1"):
        assert ask(wire, recorded) == first
        assert wire.client.ping(GATEWAY)
        assert len([row for row in farm.sessions() if row["user"] == "user1"]) == 1
