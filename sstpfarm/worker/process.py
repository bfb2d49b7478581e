"""Entry of a worker process: take the inherited descriptors, import everything, drop all rights, serve.

It is executed by the master as root; nothing that a peer sent is read before the rights are gone.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

import uvloop

from sstpfarm.dataplane.select import Dataplane
from sstpfarm.errors import place_of
from sstpfarm.ipc.garbage import spare_old_objects
from sstpfarm.ipc.process import drop_privileges
from sstpfarm.telemetry.log import configure, get_log
from sstpfarm.telemetry.stats import Stats
from sstpfarm.worker.identity import read_identity, read_view
from sstpfarm.worker.server import WorkerServer


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one worker; the arguments are the master's business."""
    options = _parser().parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):  # they reach the whole group; the master says when to end, and how
        signal.signal(number, signal.SIG_IGN)
    config = read_view(options.fd_config)
    configure(config.log_format, role="worker", worker=options.worker)
    identity = read_identity(config, options.fd_chain, options.fd_key)
    stats = Stats.open(options.fd_stats)
    listeners = [socket.socket(fileno=int(fd)) for fd in options.listeners.split(",") if fd]
    master = socket.socket(fileno=options.fd_master)
    auth = socket.socket(fileno=options.fd_auth)
    if options.cpu >= 0:
        os.sched_setaffinity(0, {options.cpu})

    async def serve() -> None:
        log = get_log()

        def on_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            error = context.get("exception")
            detail = place_of(error) if isinstance(error, BaseException) else str(context.get("message"))
            log.emit("internal.error", detail=detail)

        asyncio.get_running_loop().set_exception_handler(on_exception)
        server = WorkerServer(
            options.worker, config, identity, stats, log, master=master, auth=auth, dataplane=options.dataplane
        )
        drop_privileges(options.uid, options.gid)
        await server.run(listeners)

    spare_old_objects()
    uvloop.run(serve())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sstpfarm-worker")
    for name in ("worker", "fd-master", "fd-auth", "fd-config", "fd-stats", "fd-chain", "fd-key", "uid", "gid", "cpu"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--listeners", required=True)
    parser.add_argument("--dataplane", type=Dataplane.parse, required=True)
    return parser


if __name__ == "__main__":
    sys.exit(main())
