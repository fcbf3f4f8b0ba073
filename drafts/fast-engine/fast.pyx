# cython: language_level=3, binding=False, boundscheck=False, wraparound=False, initializedcheck=False
# cython: cdivision=True, auto_pickle=False, embedsignature=True, embedsignature.format=clinic
"""The fast engine: what `__init__.py` promises, compiled. Read `plain.py` first; what is the same is not said again.

Three ideas carry it:

- A `Region` owns its map and is counted by C integers in `__dealloc__`. The table of a file has borrowed pointers to
  regions, which take themselves out when they die; the order of idle regions is a list whose links lie in the regions.
- The interpreter's lock is the only one. Whatever is changed together is changed between two points at which it can be
  given up, and no Python code can run: no call of Python, no allocation of what the collector tracks (up to 3.11 that
  may run finalizers), and references are dropped last.
- Nothing that is borrowed is used after such a point. What was looked up is looked up again, or held by a reference.

Every access is checked against the region itself, so a wrong record cannot lead to memory that is not mapped.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.buffer cimport (
    PyBUF_FORMAT, PyBUF_ND, PyBUF_SIMPLE, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.exc cimport PyErr_CheckSignals, PyErr_Clear
from cpython.long cimport PyLong_CheckExact
from cpython.memoryview cimport PyMemoryView_FromObject
from cpython.number cimport PyNumber_Index
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_REFCNT
from cpython.slice cimport PySlice_AdjustIndices, PySlice_Check, PySlice_Unpack
from libc.errno cimport EINTR, errno
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memchr, memcpy, memset, strlen

from .._files import Status
from .._system import OPENING, REFUSALS, named

__all__ = [
    "MAP_COSTS_DESCRIPTOR",
    "Access",
    "BufferBase",
    "CursorBase",
    "Descriptor",
    "Ledger",
    "Order",
    "Region",
    "Rents",
    "Table",
    "map_window",
    "open_file",
    "read_at",
    "read_window",
]

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <fcntl.h>
    #include <string.h>
    #include <sys/mman.h>
    #include <sys/stat.h>
    #include <unistd.h>
    #ifdef __APPLE__
    #define smmap_mtime(s) ((s)->st_mtimespec)
    #define smmap_ctime(s) ((s)->st_ctimespec)
    #else
    #define smmap_mtime(s) ((s)->st_mtim)
    #define smmap_ctime(s) ((s)->st_ctim)
    #endif
    static inline long long smmap_mtime_ns(struct stat *s) {
        return smmap_mtime(s).tv_sec * 1000000000LL + smmap_mtime(s).tv_nsec;
    }
    static inline long long smmap_ctime_ns(struct stat *s) {
        return smmap_ctime(s).tv_sec * 1000000000LL + smmap_ctime(s).tv_nsec;
    }
    static void *const smmap_failed = MAP_FAILED;
    """
    ctypedef struct stat_t "struct stat":
        unsigned long long st_dev
        unsigned long long st_ino
        long long st_size
    ctypedef struct PySliceObject:
        PyObject* start
        PyObject* stop
        PyObject* step
    ctypedef long off_t
    int PROT_READ, PROT_WRITE, MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS, MADV_RANDOM, MADV_SEQUENTIAL, F_DUPFD_CLOEXEC
    void* smmap_failed
    long long smmap_mtime_ns(stat_t*) noexcept
    long long smmap_ctime_ns(stat_t*) noexcept
    void* mmap(void*, size_t, int, int, int, off_t) noexcept nogil
    int munmap(void*, size_t) noexcept nogil
    int mprotect(void*, size_t, int) noexcept nogil
    int madvise(void*, size_t, int) noexcept nogil
    int open(const char*, int) noexcept nogil
    int close(int) noexcept nogil
    int fcntl(int, int, int) noexcept nogil
    int fstat(int, stat_t*) noexcept nogil
    Py_ssize_t pread(int, void*, size_t, off_t) noexcept nogil
    void* memmem(const void*, size_t, const void*, size_t) noexcept nogil
    const char* strerror(int) noexcept
    PyObject* Py_None
    object PyUnicode_EncodeFSDefault(object)
    long long PyLong_AsLongLongAndOverflow(object, int*) noexcept

cdef enum:
    LARGE = 1 << 16  # copies of so many bytes give up the interpreter's lock
    LONGEST = 1 << 24  # bytes copied, read or searched between two looks at signals
    STEP = 1 << 20  # bytes read at once where a range is copied piece by piece
    BLOCK = 1 << 16  # bytes copied at once for a slice with a step
    CLOSE = 1 << 9  # up to this step a block costs less than the bytes one by one
    SHIFT = 15  # as in _rents.py

MAP_COSTS_DESCRIPTOR = False

cdef object _REFUSALS = REFUSALS
cdef int _OPENING = OPENING
cdef tuple _NOWHERE = (None, 0, 0)
cdef char* _BYTES = "B"
cdef char* _NOTHING = ""


# Regions, and what counts and orders them


cdef class Region
cdef class Table
cdef class CursorBase


cdef struct Link:
    Link* older
    Link* newer
    PyObject* item  # a reference, as long as it is in an order
    PyObject* node  # the `_Node` that it is in, or NULL: a region
    void* order  # the one that it is in, or NULL


cdef struct Slot:
    long long low
    long long high
    PyObject* region  # borrowed; NULL: the slot is free


@cython.final
@cython.no_gc
cdef class Entry:
    """How the policy refers to a region weakly."""

    cdef PyObject* region

    def __call__(self):
        """The region, if it lives."""
        return _living(self.region)


cdef object _living(PyObject* thing):
    """A borrowed pointer as an object; None if that is dying, or not there."""
    return None if thing is NULL or Py_REFCNT(<object>thing) <= 0 else <object>thing


cdef list _all_of(PyObject** things, Py_ssize_t count):
    """A list of objects, of which we have a reference each; frees the array."""
    cdef list found
    cdef Py_ssize_t place
    try:
        found = []
        for place in range(count):
            found.append(<object>things[place])
        return found
    finally:
        for place in range(count):
            Py_DECREF(<object>things[place])
        free(things)


