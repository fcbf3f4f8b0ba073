"""The plain engine's batches: many ranges of several buffers, announced to the system before they are read."""

from __future__ import annotations

import errno
import mmap
import os
from bisect import bisect_right
from operator import attrgetter
from time import perf_counter
from typing import Any

from .._places import COPY
from .._system import KEEPS_DESCRIPTORS, PYPY
from .plain_clients import Access, found_in
from .plain_regions import Region

__all__ = ["Batch"]

_AHEAD = 1 << 25  # bytes announced before they are read: more might be dropped again before the read
_ANNOUNCED = 128 << 10  # bytes: for each call, Linux starts to read so much, or more, depending on the device
_LONGEST = 1 << 24  # bytes read at once
_NEAR = 1 << 12  # bytes: ranges at most this far apart are read by one call, with the bytes between them
_TOGETHER = 1 << 16  # bytes read by one call for several ranges
_SLOW = 5e-5  # seconds that a copy from memory never takes, in addition to a nanosecond per byte
_START = attrgetter("start")
_FULL = (errno.EAGAIN, errno.EINTR)
_NOWAIT: int = getattr(os, "RWF_NOWAIT", 0) if hasattr(os, "preadv") else 0  # 0: cannot tell what is in memory
_WILLNEED: int | None = getattr(mmap, "MADV_WILLNEED", None)


class _Piece:
    """A part of a range within one window."""

    __slots__ = ("number", "region", "size", "start", "target", "waited")

    def __init__(self, start: int, size: int, target: Any, number: int) -> None:
        self.start = start
        """In the file."""
        self.size = size
        self.target = target
        """A view of as many bytes; None if it is only announced."""
        self.number = number
        self.region: Region | None = None
        self.waited = False
        """Whether it was not in memory."""


class _Group:
    """The remaining ranges of one buffer."""

    __slots__ = ("access", "announced", "mapped", "note", "read", "spans", "unread")

    def __init__(self) -> None:
        self.spans: list[tuple[int, int, int, int]] = []
        """(start, stop, number, offset in the range) of each range, or of its part in this buffer."""
        self.access: Access | None = None
        self.note: Any = None
        """The function from a trace, to be called when everything is read."""
        self.mapped: list[_Piece] = []
        self.unread: list[_Piece] = []
        """The pieces that are neither mapped nor announced, the first one last."""
        self.announced: list[_Piece] = []
        self.read: list[_Piece] = []


