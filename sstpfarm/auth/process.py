"""The auth process: ``python -m sstpfarm.auth.process``, started by the master as root with inherited descriptors.

Everything is imported and opened first; then root is given up for good, and only then is the first message read.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from sstpfarm.auth.assembly import Assembly
from sstpfarm.auth.sqlite.database import open_database
from sstpfarm.auth.sqlite.store import SqliteStore
from sstpfarm.config.views import AuthView
from sstpfarm.errors import SystemRefusal, place_of
from sstpfarm.ipc.garbage import spare_old_objects
from sstpfarm.ipc.process import drop_privileges, read_memfd
from sstpfarm.reasons import ExitCode
from sstpfarm.telemetry.log import Log, configure, get_log


def main(arguments: list[str]) -> int:
    """Run until the master's channel closes; return the exit code."""
    parser = argparse.ArgumentParser(prog="sstpfarm-auth")
    for name in ("fd-master", "fd-config", "uid", "gid"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args(arguments)
    # a Ctrl-C or a stop of the service reaches the whole group: auth stays until the master has no more use for it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    view = msgspec.msgpack.decode(read_memfd(options.fd_config), type=AuthView)
    configure(view.log_format, role="auth")
    log = get_log()
    master = socket.socket(fileno=options.fd_master)
    try:
        store = SqliteStore(open_database(Path(view.state_directory) / "auth", options.uid, options.gid))
        spare_old_objects()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(master, view, store, log, (options.uid, options.gid)))
        store.close()
    except SystemRefusal as error:
        log.emit("internal.error", detail=str(error))
        return ExitCode.SYSTEM
    return ExitCode.OK


async def serve(master: socket.socket, view: AuthView, store: SqliteStore, log: Log, user: tuple[int, int]) -> None:
    """Rehearse as root, become that user and group, then serve until the master is gone or says that it is time."""

    def on_exception(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        detail = place_of(error) if isinstance(error, BaseException) else str(context.get("message"))
        log.emit("internal.error", detail=detail)

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(on_exception)
    ended = asyncio.Event()
    assembly = Assembly(
        view,
        store,
        entropy=os.urandom,
        wall=time.time,
        clock=loop.time,
        random=random.random,
        emit=log.emit,
        on_end=lambda _: ended.set(),
    )
    assembly.rehearse()
    drop_privileges(*user)
    if assembly.radius is not None:
        assembly.radius.start()
    assembly.service.start(loop, master)
    try:
        await ended.wait()
    finally:
        await assembly.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