@cython.final
cdef class Ledger:
    """Counts the regions that live."""

    cdef readonly Py_ssize_t mapped
    cdef readonly long long memory
    cdef PyObject* first

    @property
    def living(self):
        """How the policy refers to them weakly, by any number."""
        return dict(enumerate([(<Region>region).entry for region in self.regions()]))

    def regions(self):
        """All that live."""
        cdef PyObject** found = <PyObject**>malloc((self.mapped + 1) * sizeof(PyObject*))
        cdef PyObject* each = self.first
        cdef Py_ssize_t count = 0
        if found is NULL:
            raise MemoryError
        while each is not NULL:
            if Py_REFCNT(<object>each) > 0:
                Py_INCREF(<object>each)
                found[count] = each
                count += 1
            each = (<Region>each).after
        return _all_of(found, count)

    def settle(self):
        """Nothing: regions count themselves down."""


@cython.final
@cython.no_gc_clear
cdef class Region:
    """One mapped window of a file; for files that are read instead, anonymous memory filled from it."""

    cdef readonly long long start  # what a hit looks at comes first
    cdef readonly long long stop
    cdef char* base
    cdef Link link
    cdef readonly Py_ssize_t pins
    cdef readonly bint exported
    cdef readonly bint reads
    cdef bint counted
    cdef object __weakref__
    cdef readonly object key
    cdef readonly object file
    cdef readonly Entry entry
    cdef public object face
    cdef Table table
    cdef Ledger ledger
    cdef long long low
    cdef long long high
    cdef Py_ssize_t by_hand  # of the pins
    cdef PyObject* cursors  # the first of those that pin it, borrowed
    cdef PyObject* before  # others of the ledger
    cdef PyObject* after

    def __dealloc__(self):
        cdef char* base = self.base
        cdef size_t size = self.stop - self.start
        if self.counted:
            self.withdraw()
        if base is not NULL:
            self.base = NULL
            with nogil:
                munmap(base, size)

    cdef void withdraw(self) noexcept:
        """Be found no longer, and be counted no longer."""
        self.counted = False
        while self.cursors is not NULL:
            (<CursorBase>self.cursors).unpin()
        self.entry.region = NULL
        self.table.forget(self)
        if self.before is NULL:
            self.ledger.first = self.after
        else:
            (<Region>self.before).after = self.after
        if self.after is not NULL:
            (<Region>self.after).before = self.before
        self.ledger.mapped -= 1
        self.ledger.memory -= self.stop - self.start

    cdef int enter(self) except -1:
        """Be found, and be counted."""
        self.table.reserve()
        self.counted = True
        self.entry.region = <PyObject*>self
        self.table.put(self)
        self.after = self.ledger.first
        if self.after is not NULL:
            (<Region>self.after).before = <PyObject*>self
        self.ledger.first = <PyObject*>self
        self.ledger.mapped += 1
        self.ledger.memory += self.stop - self.start
        return 0

    def __repr__(self):
        return f"<{type(self).__name__} [{self.start}, {self.stop})>"

    @property
    def closed(self):
        """Whether it is unmapped: never."""
        return self.base is NULL

    def pin(self, CursorBase cursor not None):
        """A cursor is about to use it."""
        cursor.pin(self)

    def unpin(self, cursor_id, Order idle not None):
        """A cursor uses it no longer; after the last one it is idle. Whether the manager must look after that."""
        cdef size_t wanted = cursor_id & 0xFFFFFFFFFFFFFFFF
        cdef PyObject* each = self.cursors
        while each is not NULL:
            if <size_t>each == wanted:
                (<CursorBase>each).unpin()
                break
            each = (<CursorBase>each).after
        return False if self.pins else self.rest(idle)

    cdef bint rest(self, Order idle) except -1:
        """It is pinned no longer, but used last. The caller has a reference."""
        if idle.has(&self.link):
            idle.touch_link(&self.link)
        elif self.link.order is NULL:
            idle.put(&self.link, <PyObject*>self)
        return idle.crowded or self.file.gone

    def count_by_hand(self, Py_ssize_t change):
        """One client more, or one fewer, that is no cursor; where there is none left, a cursor's pin goes."""
        if change > 0 or self.by_hand:
            change = 1 if change > 0 else -1
            self.by_hand += change
            self.pins += change
        elif self.cursors is not NULL:
            (<CursorBase>self.cursors).unpin()

    def revoke(self):
        """Take it away from the cursors that use it; whether there were any."""
        found = self.pins > 0
        for cursor in self.holders():
            cursor._revoke()
        while self.cursors is not NULL:
            (<CursorBase>self.cursors).unpin()
        self.pins = self.by_hand = 0
        return found

    @property
    def pinned(self):
        """Whether one does: not only was about to, before an exception cut that short."""
        cdef PyObject* each = self.cursors
        while each is not NULL:
            if (<CursorBase>each).region is self:
                return True
            each = (<CursorBase>each).after
        return self.by_hand > 0

    def holders(self):
        """The cursors that use it."""
        cdef PyObject* each = self.cursors
        cdef PyObject** found
        cdef Py_ssize_t count = 0
        while each is not NULL:
            count += 1
            each = (<CursorBase>each).after
        found = <PyObject**>malloc((count + 1) * sizeof(PyObject*))
        if found is NULL:
            raise MemoryError
        count = 0
        each = self.cursors
        while each is not NULL:
            if Py_REFCNT(<object>each) > 0:
                Py_INCREF(<object>each)
                found[count] = each
                count += 1
            each = (<CursorBase>each).after
        return _all_of(found, count)

    def drop(self, ledger):
        """Nothing: it is unmapped with its last reference."""

    # As bytes

    def __len__(self):
        return self.stop - self.start

    def __setitem__(self, key, value):
        raise TypeError("a managed map is read-only")

    def __delitem__(self, key):
        raise TypeError("a managed map is read-only")

    def __getitem__(self, key):
        cdef Py_ssize_t size = self.stop - self.start, start, stop, step, count, place
        cdef char* target
        if not PySlice_Check(key):
            place = PyNumber_Index(key)
            if place < 0:
                place += size
            if not 0 <= place < size:
                raise IndexError("mmap index out of range")
            return <unsigned char>self.base[place]
        PySlice_Unpack(key, &start, &stop, &step)
        count = PySlice_AdjustIndices(size, &start, &stop, step)
        if step == 1 or count == 0:
            return self.copy(self.start + start, count)
        data = PyBytes_FromStringAndSize(NULL, count)
        target = PyBytes_AS_STRING(data)
        for place in range(count):
            target[place] = self.base[start + place * step]
        return data

    def __iter__(self):
        return map(self._byte, range(self.stop - self.start))

    def _byte(self, Py_ssize_t place):
        return self[place : place + 1]

    cdef bytes copy(self, long long start, Py_ssize_t size):
        """Bytes of the region, at an offset in the file."""
        if size <= 0:
            return b""
        if start < self.start or size > self.stop - start:
            raise SystemError("a range outside of its region")
        if size < LARGE:
            return PyBytes_FromStringAndSize(self.base + (start - self.start), size)
        data = PyBytes_FromStringAndSize(NULL, size)
        self.copy_to(PyBytes_AS_STRING(data), start, size)
        return data

    cdef int copy_to(self, char* target, long long start, Py_ssize_t size) except -1:
        """Copy to memory of the caller's, who holds a reference to the region."""
        cdef const char* source = self.base + (start - self.start)
        cdef Py_ssize_t count
        if start < self.start or size > self.stop - start:
            raise SystemError("a range outside of its region")
        if size < LARGE:
            memcpy(target, source, size)
            return 0
        while True:
            count = min(size, LONGEST)
            with nogil:
                memcpy(target, source, count)
            size -= count
            if not size:
                return 0
            target += count
            source += count
            PyErr_CheckSignals()

    cdef object view_of(self, long long start, long long stop):
        cdef Cut cut
        if start < self.start or stop > self.stop or start > stop:
            raise SystemError("a range outside of its region")
        self.exported = True
        cut = Cut.__new__(Cut)
        cut.region = self
        cut.base = self.base + (start - self.start)
        cut.size = stop - start
        return PyMemoryView_FromObject(cut)

    def view(self, long long start, long long stop):
        """A read-only view of [start, stop), offsets in the file."""
        return self.view_of(start, stop)

    def shared(self):
        """The map itself, for a user."""
        self.exported = True
        return self

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        if flags & PyBUF_WRITABLE:
            raise BufferError("a region is read-only")
        self.exported = True
        _fill(buffer, self, self.base, self.stop - self.start, flags)

    # As `mmap`

    def close(self):
        """Refused: others may be reading."""
        raise BufferError("a managed map cannot be closed: it is unmapped when nobody uses it")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        """Nothing."""

    def resize(self, newsize):
        """Refused: it is read-only."""
        raise TypeError("a managed map cannot be resized")

    def write(self, data):
        """Refused: it is read-only."""
        raise TypeError("a managed map is read-only")

    def size(self):
        """The file's size in bytes."""
        return self.file.status.size

    def madvise(self, int option, Py_ssize_t start=0, length=None):
        """As `mmap.madvise`."""
        cdef Py_ssize_t whole = self.stop - self.start, size = whole if length is None else length
        cdef int failed
        cdef char* base
        if not 0 <= start < whole:
            raise ValueError("madvise start out of bounds")
        if size < 0:
            raise ValueError("madvise length invalid")
        base = self.base + start
        size = min(size, whole - start)
        with nogil:
            failed = errno if madvise(base, size, option) else 0
        if failed:
            raise _error(failed)

    def find(self, sub, start=None, end=None):
        """As `mmap.find`, over the region."""
        return self._find(sub, start, end, False)

    def rfind(self, sub, start=None, end=None):
        """As `mmap.rfind`, over the region."""
        return self._find(sub, start, end, True)

    cdef object _find(self, sub, start, end, bint last):
        cdef Py_ssize_t low, high, step, size
        cdef Py_buffer needle
        PySlice_Unpack(slice(start, end), &low, &high, &step)
        size = self.stop - self.start
        PySlice_AdjustIndices(size, &low, &high, 1)
        PyObject_GetBuffer(sub, &needle, PyBUF_SIMPLE)
        try:
            if high - low < needle.len:
                return -1
            if not needle.len:
                return high if last else low
            if last:
                return _last(self.base, low, high, <const char*>needle.buf, needle.len)
            return _first(self.base, low, high, <const char*>needle.buf, needle.len)
        finally:
            PyBuffer_Release(&needle)


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


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class Cut:
    """What a view is made from: a range of a region, which the view then refers to itself."""

    cdef Region region
    cdef char* base
    cdef Py_ssize_t size

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        _fill(buffer, self.region, self.base, self.size, flags)


