"""`kill -9` of a worker: its sessions end, all else goes on.

+-- client ---------+           +-- server -----------------+
| raw peers on      |---veth----| worker 0      worker 1    |
| both workers      |           | lives on      killed      |
+-------------------+           +---------------------------+
"""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack

import pytest

from sstpfarm.reasons import ExitCode

from .client import TRUST_ANY, connecting
from .farm import Farm, Samples
from .netns import Wire, until
from .rawpeer import RawPeer, tls_peer

COUNTERS = ("_total", "_count", "_sum", "_bucket")


def counters(samples: Samples) -> Samples:
    """The samples that may never go back."""
    return {key: value for key, value in samples.items() if key[0].endswith(COUNTERS)}


def peers_on_both_workers(stack: ExitStack, wire: Wire, farm: Farm) -> dict[int, list[RawPeer]]:
    """Raw sessions until each of the two workers has two of them; the kernel chooses the worker."""
    found: dict[int, list[RawPeer]] = {0: [], 1: []}
    for _ in range(40):
        if min(map(len, found.values())) >= 2:
            return found
        peer = stack.enter_context(tls_peer(wire.client, wire.SERVER4))
        mark = farm.log.mark()
        peer.open_session()
        found[farm.wait_event("session.opened", mark, peer=peer.peer)["worker"]].append(peer)
    raise AssertionError(f"the kernel gave one worker everything: {found}")


@pytest.mark.parametrize("victim", [0, 1])
def test_worker_killed(wire: Wire, farm: Farm, victim: int) -> None:
    with ExitStack() as stack:
        peers = peers_on_both_workers(stack, wire, farm)
        survivors, victims = peers[1 - victim], peers[victim]
        for peer in survivors + victims:
            assert peer.ping()
        before = farm.sessions()
        lost = {entry["interface"] for entry in before if entry["worker"] == victim}
        kept = {entry["interface"] for entry in before} - lost
        counted = counters(farm.metrics())
        mark = farm.log.mark()
        pid = farm.worker_pids()[victim]

        os.kill(pid, signal.SIGKILL)
        gone = farm.wait_event("worker.lost", mark, worker=victim)
        assert (gone["pid"], gone["sessions"]) == (pid, len(victims))
        farm.wait_event("listener.lent", mark, worker=1 - victim)

        # a new login works at any moment from the loss to the new worker's first session
        with tls_peer(wire.client, wire.SERVER4) as newcomer:
            newcomer.open_session("user1")
            assert newcomer.ping()
            newcomer.disconnect()
        for peer in survivors:
            assert peer.ping()
        for peer in victims:
            assert peer.rest()[1] in {"eof", "reset"}
        until(lambda: not (farm.tunnels() & lost), "the lost worker's interfaces are gone")
        assert kept <= farm.tunnels()
        until(lambda: {e["interface"] for e in farm.sessions()} == kept, "only the survivors are listed")
        for peer in victims:
            closed = farm.wait_event("session.closed", mark, peer=peer.peer)
            assert closed["reason"] == "worker-lost"

        again = farm.wait_event("worker.ready", mark, worker=victim)
        farm.wait_event("listener.taken_back", mark, worker=1 - victim)
        assert again["worker"] == victim
        assert farm.worker_pids()[victim] != pid
        now = counters(farm.metrics())
        for key, value in counted.items():
            assert now[key] >= value, (key, value, now[key])
        until(lambda: farm.metric("sstpfarm_workers_up") == 2, "two workers are up")
        assert farm.metric("sstpfarm_session_ends_total", reason="worker-lost") >= len(victims)

        # both workers serve again
        more = peers_on_both_workers(stack, wire, farm)
        for peer in [*more[0], *more[1], *survivors]:
            assert peer.ping()
            peer.disconnect()
    farm.idle()


def test_our_client_says_that_the_connection_was_lost(wire: Wire, farm: Farm) -> None:
    links, routes = wire.client.links(), wire.client.routes()
    mark = farm.log.mark()
    with connecting(wire.client, wire.SERVER4, *TRUST_ANY) as client:
        client.up()
        worker = farm.wait_event("session.opened", mark)["worker"]
        os.kill(farm.worker_pids()[worker], signal.SIGKILL)
        code, closed = client.end()
        assert (code, closed["reason"]) == (ExitCode.NETWORK, "transport-lost"), closed
    assert (wire.client.links(), wire.client.routes()) == (links, routes)
    farm.wait_event("worker.ready", mark, worker=worker)
    farm.idle()
