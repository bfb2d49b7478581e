"""The load-test harness against a farm: its figures are true, what goes wrong is told, and nothing is left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sstpfarm.ipc.control import control_request

from .farm import GATEWAY, PASSWORD, ROOT, Farm, running
from .guard import ENDS_WITH_US
from .netns import Wire, until

pytestmark = pytest.mark.alone

PATIENCE = 100.0
SINK_PORT = 9009


@pytest.fixture(scope="module")
def farm(wire: Wire) -> Iterator[Farm]:
    """A farm that asks after two seconds of silence, and gives up after four: without answers no session would stay."""
    with running(wire.server, server={"keepalive-timeout": 2}) as made:
        yield made


@pytest.fixture(scope="module")
def sink(farm: Farm) -> Iterator[str]:
    """A reflector in the server's namespace, to be reached through the tunnel."""
    command = [sys.executable, "-m", "loadtest", "reflector", "--listen", f"0.0.0.0:{SINK_PORT}", "--source"]
    with farm.place.popen(*command, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"reflector on")
        yield f"{GATEWAY}:{SINK_PORT}"
        process.terminate()
        assert process.wait(PATIENCE) == 0


class Harness:
    """`python -m loadtest` on the loopback of the farm's namespace."""

    def __init__(self, farm: Farm, directory: Path) -> None:
        self._farm = farm
        self._output = directory / "result.json"
        self._password = directory / "password"
        self._password.write_text(PASSWORD + "\n")

    def start(self, scenario: str, *words: str, user: str = "user1") -> subprocess.Popen[bytes]:
        """Start a scenario; a generator of its own for each core would take longer to start than the test."""
        login = ("--user", user, "--password-file", str(self._password), "--keepalive", "0", "--processes", "1")
        watch = ("--run-directory", str(self._farm.directory / "run"))
        command = (sys.executable, "-m", "loadtest", scenario, "127.0.0.1", *login, *watch, *words)
        return self._farm.place.popen(*command, "--quiet", "--output", str(self._output), cwd=ROOT)

    def end(self, process: subprocess.Popen[bytes], status: int = 0) -> dict[str, Any]:
        """The result of a run that ends with that status."""
        try:
            _, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
        assert process.returncode == status, errors.decode()
        found = json.loads(self._output.read_text())
        assert isinstance(found, dict)
        return found

    def run(self, scenario: str, *words: str, status: int = 0, user: str = "user1") -> dict[str, Any]:
        """Run a scenario to its end."""
        with self.start(scenario, *words, user=user) as process:
            return self.end(process, status)


@pytest.fixture
def harness(farm: Farm, tmp_path: Path) -> Harness:
    """The harness against this module's farm."""
    return Harness(farm, tmp_path)


