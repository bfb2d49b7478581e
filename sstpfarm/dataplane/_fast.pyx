# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=True, embedsignature=False
"""The native packet path: `pure.PurePath` with the same answers and the same counters, for a tenth of the time.

Between peer and far network it changes nothing that either could see. Towards the kernel it deals in super-packets
when the TUN device can (`interface.Offload`): `_coalesce.pxi` makes them, `_segment.pxi` takes them apart.

All buffers but a partial frame and the rest of a super-packet are shared by the sessions of a process: only one call
runs at a time, and none keeps anything in them. Every read of peer bytes is checked against the end (`_bytes.pxd`).
"""

cimport cython
from cpython.buffer cimport PyBUF_CONTIG, PyBUF_FORMAT, PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdlib cimport free, malloc
from libc.string cimport memset, strcmp

from sstpfarm.dataplane._bytes cimport (
    Span, beyond, byte_at, htons, memcpy, part, put_sum, put_u16, put_u32, same_at, size_t, sstpfarm_fold, sstpfarm_sum,
    sum_at, u16_at, u16_of, u32_at, uint8_t, uint16_t, uint32_t, uint64_t, int64_t,
)

from os import strerror

from sstpfarm.dataplane.interface import Cell, FramingError, Gate, Offload, RouterRole
from sstpfarm.errors import LocalError

include "_numbers.pxi"

include "_counters.pxi"
include "_sources.pxi"
include "_coalesce.pxi"
include "_frames.pxi"
include "_segment.pxi"
include "_checks.pxi"
include "_bridge.pxi"
include "_read.pxi"


