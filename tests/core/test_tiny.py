"""Truly every request: windows of a few bytes, every offset and size of small files, against `bytes`.

The granularity is the system's, so each run has an interpreter of its own in which a smaller one is put in place before
the library is imported; files are read instead of mapped there, which needs no alignment.
"""

from __future__ import annotations

import sys

import pytest

from ._tools import PYPY, run_python

PREPARE = """
import mmap, sys
granule, window, handles = map(int, sys.argv[2:5])
memory = 3 * window if handles < sys.maxsize else 0
mmap.ALLOCATIONGRANULARITY = granule
from mmap import ALLOCATIONGRANULARITY
import hashlib, itertools, logging, random
logging.getLogger("smmap").setLevel("ERROR")  # that views exceed such limits is known
from pathlib import Path
import smmap

lengths = range(1, 3 * window + granule + 2)
if window > 4:
    lengths = [length for length in lengths if length % (window // 2) in (0, 1, window // 2 - 1)]

def make(size):
    data = hashlib.shake_128(b"%d" % size).digest(size)
    path = Path(sys.argv[1]) / f"{size}-{granule}-{window}"
    path.write_bytes(data)
    manager = smmap.SlidingWindowMapManager(window, memory, handles, backing="read")
    assert manager.window_size() == window
    return data, path, manager

def finish(manager):
    manager._check()
    manager.collect()
    stats = manager.stats()
    assert stats[:4] == (0,) * 4 and stats.mapped_memory == 0, stats
"""

CURSOR = """
for length in lengths:
    data, path, manager = make(length)
    requests = list(itertools.product(range(length + 2), range(length + 3)))
    random.Random(length).shuffle(requests)
    with manager.make_cursor(path) as cursor:
        for offset, size in requests:
            cursor.use_region(offset, size)
            case = (offset, size, window, length)
            assert cursor.is_valid() == (offset < length), case
            if offset >= length:
                continue
            got = cursor.size()
            if size:
                assert got == min(size, window, length - offset), case
            else:
                assert min(window // 2, length - offset) <= got <= min(window, length - offset), case
                assert cursor.ofs_end() in (length, *range(window // 2, length, window // 2)), case
            assert (cursor.ofs_begin(), cursor.ofs_end()) == (offset, offset + got), case
            assert cursor.buffer() == data[offset:offset + got], case
            first = cursor.region().ofs_begin()
            assert first % granule == 0 and first <= offset, case
            assert cursor.map()[offset - first:offset - first + got] == data[offset:offset + got], case
        manager._check()
    finish(manager)
"""

BUFFER = """
for length in lengths:
    data, path, manager = make(length)
    cursor = manager.make_cursor(path)
    whole = smmap.SlidingWindowMapBuffer(cursor)
    for start in range(length + 1):
        for stop in range(start, length + 2):
            assert whole[start:stop] == data[start:stop], (start, stop, length)
            assert whole.view(start, stop) == data[start:stop], (start, stop, length)
        step, low = 1 + start % 4, start - length - 1
        ends = [(start, None, step), (None, start, -step), (low, None), (start, low), (low, start)]
        for odd in (slice(*bounds) for bounds in ends):
            assert whole[odd] == data[odd], (odd, length)
    for offset, size in itertools.product(range(length), (0, 1, window, length)):
        part = smmap.SlidingWindowMapBuffer(cursor, offset, size)
        want = data[offset:offset + size]
        assert len(part) == len(want)
        assert part[:] == want and bytes(iter(part)) == want and part == want
        for start in range(len(want)):
            assert part[start] == want[start] and part[start - len(want)] == want[start]
            assert part[start:start + 3] == want[start:start + 3]
        needle = want[len(want) // 2:][:5]
        assert part.find(needle) == want.find(needle) and part.rfind(needle) == want.rfind(needle)
        part.close()
    whole.close()
    cursor.close()
    finish(manager)
"""

SEARCH = """
for length in lengths:
    path = Path(sys.argv[1]) / f"search{length}-{granule}-{window}"
    chance = random.Random(length)
    data = bytes(chance.choice(b"ab") for _ in range(length))
    path.write_bytes(data)
    manager = smmap.SlidingWindowMapManager(window, memory, handles, backing="read")
    buffer = smmap.SlidingWindowMapBuffer(manager.make_cursor(path))
    needles = [bytes(letters) for size in range(4) for letters in itertools.product(b"ab", repeat=size)]
    needles += [data, data[1:], data[:-1], data + b"a", data[length // 3:], 97, 98, 99]
    for needle in needles:
        for start, stop in [(None, None), *itertools.product(range(0, length + 2, 1 + length // 5), repeat=2)]:
            case = (needle, start, stop, data)
            assert buffer.find(needle, start, stop) == data.find(needle, start, stop), case
            assert buffer.rfind(needle, start, stop) == data.rfind(needle, start, stop), case
            assert buffer.count(needle, start, stop) == data.count(needle, start, stop), case
    buffer.close()
    finish(manager)
"""

GRANULES = [(1, 2, 1), (1, 8, 3), (2, 4, 2), (2, 12, 1), (4, 8, 3)]


@pytest.mark.parametrize("script", [CURSOR, BUFFER, SEARCH], ids=["cursor", "buffer", "search"])
@pytest.mark.parametrize(("granule", "window", "handles"), GRANULES)
def test_every_pair(script: str, granule: int, window: int, handles: int, tmp_path: object) -> None:
    # Without limits on PyPy: each miss would collect garbage
    run_python(PREPARE + script, tmp_path, granule, window, sys.maxsize if PYPY else handles)
