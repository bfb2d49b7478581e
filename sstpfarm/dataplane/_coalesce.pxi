# From the peer to the TUN: runs of TCP segments, and of UDP datagrams, become one super-packet and one write.
#
# What the kernel makes of a super-packet when it takes it apart again is, byte for byte, what the peer sent. So a run
# takes a packet only when its checksums are right (a super-packet's are made anew: a broken packet would be mended),
# and when nothing in its headers says what the first one's do not. Everything else is written as it came, behind
# what was before it in its flow. Runs end with the call, so that they may point into the caller's buffer.

cdef extern from "sys/uio.h" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t writev(int fd, const iovec *vectors, int count)

cdef enum:
    RUNS = 8  # flows at once; one more ends the oldest run
    TCP_SEGMENTS = 128
    UDP_SEGMENTS = 64  # UDP_MAX_SEGMENTS, linux/udp.h, before Linux 6.9 doubled it
    LARGEST = 65535  # RFC 791 3.1: 16-bit total length
    IPV4_HEADER = 20
    IPV6_HEADER = 40
    TCP_HEADER = 20
    UDP_HEADER = 8
    MAX_HEADERS = IPV6_HEADER + 60  # RFC 9293 3.1: data offset of at most 15 words
    TCP = 6
    UDP = 17
    ACK = 0x10
    PSH = 0x08
    FIN = 0x01
    CWR = 0x80
    DONT_FRAGMENT = 0x4000

# linux/virtio_net.h; in the machine's byte order, as TUN has it unless told otherwise
cdef enum:
    NEEDS_CSUM = 1
    GSO_NONE = 0
    GSO_TCPV4 = 1
    GSO_TCPV6 = 4
    GSO_UDP_L4 = 5
    GSO_ECN = 0x80

cdef struct VirtioHeader:
    uint8_t flags
    uint8_t gso_type
    uint16_t hdr_len
    uint16_t gso_size
    uint16_t csum_start
    uint16_t csum_offset

cdef struct Shape:
    # What a packet is made of, as far as runs are concerned.
    int protocol  # 0: neither TCP nor UDP, or in a form that is never merged
    bint mergeable
    bint pushed  # PSH: the last of its run
    size_t network  # bytes of the IP header
    size_t headers  # and of the transport header
    size_t payload
    uint32_t sequence

cdef struct Run:
    Span first
    Shape shape  # of the first
    int count  # 0: not in use
    bint verified  # the checksums of the first are right
    bint is_open  # another may follow
    bint pushed
    size_t payload  # bytes of all
    uint32_t next_sequence
    uint8_t headers[MAX_HEADERS]
    VirtioHeader virtio
    iovec vectors[2 + TCP_SEGMENTS]

cdef Run _runs[RUNS]
cdef int _kept = 0  # runs in use
cdef int _victim = 0
cdef VirtioHeader _nothing  # asks for nothing
memset(&_nothing, 0, sizeof(_nothing))


cdef inline bint put_vectors(int tun, const iovec *vectors, int count) noexcept:
    while writev(tun, vectors, count) < 0:
        if errno != EINTR:
            return False
    return True


cdef int write_alone(int tun, int offload, const uint8_t *packet, size_t size) noexcept:
    """Write one packet as it came, and count it."""
    cdef iovec vectors[2]
    vectors[0].iov_base = &_nothing
    vectors[0].iov_len = sizeof(VirtioHeader)
    vectors[1].iov_base = <void *>packet
    vectors[1].iov_len = size
    if put_vectors(tun, vectors, 2) if offload else put_vectors(tun, vectors + 1, 1):
        _counts[PACKETS_IN] += 1
        _counts[BYTES_IN] += size
    else:  # device down (EIO), no memory (ENOBUFS, ENOMEM, EAGAIN), device gone (EBADFD)
        _counts[DROP_TUN] += 1
    return 0


cdef int take_packet(int tun, int offload, const Span *packet) except -1:
    """Write the packet, or keep it in a run until `end_runs`."""
    cdef Shape shape
    cdef Run *run
    if tun < 0:
        return tally(DROP_TUN)
    if offload < TSO:
        return write_alone(tun, offload, packet.at, packet.size)
    see_shape(packet, &shape)
    if shape.protocol == UDP and offload < USO:
        return write_alone(tun, offload, packet.at, packet.size)
    if not shape.protocol:
        end_runs(tun, offload)  # it may belong to any flow
        return write_alone(tun, offload, packet.at, packet.size)
    run = run_of(packet, &shape)
    if run is not NULL:
        if shape.mergeable and joins(run, packet, &shape):
            run.vectors[2 + run.count].iov_base = <void *>(packet.at + shape.headers)
            run.vectors[2 + run.count].iov_len = shape.payload
            run.count += 1
            run.payload += shape.payload
            run.next_sequence += <uint32_t>shape.payload
            run.pushed = shape.pushed
            run.is_open = shape.payload == run.shape.payload and not shape.pushed
            return 0
        end_run(tun, offload, run)
    if not shape.mergeable or shape.pushed:  # nothing could follow it
        return write_alone(tun, offload, packet.at, packet.size)
    begin_run(tun, offload, packet, &shape)
    return 0


