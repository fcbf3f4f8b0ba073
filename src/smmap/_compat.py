"""Regions and windows as smmap 5's users know them: thin wrappers around the engine's regions."""

from __future__ import annotations

import weakref
from operator import index
from typing import TYPE_CHECKING, Any, NoReturn

from . import _system
from ._cache import users_of
from ._engine import chosen as engine
from ._errors import ClosedError, refuse_state
from ._files import Client, File, absolute, examine
from ._manager import Manager
from ._window import ALLOCATIONGRANULARITY, Window, align_to_mmap

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MapRegion", "MapRegionList", "MapWindow"]


class MapWindow:
    """A byte range that can be moved and stretched."""

    __slots__ = ("ofs", "size")

    def __init__(self, offset: int, size: int) -> None:
        self.ofs = offset
        self.size = size

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.ofs}, {self.size})"

    @classmethod
    def from_region(cls, region: Any) -> MapWindow:
        """The range that a region covers."""
        return cls(region.ofs_begin(), region.size())

    def ofs_end(self) -> int:
        """The offset just past the range."""
        return self.ofs + self.size

    def align(self) -> None:
        """Move the start down to the granularity, and round the size up to it."""
        start = align_to_mmap(self.ofs, False)
        self.size = align_to_mmap(self.size + self.ofs - start, True)
        self.ofs = start

    def extend_left_to(self, window: MapWindow, max_size: int) -> None:
        """Stretch to the left until `window` stops, as far as `max_size` allows; the end stays."""
        stop = self.ofs_end()
        self.ofs = min(self.ofs, max(window.ofs_end(), stop - max_size))
        self.size = stop - self.ofs

    def extend_right_to(self, window: MapWindow, max_size: int) -> None:
        """Stretch to the right until `window` starts, as far as `max_size` allows; the start stays."""
        self.size = max(self.size, min(window.ofs - self.ofs, max_size))


class MapRegion:
    """A mapped byte range of a file.

    `MapRegion(path_or_fd, ofs, size, flags=0)` maps on its own, outside any manager: `ofs` is in bytes and a multiple
    of `ALLOCATIONGRANULARITY`, `size` is clipped to the end of the file. `cursor.region()` returns one of a manager's
    regions, and does not keep it mapped.
    """

    __slots__ = ("__weakref__", "_by_hand", "_entry", "_manager", "_own", "_start", "_stop")

    __setstate__ = refuse_state

    _own: Any
    _start: int
    _stop: int

    def __init__(self, path_or_fd: Any, ofs: int, size: int, flags: int = 0) -> None:
        where = absolute(path_or_fd)
        ofs, size, flags = index(ofs), index(size), _system.check_flags(index(flags))
        if ofs < 0 or ofs % ALLOCATIONGRANULARITY or size <= 0:
            raise ValueError(
                f"a region must start at a multiple of {ALLOCATIONGRANULARITY} and must not be empty: {ofs}, {size}"
            )
        examine(where, engine.open_file)
        try:
            descriptor, status = engine.open_file(where, flags)
            try:
                stop = min(ofs + size, status.size)
                if ofs >= stop:
                    raise ValueError(f"offset {ofs} is past the end of {path_or_fd!r}")
                file = File(status, engine.Table())
                window = Window((ofs, stop), ofs, stop)
                region = engine.map_window(engine.Ledger(), file, descriptor.number, window, "normal")
                if region is None:
                    raise ValueError(f"offset {stop} is past the end of {path_or_fd!r}")
            finally:
                descriptor.close()
        except OSError as error:
            raise _system.named(error, where) from None
        self._become(region, None)
        self._own = region

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot pickle a {type(self).__name__}: it belongs to its process")

    @classmethod
    def _of(cls, region: Any, manager: Manager) -> MapRegion:
        """The wrapper of a manager's region, made once."""
        if region.face is not None:
            found: MapRegion = region.face
            return found
        new = cls.__new__(cls)
        new._become(region, weakref.ref(manager))
        new._own = None
        region.face = new
        return new

    def _become(self, region: Any, manager: Any) -> None:
        self._entry = region.entry
        self._start = region.start
        self._stop = region.stop
        self._manager = manager
        self._by_hand = 0

    def _region(self) -> Any:
        """The engine's region, or None once it was released or evicted."""
        region = self._entry() if self._manager is not None else self._own
        return None if region is None or region.closed else region

    def __repr__(self) -> str:
        state = "released" if self._region() is None else f"{self.client_count()} clients"
        return f"<{type(self).__name__} [{self._start}, {self._stop}) {state}>"

    def ofs_begin(self) -> int:
        """Where the region starts in the file, in bytes."""
        return self._start

    def ofs_end(self) -> int:
        """Where the region stops in the file, in bytes."""
        return self._stop

    def size(self) -> int:
        """The region's size in bytes."""
        return self._stop - self._start

    def includes_ofs(self, ofs: int) -> bool:
        """Whether the byte at `ofs` of the file lies in the region."""
        return self._start <= ofs < self._stop

    def buffer(self) -> memoryview:
        """A read-only view of the whole region, valid until you drop it. O(1), no copy."""
        view: memoryview = self._mapped().view(self._start, self._stop)
        return view

    def map(self) -> Any:
        """The `mmap` itself. O(1), no copy."""
        return self._mapped().shared()

    def _mapped(self) -> Any:
        region = self._region()
        if region is None:
            raise ClosedError(f"the map of [{self._start}, {self._stop}) was released: use_region() maps it again")
        return region

    def client_count(self) -> int:
        """How many clients the region has: the manager (or the caller who made it) and each cursor."""
        region = self._region()
        if region is None:
            return 0
        return 1 + int(self._by_hand if self._manager is None else users_of(region))

    def increment_client_count(self, ofs: int = 1) -> bool:
        """Count `ofs` more clients (or fewer, if negative); return True if that released the region.

        The count of a manager's region never goes below the manager's own use.
        """
        region = self._region()
        manager = None if self._manager is None else self._manager()
        if self._manager is None:
            self._by_hand += ofs
            if self._by_hand >= 0:
                return False
            self.release()
            return True
        if manager is not None and region is not None:
            more = [_ByHand(manager, region) for _ in range(ofs)]
            manager._soon(_count, manager, region, more, max(-ofs, 0), [])
        return False

    def release(self) -> None:
        """Release the map: a manager evicts it, even while cursors use it. Views stay valid."""
        region = self._region()
        manager = None if self._manager is None else self._manager()
        if manager is not None and region is not None:
            manager._soon(_release, manager, region)
        self._own = None


