# Buffers and cursors. Included by fast.pyx.

@cython.final
@cython.no_gc_clear
cdef class Access:
    """All that a buffer's reads go by, made once and never changed."""

    cdef readonly Table table
    cdef readonly long long size
    cdef readonly long long window
    cdef readonly long long offset
    cdef readonly Ledger ledger
    cdef readonly Order idle
    cdef readonly object client
    cdef readonly bint opened
    cdef readonly bint pending
    cdef object manager
    cdef object file
    cdef unsigned long long serial  # the file's, added to the number of a window
    cdef long long file_size
    cdef int shift  # the window is so large as a power of two; -1: it is none
    cdef unsigned int mark  # the file's in hashes of places; 0: not known yet

    def __cinit__(
        self, client, long long offset, long long size, long long window, Ledger ledger not None,
        bint opened=True, bint pending=False,
    ):
        """Reads of [offset, offset + size) of the client's file, through windows of that size (0: the whole file)."""
        cdef long long file_size = client.size if opened else 0
        if offset < 0 or size < 0 or window < 0 or (opened and offset > file_size - size):
            raise ValueError(f"[{offset}, {offset} + {size}) is not in the file")
        self.table = _NO_TABLE
        self.client = client
        self.size = size
        self.window = window or max(file_size, 1)
        self.offset = offset
        self.ledger = ledger
        self.idle = ledger.idle
        self.opened = opened
        self.pending = pending
        if opened:
            file = self.file = client.file
            self.file_size = file_size
            self.table = <Table?>file.table
            self.serial = PyLong_AsUnsignedLongLongMask(file.serial)
            self.manager = client.manager
        self.shift = -1 if self.window & (self.window - 1) else __builtin_ctzll(<unsigned long long>self.window)

    @staticmethod
    def closed(client, long long offset=0, long long size=0, bint pending=False):
        """Nothing can be read by it; a size says how much there will be once the file was opened."""
        return Access(client, offset, size, 1, _NO_LEDGER, False, pending)

    cdef inline long long number(self, long long place) noexcept:
        """The number of the grid window that has a byte of the file."""
        return place >> self.shift if self.shift >= 0 else place // self.window

    cdef bint watched(self, PyObject* found, long long first) noexcept:
        """Whether a read of a region from there may have to be recorded; else the region is clear around there."""
        cdef long long place, low, high
        if self.ledger.trace is None:
            (<Region>found).unclear(False)
            return False
        if first >= (<Region>found).clear_start and first < (<Region>found).clear_stop:
            return False
        place = first >> PLACE_SHIFT
        if not self.mark or self.chosen(place):
            return True
        low = (<Region>found).clear_start >> PLACE_SHIFT
        high = ((<Region>found).clear_stop - 1) >> PLACE_SHIFT
        if (<Region>found).clear_start >= (<Region>found).clear_stop:
            low = high = place
        for _ in range(GROWTH):  # in steps, as hits in a large window may come anywhere
            if low <= place <= high:
                break
            if self.chosen(low - 1 if place < low else high + 1):
                low = high = place
            elif place < low:
                low -= 1
            else:
                high += 1
        (<Region>found).clear_start = max((<Region>found).start, low << PLACE_SHIFT)
        (<Region>found).clear_stop = min((<Region>found).stop, (high + 1) << PLACE_SHIFT)
        return False

    cdef inline bint chosen(self, long long place) noexcept:
        """Whether reads of a place are to be recorded."""
        return smmap_place_hash(self.mark, place) < self.ledger.threshold

    cdef bint is_sampled(self, long long first) except -1:
        """Whether reads from there are to be recorded, while there is a trace."""
        if not self.mark:
            self.mark = self.file.mark
        return self.chosen(first >> PLACE_SHIFT)

    def sampled(self, long long first):
        """Whether reads that start there, at an offset in the file, are to be recorded."""
        return self.ledger.trace is not None and self.opened and self.is_sampled(first)

    cdef inline object noted(self, long long first, long long last, int kind):
        """What a trace notes before a read, to be called after it; None if that is not recorded."""
        return None if self.ledger.trace is None else self.note(first, last, kind)

    cdef object note(self, long long first, long long last, int kind):
        trace = self.ledger.trace
        return trace.before(self, kind, [(first, last)]) if self.is_sampled(first) else None

    cdef inline PyObject* hit(self, long long first, long long last) noexcept:
        """The region, borrowed, that has [first, last) of one grid window, if it is mapped and kept: a use of it.

        NULL also if that is to be recorded.
        """
        cdef PyObject* found = self.table.near
        if smmap_any_zeroed():
            return NULL  # first it is reported to the managers
        if found is NULL or first < (<Region>found).clear_start or last > (<Region>found).clear_stop:
            found = self.table.at(self.number(first), -1)
            if found is NULL:
                return NULL
            if first < (<Region>found).clear_start or last > (<Region>found).clear_stop:
                if first < (<Region>found).start or last > (<Region>found).stop or self.watched(found, first):
                    return NULL
            self.table.near = found
        if self.idle.has(&(<Region>found).link):
            self.idle.touch_link(&(<Region>found).link)
        elif not (<Region>found).pins:
            return NULL  # detached: the policy takes it back
        self.idle.hits += 1
        return found

    cdef Region found(self, long long first, long long last):
        """The same, also where that is recorded, and of a detached region, which the manager takes back."""
        cdef PyObject* near
        cdef Region region
        if smmap_any_zeroed():
            _notice()
        near = self.hit(first, last)
        if near is not NULL:
            return <Region>near
        near = self.table.at(self.number(first), -1)
        if near is NULL or first < (<Region>near).start or last > (<Region>near).stop:
            return None
        region = <Region>near
        self.idle.hits += 1
        if self.idle.has(&region.link):
            self.idle.touch_link(&region.link)
        elif not region.pins:
            self.manager._keep(self.client, region)
        return region

    cpdef searched(self, long long first, long long last):
        """[first, last) of a mapped region was searched."""
        trace = self.ledger.trace
        if trace is not None and self.is_sampled(first):
            trace.searched(self, first, last)

    cdef bint pay(self, long long first, Py_ssize_t size) except -1:
        """Pay for a cold read of [first, first + size) of one grid window; whether that is to be bought now."""
        cdef long long price = self.file.price, patience = self.file.patience
        cdef unsigned long long window = self.serial + <unsigned long long>self.number(first)
        return self.ledger.rents.pay(window, size, price, patience, first)

    cdef bint due(self, long long first, Py_ssize_t size) except -1:
        """The same, but what is not in memory is not bought: reads of a map would have to wait as well."""
        cdef Descriptor descriptor
        cdef char byte
        cdef bint there = True
        cdef int number
        if not self.pay(first, size):
            return False
        descriptor = self.file.descriptor
        if descriptor is None or descriptor.retired or descriptor.own < 0:
            return True
        number = descriptor.own
        descriptor.users += 1
        with nogil:
            if smmap_read_resident(number, &byte, 1, first) < 0 and errno == EAGAIN:
                there = False
            elif smmap_read_resident(number, &byte, 1, first + size - 1) < 0 and errno == EAGAIN:
                there = False
        descriptor.release()
        return there

    cdef bint read(self, char* target, long long first, Py_ssize_t size, Py_ssize_t pieces) except -1:
        """Read [first, first + size), so many pieces, by the cached descriptor; whether that was possible."""
        cdef Descriptor descriptor = self.file.descriptor
        cdef bint anew = descriptor is None
        cdef Order cold
        cdef Py_ssize_t count
        cdef Link* link
        if anew:
            descriptor = _open_anew(self)
            if descriptor is None:
                return False
        try:
            try:
                count = descriptor.read_to(target, size, first)
            finally:
                if anew:
                    descriptor.release()
        except (OSError, MemoryError) as error:
            if code_of(error) not in _REFUSALS:
                raise named(error, self.client.where, first, first + size) from None
            return False
        if count < size:
            return False
        cold = self.ledger.open
        cold.hits += pieces
        link = cold.link_of(self.file)
        if cold.has(link):
            cold.touch_link(link)
        return True

    cdef Region bought(self, long long first, long long last, bint rented):
        """The region of a grid window, mapped now and idle; None if that is the policy's business."""
        cdef Region region = _shortcut(self, self.number(first), rented)
        if region is None or first < region.start or last > region.stop:
            return None
        if not (region.pins or self.idle.has(&region.link)):
            self.idle.put(&region.link, <PyObject*>region)
        return region

    cdef bytes fetched(self, long long first, Py_ssize_t size, bint due):
        """The same, as the policy gives it: it opens the file, or maps the window."""
        return self.manager._fetch(self.client, first, first + size, due)

    cdef int copy(self, char* target, long long start, Py_ssize_t size) except -1:
        """Copy what follows `start`, which must lie in the buffer, to memory of the caller's."""
        cdef PyObject* near
        cdef Region region
        if not size:
            return 0
        if start < 0 or size < 0 or start > self.size or size > self.size - start:
            raise SystemError("a range outside of its buffer")
        near = self.hit(start + self.offset, start + self.offset + size)
        if near is not NULL:
            region = <Region>near
            return region.copy_to(target, start + self.offset, size)
        note = self.noted(start + self.offset, start + self.offset + size, COPY)
        self.fill(target, start, size)
        if note is not None:
            note()
        return 0

    cdef int fill(self, char* target, long long start, Py_ssize_t size) except -1:
        """The same, unrecorded."""
        cdef long long position = start + self.offset
        cdef Py_ssize_t count
        cdef Region region
        cdef bint due
        cdef int ahead = -1  # whether the next piece is due, if it paid already
        while size:
            count = min(self.window - position % self.window, size)
            region = self.found(position, position + count)
            if region is not None:
                region.copy_to(target, position, count)
            else:
                count = min(count, STEP)
                if ahead < 0:
                    ahead = self.due(position, count)
                due = ahead
                ahead = -1
                region = self.bought(position, position + count, True) if due else None
                if region is not None:
                    region.copy_to(target, position, count)
                elif not due and size > count and self.file.descriptor is not None:
                    count = self.read_on(target, position, count, size, &ahead)
                elif due or not self.read(target, position, count, 1):
                    self.fetch_to(target, position, count, due)
            size -= count
            if not size:
                break
            target += count
            position += count
            PyErr_CheckSignals()
        return 0

    cdef Py_ssize_t read_on(self, char* target, long long first, Py_ssize_t size, Py_ssize_t most, int* ahead) except -1:
        """Read the piece of that size, and with it what follows and is neither mapped nor due, in one call.

        How much was read, up to `most`; `ahead` says whether the piece after it is due, if it paid.
        """
        cdef Py_ssize_t done = size, count, pieces = 1
        cdef PyObject* found
        while done < most and done < LONGEST:
            count = min(self.window - (first + done) % self.window, min(most - done, STEP))
            found = self.table.at(self.number(first + done), -1)
            if found is not NULL and first + done + count <= (<Region>found).stop:
                break
            ahead[0] = self.due(first + done, count)
            if ahead[0]:
                break
            ahead[0] = -1
            done += count
            pieces += 1
        if self.read(target, first, done, pieces):
            return done
        self.fetch_to(target, first, size, False)
        if done > size:
            ahead[0] = 0  # what paid does not pay again
        return size

    cdef int fetch_to(self, char* target, long long first, Py_ssize_t size, bint due) except -1:
        """Copy a range of one window as the policy gives it."""
        cdef bytes data = self.fetched(first, size, due)
        if len(data) != size:
            raise SystemError(f"{len(data)} bytes were fetched, not {size}")
        memcpy(target, PyBytes_AS_STRING(data), size)
        return 0

    cdef bytes bytes_of(self, long long start, long long stop):
        """A copy of [start, stop), which must lie in the buffer; of several windows, joined into one allocation."""
        cdef long long first = start + self.offset, last = stop + self.offset
        cdef PyObject* near
        cdef Region region
        if start >= stop:
            return b""
        near = self.hit(first, last)
        if near is not NULL:
            region = <Region>near
            return region.copy(first, last - first)
        note = self.noted(first, last, COPY)
        data = self.joined(first, last)
        if note is not None:
            note()
        return data

    cdef bytes joined(self, long long first, long long last):
        """The same of [first, last), offsets in the file, unrecorded."""
        cdef Region region
        cdef bytes data
        cdef bint due
        if self.number(first) == self.number(last - 1):
            region = self.found(first, last)
            if region is not None:
                return region.copy(first, last - first)
            due = self.due(first, last - first)
            if not due:
                try:
                    data = PyBytes_FromStringAndSize(NULL, last - first)
                except MemoryError:  # the policy may make room
                    return self.fetched(first, last - first, due)
                if self.read(PyBytes_AS_STRING(data), first, last - first, 1):
                    return data
            if due:
                region = self.bought(first, last, True)
                if region is not None:
                    return region.copy(first, last - first)
            return self.fetched(first, last - first, due)
        data = PyBytes_FromStringAndSize(NULL, last - first)
        self.fill(PyBytes_AS_STRING(data), first - self.offset, last - first)
        return data


