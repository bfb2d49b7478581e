"""client/queued.py: packets that waited get the new source address, and all checksums are right afterwards."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address

import pytest

from sstpfarm.client.queued import MAX_PACKETS, NEEDS_CHECKSUM, waiting_packets, with_source
from sstpfarm.dataplane.interface import Offload
from sstpfarm.ipc.client_messages import DeviceReady

OLD, NEW, FAR = IPv4Address("10.112.112.2"), IPv4Address("192.0.2.77"), IPv4Address("10.20.0.1")
ICMP, TCP, UDP = 1, 6, 17
PAYLOAD = bytes(range(40))


def checksum(data: bytes) -> int:
    """RFC 1071, the whole sum."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packet(source: IPv4Address, protocol: int, *, summed: bool = True, options: bytes = b"", offset: int = 0) -> bytes:
    """An IPv4 packet with a transport header whose checksum is right, or absent."""
    at = {TCP: 16, UDP: 6, ICMP: 2}[protocol]
    body = bytearray({TCP: 20, UDP: 8, ICMP: 8}[protocol]) + PAYLOAD
    pseudo = b"" if protocol == ICMP else source.packed + FAR.packed + struct.pack("!BBH", 0, protocol, len(body))
    if summed:
        body[at : at + 2] = checksum(pseudo + bytes(body)).to_bytes(2, "big")
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45 + len(options) // 4, 0, 20 + len(options) + len(body), 7, offset, 64, protocol, 0,
        source.packed, FAR.packed,
    )  # fmt: skip
    head += options
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + bytes(body)


@pytest.mark.parametrize("options", [b"", bytes(8)])
@pytest.mark.parametrize("protocol", [ICMP, TCP, UDP])
def test_it_is_as_if_it_had_been_sent_from_there(protocol: int, options: bytes) -> None:
    assert with_source(packet(OLD, protocol, options=options), 0, OLD, NEW) == packet(NEW, protocol, options=options)


def test_a_datagram_without_a_checksum_keeps_none() -> None:
    assert with_source(packet(OLD, UDP, summed=False), 0, OLD, NEW) == packet(NEW, UDP, summed=False)


def test_a_later_fragment_has_no_transport_header() -> None:
    old, new = packet(OLD, UDP, offset=100), packet(NEW, UDP, offset=100)
    assert with_source(old, 0, OLD, NEW)[:20] == new[:20]
    assert with_source(old, 0, OLD, NEW)[20:] == old[20:]


def test_a_partial_checksum_is_the_sum_of_the_pseudo_header() -> None:
    """As the kernel hands out a packet whose checksum the device is to finish (linux/virtio_net.h)."""

    def partial(source: IPv4Address) -> bytes:
        made = bytearray(packet(source, TCP, summed=False))
        pseudo = source.packed + FAR.packed + struct.pack("!BBH", 0, TCP, len(made) - 20)
        made[36:38] = (~checksum(pseudo) & 0xFFFF).to_bytes(2, "big")
        return bytes((NEEDS_CHECKSUM, 0)) + bytes(8) + bytes(made)

    assert with_source(partial(OLD), 10, OLD, NEW) == partial(NEW)


@pytest.mark.parametrize(
    "data", [b"", b"\x45", packet(FAR, TCP), b"\x60" + bytes(60), packet(OLD, TCP)[:30], packet(OLD, TCP)[:19]]
)
def test_what_is_not_ours_or_cut_short_is_left_alone(data: bytes) -> None:
    changed = with_source(data, 0, OLD, NEW)
    assert len(changed) == len(data)
    if len(data) < 20 or data[12:16] != OLD.packed:
        assert changed == data


def test_so_many_are_taken_and_the_rest_stays() -> None:
    device, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with device, kernel:
        device.setblocking(False)
        for _ in range(MAX_PACKETS + 1):
            kernel.send(packet(OLD, UDP))
        ready = DeviceReady(name="x", local_address=str(NEW), queued_from=str(OLD))
        assert waiting_packets(device.fileno(), ready, Offload.NONE) == [packet(NEW, UDP)] * MAX_PACKETS
        assert waiting_packets(device.fileno(), DeviceReady(name="x", local_address=str(NEW)), Offload.NONE) == []
        with pytest.raises(BlockingIOError):
            device.recv(1)
