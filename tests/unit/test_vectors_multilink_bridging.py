"""The vector of bridging (RFC 3518), taken apart by hand; no code of sstpfarm is tested here."""

from __future__ import annotations

import struct

import pytest

from tests.vectors.loader import Vector, load

BRIDGED = load("ppp-bcp-*")


@pytest.mark.parametrize("vector", BRIDGED, ids=str)
def test_sstp_data_packet(vector: Vector) -> None:
    frame = vector["ppp_frame"]
    assert vector["sstp_data_packet"] == struct.pack(">BBH", 0x10, 0, 4 + len(frame)) + frame


@pytest.mark.parametrize("vector", BRIDGED, ids=str)
def test_bridged_ethernet_frame(vector: Vector) -> None:
    """RFC 3518 4.2: flags, MAC type, then the Ethernet frame without its check sequence."""
    assert len(BRIDGED) == 1
    address, protocol, flags, mac_type = struct.unpack_from(">HHBB", vector["ppp_frame"])
    assert (address, protocol) == (0xFF03, 0x0031)
    assert flags == 0  # no LAN FCS, no zero fill, no bridge control packet, no padding
    assert mac_type == 1  # 802.3 / Ethernet
    destination, source, kind, data = struct.unpack(">6s6sH28s", vector["ppp_frame"][6:])
    assert destination == b"\xff" * 6
    assert source == bytes.fromhex("020000000001")
    assert kind == 0x0806
    hardware, network, sizes, operation = struct.unpack_from(">HHHH", data)
    assert (hardware, network, sizes, operation) == (1, 0x0800, 0x0604, 1)  # an ARP request
    assert data[8:14] == source
    assert (data[14:18], data[24:28]) == (bytes((192, 168, 0, 1)), bytes((192, 168, 0, 2)))
