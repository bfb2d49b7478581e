"""A source distribution holds all that the native packet path is built from."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
SOURCES: Final = ("*.pyx", "*.px[di]", "*.h", "*.pyi")


def test_it_holds_every_source(tmp_path: Path) -> None:
    """Made with pip's own backend, from a copy, so that no list of files of an earlier build can help."""
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "sstpfarm", tree / "sstpfarm", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    build = "import sys; from setuptools.build_meta import build_sdist; print(build_sdist(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, tmp_path], cwd=tree, check=True, capture_output=True, text=True, timeout=60
    )
    with tarfile.open(tmp_path / done.stdout.splitlines()[-1]) as held:
        names = {name.partition("/")[2] for name in held.getnames()}
    native = {
        f"sstpfarm/dataplane/{path.name}" for kind in SOURCES for path in (tree / "sstpfarm/dataplane").glob(kind)
    }
    assert len(native) > 9
    assert native - names == set()
    packages = {path.relative_to(tree).as_posix() for path in (tree / "sstpfarm").rglob("*.py")}
    assert packages - names == set()
    assert {"setup.py", "pyproject.toml", "sstpfarm/py.typed", "sstpfarm/auth/radius/dictionary"} <= names