class Batch:
    """Ranges of several buffers, which are read together."""

    def __init__(self, sizes: Any, which: Any, starts: Any, stops: Any, size: int, unit: int = 0) -> None:
        """Ranges of buffers of these `sizes`, given by `starts` and `stops` or one size: see `__init__.py`."""
        self.wrong = self.failed = -1
        self._size = size
        self._by_file: dict[int, _Group] = {}
        self._asks = _NOWAIT > 0
        self._targets: Any = None
        self._view: Any = None
        lengths, first = list(map(int, sizes)), list(map(int, starts))  # not of numpy, whose integers overflow
        last = None if stops is None else list(stops)
        of = [0] * len(first) if which is None else list(which)
        if not len(of) == len(first) == (len(first) if last is None else len(last)):
            raise ValueError("which, starts and stops differ in number")
        self.total, self._count, self._ahead = 0, len(first), 0
        for number, (file, start) in enumerate(zip(of, first)):
            if unit:
                if not 0 <= start * unit <= lengths[-1] - size:
                    self.wrong = number
                    return
                self._add_joined(lengths, start * unit, number)
                continue
            if not 0 <= file < len(lengths):
                self.wrong = number
                return
            if last is not None:
                start, stop, _ = slice(start, last[number]).indices(lengths[file])
                stop = max(start, stop)
            else:
                stop = start + size
                if start < 0 or stop > lengths[file]:
                    self.wrong = number
                    return
            self._add(file, start, stop, number, 0)
        self._groups = [self._by_file[file] for file in self.chosen()]

    def _add(self, file: int, start: int, stop: int, number: int, at: int) -> None:
        """A range, or its part in one buffer."""
        group = self._by_file.get(file)
        if group is None:
            group = self._by_file[file] = _Group()
        group.spans.append((start, stop, number, at))
        self.total += stop - start

    def _add_joined(self, borders: list[int], start: int, number: int) -> None:
        """A range of all buffers joined, which start at these borders."""
        file, at = bisect_right(borders, start) - 1, 0
        while at < self._size:
            part = min(self._size - at, borders[file + 1] - start - at)
            if part:
                self._add(file, start + at - borders[file], start + at - borders[file] + part, number, at)
            at += part
            file += 1

    @staticmethod
    def takes(given: list[Any]) -> bool:
        """Whether all items of a list, which nobody changes meanwhile, are ints, and not of a derived class."""
        return set(map(type, given)) <= {int}

    @staticmethod
    def at_hand(buffer: Any, offsets: Any, size: Any, out: Any) -> Any:
        """None: this engine has no shortcut for mapped ranges."""
        return None

    def __len__(self) -> int:
        return self._count

    def chosen(self) -> list[int]:
        """The numbers of the buffers that have ranges."""
        return sorted(self._by_file)

    def fresh(self) -> bytearray:
        """A bytearray of `total` bytes to fill, with arbitrary content."""
        return bytearray(self.total)

    def into(self, target: Any, places: Any = None) -> None:
        """Read the ranges into this buffer: of `total` bytes, one after the other; or each to its place."""
        view, each = memoryview(target), self._size
        self._view = view
        if places is None:
            if len(view) != self._count * each:
                raise ValueError("a target of another size")
            self._targets = lambda number, at, size: view[number * each + at : number * each + at + size]
            return
        wanted = list(places)
        if len(wanted) != self._count:
            raise ValueError("places and starts differ in number")
        for group in self._groups:
            for start, stop, number, _ in group.spans:
                if not 0 <= wanted[number] <= len(view) - (stop - start):
                    raise ValueError("a place outside of the target")
        self._targets = lambda number, at, size: view[wanted[number] + at : wanted[number] + at + size]

    def close(self) -> None:
        """Release the target, even where an exception that is being handled still refers to parts of it."""
        for group in self._by_file.values():
            for piece in (*group.mapped, *group.unread, *group.announced, *group.read):
                if piece.target is not None:
                    piece.target.release()
        if self._view is not None:
            self._view.release()
        self._targets = None
        self._groups.clear()
        self._by_file.clear()

    def each(self) -> None:
        """Read the ranges into bytes objects: see `results`."""
        found: list[Any] = [b""] * self._count

        def target(number: int, _at: int, size: int) -> memoryview:
            found[number] = bytearray(size)
            return memoryview(found[number])

        self._found, self._targets = found, target

    def results(self) -> list[bytes]:
        """The ranges, once everything is read."""
        return list(map(bytes, self._found))

    def where(self, number: int, file: int) -> tuple[int, int]:
        """(start, stop) of a range, or of its part in the `file`-th chosen buffer, in its file."""
        group = self._groups[file]
        offset = group.access.offset if group.access is not None else 0
        return next((start + offset, stop + offset) for start, stop, one, _ in group.spans if one == number)

    def quick(self, _accesses: Any) -> tuple[list[tuple[int, int, Any]], list[Any]]:
        """Serves nothing: this engine always asks the policy."""
        return [(file, -1, None) for file in range(len(self._groups))], []

    def serve(self, file: int, access: Access) -> int:
        """Copy a buffer's mapped ranges, or announce them. The result says which ranges remain: see `__init__.py`."""
        group = self._groups[file]
        group.access = access
        trace, offset = access.ledger.trace, access.offset
        if trace is not None and self._targets is not None:
            found = [(start + offset, stop + offset) for start, stop, _, _ in group.spans if start < stop]
            found = [(start, stop) for start, stop in found if access.sampled(start)]
            group.note = trace.before(access, COPY, found) if found else None
        pieces = self._cut(group, access)
        slow = False
        for piece in pieces:
            region = found_in(access, piece.start, piece.start + piece.size)
            if region is None:
                self._leave(group, access, piece)
            elif slow or piece.target is None:
                piece.region = region
                group.mapped.append(piece)
            else:
                then = perf_counter()
                if not _copied(piece, region):
                    self._leave(group, access, piece)
                slow = not region.reads and perf_counter() - then > _SLOW + piece.size * 1e-9
        group.unread.reverse()
        for piece in group.mapped:
            if piece.region is not None and not piece.region.reads:
                _announce_mapped(piece.region, piece.start, piece.size)
        if self._targets is None:
            group.mapped.clear()
        return 2 if group.unread else 1 if group.mapped else 0

    def _leave(self, group: _Group, access: Access, piece: _Piece) -> None:
        """A piece is not mapped. If a descriptor cannot be read at an offset, the policy serves it."""
        if KEEPS_DESCRIPTORS:
            group.unread.append(piece)
        elif piece.target is not None:
            _fetch(access, piece, _due(access, piece))

    def _cut(self, group: _Group, access: Access) -> list[_Piece]:
        """Pieces of the ranges, cut at the ends of windows, and where a call would take long."""
        pieces, offset, window, targets = [], access.offset, access.window, self._targets
        for start, stop, number, within in group.spans:
            target = None if targets is None else targets(number, within, stop - start)
            place, end = start + offset, stop + offset
            if place < end <= place - place % window + window and end - place <= _LONGEST:
                pieces.append(_Piece(place, end - place, target, number))
                continue
            at = 0
            while place < end:
                size = min(window - place % window, end - place, _LONGEST)
                pieces.append(_Piece(place, size, target and target[at : at + size], number))
                place += size
                at += size
        pieces.sort(key=_START)
        return pieces

    def announce(self, file: int, number: int) -> None:
        """Read by a descriptor the pieces that are in memory, and announce the others, as far as that makes sense."""
        group = self._groups[file]
        while group.unread and (self._ahead < _AHEAD or self._targets is None):
            pieces, stop = _run(group.unread)
            start = pieces[0].start
            if not (self._targets is not None and self._asks and self._read_resident(number, pieces, stop)):
                if hasattr(os, "posix_fadvise"):
                    for place in range(start, stop, _ANNOUNCED):
                        os.posix_fadvise(number, place, min(_ANNOUNCED, stop - place), os.POSIX_FADV_WILLNEED)
                self._ahead += stop - start
                for piece in pieces:
                    piece.waited = self._asks
                group.announced += pieces
            else:
                group.read += pieces
            del group.unread[len(group.unread) - len(pieces) :]

    def _read_resident(self, number: int, pieces: list[_Piece], stop: int) -> bool:
        """Read a run of pieces if the system says that it is in memory."""
        start = pieces[0].start
        target = pieces[0].target if len(pieces) == 1 else bytearray(stop - start)
        try:
            if os.preadv(number, [target], start, _NOWAIT) < stop - start:
                return False
        except OSError as error:
            if error.errno is None:  # the handler of a signal raised it
                raise
            self._asks = error.errno in _FULL
            return False
        _scatter(pieces, target)
        return True

    def read(self, file: int, number: int = -1) -> int:
        """Copy and read the rest; return the number of a range that the file no longer has, or -1.

        If the system fails, `failed` is the range's number; the call may be tried again.
        """
        group = self._groups[file]
        for piece in group.mapped:
            if piece.region is not None and group.access is not None and not _copied(piece, piece.region):
                _fetch(group.access, piece, False)
        group.mapped.clear()
        if self._targets is None:
            return -1
        while group.announced or group.unread:
            if not group.announced:
                self._ahead = min(self._ahead, _AHEAD - 1)
                self.announce(file, number)
                continue
            left = group.announced[::-1]
            while left:
                pieces, stop = _run(left)
                self.failed = pieces[0].number
                count = _read(number, pieces, stop)
                for piece in pieces:
                    if count < piece.start + piece.size - pieces[0].start:
                        self.failed = piece.number
                        return piece.number
                self.failed = -1
                self._ahead -= stop - pieces[0].start
                del left[len(left) - len(pieces) :]
                group.read += pieces
                del group.announced[: len(pieces)]
        return -1

    def settle(self, file: int) -> list[int]:
        """Count the reads, pay for them, and release everything; return the starts of windows to buy now."""
        group = self._groups[file]
        access, read = group.access, group.read
        group.read = []
        due: dict[int, None] = {}
        if access is not None and read:
            access.ledger.open.hits += len(read)
            access.ledger.open.touch(access.client.file)
            for piece in read:
                if not piece.waited and _due(access, piece):
                    due[piece.start // access.window * access.window] = None
        note, group.note = group.note, None
        if note is not None:
            note()
        return list(due)


def _due(access: Access, piece: _Piece) -> bool:
    """Pay for reading a piece; return whether its window should be bought now."""
    file = access.client.file
    window = file.serial + piece.start // access.window
    return access.ledger.rents.due(window, piece.size, file.price, file.patience, piece.start)


def _fetch(access: Access, piece: _Piece, due: bool) -> None:
    """Have the policy serve a piece."""
    piece.target[:] = access.client.manager._fetch(access.client, piece.start, piece.start + piece.size, due)


def _copied(piece: _Piece, region: Region) -> bool:
    """Copy a mapped piece; False if it was unmapped in the meantime."""
    start = piece.start - region.start
    try:
        if PYPY:  # there, a view would linger
            piece.target[:] = region[start : start + piece.size]
        else:
            piece.target[:] = memoryview(region)[start : start + piece.size]
    except ValueError:  # PyPy: evicted and unmapped by another thread
        if not region.closed:
            raise
        return False
    return True


def _announce_mapped(region: Region, start: int, size: int) -> None:
    if _WILLNEED is not None:
        low = (start - region.start) // mmap.PAGESIZE * mmap.PAGESIZE
        try:
            stop = start - region.start + size
            for place in range(low, stop, _ANNOUNCED):
                region.madvise(_WILLNEED, place, min(_ANNOUNCED, stop - place))
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is None:  # the handler of a signal raised it
                raise  # else: it was advice


def _run(left: list[_Piece]) -> tuple[list[_Piece], int]:
    """The pieces that one call reads with the last of a list, and where that call stops in the file."""
    at = len(left) - 1
    first = left[at]
    stop = first.start + first.size
    if first.size <= _NEAR:
        while at:
            piece = left[at - 1]
            if (
                piece.size > _NEAR
                or piece.start > stop + _NEAR
                or piece.start + piece.size - first.start > _TOGETHER
                or (piece.target is None) != (first.target is None)
            ):
                break
            stop = max(stop, piece.start + piece.size)
            at -= 1
    return left[at:][::-1], stop


def _read(number: int, pieces: list[_Piece], stop: int) -> int:
    """Read a run of pieces; return how many bytes: fewer only at the end of the file."""
    start, done, count = pieces[0].start, 0, 1
    target = pieces[0].target if len(pieces) == 1 else memoryview(bytearray(stop - start))
    while count and start + done < stop:
        if hasattr(os, "preadv"):
            count = os.preadv(number, [target[done:]], start + done)
        else:
            data = os.pread(number, stop - start - done, start + done)
            count = len(data)
            target[done : done + count] = data
        done += count
    _scatter(pieces, target)
    return done


def _scatter(pieces: list[_Piece], target: Any) -> None:
    """Move the bytes that were read at once to the pieces' places."""
    if len(pieces) > 1:
        start = pieces[0].start
        with memoryview(target) as view:
            for piece in pieces:
                piece.target[:] = view[piece.start - start : piece.start - start + piece.size]
