"""Several threads on one manager: the work of one is divided among them.

With the global interpreter lock, the best result is that threads cost nothing. On a Python without it, reads
by threads with their own managers should run in parallel.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any, Callable

from . import cold, hits, peers
from .data import MIB, file_of, spread
from .engines import sides
from .harness import ENGINES, Aim, Build, Contender, Result, Settings, derived, loop, row

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


def rows(work: str, *, free: bool = False, **parameters: Any) -> Callable[[Build], Build]:
    """A row for 1, 2 and 4 threads."""

    def enter(build: Build) -> Build:
        for threads in (4, 2, 1):
            judged = threads > 1 and not free
            build = row(
                f"{work}, {threads} thread{'s' * (threads > 1)}" + (", free-threaded" if free else ""),
                limit="mmap, as many threads",
                fast=Aim(1.1, "fast, one thread") if judged else None,
                plain=Aim(1.1, "plain, one thread") if judged else None,
                figure="threads",
                panel=f"{work}{', free-threaded' if free else ''}",
                x=threads,
                quick=threads == 2 and not free and "one buffer" not in work,
                python="free-threaded" if free else "",
                threads=threads,
                **parameters,
            )(build)
        return build

    return enter


def contenders(
    threads: int,
    expression: str,
    positions: Sequence[int],
    own: Callable[[Any], Callable[[], dict[str, Any]]],
    bare: str,
    given: Callable[[], dict[str, Any]],
) -> list[Contender]:
    """Ours with one thread and with several, and the same without smmap.

    `own(library)` returns a function that is called for each thread: it provides the names of its expression besides
    `i`.
    """

    def crews(name: str, expression: str, make: Callable[[], dict[str, Any]], role: str) -> list[Contender]:
        several = [crew(name, expression, positions, [make() for _ in range(threads)], role)]
        if threads > 1:
            several.append(crew(f"{name}, one thread", expression, positions, [make()], "peer"))
        return several

    made = crews("mmap", bare, given, "limit")
    for name, library in sides():
        made += crews(name, expression, own(library), name)
    return made


@rows("hits")
@rows("hits, one buffer", shared=True)
@rows("hits, a manager each", free=True, managers=True)
@rows("hits, one manager", free=True)
@rows("hits, one buffer", free=True, shared=True)
def hit(settings: Settings, threads: int, shared: bool = False, managers: bool = False) -> list[Contender]:
    """Copies of 4 KiB from windows that are all mapped; by default each thread has its own buffer of one manager."""
    path = file_of(hits.LENGTH)

    def own(library: Any) -> Callable[[], dict[str, Any]]:
        manager = hits.mapping_all(library, MIB)
        first = manager.buffer(path)

        def make() -> dict[str, Any]:
            if shared:
                return {"buf": first}
            return {"buf": (hits.mapping_all(library, MIB) if managers else manager).buffer(path)}

        return make

    whole = peers.mapped(path)
    return contenders(
        threads,
        "buf[i:i + 4096]",
        spread(settings.few(COUNT), 0, hits.LENGTH, 4096),
        own,
        "buf[i:i + 4096]",
        lambda: {"buf": whole if shared else peers.mapped(path)},
    )


@derived(
    "hits, a manager each: 2 threads / 1, free-threaded",
    limit="what 2 threads take of the time of 1 on bare mmaps",
    fast=1.11,
    rows=("hits, a manager each, 2 threads, free-threaded",),
)
def scaling(two: Result) -> dict[str, float]:
    """The scaling is 0.9 of that of bare maps, if the time grows by 1.11 of theirs."""
    found = {}
    for name, role in (("mmap", "limit"), *((engine, engine) for engine in ENGINES)):
        several, one = two.contenders.get(name), two.contenders.get(f"{name}, one thread")
        if several is not None and one is not None:
            found[role] = several.least / one.least
    return found


@rows("misses, buffer")
def miss(settings: Settings, threads: int) -> list[Contender]:
    """Copies of 4 KiB all over 256 MiB, of which 16 may be mapped."""
    path, positions = file_of(cold.LENGTH), cold.positions_of(settings, "uniform")
    descriptor = os.open(path, os.O_RDONLY)

    def own(library: Any) -> Callable[[], dict[str, Any]]:
        manager = library.SlidingWindowMapManager(cold.WINDOW, 16 * MIB)
        return lambda: {"buf": manager.buffer(path)}

    bare = "pread(fd, 4096, i)"
    return contenders(threads, "buf[i:i + 4096]", positions, own, bare, lambda: {"pread": os.pread, "fd": descriptor})


@rows("misses, cursor")
def move(settings: Settings, threads: int) -> list[Contender]:
    """The same with cursors, which map."""
    path = file_of(cold.LENGTH)
    descriptor = os.open(path, os.O_RDONLY)

    def own(library: Any) -> Callable[[], dict[str, Any]]:
        manager = library.SlidingWindowMapManager(cold.WINDOW, 16 * MIB)
        return lambda: {"cursor": manager.make_cursor(path)}

    window = peers.lru_of_windows(descriptor, cold.WINDOW, 16)
    return contenders(
        threads,
        "bytes(cursor.use_region(i, 4096).buffer())",
        cold.positions_of(settings, "uniform"),
        own,
        f"window(i >> 20){cold.SLICE}",
        lambda: {"window": window},
    )
