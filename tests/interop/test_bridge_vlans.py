"""The server in the virtual machine, whose kernel filters VLANs on bridges: a bridged session's port is in its VLAN.

+-- namespace "server", here of the clients --+           +-- virtual machine ------------------+
|  raw peers, FreeRADIUS 10.98.1.1:1812       |           |  sstpfarm serve                     |
|  10.98.1.1                                  |---eth0----|  10.98.1.2      br0: sstp0, sstp1 ..|
+---------------------------------------------+           +-------------------------------------+
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final

import pytest

from tests.e2e.bytestream import StreamEndError
from tests.e2e.farm import PASSWORD, write_config
from tests.e2e.frames import Packet, data
from tests.e2e.freeradius import SECRET, freeradius
from tests.e2e.netns import PATIENCE, until
from tests.e2e.rawpeer import RawPeer, tls_peer
from tests.e2e.test_bridging import BRIDGE_DATA, open_bridge

from .machine import GUEST, HOST, Machine

GREEN, RED = 100, 200
QUIET: Final = 0.5  # seconds in which a frame that would come has come
# The machine's kernel has no nftables of the family inet: a stand-in takes the farm's rules. They are about IP packets
# between interfaces, and a bridged session has none.
START: Final = """
set -e
printf '#!/bin/sh\\nexit 0\\n' >/usr/local/sbin/nft && chmod 755 /usr/local/sbin/nft
modprobe -a tun bridge
ip link add br0 type bridge vlan_filtering 1 && ip link set br0 up
ip link add br1 type bridge && ip link set br1 up
mkdir -p /run/farm && cp /job/farm.toml /run/farm && chmod 600 /run/farm/farm.toml
cd {package}
python3 -m sstpfarm serve --config /run/farm/farm.toml >/job/serve.log 2>&1 &
echo $! >/job/serve.pid
"""


def vlan(number: int, tag: str = "") -> list[str]:
    """The reply items that put a user into the bridge and a VLAN (RFC 3580 3.31), with a tag ":1" or without."""
    return [
        'Mikrotik-Group = "bridged"',
        f"Tunnel-Type{tag} = VLAN",
        f"Tunnel-Medium-Type{tag} = IEEE-802",
        f'Tunnel-Private-Group-Id{tag} = "{number}"',
    ]


# Whom FreeRADIUS alone knows: without a tag, with the lowest and with the highest one (RFC 2868 3.1).
GRANTED: Final = {"staff": vlan(GREEN), "guest": vlan(RED, ":1"), "clerk": vlan(GREEN, ":31")}


class Served:
    """The farm in the machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def events(self, name: str) -> list[dict[str, Any]]:
        """All log events of that name."""
        written, _, _ = (self.machine.job / "serve.log").read_text().rpartition("\n")  # a line may be half there
        lines = written.splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return [event for event in found if event["event"] == name]

    def ports(self) -> dict[str, list[tuple[int, tuple[str, ...]]]]:
        """VLANs and their flags by port of br0."""
        found = json.loads(self.machine.run("bridge -json vlan show").output)
        return {
            port["ifname"]: [(entry["vlan"], tuple(entry.get("flags", ()))) for entry in port["vlans"]]
            for port in found
            if port["ifname"].startswith("sstp")
        }


