"""Multilink between two whole ends: packets beyond the MRU arrive as they were, whatever the wire does to the bytes."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from sstpfarm.dataplane.interface import Cell, RouterRole
from sstpfarm.proto.roles import AuthMethod, Role
from sstpfarm.proto.sstp.packets import encode_data
from sstpfarm.proto.tunnel import TunnelSettings
from sstpfarm.reasons import Reason
from tests.sim.world import ADDRESS, World, settings
from tests.unit.pure_bench import ipv4


def speaking(role: Role) -> TunnelSettings:
    made = settings(role, AuthMethod.MSCHAP2)
    return replace(made, ppp=replace(made.ppp, mru=1400, mtu=1400, mrru=1600))


@pytest.fixture(params=range(5))
def world(request: pytest.FixtureRequest) -> World:
    made = World(request.param, speaking(Role.CLIENT), speaking(Role.SERVER))
    made.start()
    made.run(60, made.is_open)
    assert made.is_open()
    return made


def test_large_packets_arrive_in_order_and_whole(world: World) -> None:
    kernel, tun = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with kernel, tun:
        kernel.setblocking(False)
        world.server.path.attach(tun.fileno())
        sizes = (1401, 1600, 100, 1500)
        for size in sizes:
            packet = b"\x00\x21" + ipv4(size, source=ADDRESS)
            made = world.client.tunnel.fragments(packet) if size > 1400 else [encode_data(b"\xff\x03" + packet)]
            world.carry(world.client, b"".join(made))
        world.run(20)
        assert [len(kernel.recv(4096)) for _ in sizes] == list(sizes)
        assert world.server.tunnel.fragments_lost() == 0
        assert world.server.cells[Cell.BYTES_IN] == sum(sizes)
    assert world.server.ended is None


@pytest.mark.parametrize("fragment", [b"\x80\0x", b"\x40\1x", b"\x80"], ids=["crumbs", "strays", "half headers"])
def test_a_flood_of_useless_fragments_ends_the_session(world: World, fragment: bytes) -> None:
    """A whole fragment costs as much work as a control frame, and brings nothing."""
    world.carry(world.client, encode_data(b"\xff\x03\x00\x3d" + fragment) * 2000)
    world.run(60, lambda: world.server.ended is not None)
    assert world.server.ended is not None
    assert world.server.ended[1].reason is Reason.CONTROL_FLOOD


@pytest.mark.parametrize("reason", [Reason.ADMIN_RESET, Reason.MALFORMED_MESSAGE])
def test_fragments_under_way_do_not_disturb_an_end(world: World, reason: Reason) -> None:
    """A peer that sends a lot does not know yet that the tunnel ends: that is no flood."""
    pieces = b"".join(world.client.tunnel.fragments(b"\x00\x21" + ipv4(1600, source=ADDRESS)) * 1000)
    world.server.tunnel.close(reason, world.now)
    world.server.settle()
    world.server.receive(pieces)
    assert not world.server.tunnel.ended
    assert world.server.cells[Cell.DROP_GATE_IN] == 0  # nothing was put together
    world.run(30, world.is_over)
    assert world.server.ended is not None
    assert world.server.ended[1].reason is reason


@pytest.mark.parametrize("size", [0, 17, 20])
def test_packets_in_one_fragment_each_never_reach_python(world: World, size: int) -> None:
    """However small, or broken: a peer may send all of its packets so, thousands of acknowledgements of TCP too."""
    (fragment,) = world.client.tunnel.fragments(b"\x00\x21" + ipv4(20, source=ADDRESS)[:size])
    assert world.server.path.feed(memoryview(fragment * 2000)) == (2000 * len(fragment), None)
    assert world.server.cells[Cell.DROP_TUN if size == 20 else Cell.DROP_MALFORMED] == 2000


def test_the_router_in_fragments(world: World) -> None:
    """What asks it may come in fragments, and its answer may need them."""
    asked = (
        b"\x00\x57\x60\0\0\0\x05\xb4\x3a\xff" + bytes(15) + b"\7" + b"\xff\x02" + bytes(13) + b"\2\x85" + bytes(1459)
    )
    world.server.path.set_sources((), ((0, 0),))
    world.server.path.set_router(RouterRole.PYTHON)
    pieces = world.client.tunnel.fragments(asked)
    assert len(pieces) == 2
    for piece in pieces:
        consumed, frame = world.server.path.feed(memoryview(piece))
        assert (consumed, frame) == (len(piece), piece)
        assert frame is not None
        world.server.tunnel.receive_frame(frame, 0.0)
    (packet,) = world.server.tunnel.packets()
    assert packet == asked
    assert world.server.path.deliver(packet)
    world.server.tunnel.data_to_send()
    for size in (1400, 1401, 1600):
        world.server.tunnel.send_ipv6(asked[2:].ljust(size, b"\0")[:size])
        sent = world.server.tunnel.data_to_send()
        assert sent[4:8] == (b"\xff\x03\x00\x57" if size == 1400 else b"\xff\x03\x00\x3d")
        assert len(sent) > size
