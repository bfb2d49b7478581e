"""What waited in the device for the tunnel: taken out before the device is used, and given the new source address.

Dial-on-demand gives the device a placeholder address until the server has assigned one, so the packets that made it
dial carry the placeholder as their source, and no server takes them. Rewriting changes the checksums that cover the
address, by RFC 1624: HC' = ~(~HC + ~m + m').
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Final

from sstpfarm.dataplane.interface import Offload
from sstpfarm.ipc.client_messages import DeviceReady

MAX_PACKETS: Final = 64  # that are sent; a device holds more only when somebody floods it
MAX_DROPPED: Final = 2048  # read and dropped: more than a ring holds
MAX_READ: Final = 65535 + 10
VNET_HEADER: Final = 10  # struct virtio_net_hdr, linux/virtio_net.h
NEEDS_CHECKSUM: Final = 1  # VIRTIO_NET_HDR_F_NEEDS_CSUM: the transport's checksum is still to be made
IPV4_HEADER: Final = 20
SOURCE: Final = slice(12, 16)
HEADER_CHECKSUM: Final = 10
FRAGMENT_OFFSET: Final = 0x1FFF
TCP, UDP = 6, 17
CHECKSUM_AT: Final = {TCP: 16, UDP: 6}  # in the transport's header


def waiting_packets(tun: int, ready: DeviceReady, offload: Offload) -> list[bytes]:
    """Take what waits out of a device; return what is to be sent of it, as it would be read from there.

    Args:
        tun: a non-blocking descriptor.
    """
    if ready.queued_from is None or ready.local_address is None:
        for _ in _read(tun, MAX_DROPPED):
            pass
        return []
    old, new = IPv4Address(ready.queued_from), IPv4Address(ready.local_address)
    header = 0 if offload is Offload.NONE else VNET_HEADER
    return [with_source(packet, header, old, new) for packet in _read(tun, MAX_PACKETS)]


def _read(tun: int, most: int) -> Iterator[bytes]:
    for _ in range(most):
        try:
            yield os.read(tun, MAX_READ)
        except OSError:  # EAGAIN: nothing more waits
            return


def with_source(packet: bytes, header: int, old: IPv4Address, new: IPv4Address) -> bytes:
    """Return a packet from `old` as if from `new`; any other unchanged.

    Args:
        header: bytes of a virtio_net_hdr in front of it, 0 or 10.
    """
    ip = packet[header:]
    if old == new or len(ip) < IPV4_HEADER or ip[0] >> 4 != 4 or ip[SOURCE] != old.packed:
        return packet
    data = bytearray(packet)
    data[header + SOURCE.start : header + SOURCE.stop] = new.packed
    _adjust(data, header + HEADER_CHECKSUM, old, new, partial=False)
    at = CHECKSUM_AT.get(ip[9])
    first = int.from_bytes(ip[6:8], "big") & FRAGMENT_OFFSET == 0
    if at is not None and first:
        at += header + (ip[0] & 0xF) * 4
        partial = header > 0 and bool(packet[0] & NEEDS_CHECKSUM)
        absent = ip[9] == UDP and not partial and data[at : at + 2] == b"\0\0"  # RFC 768: none was made
        if at + 2 <= len(data) and not absent:
            _adjust(data, at, old, new, partial=partial)
    return bytes(data)


def _adjust(data: bytearray, at: int, old: IPv4Address, new: IPv4Address, *, partial: bool) -> None:
    """Change a checksum for another address; a partial one is the sum of the pseudo header, not its complement."""
    held = int.from_bytes(data[at : at + 2], "big")
    total = held if partial else ~held & 0xFFFF
    for shift in (16, 0):
        total += (~(int(old) >> shift) & 0xFFFF) + (int(new) >> shift & 0xFFFF)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    data[at : at + 2] = (total if partial else ~total & 0xFFFF).to_bytes(2, "big")
