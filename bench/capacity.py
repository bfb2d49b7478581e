"""What a machine carries, computed from the measured costs: a model, with its assumptions spelled out.

* Costs grow with the number of bytes, logins and sessions, and with nothing else; cores add up. One core is measured.
* One core of each 16, at least one where there are more than two, is left to the kernel, master and auth.
* Cores are planned to be busy to `BUSY`, memory to be full to `FULL`.
* A card carries each byte twice, encrypted and not, in opposite directions: of its rate each way, `PAYLOAD` is the
  users' (headers of Ethernet, IP, TCP, TLS and SSTP take the rest).
* The table ends where nobody has looked: no worker has more sessions than one has been seen with, and no machine more
  than eight times the cores that were measured.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bench.figure import Figure

BUSY: Final = 0.7
FULL: Final = 0.8
PAYLOAD: Final = 0.92
TUN_KIB: Final = 66.0  # kernel memory of one TUN device (measured with 10,000 of them)
SOCKET_KIB: Final = 16.0  # kernel memory of an idle TCP connection, generously
BASE_MIB: Final = 60.0  # one worker before its first session
ROLES_MIB: Final = 512.0  # master, auth and the operating system
KIB_PER_GIB: Final = 2**20
KIB_PER_MIB: Final = 1024


@dataclass(frozen=True, slots=True)
class Costs:
    """What was measured.

    Attributes:
        s_per_gb: worker CPU for a GB of users' data, many sessions at once, the dearer direction.
        login_s: worker CPU for a login, on the way to 5,000 sessions.
        login_other_s: CPU of master or auth for such a login, the dearer of the two; they are one process each.
        idle_s: CPU of the whole server for one idle session and second.
        session_kib: worker memory of a session that carried traffic.
    """

    s_per_gb: float
    login_s: float
    login_other_s: float
    idle_s: float
    session_kib: float


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine: cores, memory in GiB, rate of its card in Gbit/s."""

    cores: int
    memory_gib: int
    card_gbit: int


@dataclass(frozen=True, slots=True)
class Capacity:
    """What it carries, and what bounds it: "cores", "card" or "sessions".

    Attributes:
        gbit_s: users' data, both directions together.
        sessions: that are up at once, as memory allows, the farm's own limit, and what has been seen.
        logins: a second, while nothing else happens.
        active: sessions that are up and carry `mbit_s` each on average.
    """

    gbit_s: float
    gbit_s_bound: str
    sessions: int
    logins: float
    active: int
    active_bound: str


MACHINES: Final = (
    Machine(2, 4, 10),
    Machine(4, 8, 10),
    Machine(8, 16, 10),
    Machine(16, 32, 10),
    Machine(16, 32, 100),
)
MEASURED_SESSIONS: Final = 5000  # of one worker: 10,000 have been held by two
FARM_SESSIONS: Final = 65_536  # max-sessions takes no more
ACTIVE_MBIT: Final = 1.0  # mean rate of a session, both directions together, in the last columns of the table


def capacity(machine: Machine, costs: Costs, mbit_s: float = ACTIVE_MBIT) -> Capacity:
    """What that machine carries at these costs; `mbit_s` is the mean rate of an active session."""
    workers = worker_cores(machine.cores)
    seconds = workers * BUSY  # CPU seconds a second
    by_cores, by_card = seconds / costs.s_per_gb * 8, machine.card_gbit * PAYLOAD
    kib = machine.memory_gib * KIB_PER_GIB * FULL - (ROLES_MIB + workers * BASE_MIB) * KIB_PER_MIB
    by_memory = max(0, int(kib / (costs.session_kib + TUN_KIB + SOCKET_KIB)))
    sessions = min(by_memory, workers * MEASURED_SESSIONS, FARM_SESSIONS)
    for_one = mbit_s / 8000 * costs.s_per_gb + costs.idle_s
    bounds = {
        "cores": seconds / for_one,
        "card": by_card * 1000 / mbit_s,
        "sessions": float(sessions),
    }
    bound = min(bounds, key=lambda name: bounds[name])
    return Capacity(
        gbit_s=min(by_cores, by_card),
        gbit_s_bound="cores" if by_cores < by_card else "card",
        sessions=sessions,
        logins=min(seconds / costs.login_s, BUSY / costs.login_other_s),
        active=int(bounds[bound]),
        active_bound=bound,
    )


def worker_cores(cores: int) -> int:
    """How many cores are planned for workers."""
    return max(1, cores - max(1, cores // 16)) if cores > 2 else cores


def costs_of(figures: Mapping[str, Figure]) -> Costs | None:
    """The costs that the model needs; None while one of them is not measured."""
    needed = ("many-up", "many-down", "login-cpu-5000", "login-all-5000", "idle-5000", "session-kib")
    if any(key not in figures for key in needed):
        return None
    spent = figures["login-all-5000"].detail["spent"]  # of each run, ms by role
    others = [statistics.median(run[role] for run in spent) for role in ("master", "auth")]
    return Costs(
        s_per_gb=max(figures["many-up"].value, figures["many-down"].value),
        login_s=figures["login-cpu-5000"].value / 1000,
        login_other_s=max(others) / 1000,
        idle_s=figures["idle-5000"].value / 1e6,
        session_kib=figures["session-kib"].value,
    )


def capacity_table(costs: Costs | None) -> list[str]:
    """The model's table, in Markdown."""
    if costs is None:
        return ["Not all costs have been measured yet."]
    lines = [
        f"From {costs.s_per_gb:.2f} CPU s/GB, {1000 * costs.login_s:.1f} ms of worker CPU for a login (master or auth, "
        f"the dearer: {1000 * costs.login_other_s:.1f} ms), {1e6 * costs.idle_s:.0f} us/s for an idle session and "
        f"{costs.session_kib:.0f} KiB of worker memory for a session. **Computed, not measured**: beyond two "
        f"cores every number is extrapolated. Sessions end at {MEASURED_SESSIONS:,} a worker, where measuring ended, "
        f"and at {FARM_SESSIONS:,} a farm:",
        "",
        f"| cores | GiB | card, Gbit/s | users' data, Gbit/s | bound by | sessions up at once | logins/s "
        f"| sessions of {ACTIVE_MBIT:g} Mbit/s | bound by |",
        "|---:|---:|---:|---:|---|---:|---:|---:|---|",
    ]
    for machine in MACHINES:
        found = capacity(machine, costs)
        lines.append(
            f"| {machine.cores} | {machine.memory_gib} | {machine.card_gbit} | {found.gbit_s:.1f} "
            f"| {found.gbit_s_bound} | {found.sessions:,} | {found.logins:,.0f} | {found.active:,} "
            f"| {found.active_bound} |"
        )
    return lines
