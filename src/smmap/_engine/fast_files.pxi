# The system calls. Included by fast.pyx.

cdef enum:
    QUICK = 1 << 13  # bytes that are read without releasing the interpreter's lock, if they are in memory

cdef dict _seams = {}
seams = _seams
"""For tests: functions to call before a system call, by its name; the call fails with the code that they return."""


cdef int _refused(str name, a, b, c) except -1:
    """The code with which a test makes this system call fail, or 0."""
    seam = _seams.get(name)
    return 0 if seam is None else seam(a, b, c)


cdef object _error(int code):
    return OSError(code, (<bytes>strerror(code)).decode("utf-8", "replace"))


@cython.final
cdef class Descriptor:
    """A descriptor of our own."""

    cdef int own  # -1: it was closed
    cdef Py_ssize_t users
    cdef bint retired
    cdef smmap_mutex mutex
    cdef public bint cached
    cdef bint waits  # the system cannot read from it without waiting

    def __cinit__(self):
        self.own = -1

    def __dealloc__(self):
        self.users = 0
        self.shut()

    cdef void shut(self) noexcept:
        """Close it if it is retired or dying, and nobody uses it."""
        cdef int number = -1
        smmap_lock(&self.mutex)
        if self.users <= 0:
            number = self.own
            self.own = -1
        smmap_unlock(&self.mutex)
        if number >= 0:
            with nogil:
                close(number)

    cdef bint take(self) noexcept:
        """Keep it from being closed until `release`; return False if it was closed before."""
        cdef bint there
        smmap_lock(&self.mutex)
        there = not self.retired and self.own >= 0
        self.users += there
        smmap_unlock(&self.mutex)
        return there

    @property
    def closed(self):
        """Whether it was closed, at least for threads that do not use it yet."""
        return self.retired or self.own < 0

    @property
    def number(self):
        """The number for system calls; -1 once it was closed."""
        return self.own

    def use(self):
        """Keep it from being closed until `done`, by this thread."""
        smmap_lock(&self.mutex)
        self.users += 1
        smmap_unlock(&self.mutex)

    def done(self):
        """Undo one `use`."""
        self.release()

    cdef void release(self) noexcept:
        cdef bint last
        smmap_lock(&self.mutex)
        self.users -= 1
        last = self.users <= 0 and self.retired
        smmap_unlock(&self.mutex)
        if last:
            self.shut()

    def read(self, Py_ssize_t size, long long offset):
        """Up to `size` bytes at `offset`, fewer only at the end of the file; nothing if it was closed."""
        if not self.take():
            return b""
        try:
            return read_at(self.own, size, offset)
        finally:
            self.release()

    cdef Py_ssize_t read_to(self, char* target, Py_ssize_t size, long long offset) except -1:
        """Read to the caller's memory; return how many bytes."""
        cdef Py_ssize_t done = 0
        if not self.take():
            return 0
        try:
            if size <= QUICK and not (self.waits or _seams or SMMAP_FREE_THREADED):
                # Copied from memory under the interpreter's lock, like bytes of a map: this never waits, and threads
                # that release the lock for each short read mostly wait to get it back: benchmark row "misses, buffer"
                done = smmap_read_resident(self.own, target, size, offset)
                if done < 0:
                    self.waits = errno != EAGAIN
                    done = 0
            return done if done == size else done + _read(self.own, target + done, size - done, offset + done)
        finally:
            self.release()

    cdef bint status_to(self, stat_t* status) except -1:
        """The status of the open file; return whether it is open."""
        if not self.take():
            return False
        try:
            _status(self.own, status)
        finally:
            self.release()
        return True

    cpdef void close(self) noexcept:
        """Close it; if a thread uses it now, once that thread is done."""
        smmap_lock(&self.mutex)
        self.retired = True
        smmap_unlock(&self.mutex)
        self.shut()


cdef Py_ssize_t _read(int number, char* target, Py_ssize_t size, long long offset) except -1:
    """Up to `size` bytes at `offset`; fewer only where the file ends."""
    cdef Py_ssize_t done = 0, count
    cdef int code
    while done < size:
        count = -1
        code = _refused("pread", number, size - done, offset + done) if _seams else 0
        if not code:
            with nogil:
                count = pread(number, target + done, min(size - done, LONGEST), offset + done)
                code = errno if count < 0 else 0
        if count == 0:
            break
        if count > 0:
            done += count
            if done == size:
                break
        elif code != EINTR:
            raise _error(code)
        PyErr_CheckSignals()
    return done


