# Buffers and cursors. Included by fast.pyx.

@cython.final
@cython.no_gc_clear
cdef class Access:
    """The record that a buffer's reads use, made once and never changed."""

    cdef readonly Table table
    cdef readonly long long size
    cdef readonly long long window
    cdef readonly long long offset
    cdef readonly Ledger ledger
    cdef readonly Order idle
    cdef Counts counts  # the ledger's
    cdef readonly object client
    cdef readonly bint opened
    cdef readonly bint pending
    cdef object manager
    cdef object file
    cdef unsigned long long serial  # the file's, added to the number of a window
    cdef long long file_size
    cdef int shift  # log2 of the window; -1: it is not a power of two
    cdef unsigned int mark  # the file's in hashes of places; 0: not known yet

    def __cinit__(
        self, client, long long offset, long long size, long long window, Ledger ledger not None,
        bint opened=True, bint pending=False,
    ):
        """For reads of [offset, offset + size) of the client's file, with windows of that size (0: the whole file)."""
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
        self.counts = ledger.counts
        self.opened = opened
        self.pending = pending
        if opened:
            file = self.file = client.file
            self.file_size = file_size
            self.table = <Table?>file.table
            self.table.belong(self.counts)
            self.serial = PyLong_AsUnsignedLongLongMask(file.serial)
            self.manager = client.manager
        self.shift = -1 if self.window & (self.window - 1) else __builtin_ctzll(<unsigned long long>self.window)

    @staticmethod
    def closed(client, long long offset=0, long long size=0, bint pending=False):
        """A record that reads nothing; a size says how many bytes there will be once the file is opened."""
        return Access(client, offset, size, 1, _NO_LEDGER, False, pending)

    cdef inline long long number(self, long long place) noexcept:
        """The number of the grid window that has a byte of the file."""
        return place >> self.shift if self.shift >= 0 else place // self.window

    cdef bint watched(self, PyObject* found, long long first) noexcept:
        """Whether a read of a region from there may have to be recorded; otherwise the region is clear around there.

        Under the lock of `counts`.
        """
        cdef long long place, low, high
        if not self.counts.traced:
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
        """Whether reads of a place should be recorded. Under the lock of `counts`."""
        return smmap_place_hash(self.mark, place) < self.ledger.threshold

    cdef bint is_sampled(self, long long first) except -1:
        """Whether reads from there should be recorded, while there is a trace."""
        cdef unsigned int mark = self.mark
        cdef bint found
        if not mark:  # it never changes, and is a Python attribute: so it is read without the lock
            mark = self.file.mark
        smmap_lock(&self.counts.mutex)
        self.mark = mark
        found = self.chosen(first >> PLACE_SHIFT)
        smmap_unlock(&self.counts.mutex)
        return found

    def sampled(self, long long first):
        """Whether reads that start there, at an offset in the file, should be recorded."""
        return self.counts.traced and self.opened and self.is_sampled(first)

    cdef inline object noted(self, long long first, long long last, int kind):
        """The function from a trace, to be called after a read; None if the read is not recorded."""
        # `traced` is read without the lock here and where Python code follows: whether a trace that starts or ends at
        # the same moment records a read is undefined anyway, and `note` takes the trace under the lock
        return self.note(first, last, kind) if self.counts.traced else None

    cdef object note(self, long long first, long long last, int kind):
        trace = self.ledger.trace
        return trace.before(self, kind, [(first, last)]) if trace is not None and self.is_sampled(first) else None

    cdef inline PyObject* hit(self, long long first, long long last) noexcept:
        """The region, borrowed, that has [first, last) of one grid window, if it is mapped and kept: a use of it.

        NULL also if that should be recorded. Under the lock of `counts`.
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
        """The same, also if that is recorded, and for a detached region, which the manager takes back."""
        cdef PyObject* near
        cdef Region region
        cdef bint kept
        if smmap_any_zeroed():
            _notice()
        smmap_lock(&self.counts.mutex)
        near = self.hit(first, last)
        kept = near is not NULL
        if not kept:
            near = self.table.at(self.number(first), -1)
            if near is not NULL and first >= (<Region>near).start and last <= (<Region>near).stop:
                self.idle.hits += 1
                kept = (<Region>near).pins > 0
                if self.idle.has(&(<Region>near).link):
                    self.idle.touch_link(&(<Region>near).link)
                    kept = True
            else:
                near = NULL
        if near is not NULL and not smmap_hold(near):
            near = NULL
        smmap_unlock(&self.counts.mutex)
        if near is NULL:
            return None
        region = <Region>smmap_held(near)
        if not kept:
            self.manager._keep(self.client, region)
        return region

    cdef inline Region at_hand(self, long long first, long long last):
        """Like `hit`, without the lock, and with a reference."""
        cdef PyObject* near
        cdef bint held
        smmap_lock(&self.counts.mutex)
        near = self.hit(first, last)
        held = near is not NULL and smmap_hold(near)
        smmap_unlock(&self.counts.mutex)
        return <Region>smmap_held(near) if held else None

    cpdef searched(self, long long first, long long last):
        """[first, last) of a mapped region was searched."""
        trace = self.ledger.trace
        if trace is not None and self.is_sampled(first):
            trace.searched(self, first, last)

    cdef bint has(self, long long first, long long last) noexcept:
        """Whether [first, last) of one grid window is mapped."""
        cdef PyObject* near
        cdef bint found
        smmap_lock(&self.counts.mutex)
        near = self.table.at(self.number(first), -1)
        found = near is not NULL and last <= (<Region>near).stop
        smmap_unlock(&self.counts.mutex)
        return found

    cdef bint pay(self, long long first, Py_ssize_t size) except -1:
        """Pay for a cold read of [first, first + size) of one grid window; return whether to buy that now."""
        cdef long long price = self.file.price, patience = self.file.patience
        cdef unsigned long long window = self.serial + <unsigned long long>self.number(first)
        return self.ledger.rents.pay(window, size, price, patience, first)

    cdef bint due(self, long long first, Py_ssize_t size) except -1:
        """The same, but a window that is not in memory is not bought: reads of a map would have to wait as well."""
        cdef Descriptor descriptor
        cdef char byte
        cdef bint there = True
        cdef int number
        if not self.pay(first, size):
            return False
        descriptor = self.file.descriptor
        if descriptor is None or not descriptor.take():
            return True
        number = descriptor.own
        with nogil:
            if smmap_read_resident(number, &byte, 1, first) < 0 and errno == EAGAIN:
                there = False
            elif smmap_read_resident(number, &byte, 1, first + size - 1) < 0 and errno == EAGAIN:
                there = False
        descriptor.release()
        return there

    cdef bint read(self, char* target, long long first, Py_ssize_t size, Py_ssize_t pieces) except -1:
        """Read [first, first + size), so many pieces, by the cached descriptor; return whether that was possible."""
        cdef Descriptor descriptor = self.file.descriptor
        cdef bint anew = descriptor is None
        cdef Py_ssize_t count
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
        self.ledger.open.used(self.file, pieces)
        return True

    cdef Region bought(self, long long first, long long last, bint rented):
        """The region of a grid window, mapped now and idle; None if the policy has to map it."""
        cdef Region region = _shortcut(self, self.number(first), rented)
        if region is None or first < region.start or last > region.stop:
            return None
        smmap_lock(&self.counts.mutex)
        region.rest(self.idle)
        smmap_unlock(&self.counts.mutex)
        if self.idle.crowded:  # since the manager's lock was released: it may have been closed
            self.manager._soon(self.manager._tidy, region.entry, None)
        return region

    cdef bytes fetched(self, long long first, Py_ssize_t size, bint due):
        """The same by the policy, which opens the file or maps the window."""
        return self.manager._fetch(self.client, first, first + size, due)

    cdef int copy(self, char* target, long long start, Py_ssize_t size) except -1:
        """Copy the bytes from `start` on, which must be in the buffer, to the caller's memory."""
        cdef Region region
        if not size:
            return 0
        if start < 0 or size < 0 or start > self.size or size > self.size - start:
            raise SystemError("a range outside of its buffer")
        region = self.at_hand(start + self.offset, start + self.offset + size)
        if region is not None:
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
        cdef int ahead = -1  # whether the next piece is due, if it has already paid
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
        """Read the piece of that size, and in the same call the next ones that are neither mapped nor due.

        Returns how much was read, up to `most`; `ahead` says whether the piece after it is due, if it has paid.
        """
        cdef Py_ssize_t done = size, count, pieces = 1
        while done < most and done < LONGEST:
            count = min(self.window - (first + done) % self.window, min(most - done, STEP))
            if self.has(first + done, first + done + count):
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
            ahead[0] = 0  # a piece does not pay twice
        return size

    cdef int fetch_to(self, char* target, long long first, Py_ssize_t size, bint due) except -1:
        """Copy a range of one window by the policy."""
        cdef bytes data = self.fetched(first, size, due)
        if len(data) != size:
            raise SystemError(f"{len(data)} bytes were fetched, not {size}")
        memcpy(target, PyBytes_AS_STRING(data), size)
        return 0

    cdef bytes bytes_of(self, long long start, long long stop):
        """A copy of [start, stop), which must be in the buffer; of several windows, joined in one allocation."""
        cdef long long first = start + self.offset, last = stop + self.offset
        cdef Region region
        if start >= stop:
            return b""
        region = self.at_hand(first, last)
        if region is not None:
            return region.copy(first, last - first)
        note = self.noted(first, last, COPY)
        data = self.joined(first, last)
        if note is not None:
            note()
        return data

    cdef bytes joined(self, long long first, long long last):
        """The same for [first, last), offsets in the file, unrecorded."""
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


