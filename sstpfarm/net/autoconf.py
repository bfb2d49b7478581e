"""What the kernel learns for a link of router advertisements (RFC 4862): whether it may, and what it has learned."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

from sstpfarm.net import sysctl

ADDRESSES: Final = Path("/proc/thread-self/net/if_inet6")
ALSO_FORWARDING: Final = "2"  # accept_ra: a host that forwards has a router there all the same
PERMANENT: Final = 0x80  # IFA_F_PERMANENT, linux/if_addr.h: somebody has added it
GLOBAL: Final = "00"  # scope, RT_SCOPE_UNIVERSE


def learn(name: str) -> None:
    """Let a link make itself addresses as its router says, and no default route. Without IPv6 nothing happens."""
    with suppress(OSError):
        sysctl.write(f"net/ipv6/conf/{name}/accept_ra_defrtr", "0")
        sysctl.write(f"net/ipv6/conf/{name}/autoconf", "1")
        sysctl.write(f"net/ipv6/conf/{name}/accept_ra", ALSO_FORWARDING)


def follow_router(name: str, metric: int) -> None:
    """Let the default route of IPv6 go where the link's router is, from its next advertisement on.

    Args:
        metric: 0 stands for the one that goes before all others; Linux before 5.12 always takes 1024.
    """
    with suppress(OSError):
        sysctl.write(f"net/ipv6/conf/{name}/ra_defrtr_metric", str(max(1, metric)))
    with suppress(OSError):
        sysctl.write(f"net/ipv6/conf/{name}/accept_ra_defrtr", "1")


def learned_addresses(index: int) -> list[tuple[bytes, int]]:
    """Return (address, prefix length) of the global addresses that a link has made itself."""
    try:
        lines = ADDRESSES.read_text("ascii").splitlines()
    except OSError:  # no IPv6
        return []
    found = []
    for line in lines:
        address, number, length, scope, flags, _ = line.split()
        if int(number, 16) == index and scope == GLOBAL and not int(flags, 16) & PERMANENT:
            found.append((bytes.fromhex(address), int(length, 16)))
    return found