cdef int _status(int number, stat_t* status) except -1:
    cdef int code = _refused("fstat", number, None, None) if _seams else 0
    if not code:
        with nogil:
            code = errno if fstat(number, status) else 0
    if code:
        raise _error(code)
    return 0


def open_file(where, int flags):
    """A descriptor of our own, read-only and not inherited, for the path or the user's descriptor; and its status."""
    cdef Descriptor descriptor = Descriptor.__new__(Descriptor)
    cdef bint given = isinstance(where, int)
    cdef int number, code, wanted = _OPENING | flags, copied = where if given else -1
    cdef bytes name
    cdef char* c_name
    cdef stat_t status
    path = f"/proc/self/fd/{copied}" if given else where
    name = path if isinstance(path, bytes) else PyUnicode_EncodeFSDefault(path)
    c_name = name
    if <Py_ssize_t>strlen(c_name) != len(name):
        raise ValueError("embedded null byte")
    PySys_Audit("open", "OOi", <PyObject*>path, Py_None, wanted)
    while True:
        number = -1
        code = _refused("open", path, wanted, None) if _seams else 0
        if not code:
            with nogil:
                number = open(c_name, wanted)
                code = errno if number < 0 else 0
        if code != EINTR:
            break
        PyErr_CheckSignals()
    if number < 0 and given and code not in _REFUSALS:
        code = _refused("dup", copied, None, None) if _seams else 0
        if not code:
            number = fcntl(copied, F_DUPFD_CLOEXEC, 0)
            code = errno
        if number < 0:
            raise _error(code)
    if number < 0:
        raise _error(code)
    descriptor.own = number
    _status(number, &status)
    return descriptor, _as_status(&status)


cdef Region _unmapped(Ledger ledger, object file, object key, long long start, long long stop):
    """A region that is not mapped yet, and neither in a table nor counted."""
    cdef Region region = Region.__new__(Region)
    if not 0 <= start < stop:
        raise ValueError(f"not a window: {(key, start, stop)!r}")
    smmap_share(<PyObject*>region)
    region.key = key
    region.file = file
    region.table = <Table?>file.table
    region.table.belong(ledger.counts)
    region.counts = ledger.counts
    region.entry = Entry.__new__(Entry)
    region.entry.counts = ledger.counts
    _key(key, &region.low, &region.high)
    region.start = start
    region.stop = stop
    region.ended = -1
    return region


cdef int _map(Region region, int prot, int flags, int number) except -1:
    """Map it; return the system's error number, or 0. Raises only the exceptions of tests and audit hooks."""
    cdef void* base = smmap_failed
    cdef size_t size = region.stop - region.start
    cdef long long start = region.start if number >= 0 else 0
    cdef int code = _refused("mmap", number, size, start) if _seams else 0
    if not code:
        with nogil:
            base = c_mmap(NULL, size, prot, flags, number, start)
            code = errno
    if base is smmap_failed:
        return code
    region.base = <char*>base
    return 0


cdef Region _new_region(Ledger ledger, object file, object window, int prot, int flags, int number):
    """A map that is neither in a table nor counted yet."""
    cdef Region region
    cdef int code
    key, start, stop = window
    region = _unmapped(ledger, file, key, start, stop)
    PySys_Audit("mmap.__new__", "iniL", number, <Py_ssize_t>(region.stop - region.start), 1, region.start)
    code = _map(region, prot, flags, number)
    if code:
        raise _error(code)
    return region


def read_at(int number, Py_ssize_t size, long long offset):
    """Up to `size` bytes at `offset`; fewer only where the file ends."""
    cdef Py_ssize_t count
    if size < 0 or offset < 0:
        raise ValueError("size and offset must not be negative")
    data = PyBytes_FromStringAndSize(NULL, size)
    count = _read(number, PyBytes_AS_STRING(data), size, offset)
    return data if count == size else data[:count]


def map_window(Ledger ledger not None, file, int number, window, str advice):
    """A map of a window, which outlives the descriptor; None if the file is too short."""
    cdef stat_t status
    cdef Region region
    _status(number, &status)
    if status.st_size < window[2]:  # a map past the end could be made, but not read
        return None
    region = _new_region(ledger, file, window, PROT_READ, MAP_SHARED, number)
    _advise(ledger, region, advice)
    region.enter()
    return region


