# Many ranges at once: looked up, announced, and copied without the interpreter's lock. Included by fast.pyx.

import sys

from cpython.bytearray cimport PyByteArray_FromStringAndSize

cdef extern from *:
    """
    #include <errno.h>
    #include <stdint.h>
    #include <sys/syscall.h>
    #include <sys/uio.h>
    #include <time.h>
    #ifndef RWF_NOWAIT
    #define RWF_NOWAIT 8
    #endif

    /* Like pread, but only for bytes in memory; ENOSYS if the system cannot do that. */
    static ssize_t smmap_read_resident(int number, void *target, size_t size, long long offset) {
    #ifdef SYS_preadv2
        struct iovec into = {target, size};
        return syscall(SYS_preadv2, number, &into, 1, (long)offset, (long)((unsigned long long)offset >> 32), RWF_NOWAIT);
    #else
        errno = ENOSYS;
        return -1;
    #endif
    }

    /* Linux starts to read only so much for each call, or more, depending on the device (read_ahead_kb). */
    #define SMMAP_ANNOUNCED (128 << 10)

    /* Ask the system to start reading a range of a file: this is advice, and may fail. */
    static void smmap_announce(int number, long long offset, long long size) {
    #ifdef __APPLE__
        while (size > 0) {
            int part = size > (1 << 30) ? (1 << 30) : (int)size;
            struct radvisory range = {offset, part};
            fcntl(number, F_RDADVISE, &range);
            offset += part;
            size -= part;
        }
    #else
        while (size > 0) {
            long long part = size > SMMAP_ANNOUNCED ? SMMAP_ANNOUNCED : size;
            if (posix_fadvise(number, offset, part, POSIX_FADV_WILLNEED))
                return;
            offset += part;
            size -= part;
        }
    #endif
    }

    /* Whether the pages of a mapped range are in memory, if the system can say that. */
    static int smmap_is_resident(const char *start, size_t size, size_t page) {
        unsigned char pages[256];
        uintptr_t low = (uintptr_t)start & ~(uintptr_t)(page - 1), high = (uintptr_t)start + size;
        while (low < high) {
            size_t length = high - low > sizeof pages * page ? sizeof pages * page : high - low, each;
            if (mincore((void *)low, length, (void *)pages))
                return 1;
            for (each = 0; each < (length + page - 1) / page; each++)
                if (!(pages[each] & 1))
                    return 0;
            low += sizeof pages * page;
        }
        return 1;
    }

    static void smmap_announce_mapped(const char *start, const char *stop, size_t page) {
        uintptr_t low = (uintptr_t)start & ~(uintptr_t)(page - 1);
        while (low < (uintptr_t)stop) {
            uintptr_t part = (uintptr_t)stop - low > SMMAP_ANNOUNCED ? SMMAP_ANNOUNCED : (uintptr_t)stop - low;
            if (madvise((void *)low, part, MADV_WILLNEED))
                return;
            low += part;
        }
    }

    /* Fetch a byte into the caches that will be read soon. Any address may be given: this never faults. */
    static void smmap_prefetch(const char *at) {
    #ifdef __GNUC__
        __builtin_prefetch(at);
    #endif
    }

    static long long smmap_clock(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return now.tv_sec * 1000000000LL + now.tv_nsec;
    }
    """
    Py_ssize_t smmap_read_resident(int, void*, size_t, long long) noexcept nogil
    void smmap_announce(int, long long, long long) noexcept nogil
    bint smmap_is_resident(const char*, size_t, size_t) noexcept nogil
    void smmap_announce_mapped(const char*, const char*, size_t) noexcept nogil
    void smmap_prefetch(const char*) noexcept nogil
    long long smmap_clock() noexcept nogil

from libc.stdint cimport int16_t, int32_t, uint16_t, uint32_t, uint64_t

cdef bint _LITTLE = sys.byteorder == "little"
cdef long long _MOST = 0x7FFFFFFFFFFFFFFF
cdef long long _LEAST = -0x7FFFFFFFFFFFFFFF

cdef enum:
    AHEAD = 1 << 25  # bytes announced before they are read: more might be dropped before the read
    NEAR = 1 << 10  # bytes: ranges at most this long and this far apart are read by one call
    TOGETHER = 1 << 16  # bytes read by one call for several ranges
    CALLS = 1 << 10  # between two looks at signals
    SURE_COLD = 3  # ranges in a row that are not in memory: then most of the ranges after them are announced unasked
    ASKED = 8  # one of so many of these is asked for all the same
    PREFETCHED = 4  # mapped ranges before they are copied: to wait for a distant page takes as long as to copy 2 KiB
    FEW = 96  # ranges at most that are sorted by insertion
    PROBES = 4  # mapped ranges whose pages are looked up before a batch is copied
    SLOW = 30000  # nanoseconds that a few copies from memory never take, plus one per byte


cdef struct Span:
    long long start  # in the buffer
    long long size
    Py_ssize_t number  # of the range
    long long at  # in the range
    Py_ssize_t file


cdef struct Piece:
    long long start  # in the file
    char* target
    Py_ssize_t size
    Py_ssize_t number  # of its range
    const char* source  # where it is mapped, or NULL
    const char* edge  # the region's: see guard.h
    PyObject* region  # a reference to the region there
    bint waited  # it was not in memory


