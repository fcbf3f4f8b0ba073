# The errors of reads from maps that no longer have all their bytes; see guard.h. Included by fast.pyx.
#
# Code that reads from a region only calls `region.copy_to`, or, without the interpreter's lock, one of the reads of
# guard.h with `region.edge`, while it has a reference to the region; and afterwards, with the lock,
#
#     if found or region.spoiled:
#         region.settle(found, start, stop)  # offsets in the file; an error if the bytes were not the file's

cdef enum:
    OFF = 0
    COPIES = 1
    VIEWS = 2

cdef tuple _MODES = ("off", "copies", "views")


def _forked():
    """In a child."""
    smmap_after_fork()


if SMMAP_FREE_THREADED:
    import os

    os.register_at_fork(after_in_child=_forked)


def guard(Ledger ledger not None, str how not None, owner):
    """Guard reads of this ledger's regions, from the next map on: "off", "copies" or "views".

    `owner()` is the manager to which lost bytes are reported, or None once it is gone.
    """
    ledger.counts.guard = _MODES.index(how)
    ledger.counts.owner = owner


def notice():
    """Report to the managers the regions whose views have read zeros since the last call."""
    if smmap_any_zeroed():
        _notice()


cdef int _notice() except -1:
    cdef size_t room = 64, most = 0, count, first, place
    cdef PyObject** found = <PyObject**>malloc(room * sizeof(PyObject*))
    cdef PyObject** more
    if found is NULL:
        raise MemoryError
    smmap_lock(&smmap_slots)  # another thread that comes here waits until all are spoiled: it may have read zeros
    smmap_start_taking()
    while True:  # all, before any Python code can run
        first = most
        count = smmap_take_zeroed(<void**>(found + first), room - first)
        for place in range(first, first + min(count, room - first)):
            if smmap_hold(found[place]):
                (<Region>found[place]).spoil()
                found[most] = found[place]
                most += 1
        if count <= room - first:
            break
        more = <PyObject**>realloc(found, (room + count) * sizeof(PyObject*))
        if more is NULL:
            break  # the next call takes the rest
        found = more
        room += count
    smmap_stop_taking()
    smmap_unlock(&smmap_slots)
    regions = _all_of(found, most)
    for region in regions:
        (<Region>region).file.cut = True
    warnings = []
    for region in regions:
        manager = (<Region>region).owner()
        if manager is not None:
            warnings.append(manager._zeroed(region))
    for warning in warnings:
        if warning is not None:
            warning()
    return 0


cdef bint _look_at(object file, stat_t* status) except -1:
    """The present status of a version's file, by its cached descriptor or its name; return whether there is one."""
    cdef Descriptor descriptor = file.descriptor
    cdef bytes name
    cdef char* c_name
    cdef int failed, number
    where = file.where
    try:
        if descriptor is not None and descriptor.status_to(status):
            return True
        if isinstance(where, int):
            _status(where, status)
        elif where is None:
            return False
        else:
            name = where if isinstance(where, bytes) else PyUnicode_EncodeFSDefault(where)
            c_name = name
            with nogil:
                failed = c_stat(c_name, status)
            if failed:
                return False
    except OSError:
        return False
    then = file.status
    return status.st_dev == <unsigned long long>then[0] and status.st_ino == <unsigned long long>then[1]


cdef object _now(object file):
    """The same as a `Status`, or None."""
    cdef stat_t status
    return _as_status(&status) if _look_at(file, &status) else None


cdef object _as_status(stat_t* status):
    return Status(
        status.st_dev, status.st_ino, status.st_size, _nanoseconds(smmap_mtime(status)), _nanoseconds(smmap_ctime(status))
    )


cdef object _nanoseconds(timespec_t when):
    return <object>when.tv_sec * 1_000_000_000 + when.tv_nsec  # after the year 2262, more than C's integers have room for