cdef int _advise(Ledger ledger, Region region, str advice) except -1:
    """Tell the system how a map will be read (errors of that do not matter), and have it guarded."""
    cdef int wanted = MADV_SEQUENTIAL if advice == "sequential" else -1
    region.scattered = advice == "scattered"
    if region.scattered or advice == "random":
        wanted = MADV_RANDOM
    if wanted >= 0:
        madvise(region.base, region.stop - region.start, wanted)
    if ledger.counts.guard:
        smmap_lock(&smmap_slots)
        smmap_install()
        smmap_unlock(&smmap_slots)
        # With random reads, touching the next page may read it from the disk
        region.edge = region.base if wanted == MADV_RANDOM else region.base + (region.stop - region.start)
        if ledger.counts.guard == VIEWS:
            smmap_lock(&smmap_slots)
            region.slot = smmap_take_slot(region.base, region.stop - region.start, <void*>region)
            smmap_unlock(&smmap_slots)
            if region.slot is NULL:
                raise MemoryError
    return 0


def unchanged(path, then):
    """Whether the file at a path has exactly this status now, and is not empty; False also if `stat` fails."""
    cdef stat_t now
    cdef bytes name = path if isinstance(path, bytes) else PyUnicode_EncodeFSDefault(path)
    cdef char* c_name = name
    cdef int failed = _refused("stat", path, None, None) if _seams else 0
    if not failed:
        with nogil:
            failed = c_stat(c_name, &now)
    return not failed and now.st_size > 0 and _is_status(then, &now)


cdef bint _unchanged(object file, stat_t* now) except -1:
    """Whether this is certainly the status of that version of a file: its inode was not reused meanwhile either."""
    return file.generation is not None and not file.cut and _is_status(file.status, now)


cdef bint _is_status(object status, stat_t* now) except -1:
    cdef unsigned long long device, inode
    cdef long long size
    device, inode, size, mtime, ctime = status
    return (
        now.st_size == size and now.st_ino == inode and now.st_dev == device
        and smmap_wrapped_ns(smmap_mtime(now)) == PyLong_AsUnsignedLongLongMask(mtime)
        and smmap_wrapped_ns(smmap_ctime(now)) == PyLong_AsUnsignedLongLongMask(ctime)
    )


cdef Descriptor _open_anew(Access access):
    """A new descriptor of the file, in use until `release`, made without the policy if there is nothing to decide.

    None if the file is not certainly unchanged, or if it cannot be opened now. It is cached if the lock is free.
    """
    cdef Ledger ledger = access.ledger
    cdef Descriptor descriptor
    cdef stat_t status
    cdef bytes name
    cdef char* c_name
    cdef int number = -1, code, wanted = _OPENING
    where = access.client.where
    if ledger.shortcut is None or ledger.idle.crowded or access.client.flags or not ledger.most_handles:
        return None
    if not isinstance(where, (str, bytes)):
        return None
    name = where if isinstance(where, bytes) else PyUnicode_EncodeFSDefault(where)
    c_name = name
    PySys_Audit("open", "OOi", <PyObject*>where, Py_None, wanted)
    descriptor = Descriptor.__new__(Descriptor)
    code = _refused("open", where, wanted, None) if _seams else 0
    if not code:
        with nogil:
            number = open(c_name, wanted)
            code = -1 if number < 0 else fstat(number, &status)
    if number < 0:
        return None
    descriptor.own = number
    if _seams and not code:
        code = _refused("fstat", number, None, None)
    if code or not _unchanged(access.file, &status):
        return None
    descriptor.users = 1
    _keep_open(ledger, access.file, descriptor)
    return descriptor


cdef int _keep_open(Ledger ledger, object file, Descriptor descriptor) except -1:
    """Cache a descriptor as the policy does, if its lock is free."""
    cdef Node node = _new_node(file)  # what may collect garbage comes before the lock
    lock, _ = ledger.shortcut
    rlock = lock._rlock
    if lock._notes or rlock._is_owned() or not rlock.acquire(False):
        return 0
    try:
        _keep_open_locked(ledger, file, descriptor, node)
    finally:
        rlock.release()
    if lock._notes:  # of calls that did not wait in the meantime
        lock._attempt()
    return 0


