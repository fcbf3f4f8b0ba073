"""Reads of one file of a buffer in several steps, all by one `Access` record, whatever the buffer is given in between.

Uses only `_copy`, `_found`, `_read_into` and `_check` of the buffer; decides nothing.
"""

from __future__ import annotations

import io
from typing import Any

__all__ = ["Rest", "Searched"]


class Rest(io.RawIOBase):
    """The bytes from an offset on, as a stream: C code of `io` fills a writable buffer of any format from it."""

    def __init__(self, buffer: Any, access: Any, start: int) -> None:
        self._buffer = buffer
        self._data = access
        self._start = start

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, target: Any) -> int:
        """Fill `target`, which is a memoryview of bytes here, as far as there are any; return how many."""
        count: int = max(min(len(target), self._data.size - self._start), 0)
        self._buffer._read_into(self._data, self._start, target[:count])
        self._start += count
        return count


class Searched:
    """One file to search, whatever the buffer is given in the meantime; a search that yields calls `check`."""

    __slots__ = ("_access", "_buffer")

    def __init__(self, buffer: Any, access: Any) -> None:
        self._buffer = buffer
        self._access = access

    def copy(self, start: int, stop: int) -> bytes:
        """A copy of [start, stop)."""
        data: bytes = self._buffer._copy(self._access, start, stop)
        return data

    def window(self) -> int:
        """Bytes in a grid window."""
        return int(self._access.window)

    def border(self, start: int) -> int:
        """Where the grid window at `start` stops."""
        access = self._access
        return int((start + access.offset) // access.window * access.window + access.window - access.offset)

    def mapped(self, start: int) -> tuple[Any, int, int] | None:
        """The region of the grid window at `start`, if it is mapped, and where that starts and stops."""
        access = self._access
        offset = access.offset
        region = self._buffer._found(access, start + offset, start + offset + 1)
        return None if region is None else (region, region.start - offset, region.stop - offset)

    def searched(self, start: int, stop: int) -> None:
        """[start, stop) was searched in a region that `mapped` returned."""
        access = self._access
        if access.ledger.trace is not None:
            access.searched(start + access.offset, stop + access.offset)

    def check(self) -> None:
        """`ClosedError` if the buffer was closed, or given another file, since the search started."""
        self._buffer._check(self._access)
