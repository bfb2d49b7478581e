"""TUN and TAP devices: make one, and get the descriptor through which its packets or frames pass."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from enum import IntEnum
from typing import Final

from sstpfarm.dataplane.interface import Offload
from sstpfarm.errors import SystemRefusal

CLONE_DEVICE: Final = "/dev/net/tun"
# linux/if_tun.h
TUNSETIFF: Final = 0x400454CA
TUNSETPERSIST: Final = 0x400454CB
TUNSETOFFLOAD: Final = 0x400454D0
TUNGETIFF: Final = 0x800454D2
TUNSETVNETHDRSZ: Final = 0x400454D8
IFF_TUN: Final = 0x0001
IFF_TAP: Final = 0x0002
IFF_NO_PI: Final = 0x1000
IFF_VNET_HDR: Final = 0x4000
_CSUM, _TSO4, _TSO6, _USO4, _USO6 = 0x01, 0x02, 0x04, 0x20, 0x40
FEATURES: Final = {
    Offload.HEADER: 0,
    Offload.TSO: _CSUM | _TSO4 | _TSO6,
    Offload.USO: _CSUM | _TSO4 | _TSO6 | _USO4 | _USO6,  # the kernel takes USO4 and USO6 only together
}
VNET_HEADER: Final = 10  # struct virtio_net_hdr, linux/virtio_net.h
NAME_BYTES: Final = 15  # IFNAMSIZ less the closing zero, linux/if.h
PROBE: Final = "sstpprobe%d"  # the kernel puts the first free number
_IFREQ: Final = struct.Struct("16sH22x")  # struct ifreq: name, flags, rest of the union


class Kind(IntEnum):
    """What passes through a device: IP packets (TUN), or Ethernet frames (TAP) from the destination address on."""

    TUN = IFF_TUN
    TAP = IFF_TAP


class InterfaceExists(SystemRefusal):
    """An interface of that name is there already; it is not ours to take over."""


class InterfaceHeld(SystemRefusal):
    """Some process still holds a descriptor of the device."""


def make_tun(name: str, *, kind: Kind = Kind.TUN, offload: Offload = Offload.NONE) -> int:
    """Return the non-blocking descriptor of a new device, of that offload.

    Each read and write is one IP packet or Ethernet frame, with a virtio_net_hdr of 10 bytes in front unless `offload`
    is NONE (then the kernel segments, and fills checksums, before it hands a packet out).
    The caller owns the descriptor, which is closed on exec. The device goes with its last descriptor, unless `keep_tun`
    was called.

    Raises:
        InterfaceExists: the name is taken.
        SystemRefusal: the name is unusable, /dev/net/tun is missing or forbidden, or the kernel refused.
    """
    check_name(name)
    if _exists(name):  # TUNSETIFF would attach to a persistent device that someone else made
        raise InterfaceExists(f"interface {name} exists already")
    fd = _open()
    try:
        _attach(fd, name, kind, offload)
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.EBUSY, errno.EEXIST, errno.EINVAL) and _exists(name):
            raise InterfaceExists(f"interface {name} exists already") from error
        raise SystemRefusal(f"{kind.name} device {name}: {error.strerror}") from error
    return fd


def keep_tun(fd: int) -> None:
    """Let the device live on when the descriptor is closed (so the process that held it dies quickly) until
    `Links.delete`. OSError when refused.

    It belongs into its group before: what somebody killed between the two would leave is not found again.
    """
    fcntl.ioctl(fd, TUNSETPERSIST, 1)


def attach_tun(name: str, index: int, *, offload: Offload = Offload.NONE) -> int:
    """Return a new descriptor of the persistent TUN device of that name and index, as `make_tun` does of a new one.

    No packet that was queued for a descriptor before comes out of this one: the queue belongs to the descriptor.

    Raises:
        InterfaceHeld: a process still holds a descriptor of it.
        SystemRefusal: the device is gone, is another one by now, or the kernel refused.
    """
    fd = _open()
    try:
        _attach(fd, name, Kind.TUN, offload)
        if socket.if_nametoindex(name) != index:  # a new one that the kernel just made, or somebody else's
            raise SystemRefusal(f"TUN device {name} is another one now")
    except OSError as error:
        os.close(fd)
        if error.errno == errno.EBUSY:
            raise InterfaceHeld(f"TUN device {name} is still held") from error
        raise SystemRefusal(f"TUN device {name}: {error.strerror}") from error
    except BaseException:
        os.close(fd)
        raise
    return fd


def check_tun(fd: int, name: str, index: int, *, offload: Offload = Offload.NONE) -> None:
    """Make a descriptor that another process has had like one of `attach_tun`; the queue stays as it is.

    Raises:
        SystemRefusal: it is not, or no more, that of the device of that name and index.
        OSError: the kernel refused.
    """
    try:
        found, _ = _IFREQ.unpack(fcntl.ioctl(fd, TUNGETIFF, bytes(_IFREQ.size)))
    except OSError as error:  # EBADFD: the device was deleted
        raise SystemRefusal(f"TUN device {name}: {error.strerror}") from error
    if found.rstrip(b"\0") != name.encode("ascii") or socket.if_nametoindex(name) != index:
        raise SystemRefusal(f"TUN device {name} is another one now")
    os.set_blocking(fd, False)
    set_offload(fd, offload)


def set_offload(fd: int, offload: Offload) -> None:
    """Set header size and features of a device that was opened with a header in front; OSError when refused.

    Who attaches to a device again does it again: what its last holder set is not to be relied on.
    """
    if offload is not Offload.NONE:
        fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", VNET_HEADER))
        fcntl.ioctl(fd, TUNSETOFFLOAD, FEATURES[offload])


def probe_offload(limit: Offload) -> Offload:
    """Return the most offload, up to `limit`, that this kernel grants. Makes a device for a moment.

    Raises:
        SystemRefusal: TUN devices are not to be had at all.
    """
    for offload in range(limit, Offload.NONE, -1):
        fd = _open()
        try:
            _attach(fd, PROBE, Kind.TUN, Offload(offload))
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY):
                raise SystemRefusal(f"TUN device: {error.strerror}") from error
        else:
            return Offload(offload)
        finally:
            os.close(fd)
    return Offload.NONE


def check_name(name: str) -> None:
    """Refuse what the kernel's dev_valid_name refuses, and what is not plain ASCII.

    Raises:
        SystemRefusal: with the rule that was broken.
    """
    if not 1 <= len(name.encode()) <= NAME_BYTES:
        raise SystemRefusal(f"interface name {name!r}: it takes 1 to {NAME_BYTES} bytes")
    if not name.isascii() or not name.isprintable() or name in (".", "..") or set(name) & set("/: %"):
        raise SystemRefusal(f"interface name {name!r}: no '/', ':', '%', space, or anything but printable ASCII")


def _open() -> int:
    try:
        return os.open(CLONE_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SystemRefusal(f"{CLONE_DEVICE}: {error.strerror}: is the tun module there, and are we root?") from error


def _attach(fd: int, name: str, kind: Kind, offload: Offload) -> None:
    flags = kind | IFF_NO_PI | (IFF_VNET_HDR if offload is not Offload.NONE else 0)
    fcntl.ioctl(fd, TUNSETIFF, _IFREQ.pack(name.encode("ascii"), flags))
    set_offload(fd, offload)


def _exists(name: str) -> bool:
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True
