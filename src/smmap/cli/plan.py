"""The reads of a run: the same list for every contender, generated from the seed. Pure, no I/O."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from random import Random

from .files import File

__all__ = ["PATTERNS", "Read", "make_plan"]

PATTERNS = ("random", "zipf", "sequential")
GOLDEN = 0.6180339887498949

Read = tuple[str, int, int]  # path, offset, size


def make_plan(files: Sequence[File], pattern: str, count: int, size: int, seed: int) -> list[Read]:
    """`count` reads of `size` bytes, or of fewer bytes at the end of a file."""
    make = {"random": _random, "zipf": _zipf, "sequential": _sequential}[pattern]
    return [
        (file.path, offset, min(size, file.size - offset))
        for file, offset in itertools.islice(make(files, size, Random(seed)), count)
    ]


def _random(files: Sequence[File], size: int, random: Random) -> Iterator[tuple[File, int]]:
    """Every byte of every file is equally likely to be the first of a read."""
    ends = list(itertools.accumulate(file.size for file in files))
    while True:
        position = random.randrange(ends[-1])
        file = files[bisect_right(ends, position)]
        yield file, position - ends[bisect_right(ends, position)] + file.size


def _zipf(files: Sequence[File], size: int, random: Random) -> Iterator[tuple[File, int]]:
    """The file of rank r is read in proportion to 1/r, and so is the block of rank r in it."""
    ranked = random.sample(files, len(files))
    while True:
        file = ranked[_rank(len(ranked), random)]
        blocks = -(-file.size // size)
        yield file, _rank(blocks, random) * _stride(blocks) % blocks * size


def _rank(count: int, random: Random) -> int:
    """A rank below `count`; under Zipf's law the logarithm of a rank is evenly distributed."""
    return int((count + 1) ** random.random()) - 1


def _stride(count: int) -> int:
    """Steps of this size visit all of `count` blocks; near the golden ratio they spread the popular ones evenly."""
    return next(stride for stride in itertools.count(int(count * GOLDEN) + 1) if math.gcd(stride, count) == 1)


def _sequential(files: Sequence[File], size: int, random: Random) -> Iterator[tuple[File, int]]:
    """Every file from start to end, then again from the first file."""
    return itertools.cycle((file, offset) for file in files for offset in range(0, file.size, size))
