"""This package with all that it needs at run time, in a directory that the virtual machine sees.

The machine's Python is Debian's; compiled modules of this environment serve it where the version is the same.
"""

from __future__ import annotations

import re
import shutil
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from tests.e2e.farm import ROOT

GUEST_PYTHON: Final = (3, 11)  # Debian 12
_REQUIREMENT: Final = re.compile(r"[A-Za-z0-9._-]+")


def usable() -> bool:
    """Whether this environment's compiled modules fit the machine's Python."""
    return sys.version_info[:2] == GUEST_PYTHON


def place_package(target: Path) -> None:
    """Copy the package and the run-time distributions that it requires, and those that these require."""
    shutil.copytree(ROOT / "sstpfarm", target / "sstpfarm", ignore=shutil.ignore_patterns("__pycache__", "*.pyx"))
    done: set[str] = set()
    wanted = ["sstpfarm"]
    while wanted:
        name = wanted.pop()
        if name.lower() in done:
            continue
        done.add(name.lower())
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue  # of another platform or Python, by its marker
        required = [_REQUIREMENT.match(text) for text in found.requires or () if "extra ==" not in text]
        wanted += [match[0] for match in required if match is not None]
        _copy(found, target)


def _copy(found: Distribution, target: Path) -> None:
    for file in found.files or ():
        source = Path(str(found.locate_file(file)))
        if ".." not in file.parts and file.suffix != ".pyc" and source.is_file():
            place = target / file
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, place)