cdef int see_shape(const Span *packet, Shape *shape) except -1:
    """Describe a packet whose IP version and lengths were checked; it has nothing behind its end."""
    cdef size_t words
    cdef int flags
    shape.protocol = 0
    shape.headers = packet.size
    if byte_at(packet, 0) >> 4 == 4:
        if byte_at(packet, 0) != 0x45 or u16_at(packet, 6) & ~DONT_FRAGMENT:  # options, a fragment, the reserved bit
            return 0
        shape.network = IPV4_HEADER
        flags = byte_at(packet, 9)
    else:
        shape.network = IPV6_HEADER
        flags = byte_at(packet, 6)  # of an extension header it is another number
    if flags == TCP:
        if packet.size < shape.network + TCP_HEADER:
            return 0
        words = byte_at(packet, shape.network + 12) >> 4
        shape.headers = shape.network + 4 * words
        if words < 5 or shape.headers > packet.size:
            return 0
        shape.protocol = TCP
        shape.sequence = <uint32_t>u32_at(packet, shape.network + 4)
        flags = u16_at(packet, shape.network + 12) & 0x0FFF  # with the reserved bits
        shape.pushed = flags & PSH
        shape.mergeable = (flags & ~PSH) == ACK and shape.headers < packet.size
    elif flags == UDP:
        shape.headers = shape.network + UDP_HEADER
        if packet.size < shape.headers or u16_at(packet, shape.network + 4) != <int>(packet.size - shape.network):
            return 0
        shape.protocol = UDP
        shape.sequence = 0
        shape.pushed = False
        shape.mergeable = u16_at(packet, shape.network + 6) != 0 and shape.headers < packet.size  # 0: no checksum
    shape.payload = packet.size - shape.headers
    return 0


cdef Run *run_of(const Span *packet, const Shape *shape) except? NULL:
    """The run of the packet's flow: addresses, ports, protocol."""
    cdef Run *run
    cdef size_t address = 12 if shape.network == IPV4_HEADER else 8
    cdef int number
    if not _kept:
        return NULL
    for number in range(RUNS):
        run = &_runs[number]
        if (
            run.count
            and run.shape.protocol == shape.protocol
            and run.shape.network == shape.network
            and same_at(&run.first, packet, address, shape.network + 4 - address)
        ):
            return run
    return NULL


cdef bint joins(Run *run, const Span *packet, const Shape *shape) except -1:
    """Whether the packet is what taking the super-packet apart would make of its bytes."""
    cdef size_t network = shape.network
    cdef size_t total = run.shape.headers + run.payload + shape.payload
    if not run.is_open or shape.headers != run.shape.headers or shape.payload > run.shape.payload or total > LARGEST:
        return False
    if run.count >= (TCP_SEGMENTS if shape.protocol == TCP else UDP_SEGMENTS):
        return False
    if network == IPV4_HEADER:
        # Type of service; DF, time to live.
        if not (same_at(&run.first, packet, 0, 2) and same_at(&run.first, packet, 6, 3)):
            return False
        # The kernel counts the identifications up. Of packets that are never fragmented they mean nothing, and
        # senders put what they like (RFC 6864 4.1).
        if not u16_at(packet, 6) and u16_at(packet, 4) != (u16_at(&run.first, 4) + run.count) & 0xFFFF:
            return False
    # Traffic class, flow label; hop limit.
    elif not (same_at(&run.first, packet, 0, 4) and same_at(&run.first, packet, 7, 1)):
        return False
    if shape.protocol == TCP and not (
        shape.sequence == run.next_sequence
        and same_at(&run.first, packet, network + 8, 5)  # acknowledgement, data offset
        and same_at(&run.first, packet, network + 14, 2)  # window
        and same_at(&run.first, packet, network + 18, shape.headers - network - 18)  # urgent pointer, options
    ):
        return False
    if not run.verified:
        if not is_sound(&run.first, &run.shape):
            return False
        run.verified = True
    return is_sound(packet, shape)


cdef bint is_sound(const Span *packet, const Shape *shape) except -1:
    """Whether its checksums are right, and written as the kernel would write them (of two zeros, the usual one)."""
    cdef size_t network = shape.network
    cdef size_t length = packet.size - network
    cdef uint64_t total
    if network == IPV4_HEADER:
        if sstpfarm_fold(sum_at(packet, 0, IPV4_HEADER)) != 0xFFFF or u16_at(packet, 10) == 0xFFFF:
            return False
    if shape.protocol == TCP and u16_at(packet, network + 16) == 0xFFFF:
        return False
    total = sum_at(packet, network, length) + pseudo_header(packet, network, shape.protocol, length)
    return sstpfarm_fold(total) == 0xFFFF


