"""Peers that come and go, and that vanish at every step of a login: nothing adds up, nothing is left.

+-- client -------------+           +-- server ------+
| raw peers, in turn    |---veth----| sstpfarm serve |
+-----------------------+           +----------------+
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .farm import Farm, running
from .frames import GOOD_REQUEST, REQUEST
from .netns import Wire, until
from .rawpeer import RawPeer, tls_peer

ROUNDS = 8


@pytest.fixture(scope="module")
def farm(wire: Wire) -> Iterator[Farm]:
    """A farm with twenty addresses."""
    pools = {"main": {"ranges": ["10.20.0.2-10.20.0.21"]}}
    with running(wire.server, server={"authentication": ["pap"]}, pools=pools) as made:
        yield made


def descriptors(farm: Farm) -> dict[int, int]:
    """How many descriptors each process of the farm has open; the master beside those of free interfaces."""
    pids = [farm.process.pid, farm.auth_pid(), *farm.worker_pids().values()]
    found = {pid: len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids}
    found[farm.process.pid] -= len(farm.resting())
    return found


def settled(farm: Farm) -> dict[int, int]:
    """The same, once it stays: what asked for the metrics a moment ago is still being closed."""
    farm.idle()
    found: list[dict[int, int]] = []

    def stays() -> bool:
        found.append(descriptors(farm))
        return found[-5:] == 5 * found[-1:]

    until(stays, "the number of descriptors stays")
    return found[-1]


def settles(farm: Farm, before: dict[int, int]) -> None:
    """Assert that sessions, leases, interfaces and descriptors are as before."""
    farm.idle()
    assert farm.sessions() == []
    until(lambda: descriptors(farm) == before, f"descriptors as before: {before}")
    assert not farm.log.find("ipc.violation")
    assert not farm.log.find("internal.error")


def half_a_request(peer: RawPeer) -> None:
    """HTTP has begun."""
    peer.send(REQUEST[:50])


def call_accepted(peer: RawPeer) -> None:
    """SSTP has begun."""
    peer.open_http()
    peer.call_connect()


def proof_sent(peer: RawPeer) -> None:
    """PAP, without waiting for the answer."""
    call_accepted(peer)
    peer.open_lcp("pap")
    peer.send_pap()


def bound(peer: RawPeer) -> None:
    """Authenticated and Call Connected sent: the interface is being made just now."""
    peer.until_authenticated()
    peer.send(peer.call_connected())


def in_a_hurry(peer: RawPeer) -> None:
    """Everything up to Call Connected in as few writes as can be."""
    peer.send(REQUEST, GOOD_REQUEST)
    peer.read_head()
    peer.take_ack()
    peer.open_lcp("pap")
    peer.send(peer.call_connected())
    peer.send_pap()


def with_traffic(peer: RawPeer) -> None:
    """A session that works."""
    peer.open_session()
    assert peer.ping()


STEPS: dict[str, Callable[[RawPeer], None]] = {
    "TLS": lambda peer: None,
    "half a request": half_a_request,
    "HTTP": RawPeer.open_http,
    "Call Connect Ack": call_accepted,
    "proof sent": proof_sent,
    "authenticated": RawPeer.until_authenticated,
    "Call Connected": bound,
    "in a hurry": in_a_hurry,
    "traffic": with_traffic,
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
def test_peers_that_vanish(wire: Wire, farm: Farm, step: Callable[[RawPeer], None]) -> None:
    before = settled(farm)
    for _ in range(ROUNDS):
        with tls_peer(wire.client, wire.SERVER4) as peer:
            step(peer)
            peer.close()
    with ExitStack() as stack:  # and all at once
        peers = [stack.enter_context(tls_peer(wire.client, wire.SERVER4)) for _ in range(ROUNDS)]
        for peer in peers:
            step(peer)
    settles(farm, before)


def test_orderly_churn(wire: Wire, farm: Farm) -> None:
    """Thirty sessions in turn: each is served, and its address serves again."""
    before = settled(farm)
    addresses = set()
    with farm.counts("sstpfarm_connections_total", by=30, outcome="opened"):
        for _ in range(30):
            with tls_peer(wire.client, wire.SERVER4) as peer:
                peer.open_session()
                addresses.add(peer.address)
                assert peer.ping()
                peer.disconnect()
    settles(farm, before)
    assert len(addresses) <= 20
