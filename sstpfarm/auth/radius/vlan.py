"""The VLAN that an Access-Accept puts a bridged session into (RFC 3580 3.31, RFC 2868).

Tunnel-Type VLAN (13), Tunnel-Medium-Type IEEE-802 (6) and Tunnel-Private-Group-Id belong together by their tags.
"""

from __future__ import annotations

from typing import Final

from sstpfarm.auth.radius.packet import Attributes, MalformedAttributeError
from sstpfarm.config.fields import VID_MAX

VLAN: Final = 13  # Tunnel-Type, RFC 3580 3.31
IEEE_802: Final = 6  # Tunnel-Medium-Type, RFC 2868 3.2
MAX_TAG: Final = 0x1F  # RFC 2868 3.6: a first byte above it is the text's own
MAX_SHOWN: Final = 80  # characters of a text in a message


def vlan_of(reply: Attributes) -> int | None:
    """Return the VLAN, 1 to 4094, or None when the reply names none.

    Raises:
        ValueError: what it says cannot be honoured. So it is with tunnels of other types alone: RFC 2868 3.1 wants such
            an Access-Accept to be taken for an Access-Reject.
        MalformedAttributeError: an attribute has a wrong length, or is no text.
    """
    types, media = _numbers(reply, "Tunnel-Type"), _numbers(reply, "Tunnel-Medium-Type")
    if types and VLAN not in types.values():
        raise ValueError(f"Tunnel-Type is {next(iter(types.values()))}, not {VLAN} (VLAN)")
    groups = [(tag, text) for tag, text in _groups(reply) if types.get(tag, VLAN) == VLAN]
    if not groups:
        if types:
            raise ValueError(f"Tunnel-Type is {VLAN} (VLAN), and no Tunnel-Private-Group-Id has its tag")
        return None
    for tag, _ in groups:
        if media.get(tag, IEEE_802) != IEEE_802:
            raise ValueError(f"Tunnel-Medium-Type is {media[tag]}, not {IEEE_802} (IEEE 802)")
    names = {text for _, text in groups}
    if len(names) > 1:
        raise ValueError("Tunnel-Private-Group-Id names several VLANs")
    (name,) = names
    if not (name.isascii() and name.isdecimal() and len(name) <= len(str(VID_MAX)) and 1 <= int(name) <= VID_MAX):
        raise ValueError(f"Tunnel-Private-Group-Id is {name[:MAX_SHOWN]!r}, not a VLAN from 1 to {VID_MAX}")
    return int(name)


def _numbers(reply: Attributes, name: str) -> dict[int, int]:
    """Return a number of 24 bits for each tag (RFC 2868 3.1); of several with one tag the first."""
    found: dict[int, int] = {}
    for value in reply.all(name):
        if len(value) != 4:
            raise MalformedAttributeError(f"{name} has {len(value)} bytes, not 4")
        found.setdefault(value[0], int.from_bytes(value[1:], "big"))
    return found


def _groups(reply: Attributes) -> list[tuple[int, str]]:
    """Return the tag and the text of each Tunnel-Private-Group-Id (RFC 2868 3.6); without a tag that is 0."""
    found = []
    for value in reply.all("Tunnel-Private-Group-Id"):
        tagged = value[:1] <= bytes((MAX_TAG,))
        try:
            text = value[tagged:].decode()
        except UnicodeDecodeError:
            raise MalformedAttributeError("Tunnel-Private-Group-Id is not UTF-8 text") from None
        found.append((value[0] if tagged and value else 0, text))
    return found
