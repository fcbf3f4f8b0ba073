"""The policy: which window serves a request, what the limits leave room for, which region is evicted. Read this first.

A *region* is a window that is mapped. What may happen to it depends on what keeps it alive:

    pinned      a cursor uses it: never evicted
    idle        the manager keeps it, in case it is used again: evicted when a limit requires it, least recently used
                first
    detached    evicted, but a user's view still needs it: counted until the view goes, idle again if it is requested

Nobody else refers to a region strongly, so it is unmapped when the last of these references goes, and the engine's
ledger counts exactly the living regions. That is why nothing here has to be repaired after an exception, whatever
raised it: at worst a region is mapped again that might have been found, or one use is missing from the order.

One lock guards all decisions (see _lock.py). The methods below "Regions" are called under it unless they say
otherwise, those above without it. A region is made under the lock, too: if two threads miss the same window, the second
one finds the region of the first. Reads that find their window mapped, and cold reads by a cached descriptor, are in
the engine and take no lock. Closing and unpinning never wait for the lock: they are noted, and done at once if the lock
is free, otherwise by its next holder before anything else.

A window that is only copied is mapped once its reads have cost about as much as mapping it: each cold read pays rent
(`BufferBase._piece` in the engine), and when that has reached the price of the window, the window is due, and `_buy`
maps it (see _rents.py). Which version of a file a client reads, and by which descriptor, is in _opening.py; what is
dropped when a limit is reached, in _cache.py. Serving a mapped window, mapping, evicting and unpinning are each O(1);
what is linear says so.
"""

from __future__ import annotations

import errno
import warnings
import weakref
from functools import partial
from operator import getitem
from typing import Any, Callable, ClassVar, TypeVar, cast

from . import _system
from ._cache import users_of
from ._engine import chosen as engine
from ._errors import FileChangedError, LimitError, ReentryError
from ._files import Client, File
from ._log import debugging
from ._opening import Opener
from ._system import called, look_at
from ._window import ALLOCATIONGRANULARITY, Window, serving, within

__all__ = ["Manager"]

T = TypeVar("T")

_DEARER = 16  # by this factor the price of a file's windows rises when one of them could not be mapped
_DEAREST = 4096  # from this price on it stays: one refusal after so many small reads is cheap


