"""ipc/process.py: what a process may still do after it has dropped its privileges."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sstpfarm.errors import SystemRefusal
from sstpfarm.ipc import process
from sstpfarm.ipc.process import read_memfd, seal_memfd
from tests.unit.descriptors import descriptors_closed

UID = 60_790

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="dropping privileges needs root")


def child(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own: dropping is for good."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)


def test_sealed_memory_file_cannot_be_changed() -> None:
    fd = seal_memfd("test", b"secret" * 1000)
    with pytest.raises(OSError, match="Operation not permitted"):
        os.write(fd, b"x")
    with pytest.raises(OSError, match="Operation not permitted"):
        os.ftruncate(fd, 1)
    assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    assert read_memfd(fd) == b"secret" * 1000
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_what_no_memory_file_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the sender would go on, and the receiver could not."""

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(process, "MAX_MEMFD", 10)
    with descriptors_closed():
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(SystemRefusal, match="users: No space left on device"):
                seal_memfd("users", b"x")
        with pytest.raises(SystemRefusal, match="users: 11 bytes; 10 at most"):
            seal_memfd("users", bytes(11))


@needs_root
def test_after_the_drop_nothing_is_left_of_root() -> None:
    done = child(
        f"from sstpfarm.ipc.process import drop_privileges\n"
        f"drop_privileges({UID}, {UID})\n"
        "print(open('/proc/self/task/%d/status' % __import__('os').getpid()).read())"
    )
    assert done.returncode == 0, done.stderr
    fields = dict(line.split(":", 1) for line in done.stdout.splitlines() if ":" in line)
    assert fields["Uid"].split() == [str(UID)] * 4
    assert fields["Gid"].split() == [str(UID)] * 4
    assert fields["Groups"].strip() == ""
    assert {fields[name].strip() for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert fields["NoNewPrivs"].strip() == "1"


@needs_root
@pytest.mark.parametrize(
    "escape",
    [
        "open('/etc/shadow')",
        "os.setuid(0)",
        "os.kill(os.getppid(), 0)",
        "import http.client",
        "import sstpfarm.cli",
    ],
)
def test_escapes_fail(escape: str) -> None:
    done = child(
        f"import os\nfrom sstpfarm.ipc.process import drop_privileges\ndrop_privileges({UID}, {UID})\n"
        f"try:\n    {escape}\nexcept (PermissionError, ImportError) as error:\n    print('refused')"
    )
    assert done.stdout.startswith("refused"), done


@needs_root
def test_the_process_dies_with_its_parent() -> None:
    code = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', '''\n"
        "import time\nfrom sstpfarm.ipc.process import drop_privileges\n"
        f"drop_privileges({UID}, {UID})\nprint('dropped', flush=True)\ntime.sleep(60)\n"
        "'''], stdout=subprocess.PIPE, text=True)\n"
        "child.stdout.readline()\nprint(child.pid, flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    pid = int(child(code).stdout)
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text("ascii").rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state == "Z":
            return
        subprocess.run(["sleep", "0.02"], check=True)
    pytest.fail("the orphan lives on")
