# Regions, the ledger that counts them, and the exporters of their views. Included by fast.pyx.

cdef class Region
cdef class Table
cdef class Order
cdef class Rents
cdef class CursorBase


cdef struct Link:
    Link* older
    Link* newer
    PyObject* item  # a reference, as long as it is in an order
    PyObject* node  # the `Node` that it is in, and a reference to that while it is in an order; NULL: a region
    void* order  # the one that it is in, or NULL


cdef struct Slot:
    long long low
    long long high
    PyObject* region  # borrowed; NULL: the slot is free


@cython.final
@cython.no_gc
cdef class Counts:
    """The counters of a ledger, and its lock. Regions refer to this, not to the ledger, whose orders refer to
    regions."""

    cdef smmap_gap gap
    cdef smmap_mutex mutex
    cdef Py_ssize_t mapped
    cdef long long memory
    cdef PyObject* first  # of the living regions, borrowed
    cdef bint traced  # whether the ledger has a trace
    cdef int guard  # what is guarded: OFF, COPIES, VIEWS
    cdef object owner  # returns the manager, or None
    cdef smmap_gap behind


cdef Counts _NO_COUNTS = Counts()  # of objects without a manager; it lives until the process ends


@cython.final
@cython.no_gc
cdef class Entry:
    """The policy's weak reference to a region."""

    cdef PyObject* region
    cdef Counts counts

    def __cinit__(self):
        self.counts = _NO_COUNTS

    def __call__(self):
        """The region, if it lives."""
        cdef PyObject* found
        cdef bint held
        smmap_lock(&self.counts.mutex)
        found = self.region
        held = found is not NULL and smmap_hold(found)
        smmap_unlock(&self.counts.mutex)
        return smmap_held(found) if held else None


cdef bint _has_room(PyObject*** found, Py_ssize_t* room, Py_ssize_t count) except -1:
    """Make a new array, with room for `count` things; `True`."""
    free(found[0])
    room[0] = count + 1
    found[0] = <PyObject**>malloc(room[0] * sizeof(PyObject*))
    if found[0] is NULL:
        raise MemoryError
    return True


cdef list _all_of(PyObject** things, Py_ssize_t count):
    """A list of the objects in an array, which owns a reference to each; frees the array."""
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
@cython.no_gc_clear
cdef class Ledger:
    """Counts the living regions of a manager, and has the orders of what the manager may drop."""

    cdef Counts counts
    cdef readonly Order idle
    cdef readonly Order open
    cdef readonly Rents rents
    cdef public long long misses
    cdef public long long evictions
    cdef public long long peak_mapped
    cdef public long long peak_memory
    cdef public long long most_handles
    cdef public long long most_descriptors
    cdef public long long most_memory
    cdef public object shortcut
    cdef object tracer  # the trace; this and the threshold are guarded by the lock of `counts`
    cdef unsigned int threshold

    def __cinit__(self):
        self.counts = Counts()
        self.idle = Order()
        self.open = Order()
        self.idle.counts = self.open.counts = self.counts
        self.rents = Rents()

    @property
    def trace(self):
        """The trace that records reads, or None."""
        smmap_lock(&self.counts.mutex)
        trace = self.tracer
        smmap_unlock(&self.counts.mutex)
        return trace

    @property
    def mapped(self):
        """How many regions are mapped."""
        return self.counts.mapped

    @property
    def memory(self):
        """How many bytes are mapped. O(1)."""
        return self.counts.memory

    def regions(self):
        """All living regions."""
        cdef Counts counts = self.counts
        cdef PyObject** found = NULL
        cdef PyObject* each
        cdef Py_ssize_t count = 0, room = 0
        while _has_room(&found, &room, counts.mapped):
            smmap_lock(&counts.mutex)
            if counts.mapped <= room:
                each = counts.first
                while each is not NULL:
                    if smmap_hold(each):
                        found[count] = each
                        count += 1
                    each = (<Region>each).after
                smmap_unlock(&counts.mutex)
                break
            smmap_unlock(&counts.mutex)  # another thread has added some
        return _all_of(found, count)

    cpdef count_miss(self):
        """A region was made for a client."""
        self.misses += 1
        self.peak_mapped = max(self.peak_mapped, self.counts.mapped)
        self.peak_memory = max(self.peak_memory, self.counts.memory)

    def settle(self):
        """Does nothing: regions uncount themselves."""

    def sample(self, trace, unsigned int threshold):
        """Record reads of places with a hash below the threshold in this trace; None: record nothing."""
        cdef PyObject* each
        smmap_lock(&self.counts.mutex)
        before = self.tracer  # dropped last, and without the lock: that may run Python code
        self.tracer = trace
        self.threshold = threshold
        self.counts.traced = trace is not None
        each = self.counts.first
        while each is not NULL:
            (<Region>each).unclear(self.counts.traced)
            each = (<Region>each).after
        smmap_unlock(&self.counts.mutex)
        del before


