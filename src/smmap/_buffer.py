"""The bytes-like interface of a file, or of a part of it: hides windows, pins nothing.

The hot calls (index, slice, `view`) are in the engine; this module has arguments, opening and closing, pickles, and
calls that go through a whole buffer. Each read uses one `Access` record, and so reads one file.
"""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Sequence
from itertools import chain
from operator import index
from typing import TYPE_CHECKING, Any, ClassVar, Literal, SupportsIndex, overload

from . import _search
from ._batches import Batched
from ._cursor import NO_ACCESS, WindowCursor
from ._engine import chosen as engine
from ._errors import ClosedError, FileChangedError, refuse_state
from ._files import NOBODY, Client, PathOrFd
from ._growth import grown, opened
from ._interop import ExchangedBytes
from ._manager import Manager
from ._parts import Rest, Searched
from ._search import STEP
from ._system import check_flags

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator

    from typing_extensions import Self

__all__ = ["Advice", "SlidingWindowMapBuffer"]


if TYPE_CHECKING:

    class _Base(engine.BufferBase, Sequence[int]):
        """The base class as type checkers see it: the engine's class, with all methods of a sequence."""

        @overload
        def __getitem__(self, key: SupportsIndex) -> int: ...

        @overload
        def __getitem__(self, key: slice) -> bytes: ...

        def __getitem__(self, key: Any) -> Any: ...

else:
    _Base = engine.BufferBase

Advice = Literal["normal", "random", "sequential"]


