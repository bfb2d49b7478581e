"""The native path on real TUN devices, in network namespaces of its own.

What the peer sent must leave the kernel on the far side to the byte:

    packets > SSTP > native feed() > TUN "near" (offload) > the kernel forwards, segments > TUN "far" (plain) > compare

And two kernels must be able to talk through it:

    +-- namespace "server" ---------+                          +-- namespace "client" --------------+
    | TCP, UDP > TUN "near" > native drain() > checks > pure feed() > TUN "peer" > TCP, UDP         |
    |                         native feed()  <          pure drain() <                              |
    +-------------------------------+                          +------------------------------------+
"""

from __future__ import annotations

import hashlib
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from random import Random

import pytest

from sstpfarm.dataplane.interface import Cell, Offload
from sstpfarm.dataplane.pure import PurePath
from sstpfarm.net.tun import make_tun, probe_offload
from tests.e2e.netns import PATIENCE, Namespace, until
from tests.twin.bench import Bench, Make, native
from tests.twin.packets import ACK, FIN, PSH, TCP, UDP, Flow, are_sound, protocol_of, with_checksums
from tests.unit.inside import inside, namespace, needs_root

pytestmark = needs_root

MTU = 1400
NEAR4, NEAR6, PEER4, PEER6 = "10.20.0.1", "fd20::1", "10.20.0.7", "fd20::7"
FAR_NET4, FAR_NET6 = "192.0.2.0/24", "2001:db8::/64"


def tun(place: Namespace, name: str, offload: Offload, *addresses: str) -> int:
    """A device that is up, with these addresses."""
    fd = inside(place, lambda: make_tun(name, offload=offload))
    place.run("ip", "link", "set", name, "mtu", str(MTU), "addrgenmode", "none", "up")
    for address in addresses:
        place.run("ip", "address", "add", address, "dev", name, *(["nodad"] if ":" in address else []))
    return fd


@contextmanager
def path_on(fd: int, make: Make) -> Iterator[Bench]:
    """A path on that device that takes every source."""
    bench = Bench(make)
    bench.path.attach(fd)
    bench.path.set_limits(receive=1500, send=MTU)
    bench.path.set_sources(((0, 0),), ((0, 0),))
    try:
        yield bench
    finally:
        bench.close()


@pytest.fixture(scope="module")
def kernel_offload() -> Offload:
    with namespace("probe") as place:
        return inside(place, lambda: probe_offload(Offload.USO))


def moved(packet: bytes) -> bytes:
    """The packet from an address that the kernel forwards (the benches' IPv6 one is link-local)."""
    if packet[0] >> 4 == 6:
        packet = packet[:8] + socket.inet_pton(socket.AF_INET6, PEER6) + packet[24:]
    return with_checksums(packet)


def hop(packet: bytes) -> bytes:
    """The packet as a router sends it on."""
    made = bytearray(packet)
    made[8 if packet[0] >> 4 == 4 else 7] -= 1
    if packet[0] >> 4 == 4:  # the header's checksum only: what is wrong inside stays wrong
        total = sum(struct.unpack("!5H", made[:10]) + struct.unpack("!4H", made[12:20]))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        made[10:12] = (total ^ 0xFFFF).to_bytes(2, "big")
    return bytes(made)


def some_packets(random: Random) -> list[bytes]:
    """Runs of all kinds, side by side, some packets of them damaged behind the IP header."""
    packets = []
    flows = [
        Flow(version=version, protocol=protocol, ports=(5000 + index, 9), fragment=fragment, random=random)
        for index, (version, protocol, fragment) in enumerate(
            [(4, TCP, 0x4000), (6, TCP, 0), (4, UDP, 0), (6, UDP, 0), (4, TCP, 0), (4, UDP, 0x4000)]
        )
    ]
    for _ in range(40):
        flow = random.choice(flows)
        size = random.choice((1300, 1300, 1300, 172, 700))
        for number in range(random.choice((1, 3, 8))):
            flags = random.choice((ACK, ACK, ACK, ACK | PSH, ACK | FIN)) if number == 7 else ACK
            packet = moved(flow.next(size, flags))
            if random.random() < 0.03:
                made = bytearray(packet)
                made[-1 - random.randrange(100)] ^= 1 << random.randrange(8)
                packet = bytes(made)
            packets.append(packet)
    return packets


