"""The net of RouterOS's examples: somebody far away, the internet, an office with a LAN behind its router."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from .farm import PASSWORD, ROOT
from .netns import Namespace, connect, namespace


class Office:
    """Four namespaces, with the addresses of the examples.

    +-- far ---------------+      +-- internet -----+      +-- office ------------+      +-- workstation ---+
    | ether1 192.168.99.1  |-veth-| .99.254  .80.254|-veth-| ether1 192.168.80.1  |      |                  |
    +----------------------+      +-----------------+      | ether2 10.1.101.1    |-veth-| lan0 10.1.101.2  |
                                                           +----------------------+      +------------------+
    """

    PUBLIC: Final = "192.168.80.1"  # where the farm listens
    WORKSTATION: Final = "10.1.101.2"

    def __init__(self, far: Namespace, internet: Namespace, office: Namespace, workstation: Namespace) -> None:
        self.far, self.office, self.workstation = far, office, workstation
        connect(far, "ether1", ["192.168.99.1/24"], internet, "left", ["192.168.99.254/24"])
        connect(office, "ether1", [f"{self.PUBLIC}/24"], internet, "right", ["192.168.80.254/24"])
        connect(office, "ether2", ["10.1.101.1/24"], workstation, "lan0", [f"{self.WORKSTATION}/24"])
        internet.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        far.run("ip", "route", "add", "192.168.80.0/24", "via", "192.168.99.254")
        office.run("ip", "route", "add", "192.168.99.0/24", "via", "192.168.80.254")
        workstation.run("ip", "route", "add", "default", "via", "10.1.101.1")
        # the kernel waits up to 0.8 s before it answers ARP for somebody else
        office.run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/neigh/ether2/proxy_delay")

    def proxies(self) -> list[str]:
        """The addresses for which the office answers ARP."""
        lines = self.office.run("ip", "neighbour", "show", "proxy").stdout.splitlines()
        return sorted(line.split()[0] for line in lines)

    def mac(self) -> str:
        """The Ethernet address of the office's router in its LAN."""
        ((link),) = self.office.ip("link", "show", "dev", "ether2")
        return str(link["address"])


@contextmanager
def office() -> Iterator[Office]:
    """That net, for as long as the block runs."""
    with namespace("far") as far, namespace("internet") as internet, namespace("office") as place:  # noqa: SIM117
        with namespace("workstation") as workstation:
            yield Office(far, internet, place, workstation)


def documented(user: str) -> dict[str, Any]:
    """The settings of a farm, for `running`, as docs/examples.md has them for the example of that user."""
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "examples.md").read_text(), re.DOTALL)
    (found,) = [tables for tables in map(tomllib.loads, blocks) if user in tables["secret"]]
    assert set(found) == {"server", "profile", "secret"}
    secret = {key: value for key, value in found["secret"][user].items() if key != "password-file"}
    return {
        "server": found["server"],
        "profile": found["profile"]["default"],
        "secrets": {user: {**secret, "password": PASSWORD}},
    }
