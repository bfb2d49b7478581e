"""This package with all that it needs at run time, in a directory that the virtual machine sees.

The machine's Python is Debian's, whichever this one is: it gets the distributions that pip chooses for it. Where both
are of the same version it gets our native packet path too, otherwise the plain one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Final

from tests.e2e.farm import ROOT

GUEST_PYTHON: Final = "3.11"  # Debian 12
GUEST_PLATFORMS: Final = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014")  # its glibc is 2.36


def place_package(target: Path) -> None:
    """Copy the package and its metadata, and install beside it the run-time distributions that it requires."""
    shutil.copytree(ROOT / "sstpfarm", target / "sstpfarm", ignore=shutil.ignore_patterns("__pycache__", "*.pyx"))
    own = distribution("sstpfarm")  # `serve` asks for its version
    information = target / f"sstpfarm-{own.version}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(own.read_text("METADATA") or "")
    platforms = [f"--platform={platform}_{os.uname().machine}" for platform in GUEST_PLATFORMS]
    guest = ("--only-binary=:all:", "--implementation=cp", f"--python-version={GUEST_PYTHON}", *platforms)
    quiet = ("-qq", "--disable-pip-version-check", "--no-input", "install", "--root-user-action=ignore", "--retries=5")
    wanted = [text for text in own.requires or () if "extra ==" not in text]
    command = [sys.executable, "-m", "pip", *quiet, *guest, f"--target={target}", *wanted]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=300)