cdef int _fill(Py_buffer* buffer, object owner, void* start, Py_ssize_t size, int flags) except -1:
    """What `PyBuffer_FillInfo` does, but Cython looks after the reference to the owner."""
    buffer.obj = owner
    buffer.buf = start
    buffer.len = size
    buffer.itemsize = 1
    buffer.readonly = 1
    buffer.ndim = 1
    buffer.format = _BYTES if flags & PyBUF_FORMAT else NULL
    buffer.shape = &buffer.len if flags & PyBUF_ND else NULL
    buffer.strides = &buffer.itemsize if (flags & PyBUF_STRIDES) == PyBUF_STRIDES else NULL
    buffer.suboffsets = NULL
    buffer.internal = NULL
    return 0


cdef inline size_t _hash(long long low, long long high) noexcept:
    cdef unsigned long long mixed = (<unsigned long long>low) * 0x9E3779B97F4A7C15ULL
    mixed ^= (<unsigned long long>high) * 0xC2B2AE3D27D4EB4FULL
    return <size_t>(mixed ^ (mixed >> 29))


cdef int _key(object key, long long* low, long long* high) except -1:
    """A window's key as two numbers."""
    if isinstance(key, tuple):
        low[0], high[0] = key
    else:
        low[0] = key
        high[0] = -1
    return 0


