"""IPV6CP of both roles: interface identifiers that are neither zero nor equal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sstpfarm.errors import LocalError
from sstpfarm.proto.events import Ipv6Opened
from sstpfarm.proto.ppp.constants import Code
from sstpfarm.proto.ppp.control import Limits
from sstpfarm.proto.ppp.ipv6cp import Ipv6cp, interface_identifier
from sstpfarm.proto.ppp.packet import Option, Packet, encode_options
from sstpfarm.proto.roles import Ipv6Terms, Role
from sstpfarm.reasons import Reason
from tests.unit.ppp_bench import (
    ACK,
    IPV6CP,
    NAK,
    OPEN_CLIENT,
    OPEN_SERVER,
    REJECT,
    Script,
    describe,
    options_of,
    request,
    seeded,
)

OURS = bytes.fromhex("0000000000000001")
THEIRS = bytes.fromhex("0000000000000002")
OTHER = bytes.fromhex("0200005efffe000a")


def identifier(value: bytes) -> Option:
    return Option(1, value)


def opened(terms: Ipv6Terms, *, client: bool = False) -> tuple[Script, Packet]:
    script = Script(OPEN_CLIENT if client else OPEN_SERVER)
    ((_, ours),) = script.open_network(None, terms)
    assert options_of(ours) == {1: terms.local}
    return script, ours


@pytest.mark.parametrize(
    "terms", [Ipv6Terms(bytes(8)), Ipv6Terms(b"short"), Ipv6Terms(OURS, OURS), Ipv6Terms(OURS, bytes(8))]
)
def test_impossible_terms_are_a_local_error(terms: Ipv6Terms) -> None:
    with pytest.raises(LocalError):
        Ipv6cp(Limits(), role=Role.SERVER, terms=terms, entropy=seeded(1))


@pytest.mark.parametrize("client", [False, True])
def test_any_other_identifier_is_accepted(client: bool) -> None:
    script, ours = opened(Ipv6Terms(OURS), client=client)
    asked = request(1, identifier(THEIRS))
    assert script.only_answer(IPV6CP, asked) == replace(asked, code=ACK)
    script.say(IPV6CP, replace(ours, code=ACK))
    assert script.took(Ipv6Opened) == [Ipv6Opened(OURS, THEIRS)]


@pytest.mark.parametrize("asked", [[], [identifier(bytes(8))], [identifier(OURS)]])
def test_peer_without_a_usable_identifier_is_given_one(asked: list[Option]) -> None:
    script, _ = opened(Ipv6Terms(OURS))
    answer = script.only_answer(IPV6CP, request(1, *asked))
    assert describe(answer) == ("CONFIGURE_NAK", [1])
    suggested = options_of(answer)[1]
    assert any(suggested)
    assert suggested != OURS
    assert suggested[0] & 0x02 == 0


@pytest.mark.parametrize("drawn", [bytes(8), bytes.fromhex("0200000000000000"), OURS])
def test_suggestion_is_never_zero_nor_ours(drawn: bytes) -> None:
    ncp = Ipv6cp(Limits(), role=Role.SERVER, terms=Ipv6Terms(OURS), entropy=lambda _: drawn)
    ncp.open(0.0)
    ncp.up(0.0)
    ncp.receive(bytes.fromhex("01010004"), 0.0)
    suggested = ncp.packets[-1][6:]
    assert len(suggested) == 8
    assert any(suggested)
    assert suggested != OURS


def test_fixed_identifier_is_insisted_on() -> None:
    script, _ = opened(Ipv6Terms(OURS, OTHER))
    assert script.only_answer(IPV6CP, request(1, identifier(THEIRS))) == Packet(
        NAK, 1, encode_options([identifier(OTHER)])
    )
    assert script.only_answer(IPV6CP, request(2, identifier(OTHER))).code == ACK


@pytest.mark.parametrize("option", [Option(2, b"\x00\x4f"), Option(1, b"short"), Option(99)])
def test_unwanted_option_is_rejected(option: Option) -> None:
    script, _ = opened(Ipv6Terms(OURS))
    assert script.only_answer(IPV6CP, request(1, option)) == Packet(REJECT, 1, encode_options([option]))


def test_client_follows_a_nak_and_a_server_does_not() -> None:
    for client, expected in ((True, OTHER), (False, OURS)):
        script, ours = opened(Ipv6Terms(OURS), client=client)
        nak = Packet(NAK, ours.identifier, encode_options([identifier(OTHER)]))
        assert options_of(script.only_answer(IPV6CP, nak)) == {1: expected}


@pytest.mark.parametrize("suggested", [bytes(8), THEIRS, b"short"])
def test_client_does_not_follow_a_nak_into_a_collision(suggested: bytes) -> None:
    script, ours = opened(Ipv6Terms(OURS), client=True)
    script.say(IPV6CP, request(1, identifier(THEIRS)))
    nak = Packet(NAK, ours.identifier, encode_options([identifier(suggested)]))
    assert options_of(script.only_answer(IPV6CP, nak)) == {1: OURS}


def test_reject_of_the_identifier_ends_the_protocol() -> None:
    script, ours = opened(Ipv6Terms(OURS))
    answer = script.only_answer(IPV6CP, replace(ours, code=REJECT))
    assert answer.code == Code.TERMINATE_REQUEST
    script.say(IPV6CP, Packet(Code.TERMINATE_ACK, answer.identifier))
    script.wait(20)
    assert script.end_reason() is Reason.NCP_FAILED


def test_peer_that_never_names_an_identifier_is_given_up() -> None:
    script, ours = opened(Ipv6Terms(OURS))
    script.say(IPV6CP, replace(ours, code=ACK))
    codes = [packet.code for i in range(20) for _, packet in script.say(IPV6CP, request(i))]
    assert codes == [NAK] * 5 + [Code.TERMINATE_REQUEST]


@pytest.mark.parametrize("drawn", [bytes(8), b"\x02" + bytes(7), b"\xff" * 8, b"\xff" * 32])
def test_interface_identifiers_are_not_zero_and_not_global(drawn: bytes) -> None:
    identifier = interface_identifier(drawn)
    assert len(identifier) == 8
    assert any(identifier)
    assert not identifier[0] & 0x02
