"""The reference packet path in plain Python: one system call and one copy for each packet, no packet objects.

It must not know TLS, PPP negotiation or the event loop. The native path answers to the same interface, byte for byte
and counter for counter; where the two differ, this file is right.

Order of the checks, because it decides which counter a bad packet meets. From the peer: PPP protocol, gate, limit,
IP version and lengths, source address, whether it asks the router of the link, TUN. Towards the peer: IP version, gate,
limit. Of Ethernet frames: length, gate, what bridges keep to themselves and tags, limit.
"""

from __future__ import annotations

import os
from struct import Struct
from time import clock_gettime
from typing import Final

from sstpfarm.dataplane.interface import (
    CELLS,
    HEADROOM,
    MAX_FRAME,
    MAX_PACKET,
    SSTP_HEADER,
    Cell,
    FramingError,
    Gate,
    RouterRole,
)
from sstpfarm.errors import LocalError

DRAIN_PACKETS: Final = 64  # work bound of one drain(): one session must not starve its worker's others
MAX_INFORMATION: Final = MAX_FRAME - HEADROOM  # 4087 bytes: the largest PPP information field that fits

_VERSION: Final = 0x10  # MS-SSTP 2.2.1: major 1, minor 0
_CONTROL_BIT: Final = 0x01
_LENGTH_MASK: Final = 0x0FFF  # the 4 bits above are reserved: ignored
_CONTROL_HEADER: Final = 8  # MS-SSTP 2.2.2: header, message type, number of attributes
_ADDRESS_CONTROL: Final = 0xFF03  # RFC 1662 3.1
_PPP_IPV4: Final = 0x0021  # RFC 1332 2
_PPP_BRIDGED: Final = 0x0031  # RFC 3518 4.1
_PPP_MULTILINK: Final = 0x003D  # RFC 1990 3
_PPP_IPV6: Final = 0x0057  # RFC 5072 3
_WHOLE: Final = 0xC0  # RFC 1990 3: B and E, the first fragment and the last
_IPV4_HEADER: Final = 20  # RFC 791 3.1
_IPV6_HEADER: Final = 40  # RFC 8200 3
_ASKED: Final = 4  # bytes behind it that tell what a packet asks
_UDP: Final = 17
_ICMPV6: Final = 58
_ROUTER_SOLICITATION: Final = 133  # RFC 4861 4.1
_DHCPV6_PORT: Final = 547  # RFC 8415 7.2
_ALL_ROUTERS: Final = 0xFF02 << 112 | 2  # RFC 4291 2.7.1
_ALL_DHCP_SERVERS: Final = 0xFF02 << 112 | 0x1_0002  # RFC 8415 7.1
_LINK_LOCAL_PREFIX: Final = 0xFE80 >> 6  # RFC 4291 2.5.6: the first 10 bits
_DEFAULT_LIMIT: Final = 1500  # RFC 1661 6.1: the MRU before LCP agreed on another
# RFC 3518 4.1: one byte of flags, one of MAC type, then the frame
_BRIDGE_HEADER: Final = 2
_BRIDGE_FCS: Final = 0x80  # F: the frame's check sequence is there
_BRIDGE_ZEROS: Final = 0x20  # Z: the sender took the zeros of a short frame away
_BRIDGE_CONTROL: Final = 0x10  # B: a bridge control packet
_BRIDGE_PADS: Final = 0x0F  # bytes behind the frame
_MAC_ETHERNET: Final = 1
_FCS: Final = 4
_ETHERNET_HEADER: Final = 14  # IEEE 802.3 3.1.1
_SHORTEST_FRAME: Final = 60  # without its check sequence
_LINK_LOCAL: Final = 0x0180C2000000  # IEEE 802.1Q 8.6.3: to ...0f, between neighbours only: spanning tree, LACP, LLDP
_TAGS: Final = (b"\x81\x00", b"\x88\xa8")  # IEEE 802.1Q 9.6

_CLOCK_MONOTONIC_COARSE: Final = 6  # linux/time.h

_frame_header = Struct("!BBH").unpack_from  # version, flags, reserved bits and length
_u16 = Struct("!H").unpack_from
_u32 = Struct("!I").unpack_from
_put_headers = Struct("!BBHHH").pack_into  # SSTP header, FF 03, PPP protocol

Networks = tuple[tuple[int, int], ...]


