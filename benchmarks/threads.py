"""Several threads on one manager: the work of one is divided among them.

With the global interpreter lock no more can be hoped for than that this costs nothing. On a Python without it, reads
by threads of their own buffers should run side by side.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any, Callable

import smmap

from . import cold, hits, peers
from .data import MIB, file_of, spread
from .harness import Build, Contender, Settings, loop, row

COUNT = 40_000


def crew(name: str, expression: str, positions: Sequence[int], names: Sequence[dict[str, Any]], role: str) -> Contender:
    """A contender of one thread for each of `names`, which evaluates the expression for its part of the positions."""
    parts = [loop(name, expression, positions[number :: len(names)], **own) for number, own in enumerate(names)]

    def run(passes: int) -> None:
        threads = [threading.Thread(target=part.run, args=(passes,)) for part in parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def results() -> Any:
        """In the order of the positions."""
        streams = [iter(part.results()) for part in parts]
        for number in range(len(positions)):
            yield next(streams[number % len(streams)])

    return Contender(name, run, results, role=role, operations=len(positions))


def rows(work: str, *, shared: Sequence[bool] = (False,), free: bool = False) -> Callable[[Build], Build]:
    """A row for 1, 2 and 4 threads."""

    def enter(build: Build) -> Build:
        for one in reversed(shared):
            for threads in (4, 2, 1):
                build = row(
                    f"{work}{', one buffer' if one else ''}, {threads} thread{'s' * (threads > 1)}"
                    + (", free-threaded" if free else ""),
                    limit="mmap, one thread" if threads == 1 else "smmap, one thread",
                    figure="threads",
                    panel=f"{work}{', one buffer' if one else ''}{', free-threaded' if free else ''}",
                    x=threads,
                    quick=threads == 2,
                    free_threaded=free,
                    threads=threads,
                    **({"shared": one} if len(shared) > 1 else {}),
                )(build)
        return build

    return enter


def contenders(
    threads: int, expression: str, positions: Sequence[int], own: Any, bare: str, given: Any
) -> list[Contender]:
    """Ours with one thread and with several, and the same without smmap."""
    several = [
        crew("smmap", expression, positions, [own() for _ in range(threads)], "ours"),
        crew("mmap", bare, positions, [given() for _ in range(threads)], "peer" if threads > 1 else "limit"),
    ]
    if threads > 1:
        several.insert(0, crew("smmap, one thread", expression, positions, [own()], "limit"))
        several.append(crew("mmap, one thread", bare, positions, [given()], "peer"))
    return several


@rows("hits", shared=(False, True))
@rows("hits", shared=(False, True), free=True)
def hit(settings: Settings, threads: int, shared: bool) -> list[Contender]:
    """Copies of 4 KiB, of windows that are all mapped."""
    path = file_of(hits.LENGTH)
    manager = hits.mapping_all(smmap, MIB)
    first = manager.buffer(path)
    whole = peers.mapped(path)
    return contenders(
        threads,
        "buf[i:i + 4096]",
        spread(settings.few(COUNT), 0, hits.LENGTH, 4096),
        lambda: {"buf": first if shared else manager.buffer(path)},
        "buf[i:i + 4096]",
        lambda: {"buf": whole if shared else peers.mapped(path)},
    )


@rows("misses, buffer")
def miss(settings: Settings, threads: int) -> list[Contender]:
    """Copies of 4 KiB all over 256 MiB, of which 16 may be mapped."""
    path, positions = file_of(cold.LENGTH), cold.positions_of(settings, "uniform")
    manager = smmap.SlidingWindowMapManager(cold.WINDOW, 16 * MIB)
    descriptor = os.open(path, os.O_RDONLY)
    return contenders(
        threads,
        "buf[i:i + 4096]",
        positions,
        lambda: {"buf": manager.buffer(path)},
        "pread(fd, 4096, i)",
        lambda: {"pread": os.pread, "fd": descriptor},
    )


@rows("misses, cursor")
def move(settings: Settings, threads: int) -> list[Contender]:
    """The same by cursors, which map."""
    path = file_of(cold.LENGTH)
    manager = smmap.SlidingWindowMapManager(cold.WINDOW, 16 * MIB)
    descriptor = os.open(path, os.O_RDONLY)
    window = peers.lru_of_windows(descriptor, cold.WINDOW, 16)
    return contenders(
        threads,
        "bytes(cursor.use_region(i, 4096).buffer())",
        cold.positions_of(settings, "uniform"),
        lambda: {"cursor": manager.make_cursor(path)},
        f"window(i >> 20){cold.SLICE}",
        lambda: {"window": window},
    )
