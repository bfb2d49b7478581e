"""The link: phases and their order, the one end, and a client against a server on a virtual clock."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from sstpfarm.errors import ConfigError, LocalError
from sstpfarm.proto.events import (
    AuthRequest,
    AuthSucceeded,
    Ipv4Opened,
    Ipv6Opened,
    LcpOpened,
    LinkClosed,
    Network,
    NetworkClosed,
)
from sstpfarm.proto.ppp.constants import Code, PppProtocol
from sstpfarm.proto.ppp.frame import encode_frame
from sstpfarm.proto.ppp.link import PppLink, PppSettings
from sstpfarm.proto.ppp.packet import Option, Packet, encode_packet
from sstpfarm.proto.roles import AuthAccept, AuthMethod, AuthReject, AuthUnavailable, Role
from sstpfarm.proto.sstp.packets import encode_data
from sstpfarm.reasons import OUTCOMES, Reason
from tests.unit.ppp_bench import (
    ACK,
    ASSIGNED,
    CLIENT,
    CLIENT_IPV4,
    CLIENT_IPV6,
    DNS,
    GATEWAY,
    IPCP,
    IPV6CP,
    LCP,
    OPEN_CLIENT,
    OPEN_SERVER,
    PAP_SERVER,
    SERVER,
    SERVER_IPV4,
    SERVER_IPV6,
    Pair,
    Script,
    check_session,
    request,
    seeded,
)

PAP_REQUEST = Packet(1, 1, b"\x04User\x0aclientPass")


# -- a client against a server -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", AuthMethod)
def test_session_with_each_method(method: AuthMethod) -> None:
    pair = Pair(replace(SERVER, methods=(method,)), replace(CLIENT, methods=tuple(AuthMethod)))
    pair.run(20)
    check_session(pair, method)
    assert [event.user for event in pair.took(Role.SERVER, AuthSucceeded)] == [b"User"]


def test_session_without_authentication() -> None:
    pair = Pair(OPEN_SERVER, OPEN_CLIENT)
    pair.run(20)
    check_session(pair, None)


@pytest.mark.parametrize("method", AuthMethod)
def test_client_brings_the_server_to_the_method_that_it_allows(method: AuthMethod) -> None:
    pair = Pair(replace(SERVER, methods=tuple(AuthMethod)), replace(CLIENT, methods=(method,)))
    pair.run(20)
    check_session(pair, method)


def test_each_ends_send_limit_is_the_others_mru() -> None:
    pair = Pair(replace(SERVER, mru=1400, mtu=1450), replace(CLIENT, mru=1480, mtu=1500))
    pair.run(20)
    check_session(pair, AuthMethod.MSCHAP2)
    assert pair.took(Role.SERVER, LcpOpened) == [LcpOpened(1450, 1400, AuthMethod.MSCHAP2)]
    assert pair.took(Role.CLIENT, LcpOpened) == [LcpOpened(1400, 1480, AuthMethod.MSCHAP2)]


@pytest.mark.parametrize("lost", [*itertools.combinations(range(1, 12), 1), *itertools.combinations(range(1, 12), 2)])
def test_session_in_spite_of_lost_frames(lost: tuple[int, ...]) -> None:
    success = bytes.fromhex("ff03c22303")  # CHAP's peer never asks again: this one only TCP can save
    sent = itertools.count(1)
    pair = Pair(lose=lambda frame: next(sent) in lost and not frame.startswith(success))
    pair.run(60)
    assert pair.end(Role.CLIENT) is None
    assert pair.took(Role.SERVER, Ipv4Opened)[-1] == Ipv4Opened(GATEWAY, ASSIGNED, DNS)
    assert pair.took(Role.CLIENT, Ipv4Opened)[-1] == Ipv4Opened(ASSIGNED, GATEWAY, DNS)
    assert len(pair.took(Role.SERVER, Ipv6Opened)) >= 1
    assert len(pair.took(Role.CLIENT, Ipv6Opened)) >= 1


@pytest.mark.parametrize("seed", range(25))
def test_session_over_a_slow_and_uneven_path(seed: int) -> None:
    chance = random.Random(seed)
    pair = Pair(seed=seed, delay=lambda: chance.uniform(0.0, 5.0), configure_delay=chance.uniform(0, 12))
    pair.run(200)
    check_session(pair, AuthMethod.MSCHAP2)


def test_families_that_are_off() -> None:
    pair = Pair(replace(SERVER, ipv6=False), CLIENT)
    pair.run(60)
    assert pair.took(Role.CLIENT, Ipv4Opened) == [Ipv4Opened(ASSIGNED, GATEWAY, DNS)]
    assert pair.took(Role.CLIENT, Ipv6Opened) == pair.took(Role.SERVER, Ipv6Opened) == []
    assert pair.end(Role.CLIENT) is None


def test_no_family_in_common_ends_the_link() -> None:
    pair = Pair(replace(SERVER, ipv6=False), replace(CLIENT, ipv4=False))
    pair.run(60)
    assert pair.end(Role.CLIENT) == LinkClosed(Reason.NCP_FAILED)
    assert pair.end(Role.SERVER) == LinkClosed(Reason.PEER_TERMINATED, OUTCOMES[Reason.NCP_FAILED].text)


@pytest.mark.parametrize("method", AuthMethod)
def test_wrong_password_ends_both_links_with_one_reason(method: AuthMethod) -> None:
    pair = Pair(replace(SERVER, methods=(method,)), replace(CLIENT, methods=(method,)), password="another")
    pair.run(20)
    for role in Role:
        end = pair.end(role)
        assert end is not None
        assert end.reason is Reason.AUTH_REFUSED
        assert end.text
    assert pair.took(Role.SERVER, AuthSucceeded) == pair.took(Role.CLIENT, AuthSucceeded) == []


@pytest.mark.parametrize(
    ("server", "client"),
    [
        (replace(SERVER, methods=(AuthMethod.PAP,)), CLIENT),
        (OPEN_SERVER, CLIENT),
        (SERVER, OPEN_CLIENT),
        (replace(SERVER, methods=(AuthMethod.CHAP, AuthMethod.PAP)), CLIENT),
    ],
)
def test_no_common_method(server: PppSettings, client: PppSettings) -> None:
    pair = Pair(server, client)
    pair.run(30)
    reasons = set()
    for role in Role:
        end = pair.end(role)
        assert end is not None
        reasons.add(end.reason)
    assert Reason.AUTH_NO_COMMON_METHOD in reasons
    assert reasons <= {Reason.AUTH_NO_COMMON_METHOD, Reason.PEER_TERMINATED}


@pytest.mark.parametrize("who", Role)
def test_terminate_ends_both_links_in_order(who: Role) -> None:
    pair = Pair()
    pair.run(20)
    pair.links[who].terminate(Reason.ADMIN_RESET, pair.now)
    pair.run(0.2)
    other = Role.CLIENT if who is Role.SERVER else Role.SERVER
    assert pair.end(who) == LinkClosed(Reason.ADMIN_RESET)
    assert pair.end(other) is None  # it waits until its Ack is surely seen
    for role in Role:
        assert pair.took(role, NetworkClosed) == [NetworkClosed(Network.IPV4), NetworkClosed(Network.IPV6)]
    pair.run(4)
    assert pair.end(other) == LinkClosed(Reason.PEER_TERMINATED, OUTCOMES[Reason.ADMIN_RESET].text)


# -- phases ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [SERVER, CLIENT])
def test_silent_peer_is_given_up_after_ten_requests(settings: PppSettings) -> None:
    script = Script(settings)
    sent = script.sent_by(LCP) + [packet for _, packet in script.wait(60)]
    assert [packet.code for packet in sent] == [Code.CONFIGURE_REQUEST] * 10
    assert len({packet.identifier for packet in sent}) == 1
    assert script.closed() == LinkClosed(Reason.LCP_FAILED)
    assert script.link.next_deadline() is None


def test_nothing_happens_before_the_start() -> None:
    link = PppLink(SERVER, seeded(1))
    link.receive(bytes.fromhex("ff03c02101010004"), 0.0)
    link.tick(100.0)
    assert (link.frames_to_send(), link.events(), link.next_deadline()) == ([], [], None)
    link.terminate(Reason.SHUTDOWN, 1.0)
    assert link.events() == [LinkClosed(Reason.SHUTDOWN)]
    link.start(2.0)
    assert (link.frames_to_send(), link.events()) == ([], [])


def test_ncp_packets_before_authentication_is_done_are_dropped_for_good() -> None:
    script = Script(PAP_SERVER)
    assert script.open_lcp()[0][1].code == ACK
    assert script.say(IPCP, request(1)) == []
    script.say(PppProtocol.PAP, PAP_REQUEST)
    assert script.say(IPCP, request(2)) == []
    script.link.auth_result(AuthAccept(bytes(32)), script.now)
    assert [protocol for protocol, _ in script.sent()] == [PppProtocol.PAP]
    script.link.configure(SERVER_IPV4, SERVER_IPV6, script.now)
    sent = script.sent()
    assert [(protocol, packet.code) for protocol, packet in sent] == [
        (IPCP, Code.CONFIGURE_REQUEST),
        (IPV6CP, Code.CONFIGURE_REQUEST),
    ]


def test_packets_of_another_authentication_protocol_are_dropped() -> None:
    script = Script(PAP_SERVER)
    script.open_lcp()
    assert script.say(PppProtocol.CHAP, Packet(2, 1, b"\x01x")) == []
    assert script.took(AuthRequest) == []


def test_authentication_timeout() -> None:
    script = Script(replace(PAP_SERVER, authentication_timeout=20.0))
    script.open_lcp()
    sent = script.wait(19.9)
    assert sent == []
    assert [packet.code for _, packet in script.wait(0.2)] == [Code.TERMINATE_REQUEST]
    script.wait(10)
    assert script.closed() == LinkClosed(Reason.AUTH_TIMEOUT)


def test_who_looks_for_a_token_has_all_of_that_time() -> None:
    """EAP: a single Request, and the answer counts until the last moment."""
    script = Script(replace(SERVER, methods=(AuthMethod.EAP,), authentication_timeout=300.0))
    (asked,) = [packet for protocol, packet in script.open_lcp() if protocol == PppProtocol.EAP]
    assert script.wait(299.9) == []
    script.say(PppProtocol.EAP, Packet(2, asked.identifier, b"\x01User"))
    assert len(script.took(AuthRequest)) == 1
    script.link.auth_result(AuthAccept(bytes(32)), script.now)
    assert script.end_reason() is None
    assert [packet.code for packet in script.sent_by(PppProtocol.EAP)] == [3]


def test_failure_is_sent_before_the_terminate_request() -> None:
    script = Script(PAP_SERVER)
    script.open_lcp()
    script.say(PppProtocol.PAP, PAP_REQUEST)
    script.link.auth_result(AuthReject(b"no"), script.now)
    (first, nak), (second, terminate) = script.sent()
    assert (first, nak.code) == (PppProtocol.PAP, 3)
    assert (second, terminate.code) == (LCP, Code.TERMINATE_REQUEST)
    assert terminate.data == OUTCOMES[Reason.AUTH_REFUSED].text.encode()


def test_where_nobody_can_judge_the_link_ends_without_a_verdict() -> None:
    script = Script(PAP_SERVER)
    script.open_lcp()
    script.say(PppProtocol.PAP, PAP_REQUEST)
    script.link.auth_result(AuthUnavailable(), script.now)
    ((protocol, terminate),) = script.sent()
    assert (protocol, terminate.code) == (LCP, Code.TERMINATE_REQUEST)
    assert terminate.data == b"the authentication service does not answer"
    assert script.say(PppProtocol.PAP, PAP_REQUEST) == []  # repeated, it gets no answer either
    script.wait(10)
    assert script.end_reason() is Reason.AUTH_UNAVAILABLE


def test_protocol_reject_of_the_authentication_protocol_ends_the_link() -> None:
    script = Script(SERVER)
    script.open_lcp()
    script.say(LCP, Packet(Code.PROTOCOL_REJECT, 1, bytes.fromhex("c223")))
    script.wait(10)
    assert script.end_reason() is Reason.AUTH_NO_COMMON_METHOD


# -- renegotiation -----------------------------------------------------------------------------------------------------


def test_lcp_renegotiated_before_a_proof_restarts_authentication() -> None:
    script = Script(replace(SERVER, authentication_timeout=20.0))
    opened = script.open_lcp()
    assert [protocol for protocol, _ in opened] == [LCP, PppProtocol.CHAP]
    script.now += 15.0
    (_, again), (_, ack) = script.say(LCP, request(78))
    assert (again.code, ack.code) == (Code.CONFIGURE_REQUEST, ACK)
    assert [protocol for protocol, _ in script.say(LCP, replace(again, code=ACK))] == [PppProtocol.CHAP]
    assert len(script.took(LcpOpened)) == 2
    script.wait(6)  # the timeout still counts from the first time
    script.wait(6)
    assert script.closed() == LinkClosed(Reason.AUTH_TIMEOUT)


@pytest.mark.parametrize("stage", ["proof", "authenticated", "network"])
@pytest.mark.parametrize("packet", [request(78), request(78, Option(99)), Packet(Code.TERMINATE_ACK, 1)])
def test_lcp_renegotiated_after_a_proof_is_refused(stage: str, packet: Packet) -> None:
    script = Script(PAP_SERVER)
    script.open_lcp()
    script.say(PppProtocol.PAP, PAP_REQUEST)
    if stage != "proof":
        script.link.auth_result(AuthAccept(bytes(32)), script.now)
    if stage == "network":
        script.link.configure(SERVER_IPV4, None, script.now)
    script.sent()
    assert [sent.code for _, sent in script.say(LCP, packet)] == [Code.TERMINATE_REQUEST]
    script.link.auth_result(AuthAccept(bytes(32)), script.now)  # comes too late
    script.wait(10)
    assert script.closed() == LinkClosed(Reason.LCP_FAILED)
    assert len(script.took(AuthSucceeded)) == (stage != "proof")


# -- network protocols -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["8057", "0057"])
def test_protocol_reject_stops_only_that_family(protocol: str) -> None:
    script = Script(OPEN_CLIENT)
    script.open_network(CLIENT_IPV4, CLIENT_IPV6)
    assert script.say(LCP, Packet(Code.PROTOCOL_REJECT, 1, bytes.fromhex(protocol + "01010004"))) == []
    assert script.closed() is None
    assert all(protocol == IPCP for protocol, _ in script.wait(20))
    answers = script.say(LCP, Packet(Code.PROTOCOL_REJECT, 2, bytes.fromhex("8021")))
    assert [packet.code for _, packet in answers] == [Code.TERMINATE_REQUEST]
    script.wait(10)
    assert script.closed() == LinkClosed(Reason.NCP_FAILED)


def test_protocol_reject_of_packets_closes_what_carries_them() -> None:
    """RFC 1661 5.7: nothing of that protocol is sent any more; an NCP that stayed open would say otherwise."""
    pair = Pair()
    pair.run(20)
    check_session(pair, AuthMethod.MSCHAP2)
    link = pair.links[Role.SERVER]
    for protocol, network in (("0021", Network.IPV4), ("0057", Network.IPV6)):
        rejection = encode_packet(Packet(Code.PROTOCOL_REJECT, 1, bytes.fromhex(protocol) + b"\x45"))
        link.receive(encode_frame(LCP, rejection), pair.now)
        pair.run(10)
        assert pair.took(Role.SERVER, NetworkClosed)[-1:] == [NetworkClosed(network)]
    end = pair.end(Role.SERVER)
    assert end is not None
    assert end.reason is Reason.NCP_FAILED


def test_family_that_the_peer_terminates_leaves_the_other_alone() -> None:
    script = Script(OPEN_CLIENT)
    ours = dict(script.open_network(CLIENT_IPV4, CLIENT_IPV6))
    script.say(IPV6CP, replace(ours[IPV6CP], code=ACK))
    script.say(IPV6CP, request(1, Option(1, bytes(7) + b"\x09")))
    script.say(IPCP, replace(ours[IPCP], code=Code.TERMINATE_REQUEST))
    script.wait(40)
    assert script.closed() is None
    assert len(script.took(Ipv6Opened)) == 1
    assert script.took(NetworkClosed) == []


def test_ipv6_stays_off_where_its_smallest_packet_does_not_fit() -> None:
    script = Script(OPEN_SERVER)
    script.open_lcp(Option(1, (1279).to_bytes(2, "big")))
    script.link.configure(SERVER_IPV4, SERVER_IPV6, script.now)
    assert [protocol for protocol, _ in script.sent()] == [IPCP]
    ((protocol, packet),) = script.say(IPV6CP, request(1))
    assert (protocol, packet.code) == (LCP, Code.PROTOCOL_REJECT)


@pytest.mark.parametrize("settings", [OPEN_SERVER, replace(OPEN_SERVER, ipv4=False, ipv6=False)])
def test_nothing_to_configure_ends_the_link(settings: PppSettings) -> None:
    script = Script(settings)
    script.open_lcp()
    none_granted = settings.ipv4
    script.link.configure(None if none_granted else SERVER_IPV4, None if none_granted else SERVER_IPV6, script.now)
    script.wait(10)
    assert script.closed() == LinkClosed(Reason.NCP_FAILED)


def test_configure_at_the_wrong_time_is_a_local_error() -> None:
    script = Script(PAP_SERVER)
    with pytest.raises(LocalError):
        script.link.configure(SERVER_IPV4, None, script.now)
    script.open_lcp()
    with pytest.raises(LocalError):
        script.link.configure(SERVER_IPV4, None, script.now)
    script = Script(OPEN_SERVER)
    script.open_network(SERVER_IPV4, None)
    with pytest.raises(LocalError):
        script.link.configure(SERVER_IPV4, None, script.now)
    script.link.terminate(Reason.SHUTDOWN, script.now)
    script.link.configure(SERVER_IPV4, None, script.now)  # the interface came too late


def test_client_refuses_credentials_that_its_methods_cannot_carry() -> None:
    with pytest.raises(ConfigError):
        PppLink(replace(CLIENT, user=bytes(256)), seeded(1))


# -- the end -----------------------------------------------------------------------------------------------------------


def test_terminate_is_tried_twice_and_ends_all_the_same() -> None:
    script = Script(OPEN_SERVER)
    script.open_network(SERVER_IPV4, None)
    script.link.terminate(Reason.SHUTDOWN, script.now)
    script.link.terminate(Reason.ADMIN_RESET, script.now)  # the first reason stays
    sent = [packet for _, packet in script.sent() + script.wait(20)]
    assert [packet.code for packet in sent] == [Code.TERMINATE_REQUEST] * 2
    assert script.closed() == LinkClosed(Reason.SHUTDOWN)


def test_terminate_while_the_peers_own_terminate_is_under_way() -> None:
    script = Script(OPEN_SERVER)
    script.open_lcp()
    script.say(LCP, Packet(Code.TERMINATE_REQUEST, 1, b"bye \x1b[31m\xff"))
    script.link.terminate(Reason.SHUTDOWN, script.now)
    script.wait(10)
    end = script.closed()
    assert end is not None
    assert end.reason is Reason.PEER_TERMINATED
    assert end.text.isprintable()
    assert end.text.startswith("bye")


def test_peer_that_terminates_during_negotiation_is_let_go() -> None:
    script = Script(SERVER)
    script.sent()
    sent = script.say(LCP, Packet(Code.TERMINATE_REQUEST, 7, b"no"))
    assert [packet.code for _, packet in sent] == [Code.TERMINATE_ACK, Code.TERMINATE_REQUEST]
    script.say(LCP, Packet(Code.TERMINATE_ACK, sent[1][1].identifier))
    assert script.closed() == LinkClosed(Reason.PEER_TERMINATED, "no")


@pytest.mark.parametrize(("size", "answers"), [(4087, [Code.CONFIGURE_REJECT]), (4088, []), (4089, [])])
def test_a_request_whose_answer_no_frame_holds_is_dropped(size: int, answers: list[Code]) -> None:
    """Without FF 03 a frame has room for two bytes more than ours have; fragments bring up to 16384."""
    script = Script(OPEN_SERVER)
    script.sent()
    refused = request(1, *[Option(99, bytes(238))] * 16, Option(99, bytes(size - 4 - 16 * 240 - 2)))
    frame = encode_frame(LCP, encode_packet(refused))[2:]
    assert len(encode_data(frame)) == size + 6
    script.link.receive(frame, script.now)
    frames = script.link.frames_to_send()
    assert [sent[4] for sent in frames] == answers
    assert all(len(encode_data(sent)) == 4095 for sent in frames)


def test_closed_link_takes_every_call_and_does_nothing() -> None:
    script = Script(OPEN_SERVER)
    script.open_network(SERVER_IPV4, SERVER_IPV6)
    script.link.terminate(Reason.SHUTDOWN, script.now)
    script.wait(20)
    assert script.closed() == LinkClosed(Reason.SHUTDOWN)
    link, now = script.link, script.now
    link.start(now)
    link.receive(bytes.fromhex("ff03c02101010004"), now)
    link.auth_result(AuthAccept(bytes(32)), now)
    link.configure(SERVER_IPV4, None, now)
    link.terminate(Reason.ADMIN_RESET, now)
    link.tick(now + 1000)
    assert (link.frames_to_send(), link.events(), link.next_deadline()) == ([], [], None)


def test_password_is_in_no_repr() -> None:
    assert "clientPass" not in repr(CLIENT)
