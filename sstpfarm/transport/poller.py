"""Readiness of sockets and TUN devices through an epoll of our own, inside of the event loop.

libuv stops to watch a descriptor that reports an error, and uvloop then calls no reader: a connection that the peer
reset would go unnoticed until its keepalive. Here an error makes a descriptor readable, so the next read says what it
is. The loop watches one descriptor, the epoll's own.

Connections in their handshake have an epoll of their own inside of that one. A handshake costs as much as dozens of
packets, and peers without a password decide how many there are at once: a turn has a few of them, behind all else.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Final

from sstpfarm.transport.moderation import Moderation

EVENTS_PER_TURN: Final = 256  # the loop's other work gets its turn in between
STARTING_PER_TURN: Final = 8  # of the events of connections in their handshake: some 2 ms
_READ: Final = select.EPOLLIN | select.EPOLLERR | select.EPOLLHUP
_WRITE: Final = select.EPOLLOUT

Callback = Callable[[], object]


class Poller:
    """Calls a descriptor's reader and writer while it is ready; level-triggered, as the loop's own methods are.

    Args:
        moderation: of the pauses between turns.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, moderation: Moderation | None = None) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._starting = select.epoll()
        self._start_fds: set[int] = set()  # that are watched there
        self._some_start = False  # one of them is ready
        self._readers: dict[int, Callback] = {}
        self._writers: dict[int, Callback] = {}
        self.add_reader(self._starting.fileno(), self._note_starting)
        self._behind: list[Callback] | None = None  # what this turn ends with
        self._moderation = moderation or Moderation()
        self._next: asyncio.Handle | None = None  # the turn that comes by itself; until then nobody watches the epoll
        loop.add_reader(self._epoll.fileno(), self._turn)

    def close(self) -> None:
        """Stop watching; what is still registered is forgotten."""
        self._loop.remove_reader(self._epoll.fileno())
        if self._next is not None:
            self._next.cancel()
        self._readers.clear()
        self._writers.clear()
        self._start_fds.clear()
        self._starting.close()
        self._epoll.close()

    def add_reader(self, fd: int, callback: Callback, *, starting: bool = False) -> None:
        """Call back while `fd` is readable, at its end, and while it has an error.

        Args:
            starting: it has to wait for all others, until `started`; `fd` is watched for nothing yet.

        Raises:
            OSError: the kernel watches nothing more (ENOSPC, ENOMEM); it is not watched.
        """
        if starting:
            self._start_fds.add(fd)
        self._register(fd, self._readers, callback)

    def started(self, fd: int) -> None:
        """From now on `fd` need not wait for others; if the kernel watches nothing more, it still does."""
        if fd in self._start_fds:
            with suppress(OSError):
                self._epoll.register(fd, self._mask(fd))
                self._start_fds.remove(fd)
                self._starting.unregister(fd)

    def remove_reader(self, fd: int) -> None:
        """Stop that; nothing happens when there is no reader. Call it before `fd` is closed."""
        self._unregister(fd, self._readers)

    def add_writer(self, fd: int, callback: Callback) -> None:
        """Call back while `fd` is writable; OSError as in `add_reader`."""
        self._register(fd, self._writers, callback)

    def remove_writer(self, fd: int) -> None:
        """Stop that; nothing happens when there is no writer."""
        self._unregister(fd, self._writers)

    def later(self, callback: Callback) -> None:
        """Call back behind the readers and writers of this turn; at once if there is no turn.

        What is sent for many sessions in a row rings the network card's bell (or wakes up the host, or another
        processor) a few times; what is sent between other work rings it each time.
        """
        if self._behind is None:
            callback()
        else:
            self._behind.append(callback)

    def _register(self, fd: int, where: dict[int, Callback], callback: Callback) -> None:
        known = fd in self._readers or fd in self._writers
        where[fd] = callback
        epoll = self._epoll_of(fd)
        try:
            if known:
                epoll.modify(fd, self._mask(fd))
            else:
                epoll.register(fd, self._mask(fd))
        except OSError:
            del where[fd]
            if not known:
                self._start_fds.discard(fd)
            raise

    def _unregister(self, fd: int, where: dict[int, Callback]) -> None:
        if where.pop(fd, None) is None:
            return
        mask = self._mask(fd)
        with suppress(FileNotFoundError):  # the kernel has forgotten it: its file is gone
            if mask:
                self._epoll_of(fd).modify(fd, mask)
            else:
                self._epoll_of(fd).unregister(fd)  # an error of a descriptor that nobody watches would wake us for ever
        if not mask:
            self._start_fds.discard(fd)

    def _epoll_of(self, fd: int) -> select.epoll:
        return self._starting if fd in self._start_fds else self._epoll

    def _mask(self, fd: int) -> int:
        return (select.EPOLLIN if fd in self._readers else 0) | (select.EPOLLOUT if fd in self._writers else 0)

    def _turn(self) -> None:
        began = monotonic()
        ready = self._epoll.poll(0, EVENTS_PER_TURN)
        behind = self._behind = []
        try:
            for fd, events in ready:
                self._call(fd, events)
        finally:
            self._behind = None
            try:
                for callback in behind:
                    callback()
                if self._some_start:
                    self._turn_of_starting()
            finally:
                self._plan(self._moderation.pause(began, monotonic(), len(ready)))

    def _note_starting(self) -> None:
        self._some_start = True

    def _turn_of_starting(self) -> None:
        self._some_start = False
        if not self._starting.closed:
            for fd, events in self._starting.poll(0, STARTING_PER_TURN):
                self._call(fd, events)

    def _call(self, fd: int, events: int) -> None:
        # What an earlier callback of this turn has removed is not called; a number that it gave to a new descriptor may
        # be called without cause, which a non-blocking read takes.
        if events & _READ:
            reader = self._readers.get(fd)
            if reader is not None:
                reader()
            elif events & ~_WRITE and (writer := self._writers.get(fd)) is not None:
                writer()
                return
        if events & _WRITE and (writer := self._writers.get(fd)) is not None:
            writer()

    def _plan(self, pause: float) -> None:
        """Have the next turn when something is ready, but not before the pause is over."""
        if self._epoll.closed:
            return
        if pause:
            if self._next is None:
                self._loop.remove_reader(self._epoll.fileno())
            self._next = self._loop.call_later(pause, self._turn)
        elif self._next is not None:
            self._next = None
            self._loop.add_reader(self._epoll.fileno(), self._turn)
