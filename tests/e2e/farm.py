"""A running server: configuration, processes, log events, metrics, sessions, and what must be gone at the end."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any, Final

from prometheus_client.parser import text_string_to_metric_families

from sstpfarm.net.groups import POOL_GROUP, is_session_group
from sstpfarm.net.shared import NAME as SHARED

from .guard import make_directory, remove_directory
from .netns import PATIENCE, Namespace, until

PORT: Final = 443
METRICS_PORT: Final = 9443
GATEWAY: Final = "10.20.0.1"  # the server's end of every tunnel
PASSWORD: Final = "correct horse äöü"
NT_HASH: Final = bytes.fromhex("d7be5777e11cb10d5d0af40960b426a0")  # openssl dgst -md4 over UTF-16LE of PASSWORD
NT_HASH_HASH: Final = bytes.fromhex("424227ba5e0d6fb8d234a629d5f02692")  # and over that
ROOT: Final = Path(__file__).resolve().parents[2]  # the checkout

Event = dict[str, Any]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Journal:
    """The JSON lines of one stream of a process, read by a thread as they come."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.events: list[Event] = []
        self.raw: list[bytes] = []
        self._changed = threading.Condition()
        self._stream = stream
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._stream:
            try:
                parsed = json.loads(line)
            except ValueError:
                parsed = None
            with self._changed:
                self.raw.append(line)
                if isinstance(parsed, dict):
                    self.events.append(parsed)
                self._changed.notify_all()
        self._stream.close()

    def mark(self) -> int:
        """A place in the journal: later searches can begin there."""
        with self._changed:
            return len(self.events)

    def find(self, name: str, since: int = 0, **match: object) -> list[Event]:
        """All events of that name since a mark whose keys have these values."""
        with self._changed:
            return [
                event
                for event in self.events[since:]
                if event.get("event") == name and all(event.get(key) == value for key, value in match.items())
            ]

    def wait(self, name: str, since: int = 0, patience: float = PATIENCE, **match: object) -> Event:
        """The first such event, awaited; AssertionError shows the whole journal when it does not come."""
        deadline = time.monotonic() + patience
        while True:
            found = self.find(name, since, **match)
            if found:
                return found[0]
            with self._changed:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"no event {name} with {match} within {patience} s in:\n{self.text()}")
                self._changed.wait(min(left, 0.2))

    def text(self) -> str:
        """Everything that was written, for messages and for searches."""
        return b"".join(self.raw).decode(errors="replace")

    def join(self) -> None:
        """Wait for the end of the stream."""
        self._thread.join(PATIENCE)


