# Searching in mapped bytes. Included by fast.pyx.

cdef Py_ssize_t _seen(Region region, Py_ssize_t low, Py_ssize_t high, const char* needle, Py_ssize_t size) except -2:
    """The first place of the needle (not empty) in [low, high), or -1; without the interpreter's lock if that is long."""
    cdef const char* base = region.base
    cdef const char* edge = region.edge
    cdef const char* place = NULL
    cdef int found
    if low >= high:
        return -1
    if high - low < LARGE:
        found = smmap_search(&place, base + low, base + high, needle, size, edge)
    else:
        with nogil:
            found = smmap_search(&place, base + low, base + high, needle, size, edge)
    if found or region.spoiled:
        region.settle(found, region.start + low, region.start + (high if place is NULL else place + size - base))
    return -1 if place is NULL else place - base


cdef Py_ssize_t _first(Region region, Py_ssize_t low, Py_ssize_t high, const char* needle, Py_ssize_t size) except -2:
    cdef Py_ssize_t stop, place, step = max(LONGEST, 2 * size)
    while True:
        stop = high if high - low <= step else low + step
        place = _seen(region, low, stop, needle, size)
        if place >= 0 or stop == high:
            return place
        low = stop - size + 1
        PyErr_CheckSignals()


cdef Py_ssize_t _last(Region region, Py_ssize_t low, Py_ssize_t high, const char* needle, Py_ssize_t size) except -2:
    """The last place: searches growing ranges from the end; a range that has the needle is halved."""
    cdef Py_ssize_t stop = high, start, step = 256, place, further, middle
    while stop - low >= size:
        start = max(low, stop - max(step, 2 * size))
        place = _seen(region, start, stop, needle, size)
        if place >= 0:
            # places in [place, stop - size], the first of which is one
            further = stop - size + 1
            while further - place > 1:
                middle = place + (further - place + 1) // 2
                start = _seen(region, middle, further + size - 1, needle, size)
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
