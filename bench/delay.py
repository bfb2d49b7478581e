"""Delay under load: a line of 100 Mbit/s, a download that fills it, and a ping through the same tunnel."""

from __future__ import annotations

import re
import statistics
import subprocess
from contextlib import ExitStack
from typing import Final

from bench.farm import GATEWAY, Farm
from bench.figure import Figure, Setup, percentile
from bench.peers import DEVICE, FLOWS, FLOWS_PORT, PING_INTERVAL, Flows, Load, Pings, on_cpu, start_carrier
from bench.places import OTHER_CPU, Places, make_places
from sstpfarm.cli.stage import StageError

RATE: Final = "100mbit"
# The line's own queue, as in a small router: 64 KB last 5 ms at this rate. What the ping waits beyond that, and beyond
# what TCP keeps in flight for it, it waits in the server.
BURST: Final = "16kb"
LIMIT: Final = "64kb"
WARM_UP: Final = 10.0  # seconds: TCP fills the line at once, but the queues before it only by and by
SECONDS: Final = 10.0


def ping_under_load(setup: Setup) -> list[Figure]:
    """Median and 95th percentile of each run; the medians of both over the runs."""
    middle, high, goodput, alone = [], [], [], []
    with ExitStack() as stack:
        places = make_places(stack, "delay", router=True)
        assert places.router is not None
        shape = ("tbf", "rate", RATE, "burst", BURST, "limit", LIMIT)
        places.router.run("tc", "qdisc", "add", "dev", "far", "root", *shape)
        farm = Farm(stack, places.server, setup.fresh("farm"), dataplane=setup.dataplane)
        start_carrier(stack, places, farm)
        Flows(stack, places.server, farm.directory)
        warm_up, seconds = (2.0, 3.0) if setup.quick else (WARM_UP, SECONDS)
        for _ in range(setup.runs):
            alone.append(statistics.median(_ping(places, 50)))
            times, rate = _loaded(places, warm_up, seconds)
            middle.append(statistics.median(times))
            high.append(percentile(times, 0.95))
            goodput.append(rate)
    note = f"{statistics.median(alone):.1f} ms without load, {statistics.median(goodput):.0f} Mbit/s goodput"
    return [setup.figure("ping-p50", middle, note, goodput=goodput), setup.figure("ping-p95", high)]


def _loaded(places: Places, warm_up: float, seconds: float) -> tuple[list[float], float]:
    """Round trips in ms while a download runs, and its Mbit/s."""
    duration = f"{warm_up + seconds + 1}"
    words = ("tcp", "down", GATEWAY, str(FLOWS_PORT), DEVICE, "1", "0", str(Load().chunk), duration)
    command = on_cpu(places.client, OTHER_CPU, str(FLOWS), *words)
    download = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own program
    try:
        _ping(places, int(warm_up / PING_INTERVAL))
        times = _ping(places, int(seconds / PING_INTERVAL))
        said, _ = download.communicate(timeout=warm_up + seconds + 30)
    finally:
        download.kill()
        download.wait()
    found = re.search(r'"bytes": (\d+), "seconds": ([\d.]+)', said)
    if found is None:
        raise StageError("the download failed")
    return times, int(found[1]) * 8 / 1e6 / float(found[2])


def _ping(places: Places, count: int) -> list[float]:
    """Round trips through the tunnel in ms."""
    return Pings(places.client, GATEWAY, count * PING_INTERVAL).times()