@pytest.fixture(scope="module")
def served(machine: Machine, package: str) -> Iterator[Served]:
    """The farm in the machine, with FreeRADIUS beside the clients."""
    secret = {"password": PASSWORD, "bridge": "br0"}
    shared = {"local-address": "10.20.0.1", "remote-address": "pool:main"}
    server = {"listen": ["0.0.0.0:443"], "workers": 2, "authentication": ["pap"], "failure-delay-s": 0.1, "mrru": 1600}
    write_config(
        machine.job / "farm.toml",
        {
            "farm": {"state-directory": "/run/farm/state", "run-directory": "/run/farm/run", "log-format": "json"},
            "server": server,
            "auth": {"backends": ["local", "radius"]},
            "profile.default": shared,
            "profile.bridged": {**shared, "bridge": "br0"},
            "pool.main": {"ranges": ["10.20.0.2-10.20.0.99"]},
            "secret.green": {**secret, "bridge-port-vid": GREEN},
            "secret.red": {**secret, "bridge-port-vid": RED},
            "secret.plain": secret,
            "secret.unfiltered": {"password": PASSWORD, "bridge": "br1", "bridge-port-vid": GREEN},
            "radius": {
                "accounting": False,
                "server": [{"address": HOST, "secret": SECRET, "message-authenticator": "require"}],
            },
        },
    )
    users = {name: (PASSWORD, reply) for name, reply in GRANTED.items()}
    with freeradius(machine.place, users, address=HOST, client=GUEST):
        (machine.job / "serve.log").touch()  # the background shell may come to it later than we look
        started = machine.run(START.format(package=package))
        assert started.status == 0, started.output
        made = Served(machine)

        def is_up() -> bool:
            log = (machine.job / "serve.log").read_text()
            assert machine.run("kill -0 $(cat /job/serve.pid)").status == 0, log
            return "farm.ready" in log

        until(is_up, "the farm in the machine is ready", 120)
        yield made
        machine.run("kill -TERM $(cat /job/serve.pid)")
        until(lambda: made.events("farm.stopped"), "the farm in the machine has stopped", 60)
        assert made.ports() == {}


class Host:
    """A host behind a bridged session: one Ethernet address, frames made by hand."""

    def __init__(self, peer: RawPeer, number: int) -> None:
        self.peer = peer
        self.address = bytes((2, 0, 0x5E, 0, 0, number))

    def say(self, text: bytes, target: bytes = b"\xff" * 6) -> None:
        """Send a frame with that text."""
        frame = target + self.address + b"\x88\xb5" + text.ljust(46, b"\0")
        self.peer.send(data(BRIDGE_DATA, b"\x00\x01" + frame))

    def hears(self, text: bytes, patience: float = QUIET) -> bool:
        """Whether a frame with that text comes within that time."""

        def wanted(came: Packet) -> bool:
            return came.protocol == BRIDGE_DATA and came.information[14:].startswith(b"\x88\xb5" + text)

        try:
            self.peer.expect(wanted, patience)
        except StreamEndError as end:
            if end.how != "timeout":
                raise
            return False
        return True


def test_vlans_do_not_see_each_other(served: Served) -> None:
    """Users of one VLAN are one LAN, whether a secret or RADIUS says so; those of another one hear nothing of it."""
    users = {"green": GREEN, "staff": GREEN, "clerk": GREEN, "red": RED, "guest": RED, "plain": 1}
    with ExitStack() as held:
        hosts: dict[str, Host] = {}
        for number, name in enumerate(users):
            peer = held.enter_context(tls_peer(served.machine.place, GUEST))
            open_bridge(peer, name)
            hosts[name] = Host(peer, number)
        until(lambda: len(served.events("session.opened")) == len(users), "all sessions are open")
        interfaces = {event["user"]: event["interface"] for event in served.events("session.opened")}
        only = ("PVID", "Egress Untagged")
        assert served.ports() == {interfaces[name]: [(vid, only)] for name, vid in users.items()}
        for speaker, vid in users.items():
            text = os.urandom(16)
            hosts[speaker].say(text)
            wanted = {name for name, other in users.items() if other == vid} - {speaker}
            assert {name for name in wanted if hosts[name].hears(text, PATIENCE)} == wanted
            patience = QUIET  # once for all others: by then what would come to any of them has come
            for name in users.keys() - wanted:
                assert not hosts[name].hears(text, patience), f"{name} hears {speaker}"
                patience = 0.05
        hosts["red"].say(b"to green alone", hosts["green"].address)
        assert not hosts["green"].hears(b"to green alone")
        for host in hosts.values():
            host.peer.disconnect()
    until(lambda: served.ports() == {}, "no port of a session is left")


def test_a_bridge_that_does_not_filter(served: Served) -> None:
    with tls_peer(served.machine.place, GUEST) as peer:
        peer.until_authenticated("unfiltered")
        peer.packets_until_end()
    until(lambda: served.events("connection.refused"), "the refusal is logged")
    (refused,) = served.events("connection.refused")
    detail = "bridge br1: it does not filter VLANs (vlan_filtering)"
    assert (refused["reason"], refused["detail"]) == ("interface-failed", detail)
