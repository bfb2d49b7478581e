"""transport/outlet.py: what the kernel holds of a connection whose way is slow."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct

import pytest

from sstpfarm.transport.outlet import UNSENT, Outlet
from sstpfarm.transport.poller import Poller
from tests.unit.test_poller import tcp_pair

SIOCOUTQNSD = 0x894B  # linux/sockios.h: bytes not sent yet
BATCH = 4096


def unsent(sock: socket.socket) -> int:
    return int(struct.unpack("i", fcntl.ioctl(sock, SIOCOUTQNSD, bytes(4)))[0])


@pytest.mark.parametrize(("held", "most"), [(BATCH, 2 * BATCH), (UNSENT, 256 * 1024)])
def test_what_the_kernel_holds_unsent(held: int, most: int) -> None:
    """TCP_NOTSENT_LOWAT alone is no bound: what is sent grows into the last segment, up to half of the window."""

    async def scenario() -> None:
        poller = Poller(asyncio.get_running_loop())
        sock, peer = tcp_pair()
        outlet = Outlet(poller, sock, lambda: None, lambda: None)
        outlet.hold(held)
        for _ in range(10_000):
            outlet.put(bytes(BATCH))
            if outlet.pending:
                break
        assert outlet.pending
        assert held <= unsent(sock) <= most
        outlet.close()
        poller.close()
        sock.close()
        peer.close()

    asyncio.run(scenario())