@cython.final
@cython.no_gc_clear
cdef class Table:
    """A file's regions by window, each as long as it lives."""

    cdef Slot* slots
    cdef size_t mask
    cdef Py_ssize_t count
    cdef PyObject* near  # the region of a grid window that was found last, borrowed; or NULL

    def __dealloc__(self):
        free(self.slots)

    def __len__(self):
        return self.count

    cdef int reserve(self) except -1:
        """Make room for one more."""
        cdef size_t mask = self.mask, place, old_mask = self.mask
        cdef Slot* old = self.slots
        cdef Slot* new
        if old is not NULL and 2 * (self.count + 1) <= <Py_ssize_t>mask + 1:
            return 0
        mask = 2 * mask + 1 if old is not NULL else 7
        new = <Slot*>calloc(mask + 1, sizeof(Slot))
        if new is NULL:
            raise MemoryError
        self.slots = new
        self.mask = mask
        if old is not NULL:
            for place in range(old_mask + 1):
                if old[place].region is not NULL:
                    self.slot(old[place].low, old[place].high)[0] = old[place]
            free(old)
        return 0

    cdef inline Slot* slot(self, long long low, long long high) noexcept:
        """The slot that has this key, or the free one where it belongs. There is always a free one."""
        cdef size_t place = _hash(low, high) & self.mask
        while self.slots[place].region is not NULL and not (
            self.slots[place].low == low and self.slots[place].high == high
        ):
            place = (place + 1) & self.mask
        return &self.slots[place]

    cdef void put(self, Region region) noexcept:
        """Let a region be found, in place of one that has the same key."""
        cdef Slot* slot = self.slot(region.low, region.high)
        if slot.region is NULL:
            self.count += 1
        elif self.near is slot.region:
            self.near = NULL
        slot.low = region.low
        slot.high = region.high
        slot.region = <PyObject*>region

    cdef void forget(self, Region region) noexcept:
        """Let a region be found no longer, if it is."""
        cdef size_t place, other, home
        cdef Slot* slot
        if self.near is <PyObject*>region:
            self.near = NULL
        if self.slots is NULL:
            return
        slot = self.slot(region.low, region.high)
        if slot.region is not <PyObject*>region:
            return
        self.count -= 1
        place = slot - self.slots
        other = place
        while True:  # what follows moves up, so that it is still found from where it belongs
            self.slots[place].region = NULL
            while True:
                other = (other + 1) & self.mask
                if self.slots[other].region is NULL:
                    return
                home = _hash(self.slots[other].low, self.slots[other].high) & self.mask
                if ((other - home) & self.mask) >= ((other - place) & self.mask):
                    break
            self.slots[place] = self.slots[other]
            place = other

    cdef inline PyObject* at(self, long long low, long long high) noexcept:
        """The living region of a window, borrowed; or NULL."""
        cdef PyObject* region
        if not self.count:
            return NULL
        region = self.slot(low, high).region
        return region if region is not NULL and Py_REFCNT(<object>region) > 0 else NULL

    def find(self, key):
        """The region of a window, if it is mapped."""
        cdef long long low, high
        _key(key, &low, &high)
        return _living(self.at(low, high))

    def values(self):
        """How the policy refers to what is mapped."""
        cdef PyObject* region
        cdef size_t place = 0
        while self.slots is not NULL and place <= self.mask:
            region = self.slots[place].region
            place += 1
            if region is not NULL and Py_REFCNT(<object>region) > 0:
                yield (<Region>region).entry

    def regions(self):
        """All that are mapped."""
        cdef Py_ssize_t count = 0
        cdef PyObject** found = <PyObject**>malloc((self.count + 1) * sizeof(PyObject*))
        cdef PyObject* region
        cdef size_t place = 0
        if found is NULL:
            raise MemoryError
        while self.slots is not NULL and place <= self.mask:
            region = self.slots[place].region
            if region is not NULL and Py_REFCNT(<object>region) > 0:
                Py_INCREF(<object>region)
                found[count] = region
                count += 1
            place += 1
        return _all_of(found, count)


@cython.final
@cython.no_gc_clear
cdef class Node:
    """The link of what is not a region."""

    cdef Link link
    cdef object key


@cython.final
@cython.no_gc_clear
cdef class Order:
    """What may be dropped, by its last use. Keys are entries of regions, or files."""

    cdef Link ends  # newer: what goes first; older: what goes last
    cdef Py_ssize_t count
    cdef dict nodes
    cdef public long long hits
    cdef public bint crowded

    def __cinit__(self):
        self.ends.older = self.ends.newer = &self.ends
        self.nodes = {}

    def __dealloc__(self):
        while self.count:
            Py_DECREF(<object>self.take(self.ends.newer))

    def __len__(self):
        return self.count

    cdef Link* link_of(self, object key) except? NULL:
        """The link of a key, whether it is in the order or not; NULL if there is none."""
        cdef PyObject* region
        if type(key) is Entry:
            region = (<Entry>key).region
            return NULL if region is NULL else &(<Region>region).link
        node = self.nodes.get(key)
        return NULL if node is None else &(<Node>node).link

    cdef inline bint has(self, Link* link) noexcept:
        return link is not NULL and link.order is <void*>self

    cdef inline void touch_link(self, Link* link) noexcept:
        """What is in the order goes last."""
        if self.ends.older is not link:
            link.older.newer = link.newer
            link.newer.older = link.older
            self.append(link)

    cdef inline void append(self, Link* link) noexcept:
        link.older = self.ends.older
        link.newer = &self.ends
        link.older.newer = link
        self.ends.older = link

    cdef void put(self, Link* link, PyObject* item) noexcept:
        """What is not in an order goes into this one, last."""
        Py_INCREF(<object>item)
        link.item = item
        link.order = <void*>self
        self.append(link)
        self.count += 1

    cdef PyObject* take(self, Link* link) noexcept:
        """Take out what is in the order; the reference to it is the caller's."""
        link.older.newer = link.newer
        link.newer.older = link.older
        link.order = NULL
        self.count -= 1
        return link.item

    def __contains__(self, key):
        return self.has(self.link_of(key))

    def __iter__(self):
        cdef PyObject** found = <PyObject**>malloc((self.count + 1) * sizeof(PyObject*))
        cdef Py_ssize_t count = 0
        cdef Link* link = self.ends.newer
        if found is NULL:
            raise MemoryError
        while link is not &self.ends:
            Py_INCREF(<object>link.item)
            found[count] = link.item
            count += 1
            link = link.newer
        return iter(_all_of(found, count))

    def add(self, key, item):
        """Let `item` be dropped after all others; not a region that is pinned."""
        cdef Link* link = self.link_of(key)
        cdef Node node
        if type(key) is Entry:
            if link is NULL or (<Region>(<Entry>key).region).pins:
                return
            item = <object>(<Entry>key).region
        elif link is NULL:
            node = Node.__new__(Node)
            node.key = key
            node.link.node = <PyObject*>node
            self.nodes[key] = node
            link = &node.link
        if self.has(link):
            found = <object>self.take(link)
            Py_DECREF(found)
        if link.order is not NULL:
            raise SystemError("a region of another manager")
        self.put(link, <PyObject*>item)

    def touch(self, key):
        """`key` is used now; whether it is in the order."""
        cdef Link* link = self.link_of(key)
        if not self.has(link):
            return False
        self.touch_link(link)
        return True

    def remove(self, key):
        """Keep it from being dropped; whether it was in the order."""
        cdef Link* link = self.link_of(key)
        if not self.has(link):
            return False
        self.leave(link)
        return True

    cdef object leave(self, Link* link):
        """Take it out; returns the item."""
        cdef PyObject* item = self.take(link)
        found = <object>item
        Py_DECREF(found)
        if link.node is not NULL:
            self.nodes.pop((<Node>link.node).key, None)
        return found

    def oldest(self):
        """The item that was used least recently. `StopIteration` if there is none."""
        if not self.count:
            raise StopIteration
        return <object>self.ends.newer.item

    def pop_oldest(self):
        """The same, which is in the order no longer. `KeyError` if there is none."""
        if not self.count:
            raise KeyError("dictionary is empty")  # as a dict says it
        return self.leave(self.ends.newer)


