"""Packets larger than a frame: `mrru` at both ends carries them whole, in fragments.

+-- client ----------------------+           +-- server ----------------------+
| sstpfarm connect --mrru 1600,  |---veth----| sstpfarm serve, mrru = 1600,   |
| raw peers; frames of 1400      |           | frames of 1400                 |
+--------------------------------+           +--------------------------------+
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sstpfarm.dataplane.select import PATH_VARIABLE

from .client import connected
from .farm import GATEWAY, Farm, running
from .frames import ACK, LCP, REJ, REQ, data, options, ppp
from .netns import Namespace, Wire, wired
from .packets import icmp_echo
from .rawpeer import RawPeer, tls_peer
from .transfer import transfer

FRAMES = {"authentication": ["mschap2", "pap"], "max-mtu": 1400, "max-mru": 1400}
OPTIONS = ("--max-mtu", "1400", "--max-mru", "1400", "--mrru", "1600")
MULTILINK, IPV4 = 0x003D, b"\x00\x21"


@contextmanager
def packet_path(name: str) -> Iterator[None]:
    """Both ends that are started in the block run that packet path."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(PATH_VARIABLE, name)
        yield


@pytest.fixture(scope="module", params=["fast", "pure"])
def farm(wire: Wire, request: pytest.FixtureRequest) -> Iterator[Farm]:
    with packet_path(request.param), running(wire.server, server={**FRAMES, "mrru": 1600}) as made:
        yield made


def whole(place: Namespace, target: str, size: int) -> bool:
    """Whether a packet of that size, which nobody may cut, is answered with one."""
    return place.ping(target, "-M", "do", "-s", str(size - 28))


def is_refused(place: Namespace, target: str, size: int) -> bool:
    """Whether the interface itself does not take a packet of that size."""
    options = ("-c", "1", "-W", "0.1", "-M", "do", "-s", str(size - 28))
    return "message too long" in place.run("ping", "-n", *options, target, check=False).stderr


@pytest.mark.parity("ros-client/mrru", "ros-server/mrru", "ros-sessions/mtu")
def test_a_packet_that_no_frame_holds_passes_whole(wire: Wire, farm: Farm) -> None:
    """Both ways, beside those that fit; TCP too, whose segments are as long."""
    with connected(wire.client, wire.SERVER4, "--interface", "sstpc0", *OPTIONS) as (_, up):
        (session,) = farm.sessions()
        assert (up["mtu"], session["mtu"]) == (1600, 1600)
        for place, name in ((wire.client, "sstpc0"), (wire.server, session["interface"])):
            assert place.ip("link", "show", name)[0]["mtu"] == 1600
        local = up["local_address"]
        for size in (1600, 1401, 1400, 100):
            assert whole(wire.client, GATEWAY, size), size
            assert whole(wire.server, local, size), size
        assert is_refused(wire.client, GATEWAY, 1601)
        for sender, receiver, address in ((wire.client, wire.server, GATEWAY), (wire.server, wire.client, local)):
            sent, received = transfer(sender, receiver, address, 4)
            assert sent == received
        (session,) = farm.sessions()
        assert min(session["bytes_in"], session["bytes_out"]) > 4_000_000
        for reason in ("fragment", "too-large", "malformed", "protocol"):
            assert farm.metric("sstpfarm_drops_total", reason=reason) == 0, reason
    farm.idle()


def test_a_client_without_it_gets_frames_only(wire: Wire, farm: Farm) -> None:
    with connected(wire.client, wire.SERVER4, "--max-mru", "1400") as (_, up):
        (session,) = farm.sessions()
        assert (up["mtu"], session["mtu"]) == (1400, 1400)
        assert whole(wire.client, GATEWAY, 1400)
        assert is_refused(wire.client, GATEWAY, 1401)
    farm.idle()


@pytest.mark.parity("ros-server/mrru")
def test_a_server_without_it_rejects_the_options() -> None:
    """Those of the vector ppp-lcp-confreq-mrru: 17, 18 and 19, and nothing else."""
    asked = bytes.fromhex("110406401202130903020000000001")
    with wired() as wire, running(wire.server, server={"authentication": ["pap"]}) as plain:
        with tls_peer(wire.client, wire.SERVER4) as peer:
            peer.open_http()
            peer.call_connect()
            peer.send(ppp(LCP, REQ, 9, b"\x01\x04\x05\x78" + asked))
            assert peer.frame(LCP, REJ).options == asked
        with connected(wire.client, wire.SERVER4, "--authentication", "pap", *OPTIONS) as (_, up):
            assert up["mtu"] == 1400
        plain.idle()


