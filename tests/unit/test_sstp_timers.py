"""Every timer of SstpCall under a fake clock: the setup, the teardown, the keepalive."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sstpfarm.proto.events import CallEnded, CallEnding
from sstpfarm.proto.roles import Role
from sstpfarm.proto.sstp import packets
from sstpfarm.proto.sstp.call import SstpCall, SstpSettings, State
from sstpfarm.proto.sstp.constants import Status
from sstpfarm.reasons import Reason
from tests.unit.sstp_bench import (
    ABORT,
    ECHO_REQUEST,
    ECHO_RESPONSE,
    HLAK,
    NONCE,
    REQUEST,
    SEEN,
    a_client,
    a_server,
    connected,
    ending,
    nonce,
    said,
)


def run_out(call: SstpCall, at: float) -> None:
    """The timer is set to `at`, does nothing before, and fires then."""
    assert call.next_deadline() == at
    state = call.state
    call.tick(at - 0.001)
    assert call.state is state
    call.tick(at)
    assert call.state is not state


def test_server_waits_for_the_request() -> None:
    call = a_server()
    call.start(100)
    run_out(call, 130)
    assert said(call) == [(ABORT, Status.NEGOTIATION_TIMEOUT)]
    assert ending(call) is Reason.CONNECT_REQUEST_TIMEOUT
    run_out(call, 133)  # ABORT_1
    assert call.events() == [CallEnded(Reason.CONNECT_REQUEST_TIMEOUT)]


def test_server_waits_for_call_connected() -> None:
    call = a_server()
    call.start(100)
    call.receive(REQUEST, 120)
    call.authenticated(HLAK, 150)
    call.data_to_send()
    call.events()
    run_out(call, 180)
    assert said(call) == [(ABORT, Status.NEGOTIATION_TIMEOUT)]
    assert ending(call) is Reason.NEGOTIATION_TIMEOUT


def test_client_waits_for_the_ack() -> None:
    call = a_client()
    call.start(100)
    call.data_to_send()
    run_out(call, 160)
    assert said(call) == [(ABORT, Status.NEGOTIATION_TIMEOUT)]
    assert ending(call) is Reason.NEGOTIATION_TIMEOUT


def test_client_waits_for_its_authentication() -> None:
    call = a_client()
    call.start(100)
    call.receive(packets.call_connect_ack(3, NONCE).encode(), 150)
    call.data_to_send()
    call.events()
    run_out(call, 210)
    assert said(call) == [(ABORT, Status.NEGOTIATION_TIMEOUT)]


@pytest.mark.parametrize("role", Role)
def test_disconnect_is_not_waited_for_without_end(role: Role) -> None:
    call = connected(role)
    call.disconnect(Reason.SHUTDOWN, 10)
    call.data_to_send()
    call.events()
    run_out(call, 15)  # DISCONNECT_1
    assert call.events() == [CallEnded(Reason.SHUTDOWN)]
    assert call.data_to_send() == b""


def test_teardown_times_are_settings() -> None:
    settings = SstpSettings(
        role=Role.CLIENT, certificates=(SEEN,), abort_1=0.1, abort_2=0.2, disconnect_1=0.3, disconnect_2=0.4
    )
    triggers: list[tuple[Callable[[SstpCall], None], float]] = [
        (lambda call: call.abort(Reason.LOGIN_DEADLINE, 0), 0.1),
        (lambda call: call.receive(packets.call_abort(0).encode(), 0), 0.2),
        (lambda call: call.disconnect(Reason.SHUTDOWN, 0), 0.3),
        (lambda call: call.receive(packets.call_disconnect(0).encode(), 0), 0.4),
    ]
    for trigger, seconds in triggers:
        call = SstpCall(settings, nonce)
        call.start(0)
        trigger(call)
        assert call.next_deadline() == seconds


@pytest.mark.parametrize("role", Role)
def test_keepalive_of_a_dead_peer(role: Role) -> None:
    call = connected(role, keepalive=5.0, now=100)
    times = []
    while (due := call.next_deadline()) is not None:
        call.tick(due - 0.001)
        assert call.data_to_send() == b""
        call.tick(due)
        times.append((due, call.data_to_send()))
    assert times == [(105 + second, ECHO_REQUEST) for second in range(5)] + [(110, b"")]
    assert call.events() == [CallEnding(Reason.PEER_DEAD), CallEnded(Reason.PEER_DEAD, drop=True)]


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("by", ["heard", "message"])
def test_keepalive_of_a_peer_that_answers(role: Role, by: str) -> None:
    call = connected(role, keepalive=5.0)
    for base in (0, 6, 12):
        assert call.next_deadline() == base + 5
        call.tick(base + 5)
        assert call.data_to_send() == ECHO_REQUEST
        if by == "heard":
            call.heard(base + 6)
        else:
            call.receive(ECHO_RESPONSE, base + 6)
    assert call.data_to_send() == b""
    assert call.state is State.CALL_CONNECTED


def test_keepalive_of_a_busy_peer_costs_nothing() -> None:
    call = connected(Role.SERVER, keepalive=5.0)
    for now in range(100):
        call.heard(now)
        call.tick(now)
    assert call.data_to_send() == b""


def test_keepalive_shorter_than_the_echo_interval() -> None:
    call = connected(Role.SERVER, keepalive=0.25)
    call.tick(0.25)
    assert call.data_to_send() == ECHO_REQUEST
    assert call.next_deadline() == 0.5
    call.tick(0.5)
    assert call.events()[-1] == CallEnded(Reason.PEER_DEAD, drop=True)


@pytest.mark.parametrize("role", Role)
def test_no_keepalive_but_echoes_are_answered(role: Role) -> None:
    call = connected(role, keepalive=None)
    assert call.next_deadline() is None
    call.tick(1e9)
    assert (call.data_to_send(), call.events()) == (b"", [])
    call.receive(ECHO_REQUEST, 1e9)
    assert call.data_to_send() == ECHO_RESPONSE
