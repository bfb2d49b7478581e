"""Run a function of the test process inside a network namespace of its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.netns import Namespace, inside, namespace

needs_root: Final = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None or not Path("/dev/net/tun").exists(),
    reason="needs root, iproute2 and /dev/net/tun: it makes TUN devices in a network namespace of its own",
)


__all__ = ["Namespace", "inside", "namespace", "needs_root"]
