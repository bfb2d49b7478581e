"""Kernel settings come back as they were, unless someone else has changed them."""

from __future__ import annotations

import pytest

from sstpfarm.errors import SystemRefusal
from sstpfarm.net import sysctl
from tests.unit.inside import inside, namespace, needs_root

HOPS = "net/ipv4/ip_default_ttl"


@needs_root
def test_restored() -> None:
    def scenario() -> None:
        settings = sysctl.Sysctl()
        assert sysctl.read(sysctl.IPV4_FORWARDING) == "0"
        settings.set(sysctl.IPV4_FORWARDING, "1")
        settings.set(HOPS, "99")
        assert sysctl.read(sysctl.IPV4_FORWARDING) == "1"
        sysctl.write(HOPS, "77")  # the operator's hand
        settings.restore()
        assert sysctl.read(sysctl.IPV4_FORWARDING) == "0"
        assert sysctl.read(HOPS) == "77"

        sysctl.write(sysctl.IPV4_FORWARDING, "1")
        settings.set(sysctl.IPV4_FORWARDING, "1")  # it was so before us: it stays
        settings.restore()
        assert sysctl.read(sysctl.IPV4_FORWARDING) == "1"

    with namespace("sysctl") as place:
        inside(place, scenario)


def test_unknown_setting() -> None:
    with pytest.raises(SystemRefusal, match="no_such_setting"):
        sysctl.Sysctl().set("net/ipv4/no_such_setting", "1")
