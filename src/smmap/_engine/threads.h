/* The replacement of the interpreter's lock where there is none: on free-threaded Python. Used by fast.pyx.

   With the interpreter's lock, everything here compiles to nothing, or to the plain operation. Without it:

   - One mutex per manager (in `Counts`) guards its tables, orders, counters and pins. It is held only briefly: under it
     no Python code runs, Python allocates nothing, no reference is dropped, and no other mutex is waited for. So
     a thread that holds it is never suspended by the interpreter, and a fork, which stops all threads first, finds it
     free.
   - Each `Order`, `Rents` and `Descriptor` has a mutex for its own data, and guard.h has one. A thread that holds that
     of an order or of guard.h may wait for the manager's mutex, but never the other way round. A thread may be
     suspended while it holds an order's: forks are safe since the policy changes orders under the manager's lock, which
     is taken before a fork.
   - A client (a buffer or a cursor) can be given another file, and with it the lock of another manager. So taking its
     lock means taking its present mutex, and then checking that it still has that one.
   - An object that is found by a borrowed pointer may be dying in another thread. A dying object removes itself, under
     the mutex, from where it is found, before any part of it is released, and before anything counts it as alive again.
     So under the mutex it can be inspected, and `smmap_hold` gives a reference unless it is dying.
   - The thread that made an object counts its own references, and those of other threads are counted separately: if
     another thread drops the last one, the owner has to finish the object. Regions must die at once, or limits would
     evict more and more: their references are counted in one place from the start (`smmap_share`). */

#ifndef SMMAP_THREADS_H
#define SMMAP_THREADS_H

#include <Python.h>

#ifdef Py_GIL_DISABLED

enum { SMMAP_FREE_THREADED = 1 };
typedef PyMutex smmap_mutex;
typedef struct { char bytes[64]; } smmap_gap; /* between data that different threads write */
#ifndef __SANITIZE_THREAD__
#define smmap_lock(mutex) PyMutex_Lock(mutex)
#define smmap_unlock(mutex) PyMutex_Unlock(mutex)
#else /* the sanitizer does not see what the interpreter does while a mutex is waited for */
#include <sched.h>
static void smmap_lock(smmap_mutex *mutex)
{
    while (__atomic_exchange_n(&mutex->_bits, 1, __ATOMIC_SEQ_CST))
        sched_yield();
}
#define smmap_unlock(mutex) __atomic_store_n(&(mutex)->_bits, 0, __ATOMIC_SEQ_CST)
#endif
#define smmap_publish() __atomic_thread_fence(__ATOMIC_RELEASE) /* earlier writes are seen before later ones */

/* Take a reference to a borrowed object, unless it is dying; return whether there is one. Under the mutex. */
static inline int smmap_hold(PyObject *thing)
{
#if PY_VERSION_HEX >= 0x030E0000
    return PyUnstable_TryIncRef(thing);
#else
    Py_ssize_t shared;
    if (_Py_atomic_load_uintptr_relaxed(&thing->ob_tid) == _Py_ThreadId()) {
        if (_Py_atomic_load_uint32_relaxed(&thing->ob_ref_local) == 0)
            return 0;
        Py_INCREF(thing);
        return 1;
    }
    shared = _Py_atomic_load_ssize_relaxed(&thing->ob_ref_shared);
    do
        if (shared == 0 || shared == _Py_REF_MERGED) /* 0: see smmap_watch */
            return 0;
    while (!_Py_atomic_compare_exchange_ssize(&thing->ob_ref_shared, &shared, shared + (1 << _Py_REF_SHARED_SHIFT)));
    return 1;
#endif
}

/* Allow other threads to call `smmap_hold` for this new object. */
static inline void smmap_watch(PyObject *thing)
{
#if PY_VERSION_HEX >= 0x030E0000
    PyUnstable_EnableTryIncRef(thing);
#else
    Py_ssize_t shared = _Py_atomic_load_ssize_relaxed(&thing->ob_ref_shared);
    while (!(shared & _Py_REF_SHARED_FLAG_MASK))
        if (_Py_atomic_compare_exchange_ssize(&thing->ob_ref_shared, &shared, shared | _Py_REF_MAYBE_WEAKREF))
            return;
#endif
}

/* The same, for an object that no other thread has seen yet; it also dies where its last reference is dropped. */
static inline void smmap_share(PyObject *thing)
{
    Py_ssize_t count = Py_REFCNT(thing);
    thing->ob_tid = 0; /* no owner: the shared count is then the only one */
    Py_SET_REFCNT(thing, count);
}

/* Whether a borrowed object may be inspected: under the mutex, always. */
#define smmap_lives(thing) 1

#else /* with the interpreter's lock */

enum { SMMAP_FREE_THREADED = 0 };
typedef struct { char unused; } smmap_mutex;
typedef struct { char unused; } smmap_gap;
#define smmap_lock(mutex) ((void)0)
#define smmap_unlock(mutex) ((void)0)
#define smmap_publish() ((void)0)
#define smmap_watch(thing) ((void)0)
#define smmap_share(thing) ((void)0)
#define smmap_lives(thing) (Py_REFCNT(thing) > 0)

static inline int smmap_hold(PyObject *thing)
{
    if (Py_REFCNT(thing) <= 0)
        return 0;
    Py_INCREF(thing);
    return 1;
}

#endif

/* The reference that `smmap_hold` took, as an owned one. */
#define smmap_held(thing) ((PyObject *)(thing))

#endif
