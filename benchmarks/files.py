"""Random reads of many small files, more than may be open at a time."""

from __future__ import annotations

import os

import smmap

from . import peers
from .data import KIB, directory, files_of, spread
from .harness import NO_SLOWER, SMMAP_5, Contender, Derived, Result, Settings, derived, loop, row

SIZE = 64 * KIB
HANDLES = 256
COUNT = 16384
SLICE = "[i & 65535:(i & 65535) + 4096]"
LIMIT = "the better of lru_cache of mmaps and os.pread with an LRU of descriptors"


@row(
    "files, F = 100",
    limit=LIMIT,
    goal=NO_SLOWER,
    against=SMMAP_5,
    figure="files",
    panel="buffers kept open",
    x=100,
    count=100,
)
@row("files, F = 300", limit=LIMIT, figure="files", panel="buffers kept open", x=300, count=300, quick=False)
@row(
    "files, F = 1,000",
    limit=LIMIT,
    goal=NO_SLOWER,
    against=SMMAP_5,
    figure="files",
    panel="buffers kept open",
    x=1000,
    count=1000,
)
@row("files, F = 3,000", limit=LIMIT, figure="files", panel="buffers kept open", x=3000, count=3000, quick=False)
@row(
    "files, F = 10,000",
    limit=LIMIT,
    goal=NO_SLOWER,
    against=SMMAP_5,
    figure="files",
    panel="buffers kept open",
    x=10000,
    count=10000,
)
def kept(settings: Settings, count: int) -> list[Contender]:
    """A buffer for each file; a file holds 64 KiB, 256 maps and descriptors are allowed."""
    paths = files_of(count, SIZE)
    positions = spread(settings.few(COUNT), 0, count * SIZE, 4096, SIZE)
    manager = smmap.SlidingWindowMapManager(max_open_handles=HANDLES)
    maps = peers.lru_of_files(paths, HANDLES)
    contenders = [
        loop("lru_cache", f"window(i >> 16){SLICE}", positions, role="limit", window=maps),
        loop(
            "os.pread, LRU",
            "pread(opened(i >> 16).number, 4096, i & 65535)",
            positions,
            role="limit",
            pread=os.pread,
            opened=peers.lru_of_descriptors(paths, HANDLES),
        ),
        loop(
            "smmap",
            f"buffers[i >> 16]{SLICE}",
            positions,
            role="ours",
            buffers=[manager.buffer(path) for path in paths],
        ),
        loop(
            "cachetools",
            f"window(i >> 16){SLICE}",
            positions,
            window=peers.cachetools_of(maps.__wrapped__, HANDLES),
        ),
    ]
    if settings.quick and count > 1000:
        return contenders
    # smmap 5's buffers hold their regions, so that 256 handles are enough for 256 of them; its cursors can let go.
    old = peers.smmap5().SlidingWindowMapManager(max_open_handles=HANDLES)
    cursors = [old.make_cursor(path) for path in paths]

    def read(number: int, offset: int) -> bytes:
        cursor = cursors[number]
        data = bytes(cursor.use_region(offset, 4096).buffer()[:4096])
        cursor.unuse_region()
        return data

    ragged = peers.ragged(directory(f"data/ragged-{count}x{SIZE}"), paths)
    return [
        *contenders,
        loop(SMMAP_5, "read(i >> 16, i & 65535)", positions, read=read),
        loop("mmap_ninja", f"ragged[i >> 16]{SLICE}.tobytes()", positions, ragged=ragged),
    ]


@derived(
    "files, flat in F: 10,000 / 1,000",
    limit="the growth of the limit's time",
    goal=1.1,
    rows=("files, F = 1,000", "files, F = 10,000"),
)
def flat(small: Result, large: Result) -> Derived:
    """How much faster our time grows than the limit's, beyond 256 files."""
    return growth(small, large)


def growth(small: Result, large: Result) -> Derived:
    """Our growth and the limit's."""
    ours, limit = ((large.best(role) or 0) / (small.best(role) or 1) for role in ("ours", "limit"))
    return Derived(limit, ours)
