"""What a client is told of its IPv6: prefixes by router advertisement, addresses, prefixes and DNS servers by DHCPv6.

The raw peer makes every byte by itself; `sstpfarm connect` leaves it to its kernel.

+-- client ----------------+           +-- server -------------------+          +-- behind ------------+
| sstp0 fd42:6::id/64      |==tunnel==>| sstp... fe80::id            |          | lan0 fd42:99::2      |
| uplink 10.99.1.2         |---veth----| downlink 10.99.1.1:443      |---veth---| default via ...::1   |
+--------------------------+           | lo: RADIUS 127.0.0.1:1812   |          +----------------------+
                                       +-----------------------------+
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Final

import pytest

from ..radius_double import SECRET, RadiusDouble, Received, attribute
from .bytestream import StreamEndError
from .client import TRUST_ANY, connected, connecting
from .farm import GATEWAY, PASSWORD, Farm, running
from .frames import ACK, IPV6CP, NAK, REQ, Packet, data, options, ppp
from .netns import PATIENCE, Namespace, Wire, connect, namespace, until, wired
from .packets import checksum
from .rawpeer import RawPeer, tls_peer

IPV6: Final = 0x0057
INSIDE, BEHIND = "fd42:99::1", IPv6Address("fd42:99::2")
PREFIX, ADDRESS = IPv6Network("fd42:6::/64"), IPv6Address("fd42:4::9")
SITE, DNS = IPv6Network("fd42:2::/56"), IPv6Address("fd42:99::53")
HOMES, SITES = IPv6Network("fd42:a000::/40"), IPv6Network("fd42:b000::/40")
SINGLES: Final = IPv6Network("fd42:c::/112")
ALL_NODES, ALL_ROUTERS, ALL_DHCP = IPv6Address("ff02::1"), IPv6Address("ff02::2"), IPv6Address("ff02::1:2")
ICMPV6, UDP = 58, 17
SOLICITATION, ADVERTISEMENT, ECHO, ECHO_REPLY = 133, 134, 128, 129
OURS: Final = bytes.fromhex("0200000000000042")  # our interface identifier


def prefix_value(network: IPv6Network) -> bytes:
    """RFC 3162 2.3."""
    return bytes((0, network.prefixlen)) + network.network_address.packed


METRIC: Final = "sstpfarm_router_messages_total"

GRANTS: Final = {
    b"told": attribute(97, prefix_value(PREFIX))
    + attribute(123, prefix_value(SITE))
    + attribute(168, ADDRESS.packed)
    + attribute(169, DNS.packed),
    b"plain": b"",
    b"small": attribute(12, struct.pack(">I", 1000)) + attribute(97, prefix_value(PREFIX)),
}


def script(request: Received) -> Iterable[bytes]:
    if request.code == 1:
        yield request.reply(2, GRANTS[request.values(1)[0]])


class Place:
    """A farm whose users RADIUS knows, and a host behind it."""

    def __init__(self, wire: Wire, farm: Farm, behind: Namespace) -> None:
        self.wire, self.farm, self.behind = wire, farm, behind


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with wired() as wire, namespace("behind") as behind:
        connect(wire.server, "inside", [f"{INSIDE}/64"], behind, "lan0", [f"{BEHIND}/64"])
        behind.run("ip", "-6", "route", "add", "default", "via", INSIDE)
        wire.server.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
        sock = wire.server.open_socket(kind=2)
        sock.bind(("127.0.0.1", 1812))
        with (
            RadiusDouble(sock, script),
            running(
                wire.server,
                server={"authentication": ["mschap2", "pap"], "forwarding": True},
                auth={"backends": ["local", "radius"]},
                secrets={"anna": {"password": PASSWORD, "profile": "pooled"}},
                pools={
                    "homes": {"ranges": [str(HOMES)], "prefix-length": 64},
                    "sites": {"ranges": [str(SITES)], "prefix-length": 56},
                    "singles": {"ranges": [str(SINGLES)], "prefix-length": 128},
                },
                tables={
                    "profile.pooled": {
                        "local-address": GATEWAY,
                        "remote-address": "pool:main",
                        "remote-ipv6-prefix-pool": "homes",
                        "dhcpv6-pd-pool": "sites",
                        "ipv6-address-pool": "singles",
                        "dns-server": [str(DNS)],
                    },
                    "radius": {"accounting": False, "server": [{"address": "127.0.0.1", "secret": SECRET.decode()}]},
                },
            ) as farm,
        ):
            yield Place(wire, farm, behind)


# -- packets by hand ---------------------------------------------------------------------------------------------------


def ipv6(source: IPv6Address, target: IPv6Address, kind: int, payload: bytes, place: int) -> bytes:
    """An IPv6 packet (RFC 8200) whose payload has its checksum there."""
    pseudo = source.packed + target.packed + struct.pack(">II", len(payload), kind)
    payload = payload[:place] + struct.pack(">H", checksum(pseudo + payload)) + payload[place + 2 :]
    return struct.pack(">IHBB", 6 << 28, len(payload), kind, 255) + source.packed + target.packed + payload


def is_sound(packet: bytes) -> bool:
    return checksum(packet[8:40] + struct.pack(">II", len(packet) - 40, packet[6]) + packet[40:]) == 0


class Peer:
    """A raw peer with IPv6 open."""

    def __init__(self, raw: RawPeer) -> None:
        self.raw = raw
        self.local = IPv6Address("::")
        self.router = IPv6Address("::")

    def open(self, identifier: bytes = OURS) -> None:
        """IPV6CP to Opened on both sides (RFC 5072 4.1), also once more."""
        raw = self.raw
        self.local = IPv6Address(b"\xfe\x80" + bytes(6) + identifier)
        raw.send(ppp(IPV6CP, REQ, 1, b"\x01\x0a" + identifier))
        ours = theirs = False
        while not (ours and theirs):
            came = raw.frame(IPV6CP, REQ, ACK, NAK)
            assert came.code != NAK
            if came.code == REQ:
                self.router = IPv6Address(b"\xfe\x80" + bytes(6) + options(came.options)[1])
                raw.send(ppp(IPV6CP, ACK, came.identifier, came.options))
                theirs = True
            else:
                ours = True

    def ask(
        self, target: IPv6Address, kind: int, payload: bytes, place: int, source: IPv6Address | None = None
    ) -> None:
        self.raw.send(data(IPV6, ipv6(source or self.local, target, kind, payload, place)))

    def receive(self, kind: int, first: int, timeout: float = PATIENCE) -> bytes:
        """The next IPv6 packet with that next header whose payload begins with (ICMPv6) or goes to (UDP) that."""

        def wanted(came: Packet) -> bool:
            packet = came.information
            if came.protocol != IPV6 or packet[6] != kind:
                return False
            return (packet[40] if kind == ICMPV6 else int.from_bytes(packet[42:44], "big")) == first

        packet = self.raw.expect(wanted, timeout).information
        assert is_sound(packet)
        return packet

    def advertisement(self, timeout: float = PATIENCE) -> bytes:
        packet = self.receive(ICMPV6, ADVERTISEMENT, timeout)
        assert packet[7] == 255
        assert packet[8:24] == self.router.packed
        return packet

    def dhcp(self, message: bytes) -> bytes:
        """Send a DHCPv6 message; the answer."""
        self.ask(ALL_DHCP, UDP, struct.pack(">HHHH", 546, 547, 8 + len(message), 0) + message, 6)
        packet = self.receive(UDP, 546)
        assert packet[8:40] == self.router.packed + self.local.packed
        assert packet[40:42] == struct.pack(">H", 547)
        assert packet[49:52] == message[1:4]
        return packet[48:]

    def ping(self, source: IPv6Address, target: IPv6Address, timeout: float = PATIENCE) -> bool:
        self.ask(target, ICMPV6, bytes([ECHO, 0, 0, 0]) + b"\x12\x34\0\1", 2, source)
        try:
            return self.receive(ICMPV6, ECHO_REPLY, timeout)[8:40] == target.packed + source.packed
        except StreamEndError as end:
            if end.how != "timeout":
                raise
            return False


@contextmanager
def opened(place: Place, user: str, password: str = "any") -> Iterator[Peer]:
    with tls_peer(place.wire.client, place.wire.SERVER4) as raw:
        raw.open_session(user, password)
        peer = Peer(raw)
        peer.open()
        yield peer
        raw.disconnect()
    place.farm.idle()


def option(code: int, value: bytes = b"") -> bytes:
    return struct.pack(">HH", code, len(value)) + value


def told(message: bytes) -> dict[int, bytes]:
    """The options of a DHCPv6 message."""
    found, at = {}, 4
    while at < len(message):
        code, length = struct.unpack_from(">HH", message, at)
        assert code not in found
        found[code] = message[at + 4 : at + 4 + length]
        at += 4 + length
    assert at == len(message)
    return found


# -- what it must do ---------------------------------------------------------------------------------------------------


def test_router_advertisements(place: Place) -> None:
    """One at once, one for each solicitation; an address of the prefix reaches the host behind the server."""
    with opened(place, "told") as peer:
        first = peer.advertisement()
        assert first[24:40] == ALL_NODES.packed
        assert first[45] == 0xC0  # there is more by DHCPv6: M and O
        assert int.from_bytes(first[46:48], "big") == 1800
        assert option_of(first, 3)[:2] == bytes((64, 0x40))
        assert option_of(first, 3)[14:] == PREFIX.network_address.packed
        assert option_of(first, 5)[2:] == struct.pack(">I", 1400)
        assert option_of(first, 25)[6:] == DNS.packed
        peer.ask(ALL_ROUTERS, ICMPV6, bytes([SOLICITATION]) + bytes(7), 2)
        second = peer.advertisement()
        assert second[24:40] == peer.local.packed
        assert second[44:] == first[44:]
        ours = IPv6Address(PREFIX.network_address.packed[:8] + OURS)
        until(lambda: peer.ping(ours, BEHIND, 1), "an answer from behind the server")


def option_of(advertisement: bytes, kind: int) -> bytes:
    """The value of the one option of that kind (RFC 4861 4.6)."""
    found, at = [], 56
    while at < len(advertisement):
        length = 8 * advertisement[at + 1]
        if advertisement[at] == kind:
            found.append(advertisement[at + 2 : at + length])
        at += length
    (value,) = found
    return value


def test_ipv6_that_closes_and_opens_again(place: Place) -> None:
    """The client has another link-local address then, and the old one is nobody's."""
    with opened(place, "told") as peer:
        assert peer.advertisement()[24:40] == ALL_NODES.packed
        peer.open(bytes.fromhex("0200000000000043"))
        assert peer.advertisement()[24:40] == ALL_NODES.packed
        peer.ask(ALL_ROUTERS, ICMPV6, bytes([SOLICITATION]) + bytes(7), 2)
        assert peer.advertisement()[24:40] == peer.local.packed
        old = IPv6Address(b"\xfe\x80" + bytes(6) + OURS)
        with place.farm.counts("sstpfarm_drops_total", reason="source"):
            peer.ask(ALL_ROUTERS, ICMPV6, bytes([SOLICITATION]) + bytes(7), 2, old)


