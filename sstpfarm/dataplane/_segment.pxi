# From the TUN to the peer: a super-packet becomes the packets that the kernel itself would have made of it.
#
# The packets stand in `out`, each behind its SSTP and PPP headers. What does not fit is kept with the session (it may
# be any amount: segments can be small) and goes first the next time.

cdef enum:
    GAP = 4096  # in front of the scratch buffer: what of a super-packet's beginning was read into `out`
    SUPER = 65536  # the longest that TUN hands out
    BATCH = 65536  # with this much in `out`, better end than begin a super-packet that will not fit
    LONG_HEADERS = 256  # IP and TCP headers, some extension headers between them
    SUPER_ROOM = 72 * 1024  # such a packet in segments of 1,280 bytes and more, with their headers

cdef uint8_t _scratch[GAP + SUPER]

cdef struct Bulk:
    # A super-packet, or what is left of one; the headers stand in `_template`.
    int version
    bint tcp
    size_t network  # bytes of the IP header, extension headers included
    size_t headers  # and of the transport header
    size_t unit  # payload of each segment but the last
    uint64_t pseudo  # sum of the pseudo header without its length
    const uint8_t *payload  # of the next segment
    const uint8_t *behind  # of those behind it, where that is another place; else NULL
    size_t left

cdef struct Remainder:
    Bulk rest
    uint8_t headers[GAP]
    uint8_t payload[SUPER]  # as much of it as is needed

cdef uint8_t _template[GAP]


cdef int see_bulk(Bulk *bulk, const VirtioHeader *virtio, const Span *head, size_t size) except -1:
    """Describe the super-packet that begins with `head` and has `size` bytes; 0 when it makes no sense."""
    cdef int kind = virtio.gso_type & ~GSO_ECN
    cdef size_t transport = virtio.csum_start
    cdef size_t length
    bulk.version = byte_at(head, 0) >> 4
    bulk.tcp = kind == GSO_TCPV4 or kind == GSO_TCPV6
    if not virtio.flags & NEEDS_CSUM or not virtio.gso_size:
        return 0
    if kind != GSO_UDP_L4 and kind != (GSO_TCPV4 if bulk.version == 4 else GSO_TCPV6):
        return 0
    if bulk.version == 4 and transport != <size_t>(4 * (byte_at(head, 0) & 0x0F)):
        return 0
    if transport < <size_t>(IPV4_HEADER if bulk.version == 4 else IPV6_HEADER):
        return 0
    if head.size < transport + (TCP_HEADER if bulk.tcp else UDP_HEADER):
        return 0
    length = UDP_HEADER
    if bulk.tcp:
        length = 4 * (byte_at(head, transport + 12) >> 4)
        if length < TCP_HEADER:
            return 0
    bulk.network = transport
    bulk.headers = transport + length
    if bulk.headers > head.size or bulk.headers >= size or bulk.headers > sizeof(_template):
        return 0
    bulk.unit = virtio.gso_size
    bulk.left = size - bulk.headers
    memcpy(_template, head.at, bulk.headers)
    # The checksum field holds the pseudo header's sum with the length of the whole (as Linux's own segmentation
    # has it): take that length out again.
    length = size - transport
    bulk.pseudo = u16_of(_template + transport + (16 if bulk.tcp else 6)) + (0xFFFF ^ htons(<uint16_t>length))
    return 1


cdef inline size_t segments_of(const Bulk *bulk) noexcept:
    return (bulk.left + bulk.unit - 1) // bulk.unit


cdef size_t emit(Bulk *bulk, uint8_t *out, size_t room, size_t limit, size_t whole) except? 0:
    """Put segments into `out` until nothing is left or the next does not fit; return the bytes written.

    One beyond `limit` does not fit; one beyond `whole` does not pass at all.
    """
    cdef size_t filled = 0
    cdef size_t chunk, size
    while bulk.left:
        chunk = min(bulk.unit, bulk.left)
        size = bulk.headers + chunk
        if size > whole:
            _counts[DROP_TOO_LARGE] += 1
        elif size > limit or room - filled < HEADROOM + size:
            break
        else:
            put_segment(bulk, out + filled, chunk)
            filled += HEADROOM + size
            count_out(size)
        next_segment(bulk, chunk)
    return filled


