"""One child process: started by fork and exec, watched through its pidfd and its channel, pinged, killed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Final

from sstpfarm.errors import IpcViolation, SystemRefusal
from sstpfarm.ipc import messages as m
from sstpfarm.ipc.channel import VIOLATION, Channel
from sstpfarm.ipc.permissions import Party, may_send
from sstpfarm.ipc.process import child_environment, python_module
from sstpfarm.master.permissions import ProcessPhase, check_process

MISSED_PINGS: Final = 5  # of PING_INTERVAL each, counted and not timed: a master that stood still accuses nobody
PING_INTERVAL: Final = 2.0
EXIT_GRACE: Final = 2.0  # seconds between the end of its channel and SIGKILL
DRAIN_GRACE: Final = 5.0  # seconds in which the messages that it left behind are read: 300 at most, some of them dear
BACKOFF: Final = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 10.0)  # seconds before each restart of a process that keeps dying
SETTLED: Final = 30.0  # seconds of service after which the next loss counts as the first again


class Child:
    """A process of the farm. Callbacks run in the event loop.

    Args:
        party: what it is.
        module: the Python module to run.
        options: command line options, by name.
        fds: descriptors that it inherits, by option name; the caller keeps its copies.
        channel: our end of its channel; owned from now on.
        on_message: takes each message that the process may send in its phase; may raise IpcViolation.
        on_gone: called once: it has exited and everything that it had sent was handled.
        on_violation: called once, with a description, before it is killed for what it sent.

    Raises:
        SystemRefusal: it cannot be started.
    """

    def __init__(
        self,
        party: Party,
        module: str,
        options: Mapping[str, str | int],
        fds: Mapping[str, Sequence[int]],
        channel: socket.socket,
        *,
        on_message: Callable[[Any], None],
        on_gone: Callable[[], None],
        on_violation: Callable[[str], None],
    ) -> None:
        self.party = party
        self.phase = ProcessPhase.STARTING
        self.status: int | None = None
        self._on_message = on_message
        self._on_gone = on_gone
        self._on_violation = on_violation
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._pings = self._missed = 0
        self._gone = self._condemned = False
        self.channel = Channel(channel, may_send(party, Party.MASTER), self._received, self._closed)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module, no shell
                _command(module, options, fds),
                stdin=subprocess.DEVNULL,
                pass_fds=[fd for group in fds.values() for fd in group],
                env=child_environment(),
                cwd="/",
                process_group=0,  # a Ctrl-C is for the master, which ends its children in order
            )
        except OSError as error:
            self.channel.close()
            raise SystemRefusal(f"{party} cannot be started: {error.strerror}") from error
        self.pid = self._process.pid
        with ExitStack() as undo:
            undo.callback(self.channel.close)
            undo.callback(self._process.wait)
            undo.callback(self._process.kill)
            try:
                self._pidfd = watched(self._loop, self.pid, self._exited)
                undo.callback(os.close, self._pidfd)
                undo.callback(self._loop.remove_reader, self._pidfd)
                self.channel.start(self._loop)
            except OSError as error:  # it runs, but nobody would see its end, or hear it
                raise SystemRefusal(f"{party} cannot be watched: {error.strerror}") from error
            undo.pop_all()

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return self._loop.time() - self._started

    def send(self, message: m.Message, fds: Sequence[int] = ()) -> None:
        """Send a message and copies of the descriptors; nothing happens when it is gone."""
        self.channel.send(message, fds)

    def give(self, message: m.Message, fds: Sequence[int]) -> None:
        """Send a message and the descriptors, which are closed in any case; it does not fail for want of others."""
        self.channel.give(message, fds)

    def ping(self) -> bool:
        """Ask for a sign of life; False when too many such questions are unanswered."""
        if self._missed >= MISSED_PINGS:
            return False
        self._missed += 1
        self._pings += 1
        self.send(m.Ping(number=self._pings))
        return True

    def kill(self) -> None:
        """End it at once."""
        if self.status is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _received(self, message: Any, _fds: list[int]) -> None:
        if self._condemned:
            return
        try:
            check_process(self.party, self.phase, message)
            if isinstance(message, m.Pong):
                self._pong(message)
                return
            if isinstance(message, m.WorkerReady | m.AuthReady):
                self.phase = ProcessPhase.READY
            self._on_message(message)
        except IpcViolation as error:
            self._violated(str(error))

    def _pong(self, pong: m.Pong) -> None:
        if not self._pings - self._missed < pong.number <= self._pings:
            raise IpcViolation("Pong that was not asked for")
        self._missed = self._pings - pong.number

    def _violated(self, detail: str) -> None:
        self._condemned = True
        self._on_violation(detail)
        self.kill()
        self.channel.close()
        self._finish()

    def _closed(self, why: str) -> None:
        if why.startswith(VIOLATION):
            self._violated(why.removeprefix(VIOLATION))
            return
        if self.status is None:
            self._loop.call_later(EXIT_GRACE, self.kill)
        self._finish()

    def _exited(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self.status = self._process.wait()
        os.close(self._pidfd)
        if not self.channel.closed:  # what it sent last is still in the channel, up to its end
            self._loop.call_later(DRAIN_GRACE, self.channel.close)
            self._loop.call_later(DRAIN_GRACE, self._finish)
        self._finish()

    def _finish(self) -> None:
        if not self._gone and self.status is not None and self.channel.closed:
            self._gone = True
            self._on_gone()


def watched(loop: asyncio.AbstractEventLoop, pid: int, exited: Callable[[], object]) -> int:
    """Return the pidfd of a child of ours that was not waited for yet; the loop calls back when it has exited.

    Raises:
        OSError: no descriptor or no watch is left.
    """
    pidfd = os.pidfd_open(pid)
    try:
        loop.add_reader(pidfd, exited)
    except OSError:
        os.close(pidfd)
        raise
    return pidfd


class Backoff:
    """How long to wait before a process that was lost is started again."""

    def __init__(self) -> None:
        self._losses = 0

    def lost(self, age: float) -> float:
        """Return the seconds to wait after the loss of a process that lived for `age` seconds."""
        if age >= SETTLED:
            self._losses = 0
        delay = BACKOFF[min(self._losses, len(BACKOFF) - 1)]
        self._losses += 1
        return delay


def _command(module: str, options: Mapping[str, str | int], fds: Mapping[str, Sequence[int]]) -> list[str]:
    command = python_module(module)
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    for name, group in fds.items():
        command += [f"--{name}", ",".join(map(str, group))]
    return command
