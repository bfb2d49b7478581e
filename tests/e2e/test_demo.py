"""`sstpfarm demo`, interrupted: whatever it was doing, it takes everything down.

`make demo` runs it to its end.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .farm import ROOT
from .guard import ENDS_WITH_US


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("sign", ["Two network namespaces", "Client connects", "pings through the tunnel"])
def test_interrupted_demo_leaves_nothing(sign: str, number: signal.Signals) -> None:
    """The signal comes while the server starts, while the client connects, and while bytes are moved."""
    process = subprocess.Popen(
        [*ENDS_WITH_US, sys.executable, "-m", "sstpfarm", "demo"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout as output:
        shown = ""
        for line in output:
            if sign in line and sign not in shown:  # an interrupted console may repeat its line
                process.send_signal(number)
            shown += line
        status = process.wait(60)
    assert status == 130, shown
    assert sign in shown
    assert "taken down" in shown
    left = [path for place in ("/run", "/run/netns") for path in Path(place).glob(f"sstpfarm-demo-{process.pid}-*")]
    assert left == []
