"""Differences between platforms and interpreters, the limits of the system, and the meaning of its refusals.

Knows nothing of windows. The system calls on files are the engine's.
"""

from __future__ import annotations

import errno
import gc
import os
import sys
import threading
from typing import Any, NamedTuple, Union

__all__ = [
    "FREE_THREADED",
    "GONE",
    "KEEPS_DESCRIPTORS",
    "OPENING",
    "PYPY",
    "RECLAIMS_LATE",
    "REFUSALS",
    "SEARCHES_MAPS",
    "UNMAPPABLE",
    "WINDOWS",
    "HandleLimits",
    "Where",
    "advice_for",
    "called",
    "check_flags",
    "code_of",
    "collect_garbage",
    "handle_limits",
    "is_readable",
    "look_at",
    "named",
    "raised_by_handler",
    "release_all",
    "span_of",
]

Where = Union[str, bytes, int]
"""Where a file is found: an absolute path, or a descriptor of the user's."""

PYPY = sys.implementation.name == "pypy"
FREE_THREADED = "free-threading" in sys.version
RECLAIMS_LATE = PYPY or FREE_THREADED
"""Whether an object may live for a while after its last reference is gone."""

SEARCHES_MAPS = sys.version_info >= (3, 11, 5) and not PYPY
"""Whether buffers search maps by `mmap.find`. Before CPython 3.11.5 it can read past the end of the map, which kills
the process (python/cpython issue 105235). Before 3.11, and on PyPy, copying the bytes and searching them is faster."""

WINDOWS = os.name == "nt"
KEEPS_DESCRIPTORS = hasattr(os, "pread") and not WINDOWS
"""Whether files can be read at an offset by a cached descriptor (on Windows an open one blocks deletion)."""

NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE})
REFUSALS = NO_DESCRIPTOR | {errno.ENOMEM, errno.EAGAIN}
"""The system's errors when it has run out: evicting something may help."""

GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EBADF})
"""The errors of opening a file that was deleted, or a descriptor that was closed, since it was examined."""

UNMAPPABLE = frozenset(
    {
        *(errno.ENODEV, errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP),
        *(errno.EIO, errno.EOVERFLOW),  # of some files in /proc; past the largest offset that the system can map
    }
)
"""The errors of a correctly aligned map of a readable file if it cannot be mapped at all."""

OPENING = os.O_RDONLY | sum(
    getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NONBLOCK", "O_NOCTTY", "O_BINARY", "O_NOINHERIT")
)
"""The flags for opening files: O_NONBLOCK so that a pipe in a file's place cannot make the call wait."""

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_EXCL


def called(where: Where) -> str | bytes:
    """The name of the file in errors."""
    return f"descriptor {where}" if isinstance(where, int) else where


def span_of(start: int, stop: int) -> str:
    """A byte range as errors write it; empty for an empty one."""
    return f"[{start}, {stop}): " if stop > start else ""


def named(error: OSError | MemoryError, where: Where, start: int = 0, stop: int = 0) -> OSError | MemoryError:
    """The system's error with the file's name and the requested range; any other error as it is."""
    if not isinstance(error, OSError) or error.errno is None or error.filename is not None:
        return error  # a signal handler's `TimeoutError`, for example, has no number
    return OSError(error.errno, f"{span_of(start, stop)}{error.strerror}", called(where))


def is_readable(number: int) -> bool:
    """Whether a descriptor of the user's was opened for reading."""
    try:
        import fcntl
    except ImportError:
        return True
    mode = fcntl.fcntl(number, fcntl.F_GETFL)
    return not mode & os.O_WRONLY and not mode & getattr(os, "O_PATH", 0)


def look_at(where: Where) -> os.stat_result:
    """`os.stat` of a path, `os.fstat` of a descriptor."""
    try:
        return os.fstat(where) if isinstance(where, int) else os.stat(where)
    except SystemError as error:
        raise raised_by_handler(error) from None


def raised_by_handler(error: SystemError) -> BaseException:
    """A signal handler's exception in `os.stat`: if two signals arrive in one call, CPython 3.9 and 3.10 wrap it."""
    cause, error.__cause__ = error.__cause__, None  # otherwise the two would refer to each other
    return error if cause is None else cause


def check_flags(flags: int) -> int:
    """`flags` for `os.open`; `ValueError` if they ask for more than reading."""
    if flags & _WRITING:
        raise ValueError(f"flags {flags:#o} ask for more than reading: smmap opens files read-only")
    return flags


class HandleLimits(NamedTuple):
    """How many handles a manager may use: maps and cached descriptors together."""

    handles: int
    descriptors: int
    """How many of them may be cached descriptors."""
    hard: bool
    """Whether the user set the limit, and requests beyond `handles` are refused. If not, it only limits caching."""


def handle_limits(given: int, map_costs_descriptor: bool) -> HandleLimits:
    """The limits in force if the user gave `given` (sys.maxsize: none). At least half is then left to the program."""
    maps, descriptors = 65530, 1 << 20
    try:
        with open("/proc/sys/vm/max_map_count", "rb") as file:
            found = file.read().strip()
        maps = int(found) if found.isdigit() else maps
    except OSError as error:
        if error.errno is None:  # a signal handler raised it
            raise
    try:
        import resource
    except ImportError:
        pass
    else:
        try:
            soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        except OSError as error:
            if error.errno is None:  # as above
                raise
            soft = resource.RLIM_INFINITY
        if soft != resource.RLIM_INFINITY:
            descriptors = soft
    if given != sys.maxsize:
        return HandleLimits(given, descriptors // 4, True)
    return HandleLimits(
        max(1, (min(maps, descriptors) if map_costs_descriptor else maps) // 2), descriptors // 4, False
    )


def release_all(rlock: Any) -> None:
    """Release an `RLock` as often as this thread has taken it, if at all."""
    while rlock._is_owned():
        rlock.release()


_collecting: Any = threading.RLock()


def collect_garbage() -> None:
    """`gc.collect()`, one thread at a time: while one collects, another thread's call would return at once.

    Waits for a second at most: a finalizer that the other thread runs may wait for this one.
    """
    lock = _collecting
    if lock._is_owned():
        return  # in a finalizer, where it would do nothing
    try:
        if lock.acquire(timeout=1):
            with lock:
                lock.release()  # it is taken twice: only a `with` block releases it whatever happens
                gc.collect()
    finally:
        release_all(lock)  # a signal handler raised before the block began


def _after_fork_in_child() -> None:
    global _collecting
    _collecting = threading.RLock()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has none
    os.register_at_fork(after_in_child=_after_fork_in_child)


def code_of(error: OSError | MemoryError) -> int:
    """The number of the system's error. Python's own `MemoryError` counts as the system's ENOMEM.

    Python's own has no arguments. 0 for an error that a signal handler may have raised.
    """
    if isinstance(error, OSError):
        return error.errno or 0
    return 0 if error.args else errno.ENOMEM


def advice_for(code: int) -> str:
    """Which limit of the system was reached, and how to raise it."""
    if code == errno.EMFILE:
        return "no descriptor is left to this process: raise RLIMIT_NOFILE (ulimit -n)"
    if code == errno.ENFILE:
        return "no descriptor is left in the system: raise the sysctl fs.file-max"
    if code == errno.EAGAIN:
        return "the system cannot lock more memory, or there is a lease on the file: raise RLIMIT_MEMLOCK (ulimit -l)"
    return "no map or address space is left: raise the sysctl vm.max_map_count or RLIMIT_AS (ulimit -v)"
