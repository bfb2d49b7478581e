"""The capacity model: each bound binds where it should."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from bench.capacity import (
    BUSY,
    FARM_SESSIONS,
    MACHINES,
    PAYLOAD,
    Costs,
    Machine,
    capacity,
    capacity_table,
    costs_of,
    worker_cores,
)
from bench.figure import Figure
from sstpfarm.config.schema import Server

COSTS = Costs(s_per_gb=2.0, login_s=0.004, login_other_s=0.002, idle_s=10e-6, session_kib=68.0)


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 2), (4, 3), (16, 15), (32, 30), (64, 60)])
def test_worker_cores(cores: int, workers: int) -> None:
    assert worker_cores(cores) == workers


def test_cores_bound_throughput() -> None:
    found = capacity(Machine(4, 8, 100), COSTS)
    assert found.gbit_s == pytest.approx(3 * BUSY / 2.0 * 8)
    assert found.gbit_s_bound == "cores"


def test_card_bounds_throughput() -> None:
    found = capacity(Machine(64, 128, 10), COSTS)
    assert found.gbit_s == pytest.approx(10 * PAYLOAD)
    assert found.gbit_s_bound == "card"


def test_memory_bounds_sessions() -> None:
    large = dataclasses.replace(COSTS, session_kib=1168.0)
    less, more = capacity(Machine(4, 4, 100), large), capacity(Machine(4, 8, 100), large)
    # 1250 KiB each in the model: 1168 of the worker, 66 for the TUN device, 16 for the connection
    assert more.sessions - less.sessions == pytest.approx(4 * 2**20 * 0.8 / 1250, abs=1)
    assert capacity(Machine(2, 1, 1), dataclasses.replace(COSTS, session_kib=1e9)).sessions == 0


@pytest.mark.parametrize(("cores", "sessions"), [(2, 10_000), (4, 15_000), (16, 65_536)])
def test_sessions_end_where_they_were_measured(cores: int, sessions: int) -> None:
    assert capacity(Machine(cores, 1024, 100), COSTS).sessions == sessions


def test_the_farm_itself_bounds_sessions() -> None:
    assert msgspec.json.schema(Server)["$defs"]["Server"]["properties"]["max-sessions"]["maximum"] == FARM_SESSIONS


def test_logins_are_bound_by_the_one_process_when_it_is_dearer() -> None:
    assert capacity(Machine(4, 8, 10), COSTS).logins == pytest.approx(BUSY / 0.002)
    assert capacity(Machine(2, 8, 10), dataclasses.replace(COSTS, login_other_s=1e-6)).logins == pytest.approx(
        2 * BUSY / 0.004
    )


@pytest.mark.parametrize(
    ("machine", "mbit_s", "bound"),
    [(Machine(4, 64, 100), 1.0, "cores"), (Machine(64, 64, 1), 1.0, "card"), (Machine(16, 4, 100), 0.001, "sessions")],
)
def test_active_sessions_name_their_bound(machine: Machine, mbit_s: float, bound: str) -> None:
    found = capacity(machine, COSTS, mbit_s)
    assert found.active_bound == bound
    assert found.active > 0


def test_table_has_every_machine() -> None:
    assert len([line for line in capacity_table(COSTS) if line.startswith("| ")]) == len(MACHINES) + 1


def test_costs_come_from_the_figures() -> None:
    values = {"many-up": 1.5, "many-down": 2.5, "login-cpu-5000": 4.0, "idle-5000": 10.0, "session-kib": 68.0}
    figures = {key: Figure(key=key, value=value) for key, value in values.items()}
    spent = [{"worker": 4.0, "master": 1.0, "auth": auth} for auth in (2.0, 9.0, 1.5)]
    figures["login-cpu-5000"] = Figure(key="login-cpu-5000", value=4.0)
    figures["login-all-5000"] = Figure(key="login-all-5000", value=7.0, detail={"spent": spent})
    found = costs_of(figures)
    assert found is not None
    assert (found.s_per_gb, found.login_s, found.login_other_s, found.session_kib) == (2.5, 0.004, 0.002, 68.0)
    assert found.idle_s == pytest.approx(10e-6)
    del figures["idle-5000"]
    assert costs_of(figures) is None
    assert "Not all" in capacity_table(None)[0]