@pytest.mark.parametrize("offload", Offload)
def test_the_kernel_takes_super_packets_apart_into_what_the_peer_sent(
    offload: Offload, kernel_offload: Offload
) -> None:
    if offload > kernel_offload:
        pytest.skip(f"this kernel's TUN devices offer {kernel_offload.name.lower()}, not {offload.name.lower()}")
    with namespace("forward") as place, ExitStack() as stack:
        near = tun(place, "near", offload, f"{NEAR4}/24", f"{NEAR6}/64")
        stack.callback(os.close, near)
        far = tun(place, "far", Offload.NONE)
        stack.callback(os.close, far)
        for setting in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            inside(place, partial(Path("/proc/sys/net", setting).write_text, "1"))
        for network in (FAR_NET4, FAR_NET6):
            place.run("ip", "route", "add", network, "dev", "far")
        bench = stack.enter_context(path_on(near, native(offload)))
        sent, got = 0, 0
        for seed in range(8):
            packets = some_packets(Random(seed))
            for start in range(0, len(packets), 60):  # the far device's queue holds 500
                part = packets[start : start + 60]
                bench.feed(b"".join(framed(packet) for packet in part))
                found = read_packets(far, len(part))
                assert sorted(found) == sorted(map(hop, part))
                for flow in {ports(packet) for packet in part}:
                    assert [p for p in found if ports(p) == flow] == [hop(p) for p in part if ports(p) == flow]
                sent += len(part)
                got += len(found)
        counted = bench.counted()
        assert counted == {Cell.PACKETS_IN: sent, Cell.BYTES_IN: counted[Cell.BYTES_IN]}
        [statistics] = place.ip("-s", "link", "show", "near")
        writes = statistics["stats64"]["rx"]["packets"]
        assert writes == sent if offload <= Offload.HEADER else writes < sent * 0.75


def framed(packet: bytes) -> bytes:
    ppp = b"\xff\x03\x00\x21" if packet[0] >> 4 == 4 else b"\xff\x03\x00\x57"
    return b"\x10\x00" + (8 + len(packet)).to_bytes(2, "big") + ppp + packet


def ports(packet: bytes) -> bytes:
    start = 20 if packet[0] >> 4 == 4 else 40
    return packet[start : start + 4]


def read_packets(fd: int, count: int) -> list[bytes]:
    """That many packets of ours; the kernel's own (router solicitations) do not count."""
    found: list[bytes] = []
    while len(found) < count:
        if not select.select([fd], [], [], PATIENCE)[0]:
            return found
        packet = os.read(fd, 65536)
        if protocol_of(packet) in (TCP, UDP):
            found.append(packet)
    return found


class Shuttle:
    """Carries frames between the two paths until it is stopped, and checks each packet's checksums on its way."""

    def __init__(self, left: Bench, left_tun: int, right: Bench, right_tun: int) -> None:
        self.unsound: list[bytes] = []
        self.error: BaseException | None = None
        self._ways = {left_tun: (left, right), right_tun: (right, left)}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Shuttle:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        buffer = memoryview(bytearray(1 << 18))
        try:
            while not self._stop.is_set():
                for fd in select.select(list(self._ways), [], [], 0.05)[0]:
                    source, target = self._ways[fd]
                    more = True
                    while more:
                        filled, more = source.path.drain(buffer)
                        self._check(bytes(buffer[:filled]))
                        target.path.feed(buffer[:filled])
        except BaseException as error:
            self.error = error

    def _check(self, frames: bytes) -> None:
        while frames:
            length = int.from_bytes(frames[2:4], "big")
            packet, frames = frames[8:length], frames[length:]
            if protocol_of(packet) in (TCP, UDP) and not are_sound(packet):
                self.unsound.append(packet)


