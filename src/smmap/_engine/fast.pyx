# cython: language_level=3, binding=False, boundscheck=False, wraparound=False, initializedcheck=False
# cython: cdivision=True, freethreading_compatible=True, auto_pickle=False, embedsignature=True, embedsignature.format=clinic
"""The fast engine: the contract of `__init__.py`, compiled. Read `plain.py` first; what is the same is not repeated
here.

It is one module in several files, by subject, which are included at the end.

It rests on three ideas:

- A `Region` owns its map and is counted by C integers in `__dealloc__`. The table of a file has borrowed pointers to
  regions, which take themselves out when they die; the order of idle regions is a list whose links are in the regions.
- The interpreter's lock is the only one. Things that belong together are changed between two points at which that lock
  can be given up. Between them no Python code can run: there is no call of Python and no allocation of objects that the
  collector tracks (up to 3.11 that may run finalizers), and references are dropped last. Where there is no such lock,
  `smmap_lock` takes the manager's at the first of these points, and `smmap_unlock` releases it at the second: see
  threads.h.
- Borrowed pointers are not used after such a point. The object is looked up again, or held by a reference.

Every access is checked against the region itself, so a wrong record cannot lead to unmapped memory.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.buffer cimport (
    PyBUF_FORMAT, PyBUF_ND, PyBUF_SIMPLE, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.exc cimport PyErr_CheckSignals
from cpython.long cimport PyLong_CheckExact
from cpython.memoryview cimport PyMemoryView_FromObject
from cpython.number cimport PyNumber_AsSsize_t, PyNumber_Index
from cpython.object cimport PyObject, PyTypeObject, destructor
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF, Py_XINCREF
from cpython.slice cimport PySlice_AdjustIndices, PySlice_Check, PySlice_Unpack
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memchr, memcpy, memset, strlen

import mmap
from struct import Struct
from time import monotonic

from .._files import Status, lost
from .._system import OPENING, REFUSALS, code_of, named

__all__ = [
    "MAP_COSTS_DESCRIPTOR",
    "Access",
    "Batch",
    "BufferBase",
    "CursorBase",
    "Descriptor",
    "Ledger",
    "Order",
    "Region",
    "Table",
    "guard",
    "map_window",
    "notice",
    "open_file",
    "read_at",
    "read_window",
    "unchanged",
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
    /* Nanoseconds modulo 2**64, to compare: after the year 2262 there are more than 2**63. */
    static inline unsigned long long smmap_wrapped_ns(struct timespec when) {
        return (unsigned long long)when.tv_sec * 1000000000ULL + (unsigned long long)when.tv_nsec;
    }
    /* An own reference to a value of a dict, which another thread may remove; or NULL. */
    static inline PyObject *smmap_get(PyObject *dict, PyObject *key) {
        PyObject *found;
    #if PY_VERSION_HEX >= 0x030D0000
        PyDict_GetItemRef(dict, key, &found);
    #else
        found = PyDict_GetItemWithError(dict, key);
        Py_XINCREF(found);
    #endif
        return found;
    }
    static void *const smmap_failed = MAP_FAILED;
    static inline int smmap_empties(int advice) {  /* private memory, at once or in a child */
        int const all[] = {
            MADV_DONTNEED,
            24, /* MADV_DONTNEED_LOCKED, which older headers do not have */
        #ifdef MADV_FREE
            MADV_FREE,
        #endif
        #ifdef MADV_WIPEONFORK
            MADV_WIPEONFORK,
        #endif
        };
        for (size_t each = 0; each < sizeof all / sizeof *all; each++)
            if (all[each] == advice)
                return 1;
        return 0;
    }
    static inline unsigned int smmap_place_hash(unsigned int mark, long long place) {  /* as in _places.py */
        unsigned long long mixed = ((unsigned long long)mark << 32 ^ (unsigned long long)place) * 0x9E3779B97F4A7C15ULL;
        mixed = (mixed ^ mixed >> 32) * 0xD6E8FEB86659FD93ULL;
        return (unsigned int)((mixed ^ mixed >> 32) >> 8) & 0xFFFFFF;
    }
    static inline int smmap_has_weakrefs(PyObject *thing) {
        return *(PyObject **)((char *)thing + Py_TYPE(thing)->tp_weaklistoffset) != NULL;
    }
    #ifndef SMMAP_SOURCES
    #define SMMAP_SOURCES ""
    #endif
    """
    const char* SMMAP_SOURCES
    ctypedef struct stat_t "struct stat":
        unsigned long long st_dev
        unsigned long long st_ino
        long long st_size
    ctypedef struct PySliceObject:
        PyObject* start
        PyObject* stop
        PyObject* step
    ctypedef long off_t
    int PROT_READ, PROT_WRITE, MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS, MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, F_DUPFD_CLOEXEC
    void* smmap_failed
    unsigned int smmap_place_hash(unsigned int, long long) noexcept
    bint smmap_has_weakrefs(PyObject*) noexcept
    ctypedef struct timespec_t "struct timespec":
        long long tv_sec
        long tv_nsec
    timespec_t smmap_mtime(stat_t*) noexcept
    timespec_t smmap_ctime(stat_t*) noexcept
    unsigned long long smmap_wrapped_ns(timespec_t) noexcept
    bint smmap_empties(int) noexcept
    PyObject* smmap_get(dict, object) except? NULL
    void* c_mmap "mmap" (void*, size_t, int, int, int, off_t) noexcept nogil
    int munmap(void*, size_t) noexcept nogil
    int mprotect(void*, size_t, int) noexcept nogil
    int madvise(void*, size_t, int) noexcept nogil
    int open(const char*, int) noexcept nogil
    int close(int) noexcept nogil
    int fcntl(int, int, int) noexcept nogil
    int fstat(int, stat_t*) noexcept nogil
    int c_stat "stat" (const char*, stat_t*) noexcept nogil
    Py_ssize_t pread(int, void*, size_t, off_t) noexcept nogil
    const char* strerror(int) noexcept
    int __builtin_ctzll(unsigned long long) noexcept nogil
    unsigned long long PyLong_AsUnsignedLongLongMask(object) except? -1
    PyObject* Py_None
    object PyUnicode_EncodeFSDefault(object)
    int PySys_Audit(const char*, const char*, ...) except -1
    long long PyLong_AsLongLongAndOverflow(object, int*) noexcept