@cython.final
@cython.no_gc  # it is in no cycle; and one that only garbage refers to may be found, and live on: what it has must, too
cdef class Region:
    """One mapped window of a file; for files that are read instead, anonymous memory filled from it."""

    cdef long long clear_start  # what a hit reads comes first: reads within these two are certainly not recorded
    cdef long long clear_stop
    cdef readonly long long start
    cdef readonly long long stop
    cdef char* base
    cdef const char* edge  # up to here it may be touched to check the file's size; NULL: not guarded
    cdef Link link
    cdef bint spoiled  # zeros were mapped into it, which only views may read
    cdef readonly Py_ssize_t pins
    cdef readonly bint exported
    cdef readonly bint reads
    cdef smmap_slot* slot  # where the handler finds it; or NULL
    cdef readonly bint scattered
    cdef long long ended  # the last long copy of a scattered one
    cdef readonly double born
    cdef Py_ssize_t position  # of `read` and `seek`: all who have the map share it
    cdef bint counted
    cdef object __weakref__
    cdef readonly object key
    cdef readonly object file
    cdef readonly Entry entry
    cdef object seen  # the wrapper for smmap 5's users
    cdef Table table
    cdef Counts counts
    cdef long long low
    cdef long long high
    cdef PyObject* cursors  # the first of the cursors that pin it, borrowed
    cdef PyObject* before  # others of the ledger
    cdef PyObject* after

    def __cinit__(self):
        self.counts = _NO_COUNTS

    def __dealloc__(self):
        cdef char* base = self.base
        cdef size_t size = self.stop - self.start
        self.withdraw()
        if base is not NULL:
            self.base = NULL
            with nogil:
                munmap(base, size)

    cdef void withdraw(self) noexcept:
        """Leave the table, and be uncounted."""
        if self.counted:
            smmap_lock(&self.counts.mutex)
            self.leave()
            smmap_unlock(&self.counts.mutex)
        if self.slot is not NULL:
            smmap_lock(&smmap_slots)
            smmap_give_slot(self.slot)
            smmap_unlock(&smmap_slots)
            self.slot = NULL

    cdef void leave(self) noexcept:
        """The same, under the lock."""
        self.counted = False
        while self.cursors is not NULL:
            (<CursorBase>self.cursors).unlink()
        self.entry.region = NULL
        self.table.forget(self)
        if self.before is NULL:
            self.counts.first = self.after
        else:
            (<Region>self.before).after = self.after
        if self.after is not NULL:
            (<Region>self.after).before = self.before
        self.counts.mapped -= 1
        self.counts.memory -= self.stop - self.start

    cdef inline void unclear(self, bint traced) noexcept:
        """Make each hit check first whether it is recorded; or none, if nothing is traced. Under the lock."""
        self.clear_start = self.start
        self.clear_stop = self.start if traced else self.stop

    cdef int enter(self) except -1:
        """Enter the table, and be counted."""
        cdef Counts counts = self.counts
        cdef bint possible
        self.born = monotonic()
        smmap_lock(&counts.mutex)
        possible = self.table.reserve()
        if possible and not self.table.cut:
            self.join()
        smmap_unlock(&counts.mutex)
        if not possible:
            raise MemoryError
        if not self.counted:  # another thread has found that the file was truncated
            raise self.lost(self.start, self.stop)
        return 0

    cdef void join(self) noexcept:
        """The same, under the lock, with room in the table."""
        self.counted = True
        self.unclear(self.counts.traced)
        self.entry.region = <PyObject*>self
        self.table.put(self)
        self.after = self.counts.first
        if self.after is not NULL:
            (<Region>self.after).before = <PyObject*>self
        self.counts.first = <PyObject*>self
        self.counts.mapped += 1
        self.counts.memory += self.stop - self.start

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
        """A cursor unpins it; after the last one it is idle. Returns whether the manager has to check that."""
        cdef size_t wanted = cursor_id & 0xFFFFFFFFFFFFFFFF
        cdef PyObject* each
        cdef bint rests
        smmap_lock(&self.counts.mutex)
        each = self.cursors
        while each is not NULL:
            if <size_t>each == wanted:
                (<CursorBase>each).unlink()
                break
            each = (<CursorBase>each).after
        rests = self.rest(idle)
        smmap_unlock(&self.counts.mutex)
        return rests and (idle.crowded or self.file.gone)

    cdef bint rest(self, Order idle) noexcept:
        """If no cursor pins it, make it idle, used last; return whether it is. Under the lock, with a reference."""
        if self.pins or idle.counts is not self.counts:
            return False
        if idle.has(&self.link):
            idle.touch_link(&self.link)
        elif self.link.order is NULL:
            idle.put(&self.link, <PyObject*>self)
        return True

    def revoke(self):
        """Take it away from the cursors that use it; return whether there were any."""
        found = self.pins > 0
        for cursor in self.holders():
            cursor._revoke()
        smmap_lock(&self.counts.mutex)
        while self.cursors is not NULL:
            (<CursorBase>self.cursors).unlink()
        self.pins = 0
        smmap_unlock(&self.counts.mutex)
        return found

    @property
    def pinned(self):
        """Whether a cursor really uses it: an exception may have come between its `pin` and the use."""
        cdef PyObject* each
        cdef bint found = False
        smmap_lock(&self.counts.mutex)
        each = self.cursors
        while each is not NULL and not found:
            found = (<CursorBase>each).region is self
            each = (<CursorBase>each).after
        smmap_unlock(&self.counts.mutex)
        return found

    def holders(self):
        """The cursors that use it."""
        cdef PyObject** found = NULL
        cdef PyObject* each
        cdef Py_ssize_t count = 0, room = 0
        while _has_room(&found, &room, self.pins):
            smmap_lock(&self.counts.mutex)
            if self.pins <= room:
                each = self.cursors
                while each is not NULL and count < room:
                    if smmap_hold(each):
                        found[count] = each
                        count += 1
                    each = (<CursorBase>each).after
                smmap_unlock(&self.counts.mutex)
                break
            smmap_unlock(&self.counts.mutex)  # another thread has added some
        return _all_of(found, count)

    @property
    def face(self):
        """Its wrapper for smmap 5's users, once they have asked for it."""
        smmap_lock(&self.counts.mutex)
        face = self.seen
        smmap_unlock(&self.counts.mutex)
        return face

    @face.setter
    def face(self, face):
        smmap_lock(&self.counts.mutex)
        before = self.seen  # dropped without the lock
        self.seen = face
        smmap_unlock(&self.counts.mutex)

    def drop(self, ledger):
        """Does nothing: it is unmapped with its last reference."""

    # As bytes

    def __len__(self):
        return self.stop - self.start

    def __setitem__(self, key, value):
        raise TypeError("a managed map is read-only")

    def __delitem__(self, key):
        raise TypeError("a managed map is read-only")

    def __getitem__(self, key):
        cdef Py_ssize_t size = self.stop - self.start, start, stop, step, count, place, part, most, apart
        cdef int found
        cdef char byte
        cdef char* target
        if not PySlice_Check(key):
            place = PyNumber_AsSsize_t(key, IndexError)
            if place < 0:
                place += size
            if not 0 <= place < size:
                raise IndexError("mmap index out of range")
            found = smmap_byte(self.base + place, self.edge)
            if found >= 0 and not self.spoiled:
                return found
            self.copy_to(&byte, self.start + place, 1)
            return <unsigned char>byte
        PySlice_Unpack(key, &start, &stop, &step)
        count = PySlice_AdjustIndices(size, &start, &stop, step)
        if step == 1 or count == 0:
            return self.copy(self.start + start, count)
        data = PyBytes_FromStringAndSize(NULL, count)
        target = PyBytes_AS_STRING(data)
        apart = step if step > 0 else -step
        most = LONGEST // apart + 1
        while count:
            part = min(most, count)
            place = start + (part - 1) * step
            if (part - 1) * apart < LARGE:
                found = smmap_copy_steps(target, self.base + start, part, step, self.edge)
            else:
                with nogil:
                    found = smmap_copy_steps(target, self.base + start, part, step, self.edge)
            if found or self.spoiled:
                self.settle(found, self.start + min(start, place), self.start + max(start, place) + 1)
            target += part
            count -= part
            start = place + step if count else place  # never past the region
            PyErr_CheckSignals()
        return data

    def __iter__(self):
        return map(self._byte, range(self.stop - self.start))

    def _byte(self, Py_ssize_t place):
        return self[place : place + 1]

    cdef bytes copy(self, long long start, Py_ssize_t size):
        """Bytes of the region, from an offset in the file."""
        cdef char byte
        cdef int found
        if size <= 0:
            return b""
        if start < self.start or size > self.stop - start:
            raise SystemError("a range outside of its region")
        if size == 1:  # the interpreter has these already
            self.copy_to(&byte, start, 1)
            return PyBytes_FromStringAndSize(&byte, 1)
        data = PyBytes_FromStringAndSize(NULL, size)
        if size < LARGE:
            found = smmap_copy(PyBytes_AS_STRING(data), self.base + (start - self.start), size, self.edge)
            if found or self.spoiled:
                self.settle(found, start, start + size)
        else:
            self.copy_to(PyBytes_AS_STRING(data), start, size)
        return data

    cdef int copy_to(self, char* target, long long start, Py_ssize_t size) except -1:
        """Copy to the caller's memory. The caller holds a reference to the region. At least one byte."""
        cdef const char* source = self.base + (start - self.start)
        cdef Py_ssize_t count
        cdef int found
        if start < self.start or size > self.stop - start:
            raise SystemError("a range outside of its region")
        if size < LARGE:
            found = smmap_copy(target, source, size, self.edge)
            if found or self.spoiled:
                self.settle(found, start, start + size)
            return 0
        if self.scattered:
            self.follow(start, size)
        while True:
            count = min(size, LONGEST)
            with nogil:
                found = smmap_copy(target, source, count, self.edge)
            if found or self.spoiled:
                self.settle(found, start, start + count)
            size -= count
            if not size:
                return 0
            target += count
            source += count
            start += count
            PyErr_CheckSignals()

    cdef int settle(self, int found, long long start, long long stop) except -1:
        """Called after a read of [start, stop), offsets in the file, that may not have got the file's bytes; raises if
        so.

        `found` is the result of the read; see guard.h.
        """
        cdef stat_t status
        if smmap_any_zeroed():
            _notice()
        if not self.spoiled:
            if found == SMMAP_READ or (found == SMMAP_DOUBT and self.edge is NULL):
                return 0
            if found == SMMAP_DOUBT:
                if not _look_at(self.file, &status) or status.st_size >= stop:
                    return 0
        raise self.lost(start, stop)

    cdef object lost(self, long long start, long long stop):
        """The error for bytes that the map no longer has; the manager drops what it must."""
        now = _now(self.file)
        error = lost(self.file, now, start, stop)
        manager = self.owner()
        if manager is not None:
            manager._lose(self)
        return error

    cdef object owner(self):
        """The manager, unless it is gone."""
        owner = self.counts.owner
        return None if owner is None else owner()

    cdef void spoil(self) noexcept:
        """Leave the table: only views may read the zeros that are there now."""
        smmap_lock(&self.counts.mutex)
        self.spoiled = True
        if self.counted:
            self.table.cut = True
            self.table.forget(self)
        smmap_unlock(&self.counts.mutex)

    cdef void follow(self, long long start, Py_ssize_t size) noexcept:
        """A long copy of a window whose reads were scattered: announce it, as the system would else read page by
        page."""
        cdef Py_ssize_t ahead = (start - self.start) % _PAGE
        if start == self.ended:  # right behind another one: the pattern has changed
            madvise(self.base, self.stop - self.start, MADV_NORMAL)
            self.scattered = False
        else:
            madvise(self.base + (start - self.start - ahead), size + ahead, MADV_WILLNEED)
            self.ended = start + size

    cdef object view_of(self, long long start, long long stop):
        cdef Cut cut
        if start < self.start or stop > self.stop or start > stop:
            raise SystemError("a range outside of its region")
        if self.spoiled:
            raise self.lost(start, stop)
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
        if self.spoiled:
            raise self.lost(self.start, self.stop)
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
        """Does nothing."""

    def __dir__(self):
        """The names that a user of `map()` may call: those that `mmap` has, too."""
        return sorted(set(object.__dir__(self)) & set(dir(mmap.mmap)))

    def resize(self, newsize):
        """Refused: it is read-only."""
        raise TypeError("a managed map cannot be resized")

    def write(self, data):
        """Refused: it is read-only."""
        raise TypeError("a managed map is read-only")

    def size(self):
        """The file's size in bytes."""
        return self.file.status.size

    def madvise(self, option, Py_ssize_t start=0, length=None):
        """As `mmap.madvise`, except that memory of our own does not get the advice that would empty it."""
        cdef Py_ssize_t whole = self.stop - self.start, size = whole if length is None else length
        cdef int failed, wanted = PyNumber_Index(option)
        cdef char* base
        if not 0 <= start < whole:
            raise ValueError("madvise start out of bounds")
        if size < 0:
            raise ValueError("madvise length invalid")
        if self.reads and smmap_empties(wanted):
            return
        base = self.base + start
        size = min(size, whole - start)
        with nogil:
            failed = errno if madvise(base, size, wanted) else 0
        if failed:
            raise _error(failed)

    def tell(self):
        """As `mmap.tell`: all who have the map share its position."""
        return self.position

    def seek(self, Py_ssize_t pos, int whence=0):
        """As `mmap.seek`."""
        cdef Py_ssize_t size = self.stop - self.start, base
        if whence == 0:
            base = 0
        elif whence == 1:
            base = self.position
        elif whence == 2:
            base = size
        else:
            raise ValueError("unknown seek type")
        if not -base <= pos <= size - base:
            raise ValueError("seek out of range")
        self.position = base + pos

    def read(self, n=None):
        """As `mmap.read`: up to `n` bytes, or all that are left."""
        cdef Py_ssize_t place = self.position, rest = self.stop - self.start - place
        cdef Py_ssize_t wanted = rest if n is None else PyNumber_AsSsize_t(n, OverflowError)
        if wanted < 0 or wanted > rest:
            wanted = rest
        data = self.copy(self.start + place, wanted)
        self.position = place + wanted
        return data

    def read_byte(self):
        """As `mmap.read_byte`."""
        cdef Py_ssize_t place = self.position
        if place >= self.stop - self.start:
            raise ValueError("read byte out of range")
        found = self[place]
        self.position = place + 1
        return found

    def readline(self):
        """As `mmap.readline`."""
        cdef Py_ssize_t place = self.position
        end = self.find(b"\n", place)
        data = self[place:] if end < 0 else self[place : end + 1]
        self.position = place + len(data)
        return data

    def find(self, sub, start=None, end=None):
        """As `mmap.find`, over the region: from the position on, unless there is a start."""
        return self._find(sub, self.position if start is None else start, end, False)

    def rfind(self, sub, start=None, end=None):
        """As `mmap.rfind`, over the region: likewise."""
        return self._find(sub, self.position if start is None else start, end, True)

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
                return _last(self, low, high, <const char*>needle.buf, needle.len)
            return _first(self, low, high, <const char*>needle.buf, needle.len)
        finally:
            PyBuffer_Release(&needle)


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class Cut:
    """The exporter of a view: a range of a region. The view then refers to the region itself."""

    cdef Region region
    cdef char* base
    cdef Py_ssize_t size

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        _fill(buffer, self.region, self.base, self.size, flags)


cdef int _fill(Py_buffer* buffer, object owner, void* start, Py_ssize_t size, int flags) except -1:
    """Like `PyBuffer_FillInfo`, but Cython manages the reference to the owner."""
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
