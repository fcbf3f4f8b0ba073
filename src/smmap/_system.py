"""Every system call that smmap makes, and where platforms and interpreters differ. Knows nothing of windows.

All other modules call `status`, `open_file`, `status_of`, `read_at`, `map_at` through this module, so a test can make
any of them fail in one place.
"""

from __future__ import annotations

import errno
import gc
import mmap
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Union

__all__ = [
    "FREE_THREADED",
    "GONE",
    "KEEPS_DESCRIPTORS",
    "MAP_LOOKS",
    "PYPY",
    "RECLAIMS_LATE",
    "REFUSALS",
    "TRACKS_DESCRIPTOR",
    "UNMAPPABLE",
    "Descriptor",
    "Where",
    "advice_for",
    "called",
    "check_flags",
    "code_of",
    "collect_garbage",
    "handle_limits",
    "is_readable",
    "is_shared",
    "map_at",
    "name_of",
    "named",
    "open_file",
    "read_at",
    "span_of",
    "status",
    "status_of",
]

Where = Union[str, bytes, int]
"""Where a file is found: an absolute path, or a descriptor of the user's."""

PYPY = sys.implementation.name == "pypy"
FREE_THREADED = "free-threading" in sys.version
RECLAIMS_LATE = PYPY or FREE_THREADED
"""Whether an object may live on for a while after its last reference went."""

WINDOWS = os.name == "nt"
_HAS_PREAD = hasattr(os, "pread")
KEEPS_DESCRIPTORS = _HAS_PREAD and not WINDOWS
"""Whether files can be read at an offset by a descriptor kept open (on Windows an open one blocks deletion)."""

MAP_LOOKS = not PYPY and not WINDOWS
"""Whether making a map looks at the file's size itself, and refuses what lies beyond: CPython asks `fstat` there."""

REFUSALS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
"""What the system says when it has run out: letting something go may help."""

GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EBADF})
"""What opening gives where a file was deleted, or a descriptor closed, since it was examined."""

UNMAPPABLE = frozenset({errno.ENODEV, errno.EPERM, errno.EACCES, errno.EINVAL})
"""What a correctly aligned map of a readable file gives where the file system cannot map at all."""

