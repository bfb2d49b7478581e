"""`sstpfarm connect` in the client's namespace: its JSON lines, its exit code, its end."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sstpfarm.reasons import ExitCode

from .farm import PASSWORD, ROOT, Event, Journal, environment
from .guard import make_directory, remove_directory
from .netns import PATIENCE, Namespace

TRUST_ANY: Final = ("--insecure",)


class Client:
    """One running client.

    Args:
        place: the client's namespace.
        server: HOST or HOST:PORT.
        extra: further options of `connect`; how to trust the server is one of them.
        programs: a directory that comes first in PATH.
    """

    def __init__(
        self,
        place: Namespace,
        server: str,
        *extra: str,
        user: str = "alice",
        password: str = PASSWORD,
        programs: Path | None = None,
    ) -> None:
        self.place = place
        self.directory = make_directory("sstpfarm-e2e-client-")
        password_file = self.directory / "password"
        password_file.write_text(password + "\n")
        password_file.chmod(0o600)
        command = [sys.executable, "-m", "sstpfarm", "connect", server]
        options = ["--user", user, "--password-file", str(password_file), "--json", *extra]
        env = environment(ROOT)
        if programs is not None:
            env["PATH"] = f"{programs}:{env['PATH']}"
        self.process = place.popen(*command, *options, cwd=ROOT, env=env)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.output = Journal(self.process.stdout)
        self.errors = Journal(self.process.stderr)

    def up(self, patience: float = 90) -> Event:
        """The `up` event, awaited."""
        try:
            return self.output.wait("up", patience=patience)
        except AssertionError as error:
            raise AssertionError(f"{error}\nstandard error:\n{self.errors.text()}") from None

    def phases(self) -> list[str]:
        """The phases that were reported, in order."""
        return [event["phase"] for event in self.output.find("phase")]

    def end(self, number: signal.Signals | None = None, patience: float = 60) -> tuple[int, Event]:
        """Send a signal if one is given, wait for the end: exit code and the `closed` event."""
        if number is not None:
            self.process.send_signal(number)
        code = self.process.wait(patience)
        self.output.join()
        self.errors.join()
        assert "Traceback" not in self.errors.text(), self.errors.text()
        closed = self.output.find("closed")
        assert len(closed) == 1, self.output.text() + self.errors.text()
        return code, closed[0]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it in order and assert that it says so."""
        code, closed = self.end(number)
        assert (code, closed["reason"]) == (ExitCode.OK, "user-request"), closed

    def destroy(self) -> None:
        """Kill what still runs and remove the files."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        remove_directory(self.directory)


@contextmanager
def connecting(
    place: Namespace,
    server: str,
    *extra: str,
    user: str = "alice",
    password: str = PASSWORD,
    programs: Path | None = None,
) -> Iterator[Client]:
    """A client that was started; killed at the end of the block if it still runs."""
    client = Client(place, server, *extra, user=user, password=password, programs=programs)
    try:
        yield client
    finally:
        client.destroy()


@contextmanager
def connected(
    place: Namespace, server: str, *extra: str, user: str = "alice", password: str = PASSWORD
) -> Iterator[tuple[Client, Event]]:
    """A client that trusts any certificate and is up; ended in order at the end of the block, with nothing left."""
    links, routes = place.links(), place.routes()
    with connecting(place, server, *TRUST_ANY, "--no-default-route", *extra, user=user, password=password) as client:
        yield client, client.up()
        client.stop()
        assert place.links() == links
        assert place.routes() == routes
