"""The face that the pure and the native packet path share.

A packet path stands between the decrypted SSTP byte stream of one session and its TUN descriptor. It sees every
frame, passes network packets through its gates, and hands control frames back one at a time: `feed` stops behind
each control frame, so that what that frame changes (a gate, above all) holds for the very next byte.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final, Protocol

SSTP_HEADER: Final = 4  # MS-SSTP 2.2.1: version, C bit, length
PPP_HEADER: Final = 4  # FF 03 and a 2-byte protocol; always sent so (PROTOCOL 6.1)
HEADROOM: Final = SSTP_HEADER + PPP_HEADER
MAX_FRAME: Final = 4095  # 12-bit length, MS-SSTP 2.2.1
MAX_PACKET: Final = 16384  # the largest packet that fragments may carry (RFC 1990); ours


class Cell(IntEnum):
    """Index of each 64-bit counter in a session's slot and in a worker's totals. All but ACTIVE only grow."""

    BYTES_IN = 0  # PPP information bytes of network packets from the peer that were passed on
    PACKETS_IN = 1
    BYTES_OUT = 2
    PACKETS_OUT = 3
    DROP_GATE_IN = 4  # network data before SSTP and the NCP are open
    DROP_GATE_OUT = 5  # the kernel's packets before the gate is open
    DROP_SOURCE = 6  # source address does not belong to the session
    DROP_MALFORMED = 7  # IP version or length wrong, truncated
    DROP_TOO_LARGE = 8  # longer than the limit of its direction
    DROP_PROTOCOL = 9  # PPP network protocol that nothing here serves
    DROP_TUN = 10  # the kernel refused the write (device down, no memory)
    CONTROL_IN = 11  # control frames handed to Python
    DROP_QUEUE = 12  # shed because the way to the peer is too slow
    DROP_RATE = 13  # shed because the session has used up its rate limit, or has asked its router too often
    DROP_FRAGMENT = 14  # fragments of RFC 1990 that followed nothing, packets that stayed unfinished
    ACTIVE = 15  # milliseconds of CLOCK_MONOTONIC at the last packet that passed; 0 before, and in the totals


CELLS: Final = len(Cell)
DROP_CELLS: Final = {
    "gate-in": Cell.DROP_GATE_IN,
    "gate-out": Cell.DROP_GATE_OUT,
    "source": Cell.DROP_SOURCE,
    "malformed": Cell.DROP_MALFORMED,
    "too-large": Cell.DROP_TOO_LARGE,
    "protocol": Cell.DROP_PROTOCOL,
    "tun": Cell.DROP_TUN,
    "queue": Cell.DROP_QUEUE,
    "rate": Cell.DROP_RATE,
    "fragment": Cell.DROP_FRAGMENT,
}


class Gate(IntFlag):
    """What may pass, in both directions: IP on a TUN device, Ethernet frames on a TAP device."""

    NONE = 0
    IPV4 = 1
    IPV6 = 2
    BRIDGE = 4
    TAGGED = 8  # frames with an IEEE 802.1Q tag towards the peer too


class RouterRole(IntEnum):
    """Who answers the peer when it asks the router of the link.

    It asks with router solicitations (RFC 4861 4.1) and DHCPv6 messages (RFC 8415) that are directly behind the fixed
    header and go to ff02::2, ff02::1:2 or a link-local address.
    """

    KERNEL = 0  # they pass like any other packet
    PYTHON = 1  # `feed` and `deliver` hand them out
    NOBODY = 2  # they are dropped: too many of them


class Offload(IntEnum):
    """How much a TUN device and its packet path leave to each other; each step includes those before it.

    It is a property of the device: who opens it (`net.tun`) and the path that reads it must agree.
    """

    NONE = 0  # one packet for each read and write, nothing in front of it
    HEADER = 1  # struct virtio_net_hdr in front (linux/virtio_net.h), which asks for nothing
    TSO = 2  # TCP super-packets, unfinished checksums
    USO = 3  # UDP super-packets too: Linux 6.2


class FramingError(Exception):
    """The stream cannot be trusted any more: version not 0x10, or a length below the header (MS-SSTP 3.1.5)."""


class PacketPath(Protocol):
    """The packet path of one session. Not thread-safe; no call blocks, the TUN descriptor is non-blocking."""

    def attach(self, tun: int, *, bridged: bool = False) -> None:
        """Use `tun` from now on; the caller keeps ownership.

        It is a non-blocking descriptor, IFF_TUN | IFF_NO_PI, of the offload that the path was made for; with `bridged`
        it is IFF_TAP | IFF_NO_PI without offload, and IP packets pass only inside of Ethernet frames.
        """

    def detach(self) -> None:
        """Forget the descriptor; packets in either direction are dropped from now on. Idempotent."""

    def set_gates(self, gates: Gate) -> None:
        """Open exactly these in both directions."""

    def set_limits(self, *, receive: int, send: int) -> None:
        """Bound the PPP information field, in bytes, of packets from the peer and towards it."""

    def set_multilink(self, *, header: int, receive: int, send: int) -> None:
        """Let larger packets travel in fragments (RFC 1990), which are made and put together elsewhere.

        Args:
            header: bytes of the header of the peer's fragments, 2 or 4; 0 for no fragments. A fragment that is a whole
                IP packet or Ethernet frame is dealt with here, every other comes back from `feed`.
            receive, send: bytes of a whole packet's information field, at most MAX_PACKET; 0 for no fragments.
        """

    def set_sources(self, ipv4: tuple[tuple[int, int], ...], ipv6: tuple[tuple[int, int], ...]) -> None:
        """Accept packets from the peer only from these networks: pairs of (network, mask) as integers.

        An empty tuple accepts nothing of that family; ((0, 0),) accepts every source (client side). Addresses inside
        of Ethernet frames are not looked at: a bridge's networks are not known here.
        """

    def set_router(self, role: RouterRole) -> None:
        """Choose who answers what asks the router of the link from now on; at first it is the kernel."""

    def feed(self, data: memoryview) -> tuple[int, bytes | None]:
        """Take decrypted bytes; write network packets that pass to the TUN.

        Returns:
            (consumed, control): all bytes up to and including the first control frame, and that frame: the whole
            SSTP packet, header included, when its C bit is set, or a whole SSTP data packet that carries a PPP
            control frame (protocol number 0x8000 and above), a fragment (003d), or a network protocol that needs
            PPP's answer (a network protocol other than IPv4, IPv6 and bridged frames comes back too), or what asks
            the router (`set_router`).
            control is None when `data` is used up; an incomplete frame is kept (at most 4095 bytes).
            Call again with `data[consumed:]` until control is None.

        Raises:
            FramingError: drop the connection; the object must not be fed again.
        """

    def deliver(self, packet: bytes) -> bool:
        """Take a packet that was put together of fragments, protocol field first, with or without FF 03.

        It meets the same checks as those of `feed`, but for its size: up to what `set_multilink` says. What is not
        network data is dropped and counted so.

        Returns:
            Whether it asks the router (`set_router`): then it is the caller's.
        """

    def lose(self, count: int) -> None:
        """Count that many fragments that could not be put together."""

    def drain(self, out: memoryview, shed: bool = False) -> tuple[int, bool]:
        """Read packets from the TUN and put SSTP data packets into `out` (at least MAX_FRAME bytes).

        With `shed`, the last of them is dropped and counted so: the queue is to become shorter.

        Returns:
            (filled, more): bytes written; more is True when the work bound was reached before the TUN was empty.
            What is left of a super-packet that did not fit is kept, and makes no descriptor readable: call again.
            Packets that meet a closed gate are read, counted and dropped. A packet that only fits in fragments ends
            the call, with `more`: it is behind those in `out`, and `large` gives it.

        Raises:
            OSError: the TUN no longer reads (its device is gone): detach, and end the session.
        """

    def large(self) -> bytes | None:
        """Return and forget the packet, protocol field first, with which the last `drain` ended; None for none.

        As long as it is not taken, `drain` gives nothing more.
        """

    def discard(self) -> bool:
        """Read packets from the TUN, to the same bound, and drop them: the session has used up its rate limit.

        Returns:
            Whether the bound was reached before the TUN was empty.

        Raises:
            OSError: as `drain`.
        """
