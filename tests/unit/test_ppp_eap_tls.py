"""proto/ppp/eap_tls.py: which Responses can hold no proof, whatever is in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sstpfarm.proto.ppp.eap_tls import holds_no_proof
from sstpfarm.proto.ppp.packet import Packet, encode_packet

HELLO = bytes.fromhex("160301 0003 010203")
CHANGE = bytes.fromhex("140303 0001 01")
ALERT = bytes.fromhex("150303 0002 0230")
DATA = bytes.fromhex("170303 0001 00")


def holds(data: bytes, code: int = 2) -> bool:
    return not holds_no_proof(encode_packet(Packet(code, 7, data)))


@pytest.mark.parametrize("kind", [13, 21, 25])
@pytest.mark.parametrize("records", [b"", HELLO, ALERT, HELLO + CHANGE + HELLO])
@pytest.mark.parametrize("version", [0, 1])
def test_a_handshake_of_tls(kind: int, records: bytes, version: int) -> None:
    assert not holds(bytes([kind, version]) + records)
    assert not holds(bytes([kind, 0x80 | version]) + len(records).to_bytes(4, "big") + records)


def test_nak() -> None:
    assert not holds(b"\x03\x19")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01alice",
        b"\x04\x10" + bytes(16),  # MD5-Challenge
        b"\x06secret",  # GTC
        b"\x1a\x02" + bytes(60),  # MS-CHAPv2
        b"\x2b\x00" + HELLO,  # a method that is not known here
        b"\x19",
        b"\x19\x40" + HELLO,  # a fragment
        b"\x19\xc0\0\0\1\0" + HELLO,
        b"\x19\0" + DATA,
        b"\x19\0" + HELLO + DATA,
        b"\x19\0" + HELLO[:-1],
        b"\x19\0" + HELLO + b"\x16",
        b"\x19\0" + b"secret",
    ],
)
def test_what_may_be_a_proof(data: bytes) -> None:
    assert holds(data)


def test_what_is_no_response() -> None:
    assert holds(b"\x19\0", code=1)
    assert not holds_no_proof(b"\2\7\0")
    assert not holds_no_proof(b"\2\7\0\x20\x19\0")  # shorter than it says


@given(data=st.binary(max_size=60), flags=st.integers(0, 255), kind=st.sampled_from([13, 21, 25]))
def test_a_record_of_application_data_is_always_seen(data: bytes, flags: int, kind: int) -> None:
    length = b"\0\0\0\5" if flags & 0x80 else b""
    record = b"\x17\3\3" + len(data).to_bytes(2, "big") + data
    for before in (b"", HELLO, CHANGE + HELLO):
        assert holds(bytes([kind, flags]) + length + before + record)
