"""What the protocol core agreed on, as the packet path is told it."""

from __future__ import annotations

from sstpfarm.dataplane.interface import Gate, PacketPath
from sstpfarm.proto.events import LcpOpened
from sstpfarm.proto.tunnel import GatesChanged


def gates_of(event: GatesChanged) -> Gate:
    """Return the gates that are to be open."""
    gates = Gate.NONE
    for is_open, gate in (
        (event.ipv4, Gate.IPV4),
        (event.ipv6, Gate.IPV6),
        (event.bridge, Gate.BRIDGE),
        (event.tagged, Gate.TAGGED),
    ):
        gates |= gate if is_open else Gate.NONE
    return gates


def set_limits(path: PacketPath, event: LcpOpened) -> None:
    """Bound packets by what LCP agreed on."""
    path.set_limits(receive=event.receive_limit, send=event.send_limit)
    terms = event.multilink
    if terms is None:
        path.set_multilink(header=0, receive=0, send=0)
    else:
        path.set_multilink(header=terms.receive_header, receive=terms.receive_mrru, send=terms.send_mrru)
