"""The recorder of traces: which ranges of which files were read, and the outcome of each read.

The engines know which places are sampled (see `_engine/__init__.py`). Before a read of such a place they call `before`,
and after it the function that `before` returned. They serve all other reads as if there were no trace.

Each process writes a file of reads (a fork starts one with its pid added to the name), in the format of
_trace_format.py. When a million reads were recorded, or so many files that they take about as much memory, the rate is
halved: half of the sampled places are left out from then on. So file and memory grow with the logarithm of the number
of reads, and stop growing after 24 halvings.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from . import _trace_format as form
from ._manager import Manager
from ._places import COPY, CURSOR, FULL, PLACE_SHIFT, mark_of, place_hash
from ._trace_format import COLD, HIT, MISS
from ._window import serving

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Trace", "start_from_environment"]

_AT_ONCE = 4096  # reads that are written together
_COUNTED = 63  # a manager is asked for its counters every 64 reads: later ones are lost if the manager is dropped
_HALVING = 1 << 20  # reads recorded at one rate
_MOST_FILES = 1 << 16  # files that have a number, and whose reads are recorded
_LONGEST = 1 << 31  # bytes of one record

_guard = threading.RLock()  # for the next two, and for starting and ending
_traces: dict[Any, Trace] = {}  # by manager; None: the trace of all managers without their own
_living: weakref.WeakSet[Trace] = weakref.WeakSet()


class _Source:
    """A manager whose reads are recorded."""

    __slots__ = ("manager", "number", "start", "uses")

    def __init__(self, manager: Any) -> None:
        self.manager = weakref.ref(manager)
        self.number = -1
        """Its number in the file; -1 until a read of it is recorded."""
        self.start = manager._cache.uses()
        self.uses = 0
        """The uses of windows since the trace started, as last counted."""


class Trace:
    """A trace that `manager.trace(path)` started. Ends with `close()` or the `with` block.

    `path` is the file of this process. `recorded` counts the reads that sampling kept, `seen` all reads so far: it is
    counted while every place is recorded, and afterwards computed from the managers' counters.
    """

    def __init__(self, path: Any, manager: Any, rate: float = 1.0) -> None:
        if not 0 < rate <= 1:
            raise ValueError(f"rate must be more than 0 and at most 1, not {rate!r}")
        self.path = os.path.abspath(os.fsdecode(path))
        self._manager = manager
        self._threshold = max(int(rate * FULL), 1)
        self._made = self.path
        with _guard:
            if manager in _traces:
                raise ValueError(f"this manager is already traced, into {_traces[manager].path!r}")
            written = {os.path.realpath(trace.path) for trace in list(_living) if not trace.closed}
            if os.path.realpath(self.path) in written:
                raise ValueError(f"{self.path!r} is already written by another trace: choose another path")
            self._begin()
            _traces[manager] = self
            _living.add(self)
            if manager is None:
                Manager._born = _attach
            else:
                _attach(manager)

    def _begin(self) -> None:
        """Start a file."""
        self._lock = threading.RLock()  # a finalizer may read while its thread holds it
        self._writing = False
        self._reads: list[tuple[int, int, int]] = []
        self._files: dict[Any, int] = {}  # numbers of files, by manager and status
        self._numbers: dict[int, int] = {}  # the same, by their serials
        self._count_of_files = self._owners = 0
        self._sources: dict[int, _Source] = {}
        self._past = 0  # uses of managers that are gone
        self._uses = 0  # of windows, by recorded reads
        self._until = _HALVING
        self.recorded = 0
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

    @property
    def seen(self) -> int:
        """How many reads there were. In a sample: estimated from all uses of windows and the uses per recorded read."""
        recorded = self.recorded + len(self._reads)
        if self._threshold == FULL:
            return recorded
        uses = self._past + sum(source.uses for source in self._sources.copy().values())
        return max(round(uses * recorded / self._uses), recorded) if self._uses else uses

    def close(self) -> None:
        """End the trace, and write the reads not yet written. May be called any number of times, by any thread."""
        with _guard:
            if _traces.get(self._manager) is self:
                self._count()
                del _traces[self._manager]
                if self._manager is None:
                    Manager._born = None
                for manager in self._attached():
                    _attach(manager)
        self._flush()
        if not self.closed:
            self._write(form.tail_chunk(self.seen, self.recorded))
        self._drop()

    def _drop(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    # Managers

    def _source(self, manager: Any) -> _Source:
        """The record of a manager."""
        with self._lock:
            source = self._sources.get(id(manager))
            if source is None or source.manager() is not manager:  # a dead manager may have had this address
                self._past += source.uses if source is not None else 0
                source = self._sources[id(manager)] = _Source(manager)
            return source

    def _attached(self) -> list[Any]:
        """The living managers."""
        found = [source.manager() for source in self._sources.copy().values()]
        return [manager for manager in found if manager is not None]

    def _count(self) -> None:
        """Ask the managers how many windows were used."""
        for manager in self._attached():
            source = self._source(manager)
            source.uses = manager._cache.uses() - source.start

    # Recording. Called by reads, in any thread

    def before(self, access: Any, kind: int, spans: list[tuple[int, int]]) -> Any:
        """Note reads of these ranges of a file, which are about to be made; return the function to call after them."""
        uses = access.client.manager._cache.uses() if kind == CURSOR else 0
        return partial(self._after, access, kind, [(*span, _is_mapped(access, *span, kind)) for span in spans], uses)

    def searched(self, access: Any, start: int, stop: int) -> None:
        """A range of a mapped region was searched."""
        self._after(access, COPY, [(start, stop, True)], 0)

    def _after(self, access: Any, kind: int, noted: list[tuple[int, int, bool]], uses: int) -> None:
        client = access.client
        number = self._numbers.get(client.file.serial) or self._number(client)
        with self._lock:
            for start, stop, hit in noted:
                if kind == COPY:
                    self._uses += (stop - 1) // access.window - start // access.window + 1
                else:  # a cursor's move within its region counts as none
                    self._uses += min(client.manager._cache.uses() - uses, 1)
                outcome = HIT if hit else MISS if _is_mapped(access, start, stop, kind) else COLD
                word = (kind | outcome << 4) << 56
                while stop - start >= _LONGEST:
                    self._reads.append((number, _LONGEST, start | word))
                    start += _LONGEST
                self._reads.append((number, stop - start, start | word))
        if not len(self._reads) & _COUNTED:
            source = self._source(client.manager)
            source.uses = client.manager._cache.uses() - source.start
        if len(self._reads) >= _AT_ONCE:
            self._flush()

    def _number(self, client: Any) -> int:
        """The number of a file, by its status: the manager may have forgotten the file since."""
        file = client.file
        with self._lock:
            source = self._source(client.manager)
            if source.number < 0:
                source.number, manager = self._owners, client.manager
                self._owners += 1
                limits = manager.max_mapped_memory_size(), manager.max_file_handles()
                self._write(form.chunk(b"MNGR", form.manager_body(source.number, manager.window_size(), *limits)))
            key = source.number, file.status
            number = self._files.get(key)
            if number is None:
                if len(self._files) >= _MOST_FILES:
                    self._halve()
                self._count_of_files += 1
                number = self._files[key] = self._count_of_files
                name = f"descriptor {client.where}" if isinstance(client.where, int) else os.fsdecode(client.where)
                body = form.file_body(number, source.number, file.status.size, file.mark, name)
                self._write(form.chunk(b"FILE", body))
            if len(self._numbers) >= _MOST_FILES:
                self._numbers.clear()
            self._numbers[file.serial] = number
            return number

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
                    self._halve()
            finally:
                self._writing = False

    def _halve(self) -> None:
        """Record half as many places from now on, and forget the files without any recorded place."""
        self._until = self.recorded + _HALVING
        while self._threshold > 1:
            self._threshold //= 2
            self._numbers.clear()
            for key in [key for key in self._files if not self._samples(key[1])]:
                del self._files[key]
            if len(self._files) <= _MOST_FILES // 2:
                break
        self._write(form.rate_chunk(self._threshold))
        for manager in self._attached():
            if _traces.get(manager, _traces.get(None)) is self:
                manager._lock.soon(_sample, manager, self)

    def _samples(self, status: Any) -> bool:
        """Whether a place of the file of that status is recorded."""
        mark = mark_of(status)
        return any(place_hash(mark, place) < self._threshold for place in range((status.size >> PLACE_SHIFT) + 1))

    def _write(self, data: bytes) -> None:
        """Write all of it. If that fails, the trace ends, and the traced program continues."""
        view = memoryview(data)
        try:
            while view and self._descriptor >= 0:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            if error.errno is None:  # the handler of a signal raised it
                raise
            self._drop()
            warnings.warn(f"the trace {self.path!r} ends here: {error}", RuntimeWarning, stacklevel=2)

    def _after_fork_in_child(self) -> None:
        self._drop()  # the parent will write what it has not written yet
        attached = self._attached()
        root = self._made
        self.path = f"{root}.{os.getpid()}"
        try:
            self._begin()
        except OSError as error:
            warnings.warn(f"the trace {self.path!r} cannot be written: {error}", RuntimeWarning, stacklevel=2)
        for manager in attached:
            self._source(manager)
        util = sys.modules.get("multiprocessing.util")
        if util is not None:  # its processes end without running `atexit`
            util.register_after_fork(self, lambda trace: util.Finalize(trace, trace.close, exitpriority=0))


def _attach(manager: Any) -> None:
    """Record the reads of a manager by the trace that applies to it, if any."""
    trace = _traces.get(manager) or _traces.get(None)
    if trace is not None:
        trace._source(manager)
    manager._lock.soon(_sample, manager, trace)


def _sample(manager: Any, trace: Trace | None) -> None:
    """The same, under the manager's lock: no region is made in the meantime."""
    manager._cache.ledger.sample(trace, 0 if trace is None else trace._threshold)


def _is_mapped(access: Any, start: int, stop: int, kind: int) -> bool:
    """Whether the window that serves a read of this range is mapped now; if there are several, the first one."""
    client = access.client
    if kind == COPY:
        key: Any = start // access.window
    else:
        key = serving(start, stop - start, client.manager.window_size(), client.size).key
    return client.file.table.find(key) is not None


def start_from_environment(path: str) -> None:
    """Trace every manager of this process until it ends. A child of a traced process adds its pid to the name."""
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
