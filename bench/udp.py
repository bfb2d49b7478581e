"""UDP: cost of a packet in each direction, and bursts of small datagrams, of which none may be lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from bench.farm import GATEWAY, Farm
from bench.figure import Figure, Setup
from bench.peers import DEVICE, FLOWS_PORT, Flows, flows, start_carrier
from bench.places import NET, Places, make_places
from sstpfarm.cli.stage import Namespace

SMALL: Final = 172  # payload bytes: 20 ms of G.711 with its RTP header
LARGE: Final = 1372  # payload bytes: with 28 bytes of headers the MTU of 1400
BURST: Final = 64
BURST_SIZE: Final = 1200
BURST_GAP_US: Final = 10_000
SEGMENTS: Final = 64  # datagrams that the small-packet generator hands to the kernel at once, to be cheap itself
ARRIVE: Final = 0.5  # seconds for the last datagrams


@dataclass(frozen=True, slots=True)
class Stage:
    """One session, whose traffic goes through the server to and from the network behind it."""

    places: Places
    farm: Farm
    address: str  # the client's, in the tunnel

    def send(self, way: str, words: tuple[int, ...], seconds: float) -> tuple[int, int]:
        """Send datagrams; how many were sent, and how many arrived.

        Args:
            words: size, burst, gap in microseconds, segments.
        """
        size, burst, gap, segments = map(str, words)
        up = way == "up"
        source, target = (self.places.client, self.places.net) if up else (self.places.net, self.places.client)
        device, host = (f"{DEVICE}0", NET) if up else ("-", self.address)
        with ExitStack() as stack:
            end = Flows(stack, target, self.farm.directory)
            amounts = (size, burst, gap, f"{seconds:.3f}", segments)
            said = flows(source, "udp", host, str(FLOWS_PORT), device, *amounts, seconds=seconds)
            time.sleep(ARRIVE)
            return int(said["sent"]), end.datagrams()


@contextmanager
def stage(setup: Setup) -> Iterator[Stage]:
    """A server with one native client, which reaches the network behind the server."""
    with ExitStack() as stack:
        places = make_places(stack, "udp")
        farm = Farm(stack, places.server, setup.fresh("farm"), dataplane=setup.dataplane)
        address = start_carrier(stack, places, farm)[f"{DEVICE}0"]
        _allow(places.client, address)
        yield Stage(places, farm, address)


def _allow(place: Namespace, address: str) -> None:
    """Route what comes from the tunnel's address, and answers to it, through the tunnel."""
    place.run("ip", "route", "add", NET, "via", GATEWAY, "dev", f"{DEVICE}0", "src", address)


def packet_cost(setup: Setup) -> list[Figure]:
    """Worker CPU for each packet of one flow that sends as much as it can, both ways."""
    found: dict[str, list[float]] = {"udp-in": [], "udp-out": []}
    rates: dict[str, list[float]] = {"udp-in": [], "udp-out": []}
    with stage(setup) as scene:
        for number in range(setup.runs + 1):
            for key, way, words in (
                ("udp-in", "up", (SMALL, SEGMENTS, 0, SEGMENTS)),
                ("udp-out", "down", (LARGE, SEGMENTS, 0, 1)),
            ):
                side = 0 if way == "up" else 1
                packets, cpu = scene.farm.packets()[side], scene.farm.usage().workers
                scene.send(way, words, setup.seconds)
                cpu = scene.farm.usage().workers - cpu
                packets = scene.farm.packets()[side] - packets
                if number:
                    found[key].append(cpu / max(packets, 1) * 1e6)
                    rates[key].append(packets / setup.seconds)
    return [
        setup.figure(key, runs, f"{sorted(rates[key])[len(runs) // 2]:,.0f} packets/s", rates=rates[key])
        for key, runs in found.items()
    ]


def bursts(setup: Setup) -> list[Figure]:
    """Lost datagrams of all bursts of all runs; each datagram is sent by itself."""
    found = []
    with stage(setup) as scene:
        for way in ("up", "down"):
            sent, lost = 0, []
            for _ in range(setup.runs):
                count, got = scene.send(way, (BURST_SIZE, BURST, BURST_GAP_US, 1), setup.seconds)
                sent += count
                lost.append(float(count - got))
            found.append(
                setup.single(f"burst-{way}", sum(lost), runs=lost, note=f"of {sent:,}, all runs together", sent=sent)
            )
    return found