cdef tuple _struct_of(fmt):
    """A prepared format: its `Struct`, its size and its `unpack`. It is cached."""
    packed = Struct(fmt)
    if len(_structs) >= 100:  # `struct` remembers as many
        _structs.clear()
    known = _structs[fmt] = packed, packed.size, packed.unpack
    return known


cdef Table _NO_TABLE = Table()
cdef Ledger _NO_LEDGER = Ledger()
_NO_LEDGER.counts = _NO_LEDGER.idle.counts = _NO_LEDGER.open.counts = _NO_COUNTS  # a client that reads nothing stays at home
cdef Access _NO_ACCESS = Access(None, 0, 0, 1, _NO_LEDGER, False)


cdef inline void _move_in(Counts before) noexcept:
    """Called before a client gets another home. The old one is never freed: others may be about to take its lock."""
    if SMMAP_FREE_THREADED and before is not _NO_COUNTS:
        Py_INCREF(before)
    smmap_publish()


@cython.no_gc_clear
cdef class BufferBase:
    """The bytes of a file, read through windows. See `SlidingWindowMapBuffer`."""

    cdef object __weakref__
    cdef Access record
    cdef Counts home  # its lock guards `record`: the record's, unless that is of no manager

    def __cinit__(self):  # takes any arguments, which are for __init__
        self.record = _NO_ACCESS
        self.home = _NO_COUNTS

    @cython.final
    cdef inline void lock(self) noexcept:
        """Keep others from changing the record, and the tables and orders that it uses."""
        cdef PyObject* home
        while SMMAP_FREE_THREADED:
            home = <PyObject*>self.home
            smmap_lock(&(<Counts>home).mutex)
            if home is <PyObject*>self.home:
                break
            smmap_unlock(&(<Counts>home).mutex)

    @cython.final
    cdef inline void unlock(self) noexcept:
        smmap_unlock(&self.home.mutex)

    @cython.final
    cdef inline Access now(self):
        """The record that reads go by."""
        cdef Access access
        self.lock()
        access = self.record
        self.unlock()
        return access

    @property
    def _access(self):
        """The record that reads go by."""
        return self.now()

    @_access.setter
    def _access(self, Access access not None):
        cdef Access before
        cdef Counts home, counts = access.counts
        self.lock()
        home = self.home
        before = self.record
        self.record = access
        if counts is not home and counts is not _NO_COUNTS:
            _move_in(home)
            self.home = counts  # from here on, others may take the new lock
        smmap_unlock(&home.mutex)

    def _ready(self):
        """The record that reads use, of a file that is open now."""
        raise NotImplementedError

    cdef Access opened(self):
        cdef Access access = self.now()
        return access if access.opened else <Access?>self._ready()

    @cython.final
    cdef inline PyObject* hit(self, long long start, long long size, long long* first) noexcept:
        """Like `Access.hit`: the region of so many bytes of the buffer, and where they start in the file.

        If there is one, the lock is held afterwards.
        """
        cdef PyObject* access
        cdef PyObject* found = NULL
        self.lock()
        access = <PyObject*>self.record
        if 0 <= start <= (<Access>access).size - size:
            first[0] = start + (<Access>access).offset
            found = (<Access>access).hit(first[0], first[0] + size)
        if found is NULL:
            self.unlock()
        return found

    @cython.final
    cdef inline PyObject* hold(self, long long start, long long size, long long* first) noexcept:
        """The same, without the lock afterwards, but with a reference."""
        cdef PyObject* access
        cdef PyObject* found = NULL
        self.lock()
        access = <PyObject*>self.record
        if 0 <= start <= (<Access>access).size - size:
            first[0] = start + (<Access>access).offset
            found = (<Access>access).hit(first[0], first[0] + size)
            if found is not NULL and not smmap_hold(found):
                found = NULL
        self.unlock()
        return found

    def __len__(self):
        cdef Py_ssize_t size
        self.lock()
        size = self.record.size
        self.unlock()
        return size

    def __getitem__(self, key):
        cdef PyObject* found
        cdef PySliceObject* given
        cdef long long start, stop
        cdef int byte
        if PyLong_CheckExact(key):
            found = self.hit(_number(key), 1, &start)
            if found is not NULL:
                # Others wait in the meantime, as with the interpreter's lock: a reference would cost more than the byte
                byte = smmap_byte((<Region>found).base + (start - (<Region>found).start), (<Region>found).edge)
                if byte < 0:
                    self.record.idle.hits -= 1  # it is read again, with a check of the file
                self.unlock()
                if byte >= 0:
                    return byte
            return self.item(key)
        if PySlice_Check(key):
            given = <PySliceObject*>key
            if given.step is Py_None and PyLong_CheckExact(<object>given.start) and PyLong_CheckExact(<object>given.stop):
                start = _number(<object>given.start)
                stop = _number(<object>given.stop)
                if 0 <= start < stop:
                    stop -= start
                    found = self.hold(start, stop, &start)
                    if found is not NULL:
                        return (<Region>smmap_held(found)).copy(start, stop)
            return self.sliced(key)
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
        return self.sliced(key)

    cdef bytes sliced(self, key):
        """The same, without the lookup of a Python method, which would take a tenth of a cold read."""
        cdef Py_ssize_t start, stop, step, count
        cdef Access access = self.opened()
        PySlice_Unpack(key, &start, &stop, &step)
        count = PySlice_AdjustIndices(access.size, &start, &stop, step)
        if step == 1:
            return access.bytes_of(start, max(start, stop))
        return self.steps(access, start, step, count)

    cdef bytes steps(self, Access access, Py_ssize_t start, Py_ssize_t step, Py_ssize_t count):
        """The bytes at `count` places: copied as blocks if they are close together, otherwise one by one."""
        cdef char* block  # not on the stack, where a thread may have little room
        cdef char* target
        cdef Py_ssize_t done = 0, blocks = 0, part, each, most, apart = step if step > 0 else -step
        cdef Py_ssize_t low = start if step > 0 else start + (count - 1) * step
        if not count:
            return b""
        data = PyBytes_FromStringAndSize(NULL, count)
        target = PyBytes_AS_STRING(data)
        most = min(BLOCK // apart if apart <= CLOSE else 1, count)
        block = <char*>malloc((most - 1) * apart + 1)
        if block is NULL:
            raise MemoryError
        try:
            while done < count:  # upwards, even if the step is negative
                part = min(most, count - done)
                access.copy(block, low + done * apart, (part - 1) * apart + 1)
                for each in range(part):
                    target[done + each if step > 0 else count - 1 - done - each] = block[each * apart]
                done += part
                blocks += 1
                if blocks % AT_ONCE == 0:
                    with nogil:  # other threads may run: a single block is too short to copy without the lock
                        pass
                PyErr_CheckSignals()
        finally:
            free(block)
        return data

    def _copy(self, Access access not None, long long start, long long stop):
        """A copy of [start, stop), which must be in the buffer."""
        if start < stop and not access.opened:
            access = <Access?>self._ready()
        return access.bytes_of(start, stop)

    def _found(self, Access access not None, long long start, long long stop):
        """The region that has [start, stop), offsets in the file of one grid window, if it is mapped: a use of it."""
        if not 0 <= start < stop:
            return None
        return access.found(start, stop)

    def _unpack(self, packed, offset):
        """`unpack_from` at an offset that is not a plain int, counts from the end, or is out of range."""
        raise NotImplementedError

    def unpack_from(self, fmt, offset=0):
        """`struct.unpack_from(fmt, self, offset)`; `struct.error` for a range that is not in the buffer.

        Copies only the bytes that it needs. O(size of the format).
        """
        cdef PyObject* known
        cdef Access access
        cdef long long start
        cdef Py_ssize_t size
        known = smmap_get(_structs, fmt)
        packed, size, unpack = _struct_of(fmt) if known is NULL else <tuple>smmap_held(known)
        if not PyLong_CheckExact(offset):
            return self._unpack(packed, offset)  # before anything else: user code may come first
        access = self.opened()
        start = _number(offset)
        if start < 0 or size > access.size - start:
            return self._unpack(packed, offset)
        return unpack(access.bytes_of(start, start + size))

    def _near(self, sub, start, end, bint last):
        """Where `find` (or `rfind`, for the `last`) finds bytes in the first window that it searches, if that is
        mapped.

        If they are not there, the record that was searched and the range that is left; None if nothing was searched.
        """
        cdef Access access = self.now()
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
        if access.counts.traced:
            if place >= 0:
                first, stop = (place + region.start, stop) if last else (first, place + region.start + size)
            access.searched(first, stop)
        if place >= 0:
            return place + region.start - offset
        if last and first > low + offset:
            return (access, low, min(first - offset + size - 1, high))
        if not last and stop < high + offset:
            return (access, max(stop - offset - size + 1, low), high)
        return -1

    def _read_into(self, Access access not None, long long start, target):
        """Fill `target` with the bytes from `start` on, which must be in the buffer."""
        cdef Py_buffer given
        PyObject_GetBuffer(target, &given, PyBUF_WRITABLE)
        try:
            access.copy(<char*>given.buf, start, given.len)
        finally:
            PyBuffer_Release(&given)

    def view(self, start=0, stop=None):
        """A read-only view of `buffer[start:stop]`, of any length that fits into the address space. O(1), no copy.

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
            if 0 <= first < last:
                found = NULL
                self.lock()  # as `hold`, which compilers put in place only where it is called once: a tenth of the time
                if last <= self.record.size:
                    first += self.record.offset
                    last += self.record.offset
                    found = self.record.hit(first, last)
                    if found is not NULL and not smmap_hold(found):
                        found = NULL
                self.unlock()
                if found is not NULL:
                    return (<Region>smmap_held(found)).view_of(first, last)
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
        pass  # but if the type has this method, numpy keeps the exported view, not only this object


cdef inline long long _number(object number) noexcept:
    """An int as a number; -2 if it is too large."""
    cdef int overflow
    cdef long long found = PyLong_AsLongLongAndOverflow(number, &overflow)
    return -2 if overflow else found


cdef enum:  # outcomes of a cursor's move
    ELSEWHERE
    MOVED
    WATCHED


@cython.no_gc_clear
cdef class CursorBase:
    """Zero-copy access to one window at a time. See `WindowCursor`."""

    cdef object __weakref__
    cdef Access record
    cdef Region region
    cdef long long start
    cdef long long stop
    cdef tuple nowhere  # the value of `_use` without a region
    cdef Counts home  # its lock guards all of this; the record's, or that of the pinned region
    cdef PyObject* pinned  # the region, borrowed, except briefly in the policy
    cdef PyObject* before  # others that use the region
    cdef PyObject* after

    def __cinit__(self):  # takes any arguments, which are for __init__
        self.record = _NO_ACCESS
        self.home = _NO_COUNTS
        self.nowhere = _NOWHERE
        smmap_watch(<PyObject*>self)

    def __del__(self):
        cdef Region region
        self.lock()
        region = self.region
        self.unlock()
        if region is not None:
            self.let_go(region, None)

    def __dealloc__(self):
        self.unpin()

    @cython.final
    cdef inline void lock(self) noexcept:
        """Keep others from changing it, and the tables and orders that it uses. As in `BufferBase`."""
        cdef PyObject* home
        while SMMAP_FREE_THREADED:
            home = <PyObject*>self.home
            smmap_lock(&(<Counts>home).mutex)
            if home is <PyObject*>self.home:
                break
            smmap_unlock(&(<Counts>home).mutex)

    @cython.final
    cdef inline void unlock(self) noexcept:
        smmap_unlock(&self.home.mutex)

    @cython.final
    cdef void live_at(self, Counts counts) noexcept:
        """Use the lock of these counters from now on, with no region of others pinned. Without the lock."""
        cdef Counts home
        if self.home is counts or counts is _NO_COUNTS:
            return
        self.lock()
        home = self.home
        self.unlink()
        if counts is not home:
            _move_in(home)
            self.home = counts  # from here on, others may take the new lock
        smmap_unlock(&home.mutex)

    @cython.final
    cdef inline Access now(self):
        """The record of the cursor's file."""
        cdef Access access
        self.lock()
        access = self.record
        self.unlock()
        return access

    @property
    def _access(self):
        """The record of the cursor's file."""
        return self.now()

    @_access.setter
    def _access(self, Access access not None):
        cdef Access before
        self.live_at(access.counts)
        self.lock()
        before = self.record
        self.record = access
        self.unlock()

    @cython.final
    cdef void unpin(self) noexcept:
        """Unpin the region."""
        self.lock()
        self.unlink()
        self.unlock()

    @cython.final
    cdef void unlink(self) noexcept:
        """The same, under the lock."""
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
        (<Region>region).pins = (<Region>region).pins - 1  # `-=` would count a reference, even to a dying one

    @cython.final
    cdef void pin(self, Region region) noexcept:
        """Pin this region, and no other."""
        self.live_at(region.counts)
        self.lock()
        self.link(region)
        self.unlock()

    @cython.final
    cdef void link(self, Region region) noexcept:
        """The same, under the lock, which is the region's."""
        if self.pinned is <PyObject*>region or self.home is not region.counts:
            return
        self.unlink()
        self.pinned = <PyObject*>region
        self.after = region.cursors
        if self.after is not NULL:
            (<CursorBase>self.after).before = <PyObject*>self
        region.cursors = <PyObject*>self
        region.pins += 1

    @property
    def _use(self):
        """The region, and what of it is accessible."""
        cdef Region region
        cdef tuple nowhere
        cdef long long start, stop
        self.lock()
        region = self.region
        nowhere = self.nowhere
        start = self.start
        stop = self.stop
        self.unlock()
        return nowhere if region is None else (region, start, stop)

    @_use.setter
    def _use(self, tuple use not None):
        cdef long long start, stop
        cdef Region region, before
        cdef tuple nowhere
        given, start, stop = use
        region = <Region?>given if given is not None else None
        self.lock()
        before = self.region  # these are dropped without the lock
        nowhere = self.nowhere
        if region is None:
            self.nowhere = use
        self.region = region
        self.start = start
        self.stop = stop
        self.unlock()

    def _pin(self, Region region not None, long long start, long long stop):
        """Use [start, stop) of a mapped region instead of the present one."""
        self.take(region, start, stop)
        self.check_manager()

    @cython.final
    cdef int check_manager(self) except -1:
        """Give the region up if the manager was closed, maybe while it was pinned: then nobody else revokes it."""
        cdef Access access = self.now()
        if access.idle.crowded and access.client.manager.closed:
            self._revoke()
        return 0

    @cython.final
    cdef int take(self, Region region, long long start, long long stop) except -1:
        cdef Region own
        cdef PyObject* item
        self.live_at(region.counts)
        self.lock()
        own = self.region
        item = self.change(region, start, stop)
        self.unlock()
        Py_XDECREF(item)
        if own is not None and own is not region:
            self.let_go(own, region.entry)
        return 0

    @cython.final
    cdef inline PyObject* change(self, Region region, long long start, long long stop) noexcept:
        """Pin and use it, under the lock, with a reference to the old region; returns a reference to drop."""
        cdef PyObject* idle = <PyObject*>self.record.idle  # a reference would be given up under the lock
        self.link(region)
        self.region = region
        self.start = start
        self.stop = stop
        return (<Order>idle).take(&region.link) if (<Order>idle).has(&region.link) else NULL

    def _let_go(self, Region region not None, used=None):
        """Unpin a region; `used` is the entry of the next one, if any. Never waits, so finalizers may call it."""
        self.let_go(region, used)

    @cython.final
    cdef int let_go(self, Region region, object used) except -1:
        cdef Access access
        cdef bint rests
        access = self.now()
        smmap_lock(&region.counts.mutex)
        if self.pinned is <PyObject*>region:
            self.unlink()
        rests = region.rest(access.idle)
        smmap_unlock(&region.counts.mutex)
        if rests and (access.idle.crowded or region.file.gone):
            manager = access.client.manager
            manager._soon(manager._tidy, region.entry, used)  # not the region itself: it may have to be evicted
        return 0

    def _revoke(self):
        """The manager takes the region away."""
        raise NotImplementedError

    def _move(self, offset, size, flags):
        """`use_region` if no mapped grid window serves it."""
        raise NotImplementedError

    def _lost(self):
        """The error of a cursor without a region."""
        raise NotImplementedError

    @cython.final
    cdef int move(self, long long start, long long count, bint noted) except -1:
        """Serve a request from its region or another mapped grid window: MOVED if that was possible; WATCHED if a trace
        must be asked first, which it was for a `noted` request; otherwise ELSEWHERE.
        """
        cdef PyObject* found
        cdef PyObject* item = NULL
        cdef PyObject* access
        cdef long long stop, rest
        cdef Region own, region
        cdef bint held = False
        self.lock()
        access = <PyObject*>self.record
        if not self.is_plain(start, count):
            self.unlock()
            return ELSEWHERE
        rest = (<Access>access).size - start
        stop = start + min(count or (<Access>access).window // 2, rest)  # `start + count` may exceed 63 bits
        if 0 < count <= rest and self.region is not None and (
            self.region.start <= start and stop <= self.region.stop and not self.region.spoiled
        ):
            if not noted and (<Access>access).watched(<PyObject*>self.region, start):
                self.unlock()
                return WATCHED
            self.start = start
            self.stop = stop
            self.unlock()
            return MOVED
        found = (<Access>access).table.at((<Access>access).number(start), -1)
        if (<Access>access).counts.traced and not noted and (found is NULL or (<Access>access).watched(found, start)):
            self.unlock()
            return WATCHED
        if found is NULL or stop > (<Region>found).stop:
            self.unlock()
            return ELSEWHERE
        if not count:
            stop = (<Region>found).stop
        if found is <PyObject*>self.region:
            self.start = start
            self.stop = stop
            self.unlock()
            return MOVED
        if not (<Access>access).idle.crowded:
            held = self.home is (<Region>found).counts and smmap_hold(found)
        if not held:
            self.unlock()
            return ELSEWHERE
        (<Access>access).idle.hits += 1
        own = self.region
        item = self.change(<Region>found, start, stop)
        self.unlock()
        Py_XDECREF(item)
        region = <Region>smmap_held(found)
        if own is not None:
            self.let_go(own, region.entry)
        return MOVED

    @cython.final
    cdef inline bint is_plain(self, long long start, long long count) noexcept:
        """Whether a request is one that a mapped region may serve. Under the lock."""
        cdef PyObject* access = <PyObject*>self.record
        return 0 <= start < (<Access>access).size and 0 <= count <= (<Access>access).window and (
            not SMMAP_FREE_THREADED or (<Access>access).counts is self.home
        )

    @cython.final
    cdef bint shortcut(self, long long start, long long count) except -1:
        """The same, for a grid window that is mapped now, without the policy if there is nothing to decide."""
        cdef Access access = self.now()
        cdef Region region
        cdef long long size
        if not (0 <= start < access.size and 0 <= count <= access.window):
            return False
        size = min(count or access.window // 2, access.size - start)
        if size > access.window - start % access.window or access.has(start, start + 1):
            return False
        region = _shortcut(access, start // access.window, False)
        if region is None:
            return False
        self.take(region, start, start + size if count else region.stop)
        self.check_manager()
        return True

    def use_region(self, offset=0, size=0, flags=0):
        """Use a region with `size` bytes from `offset` (bytes from the file's start); returns the cursor itself.

        Exactly `min(size, window_size, file_size - offset)` bytes become accessible; with size 0, everything up to the
        end of the window, at least `min(window_size / 2, file_size - offset)`. At or past the end of the file the
        cursor has no region and is not valid. `flags` are added to those of `os.open`.

        O(1), no copy. Raises `FileChangedError` (the file was replaced or truncated), `LimitError` (no handle is left),
        `ClosedError`, or the system's error; the cursor then stays as it was.
        """
        cdef long long start = 0, count = 0
        cdef bint quick = False  # whether a mapped region may do
        if PyLong_CheckExact(offset) and PyLong_CheckExact(size) and PyLong_CheckExact(flags) and flags == 0 and (
            not smmap_any_zeroed()
        ):
            start = _number(offset)
            count = _number(size)
            self.lock()
            quick = self.is_plain(start, count)
            if quick and count and self.region is not None and (
                self.region.clear_start <= start and count <= self.region.clear_stop - start and not self.region.spoiled
            ):
                self.start = start
                self.stop = start + count
                self.unlock()
                return self
            self.unlock()
        return self.go(offset, size, flags, start, count, quick, False)

    @cython.final
    cdef object go(self, offset, size, flags, long long start, long long count, bint quick, bint noted):
        """`use_region` outside of the clear part of the cursor's region; recorded if it is watched."""
        cdef int done
        if quick:
            done = self.move(start, count, noted)
            if done == WATCHED:
                return self.recorded(offset, size, flags, start, count, quick)
            if done == MOVED or self.shortcut(start, count):
                return self
        elif not noted and self.now().counts.traced:
            offset, size = PyNumber_Index(offset), PyNumber_Index(size)  # once, and first: user code may run
            return self.recorded(offset, size, flags, start, count, quick)
        return self._move(offset, size, flags)

    @cython.final
    cdef object recorded(self, offset, size, flags, long long start, long long count, bint quick):
        """The same while there is a trace, which may have to record it."""
        cdef Access access = self.now()
        cdef long long most = count
        note = None
        if access.opened:
            if not quick:
                start, most = _number(offset), _number(min(size, access.window))
            if 0 <= start < access.size and 0 <= most:
                most = min(most, access.window) or access.window - access.window // 2
                note = access.noted(start, start + min(most, access.size - start), CURSOR)
        self.go(offset, size, flags, start, count, quick, True)
        if note is not None:
            note()
        return self

    def buffer(self):
        """A read-only view of the accessible bytes, valid until you drop it, whatever happens. O(1), no copy."""
        cdef Region region
        cdef long long start, stop
        if smmap_any_zeroed():
            _notice()
        self.lock()
        region = self.region
        start = self.start
        stop = self.stop
        self.unlock()
        if region is None:
            raise self._lost()
        return region.view_of(start, stop)

    def map(self):
        """The region's map itself: its index 0 is the region's start. O(1), no copy.

        It works like an `mmap`, but cannot be closed.
        """
        cdef Region region
        if smmap_any_zeroed():
            _notice()
        self.lock()
        region = self.region
        self.unlock()
        if region is None:
            raise self._lost()
        return region.shared()


# Before an object is destroyed, its reference count says for a moment that it lives. If other threads read the
        # count, everything that leads to the object is removed before that.

ctypedef void (*End)(PyObject*) noexcept

cdef End _end_region = NULL
cdef End _end_cursor = NULL


cdef void _region_ends(PyObject* region) noexcept:
    PyObject_GC_UnTrack(region)  # the collector may run while the lock is waited for
    (<Region>region).withdraw()
    _end_region(region)


cdef void _cursor_ends(PyObject* cursor) noexcept:
    PyObject_GC_UnTrack(cursor)
    (<CursorBase>cursor).unpin()
    _end_cursor(cursor)


if SMMAP_FREE_THREADED:
    _end_region = <End>(<PyTypeObject*>Region).tp_dealloc
    (<PyTypeObject*>Region).tp_dealloc = <destructor>_region_ends
    _end_cursor = <End>(<PyTypeObject*>CursorBase).tp_dealloc
    (<PyTypeObject*>CursorBase).tp_dealloc = <destructor>_cursor_ends
