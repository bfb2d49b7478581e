"""What the end-to-end tests share: the check of what they need, the wire and a farm for each module."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from .farm import Farm, running
from .freeradius import FreeRadius, freeradius
from .netns import Wire, wired

PROGRAMS = ("ip", "nft", "ping", "openssl")


@pytest.fixture(scope="session", autouse=True)
def _needs() -> None:
    """Root, a TUN device and four programs; without them nothing here can run, and the reason is printed."""
    if os.geteuid() != 0:
        pytest.skip("end-to-end tests make network namespaces and TUN devices: run them as root")
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (Debian: iproute2 nftables iputils-ping openssl)")
    if not Path("/dev/net/tun").exists():
        pytest.skip("/dev/net/tun does not exist: load the kernel module tun")


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    """A client's and a server's namespace; see `Wire` for the drawing."""
    with wired() as made:
        yield made


@pytest.fixture(scope="module")
def radius(request: pytest.FixtureRequest, wire: Wire) -> Iterator[FreeRadius]:
    """FreeRADIUS beside the farm, with the USERS of the module."""
    with freeradius(wire.server, request.module.USERS) as made:
        yield made


@pytest.fixture(scope="module")
def farm(wire: Wire) -> Iterator[Farm]:
    """A farm with two workers that takes PAP beside MS-CHAPv2, so that raw peers need no key arithmetic."""
    with running(wire.server, server={"authentication": ["mschap2", "pap"]}) as made:
        yield made
