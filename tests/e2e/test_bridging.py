"""Two LANs become one broadcast domain: BCP, a TAP device in a bridge at both ends, `mrru` for full frames.

+-- left ---+        +-- client -------+        +-- server -------+        +-- right --+
| lan       |--veth--| port, br0,      |--veth--| br0, port       |--veth--| lan       |
| 10.7.0.1  |        |   sstpc0 (TAP) ~~~~~~~~~~~~ sstp0 (TAP)   |        | 10.7.0.2  |
+-----------+        +-----------------+        +-----------------+        +-----------+
"""

from __future__ import annotations

import os
import signal
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pytest

from .client import TRUST_ANY, connected, connecting
from .client_service import interface, serving
from .farm import PASSWORD, Farm, running
from .frames import ACK, IPCP, LCP, REQ, data, ppp
from .netns import PATIENCE, Namespace, Wire, connect, namespace, until
from .packets import UDP, build
from .rawpeer import RawPeer, tls_peer
from .test_multilink import packet_path

LEFT, RIGHT = "10.7.0.1", "10.7.0.2"
SERVER: Final = {"authentication": ["mschap2", "pap"], "mrru": 1600}
SECRETS: Final = {"branch": {"password": PASSWORD, "bridge": "br0"}, "lost": {"password": PASSWORD, "bridge": "br9"}}
BRIDGED: Final = ("--mrru", "1600", "--bridge", "br0")
BCP, BRIDGE_DATA = 0x8031, 0x0031
ETH_P_ALL: Final = 3  # linux/if_ether.h
SOL_PACKET, PACKET_AUXDATA = 263, 8  # linux/socket.h, linux/if_packet.h
VLAN_VALID: Final = 0x10  # TP_STATUS_VLAN_VALID
PROTOCOL_REJECT: Final = 8


@dataclass(frozen=True)
class Lans:
    """The two hosts, and the wire between their routers."""

    left: Namespace
    right: Namespace
    wire: Wire


@pytest.fixture(scope="module")
def lans(wire: Wire) -> Iterator[Lans]:
    with namespace("left") as left, namespace("right") as right:
        for router, host, address in ((wire.client, left, LEFT), (wire.server, right, RIGHT)):
            router.run("ip", "link", "add", "br0", "type", "bridge")
            router.run("ip", "link", "set", "br0", "up")
            connect(router, "port", [], host, "lan", [f"{address}/24"])
            router.run("ip", "link", "set", "port", "master", "br0")
        yield Lans(left, right, wire)


@pytest.fixture(scope="module", params=["fast", "pure"])
def farm(lans: Lans, request: pytest.FixtureRequest) -> Iterator[Farm]:
    with packet_path(request.param), running(lans.wire.server, server=SERVER, secrets=SECRETS) as made:
        yield made


class Port:
    """All frames of one interface, as they pass."""

    def __init__(self, place: Namespace, interface: str = "lan") -> None:
        self.sock = place.open_socket(socket.AF_PACKET, socket.SOCK_RAW)
        self.sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        self.sock.bind((interface, ETH_P_ALL))
        self.sock.settimeout(PATIENCE)
        self.mac = self.sock.getsockname()[4]

    def send(self, frame: bytes) -> None:
        self.sock.send(frame)

    def take(self, begin: bytes) -> bytes:
        """The first frame that begins so; a tag that the kernel took out is in its place again."""
        while True:
            frame, ancillary, _, _ = self.sock.recvmsg(2048, 256)
            for level, kind, value in ancillary:
                if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
                    status, _, _, _, _, tag, protocol = struct.unpack("=IIIHHHH", value)
                    if status & VLAN_VALID:
                        frame = frame[:12] + struct.pack("!HH", protocol or 0x8100, tag) + frame[12:]
            if frame.startswith(begin):
                return frame

    def close(self) -> None:
        self.sock.close()


@pytest.fixture
def ports(lans: Lans) -> Iterator[tuple[Port, Port]]:
    left, right = Port(lans.left), Port(lans.right)
    yield left, right
    left.close()
    right.close()


def dhcp(kind: int, operation: int) -> bytes:
    """A DHCP message in UDP in IPv4 (RFC 2131 2), broadcast."""
    body = struct.pack("!BBBBI", operation, 1, 6, 0, 0x5354) + bytes(28) + bytes(64 + 128 + 8)
    body += b"\x63\x82\x53\x63\x35\x01" + bytes([kind]) + b"\xff"
    ports = (68, 67) if operation == 1 else (67, 68)
    udp = struct.pack("!HHHH", *ports, 8 + len(body), 0) + body
    return build(UDP, "0.0.0.0", "255.255.255.255", udp)