def test_a_local_user_and_pools(place: Place) -> None:
    client, wishes = option(1, b"\0\3\0\1" + OURS), option(6, b"\0\x17")
    na, pd = option(3, b"\0\0\0\1" + bytes(8)), option(25, b"\0\0\0\2" + bytes(8))
    with opened(place, "anna", PASSWORD) as peer:
        advertisement = peer.advertisement()
        prefix = option_of(advertisement, 3)[14:]
        assert IPv6Address(prefix) in HOMES
        assert option_of(advertisement, 25)[6:] == DNS.packed
        reply = told(peer.dhcp(b"\1abc" + client + option(14) + wishes + na + pd))
        address, site = IPv6Address(reply[3][16:32]), IPv6Address(reply[25][25:41])
        assert address in SINGLES
        assert site in SITES
        assert reply[23] == DNS.packed
        for source in (IPv6Address(prefix[:8] + OURS), address, site + 1):
            until(lambda: peer.ping(source, BEHIND, 1), f"an answer to {source}")  # noqa: B023 - asked at once


def test_dhcpv6(place: Place) -> None:
    """Solicit, Advertise, Request, Reply: an address that works, a prefix, DNS servers; then Renew and Release."""
    client = option(1, b"\0\3\0\1" + OURS)
    wishes = option(6, b"\0\x17")
    na, pd = option(3, b"\0\0\0\1" + bytes(8)), option(25, b"\0\0\0\2" + bytes(8))
    with opened(place, "told") as peer, place.farm.counts(METRIC, 4, message="dhcpv6"):
        advertise = peer.dhcp(b"\1abc" + client + wishes + na + pd)
        assert advertise[0] == 2
        server = option(2, told(advertise)[2])
        for kind in (3, 5):  # Request, Renew
            reply = peer.dhcp(bytes([kind]) + b"def" + client + server + wishes + na + pd)
            assert reply[0] == 7
            found = told(reply)
            assert found[3][12:] == option(5, ADDRESS.packed + struct.pack(">II", 2700, 5400))
            value = struct.pack(">IIB", 2700, 5400, 56) + SITE.network_address.packed
            assert found[25][12:] == option(26, value)
            assert found[23] == DNS.packed
        until(lambda: peer.ping(ADDRESS, BEHIND, 1), "an answer to the address")
        assert peer.ping(SITE[5], BEHIND)
        assert told(peer.dhcp(b"\x08xyz" + client + server + na))[13] == b"\0\0"


