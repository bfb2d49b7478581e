# The networks that a session's packets may come from.

cdef struct Network4:
    uint32_t network
    uint32_t mask

cdef struct Network6:
    uint32_t network[4]
    uint32_t mask[4]

cdef struct Sources:
    Network4 *networks4
    Network6 *networks6
    size_t count4
    size_t count6


cdef int set_networks(Sources *sources, ipv4, ipv6) except -1:
    """Take these (network, mask) pairs of integers in the place of the earlier ones."""
    cdef Network4 *networks4
    cdef Network6 *networks6
    cdef size_t number
    cdef int word
    for networks, bits in ((ipv4, 32), (ipv6, 128)):
        for network, mask in networks:
            if network & ~mask or not 0 <= mask < 1 << bits or network < 0:
                raise LocalError(f"not a network of {bits}-bit addresses: {network:#x} with mask {mask:#x}")
    networks4 = <Network4 *>malloc((len(ipv4) or 1) * sizeof(Network4))
    networks6 = <Network6 *>malloc((len(ipv6) or 1) * sizeof(Network6))
    if networks4 is NULL or networks6 is NULL:
        free(networks4)
        free(networks6)
        raise MemoryError
    for number, (network, mask) in enumerate(ipv4):
        networks4[number].network = network
        networks4[number].mask = mask
    for number, (network, mask) in enumerate(ipv6):
        for word in range(4):
            networks6[number].network[word] = (network >> (96 - 32 * word)) & 0xFFFFFFFF
            networks6[number].mask[word] = (mask >> (96 - 32 * word)) & 0xFFFFFFFF
    free(sources.networks4)
    free(sources.networks6)
    sources.networks4, sources.count4 = networks4, len(ipv4)
    sources.networks6, sources.count6 = networks6, len(ipv6)
    return 0


cdef bint belongs4(const Sources *sources, const Span *packet) except -1:
    """Whether the source address of that IPv4 packet is in one of them."""
    cdef uint32_t source = <uint32_t>u32_at(packet, 12)
    cdef size_t number
    for number in range(sources.count4):
        if source & sources.networks4[number].mask == sources.networks4[number].network:
            return True
    return False


cdef bint belongs6(const Sources *sources, const Span *packet) except -1:
    """Whether the source address of that IPv6 packet is in one of them."""
    cdef uint32_t source[4]
    cdef size_t number
    cdef int word
    for word in range(4):
        source[word] = <uint32_t>u32_at(packet, 8 + 4 * word)
    for number in range(sources.count6):
        for word in range(4):
            if source[word] & sources.networks6[number].mask[word] != sources.networks6[number].network[word]:
                break
        else:
            return True
    return False
