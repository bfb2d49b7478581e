"""net/vrf.py: which link of the kernel's list is the VRF, and its table. The rest is in tests/interop."""

from __future__ import annotations

import struct

import pytest

from sstpfarm.errors import SystemRefusal
from sstpfarm.net.netlink import attribute, number
from sstpfarm.net.vrf import Vrf, find_vrf, parse_vrf


def link(name: str, kind: bytes, data: bytes) -> bytes:
    """A link as the kernel lists it."""
    info = attribute(1, kind + b"\0") + attribute(2, data)
    return struct.pack("=BxHiII", 0, 1, 7, 0, 0) + attribute(3, name.encode() + b"\0") + attribute(18, info)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (link("red", b"vrf", number(1, 1000)), Vrf(7, 1000)),
        (link("blue", b"vrf", number(1, 1000)), None),
        (link("red", b"bridge", number(1, 1000)), None),
        (link("red", b"vrf", b""), None),
        (link("red", b"vrf", attribute(1, b"\1")), None),
        (link("red", b"vrf", number(1, 1000))[:15], None),
        (b"", None),
    ],
)
def test_links(body: bytes, found: Vrf | None) -> None:
    assert parse_vrf(body, "red") == found


def test_none_there() -> None:
    with pytest.raises(SystemRefusal, match="there is no VRF red; make it first: ip link add red type vrf table"):
        find_vrf("red")
