"""What the tests of faulty configurations share: a fault, the rest of its file, and the check of what is told."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import pytest

from sstpfarm.config.load import load
from sstpfarm.errors import ConfigError

REST: Final = """
[profile.default]
local-address = "10.20.0.1"
remote-address = "pool:main"
[pool.main]
ranges = ["10.20.0.2-10.20.15.254"]
"""
"""What makes a file good beside the lines in question: a profile and its pool."""
PASSWORDS = ("hunter2", "1234567", "\N{GRINNING FACE}")  # of the files; no message shows one


class Fault(NamedTuple):
    """A file, and the lines of the message without ``DIRECTORY/farm.toml:``; DIR stands for the directory."""

    text: str
    message: tuple[str, ...]


def assert_told(fault: Fault, folder: Path, before: str = "") -> None:
    """Assert that a file with `before` and the fault's text is refused in just these lines."""
    file = folder / "farm.toml"
    file.write_text(before + fault.text)
    with pytest.raises(ConfigError) as caught:
        load(file)
    told = str(caught.value)
    assert told.split("\n") == [f"{file}:{line.replace('DIR', str(folder))}" for line in fault.message]
    assert not any(password in told for password in PASSWORDS)