_OPENING = os.O_RDONLY | sum(
    getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NONBLOCK", "O_NOCTTY", "O_BINARY", "O_NOINHERIT")
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_EXCL
_REOPENS = sys.platform == "linux"
_LONGEST_READ = 1 << 30  # Linux reads at most 2 GiB - 4 KiB in one call


def _probe_trackfd() -> bool:
    try:
        mmap.mmap(-1, 1, trackfd=False).close()  # type: ignore[call-arg, unused-ignore]
    except TypeError:
        return True
    return False


TRACKS_DESCRIPTOR = _probe_trackfd()
"""Whether each map costs a descriptor (before Python 3.13, and on Windows)."""


def name_of(path: Any) -> str | bytes:
    """A path made absolute now, so that a later `chdir` does not lead it elsewhere; links and `..` stay as they are."""
    name: str | bytes = os.fspath(path)
    if not name:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    if os.path.isabs(name):
        return name
    if WINDOWS:
        return os.path.abspath(name)
    return os.path.join(os.getcwd(), name) if isinstance(name, str) else os.path.join(os.getcwdb(), name)


def called(where: Where) -> str | bytes:
    """What errors call the file."""
    return f"descriptor {where}" if isinstance(where, int) else where


def span_of(begin: int, end: int) -> str:
    """What errors call a byte range; nothing for an empty one."""
    return f"[{begin}, {end}): " if end > begin else ""


def named(error: OSError, where: Where, begin: int = 0, end: int = 0) -> OSError:
    """The system's error again, with the file's name and the range that was asked for; any other as it is."""
    if error.errno is None:  # what the handler of a signal raised, as TimeoutError
        return error
    return OSError(error.errno, f"{span_of(begin, end)}{error.strerror}", called(where))


def status(where: Where) -> os.stat_result:
    """`os.stat` of a path or descriptor."""
    return os.fstat(where) if isinstance(where, int) else os.stat(where)


def status_of(number: int) -> os.stat_result:
    """`os.fstat` of a descriptor of ours."""
    return os.fstat(number)


def open_file(where: Where, flags: int) -> Descriptor:
    """A descriptor of our own, read-only and not inherited: of the path, or of what the user's descriptor refers to.

    A duplicate of that would share its locks (`flock`), its flags (`O_DIRECT`) and its right to write, and keep them
    after the user closed it; Linux can open the same file anew. Whoever calls verifies what was opened.
    """
    if not isinstance(where, int):
        return _owned(map(os.open, (where,), (_OPENING | flags,)))
    if _REOPENS:
        try:
            return _owned(map(os.open, (f"/proc/self/fd/{where}",), (_OPENING | flags,)))
        except OSError as error:
            if error.errno in REFUSALS:
                raise
    return _owned(map(os.dup, (where,)))


def _owned(call: Iterator[int]) -> Descriptor:
    """The new descriptor that a call gives when it is made, which somebody owns before a signal's handler can raise."""
    descriptor = Descriptor()
    opened: list[int] = []
    descriptor.opened = opened
    opened.extend(call)  # calls and stores in one: no handler runs between
    descriptor.number = opened[0]
    descriptor.opened = ()
    return descriptor


def read_at(number: int, size: int, offset: int) -> bytes:
    """Up to `size` bytes at `offset`; fewer only where the file ends."""
    if not _HAS_PREAD:
        os.lseek(number, offset, os.SEEK_SET)  # only ever a descriptor that no one else uses
        return os.read(number, size)
    data = os.pread(number, size if size < _LONGEST_READ else _LONGEST_READ, offset)  # noqa: FURB136 - saves a call
    if len(data) == size:
        return data
    pieces = []
    while data:
        pieces.append(data)
        offset += len(data)
        size -= len(data)
        data = os.pread(number, min(size, _LONGEST_READ), offset) if size else b""
    return b"".join(pieces)


def map_at(number: int, size: int, offset: int, access: str = "normal") -> mmap.mmap:
    """A read-only map of `size` bytes at `offset`, which outlives the descriptor; `access` is advice to the system."""
    extra: dict[str, Any] = {} if TRACKS_DESCRIPTOR else {"trackfd": False}
    store = mmap.mmap(number, size, access=mmap.ACCESS_READ, offset=offset, **extra)
    advice = None if access == "normal" else getattr(mmap, f"MADV_{access.upper()}", None)
    if advice is not None:
        try:
            store.madvise(advice)
        except OSError:
            pass  # it was advice
    return store


def is_shared(store: object, unknown: bool) -> bool:
    """Whether an object is referred to by more than the one variable that the caller passed on; or `unknown`."""
    count = getattr(sys, "getrefcount", None)
    return unknown if count is None else count(store) > _REFERENCES_OF_ONE_CALLER


def _references_of_one_caller() -> int:
    def count(store: object) -> int:
        return sys.getrefcount(store)

    only = bytearray(1)
    return count(only) if hasattr(sys, "getrefcount") else 0


_REFERENCES_OF_ONE_CALLER = _references_of_one_caller()


def is_readable(number: int) -> bool:
    """Whether a descriptor of the user's was opened for reading."""
    try:
        import fcntl
    except ImportError:
        return True
    mode = fcntl.fcntl(number, fcntl.F_GETFL)
    return not mode & os.O_WRONLY and not mode & getattr(os, "O_PATH", 0)


def check_flags(flags: int) -> int:
    """`flags` for `os.open`, if they do not ask for more than reading; else `ValueError`."""
    if flags & _WRITING:
        raise ValueError(f"flags {flags:#o} ask for more than reading: smmap opens files read-only")
    return flags


def handle_limits() -> tuple[int, int]:
    """How many (maps, descriptors) a manager may use by default: at least half of each is left to the program."""
    maps, descriptors = 65530, 1 << 20
    try:
        with open("/proc/sys/vm/max_map_count", "rb") as file:
            maps = int(file.read())
    except (OSError, ValueError):
        pass
    try:
        import resource
    except ImportError:
        pass
    else:
        try:
            soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        except OSError:
            soft = resource.RLIM_INFINITY
        if soft != resource.RLIM_INFINITY:
            descriptors = soft
    return max(1, (min(maps, descriptors) if TRACKS_DESCRIPTOR else maps) // 2), descriptors // 4


_collecting = threading.RLock()


def collect_garbage() -> None:
    """`gc.collect()`, one thread after the other: while one collects, the call of another would return at once."""
    waited = _collecting.acquire(timeout=1)
    try:
        gc.collect()
    finally:
        if waited:
            _collecting.release()


def _after_fork_in_child() -> None:
    global _collecting
    _collecting = threading.RLock()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has none
    os.register_at_fork(after_in_child=_after_fork_in_child)


def code_of(error: OSError | MemoryError) -> int:
    """The number of a system's error; for a `MemoryError` that of the system's own, so that both are treated alike."""
    return error.errno or 0 if isinstance(error, OSError) else errno.ENOMEM


def advice_for(code: int) -> str:
    """Which limit of the system was hit, and how to raise it."""
    if code == errno.EMFILE:
        return "no descriptor is left to this process: raise RLIMIT_NOFILE (ulimit -n)"
    if code == errno.ENFILE:
        return "no descriptor is left in the system: raise the sysctl fs.file-max"
    if code == errno.EAGAIN:
        return "the system locks no more memory or a lease is on the file: raise RLIMIT_MEMLOCK (ulimit -l)"
    return "no map or address space is left: raise the sysctl vm.max_map_count or RLIMIT_AS (ulimit -v)"


class Descriptor:
    """A descriptor of our own, closed once.

    `readers` counts who reads from it now (under the manager's lock); `shared` says that it was ever kept, so that
    there may be several.
    """

    __slots__ = ("number", "opened", "readers", "shared")

    number: int
    opened: Sequence[int]
    """What is to become the number: see `_owned`."""

    def __init__(self) -> None:
        self.number = -1
        self.opened = ()
        self.readers = 0
        self.shared = False

    def close(self, _close: Any = os.close) -> None:
        """Close the number; harmless the second time."""
        number, self.number = self.number, -1
        if number >= 0:
            try:
                _close(number)
            except OSError:
                pass  # it is closed nevertheless, and nothing was written that could be lost

    @property
    def closes_itself(self) -> bool:
        """Whether its last reference closes it: who reads keeps one, so that nobody need say when it has read."""
        return self.shared and not PYPY

    def retire(self) -> None:
        """Be closed, once nobody reads, unless it closes itself."""
        if not self.closes_itself:
            self.close()

    def __del__(self) -> None:
        if getattr(self, "opened", ()) and self.number < 0:
            self.number = self.opened[0]
        if hasattr(self, "number"):  # a signal handler may have raised before it was
            self.close()
