"""IPCP of both roles: addresses that nobody else may choose, name servers, what is held before `configure`."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from sstpfarm.errors import LocalError
from sstpfarm.proto.events import Ipv4Opened, Network, NetworkClosed
from sstpfarm.proto.ppp.constants import Code
from sstpfarm.proto.ppp.control import Limits
from sstpfarm.proto.ppp.ipcp import Ipcp
from sstpfarm.proto.ppp.packet import Option, Packet, encode_options
from sstpfarm.proto.roles import Ipv4Terms, Role
from sstpfarm.reasons import Reason
from tests.unit.ppp_bench import (
    ACK,
    ASSIGNED,
    CLIENT_IPV4,
    DNS,
    GATEWAY,
    IPCP,
    LCP,
    NAK,
    OPEN_CLIENT,
    OPEN_SERVER,
    REJECT,
    SERVER_IPV4,
    Script,
    describe,
    options_of,
    request,
)

ZERO = IPv4Address(0)
VJ = Option(2, bytes.fromhex("002d0f01"))


def address(type_: int, value: IPv4Address | str) -> Option:
    return Option(type_, IPv4Address(value).packed)


def server(terms: Ipv4Terms = SERVER_IPV4) -> tuple[Script, Packet]:
    script = Script(OPEN_SERVER)
    ((_, ours),) = script.open_network(terms, None)
    return script, ours


def client(terms: Ipv4Terms = CLIENT_IPV4) -> tuple[Script, Packet]:
    script = Script(OPEN_CLIENT)
    ((_, ours),) = script.open_network(terms, None)
    return script, ours


# -- server ----------------------------------------------------------------------------------------------------------


def test_server_needs_both_addresses() -> None:
    for terms in (Ipv4Terms(local=GATEWAY), Ipv4Terms(peer=ASSIGNED)):
        with pytest.raises(LocalError):
            Ipcp(Limits(), role=Role.SERVER, terms=terms)


def test_windows_needs_three_rounds() -> None:
    script, ours = server()
    assert options_of(ours) == {3: GATEWAY.packed}
    wanted = [address(type_, ZERO) for type_ in (3, 129, 130, 131, 132)]
    assert describe(script.only_answer(IPCP, request(5, *wanted))) == ("CONFIGURE_REJECT", [130, 132])
    wanted = [option for option in wanted if option.type not in (130, 132)]
    nak = script.only_answer(IPCP, request(6, *wanted))
    assert nak == Packet(NAK, 6, encode_options([address(3, ASSIGNED), address(129, DNS[0]), address(131, DNS[1])]))
    third = Packet(Code.CONFIGURE_REQUEST, 7, nak.data)
    assert script.only_answer(IPCP, third) == replace(third, code=ACK)
    assert script.took(Ipv4Opened) == []
    script.say(IPCP, replace(ours, code=ACK))
    assert script.took(Ipv4Opened) == [Ipv4Opened(GATEWAY, ASSIGNED, DNS, ())]


def test_name_servers_of_both_kinds_are_offered_and_what_is_missing_is_rejected() -> None:
    script, ours = server(Ipv4Terms(local=GATEWAY, peer=ASSIGNED, dns=DNS[:1], wins=(GATEWAY,)))
    asked = [address(3, ASSIGNED), *(address(type_, ZERO) for type_ in (129, 131, 130, 132))]
    assert describe(script.only_answer(IPCP, request(1, *asked))) == ("CONFIGURE_REJECT", [131, 132])
    nak = script.only_answer(IPCP, request(2, *(option for option in asked if option.type not in (131, 132))))
    assert options_of(nak) == {129: DNS[0].packed, 130: GATEWAY.packed}
    script.say(IPCP, request(3, address(3, ASSIGNED), address(129, DNS[0]), address(130, GATEWAY)))
    script.say(IPCP, replace(ours, code=ACK))
    assert script.took(Ipv4Opened) == [Ipv4Opened(GATEWAY, ASSIGNED, DNS[:1], (GATEWAY,))]


@pytest.mark.parametrize("option", [VJ, Option(1, bytes(8)), Option(4, bytes(4)), Option(3, bytes(3)), Option(200)])
def test_unwanted_option_is_rejected(option: Option) -> None:
    script, _ = server()
    asked = [option, address(129, ZERO)]
    assert script.only_answer(IPCP, request(1, *asked)) == Packet(REJECT, 1, encode_options([option]))


def test_peer_without_an_address_is_told_its_own() -> None:
    script, _ = server()
    assert script.only_answer(IPCP, request(1)) == Packet(NAK, 1, encode_options([address(3, ASSIGNED)]))


@pytest.mark.parametrize("without_at_the_end", [False, True])
def test_address_that_is_not_assigned_is_never_accepted(without_at_the_end: bool) -> None:
    script, ours = server()
    script.say(IPCP, replace(ours, code=ACK))
    codes = []
    for identifier in range(40):
        last = [] if without_at_the_end and identifier > 5 else [address(3, "10.9.0.6")]
        codes += [packet.code for _, packet in script.say(IPCP, request(identifier, *last))]
    assert ACK not in codes
    assert codes[:6] == [NAK] * 5 + [REJECT]
    script.wait(20)
    assert script.took(Ipv4Opened) == []
    assert script.end_reason() is Reason.NCP_FAILED


def test_server_keeps_its_own_address() -> None:
    script, ours = server()
    again = script.only_answer(IPCP, Packet(NAK, ours.identifier, encode_options([address(3, "10.9.0.77")])))
    assert options_of(again) == {3: GATEWAY.packed}
    last = script.only_answer(IPCP, replace(again, code=REJECT))
    assert options_of(last) == {}


def test_renegotiation_closes_and_opens_the_family() -> None:
    script, ours = server()
    script.say(IPCP, replace(ours, code=ACK))
    script.say(IPCP, request(1, address(3, ASSIGNED)))
    (_, again), (_, ack) = script.say(IPCP, request(2, address(3, ASSIGNED)))
    assert (again.code, ack.code) == (Code.CONFIGURE_REQUEST, ACK)
    assert script.took(NetworkClosed) == [NetworkClosed(Network.IPV4)]
    script.say(IPCP, replace(again, code=ACK))
    assert script.took(Ipv4Opened) == [Ipv4Opened(GATEWAY, ASSIGNED)] * 2


def test_packets_before_configure_are_held_and_answered_once() -> None:
    script = Script(OPEN_SERVER)
    script.open_lcp()
    for identifier in (1, 1, 2, 2):
        assert script.say(IPCP, request(identifier, address(3, ZERO))) == []
    for code in range(20, 255):
        assert script.say(IPCP, Packet(code, 1)) == []
    script.link.configure(SERVER_IPV4, None, script.now)
    ours, nak = script.sent_by(IPCP)
    assert (ours.code, nak.code, nak.identifier) == (Code.CONFIGURE_REQUEST, NAK, 2)


def test_held_packets_of_a_family_that_stays_off_are_protocol_rejected() -> None:
    script = Script(OPEN_SERVER)
    script.open_lcp()
    script.say(0x8057, request(1, Option(1, bytes(8))))
    script.link.configure(SERVER_IPV4, None, script.now)
    assert [(protocol, packet.code) for protocol, packet in script.sent()] == [
        (IPCP, Code.CONFIGURE_REQUEST),
        (LCP, Code.PROTOCOL_REJECT),
    ]


# -- client ----------------------------------------------------------------------------------------------------------


def test_client_takes_what_the_server_gives() -> None:
    script, ours = client()
    assert options_of(ours) == {3: ZERO.packed, 129: ZERO.packed, 131: ZERO.packed}
    given = [address(3, ASSIGNED), address(129, DNS[0]), address(131, DNS[1])]
    again = script.only_answer(IPCP, Packet(NAK, ours.identifier, encode_options(given)))
    assert again.data == encode_options(given)
    script.say(IPCP, replace(again, code=ACK))
    script.say(IPCP, request(1, address(3, GATEWAY)))
    assert script.took(Ipv4Opened) == [Ipv4Opened(ASSIGNED, GATEWAY, DNS)]


@pytest.mark.parametrize("code", [REJECT, NAK])
def test_client_drops_name_servers_that_are_refused(code: Code) -> None:
    script, ours = client()
    refused = [address(129, ZERO), address(131, ZERO)]
    again = script.only_answer(IPCP, Packet(code, ours.identifier, encode_options(refused)))
    assert list(options_of(again)) == [3]


def test_client_that_wants_no_name_servers_or_has_a_wish() -> None:
    _, ours = client(Ipv4Terms(local=ASSIGNED, request_dns=False))
    assert options_of(ours) == {3: ASSIGNED.packed}


@pytest.mark.parametrize("options", [[], [address(3, ZERO)]])
def test_servers_address_may_be_absent(options: list[Option]) -> None:
    script, ours = client(Ipv4Terms(request_dns=False))
    again = script.only_answer(IPCP, Packet(NAK, ours.identifier, encode_options([address(3, ASSIGNED)])))
    script.say(IPCP, replace(again, code=ACK))
    asked = request(1, *options)
    assert script.only_answer(IPCP, asked) == replace(asked, code=ACK)
    assert script.took(Ipv4Opened) == [Ipv4Opened(ASSIGNED, None)]


def test_client_rejects_what_a_server_cannot_ask_of_it() -> None:
    script, _ = client()
    answer = script.only_answer(IPCP, request(1, address(3, GATEWAY), VJ, address(129, ZERO)))
    assert describe(answer) == ("CONFIGURE_REJECT", [2, 129])


@pytest.mark.parametrize("how", ["reject", "acknowledged-zero"])
def test_client_without_an_address_gives_up(how: str) -> None:
    script, ours = client(Ipv4Terms(request_dns=False))
    script.say(IPCP, replace(ours, code=REJECT if how == "reject" else ACK))
    script.say(IPCP, request(1, address(3, GATEWAY)))
    script.wait(20)
    assert script.took(Ipv4Opened) == []
    assert script.end_reason() is Reason.NCP_FAILED


@pytest.mark.parametrize("given", ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"])
def test_client_takes_no_address_that_cannot_be_a_hosts(given: str) -> None:
    script, ours = client(Ipv4Terms(request_dns=False))
    again = script.only_answer(IPCP, Packet(NAK, ours.identifier, encode_options([address(3, given)])))
    assert options_of(again) == {3: ZERO.packed}