class PurePath:
    """The packet path of one session (`interface.PacketPath`).

    Args:
        totals: the worker's counters, format 'Q', CELLS long.
        slot: the session's counters, same shape. Both are updated once for each call, not for each packet.
    """

    __slots__ = (
        "_bridge_open",
        "_bridged",
        "_counts",
        "_fragment_header",
        "_gates",
        "_ipv4_open",
        "_ipv4_sources",
        "_ipv6_open",
        "_ipv6_sources",
        "_large",
        "_partial",
        "_receive_limit",
        "_router",
        "_send_limit",
        "_slot",
        "_spill",
        "_totals",
        "_tun",
        "_whole_receive_limit",
        "_whole_send_limit",
    )

    def __init__(self, totals: memoryview, slot: memoryview) -> None:
        for cells in (totals, slot):
            if cells.format != "Q" or len(cells) != CELLS:
                raise LocalError(f"counters must be {CELLS} cells of format 'Q'")
        self._totals = totals
        self._slot = slot
        self._counts = [0] * CELLS  # of the call that is running
        self._tun: int | None = None
        self._bridged = False
        self._gates = Gate.NONE
        self._ipv4_open = self._ipv6_open = self._bridge_open = False
        self._ipv4_sources: Networks = ()
        self._ipv6_sources: Networks = ()
        self._router = RouterRole.KERNEL
        self._receive_limit = _DEFAULT_LIMIT
        self._send_limit = _DEFAULT_LIMIT
        self._fragment_header = 0  # no multilink
        self._whole_receive_limit = self._whole_send_limit = 0
        self._large: bytes | None = None
        self._partial = bytearray()  # an incomplete frame, shorter than MAX_FRAME
        self._spill = bytearray(1)  # takes what is beyond the send limit, and one byte beyond what fragments carry

    def attach(self, tun: int, *, bridged: bool = False) -> None:
        """Use `tun` from now on; the caller keeps ownership."""
        self._tun = tun
        self._bridged = bridged
        self._large = None
        self.set_gates(self._gates)

    def detach(self) -> None:
        """Forget the descriptor; packets from the peer count as refused by the TUN from now on."""
        self._tun = None
        self._large = None

    def set_gates(self, gates: Gate) -> None:
        """Open exactly these in both directions; of a device only what it carries."""
        self._gates = gates
        self._ipv4_open = Gate.IPV4 in gates and not self._bridged
        self._ipv6_open = Gate.IPV6 in gates and not self._bridged
        self._bridge_open = Gate.BRIDGE in gates and self._bridged

    def set_limits(self, *, receive: int, send: int) -> None:
        """Bound the PPP information field, in bytes (1 to 4087)."""
        if not (0 < receive <= MAX_INFORMATION and 0 < send <= MAX_INFORMATION):
            raise LocalError(f"limits must be 1 to {MAX_INFORMATION} bytes: receive {receive}, send {send}")
        self._receive_limit = receive
        self._send_limit = send
        self._make_spill()

    def set_multilink(self, *, header: int, receive: int, send: int) -> None:
        """Let larger packets travel in fragments."""
        least = 1 if header else 0
        most = MAX_PACKET * least
        if header not in (0, 2, 4) or not (least <= receive <= most and least <= send <= most):
            raise LocalError(f"multilink: header {header}, limits of 1 to {MAX_PACKET} bytes: {receive}, {send}")
        self._fragment_header = header
        self._whole_receive_limit = receive
        self._whole_send_limit = send
        self._make_spill()

    def _make_spill(self) -> None:
        self._spill = bytearray(max(self._whole_send_limit - self._send_limit, 0) + 1)

    def set_sources(self, ipv4: Networks, ipv6: Networks) -> None:
        """Accept packets from the peer only from these (network, mask) pairs."""
        for networks, bits in ((ipv4, 32), (ipv6, 128)):
            for network, mask in networks:
                if network & ~mask or not 0 <= mask < 1 << bits or network < 0:
                    raise LocalError(f"not a network of {bits}-bit addresses: {network:#x} with mask {mask:#x}")
        self._ipv4_sources = ipv4
        self._ipv6_sources = ipv6

    def set_router(self, role: RouterRole) -> None:
        """Choose who answers what asks the router of the link."""
        self._router = role

    # -- from the peer -----------------------------------------------------------------------------------------------

    def feed(self, data: memoryview) -> tuple[int, bytes | None]:
        """Take decrypted bytes up to the first control frame (see `interface.PacketPath.feed`)."""
        try:
            return self._walk(data)
        finally:
            self._publish()

    def _walk(self, data: memoryview) -> tuple[int, bytes | None]:
        position = 0
        if self._partial:
            position, whole = self._resume(data)
            if not whole:
                return position, None
            frame = bytes(self._partial)
            self._partial.clear()
            if self._take(memoryview(frame), 0, len(frame)):
                return position, frame
        size = len(data)
        while size - position >= SSTP_HEADER:
            end = position + _frame_length(data, position)
            if end > size:
                break
            start, position = position, end
            if self._take(data, start, end):
                return end, bytes(data[start:end])
        self._partial += data[position:]
        return size, None

    def _resume(self, data: memoryview) -> tuple[int, bool]:
        """Complete the partial frame; returns how many bytes it took and whether the frame is whole now."""
        partial = self._partial
        taken = min(max(SSTP_HEADER - len(partial), 0), len(data))
        partial += data[:taken]
        if len(partial) < SSTP_HEADER:
            return taken, False
        length = _frame_length(partial, 0)
        rest = data[taken : taken + length - len(partial)]
        partial += rest
        return taken + len(rest), len(partial) == length

    def _take(self, data: memoryview, start: int, end: int) -> bool:
        """Deal with the frame in data[start:end]; True when it is not a network packet but Python's business."""
        counts = self._counts
        if data[start + 1] & _CONTROL_BIT:
            counts[Cell.CONTROL_IN] += 1
            return True
        position = start + SSTP_HEADER
        if position == end:
            return False  # an empty data packet says nothing
        cell = self._carry(data, position, end, self._receive_limit)
        counts[Cell.CONTROL_IN if cell is None else cell] += 1
        return cell is None or cell is Cell.CONTROL_IN

    def deliver(self, packet: bytes) -> bool:
        """Take a packet that was put together of fragments (see `interface.PacketPath.deliver`)."""
        cell = self._carry(memoryview(packet), 0, len(packet), self._whole_receive_limit, whole=True)
        self._counts[Cell.DROP_PROTOCOL if cell is None else cell] += 1
        self._publish()
        return cell is Cell.CONTROL_IN

    def lose(self, count: int) -> None:
        """Count that many fragments."""
        self._counts[Cell.DROP_FRAGMENT] += count
        self._publish()

    def _carry(self, data: memoryview, position: int, end: int, limit: int, whole: bool = False) -> Cell | None:
        """Pass on what begins with its PPP protocol; returns its counter, None when it is Python's business."""
        if end - position >= 2 and _u16(data, position)[0] == _ADDRESS_CONTROL:
            position += 2
        # RFC 1661 6.5: an odd first byte is a whole protocol number. Accepted without having been agreed.
        if position < end and data[position] & 1:
            protocol = data[position]
            position += 1
        elif end - position >= 2:
            protocol = _u16(data, position)[0]
            position += 2
        else:
            return Cell.DROP_MALFORMED
        if protocol == _PPP_IPV4:
            return self._ipv4(data, position, end, limit) if self._ipv4_open else Cell.DROP_GATE_IN
        if protocol == _PPP_IPV6:
            return self._ipv6(data, position, end, limit) if self._ipv6_open else Cell.DROP_GATE_IN
        if protocol == _PPP_BRIDGED:
            return self._frame(data, position, end, limit) if self._bridge_open else Cell.DROP_GATE_IN
        if protocol == _PPP_MULTILINK and self._fragment_header and not whole:
            inside = position + self._fragment_header
            if inside <= end and data[position] & _WHOLE == _WHOLE:
                return self._carry(data, inside, end, self._whole_receive_limit, whole=True)
        return None

    def _frame(self, data: memoryview, start: int, end: int, limit: int) -> Cell:
        """Pass an Ethernet frame on; returns the counter that it belongs to (RFC 3518 4.1)."""
        size = end - start
        if size > limit:
            return Cell.DROP_TOO_LARGE
        if size < _BRIDGE_HEADER:
            return Cell.DROP_MALFORMED
        flags = data[start]
        if flags & _BRIDGE_CONTROL or data[start + 1] != _MAC_ETHERNET:
            return Cell.DROP_PROTOCOL
        frame = data[start + _BRIDGE_HEADER : end]
        length = len(frame) - (flags & _BRIDGE_PADS) - (_FCS if flags & _BRIDGE_FCS else 0)
        if length < _ETHERNET_HEADER:
            return Cell.DROP_MALFORMED
        if _is_link_local(frame):
            return Cell.DROP_PROTOCOL
        frame = frame[:length]
        if flags & _BRIDGE_ZEROS and length < _SHORTEST_FRAME:
            frame = memoryview(bytes(frame).ljust(_SHORTEST_FRAME, b"\0"))
        return self._write(frame)

    def _ipv4(self, data: memoryview, start: int, end: int, limit: int) -> Cell:
        """Pass an IPv4 packet on; returns the counter that it belongs to (RFC 791 3.1)."""
        size = end - start
        if size > limit:
            return Cell.DROP_TOO_LARGE
        if size < _IPV4_HEADER or data[start] >> 4 != 4:
            return Cell.DROP_MALFORMED
        header = (data[start] & 0x0F) * 4
        total = _u16(data, start + 2)[0]
        if not _IPV4_HEADER <= header <= total <= size:
            return Cell.DROP_MALFORMED
        if not _belongs(_u32(data, start + 12)[0], self._ipv4_sources):
            return Cell.DROP_SOURCE
        return self._write(data[start : start + total])  # without the padding that PPP allows

    def _ipv6(self, data: memoryview, start: int, end: int, limit: int) -> Cell:
        """Pass an IPv6 packet on; returns the counter that it belongs to (RFC 8200 3)."""
        size = end - start
        if size > limit:
            return Cell.DROP_TOO_LARGE
        if size < _IPV6_HEADER or data[start] >> 4 != 6:
            return Cell.DROP_MALFORMED
        total = _IPV6_HEADER + _u16(data, start + 4)[0]
        if total > size:
            return Cell.DROP_MALFORMED
        if not _belongs(int.from_bytes(data[start + 8 : start + 24], "big"), self._ipv6_sources):
            return Cell.DROP_SOURCE
        if self._router and _asks_router(data[start : start + total]):
            return Cell.CONTROL_IN if self._router is RouterRole.PYTHON else Cell.DROP_RATE
        return self._write(data[start : start + total])

    def _write(self, packet: memoryview) -> Cell:
        if self._tun is None:
            return Cell.DROP_TUN
        try:
            os.write(self._tun, packet)
        except OSError:  # device down (EIO), no memory (ENOBUFS, ENOMEM, EAGAIN), device gone (EBADFD)
            return Cell.DROP_TUN
        self._counts[Cell.BYTES_IN] += len(packet)
        return Cell.PACKETS_IN

    # -- towards the peer --------------------------------------------------------------------------------------------

    def drain(self, out: memoryview, shed: bool = False) -> tuple[int, bool]:
        """Turn the TUN's packets into SSTP data packets in `out` (see `interface.PacketPath.drain`)."""
        if len(out) < MAX_FRAME:
            raise LocalError(f"drain() needs a buffer of at least {MAX_FRAME} bytes")
        if self._tun is None or self._large is not None:
            return 0, self._large is not None
        try:
            filled, more = self._read(self._tun, out)
            return (self._shed(out, filled) if shed else filled), more
        finally:
            self._publish()

    def _read(self, tun: int, out: memoryview) -> tuple[int, bool]:
        counts = self._counts
        limit = self._send_limit
        room = len(out) - HEADROOM - limit  # the last place in `out` where a packet of any legal size fits
        spill = self._spill
        whole = max(limit, self._whole_send_limit)
        prefix = _BRIDGE_HEADER if self._bridged else 0
        filled = 0
        for _ in range(DRAIN_PACKETS):
            if filled > room:
                break
            start = filled + HEADROOM
            try:
                size = prefix + os.readv(tun, (out[start + prefix : start + limit], spill))
            except BlockingIOError:
                return filled, False
            if size == prefix:  # never from a TUN; a socket in its place says so when its other end is closed
                return filled, False
            version = out[start] >> 4
            if prefix:
                out[start : start + prefix] = b"\0\x01"  # no flags, _MAC_ETHERNET
                fault = self._frame_fault(out[start + prefix : start + min(size, limit)], size - prefix)
                if fault is not None:
                    counts[fault] += 1
                    continue
                protocol, is_open = _PPP_BRIDGED, True
            elif version == 4:
                protocol, is_open = _PPP_IPV4, self._ipv4_open
            elif version == 6:
                protocol, is_open = _PPP_IPV6, self._ipv6_open
            else:
                counts[Cell.DROP_PROTOCOL] += 1
                continue
            if not is_open:
                counts[Cell.DROP_GATE_OUT] += 1
            elif size > whole:
                counts[Cell.DROP_TOO_LARGE] += 1
            elif size > limit:
                self._large = b"".join((protocol.to_bytes(2, "big"), out[start : start + limit], spill[: size - limit]))
                counts[Cell.PACKETS_OUT] += 1
                counts[Cell.BYTES_OUT] += size
                return filled, True
            else:
                _put_headers(out, filled, _VERSION, 0, HEADROOM + size, _ADDRESS_CONTROL, protocol)
                counts[Cell.PACKETS_OUT] += 1
                counts[Cell.BYTES_OUT] += size
                filled = start + size
        return filled, True

    def large(self) -> bytes | None:
        """Return and forget the packet that only fits in fragments."""
        large, self._large = self._large, None
        return large

    def _frame_fault(self, frame: memoryview, size: int) -> Cell | None:
        """Return the counter of a frame of the TAP's that is not for the peer; `frame` is at least its header."""
        if size < _ETHERNET_HEADER:
            return Cell.DROP_MALFORMED
        if not self._bridge_open:
            return Cell.DROP_GATE_OUT
        if len(frame) < _ETHERNET_HEADER:  # a limit so small that not even the header is there
            return Cell.DROP_TOO_LARGE
        if _is_link_local(frame) or (bytes(frame[12:14]) in _TAGS and Gate.TAGGED not in self._gates):
            return Cell.DROP_PROTOCOL
        return None

    def _shed(self, out: memoryview, filled: int) -> int:
        """Take the last packet out again; returns where the others end."""
        counts = self._counts
        if self._large is not None:
            last, size = filled, len(self._large) - 2
            self._large = None
        elif filled:
            last = position = 0
            while position < filled:
                last, position = position, position + _frame_length(out, position)
            size = filled - last - HEADROOM
        else:
            return 0
        counts[Cell.PACKETS_OUT] -= 1
        counts[Cell.BYTES_OUT] -= size
        counts[Cell.DROP_QUEUE] += 1
        return last

    def discard(self) -> bool:
        """Drop the TUN's packets (see `interface.PacketPath.discard`)."""
        if self._tun is None:
            return False
        try:
            for _ in range(DRAIN_PACKETS):
                if not os.readv(self._tun, (self._spill,)):
                    return False
                self._counts[Cell.DROP_RATE] += 1
        except BlockingIOError:
            return False
        finally:
            self._publish()
        return True

    def _publish(self) -> None:
        """Add what this call counted to the slot and to the totals."""
        counts = self._counts
        if counts[Cell.PACKETS_IN] or counts[Cell.PACKETS_OUT]:
            self._slot[Cell.ACTIVE] = int(clock_gettime(_CLOCK_MONOTONIC_COARSE) * 1000)
        for cell, count in enumerate(counts):
            if count:
                self._slot[cell] += count
                self._totals[cell] += count
                counts[cell] = 0