cdef int put_segment(const Bulk *bulk, uint8_t *out, size_t chunk) except -1:
    """Write one segment behind its SSTP and PPP headers; the caller has checked that there is room for it."""
    cdef size_t size = bulk.headers + chunk
    cdef size_t length = size - bulk.network
    cdef uint8_t *at = out + HEADROOM
    cdef uint8_t *transport = at + bulk.network
    cdef uint16_t checksum
    if at + bulk.headers != bulk.payload:  # else it was read into its place
        memcpy(at + bulk.headers, bulk.payload, chunk)
    memcpy(at, _template, bulk.headers)
    put_headers(out, size, protocol_of(bulk.version))
    if bulk.version == 4:
        put_u16(at + 2, <uint32_t>size)
        put_u16(at + 10, 0)
        put_sum(at + 10, ~sstpfarm_fold(sstpfarm_sum(at, bulk.network)))
    else:
        put_u16(at + 4, <uint32_t>(size - IPV6_HEADER))
    if bulk.tcp:
        if chunk != bulk.left:
            transport[13] &= ~(FIN | PSH)
        put_u16(transport + 16, 0)
    else:
        put_u16(transport + 4, <uint32_t>length)
        put_u16(transport + 6, 0)
    checksum = ~sstpfarm_fold(sstpfarm_sum(transport, length) + bulk.pseudo + htons(<uint16_t>length))
    if bulk.tcp:
        put_sum(transport + 16, checksum)
    else:
        put_sum(transport + 6, checksum or 0xFFFF)  # RFC 768: 0 says that there is none
    return 0


cdef int next_segment(Bulk *bulk, size_t chunk) except -1:
    """Turn the headers into those of the segment behind it."""
    cdef uint8_t *transport = _template + bulk.network
    cdef Span headers
    headers.at, headers.size = _template, bulk.headers
    if bulk.version == 4:
        put_u16(_template + 4, u16_at(&headers, 4) + 1)
    if bulk.tcp:
        put_u32(transport + 4, <uint32_t>(u32_at(&headers, bulk.network + 4) + chunk))
        transport[13] &= ~CWR
    bulk.payload = bulk.behind if bulk.behind is not NULL else bulk.payload + chunk
    bulk.behind = NULL
    bulk.left -= chunk
    return 0


cdef Remainder *keep_remainder(const Bulk *bulk) except NULL:
    """Return a copy of what is left, to be released with free()."""
    cdef Remainder *kept = <Remainder *>malloc(sizeof(Remainder) - SUPER + bulk.left)
    if kept is NULL:
        raise MemoryError
    kept.rest = bulk[0]
    kept.rest.payload = kept.payload
    kept.rest.behind = NULL
    memcpy(kept.headers, _template, bulk.headers)
    memcpy(kept.payload, bulk.payload, bulk.left)
    return kept


cdef bytes large_segment(Bulk *bulk):
    """Return the next segment, PPP protocol first, which is too large for `out`; it is counted."""
    cdef size_t chunk = min(bulk.unit, bulk.left)
    cdef size_t size = bulk.headers + chunk
    cdef bytes made = PyBytes_FromStringAndSize(NULL, HEADROOM + size)
    put_segment(bulk, <uint8_t *>PyBytes_AS_STRING(made), chunk)
    next_segment(bulk, chunk)
    count_out(size)
    return made[HEADROOM - 2 :]


cdef int finish_checksum(uint8_t *at, size_t size, const VirtioHeader *virtio) except -1:
    """Make the checksum that the kernel left to us; 0 when the header points outside of the packet."""
    cdef size_t start = virtio.csum_start
    cdef size_t place = start + virtio.csum_offset
    cdef uint16_t checksum
    if start < IPV4_HEADER or place + 2 > size:
        return 0
    checksum = ~sstpfarm_fold(sstpfarm_sum(at + start, size - start))
    if virtio.csum_offset == 6 and not checksum:  # UDP's place
        checksum = 0xFFFF
    put_sum(at + place, checksum)
    return 1


cdef bytes large_packet(const Span *head, size_t size, int protocol, const VirtioHeader *virtio):
    """Return a packet that only fits in fragments, its protocol first, and count it; None when its header is wrong.

    What `head` lacks of it is in the scratch buffer; `virtio` is NULL for a device without offload.
    """
    cdef bytes packet = PyBytes_FromStringAndSize(NULL, 2 + size)
    cdef uint8_t *at = <uint8_t *>PyBytes_AS_STRING(packet)
    put_u16(at, protocol)
    memcpy(at + 2, head.at, head.size)
    memcpy(at + 2 + head.size, _scratch + GAP, size - head.size)
    if virtio is not NULL and virtio.flags & NEEDS_CSUM and not finish_checksum(at + 2, size, virtio):
        tally(DROP_MALFORMED)
        return None
    count_out(size)
    return packet
