"""One virtual machine and one farm for all interop tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

import pytest

from sstpfarm.cli import throughput
from tests.e2e.farm import Farm, running
from tests.e2e.freeradius import SECRET, freeradius
from tests.e2e.netns import Namespace, namespace

from .machine import Machine, machine_in
from .package import place_package

# pppd turns each byte of a password into one UTF-16 unit: only ASCII is the same for both sides.
PASSWORD: Final = "interop-Secret 1"
USERS: Final = ("ann", "ben", "cy")
RADIUS_USER: Final = "rita"  # whom FreeRADIUS alone knows
RADIUS_ADDRESS: Final = "10.20.201.1"
FIXED: Final = "10.20.200.1"  # always ben's address, outside of the pool
NETWORK: Final = "10.30.0.0/24"  # behind ben's machine
BEHIND: Final = "10.30.0.1"
MTU: Final = 1400  # what Windows asks for too
MRRU: Final = 1600  # for those who speak multilink
TRANSFER_PORT: Final = 5001


@pytest.fixture(scope="session")
def place() -> Iterator[Namespace]:
    """The server's namespace."""
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces, a tap and a virtual machine")
    with namespace("interop") as made:
        yield made


@pytest.fixture(scope="session")
def machine(place: Namespace) -> Iterator[Machine]:
    """The machine, booted, with the transfer program in /job."""
    with machine_in(place) as booted:
        shutil.copy(throughput.__file__, booted.job / "throughput.py")
        yield booted


@pytest.fixture(scope="session")
def package(machine: Machine) -> str:
    """This package with all that it needs, in the machine: the path of its directory there."""
    place_package(machine.job / "package")
    return "/job/package"


@pytest.fixture(scope="session")
def farm(place: Namespace, machine: Machine) -> Iterator[Farm]:
    """The farm, with all methods of sstpc; beside it FreeRADIUS and the other end of the transfers."""
    methods = ["mschap2", "mschap1", "chap", "pap"]
    secrets: dict[str, dict[str, object]] = {user: {"password": PASSWORD} for user in USERS}
    secrets["ben"] |= {"remote-address": FIXED, "routes": [NETWORK], "dns-server": ["10.20.0.53", "10.20.0.54"]}
    server = {"authentication": methods, "max-mtu": MTU, "max-mru": MTU, "mrru": MRRU}
    radius = {"server": [{"address": "127.0.0.1", "secret": SECRET, "message-authenticator": "require"}]}
    with (
        freeradius(place, {RADIUS_USER: (PASSWORD, [f"Framed-IP-Address = {RADIUS_ADDRESS}"])}),
        running(
            place,
            server=server,
            secrets=secrets,
            auth={"backends": ["local", "radius"]},
            tables={"radius": radius},
        ) as started,
    ):
        peer = subprocess.Popen(
            place.argv(sys.executable, throughput.__file__, "serve", str(TRANSFER_PORT)), stdout=subprocess.PIPE
        )
        try:
            assert peer.stdout is not None
            with peer.stdout as output:
                assert output.readline() == b"ready\n"
                yield started
        finally:
            peer.kill()
            peer.wait()
