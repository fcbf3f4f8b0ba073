"""The file object: a raw stream over a buffer, and the standard library's `BufferedReader` over that.

Knows positions and the rules of `io`; the bytes come from the buffer, which hides windows, managers and files.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import warnings
import weakref
from operator import index
from typing import Any, NoReturn, cast

from ._buffer import SlidingWindowMapBuffer
from ._errors import ClosedError, refuse_state
from ._manager import Manager

__all__ = ["BufferedFileReader", "FileReader", "open_reader"]

_LARGEST = (1 << 63) - 1  # the largest position in a file
_FEW = 1 << 14  # bytes that are read at once as a slice
_LARGEST_WHENCE = (1 << 31) - 1
_DATA, _HOLE = (getattr(os, name, None) for name in ("SEEK_DATA", "SEEK_HOLE"))


class FileReader(io.RawIOBase):
    """The raw file object: reads of a buffer at a position. Made by `smmap.open(path, buffering=0)`.

    Behaves like the `io.FileIO` of `open(path, "rb", buffering=0)`, and accepts and refuses the same arguments, but has
    no descriptor. Each read is one copy, straight from a mapped window. The size is the one that the file had when it
    was opened. Use it from one thread at a time.

    If it is over a path, it pickles as path, size, mtime and position. The unpickled object opens the file at the first
    read, on the default manager of the process where it arrives.
    """

    mode = "rb"

    closed: bool = False  # not the property: `io` asks for it at each line of text, and this is faster
    """Whether it was closed."""

    _outer: weakref.ref[BufferedFileReader] | None = None
    _buffer = SlidingWindowMapBuffer()  # of no file: an object whose constructor failed is closed, too
    _position = 0
    _name: Any = None

    @property
    def name(self) -> Any:
        """The path or descriptor by which the file was opened."""
        return self._name

    def __init__(self, data: SlidingWindowMapBuffer, position: int = 0) -> None:
        super().__init__()
        if not isinstance(data, SlidingWindowMapBuffer):
            raise TypeError(f"data must be a buffer of smmap, not {type(data).__name__}")
        position = index(position)
        if not 0 <= position <= _LARGEST:
            raise ValueError(f"not a position in a file: {position}")
        self._buffer = data
        self._position = position
        given = data._access.client.given
        self._name = given if isinstance(given, int) else os.fspath(given)

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"position={self._position}"
        return f"<smmap.{type(self).__name__} name={self.name!r} {state}>"

    def __reduce__(self) -> tuple[Any, ...]:
        self._check_open()
        return _reopened, (self._buffer, self._position, 0)

    __setstate__ = refuse_state

    def __copy__(self) -> FileReader:
        self._check_open()
        return FileReader(self._buffer.__copy__(), self._position)

    def __reduce_ex__(self, _protocol: Any) -> tuple[Any, ...]:
        return self.__reduce__()

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedError(f"I/O operation on closed file {self.name!r}")

    def close(self) -> None:
        """Close the file. May be called any number of times."""
        if not self.closed:
            self._buffer.close()
        super().close()
        self.closed = True
        outer = None if self._outer is None else self._outer()
        if outer is not None:
            outer.closed = True

    def readable(self) -> bool:
        """True."""
        if self.closed:
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
        """Raises `io.UnsupportedOperation`: smmap only reads."""
        self._check_open()
        raise io.UnsupportedOperation("not open for writing: smmap only reads")

    def tell(self) -> int:
        """The position of the next read, in bytes."""
        if self.closed:
            self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to `offset` from the start (`whence` 0), the position (1) or the end (2); return the new position.

        Positions past the end are allowed; there is nothing to read there. `OSError` (EINVAL) for a position before the
        start. `os.SEEK_DATA` and `os.SEEK_HOLE` treat the file as one without holes.
        """
        whence = _integer(whence, _LARGEST_WHENCE)
        self._check_open()
        offset = _integer(offset, _LARGEST)
        size = len(self._buffer)
        code = 0
        if whence in (_DATA, _HOLE):
            code = 0 if 0 <= offset < size else errno.ENXIO
            offset = offset if whence == _DATA else size
        elif whence in (io.SEEK_SET, io.SEEK_CUR, io.SEEK_END):
            offset += (0, self._position, size)[whence]
            code = 0 if 0 <= offset <= _LARGEST else errno.EINVAL
        else:
            code = errno.EINVAL
        if code:
            raise OSError(code, os.strerror(code))
        self._position = offset
        return offset

    def refresh(self) -> int:
        """Adopt what was appended to the file since it was opened or refreshed; return its new size in bytes.

        The position stays. `FileChangedError` if the path now leads to another file, or a shorter one: see
        `SlidingWindowMapBuffer.refresh`.
        """
        self._check_open()
        return self._buffer.refresh()

    def readinto(self, target: Any, /) -> int:
        """Fill a writable bytes-like object, of any format, from the position on, as far as there are bytes; return how
        many.

        One copy. May raise `FileChangedError`, `LimitError` or the system's error; the position then stays.
        """
        if self.closed:
            self._check_open()
        position, data = self._position, self._buffer
        # Few bytes, such as `BufferedReader` wants, are copied twice: a slice of a mapped window is the fastest way.
        # Asking a memoryview whether it is plain takes longer than handling the refusal of one that is not.
        if type(target) is memoryview and 0 < (size := target.nbytes) <= _FEW and target.c_contiguous:
            piece: bytes = data[position : position + size]
            count = len(piece)
            try:
                if count == size:
                    target[:] = piece
                else:
                    target[:count] = piece
            except (NotImplementedError, TypeError, ValueError):  # of another format, of several dimensions, read-only
                count = data.readinto(position, target)
        else:
            count = data.readinto(position, target)
        self._position = position + count
        return count

    def read(self, size: int | None = -1, /) -> bytes:
        """The next `size` bytes, fewer only at the end of the file; for -1 all that are left. See `readinto`."""
        count = -1 if size is None else _integer(size, sys.maxsize)
        if count < 0:
            return self.readall()
        self._check_open()
        return self._take(self._position + count)

    def readall(self) -> bytes:
        """All bytes from the position on. See `readinto`."""
        self._check_open()
        return self._take(max(len(self._buffer), self._position))

    def _take(self, stop: int) -> bytes:
        data: bytes = self._buffer[self._position : stop]
        self._position += len(data)
        return data