def toml(value: object) -> str:
    """One TOML value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def write_config(path: Path, sections: Mapping[str, Mapping[str, object]]) -> None:
    """Write tables of keys as TOML."""
    lines = [
        "\n".join([f"[{name}]", *(f"{key} = {toml(value)}" for key, value in keys.items()), ""])
        for name, keys in sections.items()
    ]
    path.write_text("\n".join(lines))
    path.chmod(0o600)


def users(count: int) -> dict[str, Mapping[str, object]]:
    """Secrets user1 ... userN, all with the common password."""
    return {f"user{number}": {"password": PASSWORD} for number in range(1, count + 1)}


def environment(source: Path) -> dict[str, str]:
    """Our environment, with the package of that directory before every other."""
    paths = [str(source), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}


class Farm:
    """`sstpfarm serve` in a namespace, with its files in a directory of its own.

    Args:
        place: the server's namespace.
        server, auth, profile, secrets, pools: keys and tables that are put over (or beside) the ordinary ones.
        tables: more tables, under their whole names ("profile.other").
        state: the state directory of an earlier farm.
        source: the directory that holds the `sstpfarm` package; working directory and PYTHONPATH of the server.
    """

    def __init__(
        self,
        place: Namespace,
        *,
        server: Mapping[str, object] | None = None,
        auth: Mapping[str, object] | None = None,
        profile: Mapping[str, object] | None = None,
        secrets: Mapping[str, Mapping[str, object]] | None = None,
        pools: Mapping[str, Mapping[str, object]] | None = None,
        tables: Mapping[str, Mapping[str, object]] | None = None,
        state: Path | None = None,
        source: Path = ROOT,
    ) -> None:
        self.place = place
        self.source = source
        self.directory = make_directory("sstpfarm-e2e-")
        self.directory.chmod(0o755)
        self.secrets = self.directory / "secrets.d"  # auth.secrets-directory, for those who name it
        self.secrets.mkdir(mode=0o700)
        self.state = state or self.directory / "state"
        self.config = self.directory / "sstpfarm.toml"
        named: dict[str, Mapping[str, object]] = {"alice": {"password": PASSWORD}, **users(4), **(secrets or {})}
        write_config(
            self.config,
            {
                "farm": {
                    "state-directory": str(self.state),
                    "run-directory": str(self.directory / "run"),
                    "log-format": "json",
                },
                "server": {
                    "listen": [f"0.0.0.0:{PORT}", f"[::]:{PORT}"],
                    "workers": 2,
                    "metrics": f"127.0.0.1:{METRICS_PORT}",
                    "failure-delay-s": 0.3,
                    **(server or {}),
                },
                "auth": {"failures-per-minute": 0, **(auth or {})},
                "profile.default": {
                    "local-address": GATEWAY,
                    "remote-address": "pool:main",
                    "dns-server": [GATEWAY],
                    **(profile or {}),
                },
                "pool.main": {"ranges": ["10.20.0.2-10.20.15.254"]},
                **{f"pool.{name}": keys for name, keys in (pools or {}).items()},
                **{f"secret.{name}": keys for name, keys in named.items()},
                **(tables or {}),
            },
        )
        self.links_before = place.links()
        self.routes_before = place.routes()
        self.process = place.popen(*self.command("serve"), cwd=source, env=self.environment())
        assert self.process.stderr is not None
        assert self.process.stdout is not None
        self.log = Journal(self.process.stderr)
        self.output = Journal(self.process.stdout)

    def environment(self) -> dict[str, str]:
        """The environment of the server: ours, and the package to run."""
        return environment(self.source)

    def command(self, *words: str) -> list[str]:
        """`sstpfarm WORDS --config FILE` as this checkout's interpreter runs it."""
        return [sys.executable, "-m", "sstpfarm", *words, "--config", str(self.config)]

    def ready(self) -> None:
        """Wait until every process is up and the listeners are served."""

        def is_up() -> bool:
            if self.process.poll() is not None:
                self.log.join()
                raise AssertionError(f"serve ended with {self.process.returncode}:\n{self.log.text()}")
            return bool(self.log.find("farm.ready"))

        try:
            until(is_up, "farm.ready", 120)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log.text()}") from None

    def wait_event(self, name: str, since: int = 0, patience: float = PATIENCE, **match: object) -> Event:
        """The first such log event, awaited."""
        return self.log.wait(name, since, patience, **match)

    # -- the operator's view -------------------------------------------------------------------------------------------

    def cli(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `sstpfarm WORDS` against this farm."""
        return subprocess.run(
            self.place.argv(*self.command(*words)),
            check=check, capture_output=True, text=True, timeout=60, cwd=self.source, env=self.environment(),
        )  # fmt: skip

    def sessions(self) -> list[dict[str, Any]]:
        """What `sstpfarm show sessions --json` lists."""
        found = json.loads(self.cli("show", "sessions", "--json").stdout)
        assert isinstance(found, list)
        return found

    def http(self, path: str) -> bytes:
        """The whole answer to a GET on the metrics port."""
        with self.place.dial("127.0.0.1", METRICS_PORT) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            parts = []
            while part := sock.recv(65536):
                parts.append(part)
        return b"".join(parts)

    def metrics_text(self) -> str:
        """The body of /metrics."""
        head, _, body = self.http("/metrics").partition(b"\r\n\r\n")
        assert head.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")), head
        return body.decode()

    def metrics(self) -> Samples:
        """All samples of /metrics."""
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(self.metrics_text())
            for sample in family.samples
        }

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all samples of that name which carry these labels; 0 when there are none."""
        wanted = set(labels.items())
        return sum(value for (sample, found), value in self.metrics().items() if sample == name and wanted <= found)

    @contextmanager
    def counts(self, name: str, by: int = 1, **labels: str) -> Iterator[None]:
        """Assert that the block, and nothing else of late, makes that counter grow by exactly `by`."""
        before = self.metric(name, **labels)
        yield
        until(lambda: self.metric(name, **labels) >= before + by, f"{name} {labels} grows by {by}")
        grown = self.metric(name, **labels) - before
        assert grown == by, f"{name} {labels} grew by {grown}"

    @contextmanager
    def refuses(self, reason: str, phase: str, peer: str) -> Iterator[None]:
        """Assert that the block ends in one refused connection, in the log and in the metrics.

        `phase` is the last one that was done; `peer` is an `address:port`, or "" for any.
        """
        mark = self.log.mark()
        match: dict[str, Any] = {"peer": peer} if peer else {}
        with self.counts("sstpfarm_connections_total", outcome=reason):
            yield
            found = self.wait_event("connection.refused", mark, **match)
        assert (found["reason"], found["phase"]) == (reason, phase), found

    # -- processes -----------------------------------------------------------------------------------------------------

    def worker_pids(self) -> dict[int, int]:
        """Process id of each worker that runs now, by its number."""
        return {event["worker"]: event["pid"] for event in self.log.find("worker.started")}

    def auth_pid(self) -> int:
        """Process id of auth."""
        return int(self.log.find("auth.started")[-1]["pid"])

    def tunnels(self) -> set[str]:
        """Interfaces of sessions: those that were not there before the farm, without the free ones of its pool."""
        found = self.place.ip("-details", "address", "show")  # one look: a session may end between two
        down = {link["ifname"] for link in found if link.get("group") == str(POOL_GROUP)}
        free = down | resting_of(found) | {SHARED}
        for link in found:
            assert link["ifname"] not in down or "UP" not in link["flags"], link
            assert link["ifname"] not in free or link["addr_info"] == [], link
        return {link["ifname"] for link in found} - self.links_before - free

    def resting(self) -> set[str]:
        """Free interfaces that have stayed up; the master has a descriptor of each."""
        return resting_of(self.place.ip("-details", "link", "show"))

    def lease_count(self) -> int:
        """How many leases the store holds."""
        with closing(sqlite3.connect(f"file:{self.state / 'auth' / 'auth.sqlite3'}?mode=ro", uri=True)) as database:
            ((count,),) = database.execute("SELECT count(*) FROM session").fetchall()
        return int(count)

    def idle(self) -> None:
        """Wait until no session is left: none counted, no address leased, no interface, no route."""
        until(lambda: self.metric("sstpfarm_sessions") == 0, "no session is counted")
        until(lambda: self.lease_count() == 0, "no address is leased")
        until(lambda: self.tunnels() == set(), "no interface of a session is left")
        until(lambda: self.place.routes() == self.routes_before, "no route of a session is left")

    def stop(self) -> None:
        """End the farm with SIGTERM and assert that it leaves nothing behind."""
        # a second one would meet an interpreter that is about to exit and has no handler any more
        if self.process.poll() is None and not self.log.find("farm.stopping"):
            self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.log.text()
        self.log.join()
        assert self.log.find("farm.stopped"), self.log.text()
        assert not self.log.find("internal.error"), self.log.text()
        assert not self.log.find("ipc.violation"), self.log.text()
        assert self.lease_count() == 0
        assert self.place.links() == self.links_before
        assert self.place.routes() == self.routes_before
        assert "sstpfarm" not in self.place.run("nft", "list", "ruleset").stdout
        assert not any(b"Traceback" in line for line in self.log.raw), self.log.text()

    def destroy(self) -> None:
        """Kill what still runs and remove the files."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)
        remove_directory(self.directory)


def resting_of(links: Sequence[Mapping[str, Any]]) -> set[str]:
    """Those of these links that rest."""
    grouped = [link for link in links if link.get("group", "").isdigit()]
    ours = [link for link in grouped if is_session_group(int(link["group"])) and link["group"] != str(POOL_GROUP)]
    return {link["ifname"] for link in ours if not link.get("txqlen")} - {SHARED}


@contextmanager
def running(place: Namespace, *, orderly: bool = True, **settings: Any) -> Iterator[Farm]:
    """A farm that is ready, and that is stopped in order at the end of the block, unless the test ended it."""
    farm = Farm(place, **settings)
    try:
        farm.ready()
        yield farm
        if orderly:
            farm.stop()
    finally:
        farm.destroy()
