"""Clears away what a test run made, when the run was killed and could not do it.

A process in a session of its own reads from a pipe what the run makes and what it removes. The pipe ends with the run,
however that ends; what is left then is removed by what it is, never by the look of a name: the processes inside of our
namespaces, these namespaces, and our directories.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

NAMESPACE: Final = "namespace"
DIRECTORY: Final = "directory"
PATIENCE: Final = 40.0  # seconds for killed processes to go

# For programs that make namespaces of their own, and remove them when they are told to end.
ENDS_WITH_US: Final = ("setpriv", "--pdeathsig", "TERM")


@cache
def _pipe() -> int:
    """The way to the guard, which is started now."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__], cwd=Path(__file__).resolve().parents[2], start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdin is not None

    def end() -> None:
        with suppress(BrokenPipeError):
            process.communicate()

    atexit.register(end)
    return process.stdin.fileno()


def made(kind: str, name: str) -> None:
    """From now on that must be removed, if we do not do it."""
    os.write(_pipe(), (json.dumps([True, kind, name]) + "\n").encode())


def removed(kind: str, name: str) -> None:
    """It is gone."""
    os.write(_pipe(), (json.dumps([False, kind, name]) + "\n").encode())


def make_directory(prefix: str) -> Path:
    """A new directory below /tmp.

    Not pytest's tmp_path: that lies below a directory of mode 0700, and auth works as another user.
    """
    path = tempfile.mkdtemp(prefix=prefix)
    made(DIRECTORY, path)
    return Path(path)


def remove_directory(path: Path) -> None:
    """Remove one of `make_directory`, with all that it holds."""
    shutil.rmtree(path)
    removed(DIRECTORY, str(path))


# -- the guard's own process -----------------------------------------------------------------------------------------


def left_over(lines: Iterable[str]) -> dict[str, list[str]]:
    """What was made and not removed, by its kind, the last first."""
    left: dict[tuple[str, str], None] = {}
    for line in lines:
        is_made, kind, name = json.loads(line)
        if is_made:
            left[kind, name] = None
        else:
            left.pop((kind, name), None)
    return {kind: [name for at, name in reversed(left) if at == kind] for kind in (NAMESPACE, DIRECTORY)}


def kill_inside(namespace: str) -> None:
    """Kill all processes of a namespace, and wait until they are gone."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
        if not found.stdout.split():
            return
        for pid in map(int, found.stdout.split()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def main() -> None:
    """Wait for the end of the run."""
    left = left_over(sys.stdin)
    for name in left[NAMESPACE]:
        kill_inside(name)
    for name in left[NAMESPACE]:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        shutil.rmtree(Path("/etc/netns", name), ignore_errors=True)
    for name in left[DIRECTORY]:
        shutil.rmtree(name, ignore_errors=True)


if __name__ == "__main__":
    main()