def test_questions_have_a_bound(place: Place) -> None:
    """A flood of solicitations is answered some times, and the session lives."""
    with opened(place, "told") as peer:
        peer.advertisement()
        drops = "sstpfarm_drops_total"
        before = place.farm.metric(METRIC, message="advertisement"), place.farm.metric(drops, reason="rate")
        question = data(IPV6, ipv6(peer.local, ALL_ROUTERS, ICMPV6, bytes([SOLICITATION]) + bytes(7), 2))
        peer.raw.send(question * 500)
        assert peer.raw.ping()  # behind them, on the same way
        answered = place.farm.metric(METRIC, message="advertisement") - before[0]
        assert 10 <= answered <= 40
        assert place.farm.metric(drops, reason="rate") - before[1] == 500 - answered
        time.sleep(2)  # what was too much is forgotten
        peer.raw.send(question)
        until(lambda: place.farm.metric(METRIC, message="advertisement") > before[0] + answered, "an answer again")


@pytest.mark.parametrize("user", ["plain", "small"])
def test_who_is_granted_nothing_is_told_nothing(place: Place, user: str) -> None:
    """The kernel gets the solicitation, and says nothing either. Below an MTU of 1280 bytes there is no IPv6."""
    with opened(place, user) as peer:
        peer.ask(ALL_ROUTERS, ICMPV6, bytes([SOLICITATION]) + bytes(7), 2)
        assert peer.raw.ping()
        with pytest.raises(StreamEndError, match="timeout"):
            peer.advertisement(0.5)


