"""The auth process: ``python -m sstpfarm.auth.process``, started by the master as root with inherited descriptors.

Everything is imported and opened first; then root is given up for good, and only then is the first message read.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from sstpfarm.auth.decide import Judge
from sstpfarm.auth.leases import SqliteLeases, open_database
from sstpfarm.auth.service import AuthService
from sstpfarm.config.views import AuthView
from sstpfarm.errors import SystemRefusal, place_of
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
        database = open_database(Path(view.state_directory) / "auth", options.uid, options.gid)
        leases = SqliteLeases(database, view.pools, view.reserved, time.time)
        judge = Judge(view, leases, os.urandom)
        judge.rehearse()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            drop_privileges(options.uid, options.gid)
            runner.run(serve(master, view, judge, leases, log))
        leases.close()
    except SystemRefusal as error:
        log.emit("internal.error", detail=str(error))
        return ExitCode.SYSTEM
    return ExitCode.OK


async def serve(master: socket.socket, view: AuthView, judge: Judge, leases: SqliteLeases, log: Log) -> None:
    """Serve until the master is gone or says that it is time."""

    def on_exception(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        detail = place_of(error) if isinstance(error, BaseException) else str(context.get("message"))
        log.emit("internal.error", detail=detail)

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(on_exception)
    ended = asyncio.Event()
    service = AuthService(
        judge,
        leases,
        failure_delay=view.failure_delay_s,
        max_waiting=view.max_starting,
        emit=log.emit,
        on_end=lambda _: ended.set(),
    )
    service.start(loop, master)
    try:
        await ended.wait()
    finally:
        service.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
