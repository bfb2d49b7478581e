"""The orderly ends that the server begins: kick, and SIGTERM of the whole farm.

+-- client -------------------+           +-- server ------+
| sstpfarm connect, raw peers |---veth----| sstpfarm serve |
+-----------------------------+           +----------------+
"""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack

from sstpfarm.reasons import ExitCode

from .client import TRUST_ANY, connecting
from .farm import Farm, running
from .netns import PATIENCE, Wire, wired
from .rawpeer import RawPeer, tls_peer


def test_kick(wire: Wire, farm: Farm) -> None:
    mark = farm.log.mark()
    with (
        farm.counts("sstpfarm_session_ends_total", reason="admin-reset"),
        tls_peer(wire.client, wire.SERVER4) as peer,
        tls_peer(wire.client, wire.SERVER4) as other,
    ):
        peer.open_session("user1")
        other.open_session("user2")
        (session,) = (entry for entry in farm.sessions() if entry["user"] == "user1")
        farm.cli("kick", session["session"])
        assert b"administrator" in peer.answer_disconnect()
        kicked = farm.wait_event("session.kicked", mark)
        assert kicked["session"] == session["session"]
        assert farm.wait_event("session.closed", mark, user="user1")["reason"] == "admin-reset"
        assert [entry["user"] for entry in farm.sessions()] == ["user2"]
        assert other.ping()
        other.disconnect()
    farm.idle()


def test_kick_of_an_unknown_session(farm: Farm) -> None:
    done = farm.cli("kick", "0123456789abcdef", check=False)
    assert done.returncode != 0
    assert "0123456789abcdef" in done.stderr
    assert "Traceback" not in done.stderr


def test_kicked_client_says_so(wire: Wire, farm: Farm) -> None:
    with connecting(wire.client, wire.SERVER4, *TRUST_ANY, "--no-default-route") as client:
        client.up()
        farm.cli("kick", farm.sessions()[0]["session"])
        code, closed = client.end()
    assert code == ExitCode.OK
    assert closed["reason"] in {"peer-terminated", "peer-disconnect"}
    assert "administrator" in closed["text"] + closed["detail"]
    farm.idle()


def test_sigterm_disconnects_every_session() -> None:
    with ExitStack() as stack:
        wire = stack.enter_context(wired())
        links = wire.client.links()
        farm = stack.enter_context(running(wire.server, server={"authentication": ["mschap2", "pap"]}))
        peers = [stack.enter_context(tls_peer(wire.client, wire.SERVER4)) for _ in range(6)]
        for peer in peers:
            peer.open_session()
        waiting = stack.enter_context(tls_peer(wire.client, wire.SERVER4))  # a login that is under way ends too
        waiting.open_http()
        waiting.call_connect()
        client = stack.enter_context(connecting(wire.client, wire.SERVER4, *TRUST_ANY, "--no-default-route"))
        client.up()
        texts: list[bytes] = []

        def answer(peer: RawPeer) -> None:
            texts.append(peer.answer_disconnect())

        threads = [threading.Thread(target=answer, args=(peer,)) for peer in [*peers, waiting]]
        for thread in threads:
            thread.start()
        farm.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(PATIENCE)
        assert len(texts) == 7
        assert all(b"shutting down" in text for text in texts), texts
        code, closed = client.end()
        assert code == ExitCode.OK
        assert closed["reason"] in {"peer-terminated", "peer-disconnect"}
        farm.stop()
        assert len(farm.log.find("session.closed", reason="shutdown")) == 7
        assert wire.client.links() == links


def test_sigterm_does_not_wait_for_the_deaf() -> None:
    """Peers that answer nothing cannot hold the farm up (DISCONNECT_1 is 5 s)."""
    with ExitStack() as stack:
        wire = stack.enter_context(wired())
        farm = stack.enter_context(running(wire.server, server={"authentication": ["mschap2", "pap"]}))
        peer = stack.enter_context(tls_peer(wire.client, wire.SERVER4))
        peer.open_session()
        farm.process.send_signal(signal.SIGTERM)
        assert farm.process.wait(30) == 0