cdef struct Rent:
    unsigned long long window
    long long paid  # with 1 added; 0: the slot is free


cdef struct Generation:
    Rent* rents
    size_t mask
    size_t count


cdef Rent* _rent(Generation* generation, unsigned long long window) noexcept:
    """The slot that has this window, or the free one where it belongs; NULL if there is none."""
    cdef size_t place
    if generation.rents is NULL:
        return NULL
    place = _hash(window, 0) & generation.mask
    while generation.rents[place].paid and generation.rents[place].window != window:
        place = (place + 1) & generation.mask
    return &generation.rents[place]


@cython.final
cdef class Rents:
    """The rents paid lately for cold windows: the arithmetic of _rents.py, in tables of numbers."""

    cdef Generation young
    cdef Generation old

    def __dealloc__(self):
        free(self.young.rents)
        free(self.old.rents)

    def due(self, window, long long size, long long price, long long patience):
        """Pay for reading `size` bytes of a window; True if its price is reached, so that it is to be bought now."""
        return self.pay(window & 0xFFFFFFFFFFFFFFFF, size, price, patience)

    cdef bint pay(self, unsigned long long window, long long size, long long price, long long patience) noexcept:
        cdef Rent* slot
        cdef Rent* before
        cdef long long paid = 0
        cdef bint bought
        cdef Generation full
        if not self.make_room():
            return False
        slot = _rent(&self.young, window)
        if slot.paid:
            paid = slot.paid - 1
        else:
            before = _rent(&self.old, window)
            if before is not NULL and before.paid:
                paid = before.paid - 1
            slot.window = window
            self.young.count += 1
        paid += 1 + (size >> SHIFT)
        bought = paid >= price
        slot.paid = 1 if bought else paid + 1
        if <long long>self.young.count > patience:
            full = self.young
            self.young = self.old
            self.old = full
            if self.young.rents is not NULL:
                memset(self.young.rents, 0, (self.young.mask + 1) * sizeof(Rent))
            self.young.count = 0
        return bought

    cdef bint make_room(self) noexcept:
        """Make room for one more; False if memory is short: rents are only a guess."""
        cdef Generation bigger
        cdef size_t place
        cdef Rent each
        if self.young.rents is not NULL and 2 * (self.young.count + 1) <= self.young.mask + 1:
            return True
        bigger.count = self.young.count
        bigger.mask = 2 * self.young.mask + 1 if self.young.rents is not NULL else 15
        bigger.rents = <Rent*>calloc(bigger.mask + 1, sizeof(Rent))
        if bigger.rents is NULL:
            return False
        if self.young.rents is not NULL:
            for place in range(self.young.mask + 1):
                each = self.young.rents[place]
                if each.paid:
                    _rent(&bigger, each.window)[0] = each
            free(self.young.rents)
        self.young = bigger
        return True


# System calls


cdef object _seam = None


def _set_seam(seam):
    """For tests: call `seam(name, *args)` before each system call; what it raises is raised. None: no more."""
    global _seam
    _seam = seam


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
        if _seam is not None:
            _seam("pread", number, size - done, offset + done)
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
    cdef int code
    if _seam is not None:
        _seam("fstat", number)
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
    while True:
        if _seam is not None:
            _seam("open", path, wanted)
        with nogil:
            number = open(c_name, wanted)
            code = errno if number < 0 else 0
        if code != EINTR:
            break
        PyErr_CheckSignals()
    if number < 0 and given and code not in _REFUSALS:
        if _seam is not None:
            _seam("dup", copied)
        number = fcntl(copied, F_DUPFD_CLOEXEC, 0)
        code = errno
        if number < 0:
            raise _error(code)
    if number < 0:
        raise OSError(code, (<bytes>strerror(code)).decode("utf-8", "replace"), path)
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
    region.ledger = ledger
    region.entry = Entry.__new__(Entry)
    _key(key, &region.low, &region.high)
    region.start = start
    region.stop = stop
    size = stop - start
    if number < 0:
        start = 0
    if _seam is not None:
        _seam("mmap", number, size, start)
    with nogil:
        base = mmap(NULL, size, prot, flags, number, start)
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
    cdef int wanted = MADV_RANDOM if advice == "random" else MADV_SEQUENTIAL if advice == "sequential" else -1
    _status(number, &status)
    if status.st_size < window[2]:  # a map past the end could be made, but not be read
        return None
    region = _new_region(ledger, file, window, PROT_READ, MAP_SHARED, number)
    if wanted >= 0:
        madvise(region.base, region.stop - region.start, wanted)
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


