"""worker/router.py: when it advertises, whom it answers, how often, and that nothing of it outlives its session."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest

from sstpfarm.dataplane.interface import RouterRole
from sstpfarm.dataplane.pure import PurePath
from sstpfarm.ipc.messages import Ipv6Offer
from sstpfarm.proto.ipv6.offer import Offer
from sstpfarm.proto.ipv6.packet import Ipv6Packet, checksum, decode_packet, decode_udp, encode_packet, encode_udp
from sstpfarm.proto.ppp.frame import encode_frame
from sstpfarm.telemetry.stats import Stats
from sstpfarm.transport.deadlines import Deadlines
from sstpfarm.worker import router as module
from sstpfarm.worker.router import QUESTIONS, WINDOW, Router, machine_server_id, offer_of

LOCAL, PEER = bytes(7) + b"\1", bytes(7) + b"\7"
OURS, CLIENT, NODES = IPv6Address("fe80::1"), IPv6Address("fe80::7"), IPv6Address("ff02::1")
ROUTERS, SERVERS = IPv6Address("ff02::2"), IPv6Address("ff02::1:2")
PREFIX: Final = IPv6Network("2001:db8:5::/64")
DNS: Final = IPv6Address("2001:db8::53")
SERVER_ID: Final = b"\0\4" + bytes(16)
NOW: Final = 1000.0


class Path6(PurePath):
    """A packet path that tells who answers."""

    def role(self) -> RouterRole:
        return self._router


class Bench:
    """A router whose packets are kept."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.stats = Stats.create(1)
        self.sent: list[Ipv6Packet] = []
        self.path = Path6(self.stats.totals, self.stats.slot(0))
        self.deadlines = Deadlines(loop)
        self.router = Router(
            Offer(prefixes=(PREFIX,), dns_servers=(DNS,)),
            local=LOCAL,
            peer=PEER,
            mtu=1400,
            server_id=SERVER_ID,
            stats=self.stats,
            deadlines=self.deadlines,
            path=self.path,
            send=lambda packet: self.sent.append(decode_packet(packet)),
        )

    def ask(self, packet: bytes, now: float = NOW) -> list[Ipv6Packet]:
        """What is sent for it."""
        before = len(self.sent)
        self.router.asked(encode_frame(0x57, packet), now)
        return self.sent[before:]

    def counted(self) -> dict[str, int]:
        snapshot = self.stats.snapshot()
        labels = ("advertisement", "dhcpv6", "unanswered")
        return {label: snapshot.counter("sstpfarm_router_messages_total", label) for label in labels}


@pytest.fixture
def bench() -> Iterator[Bench]:
    loop = asyncio.new_event_loop()
    made = Bench(loop)
    yield made
    made.router.stop()
    made.deadlines = made.path = None  # type: ignore[assignment]  # they hold the page of the statistics
    loop.close()
    made.stats.close()


def solicitation(source: IPv6Address = CLIENT, target: IPv6Address = ROUTERS, hop_limit: int = 255) -> bytes:
    body = bytes([133]) + bytes(7)
    body = body[:2] + checksum(source, target, 58, body).to_bytes(2, "big") + body[4:]
    return encode_packet(Ipv6Packet(source, target, 58, hop_limit, body))


def information(source: IPv6Address = CLIENT, target: IPv6Address = SERVERS, port: int = 546) -> bytes:
    return encode_udp((source, port), (target, 547), b"\x0babc")


def test_it_advertises_at_once_and_from_time_to_time(bench: Bench) -> None:
    """RFC 4861 6.2.4: three in the first half minute, then one every 200 to 600 seconds."""
    assert bench.router.next_deadline() is None
    assert bench.path.role() is RouterRole.KERNEL
    bench.router.start(NOW)
    bench.router.start(NOW)
    assert bench.path.role() is RouterRole.PYTHON
    assert bench.router.scheduled == bench.router.next_deadline()
    moments = [NOW]
    for _ in range(30):
        due = bench.router.next_deadline()
        assert due is not None
        bench.router.tick(due - 0.001)
        assert len(bench.sent) == len(moments)
        bench.router.tick(due)
        moments.append(due)
        assert len(bench.sent) == len(moments)
    intervals = [later - earlier for earlier, later in pairwise(moments)]
    assert intervals[:2] == [16, 16]
    assert all(200 <= interval <= 600 for interval in intervals[2:])
    assert len(set(intervals[2:])) > 20  # by chance
    assert {(packet.source, packet.destination, packet.payload[0]) for packet in bench.sent} == {(OURS, NODES, 134)}
    assert bench.counted() == {"advertisement": 31, "dhcpv6": 0, "unanswered": 0}