@cython.final
cdef class FastPath:
    """The packet path of one session (`interface.PacketPath`).

    Args:
        totals: the worker's counters, format 'Q', CELLS long.
        slot: the session's counters, same shape. Both are updated once for each call, not for each packet.
        offload: of the TUN devices that it will be attached to.
    """

    cdef Py_buffer _totals
    cdef Py_buffer _slot
    cdef int _tun, _tun_offload
    cdef int _offload  # of the device that is attached: a TAP has none
    cdef bint _bridged
    cdef int _router
    cdef int _gates
    cdef size_t _receive_limit, _send_limit
    cdef size_t _fragment_header  # 0: no multilink
    cdef size_t _whole_receive_limit, _whole_send_limit
    cdef bytes _large
    cdef Sources _sources
    # An incomplete frame: its header, then a block of the frame's own size.
    cdef uint8_t _head[SSTP_HEADER]
    cdef size_t _have
    cdef size_t _want
    cdef uint8_t *_partial
    cdef Remainder *_remainder

    def __cinit__(self, totals, slot, offload=Offload.NONE):
        self._tun = -1
        self._tun_offload = self._offload = Offload(offload)
        self._receive_limit = self._send_limit = DEFAULT_LIMIT
        take_cells(&self._totals, totals)
        take_cells(&self._slot, slot)

    def __dealloc__(self):
        PyBuffer_Release(&self._totals)  # nothing happens when it was never taken
        PyBuffer_Release(&self._slot)
        free(self._sources.networks4)
        free(self._sources.networks6)
        free(self._partial)
        free(self._remainder)

    def attach(self, int tun, *, bint bridged=False):
        """Use `tun` from now on; the caller keeps ownership."""
        if tun < 0:
            raise LocalError(f"no descriptor: {tun}")
        self.forget_remainder()
        self._tun, self._large = tun, None
        self._bridged = bridged
        self._offload = Offload.NONE if bridged else self._tun_offload

    def detach(self):
        """Forget the descriptor; packets from the peer count as refused by the TUN from now on."""
        self.forget_remainder()
        self._tun, self._large = -1, None

    def set_gates(self, gates):
        """Open exactly these in both directions; of a device only what it carries."""
        self._gates = gates

    def set_limits(self, *, Py_ssize_t receive, Py_ssize_t send):
        """Bound the PPP information field, in bytes (1 to 4087)."""
        if not (0 < receive <= MAX_INFORMATION and 0 < send <= MAX_INFORMATION):
            raise LocalError(f"limits must be 1 to {MAX_INFORMATION} bytes: receive {receive}, send {send}")
        self._receive_limit = receive
        self._send_limit = send

    def set_multilink(self, *, int header, Py_ssize_t receive, Py_ssize_t send):
        """Let larger packets travel in fragments."""
        cdef Py_ssize_t least = 1 if header else 0
        cdef Py_ssize_t most = MAX_PACKET * least
        if header not in (0, 2, 4) or not (least <= receive <= most and least <= send <= most):
            raise LocalError(f"multilink: header {header}, limits of 1 to {MAX_PACKET} bytes: {receive}, {send}")
        self._fragment_header, self._whole_receive_limit, self._whole_send_limit = header, receive, send

    def set_sources(self, ipv4, ipv6):
        """Accept packets from the peer only from these (network, mask) pairs."""
        set_networks(&self._sources, ipv4, ipv6)

    def set_router(self, role):
        """Choose who answers what asks the router of the link."""
        self._router = role

    # -- from the peer -----------------------------------------------------------------------------------------------

    def feed(self, data):
        """Take decrypted bytes up to the first control frame (see `interface.PacketPath.feed`)."""
        cdef Py_buffer view
        cdef Span stream
        cdef Span control
        cdef size_t consumed
        cdef uint8_t *spent = NULL
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        stream.at, stream.size = <const uint8_t *>view.buf, view.len
        control.at, control.size = NULL, 0
        try:
            try:
                consumed = self.walk(&stream, &control, &spent)
            finally:
                end_runs(self._tun, self._offload)
            if control.at is NULL:
                return consumed, None
            return consumed, PyBytes_FromStringAndSize(<const char *>control.at, control.size)
        finally:
            forget_runs()
            free(spent)
            publish(&self._slot, &self._totals)
            PyBuffer_Release(&view)

    cdef size_t walk(self, const Span *stream, Span *control, uint8_t **spent) except? 0:
        """Take all whole frames up to a control frame, which it shows; keep what is incomplete.

        `spent` is the block of a frame that began in an earlier call: runs may point into it.
        """
        cdef size_t position = 0
        cdef size_t length
        cdef Span frame
        if self._have:
            position = self.resume(stream)
            if not self._want or self._have < self._want:
                return position
            spent[0] = self._partial
            frame.at, frame.size = self._partial, self._want
            self._partial = NULL
            self._have = self._want = 0
            if self.take(&frame):
                control[0] = frame
                return position
        while stream.size - position >= SSTP_HEADER:
            length = frame_length(stream, position)
            if length > stream.size - position:
                break
            part(&frame, stream, position, length)
            position += length
            if self.take(&frame):
                control[0] = frame
                return position
        part(&frame, stream, position, stream.size - position)
        self.resume(&frame)
        return stream.size

    cdef size_t resume(self, const Span *stream) except? 0:
        """Complete the incomplete frame as far as the stream goes; return how many bytes it took."""
        cdef size_t taken = 0
        cdef size_t rest
        cdef Span head
        while self._have < SSTP_HEADER:
            if taken == stream.size:
                return taken
            self._head[self._have] = byte_at(stream, taken)
            self._have += 1
            taken += 1
        if not self._want:
            head.at, head.size = self._head, SSTP_HEADER
            rest = frame_length(&head, 0)
            self._partial = <uint8_t *>malloc(rest)
            if self._partial is NULL:
                raise MemoryError
            memcpy(self._partial, self._head, SSTP_HEADER)
            self._want = rest
        part(&head, stream, taken, min(self._want - self._have, stream.size - taken))
        memcpy(self._partial + self._have, head.at, head.size)
        self._have += head.size
        return taken + head.size

    cdef bint take(self, const Span *frame) except -1:
        """Deal with a whole frame; True when it is not a network packet but Python's business."""
        cdef Span packet
        if byte_at(frame, 1) & CONTROL_BIT:
            _counts[CONTROL_IN] += 1
            return True
        if SSTP_HEADER == frame.size:
            return False  # an empty data packet says nothing
        part(&packet, frame, SSTP_HEADER, frame.size - SSTP_HEADER)
        if self.carry(&packet, self._receive_limit, False) == CARRIED:
            return False
        _counts[CONTROL_IN] += 1
        return True

    cdef int carry(self, Span *packet, size_t limit, bint whole) except -1:
        """Pass on what begins with its PPP protocol, or count why not (CARRIED); else it is Python's business."""
        cdef size_t position = 0
        cdef size_t total
        cdef int protocol, fault
        if packet.size >= 2 and u16_at(packet, 0) == ADDRESS_CONTROL:
            position = 2
        # RFC 1661 6.5: an odd first byte is a whole protocol number. Accepted without having been agreed.
        if position < packet.size and byte_at(packet, position) & 1:
            protocol = byte_at(packet, position)
            position += 1
        elif packet.size - position >= 2:
            protocol = u16_at(packet, position)
            position += 2
        else:
            _counts[DROP_MALFORMED] += 1
            return CARRIED
        part(packet, packet, position, packet.size - position)
        if protocol == PPP_IPV4 or protocol == PPP_IPV6:
            if not self.is_open(4 if protocol == PPP_IPV4 else 6):
                _counts[DROP_GATE_IN] += 1
                return CARRIED
            fault = ip_fault(4 if protocol == PPP_IPV4 else 6, packet, limit, &self._sources, &total)
            if fault:
                _counts[fault] += 1
                return CARRIED
            part(packet, packet, 0, total)  # without the padding that PPP allows
            if self._router != KERNEL and protocol == PPP_IPV6 and asks_router(packet):
                if self._router == PYTHON:
                    return ASKS_ROUTER
                _counts[DROP_RATE] += 1
                return CARRIED
            take_packet(self._tun, self._offload, packet)
        elif protocol == PPP_BRIDGED:
            if self._bridged and self._gates & BRIDGE_GATE:
                take_frame(self._tun, packet, limit)
            else:
                _counts[DROP_GATE_IN] += 1
        elif protocol == PPP_MULTILINK and not whole and is_whole(packet, self._fragment_header):
            part(packet, packet, self._fragment_header, packet.size - self._fragment_header)
            return self.carry(packet, self._whole_receive_limit, True)
        else:
            return UNKNOWN
        return CARRIED

    def deliver(self, packet):
        """Take a packet that was put together of fragments (see `interface.PacketPath.deliver`)."""
        cdef Py_buffer view
        cdef Span span
        cdef int outcome
        PyObject_GetBuffer(packet, &view, PyBUF_SIMPLE)
        try:
            span.at, span.size = <const uint8_t *>view.buf, view.len
            outcome = self.carry(&span, self._whole_receive_limit, True)
            if outcome != CARRIED:
                _counts[CONTROL_IN if outcome == ASKS_ROUTER else DROP_PROTOCOL] += 1
            end_runs(self._tun, self._offload)
            return outcome == ASKS_ROUTER
        finally:
            forget_runs()
            publish(&self._slot, &self._totals)
            PyBuffer_Release(&view)

    def lose(self, count):
        """Count that many fragments."""
        _counts[DROP_FRAGMENT] += count
        publish(&self._slot, &self._totals)

    # -- towards the peer --------------------------------------------------------------------------------------------

    def drain(self, out, bint shed=False):
        """Turn the TUN's packets into SSTP data packets in `out` (see `interface.PacketPath.drain`)."""
        cdef Py_buffer view
        cdef size_t filled = 0
        cdef bint more
        PyObject_GetBuffer(out, &view, PyBUF_WRITABLE)
        try:
            if view.len < MAX_FRAME:
                raise LocalError(f"drain() needs a buffer of at least {MAX_FRAME} bytes")
            if self._tun < 0 or self._large is not None:
                return 0, self._large is not None
            more = self.read_all(<uint8_t *>view.buf, view.len, &filled)
            if shed and self._large is not None:
                shed_one(len(self._large) - 2)
                self._large = None
            elif shed and filled:
                filled = shed_last(<uint8_t *>view.buf, filled)
            return filled, more
        finally:
            publish(&self._slot, &self._totals)
            PyBuffer_Release(&view)

    def large(self):
        """Return and forget the packet that only fits in fragments."""
        large, self._large = self._large, None
        return large

    def discard(self):
        """Drop the TUN's packets (see `interface.PacketPath.discard`)."""
        cdef int reads
        try:
            if self._tun < 0:
                return False
            if self._remainder is not NULL:
                _counts[DROP_RATE] += segments_of(&self._remainder.rest)
                self.forget_remainder()
            for reads in range(DRAIN_READS):
                if not discard_one(self._tun, self._offload):
                    return False
            return True
        finally:
            publish(&self._slot, &self._totals)

    cdef bint read_all(self, uint8_t *out, size_t room, size_t *filled) except -1:
        """Read until the TUN is empty (False), or room or the work bound is used up (True)."""
        cdef int reads
        cdef int state
        if self._remainder is not NULL and not self.go_on(out, room, filled):
            return True
        for reads in range(DRAIN_READS):
            if room - filled[0] < HEADROOM + self._send_limit:
                return True
            if self._offload >= TSO and filled[0] >= BATCH and room - filled[0] < SUPER_ROOM:
                return True
            state = self.read_one(out, room, filled)
            if state <= 0:
                return state < 0
        return True

    cdef int read_one(self, uint8_t *out, size_t room, size_t *filled) except -2:
        """Read one packet into its place; 1: go on, 0: the TUN is empty, -1: `out` is full."""
        cdef iovec vectors[3]
        cdef VirtioHeader virtio
        cdef uint8_t *at = out + filled[0] + HEADROOM
        cdef size_t prefix = BRIDGE_HEADER if self._bridged else 0
        cdef size_t limit = max(self._send_limit, prefix)
        cdef size_t header = sizeof(VirtioHeader) if self._offload else 0
        cdef size_t size
        cdef ssize_t got
        cdef Span head
        vectors[0].iov_base, vectors[0].iov_len = &virtio, header
        vectors[1].iov_base, vectors[1].iov_len = at + prefix, limit - prefix
        vectors[2].iov_base = _scratch + GAP  # what is longer than the limit: for fragments, too large, a super-packet
        vectors[2].iov_len = SUPER if self._offload >= TSO else self.whole_limit() - self._send_limit + 1
        got = read_packet(self._tun, vectors, 3)
        if got == 0:
            return 0
        if <size_t>got <= header:
            tally(DROP_MALFORMED)
            return 1
        size = got - header + prefix
        head.at, head.size = at, min(size, limit)
        if self._bridged:
            return self.pass_frame(at, &head, size, out, filled)
        if header and virtio.gso_type != GSO_NONE:
            return self.divide(&virtio, &head, size, out, room, filled)
        return self.pass_on(&virtio, &head, size, out, filled)

    cdef int pass_on(
        self, const VirtioHeader *virtio, const Span *head, size_t size, uint8_t *out, size_t *filled
    ) except -2:
        """A packet in its place gets its headers."""
        cdef int version = byte_at(head, 0) >> 4
        if version != 4 and version != 6:
            tally(DROP_PROTOCOL)
        elif not self.is_open(version):
            tally(DROP_GATE_OUT)
        elif size > self.whole_limit():
            tally(DROP_TOO_LARGE)
        elif size > self._send_limit:
            self._large = large_packet(head, size, protocol_of(version), virtio if self._offload else NULL)
            return 1 if self._large is None else -1
        elif self._offload and virtio.flags & NEEDS_CSUM and not finish_checksum(
            out + filled[0] + HEADROOM, size, virtio
        ):
            tally(DROP_MALFORMED)
        else:
            put_headers(out + filled[0], size, protocol_of(version))
            count_out(size)
            filled[0] += HEADROOM + size
        return 1

    cdef int pass_frame(self, uint8_t *at, const Span *head, size_t size, uint8_t *out, size_t *filled) except -2:
        """An Ethernet frame, which leaves room in front of it, gets its headers."""
        cdef Span frame
        cdef int fault
        at[0], at[1] = 0, MAC_ETHERNET
        part(&frame, head, BRIDGE_HEADER, head.size - BRIDGE_HEADER)
        fault = frame_fault(&frame, size - BRIDGE_HEADER, self._gates, self.whole_limit())
        if fault:
            tally(fault)
            return 1
        if size > self._send_limit:
            self._large = large_packet(head, size, PPP_BRIDGED, NULL)
            return -1
        put_headers(out + filled[0], size, PPP_BRIDGED)
        count_out(size)
        filled[0] += HEADROOM + size
        return 1

    cdef int divide(
        self, const VirtioHeader *virtio, const Span *head, size_t size, uint8_t *out, size_t room, size_t *filled
    ) except -2:
        """A super-packet, whose beginning is in the place of its first segment, becomes segments."""
        cdef Bulk bulk
        cdef Span whole
        cdef size_t first, behind
        cdef int version = byte_at(head, 0) >> 4
        if version != 4 and version != 6:
            tally(DROP_PROTOCOL)
            return 1
        if head.size < LONG_HEADERS and head.size < size:  # a limit so small that not all headers are in `head`
            memcpy(_scratch + GAP - head.size, head.at, head.size)
            whole.at, whole.size = _scratch + GAP - head.size, size
            head = &whole
        if not see_bulk(&bulk, virtio, head, size):
            tally(DROP_MALFORMED)
            return 1
        if not self.is_open(version):
            _counts[DROP_GATE_OUT] += segments_of(&bulk)
            return 1
        bulk.payload, bulk.behind = head.at + bulk.headers, NULL
        if head is not &whole:
            # The first segment is in its place, unless it is too large. What of `head` is behind it goes in front of
            # the rest in the scratch buffer.
            first = bulk.headers + min(bulk.unit, bulk.left)
            if first > head.size:
                first = bulk.headers
            behind = head.size - first
            memcpy(_scratch + GAP - behind, head.at + first, behind)
            bulk.behind = _scratch + GAP - behind
            if first == bulk.headers:
                bulk.payload, bulk.behind = bulk.behind, NULL
        filled[0] += emit(&bulk, out + filled[0], room - filled[0], self._send_limit, self.whole_limit())
        self.see_large(&bulk)
        if bulk.left:
            self._remainder = keep_remainder(&bulk)
            return -1
        return 1 if self._large is None else -1

    cdef int see_large(self, Bulk *bulk) except -1:
        """Hand out the next segment if `out` does not take it for its size."""
        if bulk.left and bulk.headers + min(bulk.unit, bulk.left) > self._send_limit:
            self._large = large_segment(bulk)
        return 0

    cdef bint go_on(self, uint8_t *out, size_t room, size_t *filled) except -1:
        """Put the rest of a super-packet first; False when it is still not all."""
        cdef Remainder *kept = self._remainder
        cdef Bulk bulk = kept.rest
        if not self.is_open(bulk.version):
            _counts[DROP_GATE_OUT] += segments_of(&bulk)
        else:
            memcpy(_template, kept.headers, bulk.headers)
            filled[0] = emit(&bulk, out, room, self._send_limit, self.whole_limit())
            self.see_large(&bulk)
            if bulk.left:
                kept.rest = bulk
                memcpy(kept.headers, _template, bulk.headers)
                return False
        self.forget_remainder()
        return self._large is None

    cdef inline bint is_open(self, int version) noexcept:
        return self._gates & (IPV4_GATE if version == 4 else IPV6_GATE) != 0 and not self._bridged

    cdef inline size_t whole_limit(self) noexcept:
        """Bytes of the largest packet towards the peer, in one piece or in fragments."""
        return max(self._send_limit, self._whole_send_limit)

    cdef int forget_remainder(self) except -1:
        free(self._remainder)
        self._remainder = NULL
        return 0
