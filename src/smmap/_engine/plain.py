"""The plain engine: the contract of `__init__.py` in pure Python. This module has its system calls.

After `_manager.py`, read `plain_regions.py`, `plain_clients.py`, `plain_cursors.py` and `plain_batches.py`, then this.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
import weakref
from typing import TYPE_CHECKING, Any

from .._files import File, Status, status_of
from .._system import KEEPS_DESCRIPTORS, OPENING, REFUSALS, Where, look_at
from .._window import Window
from .plain_batches import Batch
from .plain_clients import Access, BufferBase
from .plain_cursors import CursorBase
from .plain_regions import Ledger, Order, Region, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "MAP_COSTS_DESCRIPTOR",
    "Access",
    "Batch",
    "BufferBase",
    "CursorBase",
    "Descriptor",
    "Ledger",
    "Order",
    "Region",
    "Table",
    "guard",
    "map_window",
    "notice",
    "open_file",
    "read_at",
    "read_window",
    "unchanged",
]


def _map_costs_descriptor() -> bool:
    try:
        mmap.mmap(-1, 1, trackfd=False).close()  # type: ignore[call-arg, unused-ignore]
    except TypeError:
        return True
    return False


MAP_COSTS_DESCRIPTOR = _map_costs_descriptor()
"""Whether each map costs a descriptor (before Python 3.13, and on Windows)."""

_MAPPING: dict[str, Any] = {} if MAP_COSTS_DESCRIPTOR else {"trackfd": False}
_LONGEST_READ = 1 << 30  # in one call: Linux reads at most 2 GiB - 4 KiB
_NOWAIT: int = getattr(os, "RWF_NOWAIT", 0) if hasattr(os, "preadv") else 0  # 0: cannot tell what is in memory
_STEP = 1 << 20  # bytes read at once if a window is read instead of mapped
_TAKEN = ("pop from empty list",)  # what an `IndexError` says if another thread took the number just now


def _close_held(held: list[int]) -> None:
    """Close the number in the list, if any, exactly once: one call of C code takes it and closes it, so that no signal
    handler can raise in between."""
    try:
        list(map(os.close, map(held.pop, range(len(held)))))
    except IndexError as error:
        if error.args != _TAKEN:
            raise
    except OSError as error:
        if error.errno is None:  # a signal handler raised it
            raise
        # otherwise the number is closed all the same, and no written data could be lost


class _Numbers(weakref.ref["Descriptor"]):
    """Keeps the number of a descriptor until it is closed, even if the descriptor's finalizer was interrupted."""

    __slots__ = ("held",)

    held: list[int]
    __hash__ = object.__hash__  # that of a weak reference would fail once the descriptor is dead


_numbers: set[_Numbers] = set()
_orphaned: set[_Numbers] = set()


