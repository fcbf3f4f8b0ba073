"""The recorder of traces: which ranges of which files were read, and what became of each read.

While a trace runs, the public classes have methods that record and then call the ones they had; when the last trace
ends, these methods are taken away again. So a program that records nothing pays nothing, with either engine, and
objects that were made before the trace started are recorded as well.

A file of reads is written for each process (a fork starts one with its pid added to the name), as _trace_format.py has
it. When a million reads were recorded, the rate is halved: places whose hash is not below the threshold are left out
(SHARDS: Waldspurger, Park, Garthwaite and Ahmad, "Efficient MRC construction with SHARDS", 2015), so that file and
memory grow with the logarithm of the number of reads.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
import weakref
from operator import index
from typing import TYPE_CHECKING, Any, Callable

from . import _trace_format as form
from ._buffer import SlidingWindowMapBuffer
from ._cursor import WindowCursor
from ._managers import StaticWindowMapManager
from ._trace_format import COLD, COPY, CURSOR, FULL, HIT, MISS, VIEW
from ._window import serving

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Trace", "start_from_environment"]

_AT_ONCE = 4096  # reads that are written together
_HALVING = 1 << 20  # reads recorded at one rate
_LONGEST = 1 << 31  # bytes of one record

_guard = threading.RLock()  # for what follows, and for starting and ending
_traces: dict[Any, Trace] = {}  # by manager; None: all that are not traced for themselves
_replaced: list[tuple[type, str, bool, Any]] = []
_living: weakref.WeakSet[Trace] = weakref.WeakSet()


class Trace:
    """A trace that `manager.trace(path)` started. Ends with `close()` or the `with` block.

    `path` is the file of this process, `seen` counts the reads so far, `recorded` those that sampling kept.
    """

    def __init__(self, path: Any, manager: Any, rate: float = 1.0) -> None:
        if not 0 < rate <= 1:
            raise ValueError(f"rate must be more than 0 and at most 1, not {rate!r}")
        self.path = os.path.abspath(os.fsdecode(path))
        self.seen = self.recorded = 0
        self._manager = manager
        self._first_threshold = self._threshold = max(int(rate * FULL), 1)
        self._made = self.path
        self._begin()
        with _guard:
            if manager in _traces:
                self._drop()
                raise ValueError(f"a trace of this manager runs already, into {_traces[manager].path!r}")
            if not _traces:
                _install()
            _traces[manager] = self
            _living.add(self)

    def _begin(self) -> None:
        """Start a file."""
        self._lock = threading.RLock()  # a finalizer may read while its thread holds it
        self._writing = False
        self._reads: list[tuple[int, int, int]] = []
        self._numbers: dict[int, int] = {}  # of files, by their serials
        self._known: dict[Any, int] = {}  # the same, by manager and what tells a file from others
        self._managers: dict[int, int] = {}
        self._until = _HALVING
        self.seen = self.recorded = 0
        self._threshold = self._first_threshold
        self._descriptor = os.open(
            self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0), 0o666
        )
        self._write(form.header(os.getpid(), time.time()))
        if self._threshold < FULL:
            self._write(form.rate_chunk(self._threshold))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"1 of {FULL / self._threshold:.0f} places"
        return f"<Trace {self.path!r} {state}, {self.recorded} of {self.seen} reads>"

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._descriptor < 0

    @property
    def rate(self) -> float:
        """The share of places that is recorded now."""
        return self._threshold / FULL

    def close(self) -> None:
        """End the trace, and write what is not written yet; any number of times. Any thread may call it."""
        with _guard:
            if _traces.get(self._manager) is self:
                del _traces[self._manager]
                if not _traces:
                    _uninstall()
        self._flush()
        if not self.closed:
            self._write(form.tail_chunk(self.seen, self.recorded))
        self._drop()

    def _drop(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    # Recording. Called by reads, in any thread

    def _before(self, access: Any, start: int, stop: int, kind: int) -> int:
        """Whether a read is recorded (the file's number, or 0), and remembers nothing."""
        self.seen += 1
        file = access.client.file
        number = self._numbers.get(file.serial) or self._number(access.client)
        threshold = self._threshold
        if threshold < FULL and form.place_hash(number, start >> form.PLACE_SHIFT) >= threshold:
            return 0
        return number

    def _number(self, client: Any) -> int:
        """The number of a file that is met for the first time, or whose record in the manager is a new one."""
        file, manager = client.file, client.manager
        with self._lock:
            if len(self._numbers) > 100_000:
                self._numbers.clear()
            key = id(manager), file.status
            number = self._known.get(key)
            if number is None:
                number = self._known[key] = len(self._known) + 1
                owner = self._managers.get(id(manager))
                if owner is None:
                    owner = self._managers[id(manager)] = len(self._managers)
                    limits = manager.max_mapped_memory_size(), manager.max_file_handles()
                    self._write(form.chunk(b"MNGR", form.manager_body(owner, manager.window_size(), *limits)))
                name = f"descriptor {client.where}" if isinstance(client.where, int) else os.fsdecode(client.where)
                self._write(form.chunk(b"FILE", form.file_body(number, owner, file.status.size, name)))
            self._numbers[file.serial] = number
            return number

    def _add(self, number: int, start: int, stop: int, kind: int, outcome: int) -> None:
        word = (kind | outcome << 4) << 56
        while stop - start >= _LONGEST:
            self._reads.append((number, _LONGEST, start | word))
            start += _LONGEST
        self._reads.append((number, stop - start, start | word))
        if len(self._reads) >= _AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        with self._lock:
            if self._writing or not self._reads:
                return
            self._writing = True
            try:
                reads, self._reads = self._reads, []
                self.recorded += len(reads)
                pack = form.READ.pack
                self._write(form.chunk(b"READ", b"".join([pack(*read) for read in reads])))
                if self.recorded >= self._until:
                    self._until += _HALVING
                    self._threshold = max(self._threshold // 2, 1)
                    self._write(form.rate_chunk(self._threshold))
            finally:
                self._writing = False

    def _write(self, data: bytes) -> None:
        """Write all of it; a trace that cannot be written ends, and the program that is traced goes on."""
        view = memoryview(data)
        try:
            while view and self._descriptor >= 0:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            self._drop()
            warnings.warn(f"the trace {self.path!r} ends here: {error}", RuntimeWarning, stacklevel=2)

    def _after_fork_in_child(self) -> None:
        self._drop()  # what the parent has not written yet, it will write
        root = self._made
        self.path = f"{root}.{os.getpid()}"
        try:
            self._begin()
        except OSError as error:
            warnings.warn(f"the trace {self.path!r} cannot be written: {error}", RuntimeWarning, stacklevel=2)
        util = sys.modules.get("multiprocessing.util")
        if util is not None:  # its processes end without what `atexit` knows
            util.register_after_fork(self, lambda trace: util.Finalize(trace, trace.close, exitpriority=0))


# The methods that record


def _trace_of(access: Any) -> Trace | None:
    manager = access.client.manager
    return _traces.get(manager) or _traces.get(None)


def _is_mapped(access: Any, start: int, stop: int, kind: int) -> bool:
    """Whether the window that serves a read of a range of the file is mapped now: that of its start, if it has more."""
    client = access.client
    if kind == COPY:
        key: Any = start // access.window
    else:
        key = serving(start, stop - start, client.manager.window_size(), client.size).key
    return client.file.table.find(key) is not None


def _recorded(
    kind: int, buffer: Any, start: int, stop: int, call: Callable[..., Any], *args: Any, found: Any = None
) -> Any:
    """`call(*args)`, recorded as a read of [start, stop) of the buffer, or of what `found` says for a place found."""
    access = buffer._access  # opened by who worked out the range
    trace = _trace_of(access)
    if trace is None or not access.opened or start >= stop:
        return call(*args)
    start, stop = start + access.offset, stop + access.offset
    number = trace._before(access, start, stop, kind)
    if not number:
        return call(*args)
    outcome = HIT if _is_mapped(access, start, stop, kind) else None
    result = call(*args)
    if outcome is None:
        outcome = MISS if _is_mapped(access, start, stop, kind) else COLD
    if found is not None and result >= 0:
        start, stop = (place + access.offset for place in found(result))
    trace._add(number, start, stop, kind, outcome)
    return result


def _access_of(buffer: Any) -> Any:
    """What the reads of a buffer go by; one that comes from a pickle opens its file now."""
    access = buffer._access
    return buffer._ready() if access.pending else access


def _ready(buffer: Any) -> int:
    """The size of a buffer, in bytes."""
    return int(_access_of(buffer).size)


def _span(size: int, key: Any) -> tuple[int, int]:
    """The range that `buffer[key]` reads; empty where that will raise."""
    if type(key) is slice:
        start, stop, step = key.indices(size)
        if step == 1:
            return start, stop
        chosen = range(start, stop, step)
        return (min(chosen[0], chosen[-1]), max(chosen[0], chosen[-1]) + 1) if chosen else (0, 0)
    try:
        place = index(key)
    except TypeError:
        return 0, 0
    place += size if place < 0 else 0
    return (place, place + 1) if 0 <= place < size else (0, 0)


def _bounds(size: int, start: Any, end: Any) -> tuple[int, int]:
    low, high, _ = slice(start, end).indices(size)
    return low, high


def _wrappers() -> dict[type, dict[str, Callable[[Any], Any]]]:
    """For each class and method, what makes the recording method from the one there is."""

    def getitem(plain: Any) -> Any:
        def __getitem__(self: Any, key: Any) -> Any:
            if _trace_of(_access_of(self)) is None:
                return plain(self, key)
            return _recorded(COPY, self, *_span(_ready(self), key), plain, self, key)

        return __getitem__

    def view(plain: Any) -> Any:
        def view(self: Any, start: int = 0, stop: int | None = None) -> Any:
            if _trace_of(_access_of(self)) is None:
                return plain(self, start, stop)
            return _recorded(VIEW, self, *_bounds(_ready(self), start, stop), plain, self, start, stop)

        return view

    def readinto(plain: Any) -> Any:
        def readinto(self: Any, start: int, target: Any) -> Any:
            if _trace_of(_access_of(self)) is None:
                return plain(self, start, target)
            size, low = memoryview(target).nbytes, index(start)
            return _recorded(COPY, self, low, min(low + size, _ready(self)), plain, self, start, target)

        return readinto

    def unpack_from(plain: Any) -> Any:
        def unpack_from(self: Any, fmt: Any, offset: int = 0) -> Any:
            import struct

            low = index(offset) + (_ready(self) if index(offset) < 0 else 0)
            return _recorded(COPY, self, low, low + struct.calcsize(fmt), plain, self, fmt, offset)

        return unpack_from

    def find(plain: Any) -> Any:
        def find(self: Any, sub: Any, start: Any = None, end: Any = None) -> Any:
            low, high = _bounds(_ready(self), start, end)
            return _recorded(COPY, self, low, high, plain, self, sub, start, end, found=lambda place: (low, place + 1))

        return find

    def rfind(plain: Any) -> Any:
        def rfind(self: Any, sub: Any, start: Any = None, end: Any = None) -> Any:
            low, high = _bounds(_ready(self), start, end)
            return _recorded(COPY, self, low, high, plain, self, sub, start, end, found=lambda place: (place, high))

        return rfind

    def count(plain: Any) -> Any:
        def count(self: Any, sub: Any, start: Any = None, end: Any = None) -> Any:
            return _recorded(COPY, self, *_bounds(_ready(self), start, end), plain, self, sub, start, end)

        return count

    def finditer(plain: Any) -> Any:
        def finditer(self: Any, pattern: Any, max_match: int = 1 << 16) -> Any:
            found = plain(self, pattern, max_match)
            return _each(self, found, lambda match: match.end())

        return finditer

    def pieces(plain: Any) -> Any:
        def _pieces(self: Any, starts: range) -> Any:
            size, step = _ready(self), abs(starts.step)
            found = plain(self, starts)
            for start in starts:
                stop = min(start + step, size)
                piece = _recorded(COPY, self, start, stop, next, found, None)
                if piece is None:
                    return
                yield piece

        return _pieces

    def whole(plain: Any) -> Any:
        def __bytes__(self: Any) -> Any:
            return _recorded(COPY, self, 0, _ready(self), plain, self)

        return __bytes__

    def gather(plain: Any) -> Any:
        def gather(self: Any, offsets: Any, size: int, *more: Any, **named: Any) -> Any:
            offsets = _listed(offsets)
            return _batch([(self, at, at + size) for at in offsets], plain, self, offsets, size, *more, **named)

        return gather

    def ranges(plain: Any) -> Any:
        def ranges(self: Any, starts: Any, stops: Any) -> Any:
            starts, stops = _listed(starts), _listed(stops)
            size = _ready(self)
            spans = [(self, *_bounds(size, low, high)) for low, high in zip(starts, stops)]
            return _batch(spans, plain, self, starts, stops)

        return ranges

    def gather_many(plain: Any) -> Any:
        def gather(self: Any, buffers: Any, which: Any, offsets: Any, size: int, *more: Any, **named: Any) -> Any:
            which, offsets = _listed(which), _listed(offsets)
            spans = [(buffers[one], at, at + size) for one, at in zip(which, offsets) if 0 <= one < len(buffers)]
            return _batch(spans, plain, self, buffers, which, offsets, size, *more, **named)

        return gather

    def use_region(plain: Any) -> Any:
        def use_region(self: Any, offset: int = 0, size: int = 0, flags: int = 0) -> Any:
            access = self._access
            if _trace_of(access) is None or not access.opened:
                return plain(self, offset, size, flags)
            low, window = index(offset), access.window
            stop = min(low + (min(index(size), window) or -(-window // 2)), access.size)
            if low < 0 or stop < low:
                return plain(self, offset, size, flags)
            return _recorded(CURSOR, self, low, stop, plain, self, offset, size, flags)

        return use_region

    return {
        SlidingWindowMapBuffer: {
            "__getitem__": getitem,
            "view": view,
            "readinto": readinto,
            "unpack_from": unpack_from,
            "find": find,
            "rfind": rfind,
            "count": count,
            "finditer": finditer,
            "_pieces": pieces,
            "__bytes__": whole,
            "gather": gather,
            "ranges": ranges,
        },
        WindowCursor: {"use_region": use_region},
        StaticWindowMapManager: {"gather": gather_many},
    }


def _each(buffer: Any, found: Any, stop_of: Callable[[Any], int]) -> Any:
    """The items of an iterator; what lies between them is recorded as it is gone through."""
    done = 0
    for one in found:
        stop = stop_of(one)
        _recorded(COPY, buffer, done, stop, int)
        done = max(done, stop)
        yield one
    _recorded(COPY, buffer, done, _ready(buffer), int)


def _listed(given: Any) -> Any:
    """Integers as a list; what is none of them as it is, for the call to refuse."""
    try:
        return given.tolist() if hasattr(given, "tolist") else list(given)
    except TypeError:
        return given


def _batch(spans: list[tuple[Any, Any, Any]], call: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """`call`, recorded as one read for each (buffer, start, stop). All are looked up first: it serves them together."""
    noted = []
    for buffer, low, high in spans:
        access = _access_of(buffer)
        trace = _trace_of(access)
        if trace is not None and access.opened and 0 <= low < high <= access.size:
            low, high = low + access.offset, high + access.offset
            number = trace._before(access, low, high, COPY)
            if number:
                noted.append((trace, number, access, low, high, _is_mapped(access, low, high, COPY)))
    result = call(*args, **named)
    for trace, number, access, low, high, hit in noted:
        trace._add(number, low, high, COPY, HIT if hit else MISS if _is_mapped(access, low, high, COPY) else COLD)
    return result


def _install() -> None:
    for cls, methods in _wrappers().items():
        for name, make in methods.items():
            plain = getattr(cls, name, None)
            if plain is not None:
                own = name in vars(cls)
                _replaced.append((cls, name, own, plain))
                setattr(cls, name, make(plain))


def _uninstall() -> None:
    while _replaced:
        cls, name, own, plain = _replaced.pop()
        if own:
            setattr(cls, name, plain)
        else:
            delattr(cls, name)


def start_from_environment(path: str) -> None:
    """Trace every manager of this process until it ends. One that a traced process started adds its pid to the name."""
    import atexit

    owner = os.environ.get("SMMAP_TRACE_OWNER")
    if owner not in (None, str(os.getpid())):
        path = f"{path}.{os.getpid()}"
    else:
        os.environ["SMMAP_TRACE_OWNER"] = str(os.getpid())
    try:
        trace = Trace(path, None)
    except OSError as error:
        warnings.warn(f"SMMAP_TRACE: the trace cannot be written: {error}", RuntimeWarning, stacklevel=2)
        return
    atexit.register(trace.close)


def _after_fork_in_child() -> None:
    global _guard
    _guard = threading.RLock()
    for trace in list(_living):
        if not trace.closed:
            trace._after_fork_in_child()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has none
    os.register_at_fork(after_in_child=_after_fork_in_child)
