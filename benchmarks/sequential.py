"""Reading a large file from start to end, once: mapping and unmapping are part of the times."""

from __future__ import annotations

import zlib
from functools import partial
from typing import Any

from . import peers
from .data import GIB, KIB, MIB, file_of
from .engines import sides
from .harness import NO_SLOWER, SMMAP_5, Contender, Settings, once, row

WINDOW = 8 * MIB
PIECE = MIB


@row("sequential, crc32", limit="whole-file mmap", fast=1.05, plain=NO_SLOWER)
def crc32(settings: Settings) -> list[Contender]:
    """The checksum of views of 1 MiB."""
    length = GIB // 4 if settings.quick else GIB
    path = file_of(length)

    def bare() -> int:
        checksum = 0
        with peers.mapped(path) as whole, memoryview(whole) as view:
            for start in range(0, length, PIECE):
                with view[start : start + PIECE] as piece:
                    checksum = zlib.crc32(piece, checksum)
        return checksum

    def ours(library: Any) -> int:
        checksum = 0
        with library.SlidingWindowMapManager(WINDOW) as manager, manager.buffer(path) as buffer:
            for piece in buffer.iter_views(size=PIECE):
                checksum = zlib.crc32(piece, checksum)
        return checksum

    def ours_by_cursor(library: Any) -> int:
        checksum = 0
        with library.SlidingWindowMapManager(WINDOW) as manager, manager.make_cursor(path) as cursor:
            for start in range(0, length, PIECE):
                checksum = zlib.crc32(cursor.use_region(start, PIECE).buffer(), checksum)
        return checksum

    def theirs() -> int:
        checksum = place = 0
        cursor = peers.smmap5().SlidingWindowMapManager(WINDOW).make_cursor(path)
        while place < length:
            piece = cursor.use_region(place, PIECE).buffer()
            checksum = zlib.crc32(piece, checksum)
            place += len(piece)
        return checksum

    def read() -> int:
        checksum = 0
        with open(path, "rb", buffering=0) as file:
            while piece := file.read(PIECE):
                checksum = zlib.crc32(piece, checksum)
        return checksum

    pieces = length // PIECE
    return [
        once("mmap", bare, role="limit", operations=pieces),
        *(once(name, partial(ours, library), role=name, operations=pieces) for name, library in sides()),
        *(once(f"{name}, cursor", partial(ours_by_cursor, library), operations=pieces) for name, library in sides()),
        once(SMMAP_5, theirs, operations=pieces),
        once("file.read", read, operations=pieces),
    ]


@row("sequential, copy", limit="whole-file mmap", fast=1.1, plain=NO_SLOWER)
def copy(settings: Settings) -> list[Contender]:
    """Slices of 1 MiB as bytes."""
    length = GIB // 4 if settings.quick else GIB
    path = file_of(length)
    pieces = range(0, length, PIECE)

    def bare() -> None:
        with peers.mapped(path) as whole:
            for start in pieces:
                whole[start : start + PIECE]

    def ours(library: Any) -> None:
        with library.SlidingWindowMapManager(WINDOW) as manager, manager.buffer(path) as buffer:
            for start in pieces:
                buffer[start : start + PIECE]

    def theirs() -> None:
        manager = peers.smmap5().SlidingWindowMapManager(WINDOW)
        buffer = peers.smmap5().SlidingWindowMapBuffer(manager.make_cursor(path))
        for start in pieces:
            buffer[start : start + PIECE]

    def read() -> None:
        with open(path, "rb", buffering=0) as file:
            while file.read(PIECE):
                pass

    def of_bare() -> list[bytes]:
        with peers.mapped(path) as whole:
            return [whole[start : start + PIECE] for start in pieces]

    def of_ours(library: Any) -> list[bytes]:
        with library.SlidingWindowMapManager(WINDOW) as manager, manager.buffer(path) as buffer:
            return [buffer[start : start + PIECE] for start in pieces]

    def of_theirs() -> list[bytes]:
        manager = peers.smmap5().SlidingWindowMapManager(WINDOW)
        buffer = peers.smmap5().SlidingWindowMapBuffer(manager.make_cursor(path))
        return [buffer[start : start + PIECE] for start in pieces]

    def of_read() -> list[bytes]:
        with open(path, "rb", buffering=0) as file:
            return [file.read(PIECE) for _ in pieces]

    return [
        once("mmap", bare, role="limit", results=of_bare, operations=len(pieces)),
        *(
            once(name, partial(ours, library), role=name, results=partial(of_ours, library), operations=len(pieces))
            for name, library in sides()
        ),
        once(SMMAP_5, theirs, results=of_theirs, operations=len(pieces)),
        once("file.read", read, results=of_read, operations=len(pieces)),
    ]


@row("one slice of 24 MB, 64 KiB windows", limit="open, seek, read", fast=1.2, plain=NO_SLOWER)
def large(settings: Settings) -> list[Contender]:
    """A slice of many windows, few of which may be mapped; it is joined into one `bytes`."""
    path = file_of(64 * MIB)
    size = 24_000_000
    starts = [number * 5_000_000 + 12_345 for number in range(8)]

    def read() -> None:
        with open(path, "rb") as file:
            for start in starts:
                file.seek(start)
                file.read(size)

    def ours(library: Any) -> None:
        with library.SlidingWindowMapManager(64 * KIB, 4 * MIB) as manager, manager.buffer(path) as buffer:
            for start in starts:
                buffer[start : start + size]

    def slices(library: Any) -> list[bytes]:
        with library.SlidingWindowMapManager(64 * KIB, 4 * MIB) as manager, manager.buffer(path) as buffer:
            return [buffer[start : start + size] for start in starts]

    def theirs() -> list[bytes]:
        manager = peers.smmap5().SlidingWindowMapManager(64 * KIB, 4 * MIB)
        buffer = peers.smmap5().SlidingWindowMapBuffer(manager.make_cursor(path))
        return [buffer[start : start + size] for start in starts]

    def expected() -> list[bytes]:
        with open(path, "rb") as file:
            return [file.seek(start) and file.read(size) for start in starts]

    return [
        once("open, read", read, role="limit", results=expected, operations=len(starts)),
        *(
            once(name, partial(ours, library), role=name, results=partial(slices, library), operations=len(starts))
            for name, library in sides()
        ),
        once(SMMAP_5, theirs, results=theirs, operations=len(starts)),
    ]