@pytest.mark.parity("ros-example/bcp", "ros-ppp/bridge")
def test_one_broadcast_domain(lans: Lans, farm: Farm, ports: tuple[Port, Port]) -> None:
    """ARP, full frames that nobody cuts, DHCP by broadcast, a VLAN tag: all both ways, and no trace at the end."""
    wire, (left, right) = lans.wire, ports
    assert not lans.left.ping(RIGHT, "-W", "0.5")
    with connected(wire.client, wire.SERVER4, "--interface", "sstpc0", *BRIDGED, user="branch") as (_, up):
        (session,) = farm.sessions()
        assert (up["bridge"], up["mtu"], up["local_address"], session["mtu"]) == ("br0", 1500, None, 1500)
        for place, name in ((wire.client, "sstpc0"), (wire.server, session["interface"])):
            (link,) = place.ip("-details", "link", "show", name)
            assert (link["master"], link["linkinfo"]["info_data"]["type"], link["mtu"]) == ("br0", "tap", 1500)
        for host, other in ((lans.left, RIGHT), (lans.right, LEFT)):
            host.run("ip", "neigh", "flush", "dev", "lan")
            assert host.ping(other, "-M", "do", "-s", "1472")  # ARP first, then a frame of 1514 bytes
            assert host.ping(other)
        for one, two in ((left, right), (right, left)):
            # a client's DISCOVER reaches the server on the other side, its OFFER comes back (RFC 2131 3.1)
            everybody = b"\xff" * 6
            discover = everybody + one.mac + b"\x08\x00" + dhcp(1, 1)
            one.send(discover)
            assert two.take(everybody + one.mac + b"\x08\x00") == discover
            offer = everybody + two.mac + b"\x08\x00" + dhcp(2, 2)
            two.send(offer)
            assert one.take(everybody + two.mac + b"\x08\x00") == offer
            # a full frame with a tag: 1518 bytes
            tagged = two.mac + one.mac + b"\x81\x00\x00\x07\x88\xb5" + os.urandom(1500)
            one.send(tagged)
            assert two.take(two.mac + one.mac + b"\x81\x00") == tagged
        for reason in ("fragment", "too-large", "malformed", "source"):
            assert farm.metric("sstpfarm_drops_total", reason=reason) == 0, reason
    farm.idle()


@pytest.mark.parametrize("how", ["client killed", "kick"])
def test_however_it_ends_the_port_is_gone(lans: Lans, farm: Farm, how: str) -> None:
    wire = lans.wire
    with connecting(wire.client, wire.SERVER4, *TRUST_ANY, *BRIDGED, user="branch") as client:
        client.up()
        assert lans.left.ping(RIGHT)
        assert len(wire.server.ip("link", "show", "master", "br0")) == 2
        if how == "kick":
            (session,) = farm.sessions()
            farm.cli("kick", session["session"])
            client.end()
        else:
            client.process.send_signal(signal.SIGKILL)
            client.process.wait(PATIENCE)
        until(lambda: len(wire.client.ip("link", "show", "master", "br0")) == 1, "the client's port is gone")
    farm.idle()
    assert [link["ifname"] for link in wire.server.ip("link", "show", "master", "br0")] == ["port"]


@pytest.mark.parity("ros-example/bcp", "ros-client/mrru")
def test_a_tunnel_of_the_client_service_comes_back_as_a_port(lans: Lans, farm: Farm) -> None:
    """The same device joins the bridge again with each session; full frames pass each time."""
    wire = lans.wire
    tunnel = interface(wire.SERVER4, "branch", bridge="br0", mrru=1600)
    with serving(wire.client, {"office": tunnel}) as service:
        service.opened("office")
        assert lans.left.ping(RIGHT, "-M", "do", "-s", "1472")
        assert service.link("office")["master"] == "br0"
        mark = service.log.mark()
        (session,) = farm.sessions()
        farm.cli("kick", session["session"])
        service.opened("office", mark)
        assert lans.left.ping(RIGHT, "-M", "do", "-s", "1472")
    farm.idle()


