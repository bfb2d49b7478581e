# Ethernet frames (RFC 3518 4.1): flags, MAC type, then the frame as a TAP device has it.

cdef enum:
    BRIDGE_HEADER = 2
    BRIDGE_FCS = 0x80  # F: the frame's check sequence is there
    BRIDGE_ZEROS = 0x20  # Z: the sender took the zeros of a short frame away
    BRIDGE_CONTROL = 0x10  # B: a bridge control packet
    BRIDGE_PADS = 0x0F  # bytes behind the frame
    MAC_ETHERNET = 1
    FCS = 4
    ETHERNET_HEADER = 14  # IEEE 802.3 3.1.1
    SHORTEST_FRAME = 60  # without its check sequence
    TAG = 0x8100  # IEEE 802.1Q 9.6
    SERVICE_TAG = 0x88A8


cdef bint is_link_local(const Span *frame) except -1:
    """Whether bridges do not forward it: 01-80-C2-00-00-00 to -0F (IEEE 802.1Q 8.6.3)."""
    return u32_at(frame, 0) == 0x0180C200 and u16_at(frame, 4) & ~0x0F == 0


cdef int take_frame(int tap, const Span *packet, size_t limit) except -1:
    """Write the peer's frame to the TAP device, or count why not."""
    cdef uint8_t filled_up[SHORTEST_FRAME]
    cdef Span frame
    cdef size_t behind
    cdef int flags
    if packet.size > limit:
        return tally(DROP_TOO_LARGE)
    if packet.size < BRIDGE_HEADER:
        return tally(DROP_MALFORMED)
    flags = byte_at(packet, 0)
    if flags & BRIDGE_CONTROL or byte_at(packet, 1) != MAC_ETHERNET:
        return tally(DROP_PROTOCOL)
    behind = (flags & BRIDGE_PADS) + (FCS if flags & BRIDGE_FCS else 0)
    if packet.size < BRIDGE_HEADER + ETHERNET_HEADER + behind:
        return tally(DROP_MALFORMED)
    part(&frame, packet, BRIDGE_HEADER, packet.size - BRIDGE_HEADER - behind)
    if is_link_local(&frame):
        return tally(DROP_PROTOCOL)
    if flags & BRIDGE_ZEROS and frame.size < SHORTEST_FRAME:
        memset(filled_up, 0, SHORTEST_FRAME)
        memcpy(filled_up, frame.at, frame.size)
        frame.at, frame.size = filled_up, SHORTEST_FRAME
    if tap < 0:
        return tally(DROP_TUN)
    return write_alone(tap, 0, frame.at, frame.size)


cdef int frame_fault(const Span *frame, size_t size, int gates, size_t limit) except -1:
    """Return the counter of a TAP device's frame that is not for the peer, else 0; `frame` is at least its header."""
    cdef int kind
    if size < ETHERNET_HEADER:
        return DROP_MALFORMED
    if not gates & BRIDGE_GATE:
        return DROP_GATE_OUT
    if frame.size < ETHERNET_HEADER:  # a limit so small that not even the header is there
        return DROP_TOO_LARGE
    kind = u16_at(frame, 12)
    if is_link_local(frame) or ((kind == TAG or kind == SERVICE_TAG) and not gates & TAGGED_GATE):
        return DROP_PROTOCOL
    return DROP_TOO_LARGE if BRIDGE_HEADER + size > limit else 0
