"""Broken framing, malformed and misplaced SSTP messages: what comes back, how it ends, what is logged and counted.

+-- client -------+           +-- server ------+
| raw peer        |---veth----| sstpfarm serve |
+-----------------+           +----------------+
"""

from __future__ import annotations

import struct

import pytest

from .farm import Farm
from .frames import (
    ABORT,
    CONNECT_ACK,
    CONNECT_NAK,
    CONNECT_REQUEST,
    CONNECTED,
    DISCONNECT_ACK,
    ECHO_REQUEST,
    ECHO_RESPONSE,
    GOOD_REQUEST,
    attribute,
    message,
    packet,
)
from .netns import Wire
from .rawpeer import tls_peer

# MS-SSTP 2.2.7: status codes
INVALID_LENGTH, NOT_SUPPORTED, UNACCEPTED_FRAME, RETRY_EXCEEDED, INVALID_FRAME = 3, 4, 5, 6, 7

FRAMING = {
    "version 0x20": packet(1, GOOD_REQUEST[4:], version=0x20),
    "version 0": packet(1, GOOD_REQUEST[4:], version=0),
    "length 0": packet(1, b"", length=0),
    "length 3": packet(1, b"", length=3),
    "control length 4": packet(1, b"", length=4),
    "control length 7": packet(1, b"\0\1\0", length=7),
    "HTTP again": b"GET / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("broken", FRAMING.values(), ids=FRAMING.keys())
def test_broken_framing_before_the_call(wire: Wire, farm: Farm, broken: bytes) -> None:
    """The stream cannot be trusted any more: the connection is dropped, nothing is sent (MS-SSTP 3.1.5)."""
    with tls_peer(wire.client, wire.SERVER4) as peer, farm.refuses("bad-framing", "http", peer.peer):
        peer.open_http()
        peer.send(broken)
        answer, how = peer.rest()
    assert answer == b""
    assert how in {"eof", "reset"}  # not even a TLS close_notify


@pytest.mark.parametrize("broken", [FRAMING["version 0x20"], FRAMING["length 3"]], ids=["version", "length"])
def test_broken_framing_in_a_session(wire: Wire, farm: Farm, broken: bytes) -> None:
    mark = farm.log.mark()
    with (
        farm.counts("sstpfarm_session_ends_total", reason="bad-framing"),
        tls_peer(wire.client, wire.SERVER4) as peer,
    ):
        peer.open_session()
        assert peer.ping()
        peer.send(broken)
        packets, how = peer.packets_until_end()
        assert not [came for came in packets if came.kind], packets
        assert how in {"eof", "reset"}
        assert farm.wait_event("session.closed", mark, peer=peer.peer)["reason"] == "bad-framing"
    farm.idle()


BAD_REQUESTS = {
    "encapsulated protocol 2": (
        message(CONNECT_REQUEST, attribute(1, b"\0\2")), (1, NOT_SUPPORTED, b"\0\2"),
    ),
    "value of 3 bytes": (
        message(CONNECT_REQUEST, attribute(1, b"\0\1\0")), (1, INVALID_LENGTH, b"\0\1\0"),
    ),
    "no attribute": (message(CONNECT_REQUEST), (1, 0x0A, b"")),
    "attribute twice": (
        message(CONNECT_REQUEST, attribute(1, b"\0\1"), attribute(1, b"\0\1")), (1, 1, b"\0\1"),
    ),
    "unknown attribute": (
        message(CONNECT_REQUEST, attribute(1, b"\0\1"), attribute(9, b"")), (9, 2, b""),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("bad", "complaint"), BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
def test_bad_connect_request_is_naked(wire: Wire, farm: Farm, bad: bytes, complaint: tuple[int, int, bytes]) -> None:
    """Call Connect Nak says what is wrong; a good request then still works (MS-SSTP 3.3.5.2.1)."""
    with tls_peer(wire.client, wire.SERVER4) as peer:
        peer.open_http()
        peer.send(bad)
        nak = peer.control(CONNECT_NAK)
        assert nak.complaint[:2] == complaint[:2], nak
        assert nak.complaint[2].startswith(complaint[2])
        peer.call_connect()
        peer.open_lcp("pap")


def test_naks_are_bounded(wire: Wire, farm: Farm) -> None:
    """Three Naks, then Call Abort with status 6 (MS-SSTP 2.2.7, retry count exceeded)."""
    bad = message(CONNECT_REQUEST, attribute(1, b"\0\2"))
    with tls_peer(wire.client, wire.SERVER4) as peer, farm.refuses("nak-limit", "http", peer.peer):
        peer.open_http()
        for _ in range(3):
            peer.send(bad)
            peer.control(CONNECT_NAK)
        peer.send(bad)
        peer.answer_abort(RETRY_EXCEEDED)


@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_attribute_length_below_its_header(wire: Wire, farm: Farm, length: int) -> None:
    """No endless loop and no over-read: the message is invalid, the call is aborted."""
    bad = message(CONNECT_REQUEST, attribute(1, b"\0\1", length=length))
    with tls_peer(wire.client, wire.SERVER4) as peer, farm.refuses("malformed-message", "http", peer.peer):
        peer.open_http()
        peer.send(bad)
        peer.answer_abort(INVALID_FRAME)


@pytest.mark.parametrize(
    "bad",
    [
        message(CONNECT_REQUEST, attribute(1, b"\0\1", length=7)),
        message(CONNECT_REQUEST, attribute(1, b"\0\1"), count=2),
        message(CONNECT_REQUEST, attribute(1, b"\0\1"), count=0xFFFF),
    ],
    ids=["attribute past the end", "count 2 of 1", "count 65535"],
)
def test_attributes_past_the_packet(wire: Wire, farm: Farm, bad: bytes) -> None:
    with tls_peer(wire.client, wire.SERVER4) as peer, farm.refuses("malformed-message", "http", peer.peer):
        peer.open_http()
        peer.send(bad)
        peer.answer_abort(INVALID_FRAME)


def test_second_connect_request(wire: Wire, farm: Farm) -> None:
    with tls_peer(wire.client, wire.SERVER4) as peer, farm.refuses("unexpected-message", "sstp", peer.peer):
        peer.open_http()
        peer.call_connect()
        peer.send(GOOD_REQUEST)
        peer.answer_abort(UNACCEPTED_FRAME)


@pytest.mark.parametrize(
    "misplaced",
    [
        message(CONNECT_ACK, attribute(4, bytes(36))),
        message(CONNECTED, attribute(3, bytes(100))),
        message(DISCONNECT_ACK),
    ],
    ids=["Call Connect Ack", "Call Connected", "Call Disconnect Ack"],
)
def test_message_in_the_wrong_state(wire: Wire, farm: Farm, misplaced: bytes) -> None:
    with tls_peer(wire.client, wire.SERVER4) as peer, farm.refuses("unexpected-message", "http", peer.peer):
        peer.open_http()
        peer.send(misplaced)
        peer.answer_abort(UNACCEPTED_FRAME)


def test_second_call_connected_ends_the_session(wire: Wire, farm: Farm) -> None:
    mark = farm.log.mark()
    with (
        farm.counts("sstpfarm_session_ends_total", reason="unexpected-message"),
        tls_peer(wire.client, wire.SERVER4) as peer,
    ):
        peer.open_session()
        peer.send(peer.call_connected())
        peer.answer_abort(UNACCEPTED_FRAME)
        assert farm.wait_event("session.closed", mark, peer=peer.peer)["reason"] == "unexpected-message"
    farm.idle()


def test_peers_abort_is_answered(wire: Wire, farm: Farm) -> None:
    """An Abort with or without Status Info is answered with an Abort, then the connection closes (ABORT_2)."""
    for bare in (False, True):
        with tls_peer(wire.client, wire.SERVER4) as peer, farm.refuses("peer-abort", "sstp", peer.peer):
            peer.open_http()
            peer.call_connect()
            peer.send(message(ABORT) if bare else message(ABORT, attribute(2, bytes(8))))
            peer.control(ABORT)
            _, how = peer.packets_until_end()
            assert how == "close-notify"


def test_echo_is_answered_at_once(wire: Wire, farm: Farm) -> None:
    with tls_peer(wire.client, wire.SERVER4) as peer:
        peer.open_session()
        for _ in range(3):
            peer.send(message(ECHO_REQUEST))
            peer.control(ECHO_RESPONSE)
        peer.send(packet(0, b""), packet(0, struct.pack(">H", 0xFF03)))  # legal noise and a frame without protocol
        assert peer.ping()
        peer.disconnect()
    farm.idle()
