"""Which packet path runs: the native one where it was built, unless SSTPFARM_DATAPLANE says otherwise.

The process that opens the TUN devices chooses, once, and tells those that read them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sstpfarm.dataplane.interface import Offload, PacketPath
from sstpfarm.dataplane.pure import PurePath
from sstpfarm.errors import ConfigError

try:
    from sstpfarm.dataplane._fast import FastPath
except ImportError as error:  # no compiler when the package was installed
    _missing = str(error)
else:
    _missing = ""

PATH_VARIABLE: Final = "SSTPFARM_DATAPLANE"
OFFLOAD_VARIABLE: Final = "SSTPFARM_OFFLOAD"
PURE: Final = "pure"
FAST: Final = "fast"


@dataclass(frozen=True, slots=True)
class Dataplane:
    """A packet path, and the offload of the devices that it reads.

    Attributes:
        name: "pure" or "fast".
        offload: for `choose` the most that may be tried; what the kernel grants may be less.
    """

    name: str
    offload: Offload

    def __str__(self) -> str:
        return f"{self.name}:{self.offload.name.lower()}"

    @classmethod
    def parse(cls, text: str) -> Dataplane:
        """Read what `str` wrote; ValueError when it did not."""
        name, _, offload = text.partition(":")
        if name not in (PURE, FAST) or offload.upper() not in Offload.__members__:
            raise ValueError(f"no packet path: {text!r}")
        return cls(name, Offload[offload.upper()])

    def make_path(self, totals: memoryview, slot: memoryview) -> PacketPath:
        """Return the packet path of a new session; it counts in these cells (`pure.PurePath`)."""
        if self.name == FAST:
            return FastPath(totals, slot, self.offload)
        return PurePath(totals, slot)


def shortfall(environment: Mapping[str, str] | None = None) -> str:
    """Return why the packet path in Python runs although nobody asked for it, and what helps; "" where it does not."""
    variables = os.environ if environment is None else environment
    if not _missing or variables.get(PATH_VARIABLE):
        return ""
    return (
        f"the native packet path is not there ({_missing}): the one in Python takes up to five times the CPU; "
        f"install gcc, libc6-dev and python3-dev, then sstpfarm again, or set {PATH_VARIABLE}={PURE}"
    )


def choose(environment: Mapping[str, str] | None = None) -> Dataplane:
    """Return the packet path to run, and the offload to try for.

    Raises:
        ConfigError: a variable has a value that it cannot have, or asks for the native path, which was not built.
    """
    variables = os.environ if environment is None else environment
    wanted = variables.get(PATH_VARIABLE, "")
    if wanted not in ("", PURE, FAST):
        raise ConfigError(f"{PATH_VARIABLE}={wanted}: it is {PURE} or {FAST}")
    if wanted == FAST and _missing:
        raise ConfigError(
            f"{PATH_VARIABLE}={FAST}: the native packet path is not there ({_missing}); "
            "install sstpfarm again where gcc and the headers of Python are, or take the variable away"
        )
    levels = {level.name.lower(): level for level in Offload}
    limit = variables.get(OFFLOAD_VARIABLE, Offload.USO.name.lower())
    if limit not in levels:
        raise ConfigError(f"{OFFLOAD_VARIABLE}={limit}: it is one of {', '.join(levels)}")
    if wanted == PURE or _missing:
        return Dataplane(PURE, Offload.NONE)
    return Dataplane(FAST, levels[limit])