def test_answers_go_to_the_client(bench: Bench) -> None:
    bench.router.start(NOW)
    for target in (ROUTERS, OURS):
        (packet,) = bench.ask(solicitation(target=target))
        assert (packet.source, packet.destination, packet.hop_limit) == (OURS, CLIENT, 255)
        assert packet.payload[0] == 134
    (packet,) = bench.ask(information())
    assert (packet.source, packet.destination) == (OURS, CLIENT)
    source, port, data = decode_udp(packet)
    assert (source, port) == (547, 546)
    assert data == b"\7abc" + b"\0\2\0\x12" + SERVER_ID + b"\0\x17\0\x10" + DNS.packed
    assert bench.counted() == {"advertisement": 3, "dhcpv6": 1, "unanswered": 0}


@pytest.mark.parametrize(
    "packet",
    [
        solicitation(source=IPv6Address("2001:db8:5::7")),
        solicitation(source=IPv6Address("fe80::8")),
        solicitation(target=IPv6Address("fe80::9")),
        solicitation(target=SERVERS),
        solicitation(hop_limit=64),
        information(source=IPv6Address("2001:db8:5::7")),
        information(target=ROUTERS),
        information(target=IPv6Address("fe80::9")),
        information(target=OURS),  # RFC 8415 16
        information()[:-1],
        information()[:-1] + b"x",  # checksum
        encode_udp((CLIENT, 546), (SERVERS, 547), b"\x0c" + bytes(40)),  # of a relay
        b"",
    ],
)
def test_what_is_not_answered(bench: Bench, packet: bytes) -> None:
    bench.router.start(NOW)
    assert bench.ask(packet) == []
    assert bench.counted()["unanswered"] == 1


def test_a_client_may_send_from_any_port(bench: Bench) -> None:
    """RFC 8415 7.2: the answer goes to 546, where it listens."""
    bench.router.start(NOW)
    (packet,) = bench.ask(information(port=49152))
    assert packet.payload[:4] == bytes.fromhex("0223 0222")


def test_too_many_questions(bench: Bench) -> None:
    """The packet path drops the rest of the window's, so that they cost no more than any packet."""
    bench.router.start(NOW)
    for number in range(QUESTIONS):
        assert bench.path.role() is RouterRole.PYTHON
        assert bench.ask(solicitation(), NOW + number / 100)
    assert bench.path.role() is RouterRole.NOBODY
    assert bench.router.scheduled == bench.router.next_deadline() == NOW + WINDOW
    bench.router.tick(NOW + WINDOW - 0.01)
    assert bench.path.role() is RouterRole.NOBODY
    bench.router.tick(NOW + WINDOW)
    assert bench.path.role() is RouterRole.PYTHON
    assert bench.router.next_deadline() == NOW + 16  # the advertisement that waits was not forgotten
    assert bench.ask(solicitation(), NOW + WINDOW)


def test_questions_now_and_then_are_all_answered(bench: Bench) -> None:
    bench.router.start(NOW)
    for number in range(5 * QUESTIONS):
        now = NOW + number * WINDOW / 10
        bench.router.tick(now)
        assert len(bench.ask(solicitation(), now)) == 1
    assert bench.path.role() is RouterRole.PYTHON


def test_the_end(bench: Bench) -> None:
    bench.router.start(NOW)
    bench.ask(solicitation())
    bench.router.stop()
    assert bench.path.role() is RouterRole.KERNEL
    assert bench.router.next_deadline() is None
    bench.router.tick(NOW + 10_000)
    bench.router.start(NOW)
    assert bench.ask(solicitation()) == []
    assert len(bench.sent) == 2
    assert not any(isinstance(getattr(bench.router, name), PurePath) for name in Router.__slots__)
    assert not bench.router._offer
    assert bench.deadlines._heap == []


def test_the_offer_of_the_terms() -> None:
    told = Ipv6Offer(
        prefixes=(str(PREFIX),), address="2001:db8::9", delegated=("2001:db8:8000::/48",), dns_servers=(str(DNS),)
    )
    assert offer_of(told) == Offer((PREFIX,), IPv6Address("2001:db8::9"), (IPv6Network("2001:db8:8000::/48"),), (DNS,))
    assert not offer_of(Ipv6Offer())


def test_our_identifier_is_that_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same at each start, and it does not tell the machine-id, which machine-id(5) wants to be kept."""
    file = tmp_path / "machine-id"
    monkeypatch.setattr(module, "MACHINE_ID", file)
    nameless = machine_server_id()
    assert nameless == machine_server_id()
    file.write_text("0123456789abcdef0123456789abcdef\n")
    named = machine_server_id()
    assert named == machine_server_id() != nameless
    assert len(named) == 18
    assert bytes.fromhex("0123456789abcdef") not in named
    file.write_text("")
    assert machine_server_id() == nameless
