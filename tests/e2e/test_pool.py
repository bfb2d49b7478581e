"""An interface that serves one user after another: nothing of the first reaches the second.

+-- client -------+           +-- server ---------------------------------+
| raw peers,      |---veth----| one worker, stopped while the queue fills |
| one by one      |           | sstp0 10.20.0.1: a UDP socket that floods |
+-----------------+           +-------------------------------------------+
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from sstpfarm.master.warm import REST

from .bytestream import StreamEndError
from .farm import Farm, running
from .frames import IPV4
from .netns import Wire, until
from .rawpeer import RawPeer, tls_peer

FLOOD = 3000  # datagrams; the interface's queue holds 500
SLACK = 0.5  # seconds: the interface begins to rest a moment before we see it, or a moment after


@pytest.fixture(scope="module")
def farm(wire: Wire) -> Iterator[Farm]:
    """A farm with one worker, whose every session gets the interface of the one before once that has rested."""
    with running(wire.server, server={"authentication": ["pap"], "workers": 1}) as made:
        yield made


def arrived(peer: RawPeer, seconds: float = 0.5) -> list[bytes]:
    """The IPv4 packets that come, until none has come for that time."""
    found = []
    try:
        while True:
            found.append(peer.expect(lambda came: came.protocol == IPV4, seconds).information)
    except StreamEndError as end:
        if end.how != "timeout":
            raise
    return found


def test_nothing_of_one_user_reaches_the_next(wire: Wire, farm: Farm) -> None:
    worker = farm.worker_pids()[0]
    with farm.place.open_socket(kind=socket.SOCK_DGRAM) as source:
        with tls_peer(wire.client, wire.SERVER4) as old:
            old.open_session("user1")
            assert old.ping()
            (first,) = farm.sessions()
            os.kill(worker, signal.SIGSTOP)
            try:
                for number in range(FLOOD):
                    source.sendto(b"for user1 only %d" % number, (old.address, 5353))
                old.close()
            finally:
                os.kill(worker, signal.SIGCONT)
        farm.idle()
        assert farm.tunnels() == set()
        assert first["interface"] in farm.place.links()
        with pytest.raises(OSError, match="unreachable"):
            source.sendto(b"late, for user1", (old.address, 5353))

        time.sleep(REST + SLACK)
        with tls_peer(wire.client, wire.SERVER4) as new:
            new.open_session("user2")
            (second,) = farm.sessions()
            assert second["interface"] == first["interface"]
            assert second["address"] != first["address"]
            assert [second[key] for key in ("bytes_in", "bytes_out", "packets_in", "packets_out")] == [0] * 4
            assert arrived(new) == []
            source.sendto(b"for user2", (new.address, 5353))
            packet = new.expect(lambda came: came.protocol == IPV4).information
            assert packet.endswith(b"for user2")
            assert arrived(new) == []
            (second,) = farm.sessions()
            assert (second["packets_in"], second["packets_out"]) == (0, 1)
            new.disconnect()
    farm.idle()


def test_interfaces_are_used_again_with_what_each_session_agreed(wire: Wire, farm: Farm) -> None:
    seen = set()
    for user in ("user1", "user2", "user3", "user4"):
        time.sleep(REST + SLACK)
        with tls_peer(wire.client, wire.SERVER4) as peer:
            peer.open_session(user)
            (session,) = farm.sessions()
            seen.add(session["interface"])
            (link,) = farm.place.ip("address", "show", "dev", session["interface"])
            peers = [address["address"] for address in link["addr_info"] if address["family"] == "inet"]
            assert peers == [peer.address]
            assert link["mtu"] == session["mtu"]
            assert peer.ping()
            peer.disconnect()
        farm.idle()
        until(lambda: farm.tunnels() == set(), "the interface waits")
    assert len(seen) == 1
