"""Kernel settings come back as they were, unless someone else has changed them."""

from __future__ import annotations

from pathlib import Path

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


@needs_root
def test_a_killed_process_is_made_good_by_the_next(tmp_path: Path) -> None:
    journal = tmp_path / "sysctl.json"

    def scenario() -> None:
        killed = sysctl.Sysctl(journal)
        killed.set(sysctl.IPV4_FORWARDING, "1")
        killed.set(HOPS, "99")
        sysctl.write(HOPS, "77")
        settings = sysctl.Sysctl(journal)
        settings.recover()
        assert sysctl.read(sysctl.IPV4_FORWARDING) == "0"
        assert sysctl.read(HOPS) == "77"  # the operator's hand
        assert not journal.exists()
        settings.recover()
        settings.set(sysctl.IPV4_FORWARDING, "1")
        settings.restore()
        assert not journal.exists()

    def elsewhere() -> None:
        sysctl.write(sysctl.IPV4_FORWARDING, "1")  # the operator's, in another namespace or after another boot
        sysctl.Sysctl(journal).recover()
        assert sysctl.read(sysctl.IPV4_FORWARDING) == "1"
        assert not journal.exists()

    with namespace("sysctl") as place, namespace("other") as other:
        inside(place, scenario)
        inside(place, lambda: sysctl.Sysctl(journal).set(sysctl.IPV4_FORWARDING, "1"))
        inside(other, elsewhere)


def test_a_broken_journal_is_no_obstacle(tmp_path: Path) -> None:
    journal = tmp_path / "sysctl.json"
    journal.write_bytes(b'{"life": 1')
    sysctl.Sysctl(journal).recover()
    assert not journal.exists()


def test_unknown_setting() -> None:
    with pytest.raises(SystemRefusal, match="no_such_setting"):
        sysctl.Sysctl().set("net/ipv4/no_such_setting", "1")
