"""LCP: options of both roles, the agreement on authentication, magic numbers, echo, Protocol-Reject."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sstpfarm.proto.events import AuthRequest, LcpOpened
from sstpfarm.proto.ppp.constants import Code, PppProtocol
from sstpfarm.proto.ppp.frame import encode_frame
from sstpfarm.proto.ppp.link import PppSettings
from sstpfarm.proto.ppp.packet import Option, Packet, decode_options, encode_options, encode_packet
from sstpfarm.proto.roles import AuthMethod
from sstpfarm.reasons import Reason
from tests.unit.ppp_bench import (
    ACK,
    CCP,
    CLIENT,
    CLIENT_IPV4,
    IPCP,
    LCP,
    NAK,
    OPEN_CLIENT,
    OPEN_SERVER,
    REJECT,
    SERVER,
    SERVER_IPV4,
    Script,
    describe,
    options_of,
    request,
)

PAP = PppProtocol.PAP
MRU_1400 = Option(1, bytes.fromhex("0578"))
MAGIC = Option(5, bytes.fromhex("6a1b2c3d"))
ALL_METHODS = (AuthMethod.MSCHAP2, AuthMethod.MSCHAP1, AuthMethod.CHAP, AuthMethod.PAP)
VALUES = {"mschap2": "c22381", "mschap1": "c22380", "chap": "c22305", "pap": "c023", "eap": "c227", "none": "c22399"}


def auth(name: str) -> Option:
    return Option(3, bytes.fromhex(VALUES[name]))


# -- our request -----------------------------------------------------------------------------------------------------


def test_server_asks_for_mru_its_strongest_method_and_a_magic_number() -> None:
    (ours,) = Script(replace(SERVER, methods=ALL_METHODS, mru=1400)).sent_by(LCP)
    options = options_of(ours)
    assert list(options) == [1, 3, 5]
    assert (options[1], options[3]) == (bytes.fromhex("0578"), bytes.fromhex("c22381"))
    assert len(options[5]) == 4
    assert any(options[5])


def test_client_and_open_server_ask_for_no_authentication() -> None:
    for settings in (CLIENT, OPEN_SERVER):
        (ours,) = Script(settings).sent_by(LCP)
        assert list(options_of(ours)) == [1, 5]


@pytest.mark.parametrize(("wanted", "taken"), [(1400, 1400), (576, 576), (575, 1500), (1501, 1500), (0, 1500)])
def test_nak_of_our_mru_is_followed_within_bounds(wanted: int, taken: int) -> None:
    script = Script(OPEN_CLIENT)
    (ours,) = script.sent_by(LCP)
    nak = Packet(NAK, ours.identifier, encode_options([Option(1, wanted.to_bytes(2, "big"))]))
    again = script.only_answer(LCP, nak)
    assert options_of(again)[1] == taken.to_bytes(2, "big")
    script.say(LCP, replace(again, code=ACK))
    script.say(LCP, request(1))
    assert [event.receive_limit for event in script.took(LcpOpened)] == [taken]


def test_rejected_options_are_left_out_and_have_their_defaults() -> None:
    script = Script(replace(OPEN_CLIENT, mru=1400))
    (ours,) = script.sent_by(LCP)
    again = script.only_answer(LCP, replace(ours, code=REJECT))
    assert describe(again) == ("CONFIGURE_REQUEST", [])
    assert again.identifier != ours.identifier
    script.say(LCP, replace(again, code=ACK))
    script.say(LCP, request(1))
    assert script.took(LcpOpened) == [LcpOpened(1500, 1500, None)]
    echo = script.only_answer(LCP, Packet(Code.ECHO_REQUEST, 9, MAGIC.value + b"data"))
    assert echo == Packet(Code.ECHO_REPLY, 9, bytes(4) + b"data")  # no magic number was agreed


# -- the peer's request ----------------------------------------------------------------------------------------------


def test_windows_first_request_is_rejected_but_for_the_callback_and_then_acknowledged() -> None:
    script = Script(SERVER)
    script.sent()
    windows = [MRU_1400, MAGIC, Option(7), Option(8)]
    assert script.only_answer(LCP, request(0, *windows, Option(13, b"\x06"))) == Packet(
        REJECT, 0, bytes.fromhex("0d0306")
    )
    second = request(1, *windows)
    assert script.only_answer(LCP, second) == replace(second, code=ACK)


def test_pppd_style_request_is_acknowledged_with_its_accm() -> None:
    script = Script(SERVER)
    script.sent()
    asked = request(1, Option(2, bytes(4)), MAGIC, Option(7), Option(8))
    assert script.only_answer(LCP, asked) == replace(asked, code=ACK)


@pytest.mark.parametrize(
    "option",
    [
        Option(0, b"vend"),
        Option(4, b"\xc0\x25"),
        Option(9, b"\x01"),
        Option(10, b"\x01"),
        Option(11, b"\x00\x04"),
        Option(13, b"\x06"),
        Option(15),
        Option(17, b"\x06\x40"),
        Option(18),
        Option(19, b"\x03\x02\x00\x00\x00\x00\x01"),
        Option(23, b"\x00\x01"),
        Option(28, b"x"),
        Option(255),
        Option(1, b"\x05"),  # known options of a wrong length
        Option(2, b"\x00"),
        Option(5, b"\x00\x00\x01"),
        Option(7, b"x"),
        Option(8, b"x"),
    ],
)
def test_option_is_rejected_alone_and_byte_for_byte(option: Option) -> None:
    script = Script(SERVER)
    script.sent()
    to_nak = Option(1, b"\x00\x10") if option.type != 1 else Option(5, bytes(4))
    answer = script.only_answer(LCP, request(5, to_nak, option, Option(7 if option.type != 7 else 8)))
    assert answer == Packet(REJECT, 5, encode_options([option]))


def test_server_rejects_to_be_authenticated() -> None:
    script = Script(SERVER)
    script.sent()
    assert describe(script.only_answer(LCP, request(1, auth("mschap2")))) == ("CONFIGURE_REJECT", [3])


def test_option_that_is_listed_twice_is_rejected() -> None:
    script = Script(SERVER)
    script.sent()
    answer = script.only_answer(LCP, request(1, MRU_1400, Option(1, b"\x06\x40")))
    assert answer == Packet(REJECT, 1, bytes.fromhex("01040640"))


@pytest.mark.parametrize(("mru", "accepted"), [(0, False), (575, False), (576, True), (1500, True), (65535, True)])
def test_mru_of_the_peer(mru: int, accepted: bool) -> None:
    script = Script(SERVER)
    script.sent()
    asked = request(3, Option(1, mru.to_bytes(2, "big")))
    expected = replace(asked, code=ACK) if accepted else Packet(NAK, 3, bytes.fromhex("01040240"))
    assert script.only_answer(LCP, asked) == expected


@pytest.mark.parametrize(("mru", "mtu", "limit"), [(1400, 1500, 1400), (4000, 1450, 1450), (None, 4000, 1500)])
def test_send_limit_is_the_smaller_of_the_peers_mru_and_ours(mru: int | None, mtu: int, limit: int) -> None:
    script = Script(replace(OPEN_SERVER, mtu=mtu))
    script.open_lcp(*([] if mru is None else [Option(1, mru.to_bytes(2, "big"))]))
    assert [event.send_limit for event in script.took(LcpOpened)] == [limit]


def test_zero_magic_number_is_answered_with_a_better_one() -> None:
    script = Script(SERVER)
    script.sent()
    answer = script.only_answer(LCP, request(1, Option(5, bytes(4))))
    assert describe(answer) == ("CONFIGURE_NAK", [5])
    assert any(options_of(answer)[5])


def test_after_max_failure_a_nak_becomes_a_reject() -> None:
    script = Script(SERVER)
    script.sent()
    answers = [script.only_answer(LCP, request(i, Option(1, b"\x00\x10"))) for i in range(7)]
    assert [Code(answer.code) for answer in answers] == [NAK] * 5 + [REJECT] * 2
    assert decode_options(answers[-1].data) == (Option(1, b"\x00\x10"),)


def test_repeated_request_does_not_count_as_another_failure() -> None:
    script = Script(SERVER)
    script.sent()
    answers = [script.only_answer(LCP, request(1, Option(1, b"\x00\x10"))) for _ in range(7)]
    assert {Code(answer.code) for answer in answers} == {NAK}


# -- authentication --------------------------------------------------------------------------------------------------


def offers(script: Script, *naks: Option) -> list[str]:
    """Refuse each offer of a server by a Nak; return the methods that it offered, in order."""
    names = {bytes.fromhex(value): name for name, value in VALUES.items()}
    offered = []
    sent = script.sent_by(LCP)
    for nak in (*naks, None):
        ours = sent[-1]
        if ours.code != Code.CONFIGURE_REQUEST:
            break
        offered.append(names[options_of(ours)[3]])
        if nak is not None:
            sent = [packet for _, packet in script.say(LCP, Packet(NAK, ours.identifier, encode_options([nak])))]
    return offered


def test_server_goes_over_to_the_method_that_the_peer_names() -> None:
    script = Script(replace(SERVER, methods=ALL_METHODS))
    assert offers(script, auth("pap")) == ["mschap2", "pap"]


def test_server_offers_its_next_method_when_the_peer_names_one_that_is_not_allowed() -> None:
    script = Script(replace(SERVER, methods=(AuthMethod.MSCHAP2, AuthMethod.CHAP)))
    assert offers(script, auth("eap")) == ["mschap2", "chap"]


def test_server_ends_when_no_method_is_left() -> None:
    script = Script(replace(SERVER, methods=(AuthMethod.MSCHAP2, AuthMethod.CHAP)))
    assert offers(script, auth("eap"), auth("pap"), auth("pap")) == ["mschap2", "chap"]
    script.wait(10)
    assert script.end_reason() is Reason.AUTH_NO_COMMON_METHOD


def test_server_offers_each_method_once_to_a_peer_that_changes_its_mind() -> None:
    script = Script(replace(SERVER, methods=(AuthMethod.MSCHAP2, AuthMethod.PAP)))
    assert offers(script, auth("pap"), auth("mschap2"), auth("pap")) == ["mschap2", "pap"]
    script.wait(10)
    assert script.end_reason() is Reason.AUTH_NO_COMMON_METHOD


def test_server_ends_when_authentication_is_rejected() -> None:
    script = Script(SERVER)
    (ours,) = script.sent_by(LCP)
    offered = Option(3, options_of(ours)[3])
    (_, terminate), *_ = script.say(LCP, Packet(REJECT, ours.identifier, encode_options([offered])))
    assert terminate.code == Code.TERMINATE_REQUEST
    script.say(LCP, Packet(Code.TERMINATE_ACK, terminate.identifier))
    assert script.end_reason() is Reason.AUTH_NO_COMMON_METHOD


@pytest.mark.parametrize("offered", ["eap", "none", "pap", "chap", "mschap1"])
def test_client_asks_for_its_method_and_ends_when_the_server_insists(offered: str) -> None:
    script = Script(CLIENT)
    script.sent()
    assert script.only_answer(LCP, request(1, auth(offered))) == Packet(NAK, 1, bytes.fromhex("0305c22381"))
    assert script.only_answer(LCP, request(2, auth(offered))).code == Code.TERMINATE_REQUEST
    script.wait(10)
    assert script.end_reason() is Reason.AUTH_NO_COMMON_METHOD


def test_client_names_each_of_its_methods_before_it_ends() -> None:
    script = Script(replace(CLIENT, methods=(AuthMethod.MSCHAP2, AuthMethod.CHAP)))
    script.sent()
    asked = [options_of(script.only_answer(LCP, request(i, auth("eap"))))[3].hex() for i in (1, 2)]
    assert asked == ["c22381", "c22305"]
    assert script.only_answer(LCP, request(3, auth("eap"))).code == Code.TERMINATE_REQUEST


def test_client_asks_again_for_the_same_when_the_request_was_repeated_or_first_rejected() -> None:
    script = Script(replace(CLIENT, methods=(AuthMethod.MSCHAP2, AuthMethod.CHAP)))
    script.sent()
    assert describe(script.only_answer(LCP, request(1, auth("eap"), Option(23, b"\x00\x01")))) == (
        "CONFIGURE_REJECT",
        [23],
    )
    for _ in range(2):
        assert options_of(script.only_answer(LCP, request(2, auth("eap"))))[3].hex() == "c22381"


def test_client_acknowledges_any_allowed_method() -> None:
    script = Script(replace(CLIENT, methods=(AuthMethod.MSCHAP2, AuthMethod.CHAP)))
    script.open_lcp(auth("chap"))
    assert [event.method for event in script.took(LcpOpened)] == [AuthMethod.CHAP]


def test_client_with_methods_does_not_let_a_server_off() -> None:
    script = Script(CLIENT)
    script.sent()
    assert script.only_answer(LCP, request(1, MAGIC)) == Packet(NAK, 1, bytes.fromhex("0305c22381"))
    assert script.only_answer(LCP, request(2, MAGIC)).code == Code.TERMINATE_REQUEST
    script.wait(10)
    assert script.end_reason() is Reason.AUTH_NO_COMMON_METHOD


# -- magic numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [SERVER, CLIENT, OPEN_CLIENT])
def test_looped_link_is_recognised(settings: PppSettings) -> None:
    script = Script(settings)
    for _ in range(200):
        for protocol, packet in script.sent():
            script.link.receive(encode_frame(protocol, encode_packet(packet)), script.now)
    script.wait(10)
    assert script.end_reason() is Reason.LOOPED_LINK


def test_our_own_magic_number_in_a_request_gets_another_one() -> None:
    script = Script(SERVER)
    (ours,) = script.sent_by(LCP)
    stolen = Option(5, options_of(ours)[5])
    answer = script.only_answer(LCP, request(1, MRU_1400, stolen, Option(13, b"\x06")))
    assert describe(answer) == ("CONFIGURE_NAK", [5])
    assert options_of(answer)[5] != stolen.value


def test_nak_of_our_magic_number_makes_us_draw_another_one_of_our_own() -> None:
    script = Script(SERVER)
    (ours,) = script.sent_by(LCP)
    answer = script.only_answer(LCP, Packet(NAK, ours.identifier, encode_options([MAGIC])))
    assert options_of(answer)[5] not in (options_of(ours)[5], MAGIC.value)


@pytest.mark.parametrize("code", [Code.ECHO_REQUEST, Code.ECHO_REPLY])
def test_echo_with_our_own_magic_number_is_a_loop(code: Code) -> None:
    script = Script(OPEN_CLIENT)
    (ours,) = script.sent_by(LCP)
    script.say(LCP, replace(ours, code=ACK))
    script.say(LCP, request(1, MAGIC))
    script.say(LCP, Packet(code, 1, options_of(ours)[5]))
    script.wait(10)
    assert script.end_reason() is Reason.LOOPED_LINK


# -- the other codes -------------------------------------------------------------------------------------------------


def test_echo_is_answered_only_in_opened() -> None:
    script = Script(OPEN_CLIENT)
    (ours,) = script.sent_by(LCP)
    echo = Packet(Code.ECHO_REQUEST, 3, MAGIC.value + b"hello")
    assert script.say(LCP, echo) == []
    script.say(LCP, replace(ours, code=ACK))
    assert script.say(LCP, echo) == []
    script.say(LCP, request(1, MAGIC))
    assert script.only_answer(LCP, echo) == Packet(Code.ECHO_REPLY, 3, options_of(ours)[5] + b"hello")
    script.link.terminate(Reason.USER_REQUEST, script.now)
    script.sent()
    assert script.say(LCP, echo) == []


@pytest.mark.parametrize(
    "packet",
    [
        Packet(Code.ECHO_REQUEST, 1, b"abc"),  # too short for a magic number
        Packet(Code.ECHO_REPLY, 1, MAGIC.value),
        Packet(Code.DISCARD_REQUEST, 1, MAGIC.value + b"x"),
        Packet(Code.IDENTIFICATION, 1, MAGIC.value + b"MSRASV5.20"),
        Packet(Code.TIME_REMAINING, 1, MAGIC.value + bytes(4)),
        Packet(Code.CODE_REJECT, 1, bytes.fromhex("0c010004")),
        Packet(Code.CODE_REJECT, 1),
        Packet(Code.PROTOCOL_REJECT, 1, b"\x80"),
        Packet(Code.PROTOCOL_REJECT, 1, bytes.fromhex("80fd")),
    ],
)
def test_packet_that_asks_for_no_answer_gets_none(packet: Packet) -> None:
    script = Script(OPEN_CLIENT)
    script.open_lcp(MAGIC)
    assert script.say(LCP, packet) == []
    script.wait(30)
    assert script.closed() is None


def test_unknown_code_is_rejected_with_the_packet() -> None:
    script = Script(OPEN_CLIENT)
    script.open_lcp()
    answer = script.only_answer(LCP, Packet(99, 7, b"what"))
    assert (Code(answer.code), answer.data) == (Code.CODE_REJECT, bytes.fromhex("63070008") + b"what")


@pytest.mark.parametrize(
    "packet",
    [Packet(Code.CODE_REJECT, 1, bytes.fromhex("01010004")), Packet(Code.PROTOCOL_REJECT, 1, bytes.fromhex("c021"))],
)
def test_losing_a_fundamental_code_or_lcp_itself_is_fatal(packet: Packet) -> None:
    script = Script(OPEN_CLIENT)
    script.open_lcp()
    assert script.only_answer(LCP, packet).code == Code.TERMINATE_REQUEST
    script.wait(10)
    assert script.end_reason() is Reason.LCP_FAILED


def test_protocol_reject_only_after_authentication() -> None:
    ccp = request(4, Option(18, bytes.fromhex("01000001")))
    script = Script(SERVER)
    assert [packet.code for packet in script.sent_by(LCP)] == [Code.CONFIGURE_REQUEST]
    assert script.say(CCP, ccp) == []
    script = Script(SERVER)
    script.open_lcp()
    assert len(script.took(LcpOpened)) == 1
    assert script.say(CCP, ccp) == []  # authentication is not done
    script = Script(OPEN_SERVER)
    script.open_lcp()
    (answered, answer) = script.say(CCP, ccp)[0]
    assert answered == LCP
    assert (Code(answer.code), answer.data) == (Code.PROTOCOL_REJECT, bytes.fromhex("80fd0104000a120601000001"))


def test_protocol_rejects_are_few_and_have_changing_identifiers() -> None:
    script = Script(OPEN_SERVER)
    script.open_network(SERVER_IPV4, None)
    answers = [packet for _ in range(50) for _, packet in script.say(CCP, request(1))]
    assert len(answers) == 10
    assert len({packet.identifier for packet in answers}) == 10
    script.now += 2.0
    assert len([packet for _ in range(50) for _, packet in script.say(CCP, request(1))]) == 2


def test_protocol_reject_is_cut_to_the_peers_mru() -> None:
    script = Script(OPEN_SERVER)
    script.open_lcp(Option(1, b"\x02\x40"))
    ((_, answer),) = script.say(CCP, Packet(1, 1, bytes(2000)))
    assert len(encode_packet(answer)) == 576


@pytest.mark.parametrize("mru", [576, 4000, 65535])
def test_no_answer_is_longer_than_the_peers_mru_nor_than_an_sstp_packet(mru: int) -> None:
    script = Script(replace(OPEN_SERVER, mtu=4087))
    script.open_lcp(Option(1, mru.to_bytes(2, "big")))
    assert script.took(LcpOpened)[0].send_limit == min(mru, 4087)
    longest = bytes(4083)
    script.link.configure(SERVER_IPV4, None, script.now)
    script.sent()
    for protocol, packet in (
        (LCP, Packet(99, 1, longest)),
        (LCP, Packet(Code.ECHO_REQUEST, 1, MAGIC.value + longest[4:])),
        (CCP, Packet(1, 1, longest)),
        (IPCP, Packet(99, 1, longest)),
    ):
        ((_, answer),) = script.say(protocol, packet)
        assert len(encode_packet(answer)) == min(mru, 4087)


@pytest.mark.parametrize("settings", [OPEN_SERVER, OPEN_CLIENT])
def test_ip_packets_and_held_packets_get_no_answer(settings: PppSettings) -> None:
    script = Script(settings)
    script.open_lcp()
    assert script.say(0x0021, Packet(0x45, 0)) == []
    assert script.say(0x0057, Packet(0x60, 0)) == []
    assert script.say(IPCP, request(1)) == []
    terms = SERVER_IPV4 if settings is OPEN_SERVER else CLIENT_IPV4
    script.link.configure(terms, None, script.now)
    assert script.sent_by(IPCP)[0].code == Code.CONFIGURE_REQUEST


# -- Identification (RFC 1570 2.1) -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "version", "name"),
    [
        ([b"MSRASV5.20", b"MSRAS-0-LAPTOP"], "MSRASV5.20", "LAPTOP"),
        ([b"MSRAS-0-LAPTOP", b"MSRASV5.20"], "MSRASV5.20", "LAPTOP"),
        ([b"MSRASV5.20", b"MSRASV6", b"MSRAS-0-A", b"MSRAS-0-B"], "MSRASV5.20", "A"),
        ([b"MSRAS-0-" + b"x" * 33, b"MSRASV" + b"1" * 27], "", ""),
        ([b"MSRAS-0-" + b"x" * 32, b"MSRASV" + b"1" * 26], "MSRASV" + "1" * 26, "x" * 32),
        (
            [b"MSRAS-0-a b", b"MSRAS-0-a\0", b"MSRAS-0-\xff", b"MSRAS-0-a\n", b"MSRAS-0-", b"MSRASV\n", b"MSRASV 5"],
            "",
            "",
        ),
        ([b"MSRAS-0-a b", b"MSRAS-0-good"], "", "good"),
        ([b"pppd 2.5.2", b""], "", ""),
    ],
)
def test_what_a_peer_says_of_itself(texts: list[bytes], version: str, name: str) -> None:
    """The first good text of each kind counts, and none is answered."""
    script = Script(replace(SERVER, methods=(AuthMethod.PAP,)))
    script.open_lcp()
    for number, text in enumerate(texts):
        assert script.say(LCP, Packet(Code.IDENTIFICATION, number, MAGIC.value + text)) == []
    script.say(PAP, Packet(1, 1, b"\x01u\x01p"))
    (proof,) = script.took(AuthRequest)
    assert proof.identification == (version, name)


def test_an_identification_that_is_too_short_for_its_magic_number_says_nothing() -> None:
    script = Script(replace(SERVER, methods=(AuthMethod.PAP,)))
    script.open_lcp()
    assert script.say(LCP, Packet(Code.IDENTIFICATION, 1, b"MSR")) == []
    script.say(PAP, Packet(1, 1, b"\x01u\x01p"))
    assert script.took(AuthRequest)[0].identification == ("", "")