class SlidingWindowMapBuffer(Batched, ExchangedBytes, _Base):
    """The bytes of a file as a read-only sequence, from `offset` on, at most `size` bytes.

    Index, slice, iteration, `in`, `==`, `find`, `rfind`, `index`, `rindex` and `count` behave as with `bytes`. Index 0
    is the byte at `offset`. Slices are always copies, as `bytes`. Any number of threads may share a buffer.

    Raises `ValueError` for a cursor without a file, and for an offset out of bounds. Without a cursor the buffer is
    empty until `begin_access(cursor)`. `smmap.buffer(path)` and `manager.buffer(path)` need no cursor.

    The pickle of a buffer over a path is small. The unpickled buffer opens the file at the first read, on the default
    manager of the process where it arrives, and raises `FileChangedError` if the file changed in between. All reads may
    raise `FileChangedError`, `LimitError`, `ClosedError` or the system's error.
    """

    __slots__ = ("_cursor", "_most")

    _cursor: WindowCursor | None
    _default_manager: ClassVar[Any]  # set by _default.py: imports go one way

    def __init__(
        self, cursor: WindowCursor | None = None, offset: int = 0, size: int = sys.maxsize, flags: int = 0
    ) -> None:
        self._cursor = None
        self._most = 0
        self._access = NO_ACCESS
        if cursor is None:
            return
        _check_cursor(cursor)
        client = cursor._needs()
        if not self.begin_access(cursor, offset, size, flags):
            raise ValueError(f"offset {offset} is out of bounds: {client.name} has {client.size} bytes")

    def __repr__(self) -> str:
        access = self._access
        state = "closed" if self.closed else f"[{access.offset}, {access.offset + access.size})"
        return f"<{type(self).__name__} of {access.client.name} {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    __setstate__ = refuse_state

    # Access as in smmap 5

    def begin_access(
        self, cursor: WindowCursor | None = None, offset: int = 0, size: int = sys.maxsize, flags: int = 0
    ) -> bool:
        """Start to read the cursor's file, or the same file again; if that is not possible, return False and be empty.

        `offset` and `size` are in bytes; an offset at the end is out of bounds, except for 0 in an empty file. The
        first window is mapped at once. The cursor stays yours.
        """
        offset, size, flags = index(offset), index(size), check_flags(index(flags))
        if offset < 0 or size < 0:
            raise ValueError(f"offset and size must not be negative: {offset}, {size}")
        _check_cursor(cursor)
        if cursor is not None:
            client = cursor._access.client if cursor.is_associated() else NOBODY
        else:
            client = self._ready().client if self._pending else self._access.client
        self.end_access()
        if client.file is None:
            return False
        if offset >= client.size and (offset or client.size):
            self._access = engine.Access.closed(client)  # as in smmap 5: it may start again on this file
            return False
        if flags != client.flags:
            client = client._replace(flags=flags)
        if flags:
            client.manager._check_readable(client, flags)
        if size and client.size:
            client.manager._map_first(client, offset)
        self._most = size
        self._access = _access(client, offset, size)
        return True

    def refresh(self) -> int:
        """Adopt what was appended to the file since the buffer was made or refreshed; return the new size in bytes.

        A buffer grows as far as the `size` that it was made with allows; views keep their length.
        Raises `FileChangedError` if the path now leads to another file, to none, or to a shorter one (it was replaced
        or truncated); the buffer then stays as it was. O(1): one `stat` if nothing changed, otherwise the file is
        opened again. Any thread may call it.
        """
        access = self._ready()
        client = access.client
        now = grown(client.manager, client)
        if now is not client:
            client.manager._swap(self, access, _access(now, access.offset, self._most))
        return len(self)

    def end_access(self) -> None:
        """Close the buffer: it is empty until `begin_access`. May be called any number of times. Views stay valid."""
        self._access = engine.Access.closed(self._access.client)
        if self._cursor is not None:
            self._cursor.unuse_region()

    close = end_access

    @property
    def closed(self) -> bool:
        """Whether nothing can be read until `begin_access`."""
        return not (self._access.opened or self._pending)

    @property
    def _pending(self) -> bool:
        """Whether the file is opened at the first read: the buffer was made by `_later`."""
        access = self._access
        return not access.opened and access.pending

    def cursor(self) -> WindowCursor | None:
        """The buffer's own cursor, which uses a region at its offset until `end_access`; None without a file."""
        if self._pending:
            self._ready()
        access = self._access
        client = access.client
        if client.file is None:
            return None
        cursor = self._cursor
        if cursor is None or cursor._access.client is not client:  # another thread gave the buffer another file
            cursor = self._cursor = client.manager.WindowCursorCls._of(client)
        if access.opened and not cursor.is_valid():
            cursor.use_region(access.offset, 0, client.flags)
        return cursor

    @classmethod
    def _of_path(cls, manager: Manager, path_or_fd: PathOrFd, offset: int, size: int | None, advice: Advice) -> Self:
        """A buffer without a cursor; nothing is mapped before the first read. See `smmap.buffer`."""
        offset, size = index(offset), sys.maxsize if size is None else index(size)
        if offset < 0 or size < 0:
            raise ValueError(f"offset and size must not be negative: {offset}, {size}")
        _check_advice(advice)
        client = opened(manager, path_or_fd, advice)
        if offset > client.size:
            raise ValueError(f"offset {offset} is out of bounds: {client.name} has {client.size} bytes")
        return cls._over(client, offset, size)

    @classmethod
    def _over(cls, client: Client, offset: int, size: int) -> Self:
        """A buffer over a part of a client's file."""
        new = cls()
        new._most = size
        new._access = _access(client, offset, size)
        return new

    def __copy__(self) -> Self:
        new = type(self)()
        new._most = self._most
        new._access = self._access
        return new

    def __deepcopy__(self, _memo: Any) -> Self:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        access = self._access
        client = access.client
        if self.closed:
            raise self._closed_error(access)
        if isinstance(client.where, int):
            raise TypeError(f"a buffer over a descriptor cannot be pickled, only one over a path: {client.name}")
        most = (self._most,) if self._most < sys.maxsize and access.offset + access.size == client.size else ()
        flags = (client.flags,) if client.flags or most else ()
        state = client.where, access.offset, access.size, client.size, client.mtime, client.advice, *flags, *most
        return _unpickled, (type(self), *state)

    @classmethod
    def _later(
        cls,
        manager: Manager | None,
        path: str | bytes,
        offset: int,
        size: int,
        file_size: int,
        mtime: int,
        advice: Advice = "normal",
        flags: int = 0,
        most: int | None = None,
    ) -> Self:
        """A buffer that opens its file at the first read, and only if it is still that long and that old.

        `file_size` is in bytes, `mtime` in nanoseconds, `flags` are added to those of `os.open`; without a manager it
        is the process's default one. `most`: how far it may grow; without a limit if it reaches the file's end. Nothing
        is opened before the first read.
        """
        if not isinstance(path, (str, bytes)):
            raise TypeError(f"path must be str or bytes, not {type(path).__name__}")
        if not 0 <= index(offset) <= index(offset) + index(size) <= index(file_size) or size < 0:
            raise ValueError(f"{size} bytes at {offset} do not lie in a file of {file_size} bytes")
        _check_advice(advice)
        client = Client(manager, None, path, path, file_size, index(mtime), advice, check_flags(index(flags)))
        new = cls()
        if most is None:
            most = sys.maxsize if offset + size == file_size else size
        new._most = max(index(most), size)
        new._access = engine.Access.closed(client, offset, size, True)
        return new

    def _ready(self) -> Any:
        """The record that reads use, or `ClosedError`. A buffer made by `_later` opens its file now."""
        access = self._access
        if access.opened:
            return access
        if access.pending:
            return self._open(access)
        raise self._closed_error(access)

    def _open(self, pending: Any) -> Any:
        """Open the file that `_later` named, if it is still the same; any thread may come first."""
        then = pending.client
        manager = self._default_manager() if then.manager is None else then.manager
        client = manager._client(then.where, then.advice)
        if (client.size, client.mtime) != (then.size, then.mtime):
            what = f"{client.size} bytes now, {then.size} before"
            if client.size == then.size:
                what = "it was written to, or is another file of the same size"
            raise FileChangedError(f"changed since the buffer was made or pickled ({what}): make a new one", then.where)
        client = client._replace(given=then.given, flags=then.flags)
        client.manager._check_readable(client, 0)
        client.manager._swap(self, pending, _access(client, pending.offset, pending.size))
        return self._ready()

    def _closed_error(self, access: Any) -> Exception:
        client = access.client
        if client.given is None:
            return ValueError(f"{type(self).__name__} has no file: use begin_access(cursor)")
        return ClosedError(f"{type(self).__name__} of {client.name} is closed")

    # As bytes

    def __bytes__(self) -> bytes:
        return self._slice(slice(None))

    def iter_views(self, start: int = 0, stop: int | None = None, size: int = STEP) -> Iterator[memoryview]:
        """Zero-copy views of `buffer[start:stop]`, one after the other: none longer than `size` bytes, none across
        a window's border. If you drop each before the next, only one window has to be mapped at a time."""
        size = index(size)
        if size < 1:
            raise ValueError(f"size must be positive: {size}")
        access = self._ready()
        start, stop, _ = slice(start, stop).indices(access.size)
        return self._iter_views(access, start, stop, size)

    def _iter_views(self, access: Any, start: int, stop: int, size: int) -> Iterator[memoryview]:
        while start < stop:
            border = (access.offset + start) // access.window * access.window + access.window - access.offset
            end = min(start + size, border, stop)
            view = self.view(start, end)
            self._check(access)  # it is of this file
            yield view
            del view
            start = end

    def _unpack(self, packed: struct.Struct, offset: Any) -> tuple[Any, ...]:
        start = index(offset)
        access = self._ready()
        if start < 0:
            start += access.size
        if not 0 <= start <= access.size - packed.size:
            raise struct.error(f"unpack_from needs {packed.size} bytes at {offset}: the buffer has {access.size} bytes")
        return packed.unpack(self._copy(access, start, start + packed.size))

    def iter_unpack(self, fmt: str | bytes, start: int = 0, stop: int | None = None) -> Iterator[tuple[Any, ...]]:
        """`struct.iter_unpack(fmt, self[start:stop])`, across windows, without a copy of all of it.

        Raises `struct.error` unless `stop - start` is a multiple of the format's size. Copies piece by piece, in memory
        of a fixed size, and maps as slices do. O(stop - start). The iterator belongs to one thread at a time.
        """
        packed = struct.Struct(fmt)
        access = self._ready()
        start, stop, _ = slice(start, stop).indices(access.size)
        size = packed.size
        if not size or max(stop - start, 0) % size:
            raise struct.error(f"iter_unpack needs a multiple of {size} bytes: there are {max(stop - start, 0)}")
        pieces = range(start, stop, max(STEP // size, 1) * size)
        return chain.from_iterable(self._unpack_pieces(access, packed, pieces, stop))

    def _unpack_pieces(self, access: Any, packed: struct.Struct, pieces: range, stop: int) -> Iterator[Any]:
        for place in pieces:
            self._check(access)
            yield packed.iter_unpack(self._copy(access, place, min(place + pieces.step, stop)))

    def readinto(self, start: int, target: Any) -> int:
        """Fill a writable bytes-like object with the bytes from `start` on, as far as there are any; return how many.

        One copy, from mapped windows straight into the target; cold windows are read as for slices. `start` must
        not be negative. After an error the target may be partly filled.
        """
        start = index(start)
        if start < 0:
            raise ValueError(f"start must not be negative: {start}")
        access = self._ready()
        start = min(start, access.size)
        # A target of `BufferedReader` is filled directly: an object of `io` for each piece would cost more than the
        # copy
        if type(target) is bytearray or (type(target) is memoryview and target.format == "B" and not target.readonly):
            with memoryview(target) as view:
                if view.ndim == 1 and view.c_contiguous:
                    count: int = min(len(view), access.size - start)
                    if count <= 0:
                        return 0
                    self._read_into(access, start, view[:count] if count < len(view) else view)
                    return count
        return io.BufferedReader(Rest(self, access, start), 1).readinto(target)  # copies only its tiny buffer twice

    # Going through and searching

    def _check(self, access: Any) -> None:
        """`ClosedError` if the buffer was closed, or given another file, since the iteration started."""
        now = self._access
        if now is access:
            return
        grown = now.opened and now.offset == access.offset and now.size >= access.size  # by `refresh`: may continue
        if not (grown and now.client.file.status.key == access.client.file.status.key):
            raise ClosedError(
                f"{type(self).__name__} of {access.client.name} was closed or given another file in the meantime"
            )

    def _pieces(self, access: Any, starts: range) -> Iterator[bytes]:
        for start in starts:
            self._check(access)
            yield self._copy(access, start, min(start + STEP, access.size))

    def __iter__(self) -> Iterator[int]:
        return (byte for piece in self._all_of(self._ready()) for byte in piece)

    def __reversed__(self) -> Iterator[int]:
        return (byte for piece in self._all_of(self._ready(), -1) for byte in reversed(piece))

    def __contains__(self, sub: Any) -> bool:
        if type(sub) is not int and hasattr(sub, "__index__"):
            try:
                sub = index(sub)  # `in` takes an object that is a number and bytes-like as a number, `find` as bytes
            except Exception:
                pass
        return self.find(sub) >= 0

    def __eq__(self, other: object) -> bool:
        if isinstance(other, SlidingWindowMapBuffer):
            mine, theirs = self._readable(), other._readable()
            return mine.size == theirs.size and all(map(bytes.__eq__, self._all_of(mine), other._all_of(theirs)))
        try:
            view = memoryview(other)  # type: ignore[arg-type]
        except (TypeError, ValueError, BufferError):
            if isinstance(other, (bytes, bytearray)):  # the handler of a signal raised it
                raise
            return NotImplemented
        with view:
            access = self._readable()
            if view.ndim != 1 or view.itemsize != 1 or len(view) != access.size:
                return False
            return all(
                piece == view[start : start + STEP]
                for start, piece in zip(range(0, len(view), STEP), self._all_of(access))
            )

    def _readable(self) -> Any:
        """The record that reads use; without opening anything if there is nothing to read."""
        access = self._access
        return access if access.opened or not access.size else self._ready()

    def _all_of(self, access: Any, step: int = 1) -> Iterator[bytes]:
        return self._pieces(access, range(0, access.size, STEP)[::step])

    __hash__ = None  # type: ignore[assignment]  # as for bytearray: equal objects would need equal hashes

    def _query(self, access: Any, sub: Any, start: int | None, end: int | None) -> tuple[Searched, bytes, int, int]:
        sub = sub[:] if isinstance(sub, SlidingWindowMapBuffer) else sub
        return Searched(self, access), *_search.bounds(access.size, sub, start, end)

    def find(self, sub: Any, start: int | None = None, end: int | None = None) -> int:
        """The lowest index in [start, end) at which `sub` (bytes-like, or an int) is found, across windows, or -1.
        O(end - start), without copying mapped windows."""
        near = self._near(sub, start, end, False)
        if isinstance(near, int):
            return near
        access, start, end = near or (self._ready(), start, end)
        return _search.find(*self._query(access, sub, start, end))

    def rfind(self, sub: Any, start: int | None = None, end: int | None = None) -> int:
        """The highest index in [start, end) at which `sub` is found, across windows, or -1. See `find`."""
        near = self._near(sub, start, end, True)
        if isinstance(near, int):
            return near
        access, start, end = near or (self._ready(), start, end)
        return _search.rfind(*self._query(access, sub, start, end))

    def index(self, sub: Any, start: int | None = None, end: int | None = None) -> int:
        """Like `find`, but raises `ValueError` if `sub` is not found."""
        return _found(self.find(sub, start, end))

    def rindex(self, sub: Any, start: int | None = None, end: int | None = None) -> int:
        """Like `rfind`, but raises `ValueError` if `sub` is not found."""
        return _found(self.rfind(sub, start, end))

    def count(self, sub: Any, start: int | None = None, end: int | None = None) -> int:
        """How often `sub` is found in [start, end) without overlapping. O(end - start), copies piece by piece."""
        return _search.count(*self._query(self._ready(), sub, start, end))

    def finditer(self, pattern: bytes | re.Pattern[bytes], max_match: int = 1 << 16) -> Iterator[_search.Match]:
        """The matches of a regular expression, as `re.finditer` finds them, without one big map.

        `max_match` must be larger than the longest match in bytes, including its look-ahead and look-behind. A longer
        match may be missed; where one would have been truncated, `ValueError` is raised. O(len), copies piece by piece;
        memory in proportion to `max_match`. Each match works like `re.Match`; its offsets are in the buffer.
        """
        max_match = index(max_match)
        if max_match < 1:
            raise ValueError(f"max_match must be positive: {max_match}")
        access = self._ready()
        return _search.finditer(Searched(self, access), pattern, access.size, max_match)


def _access(client: Client, offset: int, size: int) -> Any:
    """The record for reads of [offset, offset + size), clipped to the file."""
    return client.manager._access(client, offset, min(size, client.size - offset))


def _found(place: int) -> int:
    if place < 0:
        raise ValueError("subsection not found")
    return place


def _check_cursor(cursor: Any) -> None:
    if cursor is not None and not isinstance(cursor, WindowCursor):
        raise TypeError(f"cursor must be a WindowCursor, not {type(cursor).__name__}")


def _check_advice(advice: str) -> None:
    if advice not in ("normal", "random", "sequential"):
        raise ValueError(f'access must be "normal", "random" or "sequential", not {advice!r}')


def _unpickled(cls: type[SlidingWindowMapBuffer], *state: Any) -> SlidingWindowMapBuffer:
    """See `SlidingWindowMapBuffer._later`."""
    return cls._later(None, *state)


Sequence.register(SlidingWindowMapBuffer)
