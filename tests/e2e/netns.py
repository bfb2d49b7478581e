"""Network namespaces with veth pairs between them, made for one test module and always removed (guard.py).

    with namespace("client") as client, namespace("server") as server:
        connect(client, "uplink", CLIENT, server, "downlink", SERVER)

    +-- client ---------+            +-- server --------+
    |  uplink 10.99.1.2 |----veth----| downlink 10.99.1.1 |
    +-------------------+            +------------------+

Names carry the process id, so that two test runs on one machine do not meet. Programs run inside through
`ip netns exec`; sockets of the test process itself are made inside by a short-lived thread that enters the
namespace (setns(2) changes the calling thread only, and a socket stays where it was made).
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, TypeVar

from . import guard

CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
PIPE_BYTES: Final = 1 << 20  # the most that fs.pipe-max-size allows by default
PATIENCE: Final = 40.0  # seconds for what should take milliseconds; a loaded CI machine is slow

HOSTS: Final = "127.0.0.1 localhost\n::1 localhost\n"
RESOLV_CONF: Final = "# the operator's\nnameserver 192.0.2.53\nsearch lan.test\n"  # of each namespace

_numbers = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)
Value = TypeVar("Value")


def until(probe: Callable[[], Value], what: str, patience: float = PATIENCE) -> Value:
    """Return the first true value of `probe`, asked every 20 ms; AssertionError names `what` when time is up."""
    deadline = time.monotonic() + patience
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {patience} s: {what} (last answer: {value!r})")
        time.sleep(0.02)


class Namespace:
    """One network namespace by its name under /run/netns."""

    def __init__(self, name: str) -> None:
        self.name = name

    def argv(self, *command: str) -> list[str]:
        """The command line that runs `command` inside; the program keeps the process id of `ip`."""
        return ["ip", "netns", "exec", self.name, *command]

    def run(self, *command: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a program inside and wait for it."""
        return subprocess.run(self.argv(*command), check=check, timeout=timeout, capture_output=True, text=True)

    def popen(
        self,
        *command: str,
        stdin: int | IO[bytes] | None = subprocess.DEVNULL,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program inside; its standard output and standard error are pipes of bytes.

        They hold much: our log loses lines when a pipe is full (`sstpfarm.telemetry.log`).
        """
        return subprocess.Popen(
            self.argv(*command),
            stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pipesize=PIPE_BYTES, cwd=cwd, env=env,
        )  # fmt: skip

    @property
    def resolv_conf(self) -> Path:
        """What programs inside have as /etc/resolv.conf."""
        return Path("/etc/netns", self.name, "resolv.conf")

    @property
    def hosts(self) -> Path:
        """What programs inside have as /etc/hosts; to be changed in place."""
        return Path("/etc/netns", self.name, "hosts")

    def ip(self, *arguments: str) -> Any:
        """What `ip -json ARGUMENTS` says inside."""
        return json.loads(self.run("ip", "-json", *arguments).stdout or "[]")

    def links(self) -> set[str]:
        """Names of all interfaces inside."""
        return {link["ifname"] for link in self.ip("link", "show")}

    def routes(self) -> list[str]:
        """All unicast routes of the main tables, IPv4 and IPv6, one line each, sorted."""
        lines = [*self.run("ip", "-4", "route").stdout.splitlines(), *self.run("ip", "-6", "route").stdout.splitlines()]
        return sorted(line.strip() for line in lines)

    def ping(self, target: str, *options: str, count: int = 1) -> bool:
        """Whether all of `count` echo requests to `target` are answered; without an answer this takes 10 s, or -W."""
        found = self.run("ping", "-n", "-q", "-i", "0.2", "-c", str(count), "-W", "10", *options, target, check=False)
        return f" {count} received" in found.stdout

    def open_socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A socket of this process that lives inside."""
        return inside(self, lambda: socket.socket(family, kind))

    def dial(self, host: str, port: int, timeout: float = PATIENCE, source: str = "") -> socket.socket:
        """A TCP connection from inside, from that address if one is named."""
        sock = self.open_socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        sock.settimeout(timeout)
        try:
            if source:
                sock.bind((source, 0))
            sock.connect((host, port))
        except BaseException:
            sock.close()
            raise
        return sock

    def listener(self, host: str, port: int = 0) -> socket.socket:
        """A listening TCP socket inside."""
        sock = self.open_socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.settimeout(PATIENCE)
        sock.bind((host, port))
        sock.listen(16)
        return sock


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


@contextmanager
def namespace(label: str) -> Iterator[Namespace]:
    """Make a namespace with its loopback up; remove it at the end, whatever happened."""
    name = f"sstp{os.getpid()}-{next(_numbers)}-{label}"
    # `ip netns exec` mounts these files over those of /etc: what a client writes into resolv.conf is not the machine's
    own_files = Path("/etc/netns", name)
    guard.made(guard.NAMESPACE, name)
    own_files.mkdir(parents=True)
    (own_files / "resolv.conf").write_text(RESOLV_CONF)
    (own_files / "hosts").write_text(HOSTS)
    subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True, timeout=30)
    made = Namespace(name)
    try:
        made.run("ip", "link", "set", "lo", "up")
        yield made
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True, capture_output=True, timeout=30)
        shutil.rmtree(own_files)
        guard.removed(guard.NAMESPACE, name)


def connect(
    left: Namespace, left_name: str, left_addresses: Sequence[str],
    right: Namespace, right_name: str, right_addresses: Sequence[str],
) -> None:  # fmt: skip
    """Lay a veth pair between two namespaces; addresses carry their prefix length, IPv6 works at once (nodad).

    Both ends have their routes at the end: the kernel may see a carrier, and add those of IPv6, a second later.
    """
    pair = ("name", right_name, "netns", right.name)
    left.run("ip", "link", "add", left_name, "type", "veth", "peer", *pair)
    for end, name, addresses in ((left, left_name, left_addresses), (right, right_name, right_addresses)):
        for address in addresses:
            extra = ["nodad"] if ":" in address else []
            end.run("ip", "address", "add", address, "dev", name, *extra)
        end.run("ip", "link", "set", name, "up")
    for end, name in ((left, left_name), (right, right_name)):
        show = ("ip", "address", "show", name)
        until(lambda: "inet6 fe80" in end.run(*show).stdout, f"the carrier of {name}")  # noqa: B023 - asked at once


class Wire:
    """A client's and a server's namespace with one veth pair between them.

    +-- client --------------+          +-- server --------------+
    | uplink   10.99.1.2/24  |---veth---| downlink 10.99.1.1/24  |
    |          fd99:1::2/64  |          |          fd99:1::1/64  |
    +------------------------+          +------------------------+
    """

    CLIENT4: Final = "10.99.1.2"
    SERVER4: Final = "10.99.1.1"
    CLIENT6: Final = "fd99:1::2"
    SERVER6: Final = "fd99:1::1"

    def __init__(self, client: Namespace, server: Namespace) -> None:
        self.client = client
        self.server = server
        connect(
            client, "uplink", [f"{self.CLIENT4}/24", f"{self.CLIENT6}/64"],
            server, "downlink", [f"{self.SERVER4}/24", f"{self.SERVER6}/64"],
        )  # fmt: skip


@contextmanager
def wired() -> Iterator[Wire]:
    """The topology of `Wire`, for as long as the block runs."""
    with namespace("client") as client, namespace("server") as server:
        yield Wire(client, server)