def test_a_bridge_that_is_not_there(lans: Lans, farm: Farm) -> None:
    """At the server: the user comes in, and gets no interface. At the client: it says so."""
    wire = lans.wire
    mark = farm.log.mark()
    with connecting(wire.client, wire.SERVER4, *TRUST_ANY, *BRIDGED, user="lost") as client:
        client.end()
        refused = farm.wait_event("connection.refused", mark)
        assert (refused["reason"], refused["detail"]) == (
            "interface-failed",
            "bridge br9: there is no such interface",
        )
    with connecting(wire.client, wire.SERVER4, *TRUST_ANY, "--bridge", "br7", user="branch") as client:
        _, closed = client.end()
        assert (closed["reason"], closed["detail"]) == ("interface-failed", "bridge br7: there is no such interface")
    farm.idle()


def test_a_client_that_speaks_no_bcp_gets_no_session(lans: Lans, farm: Farm) -> None:
    wire = lans.wire
    with connecting(wire.client, wire.SERVER4, *TRUST_ANY, user="branch") as client:
        _, closed = client.end()
        assert closed["reason"] == "ncp-failed"
    farm.idle()


def open_bridge(peer: RawPeer, user: str = "branch") -> None:
    """A login by PAP, then BCP by hand (RFC 3518 5): our only option is MAC-Support."""
    peer.until_authenticated(user)
    peer.send(peer.call_connected())
    peer.send(ppp(BCP, REQ, 1, b"\x03\x03\x01"))
    ours = theirs = False
    while not (ours and theirs):
        came = peer.frame(BCP, REQ, ACK)
        if came.code == ACK:
            assert came.options == b"\x03\x03\x01"
            ours = True
        else:
            assert came.options == b"\x03\x03\x01\x08\x03\x01"  # Ethernet, tags
            peer.send(ppp(BCP, ACK, came.identifier, came.options))
            theirs = True


def test_frames_of_another_implementation(lans: Lans, farm: Farm, ports: tuple[Port, Port]) -> None:
    """Made and read by hand: check sequence and padding are taken off, zeros put back; BPDUs and IP do not pass."""
    _, right = ports
    ours = bytes.fromhex("02005e0a0b0c")
    with tls_peer(lans.wire.client, lans.wire.SERVER4) as peer:
        open_bridge(peer)
        peer.send(ppp(IPCP, REQ, 1, b"\x03\x06" + bytes(4)))
        assert peer.frame(LCP, PROTOCOL_REJECT).options[:2] == IPCP.to_bytes(2, "big")
        short = right.mac + ours + b"\x88\xb5" + b"short"
        for flags, behind, arrives in (
            (0x00, b"", short),
            (0x83, b"FCS4pad", short),
            (0x20, b"", short.ljust(60, b"\0")),
        ):
            peer.send(data(BRIDGE_DATA, bytes([flags, 1]) + short + behind))
            assert right.take(right.mac + ours) == arrives
        bpdu = bytes.fromhex("0180c2000000") + ours + b"\x00\x26\x42\x42\x03" + bytes(35)
        with farm.counts("sstpfarm_drops_total", by=2, reason="protocol"):
            peer.send(data(BRIDGE_DATA, b"\x00\x01" + bpdu), data(BRIDGE_DATA, b"\x00\x03" + short))
            peer.send(data(BRIDGE_DATA, b"\x00\x01" + short))
            right.take(right.mac + ours)
        # towards us: flags 0, MAC type 1; no tag, since we did not say that we take them
        right.send(ours + right.mac + b"\x81\x00\x00\x07\x88\xb5" + bytes(50))
        answer = ours + right.mac + b"\x88\xb5" + bytes(46)
        right.send(answer)
        came = peer.expect(lambda one: one.protocol == BRIDGE_DATA and one.information[2:14] == answer[:12])
        assert came.information == b"\x00\x01" + answer
        peer.disconnect()
    farm.idle()


def test_the_service_dials_a_bridged_tunnel_again(lans: Lans, farm: Farm) -> None:
    """Its device stays, and is a port of the bridge again with the next session."""
    tunnels = {"sstpc0": interface(lans.wire.SERVER4, "branch", bridge="br0", mrru=1600)}
    with serving(lans.wire.client, tunnels) as service:
        service.opened("sstpc0")
        assert lans.left.ping(RIGHT)
        mark = service.log.mark()
        farm.cli("kick", farm.sessions()[0]["session"])
        service.opened("sstpc0", mark)
        assert lans.left.ping(RIGHT)
    farm.idle()
