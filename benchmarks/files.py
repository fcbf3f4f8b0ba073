"""Random reads of many files, more than may be open at a time, and of files that are opened for one read."""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Sequence
from typing import Any, Callable

from . import peers
from .data import KIB, MIB, directory, files_of, spread
from .engines import sides
from .harness import (
    AT_MOST_DEARER,
    ENGINES,
    NO_SLOWER,
    SMMAP_5,
    Aim,
    Build,
    Contender,
    Result,
    Settings,
    derived,
    loop,
    row,
)

SIZE = 64 * KIB
HANDLES = 256
COUNT = 16384
LIMIT = "the better of lru_cache of mmaps and os.pread with an LRU of descriptors"
OPENED = 2000


def rows(build: Build) -> Build:
    """A row for each number of files of 64 KiB."""
    for count in (10_000, 3000, 1000, 300, 100):
        main = count in (100, 1000, 10_000)
        build = row(
            f"files, F = {count:,}",
            limit=LIMIT,
            fast=Aim(1.05, stretch=0.85) if main else None,
            # smmap 5's buffers pin one map each; it takes minutes for 10,000.
            plain=NO_SLOWER if main and count <= 1000 else None,
            figure="files",
            panel="buffers kept open",
            x=count,
            quick=count == 1000,
            count=count,
        )(build)
    return build


@rows
def kept(settings: Settings, count: int) -> list[Contender]:
    """A buffer for each file; a file holds 64 KiB, 256 maps and descriptors are allowed."""
    paths = files_of(count, SIZE)
    positions = spread(settings.few(COUNT), 0, count * SIZE, 4096, SIZE)
    contenders = contenders_of(paths, positions, 16)
    if not settings.quick:
        ragged = peers.ragged(directory(f"data/ragged-{count}x{SIZE}"), paths)
        read = "ragged[i >> 16][i & 65535:(i & 65535) + 4096].tobytes()"
        contenders.append(loop("mmap_ninja", read, positions, ragged=ragged))
    return contenders


@row("files, 2,000 of 1 MiB, zipf", limit=LIMIT, fast=Aim(1.05, stretch=0.85), plain=NO_SLOWER, quick=False)
def popular(settings: Settings) -> list[Contender]:
    """The same with larger files, of which few are read often: the r-th with probability proportional to 1/r."""
    count = 2000
    source = random.Random(5)
    order = source.sample(range(count), count)
    chosen = source.choices(order, [1 / rank for rank in range(1, count + 1)], k=COUNT)
    positions = [number * MIB + source.randrange(MIB - 4096) for number in chosen]
    return contenders_of(files_of(count, MIB), positions, 20)


def contenders_of(paths: Sequence[str], positions: Sequence[int], bits: int) -> list[Contender]:
    """All ways to read 4 KiB of a file of so many; the file's number is above so many bits of a position."""
    within = f"i & {(1 << bits) - 1}"
    cut = f"[{within}:({within}) + 4096]"
    maps = peers.lru_of_files(paths, HANDLES)
    read = f"pread(opened(i >> {bits}).number, 4096, {within})"
    opened = peers.lru_of_descriptors(paths, HANDLES)
    contenders = [
        loop("lru_cache", f"window(i >> {bits}){cut}", positions, role="limit", window=maps),
        loop("os.pread, LRU", read, positions, role="limit", pread=os.pread, opened=opened),
    ]
    for name, library in sides():
        manager = library.SlidingWindowMapManager(max_open_handles=HANDLES)
        buffers = [manager.buffer(path) for path in paths]
        contenders.append(loop(name, f"buffers[i >> {bits}]{cut}", positions, role=name, buffers=buffers))
    window = peers.cachetools_of(maps.__wrapped__, HANDLES)
    contenders.append(loop("cachetools", f"window(i >> {bits}){cut}", positions, window=window))
    if len(paths) > 3000:
        return contenders
    # smmap 5's buffers keep their regions, so 256 handles are enough for 256 of them; its cursors can unpin theirs.
    old = peers.smmap5().SlidingWindowMapManager(max_open_handles=HANDLES)
    cursors = [old.make_cursor(path) for path in paths]

    def theirs(number: int, offset: int) -> bytes:
        cursor = cursors[number]
        data = bytes(cursor.use_region(offset, 4096).buffer()[:4096])
        cursor.unuse_region()
        return data

    return [*contenders, loop(SMMAP_5, f"read(i >> {bits}, {within})", positions, read=theirs)]


@derived(
    "files, flat in F: 10,000 / 1,000",
    limit="the growth of the limit's time",
    fast=1.1,
    plain=Aim(1.1),
    rows=("files, F = 1,000", "files, F = 10,000"),
)
def flat(small: Result, large: Result) -> dict[str, float]:
    """How much faster our time grows than the limit's, beyond 256 files."""
    return growth(small, large)


def growth(small: Result, large: Result) -> dict[str, float]:
    """Our growth and the limit's."""
    both = ((role, large.best(role), small.best(role)) for role in ("limit", *ENGINES))
    return {role: after / before for role, after, before in both if after and before}


@row("open, 100 bytes, close: smmap.buffer", limit="os.open, fstat, pread, close", fast=1.35, plain=AT_MOST_DEARER)
def small(settings: Settings) -> list[Contender]:
    """2,000 files of 64 KiB, each opened for one read of 100 bytes."""
    paths = files_of(OPENED, SIZE)

    def bare(path: str) -> bytes:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(number).st_size
            return os.pread(number, 100, size - 5000)
        finally:
            os.close(number)

    def ours(buffer: Callable[[str], Any]) -> Callable[[str], bytes]:
        def read(path: str) -> bytes:
            with buffer(path) as buf:
                data: bytes = buf[-5000:-4900]
                return data

        return read

    old = peers.smmap5()
    manager = old.SlidingWindowMapManager(max_open_handles=HANDLES)

    def theirs(path: str) -> bytes:
        buf = old.SlidingWindowMapBuffer(manager.make_cursor(path))
        try:
            return bytes(buf[-5000:-4900])
        finally:
            buf.end_access()

    order = random.Random(6).sample(range(OPENED), OPENED)
    return [
        loop("os.open", "read(paths[i])", order, role="limit", read=bare, paths=paths),
        *(
            loop(name, "read(paths[i])", order, role=name, read=ours(library.buffer), paths=paths)
            for name, library in sides()
        ),
        loop(SMMAP_5, "read(paths[i])", order, read=theirs, paths=paths),
    ]


@row("open, 100 bytes, close: smmap.open", limit='open(path, "rb")', fast=1.2)
def small_file(settings: Settings) -> list[Contender]:
    """The same with file objects."""
    paths = files_of(OPENED, SIZE)

    def by(opened: Callable[[str], Any]) -> Callable[[str], bytes]:
        def read(path: str) -> bytes:
            with opened(path) as file:
                file.seek(60_000)
                data: bytes = file.read(100)
                return data

        return read

    order = random.Random(6).sample(range(OPENED), OPENED)
    return [
        loop("open", "read(paths[i])", order, role="limit", read=by(functools.partial(open, mode="rb")), paths=paths),
        *(
            loop(name, "read(paths[i])", order, role=name, read=by(library.open), paths=paths)
            for name, library in sides()
        ),
    ]
