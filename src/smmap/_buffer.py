"""The bytes-like face of a file, or of a part of it: hides windows, holds no region.

A read that hits borrows: it takes a reference to a region's store, which nobody closes under it, and needs no lock.
What is not mapped is asked of the manager, one grid window at a time. `hot` on a region (see MapRegion) makes the hit
short: a buffer that is one whole region indexes its store behind a single test.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from operator import index
from typing import TYPE_CHECKING, Any, Callable, TypeVar

from . import _search, _system
from ._cursor import WindowCursor
from ._default import chosen
from ._errors import ClosedError, FileChangedError, LimitError, SmmapError
from ._file import Client
from ._manager import StaticWindowMapManager
from ._region import MapRegion, Store

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator

    from typing_extensions import Self

__all__ = ["SlidingWindowMapBuffer", "buffer"]

T = TypeVar("T")

_STEP = _search.STEP
_BLOCK = 1 << 16  # bytes copied at once in place of a window
_NO_REGION = MapRegion.nowhere()
_NOT_NEAR = (_NO_REGION, 0, 0, 0)

Grid = tuple[dict[Any, MapRegion], int, int, int]
"""All that a read needs to know, taken at once: the file's regions, the buffer's size, the window's, the offset."""

_CLOSED: Grid = {}, 0, 1, 0  # nothing can be read
_UNOPENED: Grid = {}, 0, 1, 0  # the same for a buffer made by `later`: the first read opens the file


