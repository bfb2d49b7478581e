"""The systemd units keep what matters, the list of packages is well formed and used."""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Final

import pytest

from sstpfarm.client.daemon import CAPABILITIES
from sstpfarm.config.client import Client
from sstpfarm.reasons import ExitCode

ROOT: Final = Path(__file__).resolve().parents[2]
DEPLOY: Final = ROOT / "deploy"


def unit_settings(unit: str = "sstpfarm.service") -> dict[str, list[str]]:
    """A unit's settings; a key can occur more than once, so configparser will not do."""
    settings = defaultdict(list)
    for line in (DEPLOY / unit).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            settings[key].append(value)
    return settings


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("Type", "notify"),
        ("KillMode", "mixed"),  # else systemd would end workers and auth beside the master's back
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("ProtectKernelTunables", "yes"),
        ("ReadWritePaths", "/proc/sys/net"),
        ("DevicePolicy", "closed"),
        ("DeviceAllow", "/dev/net/tun rw"),
        ("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6 AF_NETLINK"),
        ("MemoryDenyWriteExecute", "yes"),
        ("SystemCallFilter", "@system-service"),
        ("LimitCORE", "0"),
        ("AmbientCapabilities", ""),
        ("StateDirectory", "sstpfarm"),
        ("RuntimeDirectory", "sstpfarm"),
    ],
)
def test_unit_setting(key: str, value: str) -> None:
    assert unit_settings()[key] == [value]


def test_unit_capabilities_are_a_closed_set() -> None:
    [bounding] = unit_settings()["CapabilityBoundingSet"]
    assert set(bounding.split()) == {
        "CAP_NET_ADMIN",
        "CAP_NET_BIND_SERVICE",
        "CAP_SETUID",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_KILL",
        "CAP_CHOWN",
        "CAP_FOWNER",
        "CAP_DAC_OVERRIDE",
    }


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("Type", "notify"),
        ("ExecReload", "/bin/kill -HUP $MAINPID"),
        ("KillMode", "mixed"),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "true"),  # /etc/resolv.conf
        ("ProtectHome", "yes"),
        ("ProtectKernelTunables", "yes"),
        ("ReadWritePaths", "/proc/sys/net"),
        ("DevicePolicy", "closed"),
        ("DeviceAllow", "/dev/net/tun rw"),
        ("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6 AF_NETLINK"),
        ("MemoryDenyWriteExecute", "yes"),
        ("SystemCallFilter", "@system-service"),
        ("LimitCORE", "0"),
        ("AmbientCapabilities", ""),
        ("RuntimeDirectory", Path(Client().run_directory).name),
        ("RuntimeDirectoryPreserve", "restart"),
    ],
)
def test_client_unit_setting(key: str, value: str) -> None:
    assert unit_settings("sstpfarm-client.service")[key] == [value]


def test_client_unit_grants_what_the_client_keeps() -> None:
    [bounding] = unit_settings("sstpfarm-client.service")["CapabilityBoundingSet"]
    assert set(bounding.split()) == {f"CAP_{name}" for name in CAPABILITIES}


@pytest.mark.parametrize("unit", ["sstpfarm.service", "sstpfarm-client.service"])
def test_unit_does_not_repeat_a_mistake_of_the_operator(unit: str) -> None:
    assert unit_settings(unit)["RestartPreventExitStatus"] == [f"{ExitCode.USAGE:d} {ExitCode.CONFIG:d}"]


@pytest.mark.parametrize("unit", ["sstpfarm.service", "sstpfarm-client.service"])
def test_unit_tries_again_for_ever_what_may_pass(unit: str) -> None:
    settings = unit_settings(unit)
    assert settings["Restart"] == ["on-failure"]
    assert settings["StartLimitIntervalSec"] == ["0"]  # systemd's own: five starts in ten seconds
    assert "StartLimitBurst" not in settings
    assert settings["RestartSec"] == ["5"]
    (after,) = settings["After"]
    assert {"network-online.target", "time-sync.target"} <= set(after.split())


@pytest.mark.parametrize("unit", ["sstpfarm.service", "sstpfarm-client.service"])
def test_journald_keeps_every_line(unit: str) -> None:
    assert unit_settings(unit)["LogRateLimitIntervalSec"] == ["0"]


def test_every_package_has_a_group_and_a_purpose() -> None:
    lines = [line for line in (DEPLOY / "debian-packages.txt").read_text().splitlines() if line and line[0] != "#"]
    entries = [line.split(maxsplit=2) for line in lines]
    assert all(len(entry) == 3 and entry[0] in {"base", "bench", "interop", "test"} for entry in entries)
    names = [entry[1] for entry in entries]
    assert len(names) == len(set(names))


def test_an_unknown_group_of_packages_is_refused() -> None:
    done = subprocess.run([DEPLOY / "install-packages", "no-such-group"], capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert "usage" in done.stderr


@pytest.mark.parametrize("script", [DEPLOY / "install-packages", ROOT / ".ci" / "run", ROOT / "tests/interop/vm/build"])
def test_scripts_are_executable_and_parse(script: Path) -> None:
    assert script.stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert re.search(r"^set -euo pipefail$", script.read_text(), re.MULTILINE)
