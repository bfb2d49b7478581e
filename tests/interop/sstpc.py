"""One sstpc with its pppd in the virtual machine."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sstpfarm.proto.roles import AuthMethod
from tests.e2e.netns import until

from .machine import HOST, Machine, Output

# What pppd must refuse so that only one method remains (require-... would ask the server to authenticate itself).
REFUSALS: Final = {
    AuthMethod.PAP: "refuse-pap",
    AuthMethod.CHAP: "refuse-chap",
    AuthMethod.MSCHAP1: "refuse-mschap",
    AuthMethod.MSCHAP2: "refuse-mschap-v2",
}
UP_PATIENCE: Final = 60.0  # seconds; seen: below one

_numbers = itertools.count()


class Sstpc:
    """A client that dials the server at once.

    Args:
        machine: where it runs.
        method: the only authentication method that pppd admits.
        plugin: pppd has the password and tells sstpc the keys through a plugin; otherwise sstpc has the password and
            reads along. Then sstpc 1.0.18 sends no Call Connected after CHAP with MD5, and a wrong one after MS-CHAPv1.
        options: more for pppd.
    """

    def __init__(
        self,
        machine: Machine,
        user: str,
        password: str,
        method: AuthMethod = AuthMethod.MSCHAP2,
        plugin: bool = True,
        options: str = "",
    ) -> None:
        self.machine = machine
        number = next(_numbers)
        self.interface = f"ppp{number}"
        self._sstpc_log = f"/job/sstpc{number}.log"
        self._pppd_log = f"/job/pppd{number}.log"
        self._status = f"/job/status{number}"
        refusals = " ".join(["refuse-eap", *(word for other, word in REFUSALS.items() if other is not method)])
        if plugin:
            secret = shlex.quote(f'{user} s{number} "{password}" *')
            machine.run(f"echo {secret} | tee -a /etc/ppp/chap-secrets >>/etc/ppp/pap-secrets")
            credentials, name = "", f"user {user} remotename s{number}"
        else:
            credentials, name = f"--user {user} --password {shlex.quote(password)}", ""
        command = (
            f"sstpc --log-level 4 --log-stderr --cert-warn --ipparam s{number} {credentials} {HOST}"
            f" {name} unit {number} linkname s{number} {refusals} noauth noipdefault nodefaultroute usepeerdns"
            f" debug debug logfile {self._pppd_log} lcp-echo-interval 2 lcp-echo-failure 3 {options}"
        )
        # The outer shell keeps the exit status; the first line of output is sstpc's process id.
        started = machine.run(
            f"( {command} >{self._sstpc_log} 2>&1 & echo $! >{self._status}.pid; wait $!; echo $? >{self._status} ) &\n"
            f"until [ -s {self._status}.pid ]; do sleep 0.02; done; cat {self._status}.pid"
        )
        self.pid = int(started.output)

    def await_up(self) -> str:
        """The address that the server gave, once IPCP is open."""

        def address() -> str:
            found = self.machine.run(f"cat {self._status} 2>/dev/null; ip -4 -o addr show dev {self.interface}").output
            if re.match(r"\d+\n", found):
                raise AssertionError(f"sstpc ended with {found}\n{self.logs()}")
            match = re.search(r"inet ([\d.]+) peer", found)
            return match[1] if match else ""

        try:
            return until(address, f"{self.interface} has an address", UP_PATIENCE)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None

    def await_end(self) -> int:
        """The exit status of sstpc, once it and its interface are gone."""

        def status() -> str:
            gone = f"! ip link show dev {self.interface} >/dev/null 2>&1"
            return self.machine.run(f"{gone} && cat {self._status} 2>/dev/null").output

        try:
            return int(until(status, f"sstpc and {self.interface} are gone", UP_PATIENCE))
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None

    def signal(self, name: str) -> None:
        """Send a signal to sstpc (not to pppd)."""
        self.machine.run(f"kill -{name} {self.pid}")

    def ping(self, target: str, count: int = 3) -> Output:
        """Ping through this session's interface."""
        return self.machine.run(f"ping -n -i 0.2 -c {count} -W 10 -I {self.interface} {target}")

    def transfer(self, direction: str, host: str, port: int, count: int) -> dict[str, Any]:
        """Move bytes through this session's interface, checked by SHA-256 on both sides."""
        words = f"transfer {direction} {host} {port} {count} {self.interface}"
        done = self.machine.run(f"python3 /job/throughput.py {words}", timeout=120)
        assert done.status == 0, f"{done.output}\n{self.logs()}"
        found = json.loads(done.output)
        assert isinstance(found, dict)
        return found

    def pppd_log(self) -> str:
        """Everything that pppd has logged."""
        return self.machine.run(f"cat {self._pppd_log}").output

    def logs(self) -> str:
        """The tails of both logs, for messages."""
        return self.machine.run(f"tail -n 60 {self._sstpc_log} {self._pppd_log}").output


@contextmanager
def dialled(
    machine: Machine,
    user: str,
    password: str,
    method: AuthMethod = AuthMethod.MSCHAP2,
    plugin: bool = True,
    options: str = "",
) -> Iterator[tuple[Sstpc, str]]:
    """A session that is up, and its address; ended with SIGTERM when the block has not ended it."""
    client = Sstpc(machine, user, password, method, plugin, options)
    try:
        yield client, client.await_up()
    finally:
        client.signal("TERM")
        client.await_end()
