"""The public managers: arguments, reports, and the calls of users. Decisions are in _manager.py."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from . import _batches, _report, _system
from ._buffer import Advice, SlidingWindowMapBuffer
from ._cache import Stats, users_of
from ._cursor import WindowCursor
from ._engine import chosen as engine
from ._errors import ReentryError, refuse_state
from ._files import PathOrFd, key_at, names_of
from ._manager import Manager
from ._reader import BufferedFileReader, FileReader, open_reader
from ._report import RegionInfo
from ._sizes import size_of
from ._window import ALLOCATIONGRANULARITY, is_64_bit, round_window

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from typing_extensions import Self

__all__ = ["Backing", "Guard", "SlidingWindowMapManager", "StaticWindowMapManager"]

Backing = Literal["auto", "mmap", "read"]
Guard = Literal["copies", "views", "off"]

T = TypeVar("T")

_MIB = 1 << 20
_GIB = 1 << 30
_UNIT = 2 * ALLOCATIONGRANULARITY  # of windows
_LONGEST_WINDOW = sys.maxsize // _UNIT * _UNIT


class StaticWindowMapManager(Manager):
    """Maps whole files, each in one window, and unmaps the least recently used ones when a limit is reached.

    `window_size`: bytes in a window, rounded up to a multiple of twice the allocation granularity; 0: whole files;
    -1: 4 GiB (64 MiB on 32-bit systems, 8 MiB with backing="read"), but at most an eighth of `max_memory_size`.
    `max_memory_size`: bytes to keep mapped, unless cursors pin more; 0: 32 GiB (1 GiB on 32-bit systems and
    with backing="read"). `max_open_handles`: the most maps and cached descriptors at a time, a hard limit; if not
    given, half of what the system allows, as a target for caching. `backing`: "mmap" maps; "read" reads windows
    into memory (for network file systems and files that others may truncate); "auto" maps where the file system can,
    and reads elsewhere. Sizes are numbers of bytes, or text like "64M" or "1GiB".

    `guard`: the effect of reading bytes that are gone because another process truncated the file (fast engine only).
    "copies": every call that copies or searches (an index, a slice, `find`, `readinto`, file objects) raises
    `FileChangedError`; reading through a view kills the process with SIGBUS, as with `mmap`. "views": views read zeros
    there instead, the next call on any client of the file raises, and a `RuntimeWarning` is issued. "off": no SIGBUS
    handler is ever installed. The plain engine cannot guard: with it, "copies" is the same as "off", and "views" raises
    `ValueError`.

    Any number of threads may share a manager. The constructor opens and maps nothing.
    """

    def __init__(
        self,
        window_size: int | str = 0,
        max_memory_size: int | str = 0,
        max_open_handles: int | str = sys.maxsize,
        *,
        backing: Backing = "auto",
        guard: Guard = "copies",
    ) -> None:
        sizes = window_size, max_memory_size, max_open_handles = (
            min(size_of("window_size", window_size), _LONGEST_WINDOW),
            min(size_of("max_memory_size", max_memory_size), sys.maxsize),
            min(size_of("max_open_handles", max_open_handles), sys.maxsize),
        )
        if window_size < -1 or max_memory_size < 0 or max_open_handles < 1:
            raise ValueError(
                f"window_size must be at least -1, max_memory_size at least 0, max_open_handles at least 1, not {sizes}"
            )
        if backing not in ("auto", "mmap", "read"):
            raise ValueError(f'backing must be "auto", "mmap" or "read", not {backing!r}')
        if guard not in ("copies", "views", "off"):
            raise ValueError(f'guard must be "copies", "views" or "off", not {guard!r}')
        large = is_64_bit() and backing != "read"
        if window_size < 0:
            window_size = 4 * _GIB if large else 8 * _MIB if backing == "read" else 64 * _MIB
            if max_memory_size:
                window_size = min(window_size, max(max_memory_size // 8 // _UNIT * _UNIT, _UNIT))
        memory = max_memory_size or (32 * _GIB if large else _GIB)
        super().__init__(round_window(window_size), memory, max_open_handles, backing, guard)

    def __repr__(self) -> str:
        return f"<{_report.line(type(self).__name__, self.stats(), self._closed)}>"

    def _repr_html_(self) -> str:
        """For notebooks: counters, limits, and the largest regions."""
        return _report.html(type(self).__name__, self.stats(), self.regions(), self._closed)

    # The calls of users

    def make_cursor(self, path_or_fd: PathOrFd) -> WindowCursor:
        """A `WindowCursor` of a file (str, bytes, os.PathLike, or a descriptor, which stays yours). Maps nothing.

        Raises the system's error for a missing file, and `OSError` for anything but a regular file.
        """
        cursor: WindowCursor = self.WindowCursorCls._of(self._client(path_or_fd))
        return cursor

    def buffer(
        self, path_or_fd: PathOrFd, offset: int = 0, size: int | None = None, *, access: Advice = "normal"
    ) -> SlidingWindowMapBuffer:
        """A bytes-like buffer over a file on this manager: see `smmap.buffer`."""
        return SlidingWindowMapBuffer._of_path(self, path_or_fd, offset, size, access)

    @overload
    def open(self, path: PathOrFd, mode: Literal["rb", "br"] = "rb", *, buffering: Literal[0]) -> FileReader: ...  # type: ignore[overload-overlap]

    @overload
    def open(self, path: PathOrFd, mode: Literal["rb", "br"], buffering: Literal[0]) -> FileReader: ...  # type: ignore[overload-overlap]

    @overload
    def open(self, path: PathOrFd, mode: Literal["rb", "br"] = "rb", buffering: int = -1) -> BufferedFileReader: ...

    def open(
        self, path: PathOrFd, mode: Literal["rb", "br"] = "rb", buffering: int = -1
    ) -> FileReader | BufferedFileReader:
        """A file object over a file on this manager, for reading bytes: see `smmap.open`."""
        return open_reader(self, path, mode, buffering, "manager.open")

    @overload
    def gather(
        self, buffers: Sequence[SlidingWindowMapBuffer], which: Any, offsets: Any, size: int, out: None = None
    ) -> bytearray: ...

    @overload
    def gather(self, buffers: Sequence[SlidingWindowMapBuffer], which: Any, offsets: Any, size: int, out: T) -> T: ...

    def gather(
        self, buffers: Sequence[SlidingWindowMapBuffer], which: Any, offsets: Any, size: int, out: Any = None
    ) -> Any:
        """Like `buffer.gather`, for several buffers of this manager: range i is `size` bytes of `buffers[which[i]]`.

        Range i starts at `offsets[i]`; both are sequences of ints or integer arrays. Files are served in waves, as many
        at a time as there are handles, at most 64: all files of a wave are announced before the first is read, and each
        file is opened once. `ValueError` for a buffer of another manager.
        """
        for buffer in buffers:
            owner = buffer._access.client.manager
            if owner is not self and not (owner is None and buffer._default_manager() is self):
                raise ValueError(f"{buffer!r} belongs to another manager")
        return _batches.gather(buffers, which, offsets, size, out)

    def collect(self) -> int:
        """Evict every idle region and close every cached descriptor; return how many regions were evicted.

        Never raises, not even after `close`. Linear in what is evicted and closed.
        """
        count = self._drop(self._unload)
        for _ in range(2 if _system.PYPY else int(_system.RECLAIMS_LATE)):
            if self._cache.ledger.mapped:  # maybe only by garbage; PyPy runs finalizers first
                _system.collect_garbage()
                count += self._drop(self._unload)
        return count

    def release(self, path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> int:
        """Evict every idle region of the file at `path`, or of the files below that folder; return how many.

        A file is found by its identity and by the names under which it was recently opened, as they were written, even
        after it was deleted. Whole path components are compared; `path` itself counts both as written and with its
        links followed. Linear in the files that the manager knows.
        """
        return self._drop(self._release, names_of(path), key_at(path), False)

    def close(self) -> None:
        """Unmap everything, pinned regions too, and refuse further use. Views that you hold stay valid."""
        self._closed = self._cache.closed = self._cache.idle.crowded = True
        self._drop(self._unload)

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    __setstate__ = refuse_state

    def __reduce_ex__(self, _protocol: Any) -> Any:
        raise TypeError(f"a {type(self).__name__} is neither copied nor pickled: each process makes its own")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def stats(self) -> Stats:
        """Counters of mapped regions and of reads, and the limits. Linear in the mapped regions."""
        engine.notice()
        try:
            return self._lock.run(self._cache.stats, self._window)
        except ReentryError:
            return self._cache.stats(self._window)

    @property
    def hit_rate(self) -> float:
        """The fraction of reads that found their window mapped, since the start or `reset_stats`: from 0 to 1. O(1)."""
        return self._cache.hit_rate()

    def reset_stats(self) -> None:
        """Set hits, misses, evictions and cold reads to zero, and the peaks to what is mapped now. O(1).

        Mapped regions and their counters stay. Any thread may call it.
        """
        self._drop(self._cache.reset_stats)

    def regions(self) -> list[RegionInfo]:
        """The regions that are mapped now: a `RegionInfo` for each, sorted by file and start.

        The list is a snapshot: it keeps nothing mapped, and does not count as a use. O(n log(n)) for n regions; any
        thread may call it.
        """
        engine.notice()
        try:
            return self._lock.run(self._regions)
        except ReentryError:
            return self._regions()

    def trace(self, path: Any, *, rate: float = 1.0) -> Any:
        """Record which ranges of which files are read, until the `with` block ends, or until `close()` of the returned
        trace.

        `path`: the file to write (`smmap replay` reads it); a forked child writes another file, with its process id
        added to the name. `rate`: the share of places (16 MiB of a file each) that is recorded; it is halved each
        time a million reads or 65,536 files have been recorded, so that memory and file stay small. All cursors and
        buffers of the manager are recorded, even those made before; reads through a view or an array that you hold are
        not. While a trace runs, recorded reads cost microseconds more, and others cost nothing: see docs/evidence.md.

        Raises the system's error if the file cannot be written, `ValueError` if this manager is already traced.
        Any thread may call it.
        """
        from ._trace import Trace

        return Trace(path, self, rate)

    def _regions(self) -> list[RegionInfo]:
        found = [
            RegionInfo(self._files.name_of(region.file), region.start, region.stop, users_of(region), state, age)
            for region, state, age in self._cache.states()
        ]
        return sorted(found, key=lambda one: (os.fsdecode(one.file), one.start))

    def num_file_handles(self) -> int:
        """How many regions are mapped."""
        return self.stats().mapped

    def num_open_files(self) -> int:
        """How many files have mapped regions."""
        return self.stats().files

    def mapped_memory_size(self) -> int:
        """How many bytes are mapped."""
        return self.stats().mapped_memory

    def window_size(self) -> int:
        """Bytes in a window, after rounding; 0 means whole files."""
        return self._window

    def max_file_handles(self) -> int:
        """The limit of maps and cached descriptors that is in force."""
        return self._cache.limits.handles

    def max_mapped_memory_size(self) -> int:
        """The limit of mapped memory, in bytes."""
        return self._cache.max_memory

    def force_map_handle_removal_win(self, base_path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> None:
        """On Windows, close the maps at or below a path, even pinned ones, so that it can be deleted."""
        if _system.WINDOWS:
            self._drop(self._release, names_of(base_path), key_at(base_path), True)

    def _collect_lru_region(self, size: int) -> int:
        """Evict idle regions until `size` more bytes fit, or all for 0; return how many. smmap 5's tests call it."""
        return self._drop(self._cache.trim, None, size) if size else self._drop(self._unload)

    def _check(self) -> None:
        """Assert every invariant. For tests: linear in what is mapped."""
        self._lock.run(self._cache.check)


class SlidingWindowMapManager(StaticWindowMapManager):
    """Maps windows of files, and unmaps the least recently used ones when a limit is reached.

    The arguments are those of `StaticWindowMapManager`, except that the window size is by default the system's default.
    """

    def __init__(
        self,
        window_size: int | str = -1,
        max_memory_size: int | str = 0,
        max_open_handles: int | str = sys.maxsize,
        *,
        backing: Backing = "auto",
        guard: Guard = "copies",
    ) -> None:
        super().__init__(window_size, max_memory_size, max_open_handles, backing=backing, guard=guard)
