"""iperf3, a program that is not ours, through the tunnel: TCP and UDP, IPv4 and IPv6, both ways, 16 streams at once.

+-- client -----------------+           +-- server ----------+
| sstp0: iperf3 -c          |==tunnel==>| sstp... iperf3 -s  |
| uplink                    |---veth----| downlink           |
+---------------------------+           +--------------------+

Nothing is damaged on the way: neither kernel throws a packet away for a wrong checksum. No datagram is lost on it: only
a socket at the end may have no room, when its reader has no time, and the kernel counts that.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any, Final

import pytest

from sstpfarm.dataplane.select import FAST, PURE

from .client import connected
from .farm import GATEWAY, Farm, running
from .netns import Wire, until
from .test_ipv6 import link_local
from .test_offload import checksum_errors, environment, thrown_away

pytestmark = pytest.mark.alone

CASES: Final = ((PURE, 1500), (FAST, 1280), (FAST, 1500), (FAST, 4087))  # test_offload has every MTU of both
STREAMS: Final = 16
STREAM_MINIMUM: Final = 16 << 10  # bytes that each of them carries in its second
UDP_BYTES: Final = 1 << 19  # fewer packets than a TUN's ring holds: a busy machine gives no excuse for a loss there
UDP_RATE: Final = "30M"


@pytest.fixture(scope="module")
def farm(request: pytest.FixtureRequest, wire: Wire) -> Iterator[Farm]:
    """A farm with large packets and that packet path, and iperf3 beside it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        environment(monkeypatch, request.param)
        with running(
            wire.server,
            server={"max-mtu": 4087, "max-mru": 4087},
            tables={"interface.site": {"user": "alice"}},  # one with a link-local address
        ) as made:
            listener = subprocess.Popen(
                wire.server.argv("iperf3", "-s"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                until(lambda: "5201" in wire.server.run("ss", "-Hltn").stdout, "iperf3")
                yield made
            finally:
                listener.kill()
                listener.wait()


def measure(wire: Wire, target: str, *options: str) -> dict[str, Any]:
    done = wire.client.run("iperf3", "-J", "-c", target, *options, check=False)
    result: dict[str, Any] = json.loads(done.stdout)
    assert "error" not in result, result["error"]
    end: dict[str, Any] = result["end"]
    return end


def overruns(wire: Wire) -> int:
    """Datagrams for whom their reader's socket had no room."""
    return sum(thrown_away(place, "RcvbufErrors") for place in (wire.client, wire.server))


@pytest.mark.parametrize(("farm", "mtu"), CASES, indirect=["farm"])
def test_iperf3(wire: Wire, farm: Farm, mtu: int) -> None:
    wrong = checksum_errors(wire.client), checksum_errors(wire.server)
    limits = ("--max-mtu", str(mtu), "--max-mru", str(mtu), "--interface", "sstp0")
    with connected(wire.client, wire.SERVER4, *limits):
        (session,) = farm.sessions()
        assert session["mtu"] == mtu
        for target, headers in ((GATEWAY, 28), (f"{link_local(wire.server, session['interface'])}%sstp0", 48)):
            for way in ((), ("-R",)):
                end = measure(wire, target, *way, "-P", str(STREAMS), "-t", "1")
                carried = [stream["receiver"]["bytes"] for stream in end["streams"]]
                assert len(carried) == STREAMS
                assert min(carried) >= STREAM_MINIMUM
                length = ("-l", str(mtu - headers), "-b", UDP_RATE, "-n", str(UDP_BYTES))
                before = overruns(wire)
                end = measure(wire, target, *way, "-u", *length)
                assert end["sum"]["packets"] >= UDP_BYTES // (mtu - headers)
                assert end["sum"]["lost_packets"] <= overruns(wire) - before
    assert (checksum_errors(wire.client), checksum_errors(wire.server)) == wrong
    farm.idle()