class Manager(Opener):
    """The policy of one manager, for clients; users call `StaticWindowMapManager`, which extends it.

    `_lock`, `_cache`, `_files` and the methods for versions and descriptors are those of `Opener`.
    """

    WindowCursorCls: ClassVar[Any]  # set by _cursor.py and _compat.py: imports go one way
    MapRegionCls: ClassVar[Any]
    MapRegionListCls: ClassVar[Any]
    MapWindowCls: ClassVar[Any]
    _born: ClassVar[Any] = None  # called with each new manager, while all are traced: see _trace.py

    def __init__(self, window: int, max_memory: int, max_handles: int, backing: str, guard: str) -> None:
        super().__init__(window, max_memory, max_handles, backing)
        if backing != "read":
            self._cache.ledger.shortcut = self._lock, debugging  # the fast engine maps with these, if there is room
        engine.guard(self._cache.ledger, guard, weakref.ref(self))
        self._counted_by_hand: set[Any] = set()  # stand for clients that users count by hand: see _compat.py
        if Manager._born is not None:
            Manager._born(self)

    # What clients ask for

    def _access(self, client: Client, offset: int, size: int) -> Any:
        """The record for reads of [offset, offset + size) of the client's file."""
        return engine.Access(client, offset, size, self._window, self._cache.ledger)

    def _swap(self, buffer: Any, old: Any, new: Any) -> None:
        """Give a buffer a new record in place of an old one, unless another thread has replaced that already."""
        self._lock.run(self._swap_locked, buffer, old, new)

    def _move(self, cursor: Any, client: Client, offset: int, size: int, flags: int) -> None:
        """Let a cursor use a region that serves the request, instead of its own."""
        self._serve(self._move_locked, cursor, client, offset, size, flags)

    def _keep(self, client: Client, region: Any) -> None:
        """A detached region was used: it is idle again. Never waits; `ClosedError` if the manager was closed."""
        self._check_open(client.where)
        self._check_whole(client)
        self._lock.soon(self._use, region)

    def _map_first(self, client: Client, offset: int, hits: int = 1) -> None:
        """Map the grid window at `offset`, if there is room for it. If it is mapped already, that counts as `hits`."""
        self._serve(self._buy, client, offset, hits)

    def _map_range(self, client: Client, start: int, stop: int) -> Any:
        """A region that has all of [start, stop), for a view: a wide one if no other window is long enough."""
        return self._serve(self._map_range_locked, client, start, stop)

    def _check_readable(self, client: Client, flags: int) -> None:
        """Open the client's file and verify it, so that an unreadable file is an error now."""
        descriptor = client.file.descriptor
        if descriptor is None or descriptor.closed or flags or client.flags or self._closed:
            self._serve(self._check_file, client, flags)
        else:
            self._cache.open.touch(client.file)

    def _soon(self, operation: Callable[..., object], *args: Any) -> None:
        """Let an operation be done under the lock, now or by its next holder. Never waits, never raises."""
        self._lock.soon(operation, *args)

    def _fetch(self, client: Client, start: int, stop: int, due: bool) -> bytes:
        """A copy of [start, stop) of one grid window, which is mapped first if it is `due` and there is room."""
        region = self._serve(self._buy, client, start) if due else None
        if region is not None:
            try:
                part = slice(start - region.start, stop - region.start)
                return cast(bytes, self._attempt(client.where, start, stop, getitem, region, part))
            except ValueError:  # PyPy: evicted and unmapped by another thread
                if not region.closed:
                    raise
        self._check_open(client.where)
        descriptor = self._open(client, start, stop, 0, self._attempt)
        try:
            if not (descriptor.cached or client.flags):
                self._lock.run(self._keep_open, client, descriptor)
            data = self._attempt(client.where, start, stop, engine.read_at, descriptor.number, stop - start, start)
        finally:
            self._done(descriptor)
        if len(data) < stop - start:
            raise FileChangedError(
                f"truncated: {len(data)} of {stop - start} bytes are left at offset {start}", called(client.where)
            )
        self._cache.open.touch(client.file, 1)
        return data

    # The lock

    def _serve(self, operation: Callable[..., T], *args: Any) -> T:
        """An operation under the lock; its notes for the log are written afterwards."""
        engine.notice()  # if a view has read zeros, see "Files that others truncate"
        log = self._cache.log
        log.listen()
        try:
            return self._lock.run(operation, *args)
        finally:
            if log.notes:
                log.tell()

    def _drop(self, operation: Callable[..., int], *args: Any) -> int:
        """Drop regions by an operation under the lock; return how many: 0 if put off, as waiting may never end."""
        engine.notice()
        log = self._cache.log
        log.listen()
        try:
            count = self._lock.run(operation, *args)
        except ReentryError:
            self._lock.soon(operation, *args)
            return 0
        if log.notes:
            log.tell()
        return count

    # Regions (from here on, everything is called under the lock, unless it says otherwise)

    def _window_of(self, client: Client, offset: int, size: int) -> Window:
        """The window that serves a request; if it has to be read, only the request itself, aligned."""
        window = serving(offset, size, self._window, client.size)
        if size and self._reads(client.file) and client.file.table.find(window.key) is None:
            return within(offset, min(size, self._window or size, client.size - offset), client.size)
        return window

    def _region(self, client: Client, offset: int, size: int, flags: int = 0) -> Any:
        """The region that serves a request."""
        region = self._try(client, self._window_of(client, offset, size), flags)
        # None: the file has to be read. Then a smaller window will do
        return self._region(client, offset, size, flags) if region is None else region

    def _obtain(self, client: Client, window: Window, advice: str = "", hits: int = 1) -> Any:
        """The region of a window, mapped or read now if necessary."""
        region = self._try(client, window, 0, advice, hits)
        return self._try(client, window, 0, advice, hits) if region is None else region

    def _try(self, client: Client, window: Window, flags: int = 0, advice: str = "", hits: int = 1) -> Any:
        """`_obtain`, except that it is None if mapping showed, for the first time, that the file can only be read."""
        self._check_open(client.where)
        region = client.file.table.find(window.key)
        if region is None:
            region = self._make(client, window, flags, advice or client.advice)
            if region is None:
                return None
        else:
            if flags:
                self._check_file(client, flags, window.start, window.stop)
            self._cache.idle.touch(region.entry, hits)
        return region

    def _make(self, client: Client, window: Window, flags: int, advice: str) -> Any:
        """The region of a window, mapped or read now. None if mapping it showed that the file can only be read."""
        file, where, size = client.file, client.where, window.stop - window.start
        reads = self._reads(file)
        make = engine.read_window if reads else engine.map_window
        descriptor = self._open(client, window.start, window.stop, flags, self._cache.attempt)
        try:
            self._cache.make_room(where, size)
            number = descriptor.number
            region = self._cache.attempt(
                where, window.start, window.stop, make, self._cache.ledger, file, number, window, advice
            )
            if region is None:
                raise FileChangedError(
                    f"truncated to {look_at(number).st_size} bytes: [{window.start}, {window.stop}) cannot be mapped",
                    called(where),
                )
            if reads or 0 < self._window < client.size:
                self._keep_open(client, descriptor, flags)
        except OSError as error:
            if reads or self._backing != "auto" or error.errno not in _system.UNMAPPABLE:
                raise
            file.reads = True
            self._set_price(file)
            return None
        finally:
            self._done(descriptor)
        self._cache.count_miss(region, where)
        return region

    def _use(self, region: Any) -> Any:
        """A region is used now: unless a cursor pins it, it moves to the end, and others may be evicted for it."""
        if not (region.pins or region.closed or self._closed):
            self._cache.use(region)
            self._cache.trim(keep=1)
        return region

    def _buy(self, client: Client, offset: int, hits: int = 1) -> Any:
        """The region of the grid window at `offset`, for which reads have paid; None if it cannot be mapped now."""
        window = serving(offset, 1, self._window, client.size)
        fits = window.stop - window.start <= self._cache.max_memory and self._cache.has_handle()
        if not fits and client.file.table.find(window.key) is None:
            self._check_open(client.where)
            return None
        try:
            advice = client.advice
            if advice == "normal" and self._cache.ledger.rents.scattered(client.file.serial + window.key):
                advice = "scattered"
            region = self._use(self._obtain(client, window, advice, hits))
            self._set_price(client.file)  # in case there was no room for a while
            return region
        except OSError as error:  # there is no room for it, or this file cannot be mapped
            if isinstance(error, FileChangedError) or error.errno is None:
                raise
            if client.file.price < _DEAREST:
                client.file.price *= _DEARER  # otherwise each attempt would evict idle regions in vain
            return None

    def _map_range_locked(self, client: Client, start: int, stop: int) -> Any:
        """`_map_range`, under the lock."""
        if 0 < self._window < stop - start:
            low = start - start % ALLOCATIONGRANULARITY
            region = self._obtain(client, Window((low, stop), low, stop))
        else:
            region = self._region(client, start, stop - start)
        self._cache.look_for_views(self._use(region))
        return region

    # Files that others truncate

    def _lose(self, region: Any) -> None:
        """A read from a region found that its file was truncated. Never waits, and needs no lock."""
        self._lock.soon(self._cut, region.file)

    def _zeroed(self, region: Any) -> Callable[[], None] | None:
        """Views read zeros, since the file was truncated. Returns the warning, to be given without the lock."""
        file = region.file
        self._lock.soon(self._cut, file, region)
        if file.zeroed:
            return None
        file.zeroed = True
        text = f"{called(file.where)!r} was truncated: views that were made before read zeros where its bytes were"
        return partial(warnings.warn, text, RuntimeWarning, stacklevel=2)

    def _cut(self, file: File, zeroed: Any = None) -> None:
        """End reads of a version that was truncated, except from pinned regions; from a `zeroed` region in any case.

        Its cached descriptor is closed, too: reads by it would return what others have written there since. Linear in
        the file's regions.
        """
        file.cut = file.gone = True
        self._cache.evict_file(file)
        self._cache.uncache(file)
        if zeroed is not None and not self._cache.evict(zeroed.entry):  # it was not idle: maybe it is pinned
            self._revoke(zeroed)

    # Cursors and buffers

    def _move_locked(self, cursor: Any, client: Client, offset: int, size: int, flags: int) -> None:
        """`_move`, under the lock. A failed move leaves the cursor as it was, unless it gave up its own region and that
        cannot be mapped again."""
        try:
            region = self._region(client, offset, size, flags)
        except LimitError as error:
            full = error.errno == errno.ENOMEM or not self._cache.has_handle()
            short = not full and engine.MAP_COSTS_DESCRIPTOR and error.errno in _system.NO_DESCRIPTOR
            if cursor._use[0] is None or users_of(cursor._use[0], cursor) or not (full or short):
                raise
            if short:  # the file needs a descriptor, too: without one, the region would be given up in vain
                self._check_file(client, flags, offset, offset + size)
            region = self._region_instead(cursor, client, offset, size, flags)
        stop = min(offset + min(size, self._window or size), client.size) if size else region.stop
        cursor._pin(region, offset, stop)
        self._cache.trim(region)
        self._cache.look_for_views()

    def _region_instead(self, cursor: Any, client: Client, offset: int, size: int, flags: int) -> Any:
        """A region if there is no room for one beside the cursor's own: that one may be evicted for it."""
        own, start, stop = cursor._use
        window = Window(own.key, own.start, own.stop)
        try:
            cursor._use = None, 0, 0
            own.unpin(id(cursor), self._cache.idle)
            del own
            return self._region(client, offset, size, flags)
        except BaseException:
            try:
                cursor._pin(self._obtain(client, window), start, stop)
            except (LimitError, FileChangedError):
                pass  # even this is refused now: the cursor has no region, and the first error says why
            raise

    def _tidy(self, entry: Any, used: Any) -> None:
        """A region became idle where more is mapped than the limits allow, or where no new client can find it.

        `used` is the entry of the region that its cursor uses instead; without one, the last idle region stays.
        """
        region = entry()
        if region is not None and (self._closed or region.file.gone):
            self._cache.evict(entry)
        del region
        self._cache.trim(used and used(), keep=int(used is None))

    def _swap_locked(self, buffer: Any, old: Any, new: Any) -> None:
        """`_swap`, under the lock."""
        if buffer._access is old:
            buffer._access = new

    # What users drop

    def _release(self, names: set[str], key: tuple[int, int] | None, pinned: bool) -> int:
        """Drop what is idle or cached of the files at or below one of the names, or with this key, and of their earlier
        versions; what is `pinned`, too, if wanted. Linear in the files and regions of the manager."""
        files = set(self._files.below(names, key))
        keys = {key, *(file.status.key for file in files)}
        older = [*self._cache.open, *(region.file for region in self._cache.regions())]
        count = 0
        for file in files.union(file for file in older if file.status.key in keys):
            self._cache.uncache(file)
            count += self._cache.evict_file(file)
            if pinned:
                count += sum(map(self._revoke, file.table.regions()))
        return count

    def _unload(self) -> int:
        """Drop every idle region and cached descriptor; pinned regions too if the manager is closed. Linear."""
        revoked = sum(map(self._revoke, self._cache.regions())) if self._closed else 0
        return revoked + self._cache.unload()

    def _revoke(self, region: Any) -> bool:
        """Take a region away from the cursors that use it, which then raise `ClosedError`; return whether any did."""
        found = bool(region.revoke())
        if found:
            self._cache.dropped(region)
        return found

    # Clients that smmap 5's users count by hand

    def _unpin(self, region: Any, cursor_id: int) -> None:
        """A client unpins a region."""
        region.unpin(cursor_id, self._cache.idle)
        self._tidy(region.entry, None)

    def _evict(self, region: Any) -> None:
        """Evict a region, if it is idle."""
        self._cache.evict(region.entry)
