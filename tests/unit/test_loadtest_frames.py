"""loadtest.caller: which SSTP frames are IPv4 packets."""

from __future__ import annotations

import pytest

from loadtest.caller import ipv4_of

PACKET = b"\x45packet"


def framed(body: bytes, flags: int = 0) -> memoryview:
    return memoryview(bytes([0x10, flags]) + (4 + len(body)).to_bytes(2, "big") + body)


@pytest.mark.parametrize("head", [b"\xff\x03\x00\x21", b"\x00\x21", b"\x21", b"\xff\x03\x21"])
def test_ipv4_with_and_without_compressed_fields(head: bytes) -> None:
    found = ipv4_of(framed(head + PACKET))
    assert found is not None
    assert bytes(found) == PACKET


@pytest.mark.parametrize(
    "body", [b"", b"\xff", b"\xff\x03", b"\xff\x03\xc0\x21x", b"\x80\x21x", b"\x57x", b"\x00\x57x"]
)
def test_other_frames_belong_to_the_core(body: bytes) -> None:
    assert ipv4_of(framed(body)) is None


def test_a_control_packet_is_never_data() -> None:
    assert ipv4_of(framed(b"\xff\x03\x00\x21" + PACKET, flags=1)) is None
