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

from .client import TRUST_ANY, connecting
from .client_service import ClientService, interface, serving
from .farm import GATEWAY, PASSWORD, Farm, running
from .netns import PATIENCE, Namespace, Wire, connect, namespace, until

LAN_HOST, LAN_ROUTER, LAN = "10.70.0.2", "10.70.0.1", "10.70.0.0/24"
ADDRESS = "10.20.30.40"  # of the client in the tunnel
NOWHERE = "203.0.113.9"  # an address to which the client has no route
ELSEWHERE = "10.70.0.99"  # an address to which it has one, but not into the tunnel
MTU = 1300
PORT = 5050
PROFILE = {"default": {"change-tcp-mss": False}}
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


@pytest.fixture(scope="module")
def service(wire: Wire, farm: Farm) -> Iterator[ClientService]:
    """The client, up for all of the tests: what is wished of the interface changes while it is."""
    before = wire.client.run("nft", "list", "ruleset").stdout
    with serving(wire.client, {"sstp0": interface(wire.SERVER4)}, PROFILE) as made:
        assert made.opened("sstp0")["mtu"] == MTU
        yield made
    assert wire.client.run("nft", "list", "ruleset").stdout == before


def wish(service: ClientService, wire: Wire, **ip: object) -> None:
    """Change the key `ip` of the interface; the session lives on."""
    mark = service.log.mark()
    named = {key.replace("_", "-"): value for key, value in ip.items()}
    service.reload({"sstp0": interface(wire.SERVER4, ip=named)}, PROFILE)
    assert not service.log.find("tunnel.closed", mark)


def segment_size(sniffing: Namespace, device: str, calling: Namespace, target: str) -> int:
    """Open a TCP connection from one namespace; return the MSS in its SYN as another one sees it on that device."""
    with sniffing.open_socket(socket.AF_PACKET, socket.SOCK_DGRAM) as sniffer:
        sniffer.bind((device, ETH_P_IP))
        sniffer.settimeout(PATIENCE)
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
    ("adjust_mss", "size"),
    [
        pytest.param(1000, 1000, marks=pytest.mark.parity("vyos/adjust-mss")),
        pytest.param("clamp-mss-to-pmtu", MTU - 40, marks=pytest.mark.parity("vyos/clamp-mss-to-pmtu")),
        pytest.param(1500, 1460, id="never made larger"),
        pytest.param(None, 1460, id="without"),
    ],
)
def test_segments(
    wire: Wire, lan: Namespace, farm: Farm, service: ClientService, adjust_mss: int | str | None, size: int
) -> None:
    """SYNs of forwarded connections, out of the tunnel and into it; the LAN's own MTU would allow 1460."""
    wish(service, wire, **({} if adjust_mss is None else {"adjust_mss": adjust_mss}))
    wire.client.run("ip", "route", "replace", f"{GATEWAY}/32", "dev", "sstp0")
    wire.server.run("ip", "route", "replace", LAN, "dev", session_device(wire, farm), "advmss", "1460")
    assert segment_size(wire.server, session_device(wire, farm), lan, GATEWAY) == size
    assert segment_size(lan, "net0", wire.server, LAN_HOST) == size


@pytest.mark.parity("vyos/disable-forwarding")
def test_forwarding(wire: Wire, lan: Namespace, farm: Farm, service: ClientService) -> None:
    """Packets out of the tunnel reach the LAN, or not; the client itself answers in both cases."""
    for disabled in (False, True, False):
        wish(service, wire, disable_forwarding=disabled)
        assert wire.server.ping(ADDRESS)
        assert wire.server.ping(LAN_HOST, *(("-W", "1") if disabled else ())) is not disabled


