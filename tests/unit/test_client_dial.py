"""client/dial.py: how the unprivileged half reaches the server."""

from __future__ import annotations

import asyncio
import socket

import msgspec
import pytest
import uvloop

from sstpfarm.client.dial import Dialer
from sstpfarm.client.settings import ClientSettings
from sstpfarm.dataplane.select import choose
from sstpfarm.errors import PeerError
from sstpfarm.ipc import client_messages as c
from sstpfarm.ipc import messages as m
from sstpfarm.ipc.channel import Channel, channel_pair
from sstpfarm.ipc.permissions import Party, may_send
from sstpfarm.reasons import Reason
from sstpfarm.telemetry.stats import Stats


@pytest.fixture(params=["127.0.0.1", "::1"])
def closed_port(request: pytest.FixtureRequest) -> tuple[str, int]:
    """An address and a port of it on which nobody listens."""
    host = str(request.param)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.bind((host, 0))
        return host, int(sock.getsockname()[1])


async def dial(settings: ClientSettings, *addresses: str) -> c.TunnelClosed:
    """Dial these addresses; return how it ended."""
    ours, theirs = channel_pair()
    told: asyncio.Queue[m.Message] = asyncio.Queue()
    parent = Channel(ours, may_send(Party.CLIENT_PEER, Party.CLIENT), lambda said, _: told.put_nowait(said), print)
    parent.start(asyncio.get_running_loop())
    Dialer(settings, Stats.create(1), theirs, choose()).start()
    parent.send(c.Dial(addresses=addresses, port=settings.port))
    closed: m.Message = await asyncio.wait_for(told.get(), 30)
    while isinstance(closed, c.PhaseReached):
        closed = await asyncio.wait_for(told.get(), 30)
    parent.close()
    theirs.close()
    assert isinstance(closed, c.TunnelClosed)
    return closed


@pytest.mark.parametrize("name", ["vpn..example", f"{'x' * 64}.example", f"{'x.' * 200}example"])
def test_a_server_name_that_tls_does_not_take_ends_the_tunnel(name: str) -> None:
    """It used to wait for ever."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        settings = ClientSettings(host="127.0.0.1", port=port, user="u", password="p", insecure=True, server_name=name)
        closed = uvloop.run(dial(settings, "127.0.0.1"))
    assert closed.reason == "tls-failed"
    assert "is no server's name" in closed.detail


def test_each_address_that_fails_is_named_with_the_reason(closed_port: tuple[str, int]) -> None:
    host, port = closed_port
    settings = ClientSettings(host=host, port=port, user="u", password="p", insecure=True)
    closed = uvloop.run(dial(settings, host, host))
    assert closed.reason == "network-unreachable"
    said = f"{host} port {port}: Connection refused"
    assert closed.detail == f"{said}; {said}"


def test_nothing_that_a_server_says_moves_the_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent writes it on the operator's terminal; so it takes no control character from the other half either."""

    async def refuse(*_: object) -> None:
        raise PeerError("proxy: \x1b[2J\x9b2Jno\r\n\u202eway", reason=Reason.PROXY_REFUSED)

    monkeypatch.setattr("sstpfarm.client.outer.OuterPath.reach", refuse)
    settings = ClientSettings(host="127.0.0.1", port=1, user="u", password="p", insecure=True)
    assert uvloop.run(dial(settings, "127.0.0.1")).detail == "proxy: ?[2J?2Jno???way"


@pytest.mark.parametrize(
    "said",
    [
        c.TunnelClosed(reason="proxy-refused", detail="\x1b[2J"),
        c.TunnelClosed(reason="\x9b2J"),
        c.PhaseReached(phase="tcp", seconds=0.0, detail="a\nb"),
        c.PhaseReached(phase="\x1b[2J", seconds=0.0),
    ],
)
def test_the_parent_takes_no_control_characters(said: m.Message) -> None:
    with pytest.raises(msgspec.ValidationError, match="matching regex"):
        msgspec.msgpack.decode(msgspec.msgpack.encode(said), type=type(said))
