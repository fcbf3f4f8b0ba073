"""The regions and descriptors of one manager, in eviction order, and the room that the limits leave.

Knows no lock, no names and no requests: the manager calls everything here under its lock. Each eviction is O(1).
"""

from __future__ import annotations

import errno
import sys
import time
from itertools import islice
from typing import Any, Callable, NamedTuple, NoReturn, TypeVar
from weakref import WeakValueDictionary

from . import _system
from ._engine import chosen as engine
from ._errors import LimitError
from ._files import File
from ._log import Log
from ._system import HandleLimits, Where, called, named, span_of
from ._window import ALLOCATIONGRANULARITY

__all__ = ["Cache", "Stats", "users_of"]

T = TypeVar("T")


class Stats(NamedTuple):
    """The counters and limits of a manager. Sizes are in bytes."""

    mapped: int
    """Regions mapped now: pinned + idle + detached."""
    pinned: int
    """Regions that cursors use: they cannot be evicted."""
    idle: int
    """Regions that may be evicted."""
    detached: int
    """Regions that were evicted, but that the user's views keep alive."""
    mapped_memory: int
    """Bytes mapped now, including those of detached regions."""
    files: int
    """Files with mapped regions."""
    descriptors: int
    """Cached descriptors: kept open for the next miss or cold read."""
    hits: int
    """Reads that found their window mapped."""
    misses: int
    """Windows that had to be mapped."""
    evictions: int
    """Regions that the manager evicted."""
    cold_reads: int
    """Reads of unmapped windows, by descriptor."""
    peak_mapped: int
    """The most regions at a time."""
    peak_memory: int
    """The most bytes at a time."""
    window_size: int
    """Size of a window; 0 means whole files."""
    max_memory_size: int
    """Above this, idle regions are evicted."""
    max_open_handles: int
    """The most maps and cached descriptors together: a hard limit if the user set it, otherwise a target."""

    @property
    def hit_rate(self) -> float:
        """The fraction of reads that found their window mapped: from 0 to 1, and 0 before the first read."""
        reads = self.hits + self.misses + self.cold_reads
        return self.hits / reads if reads else 0.0


def users_of(region: Any, but: Any = None) -> int:
    """How many cursors, `but` for one, use a region. `pins` also has those whose `_pin` an exception cut short."""
    return sum(cursor is not but and cursor._use[0] is region for cursor in region.holders())


