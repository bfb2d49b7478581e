"""Packets come out as they went in: both packet paths, each step of offload, four MTUs, a bad net behind the server.

+-- client -----------------+          +-- server ---------+             +-- behind -----------+
| m1280 m1400 m1500 m4087   |=tunnels=>| sstp... 10.20.0.1 |             |                     |
| pure0: path "pure"        |          |                   |             |                     |
| uplink                    |---veth---| downlink   mid0   |--middlebox--| mid1  172.31.9.2    |
+---------------------------+          +-------------------+             +---------------------+

Who judges checksums: the middle box reads from a TUN without offloads and computes them itself; a packet socket does on
the tunnel's interfaces; and the kernel behind a client with the pure path, which vouches for nothing.
"""

from __future__ import annotations

import random
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import pytest

from sstpfarm.dataplane.select import FAST, OFFLOAD_VARIABLE, PATH_VARIABLE, PURE, choose
from sstpfarm.errors import ConfigError
from sstpfarm.reasons import ExitCode

from .client import TRUST_ANY, Client, connected, connecting
from .farm import GATEWAY, Farm, running
from .middlebox import RIGHT4, Manners, MiddleBox, middle_box
from .netns import PATIENCE, Namespace, Wire, namespace, until, wired
from .packets import ETH_P_IP, ETH_P_IPV6, TCP, UDP, build, parse, tcp_segment, udp_datagram
from .streams import SO_RCVBUFFORCE, Endpoint, send_datagrams, send_streams
from .test_ipv6 import link_local

pytestmark = pytest.mark.alone

VOUCHES_FOR_NOTHING: Final = "pure0"  # the client whose packet path leaves all checksums to the kernel behind it
MTUS: Final = {"m1280": 1280, "m1400": 1400, "m1500": 1500, "m4087": 4087, VOUCHES_FOR_NOTHING: 1400}
STREAMS: Final = 16
STREAM: Final = 300_000  # bytes
MANNERS: Final = Manners(loss=0.005, reorder=0.02, damage=0.003)
NETWORK: Final = "10.20.0.0/16"
# linux/if_packet.h
SOL_PACKET: Final = 263
PACKET_AUXDATA: Final = 8
PACKET_OUTGOING: Final = 4
TP_STATUS_CSUMNOTREADY: Final = 1 << 3


def environment(monkeypatch: pytest.MonkeyPatch, path: str, offload: str = "") -> None:
    """Let what is started from now on use that packet path, up to that step of offload."""
    try:
        choose({PATH_VARIABLE: path})
    except ConfigError as error:
        pytest.skip(str(error))
    monkeypatch.setenv(PATH_VARIABLE, path)
    if offload:
        monkeypatch.setenv(OFFLOAD_VARIABLE, offload)
    else:
        monkeypatch.delenv(OFFLOAD_VARIABLE, raising=False)


@dataclass(frozen=True)
class Tunnel:
    """Both ends of one tunnel."""

    mtu: int
    client: Endpoint
    server: Endpoint
    client6: Endpoint
    server6: Endpoint


@dataclass(frozen=True)
class Ground:
    """A farm, five tunnels and a middle box."""

    farm: Farm
    box: MiddleBox
    target: Endpoint
    tunnels: dict[str, Tunnel]


@pytest.fixture(scope="module", params=[PURE, FAST])
def ground(request: pytest.FixtureRequest, wire: Wire) -> Iterator[Ground]:
    path = str(request.param)
    with ExitStack() as stack:
        monkeypatch = stack.enter_context(pytest.MonkeyPatch.context())
        environment(monkeypatch, path)
        behind = stack.enter_context(namespace("behind"))
        box = stack.enter_context(middle_box(wire.server, behind, NETWORK, MANNERS))
        switches = {"max-mtu": 4087, "max-mru": 4087, "forwarding": True}
        users = ("alice", *(f"user{number}" for number in range(1, len(MTUS))))
        static = {f"interface.{user}": {"user": user} for user in users}  # they have link-local addresses
        farm = stack.enter_context(running(wire.server, server={**switches, "workers": 1}, tables=static))
        (chosen,) = farm.log.find("dataplane.chosen")
        assert chosen["dataplane"] == path
        clients: dict[str, Client] = {}
        tunnels = {}
        for (name, mtu), user in zip(MTUS.items(), users, strict=True):  # they start side by side
            if name == VOUCHES_FOR_NOTHING:
                environment(monkeypatch, PURE)
            limits = ("--max-mtu", str(mtu), "--max-mru", str(mtu))
            options = (*TRUST_ANY, "--no-default-route", "--interface", name, *limits)
            clients[name] = stack.enter_context(connecting(wire.client, wire.SERVER4, *options, user=user))
        addresses = {name: client.up()["local_address"] for name, client in clients.items()}
        interfaces = {session["address"]: session["interface"] for session in farm.sessions()}
        for number, (name, address) in enumerate(addresses.items()):
            tunnels[name] = tunnel(wire, name, MTUS[name], address, interfaces[address])
            # every tunnel leads to the server, and each is taken from its own address
            table = str(100 + number)
            wire.client.run("ip", "route", "add", "default", "dev", name, "table", table)
            wire.client.run("ip", "rule", "add", "from", address, "lookup", table)
            stack.callback(wire.client.run, "ip", "rule", "del", "from", address, "lookup", table)
        yield Ground(farm, box, Endpoint(behind, RIGHT4), tunnels)
        for client in clients.values():
            client.process.send_signal(signal.SIGTERM)
        for client in clients.values():
            assert client.end()[0] == ExitCode.OK
        assert box.rightward.wrong == []


