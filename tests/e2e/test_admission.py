"""Hosts that finish TLS, say nothing and come again keep nobody else out.

+-- client -------------------------+           +-- server --------------------------------+
| silent peers, refilled: 10.99.1.2 |           | sstpfarm serve: one worker, 60 places    |
|   later from three addresses more |---veth----|   for connections that have not logged   |
| logins: 10.99.1.11 to .20         |           |   in, at most 20 for one address         |
+-----------------------------------+           +------------------------------------------+
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from .bytestream import StreamEndError, tls_context
from .farm import PORT, Farm, running
from .netns import Namespace, Wire, wired
from .rawpeer import tls_peer

ATTACKERS = (Wire.CLIENT4, "10.99.1.3", "10.99.1.4", "10.99.1.5")
OTHERS = tuple(f"10.99.1.{number}" for number in range(11, 21))
PLACES, OF_ONE = 60, 20
SETTINGS = {"workers": 1, "authentication": ["pap"], "max-starting": PLACES, "http-deadline-s": 3}
AFTER_DEADLINE = 3.5  # seconds: then the server has let go of a silent connection
PAUSE = 0.01  # seconds between two attempts of one attacker
REFUSED = (ConnectionError, TimeoutError, ssl.SSLError, StreamEndError)


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    """The client has many addresses."""
    with wired() as made:
        for address in (*ATTACKERS[1:], *OTHERS):
            made.client.run("ip", "address", "add", f"{address}/24", "dev", "uplink")
        yield made


@contextmanager
def attack(place: Namespace, *sources: str) -> Iterator[None]:
    """From each address: connections that end at TLS, as many as the server takes, each held past its deadline."""
    over = threading.Event()
    context = tls_context()

    def run(source: str) -> None:
        held: deque[tuple[float, socket.socket]] = deque()
        while not over.wait(PAUSE):
            while held and held[0][0] <= time.monotonic():
                held.popleft()[1].close()
            sock = place.dial(Wire.SERVER4, PORT, source=source)
            try:
                sock = context.wrap_socket(sock)
            except REFUSED:
                sock.close()
            else:
                held.append((time.monotonic() + AFTER_DEADLINE, sock))
        for _, sock in held:
            sock.close()

    threads = [threading.Thread(target=run, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def logins(wire: Wire) -> list[bool]:
    """Whether a login works from each of the other addresses, one after the other."""
    found = []
    for source in OTHERS:
        try:
            with tls_peer(wire.client, wire.SERVER4, source=source) as peer:
                peer.open_session()
                assert peer.ping()
                peer.disconnect()
            found.append(True)
        except REFUSED:
            found.append(False)
    return found


def dropped(farm: Farm, reason: str) -> float:
    """How many connections that rule has dropped."""
    return farm.metric("sstpfarm_connections_total", outcome=reason)


def test_others_log_in_beside_hosts_that_refill(wire: Wire) -> None:
    """First one host, which the limit of a source stops; then four, which share what is taken before the early drop."""
    with running(wire.server, server={**SETTINGS, "max-starting-per-source": OF_ONE}) as farm:
        with attack(wire.client, ATTACKERS[0]):
            told = farm.wait_event("connections.dropped")
            assert (told["reason"], told["source"], told["worker"]) == ("source-limit", ATTACKERS[0], 0)
            assert (
                OF_ONE / 2 < told["source_starting"] == told["starting"] <= OF_ONE
            )  # some may have met their deadline
            assert 0 < told["count"] <= dropped(farm, "source-limit")
            assert logins(wire) == [True] * len(OTHERS)
            assert dropped(farm, "early-drop") == 0
        with attack(wire.client, *ATTACKERS):
            told = farm.wait_event("connections.dropped", reason="early-drop")
            assert PLACES / 2 < told["starting"] <= PLACES
            assert told["source"] in ATTACKERS
            assert logins(wire) == [True] * len(OTHERS)
        assert dropped(farm, "starting-limit") == dropped(farm, "session-limit") == 0
        assert len(farm.log.find("connections.dropped")) == 2  # one for each rule in a minute


def test_sources_that_are_not_told_apart_share_all_places(wire: Wire) -> None:
    """As behind a balancer, where it must be so; and what the attack does then shows that it is one."""
    with (
        running(wire.server, server={**SETTINGS, "max-starting-per-source": "disabled"}) as farm,
        attack(wire.client, ATTACKERS[0]),
    ):
        told = farm.wait_event("connections.dropped")
        assert told["reason"] == "starting-limit"
        assert PLACES / 2 < told["source_starting"] == told["starting"] <= PLACES
        assert not all(logins(wire))
        assert dropped(farm, "source-limit") == dropped(farm, "early-drop") == 0


def test_a_place_is_held_until_the_login_or_the_end(wire: Wire) -> None:
    """One place for each source: a session holds none, a silent peer its own, a neighbour in a /64 of IPv6 the same."""
    server = {**SETTINGS, "http-deadline-s": 60, "max-starting-per-source": 1}
    with running(wire.server, server=server) as farm, ExitStack() as held:
        for user in ("user1", "user2", "user3"):
            peer = held.enter_context(tls_peer(wire.client, wire.SERVER4))
            peer.open_session(user)
            assert peer.ping()  # the worker has counted the session as opened
        for _ in range(3):
            with tls_peer(wire.client, wire.SERVER4) as silent, farm.refuses("transport-lost", "tls", silent.peer):
                silent.close()
        held.enter_context(tls_peer(wire.client, wire.SERVER4))
        wire.client.run("ip", "address", "add", "fd99:1::3/64", "dev", "uplink", "nodad")
        held.enter_context(tls_peer(wire.client, wire.SERVER6, source=wire.CLIENT6))
        for host, source in ((wire.SERVER4, wire.CLIENT4), (wire.SERVER6, "fd99:1::3")):
            with (
                farm.counts("sstpfarm_connections_total", outcome="source-limit"),
                pytest.raises(REFUSED),
                tls_peer(wire.client, host, source=source),
            ):
                pass
        peer = held.enter_context(tls_peer(wire.client, wire.SERVER4, source=OTHERS[0]))
        peer.open_session("user4")
        assert peer.ping()
