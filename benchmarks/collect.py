"""Unloading what is idle: the cost of a region must not depend on how many there are."""

from __future__ import annotations

import os
from typing import Any

import smmap

from . import peers
from .data import directory
from .files import growth
from .harness import NO_SLOWER, SMMAP_5, Contender, Derived, Result, Settings, derived, once, row

WINDOW = 2 * 4096


def sparse(size: int) -> str:
    """The path of a file that is that long and holds nothing, but a byte in each window."""
    path = directory("data") / f"sparse-{size}"
    if not path.exists() or path.stat().st_size != size:
        with path.open("wb") as file:
            for start in range(0, size, WINDOW):
                file.seek(start)
                file.write(b"%d" % (start % 9))
            file.truncate(size)
    return str(path)


@row(
    "collect, N = 1,000",
    limit="closing N mmaps",
    goal=NO_SLOWER,
    against=SMMAP_5,
    figure="collect",
    panel="a region",
    x=1000,
    count=1000,
)
@row("collect, N = 3,000", limit="closing N mmaps", figure="collect", panel="a region", x=3000, count=3000, quick=False)
@row(
    "collect, N = 10,000",
    limit="closing N mmaps",
    goal=NO_SLOWER,
    against=SMMAP_5,
    figure="collect",
    panel="a region",
    x=10000,
    count=10000,
    quick=False,
)
@row("collect, N = 30,000", limit="closing N mmaps", figure="collect", panel="a region", x=30000, count=30000)
def collect(settings: Settings, count: int) -> list[Contender]:
    """`manager.collect()` with so many idle regions of one file, of each of which a byte was read."""
    path = sparse(count * WINDOW)
    descriptor = os.open(path, os.O_RDONLY)
    offsets = range(0, count * WINDOW, WINDOW)
    maps: list[Any] = []

    def map_all() -> None:
        maps[:] = [peers.map_at(descriptor, WINDOW, offset) for offset in offsets]
        for one in maps:
            one[0]

    def close_all() -> None:
        for one in maps:
            one.close()

    def use_all(manager: Any) -> Any:
        def use() -> None:
            cursor = manager.make_cursor(path)
            for offset in offsets:
                cursor.use_region(offset, WINDOW).buffer()[0]
            cursor.unuse_region()

        return use

    own = smmap.SlidingWindowMapManager(WINDOW, max_open_handles=40_000)
    contenders = [
        once("mmap.close", close_all, role="limit", results=lambda: [count], setup=map_all, operations=count),
        once("smmap", own.collect, role="ours", setup=use_all(own), operations=count),
    ]
    if count <= (1000 if settings.quick else 10_000):
        # Its regions keep a descriptor each, and it needs minutes for more.
        old = peers.smmap5().SlidingWindowMapManager(WINDOW, max_open_handles=40_000)
        contenders.append(once(SMMAP_5, old.collect, setup=use_all(old), operations=count))
    return contenders


@derived(
    "collect, flat: 30,000 / 1,000",
    limit="the growth of the limit's time",
    goal=1.1,
    rows=("collect, N = 1,000", "collect, N = 30,000"),
)
def flat(small: Result, large: Result) -> Derived:
    """How much faster our time for a region grows than the limit's."""
    return growth(small, large)
