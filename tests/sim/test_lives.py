"""Two hundred lives of a tunnel, client core against server core: random chunks, delays, methods and ends."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from sstpfarm.proto.events import AuthRequest, AuthSucceeded, Ipv4Opened, Phase
from sstpfarm.proto.ppp.constants import Code, IpcpOption, PppProtocol
from sstpfarm.proto.ppp.frame import encode_frame
from sstpfarm.proto.ppp.packet import Option, Packet, encode_options, encode_packet
from sstpfarm.proto.roles import AuthMethod, Role
from sstpfarm.proto.sstp.packets import encode_data
from sstpfarm.proto.tunnel import GatesChanged, PhaseDone
from sstpfarm.reasons import OUTCOMES, Reason
from tests.sim.world import ADDRESS, GATEWAY, World, settings

METHODS = tuple(AuthMethod)
ENDS = ("client", "server", "kick", "lost", "silence")


@pytest.mark.parametrize("seed", range(200))
def test_a_life(seed: int) -> None:
    dice = random.Random(seed)
    methods = dice.sample(METHODS, dice.randint(1, 4))
    offered = tuple(method for method in METHODS if method in methods)
    allowed = tuple(method for method in METHODS if method in {*dice.sample(METHODS, dice.randint(0, 3)), offered[-1]})
    world = World(
        seed,
        settings(Role.CLIENT, *allowed),
        settings(Role.SERVER, *offered, mask=dice.choice((1, 2, 3))),
    )
    world.delay = dice.choice((0.0, 0.001, 0.02))
    world.server.auth_delay = dice.choice((0.0, 0.5, 5.0))
    world.server.configure_delay = dice.choice((0.0, 0.2))
    world.client.configure_delay = dice.choice((0.0, 0.2))
    world.start()
    world.run(60, lambda: world.is_open() or world.is_over())
    assert world.is_open(), (world.client.events, world.server.events)
    for end, local, peer in ((world.client, ADDRESS, GATEWAY), (world.server, GATEWAY, ADDRESS)):
        assert end.ipv4 is not None
        assert (end.ipv4.local, end.ipv4.peer, end.ipv4.dns) == (local, peer, (GATEWAY,))
    world.run(dice.choice((1, 30, 400)))  # echoes keep it alive
    assert not world.is_over()

    how = dice.choice(ENDS)
    expected = {
        "client": (Reason.USER_REQUEST, {Reason.PEER_TERMINATED, Reason.PEER_DISCONNECT}),
        "server": (Reason.SHUTDOWN, {Reason.PEER_TERMINATED, Reason.PEER_DISCONNECT}),
        "kick": (Reason.ADMIN_RESET, {Reason.PEER_TERMINATED, Reason.PEER_DISCONNECT}),
        "lost": (Reason.TRANSPORT_LOST, {Reason.TRANSPORT_LOST}),
        "silence": (Reason.PEER_DEAD, {Reason.PEER_DEAD, Reason.TRANSPORT_LOST}),  # whoever notices first
    }[how]
    first, second = (world.client, world.server) if how in ("client", "lost") else (world.server, world.client)
    if how == "lost":
        first.tunnel.broken(Reason.TRANSPORT_LOST, "reset")
        first.settle()
    elif how == "silence":
        first.mute = second.mute = True
    else:
        first.tunnel.close(expected[0], world.now)
        first.settle()
    world.run(200, world.is_over)
    assert world.is_over()
    assert first.ended is not None
    assert second.ended is not None
    (first_at, first_end), (second_at, second_end) = first.ended, second.ended
    if how == "silence" and second_at < first_at:
        first_end, second_end = second_end, first_end
    assert first_end.reason is expected[0]
    assert second_end.reason in expected[1]


@pytest.mark.parametrize("method", METHODS)
def test_wrong_password_ends_both_sides_in_order(method: AuthMethod) -> None:
    world = World(1, settings(Role.CLIENT, password="wrong"), settings(Role.SERVER, method))
    world.start()
    world.run(60, world.is_over)
    assert world.client.ended is not None
    assert world.server.ended is not None
    assert world.client.ended[1].reason is Reason.AUTH_REFUSED
    assert world.server.ended[1].reason is Reason.AUTH_REFUSED
    assert not (world.client.ended[1].drop and world.server.ended[1].drop)
    assert world.client.opened_at is world.server.opened_at is None


def test_no_common_method() -> None:
    world = World(2, settings(Role.CLIENT, AuthMethod.MSCHAP2), settings(Role.SERVER, AuthMethod.PAP, AuthMethod.CHAP))
    world.start()
    world.run(60, world.is_over)
    reasons = {end.ended[1].reason for end in (world.client, world.server) if end.ended}
    assert Reason.AUTH_NO_COMMON_METHOD in reasons
    assert world.is_over()


def test_a_server_without_a_free_session_says_503() -> None:
    world = World(3, settings(Role.CLIENT), replace(settings(Role.SERVER), available=False))
    world.start()
    world.run(60, world.is_over)
    assert world.server.ended is not None
    assert world.server.ended[1].reason is Reason.HTTP_UNAVAILABLE
    assert world.client.ended is not None
    assert world.client.ended[1].reason is Reason.HTTP_UNAVAILABLE
    assert "503" in world.client.ended[1].detail


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 13, 4096])
def test_any_chunking_gives_the_same_events(chunk: int) -> None:
    def events(size: int) -> list[str]:
        world = World(4, settings(Role.CLIENT), settings(Role.SERVER), chunk=size)
        world.delay = 0.0
        world.start()
        world.run(10)
        return [repr(event) for event in (*world.client.events, *world.server.events)]

    assert events(chunk) == events(0)
    assert len(events(chunk)) > 10


@pytest.mark.parametrize("decided_after", [0.0, 0.01, 30.0])
@pytest.mark.parametrize("method", METHODS)
def test_a_login_that_is_replaced_before_its_answer_ends_in_order_and_hears_why(
    method: AuthMethod, decided_after: float
) -> None:
    """The order to end a session and the decision reach the worker on different ways: either may be the first."""
    world = World(1, settings(Role.CLIENT), settings(Role.SERVER, method))
    world.delay = 0.02
    world.server.auth_delay = decided_after
    world.start()
    world.run(60, lambda: any(isinstance(event, AuthRequest) for event in world.server.events))
    world.server.tunnel.close(Reason.REPLACED, world.now)
    world.server.settle()
    world.run(60, world.is_over)
    assert world.server.ended is not None
    assert world.client.ended is not None
    assert world.server.ended[1].reason is Reason.REPLACED
    assert world.client.ended[1].reason is Reason.LOGIN_ENDED
    assert OUTCOMES[Reason.REPLACED].text in world.client.ended[1].detail
    world.run(60)  # the decision comes too late
    assert not world.is_open()
    assert not any(isinstance(event, AuthSucceeded) for event in (*world.server.events, *world.client.events))


@pytest.mark.parametrize("method", METHODS)
def test_a_life_in_which_the_peer_proves_twice_more_who_it_is(method: AuthMethod) -> None:
    """The gates stay open all the time, also while auth thinks for 5 s; PAP cannot be asked, and ends in order."""
    world = World(7, settings(Role.CLIENT, method), settings(Role.SERVER, method))
    world.start()
    world.run(60, world.is_open)
    world.server.auth_delay = 5.0
    said = [len(end.events) for end in (world.server, world.client)]
    for _ in range(2):
        world.server.tunnel.reauthenticate(world.now)
        world.server.settle()
        world.run(40)
    if method is AuthMethod.PAP:
        assert world.server.ended is not None
        assert world.server.ended[1].reason is Reason.SESSION_TIMEOUT
        return
    assert not world.is_over()
    assert world.client.events[said[1] :] == []
    told = world.server.events[said[0] :]
    assert len(told) == (6 if method is AuthMethod.EAP else 2)
    assert all(isinstance(event, AuthRequest) for event in told)


def test_a_new_negotiation_of_addresses_is_no_phase_of_the_login() -> None:
    """The gate closes and opens; the login is measured once."""
    world = World(7, settings(Role.CLIENT), settings(Role.SERVER))
    world.start()
    world.run(60, world.is_open)
    for times in (2, 3):
        anew = Packet(Code.CONFIGURE_REQUEST, 200 + times, encode_options([Option(IpcpOption.ADDRESS, ADDRESS.packed)]))
        world.carry(world.client, encode_data(encode_frame(PppProtocol.IPCP, encode_packet(anew))))
        world.run(20)
        for end in (world.server, world.client):
            assert end.ended is None
            assert sum(isinstance(event, Ipv4Opened) for event in end.events) == times
            assert [event.phase for event in end.events if isinstance(event, PhaseDone)].count(Phase.IPCP) == 1
    for end in (world.server, world.client):
        assert [event.ipv4 for event in end.events if isinstance(event, GatesChanged)][-1]
