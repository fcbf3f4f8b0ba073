"""Random reads of more than may stay mapped: 256 MiB in windows of 1 MiB."""

from __future__ import annotations

import os
from typing import Any, Callable

from . import peers
from .data import MIB, file_of, spread, walk, zipf
from .engines import sides
from .harness import AT_MOST_DEARER, NO_SLOWER, SMMAP_5, Aim, Build, Contender, Settings, loop, row

LENGTH = 256 * MIB
WINDOW = MIB
SIZE = 4096
COUNT = 16384
SLICE = "[i & 1048575:(i & 1048575) + 4096]"
PREAD = "the better of os.pread and lru_cache of mmaps"
LRU = "lru_cache of mmaps"


def positions_of(settings: Settings, pattern: str) -> list[int]:
    """Where reads start; none crosses a window's border."""
    count = settings.few(COUNT)
    if pattern == "uniform":
        return spread(count, 0, LENGTH, SIZE, WINDOW)
    return zipf(count, LENGTH, SIZE) if pattern == "zipf" else walk(count, LENGTH, SIZE)


def others(path: str, positions: list[int], limit: int, pread: str) -> list[Contender]:
    """The alternatives: pread, and caches of as many maps as fit within the memory limit."""
    descriptor = os.open(path, os.O_RDONLY)
    count = limit // WINDOW
    cached = peers.lru_of_windows(descriptor, WINDOW, count)
    return [
        loop("os.pread", "pread(fd, 4096, i)", positions, role=pread, pread=os.pread, fd=descriptor),
        loop("lru_cache", f"window(i >> 20){SLICE}", positions, role="limit", window=cached),
        loop("cachetools", f"window(i >> 20){SLICE}", positions, window=peers.cachetools_of(cached.__wrapped__, count)),
    ]


def rows(interface: str, limit: str, fast: dict[str, Aim], plain: float) -> Callable[[Build], Build]:
    """A row for each pattern and each memory limit; there are aims for 16 MiB."""

    def enter(build: Build) -> Build:
        for pattern in ("walk", "zipf", "uniform"):
            for megabytes in (256, 128, 64, 16, 4):
                main = megabytes == 16
                build = row(
                    f"{interface} cold, {pattern}" if main else f"{interface} cold, {pattern}, {megabytes} MiB",
                    limit=limit,
                    fast=fast[pattern] if main else None,
                    plain=plain if main else None,
                    figure="cold",
                    panel=f"{interface}, {pattern}",
                    x=megabytes,
                    quick=main,
                    pattern=pattern,
                    memory=megabytes * MIB,
                )(build)
        return build

    return enter


@rows("buffer", PREAD, {"uniform": Aim(1.15), "zipf": Aim(1.1), "walk": Aim(1.0)}, NO_SLOWER)
def buffer(settings: Settings, pattern: str, memory: int) -> list[Contender]:
    """Copies, for which smmap may read instead of mapping."""
    path, positions = file_of(LENGTH), positions_of(settings, pattern)

    def contender(name: str, library: Any, role: str) -> Contender:
        manager = library.SlidingWindowMapManager(WINDOW, memory)
        buf = library.SlidingWindowMapBuffer(manager.make_cursor(path))
        return loop(name, "buf[i:i + 4096]", positions, role=role, buf=buf)

    contenders = [
        *others(path, positions, memory, "limit"),
        *(contender(name, library, name) for name, library in sides()),
        contender(SMMAP_5, peers.smmap5(), "peer"),
    ]
    if not settings.quick and memory == 16 * MIB:
        import numpy as np

        kept, anew = "buf[i:i + 4096].tobytes()", "memmap(path, mode='r')[i:i + 4096].tobytes()"
        contenders.append(loop("np.memmap kept", kept, positions, buf=np.memmap(path, mode="r")))
        contenders.append(loop("np.memmap anew", anew, positions, memmap=np.memmap, path=path))
    return contenders


@rows("cursor", LRU, dict.fromkeys(("uniform", "zipf", "walk"), Aim(1.15, stretch=1.0)), AT_MOST_DEARER)
def cursor(settings: Settings, pattern: str, memory: int) -> list[Contender]:
    """Copies made from a cursor's view, which always maps."""
    path, positions = file_of(LENGTH), positions_of(settings, pattern)

    def contender(name: str, library: Any, role: str) -> Contender:
        mover = library.SlidingWindowMapManager(WINDOW, memory).make_cursor(path)
        return loop(name, "bytes(cursor.use_region(i, 4096).buffer())", positions, role=role, cursor=mover)

    return [
        *others(path, positions, memory, "peer"),
        *(contender(name, library, name) for name, library in sides()),
        contender(SMMAP_5, peers.smmap5(), "peer"),
    ]