def arrives(wire: Wire, source: str, patience: float) -> bool:
    """Whether a datagram with that source comes out of the tunnel to a program of the client, within that time."""
    with (
        wire.client.open_socket(kind=socket.SOCK_DGRAM) as here,
        wire.server.open_socket(kind=socket.SOCK_DGRAM) as far,
    ):
        here.bind((ADDRESS, PORT))
        here.settimeout(patience)
        far.bind((source, 0))
        far.sendto(b"?", (ADDRESS, PORT))
        try:
            return here.recv(16) == b"?"
        except TimeoutError:
            return False


STRICT, LOOSE = {GATEWAY: True, ELSEWHERE: False, NOWHERE: False}, {GATEWAY: True, ELSEWHERE: True, NOWHERE: False}
ANY = {GATEWAY: True, ELSEWHERE: True, NOWHERE: True}


@pytest.mark.parametrize(
    ("wished", "everywhere", "default", "expected"),
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
    wire: Wire,
    farm: Farm,
    service: ClientService,
    wished: str | None,
    everywhere: int,
    default: int,
    expected: dict[str, bool],
) -> None:
    """Sources that are routed into the tunnel, elsewhere, nowhere."""
    wish(service, wire, source_validation="strict" if wished is None else "loose")  # from something else
    with rp_filter(wire, everywhere, default):
        wish(service, wire, **({} if wished is None else {"source_validation": wished}))
        found = {source: arrives(wire, source, PATIENCE if comes else 0.4) for source, comes in expected.items()}
        assert found == expected


@contextmanager
def rp_filter(wire: Wire, everywhere: int, default: int) -> Iterator[None]:
    """The system's own reverse path filter, for all interfaces and for those that nobody sets."""
    names = ("net.ipv4.conf.all.rp_filter", "net.ipv4.conf.default.rp_filter")
    settings = zip(names, (everywhere, default), strict=True)
    wire.client.run("sysctl", "-qw", *(f"{name}={value}" for name, value in settings))
    try:
        yield
    finally:
        wire.client.run("sysctl", "-qw", *(f"{name}=0" for name in names))


@pytest.mark.parity("vyos/source-validation-disable")
def test_validation_that_cannot_be_switched_off(wire: Wire, farm: Farm, service: ClientService) -> None:
    """The kernel takes the greater of the interface's and of all's: said, not ignored."""
    wish(service, wire, source_validation="loose")
    mark = service.log.mark()
    with rp_filter(wire, 1, 0):
        wish(service, wire, source_validation="disable")
    said = service.wait("tunnel.refused", mark)["detail"]
    assert said.startswith("source-validation = disable: net.ipv4.conf.all.rp_filter is 1")


def test_vrf_that_is_none(wire: Wire, farm: Farm) -> None:
    links = wire.client.links()
    options = [*TRUST_ANY, "--no-default-route", "--vrf", "uplink"]
    with connecting(wire.client, wire.SERVER4, *options, user="user1") as client:
        code, closed = client.end()
    assert (code, closed["reason"]) == (ExitCode.SYSTEM, "interface-failed"), closed
    assert closed["detail"].startswith("there is no VRF uplink; make it first: ip link add uplink type vrf")
    assert wire.client.links() == links


def test_rules_of_a_killed_client(wire: Wire, farm: Farm) -> None:
    """They speak of an interface that is gone; the next start takes them out."""
    options = [*TRUST_ANY, "--no-default-route", "--adjust-mss", "1000", "--interface"]
    with connecting(wire.client, wire.SERVER4, *options, "gone0", user="user1") as client:
        client.up()
        client.process.kill()
        client.process.wait(PATIENCE)
    until(lambda: "gone0" not in wire.client.links(), "its interface is gone")
    gone, here = (f"sstpfarm_client_{name.hex()}" for name in (b"gone0", b"here0"))
    assert gone in wire.client.run("nft", "list", "tables").stdout
    with connecting(wire.client, wire.SERVER4, *options, "here0", user="user2") as client:
        client.up()
        tables = wire.client.run("nft", "list", "tables").stdout
        assert (gone in tables, here in tables) == (False, True)
        client.stop()
    assert here not in wire.client.run("nft", "list", "tables").stdout
