"""The plain engine's buffers: reads that find their window mapped, and cold reads by a cached descriptor.

They use an `Access` record, and touch three things: the file's table, the order of idle regions, and the region.
"""

from __future__ import annotations

import io
import mmap
from mmap import PAGESIZE
from operator import index
from struct import Struct
from typing import Any

from .._files import Client
from .._places import COPY, VIEW
from .._system import PYPY, REFUSALS, SEARCHES_MAPS, code_of, named
from .plain_regions import Ledger, Region, Table, is_sampled

__all__ = ["Access", "BufferBase", "found_in"]

_ONE_PIECE = 1 << 30  # the most bytes of one cold window read as one bytes object: more are read piece by piece
_LARGE = 1 << 16  # bytes: copies of at least this length count as long, and may be sequential
_STEP = 1 << 20  # bytes copied at once when a range is copied piece by piece
_BLOCK = 1 << 16  # bytes copied at once for a slice with a step
_CLOSE = 1 << 9  # up to this step a block costs less than the bytes one by one


class Access:
    """The record that a buffer's reads use. Never changed. Not a named tuple, since slots are read twice as fast."""

    __slots__ = ("client", "idle", "ledger", "offset", "opened", "pending", "size", "table", "window")

    def __init__(
        self,
        client: Client,
        offset: int,
        size: int,
        window: int,
        ledger: Ledger,
        opened: bool = True,
        pending: bool = False,
    ) -> None:
        """For reads of [offset, offset + size) of the client's file, with windows of that size (0: the whole file)."""
        self.client = client
        self.table: Table = client.file.table if opened else _NO_TABLE
        self.size = size
        self.window = window or max(client.size, 1)
        self.offset = offset
        self.ledger = ledger
        self.idle = ledger.idle
        self.opened = opened
        self.pending = pending
        """Whether the file is opened at the first read."""

    def sampled(self, first: int) -> bool:
        """Whether reads that start there, at an offset in the file, should be recorded."""
        return self.ledger.trace is not None and self.opened and is_sampled(self.client.file, first, self.ledger)

    def _note(self, start: int, stop: int, kind: int) -> Any:
        """The function from a trace, to be called after a read of [start, stop); None if the read is not recorded."""
        trace = self.ledger.trace
        if trace is None or start >= stop:
            return None
        region = self.table.find(start // self.window)
        if not (region.watched(start, self.ledger) if region is not None else self.sampled(start)):
            return None
        return trace.before(self, kind, [(start, stop)])

    def searched(self, first: int, last: int) -> None:
        """[first, last) of a mapped region was searched."""
        trace = self.ledger.trace
        if trace is not None and self.sampled(first):
            trace.searched(self, first, last)

    @classmethod
    def closed(cls, client: Client, offset: int = 0, size: int = 0, pending: bool = False) -> Access:
        """A record that reads nothing; a size says how many bytes there will be once the file is opened."""
        return cls(client, offset, size, 1, _NO_LEDGER, False, pending)


_structs: dict[str | bytes, Struct] = {}
_MOST_STRUCTS = 100  # `struct` remembers as many


def _struct_of(fmt: str | bytes) -> Struct:
    """A prepared format, which is cached."""
    packed = Struct(fmt)
    if len(_structs) >= _MOST_STRUCTS:
        _structs.clear()
    _structs[fmt] = packed
    return packed


_NO_TABLE = Table()
_NO_LEDGER = Ledger()


def found_in(access: Access, start: int, stop: int) -> Region | None:
    """The region that has [start, stop), offsets in the file of one grid window, if it is mapped: a use of it."""
    region = access.table.find(start // access.window)
    if region is None or region.stop < stop:
        return None
    idle, entry = access.idle, region.entry
    idle.hits += 1
    if not (region.pinned_by or idle.touch(entry)):
        access.client.manager._keep(access.client, region)
    return region


def follow(region: Region, start: int, stop: int) -> None:
    """A long copy of a window whose reads were scattered: announce it, as the system would else read page by page."""
    low = (start - region.start) // PAGESIZE * PAGESIZE
    try:
        if region.ended == start:  # right behind another one: the pattern has changed
            region.madvise(mmap.MADV_NORMAL)
            region.scattered = False
        else:
            region.madvise(mmap.MADV_WILLNEED, low, stop - region.start - low)
            region.ended = stop
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is None:  # the handler of a signal raised it
            raise  # else: it was advice


class BufferBase:
    """The bytes of a file, read through windows. See `SlidingWindowMapBuffer`."""

    __slots__ = ("__weakref__", "_access")

    _access: Access

    def _ready(self) -> Access:
        """The record that reads use, of a file that is open now."""
        raise NotImplementedError

    def _unpack(self, packed: Struct, offset: Any) -> tuple[Any, ...]:
        """`unpack_from` at an offset that is not a plain int, counts from the end, or is out of range."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self._access.size

    def __getitem__(self, key: Any) -> Any:
        access = self._access
        if type(key) is int:
            if 0 <= key < access.size:
                position = key + access.offset
                entry = access.table.get(position // access.window)
                region = None if entry is None else entry()
                if region is not None and position < region.clear and (region.pinned_by or access.idle.touch(entry)):
                    try:
                        byte = region[position - region.start]
                        access.idle.hits += 1
                        return byte
                    except ValueError:  # PyPy: evicted and unmapped by another thread
                        if not region.closed:
                            raise
                return self._copy(access, key, key + 1)[0]
            return self._item(key)
        if type(key) is slice:
            start, stop = key.start, key.stop
            if type(start) is type(stop) is int and key.step is None and 0 <= start < stop <= access.size:
                position, end = start + access.offset, stop + access.offset
                entry = access.table.get(position // access.window)
                region = None if entry is None else entry()
                if (
                    region is not None
                    and end <= region.clear
                    and (stop - start < _LARGE or not region.scattered)
                    and (region.pinned_by or access.idle.touch(entry))
                ):
                    try:
                        data = region[position - region.start : end - region.start]
                        access.idle.hits += 1
                        return data
                    except ValueError:  # as above
                        if not region.closed:
                            raise
                region = None  # it may have to be evicted for another
                return self._copy(access, start, stop)
            return self._slice(key)
        return self._item(int(index(key)))

    def _item(self, key: int) -> Any:
        """The byte at an index that counts from the end, or is out of range."""
        access = self._ready()
        size = access.size
        if not -size <= key < size:
            raise IndexError(f"index {key} is out of range: the buffer has {size} bytes")
        return self._copy(access, key % size, key % size + 1)[0]

    def _slice(self, key: slice) -> bytes:
        """Any slice."""
        access = self._ready()
        start, stop, step = key.indices(access.size)
        return self._copy(access, start, stop) if step == 1 else self._steps(access, range(start, stop, step))

    def _steps(self, access: Access, chosen: range) -> bytes:
        """The bytes at these places: copied as blocks if they are close together, otherwise one by one."""
        if chosen.step < 0:
            return self._steps(access, chosen[::-1])[::-1]
        found = bytearray(len(chosen))
        count = max(_BLOCK // chosen.step, 1) if chosen.step <= _CLOSE else 1
        for at in range(0, len(chosen), count):
            part = chosen[at : at + count]
            found[at : at + count] = self._copy(access, part[0], part[-1] + 1)[:: part.step]
        return bytes(found)

    def _copy(self, access: Access, start: int, stop: int) -> bytes:
        """A copy of [start, stop), which must be in the buffer; of several windows, joined in one allocation."""
        if start >= stop:
            return b""
        if not access.opened:
            access = self._ready()
        note = access._note(start + access.offset, stop + access.offset, COPY)
        data = self._joined(access, start, stop)
        if note is not None:
            note()
        return data

    def _joined(self, access: Access, start: int, stop: int) -> bytes:
        """The same, unrecorded."""
        position, end = start + access.offset, stop + access.offset
        if (end - 1) // access.window == position // access.window and end - position <= _ONE_PIECE:
            return self._piece(access, position, end)
        joined = io.BytesIO()  # gives its bytes away without a copy
        joined.seek(stop - start - 1)
        joined.write(b"\0")
        with joined.getbuffer() as target:
            self._fill(access, start, target)
        return joined.getvalue()

    _found = staticmethod(found_in)

    def _near(self, sub: Any, start: Any, end: Any, last: bool) -> int | tuple[Access, int, int] | None:
        """Where `find` (or `rfind`, for the `last`) finds bytes in the first window that it searches, if that is
        mapped.

        If they are not there, the record that was searched and the range that is left; None if nothing was searched.
        """
        access = self._access
        low = 0 if start is None else start
        high = access.size if end is None else end
        if not (SEARCHES_MAPS and type(sub) is bytes and sub and type(low) is type(high) is int):
            return None
        if not 0 <= low < high <= access.size:
            return None
        offset = access.offset
        place = (high - 1 if last else low) + offset
        region = self._found(access, place, place + 1)
        if region is None:
            return None
        first, stop = max(low + offset, region.start), min(high + offset, region.stop)
        found = (region.rfind if last else region.find)(sub, first - region.start, stop - region.start)
        if access.ledger.trace is not None:
            at = found + region.start
            access.searched(*((first, stop) if found < 0 else (at, stop) if last else (first, at + len(sub))))
        if found >= 0:
            return found + region.start - offset
        if last:
            return (access, low, min(first - offset + len(sub) - 1, high)) if first > low + offset else -1
        return (access, max(stop - offset - len(sub) + 1, low), high) if stop < high + offset else -1

    def _piece(self, access: Access, start: int, stop: int) -> bytes:
        """A copy of [start, stop), offsets in the file of one grid window: from its region, if it is mapped.

        Otherwise this read pays rent. If that makes the window due, the manager maps it; if not, a descriptor will do.
        """
        region = self._found(access, start, stop)
        if region is not None:
            if region.scattered and stop - start >= _LARGE:
                follow(region, start, stop)
            try:
                return region[start - region.start : stop - region.start]
            except ValueError:  # as in `__getitem__`
                if not region.closed:
                    raise
        client = access.client
        file, ledger = client.file, access.ledger
        descriptor = file.descriptor
        window = file.serial + start // access.window
        due = ledger.rents.due(window, stop - start, file.price, file.patience, start) and (
            descriptor is None or descriptor.is_resident(start, stop)  # what is on the disk takes as long by a map
        )
        if descriptor is not None and not due:
            try:
                data: bytes = descriptor.read(stop - start, start)
            except (OSError, MemoryError) as error:
                if code_of(error) not in REFUSALS:
                    raise named(error, client.where, start, stop) from None
                data = b""
            if len(data) == stop - start:
                ledger.open.hits += 1
                ledger.open.touch(file)
                return data
        return bytes(client.manager._fetch(client, start, stop, due))

    def _read_into(self, access: Access, start: int, target: memoryview) -> None:
        """Fill `target` with the bytes from `start` on, which must be in the buffer."""
        note = access._note(start + access.offset, start + access.offset + len(target), COPY)
        self._fill(access, start, target)
        if note is not None:
            note()

    def _fill(self, access: Access, start: int, target: memoryview) -> None:
        """The same, unrecorded."""
        position = start + access.offset
        done, size = 0, len(target)
        while done < size:
            count = min(access.window - position % access.window, size - done)
            region = None if PYPY else self._found(access, position, position + count)  # there, a view would linger
            if region is not None:
                if region.scattered and count >= _LARGE:
                    follow(region, position, position + count)
                first = position - region.start
                target[done : done + count] = memoryview(region)[first : first + count]
            else:
                count = min(count, _STEP)
                target[done : done + count] = self._piece(access, position, position + count)
            done += count
            position += count

    def unpack_from(self, fmt: str | bytes, offset: int = 0) -> tuple[Any, ...]:
        """`struct.unpack_from(fmt, self, offset)`; `struct.error` for a range that is not in the buffer.

        From a mapped window without a copy; otherwise copies only the bytes that it needs. O(size of the format).
        """
        packed = _structs.get(fmt) or _struct_of(fmt)
        size = packed.size
        access = self._access
        if type(offset) is not int or not 0 <= offset <= access.size - size or not size:
            return self._unpack(packed, offset)
        position = offset + access.offset
        entry = access.table.get(position // access.window)
        region = None if entry is None else entry()
        if region is not None and position + size <= region.clear and (region.pinned_by or access.idle.touch(entry)):
            try:
                values = packed.unpack_from(region, position - region.start)
                access.idle.hits += 1
                return values
            except ValueError:  # as in `__getitem__`
                if not region.closed:
                    raise
        region = None  # as there
        return packed.unpack(self._copy(access, offset, offset + size))

    def view(self, start: int = 0, stop: int | None = None) -> memoryview:
        """A read-only view of `buffer[start:stop]`, of any length that fits into the address space. O(1), no copy.

        It stays valid until you drop it, and counts as mapped until then.
        """
        access = self._access
        if type(start) is type(stop) is int and 0 <= start < stop <= access.size:
            position, end = start + access.offset, stop + access.offset
            entry = access.table.get(position // access.window)
            region = None if entry is None else entry()
            if region is not None and end <= region.clear and (region.pinned_by or access.idle.touch(entry)):
                try:
                    view = region.view(position, end)
                    if not (PYPY and region.doomed):
                        access.idle.hits += 1
                        return view
                except ValueError:  # as in `__getitem__`
                    if not region.closed:
                        raise
        access = self._ready()
        start, stop, _ = slice(start, stop).indices(access.size)
        if start >= stop:
            return memoryview(b"")
        position, end = start + access.offset, stop + access.offset
        note = access._note(position, end, VIEW)
        region = self._found(access, position, end)
        while True:
            if region is None:
                region = access.client.manager._map_range(access.client, position, end)
            try:
                view = region.view(position, end)
                if not (PYPY and region.doomed):
                    if note is not None:
                        note()
                    return view
            except ValueError:  # as above
                if not region.closed:
                    raise
            region = None

    def __buffer__(self, flags: int) -> memoryview:
        """A read-only view of the whole buffer (PEP 688, Python 3.12 and later), in one window however long."""
        if flags & 1:
            raise BufferError("smmap's buffers are read-only")
        return self.view()

    def __release_buffer__(self, view: memoryview) -> None:
        """Does nothing; but if the type has this method, numpy keeps the exported view, not only this object."""
