"""The peer of an open link is asked once more who it is: the link goes on meanwhile, and ends without a good answer."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from sstpfarm.proto.events import AuthRequest
from sstpfarm.proto.ppp.constants import PppProtocol
from sstpfarm.proto.ppp.link import PppSettings
from sstpfarm.proto.ppp.packet import Packet
from sstpfarm.proto.roles import AuthAccept, AuthMethod, Role
from sstpfarm.reasons import Reason
from tests.unit.judging import PasswordJudge
from tests.unit.ppp_bench import (
    CLIENT,
    OPEN_SERVER,
    PAP_SERVER,
    SERVER,
    SERVER_IPV4,
    Pair,
    Script,
    check_session,
    seeded,
)

ASKED_METHODS = (AuthMethod.EAP, AuthMethod.MSCHAP2, AuthMethod.MSCHAP1, AuthMethod.CHAP)


@pytest.mark.parametrize(
    ("method", "loses"),
    [
        *((method, False) for method in ASKED_METHODS),
        *((method, True) for method in ASKED_METHODS if method is not AuthMethod.EAP),  # which repeats nothing
    ],
)
def test_a_peer_proves_again_who_it_is_and_the_link_goes_on(method: AuthMethod, loses: bool) -> None:
    """RFC 1994 2, RFC 3748 2: three times, each with another challenge; nothing else happens on the link."""
    chance, losing = random.Random(7), [False]
    pair = Pair(
        replace(SERVER, methods=(method,)),
        replace(CLIENT, methods=(method,)),
        lose=lambda frame: losing[0] and chance.random() < 0.3,
    )
    pair.run(10)
    check_session(pair, method)
    losing[0] = loses
    proofs = {event.proof for event in pair.took(Role.SERVER, AuthRequest)}
    before = len(pair.events[Role.SERVER]), len(pair.events[Role.CLIENT])
    for _ in range(3):
        pair.links[Role.SERVER].reauthenticate(pair.now)
        pair.run(55)
        check_session(pair, method)
    (server, client) = (
        pair.events[role][count:] for role, count in zip((Role.SERVER, Role.CLIENT), before, strict=True)
    )
    assert {type(event) for event in server} == {AuthRequest}
    assert client == []
    again = [event.proof for event in server if isinstance(event, AuthRequest)]
    assert len({*again, *proofs}) == len(again) + len(proofs)
    assert len(again) == (9 if method is AuthMethod.EAP else 3)
    pair.run(120)  # no timer of it is left
    check_session(pair, method)


@pytest.mark.parametrize("method", ASKED_METHODS)
def test_a_peer_whose_password_has_changed_is_told_so_and_the_link_ends(method: AuthMethod) -> None:
    pair = Pair(replace(SERVER, methods=(method,)), replace(CLIENT, methods=(method,)))
    pair.run(10)
    pair._judge = PasswordJudge("other", seeded(3), "wrong")
    pair.links[Role.SERVER].reauthenticate(pair.now)
    pair.run(10)
    for role in Role:
        end = pair.end(role)
        assert end is not None
        assert end.reason is Reason.AUTH_REFUSED


@pytest.mark.parametrize(
    ("method", "patience"), [(method, 60 if method is AuthMethod.EAP else 30) for method in ASKED_METHODS]
)
def test_a_peer_that_says_nothing_any_more(method: AuthMethod, patience: int) -> None:
    """It is asked ten times, every 3 seconds; with EAP once, and has the time of the whole authentication."""
    silent = [False]
    pair = Pair(replace(SERVER, methods=(method,)), replace(CLIENT, methods=(method,)), lose=lambda frame: silent[0])
    pair.run(10)
    silent[0] = True
    pair.links[Role.SERVER].reauthenticate(pair.now)
    pair.run(patience - 1)
    assert pair.end(Role.SERVER) is None
    pair.run(20)
    end = pair.end(Role.SERVER)
    assert end is not None
    assert end.reason is Reason.AUTH_TIMEOUT


def test_a_driver_that_does_not_decide_in_time() -> None:
    """The time of the whole authentication holds again, from the order on."""
    script = Script(replace(SERVER, methods=(AuthMethod.CHAP,), authentication_timeout=20.0))
    challenge = next(packet for protocol, packet in script.open_lcp() if protocol == PppProtocol.CHAP)
    script.say(PppProtocol.CHAP, Packet(2, challenge.identifier, b"\x10" + bytes(16) + b"User"))
    script.link.auth_result(AuthAccept(bytes(32)), script.now)
    script.link.configure(SERVER_IPV4, None, script.now)
    script.sent()
    script.wait(1)
    script.link.reauthenticate(script.now)
    (again,) = script.sent_by(PppProtocol.CHAP)
    assert (again.code, again.identifier) == (1, (challenge.identifier + 1) % 256)
    assert again.data != challenge.data
    late = Packet(2, challenge.identifier, b"\x10" + bytes(16) + b"User")
    assert script.say(PppProtocol.CHAP, late) == []  # of the challenge before
    script.say(PppProtocol.CHAP, Packet(2, again.identifier, b"\x10" + bytes(16) + b"User"))
    assert len(script.took(AuthRequest)) == 2
    script.link.reauthenticate(script.now)  # it is under way: asked once
    assert script.sent_by(PppProtocol.CHAP) == []
    script.wait(19)
    assert script.end_reason() is None
    script.wait(10)
    assert script.end_reason() is Reason.AUTH_TIMEOUT


@pytest.mark.parametrize("settings", [PAP_SERVER, OPEN_SERVER])
def test_where_nothing_can_be_asked_the_link_ends(settings: PppSettings) -> None:
    """RFC 1334 2: PAP is begun by the peer."""
    client = replace(CLIENT, methods=settings.methods)
    pair = Pair(settings, client)
    pair.run(10)
    assert pair.end(Role.SERVER) is None
    pair.links[Role.SERVER].reauthenticate(pair.now)
    pair.run(10)
    end = pair.end(Role.SERVER)
    assert end is not None
    assert end.reason is Reason.SESSION_TIMEOUT


def test_before_the_network_phase_nobody_is_asked_again() -> None:
    script = Script(replace(SERVER, methods=(AuthMethod.CHAP,)))
    script.link.reauthenticate(script.now)
    script.open_lcp()
    script.link.reauthenticate(script.now)
    assert script.sent() == []
    assert script.end_reason() is None
