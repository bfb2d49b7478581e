"""What one control packet can cost, counted in calls of functions: a count is the same on every machine.

SECURITY 8 gives twenty refusals 20 ms of a processor; a call takes a microsecond at the very most.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

import pytest

from sstpfarm.proto.ppp.constants import Code, PppProtocol
from sstpfarm.proto.ppp.frame import encode_frame
from sstpfarm.proto.ppp.link import PppSettings
from sstpfarm.proto.ppp.packet import MAX_OPTIONS, Packet, encode_packet
from sstpfarm.proto.roles import AuthMethod, Role
from sstpfarm.proto.sstp.call import SstpSettings
from sstpfarm.proto.sstp.http import encode_request
from sstpfarm.proto.sstp.packets import (
    ATTRIBUTES_LIMIT,
    CALL_CONNECT_REQUEST,
    Attribute,
    ControlMessage,
    encode_data,
)
from sstpfarm.proto.tunnel import Tunnel, TunnelSettings
from sstpfarm.reasons import Reason
from tests.sim.world import CERTIFICATE
from tests.unit.ppp_bench import seeded

REFUSALS = 20
CALLS = 20_000  # 20 ms
REJECTED, NAKED, MAGIC = b"\x63\x02", b"\x01\x04\x00\x01", b"\x05\x06\0\0\0\0"


def calls_in(work: Callable[[], None]) -> int:
    """Count the calls of functions, those of C too."""
    count = 0

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def accepted() -> Tunnel:
    """A server whose LCP is under way."""
    tunnel = Tunnel(
        TunnelSettings(
            sstp=SstpSettings(role=Role.SERVER, certificates=(CERTIFICATE,)),
            ppp=PppSettings(role=Role.SERVER, methods=(AuthMethod.PAP,)),
        ),
        seeded(3),
    )
    tunnel.start(0.0)
    tunnel.receive_head(encode_request("vpn.example", "{1}"), 0.0)
    tunnel.receive_frame(CALL_CONNECT_REQUEST.encode(), 0.0)
    tunnel.data_to_send()
    return tunnel


def lcp(code: Code, identifier: int, data: bytes) -> bytes:
    return encode_data(encode_frame(PppProtocol.LCP, encode_packet(Packet(code, identifier, data))))


@pytest.mark.parametrize("count", [MAX_OPTIONS, 4083 // 2], ids=["as many as may be", "as many as fit"])
@pytest.mark.parametrize("option", [REJECTED, NAKED, MAGIC], ids=["rejected", "naked", "repeated"])
@pytest.mark.parametrize("code", [Code.CONFIGURE_REQUEST, Code.CONFIGURE_NAK])
def test_twenty_packets_full_of_options(code: Code, option: bytes, count: int) -> None:
    tunnel = accepted()
    data = (option * count)[: 4083 // len(option) * len(option)]
    # the answer to our own request bears its identifier
    frames = [lcp(code, number if code is Code.CONFIGURE_REQUEST else 1, data) for number in range(REFUSALS)]

    def work() -> None:
        for number, frame in enumerate(frames):
            tunnel.receive_frame(frame, number / 50)

    assert calls_in(work) < CALLS
    answered = tunnel.data_to_send().count(b"\xff\x03\xc0\x21")
    expected = REFUSALS if code is Code.CONFIGURE_REQUEST else 1
    assert answered == (expected if count == MAX_OPTIONS else 0)  # too many: silently dropped


@pytest.mark.parametrize("message_type", [1, 3, 4, 5, 9, 0x99])
@pytest.mark.parametrize("count", [ATTRIBUTES_LIMIT, 1021], ids=["as many as may be", "as many as fit"])
def test_messages_full_of_attributes(message_type: int, count: int) -> None:
    """One of them ends the call; twenty come on before the peer has heard of it."""
    tunnel = accepted()
    frame = ControlMessage(message_type, (Attribute(2, b""),) * count).encode()

    def work() -> None:
        for number in range(REFUSALS):
            tunnel.receive_frame(frame, number / 50)

    assert calls_in(work) < CALLS
    assert tunnel.reason is not None
    if count > ATTRIBUTES_LIMIT and message_type not in (3, 5):
        assert tunnel.reason is Reason.MALFORMED_MESSAGE
