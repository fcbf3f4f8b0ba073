"""The managers: serve windows of files to clients, under one lock. The ledger says what must go for it.

Serving a mapped window, mapping, evicting and letting go are each O(1); `collect`, `close` and `release` are linear in
what is mapped.

Plan: one lock, taken when a window is asked for that the reader does not have at hand, never on a hit. Names that need
it end in `_locked`. What happens without the lock is written down, and settled by the next locked operation before it
decides or reports anything: which region each cursor holds now (`_changed`), which regions were used and in which order
(`_uses`), and what died or is to be closed (`_inbox`). All three are bounded, and finalizers only ever write there.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import sys
import threading
import weakref
from collections import deque
from operator import index
from typing import TYPE_CHECKING, Any, Callable, ClassVar, TypeVar

from . import _fork, _system
from ._errors import ClosedError, LimitError, ReentryError, SmmapError
from ._file import Client, FileRef, MappedFile, read_all
from ._ledger import Ledger, Stats
from ._lock import under
from ._region import MapRegion, Store, StoredBytes
from ._rents import Rents, patience, price
from ._source import CannotMap, Source
from ._status import examine, where_is
from ._system import Descriptor, Where, called
from ._window import ALLOCATIONGRANULARITY, Key, MapWindow, is_64_bit, round_window, serving

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SlidingWindowMapManager", "StaticWindowMapManager"]

T = TypeVar("T")

_MIB = 1 << 20
_GIB = 1 << 30
_OURS = (SmmapError, OSError, ValueError, CannotMap)  # what operations raise where the tables are as they should be
_FRUITLESS_COLLECTIONS = 3 if _system.PYPY else 1  # of garbage, before a limit is believed


class StaticWindowMapManager:
    """Maps whole files, each at once, and unmaps the least recently used when a limit is reached.

    `window_size`: bytes in a window, rounded up to a multiple of twice the allocation granularity; 0: whole files;
    -1: 4 GiB (64 MiB on 32-bit systems, 8 MiB with backing="read"), but at most an eighth of `max_memory_size`.
    `max_memory_size`: bytes to keep mapped, as far as cursors do not hold more; 0: 32 GiB (1 GiB on 32-bit systems and
    with backing="read"). `max_open_handles`: the most maps and descriptors at a time, a hard limit; when not given,
    half of what the system allows. `backing`: "mmap" maps, "read" reads windows into memory (for network file systems
    and files that others may truncate), "auto" maps where the file system can and reads elsewhere.

    Any number of threads may share a manager. The constructor touches nothing.
    """

    MapRegionListCls = MappedFile
    MapWindowCls = MapWindow
    MapRegionCls = MapRegion
    WindowCursorCls: ClassVar[Any]  # set by _cursor.py: imports go one way, so clients introduce themselves
    BufferCls: ClassVar[Any]  # set by _buffer.py

    def __init__(
        self,
        window_size: int = 0,
        max_memory_size: int = 0,
        max_open_handles: int = sys.maxsize,
        *,
        backing: str = "auto",
    ) -> None:
        sizes = window_size, max_memory_size, max_open_handles = (
            index(window_size),
            index(max_memory_size),
            index(max_open_handles),
        )
        if window_size < -1 or max_memory_size < 0 or max_open_handles < 1:
            raise ValueError(
                f"window_size must be at least -1, max_memory_size at least 0, max_open_handles at least 1, not {sizes}"
            )
        if backing not in ("auto", "mmap", "read"):
            raise ValueError(f'backing must be "auto", "mmap" or "read", not {backing!r}')
        large = is_64_bit() and backing != "read"
        if window_size < 0:
            window_size = 4 * _GIB if large else 8 * _MIB if backing == "read" else 64 * _MIB
            if max_memory_size:
                unit = 2 * ALLOCATIONGRANULARITY
                window_size = min(window_size, max(max_memory_size // 8 // unit * unit, unit))
        self._window = round_window(window_size)
        self._closed = False
        self._lock = threading.RLock()  # reentrant so that a finalizer which interrupts its holder is told, not hung
        self._busy = False
        self._inbox: deque[Any] = deque()
        self._changed: dict[int, MapRegion | None] = {}  # by holder: what it holds now
        self._known: dict[int, MapRegion] = {}  # by holder: what it held when that was settled
        self._uses: dict[Any, int] = {}  # by region, or kept descriptor, used since: when, by the clock
        self._reading = -1  # the number of the descriptor used last
        self._rents = Rents()
        self._clock = itertools.count(1).__next__
        self._last = MapRegion.nowhere()  # the region used last, by a reader without the lock
        self._hot: dict[int, MapRegion] = {}  # the same by thread, on free-threaded Python
        self._over = False  # whether more is mapped than the limit of memory asks for
        self._files: dict[tuple[int, int], FileRef] = {}
        self._paths: dict[Where, FileRef] = {}
        self._ledger = Ledger(max_memory_size or (32 * _GIB if large else _GIB), max_open_handles, self._inbox.append)
        self._source = Source(self._ledger, self._window, backing)
        self._pauses = 0  # how many uses since were holders letting go
        self._settled = 0  # the clock's time up to which uses are settled
        self._futile = 0  # how many lent regions the last garbage collection could not bring down
        self._ref = weakref.ref(self)
        _fork.register(self)

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self._ledger.mapped} regions, {self._ledger.memory} bytes mapped"
        return f"<{type(self).__name__} {state}>"

    # What users call

    def make_cursor(self, path_or_fd: Any) -> Any:
        """A `WindowCursor` of a file (str, bytes, os.PathLike, or a descriptor, which stays yours). Maps nothing.

        Raises the system's error for what is not there, and `OSError` for anything but a regular file.
        """
        cursor = self.WindowCursorCls(self)
        self.associate(cursor, path_or_fd)
        return cursor

    def buffer(self, path_or_fd: Any, offset: int = 0, size: int | None = None, *, access: str = "normal") -> Any:
        """A bytes-like buffer over a file on this manager: see `smmap.buffer`."""
        return self.BufferCls.of_path(self, path_or_fd, offset, size, access)

    def collect(self) -> int:
        """Unload every idle region and kept descriptor; how many regions went. Never raises, also after `close`."""
        count = self._put_off_or_run(self._unload_locked, 0)
        if _system.RECLAIMS_LATE and (self._ledger.lent or self._ledger.held):  # by what is garbage already, maybe
            _system.collect_garbage()
            count += self._put_off_or_run(self._unload_locked, 0)
        return count

    def release(self, path: Any) -> int:
        """Unload every idle region of the file at `path`, or of the files below that folder; how many went.

        Whole path components count; links are followed as well as taken by name. By whatever name, link or descriptor
        the manager came to the file, it is found. Works after deletion too.
        """
        return self._put_off_or_run(self._release_locked, 0, _names(path), _key_at(path), False)

    def close(self) -> None:
        """Unload everything, held regions too, and refuse further use. Views that you hold stay valid."""
        self._closed = True
        self._put_off_or_run(self._unload_locked, 0)

    def __reduce_ex__(self, _protocol: Any) -> Any:
        raise TypeError(f"a {type(self).__name__} is neither copied nor pickled: each process makes its own")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def stats(self) -> Stats:
        """What is mapped, was done and may be done. O(1)."""
        return self._put_off_or_run(self._stats_locked, self._stats_locked)

    def num_file_handles(self) -> int:
        """How many regions are mapped."""
        return self.stats().mapped

    def num_open_files(self) -> int:
        """Of how many files regions are mapped."""
        return self.stats().files

    def mapped_memory_size(self) -> int:
        """How many bytes are mapped."""
        return self.stats().mapped_memory

    def window_size(self) -> int:
        """Bytes in a window, after rounding; 0 stands for whole files."""
        return self._window

    def max_file_handles(self) -> int:
        """The most regions and kept descriptors at a time."""
        return self._ledger.limits()[0]

    def max_mapped_memory_size(self) -> int:
        """The limit of mapped memory, in bytes."""
        return self._ledger.max_memory

    def force_map_handle_removal_win(self, base_path: Any) -> None:
        """On Windows, close the maps at or below a path even if held, so that it can be deleted; nothing elsewhere."""
        if _system.WINDOWS:
            self._put_off_or_run(self._release_locked, 0, _names(base_path), _key_at(base_path), True)

    def _collect_lru_region(self, size: int) -> int:
        """Evict idle regions until `size` more bytes fit, or all for 0; how many went. smmap 5's tests call it."""
        if not size:
            return self._put_off_or_run(self._unload_locked, 0)
        return self._put_off_or_run(self._ledger.trim, 0, None, size)

    def _check(self) -> None:
        """Assert every invariant. For tests: linear in what is mapped."""
        self._run(self._check_locked)

    # What clients and regions call

    def associate(self, client: Client, path_or_fd: Any) -> None:
        """Make `client` one of this file, as it is now."""
        if not (type(path_or_fd) is str and self._know(client, path_or_fd)):
            where = where_is(path_or_fd)
            try:
                status = examine(where)
            except FileNotFoundError:
                try:
                    self._run(self._unload_path_locked, where)
                except ReentryError:
                    pass  # at another chance; put off, it would unload everything
                raise
            except (OSError, MemoryError) as error:
                if _system.code_of(error) not in _system.REFUSALS:
                    raise
                status = self._run(self._source.attempt, where, 0, 0, examine, where)
            client._file, status = self._run(self._file_locked, where, status)
            client._length = status.st_size
            client._where = where
        client._manager = self
        client._given = path_or_fd

    def _know(self, client: Client, path: str) -> bool:
        """Make `client` one of the file at this absolute path if it is known and surely as it was, without the lock."""
        ref = self._paths.get(path)
        file = None if ref is None else ref()
        if file is None or file.written or file.gone or self._closed:
            return False
        try:
            status = _system.status(path)
        except OSError as error:
            if error.errno is None:  # not the system's: the handler of a signal raised it
                raise
            return False
        length = file.size
        if status.st_size != length or status.st_mtime_ns != file.mtime or not length:
            return False
        if (status.st_dev, status.st_ino) != file.key:
            return False
        client._file = file
        client._length = length
        client._where = path
        return True

    def try_opening(self, client: Client) -> None:
        """Open the client's file and verify it, so that what cannot be read is told at once."""
        self._run(self._try_opening_locked, client)

    def hold(self, client: Client, holder: int, own: MapRegion | None, offset: int, size: int, flags: int) -> MapRegion:
        """A region that serves the request, held by `holder` (a cursor's id) in place of its `own`."""
        window = self._window_of(client, offset, size)
        if not flags and client._file is not None:
            region = client._file.regions.get(window[0])
            if region is not None and region.end >= window[2] and self.change(holder, own, region):
                return region
        try:
            return self._serve(self._hold_locked, client, holder, offset, size, window, flags)
        except LimitError:
            if _system.RECLAIMS_LATE and own is not None:
                self._run(self._hold_again_locked, holder, own)
            raise

    def share(self, holder: int, region: MapRegion) -> bool:
        """Let `holder`, which holds nothing, hold a region that another one holds; False if it is no longer mapped."""
        return self._run(self._share_locked, holder, region)

    def change(self, holder: int, own: MapRegion | None, region: MapRegion) -> bool:
        """Let `holder` hold a mapped region in place of its `own`, without the lock; False if that needs the lock.

        Whoever evicts settles first. If it settled before this hold was written down, and evicts after the last look
        here, the cursor finds out when it is asked for its bytes, and has the window mapped again.
        """
        store = region.store
        if self._over or store is None:
            return False
        self._changed[holder] = region
        self._last.hot = None  # letting go is a use: the reader before us will have to note its next one
        self._uses[region if own is None else own] = self._clock()
        if region.store is not None:
            return True
        self._changed[holder] = own
        return False

    def leave(self, holder: int, own: MapRegion) -> None:
        """Let `holder` hold nothing any more, by and by: finalizers call this, anywhere, so it only writes it down."""
        self._changed[holder] = None
        self._last.hot = None
        self._uses[own] = self._clock()
        self._pauses += 1

    def untold(self, holder: int) -> MapRegion | None:
        """What `holder` holds and was not told of: the handler of a signal interrupted the call that took it."""
        return self._changed[holder] if holder in self._changed else self._known.get(holder)

    def settle(self) -> None:
        """Take note now of what was written down."""
        self._put_off_or_run(_nothing, None)

    def note(self, region: MapRegion) -> Store | None:
        """Note that a reader uses another region now, without the lock; its store, or None if it was evicted."""
        store = region.store
        if store is not None:
            self._last.hot = None
            self._last = region
            region.hot = store
            if region.store is None:  # evicted meanwhile: either we see that here, or the eviction saw `hot`
                region.hot = None
            self._uses[region] = self._clock()
        return store

    if _system.FREE_THREADED:  # pragma: no cover - `make matrix` runs it

        def note(self, region: MapRegion) -> Store | None:
            """As above; each thread keeps a region hot, or they would cool each other's all the time."""
            store = region.store
            if store is not None:
                thread = threading.get_ident()
                self._hot.get(thread, region).hot = None
                self._hot[thread] = self._last = region
                region.hot = store
                if region.store is None:
                    region.hot = None
                self._uses[region] = self._clock()
            return store

    def fetch(self, client: Client, region: MapRegion | None, number: int, begin: int, end: int) -> bytes:
        """A copy of [begin, end), which lies in the grid window of that number: from its map, or read while it is cold.

        `region` is what the window's number leads to in the file's table. Reading by the descriptor kept for the file
        needs no lock: whoever refers to a descriptor keeps it open.
        """
        file = client._file
        if file is None:  # another thread gives the client another one just now
            raise client._closed_error()
        due = False
        if file.price and (region is None or region.end < end or (region.store is None and not region.pins)):
            size = end - begin
            due = self._rents.due(file.serial + number, size, file.price, file.patience)
            descriptor = file.ref.descriptor
            if due:
                pass  # to be mapped, which needs the lock
            elif descriptor is None:
                found = self._fetch_anew(client, file, begin, end)
                if found is not None:
                    return found
            elif not _system.PYPY:
                if descriptor.number != self._reading:
                    self._reading = descriptor.number
                    self._note_kept(descriptor)
                try:
                    data = _system.read_at(descriptor.number, size, begin)
                except (OSError, MemoryError) as error:
                    if not _system.code_of(error):  # not the system's: the handler of a signal raised it
                        raise
                    data = b""
                if len(data) == size:
                    self._ledger.cold_reads += 1
                    return data
        return self._fetch_with_lock(client, begin, end, due)

    def _note_kept(self, descriptor: Descriptor) -> None:
        """Note that a reader uses another kept descriptor now, without the lock."""
        try:
            self._ledger.kept.move_to_end(descriptor)  # a single step under the interpreter's lock
        except KeyError:
            pass  # it was let go meanwhile

    if _system.FREE_THREADED:  # pragma: no cover - `make matrix` runs it

        def _note_kept(self, descriptor: Descriptor) -> None:
            """As above, settled later: there, a table that is changed without the lock breaks."""
            self._uses[descriptor] = self._clock()
            self._pauses += 1

    def _fetch_anew(self, client: Client, file: MappedFile, begin: int, end: int) -> bytes | None:
        """The same by a descriptor that is opened now, and kept; None where that needs the lock.

        Only keeping it takes the lock, so that threads open and read files side by side.
        """
        if not _system.KEEPS_DESCRIPTORS or self._closed:
            return None
        where, flags = client._where, client._flags
        descriptor = None
        try:
            descriptor = _system.open_file(where, flags)
            file.verify(descriptor.number, False, begin, end, where)
            data = read_all(descriptor.number, end - begin, begin, where)
            self._run(self._keep_locked, file, descriptor, flags)
            return data
        except (OSError, MemoryError) as error:
            if isinstance(error, SmmapError) or not _system.code_of(error):  # or what the handler of a signal raised
                raise
            return None
        finally:
            if descriptor is not None and not descriptor.shared:
                descriptor.close()

    def _fetch_with_lock(self, client: Client, begin: int, end: int, due: bool) -> bytes:
        """The same where there is no such descriptor, the window is to be mapped, or reading it failed."""
        while True:
            found, start = self._serve(self._fetch_locked, client, begin, end, due)
            if not isinstance(found, Descriptor):
                try:
                    data: bytes = found[begin - start : end - start]
                    return data
                except ValueError:  # PyPy: the map was evicted and closed meanwhile
                    continue
            arguments = found.number, end - begin, begin, client._where
            try:
                return read_all(*arguments)
            except (OSError, MemoryError) as error:
                if _system.code_of(error) not in _system.REFUSALS:
                    raise
                again: bytes = self._run(self._source.attempt, client._where, begin, end, read_all, *arguments)
                return again
            finally:
                if not found.shared:
                    found.close()
                elif not found.closes_itself:
                    self._inbox.append(found)

    def window_at(self, client: Client, offset: int) -> tuple[Store, int, int]:
        """The store of the grid window at `offset`, mapped, and where it begins and ends for this client."""
        return self._serve(self._window_locked, client, offset)

    def view(self, client: Client, begin: int, end: int) -> memoryview:
        """A zero-copy view of [begin, end), from one window however long that must be."""
        return self._serve(self._view_locked, client, begin, end)

    def lend(self, region: MapRegion) -> None:
        """Mark a region as lent."""
        self._run(region.lend_locked)

    def count_client(self, region: MapRegion, change: int) -> None:
        """Change a region's holds by hand, never below none."""
        self._run(self._count_client_locked, region, change)

    def evict_region(self, region: MapRegion) -> None:
        """Evict a region by hand, even if it is held."""
        self._run(self._evict_by_hand_locked, region)

    # The lock

    def _run(self, operation: Callable[..., T], *args: Any) -> T:
        """`operation(*args)` under the lock, after the inbox."""
        if self._busy and self._lock._is_owned():  # type: ignore[attr-defined]
            raise ReentryError(
                "a finalizer or signal handler interrupted this manager in the same thread: "
                "use another manager there, or do it later"
            )
        result: T = under(self._lock, self._run_locked, operation, *args)
        return result

    def _run_locked(self, operation: Callable[..., T], *args: Any) -> T:
        if self._busy:  # nobody is, so an exception of a signal handler cut short who was
            self._mend_locked()
        self._busy = True
        try:
            self._reading = -1  # the lock's holder may use another one: who reads without the lock notes it again
            if self._inbox or self._uses or self._changed:
                self._settle_locked()
            result = operation(*args)
        except _OURS as error:
            self._busy = _is_from_outside(error)
            raise
        finally:
            self._over = self._ledger.memory > self._ledger.max_memory
        self._busy = False
        return result

    def _mend_locked(self) -> None:
        """Set the tables right after an operation that was cut short. Linear in what is mapped."""
        files = [file for file in map(_alive, list(self._files.values())) if file is not None]
        self._ledger.rebuild(files, self._known.values())
        if self._closed:
            self._ledger.unload(True)
        self._ledger.trim(None)
        while self._ledger.idle and not self._ledger.fits():  # pragma: no cover - PyPy, where `trim` counts on garbage
            self._ledger.evict(next(iter(self._ledger.idle)))

    def _put_off_or_run(self, operation: Callable[..., T], otherwise: Any, *args: Any) -> T:
        """Like `_run`, for what is never refused: where this thread is interrupted, it is done by and by."""
        try:
            return self._run(operation, *args)
        except ReentryError:
            if operation not in (_nothing, self._stats_locked):
                self._inbox.append(None)
            result: T = otherwise() if callable(otherwise) else otherwise
            return result

    def _serve(self, operation: Callable[..., T], *args: Any) -> T:
        """`_run` for what may map; again, if it turned out that the file can only be read."""
        if _system.RECLAIMS_LATE:
            return self._serve_late(operation, *args)
        try:
            return self._run(operation, *args)
        except CannotMap:
            return self._run(operation, *args)

    def _serve_late(self, operation: Callable[..., T], *args: Any) -> T:
        """The same where the interpreter reclaims late: collect garbage before giving up."""
        ledger = self._ledger
        patience = _FRUITLESS_COLLECTIONS
        least = sys.maxsize  # regions that are mapped, and of these once more those that can go
        while True:
            try:
                result = self._run(operation, *args)
                break
            except CannotMap:
                continue
            except LimitError:
                if not patience or not (_system.PYPY or ledger.lent):  # PyPy is late with cursors, too
                    raise
            _system.collect_garbage()
            self._run(ledger.confirm)
            left = ledger.mapped + len(ledger.idle)
            patience -= left >= least
            least = min(left, least)
        if len(ledger.lent) > self._futile and ledger.memory > ledger.max_memory:
            _system.collect_garbage()
            self._run(self._trim_again_locked)
        return result

    def _settle_locked(self) -> None:
        """Take note of what happened without the lock."""
        ledger = self._ledger
        released = self._settle_holds_locked()
        uses = self._uses
        order = [uses.popitem() for _ in range(len(uses))]  # only here they grow fewer; not `while`: others add to them
        order.sort(key=_time)
        for used, _ in order:
            if type(used) is Descriptor:  # pragma: no cover - on free-threaded Pythons: see `_note_kept`
                if used in ledger.kept:
                    ledger.kept.move_to_end(used)
            else:
                used.hot = None  # whoever reads it next notes its use again, so that the order stays exact
                if used in ledger.idle:
                    ledger.idle.move_to_end(used)
        if order:
            ledger.hits += order[-1][1] - self._settled - self._pauses
            self._settled = order[-1][1]
            self._pauses = 0
        inbox = self._inbox
        for _ in range(len(inbox)):
            event = inbox.popleft()
            kind = type(event)
            if kind is Descriptor:
                ledger.check_in(event)
            elif kind is FileRef:
                self._forget_file_locked(event)
            elif event is None:
                self._unload_locked()
            else:
                ledger.died(event)
        if released:
            self._trim_locked()

    def _settle_holds_locked(self) -> bool:
        """Take note of which regions cursors hold now; whether any was let go."""
        changed = self._changed
        known = self._known
        released = []
        for holder in list(changed):
            region = changed[holder]
            own = known.get(holder)
            if region is None:
                known.pop(holder, None)
            else:
                known[holder] = region
            if region is not own:
                if region is not None:
                    self._ledger.take(region)
                if own is not None:
                    released.append(own)
            newest = changed.pop(holder)  # last: what is cut short before is done again
            if newest is not region:  # written down meanwhile, if not yet another
                changed.setdefault(holder, newest)
        for own in released:
            self._ledger.let_go(own)
            self._ledger.dismiss(own)
        return bool(released)

    def _trim_locked(self) -> None:
        """A region became idle: it was used last, so it stays."""
        self._ledger.trim(next(reversed(self._ledger.idle), None))

    def _trim_again_locked(self) -> None:
        """After garbage was collected."""
        self._ledger.confirm()
        self._trim_locked()
        self._futile = 2 * len(self._ledger.lent)

    def _stats_locked(self) -> Stats:
        return self._ledger.stats(self._window)

    def _check_locked(self) -> None:
        ledger = self._ledger
        ledger.check()
        assert not self._closed or not (ledger.held or ledger.idle or ledger.kept), "closed but still mapped"

    def _unload_locked(self) -> int:
        return self._ledger.unload(self._closed)

    # Files

    def _check_open_locked(self, where: Where) -> None:
        if self._closed:
            name = f"descriptor {where}" if isinstance(where, int) else repr(where)
            raise ClosedError(f"the {type(self).__name__} of {name} is closed")

    def _file_locked(self, where: Where, status: os.stat_result) -> tuple[MappedFile, os.stat_result]:
        """The entry of the file that has this status, and its status now."""
        self._check_open_locked(where)
        ref = self._files.get((status.st_dev, status.st_ino))
        file = _alive(ref)
        if file is not None and not file.is_as(status):
            status = self._source.attempt(where, 0, 0, examine, where)
            if (status.st_dev, status.st_ino) != file.key:
                return self._file_locked(where, status)
            if file.pins:
                file.update(status)
            else:
                self._ledger.unload_file(file)
                file = None
        if file is not None and file.written:
            file.written = False
            self._ledger.outdate(file)
        if ref is None or file is None:
            file = MappedFile(where, status)
            ref = file.ref = FileRef(file, self._inbox.append)
            ref.key = file.key
            ref.paths = ()
            ref.descriptor = None
            self._files[file.key] = ref
        file.gone = False
        if not isinstance(where, int) and self._paths.get(where) is not ref:
            self._unload_path_locked(where)
            self._paths[where] = ref
            if where not in ref.paths:
                ref.paths += (where,)
        return file, status

    def _unload_path_locked(self, where: Where) -> None:
        """The file that was at this path is there no more: its idle regions go."""
        file = _alive(self._paths.get(where))
        if file is not None:
            file.gone = True
            self._ledger.unload_file(file)

    def _forget_file_locked(self, ref: FileRef) -> None:
        """An entry died: nothing refers to it any more but these tables."""
        if self._files.get(ref.key) is ref:
            del self._files[ref.key]
        for path in ref.paths:
            if self._paths.get(path) is ref:
                del self._paths[path]
        if ref.descriptor is not None:
            self._ledger.drop_descriptor(ref.descriptor)

    def _release_locked(self, bases: set[str], key: tuple[int, int] | None, held: bool) -> int:
        below = tuple(os.path.join(base, "") for base in bases)
        chosen = {_alive(self._files.get(key))} if key else set()
        for path, ref in list(self._paths.items()):
            names = _names(path)
            if names & bases or any(name.startswith(below) for name in names):
                chosen.add(ref())
        return sum(self._ledger.unload_file(file, held) for file in chosen if file is not None)

    def _try_opening_locked(self, client: Client) -> None:
        self._check_open_locked(client._where)
        descriptor = self._source.open(client, 0, 0, client._flags)
        self._source.keep(client, descriptor)
        self._ledger.check_in(descriptor)

    def _keep_locked(self, file: MappedFile, descriptor: Descriptor, flags: int) -> None:
        """Keep a descriptor that was read from, unless it was opened with flags of a client's own."""
        self._ledger.cold_reads += 1
        if not (flags or self._closed):
            self._ledger.keep(descriptor, file)

    # Windows

    def _window_of(self, client: Client, offset: int, size: int) -> tuple[Key, int, int]:
        """The window that serves a request; where files are read instead, no more than the request, aligned."""
        key, begin, end = serving(offset, size, self._window, client._length)
        if size and self._source.reads(client):
            grain = ALLOCATIONGRANULARITY
            end = min(end, -(-min(offset + size, client._length) // grain) * grain)
            begin = max(begin, offset - offset % grain)
            key = begin, end
        return key, begin, end

    def _obtain_locked(
        self, client: Client, key: Key, begin: int, end: int, flags: int = 0, own: MapRegion | None = None
    ) -> MapRegion:
        """The region of a window, mapped now if it was not, for the caller to hold (in place of `own`) or to borrow."""
        if self._closed:
            self._check_open_locked(client._where)
        _, file = client._needs()
        ledger = self._ledger
        region = file.regions.get(key)
        if region is not None and region.end >= end and (region.store is not None or ledger.revive(region)):
            if flags:
                ledger.check_in(self._source.open(client, begin, end, flags))
            ledger.use(region)
            return region
        if not ledger.has_room(own):
            raise self._no_handle(client)
        store = self._source.store(client, begin, end, flags)
        region = MapRegion.of_manager(store, key, begin, end, self._ref)
        ledger.admit(region, file)
        return region

    def _no_handle(self, client: Client) -> LimitError:
        return LimitError(
            errno.EMFILE,
            f"max_open_handles is {self._ledger.limits()[0]}, {len(self._ledger.held)} regions are held by cursors and "
            f"{len(self._ledger.lent)} by views: let go of some, or raise the limit",
            called(client._where),
        )

    # Holding

    def _hold_locked(
        self, client: Client, holder: int, offset: int, size: int, window: tuple[Key, int, int], flags: int
    ) -> MapRegion:
        ledger = self._ledger
        own = self._known.get(holder)
        if self._source.reads(client):  # as may have turned out only now
            window = self._window_of(client, offset, size)
        region = self._obtain_locked(client, *window, flags, own)
        if not _system.RECLAIMS_LATE:  # there, what is lent goes later, if at all
            region.lend_locked()
        if region is own:
            return region
        self._known[holder] = region
        ledger.take(region)
        spare = None
        lent = own is not None and own.lent is not None
        if own is not None:
            if isinstance(own.store, StoredBytes):  # bytes that nobody holds could not be revived if the move fails
                spare = own.store
            ledger.let_go(own)
        ledger.trim(region)
        if own is not None and own.store is None and spare is not None and not _system.is_shared(spare, lent):
            spare = None
            ledger.died(own.token)
        if ledger.fits():
            if own is not None:
                ledger.dismiss(own)
            return region
        ledger.let_go(region)
        ledger.evict(region)
        del self._known[holder]
        exact = spare is not None and not _system.PYPY
        if own is not None and (exact or not _system.RECLAIMS_LATE):  # there, it may be what goes with the garbage
            self._hold_again_locked(holder, own, spare)
        raise self._no_handle(client)

    def _hold_again_locked(self, holder: int, own: MapRegion, spare: Store | None = None) -> None:
        """A move failed: hold again what was let go for it."""
        if holder not in self._known and (own.store is not None or self._ledger.revive(own, spare)):
            self._ledger.take(own)
            self._known[holder] = own

    def _share_locked(self, holder: int, region: MapRegion) -> bool:
        if region.store is None:
            return False
        self._known[holder] = region
        self._ledger.take(region)
        return True

    def _count_client_locked(self, region: MapRegion, change: int) -> None:
        for _ in range(change if region.store is not None else 0):
            self._ledger.take(region)
        for _ in range(min(-change, region.holds)):
            self._ledger.let_go(region)
            self._ledger.dismiss(region)
            self._trim_locked()

    def _evict_by_hand_locked(self, region: MapRegion) -> None:
        if region.store is not None:
            self._ledger.evict(region)
        region.disown()

    # Borrowing

    def _fetch_locked(self, client: Client, begin: int, end: int, due: bool) -> tuple[Store | Descriptor, int]:
        """A store that has [begin, end) and where it begins, or a descriptor to read it by."""
        _, file = client._needs()
        if self._closed:  # before a lent region is revived
            self._check_open_locked(client._where)
        window = self._window or client._length
        region = file.regions.get(begin // window)
        cold = region is None or region.end < end or (region.store is None and not self._ledger.revive(region))
        if cold and _system.KEEPS_DESCRIPTORS and not (due and self._ledger.has_room(None)):
            descriptor = self._source.open(client, begin, end, 0)
            self._source.keep(client, descriptor)
            self._ledger.cold_reads += 1
            if not file.price:
                size = min(window, client._length)
                file.price = price(size, self._source.reads(client))
                file.patience = patience(min(self._ledger.limits()[0], self._ledger.max_memory // size))
            if descriptor.closes_itself:
                self._ledger.check_in(descriptor)
            return descriptor, begin
        store, start, _ = self._window_locked(client, begin)
        return store, start

    def _borrow_locked(self, client: Client, key: Key, begin: int, end: int) -> MapRegion:
        """A region that is used now; it stays idle, unless cursors hold it."""
        ledger = self._ledger
        region = self._obtain_locked(client, key, begin, end)
        ledger.trim(region)
        if not ledger.fits():
            ledger.evict(region)
            raise self._no_handle(client)
        return region

    def _window_locked(self, client: Client, offset: int) -> tuple[Store, int, int]:
        key, begin, end = serving(offset, 1, self._window, client._length)
        region = self._borrow_locked(client, key, begin, end)
        assert region.store is not None
        return region.store, begin, end

    def _view_locked(self, client: Client, begin: int, end: int) -> memoryview:
        low = begin - begin % ALLOCATIONGRANULARITY
        long = 0 < self._window < end - begin
        window = ((low, end), low, end) if long else self._window_of(client, begin, end - begin)
        region = self._borrow_locked(client, *window)
        region.lend_locked()
        view = region.view
        assert view is not None
        return view[begin - region.begin : end - region.begin]


class SlidingWindowMapManager(StaticWindowMapManager):
    """Maps windows of files, and unmaps the least recently used when a limit is reached.

    The arguments are those of `StaticWindowMapManager`, with the system's default for the window's size.
    """

    def __init__(
        self,
        window_size: int = -1,
        max_memory_size: int = 0,
        max_open_handles: int = sys.maxsize,
        *,
        backing: str = "auto",
    ) -> None:
        super().__init__(window_size, max_memory_size, max_open_handles, backing=backing)


def _time(use: tuple[Any, int]) -> int:
    return use[1]


def _is_from_outside(error: BaseException) -> bool:
    """Whether the handler of a signal raised it: the code in which it was raised is not ours then."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and not last.tb_frame.f_globals["__name__"].startswith(f"{__package__}.")


def _nothing() -> None:
    """For `_run`: only settle the inbox."""


def _alive(ref: FileRef | None) -> MappedFile | None:
    return None if ref is None else ref()


def _names(path: Any) -> set[str]:
    """A path as it is called and as it is after following links; `TypeError` for anything but a path."""
    where = where_is(path)
    if isinstance(where, int):
        raise TypeError("a path is needed here: str, bytes or os.PathLike, not int")
    name = os.fsdecode(where)
    found = {os.path.normpath(name)}
    try:
        found.add(os.path.realpath(name))
    except OSError:  # before Python 3.10, where a link cannot be read
        pass
    return found


def _key_at(path: Any) -> tuple[int, int] | None:
    """By what the file at a path is known; None for a folder, and where nothing is."""
    try:
        status = _system.status(where_is(path))
    except OSError:
        return None
    return None if stat.S_ISDIR(status.st_mode) else (status.st_dev, status.st_ino)
