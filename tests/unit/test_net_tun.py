"""TUN devices: names, life time, what is refused."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess

import pytest

from sstpfarm.errors import SystemRefusal
from sstpfarm.net.tun import InterfaceExists, Kind, check_name, keep_tun, make_tun
from tests.unit.descriptors import descriptors_closed
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
        keep_tun(persistent)
        passing = make_tun("goes")
        assert not os.get_blocking(persistent)
        assert fcntl.fcntl(persistent, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        with pytest.raises(InterfaceExists, match="keeps"):
            make_tun("keeps")
        with pytest.raises(InterfaceExists, match="goes"):
            make_tun("goes")
        with pytest.raises(InterfaceExists, match="lo"):
            make_tun("lo")
        os.close(persistent)
        os.close(passing)
        socket.if_nametoindex("keeps")
        with pytest.raises(OSError, match=r"No such device|no interface"):
            socket.if_nametoindex("goes")
        with pytest.raises(InterfaceExists, match="keeps"):
            make_tun("keeps")  # not taken over although nobody holds it

    with namespace("tun") as place, descriptors_closed():
        inside(place, scenario)


@needs_root
def test_a_tap_carries_ethernet_frames() -> None:
    frame = bytes.fromhex("ffffffffffff 0200c0ffee01 88b5") + bytes(46)  # 88b5: IEEE 802 local experimental EtherType

    def scenario() -> None:
        tap = make_tun("tap0", kind=Kind.TAP)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            subprocess.run(["ip", "link", "set", "tap0", "up"], check=True)
            wire.bind(("tap0", 0))
            wire.send(frame)
            found = []
            while frame not in found:  # the kernel's own IPv6 frames come as well
                found.append(os.read(tap, 2000))
        os.close(tap)

    with namespace("tap") as place:
        inside(place, scenario)
