"""The plain engine's regions, the ledger that counts them, and the tables and orders that refer to them.

It rests on two ideas:

- A region *is* an `mmap`. It is unmapped when its last reference goes, so nobody can read unmapped memory, and
  a user's view keeps alive exactly what it needs.
- Tables refer to regions weakly, the order of idle regions and the cursors strongly. To evict is to drop the order's
  reference; a region that a view keeps alive is found again in the table.

Each step that must not be interrupted is one call of C code: a signal handler may raise between any two steps of
Python. A region's death is noted by `deque.append`, as the callback of a weak reference, not by a finalizer in Python.
"""

from __future__ import annotations

import mmap
import sys
import threading
import weakref
from collections import OrderedDict, deque
from time import monotonic
from typing import TYPE_CHECKING, Any, Callable, TypeVar

from .._files import File
from .._places import PLACE_SHIFT, place_hash
from .._rents import Rents
from .._system import FREE_THREADED, PYPY
from .._window import Window

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Entry", "Ledger", "Order", "Region", "Table"]

T = TypeVar("T")


class Entry(weakref.ref["Region"]):
    """How tables refer to a region: weakly."""

    __slots__ = ("key", "serial", "size", "table")

    key: Any
    serial: int
    size: int
    table: Table


_UNKNOWN = -1
_PLACE = 1 << PLACE_SHIFT


def is_sampled(file: File, start: int, ledger: Ledger) -> bool:
    """Whether reads from this offset in the file should be recorded."""
    return ledger.trace is not None and place_hash(file.mark, start >> PLACE_SHIFT) < ledger.threshold


def _clear_to(file: File, start: int, stop: int, ledger: Ledger) -> int:
    """The start of the first recorded place in [start, stop); `stop` if there is none."""
    while start < stop and not is_sampled(file, start, ledger):
        start = (start | _PLACE - 1) + 1
    return min(start, stop)


class Ledger:
    """Counts the living regions of a manager, and has the orders of what the manager may drop."""

    __slots__ = (
        *("_born", "_died", "_known", "_living", "evictions", "idle", "misses", "most_descriptors", "most_handles"),
        *("most_memory", "open", "peak_mapped", "peak_memory", "rents", "shortcut", "threshold", "trace"),
    )

    def __init__(self) -> None:
        self.misses = self.evictions = self.peak_mapped = self.peak_memory = 0
        self.most_handles = self.most_descriptors = self.most_memory = 0
        self.shortcut: Any = None
        self.trace: Any = None
        self.threshold = 0
        self.idle = Order()
        self.open = Order()
        self.rents = Rents()
        self._living: dict[int, Entry] = {}
        """The regions that were made and not yet uncounted, by serial number."""
        self._died: deque[Entry] = deque()
        self._born = 0
        self._known = (0, 0, 0)
        """(made, living, bytes) when the bytes were last summed: they are right while the first two are unchanged."""

    @property
    def mapped(self) -> int:
        """How many regions are mapped."""
        return len(self._living)

    @property
    def memory(self) -> int:
        """How many bytes are mapped. O(1), unless an exception interrupted the last step: then they are summed."""
        now = self._born, len(self._living)
        if self._known[:2] != now:
            self._known = *now, sum(entry.size for entry in self._living.copy().values())
        return self._known[2]

    def enter(self, region: Region) -> None:
        """Count a new region."""
        total = self.memory
        entry = Entry(region, self._died.append)
        self._born += 1  # first: even if a signal handler raises here, no other region gets this number
        entry.key, entry.size, entry.serial = region.key, region.stop - region.start, self._born
        entry.table = region.file.table
        region.entry = entry
        self._living[entry.serial] = entry
        self._known = entry.serial, len(self._living), total + entry.size
        entry.table.add(entry)

    def sample(self, trace: Any, threshold: int) -> None:
        """Record reads of places with a hash below the threshold in this trace; None: record nothing."""
        self.trace, self.threshold = trace, threshold
        for region in self.regions():
            region.clear = region.stop if trace is None else _UNKNOWN

    def regions(self) -> list[Region]:
        """All living regions."""
        return [region for region in (entry() for entry in self._living.copy().values()) if region is not None]

    def count_miss(self) -> None:
        """A region was made for a client."""
        self.misses += 1
        self.peak_mapped = max(self.peak_mapped, self.mapped)
        self.peak_memory = max(self.peak_memory, self.memory)

    def leave(self, region: Region) -> None:
        """Unmap a region before it dies, if possible, and uncount it."""
        self._died.append(region.entry)
        self.settle()

    def settle(self) -> None:
        """Uncount the regions that died."""
        while self._died:
            entry = self._died[0]
            region = entry()
            if region is None or region.unmap():
                total = self.memory
                if self._living.pop(entry.serial, None) is not None:
                    self._known = self._born, len(self._living), total - entry.size
                entry.table.remove(entry)
            del region
            self._died.popleft()  # last: an entry that is met again is uncounted only once