class _ByHand(engine.CursorBase):
    """A client that was counted by hand: a cursor that nobody moves. The manager keeps it alive."""

    __slots__ = ()

    def __init__(self, manager: Manager, region: Any) -> None:
        status = region.file.status
        client = Client(manager, region.file, -1, -1, status.size, status.mtime)
        self._access = manager._access(client, 0, status.size)
        self._use = (None, 0, 0)

    def _revoke(self) -> None:
        self._use = (None, 0, 0)
        self._access.client.manager._counted_by_hand.discard(self)


def _count(manager: Manager, region: Any, more: list[_ByHand], fewer: int, chosen: list[list[Any]]) -> None:
    """Pin a region for clients counted by hand; unpin it `fewer` times: first for such clients, then for cursors.

    May be done twice, if an exception interrupts it: so it notes in `chosen` which clients it has chosen.
    """
    for client in more:
        manager._counted_by_hand.add(client)
        client._pin(region, region.start, region.stop)
    if not chosen:
        chosen.append(sorted(region.holders(), key=lambda holder: not isinstance(holder, _ByHand))[:fewer])
    for client in chosen[0]:
        if isinstance(client, _ByHand):
            client._revoke()
        else:
            region.shared()  # its cursor still reads it: it must not be unmapped before it dies
        manager._unpin(region, id(client))


def _release(manager: Manager, region: Any) -> None:
    if not manager._revoke(region):
        manager._evict(region)


class MapRegionList:
    """The regions of one file that are mapped now."""

    __slots__ = ("_file", "_given")

    __setstate__ = refuse_state

    def __init__(self, path_or_fd: Any) -> None:
        self._given = path_or_fd
        self._file = File(examine(absolute(path_or_fd), engine.open_file), engine.Table())

    def __len__(self) -> int:
        return len(self._file.table.regions())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file.table.regions())

    def path_or_fd(self) -> Any:
        """The path or descriptor that it was made from."""
        return self._given

    def file_size(self) -> int:
        """The file's size in bytes at the last `stat`."""
        return self._file.status.size


Manager.MapRegionListCls = MapRegionList
Manager.MapWindowCls = MapWindow
Manager.MapRegionCls = MapRegion
