"""`--farm`: two network namespaces of the harness's own, the server in the one and the generators in the other.

+-- client ---------------+             +-- server ---------------------------+
|  generators             |    veth     |  sstpfarm serve       reflector     |
|  198.18.0.2/15          |-------------|  198.18.0.1:443       10.64.0.1     |
+-------------------------+             +-------------------------------------+
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadtest.packets import SINK_PORT
from loadtest.target import Target
from sstpfarm.cli.stage import Namespace, StageError, follow, make_namespaces, signals_wait, start
from sstpfarm.config.fields import Password

LABEL: Final = "sstpfarm-load"
SERVER_ADDRESS: Final = "198.18.0.1"  # RFC 2544: benchmarking
CLIENT_ADDRESS: Final = "198.18.0.2"
GATEWAY: Final = "10.64.0.1"
POOL: Final = "10.64.0.2-10.64.255.254"
START_PATIENCE: Final = 60.0  # seconds; a start takes about one
MAX_USERS: Final = 5000  # secrets in the configuration; more sessions share them
SESSIONS: Final = 65_000
CLIENT_SETTINGS: Final = (
    ("net/ipv4/ip_local_port_range", "1024 65535"),  # one address, one server: a port for each session
    ("net/ipv4/tcp_tw_reuse", "1"),  # a storm would use up all ports within their minute of rest
)


@dataclass(frozen=True, slots=True)
class Ground:
    """A farm that is ready.

    Attributes:
        client: the namespace of the generators.
        pid: of the farm's master.
        users: how many user names it knows.
        log: the server's log file.
    """

    target: Target
    client: Namespace
    pid: int
    users: int
    log: Path


@contextmanager
def farm(users: int, *, workers: int, settings: Mapping[str, str], source: bool) -> Iterator[Ground]:
    """A farm in namespaces of its own, for as long as the block runs; nothing of it is left.

    Args:
        users: how many are wanted.
        settings: keys of the server's table with their TOML values, over the ordinary ones.
        source: start the reflector too, and let it send bursts.

    Raises:
        StageError: it does not start; the text has the end of its log.
    """
    users = max(1, min(users, MAX_USERS))
    stack = ExitStack()
    try:
        with signals_wait():  # between the making of a thing and the note to take it down nothing may come
            # Not $TMPDIR: root's may be private, and auth and the workers reach their files as users of their own.
            directory = Path(tempfile.mkdtemp(prefix=f"{LABEL}-{os.getpid()}-", dir="/run"))
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            directory.chmod(0o711)
            server, client = make_namespaces(stack, LABEL, (f"{SERVER_ADDRESS}/15", f"{CLIENT_ADDRESS}/15"))
            for name, value in CLIENT_SETTINGS:
                client.run("sh", "-c", f"echo {value} > /proc/sys/{name}")
            password = secrets.token_urlsafe(12)
            path = directory / "sstpfarm.toml"
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(_config(directory, password, users, workers, settings))
            command = server.argv(sys.executable, "-m", "sstpfarm", "serve", "--config", str(path))
            log = directory / "server.log"
            process = start(stack, command, directory / "server.out", log)
        pin = _wait_ready(process, log)
        if source:
            _start_reflector(stack, server, directory)
        target = Target(SERVER_ADDRESS, 443, SERVER_ADDRESS, "load{n}", Password(password), pin=pin)
        yield Ground(target, client, process.pid, users, log)
    finally:
        with signals_wait():
            stack.close()


def _config(directory: Path, password: str, users: int, workers: int, settings: Mapping[str, str]) -> str:
    server = {
        "listen": f'["{SERVER_ADDRESS}:443"]',
        "workers": str(workers) if workers else '"auto"',
        "max-sessions": str(SESSIONS),
        "max-starting-per-source": '"disabled"',  # all clients have one address
        **settings,
    }
    tables = {
        "farm": {
            "state-directory": json.dumps(str(directory / "state")),
            "run-directory": json.dumps(str(directory / "run")),
            "log-format": '"json"',
        },
        "server": server,
        "profile.default": {"local-address": f'"{GATEWAY}"', "remote-address": '"pool:main"'},
        "pool.main": {"ranges": f'["{POOL}"]'},
        **{f"secret.load{number}": {"password": json.dumps(password)} for number in range(users)},
    }
    return "".join(
        f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items()) for name, keys in tables.items()
    )


def _wait_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    """Wait for the farm; its certificate's SHA-256."""
    fingerprint = ""
    for line in follow(log, process, START_PATIENCE):
        if '"certificate.loaded"' in line:
            fingerprint = str(json.loads(line)["sha256"])
        if '"farm.ready"' in line:
            return fingerprint
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
    raise StageError(f"the farm ended with exit code {process.wait()} before it was ready:\n{tail}")


def _start_reflector(stack: ExitStack, server: Namespace, directory: Path) -> None:
    command = (sys.executable, "-m", "loadtest", "reflector", "--listen", f"0.0.0.0:{SINK_PORT}", "--source")
    output = directory / "reflector.out"
    with signals_wait():
        process = start(stack, server.argv(*command), output, directory / "reflector.log")
    for line in follow(output, process, START_PATIENCE):
        if line.startswith("reflector on"):
            return
    raise StageError((directory / "reflector.log").read_text(errors="replace")[-2000:])