cdef struct Group:
    Py_ssize_t file
    Py_ssize_t first  # of the spans
    Py_ssize_t last
    Piece* pieces  # the mapped ones, then the others in file order
    Py_ssize_t* left  # the announced ones of the others
    Py_ssize_t count
    Py_ssize_t mapped
    Py_ssize_t copied  # number of mapped ones
    Py_ssize_t told  # number of them that were announced, or are resident
    Py_ssize_t tried  # number of pieces that were tried or announced
    Py_ssize_t announced  # in `left`
    Py_ssize_t done  # in `left`
    bint memory  # its regions are copies in memory
    bint cold  # not all mapped pieces are in memory
    bint unknown  # the system cannot say what is in memory


cdef inline int _take(Piece* piece) except -1 nogil:
    """Copy mapped bytes; an error if they are no longer there."""
    cdef int found = smmap_copy(piece.target, piece.source, piece.size, piece.edge)
    if found != SMMAP_READ:
        with gil:
            (<Region>piece.region).settle(found, piece.start, piece.start + piece.size)
    return 0


cdef struct Inside:
    const long long* starts  # in the buffer
    Py_ssize_t count
    Py_ssize_t copied
    Py_ssize_t size  # of each range
    const char* source  # the address of the buffer's start; only the ranges are certain to be in the region
    const char* edge  # of the region
    char* target
    bint memory  # the region is a copy in memory
    bint cold  # copying took so long that not all ranges can be in memory


