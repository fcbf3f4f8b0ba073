"""The file object: a raw stream over a buffer, and the standard library's `BufferedReader` over that.

Knows positions and the rules of `io`; the bytes come from the buffer, which hides windows, managers and files.
"""

from __future__ import annotations

import errno
import io
import os
import warnings
from operator import index
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast, overload

from ._buffer import SlidingWindowMapBuffer, buffer
from ._errors import ClosedError

if TYPE_CHECKING:
    from ._manager import StaticWindowMapManager

__all__ = ["BufferedFileReader", "FileReader", "open"]

_LARGEST = (1 << 63) - 1  # what a position in a file may be


class FileReader(io.RawIOBase):
    """The raw file object: reads of a buffer at a position. Made by `smmap.open(path, buffering=0)`.

    Behaves as the `io.FileIO` of `open(path, "rb", buffering=0)` does, but has no descriptor. Each read is one copy,
    straight out of a mapped window. The size is the file's when it was opened. One thread at a time.

    Pickles as path, size, mtime and position, if it is over a path; it opens again at the first read, on the default
    manager of the process that it came to.
    """

    mode = "rb"

    def __init__(self, data: SlidingWindowMapBuffer, position: int = 0) -> None:
        super().__init__()
        self._buffer = data
        self._position = position
        self.name: Any = data._given if isinstance(data._given, int) else os.fspath(data._given)

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"position={self._position}"
        return f"<smmap.{type(self).__name__} name={self.name!r} {state}>"

    def __reduce__(self) -> tuple[Any, ...]:
        self._check_open()
        return _reopened, (self._buffer, self._position, 0)

    def __copy__(self) -> FileReader:
        self._check_open()
        return FileReader(self._buffer.__copy__(), self._position)

    def __reduce_ex__(self, _protocol: Any) -> tuple[Any, ...]:
        return self.__reduce__()

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedError(f"I/O operation on closed file {self.name!r}")

    def close(self) -> None:
        """Close the file; any number of times."""
        if not self.closed:
            self._buffer.close()
        super().close()

    def readable(self) -> bool:
        """True."""
        self._check_open()
        return True

    def seekable(self) -> bool:
        """True."""
        self._check_open()
        return True

    def writable(self) -> bool:
        """False."""
        self._check_open()
        return False

    def fileno(self) -> NoReturn:
        """Raises `io.UnsupportedOperation`: there is no descriptor for others to use."""
        self._check_open()
        raise io.UnsupportedOperation(
            "a file of smmap has no descriptor: where one is needed, use open(path, 'rb'); "
            "for the data without a copy, use smmap.buffer(path).view()"
        )

    def write(self, _data: Any) -> NoReturn:
        """Raises `io.UnsupportedOperation`: smmap reads only."""
        self._check_open()
        raise io.UnsupportedOperation("not open for writing: smmap reads only")

    def tell(self) -> int:
        """The position of the next read, in bytes."""
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to `offset` from the begin (`whence` 0), the position (1) or the end (2); the new position.

        Past the end is allowed, there is nothing to be read there. `OSError` (EINVAL) for a position before the begin.
        """
        self._check_open()
        offset = index(offset)
        if not -_LARGEST - 1 <= offset <= _LARGEST:
            raise OverflowError(f"offset {offset} is too large for a file")
        if whence == io.SEEK_CUR:
            offset += self._position
        elif whence == io.SEEK_END:
            offset += len(self._buffer)
        if not 0 <= offset <= _LARGEST or whence not in (io.SEEK_SET, io.SEEK_CUR, io.SEEK_END):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._position = offset
        return offset

    def readinto(self, target: Any) -> int:
        """Fill a writable bytes-like object from the position on, as far as there are bytes; how many.

        One copy. May raise `FileChangedError`, `LimitError` or the system's error; the position then stays.
        """
        self._check_open()
        count = self._buffer.readinto(self._position, target)
        self._position += count
        return count

    def read(self, size: int | None = -1) -> bytes:
        """The next `size` bytes, fewer at the end of the file only; all that are left for -1. See `readinto`."""
        if size is None or size < 0:
            return self.readall()
        self._check_open()
        data: bytes = self._buffer[self._position : self._position + index(size)]
        self._position += len(data)
        return data

    def readall(self) -> bytes:
        """All bytes from the position on. See `readinto`."""
        self._check_open()
        data = self._buffer
        size = len(data) - self._position
        if data._lies_in_one_window(self._position):
            return self.read(max(size, 0))
        store = io.BytesIO()  # gives its bytes away without a copy; joining the windows' bytes would need them twice
        store.seek(size - 1)
        store.write(b"\0")
        with store.getbuffer() as target:
            self.readinto(target)
        return store.getvalue()


class BufferedFileReader(io.BufferedReader):
    """The file object that `smmap.open` gives: `io.BufferedReader` over a `FileReader`, and pickles like it."""

    def __init__(self, raw: FileReader, buffer_size: int = io.DEFAULT_BUFFER_SIZE) -> None:
        super().__init__(raw, buffer_size)
        self._buffer_size = buffer_size

    def __reduce__(self) -> tuple[Any, ...]:
        raw: Any = self.raw
        if raw is None:
            raise ValueError("raw stream has been detached")
        raw._check_open()
        return _reopened, (raw._buffer, self.tell(), self._buffer_size)

    def __copy__(self) -> BufferedFileReader:
        place, original = self.tell(), cast("FileReader", self.raw)
        raw = original.__copy__()
        raw.seek(place)
        return BufferedFileReader(raw, self._buffer_size)

    def __reduce_ex__(self, _protocol: Any) -> tuple[Any, ...]:
        return self.__reduce__()


@overload
def open(  # noqa: A001
    path: Any, *, manager: StaticWindowMapManager | None = None, buffering: Literal[0]
) -> FileReader: ...


@overload
def open(  # noqa: A001
    path: Any, *, manager: StaticWindowMapManager | None = None, buffering: int = -1
) -> BufferedFileReader: ...


def open(  # noqa: A001
    path: Any, *, manager: StaticWindowMapManager | None = None, buffering: int = -1
) -> FileReader | BufferedFileReader:
    """A file object over a file, for reading bytes: what `open(path, "rb")` gives, through managed windows.

    `path`: str, bytes, os.PathLike, or a descriptor, which stays yours. On the process's default manager unless
    another is given. `buffering` is as for the built-in `open`: the buffer's size in bytes, 0 for the raw file object,
    negative for `io.DEFAULT_BUFFER_SIZE`.

    Opens and checks the file, maps nothing before the first read, holds no map and no descriptor of its own: any
    number of files may be open. Raises the system's error for what cannot be opened, and `OSError` for anything but a
    regular file. Use a file object from one thread at a time, or under a lock, as `zipfile` does.
    """
    size = index(buffering)
    if size == 1:
        warnings.warn("line buffering (buffering=1) is not for bytes, the default size is used", RuntimeWarning, 2)
    data = buffer(path, manager=manager)
    return _reopened(data, 0, io.DEFAULT_BUFFER_SIZE if size < 0 or size == 1 else size)


def _reopened(data: SlidingWindowMapBuffer, position: int, buffering: int) -> FileReader | BufferedFileReader:
    """The file object over a buffer, at a position. Opens nothing."""
    raw = FileReader(data, position)
    return BufferedFileReader(raw, buffering) if buffering else raw