class Region(mmap.mmap):
    """One mapped window of a file; for files that are read instead, a map of a copy of it in memory."""

    __slots__ = (
        "born",
        "clear",
        "doomed",
        "ended",
        "entry",
        "exported",
        "face",
        "file",
        "key",
        "pinned_by",
        "reads",
        "scattered",
        "start",
        "stop",
    )

    face: Any
    """Its wrapper for smmap 5's users: see _compat.py."""
    entry: Entry
    born: float
    clear: int
    """Up to here, reads are certainly not recorded."""
    key: Any
    start: int
    stop: int
    file: File
    pinned_by: dict[int, weakref.ref[Any]]
    reads: bool
    """Whether this is a copy in memory, not a map of the file."""
    scattered: bool
    """Whether the system was told to expect scattered reads, because the reads before were scattered."""
    ended: int
    """The end of the last long copy, if it is scattered."""
    exported: bool
    """Whether there ever was a view of it."""
    doomed: bool
    """Whether it is being unmapped, or was unmapped, before it dies."""

    def become(self, ledger: Ledger, file: File, window: Window, reads: bool) -> Region:
        """Become that window of that file, and be counted."""
        self.key, self.start, self.stop = window
        self.file = file
        self.reads = reads
        self.pinned_by = {}
        self.exported = self.doomed = self.scattered = False
        self.face = None
        self.ended = -1
        self.born = monotonic()
        self.clear = self.stop if ledger.trace is None else _UNKNOWN
        ledger.enter(self)
        return self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} [{self.start}, {self.stop})>"

    def watched(self, start: int, ledger: Ledger) -> bool:
        """Whether a read from this offset in the file should be recorded."""
        if self.clear == _UNKNOWN or ledger.trace is None:
            self.clear = self.stop if ledger.trace is None else _clear_to(self.file, self.start, self.stop, ledger)
        return start >= self.clear and is_sampled(self.file, start, ledger)

    @property
    def pins(self) -> int:
        """How many cursors use it."""
        return len(self.pinned_by)

    @property
    def pinned(self) -> bool:
        """Whether a cursor really uses it: an exception may have come between its `pin` and the use."""
        return any(cursor._use[0] is self for cursor in self.holders())

    def pin(self, cursor: Any) -> None:
        """A cursor is about to use it."""
        self.pinned_by[id(cursor)] = weakref.ref(cursor)

    def unpin(self, cursor_id: int, idle: Order) -> bool:
        """A cursor unpins it; after the last one the region is idle. Returns whether the manager has to check that."""
        self.pinned_by.pop(cursor_id, None)
        if self.pinned_by or (PYPY and self.closed) or self.entry() is None:
            return False  # the collector counts a region as dead before it runs the finalizer of a cursor that had it
        idle.add(self.entry, self)
        if self.pinned_by:  # a cursor in another thread has just pinned it
            idle.remove(self.entry)
        return idle.crowded or self.file.gone

    def revoke(self) -> bool:
        """Take it away from the cursors that use it; return whether there were any."""
        found = bool(self.pinned_by)
        for cursor in self.holders():
            cursor._revoke()
        self.pinned_by.clear()
        return found

    def holders(self) -> list[Any]:
        """The cursors that use it."""
        return [cursor for cursor in (ref() for ref in list(self.pinned_by.values())) if cursor is not None]

    def view(self, start: int, stop: int) -> memoryview:
        """A read-only view of [start, stop), offsets in the file."""
        self.exported = True
        return memoryview(self)[start - self.start : stop - self.start]

    def shared(self) -> Region:
        """The map itself, for a user."""
        self.exported = True
        return self

    def __iter__(self) -> Iterator[bytes]:  # type: ignore[override]
        """Each byte as bytes, as from `mmap`; a subclass would yield numbers."""
        return (self[place : place + 1] for place in range(len(self)))

    if (3, 11) <= sys.version_info < (3, 11, 5):  # pragma: no cover - there `mmap.find` may crash: see SEARCHES_MAPS

        def find(self, sub: Any, start: int | None = None, end: int | None = None) -> int:
            first = self.tell() if start is None else start
            return self[:].find(memoryview(sub), *slice(first, end).indices(len(self))[:2])

    def size(self) -> int:
        """The file's size in bytes: if this is a copy, `mmap` would return the size of the file in memory."""
        return self.file.status.size

    def close(self) -> None:
        """Refused: others may be reading."""
        raise BufferError("a managed map cannot be closed: it is unmapped when nobody uses it")

    def __dir__(self) -> list[str]:
        """The names that a user of `map()` may call: all of `mmap`."""
        return dir(mmap.mmap)

    def __exit__(self, *exc: object) -> None:
        """Does nothing: the C code of `mmap` would unmap it here."""

    def drop(self, ledger: Ledger) -> None:
        """The manager dropped it: unmap it now if that would wait for a garbage collection, and no view exists."""
        if PYPY:
            ledger.leave(self)

    def unmap(self) -> bool:
        """Unmap it unless a view may exist or a cursor uses it; return whether it is unmapped.

        Another thread may export or pin it at this moment. That thread first does so and then checks whether the region
        is doomed; this one does it the other way round. So one of the two notices.
        """
        self.doomed = True
        if self.exported or self.pinned_by:
            self.doomed = False
        else:
            super().close()
        return self.closed


