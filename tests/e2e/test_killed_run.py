"""A test run that is killed leaves nothing: no daemon, no namespace, no file.

+-- client ---------+           +-- server --------------------+
|                   |---veth----| sstpfarm serve               |
+-------------------+           +------------------------------+
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .farm import ROOT
from .guard import NAMESPACE, kill_inside, left_over
from .netns import PATIENCE, namespace, until

RUN = """
import json, sys, time
from tests.e2e.farm import running
from tests.e2e.netns import wired
with wired() as wire, running(wire.server) as farm:
    pids = [farm.process.pid, farm.auth_pid(), *farm.worker_pids().values()]
    names = [wire.client.name, wire.server.name]
    print(json.dumps([pids, names, str(farm.directory)]), flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_leaves_nothing(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", RUN], cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pids, names, directory = json.loads(run.stdout.readline())
        places = [Path(directory), *(Path(parent, name) for parent in ("/run/netns", "/etc/netns") for name in names)]
        assert all(path.exists() for path in places)
        assert len(pids) == 4
        run.send_signal(number)
        assert run.wait(PATIENCE) == -number
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "no process is left")
    until(lambda: not any(path.exists() for path in places), "no namespace and no file is left")


def test_what_was_removed_is_left_alone() -> None:
    lines = [json.dumps(line) for line in ([True, NAMESPACE, "a"], [True, NAMESPACE, "b"], [False, NAMESPACE, "a"])]
    assert left_over(lines)[NAMESPACE] == ["b"]


def test_only_processes_of_that_namespace_are_killed() -> None:
    with (
        namespace("ours") as ours,
        namespace("others") as others,
        ours.popen("sleep", "60") as inside,
        others.popen("sleep", "60") as outside,
    ):
        until(lambda: str(inside.pid) in ours.run("ip", "netns", "pids", ours.name).stdout, "it is inside")
        kill_inside(ours.name)
        assert inside.wait(PATIENCE) == -signal.SIGKILL
        assert outside.poll() is None
        outside.kill()
