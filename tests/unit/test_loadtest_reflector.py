"""loadtest.reflector: it answers only what carries our stamp, and sends more than it got only when told to."""

from __future__ import annotations

import socket

import pytest

from loadtest import packets
from loadtest.packets import Kind, Stamp
from loadtest.reflector import MAX_BURST, MAX_PEERS, Reflector

PEER = ("192.0.2.1", 40009)


@pytest.fixture
def sock() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.close()  # `answer` uses none
    return made


def made(kind: Kind, number: int = 0, sequence: int = 0, size: int = 100) -> memoryview:
    return memoryview(packets.payload(kind, number, sequence, 42, size))


def test_echo_comes_back_as_it_is(sock: socket.socket) -> None:
    data = made(Kind.ECHO, sequence=3)
    assert Reflector(sock, source=False).answer(data, PEER) == [bytes(data)]


def test_data_is_counted_for_each_peer(sock: socket.socket) -> None:
    reflector = Reflector(sock, source=False)
    for _ in range(3):
        assert reflector.answer(made(Kind.DATA, size=1372), PEER) == []
    (report,) = reflector.answer(made(Kind.QUERY), PEER)
    assert packets.read_payload(memoryview(report)) == Stamp(Kind.REPORT, 0, 3, 3 * 1400)
    (report,) = reflector.answer(made(Kind.QUERY), ("192.0.2.2", 1))
    assert packets.read_payload(memoryview(report)) == Stamp(Kind.REPORT, 0, 0, 0)


def test_a_burst_needs_permission_and_is_bounded(sock: socket.socket) -> None:
    request = made(Kind.BURST, number=60_000, sequence=10)
    assert Reflector(sock, source=False).answer(request, PEER) == []
    burst = Reflector(sock, source=True).answer(request, PEER)
    stamps = [packets.read_payload(memoryview(data)) for data in burst]
    assert [stamp.sequence for stamp in stamps] == list(range(10, 10 + MAX_BURST))
    assert {len(data) for data in burst} == {100}
    assert {stamp.kind for stamp in stamps} == {Kind.SOURCE}


@pytest.mark.parametrize("data", [b"", b"hello", bytes(100), b"SFLT" + bytes(200)])
def test_foreign_datagrams_are_not_answered(sock: socket.socket, data: bytes) -> None:
    assert Reflector(sock, source=True).answer(memoryview(data), PEER) == []


@pytest.mark.parametrize("kind", [Kind.REPORT, Kind.SOURCE])
def test_answers_are_not_answered(sock: socket.socket, kind: Kind) -> None:
    assert Reflector(sock, source=True).answer(made(kind, number=9), PEER) == []


def test_the_table_of_peers_is_bounded(sock: socket.socket) -> None:
    reflector = Reflector(sock, source=False)
    data = made(Kind.DATA)
    for number in range(MAX_PEERS + 1):
        reflector.answer(data, ("192.0.2.1", number))
    (first,) = reflector.answer(made(Kind.QUERY), ("192.0.2.1", 0))
    (last,) = reflector.answer(made(Kind.QUERY), ("192.0.2.1", MAX_PEERS))
    assert packets.read_payload(memoryview(first)).sequence == 0
    assert packets.read_payload(memoryview(last)).sequence == 1
