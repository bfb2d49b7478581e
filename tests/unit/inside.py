"""Run a function of the test process inside a network namespace of its own."""

from __future__ import annotations

import ctypes
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import pytest

from tests.e2e.netns import CLONE_NEWNET, Namespace, namespace

Value = TypeVar("Value")
_libc = ctypes.CDLL(None, use_errno=True)

needs_root: Final = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None or not Path("/dev/net/tun").exists(),
    reason="needs root, iproute2 and /dev/net/tun: it makes TUN devices in a network namespace of its own",
)


def inside(place: Namespace, function: Callable[[], Value]) -> Value:
    """Return what `function` returns in a thread that has entered the namespace (setns(2) changes one thread)."""
    results: list[Value] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with Path("/run/netns", place.name).open() as handle:
                if _libc.setns(handle.fileno(), CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), f"setns {place.name}")
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name=f"inside {place.name}")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


__all__ = ["Namespace", "inside", "namespace", "needs_root"]
