"""What must hold for [interface.NAME], the static interfaces."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sstpfarm.config.report import Report, show

if TYPE_CHECKING:
    from sstpfarm.config.schema import Config

GOOD_NAME: Final = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._@+-]{1,15}", re.ASCII)
OUR_NAME: Final = re.compile(r"sstp([0-9]+|probe.*|gw)", re.ASCII)  # `master.devices`, `net.tun`, `net.shared`
NAMES: Final = "1 to 15 of the letters A to Z and a to z, digits, . _ @ + -"


def check_interfaces(config: Config, report: Report) -> None:
    """Report names that no interface can have, or that the farm gives itself."""
    for name in config.interface:
        if not GOOD_NAME.fullmatch(name):
            report.add(("interface", name), f"is no interface's name; allowed: {NAMES}")
        elif OUR_NAME.fullmatch(name):
            allowed = "any but sstpgw, or sstp and a number"
            report.add(("interface", name), f"is a name that the farm gives itself; allowed: {allowed}")


def interface_warnings(config: Config) -> list[str]:
    """Return what is allowed and yet worth a second look."""
    if "radius" in config.auth.backends:
        return []  # the user may be there
    return [
        f"interface.{name}.user: there is no secret {show(interface.user)}"
        for name, interface in config.interface.items()
        if interface.user not in config.secret
    ]
