"""SstpCall as its driver sees it: whole calls, the crypto binding, refusals, reasons, bounds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sstpfarm.errors import LocalError
from sstpfarm.proto.events import CallAccepted, CallConnected, CallEnded, CallEnding
from sstpfarm.proto.roles import Role
from sstpfarm.proto.sstp import packets
from sstpfarm.proto.sstp.call import CertificateHash, SstpCall, SstpSettings, State
from sstpfarm.proto.sstp.constants import HashProtocol, MessageType, Status
from sstpfarm.proto.sstp.packets import Attribute, ControlMessage, StatusInfo
from sstpfarm.reasons import Reason
from tests.unit.sstp_bench import (
    ABORT,
    DISCONNECT,
    DISCONNECT_ACK,
    ECHO_REQUEST,
    HLAK,
    NONCE,
    OTHER,
    REQUEST,
    SEEN,
    a_client,
    a_server,
    accepted_server,
    call_connected,
    connected,
    ending,
    said,
)

# -- whole calls -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hash_mask", [1, 2, 3])
@pytest.mark.parametrize("early", [False, True])
def test_client_against_server(hash_mask: int, early: bool) -> None:
    server, client = a_server(hash_mask=hash_mask), a_client()
    server.start(0)
    client.start(0)
    assert (client.carries_control, server.carries_control) == (False, False)
    server.receive(client.data_to_send(), 0)
    client.receive(server.data_to_send(), 0)
    assert client.carries_control
    assert server.carries_control
    if not early:
        server.authenticated(HLAK, 1)
    client.authenticated(HLAK, 1)
    assert client.carries_data
    server.receive(client.data_to_send(), 1)
    if early:
        assert not server.carries_data
        server.authenticated(HLAK, 2)
    assert server.carries_data
    assert server.carries_control
    for call in (client, server):
        assert call.events() == [CallAccepted(), CallConnected()]

    client.disconnect(Reason.USER_REQUEST, 5)
    assert client.events() == [CallEnding(Reason.USER_REQUEST)]
    assert (client.carries_data, client.carries_control) == (False, False)
    server.receive(client.data_to_send(), 5)
    assert server.events() == [CallEnding(Reason.PEER_DISCONNECT)]
    client.receive(server.data_to_send(), 5)
    assert client.events() == [CallEnded(Reason.USER_REQUEST)]
    server.tick(6)
    assert server.events() == [CallEnded(Reason.PEER_DISCONNECT, "the peer gave status 0 (NO_ERROR)")]
    assert server.data_to_send() == client.data_to_send() == b""


def test_keys_are_forgotten_after_success_and_at_the_end() -> None:
    early = accepted_server()
    early.receive(call_connected(), 0)
    assert early._nonce == NONCE
    assert early._held
    early.disconnect(Reason.AUTH_REFUSED, 0)
    for call in (connected(Role.SERVER), connected(Role.CLIENT), early):
        assert (call._nonce, call._hlak, call._held) == (b"", b"", b"")


# -- crypto binding at the server ------------------------------------------------------------------------------------

WRONG: list[tuple[Callable[[], bytes], Reason]] = [
    (lambda: call_connected(its_nonce=b"N" + NONCE[1:]), Reason.BINDING_NONCE),
    (lambda: call_connected(certificate=CertificateHash(bytes(20), bytes(32))), Reason.BINDING_CERTIFICATE),
    (lambda: call_connected()[:15] + b"\0" + call_connected()[16:], Reason.BINDING_HASH_PROTOCOL),
    (lambda: call_connected()[:15] + b"\3" + call_connected()[16:], Reason.BINDING_HASH_PROTOCOL),
    (lambda: b"\x10\x01\x00\x71" + call_connected()[4:] + b"\0", Reason.MALFORMED_MESSAGE),
    (lambda: b"\x10\x01\x00\x6f" + call_connected()[4:-1], Reason.MALFORMED_MESSAGE),
    (
        lambda: b"\x10\x01\x00\x6f" + call_connected()[4:10] + b"\x00\x67" + call_connected()[12:-1],
        Reason.MALFORMED_MESSAGE,
    ),
    (lambda: ControlMessage(MessageType.CALL_CONNECTED).encode(), Reason.MALFORMED_MESSAGE),
]


@pytest.mark.parametrize("authenticated", [False, True])
@pytest.mark.parametrize(("packet", "reason"), WRONG)
def test_wrong_call_connected_is_refused_at_once(
    packet: Callable[[], bytes], reason: Reason, authenticated: bool
) -> None:
    call = accepted_server()
    if authenticated:
        call.authenticated(HLAK, 0)
    call.receive(packet(), 0)
    assert said(call) == [(ABORT, Status.INVALID_FRAME_RECEIVED)]
    assert ending(call) is reason
    assert not call.carries_data


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("wrong", [HLAK[16:] + HLAK[:16], bytes(32)])
def test_wrong_mac_is_refused_when_it_can_be_checked(early: bool, wrong: bytes) -> None:
    call = accepted_server()
    if early:
        call.receive(call_connected(hlak=wrong), 0)
        assert (call.state, call.events(), call.data_to_send()) == (State.CALL_CONNECTED_PENDING, [], b"")
        call.authenticated(HLAK, 0)
    else:
        call.authenticated(HLAK, 0)
        call.receive(call_connected(hlak=wrong), 0)
    assert said(call) == [(ABORT, Status.INVALID_FRAME_RECEIVED)]
    assert ending(call) is Reason.BINDING_MAC


def test_hash_that_was_not_offered() -> None:
    call = accepted_server(hash_mask=2)
    call.receive(call_connected(hash_protocol=HashProtocol.SHA1), 0)
    assert ending(call) is Reason.BINDING_HASH_PROTOCOL


def test_a_held_call_connected_opens_nothing_and_a_second_one_is_refused() -> None:
    call = accepted_server()
    call.receive(call_connected(), 0)
    assert not call.carries_data
    assert call.next_deadline() == 60  # still the negotiation timer
    call.receive(call_connected(), 0)
    assert said(call) == [(ABORT, Status.UNACCEPTED_FRAME_RECEIVED)]
    assert ending(call) is Reason.UNEXPECTED_MESSAGE


def test_a_held_call_connected_is_forgotten_when_authentication_fails() -> None:
    call = accepted_server()
    call.receive(call_connected(), 0)
    call.disconnect(Reason.AUTH_REFUSED, 0)
    call.authenticated(HLAK, 0)
    assert said(call) == [(DISCONNECT, Status.NO_ERROR)]
    assert ending(call) is Reason.AUTH_REFUSED
    assert call.state is State.DISCONNECT_ACK_PENDING


def test_a_nonce_is_good_for_one_connection_only() -> None:
    call = connected(Role.SERVER)
    call.receive(call_connected(), 0)
    assert ending(call) is Reason.UNEXPECTED_MESSAGE


# -- Call Connect Request, Ack, Nak ----------------------------------------------------------------------------------


def test_server_refuses_three_times_then_aborts() -> None:
    call = a_server()
    call.start(0)
    bad = ControlMessage(MessageType.CALL_CONNECT_REQUEST, (Attribute(1, b"\x00\x02"), Attribute(0x77, b"v" * 100)))
    expected = packets.call_connect_nak(
        (StatusInfo(1, Status.VALUE_NOT_SUPPORTED, b"\x00\x02"), StatusInfo(0x77, 2, b"v" * 64))
    ).encode()
    for now in (10, 20, 30):
        call.receive(bad.encode(), now)
        assert call.data_to_send() == expected
        assert call.next_deadline() == now + 30  # restarted
    call.receive(bad.encode(), 40)
    assert said(call) == [(ABORT, Status.RETRY_COUNT_EXCEEDED)]
    assert ending(call) is Reason.NAK_LIMIT


def test_server_accepts_a_good_request_after_naks() -> None:
    call = a_server()
    call.start(0)
    for _ in range(3):
        call.receive(bytes.fromhex("1001000800010000"), 0)
    call.receive(REQUEST, 0)
    assert call.events() == [CallAccepted()]
    assert said(call) == [(MessageType.CALL_CONNECT_NAK, 10)] * 3 + [(MessageType.CALL_CONNECT_ACK, None)]


def test_client_repeats_three_times_then_aborts() -> None:
    call = a_client()
    call.start(0)
    call.data_to_send()
    nak = packets.call_connect_nak((StatusInfo(1, Status.VALUE_NOT_SUPPORTED),)).encode()
    for now in (10, 20, 30):
        call.receive(nak, now)
        assert call.data_to_send() == REQUEST
        assert call.next_deadline() == now + 60
    call.receive(nak, 40)
    assert said(call) == [(ABORT, Status.RETRY_COUNT_EXCEEDED)]
    assert ending(call) is Reason.NAK_LIMIT
    call.tick(43)
    detail = "the peer gave status 4 (VALUE_NOT_SUPPORTED) for attribute 1 (ENCAPSULATED_PROTOCOL_ID)"
    assert call.events() == [CallEnded(Reason.NAK_LIMIT, detail)]


@pytest.mark.parametrize(("offered", "allowed", "chosen"), [(3, 3, 2), (1, 3, 1), (2, 2, 2), (3, 1, 1)])
def test_client_takes_the_strongest_hash(offered: int, allowed: int, chosen: int) -> None:
    call = a_client(hash_mask=allowed)
    call.start(0)
    call.data_to_send()
    call.receive(packets.call_connect_ack(offered, NONCE).encode(), 0)
    call.authenticated(HLAK, 0)
    assert call.data_to_send() == call_connected(hash_protocol=HashProtocol(chosen))


@pytest.mark.parametrize(("offered", "allowed"), [(0, 3), (1, 2), (2, 1)])
def test_client_without_a_common_hash(offered: int, allowed: int) -> None:
    call = a_client(hash_mask=allowed)
    call.start(0)
    call.data_to_send()
    call.receive(packets.call_connect_ack(offered, NONCE).encode(), 0)
    assert said(call) == [(ABORT, Status.INVALID_FRAME_RECEIVED)]
    assert ending(call) is Reason.BINDING_HASH_PROTOCOL


# -- malformed and unknown -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_attribute_lengths_0_to_3(role: Role, length: int) -> None:
    call = a_server() if role is Role.SERVER else a_client()
    call.start(0)
    call.data_to_send()
    call.receive(bytes.fromhex("1001000e0001ffff0001") + length.to_bytes(2) + b"\x00\x01", 0)
    assert said(call) == [(ABORT, Status.INVALID_FRAME_RECEIVED)]
    assert ending(call) is Reason.MALFORMED_MESSAGE


def test_unknown_attribute_outside_a_connect_request() -> None:
    call = connected(Role.SERVER)
    call.receive(ControlMessage(MessageType.ECHO_REQUEST, (Attribute(0x99, b""),)).encode(), 0)
    assert said(call) == [(ABORT, Status.UNRECOGNIZED_ATTRIBUTE)]
    assert ending(call) is Reason.MALFORMED_MESSAGE


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("packet", ["", "100100", "1101000800080000", "1000000800080000", "1001000900080000"])
def test_broken_framing_drops_without_a_word(role: Role, packet: str) -> None:
    call = connected(role)
    call.receive(ECHO_REQUEST, 0)
    call.receive(bytes.fromhex(packet), 0)
    assert call.data_to_send() == b""
    begun, ended = call.events()
    assert begun == CallEnding(Reason.BAD_FRAMING)
    assert isinstance(ended, CallEnded)
    assert (ended.reason, ended.drop) == (Reason.BAD_FRAMING, True)
    assert call.next_deadline() is None


# -- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("role", Role)
def test_abort_of_the_peer(role: Role, bare: bool) -> None:
    call = connected(role)
    call.receive((ControlMessage(MessageType.CALL_ABORT) if bare else packets.call_abort(7)).encode(), 10)
    assert said(call) == [(ABORT, Status.NO_ERROR)]
    assert ending(call) is Reason.PEER_ABORT
    assert call.next_deadline() == 11  # ABORT_2
    call.tick(11)
    status = "no status" if bare else "status 7 (INVALID_FRAME_RECEIVED)"
    assert call.events() == [CallEnded(Reason.PEER_ABORT, f"the peer gave {status}")]


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("role", Role)
def test_disconnect_of_the_peer(role: Role, bare: bool) -> None:
    call = connected(role)
    call.receive((ControlMessage(MessageType.CALL_DISCONNECT) if bare else packets.call_disconnect(0)).encode(), 10)
    assert said(call) == [(MessageType.CALL_DISCONNECT_ACK, None)]
    assert ending(call) is Reason.PEER_DISCONNECT
    assert call.next_deadline() == 11  # DISCONNECT_2
    call.tick(11)
    (ended,) = call.events()
    assert isinstance(ended, CallEnded)
    assert (ended.reason, ended.drop) == (Reason.PEER_DISCONNECT, False)


def test_crossing_aborts_end_without_a_second_one() -> None:
    call = connected(Role.SERVER)
    call.abort(Reason.SERVER_NOT_AUTHENTIC, 10, "because")
    assert call.next_deadline() == 13  # ABORT_1
    assert said(call) == [(ABORT, 7)]
    call.receive(packets.call_abort(5).encode(), 12)
    assert said(call) == []
    assert call.next_deadline() == 13  # ABORT_2
    call.tick(13)
    assert call.events() == [
        CallEnding(Reason.SERVER_NOT_AUTHENTIC),
        CallEnded(Reason.SERVER_NOT_AUTHENTIC, "because"),
    ]


def test_crossing_disconnects() -> None:
    call = connected(Role.CLIENT)
    call.disconnect(Reason.USER_REQUEST, 10)
    call.receive(packets.call_disconnect(0).encode(), 11)
    assert said(call) == [(DISCONNECT, 0), (MessageType.CALL_DISCONNECT_ACK, None)]
    assert call.next_deadline() == 12
    call.receive(DISCONNECT_ACK, 11)
    assert call.state is State.DISCONNECT_TIMEOUT_PENDING
    call.tick(12)
    assert call.events() == [CallEnding(Reason.USER_REQUEST), CallEnded(Reason.USER_REQUEST)]


@pytest.mark.parametrize("role", Role)
def test_the_first_reason_wins(role: Role) -> None:
    call = connected(role)
    call.disconnect(Reason.ADMIN_RESET, 0)
    call.abort(Reason.LOGIN_DEADLINE, 0, "later")
    call.disconnect(Reason.SHUTDOWN, 0)
    call.receive(packets.call_abort(7).encode(), 0)
    assert said(call) == [(DISCONNECT, 0), (ABORT, 0)]
    call.abort(Reason.TRANSPORT_LOST, 0)
    call.abort(Reason.BAD_FRAMING, 0)
    call.receive(b"", 0)
    assert call.events() == [CallEnding(Reason.ADMIN_RESET), CallEnded(Reason.ADMIN_RESET, drop=True)]


def test_a_lost_transport_ends_at_once_and_sends_nothing() -> None:
    call = connected(Role.SERVER)
    call.receive(ECHO_REQUEST, 0)
    call.abort(Reason.TRANSPORT_LOST, 0)
    assert call.data_to_send() == b""
    assert call.events() == [CallEnding(Reason.TRANSPORT_LOST), CallEnded(Reason.TRANSPORT_LOST, drop=True)]
    call.tick(1e9)
    call.receive(ECHO_REQUEST, 1e9)
    assert (call.data_to_send(), call.events(), call.next_deadline()) == (b"", [], None)


@pytest.mark.parametrize("role", Role)
def test_an_end_before_the_start(role: Role) -> None:
    call = a_server() if role is Role.SERVER else a_client()
    call.abort(Reason.LOGIN_DEADLINE, 0)
    assert call.events() == [CallEnding(Reason.LOGIN_DEADLINE), CallEnded(Reason.LOGIN_DEADLINE)]
    assert call.data_to_send() == b""


# -- bounds and misuse -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", Role)
def test_an_echo_flood_that_is_not_drained_grows_nothing(role: Role) -> None:
    call = connected(role)
    for _ in range(10_000):
        call.receive(ECHO_REQUEST, 0)
    call.disconnect(Reason.CONTROL_FLOOD, 0)
    data = call.data_to_send()
    assert len(data) <= 4095 + 8 + 20
    assert data.endswith(packets.call_disconnect(0).encode())  # what matters is never dropped


def test_settings_that_cannot_be() -> None:
    with pytest.raises(LocalError):
        SstpSettings(role=Role.SERVER, certificates=())
    with pytest.raises(LocalError):
        SstpSettings(role=Role.CLIENT, certificates=(SEEN, OTHER))
    with pytest.raises(LocalError):
        SstpSettings(role=Role.SERVER, certificates=(SEEN,), keepalive=0)
    for mask in (0, 4, 7):
        with pytest.raises(LocalError):
            SstpSettings(role=Role.SERVER, certificates=(SEEN,), hash_mask=mask)


def test_misuse() -> None:
    call = accepted_server()
    with pytest.raises(LocalError):
        call.authenticated(bytes(31), 0)
    ended = a_server()
    ended.abort(Reason.TRANSPORT_LOST, 0)
    with pytest.raises(LocalError):
        ended.start(0)
    short = SstpCall(SstpSettings(role=Role.SERVER, certificates=(SEEN,)), lambda _: b"short")
    short.start(0)
    with pytest.raises(LocalError):
        short.receive(REQUEST, 0)
