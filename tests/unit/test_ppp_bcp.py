"""BCP: what the ends of a bridged link tell each other, and that it lives beside IPCP."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sstpfarm.proto.events import BridgeOpened, Ipv4Opened, Network, NetworkClosed
from sstpfarm.proto.ppp.constants import PppProtocol
from sstpfarm.proto.ppp.packet import Option, Packet, encode_options
from sstpfarm.proto.roles import Ipv4Terms
from sstpfarm.reasons import Reason
from tests.unit.ppp_bench import (
    ACK,
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

BCP = PppProtocol.BCP
MAC_ETHERNET, TAGGED = Option(3, b"\x01"), Option(8, b"\x01")


def started(ipv4: Ipv4Terms | None = None, *, client: bool = False) -> tuple[Script, Packet]:
    script = Script(OPEN_CLIENT if client else OPEN_SERVER)
    script.open_lcp()
    script.link.configure(ipv4, None, script.now, bridge=True)
    return script, script.sent_by(BCP)[0]


@pytest.mark.parametrize("client", [False, True])
def test_bridging_alone_is_a_network(client: bool) -> None:
    script, ours = started(client=client)
    assert options_of(ours) == {3: b"\x01", 8: b"\x01"}
    asked = request(1, MAC_ETHERNET, TAGGED)
    assert script.only_answer(BCP, asked) == replace(asked, code=ACK)
    script.say(BCP, replace(ours, code=ACK))
    assert script.took(BridgeOpened) == [BridgeOpened(tagged=True)]
    assert script.closed() is None


def test_bridging_and_ipv4_are_both_open_and_one_may_go() -> None:
    script, ours = started(SERVER_IPV4)
    script.say(BCP, replace(ours, code=ACK))
    script.say(BCP, request(1))
    assert script.took(BridgeOpened) == [BridgeOpened(tagged=False)]  # a peer that does not say so takes no tags
    (nak,) = [packet for protocol, packet in script.say(IPCP, request(1)) if protocol == IPCP]
    assert describe(nak) == ("CONFIGURE_NAK", [3])
    script.say(IPCP, request(2, Option(3, SERVER_IPV4.peer.packed if SERVER_IPV4.peer else b"")))
    script.say(IPCP, replace(request(1, Option(3, b"\x0a\x09\x00\x01")), code=ACK))
    assert len(script.took(Ipv4Opened)) == 1
    script.say(BCP, Packet(5, 9))
    assert script.took(NetworkClosed) == [NetworkClosed(Network.BRIDGE)]
    assert script.closed() is None


@pytest.mark.parametrize(
    "option",
    [
        Option(1, b"\0\x11"),  # bridge identification
        Option(2, bytes(2)),  # line identification
        Option(3, b"\x02"),  # another MAC type
        Option(3, b"\x01\x01"),
        Option(4, b"\x03"),
        Option(4),
        Option(5, b"\x01"),  # LAN identification
        Option(6, bytes(5)),
        Option(7, b"\x01"),  # spanning tree, as it was
        Option(8, b"\x00"),
        Option(9, b"\x01\x01"),
        Option(10, b"\x01"),
        Option(11),
    ],
    ids=str,
)
def test_what_is_rejected(option: Option) -> None:
    script, _ = started()
    assert script.only_answer(BCP, request(1, option)) == Packet(REJECT, 1, encode_options([option]))


@pytest.mark.parametrize(
    "option",
    [
        MAC_ETHERNET,
        Option(4, b"\x01"),
        Option(4, b"\x02"),
        Option(6, bytes.fromhex("020000000001")),
        TAGGED,
        Option(8, b"\x02"),
        Option(9),  # as RFC 3518 and pppd's patch have it
        Option(9, b"\x01"),  # as Wireshark has it
        Option(10),
    ],
    ids=str,
)
def test_what_is_accepted(option: Option) -> None:
    script, _ = started()
    asked = request(1, option)
    assert script.only_answer(BCP, asked) == replace(asked, code=ACK)


def test_a_second_mac_type_is_rejected_alone() -> None:
    script, _ = started()
    asked = request(1, MAC_ETHERNET, Option(3, b"\x0b"))
    assert script.only_answer(BCP, asked) == Packet(REJECT, 1, encode_options([Option(3, b"\x0b")]))


def test_a_peer_that_asks_for_an_address_gets_a_local_unicast_one() -> None:
    script, _ = started()
    answer = script.only_answer(BCP, request(1, Option(6, bytes(6))))
    assert answer.code == NAK
    address = options_of(answer)[6]
    assert len(address) == 6
    assert address[0] & 0x03 == 0x02
    again = request(2, Option(6, address))
    assert script.only_answer(BCP, again) == replace(again, code=ACK)


@pytest.mark.parametrize("code", [REJECT, NAK])
def test_our_tags_are_given_up(code: int) -> None:
    script, ours = started()
    value = b"\x01" if code == REJECT else b"\x02"
    again = script.only_answer(BCP, Packet(code, ours.identifier, encode_options([Option(8, value)])))
    assert options_of(again) == {3: b"\x01"}


def test_a_peer_without_ethernet_has_nothing_to_bridge() -> None:
    script, ours = started()
    script.say(BCP, Packet(REJECT, ours.identifier, encode_options([MAC_ETHERNET])))
    script.wait(20)
    assert script.end_reason() is Reason.NCP_FAILED


def test_where_it_is_not_wanted_it_is_refused() -> None:
    script = Script(OPEN_SERVER)
    script.open_network(SERVER_IPV4, None)
    ((protocol, answer),) = script.say(BCP, request(1, MAC_ETHERNET))
    assert (protocol, answer.code, answer.data[:2]) == (LCP, 8, b"\x80\x31")


def test_a_peer_that_does_not_know_it_ends_a_link_that_has_nothing_else() -> None:
    script, _ = started()
    script.say(LCP, Packet(8, 1, b"\x80\x31"))
    script.wait(20)
    assert script.end_reason() is Reason.NCP_FAILED
