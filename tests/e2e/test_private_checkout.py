"""A checkout that only root can read serves: nothing is imported after the privileges are dropped.

+-- client -------+           +-- server -----------------------------------------+
| raw peer, our   |---veth----| sstpfarm serve, from a copy below a 0700 directory |
| client          |           +---------------------------------------------------+
+-----------------+
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from .client import connected
from .farm import GATEWAY, ROOT, running
from .netns import Wire
from .rawpeer import tls_peer


def test_checkout_below_a_private_directory(wire: Wire, tmp_path: Path) -> None:
    private = tmp_path / "home"
    private.mkdir(mode=0o700)
    copy = private / "checkout"
    copy.mkdir()
    shutil.copytree(ROOT / "sstpfarm", copy / "sstpfarm", ignore=shutil.ignore_patterns("__pycache__"))
    methods = ["mschap2", "mschap1", "chap", "pap"]
    with running(wire.server, source=copy, server={"authentication": methods}) as farm:
        where = subprocess.run(
            [sys.executable, "-c", "import sstpfarm; print(sstpfarm.__path__[0])"],
            check=True, capture_output=True, text=True, cwd=copy, env=farm.environment(),
        )  # fmt: skip
        assert where.stdout.strip() == str(copy / "sstpfarm")
        for method in methods:
            with connected(wire.client, wire.SERVER4, "--authentication", method, "--interface", "sstp0"):
                assert wire.client.ping(GATEWAY)
        # what goes wrong takes other paths through the code, and a new worker starts from nothing
        with tls_peer(wire.client, wire.SERVER4) as peer:
            peer.until_authenticated()
            peer.send(peer.call_connected(flip_mac=True))
            peer.answer_abort(7)
        mark = farm.log.mark()
        os.kill(farm.worker_pids()[0], signal.SIGKILL)
        farm.wait_event("worker.ready", mark, worker=0)
        with tls_peer(wire.client, wire.SERVER4) as peer:
            peer.open_session()
            assert peer.ping()
            peer.disconnect()
        farm.idle()
