"""TUN devices: make one, and get the descriptor through which its packets pass."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from typing import Final

from sstpfarm.errors import SystemRefusal

CLONE_DEVICE: Final = "/dev/net/tun"
# linux/if_tun.h
TUNSETIFF: Final = 0x400454CA
TUNSETPERSIST: Final = 0x400454CB
IFF_TUN: Final = 0x0001
IFF_NO_PI: Final = 0x1000
NAME_BYTES: Final = 15  # IFNAMSIZ less the closing zero, linux/if.h
_IFREQ: Final = struct.Struct("16sH22x")  # struct ifreq: name, flags, rest of the union


class InterfaceExists(SystemRefusal):
    """An interface of that name is there already; it is not ours to take over."""


def make_tun(name: str, *, persistent: bool = True) -> int:
    """Return the non-blocking descriptor of a new TUN device; each read and write is one IP packet without a header.

    The caller owns the descriptor, which is closed on exec. A persistent device lives on when the descriptor is
    closed (so the process that held it dies quickly) until `Links.delete`; another goes with its last descriptor.

    Raises:
        InterfaceExists: the name is taken.
        SystemRefusal: the name is unusable, /dev/net/tun is missing or forbidden, or the kernel refused.
    """
    check_name(name)
    if _exists(name):  # TUNSETIFF would attach to a persistent device that someone else made
        raise InterfaceExists(f"interface {name} exists already")
    try:
        fd = os.open(CLONE_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SystemRefusal(f"{CLONE_DEVICE}: {error.strerror}: is the tun module there, and are we root?") from error
    try:
        fcntl.ioctl(fd, TUNSETIFF, _IFREQ.pack(name.encode("ascii"), IFF_TUN | IFF_NO_PI))
        if persistent:
            fcntl.ioctl(fd, TUNSETPERSIST, 1)
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.EBUSY, errno.EEXIST, errno.EINVAL) and _exists(name):
            raise InterfaceExists(f"interface {name} exists already") from error
        raise SystemRefusal(f"TUN device {name}: {error.strerror}") from error
    return fd


def check_name(name: str) -> None:
    """Refuse what the kernel's dev_valid_name refuses, and what is not plain ASCII.

    Raises:
        SystemRefusal: with the rule that was broken.
    """
    if not 1 <= len(name.encode()) <= NAME_BYTES:
        raise SystemRefusal(f"interface name {name!r}: it takes 1 to {NAME_BYTES} bytes")
    if not name.isascii() or not name.isprintable() or name in (".", "..") or set(name) & set("/: %"):
        raise SystemRefusal(f"interface name {name!r}: no '/', ':', '%', space, or anything but printable ASCII")


def _exists(name: str) -> bool:
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True
