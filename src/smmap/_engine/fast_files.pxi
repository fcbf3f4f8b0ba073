# The system calls. Included by fast.pyx.

cdef dict _seams = {}
seams = _seams
"""For tests: what is called before a system call, by its name; the call fails with the code that this returns."""


cdef int _refused(str name, a, b, c) except -1:
    """The code with which a test lets this system call fail, or 0."""
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
    cdef public bint cached

    def __cinit__(self):
        self.own = -1

    def __dealloc__(self):
        self.shut()

    cdef void shut(self) noexcept:
        cdef int number = self.own
        self.own = -1
        if number >= 0:
            with nogil:
                close(number)

    @property
    def closed(self):
        """Whether it was closed, if only for those who do not use it yet."""
        return self.retired or self.own < 0

    @property
    def number(self):
        """The number for system calls; -1 once it was closed."""
        return self.own

    def use(self):
        """Keep it from being closed until `done`, by this thread."""
        self.users += 1

    def done(self):
        """The opposite of `use`."""
        self.release()

    cdef void release(self) noexcept:
        self.users -= 1
        if self.users <= 0 and self.retired:
            self.shut()

    def read(self, Py_ssize_t size, long long offset):
        """Up to `size` bytes at `offset`, fewer only where the file ends; nothing if it was closed."""
        if self.retired or self.own < 0:
            return b""
        self.users += 1
        try:
            return read_at(self.own, size, offset)
        finally:
            self.release()

    cdef Py_ssize_t read_to(self, char* target, Py_ssize_t size, long long offset) except -1:
        """Read to memory of the caller's; how many bytes."""
        if self.retired or self.own < 0:
            return 0
        self.users += 1
        try:
            return _read(self.own, target, size, offset)
        finally:
            self.release()

    def close(self):
        """Close it; if a thread uses it now, once that is done."""
        self.retired = True
        if self.users <= 0:
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
    """A descriptor of our own, read-only and not inherited, of the path or of the user's descriptor; and its status."""
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
    return descriptor, Status(
        status.st_dev, status.st_ino, status.st_size, smmap_mtime_ns(&status), smmap_ctime_ns(&status)
    )


cdef Region _new_region(Ledger ledger, object file, object window, int prot, int flags, int number):
    """A map that is neither found nor counted yet."""
    cdef Region region = Region.__new__(Region)
    cdef long long start, stop
    cdef size_t size
    cdef void* base
    cdef int code
    key, start, stop = window
    if not 0 <= start < stop or ledger is None:
        raise ValueError(f"not a window: {window!r}")
    region.key = key
    region.file = file
    region.table = <Table?>file.table
    region.counts = ledger.counts
    region.entry = Entry.__new__(Entry)
    _key(key, &region.low, &region.high)
    region.start = start
    region.stop = stop
    size = stop - start
    if number < 0:
        start = 0
    PySys_Audit("mmap.__new__", "iniL", number, <Py_ssize_t>size, 1, start)
    base = smmap_failed
    code = _refused("mmap", number, size, start) if _seams else 0
    if not code:
        with nogil:
            base = c_mmap(NULL, size, prot, flags, number, start)
            code = errno
    if base is smmap_failed:
        raise _error(code)
    region.base = <char*>base
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
    """A map of a window, which outlives the descriptor; None if the file does not reach so far."""
    cdef stat_t status
    cdef Region region
    cdef bint scattered = advice == "scattered"
    cdef int wanted = MADV_SEQUENTIAL if advice == "sequential" else MADV_RANDOM if scattered or advice == "random" else -1
    _status(number, &status)
    if status.st_size < window[2]:  # a map past the end could be made, but not be read
        return None
    region = _new_region(ledger, file, window, PROT_READ, MAP_SHARED, number)
    if wanted >= 0:
        madvise(region.base, region.stop - region.start, wanted)
    region.scattered = scattered
    region.enter()
    return region


def read_window(Ledger ledger not None, file, int number, window, str advice):
    """The bytes of a window in memory of our own; None if the file does not reach so far."""
    cdef Region region = _new_region(ledger, file, window, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1)
    cdef Py_ssize_t size = region.stop - region.start
    region.reads = True
    if _read(number, region.base, size, region.start) < size:
        return None
    mprotect(region.base, size, PROT_READ)
    region.enter()
    return region
