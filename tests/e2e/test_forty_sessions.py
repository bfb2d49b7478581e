"""Forty clients at once: both workers serve, each client has its own address, all packets find their way.

+-- client ------------------+            +-- server ----------------+
| f1 10.20.0.a ... f40       |==tunnels==>| worker 0   worker 1      |
| uplink 10.99.1.2           |----veth----| downlink 10.99.1.1:443   |
+----------------------------+            +--------------------------+
"""

from __future__ import annotations

from contextlib import ExitStack

from .client import TRUST_ANY, connecting
from .farm import GATEWAY, running, users
from .netns import Wire

COUNT = 40


def test_forty_sessions_over_two_workers(wire: Wire) -> None:
    links = wire.client.links()
    with running(wire.server, secrets=users(COUNT)) as farm, ExitStack() as stack:
        clients = [
            stack.enter_context(
                connecting(
                    wire.client, wire.SERVER4, *TRUST_ANY, "--no-default-route", "--interface", f"f{number}",
                    user=f"user{number}",
                )
            )
            for number in range(1, COUNT + 1)
        ]  # fmt: skip
        ups = [client.up(90) for client in clients]
        addresses = {up["local_address"] for up in ups}
        assert len(addresses) == COUNT

        sessions = farm.sessions()
        assert {session["address"] for session in sessions} == addresses
        assert {session["user"] for session in sessions} == {f"user{number}" for number in range(1, COUNT + 1)}
        assert {session["worker"] for session in sessions} == {0, 1}
        assert len(farm.tunnels()) >= COUNT
        assert farm.metric("sstpfarm_sessions") == COUNT
        for up in ups:
            assert wire.client.ping(GATEWAY, "-I", up["interface"])

        for client in clients:
            client.process.terminate()
        for client in clients:
            code, closed = client.end()
            assert (code, closed["reason"]) == (0, "user-request"), closed
        farm.idle()
        assert farm.metric("sstpfarm_sessions") == 0
        assert wire.client.links() == links
