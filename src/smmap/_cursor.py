"""The native client: points to one file, holds at most one region, gives zero-copy access to it."""

from __future__ import annotations

import sys
from operator import index
from typing import TYPE_CHECKING, Any

from ._errors import ClosedError
from ._file import Client
from ._manager import StaticWindowMapManager
from ._region import MapRegion, Store
from ._system import check_flags

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["WindowCursor"]

_NO_FLAGS = 0


class WindowCursor(Client):
    """Zero-copy access to one window at a time; made by `manager.make_cursor(path_or_fd)`.

    Belongs to one thread at a time. While it holds a region, that region stays mapped; `close`, `unuse_region`, the
    end of a `with` block or the garbage collector lets go. `WindowCursor(manager)` has no file until `assign`.
    """

    __slots__ = ("_begin", "_end", "_high", "_most", "_region")

    _region: MapRegion | None
    _begin: int
    _end: int
    _high: int
    """Up to where the region serves this cursor: its end, or the file's as it was when the cursor was made."""
    _most: int
    """The most bytes that a request may get."""

    def __init__(self, manager: StaticWindowMapManager | None = None) -> None:
        try:
            self._most = sys.maxsize if manager is None else manager._window or sys.maxsize
        except AttributeError:  # looking first would cost each new cursor
            raise TypeError(f"manager must be a window map manager or None, not {type(manager).__name__}") from None
        self._manager = manager
        self._file = self._given = self._region = None
        self._access = "normal"
        self._where = -1
        self._length = self._begin = self._end = self._high = 0

    def __repr__(self) -> str:
        span = f"[{self._begin}, {self._end})" if self._region is not None else "no region"
        return f"<{type(self).__name__} of {self._name()} {span}>"

    def __del__(self) -> None:
        try:
            region = self._region
        except AttributeError:  # a subclass did not get as far as our constructor
            return
        manager = self._manager
        if manager is not None:
            region = region or manager.untold(id(self))
            if region is not None:
                manager.leave(id(self), region)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __copy__(self) -> WindowCursor:
        copy = type(self)(self._manager)
        copy.assign(self)
        return copy

    def assign(self, rhs: WindowCursor) -> None:
        """Become a copy of another cursor: same file, same region, same range. Never touches the file."""
        if not isinstance(rhs, WindowCursor):
            raise TypeError(f"a WindowCursor is assigned from another one, not from {type(rhs).__name__}")
        if rhs is self:
            return
        self.unuse_region()
        self._adopt(rhs)
        self._most = rhs._most
        region = rhs._region
        if (
            region is not None
            and self._manager is not None
            and (self._manager.share(id(self), region) or rhs._is_lost())
        ):
            self._region, self._begin, self._end, self._high = region, rhs._begin, rhs._end, rhs._high

    def use_region(self, offset: int = 0, size: int = 0, flags: int = 0) -> WindowCursor:
        """Hold a region with `size` bytes from `offset` (bytes from the file's begin); returns the cursor itself.

        Exactly `min(size, window_size, file_size - offset)` bytes become accessible; with size 0 everything up to the
        end of the window, at least `min(window_size / 2, file_size - offset)`. At or past the end of the file the
        cursor lets go and is not valid. `flags` are added to those of `os.open`.

        O(1), no copy. Raises `FileChangedError` (the file was replaced or truncated), `LimitError` (no handle is left),
        `ClosedError`, or the system's error; the cursor then stays as it was.
        """
        if type(offset) is type(size) is int and flags is _NO_FLAGS:
            region = self._region
            end = offset + size
            if size:
                if (
                    region is not None
                    and region.begin <= offset < end <= self._high
                    and size <= self._most
                    and region.store is not None
                ):
                    self._begin = offset
                    self._end = end
                    return self
            elif region is not None and region.key == offset // self._most and region.store is not None:
                high = self._high
                if 0 <= offset < high and (
                    high == self._length or offset + self._most // 2 <= high == region.begin + self._most
                ):  # the window that the rule gives, mapped as far as it can be; as below, but gitdb asks so often
                    self._begin = offset
                    self._end = high
                    return self
            if 0 <= offset < self._length and size >= 0 and self._file is not None:
                most = self._most
                found = self._file.regions.get(offset // most)
                if found is not None:
                    length = self._length
                    high = found.end
                    if high > length:
                        high = length
                    if size:
                        if size > most:
                            end = offset + most
                        if end > length:
                            end = length
                        serves = end <= high
                    else:  # all of the window that the rule gives, if that is this one
                        end = high
                        serves = high == length or offset + most // 2 <= high == found.begin + most
                    if serves and (
                        (found is region and found.store is not None) or self._manager.change(id(self), region, found)  # type: ignore[union-attr]
                    ):
                        self._region = None  # nor a mixture of two, if a signal handler raises here: see `untold`
                        self._begin = offset
                        self._end = end
                        self._high = high
                        self._region = found
                        return self
            return self._move(offset, size, 0)
        return self._move(index(offset), index(size), check_flags(index(flags)))

    def _move(self, offset: int, size: int, flags: int) -> WindowCursor:
        manager, _ = self._needs()
        if offset < 0 or size < 0:
            raise ValueError(f"offset and size must not be negative: {offset}, {size}")
        if offset >= self._length:
            self.unuse_region()
            return self
        region = manager.hold(self, id(self), self._region, offset, size, flags)
        high = min(region.end, self._length)
        end = min(offset + min(size, self._most), high) if size else high
        self._region = None  # as above
        self._begin = offset
        self._end = end
        self._high = high
        self._region = region
        return self

    def unuse_region(self) -> None:
        """Let go of the region; any number of times."""
        region, self._region = self._region, None
        self._begin = self._end = self._high = 0
        manager = self._manager
        if manager is not None:
            region = region or manager.untold(id(self))
            if region is not None:
                manager.leave(id(self), region)
                manager.settle()

    def close(self) -> None:
        """Let go of region and file; any number of times. Views stay valid."""
        self.unuse_region()
        self._file = None

    _destroy = close

    def _held(self) -> MapRegion:
        if self._region is None:
            self._needs()
            raise ValueError(f"cursor of {self._name()} holds no region: call use_region() and check is_valid()")
        return self._region

    def _is_lost(self) -> bool:
        """Whether a thread evicted the region in the very moment in which it was taken: it is to be mapped again."""
        region, manager = self._region, self._manager
        return (
            region is not None
            and region.store is None
            and region.is_owned()
            and manager is not None
            and not manager._closed
        )

    def _found_again(self) -> MapRegion:
        """The region held, mapped again if it was lost."""
        region = self._held()
        if self._is_lost():
            manager, _ = self._needs()
            region = manager.hold(self, id(self), region, self._begin, self.size(), 0)
            high = min(region.end, self._length)
            self._region = None
            self._high = high
            self._region = region
        return region

    def _lent(self) -> MapRegion:
        """The region held, lent; lending takes the lock, so afterwards nobody evicts what is held."""
        self._held().lend()
        region = self._found_again()
        region.lend()
        return region

    def _released(self) -> ClosedError:
        return ClosedError(f"the map of {self._name()} was released with its manager or by hand: make a new cursor")

    def buffer(self) -> memoryview:
        """A read-only view of the accessible bytes, valid until you drop it, whatever happens. O(1), no copy."""
        region = self._region
        view = None if region is None else region.view
        if view is None:
            region = self._lent()
            view = region.view
            if view is None:
                raise self._released()
        begin = region.begin  # type: ignore[union-attr]
        return view[self._begin - begin : self._end - begin]

    def map(self) -> Store:
        """The region's `mmap` itself (bytes, where files are read instead): its index 0 is the region's begin."""
        region = self._region
        if region is None or region.lent is None:
            region = self._lent()
        store = region.store
        if store is None:
            raise self._released()
        return store

    def is_valid(self) -> bool:
        """Whether the cursor holds a region now."""
        region = self._region
        return region is not None and (region.store is not None or self._is_lost())

    def is_associated(self) -> bool:
        """Whether the cursor has a file."""
        return self._file is not None

    def ofs_begin(self) -> int:
        """Where the accessible bytes begin in the file, in bytes."""
        return self._begin

    def ofs_end(self) -> int:
        """Where the accessible bytes end in the file, in bytes."""
        return self._end

    def size(self) -> int:
        """How many bytes are accessible; 0 without a region."""
        return self._end - self._begin

    def includes_ofs(self, ofs: int) -> bool:
        """Whether the byte at `ofs` of the file is accessible now."""
        return self._begin <= ofs < self._end

    def region(self) -> MapRegion | None:
        """The region held, or None."""
        return self._found_again() if self._is_lost() else self._region

    def file_size(self) -> int:
        """The file's size in bytes when the cursor was made."""
        return self._length

    def path_or_fd(self) -> Any:
        """The very object that `make_cursor` was given."""
        return self._given

    def path(self) -> Any:
        """The path that `make_cursor` was given; `ValueError` if it was a descriptor."""
        if self._given is None or isinstance(self._given, int):
            raise ValueError(f"cursor of {self._name()} has no path")
        return self._given

    def fd(self) -> int:
        """The descriptor that `make_cursor` was given; `ValueError` if it was a path."""
        if not isinstance(self._given, int):
            raise ValueError(f"cursor of {self._name()} has no descriptor")
        return self._given


StaticWindowMapManager.WindowCursorCls = WindowCursor
