# Packets from a TUN descriptor, one by one.

cdef extern from "sys/uio.h" nogil:
    ssize_t readv(int fd, const iovec *vectors, int count)


cdef ssize_t read_packet(int tun, const iovec *vectors, int count) except -1:
    """Read one packet; 0 when there is none (or the socket in a TUN's place has no other end any more)."""
    cdef ssize_t got
    while True:
        got = readv(tun, vectors, count)
        if got >= 0:
            return got
        if errno == EAGAIN:
            return 0
        if errno != EINTR:
            raise OSError(errno, strerror(errno))


cdef bint discard_one(int tun, int offload) except -1:
    """Read one packet into the scratch buffer and forget it; False when the TUN is empty."""
    cdef iovec vectors[2]
    cdef VirtioHeader virtio
    cdef Bulk bulk
    cdef Span head
    cdef size_t header = sizeof(VirtioHeader) if offload else 0
    cdef ssize_t got
    vectors[0].iov_base, vectors[0].iov_len = &virtio, header
    vectors[1].iov_base, vectors[1].iov_len = _scratch, SUPER
    got = read_packet(tun, vectors, 2)
    if got <= 0:
        return False
    if <size_t>got <= header:
        tally(DROP_MALFORMED)
    elif header and virtio.gso_type != GSO_NONE:
        head.at, head.size = _scratch, got - header
        if see_bulk(&bulk, &virtio, &head, head.size):
            _counts[DROP_RATE] += segments_of(&bulk)
        else:
            tally(DROP_MALFORMED)
    else:
        tally(DROP_RATE)
    return True
