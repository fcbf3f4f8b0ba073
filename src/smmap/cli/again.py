"""Makes the reads of a trace again, for real: by a manager with given limits, on the same files or on stand-ins."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter_ns
from typing import NamedTuple

from .. import SlidingWindowMapManager, StaticWindowMapManager
from .._places import COPY, CURSOR
from .touches import Reads

__all__ = ["Measured", "again"]

_PIECE = 1 << 20


class Measured(NamedTuple):
    """What a manager did with the reads."""

    hits: int
    misses: int
    cold_reads: int
    ns_per_read: float
    peak_memory: int
    stand_ins: bool

    @property
    def miss_ratio(self) -> float:
        """The share of uses that did not find their window mapped."""
        uses = self.hits + self.misses + self.cold_reads
        return (self.misses + self.cold_reads) / uses if uses else 0.0


def again(
    reads: Reads, window: int, memory: int, handles: int, step: Callable[[str], None] = lambda name: None
) -> Measured:
    """Make the reads, in order; `step` is called a hundred times. For a sample, the limits are scaled down with it."""
    memory, handles = max(int(memory * reads.rate), 1), max(round(handles * reads.rate), 2)
    manager: StaticWindowMapManager = SlidingWindowMapManager(window, memory, handles)
    with _files(reads) as (paths, stand_ins), manager:
        buffers = [manager.buffer(path) for path in paths]
        cursors = [manager.make_cursor(path) for path in paths]
        rows = zip(reads.file.tolist(), reads.start.tolist(), reads.size.tolist(), reads.kind.tolist())
        total, every = 0, max(len(reads) // 100, 1)
        start = perf_counter_ns()
        for number, (file, low, size, kind) in enumerate(rows):
            if kind == COPY:
                data = buffers[file]
                for at in range(low, low + size, _PIECE):
                    data[at : min(at + _PIECE, low + size)]
            elif kind == CURSOR:
                cursors[file].use_region(low, size)
                cursors[file].unuse_region()
            else:
                buffers[file].view(low, low + size)
            if number % every == 0:
                total += perf_counter_ns() - start
                step("reading again")
                start = perf_counter_ns()
        total += perf_counter_ns() - start
        stats = manager.stats()
        for buffer in buffers:
            buffer.close()
    extra = reads.expected(len(reads)) - len(reads)  # for a sample: this many more (or fewer) would have been hits
    return Measured(
        max(stats.hits + extra, 0),
        stats.misses,
        stats.cold_reads,
        total / max(len(reads), 1),
        stats.peak_memory,
        stand_ins,
    )


@contextmanager
def _files(reads: Reads) -> Iterator[tuple[list[str], bool]]:
    """The files of a trace if all exist with the same sizes, otherwise empty files of those sizes."""
    sizes: list[int] = reads.file_sizes.tolist()
    if all(_has(path, size) for path, size in zip(reads.paths, sizes)):
        yield reads.paths, False
        return
    with tempfile.TemporaryDirectory(prefix="smmap-replay-") as folder:
        paths = []
        for number, size in enumerate(sizes):
            paths.append(os.path.join(folder, str(number)))
            with open(paths[-1], "wb") as file:
                file.truncate(size)  # takes no space
        yield paths, True


def _has(path: str, size: int) -> bool:
    try:
        return os.stat(path).st_size == size
    except OSError:
        return False