cdef inline int64_t pseudo_header(const Span *packet, size_t network, int protocol, size_t length) except -1:
    """Its sum: addresses, protocol, length (RFC 9293 3.1, RFC 8200 8.1)."""
    cdef size_t address = 12 if network == IPV4_HEADER else 8
    return sum_at(packet, address, network - address) + htons(<uint16_t>protocol) + htons(<uint16_t>length)


cdef int begin_run(int tun, int offload, const Span *packet, const Shape *shape) except -1:
    global _kept, _victim
    cdef Run *run = NULL
    cdef int number
    for number in range(RUNS):
        if not _runs[number].count:
            run = &_runs[number]
            break
    if run is NULL:
        run = &_runs[_victim]
        _victim = (_victim + 1) % RUNS
        end_run(tun, offload, run)
    _kept += 1
    run.first = packet[0]
    run.shape = shape[0]
    run.count = 1
    run.verified = False
    run.is_open = True
    run.pushed = False
    run.payload = shape.payload
    run.next_sequence = shape.sequence + <uint32_t>shape.payload
    run.vectors[2].iov_base = <void *>(packet.at + shape.headers)
    run.vectors[2].iov_len = shape.payload
    return 0


cdef int end_runs(int tun, int offload) except -1:
    """Write all that is kept."""
    cdef int number
    if _kept:
        for number in range(RUNS):
            if _runs[number].count:
                end_run(tun, offload, &_runs[number])
    return 0


cdef void forget_runs() noexcept:
    """After `end_runs` there is nothing to forget, unless a bug ended it."""
    global _kept
    cdef int number
    if _kept:
        for number in range(RUNS):
            _runs[number].count = 0
        _kept = 0


cdef int end_run(int tun, int offload, Run *run) except -1:
    """Write the run; when the kernel does not take it, each of its packets as it came."""
    global _kept
    cdef int count = run.count
    cdef int number
    cdef size_t headers = run.shape.headers
    run.count = 0
    _kept -= 1
    if count == 1:
        return write_alone(tun, offload, run.first.at, run.first.size)
    make_super(run)
    if put_vectors(tun, run.vectors, 2 + count):
        _counts[PACKETS_IN] += count
        _counts[BYTES_IN] += headers * count + run.payload
        return 0
    for number in range(2, 2 + count):
        # The headers of each stand in front of its payload, where it came from.
        write_alone(
            tun, offload, <uint8_t *>run.vectors[number].iov_base - headers, run.vectors[number].iov_len + headers
        )
    return 0


cdef int make_super(Run *run) except -1:
    """Put the headers of the super-packet in front of the run's payloads."""
    cdef size_t network = run.shape.network
    cdef size_t length = run.shape.headers - network + run.payload
    cdef uint8_t *at = run.headers
    cdef uint8_t *transport = at + network
    cdef VirtioHeader *virtio = &run.virtio
    cdef Span headers
    if run.shape.headers > sizeof(run.headers) or run.shape.headers > run.first.size:
        beyond()
    memcpy(at, run.first.at, run.shape.headers)
    headers.at, headers.size = at, run.shape.headers
    virtio.flags = NEEDS_CSUM
    virtio.hdr_len = <uint16_t>run.shape.headers
    virtio.gso_size = <uint16_t>run.shape.payload
    virtio.csum_start = <uint16_t>network
    if network == IPV4_HEADER:
        put_u16(at + 2, <uint32_t>(network + length))
        put_u16(at + 10, 0)
        put_sum(at + 10, ~sstpfarm_fold(sum_at(&headers, 0, network)))
    else:
        put_u16(at + 4, <uint32_t>length)
    # A checksum that is still to be made holds the sum of the pseudo header, not complemented.
    if run.shape.protocol == TCP:
        virtio.gso_type = GSO_TCPV4 if network == IPV4_HEADER else GSO_TCPV6
        virtio.csum_offset = 16
        if run.pushed:
            transport[13] |= PSH
        put_sum(transport + 16, sstpfarm_fold(pseudo_header(&headers, network, TCP, length)))
    else:
        virtio.gso_type = GSO_UDP_L4
        virtio.csum_offset = 6
        put_u16(transport + 4, <uint32_t>length)
        put_sum(transport + 6, sstpfarm_fold(pseudo_header(&headers, network, UDP, length)))
    run.vectors[0].iov_base = virtio
    run.vectors[0].iov_len = sizeof(VirtioHeader)
    run.vectors[1].iov_base = at
    run.vectors[1].iov_len = run.shape.headers
    return 0
