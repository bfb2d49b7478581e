"""A Debian machine with kernel PPP, booted in seconds, whose network card is a tap in one of our namespaces.

    +-- namespace "server" -------------+             +-- virtual machine ---------+
    |  sstpfarm serve                   |             |  sstpc + pppd, ppp0 ...    |
    |  HOST 10.98.1.1/24 on the tap     |----eth0-----|  GUEST 10.98.1.2/24        |
    +-----------------------------------+   + 10 ms   +----------------------------+

Two kinds of machine share one root file system (vm/build). user-mode-linux, a kernel that runs as an ordinary process,
boots in 3 s; where it does not come up (it depends on ptrace and on the host's processor), qemu with software emulation
takes its place, in 7 s. SSTPFARM_VM_KIND=uml or qemu asks for one of them.

The delay is there for sstpc: it dies now and then ("The event loop terminated unsuccessfully") when the TLS handshake
and its HTTP request finish within one write, which a link without delay makes likely.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from tests.e2e.farm import ROOT
from tests.e2e.guard import make_directory, remove_directory
from tests.e2e.netns import Namespace

from .agent import PORT

HERE: Final = Path(__file__).parent
IMAGE: Final = Path(os.environ.get("SSTPFARM_VM_DIR") or ROOT / "build" / "vm").resolve()
HOST: Final = "10.98.1.1"
GUEST: Final = "10.98.1.2"
TAP: Final = "guest"
DELAY_MS: Final = 10
BOOT_PATIENCE: Final = {"uml": 60.0, "qemu": 240.0}  # seconds; seen: 3 and 7
KINDS: Final = tuple(kind for kind in ("uml", "qemu") if os.environ.get("SSTPFARM_VM_KIND") in (None, "", kind))


class MachineError(Exception):
    """The virtual machine did not come up, or died; the text ends with the tail of its console."""


class Output(NamedTuple):
    """How a script in the machine ended; 124 is a timeout."""

    status: int
    output: str


class Machine:
    """One running machine.

    Args:
        place: the namespace that gets the tap.
        kind: "uml" or "qemu".
        job: the directory on this machine that is /job in the guest.
    """

    def __init__(self, place: Namespace, kind: str, job: Path) -> None:
        self.place = place
        self.kind = kind
        self.job = job
        shutil.copy(HERE / "agent.py", job / "agent.py")
        self._console = (job / "console").open("wb")
        preload = {"LD_PRELOAD": str(IMAGE / "xstate.so")} if kind == "uml" else {}
        # A session of its own: user-mode-linux is many processes, which are ended together.
        self._process = subprocess.Popen(
            place.argv(*self._command()), stdin=subprocess.DEVNULL, stdout=self._console, stderr=self._console,
            start_new_session=True, env={**os.environ, **preload},
        )  # fmt: skip

    def _command(self) -> list[str]:
        settings = [f"vm.ip={GUEST}/24", f"vm.delay={DELAY_MS}", "panic=-1"]
        if self.kind == "uml":
            return [
                "linux.uml", "mem=512M", "root=/dev/root", "rootfstype=hostfs", f"rootflags={IMAGE / 'rootfs'}", "ro",
                "init=/vm-init", "con0=null,fd:1", "con=null", "ssl=null", "umid=vm", f"uml_dir={self.job / 'uml'}",
                f"vec0:transport=tap,ifname={TAP},depth=128,gro=0,mac=52:54:00:00:00:02",
                f"vm.job={self.job}", *settings,
            ]  # fmt: skip
        share = "security_model=none,mount_tag"
        return [
            "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "512M", "-smp", "2",
            "-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio",
            "-kernel", str(IMAGE / "vmlinuz"), "-initrd", str(IMAGE / "initrd.gz"),
            "-append", " ".join(["console=ttyS0 quiet tsc=unstable random.trust_cpu=on", *settings]),
            "-netdev", f"tap,id=n0,ifname={TAP},script=no,downscript=no",
            "-device", "virtio-net-pci,netdev=n0,mac=52:54:00:00:00:02,romfile=", "-device", "virtio-rng-pci",
            "-virtfs", f"local,path={IMAGE / 'rootfs'},{share}=root,readonly=on,multidevs=remap",
            "-virtfs", f"local,path={self.job},{share}=job",
        ]  # fmt: skip

    def await_boot(self) -> None:
        """Wait until the agent answers; MachineError when it does not."""
        deadline = time.monotonic() + BOOT_PATIENCE[self.kind]
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise MachineError(f"{self.kind} ended with {self._process.returncode}\n{self.console()}")
            try:
                if self.run("true", timeout=10, patience=2).status == 0:
                    return
            except (OSError, MachineError):
                time.sleep(0.1)
        raise MachineError(f"{self.kind} did not boot within {BOOT_PATIENCE[self.kind]} s\n{self.console()}")

    def _request(self, script: str | None, timeout: float, patience: float) -> bytes:
        with self.place.dial(GUEST, PORT, timeout=patience) as sock:
            sock.settimeout(timeout + 10)
            sock.sendall(json.dumps({"script": script, "timeout": timeout}).encode() + b"\n")
            with sock.makefile("rb") as answer:
                return answer.readline()

    def run(self, script: str, timeout: float = 60, patience: float = 30) -> Output:
        """Run a bash script as root in the guest; what it starts in the background lives on.

        `patience` is for the agent to take the connection: on a busy host the guest's network loses a SYN at times.
        """
        answer = self._request(script, timeout, patience)
        if not answer:
            raise MachineError(f"the agent broke off\n{self.console()}")
        return Output(**json.loads(answer))

    def console(self) -> str:
        """The tail of the console and of the agent's own messages."""
        tails = [
            f"-- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-20:])
            for path in (self.job / "console", self.job / "agent.log")
            if path.exists()
        ]
        return "\n".join(tails)

    def stop(self) -> None:
        """Power off; whatever is left after 5 s is killed."""
        with suppress(OSError, subprocess.TimeoutExpired):
            self._request(None, 0, patience=1)
            self._process.wait(5)
        with suppress(ProcessLookupError):  # it has powered off
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)
        self._console.close()


def boot(place: Namespace, job: Path) -> Machine:
    """Boot the first kind of machine that comes up; MachineError with the console of each when none does."""
    failures = []
    for kind in KINDS:
        subprocess.run([HERE / "vm" / "build", kind], check=True, timeout=600)
        machine = Machine(place, kind, job)
        try:
            machine.await_boot()
        except MachineError as error:
            failures.append(str(error))
            machine.stop()
        except BaseException:
            machine.stop()
            raise
        else:
            return machine
    raise MachineError("\n".join(failures))


@contextmanager
def machine_in(place: Namespace) -> Iterator[Machine]:
    """A machine whose network card is a tap in that namespace; gone at the end of the block."""
    place.run("ip", "tuntap", "add", "dev", TAP, "mode", "tap")
    place.run("ip", "address", "add", f"{HOST}/24", "dev", TAP)
    # One segment in each frame: the network driver of user-mode-linux drops what the host would send as one (GSO).
    place.run("ip", "link", "set", TAP, "up", "gso_max_segs", "1")
    job = make_directory("sstpfarm-vm-")
    try:
        machine = boot(place, job)
        try:
            yield machine
        finally:
            machine.stop()
    finally:
        place.run("ip", "link", "delete", TAP)
        remove_directory(job)
