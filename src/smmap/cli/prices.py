"""The measured costs of a hit, a miss and a cold read on this machine, warm and from cold storage, in nanoseconds."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from random import Random
from time import perf_counter_ns
from typing import NamedTuple

from .. import SlidingWindowMapManager

__all__ = ["Prices", "measure"]

_WINDOW = 256 << 10
_SIZE = 64 << 20
_READ = 4096


class Prices(NamedTuple):
    """Nanoseconds per read of 4 KiB; those from storage are None if the system cannot drop a file from memory."""

    hit: float
    miss: float
    cold_read: float
    miss_from_storage: float | None
    read_from_storage: float | None

    def total(self, hits: float, misses: float, cold_reads: float, storage: bool = False) -> float | None:
        """Nanoseconds for these numbers of hits, misses and cold reads, or None."""
        miss, read = (self.miss_from_storage, self.read_from_storage) if storage else (self.miss, self.cold_read)
        return None if miss is None or read is None else hits * self.hit + misses * miss + cold_reads * read


def measure(folder: str | None = None) -> Prices:
    """Measure with a file of 64 MiB in a folder; takes about a second."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix="smmap-prices-") as file:
        block = Random(0).randbytes(1 << 20)
        for number in range(_SIZE >> 20):
            file.write(number.to_bytes(8, "little") + block[8:])
        file.flush()
        os.fsync(file.fileno())
        random = Random(1)
        places = [random.randrange(_SIZE // _READ) * _READ for _ in range(2000)]
        hit = _hits(file.name, places)
        miss = _misses(file.name, places)
        cold_read = _cold_reads(file.name, places)
        stored_miss = stored_read = None
        if _drop(file.name):
            stored_miss = _misses(file.name, places[:150], before=lambda: _drop(file.name))
            stored_read = _cold_reads(file.name, places[:150], before=lambda: _drop(file.name))
    cold_read = max(cold_read, hit)  # in case something else ran during the measurement
    return Prices(hit, max(miss, hit), cold_read, stored_miss, stored_read)


def _drop(path: str) -> bool:
    """Drop a file from the page cache; return whether the system can."""
    if not hasattr(os, "posix_fadvise"):
        return False
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _typical(times: list[int]) -> float:
    """The 10th percentile: the cost when nothing else runs, without rare lucky values."""
    return float(sorted(times)[len(times) // 10])


def _hits(path: str, places: list[int]) -> float:
    with SlidingWindowMapManager(0) as manager, manager.buffer(path) as data:
        data.view(0, 1)  # maps it
        times = []
        for _ in range(9):
            start = perf_counter_ns()
            for place in places:
                data[place : place + _READ]
            times.append((perf_counter_ns() - start) // len(places))
    return _typical(times)


def _misses(path: str, places: list[int], before: Callable[[], object] = int) -> float:
    """With a cursor under limits that keep next to nothing: each move unmaps one window, maps one, and faults it in."""
    with SlidingWindowMapManager(_WINDOW, 2 * _WINDOW) as manager, manager.make_cursor(path) as cursor:
        times = []
        last = -1
        for place in places:
            if place // _WINDOW == last:
                continue
            last = place // _WINDOW
            before()
            start = perf_counter_ns()
            bytes(cursor.use_region(place, _READ).buffer())
            times.append(perf_counter_ns() - start)
    return _typical(times)


def _cold_reads(path: str, places: list[int], before: Callable[[], object] = int) -> float:
    """With a buffer whose manager has no room to map: it reads by the cached descriptor."""
    times = []
    for at in range(0, len(places), 7):  # a new manager before the rent of any window reaches the price
        with SlidingWindowMapManager(_WINDOW, _WINDOW) as manager, manager.buffer(path) as data:
            data[0]
            for place in places[at : at + 7]:
                before()
                start = perf_counter_ns()
                data[place : place + _READ]
                times.append(perf_counter_ns() - start)
    return _typical(times)
