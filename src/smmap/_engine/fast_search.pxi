# Searching in mapped bytes. Included by fast.pyx.

cdef Py_ssize_t _look(const char* base, Py_ssize_t low, Py_ssize_t high, const char* needle, Py_ssize_t size) noexcept nogil:
    """The first place of the needle (not empty) in [low, high), or -1."""
    cdef const char* found
    if size == 1:
        found = <const char*>memchr(base + low, needle[0], high - low)
    else:
        found = <const char*>memmem(base + low, high - low, needle, size)
    return -1 if found is NULL else found - base


cdef Py_ssize_t _seen(const char* base, Py_ssize_t low, Py_ssize_t high, const char* needle, Py_ssize_t size) except -2:
    """The same, without the interpreter's lock where that takes long."""
    cdef Py_ssize_t place
    if high - low < LARGE:
        return _look(base, low, high, needle, size)
    with nogil:
        place = _look(base, low, high, needle, size)
    return place


cdef Py_ssize_t _first(const char* base, Py_ssize_t low, Py_ssize_t high, const char* needle, Py_ssize_t size) except -2:
    cdef Py_ssize_t stop, place, step = max(LONGEST, 2 * size)
    while True:
        stop = high if high - low <= step else low + step
        place = _seen(base, low, stop, needle, size)
        if place >= 0 or stop == high:
            return place
        low = stop - size + 1
        PyErr_CheckSignals()


cdef Py_ssize_t _last(const char* base, Py_ssize_t low, Py_ssize_t high, const char* needle, Py_ssize_t size) except -2:
    """The last place: ranges that grow are looked at from the end; where one has the needle, it is halved."""
    cdef Py_ssize_t stop = high, start, step = 256, place, further, middle
    while stop - low >= size:
        start = max(low, stop - max(step, 2 * size))
        place = _seen(base, start, stop, needle, size)
        if place >= 0:
            # places in [place, stop - size], the first of which is one
            further = stop - size + 1
            while further - place > 1:
                middle = place + (further - place + 1) // 2
                start = _seen(base, middle, further + size - 1, needle, size)
                if start >= 0:
                    place = start
                else:
                    further = middle
            return place
        if start == low:
            break
        stop = start + size - 1
        step = min(step * 4, LONGEST)
        PyErr_CheckSignals()
    return -1
