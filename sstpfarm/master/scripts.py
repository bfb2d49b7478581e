"""Runs the programs of on-up and on-down: no shell, a bounded number at once, in order for each session, for a while.

What a program says goes to the log; what becomes of it changes nothing in its session.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from sstpfarm.master.child import watched
from sstpfarm.telemetry.log import Log

MOST_AT_ONCE: Final = 16
MOST_WAITING: Final = 16_384  # a mass logout of 10,000 sessions fits; some 2 KiB each
MOST_OUTPUT: Final = 4096  # bytes that are kept of what a program says; the rest is read and dropped
CLOSE_PATIENCE_S: Final = 10.0  # for all of them when the farm stops: the unit's TimeoutStopSec is 90 s
ENVIRONMENT: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


@dataclass(slots=True)
class _Job:
    """A program to run, and the one that waits for its end."""

    owner: Hashable
    session: str
    command: Sequence[str]
    environment: Mapping[str, str]
    then: _Job | None = None


class Scripts:
    """All programs of the farm's sessions.

    Args:
        log: gets what they say, and what fails.
        timeout: seconds after which one is killed, with its process group.
    """

    def __init__(self, log: Log, timeout: float) -> None:
        self._log = log
        self._timeout = timeout
        self._ready: deque[_Job] = deque()
        self._last: dict[Hashable, _Job] = {}  # of each owner, the one that ends last
        self._waiting = 0
        self._running: set[_Process] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def run(self, owner: Hashable, session: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Run a program soon, after all that were asked for with the same owner.

        Args:
            owner: what it is in order with: the session among all sessions.
            session: for the log.
            command: absolute path and arguments.
            environment: in addition to PATH and LANG; nothing else of ours is passed on.
        """
        if self._waiting >= MOST_WAITING:
            self._fail(session, command, "too many programs wait")
            return
        job = _Job(owner, session, command, {**ENVIRONMENT, **environment})
        before = self._last.get(owner)
        self._last[owner] = job
        self._waiting += 1
        self._idle.clear()
        if before is None:
            self._ready.append(job)
            self._start()
        else:
            before.then = job

    async def close(self, *, wait: bool = True) -> None:
        """Wait until all have ended, but not long; what is left then is killed or not run at all."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_PATIENCE_S if wait else 0):
                    await self._idle.wait()
        finally:
            if self._waiting:
                self._log.emit("scripts.abandoned", count=self._waiting)
            self._ready.clear()
            self._last.clear()
            self._waiting = 0
            for process in list(self._running):
                process.job.then = None
                process.kill()
        while self._running:
            await asyncio.wait([process.gone for process in self._running])

    def _start(self) -> None:
        while self._ready and len(self._running) < MOST_AT_ONCE:
            job = self._ready.popleft()
            self._waiting -= 1
            try:
                process = _Process(job, self._timeout, self._ended)
            except (OSError, ValueError) as error:  # ValueError: a zero byte in a name
                self._fail(job.session, job.command, f"cannot be run: {error}")
                self._next(job)
            else:
                self._running.add(process)
        if not self._running and not self._waiting:
            self._idle.set()

    def _ended(self, process: _Process, status: int, output: bytes) -> None:
        self._running.discard(process)
        job = process.job
        if output:
            text = output.decode("utf-8", "replace").strip()
            self._log.emit("script.output", session=job.session, program=job.command[0], text=text)
        if process.overdue:
            self._fail(job.session, job.command, f"killed after {self._timeout:g} s")
        elif status:
            self._fail(job.session, job.command, f"status {status}" if status > 0 else f"signal {-status}")
        self._next(job)
        self._start()

    def _next(self, job: _Job) -> None:
        if job.then is not None:
            self._ready.append(job.then)
        elif self._last.get(job.owner) is job:
            del self._last[job.owner]

    def _fail(self, session: str, command: Sequence[str], detail: str) -> None:
        self._log.emit("script.failed", session=session, program=command[0], detail=detail)


class _Process:
    """One program that runs: a process group of its own, its output in a pipe.

    Raises:
        OSError, ValueError: it cannot be started.
    """

    def __init__(self, job: _Job, timeout: float, ended: Callable[[_Process, int, bytes], None]) -> None:
        self.job = job
        self.overdue = False
        self._ended = ended
        self._output = bytearray()
        self._process = subprocess.Popen(  # noqa: S603 - a program of the configuration, no shell
            list(job.command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(job.environment),
            cwd="/",
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._pipe = self._process.stdout.fileno()
        os.set_blocking(self._pipe, False)
        self._loop = asyncio.get_running_loop()
        self.gone: asyncio.Future[None] = self._loop.create_future()
        try:
            self._loop.add_reader(self._pipe, self._read)
            self._pidfd = watched(self._loop, self._process.pid, self._exited)
        except OSError:  # it runs, but nobody would see its end
            self._loop.remove_reader(self._pipe)
            self._process.stdout.close()
            self.kill()
            self._process.wait()
            raise
        self._timer = self._loop.call_later(timeout, self._expire)

    def kill(self) -> None:
        """Kill it and what it has started; it was not waited for yet, so the number is still its own."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _expire(self) -> None:
        self.overdue = True
        self.kill()

    def _read(self) -> bool:
        """Take what it says; True while there may be more."""
        try:
            part = os.read(self._pipe, MOST_OUTPUT)
        except BlockingIOError:
            return False
        self._output += part[: MOST_OUTPUT - len(self._output)]
        if not part:
            self._loop.remove_reader(self._pipe)  # it has closed it, and may go on
        return bool(part)

    def _exited(self) -> None:
        """It has ended; others that it has started, and left in peace, may still hold the pipe."""
        while len(self._output) < MOST_OUTPUT and self._read():
            pass
        self._timer.cancel()
        self._loop.remove_reader(self._pipe)
        self._loop.remove_reader(self._pidfd)
        status = self._process.wait()
        os.close(self._pidfd)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self.gone.set_result(None)
        self._ended(self, status, bytes(self._output))