# Buffers and cursors


@cython.final
@cython.no_gc_clear
cdef class Access:
    """All that a buffer's reads go by, made once and never changed."""

    cdef readonly Table table
    cdef readonly long long size
    cdef readonly long long window
    cdef readonly long long offset
    cdef readonly Order idle
    cdef readonly object client
    cdef readonly bint opened
    cdef readonly bint pending
    cdef Order cold
    cdef object manager
    cdef object file
    cdef unsigned long long serial  # the file's, added to the number of a window
    cdef Rents rents
    cdef int shift  # the window is so large as a power of two; -1: it is none

    def __cinit__(
        self, client, long long offset, long long size, long long window, Order idle not None,
        bint opened=True, bint pending=False, Order cold=None,
    ):
        """Reads of [offset, offset + size) of the client's file, through windows of that size (0: the whole file).

        `cold` orders files with a cached descriptor; its hits are cold reads.
        """
        if offset < 0 or size < 0 or window < 0 or (opened and (size > client.size or offset > client.size - size)):
            raise ValueError(f"[{offset}, {offset} + {size}) is not in the file")
        self.table = _NO_TABLE
        self.client = client
        self.size = size
        self.window = window or max(client.size, 1)
        self.offset = offset
        self.idle = idle
        self.cold = cold
        self.opened = opened
        self.pending = pending
        if opened:
            self.file = client.file
            self.table = <Table?>self.file.table
            self.serial = self.file.serial & 0xFFFFFFFFFFFFFFFF
            self.manager = client.manager
            rents = self.manager.rents
            self.rents = rents if isinstance(rents, Rents) else None
        self.shift = -1
        if not self.window & (self.window - 1):
            self.shift = 0
            while self.window > 1LL << self.shift:
                self.shift += 1

    @staticmethod
    def closed(client, long long offset=0, long long size=0, bint pending=False):
        """Nothing can be read by it; a size says how much there will be once the file was opened."""
        return Access(client, offset, size, 1, _NO_ORDER, False, pending)

    cdef inline long long number(self, long long place) noexcept:
        """The number of the grid window that has a byte of the file."""
        return place >> self.shift if self.shift >= 0 else place // self.window

    cdef inline PyObject* hit(self, long long first, long long last) noexcept:
        """The region, borrowed, that has [first, last) of one grid window, if it is mapped and kept: a use of it."""
        cdef PyObject* found = self.table.near
        cdef long long number
        if found is NULL or first < (<Region>found).start or last > (<Region>found).stop:
            number = self.number(first)
            found = self.table.at(number, -1)
            if found is NULL or first < (<Region>found).start or last > (<Region>found).stop:
                return NULL
            self.table.near = found
        if self.idle.has(&(<Region>found).link):
            self.idle.touch_link(&(<Region>found).link)
        elif not (<Region>found).pins:
            return NULL  # detached: the policy takes it back
        self.idle.hits += 1
        return found

    cdef Region found(self, long long first, long long last):
        """The same, also of a detached region, which the manager takes back."""
        cdef PyObject* near = self.hit(first, last)
        cdef Region region
        if near is not NULL:
            return <Region>near
        near = self.table.at(self.number(first), -1)
        if near is NULL or first < (<Region>near).start or last > (<Region>near).stop:
            return None
        region = <Region>near
        self.idle.hits += 1
        if not (region.pins or self.idle.has(&region.link)):
            self.manager.keep(region)
        return region

    cdef bint pay(self, long long first, Py_ssize_t size) except -1:
        """Pay for a cold read of [first, first + size) of one grid window; whether that is to be bought now."""
        cdef long long price = self.file.price, patience = self.file.patience
        cdef unsigned long long window = self.serial + <unsigned long long>self.number(first)
        if self.rents is None:
            return self.manager.rents.due(window, size, price, patience)
        return self.rents.pay(window, size, price, patience)

    cdef bint read(self, char* target, long long first, Py_ssize_t size) except -1:
        """Read [first, first + size) of the file by the cached descriptor; whether that was possible."""
        cdef Descriptor descriptor = self.file.descriptor
        cdef Py_ssize_t count
        cdef Link* link
        if descriptor is None:
            return False
        try:
            count = descriptor.read_to(target, size, first)
        except OSError as error:
            if error.errno is None or error.errno not in _REFUSALS:
                raise named(error, self.client.where, first, first + size) from None
            return False
        if count < size:
            return False
        if self.cold is None:
            self.manager.count_cold_read(self.file)
        else:
            self.cold.hits += 1
            link = self.cold.link_of(self.file)
            if self.cold.has(link):
                self.cold.touch_link(link)
        return True

    cdef bytes fetched(self, long long first, Py_ssize_t size, bint due):
        """The same, as the policy gives it: it opens the file, or maps the window."""
        return self.manager.fetch(self.client, first, first + size, due)

    cdef int copy(self, char* target, long long start, Py_ssize_t size) except -1:
        """Copy what follows `start`, which must lie in the buffer, to memory of the caller's."""
        cdef long long position = start + self.offset
        cdef Py_ssize_t count
        cdef Region region
        cdef bytes data
        cdef bint due
        if start < 0 or size < 0 or start > self.size or size > self.size - start:
            raise SystemError("a range outside of its buffer")
        while size:
            count = min(self.window - position % self.window, size)
            region = self.found(position, position + count)
            if region is not None:
                region.copy_to(target, position, count)
            else:
                count = min(count, STEP)
                due = self.pay(position, count)
                if due or not self.read(target, position, count):
                    data = self.fetched(position, count, due)
                    if len(data) != count:
                        raise SystemError(f"{len(data)} bytes were fetched, not {count}")
                    memcpy(target, PyBytes_AS_STRING(data), count)
            size -= count
            if not size:
                break
            target += count
            position += count
            PyErr_CheckSignals()
        return 0

    cdef bytes bytes_of(self, long long start, long long stop):
        """A copy of [start, stop), which must lie in the buffer; of several windows, joined into one allocation."""
        cdef long long first = start + self.offset, last = stop + self.offset
        cdef Region region
        cdef bytes data
        cdef bint due
        if start >= stop:
            return b""
        if self.number(first) == self.number(last - 1):
            region = self.found(first, last)
            if region is not None:
                return region.copy(first, last - first)
            due = self.pay(first, last - first)
            if not due:
                data = PyBytes_FromStringAndSize(NULL, last - first)
                if self.read(PyBytes_AS_STRING(data), first, last - first):
                    return data
            return self.fetched(first, last - first, due)
        data = PyBytes_FromStringAndSize(NULL, stop - start)
        self.copy(PyBytes_AS_STRING(data), start, stop - start)
        return data


