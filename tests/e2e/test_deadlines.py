"""Silence in each phase ends at that phase's deadline, with that phase's wire behaviour.

+-- client -------+           +-- server ------------------------+
| raw peer that   |---veth----| sstpfarm serve, short deadlines  |
| falls silent    |           |                                  |
+-----------------+           +----------------------------------+
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sstpfarm.reasons import ExitCode

from .bytestream import StreamEndError
from .client import TRUST_ANY, connecting
from .farm import GATEWAY, Farm, running
from .frames import ABORT, CHAP, ECHO_REQUEST, GOOD_REQUEST, LCP, REQUEST, TERM_REQ
from .netns import Wire
from .rawpeer import tcp_peer, tls_peer

DEADLINES = {
    "tls-deadline-s": 1,
    "http-deadline-s": 1.5,
    "connect-request-deadline-s": 1.2,
    "negotiation-deadline-s": 2.5,
    "authentication-deadline-s": 1.3,
    "login-deadline-s": 5,
    "keepalive-timeout": 2,
}
NEGOTIATION_TIMEOUT = 8  # MS-SSTP 2.2.7 status
LATE = 6.0  # seconds that the machine may add; which deadline it was, the reason tells


@pytest.fixture(scope="module")
def farm(wire: Wire) -> Iterator[Farm]:
    """A farm in a hurry."""
    with running(wire.server, server={"authentication": ["mschap2", "pap"], **DEADLINES}) as made:
        yield made


@contextmanager
def takes(key: str) -> Iterator[None]:
    """Assert that the block takes as long as the deadline of that key says.

    It holds all that begins the phase, too: what the machine takes for that makes it longer, never shorter.
    """
    started = time.monotonic()
    yield
    seconds = time.monotonic() - started
    assert DEADLINES[key] <= seconds <= DEADLINES[key] + LATE, seconds


def test_silence_before_tls(wire: Wire, farm: Farm) -> None:
    with (
        takes("tls-deadline-s"),
        tcp_peer(wire.client, wire.SERVER4) as peer,
        farm.refuses("tls-timeout", "tcp", peer.peer),
    ):
        assert peer.rest()[0] == b""


def test_half_a_client_hello(wire: Wire, farm: Farm) -> None:
    with (
        takes("tls-deadline-s"),
        tcp_peer(wire.client, wire.SERVER4) as peer,
        farm.refuses("tls-timeout", "tcp", peer.peer),
    ):
        peer.send(b"\x16\x03\x01\x02\x00\x01")
        assert peer.rest()[0] == b""


@pytest.mark.parametrize("part", [b"", REQUEST[:40]], ids=["nothing", "half a request"])
def test_silence_before_http(wire: Wire, farm: Farm, part: bytes) -> None:
    with (
        takes("http-deadline-s"),
        tls_peer(wire.client, wire.SERVER4) as peer,
        farm.refuses("http-timeout", "tls", peer.peer),
    ):
        if part:
            peer.send(part)
        assert peer.rest()[0] == b""


def test_trickling_request_does_not_move_the_deadline(wire: Wire, farm: Farm) -> None:
    with (
        takes("http-deadline-s"),
        tls_peer(wire.client, wire.SERVER4) as peer,
        farm.refuses("http-timeout", "tls", peer.peer),
    ):
        ended = False
        for at in range(len(REQUEST) - 4):
            try:
                peer.send(REQUEST[at : at + 1])
                peer.stream.receive(0.1)
            except StreamEndError as end:
                if end.how != "timeout":
                    ended = True
                    break
        assert ended


@pytest.mark.parametrize("part", [b"", GOOD_REQUEST[:9]], ids=["nothing", "half a message"])
def test_silence_before_the_call_connect_request(wire: Wire, farm: Farm, part: bytes) -> None:
    with tls_peer(wire.client, wire.SERVER4) as peer, farm.refuses("connect-request-timeout", "http", peer.peer):
        started = time.monotonic()
        with takes("connect-request-deadline-s"):
            peer.open_http()
            if part:
                peer.send(part)
            abort = peer.expect(lambda came: came.kind == ABORT)
        assert abort.status == NEGOTIATION_TIMEOUT
        if part:
            return
        # ABORT_1: without our answer the server closes after 3 s
        assert peer.packets_until_end()[1] == "close-notify"
        both = DEADLINES["connect-request-deadline-s"] + 3
        assert both <= time.monotonic() - started <= both + LATE


def test_silence_in_lcp(wire: Wire, farm: Farm) -> None:
    with tls_peer(wire.client, wire.SERVER4) as peer, farm.refuses("negotiation-timeout", "sstp", peer.peer):
        peer.open_http()
        with takes("negotiation-deadline-s"):
            peer.call_connect()
            peer.control(ABORT)
        peer.close()


@pytest.mark.parametrize("method", ["pap", "mschap2"])
def test_silence_in_authentication(wire: Wire, farm: Farm, method: str) -> None:
    mark = farm.log.mark()
    with tls_peer(wire.client, wire.SERVER4) as peer, farm.refuses("auth-timeout", "lcp", peer.peer):
        peer.open_http()
        peer.call_connect()
        with takes("authentication-deadline-s"):
            peer.open_lcp(method)
            if method == "mschap2":
                peer.frame(CHAP, 1)
            terminate = peer.frame(LCP, TERM_REQ)
        peer.put_back(terminate)
        assert b"took too long" in peer.answer_disconnect()
        assert farm.wait_event("login.refused", mark, peer=peer.peer)["reason"] == "auth-timeout"


def test_silence_instead_of_call_connected(wire: Wire, farm: Farm) -> None:
    with tls_peer(wire.client, wire.SERVER4) as peer, farm.refuses("negotiation-timeout", "authentication", peer.peer):
        peer.until_authenticated()
        peer.answer_abort(NEGOTIATION_TIMEOUT)
    farm.idle()


def test_silence_in_ipcp(wire: Wire, farm: Farm) -> None:
    """Everything but a network protocol: only the deadline of the whole login ends it."""
    started = time.monotonic()
    with tls_peer(wire.client, wire.SERVER4) as peer, farm.refuses("login-deadline", "binding", peer.peer):
        peer.until_authenticated()
        peer.send(peer.call_connected())
        peer.answer_abort(NEGOTIATION_TIMEOUT)
        assert DEADLINES["login-deadline-s"] <= time.monotonic() - started
    farm.idle()


@pytest.mark.parity("ros-server/keepalive-timeout")
def test_silence_in_a_session(wire: Wire, farm: Farm) -> None:
    """keepalive-timeout T: an Echo Request at T, again each second, at 2 T the end, without Call Abort."""
    mark = farm.log.mark()
    with (
        farm.counts("sstpfarm_session_ends_total", reason="peer-dead"),
        tls_peer(wire.client, wire.SERVER4) as peer,
    ):
        peer.open_session()
        started = time.monotonic()
        assert peer.ping()
        peer.expect(lambda came: came.kind == ECHO_REQUEST)
        assert 2 <= time.monotonic() - started <= 2 + LATE
        packets, how = peer.packets_until_end()
        assert 4 <= time.monotonic() - started <= 4 + LATE
        assert {came.kind for came in packets} <= {0, ECHO_REQUEST}
        assert how in {"eof", "reset"}
        assert farm.wait_event("session.closed", mark, peer=peer.peer)["reason"] == "peer-dead"
    farm.idle()


def test_echo_response_keeps_a_session(wire: Wire, farm: Farm) -> None:
    with tls_peer(wire.client, wire.SERVER4) as peer:
        peer.open_session()
        peer.linger(5)  # longer than 2 T
        assert peer.ping()
        peer.disconnect()
    farm.idle()


@pytest.mark.parity("ros-client/keepalive-timeout")
@pytest.mark.parametrize(("option", "ends"), [("1", True), ("disabled", False)])
def test_silence_of_the_server(wire: Wire, farm: Farm, option: str, ends: bool) -> None:
    """Our client too leaves a peer from which nothing came for 2 T; when that is disabled, it waits."""
    options = (*TRUST_ANY, "--no-default-route", "--interface", "sstp0", "--keepalive-timeout", option)
    with connecting(wire.client, wire.SERVER4, *options) as client:
        client.up()
        (session,) = farm.sessions()
        worker = farm.worker_pids()[session["worker"]]
        stopped = time.monotonic()
        os.kill(worker, signal.SIGSTOP)
        try:
            if ends:
                code, closed = client.end()
                assert (code, closed["reason"]) == (ExitCode.NETWORK, "peer-dead")
                assert 1.0 <= time.monotonic() - stopped <= 2 + LATE + 1  # it asked within the second before already
            else:
                with pytest.raises(subprocess.TimeoutExpired):
                    client.process.wait(2.5)
        finally:
            os.kill(worker, signal.SIGCONT)
        if not ends:
            assert wire.client.ping(GATEWAY)
            client.stop()
    farm.idle()
