"""The memory of our objects: how much the process's heap grows with each of many.

The whole heap is counted, both the interpreter's allocations and ours from C: the measuring process
runs with `PYTHONMALLOC=malloc`, and the C library reports what is in use, including its own overhead.
"""

from __future__ import annotations

import ctypes
import gc
import os
from typing import Any, Callable

from . import peers
from .data import KIB, MIB, file_of, files_of
from .engines import sides
from .harness import SMMAP_5, Aim, Settings, Sized, SkippedError, row

COUNT = 1000
LIMIT = "bytes of heap"


FIELDS = "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"


class Heap(ctypes.Structure):
    """`struct mallinfo2` of glibc."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in FIELDS)


def in_use() -> int:
    """The bytes of the heap that are in use now."""
    try:
        ask = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        raise SkippedError("the C library does not tell what is in use (glibc 2.33 and later do)") from None
    if os.environ.get("PYTHONMALLOC") != "malloc":
        raise SkippedError("it needs a process of its own, with PYTHONMALLOC=malloc")
    ask.restype = Heap
    gc.collect()
    heap = ask()
    return int(heap.uordblks + heap.hblkhd)


def bytes_each(prepare: Callable[[Any], Callable[[int], Any]]) -> Sized:
    """The memory of each of many objects, with each engine and with smmap 5; `prepare(library)` says how to make
    one."""
    sizes = {}
    for name, library in (*sides(), (SMMAP_5, peers.smmap5())):
        make = prepare(library)
        kept: list[Any] = [None] * COUNT
        kept[0] = make(0)  # what the first one brings is shared
        before = in_use()
        for number in range(1, COUNT):
            kept[number] = make(number)
        sizes[name] = -(-(in_use() - before) // (COUNT - 1))
    return Sized(sizes)


@row("memory, buffer", limit=LIMIT, fast=Aim(300), python="malloc")
def buffer(_settings: Settings) -> Sized:
    """A buffer over a file that has others."""
    path = file_of(64 * MIB)

    def prepare(library: Any) -> Callable[[int], Any]:
        manager = library.SlidingWindowMapManager(MIB)
        return lambda number: library.SlidingWindowMapBuffer(manager.make_cursor(path), number, 4096)

    return bytes_each(prepare)


@row("memory, cursor", limit=LIMIT, fast=Aim(250), python="malloc")
def cursor(_settings: Settings) -> Sized:
    """A cursor that uses a region, as others do."""
    path = file_of(64 * MIB)

    def prepare(library: Any) -> Callable[[int], Any]:
        manager = library.SlidingWindowMapManager(MIB)
        return lambda number: manager.make_cursor(path).use_region(4096 + number, 512)

    return bytes_each(prepare)


@row("memory, idle region", limit=LIMIT, fast=Aim(600), python="malloc")
def region(_settings: Settings) -> Sized:
    """An idle region, including its entries in the tables."""
    path = file_of(64 * MIB)

    def prepare(library: Any) -> Callable[[int], Any]:
        mover = library.SlidingWindowMapManager(8 * KIB).make_cursor(path)

        def use(number: int) -> Any:
            mover.use_region(number * 8 * KIB, 1).unuse_region()
            return mover  # which keeps the manager

        return use

    return bytes_each(prepare)


@row("memory, buffer and file", limit=LIMIT, python="malloc")
def file(_settings: Settings) -> Sized:
    """The only buffer of its file, whose entry it keeps."""
    paths = files_of(COUNT, 64 * KIB)

    def prepare(library: Any) -> Callable[[int], Any]:
        manager = library.SlidingWindowMapManager()
        return lambda number: library.SlidingWindowMapBuffer(manager.make_cursor(paths[number]))

    return bytes_each(prepare)
