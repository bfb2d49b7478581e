"""Nothing passes before Call Connected, in either direction; with IPv6 off its packets never pass.

+-- client -------+           +-- server --------------------------+
| raw peer        |---veth----| sstpfarm serve                     |
|  10.20.0.x in   |           | sstp... 10.20.0.1: a UDP socket    |
|  the tunnel     |           | that listens, another that sends   |
+-----------------+           +------------------------------------+
"""

from __future__ import annotations

import socket

from .farm import GATEWAY, Farm, running
from .frames import IPCP, IPV4, IPV6CP, LCP, PROTO_REJ, REQ, data, ppp
from .netns import PATIENCE, Wire, until, wired
from .packets import icmp_echo, udp
from .rawpeer import RawPeer, tls_peer

UDP_PORT = 5353


def received(farm: Farm) -> int:
    """Packets that the kernel took out of all tunnel interfaces."""
    links = farm.place.ip("-statistics", "link", "show")
    return sum(link["stats64"]["rx"]["packets"] for link in links if link["ifname"] in farm.tunnels())


def drops(farm: Farm, reason: str) -> float:
    """Dropped packets by reason."""
    return farm.metric("sstpfarm_drops_total", reason=reason)


def test_from_the_client_before_call_connected(wire: Wire, farm: Farm) -> None:
    sink = farm.place.open_socket(kind=socket.SOCK_DGRAM)
    with sink, tls_peer(wire.client, wire.SERVER4) as peer:
        sink.bind(("0.0.0.0", UDP_PORT))
        sink.settimeout(PATIENCE)
        peer.until_authenticated()
        address = peer.open_ipcp()
        before, taken = drops(farm, "gate-in"), received(farm)
        for number in range(10):
            peer.send(data(IPV4, udp(address, GATEWAY, UDP_PORT, b"early %d" % number)))
        until(lambda: drops(farm, "gate-in") == before + 10, "ten packets dropped at the gate")
        assert received(farm) == taken
        # the same datagram passes behind Call Connected: one byte stream, so nothing early can still be on its way
        peer.send(peer.call_connected(), data(IPV4, udp(address, GATEWAY, UDP_PORT, b"in time")))
        assert sink.recv(100) == b"in time"
        peer.disconnect()
    farm.idle()


def test_from_the_kernel_before_call_connected(wire: Wire, farm: Farm) -> None:
    source = farm.place.open_socket(kind=socket.SOCK_DGRAM)
    with source, tls_peer(wire.client, wire.SERVER4) as peer:
        peer.until_authenticated()
        address = peer.open_ipcp()
        until(lambda: address in farm.place.run("ip", "route").stdout, "the route to the client")
        before = drops(farm, "gate-out")
        for number in range(10):
            source.sendto(b"early %d" % number, (address, UDP_PORT))
        until(lambda: drops(farm, "gate-out") == before + 10, "ten packets dropped at the gate")
        peer.send(peer.call_connected())
        assert peer.ping()
        source.sendto(b"in time", (address, UDP_PORT))
        first = peer.expect(lambda came: came.protocol == IPV4 and came.information[9] == 17)
        assert first.information[28:] == b"in time"
        peer.disconnect()
    farm.idle()


def test_data_before_call_connect_request_is_dropped(wire: Wire, farm: Farm) -> None:
    """MS-SSTP 3.3.5.3: data before the call exists is no error; the login goes on."""
    with tls_peer(wire.client, wire.SERVER4) as peer:
        peer.open_http()
        peer.send(data(IPV4, icmp_echo("10.20.0.2", GATEWAY, 1)), ppp(LCP, REQ, 1), ppp(IPCP, REQ, 1))
        peer.call_connect()
        peer.log_in()
        assert peer.ping()
        peer.disconnect()
    farm.idle()


def test_foreign_source_address(wire: Wire, farm: Farm) -> None:
    """A client may send from its own address only."""
    with tls_peer(wire.client, wire.SERVER4) as peer:
        peer.open_session()
        before, taken = drops(farm, "source"), received(farm)
        for source in ("10.20.0.1", "10.20.15.254", "127.0.0.1", "0.0.0.0", "10.99.1.2"):
            peer.send(data(IPV4, icmp_echo(source, GATEWAY, 1)))
        assert peer.ping()
        assert drops(farm, "source") == before + 5
        assert received(farm) == taken + 1
        peer.disconnect()
    farm.idle()


def test_ipv6_off() -> None:
    """With `ipv6 = false` IPV6CP is answered with Protocol-Reject (RFC 1661 5.7); IPv4 works."""

    def ipv6cp_is_rejected(peer: RawPeer) -> bool:
        peer.send(ppp(IPV6CP, REQ, 1, b"\x01\x0a" + bytes(7) + b"\x05"))
        return peer.frame(LCP, PROTO_REJ).options[:2] == b"\x80\x57"

    with (
        wired() as wire,
        running(wire.server, server={"ipv6": False, "authentication": ["pap"]}) as farm,
        tls_peer(wire.client, wire.SERVER4) as peer,
    ):
        peer.open_session()
        assert ipv6cp_is_rejected(peer)
        assert peer.ping()
        (session,) = farm.sessions()
        assert farm.place.ip("-6", "address", "show", "dev", session["interface"]) in ([], [{}])
        before = drops(farm, "gate-in")
        peer.send(data(0x0057, b"\x60" + bytes(39)))
        until(lambda: drops(farm, "gate-in") == before + 1, "the IPv6 packet dropped")
        peer.disconnect()
        farm.idle()
