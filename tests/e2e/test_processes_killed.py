"""`kill -9` of auth and of the master: sessions outlive auth; nothing outlives the master.

+-- client ---------+           +-- server --------------------+
| raw peers         |---veth----| master    auth    workers    |
+-------------------+           +------------------------------+
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from .farm import Farm, running
from .netns import Wire, until, wired
from .rawpeer import tls_peer


def test_auth_killed(wire: Wire, farm: Farm) -> None:
    with tls_peer(wire.client, wire.SERVER4) as old:
        old.open_session("user1")
        mark, pid = farm.log.mark(), farm.auth_pid()
        os.kill(pid, signal.SIGKILL)
        assert farm.wait_event("auth.lost", mark)["pid"] == pid
        # a login that begins meanwhile waits for the new auth, and gets another address than the old session
        with tls_peer(wire.client, wire.SERVER4) as new:
            new.open_session("user2")
            assert new.ping()
            assert old.ping()
            assert new.address != old.address
            assert farm.lease_count() == 2
            new.disconnect()
        assert farm.auth_pid() != pid
        assert old.ping()
        old.disconnect()
    farm.idle()


def test_master_killed() -> None:
    """Workers and auth end with their master; the next farm removes what it left before it serves."""
    server = {"authentication": ["pap"]}
    with wired() as wire, running(wire.server, server=server, orderly=False) as farm:
        with tls_peer(wire.client, wire.SERVER4) as peer:
            peer.open_session()
            (session,) = farm.sessions()
            pids = [farm.auth_pid(), *farm.worker_pids().values()]
            farm.process.kill()
            farm.process.wait(10)
            assert peer.rest()[1] in {"eof", "reset"}
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "auth and the workers are gone", 3)
        with running(wire.server, server=server, state=farm.state) as again:
            again.links_before, again.routes_before = farm.links_before, farm.routes_before
            assert session["interface"] not in wire.server.links()
            again.idle()
            with tls_peer(wire.client, wire.SERVER4) as peer:
                peer.open_session()
                assert peer.ping()
                peer.disconnect()
