"""RADIUS servers that are dead, slow, mad or careless; nobody gets in by that, and nobody else waits for it.

client --tunnel--> [server namespace: farm, two servers of ours on lo that do as they are told, FreeRADIUS]
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sstpfarm.client.backoff import HUMAN
from sstpfarm.reasons import OUTCOMES, ExitCode, Reason

from ..radius_double import RadiusDouble, Received, attribute
from .client import TRUST_ANY, Client, connected, connecting
from .farm import GATEWAY, Farm, running
from .frames import EAP, LCP, PAP, TERM_REQ, ppp
from .freeradius import SECRET, freeradius
from .netns import Namespace, Wire, until, wired
from .rawpeer import tls_peer

PASSWORD = "radius pass"
ACCEPT, REJECT, CHALLENGE = 2, 3, 11
NO_KEYS = "Access-Accept without MS-MPPE-Recv-Key and MS-MPPE-Send-Key"
LONG_REQUEST = struct.pack(">BBHB", 1, 7, 1600, 13) + bytes(1595)  # of EAP-TLS
LOOPBACK = bytes((127, 0, 0, 1))


def bound(place: Namespace, port: int) -> socket.socket:
    """A UDP socket in a namespace."""
    sock = place.open_socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", port))
    return sock


def silent(request: Received) -> Iterable[bytes]:
    """Never answer."""
    return ()


def accept(request: Received) -> Iterable[bytes]:
    """Let everybody in who sends a User-Password."""
    if request.values(2):
        yield request.reply(ACCEPT)


@pytest.fixture(scope="module")
def servers(wire: Wire) -> Iterator[tuple[RadiusDouble, RadiusDouble]]:
    """A first and a second server."""
    with RadiusDouble(bound(wire.server, 1812)) as first, RadiusDouble(bound(wire.server, 1822)) as second:
        yield first, second


@pytest.fixture(scope="module")
def farm(wire: Wire, servers: tuple[RadiusDouble, RadiusDouble]) -> Iterator[Farm]:
    """A farm that asks both."""
    shared = {"secret": SECRET, "timeout-s": 0.5, "retries": 1, "dead-time-s": 0.3}
    with running(
        wire.server,
        server={"authentication": ["eap", "mschap2", "chap", "pap"], "failure-delay-s": 0.1},
        auth={"backends": ["local", "radius"]},
        tables={
            "radius": {
                "accounting": False,
                "server": [
                    {"address": "127.0.0.1", **shared},
                    {"address": "127.0.0.1", "auth-port": 1822, "acct-port": 1823, **shared},
                ],
            }
        },
    ) as made:
        yield made


def all_alive(farm: Farm) -> None:
    """Wait until each server that was found dead is back; they must answer Status-Server."""
    until(lambda: len(farm.log.find("radius.server_alive")) == len(farm.log.find("radius.server_dead")), "all alive")


@contextmanager
def trying(wire: Wire, user: str = "rita", method: str = "pap") -> Iterator[Client]:
    """A client of a user whom only RADIUS knows."""
    with connecting(
        wire.client,
        wire.SERVER4,
        *TRUST_ANY,
        "--no-default-route",
        "--authentication",
        method,
        user=user,
        password=PASSWORD,
    ) as client:
        yield client


def test_the_second_server_answers_for_a_dead_one(
    wire: Wire, farm: Farm, servers: tuple[RadiusDouble, RadiusDouble]
) -> None:
    first, second = servers
    first.script, second.script = silent, accept
    with connected(wire.client, wire.SERVER4, "--authentication", "pap", user="rita", password=PASSWORD):
        assert wire.client.ping(GATEWAY)
    asked = [request for request in first.received if request.code == 1]
    assert len({request.data for request in asked}) == 1
    assert len(asked) == 2  # the same bytes, twice
    farm.wait_event("radius.server_dead", server="127.0.0.1 port 1812")
    assert [request for request in second.received if request.code == 1]


def test_a_dead_server_that_answers_again_is_asked_again(
    wire: Wire, farm: Farm, servers: tuple[RadiusDouble, RadiusDouble]
) -> None:
    """It answers Status-Server."""
    first, second = servers
    first.script = lambda request: [request.reply(ACCEPT)] if request.code == 12 else accept(request)
    farm.wait_event("radius.server_alive", server="127.0.0.1 port 1812")
    before = len(second.received)
    with connected(wire.client, wire.SERVER4, "--authentication", "pap", user="rita", password=PASSWORD):
        pass
    assert len(second.received) == before


def test_all_servers_dead(wire: Wire, farm: Farm, servers: tuple[RadiusDouble, RadiusDouble]) -> None:
    """SECURITY 40: a login fails within 10 s, and says why; a session that is up stays up; local users come in."""
    first, second = servers
    with connected(wire.client, wire.SERVER4) as (_, up):
        first.script = second.script = silent
        before = len(first.received) + len(second.received)
        with trying(wire) as client, farm.counts("sstpfarm_logins_total", outcome="auth-unavailable"):
            until(lambda: len(first.received) + len(second.received) > before, "a server is asked")
            began = time.monotonic()
            client.end()
        assert time.monotonic() - began < 10
        assert wire.client.ping(GATEWAY, "-I", up["interface"])


@pytest.mark.parametrize("method", ["pap", "chap", "mschap2", "eap"])
def test_without_a_judgement_there_is_no_verdict_and_the_client_tries_again_soon(
    wire: Wire, farm: Farm, servers: tuple[RadiusDouble, RadiusDouble], method: str
) -> None:
    for server in servers:
        server.script = silent
    with trying(wire, method=method) as client:
        code, closed = client.end()
    assert (code, closed["reason"]) == (ExitCode.NETWORK, "login-ended")
    assert "the authentication service does not answer" in closed["detail"]
    assert OUTCOMES[Reason.LOGIN_ENDED].exit_code not in HUMAN  # so the wait is reconnect-delay-s, not refused-delay-s


def test_without_a_judgement_the_link_ends_in_order(
    wire: Wire, farm: Farm, servers: tuple[RadiusDouble, RadiusDouble]
) -> None:
    """LCP Terminate-Request with our reason and no Authenticate-Nak, then the SSTP Call Disconnect."""
    for server in servers:
        server.script = silent
    with tls_peer(wire.client, wire.SERVER4) as peer, farm.refuses("auth-unavailable", "lcp", peer.peer):
        peer.open_http()
        peer.call_connect()
        peer.open_lcp("pap")
        peer.send_pap("rita", PASSWORD)
        came = peer.expect(lambda came: came.protocol == PAP or (came.protocol, came.code) == (LCP, TERM_REQ))
        assert (came.protocol, came.options) == (LCP, b"the authentication service does not answer")
        peer.put_back(came)
        peer.answer_disconnect()


def test_a_slow_server_delays_nobody_else() -> None:
    """While one login waits for its answer, others come and go."""
    server = {"address": "127.0.0.1", "secret": SECRET, "timeout-s": 20.0}
    with (
        wired() as wire,
        RadiusDouble(bound(wire.server, 1812)) as double,
        running(
            wire.server,
            server={"workers": 1, "authentication": ["pap"]},
            auth={"backends": ["radius"]},
            tables={"radius": {"accounting": False, "deadline-s": 25.0, "server": [server]}},
        ) as farm,
        trying(wire, "slow") as slow,
    ):
        double.script = lambda request: () if request.values(1) == [b"slow"] else accept(request)
        until(lambda: any(request.values(1) == [b"slow"] for request in double.received), "it is asked")
        with connected(wire.client, wire.SERVER4, "--authentication", "pap", user="rita", password=PASSWORD):
            assert wire.client.ping(GATEWAY)
        assert not farm.log.find("login.refused")  # the slow one still waits
        slow.end(signal.SIGTERM)


def test_what_is_no_answer_is_ignored(wire: Wire, farm: Farm, servers: tuple[RadiusDouble, RadiusDouble]) -> None:
    """Garbage, a wrong secret, a wrong identifier, a late duplicate: the login waits for the right answer."""

    def script(request: Received) -> Iterable[bytes]:
        if request.code == 1:
            good = request.reply(ACCEPT)
            yield os.urandom(200)
            yield request.reply(ACCEPT, secret=b"wrong")
            yield good[:1] + bytes((good[1] ^ 1,)) + good[2:]
            yield request.reply(REJECT, secret=b"wrong")
            yield good
            yield good
        elif request.code == 12:
            yield request.reply(ACCEPT)

    first, second = servers
    first.script = second.script = script
    all_alive(farm)
    for _ in range(2):
        with connected(wire.client, wire.SERVER4, "--authentication", "pap", user="rita", password=PASSWORD):
            pass
    farm.wait_event("radius.ignored")


@pytest.mark.parametrize(
    ("method", "code", "attributes", "detail"),
    [
        ("mschap2", ACCEPT, b"", "Access-Accept without MS-MPPE-Recv-Key and MS-MPPE-Send-Key"),
        (
            "eap",
            ACCEPT,
            attribute(79, b"\x03\x01\x00\x04"),
            "Access-Accept without MS-MPPE-Recv-Key and MS-MPPE-Send-Key",
        ),
        ("eap", CHALLENGE, attribute(79, b"nonsense"), "Access-Challenge without an EAP Request"),
        (
            "eap",
            CHALLENGE,
            b"".join(attribute(79, LONG_REQUEST[at : at + 253]) for at in range(0, len(LONG_REQUEST), 253)),
            "an EAP Request of 1600 bytes; the peer takes 1500",
        ),
        (
            "pap",
            ACCEPT,
            attribute(8, LOOPBACK),
            "Framed-IP-Address is 127.0.0.1, which no client can have",
        ),
    ],
)
def test_answers_that_cannot_be_used(
    wire: Wire,
    farm: Farm,
    servers: tuple[RadiusDouble, RadiusDouble],
    method: str,
    code: int,
    attributes: bytes,
    detail: str,
) -> None:
    for server in servers:
        server.script = lambda request: [request.reply(code, attributes) if request.code == 1 else request.reply(2)]
    all_alive(farm)
    mark = farm.log.mark()
    with trying(wire, method=method) as client:
        assert client.end()[0] == ExitCode.AUTHENTICATION
    assert farm.wait_event("login.denied", mark)["detail"].endswith(f": {detail}")


@pytest.mark.parametrize("method", ["mschap2", "chap", "pap"])
def test_a_challenge_that_the_method_cannot_answer(
    wire: Wire, farm: Farm, servers: tuple[RadiusDouble, RadiusDouble], method: str
) -> None:
    """RFC 2865 4.4: it is a refusal; its text reaches the log and the user, who learns what is wanted."""
    challenge = attribute(24, b"state") + attribute(18, b"Send your token\n")
    for server in servers:
        server.script = lambda request: [request.reply(CHALLENGE, challenge) if request.code == 1 else request.reply(2)]
    all_alive(farm)
    mark = farm.log.mark()
    with (
        farm.counts("sstpfarm_logins_total", outcome="auth-refused"),
        trying(wire, method=method) as client,
    ):
        code, closed = client.end()
        assert (code, closed["reason"]) == (ExitCode.AUTHENTICATION, "auth-refused")
        assert "Send your token" in closed["detail"], closed
    denied = farm.wait_event("login.denied", mark)
    assert denied["detail"].endswith(f": Access-Challenge, which {method} cannot answer: Send your token?")
    assert (denied["user"], denied["method"]) == ("rita", method)


def test_a_server_that_asks_without_end(wire: Wire, farm: Farm, servers: tuple[RadiusDouble, RadiusDouble]) -> None:
    """Nobody needs hundreds of round trips: the peer's answers are control frames, and of these there is a limit."""

    def script(request: Received) -> Iterable[bytes]:
        if request.code == 1:
            yield request.reply(CHALLENGE, attribute(79, struct.pack(">BBHB", 1, request.data[1], 6, 13) + b"\0"))
        elif request.code == 12:
            yield request.reply(ACCEPT)

    for server in servers:
        server.script = script
    all_alive(farm)
    before = sum(len(server.received) for server in servers)
    with tls_peer(wire.client, wire.SERVER4) as peer, farm.refuses("control-flood", "lcp", peer.peer):
        peer.open_http()
        peer.call_connect()
        peer.open_lcp("eap")
        while True:
            came = peer.expect(lambda came: came.protocol == EAP or (came.protocol, came.code) == (LCP, TERM_REQ))
            if came.protocol == LCP:
                break
            kind = came.options[:1]
            peer.send(ppp(EAP, 2, came.identifier, kind + (b"endless" if kind == b"\x01" else b"\0")))
        peer.put_back(came)
        peer.answer_disconnect()
    rounds = sum(len(server.received) for server in servers) - before
    assert 400 < rounds < 700, rounds


