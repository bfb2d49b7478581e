"""TUN devices: names, life time, what is refused."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

import pytest

from sstpfarm.errors import SystemRefusal
from sstpfarm.net.tun import InterfaceExists, check_name, make_tun
from tests.unit.inside import inside, namespace, needs_root


@pytest.mark.parametrize("name", ["a", "sstp0", "x" * 15, "wg-home.2"])
def test_good_names(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["", "x" * 16, "ä" * 8, "tünnel", "a/b", "a:b", "a b", "sstp%d", ".", "..", "a\n"])
def test_bad_names(name: str) -> None:
    with pytest.raises(SystemRefusal, match="interface name"):
        check_name(name)


@needs_root
def test_life_time() -> None:
    def scenario() -> None:
        persistent = make_tun("keeps")
        passing = make_tun("goes", persistent=False)
        assert not os.get_blocking(persistent)
        assert fcntl.fcntl(persistent, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        with pytest.raises(InterfaceExists, match="keeps"):
            make_tun("keeps")
        with pytest.raises(InterfaceExists, match="goes"):
            make_tun("goes", persistent=False)
        with pytest.raises(InterfaceExists, match="lo"):
            make_tun("lo")
        os.close(persistent)
        os.close(passing)
        socket.if_nametoindex("keeps")
        with pytest.raises(OSError, match=r"No such device|no interface"):
            socket.if_nametoindex("goes")
        with pytest.raises(InterfaceExists, match="keeps"):
            make_tun("keeps")  # not taken over although nobody holds it

    before = len(list(Path("/proc/self/fd").iterdir()))
    with namespace("tun") as place:
        inside(place, scenario)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
