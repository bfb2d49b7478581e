"""What the client does to packets of its tunnel: TCP's segments, forwarding, source validation; and VRFs that are none.

+-- lan -------------+      +-- client -----------------+       +-- server --------------+
| net0 10.70.0.2/24  |-veth-| lan0 10.70.0.1/24  uplink |-veth--| sstpfarm serve         |
| gateway 10.70.0.1  |      | sstp0, forwarding = 1     |       | 10.20.0.1 in the tunnel|
+--------------------+      +---------------------------+       +------------------------+
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sstpfarm.reasons import ExitCode

from .client import TRUST_ANY, Client, connecting
from .farm import GATEWAY, PASSWORD, Farm, running
from .netns import Namespace, Wire, connect, namespace

LAN_HOST, LAN_ROUTER, LAN = "10.70.0.2", "10.70.0.1", "10.70.0.0/24"
ADDRESS = "10.20.30.40"  # of the client in the tunnel
NOWHERE = "203.0.113.9"  # an address to which the client has no route
ELSEWHERE = "10.70.0.99"  # an address to which it has one, but not into the tunnel
MTU = 1300
PORT = 5050
ETH_P_IP = 0x0800


@pytest.fixture(scope="module")
def lan(wire: Wire) -> Iterator[Namespace]:
    """A network behind the client, which forwards."""
    with namespace("lan") as made:
        connect(made, "net0", [f"{LAN_HOST}/24"], wire.client, "lan0", [f"{LAN_ROUTER}/24"])
        made.run("ip", "route", "add", "default", "via", LAN_ROUTER)
        wire.client.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0")
        wire.client.run("sysctl", "-qw", "net.ipv4.conf.default.rp_filter=0")
        yield made


@pytest.fixture(scope="module")
def farm(wire: Wire, lan: Namespace) -> Iterator[Farm]:
    """A farm that routes the network behind the client into its tunnel, and sends from addresses that are not its."""
    for address in (NOWHERE, ELSEWHERE):
        wire.server.run("ip", "address", "add", f"{address}/32", "dev", "lo")
    secrets = {"alice": {"password": PASSWORD, "remote-address": ADDRESS, "routes": [LAN]}}
    with running(wire.server, secrets=secrets, server={"max-mtu": MTU, "max-mru": MTU}) as made:
        yield made


@contextmanager
def tunnel(wire: Wire, *options: str) -> Iterator[Client]:
    """The client, up, with a route to the server's tunnel address; nothing of it is left."""
    before = wire.client.run("nft", "list", "ruleset").stdout
    with connecting(
        wire.client, wire.SERVER4, *TRUST_ANY, "--no-default-route", "--interface", "sstp0", *options
    ) as client:
        assert client.up()["mtu"] == MTU
        yield client
        client.stop()
    assert wire.client.run("nft", "list", "ruleset").stdout == before


def segment_size(sniffing: Namespace, device: str, calling: Namespace, target: str) -> int:
    """Open a TCP connection from one namespace; return the MSS in its SYN as another one sees it on that device."""
    with sniffing.open_socket(socket.AF_PACKET, socket.SOCK_DGRAM) as sniffer:
        sniffer.bind((device, ETH_P_IP))
        sniffer.settimeout(5)
        with calling.open_socket() as caller:
            caller.setblocking(False)
            caller.connect_ex((target, PORT))
            while True:
                packet = sniffer.recv(2048)
                tcp = packet[(packet[0] & 15) * 4 :]
                if packet[9] == socket.IPPROTO_TCP and struct.unpack_from("!H", tcp, 2)[0] == PORT and tcp[13] == 2:
                    assert tcp[20:22] == b"\x02\x04", "the first option of Linux's SYN is the MSS"
                    return int(struct.unpack_from("!H", tcp, 22)[0])


def session_device(wire: Wire, farm: Farm) -> str:
    """The server's end of the tunnel."""
    [session] = farm.sessions()
    return str(session["interface"])


@pytest.mark.parametrize(
    ("options", "size"),
    [
        pytest.param(["--adjust-mss", "1000"], 1000, marks=pytest.mark.parity("vyos/adjust-mss")),
        pytest.param(
            ["--adjust-mss", "clamp-mss-to-pmtu"], MTU - 40, marks=pytest.mark.parity("vyos/clamp-mss-to-pmtu")
        ),
        pytest.param([], 1460, id="without"),
    ],
)
def test_segments(wire: Wire, lan: Namespace, farm: Farm, options: list[str], size: int) -> None:
    """SYNs of forwarded connections, out of the tunnel and into it; the LAN's own MTU would allow 1460."""
    with tunnel(wire, *options):
        wire.client.run("ip", "route", "replace", f"{GATEWAY}/32", "dev", "sstp0")
        wire.server.run("ip", "route", "replace", LAN, "dev", session_device(wire, farm), "advmss", "1460")
        assert segment_size(wire.server, session_device(wire, farm), lan, GATEWAY) == size
        assert segment_size(lan, "net0", wire.server, LAN_HOST) == size