@contextmanager
def two_kernels(offload: Offload) -> Iterator[tuple[Namespace, Namespace, Bench, Shuttle]]:
    """Server and client namespace, joined by two paths; the server's is the native one."""
    with namespace("server") as server, namespace("client") as client, ExitStack() as stack:
        near = tun(server, "near", offload, f"{NEAR4}/24", f"{NEAR6}/64")
        stack.callback(os.close, near)
        peer = tun(client, "peer", Offload.NONE, f"{PEER4}/24", f"{PEER6}/64")
        stack.callback(os.close, peer)
        left = stack.enter_context(path_on(near, native(offload)))
        right = stack.enter_context(path_on(peer, PurePath))
        shuttle = stack.enter_context(Shuttle(left, near, right, peer))
        yield server, client, left, shuttle


def digest_of(sock: socket.socket, count: int) -> str:
    digest = hashlib.sha256()
    while count:
        part = sock.recv(min(count, 1 << 16))
        assert part, "the connection ended too early"
        digest.update(part)
        count -= len(part)
    return digest.hexdigest()


def carry(sender: socket.socket, receiver: socket.socket, data: bytes) -> str:
    """Send the data; the SHA-256 of what arrives."""
    with ExitStack() as stack:
        for end in (sender, receiver):
            end.settimeout(PATIENCE)
        thread = threading.Thread(target=sender.sendall, args=(data,))
        thread.start()
        stack.callback(thread.join)
        return digest_of(receiver, len(data))


def in_both_ways(server: socket.socket, client: socket.socket) -> None:
    data = Random(3).randbytes(3_000_000)
    assert carry(server, client, data) == carry(client, server, data) == hashlib.sha256(data).hexdigest()


def datagrams(sender: socket.socket, receiver: socket.socket) -> None:
    """A burst of datagrams, some of them handed to the kernel as one super-packet (UDP_SEGMENT)."""
    receiver.settimeout(PATIENCE)
    sent = [Random(number).randbytes(1200) for number in range(60)]
    for number in range(0, 60, 20):
        sender.setsockopt(socket.IPPROTO_UDP, 103, 1200)  # UDP_SEGMENT, linux/udp.h
        sender.send(b"".join(sent[number : number + 20]))
    assert [receiver.recv(4096) for _ in sent] == sent


@pytest.mark.parametrize("host", [(NEAR4, PEER4), (NEAR6, PEER6)], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("offload", Offload)
def test_two_kernels_talk_through_it(offload: Offload, host: tuple[str, str], kernel_offload: Offload) -> None:
    if offload > kernel_offload:
        pytest.skip(f"this kernel's TUN devices offer {kernel_offload.name.lower()}, not {offload.name.lower()}")
    near = host[0]
    with two_kernels(offload) as (server, client, left, shuttle), ExitStack() as stack:
        listener = stack.enter_context(server.listener(near))
        dialed = stack.enter_context(client.dial(near, listener.getsockname()[1]))
        accepted = stack.enter_context(listener.accept()[0])
        in_both_ways(accepted, dialed)
        family = socket.AF_INET6 if ":" in near else socket.AF_INET
        ends = [stack.enter_context(place.open_socket(family, socket.SOCK_DGRAM)) for place in (server, client)]
        for end, address in zip(ends, host, strict=True):
            end.bind((address, 0))
        ends[0].connect(ends[1].getsockname()[:2])
        ends[1].connect(ends[0].getsockname()[:2])
        datagrams(ends[0], ends[1])
        datagrams(ends[1], ends[0])
        until(lambda: left.counted()[Cell.PACKETS_OUT] > 2000, "packets are counted")
        [statistics] = server.ip("-s", "link", "show", "near")
        reads = statistics["stats64"]["tx"]["packets"]
        if offload >= Offload.TSO:
            assert reads < left.counted()[Cell.PACKETS_OUT] / 2
    assert shuttle.error is None
    assert shuttle.unsound == []


def test_a_kernel_without_the_feature_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step: what TUNSETOFFLOAD refuses is not asked for again."""
    refused: list[int] = []

    def probe(limit: int) -> Callable[[], Offload]:
        from sstpfarm.net import tun as module

        def refuse(fd: int, offload: Offload) -> None:
            if offload > limit:
                refused.append(offload)
                raise OSError(22, "Invalid argument")

        monkeypatch.setattr(module, "set_offload", refuse)
        return lambda: probe_offload(Offload.USO)

    with namespace("probe") as place:
        assert [inside(place, probe(limit)) for limit in range(4)] == list(Offload)
    assert refused == [3, 2, 1, 3, 2, 3]