cdef extern from "threads.h":
    bint SMMAP_FREE_THREADED
    ctypedef struct smmap_mutex:
        pass
    ctypedef struct smmap_gap:
        pass
    void smmap_lock(smmap_mutex*) noexcept
    void smmap_unlock(smmap_mutex*) noexcept
    bint smmap_hold(PyObject*) noexcept
    bint smmap_lives(PyObject*) noexcept
    void smmap_watch(PyObject*) noexcept
    void smmap_share(PyObject*) noexcept
    object smmap_held(PyObject*)
    void smmap_publish() noexcept
    void PyObject_GC_UnTrack(PyObject*) noexcept

cdef extern from "guard.h":
    ctypedef struct smmap_slot "struct smmap_slot":
        pass
    int SMMAP_READ, SMMAP_DOUBT
    int smmap_copy(void*, const char*, size_t, const char*) noexcept nogil
    int smmap_copy_steps(char*, const char*, Py_ssize_t, Py_ssize_t, const char*) noexcept nogil
    int smmap_search(const char**, const char*, const char*, const char*, size_t, const char*) noexcept nogil
    int smmap_byte(const char*, const char*) noexcept nogil
    void smmap_install() noexcept
    smmap_slot* smmap_take_slot(char*, size_t, void*) noexcept
    void smmap_give_slot(smmap_slot*) noexcept
    bint smmap_any_zeroed() noexcept
    void smmap_start_taking() noexcept
    size_t smmap_take_zeroed(void**, size_t) noexcept
    void smmap_stop_taking() noexcept
    void smmap_after_fork() noexcept
    smmap_mutex smmap_slots

cdef enum:
    LARGE = 1 << 16  # copies of so many bytes give up the interpreter's lock
    LONGEST = 1 << 24  # bytes copied, read or searched between two looks at signals
    STEP = 1 << 20  # bytes read at once where a range is copied piece by piece
    BLOCK = 1 << 16  # bytes copied at once for a slice with a step
    AT_ONCE = 64  # such blocks, between two moments when other threads may run
    CLOSE = 1 << 9  # up to this step a block costs less than the bytes one by one
    SHIFT = 15  # this and the next two: as in _rents.py
    FOLLOWS = 1 << 17
    SURE = 4
    PLACE_SHIFT = 24  # as in _places.py
    GROWTH = 8  # places

cdef enum:
    COPY, VIEW, CURSOR  # kinds of reads, as in _places.py

MAP_COSTS_DESCRIPTOR = False
sources = (<bytes>SMMAP_SOURCES).decode()  # their digest: see _sources.py

cdef size_t _PAGE = mmap.PAGESIZE
cdef object _REFUSALS = REFUSALS
cdef int _OPENING = OPENING
cdef tuple _NOWHERE = (None, 0, 0)
cdef char* _BYTES = "B"
cdef char* _NOTHING = ""

include "fast_guard.pxi"
include "fast_regions.pxi"
include "fast_search.pxi"
include "fast_orders.pxi"
include "fast_files.pxi"
include "fast_clients.pxi"
include "fast_batches.pxi"
