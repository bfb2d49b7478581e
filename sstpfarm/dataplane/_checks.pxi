# What a packet of the peer's must be; the order of the checks is that of pure.py.

cdef enum:  # what became of it
    UNKNOWN, CARRIED, ASKS_ROUTER


cdef int ip_fault(int version, const Span *packet, size_t limit, const Sources *sources, size_t *total) except -1:
    """Return the counter of a packet that does not pass, else 0, and its length without the padding that PPP allows."""
    cdef size_t header
    if packet.size > limit:
        return DROP_TOO_LARGE
    if version == 4:  # RFC 791 3.1
        if packet.size < IPV4_HEADER or byte_at(packet, 0) >> 4 != 4:
            return DROP_MALFORMED
        header = (byte_at(packet, 0) & 0x0F) * 4
        total[0] = u16_at(packet, 2)
        if not IPV4_HEADER <= header <= total[0] <= packet.size:
            return DROP_MALFORMED
        return 0 if belongs4(sources, packet) else DROP_SOURCE
    if packet.size < IPV6_HEADER or byte_at(packet, 0) >> 4 != 6:  # RFC 8200 3
        return DROP_MALFORMED
    total[0] = IPV6_HEADER + u16_at(packet, 4)
    if total[0] > packet.size:
        return DROP_MALFORMED
    return 0 if belongs6(sources, packet) else DROP_SOURCE


cdef bint asks_router(const Span *packet) except -1:
    """Whether an IPv6 packet is a router solicitation or one of DHCPv6, to the routers and servers of its own link."""
    cdef int64_t first = u32_at(packet, 24)
    cdef int64_t last
    if first >> 22 != LINK_LOCAL_PREFIX:
        if first != LINK_MULTICAST or u32_at(packet, 28) or u32_at(packet, 32):
            return False
        last = u32_at(packet, 36)
        if last != ALL_ROUTERS and last != ALL_DHCP_SERVERS:
            return False
    if packet.size < IPV6_HEADER + ASKED:
        return False
    if byte_at(packet, 6) == ICMPV6:
        return byte_at(packet, IPV6_HEADER) == ROUTER_SOLICITATION
    return byte_at(packet, 6) == UDP and u16_at(packet, IPV6_HEADER + 2) == DHCPV6_PORT


cdef bint is_whole(const Span *packet, size_t header) except -1:
    """Whether a fragment (RFC 1990 3) is all of its packet: B and E."""
    return header and packet.size >= header and byte_at(packet, 0) & WHOLE == WHOLE