class SlidingWindowMapBuffer(Client):
    """A read-only sequence of bytes that is a file, from `offset` on, `size` bytes of it at most.

    Index, slice, iteration, `in`, `==`, `find`, `rfind`, `index`, `rindex` and `count` answer as `bytes` would; index 0
    is the byte at `offset`; slices are always `bytes`, copied. Any number of threads may share a buffer.

    `ValueError` for a cursor without a file and an offset out of bounds. Without a cursor the buffer is empty until
    `begin_access(cursor)`. `smmap.buffer(path)` and `manager.buffer(path)` need no cursor.

    A buffer over a path pickles small; it opens again at the first read, on the default manager of the process that it
    came to, and raises `FileChangedError` if the file changed in between. All reads may raise `FileChangedError`,
    `LimitError`, `ClosedError` or the system's error.
    """

    __slots__ = (
        "__weakref__",
        "_cursor",
        "_flags",
        "_grid",
        "_mtime",
        "_near",
        "_offset",
        "_size",
        "_whole",
    )

    _cursor: WindowCursor | None
    _grid: Grid
    _mtime: int | None

    def __init__(
        self, cursor: WindowCursor | None = None, offset: int = 0, size: int = sys.maxsize, flags: int = 0
    ) -> None:
        self._manager = None
        self._file = None
        self._given = None
        self._cursor = None
        self._access = "normal"
        self._where = -1
        self._length = self._offset = self._size = self._flags = 0
        self._mtime = None
        self._whole = _NO_REGION
        self._near = _NOT_NEAR
        self._grid = _CLOSED
        if cursor is None:
            return
        _check_cursor(cursor)
        cursor._needs()
        if not self.begin_access(cursor, offset, size, flags):
            raise ValueError(f"offset {offset} is out of bounds: {self._name()} has {self._length} bytes")

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"[{self._offset}, {self._offset + self._size})"
        return f"<{type(self).__name__} of {self._name()} {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # Access as smmap 5 has it

    def begin_access(
        self, cursor: WindowCursor | None = None, offset: int = 0, size: int = sys.maxsize, flags: int = 0
    ) -> bool:
        """Start on the cursor's file, or again on the same file; False, and empty, if that is not possible.

        `offset` and `size` are in bytes; an offset at the end is out of bounds, but for 0 of an empty file. The first
        window is mapped at once. The cursor stays yours.
        """
        offset, size, flags = index(offset), index(size), _system.check_flags(index(flags))
        if offset < 0 or size < 0:
            raise ValueError(f"offset and size must not be negative: {offset}, {size}")
        _check_cursor(cursor)
        if cursor is None and self._grid is _UNOPENED:
            self._ready()
        self.end_access()
        if cursor is not None:
            if not cursor.is_associated():
                return False
            self._adopt(cursor)
            self._cursor = None
        if self._manager is None or self._file is None or (offset >= self._length and (offset or self._length)):
            return False
        self._flags = flags
        if flags:
            self._manager.try_opening(self)
        if size and self._length:
            try:
                self._manager.window_at(self, offset)
            except LimitError:
                if not _system.KEEPS_DESCRIPTORS:  # else it is read without a map, until there is room for one
                    raise
        self._start(offset, size)
        return True

    def end_access(self) -> None:
        """Stop: the buffer is empty and closed until `begin_access`; any number of times. Views stay valid."""
        self._mtime = None  # a thread that opens the buffer just now finds that, and closes it again
        self._grid = _CLOSED
        self._whole = _NO_REGION
        self._near = _NOT_NEAR
        self._size = 0
        if self._cursor is not None:
            self._cursor.unuse_region()

    close = end_access

    @property
    def closed(self) -> bool:
        """Whether nothing can be read until `begin_access`."""
        return self._grid is _CLOSED

    def cursor(self) -> WindowCursor | None:
        """A cursor of the buffer's own, holding a region at its offset until `end_access`; None without a file."""
        if self._grid is _UNOPENED:
            self._ready()
        if self._cursor is None and self._manager is not None:
            self._cursor = self._manager.WindowCursorCls(self._manager)
            self._cursor._adopt(self)
        if self._cursor is not None and not self.closed and not self._cursor.is_valid():
            self._cursor.use_region(self._offset, 0, self._flags)
        return self._cursor

    @classmethod
    def of_path(
        cls, manager: StaticWindowMapManager, path_or_fd: Any, offset: int, size: int | None, access: str
    ) -> Self:
        """A buffer without a cursor; nothing is mapped before the first read. See `buffer`."""
        offset, size = index(offset), sys.maxsize if size is None else index(size)
        if offset < 0 or size < 0:
            raise ValueError(f"offset and size must not be negative: {offset}, {size}")
        _check_access(access)
        new = cls()
        manager.associate(new, path_or_fd)
        if offset > new._length:
            raise ValueError(f"offset {offset} is out of bounds: {new._name()} has {new._length} bytes")
        new._access = access
        manager.try_opening(new)
        new._start(offset, size)
        return new

    def __copy__(self) -> Self:
        new = type(self)()
        new._adopt(self)
        new._offset, new._size, new._mtime, new._flags = self._offset, self._size, self._mtime, self._flags
        new._grid = self._grid
        return new

    def __deepcopy__(self, _memo: Any) -> Self:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        if self.closed or isinstance(self._where, int):
            self._ready()
            raise TypeError(f"a buffer over a descriptor cannot be pickled, only one over a path: {self._name()}")
        mtime = self._mtime if self._file is None else self._file.mtime
        flags = (self._flags,) if self._flags else ()
        state = self._where, self._offset, self._size, self._length, mtime, self._access, *flags
        return _unpickled, (type(self), *state)

    @classmethod
    def later(
        cls,
        manager: StaticWindowMapManager | None,
        path: str | bytes,
        offset: int,
        size: int,
        length: int,
        mtime: int,
        access: str = "normal",
        flags: int = 0,
    ) -> Self:
        """A buffer that opens its file at the first read, and only if it is still `length` bytes long and that old.

        `mtime` is in nanoseconds, `flags` are added to those of `os.open`; without a manager it is the process's
        default one. Nothing is touched before.
        """
        if not isinstance(path, (str, bytes)):
            raise TypeError(f"path must be str or bytes, not {type(path).__name__}")
        if not 0 <= index(offset) <= index(offset) + index(size) <= index(length) or size < 0:
            raise ValueError(f"{size} bytes at {offset} do not lie in a file of {length} bytes")
        _check_access(access)
        new = cls()
        new._manager = manager
        new._given = new._where = path
        new._offset, new._size, new._length, new._mtime = offset, size, length, index(mtime)
        new._access = access
        new._flags = _system.check_flags(index(flags))
        new._grid = _UNOPENED
        return new

    def _open(self) -> None:
        """Open the file that `later` named, if it is still the same; any thread may come first."""
        mtime = self._mtime
        if mtime is None:  # closed meanwhile
            return
        client = Client()
        client._access = self._access
        chosen(self._manager).associate(client, self._where)
        _, file = client._needs()
        if (client._length, file.mtime) != (self._length, mtime):
            what = f"{client._length} bytes now, {self._length} then"
            if client._length == self._length:
                what = "it was written to, or is another file of the same size"
            raise FileChangedError(f"changed since the buffer was made or pickled ({what}): make it anew", self._where)
        given = self._given
        self._adopt(client)
        self._given = given
        if self._flags:
            self._needs()[0].try_opening(self)
        self._start(self._offset, self._size)
        if self._mtime is None:
            self.end_access()

    def _start(self, offset: int, size: int) -> None:
        """Let reads begin."""
        manager, file = self._needs()
        self._offset = offset
        self._size = size = min(size, self._length - offset)
        self._grid = file.regions, size, manager._window or max(self._length, 1), offset

    def _ready(self) -> Grid:
        """What reads go by; `ClosedError` if nothing can be read. A buffer made by `later` opens its file now."""
        if self._grid is _UNOPENED:
            self._open()
        grid = self._grid
        if grid is _CLOSED:
            self._needs()
            raise self._closed_error()
        return grid

    def _must_be(self, grid: Grid) -> None:
        """`ClosedError` if another thread closed the buffer, or gave it another file, since a read took this grid.

        What is found by one grid is of one file. Reads that ask the manager, or take several steps, look at their end.
        """
        now = self._grid
        if now[0] is not grid[0] or now[1:] != grid[1:]:  # the same, if two threads opened it at once: see `_open`
            raise self._swapped()

    def _swapped(self) -> ClosedError:
        return ClosedError(f"{type(self).__name__} of {self._name()} was closed or begun anew meanwhile")

    # As bytes

    def __len__(self) -> int:
        return self._size

    def __bytes__(self) -> bytes:
        return self._slice(slice(None))

    def __getitem__(self, key: int | slice) -> Any:
        store = self._whole.hot
        if store is not None:
            try:
                return store[key]
            except (ValueError, OverflowError):  # PyPy: evicted and closed meanwhile; or what is told below:
                pass  # a step of 0, an index far out of range
        region, low, high, base = self._near
        if type(key) is int:
            if low <= key < high:
                store = region.hot
                if store is not None:
                    try:
                        return store[key - base]
                    except ValueError:
                        pass
            regions, size, window, offset = self._grid
            if 0 <= key < size:
                position = key + offset
                found = regions.get(position // window)
                if found is not None:
                    store = found.hot
                    if store is None:
                        store = self._manager.note(found)  # type: ignore[union-attr]
                    else:
                        self._stay(found)
                    if store is not None:
                        try:
                            return store[position - found.begin]
                        except (ValueError, IndexError):  # or a window clipped before the file grew
                            store = None  # else it would count as lent when another takes its place
                return self._copy(key, key + 1)[0]
            return self._from_end(key)
        if type(key) is slice:
            start, stop = key.start, key.stop
            if type(start) is int and type(stop) is int and key.step is None:
                if low <= start < stop <= high:
                    store = region.hot
                    if store is not None:
                        try:
                            return store[start - base : stop - base]
                        except ValueError:
                            pass
                grid = regions, size, window, offset = self._grid
                if 0 <= start < stop <= size:
                    position, end = start + offset, stop + offset
                    number = position // window
                    found = regions.get(number)
                    if found is None:
                        if end <= (number + 1) * window:
                            data = self._manager.fetch(self, None, number, position, end)  # type: ignore[union-attr]
                            if self._grid is not grid:
                                self._must_be(grid)
                            return data
                    elif end <= found.end:  # as `_piece` does it, without the call
                        store = found.hot
                        if store is None:
                            store = self._manager.note(found)  # type: ignore[union-attr]
                        else:
                            self._stay(found)
                        if store is not None:
                            base = found.begin
                            try:
                                return store[position - base : end - base]
                            except ValueError:
                                store = None
                    return self._copy(start, stop)
            return self._slice(key)
        return self[int(index(key))]  # index() of a subclass may be of the subclass

    def _from_end(self, key: int) -> Any:
        """The byte at an index that counts from the end, or that is out of range."""
        grid = self._ready()
        size = grid[1]
        if not -size <= key < size:
            raise IndexError(f"index {key} is out of range: the buffer has {size} bytes")
        byte = self[key % size]
        if self._grid is not grid:
            self._must_be(grid)
        return byte

    def _slice(self, key: slice) -> bytes:
        grid = self._ready()
        start, stop, step = key.indices(grid[1])
        data = self._copy(start, stop) if step == 1 else self._copy_steps(range(start, stop, step))
        if self._grid is not grid:
            self._must_be(grid)
        return data

    def _copy_steps(self, chosen: range) -> bytes:
        """A copy of the bytes at these places, each window's at once."""
        backwards = chosen.step < 0
        if backwards:
            chosen = chosen[::-1]
        pieces = []
        while chosen:
            store, begin, end = self._window_at(chosen[0])
            here = chosen[: -(-(end - chosen[0]) // chosen.step)]
            chosen = chosen[len(here) :]
            try:
                pieces.append(store[here[0] - begin : here[-1] - begin + 1 : here.step])
            except ValueError:  # PyPy: evicted and closed meanwhile
                pieces.append(self._copy(here[0], here[-1] + 1)[:: here.step])
            del store  # else the window would count as lent when the next one needs its handle
        data = b"".join(pieces)
        return data[::-1] if backwards else data

    def _copy(self, start: int, stop: int) -> bytes:
        """A copy of [start, stop), which must lie in the buffer."""
        grid = _, size, window, offset = self._ready()
        if start >= stop:
            return b""
        if stop > size:
            raise self._swapped()
        position, end = start + offset, stop + offset
        border = position - position % window + window
        data = self._piece(grid, position, min(end, border))
        if border < end:
            pieces = [data]
            while border < end:
                position, border = border, border + window
                pieces.append(self._piece(grid, position, min(end, border)))
            data = b"".join(pieces)
        if self._grid is not grid:
            self._must_be(grid)
        return data

    def _piece(self, grid: Grid, begin: int, end: int) -> bytes:
        """A copy of [begin, end), offsets in the file that lie in one window."""
        regions, _, window, _ = grid
        number = begin // window
        found = regions.get(number)
        if found is not None and end <= found.end:
            store = found.hot
            if store is None:
                store = self._manager.note(found)  # type: ignore[union-attr]
            else:
                self._stay(found)
            if store is not None:
                base = found.begin
                try:
                    return store[begin - base : end - base]
                except ValueError:  # PyPy: evicted and closed meanwhile
                    del store
        return self._manager.fetch(self, found, number, begin, end)  # type: ignore[union-attr]

    def _stay(self, region: MapRegion) -> None:
        """The region is used twice in a row: be quick to find it the next time."""
        grid = regions, size, _, offset = self._grid
        base = region.begin - offset
        high = min(region.end - offset, size)
        self._near = region, max(base, 0), high, base
        if base == 0 and high == size == region.end - region.begin:
            self._whole = region
        if self._grid is not grid or regions.get(region.key) is not region:
            # another thread closed the buffer, or gave it another file, and had taken down what we put up again
            self._whole = _NO_REGION
            self._near = _NOT_NEAR

    # Zero-copy

    def view(self, start: int = 0, stop: int | None = None) -> memoryview:
        """A read-only view of `buffer[start:stop]`, of any length that the address space holds. O(1), no copy.

        It stays valid until you drop it, and counts as mapped until then.
        """
        region = self._whole
        if region.hot is not None:
            view = region.view
            if view is not None:
                return view[start:stop]
        region, low, high, base = self._near
        if type(start) is type(stop) is int:
            if low <= start < stop <= high and region.hot is not None:
                view = region.view
                if view is not None:
                    return view[start - base : stop - base]
            regions, size, window, offset = self._grid
            if 0 <= start < stop <= size:
                position, end = start + offset, stop + offset
                found = regions.get(position // window)
                if found is not None and end <= found.end:
                    if found.hot is None:
                        self._manager.note(found)  # type: ignore[union-attr]
                    else:
                        self._stay(found)
                    view = found.view
                    if view is not None:
                        base = found.begin
                        return view[position - base : end - base]
                return self._view_far(start, stop)
        grid = self._ready()
        start, stop, _ = slice(start, stop).indices(grid[1])
        view = self.view(start, stop) if start < stop else memoryview(b"")
        if self._grid is not grid:
            self._must_be(grid)
        return view

    def _view_far(self, start: int, stop: int) -> memoryview:
        """A view of [start, stop), which must lie in the buffer, from the manager."""
        grid = _, size, _, offset = self._ready()
        if stop > size:
            raise self._swapped()
        view = self._manager.view(self, start + offset, stop + offset)  # type: ignore[union-attr]
        if self._grid is not grid:
            self._must_be(grid)
        return view

    def iter_views(self, start: int = 0, stop: int | None = None, size: int = _STEP) -> Iterator[memoryview]:
        """Views of `buffer[start:stop]` one after the other, without a copy: none longer than `size` bytes, none across
        a window's border. Drop each before the next, and no more than one window need be mapped."""
        size = index(size)
        if size < 1:
            raise ValueError(f"size must be positive: {size}")
        grid = _, length, window, offset = self._ready()
        start, stop, _ = slice(start, stop).indices(length)
        while start < stop:
            border = (offset + start) // window * window + window - offset
            end = min(start + size, border, stop)
            view = self.view(start, end)
            if self._grid is not grid:
                self._must_be(grid)
            yield view
            del view  # else two windows would be mapped while the next one is made
            start = end

    def __buffer__(self, flags: int) -> memoryview:
        """A read-only view of the whole (PEP 688, Python 3.12 and later), from one window however long that must be."""
        if flags & 1:
            raise BufferError("smmap's buffers are read-only")
        return self.view()

    def __release_buffer__(self, view: memoryview) -> None:
        """Nothing; but numpy keeps what was exported, not only this object, where the type has this method."""

    def unpack_from(self, fmt: str | bytes, offset: int = 0) -> tuple[Any, ...]:
        """`struct.unpack_from(fmt, self, offset)`, copying no more than it needs; `struct.error` past the end."""
        import struct

        size = struct.calcsize(fmt)
        start = index(offset)
        _, length, _, _ = self._ready()
        if start < 0:
            start += length
        if not 0 <= start <= length - size:
            raise struct.error(f"unpack_from needs {size} bytes at {offset}: the buffer has {length} bytes")
        return struct.unpack(fmt, self._copy(start, start + size))

    def readinto(self, start: int, target: Any) -> int:
        """Fill a writable bytes-like object with the bytes from `start` on, as far as there are any; how many.

        One copy, from windows that are mapped straight into the target; cold ones are read as slices are. `start` is
        not negative. After an error the target may hold a part.
        """
        start = index(start)
        if start < 0:
            raise ValueError(f"start must not be negative: {start}")
        with memoryview(target) as given, given.cast("B") if given.nbytes else given as view:  # empty: has no cast
            if view.readonly:
                raise TypeError(f"target must be writable, not {type(target).__name__}")
            data = _Pass(self)
            regions, length, window, offset = data.grid
            count = max(min(view.nbytes, length - start), 0)
            done = 0
            while done < count:
                low = start + done
                number = (offset + low) // window
                high = min((number + 1) * window - offset, start + count)
                region = regions.get(number)
                if region is None or region.store is None or _system.RECLAIMS_LATE:  # a view might linger there
                    high = min(high, low + _STEP)
                    piece: bytes | memoryview = data.copy(low, high)
                else:
                    piece = data.view(low, high)
                view[done : done + high - low] = piece
                done += high - low
                del piece  # else two windows would be mapped while the next one is made
            return count

    def _lies_in_one_window(self, start: int) -> bool:
        """Whether [start, end of the buffer) does, or is empty."""
        _, size, window, offset = self._ready()
        return (offset + start) // window >= (offset + size - 1) // window

    def _window_at(self, start: int) -> tuple[Store | bytes, int, int]:
        """The store of the grid window at `start`, and where it begins and ends: offsets in the buffer.

        Where no handle is left, a copy of a part of that around `start` stands in.
        """
        grid = _, size, window, offset = self._ready()
        if start >= size:
            raise self._swapped()
        try:
            store, begin, end = self._manager.window_at(self, offset + start)  # type: ignore[union-attr]
        except LimitError:  # of handles; reading needs none
            block, number = start - start % _BLOCK, (offset + start) // window * window - offset
            low, high = max(block, number, 0), min(block + _BLOCK, number + window, size)
            return self._copy(low, high), low, high
        if self._grid is not grid:
            self._must_be(grid)
        return store, begin - offset, end - offset

    # Going through and searching

    def __iter__(self) -> Iterator[int]:
        data = _Pass(self)
        return (byte for start in range(0, data.size, _STEP) for byte in data.piece(start))

    def __reversed__(self) -> Iterator[int]:
        data = _Pass(self)
        return (byte for start in reversed(range(0, data.size, _STEP)) for byte in reversed(data.piece(start)))

    def __contains__(self, sub: Any) -> bool:
        if hasattr(sub, "__index__"):
            try:
                sub = index(sub)  # what is a number and bytes-like is a number to `in`, and bytes-like to `find`
            except Exception:
                pass
        return self.find(sub) >= 0

    def __eq__(self, other: object) -> bool:
        if isinstance(other, SlidingWindowMapBuffer):
            return len(other) == self._size and (not self._size or self._equals(_Pass(other)))
        try:
            view = memoryview(other)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return NotImplemented
        with view:
            if view.ndim != 1 or view.itemsize != 1 or len(view) != self._size:
                return False
            return not self._size or self._equals(view)

    def _equals(self, other: _Pass | memoryview) -> bool:
        data = _Pass(self)
        pieces = ((start, data.piece(start)) for start in range(0, data.size, _STEP))
        return all(
            piece == (other[start : start + _STEP] if isinstance(other, memoryview) else other.piece(start))
            for start, piece in pieces
        )

    __hash__ = None  # type: ignore[assignment]  # as for bytearray: what is equal would have to hash alike

    def find(self, sub: Any, start: int | None = None, end: int | None = None) -> int:
        """The lowest index in [start, end) at which `sub` (bytes-like, or an int) is found, across windows; or -1.

        O(end - start), without copying the windows.
        """
        data = _Pass(self)
        needle, start, end = data.bounds(sub, start, end)
        if not needle:
            return start if start <= end else -1
        return _search.find(data, needle, start, end)

    def rfind(self, sub: Any, start: int | None = None, end: int | None = None) -> int:
        """The highest index in [start, end) at which `sub` is found, across windows; or -1. See `find`."""
        data = _Pass(self)
        needle, start, end = data.bounds(sub, start, end)
        if not needle:
            return end if start <= end else -1
        return _search.rfind(data, needle, start, end)

    def index(self, sub: Any, start: int | None = None, end: int | None = None) -> int:
        """Like `find`, but `ValueError` if `sub` is not found."""
        return self._found(self.find(sub, start, end))

    def rindex(self, sub: Any, start: int | None = None, end: int | None = None) -> int:
        """Like `rfind`, but `ValueError` if `sub` is not found."""
        return self._found(self.rfind(sub, start, end))

    def count(self, sub: Any, start: int | None = None, end: int | None = None) -> int:
        """How often `sub` is found in [start, end) without overlapping. O(end - start), copies piece by piece."""
        data = _Pass(self)
        needle, start, end = data.bounds(sub, start, end)
        if not needle:
            return max(end - start + 1, 0)
        return _search.count(data, needle, start, end)

    def finditer(self, pattern: bytes | re.Pattern[bytes], max_match: int = 1 << 16) -> Iterator[_search.Match]:
        """The matches of a regular expression, as `re.finditer` finds them, without one big map.

        `max_match` must be larger than the longest match in bytes, what it looks ahead or behind included. A longer
        match may be missed; `ValueError` where one would have been cut. O(len), copies piece by piece; memory in
        proportion to `max_match`. Each match is as `re.Match`, its offsets are in the buffer.
        """
        max_match = index(max_match)
        if max_match < 1:
            raise ValueError(f"max_match must be positive: {max_match}")
        data = _Pass(self)
        return _search.finditer(data, pattern, data.size, max_match)

    @staticmethod
    def _found(place: int) -> int:
        if place < 0:
            raise ValueError("subsection not found")
        return place


class _Pass:
    """One way through a buffer: each step is of the file, offset and size that it began with, or a `ClosedError`."""

    __slots__ = ("_buffer", "grid", "size")

    def __init__(self, buffer: SlidingWindowMapBuffer) -> None:
        self._buffer = buffer
        self.grid = buffer._ready()
        self.size = self.grid[1]

    def _check(self) -> None:
        if self._buffer._grid is not self.grid:
            self._buffer._must_be(self.grid)

    def copy(self, start: int, stop: int) -> bytes:
        """A copy of [start, stop)."""
        return self._step(self._buffer._copy, start, stop)

    def view(self, start: int, stop: int) -> memoryview:
        """A view of [start, stop)."""
        return self._step(self._buffer.view, start, stop)

    def window_at(self, start: int) -> tuple[Store | bytes, int, int]:
        """The store of the grid window at `start`, and where it begins and ends."""
        return self._step(self._buffer._window_at, start)

    def _step(self, read: Callable[..., T], *args: int) -> T:
        try:
            found = read(*args)
        except SmmapError:
            self._check()  # of the other file, it means nothing
            raise
        self._check()
        return found

    def piece(self, start: int) -> bytes:
        """A copy of what follows `start`, no more than one step of it."""
        return self.copy(start, min(start + _STEP, self.size))

    def bounds(self, sub: Any, start: int | None, end: int | None) -> tuple[bytes, int, int]:
        """The needle, and the bounds as `bytes.find` takes them: a start past the end stays there."""
        size = self.size
        if isinstance(sub, SlidingWindowMapBuffer):
            needle = sub[:]
        else:
            try:
                b"".find(sub)  # raises what bytes raise for it
            except TypeError:
                if not hasattr(sub, "__index__"):  # PyPy's bytes take nothing that has it but int
                    raise
            try:
                # As a number only then: numpy's are bytes-like, too
                needle = bytes((sub,)) if type(sub) is int else b"".join((sub,))
            except TypeError:
                needle = bytes((index(sub),))
        low = 0 if start is None else index(start)
        high = size if end is None else index(end)
        return needle, max(low + size, 0) if low < 0 else low, max(high + size, 0) if high < 0 else min(high, size)


def buffer(
    path_or_fd: Any,
    offset: int = 0,
    size: int | None = None,
    *,
    manager: StaticWindowMapManager | None = None,
    access: str = "normal",
) -> SlidingWindowMapBuffer:
    """A bytes-like buffer over a file: `size` bytes from `offset`, or all that follow it.

    On the process's default manager unless another is given. Opens and checks the file, maps nothing before the first
    read. `access`: "random" or "sequential" advises the system how maps will be read (`madvise`); random reads of what
    is not in memory yet become faster, sequential ones much slower, so "normal" does not. Raises `ValueError` for an
    offset past the end, and the system's error for a file that cannot be opened.
    """
    return SlidingWindowMapBuffer.of_path(chosen(manager), path_or_fd, offset, size, access)


def _check_cursor(cursor: Any) -> None:
    if cursor is not None and not isinstance(cursor, WindowCursor):
        raise TypeError(f"cursor must be a WindowCursor, not {type(cursor).__name__}")


def _check_access(access: str) -> None:
    if access not in ("normal", "random", "sequential"):
        raise ValueError(f'access must be "normal", "random" or "sequential", not {access!r}')


def _unpickled(cls: type[SlidingWindowMapBuffer], *state: Any) -> SlidingWindowMapBuffer:
    """See `SlidingWindowMapBuffer.later`."""
    return cls.later(None, *state)


Sequence.register(SlidingWindowMapBuffer)
StaticWindowMapManager.BufferCls = SlidingWindowMapBuffer
