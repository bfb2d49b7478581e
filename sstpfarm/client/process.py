"""Entry of the client's unprivileged half: everything that the server sends is read here, without any right."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
from collections.abc import Sequence

import msgspec
import uvloop

from sstpfarm.client.dial import Dialer
from sstpfarm.client.settings import ClientSettings
from sstpfarm.dataplane.select import Dataplane
from sstpfarm.ipc.process import drop_privileges, read_memfd
from sstpfarm.telemetry.stats import Stats


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the half; the arguments are the parent's business."""
    parser = argparse.ArgumentParser(prog="sstpfarm-client")
    for name in ("fd-parent", "fd-settings", "fd-stats", "uid", "gid"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--dataplane", type=Dataplane.parse, required=True)
    options = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):  # they reach the whole group; the parent acts on them
        signal.signal(number, signal.SIG_IGN)
    settings = msgspec.msgpack.decode(read_memfd(options.fd_settings), type=ClientSettings)
    stats = Stats.open(options.fd_stats)
    parent = socket.socket(fileno=options.fd_parent)

    async def run() -> None:
        dialer = Dialer(settings, stats, parent, options.dataplane)
        drop_privileges(options.uid, options.gid)
        dialer.start()
        await dialer.done.wait()

    uvloop.run(run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
