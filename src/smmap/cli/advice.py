"""From a trace to limits: miss-ratio curves for window sizes, the cost of each choice, and a recommendation."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .._places import PLACE_SHIFT
from .._report import format_size
from .._trace_format import TracedManager
from .distances import Distances, distances_of
from .policies import Outcome, Smmap
from .prices import Prices
from .touches import Reads, Touches, touches_of

__all__ = ["Advice", "Choice", "Curve", "advise", "short_size", "simulated", "steps"]

WINDOWS = tuple((64 << 10) << 2 * step for step in range(5))  # 64K to 16M
_NEAR = 1.05  # times within this factor count as equal, so that less memory wins
_SPARE = 64  # the most handles for cached descriptors: one for each file
_PASS = 1_500_000  # the curves of all window sizes together use so many uses; more are sampled


@dataclass
class Curve:
    """The share of uses that miss with windows of one size, for each memory limit, if all are mapped at once."""

    window: int
    uses: float
    memories: list[int]
    misses: list[float]


@dataclass
class Choice:
    """Limits and their effect: shares of all uses of windows, and estimated nanoseconds per read."""

    window: int
    memory: int
    handles: int
    outcome: Outcome
    ns_per_read: float
    ns_per_read_from_storage: float | None

    def __str__(self) -> str:
        handles = "system" if self.handles >= sys.maxsize else str(self.handles)
        return f"window {short_size(self.window)}, memory {short_size(self.memory)}, handles {handles}"


@dataclass
class Advice:
    """The result for a trace: present and recommended limits, and curves."""

    present: Choice
    recommended: Choice
    curves: list[Curve] = field(default_factory=list)

    @property
    def line(self) -> str:
        """The recommendation in one line."""
        now, then = self.present.outcome.miss_ratio, self.recommended.outcome.miss_ratio
        if self.recommended == self.present:
            return f"keep your present limits ({self.present}): misses {now:.1%}"
        if then < now / 1.05:
            how = f"{now / then:.1f} times fewer than with your present limits" if then else "none at all"
        else:
            memory = f"{format_size(self.recommended.outcome.most_memory)} mapped at most"
            how = f"{now:.1%} with your present limits; {memory}, {format_size(self.present.outcome.most_memory)} now"
        return f"{self.recommended}: misses {then:.1%}, {how}"


def short_size(size: int) -> str:
    """A size in the format of the command line."""
    for unit, shift in (("G", 30), ("M", 20), ("K", 10)):
        if size and size % (1 << shift) == 0:
            return f"{size >> shift}{unit}"
    return str(size)


def simulated(touches: Touches, memory: int, handles: int, rate: float = 1.0, expected: int = 0) -> Outcome:
    """What the manager's policy does under these limits. For a sample, the limits are scaled down with its rate, and
    the hits are those of `expected` uses."""
    policy = Smmap(max(int(memory * rate), 1), max(round(handles * rate), 1) if handles < sys.maxsize else handles)
    sizes: list[int] = touches.sizes.tolist()
    size_of: Callable[[int], int] = sizes.__getitem__
    lists = (part.tolist() for part in (touches.window, touches.read, touches.copies))
    windows, reads, copies = lists
    policy.use(windows, reads, copies, size_of, touches.grid.tolist())
    outcome = policy.outcome
    if expected:
        outcome.hits = max(expected - outcome.misses - outcome.cold_reads, 0)
    outcome.most_windows = round(outcome.most_windows / rate)
    outcome.most_memory = round(outcome.most_memory / rate)
    return outcome


def advise(
    reads: Reads, present: TracedManager, prices: Prices, budget: int, step: Callable[[str], None] = lambda name: None
) -> Advice:
    """Judge window sizes and limits up to a memory budget; `step` is called with the name of each step."""
    now = _choice(reads, touches_of(reads, present.window), present, prices)
    advice = Advice(now, now)
    step("present limits")
    candidates: list[TracedManager] = []
    windows = _windows(reads, present.window)
    for window in windows:
        touches = touches_of(reads, window)
        distances = _distances(touches, reads, len(windows))
        step("stack distances")
        memories = _memories(int(touches.sizes.sum() / reads.rate), window, distances.rate)
        curve = Curve(window, len(touches), memories, distances.curve(memories))
        advice.curves.append(curve)
        memory = _smallest(curve, prices, budget)
        if memory:
            candidates.append(TracedManager(window, memory, sys.maxsize))
    choices = []
    for limits in candidates:
        choices.append(_choice(reads, touches_of(reads, limits.window), limits, prices))
        step("limits")
    best = min([choice.ns_per_read for choice in choices], default=0.0)
    good = [choice for choice in choices if choice.ns_per_read <= best * _NEAR]
    for choice in good:
        choice.handles = choice.outcome.most_windows + min(len(reads.file_sizes), _SPARE)
    if good:
        chosen = min(good, key=lambda choice: (choice.memory, -choice.window))
        # Enough handles that the rents of as many windows are remembered; and the outcome under these limits
        handles = max(chosen.handles, chosen.memory // (chosen.window or int(reads.file_sizes.max())))
        limits = TracedManager(chosen.window, chosen.memory, handles)
        chosen = _choice(reads, touches_of(reads, chosen.window), limits, prices)
        fewer = chosen.ns_per_read < advice.present.ns_per_read / _NEAR or (
            chosen.outcome.miss_ratio < advice.present.outcome.miss_ratio / 2
            and chosen.ns_per_read < advice.present.ns_per_read * _NEAR
        )
        smaller = chosen.outcome.most_memory < advice.present.outcome.most_memory / 2
        if fewer or (smaller and chosen.ns_per_read < advice.present.ns_per_read * _NEAR):
            advice.recommended = chosen
    return advice


def steps(reads: Reads, present: TracedManager) -> int:
    """How often `advise` calls `step`."""
    return 1 + 2 * len(_windows(reads, present.window))


def _windows(reads: Reads, present: int) -> list[int]:
    largest = int(reads.file_sizes.max(initial=1))
    useful = [window for window in WINDOWS if window < max(4 * largest, WINDOWS[1])]
    if reads.rate == 1 or present <= 1 << PLACE_SHIFT or largest <= 1 << PLACE_SHIFT:
        useful.append(present)
    return sorted({*useful} - {0}) + [0] * (0 in useful)


def _distances(touches: Touches, reads: Reads, passes: int) -> Distances:
    """The distances of all uses; if there are very many, only those of a sample of windows."""
    share = min(_PASS / max(len(touches) * passes, 1), 1.0)
    rate, expected = reads.rate, float(reads.expected(len(touches)))
    if share > 0.7:
        return distances_of(touches.window, touches.sizes, rate, expected)
    import numpy as np

    hashed = (touches.window.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
    kept = hashed < np.uint64(share * (1 << 24))
    return distances_of(touches.window[kept], touches.sizes, rate * share, expected * share)


def _memories(footprint: int, window: int, rate: float) -> list[int]:
    """Memory limits to judge: two for each power of two, up to the footprint.

    A sample says nothing about limits of so few windows that the sample has hardly any of them.
    """
    found, size = [], max(min(window or footprint, 1 << 20), 64 << 10)
    while rate < 1 and size < 8 * (window or 1) / rate and size < footprint:
        size *= 2
    while size < footprint:
        found += [size, size + size // 2]
        size *= 2
    return [*found, size]


def _smallest(curve: Curve, prices: Prices, budget: int) -> int:
    """The smallest limit that costs hardly more than the best one within the budget; 0 if there is none."""
    costs = [
        (memory, prices.total(1 - share, share, 0) or 0.0)
        for memory, share in zip(curve.memories, curve.misses)
        if memory <= budget and memory >= 2 * curve.window
    ]
    best = min((cost for _, cost in costs), default=0.0)
    return next((memory for memory, cost in costs if cost <= best * _NEAR), 0)


def _choice(reads: Reads, touches: Touches, limits: TracedManager, prices: Prices) -> Choice:
    expected = reads.expected(len(touches))
    outcome = simulated(touches, limits.memory, limits.handles, reads.rate, expected)
    counts = outcome.hits, outcome.misses, outcome.cold_reads
    total: Any = prices.total(*counts)
    stored = prices.total(*counts, storage=True)
    count = max(reads.expected(len(reads)), 1)
    return Choice(
        *(limits.window, limits.memory, limits.handles, outcome, total / count),
        None if stored is None else stored / count,
    )