def test_the_kernel_of_our_client(place: Place) -> None:
    """It makes itself an address of the prefix, and reaches the host behind the server from there."""
    client = place.wire.client
    with connected(client, place.wire.SERVER4, "--interface", "sstp0", "--authentication", "pap", user="told") as _:

        def addresses() -> list[str]:
            entries = client.ip("-6", "address", "show", "dev", "sstp0", "scope", "global")
            return [one["local"] for entry in entries for one in entry.get("addr_info", []) if one]

        (address,) = until(addresses, "an address of the prefix")
        assert IPv6Address(address) in PREFIX
        client.run("ip", "-6", "route", "add", f"{BEHIND}/128", "dev", "sstp0")
        until(lambda: client.ping(str(BEHIND), "-6", "-W", "2"), "an answer from behind the server")
        assert not client.run("ip", "-6", "route", "show", "default").stdout
    place.farm.idle()


def test_the_default_route_of_our_client(place: Place) -> None:
    """All goes through the tunnel, but for the tunnel's own connection, which is one of IPv6 too."""
    client, server = place.wire.client, f"[{place.wire.SERVER6}]:443"
    routes = client.routes()
    with connecting(client, server, *TRUST_ANY, "--authentication", "pap", "--interface", "sstp0", user="told") as one:
        one.up()
        until(lambda: client.ping(str(BEHIND), "-6", "-W", "2"), "an answer from behind the server")
        assert "dev uplink" in client.run("ip", "-6", "route", "get", place.wire.SERVER6).stdout
        assert client.run("ip", "-6", "route", "show", place.wire.SERVER6).stdout  # one past the tunnel
        assert "metric 1 " in client.run("ip", "-6", "route", "show", "default", "dev", "sstp0").stdout
        assert client.ping(str(BEHIND), "-6", count=3)
        one.stop()
    assert client.routes() == routes
    place.farm.idle()


