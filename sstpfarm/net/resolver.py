"""DNS servers of a tunnel for the host's resolver: systemd-resolved, resolvconf, or /etc/resolv.conf itself.

No shell is involved. Whatever is registered is taken back by name of the interface; what a killed client has left is
found by `sweep`: systemd-resolved forgets a link that is gone, the others are told.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

from sstpfarm.errors import SystemRefusal

RESOLV_CONF: Final = Path("/etc/resolv.conf")
LOCK: Final = Path("/run/sstpfarm-resolver.lock")
RESOLVED: Final = Path("/run/systemd/resolve")
RESOLVED_STUBS: Final = ("127.0.0.53", "127.0.0.54")  # systemd-resolved.service(8)
# where Debian's resolvconf and openresolv keep what they were told, a file for each name
RECORDS: Final = (Path("/run/resolvconf/interface"), Path("/run/resolvconf/interfaces"), Path("/run/resolvconf/keys"))
LINKS: Final = Path("/sys/class/net")
SUFFIX: Final = ".sstpfarm"  # of our records at resolvconf
TIMEOUT_S: Final = 10.0
# A file that is mounted over it, as in containers and by `ip netns exec`, or in a directory that is read only, can be
# written in its place only.
IN_PLACE: Final = frozenset({errno.EBUSY, errno.EXDEV, errno.EROFS, errno.EACCES, errno.EPERM})
MAX_FILE: Final = 64 * 1024  # bytes of a resolv.conf; the C library reads three servers of it

MARK: Final = "# Made by sstpfarm for its tunnels. Lines with #> are the file from before, which comes back."
_BEFORE: Final = "#> "
_LINK: Final = "#symlink "
_NOTHING: Final = "#there was none"
_OPEN: Final = "#the last line had no end"
_TUNNEL: Final = "# tunnel "
_SERVER: Final = "nameserver "
_KEPT: Final = ("search ", "domain ", "options ", "sortlist ")  # resolv.conf(5); the tunnel says nothing of these


class Resolver(Protocol):
    """Who tells the host's programs which DNS servers to ask."""

    @property
    def name(self) -> str:
        """For logs."""

    def add(self, interface: str, servers: Sequence[str]) -> None:
        """Ask these servers as long as the interface is there; replaces what it had. SystemRefusal on failure."""

    def remove(self, interface: str) -> None:
        """Take it back; nothing happens when there is nothing. SystemRefusal on failure."""

    def sweep(self) -> None:
        """Take back what was registered for interfaces that are gone. SystemRefusal on failure."""


def choose(resolv_conf: Path = RESOLV_CONF) -> Resolver:
    """Return what this host uses.

    systemd-resolved where `resolvectl` is there and resolv.conf leads to it; else resolvconf where that is there (but
    not as another name of resolvectl, without its service); else the file.
    """
    resolvectl = shutil.which("resolvectl")
    if resolvectl and _leads_to_resolved(resolv_conf):
        return SystemdResolved(resolvectl)
    resolvconf = shutil.which("resolvconf")
    if resolvconf and Path(resolvconf).resolve().name != "resolvectl":
        return Resolvconf(resolvconf)
    return ResolvConfFile(resolv_conf)


class SystemdResolved:
    """resolvectl(1): the link's servers, and all names asked there."""

    name = "systemd-resolved"

    def __init__(self, program: str) -> None:
        self._program = program

    def add(self, interface: str, servers: Sequence[str]) -> None:
        """Give the link its servers, and the domain of all names (``~.``)."""
        _run(self._program, "dns", interface, *servers)
        _run(self._program, "domain", interface, "~.")

    def remove(self, interface: str) -> None:
        """Undo both. A link that is gone has taken them along."""
        if (LINKS / interface).exists():
            _run(self._program, "revert", interface)

    def sweep(self) -> None:
        """Nothing is left of a link that is gone."""


class Resolvconf:
    """resolvconf(8), Debian's or openresolv's: a record for each interface."""

    name = "resolvconf"

    def __init__(self, program: str) -> None:
        self._program = program

    def add(self, interface: str, servers: Sequence[str]) -> None:
        """Add the record."""
        text = "".join(f"{_SERVER}{server}\n" for server in servers)
        _run(self._program, "-a", interface + SUFFIX, stdin=text)

    def remove(self, interface: str) -> None:
        """Delete the record."""
        _run(self._program, "-d", interface + SUFFIX)

    def sweep(self) -> None:
        """Delete the records of interfaces that are gone."""
        for directory in RECORDS:
            with suppress(OSError):
                for record in sorted(directory.iterdir()):
                    interface = record.name.removesuffix(SUFFIX)
                    if interface != record.name and not (LINKS / interface).exists():
                        self.remove(interface)


