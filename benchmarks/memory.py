"""What our objects take: `sys.getsizeof` of everything that each of them brings along, shared things not counted."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from types import ModuleType
from typing import Any

import smmap

from .data import KIB, MIB, file_of, files_of
from .harness import Settings, Sized, row

COUNT = 1000
NOT_OURS = (type, ModuleType, type(sys.getsizeof), type(lambda: 0), str, bytes)


def taken(start: Any) -> Counter[str]:
    """The bytes of all that can be reached from an object, by type; code, types and the user's paths left out."""
    found = set()
    sizes: Counter[str] = Counter()
    waiting = [start]
    while waiting:
        one = waiting.pop()
        if id(one) not in found and not isinstance(one, NOT_OURS):
            found.add(id(one))
            sizes[type(one).__name__] += sys.getsizeof(one)
            waiting += gc.get_referents(one)
    return sizes


def bytes_each(manager: Any, make: Any) -> Sized:
    """By how much a manager and a list grow with each of many objects that `make` gives, by type."""
    make(0)  # what the first one brings is shared
    kept: list[Any] = [None] * COUNT
    before = taken((manager, kept))
    for number in range(COUNT):
        kept[number] = make(number)
    after = taken((manager, kept))
    after.subtract(before)
    return Sized({name: -(-size // COUNT) for name, size in after.items() if size >= COUNT})


@row("memory, buffer", limit="sys.getsizeof")
def buffer(_settings: Settings) -> Sized:
    """A buffer over a file that has others."""
    path, manager = file_of(64 * MIB), smmap.SlidingWindowMapManager(MIB)
    return bytes_each(manager, lambda number: manager.buffer(path, number, 4096))


@row("memory, cursor", limit="sys.getsizeof")
def cursor(_settings: Settings) -> Sized:
    """A cursor that uses a region."""
    path, manager = file_of(64 * MIB), smmap.SlidingWindowMapManager(MIB)
    return bytes_each(manager, lambda number: manager.make_cursor(path).use_region(4096 + number, 512))


@row("memory, idle region", limit="sys.getsizeof")
def region(_settings: Settings) -> Sized:
    """A region that no one uses any more, its map and its places in the tables included."""
    path, manager = file_of(64 * MIB), smmap.SlidingWindowMapManager(8 * KIB)
    mover = manager.make_cursor(path)

    def use(number: int) -> None:
        mover.use_region(number * 8 * KIB, 1).unuse_region()

    return bytes_each(manager, use)


@row("memory, buffer and file", limit="sys.getsizeof")
def file(_settings: Settings) -> Sized:
    """The only buffer of its file, whose entry it keeps."""
    paths, manager = files_of(COUNT, 64 * KIB), smmap.SlidingWindowMapManager(max_open_handles=1)
    return bytes_each(manager, lambda number: manager.buffer(paths[number]))
