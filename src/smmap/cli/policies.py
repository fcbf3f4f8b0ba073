"""What a cache of windows would have done under the manager's own policy and under others. Plain Python.

`smmap` is the present policy: least recently used, and copies that rent before they buy. The others map each window at
once, as cursors do, and differ in the window that they evict: LRU; OPT, the one whose next use is farthest away
(Belady, 1966: the optimum for windows of one size); SIEVE (Zhang, Yang, Yue, Vigfusson and Rashmi, 2024); 2Q (Johnson
and Shasha, 1994: new windows wait in a queue of a quarter of the memory, and are kept only if they are used again).
"""

from __future__ import annotations

import heapq
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .._rents import Rents, patience, price

__all__ = ["POLICIES", "Outcome", "Smmap", "simulate"]


@dataclass
class Outcome:
    """The outcomes of the uses of windows, and the most windows and bytes that were mapped at a time."""

    hits: int = 0
    misses: int = 0
    cold_reads: int = 0
    most_windows: int = 0
    most_memory: int = 0

    @property
    def uses(self) -> int:
        """All uses."""
        return self.hits + self.misses + self.cold_reads

    @property
    def miss_ratio(self) -> float:
        """The share of uses that did not find their window mapped."""
        return (self.misses + self.cold_reads) / self.uses if self.uses else 0.0


class Smmap:
    """The manager's policy, under its limits. Takes memory in proportion to the mapped windows, not to the uses."""

    def __init__(self, memory: int, handles: int = sys.maxsize) -> None:
        self.outcome = Outcome()
        self._memory = memory
        self._handles = handles
        self._idle: OrderedDict[int, int] = OrderedDict()
        self._used = 0
        self._rents = Rents()
        self._price = price(0, False)

    def use(self, windows: Iterable[int], reads: Iterable[int], copies: Iterable[bool], size_of: Callable[[int], int],
            grids: Iterable[int]) -> None:  # fmt: skip
        """Use windows: their numbers, how many bytes are read, whether by a copy, and the windows' full sizes."""
        idle, rents, outcome = self._idle, self._rents, self.outcome
        touch, due, cost, memory, handles = idle.move_to_end, rents.due, self._price, self._memory, self._handles
        hits = 0
        for window, read, copy, grid in zip(windows, reads, copies, grids):
            if window in idle:
                touch(window)
                hits += 1
            elif copy and not due(window, read, cost, patience(min(handles, memory // grid))):
                outcome.cold_reads += 1
            else:
                outcome.misses += 1
                size = size_of(window)
                room = memory - size if size <= memory else sys.maxsize
                while idle and (self._used > room or len(idle) >= handles):
                    self._used -= idle.popitem(last=False)[1]
                idle[window] = size
                self._used += size
                outcome.most_windows = max(outcome.most_windows, len(idle))
                outcome.most_memory = max(outcome.most_memory, self._used)
        outcome.hits += hits


def simulate(name: str, windows: Sequence[int], sizes: Sequence[int], memory: int) -> float:
    """The share of uses that miss with a policy of `POLICIES`; `sizes` are those of the windows, by number."""
    return POLICIES[name](windows, sizes, memory) / len(windows) if windows else 0.0


def _lru(windows: Sequence[int], sizes: Sequence[int], memory: int) -> int:
    cache: OrderedDict[int, None] = OrderedDict()
    used = misses = 0
    for window in windows:
        if window in cache:
            cache.move_to_end(window)
            continue
        misses += 1
        used += sizes[window]
        while cache and used > memory:
            used -= sizes[cache.popitem(last=False)[0]]
        cache[window] = None
    return misses


def _opt(windows: Sequence[int], sizes: Sequence[int], memory: int) -> int:
    never = len(windows)
    following = [never] * len(windows)
    last: dict[int, int] = {}
    for at in range(len(windows) - 1, -1, -1):
        following[at] = last.get(windows[at], never)
        last[windows[at]] = at
    cached: dict[int, int] = {}  # with the next use
    farthest: list[tuple[int, int]] = []
    used = misses = 0
    for at, window in enumerate(windows):
        if window not in cached:
            misses += 1
            used += sizes[window]
            while cached and used > memory:
                use, victim = heapq.heappop(farthest)
                if cached.get(victim) == -use:  # otherwise it was used since, and has a newer entry
                    del cached[victim]
                    used -= sizes[victim]
        cached[window] = following[at]
        heapq.heappush(farthest, (-following[at], window))
    return misses


def _sieve(windows: Sequence[int], sizes: Sequence[int], memory: int) -> int:
    visited: dict[int, bool] = {}
    newer: dict[int, int] = {}  # a list from the oldest to the newest; -1 is both of its ends
    older: dict[int, int] = {-1: -1}
    newer[-1] = -1
    hand = -1
    used = misses = 0
    for window in windows:
        if window in visited:
            visited[window] = True
            continue
        misses += 1
        used += sizes[window]
        while visited and used > memory:
            while True:
                if hand == -1:
                    hand = newer[-1]
                if not visited[hand]:
                    break
                visited[hand] = False
                hand = newer[hand]
            victim, hand = hand, newer[hand]
            newer[older[victim]], older[newer[victim]] = newer[victim], older[victim]
            del visited[victim], newer[victim], older[victim]
            used -= sizes[victim]
        visited[window] = False
        newest = older[-1]
        newer[newest], older[window], newer[window], older[-1] = window, newest, -1, window
    return misses


def _two_queues(windows: Sequence[int], sizes: Sequence[int], memory: int) -> int:
    fresh: OrderedDict[int, None] = OrderedDict()
    kept: OrderedDict[int, None] = OrderedDict()
    ghosts: OrderedDict[int, None] = OrderedDict()
    fresh_used = kept_used = ghosts_used = misses = 0
    for window in windows:
        if window in kept:
            kept.move_to_end(window)
            continue
        if window in fresh:
            continue
        misses += 1
        size = sizes[window]
        while (fresh or kept) and fresh_used + kept_used + size > memory:
            if fresh and (fresh_used > memory // 4 or not kept):
                victim, _ = fresh.popitem(last=False)
                fresh_used -= sizes[victim]
                ghosts[victim] = None
                ghosts_used += sizes[victim]
                while ghosts_used > memory // 2 and len(ghosts) > 1:
                    ghosts_used -= sizes[ghosts.popitem(last=False)[0]]
            else:
                kept_used -= sizes[kept.popitem(last=False)[0]]
        if window in ghosts:
            del ghosts[window]
            ghosts_used -= size
            kept[window] = None
            kept_used += size
        else:
            fresh[window] = None
            fresh_used += size
    return misses


POLICIES: dict[str, Callable[[Sequence[int], Sequence[int], int], int]] = {
    "LRU": _lru,
    "OPT": _opt,
    "SIEVE": _sieve,
    "2Q": _two_queues,
}
