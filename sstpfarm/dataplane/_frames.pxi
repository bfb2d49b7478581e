# SSTP data packets as they lie in a buffer.

cdef size_t frame_length(const Span *stream, size_t position) except 0:
    """Length of the frame that begins there; its 4 header bytes are present (MS-SSTP 2.2.1)."""
    cdef int version = byte_at(stream, position)
    cdef int length = u16_at(stream, position + 2) & LENGTH_MASK
    if version != VERSION:
        raise FramingError(f"SSTP version {version:#04x} (MS-SSTP 2.2.1)")
    if length < (CONTROL_HEADER if byte_at(stream, position + 1) & CONTROL_BIT else SSTP_HEADER):
        raise FramingError(f"SSTP packet length {length} (MS-SSTP 2.2.1)")
    return length


cdef size_t shed_last(const uint8_t *out, size_t filled) except? 0:
    """Take the last packet out again; returns where it began."""
    cdef Span stream
    cdef size_t last = 0
    cdef size_t position = 0
    stream.at, stream.size = out, filled
    while position < filled:
        last = position
        position += frame_length(&stream, position)
    shed_one(filled - last - HEADROOM)
    return last


cdef int shed_one(size_t size) noexcept:
    """Count a packet that had been passed on as shed."""
    _counts[PACKETS_OUT] -= 1
    _counts[BYTES_OUT] -= size
    _counts[DROP_QUEUE] += 1
    return 0


cdef inline int count_out(size_t size) noexcept:
    _counts[PACKETS_OUT] += 1
    _counts[BYTES_OUT] += size
    return 0


cdef inline void put_headers(uint8_t *out, size_t size, int protocol) noexcept:
    """SSTP data packet (MS-SSTP 2.2.3), FF 03, PPP protocol, in front of `size` bytes."""
    out[0] = VERSION
    out[1] = 0
    put_u16(out + 2, <uint32_t>(HEADROOM + size))
    put_u16(out + 4, ADDRESS_CONTROL)
    put_u16(out + 6, protocol)


cdef inline int protocol_of(int version) noexcept:
    return PPP_IPV4 if version == 4 else PPP_IPV6
