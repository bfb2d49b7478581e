"""What a peer says of itself in LCP Identification (RFC 1570 2.1); Windows tells the version of its RAS and its name.

Windows sends ``MSRASV5.20`` and ``MSRAS-0-`` with its computer name behind it, before authentication.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

MAX_TEXT: Final = 32  # characters; MS-RAS-Client-Name holds no more beside its null character (MS-RNAP 2.2.1.1)
_VERSION: Final = re.compile(rb"MSRASV[!-~]*")
_NAME: Final = re.compile(rb"MSRAS-[0-9]{1,2}-([A-Za-z0-9!@#$%^&')(._{}~-]+)")  # the characters of MS-RNAP 2.2.1.1


class Identification(NamedTuple):
    """What has been said so far: printable ASCII, at most 32 characters each; empty where nothing was."""

    version: str = ""
    name: str = ""

    def heard(self, text: bytes) -> Identification:
        """Return it with one more text; what is said already stays, and what is neither of the two is left out."""
        if not self.version and len(text) <= MAX_TEXT and _VERSION.fullmatch(text):
            return self._replace(version=text.decode("ascii"))
        found = _NAME.fullmatch(text) if not self.name else None
        if found is not None and len(found[1]) <= MAX_TEXT:
            return self._replace(name=found[1].decode("ascii"))
        return self


UNIDENTIFIED: Final = Identification()
