"""The least Python that could stand in for smmap: windows found by number, and nothing else.

No limits, no order of use, no closing, no files that change, no second thread, no index from the end: a program that
hides windows behind methods cannot do less. What a goal asks for beyond this, no library written in Python can give on
the machine that measured it. Reads that cross a window's border come out short, which the table tells as wrong bytes.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Any, Callable

from . import peers

__all__ = ["NAME", "ONE_THREAD", "LeastCold", "LeastCursor", "LeastFile", "LeastWhole", "LeastWindows", "least_of"]

NAME = "least Python"
ONE_THREAD = f"{NAME}, one thread"


class LeastWhole:
    """A file that is one window."""

    __slots__ = ("_map", "_view")

    def __init__(self, path: str) -> None:
        self._map = peers.mapped(path)
        self._view = memoryview(self._map)

    def __getitem__(self, key: Any) -> Any:
        return self._map[key]

    def view(self, start: int, stop: int) -> memoryview:
        return self._view[start:stop]


class LeastWindows:
    """A file by windows, all of them mapped; no read may cross a border."""

    __slots__ = ("_maps", "_views", "_window")

    def __init__(self, path: str, window: int) -> None:
        self._window = window
        descriptor = os.open(path, os.O_RDONLY)
        count = os.fstat(descriptor).st_size // window
        self._maps = {number: peers.map_at(descriptor, window, number * window) for number in range(count)}
        self._views = {number: memoryview(one) for number, one in self._maps.items()}
        os.close(descriptor)

    def __getitem__(self, key: Any) -> Any:
        window = self._window
        if type(key) is int:
            number = key // window
            return self._maps[number][key - number * window]
        start = key.start
        number = start // window
        base = number * window
        return self._maps[number][start - base : key.stop - base]

    def view(self, start: int, stop: int) -> memoryview:
        window = self._window
        number = start // window
        base = number * window
        return self._views[number][start - base : stop - base]


def least_of(path: str, window: int) -> LeastWhole | LeastWindows:
    """The one that serves windows of that size."""
    return LeastWhole(path) if window >= os.path.getsize(path) else LeastWindows(path, window)


class LeastCursor:
    """`use_region` and `buffer`, which cut from the windows of another."""

    __slots__ = ("_begin", "_end", "_view", "_windows")

    def __init__(self, windows: LeastWindows) -> None:
        self._windows = windows

    def use_region(self, offset: int, size: int) -> LeastCursor:
        window = self._windows._window
        number = offset // window
        self._view = self._windows._views[number]
        self._begin = offset - number * window
        self._end = self._begin + size
        return self

    def buffer(self) -> memoryview:
        return self._view[self._begin : self._end]

    @classmethod
    def maker(cls, windows: LeastWindows) -> Callable[[str], LeastCursor]:
        """Makes a cursor of a path, which is looked up."""

        def make(path: str) -> LeastCursor:
            os.stat(path)
            return cls(windows)

        return make


class LeastCold:
    """A file of which nothing is mapped: each slice is read."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def __getitem__(self, key: slice) -> bytes:
        start = key.start
        return os.pread(self._number, key.stop - start, start)


class LeastFile:
    """One of many files, read by descriptors of which no more than `count` are open."""

    __slots__ = ("_count", "_opened", "_path")

    def __init__(self, path: str, opened: OrderedDict[LeastFile, int], count: int) -> None:
        self._path = path
        self._opened = opened
        self._count = count

    def __getitem__(self, key: slice) -> bytes:
        opened = self._opened
        number = opened.get(self)
        if number is None:
            if len(opened) >= self._count:
                os.close(opened.popitem(last=False)[1])
            number = opened[self] = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            os.fstat(number)
        else:
            opened.move_to_end(self)
        start = key.start
        return os.pread(number, key.stop - start, start)
