"""The ways of reading that are compared, each written as its users would write it.

Each returns the bytes of a range of a file, as `bytes`, so that all have done the same work when a read returns. A
contender is made for one run and closed after it.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from mmap import ACCESS_READ, mmap
from typing import Any

from .. import SlidingWindowMapBuffer, SlidingWindowMapManager, WindowCursor

__all__ = [
    "CachedPread",
    "Contender",
    "KeptMemmap",
    "KeptMmap",
    "OpenRead",
    "PlainMmap",
    "SmmapBuffer",
    "SmmapCursor",
    "SmmapGather",
]

Reader = Callable[[str, int, int], bytes]


class Contender:
    """The base class: keeps nothing, and has nothing to close."""

    name: str
    manager: Any = None  # the manager that counts hits and misses
    batched: bool = False  # whether its readers make many reads at once

    def reader(self) -> Reader:
        """A function (path, offset, size) for one thread."""
        raise NotImplementedError

    def opened(self, path: str) -> AbstractContextManager[Any]:
        """What a read of the path keeps open only while it runs: opened separately to be counted."""
        return nullcontext()

    def close(self) -> None:
        """Release everything that was kept."""
        if self.manager is not None:
            self.manager.close()


class SmmapBuffer(Contender):
    """A buffer for each file, shared by all threads."""

    name = "smmap buffer"

    def __init__(self, manager: SlidingWindowMapManager) -> None:
        self.manager = manager
        self.buffers: dict[str, SlidingWindowMapBuffer] = {}

    def reader(self) -> Reader:
        make, buffers = self.manager.buffer, self.buffers

        def read(path: str, offset: int, size: int) -> bytes:
            buffer = buffers.get(path)
            if buffer is None:
                buffer = buffers.setdefault(path, make(path))
            data: bytes = buffer[offset : offset + size]
            return data

        return read


class SmmapGather(SmmapBuffer):
    """The same buffers, with many reads at once."""

    name = "smmap gather"
    batched = True

    def reader(self) -> Reader:
        return _Gathering(super().reader(), self.manager.buffer, self.buffers)


class _Gathering:
    """Makes all reads of one size and file in one call of `gather`."""

    def __init__(self, read: Reader, make: Callable[[str], Any], buffers: dict[str, Any]) -> None:
        self._read, self._make, self._buffers = read, make, buffers

    def __call__(self, path: str, offset: int, size: int) -> bytes:
        return self._read(path, offset, size)

    def many(self, reads: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """The results of these reads, in their order."""
        together: dict[tuple[str, int], list[int]] = {}
        for number, (path, _, size) in enumerate(reads):
            together.setdefault((path, size), []).append(number)
        found = [b""] * len(reads)
        for (path, size), numbers in together.items():
            buffer = self._buffers.get(path)
            if buffer is None:
                buffer = self._buffers.setdefault(path, self._make(path))
            joined = buffer.gather([reads[number][1] for number in numbers], size)
            for at, number in enumerate(numbers):
                found[number] = bytes(joined[at * size : at * size + size])
        return found


class SmmapCursor(Contender):
    """A cursor for each file and thread. It unpins its region after each read: pinned regions cannot be evicted."""

    name = "smmap cursor"

    def __init__(self, manager: SlidingWindowMapManager) -> None:
        self.manager, self.make_cursor = manager, manager.make_cursor

    def reader(self) -> Reader:
        make_cursor = self.make_cursor
        cursors: dict[str, WindowCursor] = {}

        def read(path: str, offset: int, size: int) -> bytes:
            cursor = cursors.get(path)
            if cursor is None:
                cursor = cursors[path] = make_cursor(path)
            data = bytes(cursor.use_region(offset, size).buffer())
            while len(data) < size:  # a read larger than the window
                data += cursor.use_region(offset + len(data), size - len(data)).buffer()
            cursor.unuse_region()
            return data

        return read


class PlainMmap(Contender):
    """Map, read, close."""

    name = "mmap"

    def reader(self) -> Reader:
        def read(path: str, offset: int, size: int) -> bytes:
            with _map(path) as data:
                return data[offset : offset + size]

        return read

    def opened(self, path: str) -> AbstractContextManager[Any]:
        return _map(path)


class KeptMmap(Contender):
    """A map for each file, kept and shared by all threads: fast while the system has room for all of them."""

    name = "kept mmap"

    def __init__(self) -> None:
        self.maps: dict[str, mmap] = {}

    def reader(self) -> Reader:
        maps = self.maps

        def read(path: str, offset: int, size: int) -> bytes:
            data = maps.get(path)
            if data is None:
                data = maps.setdefault(path, _map(path))
            return data[offset : offset + size]

        return read

    def close(self) -> None:
        while self.maps:
            self.maps.popitem()[1].close()


class KeptMemmap(Contender):
    """The same with `numpy.memmap`, which is a map and an array over it."""

    name = "kept memmap"

    def __init__(self) -> None:
        import numpy

        self.make = numpy.memmap
        self.maps: dict[str, Any] = {}

    def reader(self) -> Reader:
        maps, make = self.maps, self.make

        def read(path: str, offset: int, size: int) -> bytes:
            data = maps.get(path)
            if data is None:
                data = maps.setdefault(path, make(path, mode="r"))
            found: bytes = data[offset : offset + size].tobytes()
            return found

        return read

    def close(self) -> None:
        self.maps.clear()


class OpenRead(Contender):
    """Open, seek, read, close."""

    name = "open-read"

    def reader(self) -> Reader:
        def read(path: str, offset: int, size: int) -> bytes:
            with open(path, "rb", buffering=0) as file:
                file.seek(offset)
                return file.read(size)

        return read

    def opened(self, path: str) -> AbstractContextManager[Any]:
        return open(path, "rb", buffering=0)


class CachedPread(Contender):
    """`os.pread` with an LRU cache of descriptors: as many as smmap may have handles."""

    name = "pread LRU"

    def __init__(self, handles: int, threads: int) -> None:
        self.most = max(handles // threads, 1)  # a cache for each thread: no lock
        self.caches: list[OrderedDict[str, int]] = []

    def reader(self) -> Reader:
        cache: OrderedDict[str, int] = OrderedDict()
        self.caches.append(cache)
        most = self.most

        def read(path: str, offset: int, size: int) -> bytes:
            number = cache.get(path)
            if number is None:
                if len(cache) >= most:
                    os.close(cache.popitem(last=False)[1])
                number = cache[path] = os.open(path, os.O_RDONLY)
            else:
                cache.move_to_end(path)
            return os.pread(number, size, offset)

        return read

    def close(self) -> None:
        for cache in self.caches:
            while cache:
                os.close(cache.popitem()[1])


def _map(path: str) -> mmap:
    with open(path, "rb", buffering=0) as file:
        return mmap(file.fileno(), 0, access=ACCESS_READ)