cdef dict _structs = {}


cdef object _struct_of(fmt):
    """A format, ready for use, which is remembered."""
    packed = Struct(fmt)
    if len(_structs) >= 100:  # as many as `struct` remembers
        _structs.clear()
    _structs[fmt] = packed
    return packed


cdef Table _NO_TABLE = Table()
cdef Ledger _NO_LEDGER = Ledger()
cdef Access _NO_ACCESS = Access(None, 0, 0, 1, _NO_LEDGER, False)


@cython.no_gc_clear
cdef class BufferBase:
    """The bytes of a file, as its windows have them. See `SlidingWindowMapBuffer`."""

    cdef object __weakref__
    cdef Access record

    def __cinit__(self):  # takes any arguments, which are for __init__
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
        cdef int byte
        if PyLong_CheckExact(key):
            start = _number(key)
            access = self.record
            if 0 <= start < access.size:
                start += access.offset
                found = access.hit(start, start + 1)
                if found is not NULL:
                    byte = smmap_byte((<Region>found).base + (start - (<Region>found).start), (<Region>found).edge)
                    if byte >= 0:
                        return byte
                    access.idle.hits -= 1  # it is read again, with a look at the file
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
        cdef Py_ssize_t done = 0, part, each, most, apart = step if step > 0 else -step
        cdef Py_ssize_t low = start if step > 0 else start + (count - 1) * step
        if not count:
            return b""
        data = PyBytes_FromStringAndSize(NULL, count)
        target = PyBytes_AS_STRING(data)
        most = BLOCK // apart if apart <= CLOSE else 1
        while done < count:  # upwards, also where the step is negative
            part = min(most, count - done)
            access.copy(block, low + done * apart, (part - 1) * apart + 1)
            for each in range(part):
                target[done + each if step > 0 else count - 1 - done - each] = block[each * apart]
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

    def _unpack(self, packed, offset):
        """`unpack_from` at an offset that is no plain int, or counts from the end, or is out of range."""
        raise NotImplementedError

    def unpack_from(self, fmt, offset=0):
        """`struct.unpack_from(fmt, self, offset)`; `struct.error` for what does not lie in the buffer.

        It copies no more than the bytes that it needs. O(size of the format).
        """
        cdef Access access
        cdef long long start
        cdef Py_ssize_t size
        packed = _structs.get(fmt)
        if packed is None:
            packed = _struct_of(fmt)
        size = packed.size
        if not PyLong_CheckExact(offset):
            return self._unpack(packed, offset)  # before anything else: user code may come first
        access = self.opened()
        start = _number(offset)
        if start < 0 or size > access.size - start:
            return self._unpack(packed, offset)
        return packed.unpack(access.bytes_of(start, start + size))

    def _near(self, sub, start, end, bint last):
        """Where `find` (or `rfind`, for the `last`) finds bytes in the first mapped window that they search.

        If they are not there, the range that is left to search; None where nothing was searched.
        """
        cdef Access access = self.record
        cdef Region region
        cdef long long low = 0, high = access.size, offset = access.offset, first, stop, place
        cdef Py_ssize_t size
        if not PyBytes_CheckExact(sub) or not (start is None or PyLong_CheckExact(start)):
            return None
        if not (end is None or PyLong_CheckExact(end)):
            return None
        size = PyBytes_GET_SIZE(sub)
        if start is not None:
            low = _number(start)
        if end is not None:
            high = _number(end)
        if not 0 <= low < high <= access.size or not size:
            return None
        place = (high - 1 if last else low) + offset
        region = access.found(place, place + 1)
        if region is None:
            return None
        first = max(low + offset, region.start)
        stop = min(high + offset, region.stop)
        place = -1
        if stop - first >= size:
            if last:
                place = _last(region, first - region.start, stop - region.start, PyBytes_AS_STRING(sub), size)
            else:
                place = _first(region, first - region.start, stop - region.start, PyBytes_AS_STRING(sub), size)
        if access.ledger.trace is not None:
            if place >= 0:
                first, stop = (place + region.start, stop) if last else (first, place + region.start + size)
            access.searched(first, stop)
        if place >= 0:
            return place + region.start - offset
        if last and first > low + offset:
            return (low, min(first - offset + size - 1, high))
        if not last and stop < high + offset:
            return (max(stop - offset - size + 1, low), high)
        return -1

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
        cdef Region region
        note = access.noted(first, last, VIEW)
        region = access.found(first, last)
        if region is None and access.number(first) == access.number(last - 1):
            region = access.bought(first, last, False)
        if region is None:
            region = <Region?>access.manager._map_range(access.client, first, last)
        if first < region.start or last > region.stop:
            raise SystemError("_map_range() gave something else")
        if note is not None:
            note()
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
        if region.spoiled:
            raise region.lost(access.offset, access.offset + access.size)
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

    def __cinit__(self):  # takes any arguments, which are for __init__
        self.record = _NO_ACCESS
        self.nowhere = _NOWHERE

    def __del__(self):
        if self.region is not None:
            self.let_go(self.region, None)

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
            self.let_go(own, region.entry)
        return 0

    def _let_go(self, Region region not None, used=None):
        """Let go of a region; `used` is the entry of the next one, if any. Never waits, so finalizers may call it."""
        self.let_go(region, used)

    cdef int let_go(self, Region region, object used) except -1:
        cdef Access access = self.record
        if self.pinned is <PyObject*>region:
            self.unpin()
        if not region.pins and region.rest(access.idle):
            manager = access.client.manager
            manager._soon(manager._tidy, region.entry, used)  # not the region itself: it may have to be evicted
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
        cdef Access access = self.record
        cdef Region region
        cdef long long start = 0, count = 0, stop
        cdef bint quick = False  # whether a mapped region may do
        if PyLong_CheckExact(offset) and PyLong_CheckExact(size) and PyLong_CheckExact(flags) and flags == 0 and (
            not smmap_any_zeroed()
        ):
            start = _number(offset)
            count = _number(size)
            if 0 <= start < access.size and 0 <= count <= access.window:
                quick = True
                region = self.region
                if region is not None and count and not region.spoiled:
                    stop = start + count
                    if region.clear_start <= start and stop <= region.clear_stop:
                        self.start = start
                        self.stop = stop
                        return self
                region = None
        return _go(self, access, offset, size, flags, start, count, quick, UNTRACED if access.ledger.trace is None else WATCHED)

    def buffer(self):
        """A read-only view of the accessible bytes, valid until you drop it, whatever happens. O(1), no copy."""
        cdef Region region
        if smmap_any_zeroed():
            _notice()
        region = self.region
        if region is None:
            raise self._lost()
        return region.view_of(self.start, self.stop)

    def map(self):
        """The region's map itself: its index 0 is the region's start. O(1), no copy.

        It answers as `mmap` does, but cannot be closed.
        """
        cdef Region region
        if smmap_any_zeroed():
            _notice()
        region = self.region
        if region is None:
            raise self._lost()
        return region.shared()