def tunnel(wire: Wire, name: str, mtu: int, address: str, far: str) -> Tunnel:
    """The tunnel between the client's interface of that name and the server's, `far`."""
    made = Tunnel(
        mtu,
        Endpoint(wire.client, address, name),
        Endpoint(wire.server, GATEWAY, far),
        Endpoint(wire.client, link_local(wire.client, name), name),
        Endpoint(wire.server, link_local(wire.server, far), far),
    )
    for end in (made.client, made.server):
        (link,) = end.place.ip("link", "show", "dev", end.interface)
        assert link["mtu"] == mtu
    return made


def sizes(mtu: int, headers: int, count: int) -> list[int]:
    """Payloads of datagrams: many equal ones, as voice and video send them, then all lengths."""
    generator = random.Random(mtu)
    equal = [172] * (count // 4) + [mtu - headers] * (count // 4)
    return equal + [generator.randint(4, mtu - headers) for _ in range(count - len(equal))]


def checksum_errors(place: Namespace) -> int:
    """TCP and UDP packets that the kernel threw away for a wrong checksum."""
    return thrown_away(place, "InCsumErrors")


def thrown_away(place: Namespace, counter: str) -> int:
    """TCP and UDP packets that the kernel threw away for the reason of that counter."""
    total = 0
    lines = [line.split() for line in place.run("cat", "/proc/net/snmp", "/proc/net/snmp6").stdout.splitlines()]
    for names, values in pairwise(lines):  # IPv4 has a line of names, then one of values; IPv6 a line for each counter
        if names[0] == values[0] in ("Tcp:", "Udp:") and counter in names:
            total += int(values[names.index(counter)])
    return total + sum(int(line[1]) for line in lines if line[0] == f"Udp6{counter}")


@pytest.mark.parametrize("name", MTUS)
def test_streams_and_datagrams_at_every_mtu(ground: Ground, wire: Wire, name: str) -> None:
    tunnel = ground.tunnels[name]
    before = checksum_errors(wire.client), checksum_errors(wire.server)
    for client, server, headers in ((tunnel.client, tunnel.server, 28), (tunnel.client6, tunnel.server6, 48)):
        send_streams(client, server, STREAMS, STREAM)
        send_streams(server, client, STREAMS, STREAM)
        lengths = sizes(tunnel.mtu, headers, 320)
        assert send_datagrams(client, server, lengths) == list(range(len(lengths)))
        assert send_datagrams(server, client, lengths) == list(range(len(lengths)))
    assert (checksum_errors(wire.client), checksum_errors(wire.server)) == before


@pytest.mark.parametrize("name", ["m1280", "m4087"])
def test_through_a_network_that_loses_reorders_and_damages(ground: Ground, wire: Wire, name: str) -> None:
    tunnel, box = ground.tunnels[name], ground.box
    send_streams(tunnel.client, ground.target, STREAMS, STREAM // 3)
    errors, damaged = checksum_errors(wire.client), box.leftward.damaged_tcp
    send_streams(ground.target, tunnel.client, STREAMS, STREAM // 3)
    # what the middle box damaged came to the client's kernel as it was, and that threw it away
    assert checksum_errors(wire.client) - errors <= box.leftward.damaged_tcp - damaged
    lengths = sizes(tunnel.mtu, 28, 600)
    for sender, receiver in ((tunnel.client, ground.target), (ground.target, tunnel.client)):
        got = send_datagrams(sender, receiver, lengths)
        assert len(got) >= 0.9 * len(lengths)
        assert len(set(got)) == len(got)
    for way in (box.rightward, box.leftward):
        assert way.packets > 300
        assert way.lost
        assert way.reordered


def test_what_was_damaged_is_told_from_what_was_not(ground: Ground, wire: Wire) -> None:
    """The server passes damaged packets on as they are; behind a client of the pure path, the kernel counts them."""
    tunnel, box = ground.tunnels[VOUCHES_FOR_NOTHING], ground.box
    errors, damaged = checksum_errors(wire.client), box.leftward.damaged_tcp
    for _ in range(10):
        send_streams(ground.target, tunnel.client, STREAMS, STREAM // 3)
        if box.leftward.damaged_tcp - damaged >= 3:
            break
    until(lambda: checksum_errors(wire.client) - errors == box.leftward.damaged_tcp - damaged, "all are counted")


class Capture:
    """A packet socket that listens on one interface."""

    def __init__(self, end: Endpoint) -> None:
        self.sock = end.place.open_socket(socket.AF_PACKET, socket.SOCK_DGRAM)
        self.sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        self.sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
        self.sock.bind((end.interface, 3))  # ETH_P_ALL

    def packets(self, patience: Callable[[], float]) -> Iterator[tuple[bytes, bool]]:
        """What comes in and whether its checksum is complete, until nothing has come for that time."""
        while True:
            self.sock.settimeout(patience())
            try:
                data, auxiliary, _, address = self.sock.recvmsg(1 << 17, 128)
            except TimeoutError:
                return
            if address[2] != PACKET_OUTGOING:
                (status,) = (struct.unpack_from("I", value)[0] for _, _, value in auxiliary)
                yield data, not status & TP_STATUS_CSUMNOTREADY


SEGMENT: Final = 1000
COUNT: Final = 600
VOLLEY: Final = 200  # of them at once: the queue of a TUN device holds 500


def marked(number: int) -> bytes:
    """A payload that tells its number in every part."""
    return struct.pack("!I", number) * (SEGMENT // 4)


def volley(protocol: int, source: str, destination: str) -> tuple[list[bytes], set[bytes]]:
    """Packets of one flow that ask to be merged, and the transport parts of those that are damaged."""
    ports, packets, damaged = (4433, 9), [], set()
    for number in range(COUNT):
        if protocol == TCP:
            transport = tcp_segment(source, destination, ports, 1 + number * SEGMENT, marked(number))
        else:
            transport = udp_datagram(source, destination, ports, marked(number))
        if number % 7 in (3, 4):
            spoiled = bytearray(transport)
            spoiled[-1 - number % SEGMENT] ^= 1 << number % 8
            transport = bytes(spoiled)
            damaged.add(transport)
        packets.append(build(protocol, source, destination, transport, number))
    return packets, damaged


@pytest.mark.parametrize("upward", [True, False], ids=["from the client", "to the client"])
@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["TCP", "UDP"])
@pytest.mark.parametrize("version", [4, 6])
def test_a_damaged_packet_is_never_repaired(ground: Ground, version: int, protocol: int, upward: bool) -> None:
    tunnel = ground.tunnels["m1400"]
    ends = (tunnel.client, tunnel.server) if version == 4 else (tunnel.client6, tunnel.server6)
    sender, receiver = ends if upward else ends[::-1]
    packets, damaged = volley(protocol, sender.address, receiver.address)
    whole = {marked(number) for number in range(COUNT) if number % 7 not in (3, 4)}
    capture = Capture(receiver)
    with capture.sock, sender.place.open_socket(socket.AF_PACKET, socket.SOCK_DGRAM) as gun:
        target = (sender.interface, ETH_P_IP if version == 4 else ETH_P_IPV6)
        arrived: list[bytes] = []
        came_damaged, sent, wanted = set(), 0, 0

        def fire() -> None:
            nonlocal sent, wanted
            for packet in packets[sent : sent + VOLLEY]:
                gun.sendto(packet, target)
            wanted += sum(number % 7 not in (3, 4) for number in range(sent, sent + VOLLEY))
            sent += VOLLEY

        def patience() -> float:
            """Much, while something is missing; then the next volley; at the end a while for what should not come."""
            if len(arrived) >= wanted and sent < COUNT:
                fire()
            return PATIENCE if len(arrived) < wanted else 0.3

        for data, complete in capture.packets(patience):
            found = parse(data)
            if found is None or found.protocol != protocol or found.ports != (4433, 9):
                continue
            if complete and not found.transport_ok:
                came_damaged.add(found.transport)
            else:
                pieces = range(0, len(found.payload), SEGMENT)
                arrived += [found.payload[start : start + SEGMENT] for start in pieces]
    assert came_damaged <= damaged, "damaged on the way"
    assert set(arrived) <= whole, "something was repaired"
    assert sorted(arrived) == sorted(whole)


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Wire]:
    """A second wire: the other one's farm may still run."""
    with wired() as made:
        yield made


@pytest.mark.parametrize("offload", ["none", "header", "tso"])
def test_each_step_of_offload(elsewhere: Wire, monkeypatch: pytest.MonkeyPatch, offload: str) -> None:
    """Older kernels grant less: each step does without those above it, and says so (the last has all other tests)."""
    environment(monkeypatch, FAST, offload)
    client, server = elsewhere.client, elsewhere.server
    with (
        running(server, server={"workers": 1}, tables={"interface.site": {"user": "alice"}}) as farm,
        connected(client, elsewhere.SERVER4, "--interface", "sstp0") as (_, up),
    ):
        (chosen,) = farm.log.find("dataplane.chosen")
        if chosen["offload"] != offload:
            pytest.skip(f"this kernel grants {chosen['offload']}, not {offload}")
        (session,) = farm.sessions()
        made = tunnel(elsewhere, "sstp0", 1500, up["local_address"], session["interface"])
        for near, far, headers in ((made.client, made.server, 28), (made.client6, made.server6, 48)):
            send_streams(near, far, STREAMS, STREAM)
            send_streams(far, near, STREAMS, STREAM)
            lengths = sizes(1500, headers, 200)
            assert send_datagrams(near, far, lengths) == list(range(len(lengths)))
            assert send_datagrams(far, near, lengths) == list(range(len(lengths)))
