"""`kill -9` of our client, and a peer that vanishes: nothing is left at either end.

+-- client -------------+           +-- server ------+
| sstpfarm connect      |---veth----| sstpfarm serve |
+-----------------------+           +----------------+
"""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from .bytestream import TcpStream
from .client import TRUST_ANY, Client, connecting
from .farm import GATEWAY, Farm, running
from .frames import DISCARD_REQUEST, ECHO_REQUEST, LCP, message, ppp
from .netns import PATIENCE, Wire, until, wired
from .rawpeer import tls_peer


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(found for child in children for found in family(int(child)))]


def reaped(pids: list[int], client: Client) -> bool:
    """Whether none of these processes runs any more."""
    client.process.poll()
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize("half", ["parent", "child"])
def test_client_killed(wire: Wire, farm: Farm, half: str) -> None:
    links, routes = wire.client.links(), wire.client.routes()
    mark = farm.log.mark()
    # the route to the server itself, beside the default route, has nobody left to remove it when the parent is killed
    extra = ["--no-default-route"] if half == "parent" else []
    with connecting(wire.client, wire.SERVER4, *TRUST_ANY, "--interface", "sstp0", *extra) as client:
        client.up()
        assert wire.client.ping(GATEWAY)
        pids = family(client.process.pid)
        assert len(pids) == 2, "a privileged parent and an unprivileged child"
        os.kill(pids[0 if half == "parent" else 1], signal.SIGKILL)
        until(lambda: reaped(pids, client), "both halves are gone")
        closed = farm.wait_event("session.closed", mark)
        assert closed["reason"] == "transport-lost"
        if half == "child":
            assert client.end()[0] != 0
    until(lambda: wire.client.links() == links, "the client's interface is gone")
    until(lambda: wire.client.routes() == routes, "the client's routes are gone")
    farm.idle()


def test_next_client_removes_the_route_that_a_killed_one_left(wire: Wire, farm: Farm) -> None:
    """The privileged half alone can remove the route to the server, and it was killed."""
    routes = wire.client.routes()
    with connecting(wire.client, wire.SERVER4, *TRUST_ANY) as client:
        client.up()
        pids = family(client.process.pid)
        os.kill(pids[0], signal.SIGKILL)
        until(lambda: reaped(pids, client), "both halves are gone")
    with connecting(wire.client, wire.SERVER4, *TRUST_ANY) as client:
        client.up()
        client.stop()
    until(lambda: wire.client.routes() == routes, "all routes of ours are gone")
    farm.idle()


def test_raw_peer_vanishes(wire: Wire, farm: Farm) -> None:
    mark = farm.log.mark()
    with (
        farm.counts("sstpfarm_session_ends_total", reason="transport-lost"),
        tls_peer(wire.client, wire.SERVER4) as peer,
    ):
        peer.open_session()
        assert peer.ping()
        (session,) = farm.sessions()
        assert session["interface"] in farm.tunnels()
        peer.close()
        closed = farm.wait_event("session.closed", mark, peer=peer.peer)
        assert closed["reason"] == "transport-lost"
    farm.idle()


def test_peers_that_reset_the_connection() -> None:
    """A TCP reset right behind data is noticed at once, not when the keepalive misses the peer after a minute.

    (libuv reports it as a poll error, and uvloop's add_reader then never calls its callback again.)
    """
    server = {"authentication": ["pap"], "ipv6": False}  # whose repeated requests could find out by chance
    with wired() as wire, running(wire.server, server=server) as farm, ExitStack() as stack:
        peers = [stack.enter_context(tls_peer(wire.client, wire.SERVER4)) for _ in range(12)]
        for peer in peers:
            peer.open_session()
        for peer in peers:
            assert isinstance(peer.stream, TcpStream)
            peer.send(message(ECHO_REQUEST))
            assert select.select([peer.stream.sock], [], [], PATIENCE)[0], "the answer is there"
            peer.send(ppp(LCP, DISCARD_REQUEST, 1, bytes(4)))  # nobody answers that (RFC 1661 5.9)
            peer.close()  # with the answer unread: the kernel sends a reset instead of a FIN (RFC 2525 2.17)
        deadline = time.monotonic() + 20
        for peer in peers:
            left = max(0.0, deadline - time.monotonic())
            closed = farm.wait_event("session.closed", patience=left, peer=peer.peer)
            assert closed["reason"] == "transport-lost"
        farm.idle()
