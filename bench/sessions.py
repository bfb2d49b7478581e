"""Logins, idle sessions and memory, with the clients of the load-test harness (loadtest/)."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.farm import GATEWAY, PORT, USER, Farm, Usage
from bench.figure import Figure, Setup
from bench.peers import ROOT, Flows, Load, on_cpu, start_carrier
from bench.places import OTHER_CPU, SERVER, WORKER_CPU, Places, make_places
from sstpfarm.cli.stage import StageError
from sstpfarm.ipc.control import control_request

LOGINS: Final = 500  # for the cost of a login, each run
RATE_LOGINS: Final = 3000  # for the rate
LADDER: Final = (100, 1000, 5000)
QUICK_LADDER: Final = (100, 500)
IDLE_SECONDS: Final = 60.0  # one period of the keepalive, which is spread over the sessions
GLANCE_SECONDS: Final = 10.0  # enough to take the idle sessions' share out of what a login beside them costs
CHURN_FILL: Final = 1200  # logins and ends beside the held sessions until hardly any new device is made
CHURN_LOGINS: Final = 600  # those that are measured
POLL: Final = 0.5  # seconds
READY_SPARE: Final = 400  # free interfaces beyond the sessions: those that rest, half a second's worth of ends
READY_PATIENCE: Final = 60.0  # seconds; 5,400 take six
HOLDS: Final = (10_000, 5_000)  # the second when the first is too much
HOLD_SECONDS: Final = 300.0
MEMORY_SESSIONS: Final = 2000
BURST_BYTES: Final = 64 * 1024  # a session that was busy: some bursts of that size each way
BURST_RATE: Final = 32 * 1024  # bytes a second, each session
HARNESS_PATIENCE: Final = 900.0
WINDOW: Final = 32  # logins in progress at once

Result = dict[str, Any]


@contextmanager
def served(setup: Setup, *, workers: int = 1, extra: str = "", profile: str = "") -> Iterator[tuple[Places, Farm]]:
    """A server for the harness; with two workers, one on each processor."""
    with ExitStack() as stack:
        places = make_places(stack, "sessions")
        places.client.run("sh", "-c", "echo 1024 65535 > /proc/sys/net/ipv4/ip_local_port_range")
        places.client.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/tcp_tw_reuse")
        cpus = (WORKER_CPU,) if workers == 1 else (WORKER_CPU, OTHER_CPU)
        directory = setup.fresh("farm")
        yield (
            places,
            Farm(
                stack, places.server, directory,
                workers=workers, dataplane=setup.dataplane, cpus=cpus, extra=extra, profile=profile,
            ),
        )  # fmt: skip


def harness(places: Places, farm: Farm, scenario: str, *words: str, seconds: float, processes: int = 1) -> Result:
    """Run a scenario of the harness against the farm; its result, with "failed" when something went wrong.

    One process runs on the processor of everything else, several run where they like.
    """
    argv, output = _command(places, farm, scenario, *words, seconds=seconds, processes=processes)
    done = subprocess.run(  # noqa: S603 - our own program
        argv, capture_output=True, text=True, timeout=seconds + HARNESS_PATIENCE, cwd=ROOT, check=False
    )
    return _result(scenario, output, done.stderr, failed=done.returncode != 0)


def _command(
    places: Places, farm: Farm, scenario: str, *words: str, seconds: float, processes: int
) -> tuple[list[str], Path]:
    """The command line of a scenario, and the file that its result will be in."""
    output = farm.directory / f"{scenario}-{time.monotonic_ns()}.json"
    options = {
        "--user": USER,
        "--password-file": farm.password,
        "--seconds": seconds,
        "--processes": processes,
        "--window": WINDOW,
        "--server-pid": farm.process.pid,
        "--output": output,
    }
    flat = [str(word) for pair in options.items() for word in pair]
    program = (sys.executable, "-m", "loadtest", scenario, f"{SERVER}:{PORT}")
    command = (*program, *words, *flat, "--insecure", "--i-own-this-target", "--quiet")
    return on_cpu(places.client, OTHER_CPU, *command) if processes == 1 else places.client.argv(*command), output


def _result(scenario: str, output: Path, said: str, *, failed: bool) -> Result:
    if not output.exists():
        raise StageError(f"loadtest {scenario}: {said[-2000:]}")
    result: Result = json.loads(output.read_text())
    result["failed"] = said.strip() if failed else ""
    return result


@dataclass(frozen=True, slots=True)
class Rung:
    """What was measured with a number of sessions held.

    Attributes:
        ramp: CPU of a login on the way there, ms by role, without what those that were up already cost meanwhile.
        idle: CPU of all sessions while they idle, seconds a second.
        again: CPU of a login and an end beside them, ms by role, without what the idle sessions cost meanwhile.
    """

    ramp: dict[str, float]
    idle: Usage
    again: dict[str, float]


def climb(places: Places, farm: Farm, sessions: int, idle_seconds: float, fill: int, churn: int) -> Rung:
    """Bring up sessions, let them idle, and let others log in and out beside them; all have ended when it returns.

    The clients open IPV6CP, as Windows does.
    """
    argv, output = _command(
        places, farm, "hold", "--ipv6", "--sessions", str(sessions), seconds=HARNESS_PATIENCE, processes=1
    )
    said = farm.directory / f"{output.stem}.log"
    with said.open("w") as log:
        holder = subprocess.Popen(argv, stdout=log, stderr=log, cwd=ROOT)  # noqa: S603 - our own program
        try:
            _wait_for(farm, sessions, holder)
            before, began = farm.usage(), time.monotonic()
            time.sleep(idle_seconds)
            spent, seconds = farm.usage().since(before), time.monotonic() - began
            idle = Usage(spent.workers / seconds, spent.master / seconds, spent.auth / seconds)
            again = _churn(places, farm, fill, idle)  # the figures of the first ones do not count
            again = _churn(places, farm, churn, idle)
        finally:
            holder.terminate()  # it ends its sessions in order
            holder.wait(timeout=HARNESS_PATIENCE)
    result = _result("hold", output, said.read_text(), failed=bool(said.read_text()))
    _require(result)
    _wait_for(farm, 0, None)
    return Rung(_logins_alone(stage(result, 0), idle, 0.5), idle, again)  # half of them are up, on average


def _churn(places: Places, farm: Farm, count: int, idle: Usage) -> dict[str, float]:
    result = harness(places, farm, "storm", "--ipv6", "--count", str(count), seconds=120)
    _require(result)
    return _logins_alone(stage(result, 0), idle, 1.0)


def _logins_alone(found: Result, idle: Usage, present: float) -> dict[str, float]:
    """CPU of a login in a stage, ms by role, less what that share of the idle sessions cost meanwhile."""
    each = 1000 * present * found["seconds"] / found["counts"]["logins"]
    shares = {"worker": idle.workers, "master": idle.master, "auth": idle.auth}
    return {role: found["server_cpu_ms_per_login"][role] - share * each for role, share in shares.items()}


def _wait_for(farm: Farm, sessions: int, holder: subprocess.Popen[bytes] | None) -> None:
    """Wait until the farm has that many sessions; StageError when the holder ends, or it takes too long."""
    deadline = time.monotonic() + HARNESS_PATIENCE
    while True:
        found = control_request(farm.directory / "run", {"command": "status"})["status"]["sessions"]
        if found == sessions:
            return
        if time.monotonic() > deadline or (holder is not None and holder.poll() is not None):
            raise StageError(f"{found} of {sessions} sessions")
        time.sleep(POLL)


def stage(result: Result, number: int) -> Result:
    """The facts of a stage: 0 is when the sessions come up, 1 the measured one."""
    found: Result = result["stages"][number]
    return found


def login_cost(setup: Setup) -> list[Figure]:
    """CPU of worker, master and auth for a login whose session stays up."""
    count = 100 if setup.quick else LOGINS
    costs: dict[str, list[float]] = {"worker": [], "master": [], "auth": []}
    with served(setup) as (places, farm):
        for number in range(setup.runs + 1):
            result = harness(places, farm, "hold", "--sessions", str(count), seconds=1)
            _require(result)
            spent = stage(result, 0)["server_cpu_ms_per_login"]
            for kind, values in costs.items():
                if number:
                    values.append(float(spent.get(kind, 0)))
    middle = {kind: statistics.median(values) for kind, values in costs.items()}
    note = f"and master {middle['master']:.1f} ms, auth {middle['auth']:.1f} ms"
    detail = {"master_ms": middle["master"], "auth_ms": middle["auth"], "all": costs}
    return [setup.figure("login-cpu", costs["worker"], note, **detail)]


def login_rate(setup: Setup) -> list[Figure]:
    """Logins and ends in order, as many a second as this machine can, two workers and two generators."""
    count = 300 if setup.quick else RATE_LOGINS
    rates: list[float] = []
    latency: list[float] = []
    with served(setup, workers=2) as (places, farm):
        for number in range(setup.runs + 1):
            words = ("--count", str(count))
            result = harness(places, farm, "storm", *words, seconds=120, processes=2)
            _require(result)
            if number:
                found = max(result["stages"], key=lambda each: each["counts"].get("logins", 0))
                rates.append(found["counts"]["logins"] / found["seconds"])
                latency.append(float(found["durations"].get("login", {}).get("p95", 0)))
    note = f"95 % of the logins in {statistics.median(latency):.0f} ms or less, each session ended in order"
    return [setup.figure("login-rate", rates, note)]


def ladder(setup: Setup) -> list[Figure]:
    """CPU for each login and for each idle session, with few and with many sessions, on one worker.

    All clients open IPV6CP, as Windows does: an interface with routes of IPv6 would cost all others. Each run has a
    server of its own, since one that had many sessions has their interfaces still; the idle ones are watched in one.
    """
    rungs: dict[int, list[Rung]] = {}
    for number in range(setup.runs):
        glance = 2.0 if setup.quick else GLANCE_SECONDS
        with served(setup) as (places, farm):
            for sessions, rung in _rungs(setup, places, farm, glance if number or setup.quick else IDLE_SECONDS):
                rungs.setdefault(sessions, []).append(rung)
    found: list[Figure] = []
    for sessions, runs in rungs.items():
        ramps, again = [one.ramp for one in runs], [one.again for one in runs]
        found.append(setup.figure(f"login-cpu-{sessions}", [ramp["worker"] for ramp in ramps]))
        found.append(_all_of(setup, f"login-all-{sessions}", ramps))
        found.append(_all_of(setup, f"login-again-{sessions}", again))
        found.append(setup.single(f"idle-{sessions}", runs[0].idle.total / sessions * 1e6))
    return found


def routed_ladder(setup: Setup) -> list[Figure]:
    """CPU for each login where every session has an IPv6 network of its own: routes that the kernel walks.

    Once as it comes, and once with the interfaces made before.
    """
    found: list[Figure] = []
    for name, ready in (("routed", 0), ("ready", (QUICK_LADDER if setup.quick else LADDER)[-1] + READY_SPARE)):
        extra, profile = f"ready-interfaces = {ready}", 'remote-ipv6-prefix-pool = "homes"'
        with served(setup, extra=extra, profile=profile) as (places, farm):
            _wait_for_interfaces(places, ready)
            for sessions, rung in _rungs(setup, places, farm, 2.0 if setup.quick else GLANCE_SECONDS):
                found.append(_all_of(setup, f"login-{name}-{sessions}", [rung.ramp]))
                found.append(_all_of(setup, f"again-{name}-{sessions}", [rung.again]))
    return found


def _all_of(setup: Setup, key: str, runs: Sequence[Mapping[str, float]]) -> Figure:
    """The figure of worker, master and auth together, ms; what each took is in its remark."""
    middle = {role: statistics.median(run[role] for run in runs) for role in ("worker", "master", "auth")}
    note = ", ".join(f"{role} {value:.2f}" for role, value in middle.items())
    return setup.figure(key, [sum(run.values()) for run in runs], note, spent=list(runs))


def _wait_for_interfaces(places: Places, count: int) -> None:
    """Wait until the server has made its free interfaces; StageError when it takes too long."""
    deadline = time.monotonic() + READY_PATIENCE
    while len(places.server.links()) < count:
        if time.monotonic() > deadline:
            raise StageError(f"{count} interfaces are not there after {READY_PATIENCE:.0f} s")
        time.sleep(POLL)


def _rungs(setup: Setup, places: Places, farm: Farm, idle_seconds: float) -> Iterator[tuple[int, Rung]]:
    """One after another; those that have no row in the table are only gone through."""
    for sessions in QUICK_LADDER if setup.quick else LADDER:
        fill, churn = (50, 100) if setup.quick else (CHURN_FILL, CHURN_LOGINS)
        rung = climb(places, farm, sessions, idle_seconds, fill, churn)
        if sessions in LADDER:
            yield sessions, rung


def hold(setup: Setup) -> list[Figure]:
    """Sessions at once, two workers, for five minutes; what was not lost counts, and what they cost."""
    seconds = 20.0 if setup.quick else HOLD_SECONDS
    for sessions in (300,) if setup.quick else HOLDS:
        with served(setup, workers=2) as (places, farm):
            words = ("--ipv6", "--end-at-once", "--sessions", str(sessions))
            result = harness(places, farm, "hold", *words, seconds=seconds, processes=2)
        measured = stage(result, 1)
        lost, late = _lost(result["stages"][:2]), _lost(result["stages"][2:])
        if not lost and "ramp" not in result["overdue"]:
            break
        setup.say(f"{sessions} sessions: {result['failed']}")
    share = 100 * sum(each["cpu_seconds"] for each in measured["server"]) / measured["seconds"]
    note = f"{seconds / 60:.1f} minutes, {lost} lost or refused"
    by_role = {each["role"]: round(each["cpu_percent"], 2) for each in measured["server"]}
    cost = f"{sessions:,} sessions; " + ", ".join(f"{role} {value:.1f}" for role, value in by_role.items())
    end = stage(result, 2)
    return [
        setup.single("sessions", sessions - lost, note=note, counts=result["counts"], overdue=result["overdue"]),
        setup.single("idle-cpu", share, note=cost, server=measured["server"]),
        setup.single("end-at-once", end["seconds"], note=f"{sessions:,} sessions; {late} of them not in order"),
    ]


def _lost(stages: list[Result]) -> int:
    """How many sessions did not come up, or ended otherwise than we wanted, in these stages."""
    counts = [pair for each in stages for pair in each["counts"].items()]
    return sum(number for name, number in counts if name.startswith(("lost: ", "failed: ")))


def memory(setup: Setup) -> list[Figure]:
    """Worker memory of sessions that were busy for a while, each with bursts of TCP both ways."""
    sessions = 200 if setup.quick else MEMORY_SESSIONS
    load = Load(count=sessions, rate=BURST_RATE, chunk=BURST_BYTES)
    with ExitStack() as stack:
        places = make_places(stack, "memory")
        farm = Farm(stack, places.server, setup.fresh("farm"), dataplane=setup.dataplane)
        before = farm.worker_kib()
        start_carrier(stack, places, farm, sessions)
        idle = farm.worker_kib()
        Flows(stack, places.server, farm.directory)
        moved = {way: load.run(places.client, way, GATEWAY, 8) for way in ("up", "down")}
        busy = farm.worker_kib()
    least = min(found["least"] for found in moved.values())
    note = f"{(idle - before) / sessions:.0f} KiB before they carried at least {least // 1024} KiB each way"
    return [setup.single("session-kib", (busy - before) / sessions, note=note, sessions=sessions, moved=moved)]


def _require(result: Result) -> None:
    """StageError when logins failed: what was measured then is something else."""
    if result["failed"]:
        raise StageError(f"loadtest: {result['failed'][-500:]}")