class Cache:
    """The idle regions and cached descriptors of one manager, and the count of all its regions."""

    def __init__(self, max_memory: int, max_handles: int) -> None:
        self.ledger = engine.Ledger()
        self.idle = self.ledger.idle
        """Idle regions, by entry."""
        self.open = self.ledger.open
        """Files with a cached descriptor."""
        self.max_memory = max_memory
        self.closed = False
        self.log = Log()
        self.waves: Any = WeakValueDictionary()
        """The waves of batches that run now, by id: see _batches.py."""
        self._look_for_views_at = 0
        self._max_handles = max_handles
        self._limits: HandleLimits | None = None
        self._uses_before = 0
        """Of windows, before the counters were reset."""
        self._survivors = 0
        """Regions that were mapped, and not idle, after the last garbage collection: where objects die late."""

    @property
    def limits(self) -> HandleLimits:
        """The handle limits, read from the system when first needed. Needs no lock."""
        if self._limits is None:
            self._limits = _system.handle_limits(self._max_handles, engine.MAP_COSTS_DESCRIPTOR)
            ledger, limits = self.ledger, self._limits
            ledger.most_handles, ledger.most_descriptors = limits.handles, limits.descriptors
            ledger.most_memory = self.max_memory
        return self._limits

    # Regions

    def count_miss(self, region: Any, where: Where) -> None:
        """A region was made."""
        region.file.name, region.file.where = called(where), where
        self.log.debug("map [%d, %d) of %s", region.start, region.stop, region.file.name)
        self.ledger.count_miss()

    def use(self, region: Any) -> None:
        """A region that no cursor pins is used now: it moves to the end. A detached region is idle again."""
        self.idle.add(region.entry, region)

    def dropped(self, region: Any) -> None:
        """The manager no longer refers to a region: it is unmapped as soon as nobody else refers to it."""
        self.ledger.evictions += 1
        self.log.debug("evict [%d, %d) of %s", region.start, region.stop, region.file.name)
        region.drop(self.ledger)

    def evict(self, entry: Any) -> bool:
        """Evict the region with this entry, if it is idle; return whether it was."""
        region = entry()
        if region is None or not self.idle.remove(entry) or region.pins:
            return False
        self.dropped(region)
        return True

    def evict_file(self, file: File, most: int = sys.maxsize) -> int:
        """Evict the idle ones among the first `most` regions of a file; return how many. Linear in these."""
        return sum(self.evict(entry) for entry in list(islice(file.table.values(), most)))

    def unload(self) -> int:
        """Evict every idle region and close every cached descriptor; return how many regions were evicted."""
        while len(self.open):
            self.uncache(self.open.oldest())
        count = 0
        for region in self.idle.drain():
            if not region.pins:  # otherwise a cursor has just taken it
                self.dropped(region)
                count += 1
        return count

    # Limits

    def has_handle(self) -> bool:
        """Whether one more region fits the hard handle limit, if necessary after an eviction."""
        return not self.limits.hard or self.ledger.mapped < self.limits.handles or len(self.idle) > 0

    def make_room(self, where: Where, size: int) -> None:
        """Evict regions to make room for one of `size` bytes; `LimitError` if that is not enough."""
        self.trim(None, size, 1)
        while self.limits.hard and self.ledger.mapped >= self.limits.handles:
            if not (_system.RECLAIMS_LATE and self.collect_garbage()):
                self.refuse(errno.EMFILE, f"max_open_handles is {self.limits.handles}, {self._kept()}", where)
            self.trim(None, size, 1)

    def refuse(self, code: int, message: str, where: Where) -> NoReturn:
        """Raise `LimitError`."""
        self.log.debug("refuse %s: %s", called(where), message)
        raise LimitError(code, message, called(where))

    def regions(self) -> list[Any]:
        """All living regions."""
        found: list[Any] = self.ledger.regions()
        return found

    def look_for_views(self, viewed: Any = None) -> None:
        """Warn once if views keep more mapped than the memory limit allows; `viewed` will have one. Linear in the
        mapped regions, and so seldom that it is O(1) for each one that was mapped."""
        if self.ledger.memory <= self.max_memory or self.ledger.misses < self._look_for_views_at:
            return
        self._look_for_views_at = self.ledger.misses + max(self.ledger.mapped >> 3, 1)
        kept = [
            region.stop - region.start
            for region in self.regions()
            if not region.pins and (region is viewed or region.entry not in self.idle)
        ]
        if sum(kept) > self.max_memory:
            self._look_for_views_at = sys.maxsize
            self.log.warn(
                "views keep %d bytes mapped, more than max_memory_size=%d: they count until "
                "they are dropped, and no idle window is kept meanwhile (logged once per manager)",
                *(sum(kept), self.max_memory),
            )

    def trim(self, pinned: Any = None, size: int = 0, handles: int = 0, keep: int = 0) -> int:
        """Evict idle regions, least recently used first, until `size` bytes and `handles` more fit; return how many.

        The last `keep` of them stay. If `size`, or a `pinned` region, is larger than the memory limit, nothing is
        evicted for the memory: that would not be enough. Descriptors are closed before regions are evicted: they are
        easily opened again.
        """
        ledger, most, before = self.ledger, self.limits.handles - handles, self.ledger.evictions
        ledger.settle()  # so that no other is evicted for a region that died
        memory = self.max_memory - size
        if memory < 0 or (pinned is not None and pinned.stop - pinned.start > memory):
            memory = sys.maxsize
        while ledger.mapped + len(self.open) > most or ledger.memory > memory:
            if _system.PYPY and self._may_be_garbage():
                self.collect_garbage()
            elif len(self.open) and ledger.mapped + len(self.open) > most:
                self.uncache(self.open.oldest())
            elif len(self.idle) > keep:
                self._evict_oldest()
            else:
                break
        self.idle.crowded = self.closed or ledger.memory > self.max_memory or ledger.mapped > self.limits.handles
        if self.closed:  # maybe just now: closing does not wait for the lock
            self.idle.crowded = True
        return self.ledger.evictions - before

    def _evict_oldest(self) -> None:
        """Evict the region used least recently."""
        try:
            region = self.idle.pop_oldest()
        except KeyError as error:  # a cursor has just taken the last one
            if error.args != ("dictionary is empty",):
                raise
            return
        if region.pins:  # likewise
            return
        self.dropped(region)
        del region
        self.ledger.settle()

    def _may_be_garbage(self) -> bool:
        """PyPy: whether so much more is mapped, and not idle, than after the last collection that one is worth it.

        An evicted region that was exported is mapped until a collection. To collect after each would be slow, so up to
        an eighth more go first than have to; of a few regions, none.
        """
        busy = self.ledger.mapped - len(self.idle)
        self._survivors = min(self._survivors, busy)
        return busy - self._survivors > (self._survivors + len(self.idle)) // 8

    def collect_garbage(self) -> bool:
        """Let regions die that only garbage refers to; whether any did, or is idle now.

        Regions of garbage cursors need a second collection on PyPy: the first one runs the finalizers.
        """
        mapped, idle = self.ledger.mapped, len(self.idle)
        for _ in range(2 if _system.PYPY else 1):
            _system.collect_garbage()
            self.ledger.settle()
            if self.ledger.mapped < mapped:
                break
        self._survivors = self.ledger.mapped - len(self.idle)
        return self.ledger.mapped < mapped or len(self.idle) > idle

    def attempt(self, where: Where, start: int, stop: int, call: Callable[..., T], *args: Any) -> T:
        """`call(*args)`; if the system has run out, drop what is cached, piece by piece, and try again.

        Errors name the file, and the range [start, stop) unless that is empty.
        """
        last = not _system.RECLAIMS_LATE
        while True:
            try:
                return call(*args)
            except (OSError, MemoryError) as error:
                code = _system.code_of(error)
                if code not in _system.REFUSALS:
                    raise named(error, where, start, stop) from None
            if self._relieve(code):
                continue
            if last:
                self.refuse(code, f"{span_of(start, stop)}{_system.advice_for(code)}; {self._kept()}", where)
            last = not self.collect_garbage()

    def _relieve(self, code: int) -> bool:
        """Drop the least valuable thing that may help; False if there is none."""
        short_of_descriptors = code in _system.NO_DESCRIPTOR
        if short_of_descriptors and len(self.open):
            self.uncache(self.open.oldest())
        elif len(self.idle) and (engine.MAP_COSTS_DESCRIPTOR or not short_of_descriptors):
            self._evict_oldest()
        else:
            return False
        return True

    def _kept(self) -> str:
        counts = self.stats(0)
        return (
            f"{counts.pinned} regions are pinned by cursors and {counts.detached} kept by views: release some, "
            "or raise the limit"
        )

    # Descriptors

    def cache(self, file: File, descriptor: Any) -> None:
        """Cache a file's descriptor for later, if there are handles to spare."""
        limits = self.limits
        room = min(limits.handles - self.ledger.mapped, limits.descriptors) if _system.KEEPS_DESCRIPTORS else 0
        kept = file.descriptor
        if room <= 0 or descriptor.closed or (kept is not None and not kept.closed and file in self.open):
            return
        while len(self.open) >= room:
            self.uncache(self.open.oldest())
        self.open.add(file, file)
        descriptor.cached = True
        file.descriptor = descriptor

    def uncache(self, file: File) -> None:
        """Close a file's cached descriptor once nobody reads by it."""
        descriptor = file.descriptor
        if descriptor is not None:
            descriptor.cached = False
            descriptor.close()
            file.descriptor = None
        self.open.remove(file)  # last: an exception raised before must not forget it

    # Reports

    def hit_rate(self) -> float:
        """As `Stats.hit_rate`, in O(1)."""
        reads = self.idle.hits + self.ledger.misses + self.open.hits
        return float(self.idle.hits / reads) if reads else 0.0

    def uses(self) -> int:
        """How many windows were used by reads since the manager was made, whatever was reset. O(1)."""
        return int(self._uses_before + self.idle.hits + self.ledger.misses + self.open.hits)

    def reset_stats(self) -> int:
        """Reset the counters of reads, and set the peaks to what is mapped now."""
        ledger = self.ledger
        self._uses_before = self.uses()
        self.idle.hits = self.open.hits = ledger.misses = ledger.evictions = 0
        ledger.peak_mapped, ledger.peak_memory = ledger.mapped, ledger.memory
        if self._look_for_views_at < sys.maxsize:
            self._look_for_views_at = 0
        return 0

    def states(self) -> list[tuple[Any, str, float]]:
        """All living regions, whether each is pinned, idle or detached, and for how many seconds it has been mapped."""
        now = time.monotonic()
        idle = {id(region) for region in self.idle}
        return [
            (
                region,
                "pinned" if region.pinned else "idle" if id(region) in idle else "detached",
                now - region.born,
            )
            for region in self.regions()
        ]

    def stats(self, window_size: int) -> Stats:
        """All counters. Regions that died since the ledger was settled may still be counted."""
        regions = self.ledger.regions()
        pinned = sum(region.pinned for region in regions)
        mapped, idle = self.ledger.mapped, sum(not region.pinned for region in self.idle)
        return Stats(
            mapped=mapped,
            pinned=pinned,
            idle=idle,
            detached=mapped - pinned - idle,
            mapped_memory=self.ledger.memory,
            files=len({region.file for region in regions}),
            descriptors=sum(not one.closed for one in [file.descriptor for file in self.open] if one is not None),
            hits=self.idle.hits,
            misses=self.ledger.misses,
            evictions=self.ledger.evictions,
            cold_reads=self.open.hits,
            peak_mapped=self.ledger.peak_mapped,
            peak_memory=self.ledger.peak_memory,
            window_size=window_size,
            max_memory_size=self.max_memory,
            max_open_handles=self.limits.handles,
        )

    def check(self) -> None:
        """Assert every invariant."""
        ledger = self.ledger
        for _ in range(10 if _system.PYPY else 1000):
            regions = self.regions()  # none of them can die from here on
            ledger.settle()
            if ledger.mapped == len(regions):
                break
            if _system.PYPY:
                _system.collect_garbage()  # unmaps it
            else:
                time.sleep(0.001)  # another thread is just unmapping one
        assert ledger.mapped == len(regions), "a dead region is counted"
        assert ledger.memory == sum(region.stop - region.start for region in regions), "memory is miscounted"
        assert not self.limits.hard or ledger.mapped <= self.limits.handles, "more regions than handles"
        for region in regions:
            assert 0 <= region.start < region.stop <= region.file.status.size, "a region exceeds its file"
            assert region.start % ALLOCATIONGRANULARITY == 0, "a region starts unaligned"
            assert not region.closed, "a counted region is unmapped"
        for region in self.idle:
            assert region in regions, "idle but not counted"
            assert region.file.table.find(region.key) is region, "an idle region that cannot be found"
        for file in {region.file for region in regions}:
            descriptor = file.descriptor
            assert descriptor is None or descriptor.closed or file in self.open, "a cached descriptor is not counted"
