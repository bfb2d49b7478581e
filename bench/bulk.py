"""One session that carries as much TCP as it can: CPU to the native limit, throughput, pure against fast."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from bench.farm import GATEWAY, Farm
from bench.figure import Figure, Setup
from bench.peers import NATIVE_NEAR, Flows, Load, NativePair, Pings, start_carrier, start_client
from bench.places import Places, make_places

WAYS: Final = ("up", "down")
GB: Final = 1e9
PINGED: Final = 0.8  # of a run


@dataclass(frozen=True, slots=True)
class Run:
    """One run of traffic: CPU seconds of the server, what passed, how long."""

    cpu: float
    bytes: int
    seconds: float

    @property
    def s_per_gb(self) -> float:
        """CPU seconds of the server per GB."""
        return self.cpu / (self.bytes / GB)

    @property
    def gbit_s(self) -> float:
        """What was reached."""
        return self.bytes * 8 / GB / self.seconds

    @property
    def load(self) -> float:
        """Share of one core that the server used."""
        return self.cpu / self.seconds


def measure(cpu: Callable[[], float], load: Load, places: Places, way: str, host: str, seconds: float) -> Run:
    """One run."""
    before = cpu()
    found: dict[str, Any] = load.run(places.client, way, host, seconds)
    return Run(cpu() - before, int(found["bytes"]), float(found["seconds"]))


def measure_farm(farm: Farm, load: Load, places: Places, way: str, seconds: float) -> Run:
    """One run through a farm; its workers' CPU counts."""
    return measure(lambda: farm.usage().workers, load, places, way, GATEWAY, seconds)


@contextmanager
def farm_with_carrier(setup: Setup, dataplane: str, sessions: int = 1) -> Iterator[tuple[Places, Farm]]:
    """A server with that many native clients, and traffic's other end beside it."""
    with ExitStack() as stack:
        places = make_places(stack, f"farm-{dataplane or 'auto'}")
        farm = Farm(stack, places.server, setup.fresh("farm"), dataplane=dataplane)
        start_carrier(stack, places, farm, sessions)
        Flows(stack, places.server, farm.directory)
        yield places, farm


@contextmanager
def native(setup: Setup, sessions: int = 1) -> Iterator[tuple[Places, NativePair]]:
    """The native comparator, and traffic's other end beside its server."""
    with ExitStack() as stack:
        places = make_places(stack, "native")
        directory = setup.fresh("native")
        directory.mkdir()
        pair = NativePair(stack, places, directory, sessions)
        Flows(stack, places.server, directory)
        yield places, pair


def one_session(setup: Setup) -> list[Figure]:
    """Ours and the native limit in turns, both ways; the ratio is the median of the ratios of neighbouring runs."""
    with native(setup) as (native_places, pair), farm_with_carrier(setup, setup.dataplane) as (places, farm):
        limits: dict[str, list[Run]] = {way: [] for way in WAYS}
        ours: dict[str, list[Run]] = {way: [] for way in WAYS}
        for number in range(setup.runs + 1):
            for way in WAYS:
                limit = measure(pair.cpu, Load(), native_places, way, NATIVE_NEAR, setup.seconds)
                our = measure_farm(farm, Load(), places, way, setup.seconds)
                if number:  # the first one warms up
                    limits[way].append(limit)
                    ours[way].append(our)
        dataplane = farm.dataplane
    found = []
    for way in WAYS:
        ratios = [our.s_per_gb / limit.s_per_gb for our, limit in zip(ours[way], limits[way], strict=True)]
        detail = {"dataplane": dataplane, "ours": [each.s_per_gb for each in ours[way]]}
        found.append(setup.figure(f"tcp-{way}-ratio", ratios, f"{dataplane} packet path", **detail))
        found.append(_core(setup, way, ours[way], dataplane))
        found.append(
            setup.figure(
                f"native-{way}",
                [each.s_per_gb for each in limits[way]],
                gbit_s=[each.gbit_s for each in limits[way]],
                load=[each.load for each in limits[way]],
            )
        )
    return found


def _core(setup: Setup, way: str, runs: list[Run], dataplane: str) -> Figure:
    """What one worker core carries: what was reached, or what follows from that where the other core was full."""
    reached = statistics.median(each.gbit_s for each in runs)
    load = statistics.median(each.load for each in runs)
    note = f"reached {reached:.1f} Gbit/s with the worker's core {100 * load:.0f} % busy"
    if load < 0.95:
        note += "; the rest follows from its CPU, for the clients' core was full"
    return setup.figure(
        f"tcp-{way}-core",
        [each.gbit_s / min(each.load, 1.0) for each in runs],
        note,
        dataplane=dataplane,
        reached=[each.gbit_s for each in runs],
        load=[each.load for each in runs],
    )


