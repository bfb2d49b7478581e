# What a call counts, and the cells that it is added to when the call ends.

cdef extern from "time.h" nogil:
    enum: CLOCK_MONOTONIC_COARSE
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *now)

cdef uint64_t _counts[CELLS]  # of the call that is running
memset(_counts, 0, sizeof(_counts))


cdef inline int tally(int cell) noexcept:
    _counts[cell] += 1
    return 0


cdef int publish(const Py_buffer *slot, const Py_buffer *totals) except -1:
    """Add what this call counted to the slot and to the totals."""
    cdef int cell
    cdef timespec now
    if _counts[PACKETS_IN] or _counts[PACKETS_OUT]:
        clock_gettime(CLOCK_MONOTONIC_COARSE, &now)
        (<uint64_t *>slot.buf)[ACTIVE] = <uint64_t>now.tv_sec * 1000 + now.tv_nsec // 1000000
    for cell in range(CELLS):
        if _counts[cell]:
            (<uint64_t *>slot.buf)[cell] += _counts[cell]
            (<uint64_t *>totals.buf)[cell] += _counts[cell]
            _counts[cell] = 0
    return 0


cdef int take_cells(Py_buffer *cells, source) except -1:
    PyObject_GetBuffer(source, cells, PyBUF_CONTIG | PyBUF_FORMAT)
    if cells.format is NULL or strcmp(cells.format, b"Q") or cells.len != CELLS * 8:
        raise LocalError(f"counters must be {CELLS} cells of format 'Q'")
    return 0
