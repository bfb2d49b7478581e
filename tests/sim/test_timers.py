"""Every timer of the SSTP call and of the HTTP exchange, both roles, virtual clock (MS-SSTP 3.1.2, 3.2.2, 3.3.2)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sstpfarm.proto.roles import Role
from sstpfarm.proto.sstp.packets import encode_data
from sstpfarm.proto.tunnel import CONTROL_BURST
from sstpfarm.reasons import Reason
from tests.sim.world import End, World, settings, with_keepalive

CONTROL = 0x01


def world() -> World:
    made = World(7, settings(Role.CLIENT), settings(Role.SERVER))
    made.delay = 0.0
    return made


def opened() -> World:
    made = world()
    made.start()
    made.run(20, made.is_open)
    assert made.is_open()
    return made


def ended_after(end: End, since: float, seconds: float, reason: Reason, *, drop: bool = False) -> None:
    assert end.ended is not None
    at, event = end.ended
    assert at - since == pytest.approx(seconds, abs=0.2)
    assert (event.reason, event.drop) == (reason, drop)


def spy(end: End) -> list[tuple[float, bytes]]:
    """Record what an end sends, and let it through."""
    sent: list[tuple[float, bytes]] = []
    original = end.tunnel.data_to_send

    def data_to_send() -> bytes:
        data = original()
        if data:
            sent.append((end.world.now, data))
        return data

    end.tunnel.data_to_send = data_to_send  # type: ignore[method-assign]  # a spy
    return sent


def kinds(sent: list[tuple[float, bytes]]) -> list[int]:
    """Types of the control messages in what was sent."""
    found = []
    for _, data in sent:
        at = 0
        while at < len(data):
            length = int.from_bytes(data[at + 2 : at + 4], "big") & 0x0FFF
            if data[at + 1] & CONTROL:
                found.append(int.from_bytes(data[at + 4 : at + 6], "big"))
            at += length
    return found


def test_http_response_never_comes() -> None:
    made = world()
    made.server.mute = True
    made.start()
    start = made.now
    made.run(200, lambda: made.client.ended is not None)
    ended_after(made.client, start, 60, Reason.HTTP_TIMEOUT, drop=True)


def test_http_request_never_comes() -> None:
    made = world()
    made.client.mute = True
    made.start()
    start = made.now
    made.run(200, lambda: made.server.ended is not None)
    ended_after(made.server, start, 60, Reason.HTTP_TIMEOUT, drop=True)


def after_http(made: World, mute: End) -> float:
    """Run the HTTP exchange, then silence one end."""
    made.start()
    made.run(5, lambda: not made.client.tunnel.wants_head and not made.server.tunnel.wants_head)
    mute.mute = True
    return made.now


def test_call_connect_request_never_comes() -> None:
    made = world()
    made.start()
    made.client.mute = True  # its request head is on the way already
    start = made.now
    made.run(200, lambda: made.server.ended is not None)
    ended_after(made.server, start, 60 + 3, Reason.CONNECT_REQUEST_TIMEOUT)


def test_negotiation_timer_of_the_client() -> None:
    made = world()
    made.start()
    made.run(5, lambda: not made.client.tunnel.wants_head)
    made.server.mute = True
    start = made.now
    made.run(200, lambda: made.client.ended is not None)
    assert made.client.ended is not None
    at, event = made.client.ended
    assert event.reason in (Reason.NEGOTIATION_TIMEOUT, Reason.LCP_FAILED)
    assert at - start <= 60 + 3 + 0.2


def test_negotiation_timer_of_the_server_covers_a_client_that_never_says_connected() -> None:
    made = world()
    made.server.auth_delay = 1e6  # auth never answers: no Call Connected
    made.start()
    start = made.now
    made.run(200, lambda: made.server.ended is not None)
    assert made.server.ended is not None
    at, event = made.server.ended
    assert event.reason in (Reason.NEGOTIATION_TIMEOUT, Reason.AUTH_TIMEOUT)
    assert at - start <= 60 + 7


def test_keepalive_asks_each_second_then_closes_silently() -> None:
    made = opened()
    made.client.mute = True
    sent = spy(made.server)
    start = made.now
    made.run(300, lambda: made.server.ended is not None)
    ended_after(made.server, start, 120, Reason.PEER_DEAD, drop=True)
    assert 8 in kinds(sent)
    assert kinds(sent).count(8) == pytest.approx(60, abs=2)
    assert not {5, 6} & set(kinds(sent))


def test_keepalive_disabled_stays_for_ever() -> None:
    made = World(7, with_keepalive(settings(Role.CLIENT), None), with_keepalive(settings(Role.SERVER), None))
    made.start()
    made.run(20, made.is_open)
    made.client.mute = made.server.mute = True
    made.run(86_400)
    assert not made.is_over()


def test_a_quiet_but_living_peer_is_kept() -> None:
    made = opened()
    made.run(3600)
    assert not made.is_over()


@pytest.mark.parametrize("role", [Role.CLIENT, Role.SERVER])
def test_disconnect_waits_five_seconds_for_the_ack(role: Role) -> None:
    made = opened()
    end = made.client if role is Role.CLIENT else made.server
    end.other.mute = True
    sent = spy(end)
    start = made.now
    end.tunnel.close(Reason.USER_REQUEST, made.now)
    end.settle()
    made.run(60, lambda: end.ended is not None)
    ended_after(end, start, 2 + 5, Reason.USER_REQUEST)  # PPP's own termination first
    assert kinds(sent) == [6]


@pytest.mark.parametrize("role", [Role.CLIENT, Role.SERVER])
def test_abort_waits_three_seconds(role: Role) -> None:
    made = opened()
    end = made.client if role is Role.CLIENT else made.server
    end.other.mute = True
    start = made.now
    end.tunnel.close(Reason.MALFORMED_MESSAGE, made.now)
    end.settle()
    made.run(60, lambda: end.ended is not None)
    ended_after(end, start, 3, Reason.MALFORMED_MESSAGE)


@pytest.mark.parametrize("role", [Role.CLIENT, Role.SERVER])
@pytest.mark.parametrize(("message", "answer", "reason"), [(5, 5, Reason.PEER_ABORT), (6, 7, Reason.PEER_DISCONNECT)])
def test_the_far_end_answers_and_waits_one_second(role: Role, message: int, answer: int, reason: Reason) -> None:
    made = opened()
    end = made.client if role is Role.CLIENT else made.server
    end.other.mute = True
    sent = spy(end)
    start = made.now
    end.receive(bytes.fromhex(f"10010008{message:04x}0000"))
    made.run(60, lambda: end.ended is not None)
    ended_after(end, start, 1, reason)
    assert kinds(sent) == [answer]


def test_a_flood_of_control_frames_ends_the_session() -> None:
    """In order while there is hope that the peer listens; one that does not stop is dropped then and there."""
    made = opened()
    sent = spy(made.server)
    took = flood(made.server)
    assert took == pytest.approx(CONTROL_BURST, abs=30)  # a login has spent some
    assert made.server.tunnel.reason is Reason.CONTROL_FLOOD
    assert b"too many control frames" in sent[-1][1]  # in LCP Terminate-Request
    assert took + flood(made.server) == pytest.approx(2 * CONTROL_BURST, abs=30)
    ended_after(made.server, made.now, 0, Reason.CONTROL_FLOOD, drop=True)


def flood(end: End) -> int:
    """Send echoes to an end, without a pause, until it begins to end, or has ended; returns how many."""
    reason = end.tunnel.reason
    for count in range(1, 5000):
        end.receive(bytes.fromhex("1001000800080000"))
        if end.ended is not None or end.tunnel.reason is not reason:
            return count
    pytest.fail("the flood has no end")


def test_a_flood_that_ends_in_time_leaves_the_end_its_order() -> None:
    made = opened()
    flood(made.server)
    made.run(30, lambda: made.server.ended is not None)
    ended_after(made.server, made.now, 0, Reason.CONTROL_FLOOD)


@pytest.mark.parametrize("reason", [Reason.MALFORMED_MESSAGE, Reason.ADMIN_RESET])
def test_a_flood_cuts_any_end_short(reason: Reason) -> None:
    """An abort would take its frames for three seconds, a disconnect for seven."""
    made = opened()
    made.server.tunnel.close(reason, made.now)
    made.server.settle()
    assert flood(made.server) == pytest.approx(2 * CONTROL_BURST, abs=30)
    ended_after(made.server, made.now, 0, reason, drop=True)


def test_a_flood_before_the_call_is_cut_short() -> None:
    made = world()
    made.start()
    made.client.mute = True
    made.run(5, lambda: not made.server.tunnel.wants_head)
    took = flood(made.server)
    assert made.server.ended is None
    assert took + flood(made.server) == pytest.approx(2 * CONTROL_BURST, abs=2)
    ended_after(made.server, made.now, 0, Reason.CONTROL_FLOOD, drop=True)


def test_bad_framing_drops_without_a_word() -> None:
    made = opened()
    sent = spy(made.server)
    made.server.receive(encode_data(b"\xff\x03\xc0\x21\x09\x01\x00\x08\x00\x00\x00\x00")[:3] + b"\x01")
    made.server.receive(b"\x20\x00\x00\x04")
    assert made.server.ended is not None
    assert made.server.ended[1] == replace(made.server.ended[1], reason=Reason.BAD_FRAMING, drop=True)
    assert sent == []
