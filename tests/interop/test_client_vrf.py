"""Our client in the virtual machine, whose kernel has VRFs: the tunnel is in one, its own packets are not.

+-- namespace "server" --+           +-- virtual machine -------------------------------+
|  sstpfarm serve        |           |  sstpfarm connect --vrf red                      |
|  10.98.1.1             |---eth0----|  10.98.1.2      sstp0 in red, table 1000         |
+------------------------+           +--------------------------------------------------+
"""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from tests.e2e.farm import GATEWAY, Farm
from tests.e2e.netns import until

from .conftest import FIXED, PASSWORD
from .machine import HOST, Machine

TABLE: Final = 1000  # more than the byte that the route's own field has
CONNECT: Final = (
    "cd {package} && exec python3 -m sstpfarm connect {host} --user ben --password-file /job/password --insecure"
    " --json --interface sstp0 --vrf red --default-route-distance 7"
)


def asked(machine: Machine, command: str) -> Any:
    """What `ip -json` answers in the machine."""
    return json.loads(machine.run(f"ip -json {command}").output or "[]")


@pytest.mark.parity("vyos/vrf")
def test_tunnel_in_a_vrf(machine: Machine, farm: Farm, package: str) -> None:
    """Addresses and routes are in the VRF's table, and gone at the end; the main table is as before."""
    (machine.job / "password").write_text(PASSWORD + "\n")
    machine.run(f"modprobe tun; modprobe vrf; ip link add red type vrf table {TABLE}; ip link set red up")
    before = machine.run("ip route").output
    command = CONNECT.format(package=package, host=HOST)
    (machine.job / "connect.log").touch()  # the background shell may come to it later than we look
    machine.run(f"({command}) >/job/connect.log 2>&1 & echo $! >/job/connect.pid")

    def is_up() -> bool:
        log = (machine.job / "connect.log").read_text()
        assert '"closed"' not in log, log
        assert "Traceback" not in log, log
        return '"up"' in log

    until(is_up, "the tunnel is up", 120)
    [link] = asked(machine, "link show sstp0")
    assert link["master"] == "red"
    [address] = asked(machine, "-4 address show dev sstp0")[0]["addr_info"]
    assert (address["local"], address["address"]) == (FIXED, GATEWAY)
    routes = asked(machine, f"route show table {TABLE} type unicast")
    found = {(route["dst"], route["dev"], route.get("metric")) for route in routes}
    assert found == {("default", "sstp0", 7), (GATEWAY, "sstp0", None)}
    assert machine.run("ip route").output == before
    assert " 0% packet loss" in machine.run(f"ping -n -c 2 -i 0.2 -W 10 -I red {GATEWAY}").output
    assert machine.run(f"ping -n -c 1 -W 1 {GATEWAY}").status != 0  # not from outside of the VRF
    machine.run("kill -TERM $(cat /job/connect.pid)")
    until(lambda: machine.run("kill -0 $(cat /job/connect.pid)").status != 0, "the client has ended")
    last = (machine.job / "connect.log").read_text().splitlines()[-1]
    assert '"closed"' in last, last
    assert '"user-request"' in last, last
    assert machine.run(f"ip route show table {TABLE}").output.strip() == ""
    assert machine.run("ip link show sstp0").status != 0
    until(lambda: farm.sessions() == [], "no session is listed")