cdef Table _NO_TABLE = Table()
cdef Order _NO_ORDER = Order()
cdef Access _NO_ACCESS = Access(None, 0, 0, 1, _NO_ORDER, False)


@cython.no_gc_clear
cdef class BufferBase:
    """The bytes of a file, as its windows have them. See `SlidingWindowMapBuffer`."""

    cdef object __weakref__
    cdef Access record

    def __cinit__(self, *args, **kwargs):
        self.record = _NO_ACCESS

    @property
    def _access(self):
        """The record that reads go by."""
        return self.record

    @_access.setter
    def _access(self, Access access not None):
        self.record = access

    def _ready(self):
        """The record that reads go by, of a file that is open now."""
        raise NotImplementedError

    cdef Access opened(self):
        cdef Access access = self.record
        return access if access.opened else <Access?>self._ready()

    def __len__(self):
        return self.record.size

    def __getitem__(self, key):
        cdef Access access
        cdef PyObject* found
        cdef Region region
        cdef PySliceObject* given
        cdef long long start, stop
        if PyLong_CheckExact(key):
            start = _number(key)
            access = self.record
            if 0 <= start < access.size:
                start += access.offset
                found = access.hit(start, start + 1)
                if found is not NULL:
                    return (<unsigned char*>(<Region>found).base)[start - (<Region>found).start]
            return self.item(key)
        if PySlice_Check(key):
            given = <PySliceObject*>key
            if given.step is Py_None and PyLong_CheckExact(<object>given.start) and PyLong_CheckExact(<object>given.stop):
                start = _number(<object>given.start)
                stop = _number(<object>given.stop)
                access = self.record
                if 0 <= start < stop <= access.size:
                    start += access.offset
                    stop += access.offset
                    found = access.hit(start, stop)
                    if found is not NULL:
                        region = <Region>found
                        return region.copy(start, stop - start)
            return self._slice(key)
        return self.item(PyNumber_Index(key))

    cdef object item(self, key):
        """The byte at any index."""
        cdef Access access = self.opened()
        cdef long long place
        cdef char byte
        if not -access.size <= key < access.size:
            raise IndexError(f"index {key} is out of range: the buffer has {access.size} bytes")
        place = key
        access.copy(&byte, place + access.size if place < 0 else place, 1)
        return <unsigned char>byte

    def _slice(self, key):
        """Any slice."""
        cdef Py_ssize_t start, stop, step, count
        cdef Access access = self.opened()
        PySlice_Unpack(key, &start, &stop, &step)
        count = PySlice_AdjustIndices(access.size, &start, &stop, step)
        if step == 1:
            return access.bytes_of(start, max(start, stop))
        return self.steps(access, start, step, count)

    cdef bytes steps(self, Access access, Py_ssize_t start, Py_ssize_t step, Py_ssize_t count):
        """The bytes at `count` places: copied as blocks where they lie close together, else one by one."""
        cdef char block[BLOCK]
        cdef char* target
        cdef Py_ssize_t done = 0, part, each, most, low, apart = step if step > 0 else -step
        if not count:
            return b""
        data = PyBytes_FromStringAndSize(NULL, count)
        target = PyBytes_AS_STRING(data)
        most = BLOCK // apart if apart <= CLOSE else 1
        while done < count:
            part = min(most, count - done)
            low = start + done * step
            if step < 0:
                low += (part - 1) * step
            access.copy(block, low, (part - 1) * apart + 1)
            for each in range(part):
                target[done + each] = block[(each if step > 0 else part - 1 - each) * apart]
            done += part
            PyErr_CheckSignals()
        return data

    def _copy(self, Access access not None, long long start, long long stop):
        """A copy of [start, stop), which must lie in the buffer."""
        if start < stop and not access.opened:
            access = <Access?>self._ready()
        return access.bytes_of(start, stop)

    def _found(self, Access access not None, long long start, long long stop):
        """The region that has [start, stop), offsets in the file of one grid window, if it is mapped: a use of it."""
        if not 0 <= start < stop:
            return None
        return access.found(start, stop)

    def _read_into(self, Access access not None, long long start, target):
        """Fill `target` with what follows `start`, which must lie in the buffer."""
        cdef Py_buffer given
        PyObject_GetBuffer(target, &given, PyBUF_WRITABLE)
        try:
            access.copy(<char*>given.buf, start, given.len)
        finally:
            PyBuffer_Release(&given)

    def view(self, start=0, stop=None):
        """A read-only view of `buffer[start:stop]`, of any length that the address space holds. O(1), no copy.

        It stays valid until you drop it, and counts as mapped until then.
        """
        cdef Access access
        cdef PyObject* found
        cdef Region region
        cdef long long first, last
        cdef Py_ssize_t low, high, step
        if PyLong_CheckExact(start) and PyLong_CheckExact(stop):
            first = _number(start)
            last = _number(stop)
            access = self.record
            if 0 <= first < last <= access.size:
                first += access.offset
                last += access.offset
                found = access.hit(first, last)
                if found is not NULL:
                    region = <Region>found
                    return region.view_of(first, last)
        access = self.opened()
        PySlice_Unpack(slice(start, stop), &low, &high, &step)
        PySlice_AdjustIndices(access.size, &low, &high, 1)
        if low >= high:
            return memoryview(b"")
        region = self.whole(access, low, high)
        return region.view_of(low + access.offset, high + access.offset)

    cdef Region whole(self, Access access, long long start, long long stop):
        """A region that has all of [start, stop), which is not empty."""
        cdef long long first = start + access.offset, last = stop + access.offset
        cdef Region region = access.found(first, last)
        if region is None:
            region = <Region?>access.manager.map_range(access.client, first, last)
        if first < region.start or last > region.stop:
            raise SystemError("map_range() gave something else")
        return region

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        cdef Access access
        cdef Region region
        if flags & PyBUF_WRITABLE:
            raise BufferError("smmap's buffers are read-only")
        access = self.opened()
        if not access.size:
            _fill(buffer, self, _NOTHING, 0, flags)
            return
        region = self.whole(access, 0, access.size)
        region.exported = True
        _fill(buffer, region, region.base + (access.offset - region.start), access.size, flags)

    def __releasebuffer__(self, Py_buffer* buffer):
        pass  # but numpy keeps what was exported, not only this object, where the type has this method