cdef bint _inside_is_warm(Inside* inside) noexcept nogil:
    """Like `Batch.is_warm`."""
    cdef Py_ssize_t each = 0, step = max(inside.count // PROBES, 1)
    while each < inside.count and not inside.memory:
        if not smmap_is_resident(inside.source + inside.starts[each], inside.size, _PAGE):
            return False
        each += step
    return True


cdef int _copy_inside(Inside* inside) noexcept nogil:
    """Like `Batch.copy`; return what `smmap_copy` found if it could not copy the next range."""
    cdef Py_ssize_t since = 0, size = 0
    cdef long long now, then = 0 if inside.memory else smmap_clock()
    cdef const char* next
    cdef int found
    while inside.copied < inside.count and size < LONGEST:
        if inside.copied + PREFETCHED < inside.count:
            next = inside.source + inside.starts[inside.copied + PREFETCHED]
            smmap_prefetch(next)
            smmap_prefetch(next + inside.size - 1)
        found = smmap_copy(
            inside.target + inside.copied * inside.size,
            inside.source + inside.starts[inside.copied],
            inside.size,
            inside.edge,
        )
        if found != SMMAP_READ:
            return found
        inside.copied += 1
        size += inside.size
        if not (inside.memory or inside.copied & 7):
            now = smmap_clock()
            if now - then > SLOW + size - since:
                inside.cold = True
                break
            then = now
            since = size
    return SMMAP_READ


cdef struct Sorted:
    uint64_t key
    Py_ssize_t place


cdef void _sort(Sorted* keys, Sorted* spare, Py_ssize_t count) noexcept nogil:
    """Sort by insertion, or by digits of eight bits: comparisons of numbers in random order are expensive."""
    cdef Py_ssize_t each, one
    cdef uint64_t differing = 0
    cdef int shift
    cdef Py_ssize_t places[256]
    cdef Py_ssize_t at, size
    cdef Sorted key
    cdef Sorted* source = keys
    cdef Sorted* target = spare
    if count <= FEW:
        for each in range(1, count):
            one = each
            key = keys[each]
            while one and keys[one - 1].key > key.key:
                keys[one] = keys[one - 1]
                one -= 1
            keys[one] = key
        return
    for each in range(1, count):
        differing |= keys[each].key ^ keys[0].key
    if not differing:
        return
    shift = __builtin_ctzll(differing)
    while shift < 64 and differing >> shift:
        memset(places, 0, sizeof(places))
        for each in range(count):
            places[source[each].key >> shift & 255] += 1
        at = 0
        for each in range(256):
            size = places[each]
            places[each] = at
            at += size
        for each in range(count):
            one = source[each].key >> shift & 255
            target[places[one]] = source[each]
            places[one] += 1
        source, target = target, source
        shift += 8
    if source is not keys:
        memcpy(keys, source, count * sizeof(Sorted))


cdef int _in_order(Piece* pieces, Py_ssize_t count) except -1:
    """Sort pieces: mapped ones by address, others by their offset in the file."""
    cdef Sorted* keys
    cdef Piece* moved
    cdef Py_ssize_t each
    cdef bint by_address = count > 0 and pieces[0].source is not NULL
    for each in range(1, count):
        if pieces[each - 1].start > pieces[each].start:
            break
    else:
        return 0
    keys = <Sorted*>malloc(2 * count * sizeof(Sorted))
    moved = <Piece*>malloc(count * sizeof(Piece))
    if keys is NULL or moved is NULL:
        free(keys)
        free(moved)
        raise MemoryError
    with nogil:
        for each in range(count):
            keys[each].key = <size_t>pieces[each].source if by_address else <uint64_t>pieces[each].start
            keys[each].place = each
        _sort(keys, keys + count, count)
        memcpy(moved, pieces, count * sizeof(Piece))
        for each in range(count):
            pieces[each] = moved[keys[each].place]
    free(keys)
    free(moved)
    return 0


cdef Py_ssize_t _run(Piece* pieces, Py_ssize_t* chosen, Py_ssize_t at, Py_ssize_t last, long long* stop) noexcept nogil:
    """Where the pieces stop that one call reads with the one at `at`, and where that call stops in the file."""
    cdef Piece* piece = &pieces[chosen[at] if chosen is not NULL else at]
    cdef long long start = piece.start, end = piece.start + piece.size
    if piece.size <= NEAR:
        while at + 1 < last:
            piece = &pieces[chosen[at + 1] if chosen is not NULL else at + 1]
            if piece.size > NEAR or piece.start > end + NEAR or piece.start + piece.size - start > TOGETHER:
                break
            end = max(end, piece.start + piece.size)
            at += 1
    stop[0] = end
    return at + 1


cdef Py_ssize_t _fill_from(int number, char* target, long long start, Py_ssize_t size, bint watched, int* code) except -2 nogil:
    """Read all of a range, unless the file ends before; return the bytes read, or -1 and a code."""
    cdef Py_ssize_t done = 0, count
    while done < size:
        code[0] = 0
        count = -1
        if watched:
            with gil:
                code[0] = _refused("pread", number, size - done, start + done)
        if not code[0]:
            count = pread(number, target + done, size - done, start + done)
            code[0] = errno if count < 0 else 0
        if code[0] == EINTR:
            with gil:
                PyErr_CheckSignals()
            continue
        if count < 0:
            return -1
        if count == 0:
            break
        done += count
    return done


@cython.final
@cython.no_gc_clear
cdef class Batch:
    """Ranges of several buffers, which are read together."""

    cdef Span* spans  # by file
    cdef Group* groups  # one for each file that has ranges
    cdef Py_ssize_t count  # of ranges
    cdef Py_ssize_t parts  # spans
    cdef Py_ssize_t room
    cdef Py_ssize_t files  # groups
    cdef readonly Py_ssize_t wrong
    cdef readonly Py_ssize_t failed
    cdef readonly long long total
    cdef long long size  # of each range, or -1
    cdef char* base
    cdef char** targets
    cdef long long* places
    cdef list found
    cdef list accesses
    cdef dict notes  # of a trace, by file
    cdef Py_buffer target
    cdef bint filled  # `target` is held
    cdef long long ahead  # bytes announced, and not read yet
    cdef char* scratch
    cdef Py_ssize_t missed  # ranges in a row that were not in memory, or were not asked for after such ones

    def __cinit__(self, sizes, which, starts, stops, long long size, long long unit=0):
        """Ranges of buffers of these `sizes`, given by `starts` and `stops` or one size: see `__init__.py`."""
        cdef long long* first = NULL
        cdef long long* last = NULL
        cdef long long* of = NULL
        cdef long long* lengths = NULL
        cdef Py_ssize_t count = 0, each, file, files
        cdef long long start, length, most = -1
        self.wrong = self.failed = -1
        self.size = size if stops is None else -1
        try:
            first = _numbers_of(starts, &self.count)
            if stops is not None:
                last = _numbers_of(stops, &count)
                if count != self.count:
                    raise ValueError("starts and stops differ in number")
            if which is not None:
                of = _numbers_of(which, &count)
                if count != self.count:
                    raise ValueError("which and starts differ in number")
            lengths = _numbers_of(sizes, &files)
            self.room = self.count
            self.spans = <Span*>malloc((self.room + 1) * sizeof(Span))
            if self.spans is NULL:
                raise MemoryError
            if unit and files and size <= lengths[files - 1]:
                most = (lengths[files - 1] - size) // unit
            for each in range(self.count):
                file = of[each] if of is not NULL else 0
                start = first[each]
                if unit:
                    if not 0 <= start <= most:
                        self.wrong = each
                        return
                    if files == 2:  # one buffer, and where it stops
                        self.add(0, start * unit - lengths[0], size, each, 0)
                    else:
                        self.add_joined(lengths, files - 1, start * unit, each)
                    continue
                if not 0 <= file < files:
                    self.wrong = each
                    return
                length = lengths[file]
                if last is not NULL:
                    _clip(&first[each], &last[each], length)
                    self.add(file, first[each], last[each] - first[each], each, 0)
                elif start < 0 or size > length or start > length - size:
                    self.wrong = each
                    return
                else:
                    self.add(file, start, size, each, 0)
            self.group()
        finally:
            free(first)
            free(last)
            free(of)
            free(lengths)

    cdef inline int add(self, Py_ssize_t file, long long start, long long size, Py_ssize_t number, long long at) except -1:
        """A range, or its part in one buffer."""
        cdef Span* span
        if self.total > _MOST - size:
            raise MemoryError
        if self.parts == self.room:
            self.make_room()
        span = &self.spans[self.parts]
        span.start = start
        span.size = size
        span.number = number
        span.at = at
        span.file = file
        self.parts += 1
        self.total += size
        return 0

    cdef int make_room(self) except -1:
        """Make room for more spans."""
        cdef Py_ssize_t room = 2 * self.room + 8
        cdef Span* bigger = <Span*>realloc(self.spans, (room + 1) * sizeof(Span))
        if bigger is NULL:
            raise MemoryError
        self.spans = bigger
        self.room = room
        return 0

    cdef int add_joined(self, long long* borders, Py_ssize_t files, long long start, Py_ssize_t number) except -1:
        """A range of all buffers joined, which start at these borders."""
        cdef Py_ssize_t low = 0, high = files, middle
        cdef long long at = 0, part
        while high - low > 1:
            middle = (low + high) // 2
            if borders[middle] <= start:
                low = middle
            else:
                high = middle
        while at < self.size:
            part = min(self.size - at, borders[low + 1] - start - at)
            if part:
                self.add(low, start + at - borders[low], part, number, at)
            at += part
            low += 1
        return 0

    cdef int group(self) except -1:
        """Group the parts by buffer."""
        cdef Sorted* keys
        cdef Span* moved
        cdef Py_ssize_t each, files = 1
        cdef bint sorts = False
        for each in range(1, self.parts):
            if self.spans[each].file != self.spans[each - 1].file:
                files += 1
                sorts = sorts or self.spans[each].file < self.spans[each - 1].file
        if sorts:
            keys = <Sorted*>malloc(2 * self.parts * sizeof(Sorted))
            moved = <Span*>malloc((self.room + 1) * sizeof(Span))
            if keys is NULL or moved is NULL:
                free(keys)
                free(moved)
                raise MemoryError
            for each in range(self.parts):
                keys[each].key = self.spans[each].file
                keys[each].place = each
            _sort(keys, keys + self.parts, self.parts)
            for each in range(self.parts):
                moved[each] = self.spans[keys[each].place]
            free(keys)
            free(self.spans)
            self.spans = moved
        self.groups = <Group*>calloc(files, sizeof(Group))
        if self.groups is NULL:
            raise MemoryError
        for each in range(self.parts):
            if not each or self.spans[each].file != self.spans[each - 1].file:
                self.groups[self.files].file = self.spans[each].file
                self.groups[self.files].first = each
                self.files += 1
            self.groups[self.files - 1].last = each + 1
        self.accesses = [None] * self.files
        return 0

    def __dealloc__(self):
        cdef Py_ssize_t file
        if self.filled:
            self.filled = False
            PyBuffer_Release(&self.target)
        if self.groups is not NULL:
            for file in range(self.files):
                self.let_go(&self.groups[file])
        free(self.spans)
        free(self.groups)
        free(self.targets)
        free(self.places)
        free(self.scratch)

    cdef void let_go(self, Group* group) noexcept:
        """Release what a group refers to. May run Python code, so it comes last."""
        cdef Piece* pieces = group.pieces
        cdef Py_ssize_t each, mapped = group.mapped
        group.pieces = NULL
        group.mapped = group.count = 0
        free(group.left)
        group.left = NULL
        if pieces is not NULL:
            for each in range(mapped):
                Py_DECREF(<object>pieces[each].region)
            free(pieces)

    def __len__(self):
        return self.count

    @staticmethod
    def takes(list given not None):
        """Whether all items of a list, which nobody changes meanwhile, are ints, and not of a derived class."""
        cdef Py_ssize_t place
        for place in range(len(given)):
            if not PyLong_CheckExact(given[place]):
                return False
        return True

    @staticmethod
    def at_hand(BufferBase buffer not None, offsets, size, out):
        """Copy ranges of one buffer from one region that has them all; None if the case is not that simple.

        After None, make a batch: it raises the right error if an argument is wrong, and counts the ranges, which this did not.
        """
        cdef Access access = buffer.now()
        cdef Inside inside
        cdef Region region
        cdef PyObject* found = NULL
        cdef Py_buffer view
        cdef long long* starts = NULL
        cdef long long low, high, length
        cdef Py_ssize_t each
        cdef bint filled = False
        if not access.opened or not access.table.count or access.counts.traced or not PyLong_CheckExact(size):
            return None
        length = _number(size)
        if not 0 < length <= access.size or length > LONGEST:
            return None
        try:
            starts = _numbers_of(offsets, &inside.count)
        except (TypeError, ValueError, BufferError):
            return None  # another kind of argument, or a wrong one
        try:
            if not inside.count or inside.count > _MOST // length:
                return None
            low = high = starts[0]
            for each in range(1, inside.count):
                if starts[each] < low:
                    low = starts[each]
                if starts[each] > high:
                    high = starts[each]
            if low < 0 or high > access.size - length:
                return None
            if out is None:
                out = PyByteArray_FromStringAndSize(NULL, inside.count * length)
            try:
                PyObject_GetBuffer(out, &view, PyBUF_WRITABLE)
            except (TypeError, ValueError, BufferError):
                return None  # as above
            filled = True
            if view.len != inside.count * length:
                return None
            low += access.offset
            high += access.offset + length
            smmap_lock(&access.counts.mutex)
            found = access.hit(low, high)
            if found is not NULL:
                access.idle.hits -= 1  # counted below, once all are copied
                if not smmap_hold(found):
                    found = NULL
            smmap_unlock(&access.counts.mutex)
            if found is NULL:
                return None
            region = <Region>smmap_held(found)  # keeps the map until the end
            inside.starts = starts
            inside.size = length
            inside.source = region.base + (access.offset - region.start)
            inside.edge = region.edge
            inside.target = <char*>view.buf
            inside.copied = 0
            inside.memory = region.reads
            inside.cold = False
            if region.spoiled or not _inside_is_warm(&inside):
                return None
            while inside.copied < inside.count:
                if length * inside.count < LARGE:
                    each = _copy_inside(&inside)
                else:
                    with nogil:
                        each = _copy_inside(&inside)
                    PyErr_CheckSignals()
                if each != SMMAP_READ:
                    low = starts[inside.copied] + access.offset
                    region.settle(each, low, low + length)
                    inside.copied += 1
                if inside.cold:
                    return None
            if region.spoiled:
                return None
            smmap_lock(&access.counts.mutex)
            access.idle.hits += inside.count
            smmap_unlock(&access.counts.mutex)
            return out
        finally:
            if filled:
                PyBuffer_Release(&view)
            free(starts)

    def chosen(self):
        """The numbers of the buffers that have ranges."""
        cdef Py_ssize_t each
        return [self.groups[each].file for each in range(self.files)]

    def fresh(self):
        """A bytearray of `total` bytes to fill, with arbitrary content."""
        return PyByteArray_FromStringAndSize(NULL, self.total)

    def into(self, target, places=None):
        """Read the ranges into this buffer: of `total` bytes, one after the other; or each to its place."""
        cdef Py_ssize_t count, each
        cdef Span* span
        PyObject_GetBuffer(target, &self.target, PyBUF_WRITABLE)
        self.filled = True
        if places is not None:
            self.places = _numbers_of(places, &count)
            if count != self.count:
                raise ValueError("places and starts differ in number")
            for each in range(self.parts):
                span = &self.spans[each]
                if not 0 <= self.places[span.number] <= self.target.len - span.size:
                    raise ValueError("a place outside of the target")
        elif self.size < 0 or self.target.len != self.count * self.size:
            raise ValueError("a target of another size")
        self.base = <char*>self.target.buf

    def close(self):
        """Release the target."""
        self.base = NULL
        if self.filled:
            self.filled = False
            PyBuffer_Release(&self.target)

    def each(self):
        """Read the ranges into bytes objects: see `results`."""
        cdef Py_ssize_t place
        cdef Span* span
        self.targets = <char**>malloc((self.count + 1) * sizeof(char*))
        if self.targets is NULL:
            raise MemoryError
        self.found = [b""] * self.count
        for place in range(self.count):
            span = &self.spans[place]
            data = PyBytes_FromStringAndSize(NULL, span.size) if span.size else b""
            self.targets[span.number] = PyBytes_AS_STRING(data)
            self.found[span.number] = data

    def results(self):
        """The ranges, once everything is read."""
        found = self.found
        self.found = None
        return found

    cdef inline char* target_of(self, Span* span) noexcept:
        """The target of a range; NULL if it is only announced."""
        if self.targets is not NULL:
            return self.targets[span.number]
        if self.base is NULL:
            return NULL
        return self.base + span.at + (self.places[span.number] if self.places is not NULL else span.number * self.size)

    def where(self, Py_ssize_t number, Py_ssize_t file):
        """(start, stop) of a range, or of its part in the `file`-th chosen buffer, in its file."""
        cdef Py_ssize_t place
        cdef long long start = 0
        if self.accesses[file] is not None:
            start = (<Access>self.accesses[file]).offset
        for place in range(self.groups[file].first, self.groups[file].last):
            if self.spans[place].number == number:
                start += self.spans[place].start
                return start, start + self.spans[place].size
        raise IndexError(number)

    def quick(self, accesses):
        """Serve every range that needs neither the policy nor waiting; see `__init__.py`."""
        cdef Py_ssize_t file
        cdef Group* group
        cdef Descriptor descriptor
        cdef Access access
        cdef int left
        rest = []
        due = []
        for file in range(self.files):
            group = &self.groups[file]
            given = accesses[group.file]
            access = None if given is None else <Access?>given
            if access is None or not access.opened:
                rest.append((file, -1, None))
                continue
            left = self.serve_from(file, access)
            descriptor = access.file.descriptor
            if left == 2 and not (descriptor is None or access.client.flags) and descriptor.take():
                try:
                    self.announce_by(file, descriptor.own)
                finally:
                    descriptor.release()
                if self.reads() and group.tried == group.count and not group.announced and group.copied == group.mapped:
                    left = 0
            if not left:
                for start in self.settle_for(file):
                    due.append((access.client, start))
            else:
                rest.append((file, left, access.client))
        return rest, due

    def serve(self, Py_ssize_t file, Access access not None):
        """Copy a buffer's mapped ranges, or announce them. The result says which ranges remain: see `__init__.py`."""
        return self.serve_from(file, access)

    cdef int serve_from(self, Py_ssize_t file, Access access) except -1:
        cdef Group* group
        cdef Piece* piece
        cdef Piece swapped
        cdef Region region
        cdef bint held, absent
        cdef PyObject* found
        cdef Py_ssize_t each
        cdef long long mapped = 0
        if not 0 <= file < self.files or self.accesses[file] is not None:
            raise SystemError("no such buffer, or served already")
        if not access.opened:
            raise SystemError("a buffer that is not open")
        group = &self.groups[file]
        self.accesses[file] = access
        if access.counts.traced and self.reads():
            self.note(file, access)
        self.lay(group, access)
        group.memory = True
        for each in range(group.count if access.table.count or smmap_any_zeroed() else 0):
            piece = &group.pieces[each]
            smmap_lock(&access.counts.mutex)
            found = access.hit(piece.start, piece.start + piece.size)
            held = found is not NULL and smmap_hold(found)
            absent = found is NULL and access.table.at(access.number(piece.start), -1) is NULL and not smmap_any_zeroed()
            smmap_unlock(&access.counts.mutex)
            if absent:
                continue
            if not held:
                region = access.found(piece.start, piece.start + piece.size)
                if region is None:
                    continue
                found = <PyObject*>region
                Py_INCREF(region)
            if (<Region>found).spoiled:
                region = <Region>smmap_held(found)
                raise region.lost(piece.start, piece.start + piece.size)
            if each > group.mapped:
                swapped = piece[0]
                piece[0] = group.pieces[group.mapped]
                piece = &group.pieces[group.mapped]
                piece[0] = swapped
            piece.region = found
            piece.source = (<Region>found).base + (piece.start - (<Region>found).start)
            piece.edge = (<Region>found).edge
            group.mapped += 1
            mapped += piece.size
            group.memory = group.memory and (<Region>found).reads
            if each & 0xFFFF == 0xFFFF:
                PyErr_CheckSignals()
        group.tried = group.mapped
        if not self.reads():
            _in_order(group.pieces, group.mapped)
            with nogil:
                self.tell(group)
            group.copied = group.mapped
        elif group.mapped:
            if mapped < LARGE and self.is_warm(group):
                self.copy(group)
            else:
                with nogil:
                    group.cold = not self.is_warm(group)
                while group.copied < group.mapped and not group.cold:
                    with nogil:
                        self.copy(group)
                    PyErr_CheckSignals()
            if group.copied < group.mapped:
                _in_order(group.pieces + group.copied, group.mapped - group.copied)
                group.told = group.copied
                with nogil:
                    self.tell(group)
        return 2 if group.count > group.mapped else 1 if group.copied < group.mapped else 0

    cdef int note(self, Py_ssize_t file, Access access) except -1:
        """Let the trace note the ranges of a buffer that should be recorded."""
        cdef Py_ssize_t place
        cdef long long first
        cdef Span* span
        trace = access.ledger.trace
        if trace is None:  # it has just ended
            return 0
        found = []
        for place in range(self.groups[file].first, self.groups[file].last):
            span = &self.spans[place]
            first = span.start + access.offset
            if span.size and access.is_sampled(first):
                found.append((first, first + span.size))
        if found:
            if self.notes is None:
                self.notes = {}
            self.notes[file] = trace.before(access, COPY, found)
        return 0

    cdef inline bint reads(self) noexcept nogil:
        """Whether the ranges should be read, not only announced."""
        return self.base is not NULL or self.targets is not NULL

    cdef int lay(self, Group* group, Access access) except -1:
        """Cut a group's ranges at the ends of windows, and where a call would take long."""
        cdef Py_ssize_t place, room = group.last - group.first, made = 0
        cdef long long start, rest, count, size = access.size, offset = access.offset, window = access.window
        cdef char* target
        cdef Piece* bigger
        cdef Piece* piece
        cdef Span* span
        group.pieces = <Piece*>malloc((room + 1) * sizeof(Piece))
        if group.pieces is NULL:
            raise MemoryError
        for place in range(group.first, group.last):
            span = &self.spans[place]
            rest = span.size
            if rest > size or span.start > size - rest:
                raise SystemError("a range outside of its buffer")
            start = span.start + offset
            target = self.target_of(span)
            while rest > 0:
                if made == room:
                    room = 2 * room + 8
                    bigger = <Piece*>realloc(group.pieces, (room + 1) * sizeof(Piece))
                    if bigger is NULL:
                        raise MemoryError
                    group.pieces = bigger
                count = (access.number(start) + 1) * window - start  # up to the border of the window
                if count > rest:
                    count = rest
                if count > LONGEST:
                    count = LONGEST
                piece = &group.pieces[made]
                piece.start = start
                piece.target = target
                piece.size = count
                piece.number = span.number
                piece.source = piece.edge = NULL
                piece.region = NULL
                piece.waited = False
                made += 1
                start += count
                rest -= count
                if target is not NULL:
                    target += count
        group.count = made
        return 0

    cdef bint is_warm(self, Group* group) noexcept nogil:
        """Whether a few of the mapped pieces are in memory: checking each one would cost more than copying it."""
        cdef Py_ssize_t each = 0, step = max(group.mapped // PROBES, 1)
        if group.memory:
            return True
        while each < group.mapped:
            if not smmap_is_resident(group.pieces[each].source, group.pieces[each].size, _PAGE):
                return False
            each += step
        return True

    cdef int copy(self, Group* group) except -1 nogil:
        """Copy mapped pieces, for a while, or until that took so long that not all of them can be in memory."""
        cdef Piece* piece
        cdef Piece* next
        cdef Py_ssize_t size = 0, since = 0
        cdef long long now, then = 0 if group.memory else smmap_clock()
        while group.copied < group.mapped and size < LONGEST:
            piece = &group.pieces[group.copied]
            if group.copied + PREFETCHED < group.mapped:
                next = piece + PREFETCHED
                smmap_prefetch(next.source)
                smmap_prefetch(next.source + next.size - 1)
            _take(piece)
            group.copied += 1
            size += piece.size
            if not (group.memory or group.copied & 7):
                now = smmap_clock()
                if now - then > SLOW + size - since:
                    group.cold = True
                    return 0
                then = now
                since = size
        return 0

    cdef void tell(self, Group* group) noexcept nogil:
        """Announce the mapped pieces that are not in memory, as far as that makes sense."""
        cdef const char* low = NULL
        cdef const char* high = NULL
        cdef Piece* piece
        while group.told < group.mapped and (self.ahead < AHEAD or not self.reads()):
            piece = &group.pieces[group.told]
            group.told += 1
            self.ahead += piece.size
            if smmap_is_resident(piece.source, piece.size, _PAGE):
                continue
            if low is NULL or piece.source > high + _PAGE or piece.source < low:
                if low is not NULL:
                    smmap_announce_mapped(low, high, _PAGE)
                low = piece.source
                high = low
            high = max(high, piece.source + piece.size)
        if low is not NULL:
            smmap_announce_mapped(low, high, _PAGE)

    cdef int copy_told(self, Group* group) except -1 nogil:
        """Copy the announced pieces, and announce the next ones; return whether all are copied."""
        cdef Py_ssize_t until = group.copied + CALLS
        cdef long long size = 0
        cdef Piece* piece
        while group.copied < group.mapped and group.copied < until and size < LONGEST:
            if group.copied == group.told or (self.ahead < AHEAD // 2 and group.told < group.mapped):
                self.tell(group)
                if group.copied == group.told:  # others have announced so much
                    group.told += 1
                    self.ahead += group.pieces[group.copied].size
            piece = &group.pieces[group.copied]
            _take(piece)
            group.copied += 1
            self.ahead -= piece.size
            size += piece.size
        return group.copied == group.mapped

    def announce(self, Py_ssize_t file, int number):
        """Read by a descriptor the pieces that are in memory, and announce the others, as far as that makes sense."""
        self.announce_by(file, number)

    cdef int announce_by(self, Py_ssize_t file, int number) except -1:
        cdef Group* group = &self.groups[file]
        if not 0 <= file < self.files or group.pieces is NULL:
            raise SystemError("not served")
        self.begin(group)
        while True:
            with nogil:
                self.sweep(group, number)
            if self.reads() or group.tried == group.count:
                return 0
            PyErr_CheckSignals()

    cdef int begin(self, Group* group) except -1:
        """Sort the pieces that are not mapped."""
        cdef Py_ssize_t each, count = group.count - group.mapped
        if group.left is NULL:
            _in_order(group.pieces + group.mapped, count)
            group.left = <Py_ssize_t*>malloc((count + 1) * sizeof(Py_ssize_t))
            if group.left is NULL:
                raise MemoryError
        if self.scratch is NULL and self.reads():
            self.scratch = <char*>malloc(TOGETHER)
            if self.scratch is NULL:
                raise MemoryError
        return 0

    cdef void scatter(self, Group* group, Py_ssize_t* chosen, Py_ssize_t at, Py_ssize_t last, long long start) noexcept nogil:
        """Move the bytes that were read at once to the pieces' places."""
        cdef Piece* piece
        while at < last:
            piece = &group.pieces[chosen[at] if chosen is not NULL else at]
            memcpy(piece.target, self.scratch + (piece.start - start), piece.size)
            at += 1

    cdef void sweep(self, Group* group, int number) noexcept nogil:
        """Read the pieces that are in memory, and announce the others."""
        cdef Py_ssize_t last, count, calls = 0
        cdef long long start, stop, low = 0, high = -1, read = 0
        cdef Piece* piece
        cdef char* target
        cdef bint asks, cold
        while group.tried < group.count and (self.ahead < AHEAD or not self.reads()):
            if calls >= CALLS or read >= LONGEST:
                break
            last = _run(group.pieces, NULL, group.tried, group.count, &stop)
            piece = &group.pieces[group.tried]
            start = piece.start
            asks = self.reads() and not group.unknown
            cold = asks and self.missed >= SURE_COLD and self.missed % ASKED
            if cold:
                self.missed += 1
            elif asks:
                calls += 1
                target = piece.target if last == group.tried + 1 else self.scratch
                count = smmap_read_resident(number, target, stop - start, start)
                self.missed = 0 if count == stop - start else self.missed + 1
                if count == stop - start:
                    if target is self.scratch:
                        self.scatter(group, NULL, group.tried, last, start)
                    read += count
                    group.tried = last
                    continue
                if count < 0 and errno != EAGAIN and errno != EINTR:
                    group.unknown = True
                    asks = False
            if start > high + 1 or start < low:
                if high > low:
                    smmap_announce(number, low, high - low)
                low = start
                high = stop
            high = max(high, stop)
            self.ahead += stop - start
            if not self.reads():
                read += stop - start
            while group.tried < last:
                group.pieces[group.tried].waited = asks
                group.left[group.announced] = group.tried
                group.announced += 1
                group.tried += 1
        if high > low:
            smmap_announce(number, low, high - low)

    def read(self, Py_ssize_t file, int number=-1):
        """Copy and read the rest; return the number of a range that the file no longer has, or -1.

        If the system fails, `failed` is the range's number; the call may be tried again.
        """
        cdef Group* group = &self.groups[file]
        cdef bint watched = bool(_seams), done = False
        cdef int code
        cdef Py_ssize_t state
        if not 0 <= file < self.files or group.pieces is NULL:
            raise SystemError("not served")
        self.failed = -1
        while not done:
            with nogil:
                done = self.copy_told(group)
            PyErr_CheckSignals()
        if group.count == group.mapped or not self.reads():
            return -1
        self.begin(group)
        while group.done < group.announced or group.tried < group.count:
            code = 0
            with nogil:
                state = self.read_some(group, number, watched, &code)
            if state == -1:
                raise _error(code)
            if state == -3:
                return self.failed
            PyErr_CheckSignals()
        return -1

    cdef Py_ssize_t read_some(self, Group* group, int number, bint watched, int* code) except -2 nogil:
        """Read some of the announced pieces; -1 and a code if that fails, -3 if the file ends before."""
        cdef Py_ssize_t last, count, calls = 0
        cdef long long start, stop, read = 0
        cdef Piece* piece
        cdef char* target
        while calls < CALLS and read < LONGEST:
            if group.tried < group.count and (group.done == group.announced or self.ahead < AHEAD // 2):
                if group.done == group.announced and self.ahead >= AHEAD:
                    self.ahead = 0  # others have announced so much
                self.sweep(group, number)
                if group.done == group.announced:
                    return 0  # all of that was in memory
            if group.done == group.announced:
                return 0
            last = _run(group.pieces, group.left, group.done, group.announced, &stop)
            piece = &group.pieces[group.left[group.done]]
            start = piece.start
            target = piece.target if last == group.done + 1 else self.scratch
            self.failed = piece.number
            count = _fill_from(number, target, start, stop - start, watched, code)
            if count < 0:
                return -1
            if target is self.scratch:
                while group.done < last:
                    piece = &group.pieces[group.left[group.done]]
                    if piece.start + piece.size > start + count:
                        self.failed = piece.number
                        return -3
                    memcpy(piece.target, self.scratch + (piece.start - start), piece.size)
                    self.ahead -= piece.size
                    group.done += 1
            elif count < stop - start:
                return -3
            else:
                self.ahead -= count
                group.done = last
            self.failed = -1
            calls += 1
            read += count
        return 0

    def settle(self, Py_ssize_t file):
        """Count the reads, pay for them, and release everything; return the starts of windows to buy now.

        `FileChangedError` if zeros were mapped in the meantime into a region that was copied from.
        """
        return self.settle_for(file)

    cdef list settle_for(self, Py_ssize_t file):
        cdef Group* group = &self.groups[file]
        cdef Piece* piece
        cdef Access access
        cdef Py_ssize_t each
        cdef long long number, before = -1, price, patience
        cdef Rents rents
        if not 0 <= file < self.files or self.accesses[file] is None:
            raise SystemError("not served")
        access = self.accesses[file]
        due = []
        for each in range(group.mapped if self.reads() else 0):
            piece = &group.pieces[each]
            if (<Region>piece.region).spoiled:
                raise (<Region>piece.region).lost(piece.start, piece.start + piece.size)
        if self.reads() and group.count > group.mapped:
            access.ledger.open.used(access.file, group.count - group.mapped)
            rents = access.ledger.rents
            price = access.file.price
            patience = access.file.patience
            for each in range(group.mapped, group.count):
                piece = &group.pieces[each]
                number = access.number(piece.start)
                if not piece.waited and rents.pay(
                    access.serial + <unsigned long long>number, piece.size, price, patience, piece.start
                ):
                    if number != before:
                        due.append(number * access.window)
                    before = number
        self.let_go(group)
        note = None if self.notes is None else self.notes.pop(file, None)
        if note is not None:
            note()
        return due


cdef long long* _numbers_of(given, Py_ssize_t* count) except NULL:
    """A private copy of integers, which nobody can change: from a buffer of any integer type, or a sequence of ints."""
    cdef Py_buffer view
    cdef long long* found = NULL
    cdef Py_ssize_t place
    cdef const char* format
    cdef int overflow
    if isinstance(given, list):
        if SMMAP_FREE_THREADED:
            given = (<list>given)[:]  # one that no other thread can change
        count[0] = len(given)
        found = <long long*>malloc((count[0] + 1) * sizeof(long long))
        if found is NULL:
            raise MemoryError
        for place in range(count[0]):
            if place >= len(<list>given) or not PyLong_CheckExact((<list>given)[place]):
                free(found)
                raise TypeError("a list of int")
            found[place] = PyLong_AsLongLongAndOverflow((<list>given)[place], &overflow)
            if overflow:
                found[place] = _LEAST if overflow < 0 else _MOST
        return found
    PyObject_GetBuffer(given, &view, PyBUF_FORMAT | PyBUF_ND)
    try:
        format = view.format if view.format is not NULL else _BYTES
        if format[0] == b"@" or format[0] == b"=" or (format[0] == b"<" and _LITTLE):
            format += 1
        if view.ndim != 1 or format[0] == 0 or format[1] != 0 or memchr(b"bBhHiIlLqQnN", format[0], 12) is NULL:
            raise TypeError("not a row of integers")
        count[0] = view.len // view.itemsize
        found = <long long*>malloc((count[0] + 1) * sizeof(long long))
        if found is NULL:
            raise MemoryError
        if 97 <= format[0]:  # a lower-case letter: signed
            if view.itemsize == 8:
                memcpy(found, view.buf, view.len)
            elif view.itemsize == 4:
                for place in range(count[0]):
                    found[place] = (<int32_t*>view.buf)[place]
            elif view.itemsize == 2:
                for place in range(count[0]):
                    found[place] = (<int16_t*>view.buf)[place]
            else:
                for place in range(count[0]):
                    found[place] = (<signed char*>view.buf)[place]
        elif view.itemsize == 8:
            for place in range(count[0]):
                found[place] = <long long>min((<uint64_t*>view.buf)[place], <uint64_t>_MOST)
        elif view.itemsize == 4:
            for place in range(count[0]):
                found[place] = (<uint32_t*>view.buf)[place]
        elif view.itemsize == 2:
            for place in range(count[0]):
                found[place] = (<uint16_t*>view.buf)[place]
        else:
            for place in range(count[0]):
                found[place] = (<unsigned char*>view.buf)[place]
        return found
    finally:
        PyBuffer_Release(&view)


cdef void _clip(long long* start, long long* stop, long long size) noexcept:
    """A range, clipped as a slice is."""
    if start[0] < 0:
        start[0] = max(start[0] + size, 0) if start[0] > -size else 0
    if stop[0] < 0:
        stop[0] = max(stop[0] + size, 0) if stop[0] > -size else 0
    start[0] = min(start[0], size)
    stop[0] = max(min(stop[0], size), start[0])