def pure_and_fast(setup: Setup) -> list[Figure]:
    """CPU per GB of the packet paths that this installation has, in turns."""
    with ExitStack() as stack:
        farms: dict[str, tuple[Places, Farm]] = {}
        for dataplane in ("pure", "fast"):
            places, farm = stack.enter_context(farm_with_carrier(setup, dataplane))
            farms[farm.dataplane] = (places, farm)
        costs: dict[tuple[str, str], list[float]] = {(name, way): [] for name in farms for way in WAYS}
        for number in range(setup.runs + 1):
            for (name, way), runs in costs.items():
                places, farm = farms[name]
                run = measure_farm(farm, Load(), places, way, setup.seconds)
                if number:
                    runs.append(run.s_per_gb)
    return [setup.figure(f"{name}-{way}", runs) for (name, way), runs in costs.items()]


def own_client(setup: Setup) -> list[Figure]:
    """What `sstpfarm connect` reaches with the other core for itself and for the traffic's two ends."""
    with ExitStack() as stack:
        places = make_places(stack, "connect")
        farm = Farm(stack, places.server, setup.fresh("farm"), dataplane=setup.dataplane)
        start_client(stack, places, farm)
        Flows(stack, places.server, farm.directory)
        runs: dict[str, list[Run]] = {way: [] for way in WAYS}
        for number in range(setup.runs + 1):
            for way in WAYS:
                run = measure_farm(farm, Load(), places, way, setup.seconds)
                if number:
                    runs[way].append(run)
    return [
        setup.figure(
            f"connect-{way}",
            [run.gbit_s for run in runs[way]],
            f"worker {100 * statistics.median(run.load for run in runs[way]):.0f} % busy",
            s_per_gb=[run.s_per_gb for run in runs[way]],
        )
        for way in WAYS
    ]


def many_sessions(setup: Setup, sessions: int = 100, mbit_s: float = 20) -> list[Figure]:
    """Many sessions, each with one TCP flow that is paced: server CPU per GB, and the native comparator beside it.

    A ping in one of the sessions shows what the flows' packets wait meanwhile.
    """
    load = Load(count=sessions, rate=round(mbit_s * 1e6 / 8), chunk=8 * 1024)
    with (
        native(setup, sessions) as (native_places, pair),
        farm_with_carrier(setup, setup.dataplane, sessions) as (places, farm),
    ):
        ours: dict[str, list[Run]] = {way: [] for way in WAYS}
        limits: dict[str, list[Run]] = {way: [] for way in WAYS}
        sizes: dict[str, list[float]] = {way: [] for way in WAYS}
        waits: dict[str, list[float]] = {way: [] for way in WAYS}
        native_waits: dict[str, list[float]] = {way: [] for way in WAYS}
        for number in range(setup.runs + 1):
            for way in WAYS:
                pings = Pings(native_places.client, NATIVE_NEAR, PINGED * setup.seconds)
                limit = measure(pair.cpu, load, native_places, way, NATIVE_NEAR, setup.seconds)
                native_times = pings.times()
                before = farm.packets()
                pings = Pings(places.client, GATEWAY, PINGED * setup.seconds)
                run = measure_farm(farm, load, places, way, setup.seconds)
                times = pings.times()
                after = farm.packets()
                if number:
                    side = WAYS.index(way)
                    waits[way].append(statistics.median(times))
                    native_waits[way].append(statistics.median(native_times))
                    limits[way].append(limit)
                    ours[way].append(run)
                    sizes[way].append(run.bytes / max(after[side] - before[side], 1))
    return [
        setup.figure(
            f"many-{way}",
            [run.s_per_gb for run in ours[way]],
            f"{statistics.median(run.gbit_s for run in ours[way]):.2f} Gbit/s in all, "
            f"{statistics.median(sizes[way]):.0f} bytes a packet, "
            f"native comparator {statistics.median(run.s_per_gb for run in limits[way]):.2f}; ping in one of them "
            f"{statistics.median(waits[way]):.1f} ms, native {statistics.median(native_waits[way]):.1f} ms",
            sessions=sessions,
            ping=waits[way],
            native_ping=native_waits[way],
            gbit_s=[run.gbit_s for run in ours[way]],
            native=[run.s_per_gb for run in limits[way]],
            native_gbit_s=[run.gbit_s for run in limits[way]],
        )
        for way in WAYS
    ]