class Table(dict[Any, Entry]):
    """A file's regions by window, each as long as it lives."""

    __slots__ = ()

    def find(self, key: Any) -> Region | None:
        """The region of a window, if it is mapped."""
        entry = self.get(key)
        region = None if entry is None else entry()
        return None if region is None or region.closed else region

    def add(self, entry: Entry) -> None:
        """Make a region findable."""
        self[entry.key] = entry

    def remove(self, entry: Entry) -> None:
        """Forget a region."""
        if self.get(entry.key) is entry:
            del self[entry.key]

    def regions(self) -> list[Region]:
        """All mapped regions."""
        return [region for region in (entry() for entry in list(self.values())) if region is not None]


_EMPTY = ("dictionary is empty",)
_CHANGED = {("OrderedDict mutated during iteration",), ("dictionary changed size during iteration",)}
"""What a `RuntimeError` says if another thread changed an order just now; the second one on PyPy."""


class Order:
    """The items that may be dropped, by their last use. Keys are entries of regions, or files."""

    __slots__ = ("_items", "crowded", "hits")

    def __init__(self) -> None:
        self._items: OrderedDict[Any, Any] = OrderedDict()
        self.crowded = False
        """Whether the manager checks newly idle regions: it is closed, or more is mapped than the limits allow."""
        self.hits = 0

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: object) -> bool:
        return key in self._items

    def __iter__(self) -> Any:
        while True:
            try:
                return iter(list(self._items.values()))
            except RuntimeError as error:
                if error.args not in _CHANGED:
                    raise

    def add(self, key: Any, item: Any) -> None:
        """Put `item` last: it is dropped after all others."""
        self._items[key] = item
        self.touch(key)

    def touch(self, key: Any, hits: int = 0) -> bool:
        """`key` is used now, which counts `hits`; return whether it is in the order."""
        self.hits += hits
        try:
            self._items.move_to_end(key)
        except KeyError as error:
            if error.args != (key,):  # the handler of a signal raised it
                raise
            return False
        return True

    def remove(self, key: Any) -> bool:
        """Remove it, so that it is not dropped; return whether it was in the order."""
        return self._items.pop(key, None) is not None

    def oldest(self) -> Any:
        """The least recently used item. `StopIteration` if there is none."""
        while True:
            try:
                return next(iter(self._items.values()))
            except RuntimeError as error:
                if error.args not in _CHANGED:
                    raise

    def pop_oldest(self) -> Any:
        """The same, removed from the order. `KeyError` if there is none."""
        while True:
            try:
                return self._items.popitem(last=False)[1]
            except KeyError as error:  # of an item: another thread has just taken it
                if error.args in ((), _EMPTY) or not (PYPY or isinstance(error.args[0], Entry)):
                    raise
            except RuntimeError as error:
                if error.args not in _CHANGED:
                    raise

    def drain(self) -> list[Any]:
        """Take out all items, and return them, least recently used first."""
        items = []
        while self._items:
            try:
                items.append(self.pop_oldest())
            except KeyError as error:  # another thread has just taken the last one
                if error.args != _EMPTY:
                    raise
        return items


if FREE_THREADED and sys.version_info < (3, 14):  # threads that change an `OrderedDict` at once can crash Python

    def _one_at_a_time(method: Callable[..., T], guard: Any) -> Callable[..., T]:
        def guarded(self: Order, *args: Any) -> T:
            inside = guard._is_owned()  # `guard` is not a global: finalizers run when globals are gone
            try:
                with guard:
                    return method(self, *args)
            finally:
                while not inside and guard._is_owned():
                    guard.release()  # an exception came after the lock was taken and before the block started

        return guarded

    _guard = threading.RLock()  # a finalizer may run while it is held
    for _name in ("__len__", "__contains__", "__iter__", "add", "touch", "remove", "oldest", "pop_oldest"):
        setattr(Order, _name, _one_at_a_time(getattr(Order, _name), _guard))