cdef object _recorded(
    CursorBase self, Access access, offset, size, flags, long long start, long long count, bint quick
):
    """`use_region` while there is a trace, which may have to record it."""
    cdef long long most = count
    note = None
    if access.opened:
        if not quick and hasattr(offset, "__index__") and hasattr(size, "__index__"):
            start, most = _number(PyNumber_Index(offset)), _number(min(PyNumber_Index(size), access.window))
        if 0 <= start < access.size and 0 <= most:
            most = min(most, access.window) or access.window - access.window // 2
            note = access.noted(start, min(start + most, access.size), CURSOR)
    _go(self, access, offset, size, flags, start, count, quick and self.record is access, NOTED)
    if note is not None:
        note()
    return self


cdef enum:
    UNTRACED
    WATCHED
    NOTED


cdef inline object _go(
    CursorBase self, Access access, offset, size, flags, long long start, long long count, bint quick, int how
):
    """`use_region` beyond what is clear of the region that the cursor has; recorded if it is watched."""
    cdef Region region
    cdef PyObject* found
    cdef long long stop = start + (count or access.window // 2)
    if quick:
        region = self.region
        if how and region is not None and count and region.start <= start and stop <= region.stop and not region.spoiled:
            if how == WATCHED and access.watched(<PyObject*>region, start):
                region = None  # the move may have to evict it
                return _recorded(self, access, offset, size, flags, start, count, quick)
            self.start = start
            self.stop = stop
            return self
        found = access.table.at(access.number(start), -1)
        if how == WATCHED and (found is NULL or access.watched(found, start)):
            region = None  # as above
            return _recorded(self, access, offset, size, flags, start, count, quick)
        if found is not NULL and (stop <= (<Region>found).stop or (<Region>found).stop == access.size):
            if not count or stop > access.size:
                stop = (<Region>found).stop
            if found is <PyObject*>region:
                self.start = start
                self.stop = stop
                return self
            if not access.idle.crowded:
                region = <Region>found
                access.idle.hits += 1
                self.take(region, start, stop)
                return self
        region = None  # as above
        start -= start % access.window
        if found is NULL and (stop <= start + access.window or start + access.window >= access.size):
            region = _shortcut(access, start // access.window, False)
            if region is not None:
                start = _number(offset)
                if not count or stop > access.size:
                    stop = region.stop
                self.take(region, start, stop)
                return self
    elif how == WATCHED:
        return _recorded(self, access, offset, size, flags, start, count, quick)
    return self._move(offset, size, flags)
