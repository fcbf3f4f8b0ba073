"""One window that is mapped now. Knows its bytes and who holds it; knows nothing of files, limits or order.

A region is a small shell around its *store*: the `mmap`, or for files that are read instead the bytes read. Whoever
reads takes a reference to the store first. Evicting clears the shell and drops the manager's reference, never closing
what somebody may be reading: the store dies with its last view, and its *token* says when. Until then it is *lent*.
"""

from __future__ import annotations

import mmap
import weakref
from operator import index
from typing import TYPE_CHECKING, Any, Callable, Union

from . import _system
from ._errors import ClosedError
from ._status import examine, where_is
from ._window import ALLOCATIONGRANULARITY, Key

if TYPE_CHECKING:
    from ._manager import StaticWindowMapManager

__all__ = ["MapRegion", "Store", "StoredBytes", "Token"]


class Token:
    """Stands for a store of bytes, which CPython cannot refer to weakly: `gone` once it has died.

    PyPy can, but a weak reference to bytes compares and hashes as they do, so that it could not be told from others.
    """

    __slots__ = ("gone", "store")

    def __init__(self, store: StoredBytes) -> None:
        self.gone = False
        self.store: Callable[[], StoredBytes | None] = weakref.ref(store) if _system.PYPY else _nothing


def _nothing() -> None:
    """What a store is that cannot be referred to weakly."""


class StoredBytes(bytes):
    """The bytes of a window that was read instead of mapped; reports its death like a weak reference would."""

    token: Token | None = None
    died: Callable[[Any], Any]

    def __del__(self) -> None:
        if self.token is not None:
            self.token.gone = True
            self.died(self.token)

    def __copy__(self) -> StoredBytes:
        return self

    def __deepcopy__(self, _memo: Any) -> StoredBytes:
        return self

    def __reduce_ex__(self, _protocol: Any) -> tuple[Any, ...]:
        return bytes, (bytes(self),)  # without the token, whose death would be told twice


Store = Union[mmap.mmap, StoredBytes]