# -- programs of others -----------------------------------------------------------------------------------------------


@contextmanager
def linked(place: Place, program: str) -> Iterator[Namespace]:
    """The client's namespace with a tunnel `sstp0`, for a program that is there."""
    if shutil.which(program) is None:
        pytest.skip(f"not installed: {program} (deploy/install-packages test)")
    client = place.wire.client
    with connected(client, place.wire.SERVER4, "--interface", "sstp0", "--authentication", "pap", user="told"):
        until(lambda: "inet6 fe80" in client.run("ip", "address", "show", "dev", "sstp0").stdout, "IPv6 of the tunnel")
        yield client
    place.farm.idle()


def test_rdisc6(place: Place) -> None:
    with linked(place, "rdisc6") as client:
        said = " ".join(client.run("rdisc6", "-1", "sstp0").stdout.split())
    assert "Stateful address conf. : Yes Stateful other conf. : Yes" in said
    assert "Router lifetime : 1800" in said
    assert f"Prefix : {PREFIX} On-link : No Autonomous address conf.: Yes" in said
    assert f"Recursive DNS server : {DNS}" in said


def ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has ended, after another signal: dhcpcd 9.4.1 loses one that meets its script."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(1)
    return process.returncode is not None


def test_dhcpcd(place: Place, tmp_path: Path) -> None:
    """Its files are in a mount namespace of its own, which `ip netns exec` makes."""
    script, config, answers, log = (tmp_path / name for name in ("script", "config", "answers", "log"))
    script.write_text(f"#!/bin/sh\n[ $reason = BOUND6 ] && env >{answers}.new && mv {answers}.new {answers}; exit 0\n")
    script.chmod(0o755)
    config.write_text(f"ipv6only\nnoipv6rs\nduid\nia_na 1\nia_pd 2 lo/1\noption dhcp6_name_servers\nscript {script}\n")
    own = "for at in /var/lib/dhcpcd /run; do mount -t tmpfs tmpfs $at || exit; done"
    run = f"{own}; exec dhcpcd -6 -B -d -f $0 sstp0 >$1 2>&1"
    with linked(place, "dhcpcd") as client:
        process = client.popen("sh", "-c", run, str(config), str(log))
        try:
            until(answers.exists, "dhcpcd to have its addresses")
        finally:
            until(lambda: ended(process), "dhcpcd to end")
            process.communicate()
    said = log.read_text()
    assert f"adding address {ADDRESS}/128" in said
    assert f"delegated prefix {SITE}" in said
    assert f"new_dhcp6_name_servers={DNS}" in answers.read_text().splitlines()
