"""Stack distances: for each use of a window, how much else was used since its last use. Needs numpy.

With least-recently-used eviction, a use is a hit exactly if the windows used since then, and the window itself, fit
into the limits. So one pass over a trace gives the misses for all limits at once (Mattson, Gecsei, Slutz and Traiger,
"Evaluation techniques for storage hierarchies", 1970).

For use i with the last use p(i) of the same window, the pass counts the uses j < i with p(j) <= p(i), minus those up to
p(i): each window that was used in between is counted at its first use there. That is a count of inversions, done level
by level on arrays, like a merge sort: O(n log n), with a dozen array operations for each of log n levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Distances", "distances_of"]

NEVER = np.iinfo(np.int64).max


@dataclass
class Distances:
    """For each use: bytes and windows that must stay mapped for it to be a hit; `NEVER` for the first use."""

    memory: Any
    windows: Any
    rate: float = 1.0
    """The share of windows in the trace, by which both were scaled."""
    expected: float = 0.0
    """How many uses there would be if the sample had exactly its share of them (SHARDS-adj); 0: the actual number."""

    def misses(self, memory: int, handles: int | None = None) -> float:
        """The share of uses that miss under these limits. O(n)."""
        missed = self.memory > memory
        if handles is not None:
            missed |= self.windows > handles
        return self._share(float(missed.sum()))

    def curve(self, memories: list[int]) -> list[float]:
        """The share of uses that miss for each memory limit. O(n log n)."""
        ordered = np.sort(self.memory)
        left = np.searchsorted(ordered, memories, side="right")
        return [self._share(float(len(ordered) - found)) for found in left]

    def _share(self, missed: float) -> float:
        uses = self.expected or len(self.memory)
        return min(missed / uses, 1.0) if uses else 0.0


def distances_of(window: Any, sizes: Any, rate: float = 1.0, expected: float = 0.0) -> Distances:
    """The distances of uses of windows, which are numbered from 0; `sizes` are their sizes in bytes, by number."""
    again = np.zeros(len(window), bool)
    again[1:] = window[1:] == window[:-1]  # used twice in a row: nothing in between
    memory = sizes[window].astype(np.int64)
    windows = np.ones(len(window), np.int64)
    kept = np.flatnonzero(~again)
    between_windows, between_memory = _between(window[kept], sizes[window[kept]].astype(np.int64))
    first = between_windows < 0
    scale = 1 / rate
    windows[kept] += np.where(first, 0, between_windows * scale).astype(np.int64)
    memory[kept] += np.where(first, 0, between_memory * scale).astype(np.int64)
    windows[kept[first]] = memory[kept[first]] = NEVER
    return Distances(memory, windows, rate, expected)


def last_uses(window: Any) -> Any:
    """For each use, the place of the last use of the same window; -1 if there is none."""
    order = np.argsort(window, kind="stable")
    last = np.full(len(window), -1, np.int64)
    same = window[order[1:]] == window[order[:-1]]
    last[order[1:][same]] = order[:-1][same]
    return last


def _between(window: Any, weight: Any) -> tuple[Any, Any]:
    """How many other windows, and of how many bytes, were used since the last use; -1 for the first."""
    count = len(window)
    last = last_uses(window)
    number, total = np.zeros(count, np.int64), np.zeros(count, np.int64)
    order = np.argsort(last, kind="stable")  # by last use, within a block of uses that is halved repeatedly
    places = np.arange(count)
    for level in range(max(count - 1, 0).bit_length() - 1, -1, -1):
        start = places >> (level + 1) << (level + 1)
        right = (order >> level & 1).astype(bool)
        left = ~right
        lefts = np.zeros(count + 1, np.int64)
        np.cumsum(left, out=lefts[1:])
        bytes_left = np.zeros(count + 1, np.int64)
        np.cumsum(np.where(left, weight[order], 0), out=bytes_left[1:])
        before = lefts[:-1] - lefts[start]
        late = order[right]
        number[late] += before[right]
        total[late] += (bytes_left[:-1] - bytes_left[start])[right]
        target = np.where(left, start + before, start + (1 << level) + (places - start) - before)
        halved = np.empty_like(order)
        halved[target] = order
        order = halved
    upto = np.zeros(count + 1, np.int64)
    np.cumsum(weight, out=upto[1:])
    first = last < 0
    return np.where(first, -1, number - (last + 1)), np.where(first, -1, total - upto[last + 1])
