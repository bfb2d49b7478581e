"""Bytes of strangers: every read names its place and is checked against the end; checksums; big-endian stores."""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

cdef extern from "checksum.h" nogil:
    uint64_t sstpfarm_sum(const uint8_t *at, size_t count)
    uint16_t sstpfarm_fold(uint64_t sum)

cdef extern from "arpa/inet.h" nogil:
    uint16_t htons(uint16_t number)
    uint32_t ntohl(uint32_t number)


cdef struct Span:
    const uint8_t *at
    size_t size


cdef inline int beyond() except -1:
    """A length was not checked before its use: a bug here, never the peer's doing; it ends the session."""
    raise IndexError("read beyond the end of a packet")


cdef inline int byte_at(const Span *span, size_t place) except -1:
    if place >= span.size:
        beyond()
    return span.at[place]


cdef inline int u16_at(const Span *span, size_t place) except -1:
    if span.size < 2 or place > span.size - 2:
        beyond()
    return span.at[place] << 8 | span.at[place + 1]


cdef inline int64_t u32_at(const Span *span, size_t place) except -1:
    cdef uint32_t number
    if span.size < 4 or place > span.size - 4:
        beyond()
    memcpy(&number, span.at + place, 4)
    return ntohl(number)


cdef inline int64_t sum_at(const Span *span, size_t place, size_t count) except -1:
    """The sum of that part, for `sstpfarm_fold`."""
    if place > span.size or count > span.size - place:
        beyond()
    return <int64_t>sstpfarm_sum(span.at + place, count)


cdef inline int same_at(const Span *one, const Span *other, size_t place, size_t count) except -1:
    """Whether both hold the same bytes there."""
    if place > one.size or count > one.size - place or place > other.size or count > other.size - place:
        beyond()
    return memcmp(one.at + place, other.at + place, count) == 0


cdef inline int part(Span *found, const Span *span, size_t place, size_t count) except -1:
    """Make `found` that part of it."""
    if place > span.size or count > span.size - place:
        beyond()
    found.at = span.at + place
    found.size = count
    return 0


cdef inline void put_u16(uint8_t *at, uint32_t number) noexcept nogil:
    at[0] = <uint8_t>(number >> 8)
    at[1] = <uint8_t>number


cdef inline void put_u32(uint8_t *at, uint32_t number) noexcept nogil:
    put_u16(at, number >> 16)
    put_u16(at + 2, number)


cdef inline uint16_t u16_of(const uint8_t *at) noexcept nogil:
    """16 bits as they lie in memory, for sums."""
    cdef uint16_t number
    memcpy(&number, at, 2)
    return number


cdef inline void put_sum(uint8_t *at, uint16_t number) noexcept nogil:
    """16 bits as they come from sums."""
    memcpy(at, &number, 2)