cdef inline long long _number(object number) noexcept:
    """An int as a number; -2 where it is too large."""
    cdef int overflow
    cdef long long found = PyLong_AsLongLongAndOverflow(number, &overflow)
    return -2 if overflow else found


@cython.no_gc_clear
cdef class CursorBase:
    """Zero-copy access to one window at a time. See `WindowCursor`."""

    cdef object __weakref__
    cdef Access record
    cdef Region region
    cdef long long start
    cdef long long stop
    cdef PyObject* pinned  # the same, borrowed, but for moments in the policy
    cdef tuple nowhere  # what `_use` is without a region
    cdef PyObject* before  # others that use the region
    cdef PyObject* after

    def __cinit__(self, *args, **kwargs):
        self.record = _NO_ACCESS
        self.nowhere = _NOWHERE

    def __dealloc__(self):
        self.unpin()

    @property
    def _access(self):
        """The record of the cursor's file."""
        return self.record

    @_access.setter
    def _access(self, Access access not None):
        self.record = access

    cdef void unpin(self) noexcept:
        """Pin no region any more."""
        cdef PyObject* region = self.pinned
        if region is NULL:
            return
        if self.before is NULL:
            (<Region>region).cursors = self.after
        else:
            (<CursorBase>self.before).after = self.after
        if self.after is not NULL:
            (<CursorBase>self.after).before = self.before
        self.before = self.after = NULL
        self.pinned = NULL
        (<Region>region).pins -= 1

    cdef void pin(self, Region region) noexcept:
        """Pin this region, and no other."""
        if self.pinned is <PyObject*>region:
            return
        self.unpin()
        self.pinned = <PyObject*>region
        self.after = region.cursors
        if self.after is not NULL:
            (<CursorBase>self.after).before = <PyObject*>self
        region.cursors = <PyObject*>self
        region.pins += 1

    @property
    def _use(self):
        """The region, and what of it is accessible."""
        return self.nowhere if self.region is None else (self.region, self.start, self.stop)

    @_use.setter
    def _use(self, tuple use not None):
        cdef long long start, stop
        cdef Region region
        given, start, stop = use
        region = <Region?>given if given is not None else None
        if region is None:
            self.nowhere = use
        self.region = region
        self.start = start
        self.stop = stop

    def _pin(self, Region region not None, long long start, long long stop):
        """Use [start, stop) of a mapped region in place of what is used now."""
        self.take(region, start, stop)

    cdef int take(self, Region region, long long start, long long stop) except -1:
        cdef Region own = self.region
        cdef Order idle = self.record.idle
        self.pin(region)
        self.region = region
        self.start = start
        self.stop = stop
        if idle.has(&region.link):
            Py_DECREF(<object>idle.take(&region.link))
        if own is not None and own is not region:
            self.let_go(own, region)
        return 0

    def _let_go(self, Region region not None, Region last not None):
        """Use a region no longer; `last` is what was used last. Never waits, so finalizers may call it."""
        self.let_go(region, last)

    cdef int let_go(self, Region region, Region last) except -1:
        cdef Access access = self.record
        if self.pinned is <PyObject*>region:
            self.unpin()
        if not region.pins and region.rest(access.idle):
            manager = access.client.manager
            manager.soon(manager.tidy, region, last)
        return 0

    def _revoke(self):
        """The manager takes the region away."""
        raise NotImplementedError

    def _move(self, offset, size, flags):
        """`use_region` where no mapped grid window does."""
        raise NotImplementedError

    def _lost(self):
        """The error of a cursor that has no region."""
        raise NotImplementedError

    def use_region(self, offset=0, size=0, flags=0):
        """Use a region with `size` bytes from `offset` (bytes from the file's start); returns the cursor itself.

        Exactly `min(size, window_size, file_size - offset)` bytes become accessible; with size 0 everything up to the
        end of the window, at least `min(window_size / 2, file_size - offset)`. At or past the end of the file the
        cursor lets go and is not valid. `flags` are added to those of `os.open`.

        O(1), no copy. Raises `FileChangedError` (the file was replaced or truncated), `LimitError` (no handle is left),
        `ClosedError`, or the system's error; the cursor then stays as it was.
        """
        cdef Access access
        cdef Region region
        cdef PyObject* found
        cdef long long start, stop, count
        if PyLong_CheckExact(offset) and PyLong_CheckExact(size) and PyLong_CheckExact(flags) and flags == 0:
            start = _number(offset)
            count = _number(size)
            access = self.record
            if start >= 0 and 0 < count <= access.window:
                region = self.region
                if region is not None and region.start <= start < region.stop and count <= region.stop - start:
                    self.start = start
                    self.stop = start + count
                    return self
                region = None  # the move may have to evict it
                if start < access.size and not access.idle.crowded:
                    stop = start + min(count, access.size - start)
                    found = access.table.at(access.number(start), -1)
                    if found is not NULL and (<Region>found).start <= start and stop <= (<Region>found).stop:
                        region = <Region>found
                        access.idle.hits += 1
                        self.take(region, start, stop)
                        return self
        return self._move(offset, size, flags)

    def buffer(self):
        """A read-only view of the accessible bytes, valid until you drop it, whatever happens. O(1), no copy."""
        cdef Region region = self.region
        if region is None:
            raise self._lost()
        return region.view_of(self.start, self.stop)

    def map(self):
        """The region's map itself: its index 0 is the region's start. O(1), no copy.

        It answers as `mmap` does, but cannot be closed.
        """
        cdef Region region = self.region
        if region is None:
            raise self._lost()
        return region.shared()
