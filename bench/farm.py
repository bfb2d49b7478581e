"""The server under test: `sstpfarm serve` in its namespace, its workers on one processor, the rest on the other."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.cpu import cpu_seconds, pin, resident_kib
from bench.places import OTHER_CPU, SERVER, WORKER_CPU
from sstpfarm.cli.stage import Namespace, StageError, follow, start

PORT: Final = 443
USER: Final = "bench"
GATEWAY: Final = "10.20.0.1"  # the server's end of every tunnel
MTU: Final = 1400
START_PATIENCE: Final = 60.0  # seconds; a start takes about one

CONFIG: Final = """\
[farm]
state-directory = "{directory}/state"
run-directory = "{directory}/run"
log-format = "json"
[server]
listen = ["{address}:{port}"]
workers = {workers}
max-mtu = {mtu}
max-mru = {mtu}
max-sessions = 16384
max-starting = 8192
max-starting-per-source = "disabled"
forwarding = true
{extra}
[profile.default]
local-address = "{gateway}"
remote-address = "pool:main"
dns-server = ["{gateway}"]
{profile}
[pool.main]
ranges = ["10.20.0.2-10.20.255.254"]
[pool.homes]
ranges = ["fd00:1::/32"]
prefix-length = 64
[secret.{user}]
password-file = "password"
"""


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds by role, up to now or between two moments."""

    workers: float
    master: float
    auth: float

    def since(self, before: Usage) -> Usage:
        """What was used since then."""
        return Usage(self.workers - before.workers, self.master - before.master, self.auth - before.auth)

    @property
    def total(self) -> float:
        """Of all processes of the server."""
        return self.workers + self.master + self.auth


class Farm:
    """A running server.

    Args:
        directory: for its files; other users must be able to reach it.
        dataplane: "pure" or "fast"; "" leaves the choice to the server.
        extra, profile: further lines of [server] and of [profile.default].
        cpus: where the workers run, one for each; further workers take them in turns.
    """

    def __init__(
        self,
        stack: ExitStack,
        place: Namespace,
        directory: Path,
        *,
        workers: int = 1,
        dataplane: str = "",
        extra: str = "",
        profile: str = "",
        cpus: Sequence[int] = (WORKER_CPU,),
    ) -> None:
        self.place = place
        self.directory = directory
        directory.mkdir(mode=0o755)
        directory.chmod(0o755)
        self.password = directory / "password"
        _write_private(self.password, secrets.token_urlsafe(16))
        self.config = directory / "sstpfarm.toml"
        _write_private(
            self.config,
            CONFIG.format(
                directory=directory, address=SERVER, port=PORT, workers=workers, mtu=MTU, extra=extra,
                profile=profile, gateway=GATEWAY, user=USER,
            ),
        )  # fmt: skip
        command = [sys.executable, "-m", "sstpfarm", "serve", "--config", str(self.config)]
        chosen = ["env", f"SSTPFARM_DATAPLANE={dataplane}"] if dataplane else []
        self.process = start(stack, place.argv(*chosen, *command), directory / "serve.out", directory / "serve.log")
        self.worker_pids: dict[int, int] = {}
        self.auth_pid = 0
        self.dataplane = "pure"
        self._wait()
        pin(self.process.pid, OTHER_CPU)
        pin(self.auth_pid, OTHER_CPU)
        for number, pid in self.worker_pids.items():
            pin(pid, cpus[number % len(cpus)])

    def _wait(self) -> None:
        """Read the log until the server is ready; StageError with its end otherwise."""
        log = self.directory / "serve.log"
        for line in follow(log, self.process, START_PATIENCE):
            event: Mapping[str, Any] = json.loads(line) if line.startswith("{") else {}
            match event.get("event"):
                case "worker.started":
                    self.worker_pids[event["worker"]] = event["pid"]
                case "auth.started":
                    self.auth_pid = event["pid"]
                case "farm.ready":
                    return
            self.dataplane = str(event.get("dataplane", self.dataplane))
        raise StageError(f"the server ended: {log.read_text(errors='replace')[-2000:]}")

    def usage(self) -> Usage:
        """CPU seconds until now."""
        return Usage(
            workers=sum(map(cpu_seconds, self.worker_pids.values())),
            master=cpu_seconds(self.process.pid),
            auth=cpu_seconds(self.auth_pid),
        )

    def worker_kib(self) -> float:
        """Resident memory of all workers, in KiB."""
        return sum(map(resident_kib, self.worker_pids.values()))

    def sessions(self) -> list[dict[str, Any]]:
        """What `sstpfarm show sessions` lists."""
        command = [sys.executable, "-m", "sstpfarm", "show", "sessions", "--json", "--config", str(self.config)]
        done = subprocess.run(  # noqa: S603 - our own program
            self.place.argv("taskset", "-c", str(OTHER_CPU), *command),
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def packets(self) -> tuple[int, int]:
        """Packets of all sessions so far: from the clients, towards them."""
        found = self.sessions()
        return sum(each["packets_in"] for each in found), sum(each["packets_out"] for each in found)


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
