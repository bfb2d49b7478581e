"""What a process does to itself and hands to its children: sealed memory files, fewer rights, no late imports."""

from __future__ import annotations

import codecs
import ctypes
import fcntl
import os
import resource
import signal
import sys
from collections.abc import Collection, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Final

import sstpfarm
from sstpfarm.errors import LocalError, SystemRefusal

# linux/prctl.h
PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_CAPBSET_DROP: Final = 24
PR_SET_NO_NEW_PRIVS: Final = 38
# linux/capability.h
CAPABILITIES: Final = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "DAC_READ_SEARCH": 2,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "NET_BIND_SERVICE": 10,
    "NET_ADMIN": 12,
    "NET_RAW": 13,
    "SYS_NICE": 23,
    "SYS_RESOURCE": 24,
}
LAST_CAPABILITY: Final = Path("/proc/sys/kernel/cap_last_cap")
CAPABILITY_VERSION_3: Final = 0x20080522
SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
ENVIRONMENT: Final = ("PATH", "LANG", "LC_ALL", "TZ", "PYTHONDONTWRITEBYTECODE", "PYTHONWARNINGS")  # nothing secret
LATE_CODECS: Final = ("ascii", "idna", "latin-1", "utf-16-le", "utf-8")  # Python loads a codec at its first use
MAX_MEMFD: Final = 64 << 20  # a configuration with 100,000 secrets is about 10 MiB

_libc = ctypes.CDLL(None, use_errno=True)


def python_module(module: str) -> list[str]:
    """Return the command that runs a module with our own interpreter, and without the working directory's modules."""
    return [sys.executable, "-P", "-m", module]


def child_environment() -> dict[str, str]:
    """Return the environment of a child: nothing secret, and this very package, wherever it is."""
    kept = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    return {**kept, "PYTHONPATH": str(Path(sstpfarm.__path__[0]).resolve().parent)}


def seal_memfd(name: str, data: bytes) -> int:
    """Return a descriptor of a memory file with that content, which nobody can change any more.

    Raises:
        SystemRefusal: it is larger than what `read_memfd` takes, or no memory or descriptor is left.
    """
    if len(data) > MAX_MEMFD:
        raise SystemRefusal(f"{name}: {len(data)} bytes; {MAX_MEMFD} at most")
    try:
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
        except BaseException:
            os.close(fd)
            raise
    except OSError as error:
        raise SystemRefusal(f"{name}: {error.strerror}") from error
    return fd


def read_memfd(fd: int) -> bytes:
    """Return the content of a sealed memory file and close the descriptor.

    Raises:
        LocalError: it is larger than MAX_MEMFD.
    """
    try:
        size = os.fstat(fd).st_size
        if size > MAX_MEMFD:
            raise LocalError(f"memory file of {size} bytes")
        data = bytearray()
        while len(data) < size:
            part = os.pread(fd, size - len(data), len(data))
            if not part:
                raise LocalError("memory file shrank")
            data += part
        return bytes(data)
    finally:
        os.close(fd)


def drop_privileges(uid: int, gid: int) -> None:
    """Give up root for good: capabilities, groups, user; no new privileges, no core file, no ptrace, no late imports.

    Call it as root with the descriptors that are still needed open, before the first byte of a peer is read. The
    process dies with its parent from now on.

    Raises:
        SystemRefusal: the kernel refused a step.
    """
    for codec in LATE_CODECS:
        codecs.lookup(codec)
    parent = os.getppid()
    _bound_capabilities(set())  # what is effective now stays so until the user changes
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)  # clears the effective and the permitted set (capabilities(7))
    _capset(0)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    _prctl(PR_SET_DUMPABLE, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # setuid clears it, so it comes last
    if os.getppid() != parent:
        raise SystemRefusal("the parent process is gone")
    forbid_imports()


def reduce_capabilities(keep: Collection[str]) -> None:
    """Keep only these capabilities (names without CAP_), now and for whatever this process executes.

    Raises:
        SystemRefusal: not permitted (SETPCAP is needed).
    """
    kept = {CAPABILITIES[name] for name in keep}
    _bound_capabilities(kept)
    _capset(sum(1 << capability for capability in kept))


def forbid_imports() -> None:
    """Make every import of a module that is not loaded yet fail: after the drop its file may be out of reach."""
    if not any(isinstance(finder, _NoImports) for finder in sys.meta_path):
        sys.meta_path.insert(0, _NoImports())


class _NoImports:
    """A finder that finds nothing and says so loudly."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        raise ImportError(f"import of {name} after the privileges were dropped")


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def _bound_capabilities(kept: set[int]) -> None:
    """Take all others out of the bounding set: no program that is executed later can have them."""
    last = int(LAST_CAPABILITY.read_text("ascii"))
    for capability in range(last + 1):
        if capability not in kept:
            _prctl(PR_CAPBSET_DROP, capability)


def _capset(mask: int) -> None:
    header = _Header(CAPABILITY_VERSION_3, 0)
    data = (_Data * 2)(_Data(mask & 0xFFFFFFFF, mask & 0xFFFFFFFF, 0), _Data(mask >> 32, mask >> 32, 0))
    if _libc.capset(ctypes.byref(header), ctypes.byref(data)):
        raise SystemRefusal(f"capset: {os.strerror(ctypes.get_errno())}")


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        raise SystemRefusal(f"prctl {option}: {os.strerror(ctypes.get_errno())}")
