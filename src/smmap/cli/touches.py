"""From a trace to the windows that its reads touch, for any window size. Knows only numbers; needs numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._places import COPY, FULL, place_hash
from .._trace_format import Recorded
from .._window import ALLOCATIONGRANULARITY

__all__ = ["Reads", "Touches", "reads_of", "touches_of"]

_ALL = 1 << 55  # stands for the window of whole files


@dataclass
class Reads:
    """The reads of a trace, in order, as arrays: file (from 0), start, size, kind, outcome; and the files' sizes,
    paths, and numbers in the trace."""

    file: Any
    start: Any
    size: Any
    kind: Any
    outcome: Any
    file_sizes: Any
    paths: list[str]
    numbers: list[int]
    rate: float = 1.0
    """The share of places that was recorded."""
    seen: int = 0
    """How many reads there were, including those that sampling left out."""
    evenness: float = 0.0
    """How evenly reads are spread over the places of a sample: from near 0 to 1, which means exactly evenly."""

    def __len__(self) -> int:
        return len(self.file)

    def expected(self, uses: int) -> int:
        """How many of `uses` there would be if the sample had exactly its share of the most popular places.

        Whether these are in the sample changes the number of hits, but hardly that of misses. So hits are added or
        removed to make the sample's share of all reads right (SHARDS-adj). But if all places are read equally often,
        that share is wrong because the sample has more or fewer places, which affects misses and hits alike.
        """
        if self.rate == 1:
            return uses
        share = self.seen * self.rate / max(len(self), 1)
        return round(uses * (share + (1 - share) * self.evenness))


@dataclass
class Touches:
    """The windows that reads touch, in order: one or more for each read.

    `window`: a number for each window; `read`: how many bytes of it are read; `copies`: whether it is for a copy, so
    that it may be read by descriptor instead of mapped; `sizes`: bytes of each window; `grid`: the full size of the
    window, on which, with the limits, it depends for how many windows a manager remembers rents.
    """

    window: Any
    read: Any
    copies: Any
    sizes: Any
    grid: Any

    def __len__(self) -> int:
        return len(self.window)


def reads_of(recorded: Recorded) -> Reads:
    """The reads of a trace. Reads from before the rate was lowered are sampled again, at the last rate."""
    records = np.frombuffer(recorded.reads, np.dtype([("file", "<u4"), ("size", "<u4"), ("word", "<u8")]))
    start = (records["word"] & np.uint64((1 << 56) - 1)).astype(np.int64)
    kept = np.ones(len(records), bool)
    if recorded.threshold < FULL:
        place = start >> recorded.place_shift
        pairs, inverse = np.unique(np.stack([records["file"].astype(np.int64), place]), axis=1, return_inverse=True)
        marks = {number: file.mark for number, file in recorded.files.items()}
        below = [place_hash(marks[int(file)], int(at)) < recorded.threshold for file, at in pairs.T]
        kept = np.array(below, bool)[inverse.reshape(-1)]
    records, start = records[kept], start[kept]
    places = np.stack([records["file"].astype(np.int64), start >> recorded.place_shift])
    counts = np.unique(places, axis=1, return_counts=True)[1].astype(float) if recorded.threshold < FULL else np.ones(1)
    numbers, file = np.unique(records["file"], return_inverse=True)
    known = [recorded.files[int(number)] for number in numbers]
    last = (records["word"] >> np.uint64(56)).astype(np.int64)
    return Reads(
        file=file.reshape(-1).astype(np.int64),
        start=start,
        size=records["size"].astype(np.int64),
        kind=last & 15,
        outcome=last >> 4,
        file_sizes=np.array([one.size for one in known], np.int64),
        paths=[one.path for one in known],
        numbers=numbers.tolist(),
        rate=recorded.threshold / FULL,
        seen=len(records) if recorded.seen is None else recorded.seen,
        evenness=float(counts.mean() ** 2 / np.square(counts).mean()) if len(counts) else 0.0,
    )


def touches_of(reads: Reads, window: int) -> Touches:
    """The windows of that size that the reads touch; window 0 means whole files. O(n log n)."""
    full = window or _ALL
    copies = reads.kind == COPY
    file_size = reads.file_sizes[reads.file]
    stop = np.minimum(reads.start + np.maximum(reads.size, 1), file_size)
    first = reads.start // full
    count = np.where(copies, (np.maximum(stop, reads.start + 1) - 1) // full - first + 1, 1)
    read = np.repeat(np.arange(len(reads)), count)
    nth = np.arange(len(read)) - np.repeat(np.cumsum(count) - count, count)
    number = first[read] + nth
    low = number * full
    high = np.minimum(low + full, file_size[read])
    begin, end = np.maximum(reads.start[read], low), np.minimum(stop[read], high)
    code = number * 4
    if not copies.all():
        wanted = np.where(reads.kind[read] == COPY, end, np.minimum(stop[read], file_size[read]))
        outside = np.flatnonzero((reads.kind[read] != COPY) & (wanted > low + full))
        at, half = reads.start[read][outside], low[outside] + full // 2
        seam = (at >= half) & (wanted[outside] <= half + full)
        wide_low = at - at % ALLOCATIONGRANULARITY
        pairs = np.stack([wide_low, wanted[outside]])
        _, wide = np.unique(pairs, axis=1, return_inverse=True)
        code[outside] = np.where(seam, number[outside] * 4 + 1, wide.reshape(-1) * 4 + 2)
        low[outside] = np.where(seam, half, wide_low)
        high[outside] = np.where(seam, np.minimum(half + full, file_size[read][outside]), wanted[outside])
        begin[outside], end[outside] = at, wanted[outside]
    key = _joined(reads.file[read], code)
    _, place, ids = np.unique(key, return_index=True, return_inverse=True)
    grid = np.minimum(window or file_size[read], file_size[read])
    return Touches(ids.reshape(-1), end - begin, copies[read], np.maximum(high - low, 1)[place], np.maximum(grid, 1))


def _joined(file: Any, code: Any) -> Any:
    """One number for each pair."""
    bits = int(code.max(initial=0)).bit_length()
    if bits + int(file.max(initial=0)).bit_length() > 62:
        _, code = np.unique(code, return_inverse=True)
        code = code.reshape(-1)
        bits = int(code.max(initial=0)).bit_length()
    return file << bits | code