@contextmanager
def own_farm(*words: str) -> Iterator[subprocess.Popen[str]]:
    """`python -m loadtest WORDS --farm --quiet`; afterwards its namespaces and files must be gone."""
    command = [*ENDS_WITH_US, sys.executable, "-m", "loadtest", *words, "--farm", "--farm-workers", "2", "--quiet"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(PATIENCE)
    left = [path for place in ("/run", "/run/netns") for path in Path(place).glob(f"sstpfarm-load-{process.pid}-*")]
    assert left == []


def test_storm_in_namespaces_of_its_own(tmp_path: Path) -> None:
    page, output = tmp_path / "page.html", tmp_path / "result.json"
    with own_farm("storm", "--count", "50", "--plot", str(page), "--output", str(output)) as process:
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    found = json.loads(output.read_text())
    assert {name: found["counts"][name] for name in ("attempts", "logins", "closed")} == {
        "attempts": 50, "logins": 50, "closed": 50,
    }  # fmt: skip
    for phase in ("tcp", "tls", "http", "sstp", "lcp", "authentication", "binding", "ipcp"):
        assert found["durations"][f"login.{phase}"]["count"] == 50
    assert set(found["stages"][0]["server_cpu_ms_per_login"]) == {"master", "auth", "worker"}
    assert all(cost > 0 for cost in found["stages"][0]["server_cpu_ms_per_login"].values())
    assert {server["role"] for server in found["stages"][0]["server"]} == {"master", "auth", "worker 0", "worker 1"}
    assert "<svg" in page.read_text()


def test_a_signal_while_the_farm_starts_leaves_nothing() -> None:
    with own_farm("hold", "--seconds", "60") as process:
        until(lambda: list(Path("/run/netns").glob(f"sstpfarm-load-{process.pid}-*")), "its namespaces are made")
        process.terminate()
        assert process.wait(PATIENCE) == 130


def test_hold_tells_what_is_lost(harness: Harness, farm: Farm) -> None:
    mark = farm.log.mark()
    with harness.start("hold", "--sessions", "3", "--seconds", "2") as process:
        until(lambda: len(farm.log.find("session.opened", mark)) == 3, "all sessions are up", PATIENCE)
        kick = {"command": "kick", "session": farm.log.find("session.opened", mark)[1]["session"]}
        control_request(farm.directory / "run", kick)  # at once: a program for it would take longer to start
        counts = harness.end(process, 1)["counts"]
    assert (counts["lost"], counts["closed"]) == (1, 2)
    assert any(name.startswith("lost: peer-") and "administrator" in name for name in counts), counts


def test_hold_answers_keepalives(harness: Harness) -> None:
    found = harness.run("hold", "--sessions", "100", "--seconds", "5.5")
    ramp, measure, finish = found["stages"]
    assert ramp["counts"]["logins"] == 100
    assert measure["gauges"]["up"] == 100
    assert "lost" not in measure["counts"]
    assert finish["counts"]["closed"] == 100


def test_a_mass_logout_is_in_order(harness: Harness, farm: Farm) -> None:
    """A thousand turns of work in one turn of the loop: nobody takes the worker for hung, each end is answered."""
    mark = farm.log.mark()
    found = harness.run("hold", "--sessions", "500", "--seconds", "1", "--end-at-once")
    finish = found["stages"][-1]
    assert finish["counts"] == {"closed": 500}
    assert {event["reason"] for event in farm.log.find("session.closed", mark)} == {"peer-terminated"}
    assert not farm.log.find("worker.lost", mark) + farm.log.find("worker.unresponsive", mark)


def test_traffic_is_checked_both_ways(harness: Harness, sink: str) -> None:
    words = ("--sessions", "5", "--bits", "200000", "--seconds", "1.5", "--size", "64", "--size", "1400")
    found = harness.run("traffic", *words, "--sink", sink, "--i-own-this-target", "--insecure")
    counts = found["counts"]
    assert counts["packets sent"] == counts["packets received"] > 50
    assert "packets reordered" not in counts
    assert found["durations"]["round trip"]["count"] == counts["packets received"]


@pytest.mark.parametrize("direction", ["echo", "up", "down"])
def test_bulk_moves_something(harness: Harness, sink: str, direction: str) -> None:
    words = ("--sink", sink, "--i-own-this-target", "--insecure") if direction != "echo" else ()
    found = harness.run("bulk", "--direction", direction, "--seconds", "2", *words)
    assert found["counts"]["packets received"] > 200
    assert found["stages"][1]["mbit_per_second"]["received"] > 2


def test_churn(harness: Harness) -> None:
    found = harness.run("churn", "--rate", "15", "--life", "0.5", "--seconds", "1.5")
    assert found["counts"]["logins"] > 5
    sent, received = found["counts"]["packets sent"], found["counts"]["packets received"]
    assert sent == received > 10


def test_logins_work_beside_hostile_connections(harness: Harness) -> None:
    found = harness.run("hostile", "--seconds", "3", "--baseline", "1", "--connections", "60")
    ramp, measure, _ = found["stages"]
    assert ramp["durations"]["probe before"]["count"] >= 1
    assert measure["durations"]["probe during"]["count"] >= 3
    for attack in ("silent", "slow-hello", "slow-head", "drop", "garbage", "garbage-frames"):
        assert found["counts"][f"hostile {attack}"] > 0
    assert found["counts"]["hostile garbage: closed"] > 0
    assert found["counts"]["hostile drop: dropped"] > 0


def test_refused_logins_are_told(harness: Harness) -> None:
    found = harness.run("storm", "--count", "4", status=1, user="nobody")
    assert found["counts"]["failed"] == 4
    assert any(name.startswith("failed: auth") for name in found["counts"])
    roles = {server["role"] for server in found["stages"][0]["server"]}
    assert roles == {"master", "auth", "worker 0", "worker 1"}


def test_an_interrupt_ends_in_order(harness: Harness, farm: Farm) -> None:
    mark = farm.log.mark()
    with harness.start("hold", "--sessions", "3", "--seconds", "60") as process:
        farm.wait_event("session.opened", mark, patience=PATIENCE)
        process.send_signal(signal.SIGINT)
        assert harness.end(process, 130)["interrupted"] is True
    farm.idle()