cdef int _keep_open_locked(Ledger ledger, object file, Descriptor descriptor, Node node) except -1:
    """The same, under the lock. Runs no Python code, so that no signal handler can leave the lock taken."""
    cdef Order cold = ledger.open
    cdef Descriptor kept
    cdef long long room = min(ledger.most_handles - ledger.counts.mapped, ledger.most_descriptors)
    if room <= 0 or ledger.idle.crowded or file.descriptor is not None or file in cold.nodes:
        return 0
    while cold.count >= room:
        oldest = smmap_held(cold.first_out())
        kept = oldest.descriptor
        if kept is not None:  # otherwise an exception came between that and the order
            kept.cached = False
            kept.close()
            oldest.descriptor = None
        cold.remove(oldest)
    descriptor.cached = True
    file.descriptor = descriptor
    cold.add_node(node, file)
    return 0


cdef Region _shortcut(Access access, long long number, bint rented):
    """The region of a grid window, mapped without the policy if there is nothing to decide; otherwise None.

    There is nothing to decide if the descriptor of the file is cached, and the limits leave room or evicting idle
    regions makes room. Everything is done as by the policy, under the manager's lock. After None, ask the policy.
    """
    cdef Ledger ledger = access.ledger
    cdef Region region
    cdef Descriptor descriptor
    cdef long long start = number * access.window, size = min(access.window, access.file_size - start)
    if ledger.shortcut is None or size > ledger.most_memory or ledger.idle.crowded:
        return None
    file = access.file
    kept = file.descriptor
    if kept is None or file.reads or file.gone or file.cut or not file.name or access.client.flags:
        return None
    descriptor = <Descriptor?>kept
    lock, noting = ledger.shortcut
    if noting() or lock._notes:
        return None
    region = _unmapped(ledger, file, number, start, start + size)  # what may collect garbage comes before the lock
    PySys_Audit("mmap.__new__", "iniL", descriptor.own, <Py_ssize_t>size, 1, start)
    rlock = lock._rlock
    # If threads miss at once, waiting here takes half as long as in the policy: benchmark row "misses, cursor"
    if rlock._is_owned() or not (rlock.acquire(False) or (lock.may_wait() and rlock.acquire())):
        return None
    try:
        if lock._notes or file.gone or file.cut or file.descriptor is not kept:  # since the wait began
            region = None
        else:
            region = _map_locked(access, region, number, descriptor, rented)
    finally:
        rlock.release()
    if lock._notes:  # of calls that did not wait in the meantime
        lock._attempt()
    return region


cdef Region _map_locked(Access access, Region region, long long number, Descriptor descriptor, bint rented):
    """The same, under the lock. Runs no Python code, so that no signal handler can leave the lock taken.

    There is one exception: if another thread has just found that the file was truncated, that is reported to the
    policy, and the error is raised.
    """
    cdef Ledger ledger = access.ledger
    cdef Order idle = ledger.idle, cold = ledger.open
    cdef Counts counts = ledger.counts
    cdef Region oldest
    cdef long long size = region.stop - region.start
    cdef stat_t status
    cdef PyObject* found
    cdef bint held
    cdef int code
    smmap_lock(&counts.mutex)
    found = access.table.at(number, -1)
    held = found is not NULL and smmap_hold(found)
    idle.hits += held
    smmap_unlock(&counts.mutex)
    if held:
        return <Region>smmap_held(found)
    while counts.memory + size > ledger.most_memory or counts.mapped + cold.count >= ledger.most_handles:
        if not idle.count or (cold.count and counts.mapped + cold.count >= ledger.most_handles):
            return None
        if idle.first_runs_code() or not idle.pop(&found):
            return None
        oldest = <Region?>smmap_held(found)
        ledger.evictions += not oldest.pins
        oldest = None  # it is unmapped here, unless a view is left
    if idle.crowded or not descriptor.take():
        return None
    try:
        code = _refused("fstat", descriptor.own, None, None) if _seams else 0
        if not code:
            with nogil:
                code = fstat(descriptor.own, &status)
        if code or status.st_size < region.stop or _map(region, PROT_READ, MAP_SHARED, descriptor.own):
            return None
    finally:
        descriptor.release()
    advice = access.client.advice
    if rented and advice == "normal" and ledger.rents.scattered(access.serial + <unsigned long long>number):
        advice = "scattered"
    _advise(ledger, region, advice)
    region.enter()
    cold.touch(access.file)
    ledger.count_miss()
    return region


def read_window(Ledger ledger not None, file, int number, window, str advice):
    """The bytes of a window in memory of our own; None if the file is too short."""
    cdef Region region = _new_region(ledger, file, window, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1)
    cdef Py_ssize_t size = region.stop - region.start
    region.reads = True
    if _read(number, region.base, size, region.start) < size:
        return None
    mprotect(region.base, size, PROT_READ)
    region.enter()
    return region