def _integer(value: Any, largest: int) -> int:
    """The value as an integer, as C code takes it: `OverflowError` for one that is too large."""
    number = int(index(value))
    if not -largest - 1 <= number <= largest:
        raise OverflowError(f"{number} is too large for a file")
    return number


class BufferedFileReader(io.BufferedReader):
    """The file object of `smmap.open`: an `io.BufferedReader` over a `FileReader`, which pickles like it."""

    closed: bool = False  # as in `FileReader`, which sets it, since closing this object closes that one
    """Whether it was closed, or detached from the raw file object."""

    def __init__(self, raw: FileReader, buffer_size: int = io.DEFAULT_BUFFER_SIZE) -> None:
        if not isinstance(raw, FileReader):
            raise TypeError(f"raw must be a FileReader, not {type(raw).__name__}")
        super().__init__(raw, buffer_size)
        self._buffer_size = buffer_size
        self.closed = raw.closed
        raw._outer = weakref.ref(self)

    def detach(self) -> io.RawIOBase:
        """The raw file object; this object is then unusable."""
        raw = cast("FileReader", super().detach())
        raw._outer = None
        self.closed = True
        return raw

    def refresh(self) -> int:
        """Adopt what was appended to the file since it was opened or refreshed; return its new size in bytes.

        The position stays, and so do bytes that were read ahead. `FileChangedError` if the path now leads to another
        file, or a shorter one: see `SlidingWindowMapBuffer.refresh`.
        """
        raw: Any = self.raw
        if raw is None:
            raise ValueError("raw stream has been detached")
        size: int = raw.refresh()
        return size

    def __reduce__(self) -> tuple[Any, ...]:
        raw: Any = self.raw
        if raw is None:
            raise ValueError("raw stream has been detached")
        raw._check_open()
        return _reopened, (raw._buffer, self.tell(), self._buffer_size)

    __setstate__ = refuse_state

    def __copy__(self) -> BufferedFileReader:
        place, original = self.tell(), cast("FileReader", self.raw)
        raw = original.__copy__()
        raw.seek(place)
        return BufferedFileReader(raw, self._buffer_size)

    def __reduce_ex__(self, _protocol: Any) -> tuple[Any, ...]:
        return self.__reduce__()


def open_reader(manager: Manager, path: Any, mode: str, buffering: int, called: str) -> FileReader | BufferedFileReader:
    """A file object over a new buffer, if the arguments are valid; `called` is the name of the user's call."""
    _check_mode(mode, path, called)
    size = index(buffering)
    if size == 1:
        warnings.warn(
            "line buffering (buffering=1) does not apply to bytes: the default size is used", RuntimeWarning, 3
        )
    data = SlidingWindowMapBuffer._of_path(manager, path, 0, None, "normal")
    return _over(data, 0, io.DEFAULT_BUFFER_SIZE if size < 0 or size == 1 else size)


def _check_mode(mode: str, path: Any, called: str) -> None:
    """Raises unless a mode is for reading bytes: the error that the built-in `open` or its stream would raise."""
    if mode == "rb":
        return
    if not isinstance(mode, str):
        raise TypeError(f"mode must be str, not {type(mode).__name__}")
    kinds = set(mode)
    if len(kinds) < len(mode) or kinds - set("rwaxbt+") or len(kinds & set("rwax")) != 1 or {"b", "t"} <= kinds:
        raise ValueError(f'invalid mode {mode!r}: smmap reads bytes, with mode "rb"')
    if kinds & set("wax+"):
        raise io.UnsupportedOperation(
            f"mode {mode!r} would write, and smmap only reads: use the built-in open({path!r}, {mode!r})"
        )
    if "b" not in kinds:
        raise ValueError(
            f"mode {mode!r} is for text, and smmap reads bytes: write "
            f'io.TextIOWrapper({called}({path!r}), encoding="utf-8")'
        )


def _over(data: SlidingWindowMapBuffer, position: int, buffering: int) -> FileReader | BufferedFileReader:
    raw = FileReader(data, position)
    return BufferedFileReader(raw, buffering) if buffering else raw


def _reopened(data: SlidingWindowMapBuffer, position: int, buffering: int) -> FileReader | BufferedFileReader:
    """The unpickled file object, over its own copy of the buffer, which the pickle may share. Opens nothing."""
    return _over(data.__copy__(), position, buffering)
