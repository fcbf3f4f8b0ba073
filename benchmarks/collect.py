"""Unmapping idle regions: the cost per region must not depend on how many there are."""

from __future__ import annotations

import os
from typing import Any

from . import peers
from .data import directory
from .engines import sides
from .files import growth
from .harness import NO_SLOWER, SMMAP_5, Aim, Build, Contender, Result, Settings, derived, once, row

WINDOW = 2 * 4096


def sparse(size: int) -> str:
    """The path of a file of that length, which is empty except for a byte in each window."""
    path = directory("data") / f"sparse-{size}"
    if not path.exists() or path.stat().st_size != size:
        with path.open("wb") as file:
            for start in range(0, size, WINDOW):
                file.seek(start)
                file.write(b"%d" % (start % 9))
            file.truncate(size)
    return str(path)


def rows(build: Build) -> Build:
    """A row for each number of regions."""
    for count in (30_000, 10_000, 3000, 1000):
        build = row(
            f"collect, N = {count:,}",
            limit="closing N mmaps",
            fast=None if count == 3000 else 0.9,
            plain=NO_SLOWER if count in (1000, 10_000) else None,
            figure="collect",
            panel="a region",
            x=count,
            quick=count == 1000,
            count=count,
        )(build)
    return build


@rows
def collect(settings: Settings, count: int) -> list[Contender]:
    """`manager.collect()` with so many idle regions of one file, after one byte of each was read."""
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

    contenders = [once("mmap.close", close_all, role="limit", results=lambda: [count], setup=map_all, operations=count)]
    for name, library in sides():
        own = library.SlidingWindowMapManager(WINDOW, max_open_handles=40_000)
        contenders.append(once(name, own.collect, role=name, setup=use_all(own), operations=count))
    if count <= (1000 if settings.quick else 10_000):
        # Its regions keep a descriptor each, and it takes minutes for more.
        old = peers.smmap5().SlidingWindowMapManager(WINDOW, max_open_handles=40_000)
        contenders.append(once(SMMAP_5, old.collect, setup=use_all(old), operations=count))
    return contenders


@derived(
    "collect, flat: 30,000 / 1,000",
    limit="the growth of the limit's time",
    fast=1.1,
    plain=Aim(1.1),
    rows=("collect, N = 1,000", "collect, N = 30,000"),
)
def flat(small: Result, large: Result) -> dict[str, float]:
    """How much faster our time per region grows than the limit's."""
    return growth(small, large)
