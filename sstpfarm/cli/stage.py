"""Where the demonstration plays: network namespaces, and child processes that never outlive it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
VETH: Final = "outside"  # the interface's name, in each of the two namespaces
STOP_PATIENCE: Final = 20.0  # seconds from SIGTERM to SIGKILL; an end in order takes well below one
RUN_PATIENCE: Final = 30.0  # seconds for a program that takes less than one
POLL: Final = 0.02  # seconds


class StageError(Exception):
    """A program failed or did not answer in time; the text carries what it said."""


class Namespace:
    """A network namespace by its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def argv(self, *command: str) -> list[str]:
        """The command line that runs `command` inside; `ip` is replaced by it, so the process id stays."""
        return ["ip", "netns", "exec", self.name, *command]

    def run(self, *command: str, patience: float = RUN_PATIENCE) -> str:
        """What a program inside wrote to standard output; StageError when it failed."""
        return run(*self.argv(*command), patience=patience)

    def links(self) -> set[str]:
        """The interfaces inside, without those that were there from the start."""
        found = json.loads(self.run("ip", "-json", "link", "show"))
        return {link["ifname"] for link in found} - {"lo", VETH}


def run(*command: str, patience: float = RUN_PATIENCE) -> str:
    """What a program wrote to standard output; StageError when it failed or took too long."""
    try:
        done = subprocess.run(  # noqa: S603 - the callers' fixed programs
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=patience, check=False
        )
    except subprocess.TimeoutExpired:
        raise StageError(f"{' '.join(command)}: no end within {patience:.0f} s") from None
    if done.returncode != 0:
        raise StageError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def make_namespaces(stack: ExitStack, label: str, addresses: tuple[str, str]) -> tuple[Namespace, Namespace]:
    """Make two namespaces, joined by a veth pair with these addresses; the stack removes them."""
    places = (Namespace(f"{label}-{os.getpid()}-server"), Namespace(f"{label}-{os.getpid()}-client"))
    for place in places:
        with signals_wait():  # between the making of a thing and the note to take it down nothing may come
            run("ip", "netns", "add", place.name)
            stack.callback(run, "ip", "netns", "delete", place.name)
        place.run("ip", "link", "set", "lo", "up")
    places[0].run("ip", "link", "add", VETH, "type", "veth", "peer", "name", VETH, "netns", places[1].name)
    for place, address in zip(places, addresses, strict=True):
        place.run("ip", "address", "add", address, "dev", VETH)
        place.run("ip", "link", "set", VETH, "up")
    return places


def start(stack: ExitStack, command: list[str], output: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a child that the stack stops; in a session of its own, so that Ctrl-C reaches it through us only.

    Args:
        output, log: the files that take its standard output and its standard error.
    """
    with output.open("wb") as stdout, log.open("wb") as stderr, signals_wait():
        process = subprocess.Popen(  # noqa: S603 - the callers' fixed programs
            command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True
        )
        stack.callback(stop, process)
    return process


@contextmanager
def signals_wait() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP take effect at the end of the block; children are not touched by it."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda n, _: came.append(n)) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def stop(process: subprocess.Popen[bytes]) -> int:
    """End a child with SIGTERM, at last with SIGKILL to its whole session; its exit status, negative for a signal."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_PATIENCE)
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def follow(path: Path, process: subprocess.Popen[bytes], patience: float) -> Iterator[str]:
    """The whole lines of a file as its writer, a child, adds them; the end is the end of the child.

    A file and not a pipe: a child never waits for us to read.

    Raises:
        StageError: the time is up.
    """
    deadline = time.monotonic() + patience
    line = ""
    with path.open(errors="replace") as file:
        while True:
            ended = process.poll() is not None  # asked before the last reading, so that nothing is missed
            while part := file.readline():
                line += part
                if line.endswith("\n"):
                    yield line.rstrip("\n")
                    line = ""
            if ended:
                return
            if time.monotonic() > deadline:
                raise StageError(f"no answer within {patience:.0f} s")
            time.sleep(POLL)