def open_with_mrru(peer: RawPeer) -> None:
    """A login by PAP whose LCP agrees on an MRRU of 2000 for us, and long sequence numbers both ways."""
    peer.open_http()
    peer.call_connect()
    peer.send(ppp(LCP, REQ, 1, b"\x01\x04\x05\x78\x11\x04\x07\xd0" + b"\x05\x06" + os.urandom(4)))
    ours = theirs = False
    while not (ours and theirs):
        came = peer.frame(LCP, REQ, ACK)
        found = options(came.options)
        if came.code == ACK:
            ours = True
        elif 18 in found:
            peer.send(ppp(LCP, REJ, came.identifier, b"\x12\x02"))  # no short sequence numbers
        elif found[3] != b"\xc0\x23":
            peer.send(ppp(LCP, 3, came.identifier, b"\x03\x04\xc0\x23"))
        else:
            assert found[17] == b"\x06\x40"
            assert found[19][:1] == b"\x01"
            peer.send(ppp(LCP, ACK, came.identifier, came.options))
            theirs = True
    peer.authenticate_pap()
    peer.send(peer.call_connected())
    peer.open_ipcp()


def fragments(packet: bytes, first: int, *ends: int) -> list[bytes]:
    """SSTP packets with the fragments of a packet, cut at these places, numbered from `first` (RFC 1990 3)."""
    cuts = [0, *ends, len(packet)]
    made = []
    for number in range(len(cuts) - 1):
        flags = (0x80 if number == 0 else 0) | (0x40 if number == len(cuts) - 2 else 0)
        header = bytes([flags]) + (first + number).to_bytes(3, "big")
        made.append(data(MULTILINK, header + packet[cuts[number] : cuts[number + 1]]))
    return made


def test_fragments_of_another_implementation(wire: Wire, farm: Farm) -> None:
    """Made and read by hand: any cut, one- and two-byte protocols, and what is refused, counted."""
    with tls_peer(wire.client, wire.SERVER4) as peer:
        open_with_mrru(peer)
        (session,) = farm.sessions()
        assert session["mtu"] == 1600
        request = icmp_echo(peer.address, GATEWAY, 1)
        peer.send(*fragments(IPV4 + request, 0, 1, 2, 30))  # also inside of the protocol field
        assert peer.frame(0x0021).information[20:21] == b"\0"
        peer.send(*fragments(b"\x21" + request, 4))  # whole, in one fragment
        assert peer.frame(0x0021).information[20:21] == b"\0"
        with farm.counts("sstpfarm_drops_total", reason="source"):
            peer.send(*fragments(IPV4 + icmp_echo("10.20.9.9", GATEWAY, 3), 5, 20))
            assert peer.ping()
        with farm.counts("sstpfarm_drops_total", reason="fragment"):
            one, _, three = fragments(IPV4 + request, 7, 10, 20)
            peer.send(one, three)  # a gap drops both
            assert peer.ping()
        with farm.counts("sstpfarm_drops_total", reason="too-large"):
            peer.send(*fragments(IPV4 + request + bytes(1601 - len(request)), 10, 1200))
            assert peer.ping()
        with farm.counts("sstpfarm_drops_total", reason="fragment"):
            peer.send(*fragments(IPV4 + request + bytes(1700), 12, 1200))  # beyond our MRRU
            assert peer.ping()
        # towards us: B, E, numbers from 0 without a gap, no fragment longer than our MRU of 1400
        wire.server.run("ping", "-c", "1", "-W", "1", "-M", "do", "-s", str(1600 - 28), peer.address, check=False)
        first, second = peer.frame(MULTILINK), peer.frame(MULTILINK)
        assert (first.information[:4], second.information[:4]) == (b"\x80\0\0\0", b"\x40\0\0\x01")
        assert len(first.information) == 1400
        packet = first.information[4:] + second.information[4:]
        assert (packet[:2], len(packet)) == (IPV4, 1602)
        peer.disconnect()
    farm.idle()
