"""Logins that are refused: what goes over the wire, what server and client say.

+-- client ----------------+           +-- server ----------------+
| sstpfarm connect, or a   |           | sstpfarm serve           |
| raw peer    10.99.1.2    |---veth----| 10.99.1.1:443            |
+--------------------------+           +--------------------------+
"""

from __future__ import annotations

import os
import re
import statistics
import time

import pytest

from sstpfarm.reasons import ExitCode

from .client import TRUST_ANY, connecting
from .farm import Farm, running
from .frames import AUTH_OPTIONS, CHAP, LCP, NAK, PAP, REQ, ppp
from .netns import Wire, wired
from .rawpeer import RawPeer, tls_peer

FAILURE = re.compile(rb"E=691 R=0 C=[0-9A-F]{32} V=3( M=.*)?", re.DOTALL)


def to_authentication(peer: RawPeer, method: str) -> None:
    """Everything before the authentication phase."""
    peer.open_http()
    peer.call_connect()
    peer.open_lcp(method)


def refused_mschap2(wire: Wire, farm: Farm, user: str) -> tuple[bytes, float, str]:
    """Log in with a random MS-CHAPv2 response: the Failure's text, its delay in seconds, the server's address of us."""
    mark = farm.log.mark()
    with tls_peer(wire.client, wire.SERVER4) as peer:
        to_authentication(peer, "mschap2")
        started = time.monotonic()
        failure = peer.answer_challenge(user, os.urandom(16) + bytes(8) + os.urandom(24) + b"\0")
        seconds = time.monotonic() - started
        assert failure.code == 4
        peer.answer_disconnect()
    refused = farm.wait_event("login.refused", mark, peer=peer.peer)
    assert (refused["user"], refused["method"], refused["reason"]) == (user, "mschap2", "auth-refused")
    return failure.options, seconds, peer.peer


def test_wrong_password_on_the_wire(wire: Wire, farm: Farm) -> None:
    with (
        farm.counts("sstpfarm_logins_total", outcome="auth-refused"),
        farm.refuses("auth-refused", "lcp", ""),
    ):
        text, _, _ = refused_mschap2(wire, farm, "alice")
    assert FAILURE.fullmatch(text), text
    farm.idle()


@pytest.mark.alone
def test_unknown_user_is_not_told_apart(wire: Wire, farm: Farm) -> None:
    """The same bytes but for the challenge, the same log event and counter, the same time (failures take 0.3 s)."""
    known, unknown = [], []
    with farm.counts("sstpfarm_logins_total", by=6, outcome="auth-refused"):
        for _ in range(3):  # interleaved, so that load on the machine meets both alike
            known.append(refused_mschap2(wire, farm, "alice"))
            unknown.append(refused_mschap2(wire, farm, "mallory"))
    assert all(FAILURE.fullmatch(text) for text, *_ in known + unknown)
    faces = {re.sub(rb"C=[0-9A-F]{32}", b"C=", text) for text, *_ in known + unknown}
    assert len(faces) == 1, faces
    challenges = {text[10:46] for text, *_ in known + unknown}
    assert len(challenges) == 6  # each failure has a challenge of its own
    gap = statistics.median(item[1] for item in known) - statistics.median(item[1] for item in unknown)
    assert abs(gap) < 0.15, (known, unknown)


def test_pap_refusal_is_the_same_for_both(wire: Wire, farm: Farm) -> None:
    texts = set()
    for user in ("alice", "mallory"):
        mark = farm.log.mark()
        with tls_peer(wire.client, wire.SERVER4) as peer, farm.refuses("auth-refused", "lcp", peer.peer):
            to_authentication(peer, "pap")
            peer.send_pap(user, "marker-of-a-guess")
            answer = peer.frame(PAP)
            assert answer.code == NAK
            texts.add(answer.options)
            peer.answer_disconnect()
        assert farm.wait_event("login.refused", mark, peer=peer.peer)["method"] == "pap"
    assert len(texts) == 1, texts
    assert "marker-of-a-guess" not in farm.log.text()


@pytest.mark.parity("ros-client/password", "ros-ppp/name-password")
def test_wrong_password_at_our_client(wire: Wire, farm: Farm) -> None:
    with connecting(wire.client, wire.SERVER4, *TRUST_ANY, password="not this") as client:
        code, closed = client.end()
    assert (code, closed["reason"]) == (ExitCode.AUTHENTICATION, "auth-refused"), closed
    assert closed["text"] == "authentication refused"
    assert "691" in closed["detail"]
    farm.idle()


def test_no_common_method_on_the_wire(wire: Wire, farm: Farm) -> None:
    """The peer wants nothing but EAP: the server tries its methods, then terminates; rounds are bounded."""
    with tls_peer(wire.client, wire.SERVER4) as peer, farm.refuses("auth-no-common-method", "sstp", peer.peer):
        peer.open_http()
        peer.call_connect()
        peer.send(ppp(LCP, REQ, 1, b"\x01\x04\x05\x78"))
        offered = []
        while True:
            came = peer.frame(LCP, REQ, 5)
            if came.code == 5:
                peer.put_back(came)
                break
            offered.append(came.options)
            assert len(offered) < 12
            peer.send(ppp(LCP, NAK, came.identifier, AUTH_OPTIONS["eap"]))
        text = peer.answer_disconnect()
    assert AUTH_OPTIONS["mschap2"] in offered[0]
    assert any(AUTH_OPTIONS["pap"] in option for option in offered)
    assert b"no common authentication method" in text


@pytest.mark.parity("ros-server/authentication", "ros-client/authentication")
def test_no_common_method_at_our_client() -> None:
    """The server as it is by default, MS-CHAPv2 only, and a client that may only do CHAP."""
    with wired() as wire, running(wire.server) as farm:
        mark = farm.log.mark()
        with (
            farm.counts("sstpfarm_connections_total", outcome="auth-no-common-method"),
            connecting(wire.client, wire.SERVER4, *TRUST_ANY, "--authentication", "chap") as client,
        ):
            code, closed = client.end()
        assert (code, closed["reason"]) == (ExitCode.AUTHENTICATION, "auth-no-common-method"), closed
        assert closed["text"] == "no common authentication method"
        farm.wait_event("connection.refused", mark, reason="auth-no-common-method", phase="sstp")


def test_response_of_a_wrong_size(wire: Wire, farm: Farm) -> None:
    """A Response of a wrong size is refused like a wrong one: nothing passes, nothing breaks."""
    with tls_peer(wire.client, wire.SERVER4) as peer:
        to_authentication(peer, "mschap2")
        challenge = peer.frame(CHAP, 1)
        for size in (0, 16, 48, 50):
            peer.send(ppp(CHAP, 2, challenge.identifier, bytes([size]) + bytes(size) + b"alice"))
        peer.send(ppp(CHAP, 2, challenge.identifier, b"\x31" + bytes(49) + b"alice"))
        assert peer.frame(CHAP, 3, 4).code == 4
        peer.answer_disconnect()
    farm.idle()