@pytest.mark.parity("vyos/adjust-mss")
def test_segments_are_never_made_larger(wire: Wire, lan: Namespace, farm: Farm) -> None:
    with tunnel(wire, "--adjust-mss", "1500"):
        assert segment_size(wire.server, session_device(wire, farm), lan, GATEWAY) == 1460


@pytest.mark.parity("vyos/disable-forwarding")
def test_forwarding(wire: Wire, lan: Namespace, farm: Farm) -> None:
    """Packets out of the tunnel reach the LAN, or not; the client itself answers in both cases."""
    for options, passes in (([], True), (["--disable-forwarding"], False)):
        with tunnel(wire, *options):
            assert wire.server.ping(ADDRESS)
            assert wire.server.ping(LAN_HOST, "-W", "1") is passes


def arrives(wire: Wire, source: str) -> bool:
    """Whether a datagram with that source comes out of the tunnel to a program of the client."""
    with (
        wire.client.open_socket(kind=socket.SOCK_DGRAM) as here,
        wire.server.open_socket(kind=socket.SOCK_DGRAM) as far,
    ):
        here.bind((ADDRESS, PORT))
        here.settimeout(0.4)
        far.bind((source, 0))
        far.sendto(b"?", (ADDRESS, PORT))
        try:
            return here.recv(16) == b"?"
        except TimeoutError:
            return False


STRICT, LOOSE = {GATEWAY: True, ELSEWHERE: False, NOWHERE: False}, {GATEWAY: True, ELSEWHERE: True, NOWHERE: False}
ANY = {GATEWAY: True, ELSEWHERE: True, NOWHERE: True}


@pytest.mark.parametrize(
    ("wish", "everywhere", "default", "expected"),
    [
        pytest.param("strict", 0, 0, STRICT, marks=pytest.mark.parity("vyos/source-validation-strict")),
        # the kernel's own filter would be the looser one of the two
        pytest.param("strict", 2, 0, STRICT, marks=pytest.mark.parity("vyos/source-validation-strict")),
        pytest.param("loose", 0, 0, LOOSE, marks=pytest.mark.parity("vyos/source-validation-loose")),
        pytest.param("loose", 1, 1, LOOSE, marks=pytest.mark.parity("vyos/source-validation-loose")),
        pytest.param("disable", 0, 1, ANY, marks=pytest.mark.parity("vyos/source-validation-disable")),
        pytest.param(None, 0, 1, STRICT, id="the system's own"),
    ],
)
def test_source_validation(
    wire: Wire, farm: Farm, wish: str | None, everywhere: int, default: int, expected: dict[str, bool]
) -> None:
    """Sources that are routed into the tunnel, elsewhere, nowhere."""
    names = ("net.ipv4.conf.all.rp_filter", "net.ipv4.conf.default.rp_filter")
    wire.client.run(
        "sysctl", "-qw", *(f"{name}={value}" for name, value in zip(names, (everywhere, default), strict=True))
    )
    try:
        with tunnel(wire, *(["--source-validation", wish] if wish else [])):
            assert {source: arrives(wire, source) for source in expected} == expected
    finally:
        wire.client.run("sysctl", "-qw", *(f"{name}=0" for name in names))


def ended(wire: Wire, *options: str) -> str:
    """Run a client that cannot have its interface; returns what it says."""
    links = wire.client.links()
    with connecting(wire.client, wire.SERVER4, *TRUST_ANY, "--no-default-route", *options) as client:
        code, closed = client.end()
    assert (code, closed["reason"]) == (ExitCode.SYSTEM, "interface-failed"), closed
    assert wire.client.links() == links
    return str(closed["detail"])


@pytest.mark.parity("vyos/source-validation-disable")
def test_validation_that_cannot_be_switched_off(wire: Wire, farm: Farm) -> None:
    """The kernel takes the greater of the interface's and of all's: said, not ignored."""
    wire.client.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1")
    try:
        said = ended(wire, "--source-validation", "disable")
    finally:
        wire.client.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0")
    assert said.startswith("source-validation = disable: net.ipv4.conf.all.rp_filter is 1")


def test_vrf_that_is_none(wire: Wire, farm: Farm) -> None:
    assert ended(wire, "--vrf", "red").startswith("there is no VRF red; make it first: ip link add red type vrf")
    assert ended(wire, "--vrf", "uplink").startswith("there is no VRF uplink")


def test_rules_of_a_killed_client(wire: Wire, farm: Farm) -> None:
    """They speak of an interface that is gone; the next start takes them out."""
    options = [*TRUST_ANY, "--no-default-route", "--adjust-mss", "1000"]
    with connecting(wire.client, wire.SERVER4, *options, "--interface", "gone0") as client:
        client.up()
        client.process.kill()
        client.process.wait(10)
    assert "gone0" in wire.client.run("nft", "list", "ruleset").stdout
    farm.idle()
    with tunnel_of_another_name(wire) as client:
        assert "gone0" not in wire.client.run("nft", "list", "ruleset").stdout


@contextmanager
def tunnel_of_another_name(wire: Wire) -> Iterator[Client]:
    """A client without wishes of its own."""
    with connecting(wire.client, wire.SERVER4, *TRUST_ANY, "--no-default-route") as client:
        client.up()
        yield client
        client.stop()