@pytest.mark.parametrize(("sign", "mppe"), [(False, True), (True, False)], ids=["unsigned", "without-keys"])
def test_a_server_that_leaves_out_what_is_needed(sign: bool, mppe: bool) -> None:
    """FreeRADIUS 3.2.1 signs nothing by itself: `require` takes nothing from it. Without keys there is no binding."""
    timeout = 5.0 if sign else 0.3  # nothing comes that counts
    server = {"address": "127.0.0.1", "secret": SECRET, "timeout-s": timeout, "message-authenticator": "require"}
    with (
        wired() as wire,
        freeradius(wire.server, {"rita": (PASSWORD, [])}, sign=sign, mppe=mppe),
        running(
            wire.server,
            server={"workers": 1},
            auth={"backends": ["radius"]},
            tables={"radius": {"server": [server]}},
        ) as farm,
        connecting(wire.client, wire.SERVER4, *TRUST_ANY, user="rita", password=PASSWORD) as client,
    ):
        client.end()
        refused = farm.wait_event("login.refused")
        assert refused["reason"] == ("auth-refused" if sign else "auth-unavailable")
        if not sign:
            assert farm.wait_event("radius.ignored")["why"] == "without Message-Authenticator"


def test_a_reload_brings_other_servers_and_what_it_cannot_bring_is_named() -> None:
    """A server that is gone, another one that is asked at once, and accounting that was spooled for the first."""
    accounted: list[Received] = []

    def account(request: Received) -> Iterable[bytes]:
        if request.code == 4:
            accounted.append(request)
            yield request.reply(5, signed=False)

    def tables(secret: str, port: int, **keys: object) -> dict[str, object]:
        # the first server was asked at ports where nobody is
        server = {"address": "127.0.0.1", "secret": secret, "auth-port": port, "acct-port": port + 1, "timeout-s": 1.0}
        return {"radius": {"server": [{**server, "retries": 0, "dead-time-s": 0.3}], **keys}}

    settings: dict[str, Any] = {
        "server": {"authentication": ["pap"], "failure-delay-s": 0.1, "workers": 1},
        "auth": {"backends": ["local", "radius"]},
    }
    with (
        wired() as wire,
        RadiusDouble(bound(wire.server, 1842), accept),
        RadiusDouble(bound(wire.server, 1843), account),
        running(wire.server, tables=tables("wrong", 1832), **settings) as farm,
    ):
        with connected(wire.client, wire.SERVER4, "--authentication", "pap"):
            pass
        with trying(wire) as client:
            assert client.end()[0] == ExitCode.NETWORK  # nobody has judged it
        assert farm.wait_event("login.denied")["detail"] == "no RADIUS server answers"
        text = farm.config.read_text().replace("1832", "1842").replace("1833", "1843").replace("wrong", SECRET)
        farm.config.write_text(text.replace("[radius]", "[radius]\naccounting = false"))
        assert farm.cli("reload").stdout.splitlines()[-1] == "changed, and needs a restart: radius.accounting"
        with trying(wire) as client:
            client.up()
        until(lambda: [r.values(40)[0][3] for r in dict.fromkeys(accounted)].count(2) == 2, "all records")
    first = [request.values(40)[0][3] for request in dict.fromkeys(accounted)]
    assert first[0] == 7  # Accounting-On, which nobody took before