class Descriptor:
    """A descriptor of our own. Its number is never lost between opening and owning it: both are one call of C code."""

    __slots__ = ("__weakref__", "_held", "_users", "cached", "closed")

    closed: bool
    """Whether it was closed. Threads that already use it may continue."""

    def __init__(self, opening: Iterator[int]) -> None:
        """Own the number that `opening` returns, which opens when it is asked for it."""
        _close_orphans()
        self._users: list[None] = []
        self._held: list[int] = []
        self.cached = self.closed = False
        numbers = _Numbers(self, _orphaned.add)
        numbers.held = self._held
        _numbers.add(numbers)
        self._held.extend(opening)

    @property
    def number(self) -> int:
        """The number for system calls; -1 once it was closed. Only between `use` and `done`."""
        return next(iter(self._held), -1)

    def use(self) -> None:
        """Call this, then look at `closed`: if it is false, the number stays open until this thread calls `done`."""
        self._users.append(None)

    def done(self) -> None:
        """Undo one `use`."""
        self._users.pop()
        if self.closed and not self._users:
            _close_held(self._held)

    def read(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes at `offset`, fewer only at the end of the file; nothing if it was closed."""
        self.use()  # first: `close` says that it is closed, and then looks for users
        try:
            return b"" if self.closed else read_at(self.number, size, offset)
        finally:
            self.done()

    def is_resident(self, start: int, stop: int) -> bool:
        """Whether both ends of a range of the file are in memory, if the system can say that."""
        if _NOWAIT:
            self.use()
            try:
                for offset in (start, stop - 1):
                    if not self.closed:
                        os.preadv(self.number, [bytearray(1)], offset, _NOWAIT)
            except OSError as error:
                if error.errno is None:  # the handler of a signal raised it
                    raise
                return error.errno != errno.EAGAIN
            finally:
                self.done()
        return True

    def close(self) -> None:
        """Close it; if a thread uses it now, once that thread is done."""
        self.closed = True
        if not self._users:
            _close_held(self._held)

    def __del__(self, _is_finalizing: Any = sys.is_finalizing) -> None:
        if not _is_finalizing():  # otherwise the system will close it, and even built-in functions may be gone
            _close_held(getattr(self, "_held", []))  # even if an exception left it in use


def _close_orphans() -> None:
    """Forget the numbers of descriptors that died, and close those that interrupted finalizers have left open."""
    for numbers in list(_orphaned):  # each stays there until it is closed, in case a signal handler raises here
        _close_held(getattr(numbers, "held", []))
        _numbers.discard(numbers)
        _orphaned.discard(numbers)


def open_file(where: Where, flags: int) -> tuple[Descriptor, Status]:
    """A descriptor of our own, read-only and not inherited, for the path or the user's descriptor; and its status.

    A duplicate of a user's descriptor would share its locks (`flock`), its flags (`O_DIRECT`) and its right to write,
    and would keep them after the user closed it. Linux can open the same file again instead; where that fails, a
    duplicate has to do.
    """
    path: Any = f"/proc/self/fd/{where}" if isinstance(where, int) else where
    try:
        descriptor = Descriptor(map(os.open, (path,), (OPENING | flags,)))
    except OSError as error:
        if not isinstance(where, int) or error.errno is None or error.errno in REFUSALS:
            raise
        descriptor = Descriptor(map(os.dup, (where,)))
    return descriptor, status_of(look_at(descriptor.number))


def unchanged(path: Where, then: Status) -> bool:
    """Whether the file at a path or descriptor has this status now, and is not empty; False also if `stat` fails."""
    try:
        now = look_at(path)
    except OSError as error:
        if error.errno is None:  # the handler of a signal raised it
            raise
        return False
    found = now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns
    return found == then and now.st_size > 0


def read_at(number: int, size: int, offset: int) -> bytes:
    """Up to `size` bytes at `offset`; fewer only at the end of the file."""
    if not KEEPS_DESCRIPTORS:
        os.lseek(number, offset, os.SEEK_SET)  # only used for a descriptor that nobody else uses
        return os.read(number, size)
    data = os.pread(number, min(size, _LONGEST_READ), offset)
    if len(data) == size:
        return data
    pieces = []
    while data:
        pieces.append(data)
        offset += len(data)
        size -= len(data)
        data = os.pread(number, min(size, _LONGEST_READ), offset) if size else b""
    return b"".join(pieces)


def guard(_ledger: Ledger, how: str, _owner: Any) -> None:
    """Does nothing: a fault in Python's own maps cannot be caught. `ValueError` for "views"."""
    if how == "views":
        raise ValueError(
            'guard="views" needs the fast engine; with the plain one use backing="read" (see smmap.engine)'
        )


def notice() -> None:
    """Would report that views have read zeros since the last call; without a guard they never do."""


def map_window(ledger: Ledger, file: File, number: int, window: Window, advice: str) -> Region | None:
    """A map of a window, which outlives the descriptor; None if the file is too short."""
    _, start, stop = window
    if look_at(number).st_size < stop:  # a map past the end could be made, but not read
        return None
    try:
        region = Region(number, stop - start, access=mmap.ACCESS_READ, offset=start, **_MAPPING)
    except ValueError:  # CPython checks the size, too
        if look_at(number).st_size < stop:
            return None
        raise
    name = "RANDOM" if advice == "scattered" else advice.upper()
    wanted = None if advice == "normal" else getattr(mmap, f"MADV_{name}", None)
    if wanted is not None:
        try:
            region.madvise(wanted)
        except OSError as error:
            if error.errno is None:  # a signal handler raised it; other errors do not matter: it was advice
                raise
    region = region.become(ledger, file, window, reads=False)
    region.scattered = advice == "scattered"
    return region


def read_window(ledger: Ledger, file: File, number: int, window: Window, advice: str) -> Region | None:
    """The bytes of a window in memory of our own; None if the file is too short.

    They are written to a file in memory: only a map of a file can be read-only for everybody. Advice is of no use here.
    """
    _, start, stop = window
    copied = _memory_file()
    try:
        done = 0
        while done < stop - start:
            piece = read_at(number, min(_STEP, stop - start - done), start + done)
            if not piece:
                return None
            done += os.write(copied.number, piece)
        region = Region(copied.number, stop - start, access=mmap.ACCESS_READ, **_MAPPING)
    finally:
        copied.close()
    return region.become(ledger, file, window, reads=True)


def _memory_file() -> Descriptor:
    """A new file without a name: in memory, if the system supports that."""
    if hasattr(os, "memfd_create"):
        return Descriptor(map(os.memfd_create, ("smmap",)))
    import tempfile

    with tempfile.TemporaryFile() as file:
        return Descriptor(map(os.dup, (file.fileno(),)))
