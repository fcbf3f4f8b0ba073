"""The plain engine's cursors: moves to windows that are mapped."""

from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING, Any

from .._places import CURSOR
from .._system import PYPY
from .plain_clients import Access
from .plain_regions import Region

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["CursorBase"]


class CursorBase:
    """Zero-copy access to one window at a time. See `WindowCursor`."""

    __slots__ = ("__weakref__", "_access", "_use")

    _access: Access
    _use: tuple[Any, int, int]
    """The region, and what of it is accessible: one record, so that none is ever seen half changed."""

    def __del__(self) -> None:
        use = getattr(self, "_use", None)  # a subclass may not have called our constructor
        if use is not None and use[0] is not None:
            self._let_go(use[0])

    def _move(self, offset: Any, size: Any, flags: Any) -> Self:
        """`use_region` if no mapped grid window serves it."""
        raise NotImplementedError

    def _lost(self) -> Exception:
        """The error of a cursor without a region."""
        raise NotImplementedError

    def _revoke(self) -> None:
        """The manager takes the region away."""
        raise NotImplementedError

    def use_region(self, offset: int = 0, size: int = 0, flags: int = 0) -> Self:
        """Use a region with `size` bytes from `offset` (bytes from the file's start); returns the cursor itself.

        Exactly `min(size, window_size, file_size - offset)` bytes become accessible; with size 0, everything up to the
        end of the window, at least `min(window_size / 2, file_size - offset)`. At or past the end of the file the
        cursor has no region and is not valid. `flags` are added to those of `os.open`.

        O(1), no copy. Raises `FileChangedError` (the file was replaced or truncated), `LimitError` (no handle is left),
        `ClosedError`, or the system's error; the cursor then stays as it was.
        """
        numbers = type(offset) is type(size) is int
        if not numbers and self._access.ledger.trace is not None:
            offset, size = index(offset), index(size)  # once, and before anything else: user code may run
        access, region = self._access, self._use[0]
        note = None if access.ledger.trace is None else self._note(access, region, offset, size)
        if numbers and size >= 0 <= offset and flags == 0:
            file_size, window, idle = access.size, access.window, access.idle
            stop = offset + (size or window // 2)
            if region is not None and region.start <= offset and stop <= region.stop and 0 < size <= window:
                self._use = region, offset, stop
                if note is not None:
                    note()
                return self
            entry = access.table.get(offset // window)
            found = None if entry is None else entry()
            if found is not None and (stop <= found.stop or found.stop == file_size > offset) and size <= window:
                if not size or stop > file_size:
                    stop = found.stop
                if found is region:
                    self._use = region, offset, stop
                    if note is not None:
                        note()
                    return self
                if not idle.crowded:
                    self._pin(found, offset, stop)
                    if not (PYPY and found.doomed):  # otherwise, on PyPy, another thread has evicted and unmapped it
                        idle.hits += 1
                        if note is not None:
                            note()
                        return self
            del found
        del region  # the move may have to evict it
        self._move(offset, size, flags)
        if note is not None:
            note()
        return self

    def _note(self, access: Access, region: Any, offset: int, size: int) -> Any:
        """The function that a trace wants called after a move from this region; None if the move is not recorded."""
        if region is None or not region.start <= offset < region.clear:
            region = access.table.find(offset // access.window)
        if region is not None and region.start <= offset < region.clear:
            return None
        del region
        stop = offset + (min(size, access.window) or access.window - access.window // 2)
        return access._note(offset, min(stop, access.size), CURSOR)

    def _pin(self, region: Region, start: int, stop: int) -> None:
        """Use [start, stop) of a mapped region instead of the present one."""
        access, own = self._access, self._use[0]
        region.pin(self)
        self._use = region, start, stop
        access.idle.remove(region.entry)
        if own is not None and own is not region:
            self._let_go(own, region.entry)
        if access.idle.crowded and access.client.manager.closed:  # maybe just now: then nobody else revokes it
            self._revoke()

    def _let_go(self, region: Region, used: Any = None) -> None:
        """Unpin a region; `used` is the entry of the next one, if any. Never waits, so finalizers may call it."""
        access = self._access
        if region.unpin(id(self), access.idle):
            manager = access.client.manager
            manager._soon(manager._tidy, region.entry, used)  # not the region itself: it may have to be evicted

    def buffer(self) -> memoryview:
        """A read-only view of the accessible bytes, valid until you drop it, whatever happens. O(1), no copy."""
        region, start, stop = self._use
        if region is None:
            raise self._lost()
        return region.view(start, stop)  # type: ignore[no-any-return]

    def map(self) -> Any:
        """The region's `mmap` itself: its index 0 is the region's start. O(1), no copy.

        It works like an `mmap`, but cannot be closed.
        """
        region = self._use[0]
        if region is None:
            raise self._lost()
        return region.shared()