def _frame_length(data: memoryview | bytearray, position: int) -> int:
    """Length of the frame that begins there; its 4 header bytes are present (MS-SSTP 2.2.1)."""
    version, flags, length = _frame_header(data, position)
    length &= _LENGTH_MASK
    if version != _VERSION:
        raise FramingError(f"SSTP version {version:#04x} (MS-SSTP 2.2.1)")
    if length < (_CONTROL_HEADER if flags & _CONTROL_BIT else SSTP_HEADER):
        raise FramingError(f"SSTP packet length {length} (MS-SSTP 2.2.1)")
    return int(length)


def _is_link_local(frame: memoryview) -> bool:
    """Whether a frame is addressed to what bridges do not forward; BPDUs of strangers could turn a LAN upside down."""
    return int.from_bytes(frame[:6], "big") & ~0x0F == _LINK_LOCAL


def _asks_router(packet: memoryview) -> bool:
    """Whether an IPv6 packet is a router solicitation or one of DHCPv6, to the routers and servers of its own link."""
    destination = int.from_bytes(packet[24:40], "big")
    if destination >> 118 != _LINK_LOCAL_PREFIX and destination not in (_ALL_ROUTERS, _ALL_DHCP_SERVERS):
        return False
    if len(packet) < _IPV6_HEADER + _ASKED:
        return False
    if packet[6] == _ICMPV6:
        return packet[40] == _ROUTER_SOLICITATION
    return packet[6] == _UDP and _u16(packet, 42)[0] == _DHCPV6_PORT


def _belongs(address: int, networks: Networks) -> bool:
    for network, mask in networks:  # noqa: SIM110 - a generator for each packet costs three times the loop
        if address & mask == network:
            return True
    return False
