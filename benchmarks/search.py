"""Searches: nearby, like programs that go from line to line, and through a large file."""

from __future__ import annotations

from functools import partial
from typing import Any

from . import peers
from .data import GIB, MIB, file_of
from .engines import sides
from .harness import Contender, Settings, loop, once, row
from .objects import text_of

NEEDLE = b"a needle at the end"
WINDOW = 8 * MIB
LINES = 4000


def text_over(library: Any, path: str) -> Any:
    """A buffer of a text file, all of which is mapped by windows of 1 MiB."""
    manager = library.SlidingWindowMapManager(MIB)
    with manager.make_cursor(path) as cursor:
        for start in range(0, cursor.file_size(), MIB):
            cursor.use_region(start, MIB)
    return manager.buffer(path)


def from_line_to_line(expression: str) -> list[Contender]:
    """Each search starts where the one before ended, 40 bytes away: `i` is that place."""
    path = text_of(16 * MIB)
    starts = [MIB + 60 * number + 20 for number in range(LINES)]
    return [
        loop("mmap", expression, starts, role="limit", buf=peers.mapped(path)),
        *(loop(name, expression, starts, role=name, buf=text_over(library, path)) for name, library in sides()),
    ]


@row("find, 40 bytes away", limit="mmap.find", fast=2)
def near(settings: Settings) -> list[Contender]:
    """The end of the line."""
    return from_line_to_line(r"buf.find(b'\n', i)")


@row("rfind, 40 bytes away", limit="mmap.rfind", fast=2)
def near_before(settings: Settings) -> list[Contender]:
    """The end of the line before."""
    return from_line_to_line(r"buf.rfind(b'some', 0, i + 30)")


def whole(settings: Settings) -> str:
    """A large file, with a needle at the end."""
    return file_of(GIB // 4 if settings.quick else GIB, NEEDLE)


@row("find, at the end of 1 GiB", limit="mmap.find", fast=1.0)
def find(settings: Settings) -> list[Contender]:
    """A needle at the end; all windows are mapped again each time, as is the whole file for `mmap`."""
    path = whole(settings)

    def bare() -> int:
        with peers.mapped(path) as whole:
            return whole.find(NEEDLE)

    def ours(library: Any) -> int:
        with library.SlidingWindowMapManager(WINDOW) as manager, manager.buffer(path) as buffer:
            place: int = buffer.find(NEEDLE)
            return place

    def read() -> int:
        place, before = 0, b""
        with open(path, "rb", buffering=0) as file:
            while piece := file.read(MIB):
                found = (before + piece).find(NEEDLE)
                if found >= 0:
                    return place + found - len(before)
                place += len(piece)
                before = piece[1 - len(NEEDLE) :]
        return -1

    return [
        once("mmap", bare, role="limit"),
        *(once(name, partial(ours, library), role=name) for name, library in sides()),
        once("file.read and bytes.find", read),
    ]


@row("rfind, at the start of 1 GiB", limit="mmap.rfind", fast=1.0, quick=False)
def rfind(settings: Settings) -> list[Contender]:
    """Bytes that are only at the start, searched from the end."""
    path = whole(settings)
    with open(path, "rb") as file:
        needle = file.read(len(NEEDLE))

    def bare() -> int:
        with peers.mapped(path) as whole:
            return whole.rfind(needle)

    def ours(library: Any) -> int:
        with library.SlidingWindowMapManager(WINDOW) as manager, manager.buffer(path) as buffer:
            place: int = buffer.rfind(needle)
            return place

    return [
        once("mmap", bare, role="limit"),
        *(once(name, partial(ours, library), role=name) for name, library in sides()),
    ]
