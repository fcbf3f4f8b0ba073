"""One file as a manager sees it, and a client of it. Knows identity, size and opening; nothing of limits or order.

A file is identified by (device, inode), but only while something of ours *pins* the inode: a map, or a descriptor kept
open. A file system hands a freed number out again at once, so an entry that pins nothing also compares size and mtime.
"""

from __future__ import annotations

import itertools
import os
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from . import _system
from ._errors import ClosedError, FileChangedError
from ._region import MapRegion, StoredBytes
from ._status import examine, where_is
from ._system import Descriptor, Where, called, named
from ._window import Key

if TYPE_CHECKING:
    from ._manager import StaticWindowMapManager

__all__ = ["Client", "FileRef", "MappedFile", "read_all", "read_store"]


def read_all(number: int, size: int, offset: int, where: Where) -> bytes:
    """Exactly `size` bytes at `offset`; `FileChangedError` where the file has become shorter than that."""
    try:
        data = _system.read_at(number, size, offset)
    except OSError as error:
        if error.errno in _system.REFUSALS:
            raise
        raise named(error, where, offset, offset + size) from None
    if len(data) != size:
        raise FileChangedError(f"truncated: {len(data)} of {size} bytes are left at offset {offset}", called(where))
    return data


def read_store(number: int, size: int, offset: int, where: Where) -> StoredBytes:
    """The same, to be kept instead of a map."""
    return StoredBytes(read_all(number, size, offset, where))


_serials = itertools.count(1)


class FileRef(weakref.ref["MappedFile"]):
    """How a manager refers to a file: weakly, so that the entry lives while a client or region of it does."""

    __slots__ = ("descriptor", "key", "paths")

    key: tuple[int, int]
    paths: tuple[Where, ...]
    """The names by which clients came to the file."""
    descriptor: Descriptor | None
    """The one kept open."""


class MappedFile:
    """One file: its identity, its size when last looked at, and its regions that are mapped now.

    `MapRegionList(path_or_fd)` is smmap 5's name for it.
    """

    __slots__ = (
        "__weakref__",
        "given",
        "gone",
        "key",
        "maps",
        "mtime",
        "patience",
        "pins",
        "price",
        "reads",
        "ref",
        "regions",
        "serial",
        "size",
        "written",
    )

    ref: FileRef

    def __init__(self, path_or_fd: Any, status: os.stat_result | None = None) -> None:
        status = status or examine(where_is(path_or_fd))
        self.given = path_or_fd
        self.key = (status.st_dev, status.st_ino)
        self.size = status.st_size
        self.mtime = status.st_mtime_ns
        self.regions: dict[Key, MapRegion] = {}
        """Mapped windows, and lent ones that may be revived."""
        self.maps = 0
        """How many of its regions the ledger counts."""
        self.pins = 0
        """How many maps and kept descriptors of ours keep the inode from being reused."""
        self.written = False
        """Whether it was written to since what was read of it was read."""
        self.gone = False
        """Whether another file, or none, was found at a path of it: what becomes idle then goes at once."""
        self.reads = False
        """Whether windows are read into memory, because the file system does not map."""
        self.serial = next(_serials) << 44
        """Added to a window's number, it tells that window from those of all other files."""
        self.price = 0
        """What mapping a window costs, in small reads: see _rents.py; 0 until that was asked for."""
        self.patience = 0

    def __len__(self) -> int:
        return sum(region.store is not None for region in list(self.regions.values()))

    def __iter__(self) -> Iterator[MapRegion]:
        return iter([region for region in list(self.regions.values()) if region.store is not None])

    def path_or_fd(self) -> Any:
        """What the entry was first made from."""
        return self.given

    def file_size(self) -> int:
        """The file's size in bytes when it was last looked at."""
        return self.size

    def is_as(self, status: os.stat_result) -> bool:
        """Whether the status is surely of this very file, unchanged."""
        return (status.st_dev, status.st_ino) == self.key and (
            status.st_size == self.size and status.st_mtime_ns == self.mtime
        )

    def update(self, status: os.stat_result) -> None:
        """Take over size and mtime, once the status is known to be of this very file."""
        if status.st_size != self.size or status.st_mtime_ns != self.mtime:
            self.size = status.st_size
            self.mtime = status.st_mtime_ns
            self.written = True
            self.price = 0  # it depends on the size

    def verify(self, number: int, kept: bool, begin: int, end: int, where: Where) -> None:
        """`FileChangedError` unless the descriptor is this very file and holds [begin, end) now."""
        status = _system.status_of(number)
        if not kept:
            if (status.st_dev, status.st_ino) != self.key:
                raise FileChangedError(
                    "another file is here now than when the cursor or buffer was made", called(where)
                )
            if not self.pins and not self.is_as(status):
                raise FileChangedError(
                    f"changed: {status.st_size} bytes now, {self.size} and another mtime when last looked at",
                    called(where),
                )
        self.update(status)
        if status.st_size < end:
            raise FileChangedError(
                f"truncated to {status.st_size} bytes: [{begin}, {end}) cannot be mapped", called(where)
            )


class Client:
    """What cursors and buffers share: one file, as the user gave it, at the size it had then."""

    __slots__ = ("_access", "_file", "_given", "_length", "_manager", "_where")

    _manager: StaticWindowMapManager | None
    _file: MappedFile | None
    _given: Any
    _where: Where
    _length: int
    _access: str
    """How maps will be read: see `smmap.buffer`."""
    _flags = 0
    """Added to those of `os.open` whenever the file is opened for this client."""

    def __setstate__(self, _state: object) -> None:
        raise TypeError(f"{type(self).__name__} takes no state: what it refers to is checked when it is made")

    def _adopt(self, other: Client) -> None:
        """Be a client of the same file, at the same size, without touching it."""
        self._file = None  # until all of it is there: nor a mixture of two, if a signal handler raises here
        self._manager = other._manager
        self._given = other._given
        self._where = other._where
        self._length = other._length
        self._access = other._access
        self._file = other._file

    def _name(self) -> str:
        return f"descriptor {self._given}" if isinstance(self._given, int) else repr(self._given)

    def _needs(self) -> tuple[StaticWindowMapManager, MappedFile]:
        """The manager and the file; `ClosedError` or `ValueError` where there are none."""
        if self._manager is None or self._file is None:
            if self._given is None:
                raise ValueError(f"{type(self).__name__} has no file: use manager.make_cursor(path_or_fd)")
            raise self._closed_error()
        return self._manager, self._file

    def _closed_error(self) -> ClosedError:
        return ClosedError(f"{type(self).__name__} of {self._name()} is closed")