class MapRegion:
    """A mapped byte range of a file.

    `MapRegion(path_or_fd, ofs, size, flags=0)` maps on its own, outside any manager: `ofs` is in bytes and a multiple
    of `ALLOCATIONGRANULARITY`, `size` is clipped to the end of the file. The regions of a manager come from cursors.
    """

    __slots__ = ("_owner", "begin", "end", "holds", "hot", "key", "lent", "pins", "store", "token")

    begin: int
    end: int
    key: Key
    holds: int
    """How many cursors hold it; changed under the manager's lock only."""
    pins: bool
    """Whether its store keeps the file's inode from being reused (a map does, bytes do not)."""
    store: Store | None
    """What is read; None once evicted."""
    hot: Store | None
    """The store while this region is the one that its reader used last: reading it needs no note of the use."""
    lent: memoryview | None
    """Made at the first zero-copy use, and never handed out: a view of a user's could be released by `with`."""
    token: Any
    """After eviction: what tells whether the store still lives."""
    view: memoryview | None
    """What a view is cut from: None where the region is evicted or was never lent."""

    def __init__(self, path_or_fd: Any, ofs: int, size: int, flags: int = 0) -> None:
        where = where_is(path_or_fd)
        ofs, size, flags = index(ofs), index(size), _system.check_flags(index(flags))
        if ofs < 0 or ofs % ALLOCATIONGRANULARITY or size <= 0:
            raise ValueError(
                f"a region begins at a multiple of {ALLOCATIONGRANULARITY} and is not empty: {ofs}, {size}"
            )
        examine(where)
        try:
            descriptor = _system.open_file(where, flags)
            try:
                end = min(ofs + size, _system.status_of(descriptor.number).st_size)
                if ofs >= end:
                    raise ValueError(f"offset {ofs} is past the end of {path_or_fd!r}")
                store = _system.map_at(descriptor.number, end - ofs, ofs)
            finally:
                descriptor.close()
        except OSError as error:
            raise _system.named(error, where) from None
        self._become(store, (ofs, end), ofs, end, None)
        self.lend()

    @classmethod
    def of_manager(
        cls, store: Store, key: Key, begin: int, end: int, owner: weakref.ref[StaticWindowMapManager]
    ) -> MapRegion:
        """A region around a store that the manager has just made."""
        region = cls.__new__(cls)
        region._become(store, key, begin, end, owner)
        return region

    def _become(self, store: Store | None, key: Key, begin: int, end: int, owner: Any) -> None:
        self.begin = begin
        self.end = end
        self.key = key
        self.holds = 0
        self.pins = type(store) is not StoredBytes
        self.store = store
        self.hot = self.lent = self.token = None
        self._owner = owner

    @classmethod
    def nowhere(cls) -> MapRegion:
        """A region of nothing, never mapped: stands in where there is none yet."""
        region = cls.__new__(cls)
        region._become(None, 0, 0, 0, None)
        return region

    def __repr__(self) -> str:
        state = "evicted" if self.store is None else f"{self.client_count()} clients"
        return f"<{type(self).__name__} [{self.begin}, {self.end}) {state}>"

    # What smmap 5's users call

    def ofs_begin(self) -> int:
        """Where the region begins in the file, in bytes."""
        return self.begin

    def ofs_end(self) -> int:
        """Where the region ends in the file, in bytes."""
        return self.end

    def size(self) -> int:
        """The region's size in bytes."""
        return self.end - self.begin

    def includes_ofs(self, ofs: int) -> bool:
        """Whether the byte at `ofs` of the file lies in the region."""
        return self.begin <= ofs < self.end

    def buffer(self) -> memoryview:
        """A read-only view of the whole region, valid until you drop it. O(1), no copy."""
        self.lend()
        view = self.view
        if view is None:
            raise self.gone()
        return view[:]

    def map(self) -> Store:
        """The `mmap` itself (bytes, where the file is read instead). O(1), no copy."""
        self.lend()
        store = self.store
        if store is None:
            raise self.gone()
        return store

    def client_count(self) -> int:
        """How many use the region: the manager (or whoever made it) and each cursor that holds it."""
        manager = self._owner and self._owner()
        if manager is not None:
            manager.settle()
        return self.holds + 1 if self.store is not None else max(self.holds, 0)

    def increment_client_count(self, ofs: int = 1) -> bool:
        """Count `ofs` clients more (or fewer, if negative); True if the region was released by it.

        A region of a manager never goes below the manager's own count.
        """
        if self._owner is not None:
            manager = self._owner()
            if manager is not None:
                manager.count_client(self, ofs)
            return False
        self.holds += ofs
        if self.holds >= 0:
            return False
        self.release()
        return True

    def release(self) -> None:
        """Give the map up: a manager evicts it, even while cursors hold it. Views stay valid."""
        manager = self._owner and self._owner()
        if manager is None:
            self.drop(_ignore)
        else:
            manager.evict_region(self)

    # What the manager does

    def lend(self) -> None:
        """Make zero-copy use possible; a region of a manager is lent under its lock (see `drop`)."""
        if self.lent is None:
            manager = self._owner and self._owner()
            if manager is None:
                self.lend_locked()
            else:
                manager.lend(self)

    def lend_locked(self) -> None:
        """Mark the region as lent, and keep a user's `map().close()` from unmapping it under everybody."""
        if self.store is not None and self.lent is None:
            self.lent = memoryview(self.store)

    def is_owned(self) -> bool:
        """Whether it belongs to a manager, which did not give it up by hand."""
        return self._owner is not None

    def disown(self) -> None:
        """Belong to no manager any more: it was given up by hand, for good."""
        self._owner = None

    def drop(self, died: Callable[[Any], Any]) -> bool:
        """Let the store go. True if it died at once; else `died` is called with the `token` when it does."""
        store = self.store
        if store is not None:
            copies_only = _system.PYPY and self.lent is None  # nobody has it: no need to wait for the collector
            if not copies_only:
                self._name(store, died)  # before it is let go: so it is not lost, wherever that is cut short
            self.store = None
            if copies_only and isinstance(store, mmap.mmap):
                store.close()
        self.hot = self.lent = None  # after `store`: see StaticWindowMapManager.note
        del store
        return not self._outlives(died)

    def _name(self, store: Store, died: Callable[[Any], Any]) -> None:
        if isinstance(store, StoredBytes):
            store.died = died
            self.token = store.token = Token(store)
        else:
            self.token = weakref.ref(store)  # it tells only if it is asked: most stores die at once

    def _outlives(self, died: Callable[[Any], Any]) -> bool:
        """Whether the store that was let go still lives; then `died` is called with the `token` when it does not."""
        token = self.token
        if type(token) is not Token:
            survivor = None if token is None else token()
            if survivor is not None:
                self.token = weakref.ref(survivor, died)
                hash(self.token)  # while it lives: tables find the token by its hash, after death too
                return True
        elif not token.gone:
            return True
        self.token = None
        return False

    def revive(self, store: Store | None = None) -> bool:
        """Take the store back, if a view (or the caller, who then gives it) has kept it alive since it was let go."""
        if store is None and self.token is not None:
            store = self.token.store() if type(self.token) is Token else self.token()
        self.store = store
        return store is not None

    def gone(self) -> ClosedError:
        """The error of one who still uses a region that was released by hand or with its manager."""
        return ClosedError(f"the map of [{self.begin}, {self.end}) was released: use_region() maps it again")


def _ignore(_token: object) -> None:
    """Nobody counts what a region without a manager maps."""


def _cut_from(region: MapRegion) -> memoryview | None:  # pragma: no cover - for free-threaded Pythons, see below
    store = region.store
    return None if store is None or region.lent is None else memoryview(store)


# Slicing one memoryview from two threads can release it under everybody on free-threaded CPython 3.13 (its count of
# exports is not atomic), so there each view is cut from one of its own.
setattr(MapRegion, "view", property(_cut_from) if _system.FREE_THREADED else vars(MapRegion)["lent"])  # noqa: B010