class ResolvConfFile:
    """resolv.conf(5) itself, which holds all that is needed to put the file from before back.

    It is only touched as long as it is ours: who writes it meanwhile (NetworkManager, a DHCP client, the operator)
    has the last word.
    """

    name = "file"

    def __init__(self, path: Path = RESOLV_CONF) -> None:
        self._path = path

    def add(self, interface: str, servers: Sequence[str]) -> None:
        """Put the servers before those of other tunnels, in place of the operator's."""
        with self._turn():
            before, tunnels = self._read()
            self._write(before, {interface: tuple(servers), **_without(_living(tunnels), interface)})

    def remove(self, interface: str) -> None:
        """Take the servers out; with the last ones the file from before is back."""
        with self._turn():
            if self._is_ours():
                before, tunnels = self._read()
                self._write(before, _without(_living(tunnels), interface))

    def sweep(self) -> None:
        """Take out the servers of interfaces that are gone."""
        with self._turn():
            if self._is_ours():
                before, tunnels = self._read()
                if len(_living(tunnels)) < len(tunnels):
                    self._write(before, _living(tunnels))

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Only one process changes the file at a time; errors of the system become refusals."""
        try:
            with LOCK.open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise SystemRefusal(f"{error.filename or self._path}: {error.strerror}") from error

    def _is_ours(self) -> bool:
        return not self._path.is_symlink() and self._text().startswith(MARK)

    def _text(self) -> str:
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_FILE + 1)
        except FileNotFoundError:
            return ""
        if len(data) > MAX_FILE:
            raise SystemRefusal(f"{self._path}: larger than {MAX_FILE} bytes")
        return data.decode("utf-8", "surrogateescape")

    def _read(self) -> tuple[list[str], dict[str, tuple[str, ...]]]:
        """Return the file from before, in the lines of our form, and the servers of each tunnel."""
        if not self._is_ours():
            text = self._text()
            lines = [_BEFORE + line for line in _lines(text)]  # a carriage return stays
            if text and not text.endswith("\n"):
                lines.append(_OPEN)
            if self._path.is_symlink():
                return [f"{_LINK}{self._path.readlink()}", *lines], {}
            return lines if self._path.exists() else [_NOTHING], {}
        before, tunnels, current = [], dict[str, tuple[str, ...]](), ""
        for line in _lines(self._text())[1:]:
            if line.startswith((_BEFORE, _LINK, _NOTHING, _OPEN)):
                before.append(line)
            elif line.startswith(_TUNNEL):
                current = line.removeprefix(_TUNNEL)
                tunnels[current] = ()
            elif line.startswith(_SERVER) and current:
                tunnels[current] += (line.removeprefix(_SERVER),)
        return before, tunnels

    def _write(self, before: list[str], tunnels: Mapping[str, tuple[str, ...]]) -> None:
        own = [line.removeprefix(_BEFORE) for line in before if line.startswith(_BEFORE)]
        if tunnels:
            lines = [MARK, *before, *(line.rstrip() for line in own if line.startswith(_KEPT))]
            for interface, servers in tunnels.items():
                lines += [_TUNNEL + interface, *(_SERVER + server for server in servers)]
            self._put(lines)
        elif _NOTHING in before:
            self._path.unlink()
        elif before and before[0].startswith(_LINK):
            self._path.unlink()
            self._path.symlink_to(before[0].removeprefix(_LINK))
        else:
            self._put(own, end="" if _OPEN in before else "\n")

    def _put(self, lines: Sequence[str], end: str = "\n") -> None:
        data = ("\n".join(lines) + end if lines else "").encode("utf-8", "surrogateescape")
        draft = self._path.with_name(self._path.name + ".sstpfarm-new")
        try:
            draft.unlink(missing_ok=True)
            draft.touch(mode=0o600, exist_ok=False)
            with draft.open("wb") as file:
                file.write(data)
                self._give_ownership(file.fileno())
            draft.replace(self._path)
        except OSError as error:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            if error.errno not in IN_PLACE:  # on a full disk, say, writing would leave less than there was
                raise
            self._path.write_bytes(data)

    def _give_ownership(self, fd: int) -> None:
        """Let a new file be whose the file of before is, and for whom: so it comes back with its owner and mode."""
        try:
            before = self._path.lstat()
        except FileNotFoundError:
            before = None
        if before is None or not stat.S_ISREG(before.st_mode):  # of a link nothing is changed
            os.fchmod(fd, 0o644)
            return
        os.fchown(fd, before.st_uid, before.st_gid)
        os.fchmod(fd, stat.S_IMODE(before.st_mode))


def _lines(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n") if text else []


def _living(tunnels: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {interface: servers for interface, servers in tunnels.items() if (LINKS / interface).exists()}


def _without(tunnels: Mapping[str, tuple[str, ...]], interface: str) -> dict[str, tuple[str, ...]]:
    return {other: servers for other, servers in tunnels.items() if other != interface}


def _leads_to_resolved(resolv_conf: Path) -> bool:
    if resolv_conf.resolve().is_relative_to(RESOLVED):
        return True
    try:
        lines = resolv_conf.read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    return any(line.removeprefix(_SERVER).strip() in RESOLVED_STUBS for line in lines if line.startswith(_SERVER))


def _run(*command: str, stdin: str | None = None) -> None:
    """Run a program; SystemRefusal with what it said when it fails."""
    try:
        done = subprocess.run(  # noqa: S603 - found on root's own PATH, addresses and an interface's name, no shell
            command,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SystemRefusal(f"{Path(command[0]).name}: {error}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[:200]
        raise SystemRefusal(f"{Path(command[0]).name} {command[1]}: {said or f'exit status {done.returncode}'}")
