"""The programs around the server under test: clients, the native comparator, traffic."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.cpu import cpu_seconds
from bench.farm import MTU, PORT, USER, Farm
from bench.places import OTHER_CPU, SERVER, WORKER_CPU, Places
from sstpfarm.cli.stage import Namespace, StageError, follow, run, start, stop

ROOT: Final = Path(__file__).absolute().parent.parent
TUNNEL: Final = ROOT / "build/bench/bin/tunnel"
FLOWS: Final = ROOT / "build/bench/bin/flows"
DEVICE: Final = "tun"
FLOWS_PORT: Final = 5001
PATIENCE: Final = 60.0
NATIVE_PORT: Final = 4433
NATIVE_NEAR: Final = "10.30.0.1"  # the native server's end of its tunnels; session N's other end is 10.30.1.N + 1
PING_INTERVAL: Final = 0.02  # seconds
SETTLE: Final = 0.3  # seconds between the set-up of something and its first use


def on_cpu(place: Namespace, cpu: int, *command: str) -> list[str]:
    """The command line that runs a program inside, on one processor."""
    return place.argv("taskset", "-c", str(cpu), *command)


class Flows:
    """The end of the traffic that answers (`flows serve`)."""

    def __init__(self, stack: ExitStack, place: Namespace, directory: Path) -> None:
        self._output = directory / f"flows-{time.monotonic_ns()}.out"
        command = on_cpu(place, OTHER_CPU, str(FLOWS), "serve", str(FLOWS_PORT))
        self._process = start(stack, command, self._output, self._output.with_suffix(".log"))
        if next(follow(self._output, self._process, PATIENCE), "") != "ready":
            raise StageError("flows serve does not start")

    def datagrams(self) -> int:
        """End it; how many datagrams it got."""
        stop(self._process)
        return int(json.loads(self._output.read_text().splitlines()[-1])["datagrams"])


def flows(place: Namespace, *words: str, seconds: float) -> dict[str, Any]:
    """Run the end of the traffic that asks; what it said."""
    found: dict[str, Any] = json.loads(run(*on_cpu(place, OTHER_CPU, str(FLOWS), *words), patience=seconds + PATIENCE))
    return found


@dataclass(frozen=True, slots=True)
class Load:
    """TCP flows through tunnels: as many as there are devices, `rate` in bytes a second each, 0 for all that goes."""

    count: int = 1
    rate: int = 0
    chunk: int = 128 * 1024

    def run(self, place: Namespace, way: str, host: str, seconds: float) -> dict[str, Any]:
        """Let them run, "up" or "down" as the clients see it."""
        amounts = (self.count, self.rate, self.chunk, seconds)
        return flows(place, "tcp", way, host, str(FLOWS_PORT), DEVICE, *map(str, amounts), seconds=seconds)


def start_carrier(stack: ExitStack, places: Places, farm: Farm, sessions: int = 1) -> dict[str, str]:
    """Log in `sessions` native clients at a farm; their addresses by device."""
    output = farm.directory / f"carrier-{time.monotonic_ns()}.out"
    words = (str(TUNNEL), SERVER, str(PORT), str(sessions), USER, str(farm.password), DEVICE, str(MTU))
    command = on_cpu(places.client, OTHER_CPU, sys.executable, "-m", "bench.carrier", *words)
    process = start(stack, command, output, output.with_suffix(".log"))
    line = next(follow(output, process, PATIENCE + sessions), "")
    if not line:
        raise StageError(f"carrier: {output.with_suffix('.log').read_text()[-2000:]}")
    addresses: dict[str, str] = json.loads(line)["addresses"]
    time.sleep(SETTLE)
    return addresses


def start_client(stack: ExitStack, places: Places, farm: Farm) -> str:
    """Start `sstpfarm connect`; its interface is DEVICE0, as with the carrier. Returns its address."""
    output = farm.directory / f"client-{time.monotonic_ns()}.out"
    options = ("--user", USER, "--password-file", str(farm.password), "--insecure", "--no-default-route", "--json")
    command = (sys.executable, "-m", "sstpfarm", "connect", SERVER, *options, "--interface", f"{DEVICE}0")
    process = start(stack, on_cpu(places.client, OTHER_CPU, *command), output, output.with_suffix(".log"))
    for line in follow(output, process, PATIENCE):
        event = json.loads(line)
        if event["event"] == "up":
            time.sleep(SETTLE)
            return str(event["local_address"])
    raise StageError(f"sstpfarm connect: {output.read_text()[-2000:]}")


class Pings:
    """Pings through the first tunnel while something else goes on, for that many seconds."""

    def __init__(self, place: Namespace, host: str, seconds: float, interval: float = PING_INTERVAL) -> None:
        self._count = round(seconds / interval)
        words = ("ping", "-n", "-I", f"{DEVICE}0", "-i", str(interval), "-c", str(self._count), host)
        self._process = subprocess.Popen(  # noqa: S603 - ping(8)
            on_cpu(place, OTHER_CPU, *words), stdout=subprocess.PIPE, text=True
        )

    def times(self) -> list[float]:
        """Wait for the end; round trips in ms, without those that were lost: StageError when they are a tenth."""
        said, _ = self._process.communicate()
        times = [float(found) for found in re.findall(r"time=([\d.]+) ms", said)]
        if len(times) < self._count * 0.9:
            raise StageError(f"{self._count - len(times)} of {self._count} pings were lost")
        return times


class NativePair:
    """The native comparator: its server on the worker's processor, its client on the other."""

    def __init__(self, stack: ExitStack, places: Places, directory: Path, sessions: int = 1) -> None:
        chain, key = directory / "native.crt", directory / "native.key"
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        run("openssl", "req", "-x509", *curve, "-keyout", str(key), "-out", str(chain), "-days", "2", "-subj", "/CN=x")
        place = places.server
        end = (SERVER, str(NATIVE_PORT), DEVICE, str(sessions))
        output = directory / "native-server.out"
        command = on_cpu(place, WORKER_CPU, str(TUNNEL), "server", *end, str(chain), str(key))
        server = start(stack, command, output, directory / "native-server.log")
        lines = follow(output, server, PATIENCE)
        if next(lines, "") != "ready":
            raise StageError(f"native server: {(directory / 'native-server.log').read_text()}")
        command = on_cpu(places.client, OTHER_CPU, str(TUNNEL), "client", *end)
        start(stack, command, directory / "native-client.out", directory / "native-client.log")
        if next(lines, "") != "up":
            raise StageError(f"native client: {(directory / 'native-client.log').read_text()}")
        _address(place, [(f"{DEVICE}{n}", NATIVE_NEAR, f"10.30.1.{n + 1}") for n in range(sessions)])
        _address(places.client, [(f"{DEVICE}{n}", f"10.30.1.{n + 1}", NATIVE_NEAR) for n in range(sessions)])
        time.sleep(SETTLE)
        self._pid = server.pid

    def cpu(self) -> float:
        """CPU seconds of the server so far."""
        return cpu_seconds(self._pid)


def _address(place: Namespace, devices: Sequence[tuple[str, str, str]]) -> None:
    lines = [
        line
        for name, local, peer in devices
        for line in (f"address add {local} peer {peer} dev {name}", f"link set {name} mtu {MTU} up")
    ]
    subprocess.run(place.argv("ip", "-batch", "-"), input="\n".join(lines), text=True, check=True)  # noqa: S603 - ip


def environment_note() -> str:
    """What else ran on this machine: the load average, for who judges the figures."""
    return " ".join(f"{value:.1f}" for value in os.getloadavg())
