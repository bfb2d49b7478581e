"""`kill -9` of auth and of the master, and a worker that hangs: what outlives it, and what follows.

+-- client ---------+           +-- server --------------------+
| raw peers         |---veth----| master    auth    workers    |
+-------------------+           +------------------------------+
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

from sstpfarm.net.shared import NAME as SHARED

from .farm import Farm, running
from .netns import PATIENCE, Wire, until, wired
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


def test_auth_stays_away() -> None:
    """Sessions do not need auth; logins wait 5 s for it, then they are told; with auth come logins again."""
    server = {"authentication": ["pap"]}
    with wired() as wire, running(wire.server, server=server, orderly=False) as farm:
        files, aside = farm.state / "auth", farm.state / "aside"
        with tls_peer(wire.client, wire.SERVER4) as old:
            old.open_session("user1")
            files.rename(aside)
            files.mkdir()
            (files / "auth.sqlite3").write_text("no database")
            mark = farm.log.mark()
            os.kill(farm.auth_pid(), signal.SIGKILL)
            farm.wait_event("auth.lost", mark)
            with tls_peer(wire.client, wire.SERVER4) as waiting, farm.refuses("auth-unavailable", "lcp", waiting.peer):
                waiting.open_http()
                waiting.call_connect()
                waiting.open_lcp("pap")
                began = time.monotonic()
                waiting.send_pap("user2")
                waiting.answer_disconnect()
                assert 3 < time.monotonic() - began < 20
            assert old.ping()
            shutil.rmtree(files)
            aside.rename(files)
            farm.wait_event("auth.ready", mark, patience=PATIENCE)
            with tls_peer(wire.client, wire.SERVER4) as new:
                new.open_session("user3")
                assert new.address != old.address
                new.disconnect()
            assert old.ping()
            old.disconnect()
        farm.idle()


def test_worker_hangs() -> None:
    """The watchdog ends a worker that does not answer for 10 s: its sessions are gone, its successor serves."""
    with wired() as wire, running(wire.server, server={"authentication": ["pap"], "workers": 1}) as farm:
        with tls_peer(wire.client, wire.SERVER4) as peer:
            peer.open_session("user1")
            (session,) = farm.sessions()
            mark, pid = farm.log.mark(), farm.worker_pids()[0]
            os.kill(pid, signal.SIGSTOP)
            assert farm.wait_event("worker.unresponsive", mark, patience=PATIENCE)["pid"] == pid
            assert farm.wait_event("worker.lost", mark)["sessions"] == 1
            assert farm.wait_event("session.closed", mark)["reason"] == "worker-lost"
            assert peer.rest()[1] in {"eof", "reset"}
        until(lambda: session["interface"] not in farm.place.links(), "the interface is gone")
        farm.wait_event("worker.ready", mark)
        with tls_peer(wire.client, wire.SERVER4) as peer:
            peer.open_session("user1")
            assert peer.ping()
            peer.disconnect()
        farm.idle()


def test_master_killed() -> None:
    """Workers and auth end with their master; the next farm removes what it left before it serves."""
    server = {"authentication": ["pap"]}
    with wired() as wire, running(wire.server, server=server, orderly=False) as farm:
        with tls_peer(wire.client, wire.SERVER4) as peer, tls_peer(wire.client, wire.SERVER4) as before:
            before.open_session("user1")
            peer.open_session()
            before.disconnect()  # its interface waits for another session
            until(lambda: len(farm.sessions()) == 1, "one session is left")
            (session,) = farm.sessions()
            left = farm.place.links() - farm.links_before - {SHARED}
            assert len(left) == 2
            pids = [farm.auth_pid(), *farm.worker_pids().values()]
            farm.process.kill()
            farm.process.wait(PATIENCE)
            assert peer.rest()[1] in {"eof", "reset"}
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "auth and the workers are gone", 15)
        with running(wire.server, server=server, state=farm.state) as again:
            again.links_before, again.routes_before = farm.links_before, farm.routes_before
            assert session["interface"] in left
            assert not left & wire.server.links()
            again.idle()
            with tls_peer(wire.client, wire.SERVER4) as peer:
                peer.open_session()
                assert peer.ping()
                peer.disconnect()
